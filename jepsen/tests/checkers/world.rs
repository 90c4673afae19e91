//! A small legal world: clients, a log, workers and a sink that keep every promise, written down as a test run would.
//!
//! Invariant: whatever the seed, nothing in the store breaks a rule. Runs take turns by chance, and operations overlap.

use std::collections::BTreeSet;

use holdfast_jepsen::checker::store::Store;
use holdfast_jepsen::records::{
    Answer, Applied, AppliedCommand, Body, BodyMoment, Call, Effect, Fault, FaultStatus, Op,
    Outcome, Position, Ruling, Setup, TapEvent, TapLimit,
};

use super::form::{kind, session, shown};
use super::play::{Play, Stage};

pub const MS: u64 = 1_000_000;
pub(super) const NODES: u16 = 3;
/// The group clock when the world begins, in milliseconds.
const CLOCK_MS: u64 = 1_700_000_000_000;

/// Chance by splitmix64.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
    pub fn pick(&mut self, count: usize) -> usize {
        usize::try_from(self.below(count as u64)).unwrap()
    }
}

/// The world.
pub struct World {
    pub store: Store,
    pub dice: Dice,
    pub(super) t: u64,
    pub(super) index: u64,
    pub(super) epoch: u64,
    pub(super) leader: u64,
    pub(super) serial: u64,
    pub(super) requests: u64,
    pub(super) keys: BTreeSet<String>,
    pub(super) version: u32,
    pub(super) admitted: Vec<u64>,
    pub(super) held: BTreeSet<String>,
    pub(super) pids: [u32; 2],
}

/// A whole legal test run.
pub fn legal(seed: u64, sink: &str) -> Store {
    let mut world = World::new(seed, sink);
    world.live();
    world.store.sort();
    world.store
}

impl World {
    fn new(seed: u64, sink: &str) -> Self {
        let setup = Setup {
            command: "jepsen run".into(),
            seed,
            nodes: NODES,
            partitions: 1,
            workers: 2,
            clients: 4,
            workload: "mix".into(),
            nemeses: vec!["kill".into(), "kill-worker".into()],
            sink: sink.into(),
            term_ms: 5_000,
            deadline_ms: 5_000,
            require: vec![("kill-worker".into(), 1)],
            ..Setup::default()
        };
        Self {
            store: Store {
                setup,
                ..Store::default()
            },
            dice: Dice(seed),
            t: 1_000_000 * MS,
            index: 0,
            epoch: 0,
            leader: 1,
            serial: 100,
            requests: 0,
            keys: BTreeSet::new(),
            version: 0,
            admitted: Vec::new(),
            held: BTreeSet::new(),
            pids: [11, 12],
        }
    }

    fn live(&mut self) {
        self.store.setup.phases[0] = self.t;
        self.lead(1);
        self.attach(0);
        self.attach(1);
        self.set_version();
        let mut plays: Vec<Play> = (0..6).map(|nth| self.play(nth)).collect();
        let killed_at = 25 + self.dice.below(20);
        for round in 0.. {
            let live: Vec<usize> = (0..plays.len())
                .filter(|i| plays[*i].stage != Stage::Over)
                .collect();
            if live.is_empty() {
                break;
            }
            if round == killed_at {
                self.kill_leader();
            }
            self.tick(3);
            let turn = live[self.dice.pick(live.len())];
            self.act(&mut plays[turn]);
            let looked_at = self.dice.pick(plays.len());
            self.look(&plays[looked_at]);
        }
        self.heal(&plays);
    }

    pub(super) fn now_ms(&self) -> u64 {
        CLOCK_MS + self.t / MS
    }

    pub(super) fn tick(&mut self, ms: u64) {
        self.t += MS / 2 + self.dice.below(ms * MS);
    }

    /// An entry, applied by every node.
    fn entry(
        &mut self,
        epoch: u64,
        commands: Vec<AppliedCommand>,
        events: Vec<TapEvent>,
    ) -> Position {
        self.tick(2);
        self.index += 1;
        let commands: Vec<AppliedCommand> = (0..)
            .zip(commands)
            .map(|(slot, it)| AppliedCommand {
                slot,
                answer: if it.answer.is_empty() {
                    "ok".into()
                } else {
                    it.answer
                },
                ..it
            })
            .collect();
        let digest = self.index.wrapping_mul(0x1234_5678_9abc_def1);
        for node in 1..=NODES {
            let line = Applied {
                t: self.t + u64::from(node - 1) * MS / 4,
                group: 1,
                index: self.index,
                epoch,
                in_force: self.epoch,
                now: self.now_ms(),
                commands: commands.clone(),
                events: events.clone(),
                digest: format!("{digest:032x}"),
            };
            self.store
                .taps
                .entry(format!("n{node}"))
                .or_default()
                .push(line);
        }
        Position {
            group: 1,
            index: self.index,
            slot: 0,
        }
    }

    pub(super) fn command(&mut self, command: AppliedCommand, events: Vec<TapEvent>) -> Position {
        self.entry(self.epoch, vec![command], events)
    }

    fn lead(&mut self, node: u64) {
        self.epoch = self.index + 1;
        self.leader = node;
        let command = AppliedCommand {
            number: Some(node),
            name: Some(format!("boot-{node}-{}", self.epoch)),
            ..kind("become-leader")
        };
        self.entry(self.epoch, vec![command], Vec::new());
    }

    fn attach(&mut self, worker: usize) {
        let session = session(worker, self.pids[worker]);
        let limit = TapLimit {
            name: "api".into(),
            rate_count: Some(20),
            rate_per_ms: 1000,
            burst: 2,
            concurrency: Some(2),
        };
        let command = AppliedCommand {
            session: Some(session),
            limits: vec![limit],
            ..kind("attach")
        };
        let event = TapEvent::SessionAttached {
            session,
            process: format!("p{}", self.pids[worker]),
        };
        self.command(command, vec![event]);
    }

    /// An operation that took effect just now: it began a little before, and ends a little later.
    pub(super) fn op(
        &mut self,
        client: u32,
        call: Call,
        outcome: Outcome,
        answer: Option<Answer>,
        error: Option<&str>,
        position: Option<Position>,
    ) {
        let node = 1 + self.dice.below(u64::from(NODES));
        let (before, after) = (self.dice.below(4 * MS), 1 + self.dice.below(6 * MS));
        let op = Op {
            id: self.store.history.len() as u64,
            client,
            node: format!("n{node}"),
            call,
            t_inv: self.t - before,
            t_ret: self.t + after,
            outcome,
            answer,
            error: error.map(str::to_owned),
            position,
        };
        self.store.history.push(op);
    }

    pub(super) fn here(&self) -> Position {
        Position {
            group: 1,
            index: self.index,
            slot: 0,
        }
    }

    /// A read or two, of whatever is there.
    fn look(&mut self, play: &Play) {
        if self.dice.chance(30) {
            self.tick(1);
            if self.dice.chance(30) {
                self.set_version();
            }
            let call = Call::GetCurrent {
                workflow: "reg".into(),
            };
            let answer = Some(Answer::Version {
                version: self.version,
            });
            self.op(2, call, Outcome::Ok, answer, None, Some(self.here()));
        }
        if self.dice.chance(50) {
            self.tick(1);
            let stale = self.dice.chance(25);
            let call = Call::Get {
                run: play.run.clone(),
                stale,
                at_least: None,
            };
            let answer = if play.status.is_empty() {
                Some(Answer::NoRun)
            } else {
                Some(shown(play))
            };
            self.op(3, call, Outcome::Ok, answer, None, Some(self.here()));
        }
    }

    fn set_version(&mut self) {
        let before = self.version;
        self.version = 1 + u32::try_from(self.dice.below(5)).unwrap();
        let command = AppliedCommand {
            name: Some("reg".into()),
            number: Some(u64::from(self.version)),
            ..kind("deploy")
        };
        let position = self.command(command, Vec::new());
        let call = Call::SetCurrent {
            workflow: "reg".into(),
            version: self.version,
        };
        let answer = Some(Answer::Version { version: before });
        self.op(2, call, Outcome::Ok, answer, None, Some(position));
    }

    pub(super) fn fault(&mut self, fault: &str, targets: &[&str], status: FaultStatus) {
        self.store.faults.push(Fault {
            t: self.t,
            fault: fault.into(),
            targets: targets.iter().map(ToString::to_string).collect(),
            status,
            note: String::new(),
        });
    }

    fn kill_leader(&mut self) {
        let killed = format!("n{}", self.leader);
        self.fault("kill", &[&killed], FaultStatus::Installed);
        self.t += 80 * MS;
        self.lead(self.leader % u64::from(NODES) + 1);
        self.fault("kill", &[&killed], FaultStatus::Healed);
    }

    /// Every node is asked, and answers; the node that was killed has replayed the log.
    fn heal(&mut self, plays: &[Play]) {
        self.t += 100 * MS;
        let killed = self.store.faults.iter().find(|it| it.fault == "kill");
        if let Some(node) = killed.map(|it| it.targets[0].clone()) {
            let lines = self.store.taps.get_mut(&node).unwrap();
            let again: Vec<Applied> = lines.iter().skip(3).cloned().collect();
            let t = self.t;
            lines.extend(again.into_iter().map(|line| Applied { t, ..line }));
        }
        self.store.setup.phases = [
            self.store.setup.phases[0],
            self.store.setup.phases[0],
            self.t,
            self.t,
        ];
        for nth in 0..u64::from(NODES) * 25 {
            self.t += 7 * MS;
            let play = &plays[self.dice.pick(plays.len())];
            let call = Call::Get {
                run: play.run.clone(),
                stale: false,
                at_least: None,
            };
            self.op(
                5,
                call,
                Outcome::Ok,
                Some(shown(play)),
                None,
                Some(self.here()),
            );
            let op = self.store.history.last_mut().unwrap();
            op.node = format!("n{}", nth % u64::from(NODES) + 1);
        }
        self.store.setup.phases[3] = self.t;
    }

    pub(super) fn body(&mut self, play: &Play, what: BodyMoment, of: &str) {
        self.tick(1);
        let line = Body {
            t: self.t,
            worker: format!("w{}", play.worker + 1),
            pid: self.pids[play.worker],
            run: play.run.clone(),
            step: of.into(),
            attempt: play.attempt,
            fence: play.fence,
            what,
        };
        self.store.bodies.push(line);
    }

    pub(super) fn sink(&mut self, play: &Play, of: &str, ruling: Ruling, undo: bool) {
        self.tick(1);
        let key = format!("ns:{}:1:{of}", play.run);
        let ruling = match ruling {
            Ruling::Acted
                if !self.keys.insert(key.clone()) && self.store.setup.sink == "idempotent" =>
            {
                Ruling::Repeated
            }
            other => other,
        };
        let line = Effect {
            seq: self.store.effects.len() as u64,
            t: self.t,
            run: play.run.clone(),
            generation: 1,
            step: of.into(),
            attempt: play.attempt,
            fence: play.fence,
            key,
            worker: format!("w{}", play.worker + 1),
            serial: play.serial * 1000 + u64::from(play.entry),
            undo,
            ruling,
        };
        self.store.effects.push(line);
    }
}
