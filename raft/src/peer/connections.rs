//! The connections to the other nodes: two to each, made once and kept.
//!
//! Invariant: a call never makes a connection of its own; all calls of consensus to one node share one warm channel,
//! and bulk has another, so that a snapshot cannot hold up a heartbeat.
//! Not here: what is called (`adapter::network`), noticing a peer's death (`watch`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tonic::Status;
use tonic::metadata::{Binary, MetadataValue};
use tonic::transport::{Channel, Endpoint};

use holdfast_proto::peer::peer_client::PeerClient;

use crate::host;
use crate::peer::identity::{Door, Member, NodeRef};
use crate::types::{GroupId, NodeId};

/// The largest message taken: against 1 MiB of entries per message, so that no legal one ever meets it.
pub(crate) const MESSAGE_BYTES_MAX: usize = 8 << 20;

const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
const KEEPALIVE_EVERY: Duration = Duration::from_secs(1);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// One other node.
pub(crate) struct Peer {
    pub(crate) node: NodeRef,
    pub(crate) member: Member,
    door: Arc<Door>,
    consensus: Channel,
    bulk: Channel,
    /// The address of calls by group: made once, for it is the same in each call.
    addresses: RwLock<BTreeMap<GroupId, MetadataValue<Binary>>>,
    /// Its wall clock minus ours in milliseconds, as last heard.
    pub(crate) clock_offset_ms: Mutex<Option<i64>>,
}

impl Peer {
    fn new(
        door: Arc<Door>,
        node: NodeRef,
        member: Member,
    ) -> Result<Self, tonic::transport::Error> {
        let consensus = host::connect_lazy(&endpoint(&member.peer_address)?);
        let bulk = host::connect_lazy(&endpoint(&member.peer_address)?);
        Ok(Self {
            node,
            member,
            door,
            consensus,
            bulk,
            addresses: RwLock::default(),
            clock_offset_ms: Mutex::default(),
        })
    }

    /// For votes, heartbeats, entries.
    pub(crate) fn consensus(&self) -> PeerClient<Channel> {
        client(self.consensus.clone())
    }

    /// For snapshots.
    pub(crate) fn bulk(&self) -> PeerClient<Channel> {
        client(self.bulk.clone())
    }

    /// What a call about `group` to this node carries.
    pub(crate) fn address(&self, group: GroupId) -> Result<MetadataValue<Binary>, Status> {
        if let Some(address) = self.addresses.read().get(&group) {
            return Ok(address.clone());
        }
        let address = self.door.address(self.node, group)?;
        self.addresses.write().insert(group, address.clone());
        Ok(address)
    }
}

/// A client with our limits on a channel.
pub(crate) fn client(channel: Channel) -> PeerClient<Channel> {
    PeerClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// How to connect to `host:port`.
pub(crate) fn endpoint(address: &str) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}

/// A server with our limits, for the peer port.
pub(crate) fn server() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
}

/// All other nodes this one has met.
pub(crate) struct Peers {
    door: Arc<Door>,
    all: RwLock<BTreeMap<NodeId, Arc<Peer>>>,
    met: tokio::sync::watch::Sender<u64>,
}

impl Peers {
    pub(crate) fn new(door: Arc<Door>) -> Arc<Self> {
        let (met, _) = tokio::sync::watch::channel(0);
        Arc::new(Self {
            door,
            all: RwLock::default(),
            met,
        })
    }

    /// The connections to `id`, made on first need and again when it moved to another address.
    ///
    /// # Errors
    /// An address that is no `host:port`.
    pub(crate) fn meet(
        &self,
        id: NodeId,
        member: &Member,
    ) -> Result<Arc<Peer>, tonic::transport::Error> {
        if let Some(peer) = self.all.read().get(&id)
            && peer.member == *member
        {
            return Ok(Arc::clone(peer));
        }
        let node = NodeRef {
            id,
            incarnation: member.incarnation,
        };
        let peer = Arc::new(Peer::new(Arc::clone(&self.door), node, member.clone())?);
        self.all.write().insert(id, Arc::clone(&peer));
        self.met.send_modify(|count| *count += 1);
        Ok(peer)
    }

    pub(crate) fn find(&self, id: NodeId) -> Option<Arc<Peer>> {
        self.all.read().get(&id).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Peer>> {
        self.all.read().values().cloned().collect()
    }

    /// Drops the connections to all but these.
    pub(crate) fn keep(&self, these: impl Fn(NodeId) -> bool) {
        let mut all = self.all.write();
        let before = all.len();
        all.retain(|id, _| these(*id));
        if all.len() < before {
            self.met.send_modify(|count| *count += 1);
        }
    }

    /// Drops all connections: what they carry names a cluster that this node has left.
    pub(crate) fn forget_all(&self) {
        self.all.write().clear();
        self.met.send_modify(|count| *count += 1);
    }

    /// Changes whenever a node is met or forgotten.
    pub(crate) fn met(&self) -> tokio::sync::watch::Receiver<u64> {
        self.met.subscribe()
    }

    /// The wall clocks of the peers heard lately, as offsets from ours in milliseconds.
    pub(crate) fn clock_offsets_ms(&self) -> Vec<(NodeId, i64)> {
        let all = self.all.read();
        all.values()
            .filter_map(|peer| {
                peer.clock_offset_ms
                    .lock()
                    .map(|offset| (peer.node.id, offset))
            })
            .collect()
    }
}
