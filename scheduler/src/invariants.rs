//! Whole-state truths: for tests, simulation and the audit. No repair.

use std::{collections::BTreeMap, ops::Bound};

use crate::{
    ids::{Name, Version},
    orders::Orders,
    reply::Status,
    rows::{Fault, Key, ReadRows, Row, TypedRows},
    values::run::{Mode, Run},
    views,
};

/// Checks everything that must be true between two commands; answers what is not, a line each.
///
/// # Errors
/// `Fault`: a row cannot be decoded.
pub fn check<R: ReadRows + ?Sized>(rows: &R, orders: &Orders) -> Result<Vec<String>, Fault> {
    let mut broken = Vec::new();
    let runs = views::live_runs(rows)?;
    let mut counted: BTreeMap<(Name, Version), BTreeMap<Status, u64>> = BTreeMap::new();
    for run in &runs {
        check_run(run, &mut broken);
        if rows.finished(&run.id)?.is_some() {
            broken.push(format!("run {} is live and final at once", run.id));
        }
        let of_version = counted
            .entry((run.workflow.clone(), run.version))
            .or_default();
        *of_version.entry(run.status()).or_default() += 1;
    }
    check_counters(rows, &counted, &mut broken)?;
    check_limits(rows, &runs, &mut broken)?;
    if *orders != Orders::rebuild(rows)? {
        broken.push("the orders in memory differ from their rebuild".to_owned());
    }
    Ok(broken)
}

fn check_run(run: &Run, broken: &mut Vec<String>) {
    if run.wake_source().is_none() {
        broken.push(format!(
            "run {} ({:?}) has no wake source",
            run.id,
            run.status()
        ));
    }
    let mut fences: Vec<_> = run
        .leases()
        .into_iter()
        .map(|(_, lease)| lease.fence)
        .collect();
    let leases = fences.len();
    fences.sort_unstable();
    fences.dedup();
    if fences.len() != leases {
        broken.push(format!("run {} has two leases under one fence", run.id));
    }
    if let Some(drive) = &run.drive
        && run.newest_fence != Some(drive.fence)
    {
        broken.push(format!("run {} is driven under an older fence", run.id));
    }
    if matches!(run.mode, Mode::Quarantined { .. }) && run.drive.is_some() {
        broken.push(format!("run {} is quarantined and driven", run.id));
    }
    if run
        .undos
        .windows(2)
        .any(|pair| pair[0].intent >= pair[1].intent)
    {
        broken.push(format!("run {} owes its undos out of order", run.id));
    }
}

fn check_counters<R: ReadRows + ?Sized>(
    rows: &R,
    counted: &BTreeMap<(Name, Version), BTreeMap<Status, u64>>,
    broken: &mut Vec<String>,
) -> Result<(), Fault> {
    let from = Key::Version(Name::from_stored(""), Version(0));
    rows.scan(Bound::Included(&from), &mut |_, row| {
        let Row::Version(row) = row else { return false };
        let open = counted
            .get(&(row.name.clone(), row.version))
            .cloned()
            .unwrap_or_default();
        if open != row.open {
            let (name, version) = (&row.name, row.version);
            broken.push(format!(
                "{name}@v{version} counts {:?}, there are {open:?}",
                row.open
            ));
        }
        true
    })
}

fn check_limits<R: ReadRows + ?Sized>(
    rows: &R,
    runs: &[std::sync::Arc<Run>],
    broken: &mut Vec<String>,
) -> Result<(), Fault> {
    let mut held: BTreeMap<_, u32> = BTreeMap::new();
    for run in runs {
        for (_, step) in run.steps().filter(|(_, step)| step.admitted) {
            for limit in &step.limits {
                *held.entry(limit.clone()).or_default() += 1;
            }
        }
    }
    for view in views::limits(rows)? {
        let steps = held.get(&view.name).copied().unwrap_or_default();
        if view.limit.held != steps {
            let name = &view.name;
            broken.push(format!(
                "limit {name} counts {} held, {steps} hold it",
                view.limit.held
            ));
        }
    }
    Ok(())
}
