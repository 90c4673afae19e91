//! Orders: what stands in which order, in the memory of every replica.
//!
//! Invariant: fed from row changes in apply order, equal to `rebuild` from the rows at every position. Rows hold facts;
//! nothing here is a fact. Not here: which work goes to whom (`lead`).

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    effect::Effect,
    entry::Work,
    ids::{LimitName, ProcessId, RunId, SessionId},
    rows::{Alike, Fault, Key, ReadRows, Row, Stretch},
    seeded::{self, Bug},
    time::Timestamp,
    values::run::{LiveLease, Part, ReadyWork, Run},
};

/// The orders of one partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Orders {
    /// Work that waits for a worker.
    pub ready: BTreeMap<Work, ReadyWork>,
    /// Live leases, by whose they are.
    pub leases: BTreeMap<SessionId, BTreeMap<Work, LiveLease>>,
    /// Waiters of each limit, first come first.
    pub waits: BTreeMap<LimitName, BTreeMap<(u64, u32), Work>>,
    /// The next moment at which something falls due in a run.
    pub due: BTreeSet<(Timestamp, RunId)>,
    /// Runs that a process died under since their last checkpoint.
    pub suspects: BTreeMap<ProcessId, BTreeSet<RunId>>,
}

impl Orders {
    /// Made from the rows alone.
    ///
    /// # Errors
    /// `Fault`: a row cannot be decoded.
    pub fn rebuild<R: ReadRows + ?Sized>(rows: &R) -> Result<Self, Fault> {
        let mut orders = Self::default();
        let mut unheard = Vec::new();
        let from = Key::Run(RunId::from_stored(""));
        rows.scan(&Stretch::from(from, Alike::Kind), &mut |_, row| {
            let Row::Run(run) = row else { return false };
            orders.change(None, Some(&run), &mut unheard);
            if seeded::armed(Bug::DerivedIndexNotRebuilt) {
                orders.due.clear();
            }
            unheard.clear();
            true
        })?;
        Ok(orders)
    }

    /// A run's row changed from `old` to `new`; says what the leader might do about it.
    pub fn change(&mut self, old: Option<&Run>, new: Option<&Run>, effects: &mut Vec<Effect>) {
        self.change_leases(old, new, effects);
        self.change_ready(old, new, effects);
        self.change_waits(old, new);
        self.change_due(old, new, effects);
        self.change_suspects(old, new);
    }

    fn change_leases(&mut self, old: Option<&Run>, new: Option<&Run>, effects: &mut Vec<Effect>) {
        for (part, LiveLease { session, fence, .. }) in without(leases(old), leases(new)) {
            let Some(work) = old.map(|run| part.of(&run.id)) else {
                continue;
            };
            remove_from(&mut self.leases, &session, &work);
            effects.push(Effect::LeaseEnded {
                work,
                session,
                fence,
            });
        }
        for (part, lease) in without(leases(new), leases(old)) {
            let Some(work) = new.map(|run| part.of(&run.id)) else {
                continue;
            };
            effects.push(Effect::LeaseBegan {
                work: work.clone(),
                session: lease.session,
                fence: lease.fence,
                timeout: lease.timeout,
                heartbeat: lease.heartbeat,
            });
            self.leases
                .entry(lease.session)
                .or_default()
                .insert(work, lease);
        }
    }

    fn change_ready(&mut self, old: Option<&Run>, new: Option<&Run>, effects: &mut Vec<Effect>) {
        let before = old.map(Run::ready_work).unwrap_or_default();
        let after = new.map(Run::ready_work).unwrap_or_default();
        for (work, _) in &before {
            if !after.iter().any(|(w, _)| w == work) {
                self.ready.remove(work);
                effects.push(Effect::NotReady(work.clone()));
            }
        }
        for (work, ready) in after {
            if before.iter().any(|(w, r)| *w == work && *r == ready) {
                continue;
            }
            effects.push(Effect::Ready {
                work: work.clone(),
                needs: ready.needs.clone(),
                since: ready.since,
                prefers: ready.prefers,
                alone: ready.alone,
            });
            self.ready.insert(work, ready);
        }
    }

    fn change_waits(&mut self, old: Option<&Run>, new: Option<&Run>) {
        for (limit, ticket, _) in old.map(Run::limit_waits).unwrap_or_default() {
            if let Some(waiters) = self.waits.get_mut(&limit) {
                waiters.remove(&ticket);
                if waiters.is_empty() {
                    self.waits.remove(&limit);
                }
            }
        }
        for (limit, ticket, work) in new.map(Run::limit_waits).unwrap_or_default() {
            self.waits.entry(limit).or_default().insert(ticket, work);
        }
    }

    fn change_due(&mut self, old: Option<&Run>, new: Option<&Run>, effects: &mut Vec<Effect>) {
        let before = old.and_then(Run::next_due);
        let after = new.and_then(Run::next_due);
        if before == after {
            return;
        }
        if let (Some(run), Some(due)) = (old, before) {
            self.due.remove(&(due, run.id.clone()));
        }
        if let (Some(run), Some(due)) = (new, after) {
            self.due.insert((due, run.id.clone()));
            effects.push(Effect::Due(due));
        }
    }

    fn change_suspects(&mut self, old: Option<&Run>, new: Option<&Run>) {
        let before = old.map(|run| run.suspects.as_slice()).unwrap_or_default();
        let after = new.map(|run| run.suspects.as_slice()).unwrap_or_default();
        if before == after {
            return;
        }
        let Some(id) = old.or(new).map(|run| run.id.clone()) else {
            return;
        };
        for process in before.iter().filter(|process| !after.contains(process)) {
            if let Some(runs) = self.suspects.get_mut(process) {
                runs.remove(&id);
                if runs.is_empty() {
                    self.suspects.remove(process);
                }
            }
        }
        for process in after {
            self.suspects
                .entry(process.clone())
                .or_default()
                .insert(id.clone());
        }
    }
}

fn leases(run: Option<&Run>) -> impl Iterator<Item = (Part, LiveLease)> {
    run.into_iter().flat_map(Run::leased_parts)
}

/// Of `these` the leases that are not among `those`; both in the order of their parts.
fn without(
    these: impl Iterator<Item = (Part, LiveLease)>,
    those: impl Iterator<Item = (Part, LiveLease)>,
) -> impl Iterator<Item = (Part, LiveLease)> {
    let mut those = those.peekable();
    these.filter(move |(part, lease)| {
        while those.next_if(|(other, _)| other < part).is_some() {}
        let same = those.peek();
        !same.is_some_and(|(other, it)| other == part && it.fence == lease.fence)
    })
}

fn remove_from(
    leases: &mut BTreeMap<SessionId, BTreeMap<Work, LiveLease>>,
    session: &SessionId,
    work: &Work,
) {
    if let Some(held) = leases.get_mut(session) {
        held.remove(work);
        if held.is_empty() {
            leases.remove(session);
        }
    }
}
