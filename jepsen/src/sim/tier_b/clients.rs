//! Clients and workers: what they ask, what they were told, and what they hold the cluster to.
//!
//! Invariant: an ask whose answer did not come is unknown and is asked again under the same ids; what was acknowledged is
//! remembered for ever. An ask is spawned in a node's own runtime, where a node's API would make it: it dies with the node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use holdfast_node::disk::Disk;
use holdfast_node::leader::FromStream;
use holdfast_node::machine::{Proposal, SnapshotRows};
use holdfast_node::partitions::Partition;
use holdfast_node::streams::{Held, Out, Stream};
use holdfast_proto::v1;
use holdfast_raft::host::sim::{self, Rng};
use holdfast_raft::{Freshness, GroupId};
use holdfast_scheduler::entry::{
    Advance, Ask, Attach, Change, IfEnded, Intent, IntentKind, Signal, Start,
};
use holdfast_scheduler::ids::{
    AdvanceNo, DeliveryNo, Digest, Fence, Name, ProcessId, RequestId, RunId, StepKey, Version,
};
use holdfast_scheduler::reply::{Rejected, Reply};
use holdfast_scheduler::rows::TypedRows;
use holdfast_scheduler::values::run::{Mode, Run};
use holdfast_scheduler::views;

use super::checks::{Checks, members};
use super::node::Node;

/// An ask without an answer is unknown after this, in ms.
const GIVE_UP_MS: u64 = 3_000;
/// So many deaths of its workers hold a run still until a person lets it go on.
const DEATHS: usize = 3;
/// Drives that a worker takes at once.
const DRIVES: u64 = 8;
const BEAT: Duration = Duration::from_millis(500);
/// Between two tries of a worker that was refused for want of space.
const ROOM_EVERY: Duration = Duration::from_millis(100);

/// The workflow of all runs.
const WORKFLOW: &str = "order";

/// What an ask was about.
#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Start(u64),
    Signal(u64),
    Read(u64),
    /// A person lets a run go on that is held for what its workers came to.
    Resume(u64),
}

/// How it ended.
#[derive(Debug, Clone)]
enum Ended {
    Acknowledged(u64),
    Refused,
    Seen(bool),
    Violation(String),
}

type Answers = Arc<Mutex<Vec<(u64, Ended)>>>;

struct Open {
    what: What,
    asked_ms: u64,
    /// Who has it: node and boot. It dies with the process.
    of: (u64, u64),
}

/// What is known of a run that somebody wanted.
#[derive(Debug, Clone, Default)]
struct Wanted {
    /// The entry that an acknowledgement named.
    acknowledged: Option<u64>,
    /// Of the newest read that saw it.
    signalled: bool,
}

/// All clients.
pub struct Clients {
    rng: Rng,
    partitions: u32,
    next: u64,
    /// The run that was acknowledged last.
    newest: Option<u64>,
    open: BTreeMap<u64, Open>,
    /// Not waited for any more, and not answered.
    given_up: BTreeMap<u64, (u64, u64)>,
    wanted: BTreeMap<u64, Wanted>,
    answers: Answers,
    next_at_ms: u64,
    /// Worker, group and epoch: two leaders of a group may believe in themselves for a while.
    workers: BTreeSet<(u64, u32, u64)>,
    processes: u64,
    pub acknowledged: u64,
    pub unknown: u64,
}

fn run_id(number: u64) -> RunId {
    RunId::new(&format!("r{number}")).expect("a short name is a run id")
}

fn group_of(number: u64, partitions: u32) -> u32 {
    run_id(number).partition(partitions).0
}

impl Clients {
    pub fn new(seed: u64, partitions: u32) -> Self {
        Self {
            rng: Rng::new(seed),
            partitions,
            next: 0,
            newest: None,
            open: BTreeMap::new(),
            given_up: BTreeMap::new(),
            wanted: BTreeMap::new(),
            answers: Answers::default(),
            next_at_ms: 0,
            workers: BTreeSet::new(),
            processes: 0,
            acknowledged: 0,
            unknown: 0,
        }
    }

    /// Asks what falls due, hears what was answered, judges it.
    pub fn step(&mut self, nodes: &[Node], every_ms: u64, burst_max: u64, checks: &mut Checks) {
        self.hear(checks);
        if sim::now_ms() < self.next_at_ms {
            return;
        }
        self.next_at_ms = sim::now_ms() + self.rng.within(1, every_ms * 2);
        for _ in 0..self.rng.within(1, burst_max) {
            self.ask(nodes);
        }
    }

    /// Takes in what was answered.
    pub fn hear(&mut self, checks: &mut Checks) {
        let answers = std::mem::take(&mut *self.answers.lock());
        for (number, ended) in answers {
            self.given_up.remove(&number);
            let Some(open) = self.open.remove(&number) else {
                continue; // given up before
            };
            match (ended, open.what) {
                (Ended::Acknowledged(index), What::Start(run)) => {
                    self.acknowledged += 1;
                    let wanted = self.wanted.entry(run).or_default();
                    wanted.acknowledged.get_or_insert(index);
                    self.newest = Some(run);
                }
                (Ended::Acknowledged(_), What::Signal(run)) => {
                    self.acknowledged += 1;
                    self.wanted.entry(run).or_default().signalled = true;
                }
                (Ended::Seen(false), What::Read(run)) => checks.violated(format!(
                    "S1: run r{run} was acknowledged before a linearizable read that does not see it"
                )),
                (Ended::Violation(what), _) => checks.violated(what),
                (Ended::Seen(_) | Ended::Refused | Ended::Acknowledged(_), _) => {}
            }
        }
        let now = sim::now_ms();
        let late: Vec<u64> = self
            .open
            .iter()
            .filter(|(_, it)| it.asked_ms + GIVE_UP_MS <= now)
            .map(|(number, _)| *number)
            .collect();
        for number in late {
            let open = self.open.remove(&number);
            self.given_up.extend(open.map(|it| (number, it.of)));
            self.unknown += 1;
        }
    }

    fn ask(&mut self, nodes: &[Node]) {
        let known = self.wanted.len() as u64;
        let run = match self.rng.below(100) {
            _ if known == 0 => known,
            0..55 => known,
            // Of what was acknowledged just now a replica that lags does not know yet.
            55..75 => self.newest.unwrap_or(0),
            _ => self.rng.below(known),
        };
        let acknowledged = self
            .wanted
            .get(&run)
            .is_some_and(|it| it.acknowledged.is_some());
        self.wanted.entry(run).or_default();
        let what = match self.rng.below(10) {
            0..4 if acknowledged && self.newest == Some(run) => What::Read(run),
            0..2 if acknowledged => What::Read(run),
            2..4 if acknowledged => What::Signal(run),
            _ => What::Start(run),
        };
        let group = group_of(run, self.partitions);
        let elsewhere = if matches!(what, What::Read(_)) {
            50
        } else {
            15
        };
        let Some(at) = self.node_for(nodes, group, elsewhere) else {
            return;
        };
        self.put(&nodes[at], group, what);
    }

    /// Puts an ask to a node, and waits for its answer.
    fn put(&mut self, node: &Node, group: u32, what: What) {
        self.next += 1;
        let open = Open {
            what: what.clone(),
            asked_ms: sim::now_ms(),
            of: (node.id, node.boots),
        };
        self.open.insert(self.next, open);
        self.send(node, group, self.next, &what);
    }

    /// The node that says it leads; in so many of a hundred cases any.
    fn node_for(&mut self, nodes: &[Node], group: u32, elsewhere: u64) -> Option<usize> {
        let alive: Vec<usize> = (0..nodes.len())
            .filter(|at| nodes[*at].process.is_some())
            .collect();
        let leader = alive.iter().copied().find(|at| leads(&nodes[*at], group));
        if leader.is_some() && !self.rng.percent(elsewhere) {
            return leader;
        }
        let count = alive.len() as u64;
        (count > 0).then(|| alive[usize::try_from(self.rng.below(count)).unwrap_or(0)])
    }

    fn send(&self, node: &Node, group: u32, number: u64, what: &What) {
        let Some(process) = node.process.as_ref() else {
            return;
        };
        let partition = process
            .door
            .partitions
            .all()
            .into_iter()
            .find(|it| it.group == group);
        let answers = Arc::clone(&self.answers);
        let Some(partition) = partition else {
            answers.lock().push((number, Ended::Refused));
            return;
        };
        if process
            .door
            .disk
            .as_ref()
            .is_some_and(|disk| refuses(disk, what))
        {
            sim::trace(&format!("client {number} {what:?}: the disk is full"));
            answers.lock().push((number, Ended::Refused));
            return;
        }
        let what = what.clone();
        process.runtime.spawn(async move {
            let ended = answer(&partition, &what).await;
            sim::trace(&format!("client {number} {what:?}: {ended:?}"));
            answers.lock().push((number, ended));
        });
    }

    /// Keeps so many workers at the leader of each group.
    pub fn keep_workers(&mut self, nodes: &[Node], count: u64) {
        for node in nodes {
            let Some(process) = node.process.as_ref() else {
                continue;
            };
            for partition in process.door.partitions.all() {
                let Some(epoch) = partition.clock.epoch() else {
                    continue;
                };
                for worker in 0..count {
                    if !self.workers.insert((worker, partition.group, epoch)) {
                        continue;
                    }
                    self.processes += 1;
                    let name = format!("w{}", self.processes);
                    let disk = process.door.disk.clone();
                    process
                        .runtime
                        .spawn(serve(Arc::clone(&partition), epoch, name, disk));
                }
            }
        }
    }

    /// How many runs were acknowledged.
    pub fn started(&self) -> usize {
        let wanted = self.wanted.values();
        wanted.filter(|it| it.acknowledged.is_some()).count()
    }

    /// Whether nothing that was asked is open.
    pub fn is_quiet(&self) -> bool {
        self.open.is_empty()
    }

    /// At the end: asks that a process which lives on never answered.
    pub fn never_answered(&self, nodes: &[Node]) -> Vec<String> {
        let lives = |(node, boot): &(u64, u64)| {
            let mut nodes = nodes.iter();
            nodes.any(|it| it.id == *node && it.boots == *boot && it.process.is_some())
        };
        let left = self.given_up.iter().filter(|(_, of)| lives(of));
        left.map(|(number, (node, _))| format!("L6: n{node} never answered ask {number}"))
            .collect()
    }

    /// Starts one run more where its group is led, and says its number: for one ask at a time.
    pub fn ask_one(&mut self, nodes: &[Node]) -> Option<u64> {
        let run = self.wanted.len() as u64;
        let group = group_of(run, self.partitions);
        let at = nodes.iter().position(|node| leads(node, group))?;
        self.wanted.entry(run).or_default();
        self.put(&nodes[at], group, What::Start(run));
        Some(run)
    }

    /// After the heal, as a person would: lets a run go on that is held because three of its workers died. To the engine they
    /// did: a worker here whose Advance was not answered, or whose leader leads no more, is a process that never comes back.
    /// Each run once, and none that is held for anything else: nothing else may hold one. Tier A does the same before its L2.
    pub fn resume_what_outlived_its_workers(&mut self, nodes: &[Node]) {
        for run in self.finished(nodes).1 {
            let held = matches!(run.mode, Mode::Quarantined { .. }) && run.suspects.len() >= DEATHS;
            let number = run.id.as_str().trim_start_matches('r').parse();
            if let (true, Ok(number)) = (held, number) {
                self.resume_one(nodes, number);
            }
        }
    }

    fn resume_one(&mut self, nodes: &[Node], run: u64) {
        let what = What::Resume(run);
        let group = group_of(run, self.partitions);
        let is_asked = self.open.values().any(|it| it.what == what);
        if let Some(at) = nodes.iter().position(|node| leads(node, group))
            && !is_asked
        {
            self.put(&nodes[at], group, what);
        }
    }

    /// Whether a start of this run was acknowledged.
    pub fn is_acknowledged(&self, run: u64) -> bool {
        let wanted = self.wanted.get(&run);
        wanted.is_some_and(|it| it.acknowledged.is_some())
    }

    /// At the end: what was acknowledged is on every replica.
    pub fn nothing_is_lost(&self, nodes: &[Node]) -> Vec<String> {
        let mut lost = Vec::new();
        for node in nodes {
            let Some(groups) = node.groups() else {
                continue;
            };
            for replica in groups.replicas().borrow().iter() {
                if !members(nodes, replica.group()).contains(&node.id) {
                    continue; // it was taken out, and is told nothing any more
                }
                for (run, wanted) in &self.wanted {
                    if wanted.acknowledged.is_none()
                        || GroupId(group_of(*run, self.partitions)) != replica.group()
                    {
                        continue;
                    }
                    let found = replica.look(|rows| {
                        views::run(&SnapshotRows(rows), &run_id(*run)).map(|it| it.is_some())
                    });
                    if !matches!(found, Ok(true)) {
                        lost.push(format!(
                            "S1: run r{run}, acknowledged at {:?}, is not on n{}",
                            wanted.acknowledged, node.id
                        ));
                    }
                }
            }
        }
        lost
    }

    /// Wanted runs that have ended, and those that have not with how they stand, as their leaders see them.
    pub fn finished(&self, nodes: &[Node]) -> (u64, Vec<Arc<Run>>) {
        let (mut ended, mut live) = (0, Vec::new());
        for node in nodes {
            let Some(groups) = node.groups() else {
                continue;
            };
            for replica in groups.replicas().borrow().iter() {
                if !replica.watch_leader().borrow().is_self {
                    continue;
                }
                let ours = |run: &&u64| group_of(**run, self.partitions) == replica.group().0;
                for run in self.wanted.keys().filter(ours) {
                    let found = replica.look(|rows| views::run(&SnapshotRows(rows), &run_id(*run)));
                    match found {
                        Ok(Some(views::AnyRun::Final(_))) => ended += 1,
                        Ok(Some(views::AnyRun::Live(run))) => live.push(run),
                        Ok(None) | Err(_) => {}
                    }
                }
            }
        }
        (ended, live)
    }
}

fn leads(node: &Node, group: u32) -> bool {
    let partitions = node.process.as_ref().map(|it| it.door.partitions.all());
    let partitions = partitions.unwrap_or_default();
    partitions
        .iter()
        .any(|it| it.group == group && it.replica.watch_leader().borrow().is_self)
}

/// Where the API would refuse for want of space.
fn refuses(disk: &Disk, what: &What) -> bool {
    match what {
        What::Start(_) => disk.verify_starts().is_err() || disk.verify_proposals().is_err(),
        What::Signal(_) | What::Resume(_) => disk.verify_proposals().is_err(),
        What::Read(_) => false,
    }
}

/// What a worker asks for is refused like anything else below the hard mark, and it asks again.
async fn room(disk: Option<&Disk>) {
    while disk.is_some_and(|it| it.verify_proposals().is_err()) {
        tokio::time::sleep(ROOM_EVERY).await;
    }
}

async fn answer(partition: &Partition, what: &What) -> Ended {
    match what {
        What::Read(run) => {
            let id = run_id(*run);
            let look = move |rows: &holdfast_raft::RowSnapshot<'_>| {
                views::run(&SnapshotRows(rows), &id).map(|it| it.is_some())
            };
            match partition.replica.read(Freshness::Linear, look).await {
                Ok((Ok(is_there), _)) => Ended::Seen(is_there),
                Ok((Err(fault), _)) => Ended::Violation(format!("rows cannot be read: {fault:?}")),
                Err(_) => Ended::Refused,
            }
        }
        What::Start(run) => ask(partition, start(*run)).await,
        What::Signal(run) => ask(partition, signal(*run)).await,
        What::Resume(run) => ask(partition, resume(*run)).await,
    }
}

async fn ask(partition: &Partition, ask: Ask) -> Ended {
    match partition.replica.propose(Proposal::from(ask)).await {
        Ok((Reply::Started { .. } | Reply::Done | Reply::Changed(_), at)) => {
            Ended::Acknowledged(at.index)
        }
        // Before any worker came; or the run has ended, or has signals enough.
        Ok((
            Reply::Rejected(
                Rejected::UnknownWorkflow { .. }
                | Rejected::NotNow { .. }
                | Rejected::RunEnded { .. }
                | Rejected::SignalOverflow { .. },
            ),
            _,
        )) => Ended::Refused,
        Ok((Reply::Rejected(Rejected::NoSuchRun(run)), _)) => Ended::Violation(format!(
            "S1: a signal finds no run {run}, which was acknowledged"
        )),
        Ok((reply, _)) => Ended::Violation(format!("an ask was answered by {reply:?}")),
        Err(_) => Ended::Refused,
    }
}

fn start(run: u64) -> Ask {
    let input = Bytes::from(format!("{{\"order\":{run}}}"));
    Ask::Start(Start {
        run: run_id(run),
        workflow: Name::from_stored(WORKFLOW),
        digest: Digest(run + 1),
        input,
        at: None,
        timeout: None,
        if_ended: IfEnded::ReturnResult,
        signal: None,
    })
}

fn signal(run: u64) -> Ask {
    Ask::Signal(Signal {
        run: run_id(run),
        name: Name::from_stored("go"),
        id: RequestId::new("s1").expect("a short name is a request id"),
        payload: Bytes::from_static(b"true"),
    })
}

fn resume(run: u64) -> Ask {
    Ask::Resume(Change {
        run: run_id(run),
        reason: "its workers died of the faults".to_owned(),
        request: RequestId::new("resume").expect("a short name is a request id"),
    })
}

/// A worker on its leader, as long as that acts under this epoch; it attaches again when its stream ends.
async fn serve(partition: Arc<Partition>, epoch: u64, name: String, disk: Option<Arc<Disk>>) {
    let mut life = 0;
    while partition.clock.epoch() == Some(epoch) {
        life += 1;
        room(disk.as_deref()).await;
        work(&partition, &format!("{name}-{life}"), disk.as_deref()).await;
        tokio::time::sleep(BEAT).await;
    }
}

/// Attaches, beats, and drives each run to its end in one Advance.
async fn work(partition: &Partition, name: &str, disk: Option<&Disk>) {
    let attach = Ask::Attach(Attach {
        session: None,
        process: ProcessId::new(name).expect("a short name is a process id"),
        worker: Name::from_stored(name),
        queue: Name::from_stored("q"),
        workflows: vec![(Name::from_stored(WORKFLOW), Version(1))],
        steps: Vec::new(),
        limits: Vec::new(),
        slots: 8,
    });
    let attached = partition.replica.propose(Proposal::from(attach)).await;
    let Ok((Reply::Attached { session, .. }, _)) = attached else {
        return;
    };
    sim::trace(&format!("worker {name} attached as {session:?}"));
    let (stream, mut queue) = Stream::open(Held::default());
    partition.streams.insert(session, stream);
    let leader = &partition.leader;
    let mut drives = DRIVES;
    let credit = |drives| FromStream::Credit {
        session,
        drives,
        steps: 0,
    };
    let mut said = leader.send(FromStream::Opened(session)).await.is_ok();
    said &= leader.send(credit(drives)).await.is_ok();
    let mut beat = tokio::time::interval(BEAT);
    let mut beats = 0;
    while said {
        tokio::select! {
            biased;
            _ = beat.tick() => {
                beats += 1;
                said = leader.send(FromStream::Beat(session, beats)).await.is_ok();
            }
            out = queue.recv() => match out {
                None | Some(Out::End(_)) => return,
                Some(Out::Drive(_, drive)) => {
                    // One that cannot say what it did ends, and what it holds is free once its session has expired.
                    room(disk).await;
                    if !finish(partition, &drive).await {
                        return;
                    }
                    drives += 1;
                    said = leader.send(credit(drives)).await.is_ok();
                }
                Some(Out::Message(_) | Out::News(..) | Out::Advanced(_)) => {}
            }
        }
    }
}

/// Drives the run to its end; whether that was answered.
async fn finish(partition: &Partition, drive: &v1::Drive) -> bool {
    let Ok(run) = RunId::new(&drive.run) else {
        return true;
    };
    let next = partition.replica.look(|rows| {
        SnapshotRows(rows)
            .run(&run)
            .ok()
            .flatten()
            .map(|it| it.next_intent)
    });
    let Some(number) = next else { return true };
    let advance = Advance {
        run,
        fence: Fence::from_wire(drive.fence),
        number: AdvanceNo(drive.advance + 1),
        seen: DeliveryNo(drive.delivery),
        results: Vec::new(),
        intents: vec![Intent {
            number,
            key: StepKey {
                scope: "0".into(),
                name: "end".into(),
                occurrence: 0,
            },
            digest: Digest(0),
            kind: IntentKind::Complete(Bytes::from_static(b"\"done\"")),
        }],
        free_slots: 0,
        trouble: None,
    };
    let ended = partition
        .replica
        .propose(Proposal::from(Ask::Advance(advance)))
        .await;
    let is_answered = ended.is_ok();
    sim::trace(&format!(
        "worker ends {}: {:?}",
        drive.run,
        ended.map(|(reply, at)| (reply, at.index))
    ));
    is_answered
}
