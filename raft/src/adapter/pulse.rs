//! What every call and reply of consensus carries beside its message: clock, last applied index, its digest.
//!
//! Invariant: heard values are hints for the leader's clock and for comparing replicas; no commit rests on them.
//! Not here: the messages (`codec`), comparing (`agreement`), what a disagreement leads to (`groups::upkeep`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use holdfast_proto::peer as wire;

use crate::agreement::{Digest, Heard, Own, Verdict, judge};
use crate::peer::connections::Peer;
use crate::seams::Clock;
use crate::types::NodeId;

/// One group's pulses.
pub(crate) struct Pulses {
    clock: Arc<dyn Clock>,
    this: NodeId,
    own: Arc<Mutex<Own>>,
    heard: Mutex<Heard>,
    /// Of the last message of a leader to this follower: who sent it, and when, in nanoseconds since `start`.
    leader: AtomicU64,
    leader_at: AtomicU64,
    start: Instant,
}

impl Pulses {
    pub(crate) fn new(clock: Arc<dyn Clock>, this: NodeId, own: Arc<Mutex<Own>>) -> Self {
        Self {
            clock,
            this,
            own,
            heard: Mutex::default(),
            leader: AtomicU64::new(0),
            leader_at: AtomicU64::new(0),
            start: Instant::now(),
        }
    }

    pub(crate) fn ours(&self) -> wire::Pulse {
        let Digest { index, digest } = self.own.lock().last();
        wire::Pulse {
            wall_ms: self.clock.wall_ms(),
            applied: index,
            digest: bytes::Bytes::copy_from_slice(&digest.to_be_bytes()),
            said: Vec::new(),
        }
    }

    /// With what is needed to compare replicas that are at different indexes: for heartbeats, which are few.
    pub(crate) fn ours_with_digests(&self) -> wire::Pulse {
        let mut pulse = self.ours();
        let said = |node: NodeId, it: Digest| wire::Said {
            node: node.0,
            applied: it.index,
            digest: bytes::Bytes::copy_from_slice(&it.digest.to_be_bytes()),
        };
        let own = self.own.lock();
        pulse
            .said
            .extend(own.checkpoints().map(|it| said(self.this, it)));
        drop(own);
        let heard = self.heard.lock();
        pulse
            .said
            .extend(heard.told().map(|(node, it)| said(node, it)));
        pulse
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
        let mut heard = self.heard.lock();
        let mut hear = |node: NodeId, index: u64, digest: &[u8]| {
            // What this replica has is known here better.
            if let (true, Ok(bytes)) = (node != self.this, <[u8; 16]>::try_from(digest)) {
                let digest = u128::from_be_bytes(bytes);
                heard.hear(node, Digest { index, digest });
            }
        };
        for said in &pulse.said {
            hear(NodeId(said.node), said.applied, &said.digest);
        }
        hear(from, pulse.applied, &pulse.digest);
    }

    /// Compares this replica with what was heard of the other members.
    pub(crate) fn judge(&self, voters: &[BTreeSet<NodeId>], members: &BTreeSet<NodeId>) -> Verdict {
        let (own, heard) = (self.own.lock(), self.heard.lock());
        judge((self.this, &*own), &heard, voters, members)
    }

    /// Whether `leader` has sent anything to this follower since `at`.
    pub(crate) fn leader_spoke_since(&self, leader: NodeId, at: Instant) -> bool {
        let heard = self.start + Duration::from_nanos(self.leader_at.load(Ordering::Relaxed));
        self.leader.load(Ordering::Relaxed) == leader.0 && heard > at
    }
}
