//! What every call and reply of consensus carries beside its message: clock, last applied index, its digest.
//!
//! Invariant: heard values are hints for the leader's clock and for comparing replicas; nothing safe rests on them.
//! Not here: the messages (`codec`), what a disagreement leads to (`node`).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use holdfast_proto::peer as wire;

use crate::peer::connections::Peer;
use crate::seams::Clock;
use crate::types::NodeId;

/// Up to where a replica has applied, and its running digest there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Digest {
    /// The log index.
    pub index: u64,
    /// The digest of all row changes up to it.
    pub digest: u128,
}

/// One group's pulses.
pub(crate) struct Pulses {
    clock: Arc<dyn Clock>,
    ours: Box<dyn Fn() -> Digest + Send + Sync>,
    theirs: Mutex<HashMap<NodeId, Digest>>,
    /// Of the last message of a leader to this follower: who sent it, and when, in nanoseconds since `start`.
    leader: AtomicU64,
    leader_at: AtomicU64,
    start: Instant,
}

impl Pulses {
    pub(crate) fn new(
        clock: Arc<dyn Clock>,
        ours: impl Fn() -> Digest + Send + Sync + 'static,
    ) -> Self {
        Self {
            clock,
            ours: Box::new(ours),
            theirs: Mutex::default(),
            leader: AtomicU64::new(0),
            leader_at: AtomicU64::new(0),
            start: Instant::now(),
        }
    }

    pub(crate) fn ours(&self) -> wire::Pulse {
        let Digest { index, digest } = (self.ours)();
        wire::Pulse {
            wall_ms: self.clock.wall_ms(),
            applied: index,
            digest: bytes::Bytes::copy_from_slice(&digest.to_be_bytes()),
        }
    }

    /// A reply of `peer`.
    pub(crate) fn heard(&self, peer: &Peer, pulse: Option<&wire::Pulse>) {
        let Some(pulse) = pulse else { return };
        let offset = i128::from(pulse.wall_ms) - i128::from(self.clock.wall_ms());
        *peer.clock_offset_ms.lock() = i64::try_from(offset).ok();
        self.heard_digest(peer.node.id, pulse);
    }

    /// A message of the leader `from` to this follower.
    pub(crate) fn heard_leader(&self, from: NodeId, pulse: Option<&wire::Pulse>) {
        self.leader.store(from.0, Ordering::Relaxed);
        let since_start = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.leader_at.store(since_start, Ordering::Relaxed);
        if let Some(pulse) = pulse {
            self.heard_digest(from, pulse);
        }
    }

    fn heard_digest(&self, from: NodeId, pulse: &wire::Pulse) {
        let Ok(bytes) = <[u8; 16]>::try_from(pulse.digest.as_ref()) else {
            return;
        };
        let digest = Digest {
            index: pulse.applied,
            digest: u128::from_be_bytes(bytes),
        };
        self.theirs.lock().insert(from, digest);
    }

    /// Whether `leader` has sent anything to this follower since `at`.
    pub(crate) fn leader_spoke_since(&self, leader: NodeId, at: Instant) -> bool {
        let heard = self.start + Duration::from_nanos(self.leader_at.load(Ordering::Relaxed));
        self.leader.load(Ordering::Relaxed) == leader.0 && heard > at
    }

    /// What the other replicas said last about their state.
    pub(crate) fn digests(&self) -> Vec<(NodeId, Digest)> {
        self.theirs
            .lock()
            .iter()
            .map(|(id, digest)| (*id, *digest))
            .collect()
    }
}
