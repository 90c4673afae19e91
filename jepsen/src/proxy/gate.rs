//! A gate: the address at which others know a node's port.
//!
//! Invariant: open while the node's port accepts, closed otherwise; when the node's side of a connection ends, the gate looks at
//! the port first and closes if it must, and only then passes the end on. Not here: the rules (`rules`).

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::pipe::{End, break_on_close, carry};
use super::rules::Net;
use super::whois::Whois;

/// How often a closed gate looks whether its node is back.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// A paused process accepts in its kernel; only a full queue takes longer.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Connections that the kernel holds until they are accepted.
const BACKLOG: u32 = 1024;

/// One gate. Dropping it closes it and breaks its connections.
#[derive(Debug)]
pub struct Gate {
    port: u16,
    task: JoinHandle<()>,
}

/// What the tasks of a gate share.
pub(super) struct Post {
    /// The port that others know.
    port: u16,
    /// The node's own.
    to: SocketAddr,
    node: String,
    net: Arc<Net>,
    whois: Arc<Whois>,
    /// Sent when the node's port was found closed.
    shut: watch::Sender<bool>,
}

impl Gate {
    /// A gate at `port` before the port `to` of `node`. It opens as soon as the node listens.
    pub fn before(node: &str, port: u16, to: u16, net: Arc<Net>, whois: Arc<Whois>) -> Self {
        let post = Arc::new(Post {
            port,
            to: SocketAddr::from((Ipv4Addr::LOCALHOST, to)),
            node: node.to_string(),
            net,
            whois,
            shut: watch::Sender::new(true),
        });
        Self {
            port,
            task: tokio::spawn(keep(post)),
        }
    }

    /// The address that others are given.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep(post: Arc<Post>) {
    let mut carried = JoinSet::new();
    loop {
        while !post.look().await {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let Ok(listener) = post.listen() else {
            // Somebody else has the port for a moment: connections out use ports too.
            tokio::time::sleep(LOOK_EVERY).await;
            continue;
        };
        post.shut.send_replace(false);
        let mut shut = post.shut.subscribe();
        loop {
            tokio::select! {
                biased;
                closed = shut.wait_for(|shut| *shut) => { drop(closed); break; }
                accepted = listener.accept() => if let Ok((near, from)) = accepted {
                    carried.spawn(pass(Arc::clone(&post), near, from));
                },
            }
            while carried.try_join_next().is_some() {}
        }
    }
}

impl Post {
    fn listen(&self) -> io::Result<TcpListener> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)))?;
        socket.listen(BACKLOG)
    }

    /// Whether the node's port accepts.
    async fn look(&self) -> bool {
        let tried = tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect(self.to)).await;
        match tried {
            Ok(Ok(_)) => true,
            Ok(Err(cause)) => cause.kind() != io::ErrorKind::ConnectionRefused,
            Err(_) => true, // a full queue is not a closed port
        }
    }

    /// Closes the gate if the node's port is closed.
    pub(super) async fn close_if_gone(&self) {
        if !self.look().await {
            self.shut.send_replace(true);
            // The listener is dropped by its task; a connect in between would find a gate that should be closed.
            tokio::task::yield_now().await;
            while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))
                .await
                .is_ok()
                && *self.shut.borrow()
            {
                tokio::task::yield_now().await;
            }
        }
    }
}

async fn pass(post: Arc<Post>, near: TcpStream, from: SocketAddr) {
    break_on_close(&near);
    let (whois, at) = (Arc::clone(&post.whois), post.port);
    let asked = tokio::task::spawn_blocking(move || whois.caller(from.port(), at)).await;
    let Ok(Some(caller)) = asked else {
        return; // gone before it was looked at
    };
    let (mut out, back) = (
        post.net.watch(&caller, &post.node),
        post.net.watch(&post.node, &caller),
    );
    let mut resets = post.net.resets();
    let carried = async {
        out.open().await; // a call through a cut does not even ring
        let far = tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect(post.to)).await;
        let Ok(Ok(far)) = far else {
            post.close_if_gone().await;
            return End::Broken;
        };
        break_on_close(&far);
        for stream in [&near, &far] {
            // Only an optimization.
            let _ = stream.set_nodelay(true);
        }
        carry(near, far, (out, back), &post).await
    };
    let is_meant = |name: &str| name == caller || name == post.node;
    tokio::pin!(carried);
    loop {
        tokio::select! {
            _ = &mut carried => return,
            changed = resets.changed() => {
                if changed.is_err() {
                    return;
                }
                if is_meant(&resets.borrow_and_update().1) {
                    post.net.count_reset();
                    return;
                }
            }
        }
    }
}
