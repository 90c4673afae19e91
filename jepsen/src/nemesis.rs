//! Faults: which there are, when they strike, and a watch on nodes that end by themselves.
//!
//! Invariant: a fault counts only once it was seen in force, and each ends itself, early when faults are over. Each kind has its own
//! jittered timer and its own stream of choices, so that kinds overlap and do not disturb each other. Not here: judging.

mod aim;
mod cgroup;
mod disk;
mod herd;
mod member;
mod network;
mod packets;
mod points;
mod process;

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;

pub(crate) use self::process::clear_clock;
use crate::dice::Dice;
use crate::network::Means;
use crate::records::FaultStatus;
use crate::run::Field;

const WATCH_EVERY: Duration = Duration::from_millis(200);

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// SIGKILL of a group's leader.
    KillLeader,
    /// SIGKILL of a group's leader, which is back at once.
    KillQuick,
    /// SIGKILL of a node that leads nothing.
    Kill,
    /// SIGKILL of all nodes.
    KillAll,
    /// SIGKILL of a majority.
    Majority,
    /// SIGKILL of a worker.
    KillWorker,
    /// A rolling restart by SIGTERM.
    Stop,
    /// All nodes restarted again and again.
    Storm,
    /// SIGKILL of a leader that very many workers are attached to.
    Herd,
    /// SIGSTOP of a node.
    Pause,
    /// SIGSTOP of a worker.
    PauseWorker,
    /// One node cut off.
    Partition,
    /// What one node says does not arrive.
    OneWay,
    /// What others say does not arrive at one node.
    Deaf,
    /// Two nodes cut from each other, both still hearing the rest.
    Ring,
    /// One node cut off and back, quickly.
    Flap,
    /// A node unreachable for clients.
    CutClients,
    /// A leader unreachable for workers.
    CutWorkers,
    /// A node behind a slow line.
    SlowNet,
    /// All connections of a node broken.
    Reset,
    /// Connections of a node broken in the middle of what they say.
    Truncate,
    /// Packets of a node lost.
    Loss,
    /// Packets of a node sent twice.
    Duplicate,
    /// A leader's connections broken for the others alone.
    HalfOpen,
    /// A node's host gone without a word.
    Vanish,
    /// A node added, another removed.
    Membership,
    /// Leadership handed over.
    Transfer,
    /// A node comes back without its data, under its old id.
    Wipe,
    /// A node's disk is full.
    DiskFull,
    /// A sync fails.
    FsyncError,
    /// Syncs are slow.
    SlowDisk,
    /// A node has hardly any processor.
    Cpu,
    /// A node has no more memory.
    Oom,
    /// A node's wall clock is ahead.
    Clock,
    /// A byte on a node's disk has changed.
    Bitrot,
    /// Killed at a named point inside.
    Failpoint,
}

/// Each kind with its name and what it does.
pub const KINDS: &[(Kind, &str, &str)] = &[
    (
        Kind::KillLeader,
        "kill-leader",
        "SIGKILL of the leader of a group, started again later",
    ),
    (
        Kind::KillQuick,
        "kill-quick",
        "SIGKILL of a leader, started again within milliseconds",
    ),
    (Kind::Kill, "kill", "SIGKILL of a node that leads nothing"),
    (Kind::KillAll, "kill-all", "SIGKILL of all nodes at once"),
    (
        Kind::Majority,
        "majority",
        "SIGKILL of a majority, the leader among them",
    ),
    (
        Kind::KillWorker,
        "kill-worker",
        "SIGKILL of a worker, started again later",
    ),
    (
        Kind::Stop,
        "stop",
        "rolling restart of all nodes by SIGTERM",
    ),
    (
        Kind::Storm,
        "storm",
        "all nodes killed and started again every 2 s",
    ),
    (
        Kind::Herd,
        "herd",
        "SIGKILL of a leader that 500 more workers are attached to",
    ),
    (
        Kind::Pause,
        "pause",
        "SIGSTOP of a node for parts and multiples of election and lease",
    ),
    (
        Kind::PauseWorker,
        "pause-worker",
        "SIGSTOP of a worker, beyond the term of its session too",
    ),
    (
        Kind::Partition,
        "partition",
        "one node cut off from the others",
    ),
    (Kind::OneWay, "one-way", "one node is not heard, but hears"),
    (Kind::Deaf, "deaf", "one node hears nobody, but is heard"),
    (
        Kind::Ring,
        "ring",
        "two nodes cut from each other; the rest hears both",
    ),
    (
        Kind::Flap,
        "flap",
        "one node cut off and back every 50 to 500 ms",
    ),
    (
        Kind::CutClients,
        "cut-clients",
        "a node that clients do not reach",
    ),
    (
        Kind::CutWorkers,
        "cut-workers",
        "a leader that workers do not reach",
    ),
    (
        Kind::SlowNet,
        "slow-net",
        "a node behind a slow line with a delay",
    ),
    (
        Kind::Reset,
        "reset",
        "all connections of a node broken at once",
    ),
    (
        Kind::Truncate,
        "truncate",
        "connections of a node broken in the middle of a message",
    ),
    (
        Kind::Loss,
        "loss",
        "packets of a node lost, 1 to 30 of a hundred",
    ),
    (
        Kind::Duplicate,
        "duplicate",
        "packets between a node and the others sent twice",
    ),
    (
        Kind::HalfOpen,
        "half-open",
        "a leader's connections reset for the others alone: it holds them for whole",
    ),
    (
        Kind::Vanish,
        "vanish",
        "a node's host is gone without an end or a reset, and back later",
    ),
    (
        Kind::Membership,
        "membership",
        "a node added, leadership moved, another node removed",
    ),
    (
        Kind::Transfer,
        "transfer",
        "leadership of a group handed over",
    ),
    (
        Kind::Wipe,
        "wipe",
        "a node back without its data under its old id: refused, then replaced",
    ),
    (
        Kind::DiskFull,
        "disk-full",
        "the disk of a node filled, freed later",
    ),
    (
        Kind::FsyncError,
        "fsync-error",
        "a sync of a node fails: it must end",
    ),
    (
        Kind::SlowDisk,
        "slow-disk",
        "each sync of a node takes 150 ms",
    ),
    (
        Kind::Cpu,
        "cpu",
        "a node with five of a hundred of one processor",
    ),
    (
        Kind::Oom,
        "oom",
        "a node gets no more memory, and the kernel ends it",
    ),
    (
        Kind::Clock,
        "clock",
        "a node with its wall clock an hour or a day ahead; with feature chaos, moved while it runs",
    ),
    (
        Kind::Bitrot,
        "bitrot",
        "a byte of a stopped node's files changed: it must refuse, then is replaced",
    ),
    (
        Kind::Failpoint,
        "failpoint",
        "killed at a named point inside, with a binary built with feature chaos",
    ),
];

/// What is meant by `chaos`: faults that go together on any machine.
const CHAOS: &[Kind] = &[
    Kind::KillLeader,
    Kind::Kill,
    Kind::KillWorker,
    Kind::Pause,
    Kind::PauseWorker,
    Kind::Partition,
    Kind::OneWay,
    Kind::Flap,
    Kind::Reset,
    Kind::Transfer,
];

impl Kind {
    /// The one means by which it can be done; `None`: by either.
    pub fn only_by(self) -> Option<Means> {
        match self {
            Self::Truncate => Some(Means::Gates),
            Self::Loss | Self::Duplicate | Self::HalfOpen | Self::Vanish => Some(Means::Spaces),
            // Gates look up whose each connection is, and hundreds at once are too many for that.
            Self::Herd => Some(Means::Spaces),
            _ => None,
        }
    }

    /// Whether one run can have both: no network has both means.
    pub fn goes_with(self, other: Self) -> bool {
        !matches!((self.only_by(), other.only_by()), (Some(one), Some(two)) if one != two)
    }

    /// Whether it breaks links, by either means.
    pub fn is_of_links(self) -> bool {
        matches!(
            self,
            Self::Partition
                | Self::OneWay
                | Self::Deaf
                | Self::Ring
                | Self::Flap
                | Self::CutClients
                | Self::CutWorkers
                | Self::SlowNet
                | Self::Reset
        )
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        KINDS.iter().find(|it| it.0 == self).map_or("", |it| it.1)
    }

    /// Why this machine cannot do it; `None`: it can.
    pub fn lacks(self) -> Option<&'static str> {
        match self {
            Self::DiskFull if !rustix::process::geteuid().is_root() => {
                Some("needs root, to mount a small tmpfs")
            }
            Self::FsyncError | Self::SlowDisk if !disk::has_strace() => Some("needs strace"),
            _ if (self.is_of_links() || self == Self::Truncate)
                && !std::path::Path::new("/proc/net/tcp").exists() =>
            {
                Some("needs /proc, to tell whose a connection is")
            }
            Self::Cpu => cgroup::lacks_cpu(),
            Self::Oom => cgroup::lacks_memory(),
            _ if self.only_by() == Some(Means::Spaces) => crate::network::lacks(),
            _ => None,
        }
    }

    /// Reads a list: names, `none`, `chaos`, `all`.
    ///
    /// # Errors
    /// A name that is none, as a sentence.
    pub fn list(text: &str) -> Result<Vec<Self>, String> {
        let mut kinds: Vec<Self> = Vec::new();
        for word in text.split(',').map(str::trim).filter(|it| !it.is_empty()) {
            let more: Vec<Self> = match word {
                "none" => vec![],
                "chaos" => CHAOS.to_vec(),
                "all" => KINDS.iter().map(|it| it.0).collect(),
                name => vec![name.parse()?],
            };
            kinds.extend(
                more.into_iter()
                    .filter(|it| !kinds.contains(it))
                    .collect::<Vec<_>>(),
            );
        }
        Ok(kinds)
    }
}

impl FromStr for Kind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let found = KINDS.iter().find(|it| it.1 == text).map(|it| it.0);
        found.ok_or_else(|| format!("{text} is no fault; `jepsen list` shows all"))
    }
}

/// The next pause before a fault: a half to one and a half of the interval.
pub fn jittered(dice: &mut Dice, interval: Duration) -> Duration {
    let percent = u32::try_from(dice.between(50, 150)).unwrap_or(100);
    interval * percent / 100
}

/// Faults on their way.
pub struct Faults {
    tasks: JoinSet<()>,
    watch: JoinSet<()>,
}

impl Faults {
    /// Until every fault has ended itself. Nodes are watched until then.
    pub async fn ended(mut self) {
        while self.tasks.join_next().await.is_some() {}
        self.watch.shutdown().await;
    }
}

/// Begins all faults of the run.
pub fn begin(field: &Arc<Field>, dice: &Dice) -> Faults {
    let mut tasks = JoinSet::new();
    for kind in field.options.nemeses.clone() {
        let lacks = match kind.only_by() {
            Some(means) if means != field.network.means() => Some(match means {
                Means::Gates => "needs --net proxy",
                Means::Spaces => "needs --net netns",
            }),
            _ if kind == Kind::Failpoint && field.points.is_empty() => {
                Some("needs a binary built with feature chaos")
            }
            _ => kind.lacks(),
        };
        if let Some(why) = lacks {
            field.record(kind.name(), &[], FaultStatus::Skipped, why);
            continue;
        }
        let (field, mut dice) = (Arc::clone(field), dice.stream(kind.name()));
        tasks.spawn(async move {
            loop {
                let wait = jittered(&mut dice, field.options.interval);
                field.hold(wait).await;
                if !field.faults_go_on() {
                    return;
                }
                strike(kind, &field, &mut dice).await;
            }
        });
    }
    let mut watch = JoinSet::new();
    watch.spawn(watch_nodes(Arc::clone(field)));
    Faults { tasks, watch }
}

async fn strike(kind: Kind, field: &Arc<Field>, dice: &mut Dice) {
    match kind {
        Kind::KillLeader => process::kill_leader(field, dice).await,
        Kind::KillQuick => process::kill_quick(field, dice).await,
        Kind::Kill => process::kill_follower(field, dice).await,
        Kind::KillAll => process::kill_many(field, dice, true).await,
        Kind::Majority => process::kill_many(field, dice, false).await,
        Kind::KillWorker => process::kill_worker(field, dice).await,
        Kind::Stop => process::rolling(field).await,
        Kind::Storm => process::storm(field, dice).await,
        Kind::Herd => herd::strike(field, dice).await,
        Kind::Pause => process::pause(field, dice).await,
        Kind::PauseWorker => process::pause_worker(field, dice).await,
        Kind::Clock if !field.points.is_empty() && dice.chance(60) => {
            points::jump(field, dice).await;
        }
        Kind::Clock => process::clock(field, dice).await,
        Kind::Failpoint => points::kill_at_point(field, dice).await,
        Kind::Partition => network::partition(field, dice).await,
        Kind::OneWay => network::one_way(field, dice).await,
        Kind::Deaf => network::deaf(field, dice).await,
        Kind::Ring => network::ring(field, dice).await,
        Kind::Flap => network::flap(field, dice).await,
        Kind::CutClients => network::cut_clients(field, dice).await,
        Kind::CutWorkers => network::cut_workers(field, dice).await,
        Kind::SlowNet => network::slow(field, dice).await,
        Kind::Reset => network::reset(field, dice).await,
        Kind::Truncate => network::truncate(field, dice).await,
        Kind::Loss => packets::loss(field, dice).await,
        Kind::Duplicate => packets::duplicate(field, dice).await,
        Kind::HalfOpen => packets::half_open(field, dice).await,
        Kind::Vanish => packets::vanish(field, dice).await,
        Kind::Membership => member::change(field, dice).await,
        Kind::Transfer => member::transfer(field, dice).await,
        Kind::Wipe => member::wipe(field, dice).await,
        Kind::Bitrot => member::bitrot(field, dice).await,
        Kind::Cpu => cgroup::cpu(field, dice).await,
        Kind::Oom => cgroup::oom(field, dice).await,
        Kind::DiskFull => disk::full(field, dice).await,
        Kind::FsyncError => disk::fsync_error(field, dice).await,
        Kind::SlowDisk => disk::slow(field, dice).await,
    }
}

/// A node that ends without a fault that makes it end has done what none may do. It is started again, for the run to go on.
async fn watch_nodes(field: Arc<Field>) {
    loop {
        tokio::time::sleep(WATCH_EVERY).await;
        for member in field.members() {
            if member.may_end.load(Ordering::Acquire) || !member.process.ended_by_itself() {
                continue;
            }
            let tail = member.process.log_tail(6);
            field.record("crash", &[&member.name], FaultStatus::Indeterminate, &tail);
            field.saw(&format!("{} ended by itself:\n{tail}", member.name));
            if let Err(cause) = field.start_again(&member).await {
                field.say(&format!("{} does not come back: {cause}", member.name));
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<&str> = KINDS.iter().map(|it| it.1).collect();
        assert_eq!(names.len(), KINDS.len());
        for (kind, name, about) in KINDS {
            assert_eq!(kind.name(), *name);
            assert_eq!(name.parse::<Kind>().unwrap(), *kind);
            assert!(!about.is_empty());
        }
    }

    #[test]
    fn a_list_holds_each_kind_once_and_refuses_what_is_none() {
        assert_eq!(Kind::list("none").unwrap(), []);
        assert_eq!(
            Kind::list("pause,kill,pause").unwrap(),
            [Kind::Pause, Kind::Kill]
        );
        assert_eq!(Kind::list("all").unwrap().len(), KINDS.len());
        assert_eq!(Kind::list("chaos,kill-leader").unwrap().len(), CHAOS.len());
        assert!(Kind::list("kil").unwrap_err().contains("kil "));
    }

    #[test]
    fn the_same_seed_gives_the_same_pauses_within_their_bounds() {
        let interval = Duration::from_secs(10);
        let draw = |seed| {
            let mut dice = Dice::new(seed).stream("kill-leader");
            (0..50)
                .map(|_| jittered(&mut dice, interval))
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(42), draw(42));
        assert_ne!(draw(42), draw(43));
        let bounds = Duration::from_secs(5)..=Duration::from_secs(15);
        assert!(draw(42).iter().all(|it| bounds.contains(it)));
        assert!(draw(42).iter().any(|it| *it < interval));
        assert!(draw(42).iter().any(|it| *it > interval));
    }
}
