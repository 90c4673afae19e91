//! Nodes in one process, each on a runtime of its own, over real gRPC on loopback, with loads that remember what they were told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use holdfast_raft::log::Durability;
use holdfast_raft::{
    Clock, Entropy, Freshness, GroupId, Groups, Keep, Named, NodeId, OpenError, Position, Profile,
    ProposeError, Replica, Seams, Settings, Stamp, Status,
};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::proxy::Proxy;
use super::{Command, Gate, Register, image, times};

/// Long enough for a slow machine, short enough to notice.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at something that nobody tells.
pub const AGAIN: Duration = Duration::from_millis(5);

/// Elections are seldom what is tested: a busy machine must not bring any about.
pub const UNHURRIED: Profile = Profile::Custom {
    heartbeat_ms: 100,
    election_min_ms: 800,
    election_max_ms: 1500,
};

/// A port below those that the system gives to outgoing connections: one of these could take the port of a node that is down.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = u16::try_from(std::process::id() % 1_000).unwrap() * 10;
    (0..10_000)
        .map(|_| 20_000 + (base + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a port is free")
}

struct Parts;

impl Clock for Parts {
    fn wall_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        u64::try_from(since.as_millis()).unwrap()
    }

    fn mono_ms(&self) -> u64 {
        self.wall_ms()
    }
}

impl Entropy for Parts {
    fn bytes16(&self) -> [u8; 16] {
        *Uuid::new_v4().as_bytes()
    }
}

impl Stamp for Parts {
    fn stamp(&self) -> (u64, u64) {
        (0, 0)
    }
}

/// How a node is set.
#[derive(Clone)]
pub struct How {
    pub keep: Keep,
    pub profile: Profile,
    pub takeover: bool,
    pub seeds: Vec<String>,
    pub cluster_name: Option<String>,
    pub proxied: bool,
    /// While it starts, its tasks run now and then only.
    pub starved: bool,
}

impl Default for How {
    fn default() -> Self {
        Self {
            keep: Keep::default(),
            profile: UNHURRIED,
            takeover: true,
            seeds: Vec::new(),
            cluster_name: None,
            proxied: false,
            starved: false,
        }
    }
}

/// Who lives, for loads and checks: by node id.
#[derive(Clone, Default)]
pub struct Seats(Arc<Mutex<BTreeMap<u64, Arc<Groups<Register>>>>>);

impl Seats {
    /// The replicas of a group that live.
    pub fn replicas(&self, group: u32) -> Vec<(u64, Replica<Register>)> {
        let seats = self.0.lock();
        let of = |groups: &Groups<Register>| {
            let replicas = groups.replicas();
            let replicas = replicas.borrow();
            replicas.iter().find(|it| it.group().0 == group).cloned()
        };
        seats
            .iter()
            .filter_map(|(id, groups)| Some((*id, of(groups)?)))
            .collect()
    }

    /// All nodes that live.
    pub fn groups(&self) -> Vec<Arc<Groups<Register>>> {
        self.0.lock().values().cloned().collect()
    }

    /// Whoever leads by its own account, the newest term first.
    pub fn leader(&self, group: u32) -> Option<(u64, Replica<Register>)> {
        let leading = self
            .replicas(group)
            .into_iter()
            .filter(|(_, it)| it.watch_leader().borrow().is_self);
        leading.max_by_key(|(_, it)| it.watch_leader().borrow().term)
    }
}

struct Living {
    runtime: Runtime,
    groups: Arc<Groups<Register>>,
}

pub struct Node {
    pub id: u64,
    pub gate: Arc<Gate>,
    pub how: How,
    pub proxy: Option<Proxy>,
    /// Where it listens.
    pub listens: String,
    folder: TempDir,
    seats: Seats,
    living: Option<Living>,
}

impl Node {
    /// A node with an empty folder; it does not run yet.
    pub async fn new(id: u64, how: How, seats: &Seats) -> Self {
        let listens = format!("127.0.0.1:{}", free_port());
        let mut proxy = None;
        if how.proxied {
            proxy = Some(Proxy::to(listens.clone()).await);
        }
        Self {
            id,
            gate: Arc::default(),
            how,
            proxy,
            listens,
            folder: tempfile::tempdir().unwrap(),
            seats: seats.clone(),
            living: None,
        }
    }

    /// Where others reach it.
    pub fn address(&self) -> String {
        self.proxy
            .as_ref()
            .map_or_else(|| self.listens.clone(), |proxy| proxy.address.clone())
    }

    pub fn named(&self) -> Named {
        Named {
            node: Some(NodeId(self.id)),
            peer_address: self.address(),
            api_address: None,
        }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn groups(&self) -> &Arc<Groups<Register>> {
        &self.living.as_ref().expect("the node lives").groups
    }

    pub fn replica(&self, group: u32) -> Replica<Register> {
        let replicas = self.groups().replicas();
        let replicas = replicas.borrow();
        let found = replicas.iter().find(|it| it.group().0 == group);
        found.expect("the node has the group").clone()
    }

    pub fn status(&self, group: u32) -> Status {
        self.replica(group).status()
    }

    pub fn lives(&self) -> bool {
        self.living.is_some()
    }

    pub async fn start(&mut self) {
        if let Err(why) = self.try_start().await {
            panic!("node {} did not start: {why}", self.id);
        }
    }

    pub async fn try_start(&mut self) -> Result<(), OpenError> {
        assert!(self.living.is_none(), "node {} lives", self.id);
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name(format!("node-{}", self.id))
            .enable_all()
            .build()
            .unwrap();
        let settings = Settings {
            node: NodeId(self.id),
            folder: self.folder.path().to_owned(),
            profile: self.how.profile,
            takeover: self.how.takeover,
            keep: self.how.keep,
            sync: Durability::Synced,
            peer_address: self.address(),
            api_address: "127.0.0.1:1".to_owned(),
            cluster_name: self.how.cluster_name.clone(),
            seeds: self.how.seeds.clone(),
        };
        let seams = Seams {
            clock: Arc::new(Parts),
            entropy: Arc::new(Parts),
        };
        let gate = Arc::clone(&self.gate);
        let make = Arc::new(move |_: GroupId| {
            let gate = Arc::clone(&gate);
            (Register { gate }, Arc::new(Parts) as Arc<dyn Stamp>)
        });
        let listener = TcpListener::bind(&self.listens).unwrap();
        if self.how.starved {
            runtime.spawn(starve());
            runtime.spawn(starve());
        }
        let opened = Groups::open(settings, seams, make, listener, runtime.handle().clone()).await;
        match opened {
            Ok(groups) => {
                self.seats.0.lock().insert(self.id, Arc::clone(&groups));
                self.living = Some(Living { runtime, groups });
                Ok(())
            }
            Err(why) => {
                ended(runtime).await;
                Err(why)
            }
        }
    }

    fn leave_seat(&mut self) -> Living {
        self.seats.0.lock().remove(&self.id);
        self.living.take().expect("the node lives")
    }

    /// In good order.
    pub async fn stop(&mut self) {
        let Living { runtime, groups } = self.leave_seat();
        groups.shutdown().await;
        ended(runtime).await;
        // Whoever is still told of a proposal holds the databases open for a moment.
        let released = async {
            while Arc::strong_count(&groups) > 1 {
                tokio::time::sleep(AGAIN).await;
            }
        };
        within(released).await;
    }

    /// As if its process had died: its sockets close, memory is lost, and the files stay as they are.
    pub async fn kill(&mut self) {
        let Living { runtime, groups } = self.leave_seat();
        let folder = self.folder.path().to_owned();
        let left = move || {
            runtime.shutdown_timeout(Duration::from_secs(5));
            groups.settle();
            let left = image(&folder);
            groups.let_go();
            left
        };
        self.folder = tokio::task::spawn_blocking(left).await.unwrap();
    }

    /// Its disk is lost.
    pub fn wipe(&mut self) {
        assert!(self.living.is_none(), "node {} lives", self.id);
        self.folder = tempfile::tempdir().unwrap();
    }

    /// Puts another folder in the place of its own.
    pub fn replace_folder(&mut self, folder: TempDir) {
        assert!(self.living.is_none(), "node {} lives", self.id);
        self.folder = folder;
    }

    /// Nothing of its consensus moves for so long, as if the process had been stopped; its sockets stay open.
    pub fn pause(&self, how_long: Duration) {
        let both = Arc::new(std::sync::Barrier::new(2));
        for _ in 0..2 {
            let both = Arc::clone(&both);
            self.living.as_ref().unwrap().runtime.spawn(async move {
                both.wait();
                std::thread::sleep(how_long);
            });
        }
    }
}

/// A database may not be open when the process ends: its own destructors would meet threads that still use it.
impl Drop for Node {
    fn drop(&mut self) {
        self.gate.open();
        let Some(Living { runtime, groups }) = self.living.take() else {
            return;
        };
        self.seats.0.lock().remove(&self.id);
        // A thread of its own, since a runtime may not be waited for inside another.
        let ending = std::thread::spawn(move || {
            runtime.shutdown_timeout(Duration::from_secs(5));
            groups.let_go();
        });
        drop(ending.join());
    }
}

/// Leaves others of its runtime a turn now and then.
async fn starve() {
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(5));
        tokio::task::yield_now().await;
    }
}

async fn ended(runtime: Runtime) {
    let ending = move || runtime.shutdown_timeout(Duration::from_secs(5));
    tokio::task::spawn_blocking(ending).await.unwrap();
}

/// The wait has an end.
pub async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what)
        .await
        .expect("it takes far too long")
}

/// Waits until `look` says yes.
pub async fn until(what: &str, look: impl Fn() -> bool) {
    let began = Instant::now();
    while !look() {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(AGAIN).await;
    }
}

pub struct Cluster {
    pub nodes: Vec<Node>,
    pub seats: Seats,
    pub partitions: u32,
}

impl Cluster {
    pub async fn formed(partitions: u32) -> Self {
        Self::formed_as(partitions, How::default()).await
    }

    pub async fn formed_as(partitions: u32, how: How) -> Self {
        Self::formed_of(3, partitions, how).await
    }

    pub async fn formed_of(count: u64, partitions: u32, how: How) -> Self {
        let cluster = Self::unformed(count, partitions, how).await;
        let named = cluster.nodes.iter().map(Node::named).collect();
        let formed = cluster.nodes[0].groups().init("test", partitions, named);
        let formed = formed.await.unwrap();
        assert!(!formed.already);
        for group in 1..=partitions {
            cluster.leader(group).await;
        }
        cluster
    }

    /// Nodes that run and belong to no cluster.
    pub async fn unformed(count: u64, partitions: u32, how: How) -> Self {
        let seats = Seats::default();
        let mut nodes = Vec::new();
        for id in 1..=count {
            let mut node = Node::new(id, how.clone(), &seats).await;
            node.start().await;
            nodes.push(node);
        }
        Self {
            nodes,
            seats,
            partitions,
        }
    }

    pub fn node(&self, id: u64) -> &Node {
        self.nodes.iter().find(|it| it.id == id).unwrap()
    }

    pub fn node_mut(&mut self, id: u64) -> &mut Node {
        self.nodes.iter_mut().find(|it| it.id == id).unwrap()
    }

    /// One more node, that belongs to no cluster yet.
    pub async fn another(&mut self, id: u64, how: How) -> &Node {
        let mut node = Node::new(id, how, &self.seats).await;
        node.start().await;
        self.nodes.push(node);
        self.node(id)
    }

    /// Who leads; waits until somebody does.
    pub async fn leader(&self, group: u32) -> u64 {
        let what = format!("group {group} has a leader");
        until(&what, || self.seats.leader(group).is_some()).await;
        self.seats.leader(group).map_or(0, |(id, _)| id)
    }

    /// Hands leadership to this node, and to it again should another take it meanwhile.
    pub async fn make_lead(&self, group: u32, node: u64) {
        let began = Instant::now();
        while !self.node(node).status(group).is_leader {
            assert!(began.elapsed() < PATIENCE, "node {node} does not lead");
            let leader = self.leader(group).await;
            let moved = self.node(leader).groups();
            // Refused where it has just lost leadership, or the other is not heard of yet.
            drop(moved.transfer(GroupId(group), Some(NodeId(node))).await);
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Somebody who lives and does not lead.
    pub async fn follower(&self, group: u32) -> u64 {
        let leader = self.leader(group).await;
        let others = self.nodes.iter().filter(|it| it.lives() && it.id != leader);
        others.map(|it| it.id).next().unwrap()
    }

    /// Proposes whatever it is until it is applied, whoever leads meanwhile. It must not matter whether it is done twice.
    pub async fn propose(&self, group: u32, command: &Command) -> Position {
        let began = Instant::now();
        loop {
            let last = match self.seats.leader(group) {
                Some((_, leader)) => match leader.propose(command.clone()).await {
                    Ok((_, at)) => return at,
                    Err(why) => why.to_string(),
                },
                None => "nobody leads".to_owned(),
            };
            assert!(began.elapsed() < PATIENCE, "not applied: {last}");
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Waits until every node that lives has applied the same, up to the end of the leader's log.
    pub async fn agreed(&self, group: u32) -> (u64, u128) {
        let same = || {
            let (_, leader) = self.seats.leader(group)?;
            let last = leader.status().last_log?;
            let replicas = self.seats.replicas(group);
            let all: BTreeSet<(u64, u128)> = replicas.iter().map(|(_, it)| it.digest()).collect();
            let first = *all.first()?;
            (all.len() == 1 && first.0 == last).then_some(first)
        };
        let began = Instant::now();
        loop {
            if let Some(same) = same() {
                return same;
            }
            let replicas = self.seats.replicas(group);
            assert!(
                began.elapsed() < PATIENCE,
                "they do not agree: {:?}",
                replicas
                    .iter()
                    .map(|(id, it)| (*id, it.digest(), it.status()))
                    .collect::<Vec<_>>()
            );
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// What was acknowledged is there once on every node, what nobody knows of at most once, and what was refused never.
    pub async fn verify(&self, group: u32, told: &Told) {
        self.agreed(group).await;
        assert!(!told.acked.is_empty(), "the load did nothing");
        for (node, replica) in self.seats.replicas(group) {
            let all: Vec<(u64, u64, u64)> = told.counts();
            let wrong = move |rows: &holdfast_raft::RowSnapshot<'_>| {
                let found = |(id, _, _): &(u64, u64, u64)| times(rows, *id);
                all.into_iter()
                    .map(|it| (it, found(&it)))
                    .filter(|((_, min, max), found)| found < min || found > max)
                    .collect::<Vec<_>>()
            };
            let (wrong, _) = replica.read(Freshness::Stale, wrong).await.unwrap();
            assert!(
                wrong.is_empty(),
                "on node {node}, as ((id, least, most), found): {wrong:?}"
            );
        }
    }
}

/// Ids are used once in a process.
pub fn new_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// What writers were told.
#[derive(Debug, Default)]
pub struct Told {
    pub acked: BTreeMap<u64, Position>,
    pub unknown: BTreeSet<u64>,
    pub refused: BTreeSet<u64>,
}

impl Told {
    /// Whether it was taken at all.
    fn note(&mut self, id: u64, proposed: Result<(u64, Position), ProposeError>) -> bool {
        match proposed {
            Ok((_, at)) => drop(self.acked.insert(id, at)),
            Err(ProposeError::Unknown) => drop(self.unknown.insert(id)),
            Err(ProposeError::TooLarge { .. }) => panic!("a load is made of legal commands"),
            Err(
                ProposeError::NotLeader { .. }
                | ProposeError::Overloaded { .. }
                | ProposeError::Stopped,
            ) => {
                self.refused.insert(id);
                return false;
            }
        }
        true
    }

    /// Each id with how often it may have been applied.
    fn counts(&self) -> Vec<(u64, u64, u64)> {
        let acked = self.acked.keys().map(|id| (*id, 1, 1));
        let unknown = self.unknown.iter().map(|id| (*id, 0, 1));
        let refused = self.refused.iter().map(|id| (*id, 0, 0));
        acked.chain(unknown).chain(refused).collect()
    }
}

/// Writers that go on, whoever leads, until they are stopped.
pub struct Load {
    told: Arc<Mutex<Told>>,
    writers: JoinSet<()>,
    stop: CancellationToken,
}

impl Load {
    pub fn on(seats: &Seats, group: u32, writers: usize, ballast: usize) -> Self {
        let (told, stop) = (
            Arc::new(Mutex::new(Told::default())),
            CancellationToken::new(),
        );
        let mut all = JoinSet::new();
        for _ in 0..writers {
            all.spawn(writer(
                seats.clone(),
                group,
                ballast,
                Arc::clone(&told),
                stop.clone(),
            ));
        }
        Self {
            told,
            writers: all,
            stop,
        }
    }

    pub fn acked(&self) -> usize {
        self.told.lock().acked.len()
    }

    /// Waits until so many more writes were acknowledged.
    pub async fn more(&self, count: usize) {
        let wanted = self.acked() + count;
        until("the load goes on", || self.acked() >= wanted).await;
    }

    pub async fn stop(mut self) -> Told {
        self.stop.cancel();
        let all = async { while self.writers.join_next().await.is_some() {} };
        within(all).await;
        std::mem::take(&mut *self.told.lock())
    }
}

async fn writer(
    seats: Seats,
    group: u32,
    ballast: usize,
    told: Arc<Mutex<Told>>,
    stop: CancellationToken,
) {
    while !stop.is_cancelled() {
        let Some((_, leader)) = seats.leader(group) else {
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        let id = new_id();
        let proposed = leader.propose(Command::Add { id, ballast }).await;
        drop(leader);
        if !told.lock().note(id, proposed) {
            tokio::time::sleep(AGAIN).await;
        }
    }
}
