//! What openraft calls to reach the other nodes.
//!
//! Invariant: nothing connects here; every client is a clone of a warm channel. Timeouts of the append stream are our
//! own: openraft's is one heartbeat long and would tear the stream down at the first slow disk.
//! Not here: frames' order and ends (`peer::stream`), the other side (`group`).

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use openraft::base::BoxFuture;
use openraft::error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError,
    StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory};
use tonic::metadata::{Binary, MetadataValue};
use tonic::{Code, Status};

use holdfast_proto::peer as wire;

use crate::adapter::acks::Acks;
use crate::adapter::codec;
use crate::adapter::pulse::Pulses;
use crate::adapter::snapshot;
use crate::adapter::types::{CoreSnapshot, CoreVote, Types};
use crate::peer::connections::{Peer, Peers};
use crate::peer::identity::{Member, addressed};
use crate::peer::stream::{Broken, HeldBack, outstanding, pair_in_order};
use crate::seeded::{Bug, armed};
use crate::state::SnapData;
use crate::types::{GroupId, NodeId};

/// How long a stream may take to come to be.
const SET_UP: Duration = Duration::from_secs(1);

type Rpc<T> = Result<T, RPCError<Types>>;
type Appends<'s> = BoxStream<'s, Rpc<StreamAppendResult<Types>>>;

/// Makes the clients of one group.
pub(crate) struct Network {
    pub(crate) group: GroupId,
    pub(crate) peers: Arc<Peers>,
    pub(crate) pulses: Arc<Pulses>,
    pub(crate) acks: Arc<Acks>,
    pub(crate) transfers: Arc<snapshot::Transfers>,
}

impl Network {
    fn client(&self, target: u64, member: &Member, kind: Kind) -> Client {
        let peer = self.peers.meet(NodeId(target), member).map_err(|cause| {
            format!(
                "{:?} is no address of node {target}: {cause}",
                member.peer_address
            )
        });
        Client {
            group: self.group,
            peer,
            pulses: Arc::clone(&self.pulses),
            acks: Arc::clone(&self.acks),
            transfers: Arc::clone(&self.transfers),
            kind,
        }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, node: &Member) -> Client {
        self.client(target, node, Kind::Entries)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Member) -> Client {
        self.client(target, node, Kind::Beats)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Member) -> Client {
        self.client(target, node, Kind::Entries)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Entries,
    /// Its one-item streams become unary calls.
    Beats,
}

/// openraft's hand on one other node.
pub(crate) struct Client {
    group: GroupId,
    peer: Result<Arc<Peer>, String>,
    pulses: Arc<Pulses>,
    acks: Arc<Acks>,
    transfers: Arc<snapshot::Transfers>,
    kind: Kind,
}

impl Client {
    fn reach(&self) -> Rpc<(&Arc<Peer>, MetadataValue<Binary>)> {
        let peer = self.peer.as_ref().map_err(|why| unreachable_because(why))?;
        let address = peer.address(self.group).map_err(|status| failed(&status))?;
        Ok((peer, address))
    }

    async fn beat(
        &self,
        ask: AppendEntriesRequest<Types>,
        ttl: Duration,
    ) -> Rpc<StreamAppendResult<Types>> {
        let (peer, address) = self.reach()?;
        let asked = self.acks.ask(ask.vote.leader_id.term);
        let beat = codec::append_to_wire(ask, self.pulses.ours_with_digests());
        let mut grpc = peer.consensus();
        let reply = grpc
            .heartbeat(addressed(beat, address))
            .map_ok_into_inner(ttl)
            .await?;
        self.pulses.heard(peer, reply.pulse.as_ref());
        let answer = codec::appended_from_wire(reply).map_err(|bad| network(&bad))?;
        if follows(&answer) {
            self.acks.answer(peer.node.id, asked);
        }
        Ok(answer)
    }

    async fn open_stream<S>(&self, input: S) -> Rpc<Appends<'static>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        let (peer, address) = self.reach()?;
        let (requests, account) = outstanding(HeldBack::new(input, says_little));
        let (pulses, acks) = (Arc::clone(&self.pulses), Arc::clone(&self.acks));
        let (outgoing, mut asked) = futures::channel::mpsc::unbounded(); // at most as many as are outstanding
        let (claim, claimed) = futures::channel::mpsc::unbounded();
        let frames = requests.map(move |ask| {
            if armed(Bug::AckBeforeCommit) {
                let last = ask.entries.last().map(|entry| entry.log_id);
                drop(claim.unbounded_send(Ok(Ok(last.or(ask.prev_log_id)))));
            }
            drop(outgoing.unbounded_send(acks.ask(ask.vote.leader_id.term)));
            codec::append_to_wire(ask, pulses.ours())
        });
        let mut grpc = peer.consensus();
        let call = grpc
            .append_stream(addressed(frames, address))
            .map_ok_into_inner(SET_UP);
        metrics::counter!("holdfast_raft_stream_reconnects_total",
            "node" => peer.node.id.0.to_string())
        .increment(1);
        // Dropping `account` on an error drops the requests with it.
        let replies = call.await?;
        let (pulses, acks, peer) = (
            Arc::clone(&self.pulses),
            Arc::clone(&self.acks),
            Arc::clone(peer),
        );
        let paired = pair_in_order(account, replies).map(move |reply| {
            let reply: wire::Appended = reply.map_err(|broken| broke(&broken))?;
            pulses.heard(&peer, reply.pulse.as_ref());
            let asked = asked.try_recv();
            let answer = codec::appended_from_wire(reply).map_err(|bad| network(&bad))?;
            if let (true, Ok(asked)) = (follows(&answer), asked) {
                acks.answer(peer.node.id, asked);
            }
            Ok(answer)
        });
        if armed(Bug::AckBeforeCommit) {
            tokio::spawn(
                paired.for_each(|_: Rpc<StreamAppendResult<Types>>| futures::future::ready(())),
            );
            return Ok(claimed.boxed());
        }
        Ok(paired.boxed())
    }
}

/// Whether whoever answers like that takes the asker for its leader.
fn follows(answer: &StreamAppendResult<Types>) -> bool {
    matches!(answer, Ok(_) | Err(StreamAppendError::Conflict(_)))
}

/// Only that more entries are committed.
fn says_little(ask: &AppendEntriesRequest<Types>) -> bool {
    ask.entries.is_empty()
}

impl RaftNetworkV2<Types> for Client {
    type SnapshotData = SnapData;

    async fn append_entries(
        &mut self,
        ask: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<Types>> {
        self.beat(ask, option.hard_ttl())
            .await
            .map(AppendEntriesResponse::from)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        ttl: RPCOption,
    ) -> BoxFuture<'s, Rpc<Appends<'s>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        match self.kind {
            // openraft waits out its backoff before it yields the first request, so that one is asked for before a stream
            // is opened: else a node that is down would be dialled in a tight loop.
            Kind::Entries => async move {
                let Some(first) = input.next().await else {
                    return Ok(futures::stream::empty().boxed());
                };
                let input = futures::stream::iter([first]).chain(input);
                let replies: Appends<'s> = self.open_stream(input).await?;
                Ok(replies)
            }
            .boxed(),
            // A beat counts only once the reply stream has ended, so this one ends by itself.
            Kind::Beats => async move {
                let Some(ask) = input.next().await else {
                    return Ok(futures::stream::empty().boxed());
                };
                let reply = self.beat(ask, ttl.soft_ttl()).await?;
                Ok(futures::stream::iter([Ok(reply)]).boxed())
            }
            .boxed(),
        }
    }

    async fn vote(
        &mut self,
        ask: VoteRequest<Types>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<Types>> {
        let (peer, address) = self.reach()?;
        let ask = codec::vote_ask_to_wire(&ask, self.pulses.ours());
        let mut grpc = peer.consensus();
        let reply = grpc
            .vote(addressed(ask, address))
            .map_ok_into_inner(option.hard_ttl())
            .await?;
        self.pulses.heard(peer, reply.pulse.as_ref());
        codec::vote_reply_from_wire(reply).map_err(|bad| network(&bad))
    }

    async fn pre_vote(
        &mut self,
        ask: VoteRequest<Types>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<Types>> {
        let (peer, address) = self.reach()?;
        let ask = codec::vote_ask_to_wire(&ask, self.pulses.ours());
        let mut grpc = peer.consensus();
        let call = grpc.pre_vote(addressed(ask, address));
        let reply = call.map_ok_into_inner(option.hard_ttl()).await?;
        self.pulses.heard(peer, reply.pulse.as_ref());
        codec::vote_reply_from_wire(reply).map_err(|bad| network(&bad))
    }

    async fn full_snapshot(
        &mut self,
        vote: CoreVote,
        snapshot: CoreSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let (peer, address) = self.reach()?;
        let (group, within) = (self.group, option.hard_ttl());
        let sending = self
            .transfers
            .send(group, peer, address, vote, snapshot, within);
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = sending => sent,
        }
    }

    async fn transfer_leader(
        &mut self,
        ask: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<Types>> {
        let (peer, address) = self.reach()?;
        let ask = codec::transfer_to_wire(&ask);
        let mut grpc = peer.consensus();
        let call = grpc.transfer(addressed(ask, address));
        let reply = call.map_ok_into_inner(option.hard_ttl()).await?;
        codec::transfer_reply_from_wire(reply).map_err(|bad| network(&bad))
    }
}

/// A call with an end: what the reply carries, or openraft's word for what went wrong.
trait Call<T> {
    async fn map_ok_into_inner(self, ttl: Duration) -> Rpc<T>;
}

impl<T, F> Call<T> for F
where
    F: Future<Output = Result<tonic::Response<T>, Status>>,
{
    async fn map_ok_into_inner(self, ttl: Duration) -> Rpc<T> {
        match tokio::time::timeout(ttl, self).await {
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) => Err(failed(&status)),
            Err(_) => Err(unreachable_because(&format!("no answer within {ttl:?}"))),
        }
    }
}

/// A refused connect, a refusal at the door and an overfull peer back off; everything else is tried again at once.
pub(crate) fn failed(status: &Status) -> RPCError<Types> {
    match status.code() {
        Code::Unavailable
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::ResourceExhausted
        | Code::Unimplemented => RPCError::Unreachable(Unreachable::from_string(status)),
        _ => RPCError::Network(NetworkError::from_string(status)),
    }
}

fn broke(broken: &Broken) -> RPCError<Types> {
    match broken {
        Broken::Call(status) => failed(status),
        Broken::Silent(_) | Broken::Unasked => network(broken),
    }
}

fn network<E: std::error::Error>(cause: &E) -> RPCError<Types> {
    RPCError::Network(NetworkError::from_string(cause))
}

fn unreachable_because(why: &str) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::from_string(why))
}
