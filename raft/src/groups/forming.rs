//! Forming a cluster: probe, reserve on every named node, only then initialize.
//!
//! Invariant: of two inits at once at most one gets a log, for each node reserves one genesis and refuses any other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tonic::transport::Channel;
use tonic::{Request, Status, async_trait};
use uuid::Uuid;

use holdfast_proto::peer as wire;
use holdfast_proto::peer::peer_client::PeerClient;
use holdfast_proto::peer::reserve_reply::Result as Reserved;

use crate::error::StorageFault;
use crate::host;
use crate::log::LogBackend;
use crate::machine::Machine;
use crate::peer::connections::{client, endpoint};
use crate::peer::identity::{Member, NodeRef, Reservation};
use crate::peer::server::FormingService;
use crate::seeded::{Bug, armed};
use crate::types::NodeId;

use super::{Groups, OpenError};

/// Each call of forming: a person waits.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// More partitions than this would only cost idle work.
const PARTITIONS_MAX: u32 = 256;

/// A node named at `init`.
#[derive(Debug, Clone)]
pub struct Named {
    /// Its number; none: as it says.
    pub node: Option<NodeId>,
    /// Where it serves peers.
    pub peer_address: String,
    /// How clients reach it; none: as it says.
    pub api_address: Option<String>,
}

/// What `init` came to.
#[derive(Debug, Clone)]
pub struct Formed {
    /// The cluster.
    pub reservation: Reservation,
    /// It was formed already, by this very genesis.
    pub already: bool,
}

/// Why no cluster was formed.
#[derive(Debug, thiserror::Error)]
pub enum FormError {
    /// Start it, or correct the address; then run `init` again.
    #[error(
        "the node at {address} does not answer ({cause}); start it, or correct the address, and run init again"
    )]
    Unreachable {
        /// Where it was to be.
        address: String,
        /// What happened.
        cause: String,
    },
    /// The request contradicts itself, or the nodes.
    #[error("{0}")]
    Refused(String),
    /// A node belongs to another cluster already.
    #[error("node {} belongs to cluster {cluster:?} already; give it an empty data folder under a new id, or leave it out", node.0)]
    Taken {
        /// Which node.
        node: NodeId,
        /// Its cluster.
        cluster: String,
    },
    /// This node's own folder.
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl From<StorageFault> for FormError {
    fn from(fault: StorageFault) -> Self {
        Self::Open(OpenError::Storage(fault))
    }
}

type Peer = PeerClient<Channel>;

fn reach(address: &str) -> Result<Peer, FormError> {
    let endpoint = endpoint(address).map_err(|cause| unreachable_at(address, cause))?;
    let endpoint = endpoint.timeout(CALL_TIMEOUT);
    Ok(client(host::connect_lazy(&endpoint)))
}

fn unreachable_at(address: &str, cause: impl std::fmt::Display) -> FormError {
    FormError::Unreachable {
        address: address.to_owned(),
        cause: cause.to_string(),
    }
}

/// A node that answered a probe.
struct Probed {
    node: NodeRef,
    member: Member,
    reservation: Option<Reservation>,
    has_log: bool,
}

impl<M: Machine> Groups<M> {
    /// Forms the cluster of the named nodes (of this one alone, if none is named), with this many partitions for good.
    /// Repeating it completes what was begun.
    ///
    /// # Errors
    /// `FormError` says which node stands in the way, and what to do.
    pub async fn init(
        self: &Arc<Self>,
        name: &str,
        partitions: u32,
        named: Vec<Named>,
    ) -> Result<Formed, FormError> {
        let this = Arc::clone(self);
        let name = name.to_owned();
        let forming = self
            .runtime
            .spawn(async move { this.init_here(&name, partitions, named).await });
        forming
            .await
            .map_err(|cause| FormError::Refused(format!("init was cut short: {cause}")))?
    }

    async fn init_here(
        self: &Arc<Self>,
        name: &str,
        partitions: u32,
        mut named: Vec<Named>,
    ) -> Result<Formed, FormError> {
        let _one = self.changing.lock().await;
        if partitions == 0 || partitions > PARTITIONS_MAX {
            return Err(FormError::Refused(format!(
                "partitions: 1 to {PARTITIONS_MAX}, and 1 is right for most"
            )));
        }
        if name.is_empty() || name.len() > 100 {
            return Err(FormError::Refused(
                "give the cluster a name of 1 to 100 bytes".to_owned(),
            ));
        }
        if named.is_empty() {
            let own = self.own_member();
            named.push(Named {
                node: Some(self.settings.node),
                peer_address: own.peer_address,
                api_address: None,
            });
        }
        let mut probed = Vec::new();
        for it in &named {
            probed.push(self.probe_named(it).await?);
        }
        let members = members_of(&probed)?;
        if members
            .get(&self.settings.node)
            .is_none_or(|it| it.incarnation != self.this().incarnation)
        {
            return Err(FormError::Refused(
                "the node that is asked must be one of those named".to_owned(),
            ));
        }
        let reservation = self.choose(name, partitions, members, &probed)?;
        let had_log = probed.iter().any(|it| it.has_log);
        for it in &probed {
            self.reserve_at(it, &reservation).await?;
        }
        let (first, _) = reservation
            .members
            .iter()
            .next()
            .expect("a cluster has a member");
        let first = probed
            .iter()
            .find(|it| it.node.id == *first)
            .expect("members are those probed");
        let already = self.initialize_at(first, &reservation).await?;
        Ok(Formed {
            reservation,
            already: already || had_log,
        })
    }

    async fn probe_named(&self, named: &Named) -> Result<Probed, FormError> {
        let address = &named.peer_address;
        let ask = wire::ProbeAsk {
            from: Some(self.this().to_wire()),
        };
        let reply = reach(address)?.probe(Request::new(ask)).await;
        let reply = reply
            .map_err(|status| unreachable_at(address, status.message()))?
            .into_inner();
        let bad = |cause: crate::peer::identity::BadIdentity| unreachable_at(address, cause);
        let node = NodeRef::from_wire(reply.node.as_ref()).map_err(bad)?;
        if let Some(id) = named.node.filter(|id| *id != node.id) {
            return Err(FormError::Refused(format!(
                "the node at {address} says it is node {}, not {}; correct the address or the number",
                node.id.0, id.0
            )));
        }
        let api_address = named.api_address.clone().unwrap_or(reply.api_address);
        let member = Member {
            incarnation: node.incarnation,
            peer_address: address.clone(),
            api_address,
        };
        let reservation = reply
            .reservation
            .map(Reservation::from_wire)
            .transpose()
            .map_err(bad)?;
        Ok(Probed {
            node,
            member,
            reservation,
            has_log: reply.has_log,
        })
    }

    /// A new genesis, or the one that an earlier init with the same nodes has begun with.
    fn choose(
        &self,
        name: &str,
        partitions: u32,
        members: BTreeMap<NodeId, Member>,
        probed: &[Probed],
    ) -> Result<Reservation, FormError> {
        let Some((node, begun)) = probed
            .iter()
            .find_map(|it| Some((it.node.id, it.reservation.as_ref()?)))
        else {
            return Ok(Reservation {
                genesis: Uuid::from_bytes(self.seams.entropy.bytes16()),
                cluster_id: name.to_owned(),
                namespace: Uuid::from_bytes(self.seams.entropy.bytes16()),
                members,
                partitions,
            });
        };
        let same_nodes = begun.members.keys().eq(members.keys());
        if !same_nodes || begun.cluster_id != name || begun.partitions != partitions {
            return Err(FormError::Taken {
                node,
                cluster: begun.cluster_id.clone(),
            });
        }
        Ok(begun.clone())
    }

    async fn reserve_at(
        self: &Arc<Self>,
        node: &Probed,
        reservation: &Reservation,
    ) -> Result<(), FormError> {
        let address = &node.member.peer_address;
        let result = if node.node == self.this() {
            self.reserve_here(reservation.clone()).await?
        } else {
            let reply = reach(address)?
                .reserve(Request::new(reservation.to_wire()))
                .await;
            let reply = reply.map_err(|status| unreachable_at(address, status.message()))?;
            reply
                .into_inner()
                .result
                .ok_or_else(|| unreachable_at(address, "an empty answer"))?
        };
        match result {
            Reserved::Reserved(_) => Ok(()),
            Reserved::Other(other) => Err(FormError::Taken {
                node: node.node.id,
                cluster: other.cluster_id,
            }),
            Reserved::WrongNode(_) => Err(FormError::Refused(format!(
                "the node at {address} has changed since it was asked; run init again"
            ))),
        }
    }

    /// Reserves a node that joins a cluster which exists.
    pub(super) async fn reserve_joiner(
        &self,
        address: &str,
        reservation: &Reservation,
    ) -> Result<(), FormError> {
        let reply = reach(address)?
            .reserve(Request::new(reservation.to_wire()))
            .await;
        let reply = reply.map_err(|status| unreachable_at(address, status.message()))?;
        match reply.into_inner().result {
            Some(Reserved::Reserved(_)) => Ok(()),
            Some(Reserved::Other(other)) => Err(FormError::Refused(format!(
                "the node at {address} belongs to cluster {:?}; give it an empty data folder",
                other.cluster_id
            ))),
            Some(Reserved::WrongNode(_)) | None => {
                Err(unreachable_at(address, "it is not the node that was asked"))
            }
        }
    }

    /// Asks a node who it is.
    pub(super) async fn who_is(&self, address: &str) -> Result<(NodeRef, Member), FormError> {
        let named = Named {
            node: None,
            peer_address: address.to_owned(),
            api_address: None,
        };
        let probed = self.probe_named(&named).await?;
        Ok((probed.node, probed.member))
    }

    async fn initialize_at(
        self: &Arc<Self>,
        first: &Probed,
        reservation: &Reservation,
    ) -> Result<bool, FormError> {
        let genesis = reservation.genesis;
        if first.node == self.this() {
            return self
                .initialize_here(genesis)
                .await
                .map_err(FormError::Refused);
        }
        let address = &first.member.peer_address;
        let ask = wire::InitializeAsk {
            genesis: genesis.as_bytes().to_vec().into(),
        };
        let reply = reach(address)?.initialize(Request::new(ask)).await;
        let reply = reply.map_err(|status| unreachable_at(address, status.message()))?;
        match reply.into_inner().result {
            Some(wire::initialize_reply::Result::Done(done)) => Ok(done.already),
            Some(wire::initialize_reply::Result::Refused(why)) => Err(FormError::Refused(why)),
            None => Err(unreachable_at(address, "an empty answer")),
        }
    }

    async fn reserve_here(self: &Arc<Self>, wanted: Reservation) -> Result<Reserved, FormError> {
        let _one = self.reserving.lock().await;
        let this = self.this();
        if wanted
            .members
            .get(&this.id)
            .is_none_or(|it| it.incarnation != this.incarnation)
        {
            return Ok(Reserved::WrongNode(this.to_wire()));
        }
        match self.reservation() {
            Some(held) if held.genesis != wanted.genesis => Ok(Reserved::Other(held.to_wire())),
            Some(_) => {
                self.open_groups().await?;
                Ok(self.reserved())
            }
            None => {
                self.store_reservation(Some(wanted.clone())).await?;
                self.door.reserve(wanted);
                self.open_groups().await?;
                Ok(self.reserved())
            }
        }
    }

    fn reserved(&self) -> Reserved {
        Reserved::Reserved(wire::reserve_reply::Reserved {
            has_log: self.has_log(),
        })
    }

    async fn store_reservation(&self, it: Option<Reservation>) -> Result<(), StorageFault> {
        let log = Arc::clone(&self.log);
        let bytes = it.map(|it| it.encode());
        host::blocking(move || log.set_reservation(bytes))
            .await
            .map_err(|cause| StorageFault::io("storing the reservation", cause))?
    }

    fn has_log(&self) -> bool {
        let Some(reservation) = self.reservation() else {
            return false;
        };
        reservation
            .groups()
            .any(|group| self.log.state(group).last.is_some())
    }

    async fn initialize_here(&self, genesis: Uuid) -> Result<bool, String> {
        let _one = self.reserving.lock().await;
        let reservation = self.reservation().filter(|it| it.genesis == genesis);
        let Some(reservation) = reservation else {
            return Err("this node has not reserved that cluster".to_owned());
        };
        let replicas = self.replicas.borrow().clone();
        let mut already = false;
        for replica in replicas {
            let members = reservation.members.clone();
            let had = replica.core.initialize(members).await;
            already |= had.map_err(|cause| cause.to_string())?;
        }
        Ok(already)
    }

    /// Takes this node's reservation back, where no log exists.
    ///
    /// # Errors
    /// `Refused`: the cluster has a log, or there is nothing to take back.
    pub async fn abandon(&self) -> Result<(), FormError> {
        let _one = self.changing.lock().await;
        let _reserving = self.reserving.lock().await;
        if self.reservation().is_none() {
            return Err(FormError::Refused(
                "this node has no reservation".to_owned(),
            ));
        }
        if self.has_log() {
            return Err(FormError::Refused(
                "the cluster is formed and has a log; a node leaves it by `holdfast cluster remove`".to_owned(),
            ));
        }
        self.registry.clear();
        for replica in self.replicas.send_replace(Vec::new()) {
            replica.proposer.stop();
            replica.core.shutdown().await;
            let state = replica.state;
            drop(host::blocking(move || state.close()).await);
        }
        self.store_reservation(None).await?;
        self.door.abandon();
        self.peers.forget_all();
        Ok(())
    }

    /// Refuses to start on a wiped disk: a peer knows this id under another incarnation.
    pub(super) async fn verify_not_wiped(&self) -> Result<(), OpenError> {
        if self.reservation().is_some() || armed(Bug::NodeIdReuseAllowed) {
            return Ok(());
        }
        // A list of seeds is most often the same everywhere; this node does not answer itself before it has opened.
        let own = &self.settings.peer_address;
        for seed in self.settings.seeds.iter().filter(|seed| *seed != own) {
            let Ok(mut peer) = reach(seed) else { continue };
            let ask = wire::ProbeAsk {
                from: Some(self.this().to_wire()),
            };
            let Ok(reply) = peer.probe(Request::new(ask)).await else {
                continue;
            };
            let reply = reply.into_inner();
            if reply.knows_caller
                && reply.known_incarnation.as_ref() != self.this().incarnation.as_bytes()
            {
                let node = self.settings.node;
                return Err(OpenError::Wiped {
                    node,
                    known_by: seed.clone(),
                });
            }
        }
        Ok(())
    }
}

/// What forms a cluster, as the peer port calls it.
pub(super) struct Forming<M: Machine>(pub(super) Arc<Groups<M>>);

fn internal(cause: impl std::fmt::Display) -> Status {
    Status::internal(cause.to_string())
}

#[async_trait]
impl<M: Machine> FormingService for Forming<M> {
    async fn probe(&self, ask: wire::ProbeAsk) -> Result<wire::ProbeReply, Status> {
        let groups = &self.0;
        let from = ask
            .from
            .as_ref()
            .and_then(|it| NodeRef::from_wire(Some(it)).ok());
        let known = from.and_then(|from| groups.door.known(from.id));
        let reservation = groups.reservation();
        let is_member = |id| {
            reservation
                .as_ref()
                .is_some_and(|it| it.members.contains_key(&id))
        };
        Ok(wire::ProbeReply {
            node: Some(groups.this().to_wire()),
            has_log: groups.has_log(),
            knows_caller: known.is_some(),
            known_incarnation: known
                .map(|it| it.as_bytes().to_vec().into())
                .unwrap_or_default(),
            caller_is_member: from.is_some_and(|from| is_member(from.id)),
            api_address: groups.settings.api_address.clone(),
            reservation: reservation.map(|it| it.to_wire()),
        })
    }

    async fn reserve(&self, ask: wire::Reservation) -> Result<wire::ReserveReply, Status> {
        let wanted = Reservation::from_wire(ask)
            .map_err(|cause| Status::invalid_argument(cause.to_string()))?;
        if let Some(name) = self
            .0
            .settings
            .cluster_name
            .as_ref()
            .filter(|it| **it != wanted.cluster_id)
        {
            return Err(Status::failed_precondition(format!(
                "this node is set to serve cluster {name:?} only (cluster.name), not {:?}",
                wanted.cluster_id
            )));
        }
        let result = self.0.reserve_here(wanted).await.map_err(internal)?;
        Ok(wire::ReserveReply {
            result: Some(result),
        })
    }

    async fn abandon(&self, ask: wire::AbandonAsk) -> Result<wire::AbandonReply, Status> {
        use wire::abandon_reply::{Gone, Result as Said};
        let held = self.0.reservation();
        let result = match held {
            Some(held) if ask.genesis.as_ref() != held.genesis.as_bytes() => {
                Said::Refused("this node is reserved for another cluster".to_owned())
            }
            Some(_) | None => match self.0.abandon().await {
                Ok(()) => Said::Gone(Gone {}),
                Err(cause) => Said::Refused(cause.to_string()),
            },
        };
        Ok(wire::AbandonReply {
            result: Some(result),
        })
    }

    async fn initialize(&self, ask: wire::InitializeAsk) -> Result<wire::InitializeReply, Status> {
        use wire::initialize_reply::{Done, Result as Said};
        let genesis = Uuid::from_slice(&ask.genesis)
            .map_err(|_| Status::invalid_argument("a genesis of 16 bytes is wanted"))?;
        let result = match self.0.initialize_here(genesis).await {
            Ok(already) => Said::Done(Done { already }),
            Err(why) => Said::Refused(why),
        };
        Ok(wire::InitializeReply {
            result: Some(result),
        })
    }
}

fn members_of(probed: &[Probed]) -> Result<BTreeMap<NodeId, Member>, FormError> {
    let mut members = BTreeMap::new();
    for it in probed {
        let address = it.member.peer_address.clone();
        if members.insert(it.node.id, it.member.clone()).is_some() {
            return Err(FormError::Refused(format!(
                "node {} is named twice (the second time at {address}); every node needs its own id",
                it.node.id.0
            )));
        }
    }
    Ok(members)
}
