//! Workers in leader memory: beats, open streams, credit.
//!
//! Invariant: once a session's expiry was proposed, no beat of it is echoed any more, so its worker stops in time.

use std::collections::BTreeMap;

use crate::{
    ids::SessionId,
    seeded::{self, Bug},
};

/// New leaders let sessions expire over this share of a term, not all at once.
const SPREAD_PERCENT: u64 = 10;

/// Workers as the leader hears them.
#[derive(Debug, Default)]
pub struct Sessions(BTreeMap<SessionId, Heard>);

#[derive(Debug, Default)]
struct Heard {
    last_beat: u64,
    expiry_proposed: bool,
    open: bool,
    /// How often a stream was opened: credit is a matter of one stream.
    streams: u64,
    drives: Credit,
    steps: Credit,
}

impl Heard {
    fn credit_of(&mut self, takes: Takes) -> Option<&mut Credit> {
        match takes {
            Takes::Drive => Some(&mut self.drives),
            Takes::Step => Some(&mut self.steps),
            Takes::Nothing => None,
        }
    }
}

/// Totals on the open stream: granted by the worker, used by us.
#[derive(Debug, Default, Clone, Copy)]
struct Credit {
    total: u64,
    used: u64,
}

impl Credit {
    fn free(self) -> u64 {
        self.total.saturating_sub(self.used)
    }
}

/// What a piece of work takes from its worker's credit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    Drive,
    Step,
    /// A local step of a run that it drives already.
    Nothing,
}

/// Credit that was taken, to be given back if nothing comes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken {
    session: SessionId,
    takes: Takes,
    stream: u64,
}

impl Sessions {
    /// It attached: its term begins anew.
    pub(super) fn fresh(&mut self, session: SessionId, mono: u64) {
        let heard = self.0.entry(session).or_default();
        heard.last_beat = mono;
        heard.expiry_proposed = false;
    }

    /// A new leader treats every lease as fresh for one term, and spreads what expires.
    pub(super) fn all_fresh(
        &mut self,
        sessions: impl Iterator<Item = SessionId>,
        mono: u64,
        term_ms: u64,
    ) {
        let sessions: Vec<SessionId> = sessions.collect();
        let count = sessions.len().max(1) as u64;
        for (nth, session) in (0..).zip(sessions) {
            self.fresh(session, mono + term_ms * SPREAD_PERCENT / 100 * nth / count);
        }
    }

    /// Its stream is open here; credit counts from zero.
    pub(super) fn opened(&mut self, session: SessionId, mono: u64) {
        let heard = self.0.entry(session).or_default();
        heard.open = true;
        heard.streams += 1;
        heard.last_beat = heard.last_beat.max(mono);
        heard.drives = Credit::default();
        heard.steps = Credit::default();
    }

    pub(super) fn closed(&mut self, session: SessionId) {
        if let Some(heard) = self.0.get_mut(&session) {
            heard.open = false;
        }
    }

    pub(super) fn close_all(&mut self) {
        for heard in self.0.values_mut() {
            heard.open = false;
        }
    }

    /// It is over; says whether its stream was open.
    pub(super) fn ended(&mut self, session: SessionId) -> bool {
        self.0.remove(&session).is_some_and(|heard| heard.open)
    }

    /// Whether its stream is open here.
    pub fn is_open(&self, session: SessionId) -> bool {
        self.0.get(&session).is_some_and(|heard| heard.open)
    }

    /// Sessions whose stream is open here.
    pub(super) fn all_open(&self) -> Vec<SessionId> {
        let open = self.0.iter().filter(|(_, heard)| heard.open);
        open.map(|(session, _)| *session).collect()
    }

    /// A beat came; says whether it may be echoed.
    pub(super) fn beat(&mut self, session: SessionId, mono: u64) -> bool {
        match self.0.get_mut(&session) {
            Some(heard) if !heard.expiry_proposed || seeded::armed(Bug::RenewalAfterExpiry) => {
                heard.last_beat = mono;
                true
            }
            Some(_) | None => false,
        }
    }

    pub(super) fn credit(&mut self, session: SessionId, drives: u64, steps: u64) {
        if let Some(heard) = self.0.get_mut(&session) {
            heard.drives.total = heard.drives.total.max(drives);
            heard.steps.total = heard.steps.total.max(steps);
        }
    }

    /// How much of this kind it would still take; zero without an open stream.
    pub(super) fn free(&self, session: SessionId, takes: Takes) -> u64 {
        match self
            .0
            .get(&session)
            .filter(|heard| heard.open && !heard.expiry_proposed)
        {
            None => 0,
            Some(heard) => match takes {
                Takes::Drive => heard.drives.free(),
                Takes::Step => heard.steps.free(),
                Takes::Nothing => u64::MAX,
            },
        }
    }

    pub(super) fn take(&mut self, session: SessionId, takes: Takes) -> Taken {
        let mut stream = 0;
        if let Some(heard) = self.0.get_mut(&session) {
            stream = heard.streams;
            if let Some(credit) = heard.credit_of(takes) {
                credit.used += 1;
            }
        }
        Taken {
            session,
            takes,
            stream,
        }
    }

    /// Nothing came of it: the worker can be given something else. Of an earlier stream nothing counts any more.
    pub(super) fn give_back(&mut self, taken: Taken) {
        if let Some(heard) = self.0.get_mut(&taken.session)
            && heard.streams == taken.stream
            && let Some(credit) = heard.credit_of(taken.takes)
        {
            credit.used = credit.used.saturating_sub(1);
        }
    }

    /// Sessions silent for a whole term; each is named once, and is not echoed from here on.
    pub(super) fn overdue(&mut self, mono: u64, term_ms: u64) -> Vec<SessionId> {
        let mut overdue = Vec::new();
        for (session, heard) in &mut self.0 {
            if !heard.expiry_proposed && mono > heard.last_beat + term_ms {
                heard.expiry_proposed = true;
                overdue.push(*session);
            }
        }
        overdue
    }
}
