//! Matching: which ready work goes to which session.
//!
//! A run goes to the worker that keeps its function, if that one has room; else to the one with the most room. Work that
//! workers died of goes only to one that holds nothing and that nothing is on its way to: two of the kind never go to one
//! worker, whose death would be held against both. Within one kind of work the longest waiting goes first.

use super::{
    Hot, Sessions,
    sessions::{Taken, Takes},
};
use crate::{
    bounds,
    effect::Needs,
    entry::{Grant, Work},
    ids::{Name, RunId, SessionId, Version},
    time::Timestamp,
    values::run::ReadyWork,
};

impl Hot {
    /// Grants to propose now, at most `room`; what they take of their workers' credit is taken.
    pub(super) fn matched(&mut self, sessions: &mut Sessions, room: usize) -> Vec<(Grant, Taken)> {
        let mut grants = Vec::new();
        let stirred = std::mem::take(&mut self.passing().stirred);
        for needs in stirred {
            if grants.len() >= room {
                self.passing().stirred.insert(needs); // the next answer looks at it again
                continue;
            }
            self.match_queue(&needs, sessions, room, &mut grants);
        }
        grants
    }

    fn match_queue(
        &mut self,
        needs: &Needs,
        sessions: &mut Sessions,
        room: usize,
        grants: &mut Vec<(Grant, Taken)>,
    ) {
        let Some(queue) = self.queues.get(needs) else {
            return;
        };
        let mut chosen: Vec<(Work, SessionId, Taken)> = Vec::new();
        for (_, work) in queue {
            if grants.len() + chosen.len() >= room {
                break;
            }
            let Some(ready) = self.ready.get(work) else {
                continue;
            };
            if self.is_reserved(work) {
                continue;
            }
            let is_idle = |session| {
                self.is_idle(session) && chosen.iter().all(|(_, other, _)| *other != session)
            };
            match self.choose(work, ready, sessions, is_idle) {
                Some(session) => {
                    let taken = sessions.take(session, takes(work, needs));
                    chosen.push((work.clone(), session, taken));
                }
                None if ready.alone => {} // the next one may not be as choosy
                None => break,
            }
        }
        for (work, session, taken) in chosen {
            grants.push((self.reserve(work, session), taken));
        }
    }

    fn reserve(&mut self, work: Work, session: SessionId) -> Grant {
        let free_slots = self.free_slots(session);
        self.passing().reserved.insert(work.clone(), session);
        Grant {
            work,
            session,
            free_slots,
        }
    }

    /// A grant of a run whose start is not applied yet. None if that overtook anything that waits. The version that it will be
    /// pinned to is not known here: the newest that is served is tried, and with another one the grant is moot.
    pub(super) fn foreseen(
        &mut self,
        sessions: &mut Sessions,
        run: &RunId,
        workflow: &Name,
    ) -> Option<(Grant, Taken)> {
        let newest = Needs::Workflow(workflow.clone(), Version(u32::MAX));
        let (needs, _) = self.servers.range(..=newest).next_back()?;
        let fits = matches!(needs, Needs::Workflow(name, _) if name == workflow);
        let work = Work::Run(run.clone());
        let known = self.is_reserved(&work) || self.is_known(&work);
        if !fits || known || self.queues.contains_key(needs) {
            return None;
        }
        let ready = ReadyWork {
            needs: needs.clone(),
            since: Timestamp(0),
            prefers: None,
            alone: false,
        };
        let session = self.choose(&work, &ready, sessions, |session| self.is_idle(session))?;
        let taken = sessions.take(session, Takes::Drive);
        Some((self.reserve(work, session), taken))
    }

    fn choose(
        &self,
        work: &Work,
        ready: &ReadyWork,
        sessions: &Sessions,
        is_idle: impl Fn(SessionId) -> bool,
    ) -> Option<SessionId> {
        let takes = takes(work, &ready.needs);
        let may = |session: &SessionId| {
            sessions.free(*session, takes) > 0 && (!ready.alone || is_idle(*session))
        };
        let servers = self.servers.get(&ready.needs)?;
        if let Some(prefers) = ready.prefers.filter(|it| servers.contains(it) && may(it)) {
            return Some(prefers);
        }
        servers
            .iter()
            .copied()
            .filter(may)
            .max_by_key(|session| sessions.free(*session, takes))
    }

    fn is_reserved(&self, work: &Work) -> bool {
        self.reserved().contains_key(work)
    }

    /// How many local steps a driver may be granted along with a run.
    fn free_slots(&self, session: SessionId) -> u32 {
        let slots = self
            .sessions
            .get(&session)
            .map_or(0, |abilities| abilities.slots);
        let most = u32::try_from(bounds::GRANTS_PER_COMMAND_MAX).unwrap_or(u32::MAX);
        slots.min(most)
    }
}

fn takes(work: &Work, needs: &Needs) -> Takes {
    match (work, needs) {
        (Work::Run(_), _) => Takes::Drive,
        (Work::Step(..) | Work::Undo(..), Needs::Session(_)) => Takes::Nothing,
        (Work::Step(..) | Work::Undo(..), Needs::Workflow(..) | Needs::Step { .. }) => Takes::Step,
    }
}
