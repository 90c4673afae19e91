//! A group as its peers call it: decode, hand to openraft, encode.
//!
//! Invariant: replies to a stream come in the order of its frames, and the last one is delivered before the stream closes.
//! Not here: who may call (`peer::identity`), the calling side (`network`).

use std::pin::Pin;
use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use tonic::{Status, Streaming, async_trait};

use holdfast_proto::peer as wire;

use crate::adapter::codec::{self, Malformed};
use crate::adapter::core::{Core, NoReadIndex};
use crate::failpoints;
use crate::peer::server::GroupService;
use crate::seeded::{Bug, armed};
use crate::types::NodeId;

type Replies = Pin<Box<dyn Stream<Item = Result<wire::Appended, Status>> + Send + 'static>>;

fn malformed(bad: &Malformed) -> Status {
    Status::invalid_argument(bad.to_string())
}

/// The core has ended: the node is going down, the caller backs off.
fn ended(cause: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("the group has ended on this node: {cause}"))
}

#[async_trait]
impl GroupService for Arc<Core> {
    fn append_stream(&self, from: NodeId, frames: BoxStream<'static, wire::Append>) -> Replies {
        let pulses = Arc::clone(&self.pulses);
        // A frame that cannot be read ends the input: what follows it could leave a hole.
        let asks = frames
            .map(move |frame| {
                pulses.heard_leader(from, frame.pulse.as_ref());
                codec::append_from_wire(frame)
            })
            .take_while(|ask| std::future::ready(ask.is_ok()))
            .filter_map(|ask| std::future::ready(ask.ok()));
        let pulses = Arc::clone(&self.pulses);
        let replies = self
            .raft
            .stream_append(asks)
            .map(move |result| match result {
                Ok(result) => {
                    failpoints::reach("append::before-reply");
                    Ok(codec::appended_to_wire(&result, pulses.ours()))
                }
                Err(fatal) => Err(ended(fatal)),
            });
        Box::pin(replies)
    }

    async fn heartbeat(&self, from: NodeId, beat: wire::Append) -> Result<wire::Appended, Status> {
        self.pulses.heard_leader(from, beat.pulse.as_ref());
        let ask = codec::append_from_wire(beat).map_err(|bad| malformed(&bad))?;
        let prev = ask.prev_log_id;
        let reply = self.raft.append_entries(ask).await.map_err(ended)?;
        let Some(result) = as_stream_result(reply, prev) else {
            return Err(Status::internal("a conflict with nothing"));
        };
        let pulse = self.pulses.ours_with_digests();
        Ok(codec::appended_to_wire(&result, pulse))
    }

    async fn vote(&self, ask: wire::VoteAsk) -> Result<wire::VoteReply, Status> {
        let ask = codec::vote_ask_from_wire(ask).map_err(|bad| malformed(&bad))?;
        let reply = self.raft.vote(ask).await.map_err(ended)?;
        Ok(codec::vote_reply_to_wire(&reply, self.pulses.ours()))
    }

    async fn pre_vote(&self, ask: wire::VoteAsk) -> Result<wire::VoteReply, Status> {
        let ask = codec::vote_ask_from_wire(ask).map_err(|bad| malformed(&bad))?;
        let mut reply = self.raft.pre_vote(ask).await.map_err(ended)?;
        reply.vote_granted |= armed(Bug::PrevoteAlwaysGrants);
        Ok(codec::vote_reply_to_wire(&reply, self.pulses.ours()))
    }

    async fn transfer(&self, ask: wire::TransferAsk) -> Result<wire::TransferReply, Status> {
        let ask = codec::transfer_from_wire(ask).map_err(|bad| malformed(&bad))?;
        let reply = self.raft.handle_transfer_leader(ask).await.map_err(ended)?;
        Ok(codec::transfer_reply_to_wire(&reply))
    }

    async fn read_index(&self) -> Result<wire::ReadIndexReply, Status> {
        use wire::read_index_reply as said;
        let result = match Core::read_index(self).await {
            Ok(index) => said::Result::Index(index),
            Err(NoReadIndex::NotLeader(leader)) => said::Result::NotLeader(said::NotLeader {
                leader: leader.map_or(0, |node| node.0),
            }),
            Err(NoReadIndex::NoQuorum(why)) => said::Result::NoQuorum(why),
            Err(NoReadIndex::Stopped) => return Err(ended("it has been stopped")),
        };
        Ok(wire::ReadIndexReply {
            result: Some(result),
        })
    }

    async fn install(
        &self,
        frames: Streaming<wire::SnapshotFrame>,
    ) -> Result<wire::SnapshotReply, Status> {
        let (vote, snapshot) = self.transfers.receive(self.state.as_ref(), frames).await?;
        let reply = self
            .raft
            .install_full_snapshot(vote, snapshot)
            .await
            .map_err(ended)?;
        Ok(wire::SnapshotReply {
            vote: Some(codec::vote_to_wire(&reply.vote)),
        })
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "what is converted is used up"
)]
fn as_stream_result(
    reply: openraft::raft::AppendEntriesResponse<crate::adapter::types::Types>,
    prev: Option<crate::adapter::types::CoreLogId>,
) -> Option<openraft::raft::StreamAppendResult<crate::adapter::types::Types>> {
    use openraft::raft::{AppendEntriesResponse as Said, StreamAppendError};
    match reply {
        Said::Success => Some(Ok(prev)),
        Said::PartialSuccess(matching) => Some(Ok(matching)),
        Said::Conflict => Some(Err(StreamAppendError::Conflict(prev?))),
        Said::HigherVote(vote) => Some(Err(StreamAppendError::HigherVote(vote))),
    }
}
