//! Random histories of one group: every command of the core, in every order, from a seed.
//!
//! What is asked next is chosen from the rows, so that most of it fits; some of it is late, repeated, foreign, too large or
//! nonsense on purpose. Invariant: nothing is judged here; the dice alone decide.

mod asks;
pub(super) mod drives;
mod odd;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use holdfast_scheduler::{
    apply::Applied,
    effect::{Effect, Needs},
    entry::{
        Admit, Advance, Ask, Attach, BecomeLeader, Body, Collect, Command, Duty, Entry, Expire,
        Grant, Work,
    },
    ids::{
        Epoch, FeatureLevel, Fence, LimitName, Name, NodeId, ProcessId, RequestId, RunId,
        SessionId, StepKey, Version,
    },
    reply::Reply,
    rows::{Key, Row},
    time::{Millis, Timestamp},
    values::run::Run,
};

use super::{
    Act, Tape,
    broken::Broken,
    coverage::Reached,
    dice::Dice,
    group::Group,
    leaders::{self, Leaders, Proposed},
    leads,
    swarm::{Kind, Swarm},
};

const LIMITS: [&str; 2] = ["api", "erp"];
/// One byte more than a payload may have.
static BLOB: [u8; 256 * 1024 + 1] = [b'x'; 256 * 1024 + 1];
const SIGNALS: [&str; 2] = ["go", "stop"];
/// Asks and leases remembered, to be repeated late.
const REMEMBERED: usize = 8;
/// Commands in an entry, as the proposer cuts it.
pub(super) const COMMANDS_MAX: u32 = 512;

/// A group, and what may happen to it next.
#[derive(Debug)]
pub struct World {
    pub(super) dice: Dice,
    pub(super) swarm: Swarm,
    pub(super) tape: Tape,
    pub(super) now: Timestamp,
    pub(super) epoch: Epoch,
    /// When to look at limits next, as a leader knows it from effects alone.
    pub(super) looks: BTreeMap<LimitName, Timestamp>,
    leaders: Option<Leaders>,
    asked: u64,
    processes: u64,
    last_advance: Option<Advance>,
    recent: Vec<Ask>,
    old: Vec<(Work, Fence)>,
    blob: Bytes,
}

impl World {
    /// As a seed begins.
    pub fn new(mut dice: Dice, swarm: Swarm, group: Group) -> Self {
        let leaders = swarm.led.then(|| Leaders::new(&mut dice));
        Self {
            dice,
            swarm,
            tape: Tape::new(group),
            now: Timestamp(1_000_000),
            epoch: Epoch(0),
            looks: BTreeMap::new(),
            leaders,
            asked: 0,
            processes: 0,
            last_advance: None,
            recent: Vec::new(),
            old: Vec::new(),
            blob: Bytes::from_static(&BLOB),
        }
    }

    pub(super) fn group(&self) -> &Group {
        &self.tape.group
    }

    /// A leader, and a worker.
    ///
    /// # Errors
    /// What did not hold.
    pub fn begin(&mut self) -> Result<(), Broken> {
        self.new_leader()?;
        self.ask(Ask::Attach(attach("p0", None)))?;
        Ok(())
    }

    /// Another node takes over.
    pub(super) fn new_leader(&mut self) -> Result<(), Broken> {
        let drift = Millis(self.dice.below(500));
        if let Some(leaders) = &mut self.leaders {
            let mut acts = leaders.begin();
            acts.extend(leaders.depose(&self.tape, &mut self.dice));
            self.lead(acts)?;
        }
        let (node, anchor) = match &mut self.leaders {
            Some(leaders) => leaders.candidate(&mut self.dice, self.now),
            None if self.dice.chance(30) => (NodeId(1), Timestamp(self.now.0 - drift.0)),
            None => (NodeId(1), self.now.after(drift)),
        };
        let boot = name(&format!("b{node}"));
        let body = Body::BecomeLeader(BecomeLeader {
            node,
            incarnation: name("i"),
            boot,
            levels: (FeatureLevel(1), FeatureLevel(1)),
            anchor,
        });
        self.now = self.now.max(anchor);
        self.epoch = Epoch(self.group().next().0);
        self.apply(body, None)?;
        Ok(())
    }

    /// Applies an entry, and follows its effects as a leader would.
    fn apply(&mut self, body: Body, breaks: Option<u64>) -> Result<Arc<Applied>, Broken> {
        let at = self.group().next();
        let level = FeatureLevel(1);
        let entry = Arc::new(Entry { level, body });
        let act = Act::Apply { at, entry, breaks };
        let applied = self.tape.act(act)?;
        for effect in &applied.effects {
            match effect {
                Effect::LimitWaits { limit, at } => {
                    let next = self.looks.entry(limit.clone()).or_insert(*at);
                    *next = (*next).min(*at);
                }
                Effect::LeaseBegan { work, fence, .. } if self.dice.chance(30) => {
                    remember(&mut self.old, (work.clone(), *fence));
                }
                _ => {}
            }
        }
        Ok(applied)
    }

    /// One entry of these commands, under this epoch and at this time.
    pub(super) fn batch(&mut self, commands: Vec<Command>) -> Result<Vec<Reply>, Broken> {
        let (epoch, proposed_at) = (self.epoch, self.now);
        let body = Body::Batch {
            epoch,
            proposed_at,
            commands,
        };
        let breaks = self
            .dice
            .rarely(self.swarm.breaks)
            .then(|| self.dice.roll());
        Ok(self.apply(body, breaks)?.replies.clone())
    }

    pub(super) fn ask(&mut self, ask: Ask) -> Result<Reply, Broken> {
        let mut replies = self.batch(vec![Command::Ask(ask)])?;
        replies
            .pop()
            .ok_or_else(|| Broken::new("model", "no answer"))
    }

    pub(super) fn duty(&mut self, duty: Duty) -> Result<Reply, Broken> {
        let mut replies = self.batch(vec![Command::Duty(duty)])?;
        replies
            .pop()
            .ok_or_else(|| Broken::new("model", "no answer"))
    }

    /// One more entry.
    ///
    /// # Errors
    /// What did not hold.
    pub fn go_on(&mut self) -> Result<(), Broken> {
        if self.dice.chance(60) {
            let long = self.dice.chance(5);
            let most = if long { 200_000 } else { self.swarm.step_ms };
            let span = Millis(self.dice.below(most));
            self.pass_time(span)?;
        }
        if self.dice.rarely(self.swarm.restarts) {
            self.tape.act(Act::Restart)?;
        }
        if self.dice.rarely(self.swarm.failovers) {
            return self.new_leader();
        }
        let most = u64::from(self.swarm.most_commands);
        let count = if most == u64::from(COMMANDS_MAX) && self.dice.chance(60) {
            100 + self.dice.below(413)
        } else {
            1 + self.dice.below(most)
        };
        let mut asked = Vec::new();
        let mut commands = Vec::new();
        self.gather_duties(&mut asked, &mut commands)?;
        while (commands.len() as u64) < count {
            let command = self.command();
            if let Command::Ask(ask) = &command
                && self.dice.chance(30)
            {
                remember(&mut self.recent, ask.clone());
            }
            commands.push(command);
        }
        if self.foresee(&commands)? {
            self.gather_duties(&mut asked, &mut commands)?;
        }
        let replies = if self.dice.rarely(self.swarm.wrong_epochs) {
            let body = Body::Batch {
                epoch: Epoch(self.epoch.0.saturating_sub(1)),
                proposed_at: Timestamp(self.dice.one([0, self.now.0 - 1_000])),
                commands,
            };
            self.apply(body, None)?.replies.clone()
        } else {
            self.batch(commands)?
        };
        for (id, at) in asked {
            self.tape
                .act(Act::Lead(leaders::answer(id, Some(&replies[at]))))?;
        }
        self.late_duties()
    }

    /// What the leader wants proposed goes into the entry, with its place there.
    fn gather_duties(
        &mut self,
        asked: &mut Vec<(Proposed, usize)>,
        commands: &mut Vec<Command>,
    ) -> Result<(), Broken> {
        for (id, duty) in self.led_duties()? {
            let twice = asked.iter().any(|(earlier, _)| *earlier == id);
            if !twice && commands.len() < COMMANDS_MAX as usize {
                asked.push((id, commands.len()));
                commands.push(Command::Duty(duty));
            }
        }
        Ok(())
    }

    /// The leader hears of starts that go into the log; says whether it did.
    fn foresee(&mut self, commands: &[Command]) -> Result<bool, Broken> {
        let mut acts = Vec::new();
        for command in commands {
            if let (Command::Ask(Ask::Start(it)), Some(leaders)) = (command, &self.leaders)
                && self.dice.chance(60)
            {
                acts.push(leaders.starting(it.run.clone(), it.workflow.clone()));
            }
        }
        let any = !acts.is_empty();
        self.lead(acts)?;
        Ok(any && self.dice.chance(50))
    }

    /// A leader of before does not know that it is one.
    fn late_duties(&mut self) -> Result<(), Broken> {
        let Some(leaders) = &mut self.leaders else {
            return Ok(());
        };
        let Some((epoch, duties, acts)) = leaders.late(&self.tape, &mut self.dice) else {
            return Ok(());
        };
        if !duties.is_empty() {
            self.group_reach(Reached::Late);
            let proposed_at = self.now;
            let commands = duties.into_iter().map(Command::Duty).collect();
            let body = Body::Batch {
                epoch,
                proposed_at,
                commands,
            };
            self.apply(body, None)?;
        }
        self.lead(acts)
    }

    /// Every node applies what it missed.
    pub(super) fn heal(&mut self) -> Result<(), Broken> {
        let acts = self.leaders.as_mut().map(Leaders::heal);
        self.lead(acts.unwrap_or_default())
    }

    fn lead(&mut self, acts: Vec<leads::Act>) -> Result<(), Broken> {
        for act in acts {
            self.tape.act(Act::Lead(act))?;
        }
        Ok(())
    }

    /// Time passes, and whoever leads looks up.
    pub(super) fn pass_time(&mut self, span: Millis) -> Result<(), Broken> {
        let Some(leaders) = &mut self.leaders else {
            self.now = self.now.after(span);
            return Ok(());
        };
        let sessions = sessions(&self.tape.group);
        let acts = leaders.pass(span, &sessions, &mut self.dice);
        self.lead(acts)?;
        self.now = self.tape.leads.now().max(self.now);
        Ok(())
    }

    /// What the leader's thinking wants proposed, as far as the dice let it through.
    pub(super) fn led_duties(&mut self) -> Result<Vec<(Proposed, Duty)>, Broken> {
        let Some(leaders) = &mut self.leaders else {
            return Ok(Vec::new());
        };
        let (duties, acts) = leaders.proposals(&self.tape, &mut self.dice);
        if !acts.is_empty() {
            self.group_reach(Reached::Unknown);
        }
        self.lead(acts)?;
        Ok(duties)
    }

    pub(super) fn is_led(&self) -> bool {
        self.leaders.is_some()
    }

    fn command(&mut self) -> Command {
        let kind = self.swarm.kind(&mut self.dice);
        let by_hand = !self.is_led() || self.dice.chance(10);
        let found = match kind {
            Kind::Grant if by_hand => self.grant().map(Command::Duty),
            Kind::Fire if by_hand => Some(Command::Duty(self.fire())),
            Kind::Admit if by_hand => Some(Command::Duty(self.admit())),
            Kind::Grant | Kind::Fire | Kind::Admit => None,
            Kind::Collect => Some(Command::Duty(self.collect())),
            Kind::Repair => Some(Command::Duty(Duty::Repair(self.any_run()))),
            Kind::ExpireLease => self.expire_lease().map(Command::Duty),
            Kind::ExpireSession => Some(Command::Duty(Duty::Expire(Expire::Session {
                session: self.session(),
                at_most: 1 + self.dice.count(3),
            }))),
            Kind::Advance => self.advance().map(|it| Command::Ask(Ask::Advance(it))),
            Kind::Report => self.report().map(|it| Command::Ask(Ask::Report(it))),
            Kind::Repeat => self.repeat().map(Command::Ask),
            Kind::OldFence => self.under_an_old_fence().map(Command::Ask),
            Kind::Odd => Some(self.odd()),
            other => Some(Command::Ask(self.other(other))),
        };
        found.unwrap_or_else(|| Command::Ask(self.any_ask()))
    }

    /// Something fitting is not to be had: a start, a signal, a nudge.
    fn any_ask(&mut self) -> Ask {
        let kind = match self.dice.below(10) {
            0..5 => Kind::Start,
            5..7 => Kind::Signal,
            7..9 => Kind::Resume,
            _ => Kind::Noop,
        };
        self.other(kind)
    }

    fn repeat(&mut self) -> Option<Ask> {
        self.group_reach(Reached::Repeated);
        self.dice.pick(&self.recent)
    }

    pub(super) fn group_reach(&mut self, it: Reached) {
        self.tape.group.coverage.reach(it);
    }

    pub(super) fn runs(&self) -> Vec<Arc<Run>> {
        live_runs(self.group())
    }

    fn any_run(&mut self) -> RunId {
        run_id(self.dice.below(self.swarm.ids))
    }

    fn session(&mut self) -> SessionId {
        let known: Vec<SessionId> = sessions(&self.tape.group)
            .into_iter()
            .map(|it| it.0)
            .collect();
        self.dice.pick(&known).unwrap_or_default()
    }

    /// An id that nobody used before.
    pub(super) fn new_request(&mut self, prefix: &str) -> RequestId {
        self.asked += 1;
        RequestId::from_stored(&format!("{prefix}{}", self.asked))
    }

    fn request(&mut self) -> RequestId {
        if !self.dice.chance(10) {
            self.asked += 1;
        }
        RequestId::from_stored(&format!("q{}", self.asked))
    }

    fn grant(&mut self) -> Option<Duty> {
        let ready = &self.tape.group.orders().ready;
        let nth = usize::try_from(self.dice.below(ready.len() as u64)).unwrap_or(0);
        let (work, ready) = ready.iter().nth(nth)?;
        let (work, needs) = (work.clone(), ready.needs.clone());
        let session = match needs {
            Needs::Session(session) => session,
            Needs::Workflow(..) | Needs::Step { .. } => self.session(),
        };
        let free_slots = self.dice.count(4);
        Some(Duty::Grant(Grant {
            work,
            session,
            free_slots,
        }))
    }

    /// Mostly up to now; sometimes up to a moment that has not come.
    fn fire(&mut self) -> Duty {
        let ahead = Millis(if self.dice.chance(10) { 5_000 } else { 0 });
        Duty::FireDue {
            up_to: self.now.after(ahead),
            at_most: 1 + self.dice.count(3),
        }
    }

    /// Mostly what ended a while ago; sometimes all of it, sometimes by a time that has not come.
    fn collect(&mut self) -> Duty {
        let now = self.now;
        let mut before = || {
            let ago = [0, 5_000, 60_000, 600_000][self.dice.count(3) as usize];
            let before = Timestamp(now.0.saturating_sub(ago));
            before.after(Millis(if self.dice.chance(5) { 5_000 } else { 0 }))
        };
        let (completed, failed, ids) = (before(), before(), before());
        Duty::Collect(Collect {
            completed,
            failed,
            ids,
            at_most: 1 + self.dice.count(3),
        })
    }

    fn admit(&mut self) -> Duty {
        let waits: Vec<_> = self.group().orders().waits.keys().cloned().collect();
        let limit = self.dice.pick(&waits).unwrap_or_else(|| limit_name("erp"));
        let waiters = Vec::new();
        Duty::Admit(Admit { limit, waiters })
    }

    fn expire_lease(&mut self) -> Option<Duty> {
        Some(Duty::Expire(match self.leased()? {
            (Work::Run(run), fence) => Expire::Drive { run, fence },
            (work, fence) => Expire::Attempt { work, fence },
        }))
    }

    fn leased(&mut self) -> Option<(Work, Fence)> {
        let leases = self.tape.group.orders().leases.values().flatten();
        let leases: Vec<_> = leases
            .map(|(work, lease)| (work.clone(), lease.fence))
            .collect();
        self.dice.pick(&leases)
    }
}

fn remember<T>(memory: &mut Vec<T>, it: T) {
    if memory.len() == REMEMBERED {
        memory.remove(0);
    }
    memory.push(it);
}

/// Live runs, in order of their ids.
pub(super) fn live_runs(group: &Group) -> Vec<Arc<Run>> {
    let first = Key::Run(RunId::from_stored(""));
    let from = group.rows().iter_from(&first);
    let runs = from.map_while(|(_, row)| match row {
        Row::Run(run) => Some(run.clone()),
        _ => None,
    });
    runs.collect()
}

/// Sessions with their processes.
pub(super) fn sessions(group: &Group) -> Vec<(SessionId, ProcessId)> {
    let mut sessions = Vec::new();
    for (key, row) in group.rows().iter_from(&Key::Session(SessionId(0))) {
        let (Key::Session(id), Row::Session(session)) = (key, row) else {
            break;
        };
        sessions.push((*id, session.process.clone()));
    }
    sessions
}

pub(super) fn name(text: &str) -> Name {
    Name::from_stored(text)
}

pub(super) fn text(of: &str) -> Bytes {
    Bytes::copy_from_slice(of.as_bytes())
}

pub(super) fn limit_name(of: &str) -> LimitName {
    LimitName::from_stored(of)
}

pub(super) fn run_id(nth: u64) -> RunId {
    RunId::from_stored(&format!("r{nth}"))
}

pub(super) fn key(n: u32) -> StepKey {
    StepKey {
        scope: "0".into(),
        name: format!("op{n}").as_str().into(),
        occurrence: 0,
    }
}

/// A worker of the usual kind.
pub(super) fn attach(process: &str, session: Option<SessionId>) -> Attach {
    let steps = ["charge", "refund", "find"];
    Attach {
        session,
        process: ProcessId::from_stored(process),
        worker: name(process),
        queue: name("q"),
        workflows: (1..=2).map(|v| (name("order"), Version(v))).collect(),
        steps: steps.iter().map(|step| name(step)).collect(),
        limits: Vec::new(),
        slots: 10,
    }
}
