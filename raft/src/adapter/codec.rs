//! Consensus messages to and from their wire forms, field by field.
//!
//! Invariant: no field is left at its default by omission. A lost `leadership_transfer` would cost nothing but the
//! crash takeover, silently, so the round trips of the tests use no field at its default.
//! Not here: who may speak to whom (`peer::identity`), transport (`network`, `peer`).

use std::collections::{BTreeMap, BTreeSet};

use holdfast_proto::peer as wire;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};

use crate::adapter::types::{
    CoreEntry, CoreLogId, CoreMembership, CoreSnapshotMeta, CoreStoredMembership, CoreVote,
    LeaderId, Types, core_entry, stored_entry,
};
use crate::peer::identity::Member;
use crate::types::{EntryKind, LogId, NodeId, StoredEntry};

/// A message of a peer that says nothing, or something impossible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a peer message has a bad or missing {field}; the two nodes run builds that do not fit")]
pub(crate) struct Malformed {
    field: &'static str,
}

fn bad(field: &'static str) -> Malformed {
    Malformed { field }
}

pub(crate) fn log_id_to_wire(id: &CoreLogId) -> wire::LogId {
    wire::LogId {
        term: id.leader_id.term,
        node: id.leader_id.node_id,
        index: id.index,
    }
}

pub(crate) fn log_id_from_wire(id: wire::LogId) -> CoreLogId {
    openraft::LogId::new(
        LeaderId {
            term: id.term,
            node_id: id.node,
        },
        id.index,
    )
}

pub(crate) fn vote_to_wire(vote: &CoreVote) -> wire::Vote {
    wire::Vote {
        term: vote.leader_id.term,
        node: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

pub(crate) fn vote_from_wire(vote: Option<wire::Vote>) -> Result<CoreVote, Malformed> {
    let vote = vote.ok_or_else(|| bad("vote"))?;
    Ok(CoreVote {
        leader_id: LeaderId {
            term: vote.term,
            node_id: vote.node,
        },
        committed: vote.committed,
    })
}

fn entry_to_wire(entry: CoreEntry) -> wire::Entry {
    let StoredEntry { id, kind, payload } = stored_entry(entry);
    wire::Entry {
        id: Some(wire::LogId {
            term: id.term,
            node: id.node.0,
            index: id.index,
        }),
        kind: kind as u32,
        payload,
    }
}

fn entry_from_wire(entry: wire::Entry) -> Result<CoreEntry, Malformed> {
    let id = entry.id.ok_or_else(|| bad("entry id"))?;
    let kind = match entry.kind {
        0 => EntryKind::Blank,
        1 => EntryKind::Normal,
        2 => EntryKind::Membership,
        _ => return Err(bad("entry kind")),
    };
    let id = LogId {
        term: id.term,
        node: NodeId(id.node),
        index: id.index,
    };
    core_entry(StoredEntry {
        id,
        kind,
        payload: entry.payload,
    })
    .map_err(|_| bad("membership"))
}

pub(crate) fn append_to_wire(ask: AppendEntriesRequest<Types>, pulse: wire::Pulse) -> wire::Append {
    wire::Append {
        vote: Some(vote_to_wire(&ask.vote)),
        prev: ask.prev_log_id.as_ref().map(log_id_to_wire),
        entries: ask.entries.into_iter().map(entry_to_wire).collect(),
        leader_commit: ask.leader_commit.as_ref().map(log_id_to_wire),
        pulse: Some(pulse),
    }
}

pub(crate) fn append_from_wire(
    frame: wire::Append,
) -> Result<AppendEntriesRequest<Types>, Malformed> {
    Ok(AppendEntriesRequest {
        vote: vote_from_wire(frame.vote)?,
        prev_log_id: frame.prev.map(log_id_from_wire),
        entries: frame
            .entries
            .into_iter()
            .map(entry_from_wire)
            .collect::<Result<_, _>>()?,
        leader_commit: frame.leader_commit.map(log_id_from_wire),
    })
}

pub(crate) fn appended_to_wire(
    result: &StreamAppendResult<Types>,
    pulse: wire::Pulse,
) -> wire::Appended {
    use wire::appended::Result as Said;
    let said = match result {
        Ok(matching) => Said::Matching(wire::Matching {
            id: matching.as_ref().map(log_id_to_wire),
        }),
        Err(StreamAppendError::Conflict(at)) => Said::Conflict(log_id_to_wire(at)),
        Err(StreamAppendError::HigherVote(vote)) => Said::HigherVote(vote_to_wire(vote)),
    };
    wire::Appended {
        result: Some(said),
        pulse: Some(pulse),
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "what is converted is used up"
)]
pub(crate) fn appended_from_wire(
    reply: wire::Appended,
) -> Result<StreamAppendResult<Types>, Malformed> {
    use wire::appended::Result as Said;
    Ok(match reply.result.ok_or_else(|| bad("append result"))? {
        Said::Matching(matching) => Ok(matching.id.map(log_id_from_wire)),
        Said::Conflict(at) => Err(StreamAppendError::Conflict(log_id_from_wire(at))),
        Said::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote_from_wire(Some(vote))?)),
    })
}

pub(crate) fn vote_ask_to_wire(ask: &VoteRequest<Types>, pulse: wire::Pulse) -> wire::VoteAsk {
    wire::VoteAsk {
        vote: Some(vote_to_wire(&ask.vote)),
        last: ask.last_log_id.as_ref().map(log_id_to_wire),
        leadership_transfer: ask.leadership_transfer,
        pulse: Some(pulse),
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "what is converted is used up"
)]
pub(crate) fn vote_ask_from_wire(ask: wire::VoteAsk) -> Result<VoteRequest<Types>, Malformed> {
    Ok(VoteRequest {
        vote: vote_from_wire(ask.vote)?,
        last_log_id: ask.last.map(log_id_from_wire),
        leadership_transfer: ask.leadership_transfer,
    })
}

pub(crate) fn vote_reply_to_wire(
    reply: &VoteResponse<Types>,
    pulse: wire::Pulse,
) -> wire::VoteReply {
    wire::VoteReply {
        vote: Some(vote_to_wire(&reply.vote)),
        granted: reply.vote_granted,
        last: reply.last_log_id.as_ref().map(log_id_to_wire),
        pulse: Some(pulse),
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "what is converted is used up"
)]
pub(crate) fn vote_reply_from_wire(
    reply: wire::VoteReply,
) -> Result<VoteResponse<Types>, Malformed> {
    Ok(VoteResponse {
        vote: vote_from_wire(reply.vote)?,
        vote_granted: reply.granted,
        last_log_id: reply.last.map(log_id_from_wire),
    })
}

pub(crate) fn transfer_to_wire(ask: &TransferLeaderRequest<Types>) -> wire::TransferAsk {
    wire::TransferAsk {
        from_leader: Some(vote_to_wire(ask.from_leader())),
        to: *ask.to_node_id(),
        last: ask.last_log_id().map(log_id_to_wire),
    }
}

pub(crate) fn transfer_from_wire(
    ask: wire::TransferAsk,
) -> Result<TransferLeaderRequest<Types>, Malformed> {
    let from = vote_from_wire(ask.from_leader)?;
    Ok(TransferLeaderRequest::new(
        from,
        ask.to,
        ask.last.map(log_id_from_wire),
    ))
}

pub(crate) fn transfer_reply_to_wire(reply: &TransferLeaderResponse<Types>) -> wire::TransferReply {
    use wire::transfer_reply as said;
    let result = match reply {
        Ok(()) => said::Result::Accepted(said::Accepted {}),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            said::Result::VoteChanged(said::VoteChanged {
                expected: Some(vote_to_wire(expected)),
                actual: Some(vote_to_wire(actual)),
            })
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            said::Result::NotFlushed(said::NotFlushed {
                expected: expected.as_ref().map(log_id_to_wire),
                actual: actual.as_ref().map(log_id_to_wire),
            })
        }
    };
    wire::TransferReply {
        result: Some(result),
    }
}

pub(crate) fn transfer_reply_from_wire(
    reply: wire::TransferReply,
) -> Result<TransferLeaderResponse<Types>, Malformed> {
    use wire::transfer_reply as said;
    Ok(match reply.result.ok_or_else(|| bad("transfer result"))? {
        said::Result::Accepted(said::Accepted {}) => Ok(()),
        said::Result::VoteChanged(it) => Err(TransferLeaderError::VoteChanged {
            expected: vote_from_wire(it.expected)?,
            actual: vote_from_wire(it.actual)?,
        }),
        said::Result::NotFlushed(it) => Err(TransferLeaderError::LogNotFlushed {
            expected: it.expected.map(log_id_from_wire),
            actual: it.actual.map(log_id_from_wire),
        }),
    })
}

pub(crate) fn membership_to_wire(membership: &CoreMembership) -> wire::Membership {
    let voters = |ids: &BTreeSet<u64>| wire::membership::Voters {
        ids: ids.iter().copied().collect(),
    };
    wire::Membership {
        configs: membership.get_joint_config().iter().map(voters).collect(),
        nodes: membership
            .nodes()
            .map(|(id, member)| member.to_wire(NodeId(*id)))
            .collect(),
    }
}

pub(crate) fn membership_from_wire(
    membership: wire::Membership,
) -> Result<CoreMembership, Malformed> {
    let configs: Vec<BTreeSet<u64>> = membership
        .configs
        .into_iter()
        .map(|voters| voters.ids.into_iter().collect())
        .collect();
    let nodes = membership
        .nodes
        .into_iter()
        .map(|it| Member::from_wire(it).map(|(id, member)| (id.0, member)))
        .collect::<Result<BTreeMap<_, _>, _>>()
        .map_err(|_| bad("member"))?;
    CoreMembership::new(configs, nodes).map_err(|_| bad("membership"))
}

pub(crate) fn meta_to_wire(meta: &CoreSnapshotMeta) -> wire::SnapshotMeta {
    wire::SnapshotMeta {
        last: meta.last_log_id.as_ref().map(log_id_to_wire),
        membership_at: meta.last_membership.log_id().as_ref().map(log_id_to_wire),
        membership: Some(membership_to_wire(meta.last_membership.membership())),
    }
}

pub(crate) fn meta_from_wire(
    meta: Option<wire::SnapshotMeta>,
) -> Result<CoreSnapshotMeta, Malformed> {
    let meta = meta.ok_or_else(|| bad("snapshot meta"))?;
    let membership = membership_from_wire(meta.membership.unwrap_or_default())?;
    Ok(CoreSnapshotMeta {
        last_log_id: meta.last.map(log_id_from_wire),
        last_membership: CoreStoredMembership::new(
            meta.membership_at.map(log_id_from_wire),
            membership,
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::types::BatchBytes;
    use openraft::EntryPayload;
    use uuid::Uuid;

    fn id(term: u64, node: u64, index: u64) -> CoreLogId {
        openraft::LogId::new(
            LeaderId {
                term,
                node_id: node,
            },
            index,
        )
    }

    fn vote() -> CoreVote {
        CoreVote {
            leader_id: LeaderId {
                term: 7,
                node_id: 3,
            },
            committed: true,
        }
    }

    fn pulse() -> wire::Pulse {
        wire::Pulse {
            wall_ms: 1,
            applied: 2,
            digest: bytes::Bytes::from_static(b"digest"),
            said: Vec::new(),
        }
    }

    fn membership() -> CoreMembership {
        let member = |port| Member {
            incarnation: Uuid::from_u128(u128::from(port) + 5),
            peer_address: format!("127.0.0.1:{port}"),
            api_address: format!("127.0.0.1:{}", port + 1),
        };
        let nodes: BTreeMap<u64, Member> = [
            (1, member(10_u16)),
            (2, member(20)),
            (3, member(30)),
            (4, member(40)),
        ]
        .into();
        let configs = vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([1, 2, 4])];
        CoreMembership::new(configs, nodes).unwrap()
    }

    #[test]
    fn an_append_keeps_every_field() {
        let entries = vec![
            openraft::Entry {
                log_id: id(7, 3, 10),
                payload: EntryPayload::Blank,
            },
            openraft::Entry {
                log_id: id(7, 3, 11),
                payload: EntryPayload::Normal(BatchBytes(bytes::Bytes::from_static(b"batch"))),
            },
            openraft::Entry {
                log_id: id(7, 3, 12),
                payload: EntryPayload::Membership(membership()),
            },
        ];
        let ask = AppendEntriesRequest {
            vote: vote(),
            prev_log_id: Some(id(6, 2, 9)),
            entries,
            leader_commit: Some(id(6, 2, 8)),
        };
        let frame = append_to_wire(ask.clone(), pulse());
        assert_eq!(frame.pulse, Some(pulse()));
        assert_eq!(
            format!("{:?}", append_from_wire(frame).unwrap()),
            format!("{ask:?}")
        );
    }

    #[test]
    fn every_append_result_survives() {
        let all: [StreamAppendResult<Types>; 4] = [
            Ok(None),
            Ok(Some(id(7, 3, 12))),
            Err(StreamAppendError::Conflict(id(6, 2, 9))),
            Err(StreamAppendError::HigherVote(vote())),
        ];
        for result in all {
            let reply = appended_to_wire(&result, pulse());
            assert_eq!(appended_from_wire(reply).unwrap(), result);
        }
    }

    #[test]
    fn a_vote_keeps_every_field_and_the_transfer_flag_above_all() {
        let ask = VoteRequest::<Types> {
            vote: vote(),
            last_log_id: Some(id(6, 2, 9)),
            leadership_transfer: true,
        };
        assert_eq!(
            vote_ask_from_wire(vote_ask_to_wire(&ask, pulse())).unwrap(),
            ask
        );
        let reply = VoteResponse::<Types> {
            vote: vote(),
            vote_granted: true,
            last_log_id: Some(id(6, 2, 9)),
        };
        assert_eq!(
            vote_reply_from_wire(vote_reply_to_wire(&reply, pulse())).unwrap(),
            reply
        );
    }

    #[test]
    fn a_transfer_keeps_every_field() {
        let ask = TransferLeaderRequest::<Types>::new(vote(), 4, Some(id(6, 2, 9)));
        assert_eq!(transfer_from_wire(transfer_to_wire(&ask)).unwrap(), ask);
        let other = CoreVote {
            leader_id: LeaderId {
                term: 8,
                node_id: 4,
            },
            committed: false,
        };
        let all: [TransferLeaderResponse<Types>; 3] = [
            Ok(()),
            Err(TransferLeaderError::VoteChanged {
                expected: vote(),
                actual: other,
            }),
            Err(TransferLeaderError::LogNotFlushed {
                expected: Some(id(6, 2, 9)),
                actual: Some(id(6, 2, 8)),
            }),
        ];
        for reply in all {
            let back = transfer_reply_from_wire(transfer_reply_to_wire(&reply)).unwrap();
            assert_eq!(back, reply);
        }
    }

    #[test]
    fn a_snapshot_meta_keeps_every_field() {
        let meta = CoreSnapshotMeta {
            last_log_id: Some(id(6, 2, 9)),
            last_membership: CoreStoredMembership::new(Some(id(5, 1, 4)), membership()),
        };
        assert_eq!(meta_from_wire(Some(meta_to_wire(&meta))).unwrap(), meta);
    }
}
