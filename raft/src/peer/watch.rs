//! Noticing at once that a peer's process has died, and hearing its clock meanwhile.
//!
//! A `Watch` call is held open to every peer. When a process dies its sockets answer with a reset within a millisecond,
//! long before any timeout; if a fresh connect is then refused, the process is gone while its host is alive.
//! Invariant: a timeout, an unreachable host or a peer that said it was leaving is never reported as a death.
//! Not here: what is done about it (`adapter::takeover`).

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use holdfast_proto::peer as wire;

use crate::host;
use crate::peer::connections::{Peer, Peers};
use crate::peer::identity::addressed;
use crate::seams::Clock;
use crate::types::{GroupId, NodeId};

/// How often a node tells its clock to those who watch it.
pub(crate) const PULSE_EVERY: Duration = Duration::from_millis(500);

/// A dying process may accept one more connect before its listener is closed: ask again, briefly.
const CONNECT_TRIES: u32 = 6;
const CONNECT_AGAIN: Duration = Duration::from_millis(8);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(250);

/// Between two attempts to watch a peer that does not answer.
const AGAIN_MIN: Duration = Duration::from_millis(50);
const AGAIN_MAX: Duration = Duration::from_millis(500);

/// A peer's process is gone: its connection was reset and a fresh connect refused.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gone {
    pub(crate) node: NodeId,
    /// When the connection broke.
    pub(crate) at: Instant,
}

/// Watches every peer that is met until cancelled. `gone` is bounded by the number of peers: one report per broken call.
pub(crate) async fn watch_all(
    peers: Arc<Peers>,
    clock: Arc<dyn Clock>,
    gone: mpsc::Sender<Gone>,
    stop: CancellationToken,
) {
    let mut met = peers.met();
    let mut watched: BTreeMap<NodeId, (Arc<Peer>, CancellationToken)> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    loop {
        met.borrow_and_update();
        let all = peers.all();
        watched.retain(|id, (peer, token)| {
            let stays = all
                .iter()
                .any(|it| it.node.id == *id && Arc::ptr_eq(it, peer));
            if !stays {
                token.cancel();
            }
            stays
        });
        for peer in all {
            watched.entry(peer.node.id).or_insert_with(|| {
                let token = stop.child_token();
                let task = watch_one(Arc::clone(&peer), Arc::clone(&clock), gone.clone());
                tasks.spawn(token.clone().run_until_cancelled_owned(task));
                (peer, token)
            });
        }
        tokio::select! {
            () = stop.cancelled() => break,
            changed = met.changed() => if changed.is_err() { break },
        }
    }
    tasks.shutdown().await;
}

async fn watch_one(peer: Arc<Peer>, clock: Arc<dyn Clock>, gone: mpsc::Sender<Gone>) {
    let mut again = AGAIN_MIN;
    loop {
        match hold(&peer, clock.as_ref()).await {
            Held::Never => again = (again * 2).min(AGAIN_MAX),
            Held::Left => {
                debug!(node = peer.node.id.0, "peer left on purpose");
                again = AGAIN_MIN;
            }
            Held::Broken(at) => {
                again = AGAIN_MIN;
                if is_refused(&peer.member.peer_address).await {
                    info!(node = peer.node.id.0, "peer's process is gone");
                    // The receiver outlives every sender of a running node; at shutdown nobody needs the news.
                    let _ = gone
                        .send(Gone {
                            node: peer.node.id,
                            at,
                        })
                        .await;
                }
            }
        }
        tokio::time::sleep(again).await;
    }
}

/// How a watch call ended.
enum Held {
    /// It never came to be.
    Never,
    /// The peer said that it was leaving.
    Left,
    /// The connection broke.
    Broken(Instant),
}

async fn hold(peer: &Peer, clock: &dyn Clock) -> Held {
    let Ok(address) = peer.address(GroupId(0)) else {
        return Held::Never;
    };
    let call = peer
        .consensus()
        .watch(addressed(wire::WatchAsk {}, address))
        .await;
    let mut pulses = match call {
        Ok(reply) => reply.into_inner(),
        Err(status) => {
            debug!(node = peer.node.id.0, %status, "peer cannot be watched");
            return Held::Never;
        }
    };
    let mut leaving = false;
    while let Ok(Some(pulse)) = pulses.message().await {
        leaving = pulse.leaving;
        let (theirs, ours) = (i128::from(pulse.wall_ms), i128::from(clock.wall_ms()));
        *peer.clock_offset_ms.lock() = i64::try_from(theirs - ours).ok();
    }
    let at = Instant::now();
    *peer.clock_offset_ms.lock() = None;
    if leaving {
        Held::Left
    } else {
        Held::Broken(at)
    }
}

/// Whether nobody listens at `address` though its host answers.
async fn is_refused(address: &str) -> bool {
    for _ in 0..CONNECT_TRIES {
        match tokio::time::timeout(CONNECT_TIMEOUT, host::connect(address)).await {
            Ok(Err(cause)) if cause.kind() == io::ErrorKind::ConnectionRefused => return true,
            Ok(Ok(())) => tokio::time::sleep(CONNECT_AGAIN).await,
            Ok(Err(_)) | Err(_) => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_refused_connect_counts_as_gone() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        assert!(!is_refused(&address).await, "somebody listens");
        drop(listener);
        assert!(is_refused(&address).await, "nobody listens any more");
    }
}
