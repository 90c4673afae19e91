//! `Groups`: opens a node's groups; identity, reservation, membership, transfer, and the order of shutdown.
//!
//! Invariant: a cluster is formed only after every named node has durably reserved the same genesis; a node that holds a
//! reservation refuses any other. Nothing here decides what is committed.
//! Not here: rows, commands (`node`), openraft (`adapter`).

mod forming;
mod membership;
mod upkeep;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use forming::{FormError, Formed, Named};
pub use membership::MemberError;
#[cfg(feature = "testing")]
pub(crate) use upkeep::tend;

use crate::adapter::core::{Core, Parts};
use crate::adapter::pulse::Pulses;
use crate::adapter::settings::Profile;
use crate::adapter::snapshot::Transfers;
use crate::agreement::Verdict;
use crate::error::StorageFault;
use crate::host;
use crate::log::rocks::RocksLog;
use crate::log::{Durability, LogBackend};
use crate::machine::Machine;
use crate::peer::connections::{Peers, server};
use crate::peer::identity::{Door, Member, NodeRef, Reservation};
use crate::peer::server::{Registry, Service};
use crate::proposer::Proposer;
use crate::replica::Replica;
use crate::seams::{Clock, Entropy, Stamp};
use crate::state::{DbFigures, GroupState, StateDb};
use crate::types::{GroupId, NodeId};

/// What a node's consensus has to know. Checked by `node`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This node.
    pub node: NodeId,
    /// Its data folder.
    pub folder: PathBuf,
    /// How quickly a dead leader is noticed.
    pub profile: Profile,
    /// Whether followers take over at once from a leader whose process is gone.
    pub takeover: bool,
    /// How much log is kept.
    pub keep: Keep,
    /// When the log waits for the disk.
    pub sync: Durability,
    /// How other nodes reach this one, `host:port`.
    pub peer_address: String,
    /// How clients reach this one, `host:port`.
    pub api_address: String,
    /// The name that the cluster must have.
    pub cluster_name: Option<String>,
    /// Peer addresses of other nodes, asked at the first start.
    pub seeds: Vec<String>,
}

/// How much log is kept before it is purged, in entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// The state is flushed after so many entries, which are then no longer needed to rebuild it.
    pub snapshot_entries: u64,
    /// Kept behind the last flush, for followers that lag a little; one that lags more is sent a snapshot.
    pub entries: u64,
}

impl Default for Keep {
    fn default() -> Self {
        Self {
            snapshot_entries: 50_000,
            entries: 20_000,
        }
    }
}

/// What the simulation replaces.
#[derive(Clone)]
pub struct Seams {
    /// Clocks.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub entropy: Arc<dyn Entropy>,
}

/// Why consensus did not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data folder.
    #[error(transparent)]
    Storage(#[from] StorageFault),
    /// What is stored beside the log cannot be read.
    #[error(
        "the reservation in the data folder cannot be read ({0}); replace this node under a new id"
    )]
    Reservation(String),
    /// The folder belongs to another cluster.
    #[error(
        "the data folder belongs to cluster {found:?}, the settings name {wanted:?}; use another folder, or correct cluster.name"
    )]
    OtherCluster {
        /// What the folder says.
        found: String,
        /// What the settings say.
        wanted: String,
    },
    /// The disk of this node was lost.
    #[error("node {} is known in its cluster with another disk ({}): this disk was wiped; start it under a new node id, and run `holdfast cluster replace {}` on the cluster", node.0, known_by, node.0)]
    Wiped {
        /// This node.
        node: NodeId,
        /// Who knows it.
        known_by: String,
    },
    /// A group's consensus could not be started.
    #[error("group {} could not be started: {cause}", group.0)]
    Group {
        /// Which.
        group: GroupId,
        /// Why.
        cause: String,
    },
}

/// Makes the engine of a group, and the stamp of its entries.
pub type MakeMachine<M> = Arc<dyn Fn(GroupId) -> (M, Arc<dyn Stamp>) + Send + Sync>;

/// All groups of a node.
pub struct Groups<M: Machine> {
    settings: Settings,
    seams: Seams,
    make: MakeMachine<M>,
    runtime: Handle,
    pub(crate) log: Arc<RocksLog>,
    db: Arc<StateDb>,
    door: Arc<Door>,
    pub(crate) peers: Arc<Peers>,
    registry: Arc<Registry>,
    pub(crate) transfers: Arc<Transfers>,
    replicas: watch::Sender<Vec<Replica<M>>>,
    leaving: CancellationToken,
    stop: CancellationToken,
    tasks: Mutex<JoinSet<()>>,
    /// One init or change of membership at a time: held while other nodes are asked.
    changing: tokio::sync::Mutex<()>,
    /// One change of the reservation at a time, so that two inits cannot both be told yes: never held while others are asked.
    reserving: tokio::sync::Mutex<()>,
}

/// How long leadership may take to move at a shutdown.
const TRANSFER_MAX: Duration = Duration::from_secs(2);

impl<M: Machine> Groups<M> {
    /// Opens the data folder and, if the cluster is formed, its groups; begins to serve peers on `listener`.
    /// All of it runs on `runtime`, which must be another one than that of user requests.
    ///
    /// # Errors
    /// The text says what is wrong with the folder, and what to do.
    pub async fn open(
        settings: Settings,
        seams: Seams,
        make: MakeMachine<M>,
        listener: host::Listener,
        runtime: Handle,
    ) -> Result<Arc<Self>, OpenError> {
        let opening = runtime.clone().spawn(async move {
            let groups = Self::open_folder(settings, seams, make, runtime).await?;
            groups.verify_not_wiped().await?;
            groups.open_groups().await?;
            groups.serve(listener)?;
            Ok(groups)
        });
        opening
            .await
            .map_err(|cause| StorageFault::io("starting consensus", cause))?
    }

    async fn open_folder(
        settings: Settings,
        seams: Seams,
        make: MakeMachine<M>,
        runtime: Handle,
    ) -> Result<Arc<Self>, OpenError> {
        let (folder, node, sync) = (settings.folder.clone(), settings.node, settings.sync);
        let open = move || {
            let log = RocksLog::open_synced(&folder, node, sync)?;
            let db = StateDb::open(&folder, node, log.ident().incarnation)?;
            Ok::<_, StorageFault>((log, db))
        };
        let opened = host::blocking(open).await;
        let (log, db) =
            opened.map_err(|cause| StorageFault::io("opening the data folder", cause))??;
        let reservation = log
            .reservation()
            .map(|bytes| Reservation::decode(&bytes))
            .transpose()
            .map_err(|cause| OpenError::Reservation(cause.to_string()))?;
        if let (Some(wanted), Some(found)) = (&settings.cluster_name, &reservation)
            && *wanted != found.cluster_id
        {
            let (found, wanted) = (found.cluster_id.clone(), wanted.clone());
            return Err(OpenError::OtherCluster { found, wanted });
        }
        let this = NodeRef {
            id: node,
            incarnation: log.ident().incarnation,
        };
        let door = Arc::new(Door::new(this, reservation));
        let peers = Peers::new(Arc::clone(&door));
        let (replicas, _) = watch::channel(Vec::new());
        Ok(Arc::new(Self {
            settings,
            seams,
            make,
            runtime,
            log,
            db,
            door,
            peers,
            registry: Arc::default(),
            transfers: Transfers::new(),
            replicas,
            leaving: CancellationToken::new(),
            stop: CancellationToken::new(),
            tasks: Mutex::new(JoinSet::new()),
            changing: tokio::sync::Mutex::default(),
            reserving: tokio::sync::Mutex::default(),
        }))
    }

    /// This node.
    pub fn this(&self) -> NodeRef {
        self.door.this()
    }

    /// The cluster that this node belongs to, if any.
    pub fn reservation(&self) -> Option<Reservation> {
        self.door.reservation()
    }

    /// The groups of this node; none before the cluster is formed.
    pub fn replicas(&self) -> watch::Receiver<Vec<Replica<M>>> {
        self.replicas.subscribe()
    }

    /// How the two databases of this node fare.
    pub fn db_figures(&self) -> [DbFigures; 2] {
        [self.log.figures(), self.db.figures()]
    }

    fn own_member(&self) -> Member {
        Member {
            incarnation: self.this().incarnation,
            peer_address: self.settings.peer_address.clone(),
            api_address: self.settings.api_address.clone(),
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {} // ended ones
        tasks.spawn_on(task, &self.runtime);
    }

    /// Knows these members of a group at once: a follower asks its leader through what is kept here, and watches over its process.
    /// Connections to nodes that are in no group any more are dropped.
    fn meet(&self, group: GroupId, members: &BTreeMap<NodeId, Member>) {
        for (id, member) in members {
            self.door.learn(*id, member.incarnation);
            if *id != self.settings.node {
                drop(self.peers.meet(*id, member)); // a bad address shows in each call to it
            }
        }
        if members.is_empty() {
            return; // before its first membership
        }
        let replicas = self.replicas.borrow();
        let others = replicas.iter().filter(|it| it.group() != group);
        let others: Vec<_> = others.map(|it| it.core.status().members).collect();
        self.peers
            .keep(|id| members.contains_key(&id) || others.iter().any(|it| it.contains_key(&id)));
    }

    /// Opens the groups of the reservation, once.
    async fn open_groups(self: &Arc<Self>) -> Result<(), OpenError> {
        let Some(reservation) = self.reservation() else {
            return Ok(());
        };
        if !self.replicas.borrow().is_empty() {
            return Ok(());
        }
        for (id, member) in &reservation.members {
            if *id != self.settings.node {
                drop(self.peers.meet(*id, member)); // a bad address shows in each call to it
            }
        }
        let mut opened = Vec::new();
        for group in reservation.groups() {
            opened.push(self.open_group(group, &reservation.cluster_id).await?);
        }
        for replica in &opened {
            let core: Arc<dyn crate::peer::server::GroupService> =
                Arc::new(Arc::clone(&replica.core));
            self.registry.add(replica.group(), core);
            replica.core.run();
            self.spawn(Arc::clone(&replica.proposer).run());
            self.spawn(upkeep::keep(Arc::clone(self), replica.clone()));
        }
        self.replicas.send_replace(opened);
        Ok(())
    }

    async fn open_group(&self, group: GroupId, cluster: &str) -> Result<Replica<M>, OpenError> {
        let (machine, stamp) = (self.make)(group);
        let db = Arc::clone(&self.db);
        let open = host::blocking(move || GroupState::open(&db, group, machine)).await;
        let state = open.map_err(|cause| StorageFault::io("opening a group", cause))??;
        let clock = Arc::clone(&self.seams.clock);
        let pulses = Pulses::new(clock, self.settings.node, state.digests());
        let parts = Parts {
            group,
            this: self.settings.node,
            cluster: cluster.to_owned(),
            profile: self.settings.profile,
            peers: Arc::clone(&self.peers),
            log: Arc::clone(&self.log) as Arc<dyn LogBackend>,
            state: Arc::new(state.clone()),
            pulses: Arc::new(pulses),
            transfers: Arc::clone(&self.transfers),
        };
        let core = Core::build(parts)
            .await
            .map_err(|cause| OpenError::Group { group, cause })?;
        // A counter that is there from the start tells a first event from a gap.
        metrics::counter!("holdfast_raft_snapshots_installed_total", "group" => group.0.to_string())
            .increment(0);
        let hints = core.hints();
        let proposer = Proposer::new(group, Arc::clone(&core), stamp, hints.clone());
        Ok(Replica {
            core,
            state,
            proposer,
            hints,
            verdict: Arc::new(watch::Sender::new(Verdict::InStep)),
        })
    }

    fn serve(self: &Arc<Self>, listener: host::Listener) -> Result<(), OpenError> {
        let incoming = host::incoming(listener)
            .map_err(|cause| StorageFault::io("listening for peers", cause))?;
        let service = Service {
            door: Arc::clone(&self.door),
            registry: Arc::clone(&self.registry),
            forming: Arc::new(forming::Forming(Arc::clone(self))),
            clock: Arc::clone(&self.seams.clock),
            leaving: self.leaving.clone(),
        };
        let router = server().add_service(service.into_server());
        let stop = self.stop.clone();
        self.spawn(async move {
            let serving = router.serve_with_incoming(incoming);
            tokio::select! {
                served = serving => if let Err(cause) = served {
                    tracing::error!(%cause, "the peer port failed; this node hears its peers no more, restart it");
                },
                () = stop.cancelled() => {}
            }
        });
        let (gone, deaths) = mpsc::channel(64); // one report per broken call
        let watching = crate::peer::watch::watch_all(
            Arc::clone(&self.peers),
            Arc::clone(&self.seams.clock),
            gone,
            self.stop.clone(),
        );
        self.spawn(watching);
        self.spawn(upkeep::take_over(Arc::clone(self), deaths));
        Ok(())
    }

    /// Leaves in good order: leadership moves away, cores end, state and log are closed.
    pub async fn shutdown(self: &Arc<Self>) {
        let this = Arc::clone(self);
        let leaving = self.runtime.spawn(async move { this.leave().await });
        drop(leaving.await); // a panic there is in the log already
    }

    async fn leave(self: &Arc<Self>) {
        self.leaving.cancel();
        let replicas = self.replicas.borrow().clone();
        let moving = replicas
            .iter()
            .map(|replica| upkeep::move_away(replica, TRANSFER_MAX));
        futures::future::join_all(moving).await;
        for replica in &replicas {
            replica.proposer.stop();
            replica.core.shutdown().await;
        }
        self.stop.cancel();
        self.registry.clear();
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        tasks.shutdown().await;
        let (log, db) = (Arc::clone(&self.log), Arc::clone(&self.db));
        let close = move || {
            for replica in &replicas {
                replica.state.close();
            }
            log.close();
            db.close();
        };
        drop(host::blocking(close).await);
    }
}
