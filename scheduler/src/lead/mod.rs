//! The leader's thinking, sans IO: what to grant to whom, what has expired, what is due.
//!
//! Invariant: nothing here is the truth. `Hot` is fed on every replica by effects and equals its rebuild from rows; the
//! duties proposed are judged again in `apply`. Time is an argument: `mono` is this process's monotonic clock in
//! milliseconds, `now` the group clock.
//! Not here: sockets, clocks, rows (the shell in `node` performs outputs).

mod hot;
mod matching;
mod sessions;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub use hot::Hot;
pub use sessions::Sessions;

use sessions::Taken;

use crate::{
    bounds,
    effect::Effect,
    entry::{Admit, Collect, Duty, Expire, Grant, Work},
    ids::{Epoch, Fence, LimitName, Name, RunId, SessionId},
    orders::Orders,
    reply::{JournalRow, StepGrant},
    seeded::{self, Bug},
    time::Timestamp,
    values::run::{Run, Session},
};

/// Grants under way at once: enough to fill entries of 512 commands, few enough that a lost leader leaves little to redo.
const GRANTS_IN_FLIGHT_MAX: usize = 1_024;
/// A duty that was refused for want of a leader is not tried again before this.
const RETRY_AFTER_MS: u64 = 50;

/// What the leader's times are; equal on all nodes.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// A session silent for this long is lost.
    pub term_ms: u64,
    /// Beats are echoed only while the newest quorum acknowledgement is younger than this.
    pub election_lease_ms: u64,
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// The picture as rows have it: at start, after an installed snapshot, or when too much was lost.
    Rebuild {
        /// From the rows.
        orders: Box<Orders>,
        /// All session rows.
        sessions: Vec<Arc<Session>>,
    },
    /// One run as its row has it now; none: it is not live any more.
    Reread(RunId, Option<Arc<Run>>),
    /// Effects of an applied entry, in order.
    Effects(Vec<Effect>),
    /// This node's own `BecomeLeader` was applied.
    Won(Epoch),
    /// Another's was applied, or this node does not lead any more.
    Lost,
    /// Time passed.
    Tick,
    /// A work stream was opened under a session.
    Opened(SessionId),
    /// It is gone.
    Closed(SessionId),
    /// A beat came on it; the age of the newest quorum acknowledgement goes along.
    Beat {
        /// Whose.
        session: SessionId,
        /// Its number.
        number: u64,
        /// How old the newest acknowledgement by a quorum is.
        ack_age_ms: u64,
    },
    /// What the worker will take on this stream, in totals.
    Credit {
        /// Whose.
        session: SessionId,
        /// Drives.
        drives: u64,
        /// Steps by Execute.
        steps: u64,
    },
    /// A heartbeat without news: the attempt is alive.
    Alive(Work, Fence),
    /// The start of a run is being proposed; whatever is proposed from here on comes after it.
    Starting {
        /// Its id.
        run: RunId,
        /// Of this workflow.
        workflow: Name,
    },
    /// There is something whose time is over by these bounds.
    Overripe(Collect),
    /// A duty was answered, or its outcome is unknown.
    Done {
        /// As it was proposed.
        id: u64,
        /// What came of it.
        came: Came,
    },
}

/// What came of a duty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// It was done.
    Done,
    /// It was done, and the same duty would find more.
    More,
    /// It was not to be done any more: nothing has changed.
    Moot,
    /// It was not taken, or came under an epoch that was over: nothing has changed, and it is still to be done.
    Refused,
    /// It may not have been applied.
    Unknown,
}

impl Came {
    /// Whether it may be as if it had never been asked for.
    fn failed(self) -> bool {
        matches!(self, Self::Refused | Self::Unknown)
    }

    /// Whether it has to be looked at again.
    fn leaves_more(self) -> bool {
        matches!(self, Self::More) || self.failed()
    }
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Propose this duty under the epoch, and answer with `Done`.
    Propose {
        /// To be named in `Done`.
        id: u64,
        /// What.
        duty: Duty,
    },
    /// Echo a beat.
    Echo {
        /// To whom.
        session: SessionId,
        /// Its number.
        number: u64,
    },
    /// Send a run to its driver, with what it lacks of the journal.
    Drive {
        /// To whom.
        session: SessionId,
        /// Which run.
        run: RunId,
        /// Under which fence.
        fence: Fence,
        /// Its local steps that were granted along.
        grants: Vec<StepGrant>,
    },
    /// Send a step, a probe or an undo to be executed.
    Execute {
        /// To whom.
        session: SessionId,
        /// What.
        work: Work,
        /// The right to it.
        grant: StepGrant,
    },
    /// Tell a driver what came from outside.
    News {
        /// To whom.
        session: SessionId,
        /// Which run.
        run: RunId,
        /// The driver's fence.
        fence: Fence,
        /// The rows that hold it.
        rows: Vec<JournalRow>,
        /// Local steps that may begin.
        grants: Vec<StepGrant>,
    },
    /// Offer again whatever of these leases the worker does not hold.
    Reoffer {
        /// To whom.
        session: SessionId,
        /// Its live leases.
        leases: Vec<(Work, Fence)>,
    },
    /// Tell a worker to stop an attempt or a drive.
    Stop {
        /// Whom.
        session: SessionId,
        /// What.
        work: Work,
        /// Under which fence.
        fence: Fence,
        /// For people.
        why: &'static str,
    },
    /// Tell a worker that its session is over, and close its stream.
    Ended(SessionId),
}

/// What a duty under way is for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Pending {
    Grant(Work, Taken),
    Admit(LimitName),
    Session(SessionId),
    Lease(Work, Fence),
    Fire,
    Collect(Collect),
}

/// The leader's thinking for one partition. Lives on every replica; acts only between `Won` and `Lost`.
#[derive(Debug)]
pub struct Lead {
    terms: Terms,
    hot: Hot,
    sessions: Sessions,
    epoch: Option<Epoch>,
    pending: BTreeMap<u64, Pending>,
    /// Sessions whose expiry may not have been applied: proposed again, and not at once.
    expire_again: BTreeSet<SessionId>,
    next_id: u64,
    firing: bool,
    collecting: bool,
    quiet_until: u64,
    out: Vec<Output>,
}

impl Lead {
    /// Nothing known yet: begin with `Rebuild`.
    pub fn new(terms: Terms) -> Self {
        Self {
            terms,
            hot: Hot::default(),
            sessions: Sessions::default(),
            epoch: None,
            pending: BTreeMap::new(),
            expire_again: BTreeSet::new(),
            next_id: 1,
            firing: false,
            collecting: false,
            quiet_until: 0,
            out: Vec::new(),
        }
    }

    /// The picture, for figures and for comparison with its rebuild.
    pub fn hot(&self) -> &Hot {
        &self.hot
    }

    /// Workers whose stream is open here.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// The epoch it acts under.
    pub fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    /// Takes one input in, and says what to do now.
    pub fn step(&mut self, input: Input, mono: u64, now: Timestamp) -> Vec<Output> {
        match input {
            Input::Rebuild { orders, sessions } => self.rebuild(&orders, &sessions, mono),
            Input::Reread(id, run) => self.hot.reread(&id, run.as_deref(), mono),
            Input::Effects(effects) => {
                for effect in effects {
                    self.effect(effect, mono);
                }
            }
            Input::Won(epoch) => self.won(epoch, mono),
            Input::Lost => self.lost(),
            Input::Tick => {}
            Input::Opened(session) => self.opened(session, mono),
            Input::Closed(session) => self.sessions.closed(session),
            Input::Beat {
                session,
                number,
                ack_age_ms,
            } => {
                self.beat(session, number, ack_age_ms, mono);
            }
            Input::Credit {
                session,
                drives,
                steps,
            } => {
                self.sessions.credit(session, drives, steps);
                self.hot.stir_for(session);
            }
            Input::Alive(work, fence) => self.hot.alive(&work, fence, mono),
            Input::Starting { run, workflow } => self.starting(&run, &workflow),
            Input::Overripe(it) => self.collect(it),
            Input::Done { id, came } => self.done(id, came, mono),
        }
        if self.epoch.is_some() && mono >= self.quiet_until {
            self.think(mono, now);
        }
        std::mem::take(&mut self.out)
    }

    fn rebuild(&mut self, orders: &Orders, sessions: &[Arc<Session>], mono: u64) {
        self.hot = Hot::rebuild(orders, sessions, mono);
        for session in sessions.iter().filter(|session| !session.leaving) {
            self.fresh(session.id, mono);
        }
        if self.epoch.is_some() {
            self.end_those_who_left();
        }
    }

    /// Its term begins anew, unless its expiry is under way: that may still be applied, so no beat may be echoed.
    fn fresh(&mut self, session: SessionId, mono: u64) {
        let expiry = Pending::Session(session);
        let forgotten = seeded::armed(Bug::ExpiryForgottenOnAttach);
        let under_way = self.expire_again.contains(&session)
            || self.pending.values().any(|pending| *pending == expiry);
        if forgotten || !under_way {
            self.sessions.fresh(session, mono);
        }
    }

    fn end_those_who_left(&mut self) {
        for session in self.hot.left_holding() {
            self.expire_session(session);
        }
    }

    fn won(&mut self, epoch: Epoch, mono: u64) {
        self.epoch = Some(epoch);
        self.pending.clear();
        self.expire_again.clear();
        self.firing = false;
        self.collecting = false;
        self.quiet_until = 0;
        // Each lease lives one more term: this node heard no beat before.
        if !seeded::armed(Bug::NewLeaderExpiresAtOnce) {
            self.sessions
                .all_fresh(self.hot.session_ids(), mono, self.terms.term_ms);
        }
        self.hot.all_fresh(mono);
        self.end_those_who_left();
        // Streams may have opened before this node acted: what was granted meanwhile was told to nobody.
        for session in self.sessions.all_open() {
            self.reoffer(session);
        }
    }

    fn lost(&mut self) {
        self.epoch = None;
        self.pending.clear();
        self.expire_again.clear();
        self.sessions.close_all();
    }

    fn opened(&mut self, session: SessionId, mono: u64) {
        self.sessions.opened(session, mono);
        self.reoffer(session);
        self.hot.stir_for(session);
    }

    fn reoffer(&mut self, session: SessionId) {
        let leases = self.hot.leases_of(session);
        if !leases.is_empty() {
            self.out.push(Output::Reoffer { session, leases });
        }
    }

    /// Echoed only under the own applied epoch, with a fresh quorum, and never after the session's expiry was proposed.
    fn beat(&mut self, session: SessionId, number: u64, ack_age_ms: u64, mono: u64) {
        let fresh = ack_age_ms < self.terms.election_lease_ms
            || seeded::armed(Bug::BeatEchoedWithoutQuorum);
        let acts = self.epoch.is_some() && fresh;
        if acts && self.hot.knows(session) && self.sessions.beat(session, mono) {
            self.out.push(Output::Echo { session, number });
        }
    }

    fn done(&mut self, id: u64, came: Came, mono: u64) {
        let Some(pending) = self.pending.remove(&id) else {
            return;
        };
        let unknown = came.failed();
        if unknown {
            self.quiet_until = mono + RETRY_AFTER_MS;
        }
        match pending {
            Pending::Grant(work, taken) => {
                if matches!(came, Came::Moot | Came::Refused) {
                    self.sessions.give_back(taken);
                }
                self.hot.release(&work);
            }
            Pending::Admit(limit) => self.hot.limit_looked(&limit, came.leaves_more()),
            Pending::Session(session) => {
                if unknown {
                    // Where no leader may write it is refused in no time: at once again would go round for ever.
                    self.expire_again.insert(session);
                } else if came == Came::More && self.is_left_of(session) {
                    self.expire_session(session);
                }
            }
            Pending::Lease(work, fence) => {
                if unknown {
                    self.hot.alive(&work, fence, mono); // looked at again when it is overdue once more
                }
            }
            Pending::Collect(it) => {
                self.collecting = false;
                if came == Came::More {
                    self.collect(it);
                }
            }
            Pending::Fire => {
                self.firing = false;
                if came.leaves_more() {
                    self.hot.due_at(Timestamp(0));
                }
            }
        }
    }

    fn effect(&mut self, effect: Effect, mono: u64) {
        let acts = self.epoch.is_some();
        match effect {
            Effect::Epoch { .. } | Effect::RunChanged { .. } => {}
            Effect::Granted {
                work,
                session,
                fence,
                grants,
                driver,
            } => {
                if acts && self.sessions.is_open(session) {
                    self.granted(work, session, fence, grants, driver);
                }
            }
            Effect::JournalGrew {
                run,
                session,
                fence,
                row,
                ..
            } => {
                if acts && self.sessions.is_open(session) {
                    let (rows, grants) = (vec![Arc::unwrap_or_clone(row)], Vec::new());
                    self.out.push(Output::News {
                        session,
                        run,
                        fence,
                        rows,
                        grants,
                    });
                }
            }
            Effect::Stop {
                work,
                session,
                fence,
                why,
            } => {
                if acts && self.sessions.is_open(session) {
                    self.out.push(Output::Stop {
                        session,
                        work,
                        fence,
                        why,
                    });
                }
            }
            Effect::SessionAttached { session, .. } => {
                self.fresh(session, mono);
                self.hot.take(effect, mono);
            }
            Effect::SessionEnded(session) => {
                if self.sessions.ended(session) && acts {
                    self.out.push(Output::Ended(session));
                }
                self.hot.take(effect, mono);
                if acts && self.hot.holds(session) {
                    self.expire_session(session); // it has left, and more is held than one command ends
                }
            }
            Effect::Ready { .. }
            | Effect::NotReady(_)
            | Effect::LeaseBegan { .. }
            | Effect::Progressed { .. }
            | Effect::LeaseEnded { .. }
            | Effect::Driven { .. }
            | Effect::Due(_)
            | Effect::LimitWaits { .. } => self.hot.take(effect, mono),
        }
    }

    fn granted(
        &mut self,
        work: Work,
        session: SessionId,
        fence: Fence,
        mut grants: Vec<StepGrant>,
        driver: Option<Fence>,
    ) {
        match (work, driver) {
            (Work::Run(run), _) => self.out.push(Output::Drive {
                session,
                run,
                fence,
                grants,
            }),
            (Work::Step(run, _), Some(fence)) => {
                let rows = Vec::new();
                self.out.push(Output::News {
                    session,
                    run,
                    fence,
                    rows,
                    grants,
                });
            }
            (work @ (Work::Step(..) | Work::Undo(..)), _) => {
                if let Some(grant) = grants.pop() {
                    self.out.push(Output::Execute {
                        session,
                        work,
                        grant,
                    });
                }
            }
        }
    }

    /// Whether there is anything of it that an expiry would end.
    fn is_left_of(&self, session: SessionId) -> bool {
        self.hot.knows(session) || self.hot.holds(session)
    }

    fn think(&mut self, mono: u64, now: Timestamp) {
        for session in std::mem::take(&mut self.expire_again) {
            if self.is_left_of(session) {
                self.expire_session(session);
            }
        }
        for session in self.sessions.overdue(mono, self.terms.term_ms) {
            if self.hot.knows(session) {
                self.expire_session(session);
            } else {
                self.sessions.ended(session);
            }
        }
        for (work, fence) in self.hot.overdue(mono) {
            let duty = match &work {
                Work::Run(run) => Expire::Drive {
                    run: run.clone(),
                    fence,
                },
                Work::Step(..) | Work::Undo(..) => Expire::Attempt {
                    work: work.clone(),
                    fence,
                },
            };
            self.propose(Pending::Lease(work, fence), Duty::Expire(duty));
        }
        if !self.firing && self.hot.take_due(now) {
            self.firing = true;
            let at_most = u32::try_from(bounds::RUNS_PER_DUTY_MAX).unwrap_or(u32::MAX);
            self.propose(
                Pending::Fire,
                Duty::FireDue {
                    up_to: now,
                    at_most,
                },
            );
        }
        for limit in self.hot.limits_to_look_at(now) {
            let duty = Duty::Admit(Admit {
                limit: limit.clone(),
                waiters: Vec::new(),
            });
            self.propose(Pending::Admit(limit), duty);
        }
        let room = GRANTS_IN_FLIGHT_MAX.saturating_sub(self.pending.len());
        for (grant, taken) in self.hot.matched(&mut self.sessions, room) {
            self.grant(grant, taken);
        }
    }

    /// A grant right behind the start saves the run a commit. If the start does not begin it, the grant is moot.
    fn starting(&mut self, run: &RunId, workflow: &Name) {
        if self.epoch.is_none() || self.pending.len() >= GRANTS_IN_FLIGHT_MAX {
            return;
        }
        if let Some((grant, taken)) = self.hot.foreseen(&mut self.sessions, run, workflow) {
            self.grant(grant, taken);
        }
    }

    fn grant(&mut self, grant: Grant, taken: Taken) {
        let pending = Pending::Grant(grant.work.clone(), taken);
        self.propose(pending, Duty::Grant(grant));
    }

    /// One after the other: nothing waits for it.
    fn collect(&mut self, it: Collect) {
        if self.epoch.is_some() && !self.collecting {
            self.collecting = true;
            self.propose(Pending::Collect(it), Duty::Collect(it));
        }
    }

    fn expire_session(&mut self, session: SessionId) {
        let at_most = u32::try_from(bounds::RUNS_PER_DUTY_MAX).unwrap_or(u32::MAX);
        let duty = Duty::Expire(Expire::Session { session, at_most });
        self.propose(Pending::Session(session), duty);
    }

    fn propose(&mut self, pending: Pending, duty: Duty) {
        let id = self.next_id;
        self.next_id += 1;
        self.pending.insert(id, pending);
        self.out.push(Output::Propose { id, duty });
    }
}

#[cfg(test)]
mod tests;
