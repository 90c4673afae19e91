//! The leader's thinking under test: the real `Lead` of each node, fed with what is applied, judged by what it puts out.
//!
//! Invariant: a beat is echoed only under the node's own applied epoch, with a fresh quorum, and never after its session's
//! expiry was proposed; a session expires only after a silent term; who has no open stream gets nothing; what a leader
//! believes of ready work, leases and sessions is what the rows say. Not here: who beats and when (`leaders`).

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use holdfast_scheduler::{
    effect::Effect,
    entry::{Duty, Expire},
    ids::{Epoch, Name, NodeId, RunId, SessionId},
    lead::{Came, Input, Lead, Output, Terms},
    orders::Orders,
    rows::{Key, MemRows, Row},
    time::{Millis, Timestamp},
    values::run::Session,
};

use super::{
    broken::{Broken, must},
    coverage::{Coverage, Reached},
};

/// As a cluster has them by default.
pub const TERMS: Terms = Terms {
    term_ms: 5_000,
    election_lease_ms: 400,
};

/// What happens to the leaders' thinking beside what is applied.
#[derive(Debug, Clone)]
pub enum Act {
    /// There are so many nodes from here on.
    Nodes(u32),
    /// A node's monotonic clock stands here.
    Time { node: usize, mono: u64 },
    /// A node looks up.
    Tick { node: usize },
    /// A worker opened a stream to a node.
    Opened { node: usize, session: SessionId },
    /// It is gone.
    Closed { node: usize, session: SessionId },
    /// A beat came on it.
    Beat {
        node: usize,
        session: SessionId,
        number: u64,
        ack_age_ms: u64,
    },
    /// What the worker will take, in totals.
    Credit {
        node: usize,
        session: SessionId,
        total: u64,
    },
    /// A duty was answered.
    Done { node: usize, id: u64, came: Came },
    /// The start of a run is on its way into the log.
    Starting {
        node: usize,
        run: RunId,
        workflow: Name,
    },
    /// A node applies nothing for now.
    Lag { node: usize },
    /// It applies what it missed.
    CatchUp { node: usize },
}

impl Act {
    /// To which node.
    fn node(&self) -> usize {
        match self {
            Self::Nodes(_) => usize::MAX,
            Self::Time { node, .. }
            | Self::Tick { node }
            | Self::Opened { node, .. }
            | Self::Closed { node, .. }
            | Self::Beat { node, .. }
            | Self::Credit { node, .. }
            | Self::Done { node, .. }
            | Self::Starting { node, .. }
            | Self::Lag { node }
            | Self::CatchUp { node } => *node,
        }
    }

    /// As the leader's thinking takes it in.
    fn input(&self) -> Option<Input> {
        Some(match self.clone() {
            Self::Nodes(_) | Self::Time { .. } | Self::Lag { .. } | Self::CatchUp { .. } => {
                return None;
            }
            Self::Tick { .. } => Input::Tick,
            Self::Opened { session, .. } => Input::Opened(session),
            Self::Closed { session, .. } => Input::Closed(session),
            Self::Beat {
                session,
                number,
                ack_age_ms,
                ..
            } => Input::Beat {
                session,
                number,
                ack_age_ms,
            },
            Self::Credit { session, total, .. } => Input::Credit {
                session,
                drives: total,
                steps: total,
            },
            Self::Done { id, came, .. } => Input::Done { id, came },
            Self::Starting { run, workflow, .. } => Input::Starting { run, workflow },
        })
    }
}

/// All nodes.
#[derive(Debug, Default)]
pub struct Leads {
    nodes: Vec<Node>,
}

/// One node's thinking, and what must hold of it.
#[derive(Debug)]
pub struct Node {
    boot: String,
    lead: Lead,
    mono: u64,
    /// Since it leads: the group clock and its own then.
    since: Option<(Timestamp, u64)>,
    lags: bool,
    missed: VecDeque<Vec<Effect>>,
    /// Duties proposed and not answered.
    pub pending: BTreeMap<u64, Duty>,
    open: BTreeSet<SessionId>,
    /// When each session was last known to live, by this node's clock.
    alive: BTreeMap<SessionId, u64>,
    expiring: BTreeSet<SessionId>,
    left: BTreeSet<SessionId>,
}

impl Leads {
    /// One of them.
    pub fn node(&self, node: usize) -> Option<&Node> {
        self.nodes.get(node)
    }

    /// The group clock of the node that leads; zero where none does.
    pub fn now(&self) -> Timestamp {
        let clocks = self.nodes.iter().filter(|node| !node.lags).map(Node::now);
        clocks.max().unwrap_or_default()
    }

    /// Something happens to one of them.
    ///
    /// # Errors
    /// What did not hold.
    pub fn act(
        &mut self,
        act: &Act,
        rows: &MemRows,
        orders: &Orders,
        coverage: &mut Coverage,
    ) -> Result<(), Broken> {
        if let Act::Nodes(count) = act {
            self.nodes = (1..=*count)
                .map(|n| Node::new(NodeId(u64::from(n))))
                .collect();
            return Ok(());
        }
        let Some(it) = self.nodes.get_mut(act.node()) else {
            return Ok(());
        };
        match act {
            Act::Time { mono, .. } => it.mono = it.mono.max(*mono),
            Act::Lag { .. } => it.lags = true,
            Act::CatchUp { .. } => {
                it.lags = false;
                for effects in std::mem::take(&mut it.missed) {
                    it.applied(effects, rows, coverage)?;
                }
                it.sees(rows, orders)?;
            }
            _ => {
                if let Some(input) = act.input() {
                    it.told(act, input, coverage)?;
                }
            }
        }
        Ok(())
    }

    /// An entry was applied on every node that does not lag.
    ///
    /// # Errors
    /// What did not hold.
    pub fn applied(
        &mut self,
        effects: &[Effect],
        rows: &MemRows,
        orders: &Orders,
        coverage: &mut Coverage,
    ) -> Result<(), Broken> {
        for node in &mut self.nodes {
            if node.lags {
                node.missed.push_back(effects.to_vec());
            } else {
                node.applied(effects.to_vec(), rows, coverage)?;
                node.sees(rows, orders)?;
            }
        }
        Ok(())
    }

    /// The picture was lost, and is made anew from the rows.
    ///
    /// # Errors
    /// What did not hold.
    pub fn rebuild(
        &mut self,
        rows: &MemRows,
        orders: &Orders,
        coverage: &mut Coverage,
    ) -> Result<(), Broken> {
        for node in self.nodes.iter_mut().filter(|node| !node.lags) {
            let sessions = sessions(rows);
            for session in &sessions {
                node.fresh(session.id);
            }
            let orders = Box::new(orders.clone());
            node.step(Input::Rebuild { orders, sessions }, None, coverage)?;
        }
        Ok(())
    }
}

impl Node {
    fn new(id: NodeId) -> Self {
        Self {
            boot: format!("b{id}"),
            lead: Lead::new(TERMS),
            mono: 0,
            since: None,
            lags: false,
            missed: VecDeque::new(),
            pending: BTreeMap::new(),
            open: BTreeSet::new(),
            alive: BTreeMap::new(),
            expiring: BTreeSet::new(),
            left: BTreeSet::new(),
        }
    }

    /// The epoch that it acts under.
    pub fn epoch(&self) -> Option<Epoch> {
        self.lead.epoch()
    }

    /// The group clock, if it leads.
    fn now(&self) -> Timestamp {
        let now = |(since, mono): (Timestamp, u64)| since.after(Millis(self.mono - mono));
        self.since.map(now).unwrap_or_default()
    }

    fn fresh(&mut self, session: SessionId) {
        self.alive.insert(session, self.mono);
    }

    fn told(&mut self, act: &Act, input: Input, coverage: &mut Coverage) -> Result<(), Broken> {
        match act {
            Act::Opened { session, .. } => {
                self.open.insert(*session);
                let alive = self.alive.entry(*session).or_default();
                *alive = self.mono.max(*alive);
            }
            Act::Closed { session, .. } => {
                self.open.remove(session);
            }
            Act::Done { id, .. } => {
                self.pending.remove(id);
            }
            _ => {}
        }
        self.step(input, Some(act), coverage)
    }

    fn applied(
        &mut self,
        effects: Vec<Effect>,
        rows: &MemRows,
        coverage: &mut Coverage,
    ) -> Result<(), Broken> {
        let mut gathered = Vec::new();
        let mut gone = Vec::new();
        for effect in effects {
            match effect {
                Effect::Epoch { epoch, boot } => {
                    self.step(
                        Input::Effects(std::mem::take(&mut gathered)),
                        None,
                        coverage,
                    )?;
                    self.epoch_applied(Epoch(epoch), boot.as_str(), rows, coverage)?;
                }
                other => {
                    match &other {
                        Effect::SessionAttached { session, .. } => {
                            self.fresh(*session);
                            self.left.remove(session);
                        }
                        Effect::SessionEnded(session) => {
                            self.left.insert(*session);
                            gone.push(*session);
                        }
                        _ => {}
                    }
                    gathered.push(other);
                }
            }
        }
        self.step(Input::Effects(gathered), None, coverage)?;
        for session in gone {
            self.open.remove(&session);
        }
        Ok(())
    }

    fn epoch_applied(
        &mut self,
        epoch: Epoch,
        boot: &str,
        rows: &MemRows,
        coverage: &mut Coverage,
    ) -> Result<(), Broken> {
        self.pending.clear();
        if boot != self.boot {
            self.since = None;
            self.open.clear();
            return self.step(Input::Lost, None, coverage);
        }
        self.since = Some((clock(rows), self.mono));
        self.expiring.clear(); // what it proposed under an earlier epoch is void
        let known: Vec<SessionId> = self.lead.hot().session_ids().collect();
        for session in known {
            self.fresh(session);
        }
        self.step(Input::Won(epoch), None, coverage)
    }

    fn step(
        &mut self,
        input: Input,
        cause: Option<&Act>,
        coverage: &mut Coverage,
    ) -> Result<(), Broken> {
        let outputs = self.lead.step(input, self.mono, self.now());
        let beat = matches!(cause, Some(Act::Beat { .. }));
        let mut echoed = false;
        for output in outputs {
            must!(
                self.lead.epoch().is_some(),
                "S19",
                "{} does not lead, and says {output:?}",
                self.boot
            );
            match output {
                Output::Propose { id, duty } => self.proposes(id, duty, coverage)?,
                Output::Echo { session, number } => {
                    echoed = true;
                    self.echoes(session, number, cause)?;
                }
                Output::Reoffer { session, .. } => {
                    coverage.reach(Reached::Reoffered);
                    self.may_tell(session)?;
                }
                Output::Drive { session, .. }
                | Output::Execute { session, .. }
                | Output::News { session, .. }
                | Output::Stop { session, .. } => self.may_tell(session)?,
                Output::Ended(session) => {
                    self.open.remove(&session);
                }
            }
        }
        match (beat, echoed) {
            (true, true) => coverage.reach(Reached::Echoed),
            (true, false) => coverage.reach(Reached::NotEchoed),
            (false, _) => {}
        }
        Ok(())
    }

    fn may_tell(&self, session: SessionId) -> Result<(), Broken> {
        must!(
            self.open.contains(&session),
            "S9",
            "{} tells session {session}, whose stream is not open there",
            self.boot
        );
        Ok(())
    }

    fn echoes(
        &mut self,
        session: SessionId,
        number: u64,
        cause: Option<&Act>,
    ) -> Result<(), Broken> {
        let Some(Act::Beat {
            session: of,
            number: nth,
            ack_age_ms,
            ..
        }) = cause
        else {
            must!(
                false,
                "S6",
                "a beat of session {session} is echoed that never came"
            );
            return Ok(());
        };
        must!(
            (*of, *nth) == (session, number),
            "S6",
            "another beat is echoed than came"
        );
        let lease = TERMS.election_lease_ms;
        must!(
            *ack_age_ms < lease,
            "S6",
            "a beat of session {session} is echoed, the newest word of a quorum is {ack_age_ms} ms old"
        );
        must!(
            !self.expiring.contains(&session),
            "S6",
            "a beat of session {session} is echoed, its expiry was proposed"
        );
        self.alive.insert(session, self.mono);
        Ok(())
    }

    fn proposes(&mut self, id: u64, duty: Duty, coverage: &mut Coverage) -> Result<(), Broken> {
        coverage.reach(Reached::Led);
        match &duty {
            Duty::Expire(Expire::Session { session, .. }) => {
                let silent_since = self.alive.get(session).copied().unwrap_or_default();
                let silent = self.mono > silent_since + TERMS.term_ms;
                let begun = self.left.contains(session) || self.expiring.contains(session);
                must!(
                    silent || begun,
                    "S6",
                    "session {session} expires at {}, it showed life at {silent_since}",
                    self.mono
                );
                if silent {
                    coverage.reach(Reached::Lapsed);
                }
                self.expiring.insert(*session);
            }
            Duty::Grant(grant) => {
                let session = grant.session;
                self.may_tell(session)?;
                let lost = self.expiring.contains(&session);
                must!(
                    !lost,
                    "S6",
                    "{:?} goes to session {session}, whose expiry was proposed",
                    grant.work
                );
            }
            _ => {}
        }
        self.pending.insert(id, duty);
        Ok(())
    }

    /// What it believes is what the rows say.
    fn sees(&self, rows: &MemRows, orders: &Orders) -> Result<(), Broken> {
        let hot = self.lead.hot();
        let leases: usize = orders.leases.values().map(BTreeMap::len).sum();
        let (ready, leased) = (hot.ready_count(), hot.lease_count());
        must!(
            ready == orders.ready.len(),
            "S20",
            "{} believes in {ready} ready, the rows in {}",
            self.boot,
            orders.ready.len()
        );
        must!(
            leased == leases,
            "S20",
            "{} believes in {leased} leases, the rows in {leases}",
            self.boot
        );
        let known = sessions(rows);
        let known = known.iter().filter(|session| !session.leaving);
        let same = known.map(|session| session.id).eq(hot.session_ids());
        must!(
            same,
            "S20",
            "{} believes in other sessions than the rows",
            self.boot
        );
        Ok(())
    }
}

fn clock(rows: &MemRows) -> Timestamp {
    match rows.iter_from(&Key::Group).next() {
        Some((_, Row::Group(group))) => group.clock,
        _ => Timestamp::default(),
    }
}

fn sessions(rows: &MemRows) -> Vec<Arc<Session>> {
    let from = rows.iter_from(&Key::Session(SessionId(0)));
    let sessions = from.map_while(|(_, row)| match row {
        Row::Session(session) => Some(session.clone()),
        _ => None,
    });
    sessions.collect()
}
