//! What stands in for the machine, under the very names of `real`.

use std::io;
use std::time::Duration;

use futures::Stream;
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};
use uuid::Uuid;

pub(crate) use super::disk as fs;
pub(crate) use super::disk::FileExt;
pub(crate) use super::rocksdb;

use super::{Host, current, net};
use crate::host::Worker;

/// Where peers connect to.
pub type Listener = net::Listener;
/// Jobs on their way to a worker, seen from the worker.
pub(crate) type Inbox<T> = mpsc::UnboundedReceiver<T>;
pub(crate) type Sender<T> = mpsc::UnboundedSender<T>;
pub(crate) type SyncSender<T> = mpsc::UnboundedSender<T>;

/// The simulation has no sockets of the machine: what it listens at is [`Listener::bind`]'s.
///
/// # Panics
/// Always: a server that listens at a socket was built for the simulation.
pub fn listens(at: std::net::TcpListener) -> Listener {
    panic!("no peer of the simulation connects to {at:?}: this build serves nobody")
}

/// A name that nobody else has.
pub(crate) fn uuid() -> Uuid {
    let host = current();
    uuid::Builder::from_random_bytes(
        (u128::from(host.draw()) << 64 | u128::from(host.draw())).to_be_bytes(),
    )
    .into_uuid()
}

/// Ends the process, now.
pub(crate) fn abort() -> ! {
    super::end("it gave up")
}

/// Runs what may wait for the disk after a while.
pub(crate) fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> T + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    tokio::spawn(async move {
        pause(current().below(2)).await;
        call()
    })
}

/// The connections that peers make.
#[expect(
    clippy::unnecessary_wraps,
    reason = "the real machine may have no socket left"
)]
pub(crate) fn incoming(
    listener: Listener,
) -> io::Result<impl Stream<Item = io::Result<net::Connection>> + Send> {
    Ok(listener)
}

/// A channel that connects on first use.
pub(crate) fn connect_lazy(endpoint: &Endpoint) -> Channel {
    endpoint.connect_with_connector_lazy(net::Dial(current().node))
}

/// Whether somebody listens at `address`.
pub(crate) async fn connect(address: &str) -> io::Result<()> {
    net::connect(current().node, address).await.map(drop)
}

/// A way to a worker that takes whatever is sent: its bound is the sender's.
pub(crate) fn unbounded<T>() -> (Sender<T>, Inbox<T>) {
    mpsc::unbounded_channel()
}

/// As [`unbounded`]: a sender that waited here would wait for itself.
pub(crate) fn bounded<T>(_max: usize) -> (SyncSender<T>, Inbox<T>) {
    mpsc::unbounded_channel()
}

/// A worker's task.
pub(crate) struct Thread;

impl Thread {
    /// The worker ends by itself once its way is closed; nobody can wait for it on the only thread there is.
    pub(crate) fn join(self) {}
}

/// Starts a worker. Before each of its turns the disk takes its time: what is sent meanwhile goes along, and what was not
/// worked off when the process ends is lost.
#[expect(
    clippy::unnecessary_wraps,
    reason = "the real machine may have no thread left"
)]
pub(crate) fn start<W: Worker>(
    name: String,
    mut worker: W,
    mut inbox: Inbox<W::Job>,
) -> io::Result<Thread> {
    let is_log = name.starts_with("log");
    tokio::spawn(async move {
        loop {
            let next = match worker.patience() {
                Some(patience) => match tokio::time::timeout(patience, inbox.recv()).await {
                    Ok(job) => job.map(Some),
                    Err(_) => Some(None),
                },
                None => inbox.recv().await.map(Some),
            };
            let goes_on = match next {
                Some(Some(job)) => {
                    pause(turn_ms(&current(), is_log)).await;
                    worker.work(job, &mut inbox)
                }
                Some(None) => worker.idle(),
                None => break,
            };
            if !goes_on {
                break;
            }
        }
        worker.end();
    });
    Ok(Thread)
}

fn turn_ms(host: &Host, is_log: bool) -> u64 {
    let habits = host.habits();
    if !is_log {
        return host.below(habits.apply_ms_max + 1);
    }
    if host.chance(habits.stall_permille * 1_000) {
        return host.below(habits.stall_ms_max + 1);
    }
    host.below(habits.sync_ms_max + 1)
}

async fn pause(ms: u64) {
    if ms > 0 {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}
