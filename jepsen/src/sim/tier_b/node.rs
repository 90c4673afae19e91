//! One node of the simulated cluster: a process with a runtime of its own, that is started, ticked and ended.
//!
//! Invariant: everything of the process lives in its runtime, so that dropping it is what `SIGKILL` is; what is left is on
//! `holdfast_raft::host::sim`'s disk.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use holdfast_node::disk::{self as space, Disk};
use holdfast_node::leader::Situation;
use holdfast_node::machine::Engine;
use holdfast_node::partitions::Partitions;
use holdfast_node::serve::{Clocks, follow_groups};
use holdfast_node::settings::{DiskMarks, Retention};
use holdfast_raft::host::Listener;
use holdfast_raft::host::sim::disk::{self, End};
use holdfast_raft::host::sim::{self, Host, Rng, net};
use holdfast_raft::log::Durability;
use holdfast_raft::{Clock, Entropy, Groups, NodeId, Seams, Settings};
use holdfast_scheduler::ids::{Name, NodeId as EngineNode};
use holdfast_scheduler::lead::Terms;

use super::plan::Plan;

/// Long before any run.
const EPOCH_MS: u64 = 1_700_000_000_000;
/// What the settings say where nobody says anything else.
const MARKS: DiskMarks = DiskMarks {
    soft_percent: 15,
    hard_percent: 5,
};
/// Longer than any simulated history: what a run came to is looked at when it is over.
const KEPT: Duration = Duration::from_secs(7 * 86_400);
/// A worker that is silent for so long is lost.
pub const TERM_MS: u64 = 4_000;

/// The clocks of one process; the wall clock is the machine's, and somebody may set it.
struct WorldClock {
    started_ms: u64,
    skew_ms: Arc<AtomicI64>,
}

impl Clock for WorldClock {
    fn wall_ms(&self) -> u64 {
        (EPOCH_MS + sim::now_ms()).saturating_add_signed(self.skew_ms.load(Ordering::Relaxed))
    }

    fn mono_ms(&self) -> u64 {
        sim::now_ms() - self.started_ms
    }
}

/// Chance of one process.
struct WorldEntropy(Mutex<Rng>);

impl Entropy for WorldEntropy {
    fn bytes16(&self) -> [u8; 16] {
        let mut rng = self.0.lock();
        (u128::from(rng.draw()) << 64 | u128::from(rng.draw())).to_be_bytes()
    }
}

/// What the outside sees of a process that runs.
#[derive(Default)]
pub struct Door {
    pub groups: Mutex<Option<Arc<Groups<Engine>>>>,
    pub partitions: Arc<Partitions>,
    pub failed: Mutex<Option<String>>,
    /// Where disks may fill up.
    pub disk: Option<Arc<Disk>>,
}

/// A process.
pub struct Process {
    pub host: Arc<Host>,
    pub runtime: Runtime,
    pub door: Arc<Door>,
    started_ms: u64,
    start: tokio::time::Instant,
    _stop: watch::Sender<bool>,
}

/// A node: its process while there is one.
pub struct Node {
    pub id: u64,
    pub folder: PathBuf,
    pub process: Option<Process>,
    pub boots: u64,
    /// It comes back no more: its disk is damaged.
    pub is_out: bool,
    /// When it comes back, if it is down.
    pub back_at_ms: Option<u64>,
    /// Until when its process is stopped, as by `SIGSTOP`.
    paused_until_ms: Option<u64>,
    skew_ms: Arc<AtomicI64>,
}

/// Where a node serves its peers.
pub fn peer_address(id: u64) -> String {
    format!("n{id}:7001")
}

impl Node {
    pub fn new(id: u64, skew_ms: i64) -> Self {
        net::name(&peer_address(id), id);
        Self {
            id,
            folder: PathBuf::from(format!("/sim/n{id}")),
            process: None,
            boots: 0,
            is_out: false,
            back_at_ms: Some(0),
            paused_until_ms: None,
            skew_ms: Arc::new(AtomicI64::new(skew_ms)),
        }
    }

    /// Starts the process.
    pub fn start(&mut self, plan: &Plan, rng: &mut Rng) {
        self.boots += 1;
        self.back_at_ms = None;
        self.paused_until_ms = None;
        net::powered(self.id);
        sim::trace(&format!("n{} starts, boot {}", self.id, self.boots));
        let seed = rng.draw();
        let host = Host::new(self.id, rng.draw(), plan.habits);
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_be_bytes()))
            .build()
            .expect("a runtime without IO needs nothing of the machine");
        let folder = self.folder.clone();
        let has_space = move || Some((disk::free_percent(&folder), 100));
        let door = Arc::new(Door {
            disk: (plan.spoil.full).then(|| Arc::new(Disk::of(Box::new(has_space), MARKS))),
            ..Door::default()
        });
        let (stop, stopped) = watch::channel(false);
        let clock: Arc<dyn Clock> = Arc::new(WorldClock {
            started_ms: sim::now_ms(),
            skew_ms: Arc::clone(&self.skew_ms),
        });
        let opening = open(
            settings(self, plan),
            Seams {
                clock: Arc::clone(&clock),
                entropy: Arc::new(WorldEntropy(Mutex::new(Rng::new(rng.draw())))),
            },
            clock,
            format!("boot-{}-{}", self.id, self.boots),
            plan.profile.lease(),
            Arc::clone(&door),
            stopped,
        );
        let start = sim::within(&host, || {
            runtime.block_on(async {
                let start = tokio::time::Instant::now();
                tokio::spawn(opening);
                start
            })
        });
        self.process = Some(Process {
            host,
            runtime,
            door,
            started_ms: sim::now_ms(),
            start,
            _stop: stop,
        });
    }

    /// Lets the process run up to the world's time. Says why it ended, if it did.
    pub fn tick(&mut self) -> Option<&'static str> {
        let process = self.process.as_ref()?;
        let stopped = self.paused_until_ms;
        if stopped.is_some_and(|until| sim::now_ms() < until) {
            return None;
        }
        self.paused_until_ms = None;
        let until = process.start + Duration::from_millis(sim::now_ms() - process.started_ms);
        sim::within(&process.host, || {
            process.runtime.block_on(async {
                if stopped.is_some() {
                    // All the time that it missed passes at once, and every timer is late.
                    let missed = until.saturating_duration_since(tokio::time::Instant::now());
                    tokio::time::advance(missed).await;
                } else {
                    tokio::time::sleep_until(until).await;
                }
            });
        });
        process.host.ended()
    }

    /// Stops the process for a while. Its sockets take in what comes; it neither reads nor answers.
    pub fn pause(&mut self, for_ms: u64) {
        if self.process.is_some() {
            self.paused_until_ms = Some(sim::now_ms() + for_ms);
        }
    }

    /// It goes on at the next tick, if it was stopped.
    pub fn resume(&mut self) {
        if self.paused_until_ms.is_some() {
            self.paused_until_ms = Some(sim::now_ms());
        }
    }

    /// Somebody sets its wall clock.
    pub fn set_skew(&self, skew_ms: i64) {
        self.skew_ms.store(skew_ms, Ordering::Relaxed);
    }

    /// The end of the process, now.
    pub fn end(&mut self, how: End, rng: &mut Rng) {
        let Some(process) = self.process.take() else {
            return;
        };
        sim::trace(&format!("n{} is ended: {how:?}", self.id));
        net::ended(self.id, how == End::Killed);
        let host = Arc::clone(&process.host);
        sim::within(&host, || drop(process));
        disk::crash(&self.folder, how, rng);
    }

    pub fn groups(&self) -> Option<Arc<Groups<Engine>>> {
        self.process.as_ref()?.door.groups.lock().clone()
    }
}

fn settings(node: &Node, plan: &Plan) -> Settings {
    Settings {
        node: NodeId(node.id),
        folder: node.folder.clone(),
        profile: plan.profile,
        takeover: plan.takeover,
        keep: plan.keep,
        sync: Durability::Synced,
        peer_address: peer_address(node.id),
        api_address: format!("n{}:7000", node.id),
        cluster_name: None,
        seeds: Vec::new(),
    }
}

async fn open(
    settings: Settings,
    seams: Seams,
    clock: Arc<dyn Clock>,
    boot: String,
    lease: Duration,
    door: Arc<Door>,
    stop: watch::Receiver<bool>,
) {
    let id = settings.node.0;
    let listener = Listener::bind(&settings.peer_address, id);
    let clocks = Clocks::new(Arc::clone(&clock));
    let runtime = tokio::runtime::Handle::current();
    let opened = Groups::open(settings, seams, clocks.machines(None), listener, runtime).await;
    let groups = match opened {
        Ok(groups) => groups,
        Err(cause) => {
            sim::trace(&format!("n{id} cannot start: {cause}"));
            *door.failed.lock() = Some(cause.to_string());
            return;
        }
    };
    let situation = Situation {
        node: EngineNode(id),
        incarnation: Name::from_stored(&groups.this().incarnation.to_string()),
        boot: Name::from_stored(&boot),
        terms: Terms {
            term_ms: TERM_MS,
            election_lease_ms: u64::try_from(lease.as_millis()).unwrap_or(u64::MAX),
        },
        retention: Retention {
            completed: KEPT,
            failed: KEPT,
            ids: KEPT,
        },
        clock,
    };
    *door.groups.lock() = Some(Arc::clone(&groups));
    let partitions = Arc::clone(&door.partitions);
    if let Some(disk) = &door.disk {
        let (disk, groups) = (Arc::clone(disk), Arc::clone(&groups));
        let partitions = Arc::clone(&partitions);
        tokio::spawn(space::watch(disk, groups, partitions, stop.clone()));
    }
    follow_groups(groups, partitions, clocks, Arc::new(situation), stop).await;
}
