//! All wiring, and the order of start and shutdown; the only file that knows everyone. No behaviour.
//!
//! Start: folder, ports, consensus, API, probes. Shutdown: leadership moves away, streams are told where to go, calls in
//! flight end, consensus closes; bounded, so that a supervisor need not kill us.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    path::PathBuf,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use parking_lot::Mutex;
use tokio::{
    runtime::{Builder, Runtime},
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_stream::{StreamExt, wrappers::TcpListenerStream};
use tonic::transport::Server;

use holdfast_proto::{
    DESCRIPTORS,
    v1::{
        cluster_server::ClusterServer, limits_server::LimitsServer, runs_server::RunsServer,
        work_server::WorkServer, workflows_server::WorkflowsServer,
    },
};
use holdfast_raft::{Clock, GroupId, Groups, MakeMachine, OpenError, Replica, Seams};
use holdfast_scheduler::{
    ids::{Name, NodeId},
    lead::Terms,
};

use crate::{
    api::{Api, admin, forward::Forward, runs::RunsApi, work::WorkApi},
    clock::{GroupClock, SystemClock, SystemEntropy},
    disk::{self, Disk},
    figures,
    leader::{self, INBOX_MAX, Leader, Situation},
    machine::Engine,
    partitions::{Partition, Partitions, Watchers},
    settings::{STOP_MARGIN_ABOVE_LEASE, Settings},
    streams::Streams,
    tap::Tap,
    telemetry::{self, Check, Probes},
};

/// The longest that a shutdown takes, all in all.
const SHUTDOWN_MAX: Duration = Duration::from_secs(10);
/// Of the time after it, how long threads that were told to end are waited for.
const THREADS_END_MAX: Duration = Duration::from_secs(2);
/// Of it, for calls in flight once leadership has moved.
const DRAIN_MAX: Duration = Duration::from_secs(2);
/// Above 256 KiB of payload with room for an Advance of many; the work stream's messages are at most this.
const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A replica this far behind what is committed is not ready.
const READY_WITHIN_ENTRIES: u64 = 10_000;

/// Why a node does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Somebody else listens there.
    #[error("{what} cannot listen on {address}: {cause}; {cure}")]
    Listen {
        /// Which port.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// What to do.
        cure: String,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// The data folder.
    #[error("the data folder {} cannot be written: {cause}; give --data a folder that this user may write", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// The file of the tap.
    #[error("the tap {} cannot be written: {cause}", path.display())]
    Tap {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// Consensus.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Log lines.
    #[error(transparent)]
    Logs(#[from] telemetry::LogError),
    /// The system gave no threads, or a server failed.
    #[error("{what}: {cause}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
}

/// Serves until SIGTERM or SIGINT. Blocking; makes the runtimes of the process.
///
/// # Errors
/// The text says what happened, and what to do.
pub fn run(settings: Settings) -> Result<(), ServeError> {
    telemetry::init_logs(&settings)?;
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let api = runtime("holdfast-api", cores)?;
    let served = api.block_on(serve(settings, terminated()));
    // Whoever still holds the databases lets go of them before the process ends and takes their library's locks away.
    api.shutdown_timeout(THREADS_END_MAX);
    served
}

fn runtime(name: &str, threads: usize) -> Result<Runtime, ServeError> {
    Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name(name)
        .enable_all()
        .build()
        .map_err(|cause| ServeError::System {
            what: "starting threads",
            cause,
        })
}

/// Ends at SIGTERM or SIGINT.
async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        tracing::warn!("signals cannot be heard; end this node by SIGKILL, it recovers");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Serves until `shutdown` ends.
///
/// # Errors
/// The text says what happened, and what to do.
pub async fn serve(
    settings: Settings,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let node = Node::start(settings).await?;
    shutdown.await;
    tracing::info!(node = node.node_id(), "shutting down");
    node.stop().await;
    Ok(())
}

/// A node that runs.
pub struct Node {
    id: u64,
    addresses: Addresses,
    api: Arc<Api>,
    groups: Arc<Groups<Engine>>,
    partitions: Arc<Partitions>,
    stop: watch::Sender<bool>,
    tasks: Mutex<JoinSet<()>>,
    consensus: Option<Runtime>,
}

#[derive(Debug, Clone, Copy)]
struct Addresses {
    api: SocketAddr,
    peer: SocketAddr,
    admin: SocketAddr,
}

struct Listeners {
    api: StdListener,
    peer: StdListener,
    admin: StdListener,
}

impl Node {
    /// Starts a node on the current runtime, with another runtime of its own for consensus.
    ///
    /// # Errors
    /// The text says what happened, and what to do.
    pub async fn start(settings: Settings) -> Result<Self, ServeError> {
        drop(telemetry::metrics()); // recorded from the first moment on
        metrics::counter!("holdfast_stale_fence_total").increment(0);
        prepare_folder(&settings)?;
        let tap = open_tap(&settings)?;
        let (listeners, addresses) = listen(&settings)?;
        // Few threads: a message wakes an idle thread for each hop to another one, and an entry takes a dozen hops.
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let consensus = runtime("holdfast-consensus", (cores / 2).clamp(1, 4))?;
        let clock = clock(&settings)?;
        let clocks = Clocks::new(Arc::clone(&clock));
        let groups = Groups::open(
            raft_settings(&settings, addresses),
            Seams {
                clock: Arc::clone(&clock),
                entropy: Arc::new(SystemEntropy),
            },
            clocks.machines(tap),
            holdfast_raft::host::listens(listeners.peer),
            consensus.handle().clone(),
        )
        .await;
        let groups = match groups {
            Ok(groups) => groups,
            Err(error) => {
                consensus.shutdown_background();
                return Err(error.into());
            }
        };
        let partitions = Arc::new(Partitions::default());
        let api = Arc::new(Api {
            partitions: Arc::clone(&partitions),
            groups: Arc::clone(&groups),
            forward: Forward::default(),
            disk: Arc::new(Disk::new(&settings.data, settings.disk)),
            lease: settings.lease,
            stop_margin: settings.profile.lease() + STOP_MARGIN_ABOVE_LEASE,
            api_address: settings.api_address(addresses.api),
        });
        let (stop, stopped) = watch::channel(false);
        let node = Self {
            id: settings.node,
            addresses,
            api,
            groups,
            partitions,
            stop,
            tasks: Mutex::new(JoinSet::new()),
            consensus: Some(consensus),
        };
        let situation = Arc::new(situation(&settings, &node.groups, clock));
        node.spawn(follow_groups(
            Arc::clone(&node.groups),
            Arc::clone(&node.partitions),
            clocks,
            situation,
            stopped.clone(),
        ));
        node.spawn_servers(listeners.api, listeners.admin, &stopped)?;
        telemetry::announce(&settings, addresses.api, addresses.peer, addresses.admin);
        Ok(node)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().spawn(task);
    }

    fn spawn_servers(
        &self,
        api: StdListener,
        admin: StdListener,
        stopped: &watch::Receiver<bool>,
    ) -> Result<(), ServeError> {
        let (api, admin) = (listener(api)?, listener(admin)?);
        self.spawn(serve_api(Arc::clone(&self.api), api, stopped.clone()));
        let health = Health {
            groups: Arc::clone(&self.groups),
            partitions: Arc::clone(&self.partitions),
            disk: Arc::clone(&self.api.disk),
        };
        let stop = stopped.clone();
        self.spawn(async move {
            if let Err(cause) = telemetry::serve(admin, Arc::new(health), stop).await {
                tracing::error!(%cause, "the admin port failed");
            }
        });
        self.spawn(telemetry::upkeep(stopped.clone()));
        self.spawn(disk::watch(
            Arc::clone(&self.api.disk),
            Arc::clone(&self.groups),
            Arc::clone(&self.partitions),
            stopped.clone(),
        ));
        Ok(())
    }

    /// Where clients and workers connect.
    pub fn api(&self) -> SocketAddr {
        self.addresses.api
    }

    /// Where other nodes connect.
    pub fn peer(&self) -> SocketAddr {
        self.addresses.peer
    }

    /// Where metrics and probes are served.
    pub fn admin(&self) -> SocketAddr {
        self.addresses.admin
    }

    /// Its number.
    pub fn node_id(&self) -> u64 {
        self.id
    }

    /// Leaves in good order, within ten seconds.
    pub async fn stop(mut self) {
        if tokio::time::timeout(SHUTDOWN_MAX, self.leave())
            .await
            .is_err()
        {
            tracing::warn!(
                node = self.id,
                "the shutdown took too long and was cut short; nothing is lost by it"
            );
        }
        if let Some(consensus) = self.consensus.take() {
            let ended = tokio::task::spawn_blocking(|| consensus.shutdown_timeout(THREADS_END_MAX));
            drop(ended.await); // it waits, and returns nothing
        }
    }

    async fn leave(&self) {
        // Leadership first: while it moves, work goes on; then nobody asks this node for anything but the way.
        self.groups.shutdown().await;
        self.stop.send_replace(true);
        for partition in self.partitions.all() {
            partition.moved();
        }
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        let drained = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN_MAX, drained).await.is_err() {
            tasks.shutdown().await; // streams that their workers hold open
        }
    }

    /// Ends at once, as if the process had died: for tests.
    pub fn kill(mut self) {
        self.tasks.lock().abort_all();
        if let Some(consensus) = self.consensus.take() {
            consensus.shutdown_background();
        }
    }
}

impl Drop for Node {
    /// A runtime may not be dropped where tasks run.
    fn drop(&mut self) {
        if let Some(consensus) = self.consensus.take() {
            consensus.shutdown_background();
        }
    }
}

fn prepare_folder(settings: &Settings) -> Result<(), ServeError> {
    let path = settings.data.clone();
    let probe = path.join(".holdfast-write");
    let written = std::fs::create_dir_all(&path)
        .and_then(|()| std::fs::write(&probe, b""))
        .and_then(|()| std::fs::remove_file(&probe));
    written.map_err(|cause| ServeError::Folder { path, cause })
}

#[cfg(not(feature = "chaos"))]
#[expect(clippy::unnecessary_wraps, reason = "the other one may find no thread")]
fn clock(settings: &Settings) -> Result<Arc<dyn Clock>, ServeError> {
    Ok(Arc::new(SystemClock::new(settings.clock_ahead)))
}

#[cfg(feature = "chaos")]
fn clock(settings: &Settings) -> Result<Arc<dyn Clock>, ServeError> {
    let real = Arc::new(SystemClock::new(settings.clock_ahead));
    crate::chaos::clock(real).map_err(|cause| ServeError::System {
        what: "starting a thread for the clock",
        cause,
    })
}

fn open_tap(settings: &Settings) -> Result<Option<Tap>, ServeError> {
    let Some(path) = &settings.chaos_tap else {
        return Ok(None);
    };
    Tap::open(path).map(Some).map_err(|cause| ServeError::Tap {
        path: path.clone(),
        cause,
    })
}

fn listen(settings: &Settings) -> Result<(Listeners, Addresses), ServeError> {
    let bind = |what: &'static str, key: &str, address: SocketAddr| {
        StdListener::bind(address).map_err(|cause| {
            let cure = match cause.kind() {
                io::ErrorKind::AddrInUse => format!(
                    "port {} is in use: stop what listens there (`ss -ltnp sport = :{}`), or set {key} to a free port",
                    address.port(),
                    address.port()
                ),
                io::ErrorKind::PermissionDenied => format!("set {key} to a port above 1023"),
                _ => format!("set {key} to an address of this machine"),
            };
            ServeError::Listen { what, address, cure, cause }
        })
    };
    let listeners = Listeners {
        api: bind("the API", "listen.api", settings.listen.api)?,
        peer: bind("the peer port", "listen.peer", settings.listen.peer)?,
        admin: bind("the admin port", "listen.admin", settings.listen.admin)?,
    };
    let local = |listener: &StdListener| {
        listener.local_addr().map_err(|cause| ServeError::System {
            what: "asking for the own address",
            cause,
        })
    };
    let addresses = Addresses {
        api: local(&listeners.api)?,
        peer: local(&listeners.peer)?,
        admin: local(&listeners.admin)?,
    };
    Ok((listeners, addresses))
}

fn listener(from: StdListener) -> Result<tokio::net::TcpListener, ServeError> {
    from.set_nonblocking(true)
        .and_then(|()| tokio::net::TcpListener::from_std(from))
        .map_err(|cause| ServeError::System {
            what: "listening",
            cause,
        })
}

fn raft_settings(settings: &Settings, addresses: Addresses) -> holdfast_raft::Settings {
    holdfast_raft::Settings {
        node: holdfast_raft::NodeId(settings.node),
        folder: settings.data.clone(),
        profile: settings.profile,
        takeover: settings.takeover,
        keep: settings.keep,
        sync: settings.sync,
        peer_address: settings.peer_address(addresses.peer),
        api_address: settings.api_address(addresses.api),
        cluster_name: settings.cluster_name.clone(),
        seeds: settings.seeds.clone(),
    }
}

fn situation(settings: &Settings, groups: &Groups<Engine>, clock: Arc<dyn Clock>) -> Situation {
    let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    Situation {
        node: NodeId(settings.node),
        incarnation: Name::from_stored(&groups.this().incarnation.to_string()),
        boot: Name::from_stored(&uuid::Uuid::new_v4().to_string()),
        terms: Terms {
            term_ms: ms(settings.lease.term),
            election_lease_ms: ms(settings.profile.lease()),
        },
        retention: settings.retention,
        clock,
    }
}

/// The group clocks, by group: made with the engines, handed to the leaders.
#[derive(Clone)]
pub struct Clocks {
    clock: Arc<dyn Clock>,
    by_group: Arc<Mutex<std::collections::HashMap<GroupId, Arc<GroupClock>>>>,
}

impl Clocks {
    /// Of a node with these clocks.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            by_group: Arc::default(),
        }
    }

    fn of(&self, group: GroupId) -> Arc<GroupClock> {
        let mut clocks = self.by_group.lock();
        let make = || Arc::new(GroupClock::new(Arc::clone(&self.clock)));
        Arc::clone(clocks.entry(group).or_insert_with(make))
    }

    /// What makes the engines, each with the stamp of its clock.
    pub fn machines(&self, tap: Option<Tap>) -> MakeMachine<Engine> {
        let clocks = self.clone();
        Arc::new(move |group| {
            let tap = tap.as_ref().map(|tap| tap.of(group.0));
            (Engine::new(tap), leader::stamp(&clocks.of(group)))
        })
    }
}

/// Gives every group that opens its leader shell; ends with them.
pub async fn follow_groups(
    groups: Arc<Groups<Engine>>,
    partitions: Arc<Partitions>,
    clocks: Clocks,
    situation: Arc<Situation>,
    mut stop: watch::Receiver<bool>,
) {
    let mut replicas = groups.replicas();
    let mut leaders = JoinSet::new();
    loop {
        let opened = replicas.borrow_and_update().clone();
        leaders.shutdown().await; // of groups that were given up; the first time there are none
        let namespace = groups
            .reservation()
            .map(|it| it.namespace.simple().to_string());
        let namespace: Arc<str> = namespace.unwrap_or_default().into();
        let mut all = Vec::new();
        for replica in opened {
            let (partition, inbox) = partition_of(replica, &clocks, &namespace);
            let leader = Leader::new(
                Arc::clone(&partition),
                Arc::clone(&situation),
                inbox,
                stop.clone(),
            );
            leaders.spawn(leader.run());
            all.push(partition);
        }
        partitions.set(all);
        tokio::select! {
            changed = replicas.changed() => if changed.is_err() { break },
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    while leaders.join_next().await.is_some() {}
}

fn partition_of(
    replica: Replica<Engine>,
    clocks: &Clocks,
    namespace: &Arc<str>,
) -> (Arc<Partition>, mpsc::Receiver<leader::FromStream>) {
    let (leader, inbox) = mpsc::channel(INBOX_MAX);
    let group = replica.group();
    let partition = Partition {
        group: group.0,
        namespace: Arc::clone(namespace),
        replica,
        clock: clocks.of(group),
        streams: Streams::default(),
        watchers: Watchers::default(),
        ended: Watchers::default(),
        without_wake_source: AtomicUsize::new(0),
        oldest_ready: Mutex::default(),
        leader,
    };
    (Arc::new(partition), inbox)
}

async fn serve_api(
    api: Arc<Api>,
    listener: tokio::net::TcpListener,
    mut stop: watch::Receiver<bool>,
) {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<RunsServer<RunsApi>>().await;
    health.set_serving::<WorkServer<WorkApi>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .build_v1();
    let reflection = match reflection {
        Ok(reflection) => reflection,
        Err(cause) => {
            return tracing::error!(%cause, "the descriptor set is broken; please report this");
        }
    };
    macro_rules! limited {
        ($server:ident, $service:expr) => {
            $server::new($service)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX * 2)
        };
    }
    let router = Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .http2_keepalive_interval(Some(Duration::from_secs(5)))
        .add_service(health_service)
        .add_service(reflection)
        .add_service(limited!(RunsServer, RunsApi(Arc::clone(&api))))
        .add_service(limited!(WorkServer, WorkApi(Arc::clone(&api))))
        .add_service(limited!(
            WorkflowsServer,
            admin::WorkflowsApi(Arc::clone(&api))
        ))
        .add_service(limited!(LimitsServer, admin::LimitsApi(Arc::clone(&api))))
        .add_service(limited!(ClusterServer, admin::ClusterApi(api)));
    let incoming = TcpListenerStream::new(listener).map(|accepted| {
        let stream = accepted?;
        stream.set_nodelay(true)?;
        Ok::<_, io::Error>(stream)
    });
    let stopped = async move { drop(stop.wait_for(|stop| *stop).await) };
    if let Err(cause) = router.serve_with_incoming_shutdown(incoming, stopped).await {
        tracing::error!(%cause, "the API port failed");
    }
}

/// What the probes look at.
struct Health {
    groups: Arc<Groups<Engine>>,
    partitions: Arc<Partitions>,
    disk: Arc<Disk>,
}

impl Probes for Health {
    fn ready(&self) -> Vec<Check> {
        let all = self.partitions.all();
        let formed = all
            .is_empty()
            .then(|| "this node belongs to no cluster yet".to_owned());
        let mut checks = vec![Check {
            name: "cluster".to_owned(),
            trouble: formed,
        }];
        let full = self
            .disk
            .is_below_hard()
            .then(|| "the disk is below its hard mark".to_owned());
        checks.push(Check {
            name: "disk".to_owned(),
            trouble: full,
        });
        for partition in all {
            let status = partition.replica.status();
            let behind = status
                .committed
                .unwrap_or(0)
                .saturating_sub(status.applied.unwrap_or(0));
            let trouble = match status.running {
                Err(cause) => Some(format!("it has stopped: {cause}")),
                Ok(()) if behind > READY_WITHIN_ENTRIES => Some(format!("{behind} entries behind")),
                Ok(()) => None,
            };
            checks.push(Check {
                name: format!("partition {}", partition.group),
                trouble,
            });
        }
        checks
    }

    fn leads(&self) -> bool {
        self.partitions
            .all()
            .iter()
            .any(|partition| partition.clock.epoch().is_some())
    }

    fn refresh(&self) -> BoxFuture<'_, ()> {
        figures::refresh(&self.groups, &self.partitions).boxed()
    }
}
