//! Limits: never more places than declared, never more admissions than burst and rate allow, none while closed.

use std::collections::{BTreeMap, VecDeque};

use holdfast_scheduler::{
    entry::LimitSpec,
    ids::{IntentNo, LimitName},
    rows::Row,
    time::Timestamp,
    values::run::Run,
};

use super::{
    super::{
        broken::{Broken, must},
        tripwire::Write,
    },
    Seen, Watch,
};

/// Admissions remembered: as many as any window that is looked at holds.
const REMEMBERED: usize = 64;

/// A limit as its admissions show it.
#[derive(Debug, Default)]
pub(super) struct Gate {
    spec: Option<LimitSpec>,
    held: u32,
    taken: VecDeque<Timestamp>,
    closed_until: Timestamp,
    /// Declared in this entry, beside other commands: who came first is open.
    unsure: bool,
}

impl Watch {
    pub(super) fn limit_declared(&mut self, name: &LimitName, spec: LimitSpec, unsure: bool) {
        let gate = self.limits.entry(name.clone()).or_default();
        gate.spec = Some(spec);
        gate.taken.clear();
        gate.unsure = unsure;
    }

    pub(super) fn limit_declared_by_worker(
        &mut self,
        name: &LimitName,
        spec: LimitSpec,
        unsure: bool,
    ) {
        if self.limits.get(name).is_none_or(|gate| gate.spec.is_none()) {
            self.limit_declared(name, spec, unsure);
        }
    }

    /// How long it is closed is told by its row, the latest end that was ever said counts.
    pub(super) fn limit_changed(&mut self, name: &LimitName, write: &Write) {
        let gate = self.limits.entry(name.clone()).or_default();
        if let Some(Row::Limit(limit)) = &write.after {
            let until = limit.closed_until.unwrap_or_default();
            gate.closed_until = gate.closed_until.max(until);
        }
    }

    pub(super) fn places_changed(
        &mut self,
        before: Option<&Run>,
        after: Option<&Run>,
        it: &Seen<'_>,
    ) -> Result<(), Broken> {
        let (were, are) = (places(before), places(after));
        for (intent, limits) in &were {
            if !are.contains_key(intent) {
                for name in *limits {
                    let gate = self.limits.entry(name.clone()).or_default();
                    gate.held = gate.held.saturating_sub(1);
                }
            }
        }
        let now = self.now;
        for (intent, limits) in &are {
            if were.contains_key(intent) {
                continue;
            }
            for name in *limits {
                let gate = self.limits.entry(name.clone()).or_default();
                gate.take(name, now)?;
            }
        }
        if it.commands().len() <= 1 {
            for gate in self.limits.values_mut() {
                gate.unsure = false;
            }
        }
        Ok(())
    }
}

/// Steps that hold a place, and at which limits.
fn places(run: Option<&Run>) -> BTreeMap<IntentNo, &[LimitName]> {
    let mut places = BTreeMap::new();
    if let Some(run) = run {
        let held = run.steps().filter(|(_, step)| step.admitted);
        places.extend(held.map(|(intent, step)| (intent, step.limits.as_slice())));
    }
    places
}

impl Gate {
    fn take(&mut self, name: &LimitName, now: Timestamp) -> Result<(), Broken> {
        self.held += 1;
        if self.unsure {
            return Ok(());
        }
        let until = self.closed_until;
        must!(
            now >= until,
            "S14",
            "limit {name} admits at {now}, it is closed until {until}"
        );
        let Some(spec) = self.spec else { return Ok(()) };
        if let Some(most) = spec.concurrency {
            must!(
                self.held <= most,
                "S14",
                "{} steps hold limit {name}, {most} may",
                self.held
            );
        }
        self.taken.push_back(now);
        if self.taken.len() > REMEMBERED {
            self.taken.pop_front();
        }
        let Some((count, per)) = spec.rate else {
            return Ok(());
        };
        let admissions = self.taken.len() as u64;
        for (nth, since) in (0..).zip(&self.taken) {
            let inside = admissions - nth;
            let flown = u64::from(count) * now.since(*since).0 / per.0.max(1);
            let most = u64::from(spec.burst.max(1)) + flown;
            must!(
                inside <= most,
                "S14",
                "limit {name} admits {inside} between {since} and {now}, {most} may pass"
            );
        }
        Ok(())
    }
}
