//! The network between all nodes: listeners, connections, and links that delay, cut and lose.
//!
//! Invariant: a connection brings bytes in order or not at all, as TCP does: a packet that is lost is late, and so is all
//! behind it; a process that ends has its connections reset; a machine without power, or a cut link, says nothing at all.
//! Not here: when a link is cut (`jepsen::sim::tier_b`).

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures::Stream;
use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tonic::codegen::Service;
use tonic::transport::Uri;
use tonic::transport::server::Connected;

use super::{Rng, now_ms, trace};

/// What is sent and not yet read, in one direction of one connection: beyond it the writer waits.
const WINDOW_BYTES: usize = 1 << 20;
/// A packet that was lost is sent again after this, in ms.
const SENT_AGAIN_MS: u64 = 200;
/// Connections that wait to be accepted.
const BACKLOG_MAX: usize = 128;

/// How a link behaves, in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// The shortest delay, in ms; at least 1.
    pub delay_ms_min: u64,
    /// The longest delay.
    pub delay_ms_max: u64,
    /// Of a thousand packets, how many are lost and sent again.
    pub lost_permille: u64,
    /// Nothing passes.
    pub is_cut: bool,
}

impl Link {
    /// One that does nothing unexpected.
    pub const GOOD: Self = Self {
        delay_ms_min: 1,
        delay_ms_max: 2,
        lost_permille: 0,
        is_cut: false,
    };
}

thread_local! {
    static NET: Mutex<Net> = Mutex::new(Net::default());
}

struct Net {
    rng: Rng,
    links: BTreeMap<(u64, u64), Link>,
    usual: Link,
    /// Machines without power: they do not even refuse.
    dark: BTreeMap<u64, ()>,
    listeners: BTreeMap<String, Arc<Listening>>,
    /// Where an address leads, listener or not.
    hosts: BTreeMap<String, u64>,
    connections: BTreeMap<u64, [Arc<Mutex<Pipe>>; 2]>,
    events: BTreeMap<(u64, u64), Event>,
    next: u64,
}

impl Default for Net {
    fn default() -> Self {
        Self {
            rng: Rng::new(0),
            links: BTreeMap::new(),
            usual: Link::GOOD,
            dark: BTreeMap::new(),
            listeners: BTreeMap::new(),
            hosts: BTreeMap::new(),
            connections: BTreeMap::new(),
            events: BTreeMap::new(),
            next: 0,
        }
    }
}

enum Event {
    Ask {
        from: u64,
        address: String,
        answer: oneshot::Sender<io::Result<Connection>>,
    },
    Answer {
        connection: io::Result<Connection>,
        answer: oneshot::Sender<io::Result<Connection>>,
    },
    Bytes(Arc<Mutex<Pipe>>),
}

/// What is on its way in a pipe.
#[derive(Debug)]
enum Packet {
    Data(Bytes),
    End,
    Reset,
}

/// One direction of a connection.
struct Pipe {
    id: u64,
    from: u64,
    to: u64,
    on_way: VecDeque<Packet>,
    /// When the last packet on its way arrives: none overtakes it.
    last_at: u64,
    /// Packets that wait for the link to be mended.
    held: usize,
    arrived: VecDeque<Bytes>,
    bytes: usize,
    ended: bool,
    reset: bool,
    /// Nobody reads any more.
    closed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

struct Listening {
    node: u64,
    queue: Mutex<VecDeque<Connection>>,
    waker: Mutex<Option<Waker>>,
    closed: Mutex<bool>,
}

fn with_net<T>(look: impl FnOnce(&mut Net) -> T) -> T {
    NET.with(|net| look(&mut net.lock()))
}

/// Begins a network of its own.
pub fn begin(seed: u64, usual: Link) {
    with_net(|net| {
        *net = Net {
            rng: Rng::new(seed),
            usual,
            ..Net::default()
        }
    });
}

impl Net {
    fn link(&self, from: u64, to: u64) -> Link {
        if from == to {
            return Link::GOOD;
        }
        *self.links.get(&(from, to)).unwrap_or(&self.usual)
    }

    /// Whether a packet gets from one to the other at all, and when.
    fn passes(&mut self, from: u64, to: u64) -> Option<u64> {
        let link = self.link(from, to);
        if link.is_cut || self.dark.contains_key(&to) || self.dark.contains_key(&from) {
            return None;
        }
        let mut delay = self.rng.within(link.delay_ms_min.max(1), link.delay_ms_max);
        if link.lost_permille > 0 && self.rng.below(1000) < link.lost_permille {
            delay += SENT_AGAIN_MS;
        }
        Some(now_ms() + delay)
    }

    fn at(&mut self, when: u64, event: Event) {
        self.next += 1;
        self.events.insert((when, self.next), event);
    }

    fn send(&mut self, pipe: &Arc<Mutex<Pipe>>, packet: Packet) {
        let (from, to) = {
            let pipe = pipe.lock();
            (pipe.from, pipe.to)
        };
        let arrives = self.passes(from, to);
        let mut it = pipe.lock();
        it.on_way.push_back(packet);
        match arrives {
            // All behind a packet that waits waits too.
            Some(at) if it.held == 0 => {
                it.last_at = it.last_at.max(at);
                let at = it.last_at;
                drop(it);
                self.at(at, Event::Bytes(Arc::clone(pipe)));
            }
            Some(_) | None => it.held += 1,
        }
    }

    fn connect(&mut self, from: u64, node: u64) -> (Connection, Connection) {
        self.next += 1;
        let id = self.next;
        let pipe = |from, to| {
            Arc::new(Mutex::new(Pipe {
                id,
                from,
                to,
                on_way: VecDeque::new(),
                last_at: 0,
                held: 0,
                arrived: VecDeque::new(),
                bytes: 0,
                ended: false,
                reset: false,
                closed: false,
                reader: None,
                writer: None,
            }))
        };
        let (there, back) = (pipe(from, node), pipe(node, from));
        self.connections
            .insert(id, [Arc::clone(&there), Arc::clone(&back)]);
        let ours = Connection {
            out: Arc::clone(&there),
            into: Arc::clone(&back),
        };
        let theirs = Connection {
            out: back,
            into: there,
        };
        (ours, theirs)
    }
}

/// What falls due by now arrives.
pub fn deliver() {
    loop {
        let due = with_net(|net| {
            let (when, number) = *net.events.keys().next()?;
            (when <= now_ms()).then(|| net.events.remove(&(when, number)))?
        });
        match due {
            None => return,
            Some(Event::Bytes(pipe)) => arrive(&pipe),
            Some(Event::Ask {
                from,
                address,
                answer,
            }) => ask_arrives(from, &address, answer),
            Some(Event::Answer { connection, answer }) => {
                let came = answer.send(connection);
                drop(came); // whoever asked may have gone; then the connection is closed
            }
        }
    }
}

fn arrive(pipe: &Arc<Mutex<Pipe>>) {
    let (reader, writer, back) = {
        let mut it = pipe.lock();
        let packet = it.on_way.pop_front();
        let what = match packet {
            _ if it.reset => return,
            None => return,
            Some(Packet::Data(bytes)) if it.closed => {
                it.bytes = it.bytes.saturating_sub(bytes.len());
                "refused"
            }
            Some(Packet::Data(bytes)) => {
                it.arrived.push_back(bytes);
                "bytes"
            }
            Some(Packet::End) => {
                it.ended = true;
                "end"
            }
            Some(Packet::Reset) => {
                it.reset = true;
                "reset"
            }
        };
        trace(&format!("net n{}>n{} c{} {what}", it.from, it.to, it.id));
        let back = (what == "refused" || what == "reset").then_some((it.id, it.from, it.to));
        (it.reader.take(), it.writer.take(), back)
    };
    // A reset ends both directions at the one who gets it; bytes to nobody are answered by one.
    if let Some((id, from, _)) = back {
        let other = with_net(|net| net.connections.get(&id).cloned());
        if let Some([one, two]) = other {
            let other = if one.lock().from == from { two } else { one };
            if pipe.lock().reset {
                let mut other = other.lock();
                other.reset = true;
                wake(other.reader.take());
                wake(other.writer.take());
                drop(other);
                with_net(|net| net.connections.remove(&id));
            } else {
                with_net(|net| net.send(&other, Packet::Reset));
            }
        }
    }
    wake(reader);
    wake(writer);
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn ask_arrives(from: u64, address: &str, answer: oneshot::Sender<io::Result<Connection>>) {
    with_net(|net| {
        let Some(node) = net.hosts.get(address).copied() else {
            return; // no such host: silence
        };
        let Some(back_at) = net.passes(node, from) else {
            return;
        };
        let listening = net.listeners.get(address).cloned();
        let connection = match listening {
            Some(it) if !*it.closed.lock() && it.queue.lock().len() < BACKLOG_MAX => {
                let (ours, theirs) = net.connect(from, it.node);
                it.queue.lock().push_back(theirs);
                wake(it.waker.lock().take());
                Ok(ours)
            }
            Some(_) | None => Err(io::ErrorKind::ConnectionRefused.into()),
        };
        trace(&format!(
            "net n{from}>n{node} connect {}",
            if connection.is_ok() {
                "taken"
            } else {
                "refused"
            }
        ));
        net.at(back_at, Event::Answer { connection, answer });
    });
}

/// Where `address` leads.
pub fn name(address: &str, node: u64) {
    with_net(|net| net.hosts.insert(address.to_owned(), node));
}

/// Another behaviour of one direction; `None`: the usual one. What waited goes on its way.
pub fn set_link(from: u64, to: u64, link: Option<Link>) {
    with_net(|net| {
        match link {
            Some(link) => net.links.insert((from, to), link),
            None => net.links.remove(&(from, to)),
        };
        net.release();
    });
}

/// How all links behave that nobody set.
pub fn set_usual(link: Link) {
    with_net(|net| {
        net.usual = link;
        net.release();
    });
}

/// Whether a link is cut now.
pub fn is_cut(from: u64, to: u64) -> bool {
    with_net(|net| net.link(from, to).is_cut)
}

impl Net {
    fn release(&mut self) {
        let pipes: Vec<_> = self.connections.values().flatten().cloned().collect();
        for pipe in pipes {
            let (from, to, held) = {
                let pipe = pipe.lock();
                (pipe.from, pipe.to, pipe.held)
            };
            if held == 0 {
                continue;
            }
            let Some(at) = self.passes(from, to) else {
                continue;
            };
            // The sender tries again now and then only.
            let at = at + self.rng.below(SENT_AGAIN_MS);
            let at = {
                let mut pipe = pipe.lock();
                pipe.held = 0;
                pipe.last_at = pipe.last_at.max(at);
                pipe.last_at
            };
            for _ in 0..held {
                self.at(at, Event::Bytes(Arc::clone(&pipe)));
            }
        }
    }
}

/// The process of this node has ended. With power on, its system resets what it had open; without, nothing is said.
pub fn ended(node: u64, has_power: bool) {
    let mine: Vec<[Arc<Mutex<Pipe>>; 2]> = with_net(|net| {
        net.listeners.retain(|_, it| it.node != node);
        if !has_power {
            net.dark.insert(node, ());
        }
        let all = net.connections.iter();
        all.filter(|(_, pipes)| pipes.iter().any(|pipe| pipe.lock().from == node))
            .map(|(_, pipes)| pipes.clone())
            .collect()
    });
    for pipes in mine {
        for pipe in pipes {
            let is_out = pipe.lock().from == node;
            if is_out {
                pipe.lock().on_way.clear();
                with_net(|net| net.send(&pipe, Packet::Reset));
            } else {
                pipe.lock().closed = true;
            }
        }
    }
}

/// The machine of this node has power again.
pub fn powered(node: u64) {
    with_net(|net| {
        net.dark.remove(&node);
        net.release();
    });
}

/// A listener's end: connections as they come.
pub struct Listener(Arc<Listening>);

impl Listener {
    /// Listens at `address`, on `node`.
    pub fn bind(address: &str, node: u64) -> Self {
        let listening = Arc::new(Listening {
            node,
            queue: Mutex::default(),
            waker: Mutex::default(),
            closed: Mutex::default(),
        });
        with_net(|net| {
            net.hosts.insert(address.to_owned(), node);
            net.listeners
                .insert(address.to_owned(), Arc::clone(&listening));
        });
        Self(listening)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        *self.0.closed.lock() = true;
    }
}

impl Stream for Listener {
    type Item = io::Result<Connection>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(connection) = self.0.queue.lock().pop_front() {
            return Poll::Ready(Some(Ok(connection)));
        }
        *self.0.waker.lock() = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Asks for a connection; never answered where nothing passes.
pub(crate) async fn connect(from: u64, address: &str) -> io::Result<Connection> {
    let (answer, answered) = oneshot::channel();
    let address = address.to_owned();
    with_net(|net| {
        let to = net.hosts.get(&address).copied();
        let arrives = to.and_then(|to| net.passes(from, to));
        let ask = Event::Ask {
            from,
            address,
            answer,
        };
        // A cut link holds the question for longer than anybody waits.
        let at = arrives.unwrap_or_else(|| now_ms() + 3_600_000);
        net.at(at, ask);
    });
    answered
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// One end of a connection.
pub struct Connection {
    out: Arc<Mutex<Pipe>>,
    into: Arc<Mutex<Pipe>>,
}

impl Connection {
    fn write(&self, bytes: Bytes) {
        self.out.lock().bytes += bytes.len();
        with_net(|net| net.send(&self.out, Packet::Data(bytes)));
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut pipe = self.into.lock();
        if pipe.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let Some(mut bytes) = pipe.arrived.pop_front() else {
            if pipe.ended {
                return Poll::Ready(Ok(()));
            }
            pipe.reader = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let taken = bytes.split_to(bytes.len().min(buf.remaining()));
        buf.put_slice(&taken);
        if !bytes.is_empty() {
            pipe.arrived.push_front(bytes);
        }
        pipe.bytes = pipe.bytes.saturating_sub(taken.len());
        let writer = pipe.writer.take();
        drop(pipe);
        wake(writer);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        {
            let mut pipe = self.out.lock();
            if pipe.reset {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            if pipe.bytes >= WINDOW_BYTES {
                pipe.writer = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        self.write(Bytes::copy_from_slice(bytes));
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_net(|net| net.send(&self.out, Packet::End));
        Poll::Ready(Ok(()))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.into.lock().closed = true;
        // Dropped inside the network's own lock only when it is begun anew, and after it only at the end of the world.
        let _said = NET.try_with(|net| {
            if let Some(mut net) = net.try_lock() {
                net.send(&self.out, Packet::End);
            }
        });
    }
}

impl Connected for Connection {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

/// Connects as this node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dial(pub(crate) u64);

impl Service<Uri> for Dial {
    type Response = TokioIo<Connection>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<Connection>>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let from = self.0;
        Box::pin(async move {
            let address = to.authority().map_or("", |it| it.as_str()).to_owned();
            connect(from, &address).await.map(TokioIo::new)
        })
    }
}
