//! Runs of the legal world: from their start over steps, timers, waits, lost attempts and undos to their end.
//!
//! Invariant: each stage writes down all that a cluster and its workers would, in the order in which it would happen.

use holdfast_jepsen::records::{
    Answer, AppliedCommand, BodyMoment, Call, FaultStatus, FinalRun, IntentDetail, JournalLine,
    Outcome, Position, Ruling, TapEvent,
};

use super::form::{about, began, drive, ended, kind, result, session, shown, status, step, undo};
use super::world::{MS, NODES, World};

/// What a run does, one after the other.
#[derive(Clone, Copy)]
pub(super) enum Plan {
    Step {
        undo: bool,
        limited: bool,
        lost: bool,
    },
    Timer {
        ms: u64,
    },
    Wait,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Stage {
    Unborn,
    Ready,
    Next,
    Leased,
    Begun,
    Acted,
    Lost,
    Sleeping { due: u64 },
    Waiting,
    Undoing,
    UndoLeased,
    Over,
}

/// A run of the world.
pub(super) struct Play {
    pub(super) run: String,
    pub(super) serial: u64,
    pub(super) plans: Vec<Plan>,
    pub(super) done: usize,
    pub(super) cancel: bool,
    pub(super) stage: Stage,
    pub(super) status: &'static str,
    pub(super) worker: usize,
    pub(super) drive: u64,
    pub(super) advance: u64,
    pub(super) delivery: u32,
    /// Of the attempt in flight.
    pub(super) entry: u32,
    pub(super) attempt: u32,
    pub(super) fence: u64,
    pub(super) next_intent: u32,
    pub(super) pending: Option<(u32, u64)>,
    pub(super) owed: Vec<u32>,
    pub(super) journal: Vec<JournalLine>,
    pub(super) signals: u64,
}

/// Places at the limit that steps name.
const PLACES: usize = 2;

fn place(run: &str, entry: u32) -> String {
    format!("{run}/{entry}")
}

impl World {
    pub(super) fn play(&mut self, nth: u64) -> Play {
        self.serial += 1;
        let mut plans: Vec<Plan> = (0..2 + self.dice.below(3))
            .map(|_| match self.dice.below(10) {
                0..=5 => Plan::Step {
                    undo: self.dice.chance(60),
                    limited: self.dice.chance(50),
                    lost: self.dice.chance(25),
                },
                6..=7 => Plan::Timer {
                    ms: 5 + self.dice.below(60),
                },
                _ => Plan::Wait,
            })
            .collect();
        if nth < 3 {
            // Whatever the seed, something of each kind happens.
            plans.push(
                [
                    Plan::Timer { ms: 30 },
                    Plan::Wait,
                    Plan::Step {
                        undo: true,
                        limited: true,
                        lost: true,
                    },
                ][usize::try_from(nth).unwrap()],
            );
        }
        let cancel = nth == 3 || (nth > 3 && self.dice.chance(30));
        if cancel {
            // It is cancelled after the timer, before the wait.
            let step = Plan::Step {
                undo: true,
                limited: false,
                lost: false,
            };
            plans.extend([step, step, Plan::Timer { ms: 20 }, Plan::Wait]);
        }
        Play {
            run: format!("r-{nth}"),
            serial: self.serial,
            plans,
            done: 0,
            cancel,
            stage: Stage::Unborn,
            status: "",
            worker: 0,
            drive: 0,
            advance: 0,
            delivery: 0,
            entry: 0,
            attempt: 0,
            fence: 0,
            next_intent: 0,
            pending: None,
            owed: Vec::new(),
            journal: Vec::new(),
            signals: 0,
        }
    }

    fn start(&mut self, play: &mut Play) {
        play.status = "READY";
        let command = about("start", play);
        let position = self.command(command, vec![status(play)]);
        let call = Call::Start {
            run: play.run.clone(),
            workflow: "play".into(),
            serial: play.serial,
        };
        let created = |created| {
            Some(Answer::Started {
                created,
                generation: 1,
            })
        };
        self.op(
            0,
            call.clone(),
            Outcome::Ok,
            created(true),
            None,
            Some(position),
        );
        if self.dice.chance(50) {
            let position = self.command(about("start", play), Vec::new());
            self.op(1, call, Outcome::Ok, created(false), None, Some(position));
        } else {
            let refused = AppliedCommand {
                answer: "HF2001".into(),
                ..about("start", play)
            };
            self.command(refused, Vec::new());
            self.serial += 1;
            let call = Call::Start {
                run: play.run.clone(),
                workflow: "play".into(),
                serial: self.serial,
            };
            self.op(2, call, Outcome::Fail, None, Some("HF2001"), None);
        }
        play.stage = Stage::Ready;
    }

    fn next_fence(&self, nth: u64) -> u64 {
        (self.index + 1) << 16 | nth
    }

    fn grant(&mut self, play: &mut Play) {
        if let (Some((entry, _)), Plan::Step { limited: true, .. }) = (
            play.pending,
            play.plans[play.done.min(play.plans.len() - 1)],
        ) {
            if self.held.len() >= PLACES {
                return;
            }
            self.wait_for_room();
            self.tick(1);
            let command = AppliedCommand {
                name: Some("api".into()),
                admitted: vec![(play.run.clone(), entry)],
                ..kind("admit")
            };
            self.command(command, Vec::new());
            self.admitted.push(self.now_ms());
            self.held.insert(place(&play.run, entry));
        }
        play.worker = self.dice.pick(2);
        play.drive = self.next_fence(0);
        (play.delivery, play.advance, play.status) = (0, 0, "RUNNING");
        let mut events = vec![
            began(drive(play), play.drive, None, self.session(play)),
            status(play),
        ];
        if let Some((entry, _)) = play.pending {
            // A step that was lost goes along with its drive.
            play.attempt += 1;
            play.fence = self.next_fence(1);
            play.entry = entry;
            events.push(began(
                step(play),
                play.fence,
                Some(play.attempt),
                self.session(play),
            ));
        }
        let command = AppliedCommand {
            session: Some(self.session(play)),
            fence: Some(play.drive),
            ..about("grant", play)
        };
        self.command(command, events);
        play.stage = if play.pending.is_some() {
            Stage::Leased
        } else {
            Stage::Next
        };
    }

    fn session(&self, play: &Play) -> u64 {
        session(play.worker, self.pids[play.worker])
    }

    /// Whether the next thing is a step for which the limit has no place.
    fn waits_at_limit(&self, play: &Play) -> bool {
        let after = play.done + usize::from(play.stage == Stage::Acted);
        let next = play.plans.get(after);
        let limited = matches!(next, Some(Plan::Step { limited: true, .. }));
        let own = self.held.contains(&place(&play.run, play.entry));
        limited && self.held.len() - usize::from(own) >= PLACES
    }

    /// An Advance: what was done, and what comes next.
    fn advance(&mut self, play: &mut Play) {
        if self.waits_at_limit(play) {
            return;
        }
        let mut events = Vec::new();
        let mut row = self.row(play);
        row.seen = Some(play.delivery);
        play.advance += 1;
        let mut command = AppliedCommand {
            fence: Some(play.drive),
            number: Some(play.advance),
            ..about("advance", play)
        };
        if play.stage == Stage::Acted {
            command.results.push(result(step(play), play.fence));
            events.push(ended(step(play), play.fence, self.session(play)));
            row.outcomes.push((play.entry, "done".into()));
            play.pending = None;
            self.held.remove(&place(&play.run, play.entry));
            play.done += 1;
        }
        let entry = play.next_intent;
        play.next_intent += 1;
        let Some(plan) = play.plans.get(play.done).copied() else {
            row.intents.push((entry, "complete".into(), String::new()));
            play.journal.push(row);
            return self.complete(play, command, events);
        };
        play.entry = entry;
        let detail = IntentDetail {
            entry,
            ..IntentDetail::default()
        };
        match plan {
            Plan::Step { undo, limited, .. } => {
                row.intents.push((entry, "step".into(), "act".into()));
                row.details.push(IntentDetail {
                    undo: undo.then(|| "take-back".into()),
                    certainty: Some("at-least-once".into()),
                    limits: limited.then(|| "api".into()).into_iter().collect(),
                    ..detail
                });
                self.begin_step(play, (undo, limited), &mut command);
                events.push(began(step(play), play.fence, Some(1), self.session(play)));
            }
            Plan::Timer { ms } => {
                row.intents.push((entry, "timer".into(), String::new()));
                row.details.push(IntentDetail {
                    delay_ms: Some(ms),
                    ..detail
                });
            }
            Plan::Wait => row.intents.push((entry, "wait".into(), "go".into())),
        }
        if !matches!(plan, Plan::Step { .. }) {
            play.status = "WAITING";
            let over = ended(drive(play), play.drive, self.session(play));
            events.extend([over, status(play)]);
        }
        let position = self.command(command, events);
        row.at_ms = self.now_ms();
        row.position = Some((position.index, 0));
        play.stage = match plan {
            Plan::Step { .. } => Stage::Leased,
            Plan::Timer { ms } => Stage::Sleeping {
                due: row.at_ms + ms,
            },
            Plan::Wait => Stage::Waiting,
        };
        play.journal.push(row);
    }

    fn complete(&mut self, play: &mut Play, command: AppliedCommand, mut events: Vec<TapEvent>) {
        play.status = "COMPLETED";
        let over = ended(drive(play), play.drive, self.session(play));
        events.extend([status(play), over]);
        self.command(command, events);
        self.over(play);
    }

    /// The first attempt at a step is granted by the command that asks for it.
    fn begin_step(
        &mut self,
        play: &mut Play,
        (undo, limited): (bool, bool),
        command: &mut AppliedCommand,
    ) {
        if limited {
            self.wait_for_room();
            self.admitted.push(self.now_ms() + 1);
            command.admitted.push((play.run.clone(), play.entry));
            self.held.insert(place(&play.run, play.entry));
        }
        play.attempt = 1;
        play.fence = self.next_fence(0);
        play.pending = Some((play.entry, play.fence));
        if undo {
            play.owed.push(play.entry);
        }
    }

    /// Until the limit has a token and a place again.
    fn wait_for_room(&mut self) {
        let last = self.admitted.last().copied().unwrap_or(0);
        let next = last + 51;
        if self.now_ms() < next {
            self.t += (next - self.now_ms()) * MS;
        }
    }

    fn row(&self, play: &Play) -> JournalLine {
        JournalLine {
            seq: u32::try_from(play.journal.len()).unwrap(),
            at_ms: self.now_ms(),
            position: Some((self.index + 1, 0)),
            ..JournalLine::default()
        }
    }

    pub(super) fn act(&mut self, play: &mut Play) {
        let entry = play.entry.to_string();
        match play.stage {
            Stage::Unborn => self.start(play),
            Stage::Ready => self.grant(play),
            Stage::Next => {
                if play.cancel && play.done + 1 >= play.plans.len() {
                    self.cancel(play);
                } else {
                    self.advance(play);
                }
            }
            Stage::Leased => {
                self.body(play, BodyMoment::Began, &entry);
                self.sink(play, &entry, Ruling::Registered, false);
                play.stage = Stage::Begun;
            }
            Stage::Begun => {
                self.sink(play, &entry, Ruling::Acted, false);
                let lost = matches!(play.plans[play.done], Plan::Step { lost: true, .. });
                play.stage = if lost && play.attempt == 1 {
                    Stage::Lost
                } else {
                    Stage::Acted
                };
                if play.stage == Stage::Acted {
                    self.body(play, BodyMoment::Done, &entry);
                }
            }
            Stage::Acted => self.advance(play),
            Stage::Lost => self.lose(play),
            Stage::Sleeping { due } => self.fire(play, due),
            Stage::Waiting => self.signal(play),
            Stage::Undoing => self.undo(play),
            Stage::UndoLeased => self.undone(play),
            Stage::Over => {}
        }
    }

    /// The drive of this run is lost with the step under it, by a drive's own expiry.
    fn lose(&mut self, play: &mut Play) {
        self.fault(
            "kill-worker",
            &[&format!("w{}", play.worker + 1)],
            FaultStatus::Installed,
        );
        play.status = "READY";
        self.held.remove(&place(&play.run, play.entry));
        let events = vec![
            ended(drive(play), play.drive, self.session(play)),
            ended(step(play), play.fence, self.session(play)),
            status(play),
        ];
        let command = AppliedCommand {
            fence: Some(play.drive),
            ..about("expire", play)
        };
        self.command(command, events);
        self.fault(
            "kill-worker",
            &[&format!("w{}", play.worker + 1)],
            FaultStatus::Healed,
        );
        play.stage = Stage::Ready;
    }

    fn fire(&mut self, play: &mut Play, due: u64) {
        if self.now_ms() < due {
            self.t += (due - self.now_ms()) * MS;
        }
        self.wake(play, kind("fire"), (play.entry, "fired".into()), None);
    }

    /// Something from outside is in the journal, and the run waits for a driver.
    fn wake(
        &mut self,
        play: &mut Play,
        command: AppliedCommand,
        outcome: (u32, String),
        took: Option<u64>,
    ) -> Position {
        play.status = "READY";
        let mut row = self.row(play);
        row.received.extend(took.map(|serial| (outcome.0, serial)));
        row.outcomes.push(outcome);
        let position = self.command(command, vec![status(play)]);
        row.at_ms = self.now_ms();
        row.position = Some((position.index, 0));
        play.journal.push(row);
        play.done += 1;
        play.stage = Stage::Ready;
        position
    }

    fn signal(&mut self, play: &mut Play) {
        self.serial += 1;
        play.signals += 1;
        let (serial, id) = (self.serial, format!("{}-s{}", play.run, play.signals));
        let command = AppliedCommand {
            request: Some(id.clone()),
            name: Some("go".into()),
            ..about("signal", play)
        };
        let position = self.wake(play, command, (play.entry, "done".into()), Some(serial));
        let call = Call::Signal {
            run: play.run.clone(),
            name: "go".into(),
            signal_id: id,
            serial,
        };
        let done = Some(Answer::Done { already: false });
        self.op(3, call, Outcome::Ok, done, None, Some(position));
    }

    fn cancel(&mut self, play: &mut Play) {
        self.requests += 1;
        let request = format!("c-{}", self.requests);
        let mut row = self.row(play);
        row.cancel = true;
        row.delivery = Some(play.delivery + 1);
        play.delivery += 1;
        play.journal.push(row);
        play.status = if play.owed.is_empty() {
            "CANCELLED"
        } else {
            "UNDOING"
        };
        let command = AppliedCommand {
            request: Some(request.clone()),
            ..about("cancel", play)
        };
        let events = vec![
            status(play),
            ended(drive(play), play.drive, self.session(play)),
        ];
        let position = self.command(command, events);
        let call = Call::Cancel {
            run: play.run.clone(),
            request,
        };
        let done = Some(Answer::Done { already: false });
        self.op(1, call, Outcome::Ok, done, None, Some(position));
        play.stage = Stage::Undoing;
        if play.owed.is_empty() {
            self.over(play);
        }
    }

    fn undo(&mut self, play: &mut Play) {
        (play.entry, play.attempt) = (*play.owed.last().unwrap(), 1);
        play.fence = self.next_fence(0);
        let event = began(undo(play), play.fence, Some(1), self.session(play));
        let command = AppliedCommand {
            session: Some(self.session(play)),
            fence: Some(play.fence),
            ..about("grant", play)
        };
        self.command(command, vec![event]);
        play.stage = Stage::UndoLeased;
    }

    fn undone(&mut self, play: &mut Play) {
        let of = format!("{}:undo", play.entry);
        self.body(play, BodyMoment::Began, &of);
        self.sink(play, &of, Ruling::Acted, true);
        self.body(play, BodyMoment::Done, &of);
        play.owed.pop();
        let mut events = vec![ended(undo(play), play.fence, self.session(play))];
        if play.owed.is_empty() {
            play.status = "CANCELLED";
            events.insert(0, status(play));
        }
        let command = AppliedCommand {
            results: vec![result(undo(play), play.fence)],
            fence: Some(play.fence),
            ..about("report", play)
        };
        play.journal.push(self.row(play));
        self.command(command, events);
        play.stage = Stage::Undoing;
        if play.owed.is_empty() {
            self.over(play);
        }
    }

    /// Everybody hears how it ended.
    fn over(&mut self, play: &mut Play) {
        play.stage = Stage::Over;
        let completed = play.status == "COMPLETED";
        let serial = completed.then_some(play.serial);
        for node in 1..=NODES {
            let run = FinalRun {
                run: play.run.clone(),
                generation: 1,
                workflow: "play".into(),
                version: 1,
                status: play.status.into(),
                serial: Some(play.serial),
                result: serial,
                journal: play.journal.clone(),
            };
            self.store
                .journals
                .entry(format!("n{node}"))
                .or_default()
                .push(run);
        }
        self.tick(2);
        let call = Call::Result {
            run: play.run.clone(),
        };
        let answer = Some(shown(play));
        self.op(0, call, Outcome::Ok, answer, None, Some(self.here()));
    }
}
