//! The peer port: takes calls, checks who calls whom, hands them to the group they are for.
//!
//! Invariant: nothing passes without [`Door::admit`], save the calls that form a cluster, which have no cluster yet.
//! Not here: what a call does (`adapter` for groups, `groups` for forming).

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, async_trait};

use holdfast_proto::peer as wire;
use holdfast_proto::peer::peer_server::{self, PeerServer};

use crate::peer::connections::MESSAGE_BYTES_MAX;
use crate::peer::identity::{Admitted, Door};
use crate::peer::watch::PULSE_EVERY;
use crate::seams::Clock;
use crate::types::{GroupId, NodeId};

type Frames<T> = BoxStream<'static, T>;
type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send + 'static>>;

/// One group, as its peers may call it.
#[async_trait]
pub(crate) trait GroupService: Send + Sync {
    fn append_stream(&self, from: NodeId, frames: Frames<wire::Append>) -> Replies<wire::Appended>;
    async fn heartbeat(&self, from: NodeId, beat: wire::Append) -> Result<wire::Appended, Status>;
    async fn vote(&self, ask: wire::VoteAsk) -> Result<wire::VoteReply, Status>;
    async fn pre_vote(&self, ask: wire::VoteAsk) -> Result<wire::VoteReply, Status>;
    async fn transfer(&self, ask: wire::TransferAsk) -> Result<wire::TransferReply, Status>;
    async fn read_index(&self) -> Result<wire::ReadIndexReply, Status>;
    async fn install(
        &self,
        frames: Streaming<wire::SnapshotFrame>,
    ) -> Result<wire::SnapshotReply, Status>;
}

/// What forms a cluster on this node.
#[async_trait]
pub(crate) trait FormingService: Send + Sync {
    async fn probe(&self, ask: wire::ProbeAsk) -> Result<wire::ProbeReply, Status>;
    async fn reserve(&self, ask: wire::Reservation) -> Result<wire::ReserveReply, Status>;
    async fn abandon(&self, ask: wire::AbandonAsk) -> Result<wire::AbandonReply, Status>;
    async fn initialize(&self, ask: wire::InitializeAsk) -> Result<wire::InitializeReply, Status>;
}

/// The groups of this node, by number.
#[derive(Default)]
pub(crate) struct Registry {
    groups: RwLock<BTreeMap<GroupId, Arc<dyn GroupService>>>,
}

impl Registry {
    pub(crate) fn add(&self, id: GroupId, group: Arc<dyn GroupService>) {
        self.groups.write().insert(id, group);
    }

    pub(crate) fn clear(&self) {
        self.groups.write().clear();
    }

    fn find(&self, id: GroupId) -> Result<Arc<dyn GroupService>, Status> {
        // Not `NotFound`: a node that starts opens its groups one by one, and the caller is to try again.
        self.groups.read().get(&id).cloned().ok_or_else(|| {
            Status::unavailable(format!(
                "group {} is not open on this node yet; retry",
                id.0
            ))
        })
    }
}

/// The tonic service of the peer port.
pub(crate) struct Service {
    pub(crate) door: Arc<Door>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) forming: Arc<dyn FormingService>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) leaving: CancellationToken,
}

impl Service {
    pub(crate) fn into_server(self) -> PeerServer<Self> {
        PeerServer::new(self)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn admit<T>(&self, call: &Request<T>) -> Result<(Admitted, Arc<dyn GroupService>), Status> {
        let admitted = self.door.admit(call.metadata())?;
        Ok((admitted, self.registry.find(admitted.group)?))
    }
}

#[async_trait]
impl peer_server::Peer for Service {
    type AppendStreamStream = Replies<wire::Appended>;
    type WatchStream = Replies<wire::NodePulse>;

    async fn append_stream(
        &self,
        call: Request<Streaming<wire::Append>>,
    ) -> Result<Response<Self::AppendStreamStream>, Status> {
        let (admitted, group) = self.admit(&call)?;
        // A bad frame ends the input: what follows it could leave a hole.
        let frames = call
            .into_inner()
            .take_while(|it| std::future::ready(it.is_ok()))
            .filter_map(ready_ok);
        Ok(Response::new(
            group.append_stream(admitted.from.id, frames.boxed()),
        ))
    }

    async fn heartbeat(
        &self,
        call: Request<wire::Append>,
    ) -> Result<Response<wire::Appended>, Status> {
        let (admitted, group) = self.admit(&call)?;
        group
            .heartbeat(admitted.from.id, call.into_inner())
            .await
            .map(Response::new)
    }

    async fn vote(
        &self,
        call: Request<wire::VoteAsk>,
    ) -> Result<Response<wire::VoteReply>, Status> {
        let (_, group) = self.admit(&call)?;
        group.vote(call.into_inner()).await.map(Response::new)
    }

    async fn pre_vote(
        &self,
        call: Request<wire::VoteAsk>,
    ) -> Result<Response<wire::VoteReply>, Status> {
        let (_, group) = self.admit(&call)?;
        group.pre_vote(call.into_inner()).await.map(Response::new)
    }

    async fn transfer(
        &self,
        call: Request<wire::TransferAsk>,
    ) -> Result<Response<wire::TransferReply>, Status> {
        let (_, group) = self.admit(&call)?;
        group.transfer(call.into_inner()).await.map(Response::new)
    }

    async fn read_index(
        &self,
        call: Request<wire::ReadIndexAsk>,
    ) -> Result<Response<wire::ReadIndexReply>, Status> {
        let (_, group) = self.admit(&call)?;
        group.read_index().await.map(Response::new)
    }

    async fn watch(
        &self,
        call: Request<wire::WatchAsk>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.door.admit(call.metadata())?;
        Ok(Response::new(
            pulses(Arc::clone(&self.clock), self.leaving.clone()).boxed(),
        ))
    }

    async fn snapshot(
        &self,
        call: Request<Streaming<wire::SnapshotFrame>>,
    ) -> Result<Response<wire::SnapshotReply>, Status> {
        let (_, group) = self.admit(&call)?;
        group.install(call.into_inner()).await.map(Response::new)
    }

    async fn probe(
        &self,
        call: Request<wire::ProbeAsk>,
    ) -> Result<Response<wire::ProbeReply>, Status> {
        self.forming
            .probe(call.into_inner())
            .await
            .map(Response::new)
    }

    async fn reserve(
        &self,
        call: Request<wire::Reservation>,
    ) -> Result<Response<wire::ReserveReply>, Status> {
        self.forming
            .reserve(call.into_inner())
            .await
            .map(Response::new)
    }

    async fn abandon(
        &self,
        call: Request<wire::AbandonAsk>,
    ) -> Result<Response<wire::AbandonReply>, Status> {
        self.forming
            .abandon(call.into_inner())
            .await
            .map(Response::new)
    }

    async fn initialize(
        &self,
        call: Request<wire::InitializeAsk>,
    ) -> Result<Response<wire::InitializeReply>, Status> {
        self.forming
            .initialize(call.into_inner())
            .await
            .map(Response::new)
    }
}

async fn ready_ok<T>(it: Result<T, Status>) -> Option<T> {
    it.ok()
}

/// The clock now and then, and a last word when the node leaves on purpose.
fn pulses(
    clock: Arc<dyn Clock>,
    leaving: CancellationToken,
) -> impl Stream<Item = Result<wire::NodePulse, Status>> + Send {
    let start = Some((clock, leaving, tokio::time::interval(PULSE_EVERY)));
    futures::stream::unfold(start, |state| async move {
        let (clock, leaving, mut every) = state?;
        tokio::select! {
            biased;
            () = leaving.cancelled() => {
                let last = wire::NodePulse { wall_ms: clock.wall_ms(), leaving: true };
                Some((Ok(last), None))
            }
            _ = every.tick() => {
                let pulse = wire::NodePulse { wall_ms: clock.wall_ms(), leaving: false };
                Some((Ok(pulse), Some((clock, leaving, every))))
            }
        }
    })
}
