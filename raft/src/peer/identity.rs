//! Who a node is, which cluster it belongs to, and whether a peer call is meant for it.
//!
//! Invariant: a call is admitted only if it names this node under its own incarnation, this cluster under its own
//! genesis, and a sender that is not known under another incarnation. A node without a reservation admits none.
//! Not here: how reservations are made (`groups`), where they are stored (`log`).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;
use prost::Message;
use tonic::metadata::{Binary, MetadataMap, MetadataValue};
use tonic::{Request, Status};
use uuid::Uuid;

use holdfast_proto::peer as wire;

use crate::seeded::{Bug, armed};
use crate::types::{GroupId, NodeId};

/// Under which key of the metadata the address of a call travels.
const ADDRESS_KEY: &str = "holdfast-peer-bin";

/// A node as its peers know it. Also the node record of a membership entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Member {
    /// Made with the node's data folder; another one under the same id means a wiped disk.
    pub incarnation: Uuid,
    /// Where it serves its peers, `host:port`.
    pub peer_address: String,
    /// Where it serves clients, `host:port`: what a `NotLeader` names.
    pub api_address: String,
}

/// A node id together with the incarnation of its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeRef {
    /// The id.
    pub id: NodeId,
    /// The incarnation.
    pub incarnation: Uuid,
}

impl fmt::Display for NodeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} ({})", self.id.0, self.incarnation)
    }
}

/// What `cluster init` fixes on every node before any group has a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// Minted by `init`: tells a cluster re-created under an old name from the old one.
    pub genesis: Uuid,
    /// The cluster's name.
    pub cluster_id: String,
    /// The namespace of idempotency keys, fixed for good.
    pub namespace: Uuid,
    /// The nodes named at `init`, or known when this node was added.
    pub members: BTreeMap<NodeId, Member>,
    /// How many partitions the cluster has, for good: groups 1..=P.
    pub partitions: u32,
}

/// Bytes of a peer that are no such thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a bad {field} in what a peer or the disk says about a cluster")]
pub struct BadIdentity {
    field: &'static str,
}

fn uuid(bytes: &[u8], field: &'static str) -> Result<Uuid, BadIdentity> {
    Uuid::from_slice(bytes).map_err(|_| BadIdentity { field })
}

fn uuid_bytes(id: Uuid) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

impl Member {
    pub(crate) fn to_wire(&self, id: NodeId) -> wire::Member {
        wire::Member {
            id: id.0,
            incarnation: uuid_bytes(self.incarnation),
            peer_address: self.peer_address.clone(),
            api_address: self.api_address.clone(),
        }
    }

    pub(crate) fn from_wire(it: wire::Member) -> Result<(NodeId, Self), BadIdentity> {
        let member = Self {
            incarnation: uuid(&it.incarnation, "incarnation of a member")?,
            peer_address: it.peer_address,
            api_address: it.api_address,
        };
        Ok((NodeId(it.id), member))
    }
}

impl NodeRef {
    pub(crate) fn to_wire(self) -> wire::NodeRef {
        wire::NodeRef {
            id: self.id.0,
            incarnation: uuid_bytes(self.incarnation),
        }
    }

    pub(crate) fn from_wire(it: Option<&wire::NodeRef>) -> Result<Self, BadIdentity> {
        let it = it.ok_or(BadIdentity { field: "node" })?;
        Ok(Self {
            id: NodeId(it.id),
            incarnation: uuid(&it.incarnation, "incarnation")?,
        })
    }
}

impl Reservation {
    pub(crate) fn to_wire(&self) -> wire::Reservation {
        wire::Reservation {
            genesis: uuid_bytes(self.genesis),
            cluster_id: self.cluster_id.clone(),
            namespace: uuid_bytes(self.namespace),
            members: self
                .members
                .iter()
                .map(|(id, it)| it.to_wire(*id))
                .collect(),
            partitions: self.partitions,
        }
    }

    pub(crate) fn from_wire(it: wire::Reservation) -> Result<Self, BadIdentity> {
        if it.partitions == 0 {
            return Err(BadIdentity {
                field: "number of partitions",
            });
        }
        Ok(Self {
            genesis: uuid(&it.genesis, "genesis")?,
            cluster_id: it.cluster_id,
            namespace: uuid(&it.namespace, "namespace")?,
            members: it
                .members
                .into_iter()
                .map(Member::from_wire)
                .collect::<Result<BTreeMap<_, _>, _>>()?,
            partitions: it.partitions,
        })
    }

    /// As stored beside the log.
    pub(crate) fn encode(&self) -> Vec<u8> {
        self.to_wire().encode_to_vec()
    }

    /// The opposite of [`Reservation::encode`].
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BadIdentity> {
        let it = wire::Reservation::decode(bytes).map_err(|_| BadIdentity {
            field: "reservation",
        })?;
        Self::from_wire(it)
    }

    /// The groups of this cluster.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> + use<> {
        (1..=self.partitions).map(GroupId)
    }
}

/// A call that passed the door.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Admitted {
    pub(crate) from: NodeRef,
    pub(crate) group: GroupId,
}

/// This node's door: what it is, what it belongs to, whom it knows.
pub(crate) struct Door {
    this: NodeRef,
    told_wiped: AtomicBool,
    inside: RwLock<Inside>,
}

#[derive(Default)]
struct Inside {
    reservation: Option<Reservation>,
    /// Every id this node has ever seen in the cluster, under the incarnation it had then.
    known: BTreeMap<NodeId, Uuid>,
}

impl Door {
    pub(crate) fn new(this: NodeRef, reservation: Option<Reservation>) -> Self {
        let door = Self {
            this,
            told_wiped: AtomicBool::new(false),
            inside: RwLock::new(Inside::default()),
        };
        if let Some(reservation) = reservation {
            door.reserve(reservation);
        }
        door
    }

    pub(crate) fn this(&self) -> NodeRef {
        self.this
    }

    pub(crate) fn reservation(&self) -> Option<Reservation> {
        self.inside.read().reservation.clone()
    }

    pub(crate) fn reserve(&self, reservation: Reservation) {
        let mut inside = self.inside.write();
        for (id, member) in &reservation.members {
            inside.known.entry(*id).or_insert(member.incarnation);
        }
        inside.reservation = Some(reservation);
    }

    pub(crate) fn abandon(&self) {
        *self.inside.write() = Inside::default();
    }

    /// Remembers a node that a committed membership names. The first incarnation seen stands: ids are never reused.
    pub(crate) fn learn(&self, id: NodeId, incarnation: Uuid) {
        if self.inside.read().known.get(&id) == Some(&incarnation) {
            return;
        }
        self.inside.write().known.entry(id).or_insert(incarnation);
    }

    /// Under which incarnation this node knows `id`.
    pub(crate) fn known(&self, id: NodeId) -> Option<Uuid> {
        self.inside.read().known.get(&id).copied()
    }

    /// What a call to `to` about `group` carries.
    ///
    /// # Errors
    /// `FailedPrecondition` without a reservation: this node speaks to nobody yet.
    pub(crate) fn address(
        &self,
        to: NodeRef,
        group: GroupId,
    ) -> Result<MetadataValue<Binary>, Status> {
        let inside = self.inside.read();
        let reservation = inside.reservation.as_ref().ok_or_else(|| {
            Status::failed_precondition("this node belongs to no cluster; run `cluster init` first")
        })?;
        let address = wire::Address {
            cluster_id: reservation.cluster_id.clone(),
            genesis: uuid_bytes(reservation.genesis),
            from: Some(self.this.to_wire()),
            to: Some(to.to_wire()),
            group: group.0,
        };
        Ok(MetadataValue::from_bytes(&address.encode_to_vec()))
    }

    /// Says it once when a cluster calls this empty node by its number and another incarnation: its disk was lost.
    fn notice_wiped(&self, from: NodeRef, to: NodeRef) {
        let is_wiped = to.id == self.this.id && to.incarnation != self.this.incarnation;
        if is_wiped && !self.told_wiped.swap(true, Ordering::Relaxed) {
            tracing::error!(
                node = self.this.id.0,
                by = from.id.0,
                "a cluster knows this node with another disk: this one was wiped and must not serve under the old id; \
                 start it under a new node id and an empty folder, then run `holdfast cluster replace`"
            );
        }
    }

    /// Checks who calls whom.
    ///
    /// # Errors
    /// `PermissionDenied`, naming what does not fit. The caller must not repeat the call unchanged.
    pub(crate) fn admit(&self, metadata: &MetadataMap) -> Result<Admitted, Status> {
        let address = decode_address(metadata)?;
        let from = NodeRef::from_wire(address.from.as_ref()).map_err(denied)?;
        let to = NodeRef::from_wire(address.to.as_ref()).map_err(denied)?;
        let inside = self.inside.read();
        let Some(reservation) = &inside.reservation else {
            self.notice_wiped(from, to);
            return Err(denied(
                "this node belongs to no cluster yet; run `cluster init` or `add`",
            ));
        };
        if address.cluster_id != reservation.cluster_id {
            return Err(denied(format_args!(
                "this node belongs to cluster {:?}, the call is for {:?}",
                reservation.cluster_id, address.cluster_id
            )));
        }
        if address.genesis.as_ref() != reservation.genesis.as_bytes() {
            return Err(denied(
                "the cluster of this name was made anew: the two nodes hold different ones",
            ));
        }
        let reused = armed(Bug::NodeIdReuseAllowed) && to.id == self.this.id;
        if to != self.this && !reused {
            return Err(denied(format_args!(
                "the call is for {to}, this is {}",
                self.this
            )));
        }
        if let Some(known) = inside.known.get(&from.id)
            && *known != from.incarnation
            && !armed(Bug::NodeIdReuseAllowed)
        {
            return Err(denied(format_args!(
                "{from} calls under an id known with incarnation {known}: its disk was wiped; \
                 join it under a new id"
            )));
        }
        Ok(Admitted {
            from,
            group: GroupId(address.group),
        })
    }
}

fn decode_address(metadata: &MetadataMap) -> Result<wire::Address, Status> {
    let value = metadata
        .get_bin(ADDRESS_KEY)
        .ok_or_else(|| denied("a call with no address"))?;
    let bytes = value
        .to_bytes()
        .map_err(|_| denied("a call with an unreadable address"))?;
    wire::Address::decode(bytes).map_err(|_| denied("a call with an unreadable address"))
}

fn denied(what: impl fmt::Display) -> Status {
    Status::permission_denied(what.to_string())
}

/// The metadata of a call with this address.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn addressed_bytes(address: MetadataValue<Binary>) -> MetadataMap {
    addressed((), address).metadata().clone()
}

/// Puts an address on a call.
pub(crate) fn addressed<T>(message: T, address: MetadataValue<Binary>) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert_bin(ADDRESS_KEY, address);
    request
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    fn node(id: u64) -> NodeRef {
        NodeRef {
            id: NodeId(id),
            incarnation: Uuid::from_u128(u128::from(id)),
        }
    }

    fn reservation() -> Reservation {
        let member = |id: u64| Member {
            incarnation: node(id).incarnation,
            peer_address: format!("127.0.0.1:{id}"),
            api_address: String::new(),
        };
        Reservation {
            genesis: Uuid::from_u128(77),
            cluster_id: "orders".into(),
            namespace: Uuid::from_u128(78),
            members: (1..=3).map(|id| (NodeId(id), member(id))).collect(),
            partitions: 3,
        }
    }

    fn call(from: &Door, to: NodeRef) -> MetadataMap {
        addressed((), from.address(to, GroupId(1)).unwrap())
            .metadata()
            .clone()
    }

    #[test]
    fn a_call_between_two_members_is_admitted() {
        let (one, two) = (
            Door::new(node(1), Some(reservation())),
            Door::new(node(2), Some(reservation())),
        );
        let admitted = two.admit(&call(&one, node(2))).unwrap();
        assert_eq!((admitted.from, admitted.group), (node(1), GroupId(1)));
    }

    #[test]
    fn an_unreserved_node_answers_no_peer() {
        let one = Door::new(node(1), Some(reservation()));
        let two = Door::new(node(2), None);
        let refused = two.admit(&call(&one, node(2))).unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert!(two.address(node(1), GroupId(1)).is_err());
    }

    #[test]
    fn every_mismatch_is_refused() {
        let two = Door::new(node(2), Some(reservation()));
        let other_genesis = Reservation {
            genesis: Uuid::from_u128(1),
            ..reservation()
        };
        let other_name = Reservation {
            cluster_id: "bills".into(),
            ..reservation()
        };
        let wiped = NodeRef {
            id: NodeId(1),
            incarnation: Uuid::from_u128(99),
        };
        let calls = [
            call(&Door::new(node(1), Some(other_genesis)), node(2)),
            call(&Door::new(node(1), Some(other_name)), node(2)),
            call(&Door::new(wiped, Some(reservation())), node(2)),
            call(&Door::new(node(1), Some(reservation())), node(3)),
            MetadataMap::new(),
        ];
        for metadata in calls {
            assert_eq!(
                two.admit(&metadata).unwrap_err().code(),
                Code::PermissionDenied
            );
        }
    }

    #[test]
    fn a_reservation_survives_the_disk() {
        assert_eq!(
            Reservation::decode(&reservation().encode()).unwrap(),
            reservation()
        );
    }

    #[test]
    fn the_first_incarnation_of_an_id_stands() {
        let door = Door::new(node(1), Some(reservation()));
        door.learn(NodeId(4), Uuid::from_u128(4));
        door.learn(NodeId(4), Uuid::from_u128(44));
        assert_eq!(door.known(NodeId(4)), Some(Uuid::from_u128(4)));
    }
}
