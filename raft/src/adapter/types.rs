//! openraft's type parameters for Holdfast, and the way between its words and ours.
//!
//! Invariant: every conversion is total and loses nothing; what openraft stores comes back as it was.
//! Not here: wire forms (`codec`), figures (`settings`).

use std::fmt;

use bytes::Bytes;
use openraft::EntryPayload;
use parking_lot::Mutex;
use prost::Message;

use holdfast_proto::peer as wire;

use crate::adapter::codec;
use crate::peer::identity::Member;
use crate::types::{EntryKind, LogId, NodeId, StoredEntry, Vote};

/// The batch an entry carries, encoded once by the proposer: openraft never looks inside.
#[derive(Clone, PartialEq, Eq)]
pub struct BatchBytes(pub(crate) Bytes);

impl fmt::Debug for BatchBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes, crc32 {:08x}",
            self.0.len(),
            crc32fast::hash(&self.0)
        )
    }
}

impl fmt::Display for BatchBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What applying an entry answered, of a type that only the proposer and the machine know.
///
/// openraft wants `Sync` of it though it is only ever moved; the mutex is never locked.
pub struct Answer(Mutex<Box<dyn std::any::Any + Send>>);

impl Answer {
    pub(crate) fn new(replies: Box<dyn std::any::Any + Send>) -> Self {
        Self(Mutex::new(replies))
    }

    pub(crate) fn into_any(self) -> Box<dyn std::any::Any + Send> {
        self.0.into_inner()
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answer")
    }
}

#[cfg(not(holdfast_sim))]
type Runtime = openraft::TokioRuntime;
#[cfg(holdfast_sim)]
type Runtime = crate::adapter::runtime::Runtime;

/// Type parameters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Types;

impl openraft::RaftTypeConfig for Types {
    type D = BatchBytes;
    type R = Answer;
    type NodeId = u64;
    type Node = Member;
    type Term = u64;
    type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = EntryPayload<BatchBytes, u64, Member>;
    type Entry = openraft::Entry<LeaderId, Self::Payload>;
    type AsyncRuntime = Runtime;
    type Responder<T>
        = BoxedResponder<T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(crate) type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>;
pub(crate) type CoreLogId = openraft::LogId<LeaderId>;
pub(crate) type CoreVote = openraft::impls::Vote<LeaderId>;
pub(crate) type CoreEntry = <Types as openraft::RaftTypeConfig>::Entry;
pub(crate) type CoreMembership = openraft::Membership<u64, Member>;
pub(crate) type CoreStoredMembership = openraft::StoredMembership<LeaderId, u64, Member>;
pub(crate) type CoreSnapshot = openraft::Snapshot<LeaderId, u64, Member, crate::state::SnapData>;
pub(crate) type CoreSnapshotMeta = openraft::SnapshotMeta<LeaderId, u64, Member>;

/// Ends one proposal. Told nothing, it tells its owner so: a proposal can be dropped, but never forgotten.
pub struct BoxedResponder<T> {
    done: Option<Box<dyn FnOnce(Option<T>) + Send>>,
}

impl<T> BoxedResponder<T> {
    /// `done` is called exactly once: with the result, or with `None` if the proposal was dropped unanswered.
    pub(crate) fn new(done: impl FnOnce(Option<T>) + Send + 'static) -> Self {
        Self {
            done: Some(Box::new(done)),
        }
    }
}

impl<T> Drop for BoxedResponder<T> {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            done(None);
        }
    }
}

impl<T: openraft::OptionalSend + 'static> openraft::raft::responder::Responder<Types, T>
    for BoxedResponder<T>
{
    fn on_complete(mut self, result: T) {
        if let Some(done) = self.done.take() {
            done(Some(result));
        }
    }
}

pub(crate) fn core_log_id(id: LogId) -> CoreLogId {
    openraft::LogId::new(
        LeaderId {
            term: id.term,
            node_id: id.node.0,
        },
        id.index,
    )
}

pub(crate) fn our_log_id(id: &CoreLogId) -> LogId {
    LogId {
        term: id.leader_id.term,
        node: NodeId(id.leader_id.node_id),
        index: id.index,
    }
}

pub(crate) fn core_vote(vote: Vote) -> CoreVote {
    CoreVote {
        leader_id: LeaderId {
            term: vote.term,
            node_id: vote.node.0,
        },
        committed: vote.committed,
    }
}

pub(crate) fn our_vote(vote: &CoreVote) -> Vote {
    Vote {
        term: vote.leader_id.term,
        node: NodeId(vote.leader_id.node_id),
        committed: vote.committed,
    }
}

/// The payload of a membership entry, and what log and state store of a membership.
pub(crate) fn membership_bytes(membership: &CoreMembership) -> Bytes {
    Bytes::from(codec::membership_to_wire(membership).encode_to_vec())
}

/// The opposite of [`membership_bytes`].
pub(crate) fn membership_from_bytes(bytes: &[u8]) -> Result<CoreMembership, std::io::Error> {
    let wire = wire::Membership::decode(bytes).map_err(std::io::Error::other)?;
    codec::membership_from_wire(wire).map_err(std::io::Error::other)
}

pub(crate) fn stored_entry(entry: CoreEntry) -> StoredEntry {
    let id = our_log_id(&entry.log_id);
    let (kind, payload) = match entry.payload {
        EntryPayload::Blank => (EntryKind::Blank, Bytes::new()),
        EntryPayload::Normal(batch) => (EntryKind::Normal, batch.0),
        EntryPayload::Membership(members) => (EntryKind::Membership, membership_bytes(&members)),
    };
    StoredEntry { id, kind, payload }
}

pub(crate) fn core_entry(entry: StoredEntry) -> Result<CoreEntry, std::io::Error> {
    let payload = match entry.kind {
        EntryKind::Blank => EntryPayload::Blank,
        EntryKind::Normal => EntryPayload::Normal(BatchBytes(entry.payload)),
        EntryKind::Membership => EntryPayload::Membership(membership_from_bytes(&entry.payload)?),
    };
    Ok(openraft::Entry {
        log_id: core_log_id(entry.id),
        payload,
    })
}
