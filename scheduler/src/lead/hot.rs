//! `Hot`: the leader's picture of what waits and what is leased, fed on every replica, so that a takeover rebuilds nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    effect::{Effect, Needs},
    entry::Work,
    ids::{Fence, LimitName, Name, RunId, SessionId, Version},
    orders::Orders,
    seeded::{self, Bug},
    time::{Millis, Timestamp},
    values::run::{LiveLease, ReadyWork, Run, Session},
};

/// An attempt's worker stops it at its timeout; the leader ends the lease this much later.
const TIMEOUT_GRACE_MS: u64 = 5_000;
/// Heartbeats may come this much late.
const HEARTBEAT_GRACE_MS: u64 = 1_000;
/// A drive with no local step in flight and no Advance for so long is lost.
const DRIVE_IDLE_MS: u64 = 10_000;

/// What waits and what is leased.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Hot {
    pub(super) ready: BTreeMap<Work, ReadyWork>,
    /// The same, by who may take it, the longest waiting first.
    pub(super) queues: BTreeMap<Needs, BTreeSet<(Timestamp, Work)>>,
    pub(super) sessions: BTreeMap<SessionId, Abilities>,
    /// Who can serve what.
    pub(super) servers: BTreeMap<Needs, BTreeSet<SessionId>>,
    leases: BTreeMap<Work, Leased>,
    pub(super) held: BTreeMap<SessionId, BTreeSet<Work>>,
    due: BTreeSet<Timestamp>,
    limits: BTreeMap<LimitName, Timestamp>,
    passing: Passing,
}

/// What is not part of the picture but of the leader's work on it; never compared.
#[derive(Debug, Default)]
pub(super) struct Passing {
    /// Ends of leases by this process's clock.
    ends: BTreeSet<(u64, Work, Fence)>,
    /// Granted, and not answered yet; to whom.
    pub(super) reserved: BTreeMap<Work, SessionId>,
    /// Kinds of work to look at again.
    pub(super) stirred: BTreeSet<Needs>,
    admitting: BTreeSet<LimitName>,
    /// Up to when due moments were taken to be looked at.
    taken: Timestamp,
}

impl PartialEq for Passing {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl Eq for Passing {}

/// What a session can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Abilities {
    pub(super) slots: u32,
    serves: BTreeSet<Needs>,
}

#[derive(Debug, Clone, Copy)]
struct Leased {
    session: SessionId,
    fence: Fence,
    timeout: Option<Millis>,
    heartbeat: Option<Millis>,
    end: Option<u64>,
    /// Of a drive: whether a local step is in flight.
    busy: bool,
}

impl PartialEq for Leased {
    /// When it ends is this process's own matter.
    fn eq(&self, other: &Self) -> bool {
        (self.session, self.fence, self.timeout, self.heartbeat)
            == (other.session, other.fence, other.timeout, other.heartbeat)
    }
}
impl Eq for Leased {}

impl Hot {
    /// Made from the rows alone; leases are as fresh as can be.
    pub fn rebuild(orders: &Orders, sessions: &[Arc<Session>], mono: u64) -> Self {
        let mut hot = Self::default();
        for session in sessions.iter().filter(|session| !session.leaving) {
            hot.attached(
                session.id,
                &session.queue,
                &session.workflows,
                &session.steps,
                session.slots,
            );
        }
        for (work, ready) in &orders.ready {
            hot.add_ready(work.clone(), ready.clone());
        }
        for leases in orders.leases.values() {
            for (work, lease) in leases {
                hot.began(work.clone(), *lease, mono);
            }
        }
        hot.due = orders.due.iter().map(|(due, _)| *due).collect();
        hot.limits = orders
            .waits
            .keys()
            .map(|limit| (limit.clone(), Timestamp(0)))
            .collect();
        hot
    }

    /// Work that waits for a worker.
    pub fn ready_count(&self) -> usize {
        self.ready.len()
    }

    /// Since when the longest waiting work of each kind waits for a worker.
    pub fn oldest_ready(&self) -> impl Iterator<Item = (&Needs, Timestamp)> {
        self.queues.iter().filter_map(|(needs, waiting)| {
            let (since, _) = waiting.first()?;
            Some((needs, *since))
        })
    }

    /// Live leases.
    pub fn lease_count(&self) -> usize {
        self.leases.len()
    }

    /// Sessions that are known, whether their stream is open here or not.
    pub fn session_ids(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.sessions.keys().copied()
    }

    /// Whether a session has a row.
    pub fn knows(&self, session: SessionId) -> bool {
        self.sessions.contains_key(&session)
    }

    /// Whether a session has a lease.
    pub(super) fn holds(&self, session: SessionId) -> bool {
        self.held.contains_key(&session)
    }

    /// Sessions whose worker has left, and that have leases still.
    pub(super) fn left_holding(&self) -> Vec<SessionId> {
        let held = self.held.keys().copied();
        held.filter(|session| !self.knows(*session)).collect()
    }

    /// Whether any session can take work with these needs.
    pub fn is_served(&self, needs: &Needs) -> bool {
        self.servers.contains_key(needs)
    }

    /// Takes one effect into the picture.
    pub(super) fn take(&mut self, effect: Effect, mono: u64) {
        match effect {
            Effect::Ready {
                work,
                needs,
                since,
                prefers,
                alone,
            } => {
                self.remove_ready(&work);
                self.add_ready(
                    work,
                    ReadyWork {
                        needs,
                        since,
                        prefers,
                        alone,
                    },
                );
            }
            Effect::NotReady(work) => self.remove_ready(&work),
            Effect::LeaseBegan {
                work,
                session,
                fence,
                timeout,
                heartbeat,
            } => {
                self.began(
                    work,
                    LiveLease {
                        session,
                        fence,
                        timeout,
                        heartbeat,
                    },
                    mono,
                );
            }
            Effect::LeaseEnded { work, fence, .. } => self.ended(&work, fence),
            Effect::Progressed { work, fence } => self.alive(&work, fence, mono),
            Effect::Driven {
                run,
                fence,
                in_flight,
            } => {
                self.driven(Work::Run(run), fence, in_flight > 0, mono);
            }
            Effect::Due(due) => self.due_at(due),
            Effect::LimitWaits { limit, at } => {
                let next = self.limits.entry(limit).or_insert(at);
                *next = at.min(*next);
            }
            Effect::SessionAttached {
                session,
                queue,
                workflows,
                steps,
                slots,
                ..
            } => {
                self.detached(session);
                self.attached(session, &queue, &workflows, &steps, slots);
            }
            Effect::SessionEnded(session) => self.detached(session),
            Effect::Epoch { .. }
            | Effect::Granted { .. }
            | Effect::JournalGrew { .. }
            | Effect::Stop { .. }
            | Effect::RunChanged { .. } => {}
        }
    }

    /// A run as its row has it: whatever the picture said of it goes.
    pub(super) fn reread(&mut self, id: &RunId, run: Option<&Run>, mono: u64) {
        let of_run = |work: &Work| work.run() == id;
        let ready: Vec<Work> = self
            .ready
            .keys()
            .filter(|work| of_run(work))
            .cloned()
            .collect();
        for work in ready {
            self.remove_ready(&work);
        }
        let leased: Vec<(Work, Fence)> = self
            .leases
            .iter()
            .filter(|(work, _)| of_run(work))
            .map(|(work, lease)| (work.clone(), lease.fence))
            .collect();
        for (work, fence) in leased {
            self.ended(&work, fence);
        }
        let Some(run) = run else { return };
        for (work, ready) in run.ready_work() {
            self.add_ready(work, ready);
        }
        for (work, lease) in run.leases() {
            self.began(work, lease, mono);
        }
        if let Some(due) = run.next_due() {
            self.due_at(due);
        }
        for (limit, _, _) in run.limit_waits() {
            self.limits.insert(limit, Timestamp(0));
        }
    }

    fn add_ready(&mut self, work: Work, ready: ReadyWork) {
        let place = (ready.since, work.clone());
        self.queues
            .entry(ready.needs.clone())
            .or_default()
            .insert(place);
        self.passing.stirred.insert(ready.needs.clone());
        self.ready.insert(work, ready);
    }

    fn remove_ready(&mut self, work: &Work) {
        let Some(ready) = self.ready.remove(work) else {
            return;
        };
        if let Some(queue) = self.queues.get_mut(&ready.needs) {
            queue.remove(&(ready.since, work.clone()));
            if queue.is_empty() {
                self.queues.remove(&ready.needs);
            }
        }
    }

    fn began(&mut self, work: Work, lease: LiveLease, mono: u64) {
        self.held
            .entry(lease.session)
            .or_default()
            .insert(work.clone());
        if matches!(work, Work::Run(_)) {
            self.add_server(Needs::Session(lease.session), lease.session);
        }
        let leased = Leased {
            session: lease.session,
            fence: lease.fence,
            timeout: lease.timeout,
            heartbeat: lease.heartbeat,
            end: None,
            busy: false,
        };
        self.leases.insert(work.clone(), leased);
        self.watch(&work, mono);
    }

    /// Notes by when a lease must show life.
    fn watch(&mut self, work: &Work, mono: u64) {
        let Some(lease) = self.leases.get_mut(work) else {
            return;
        };
        if let Some(end) = lease.end.take() {
            self.passing.ends.remove(&(end, work.clone(), lease.fence));
        }
        let idle = matches!(work, Work::Run(_)) && !lease.busy;
        let timeout = lease
            .timeout
            .map(|t| mono.saturating_add(t.0) + TIMEOUT_GRACE_MS);
        let heartbeat = lease
            .heartbeat
            .map(|h| mono.saturating_add(h.0) + HEARTBEAT_GRACE_MS);
        let idle = idle.then_some(mono + DRIVE_IDLE_MS);
        lease.end = [timeout, heartbeat, idle].into_iter().flatten().min();
        if let Some(end) = lease.end {
            self.passing.ends.insert((end, work.clone(), lease.fence));
        }
    }

    fn ended(&mut self, work: &Work, fence: Fence) {
        let Some(lease) = self
            .leases
            .get(work)
            .filter(|lease| lease.fence == fence)
            .copied()
        else {
            return;
        };
        self.leases.remove(work);
        if let Some(end) = lease.end {
            self.passing.ends.remove(&(end, work.clone(), fence));
        }
        if let Some(held) = self.held.get_mut(&lease.session) {
            held.remove(work);
            if held.is_empty() {
                self.held.remove(&lease.session);
            }
        }
        self.stir_for(lease.session);
    }

    /// A lease showed life. Heartbeats prolong silence, not the attempt's own timeout.
    pub(super) fn alive(&mut self, work: &Work, fence: Fence, mono: u64) {
        let Some(lease) = self
            .leases
            .get_mut(work)
            .filter(|lease| lease.fence == fence)
        else {
            return;
        };
        if lease.timeout.is_some() && lease.heartbeat.is_some() {
            // The timeout's own end stays the later bound; what is watched next is the silence.
            let end = mono + lease.heartbeat.map_or(0, |h| h.0) + HEARTBEAT_GRACE_MS;
            if let Some(old) = lease.end.replace(end) {
                self.passing.ends.remove(&(old, work.clone(), fence));
            }
            self.passing.ends.insert((end, work.clone(), fence));
        } else {
            self.watch(work, mono);
        }
    }

    fn driven(&mut self, work: Work, fence: Fence, busy: bool, mono: u64) {
        if let Some(lease) = self
            .leases
            .get_mut(&work)
            .filter(|lease| lease.fence == fence)
        {
            lease.busy = busy;
            self.watch(&work, mono);
        }
    }

    /// Leases that showed no life in time; each is named once.
    pub(super) fn overdue(&mut self, mono: u64) -> Vec<(Work, Fence)> {
        let mut overdue = Vec::new();
        while let Some((end, _, _)) = self.passing.ends.first() {
            if *end > mono {
                break;
            }
            let Some((_, work, fence)) = self.passing.ends.pop_first() else {
                break;
            };
            if let Some(lease) = self.leases.get_mut(&work) {
                lease.end = None;
            }
            overdue.push((work, fence));
        }
        overdue
    }

    /// Every lease lives one more term, every attempt has its whole time again.
    pub(super) fn all_fresh(&mut self, mono: u64) {
        let mut left = std::mem::take(&mut self.passing);
        if seeded::armed(Bug::DueForgottenOnFailover) {
            left = Passing::default();
        }
        let leased: Vec<Work> = self.leases.keys().cloned().collect();
        for work in leased {
            if let Some(lease) = self.leases.get_mut(&work) {
                lease.end = None;
            }
            self.watch(&work, mono);
        }
        self.passing.stirred = self.queues.keys().cloned().collect();
        // What was under way under an earlier epoch may be void, and its clock may have been ahead of this one's.
        self.due.extend([Timestamp(0), left.taken]);
        for limit in left.admitting {
            self.limits.insert(limit, Timestamp(0));
        }
        for at in self.limits.values_mut() {
            *at = Timestamp(0);
        }
    }

    /// Live leases of a session.
    pub(super) fn leases_of(&self, session: SessionId) -> Vec<(Work, Fence)> {
        let held = self.held.get(&session).into_iter().flatten();
        held.filter_map(|work| Some((work.clone(), self.leases.get(work)?.fence)))
            .collect()
    }

    fn attached(
        &mut self,
        session: SessionId,
        queue: &Name,
        workflows: &[(Name, Version)],
        steps: &[Name],
        slots: u32,
    ) {
        let runs = workflows
            .iter()
            .map(|(name, v)| Needs::Workflow(name.clone(), *v));
        let steps = steps.iter().map(|step| Needs::Step {
            queue: queue.clone(),
            step: step.clone(),
        });
        let mut serves: BTreeSet<Needs> = runs.chain(steps).collect();
        serves.insert(Needs::Session(session));
        for needs in &serves {
            self.add_server(needs.clone(), session);
        }
        self.sessions.insert(session, Abilities { slots, serves });
        self.stir_for(session);
    }

    fn add_server(&mut self, needs: Needs, session: SessionId) {
        self.servers.entry(needs).or_default().insert(session);
    }

    fn detached(&mut self, session: SessionId) {
        let Some(abilities) = self.sessions.remove(&session) else {
            return;
        };
        for needs in abilities.serves {
            if let Some(servers) = self.servers.get_mut(&needs) {
                servers.remove(&session);
                if servers.is_empty() {
                    self.servers.remove(&needs);
                }
            }
        }
    }

    /// The session may take something now: what it serves is looked at again.
    pub(super) fn stir_for(&mut self, session: SessionId) {
        let Some(abilities) = self.sessions.get(&session) else {
            return;
        };
        let waiting = abilities
            .serves
            .iter()
            .filter(|needs| self.queues.contains_key(needs));
        self.passing.stirred.extend(waiting.cloned());
    }

    /// A grant was answered: if the work still waits, it is looked at again, and so is all that its session serves if that has
    /// become idle.
    pub(super) fn release(&mut self, work: &Work) {
        let session = self.passing.reserved.remove(work);
        if let Some(ready) = self.ready.get(work) {
            self.passing.stirred.insert(ready.needs.clone());
        }
        if let Some(session) = session.filter(|session| self.is_idle(*session)) {
            self.stir_for(session);
        }
    }

    /// Whether a session holds nothing, and nothing is on its way to it.
    pub(super) fn is_idle(&self, session: SessionId) -> bool {
        !self.holds(session) && !self.passing.reserved.values().any(|it| *it == session)
    }

    /// Whether it waits or is leased.
    pub(super) fn is_known(&self, work: &Work) -> bool {
        self.ready.contains_key(work) || self.leases.contains_key(work)
    }

    /// Something falls due then.
    pub(super) fn due_at(&mut self, due: Timestamp) {
        self.due.insert(due);
    }

    /// Whether something is due; what is due is taken to be looked at.
    pub(super) fn take_due(&mut self, now: Timestamp) -> bool {
        let mut found = false;
        while let Some(due) = self.due.first().copied().filter(|due| *due <= now) {
            self.due.pop_first();
            self.passing.taken = self.passing.taken.max(due);
            found = true;
        }
        found
    }

    /// Limits whose waiters may pass now.
    pub(super) fn limits_to_look_at(&mut self, now: Timestamp) -> Vec<LimitName> {
        let due: Vec<LimitName> = self
            .limits
            .iter()
            .filter(|(limit, at)| **at <= now && !self.passing.admitting.contains(*limit))
            .map(|(limit, _)| limit.clone())
            .collect();
        for limit in &due {
            self.limits.remove(limit);
            self.passing.admitting.insert(limit.clone());
        }
        due
    }

    /// Waiters of a limit were looked at; `LimitWaits` says when to look again.
    pub(super) fn limit_looked(&mut self, limit: &LimitName, again: bool) {
        self.passing.admitting.remove(limit);
        if again {
            self.limits.entry(limit.clone()).or_insert(Timestamp(0));
        }
    }

    pub(super) fn passing(&mut self) -> &mut Passing {
        &mut self.passing
    }

    /// Granted, and not answered yet.
    pub(super) fn reserved(&self) -> &BTreeMap<Work, SessionId> {
        &self.passing.reserved
    }
}
