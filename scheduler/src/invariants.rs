//! Whole-state truths: for tests, simulation and the audit. No repair.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    ids::{LimitName, Name, RunId, Version},
    orders::Orders,
    reply::Status,
    rows::{Alike, Class, Fault, Keeps, Key, Newest, ReadRows, Row, Stretch, TypedRows},
    time::Timestamp,
    values::{
        run::{Mode, OpenKind, Run},
        step::Step,
    },
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
    check_leases(rows, &runs, &mut broken)?;
    check_signals(rows, &runs, &mut broken)?;
    check_lists(rows, &runs, &mut broken)?;
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
    if run
        .kept
        .is_some_and(|kept| run.drive.is_some() || kept.shown_from > run.next_seq)
    {
        broken.push(format!(
            "run {} is said to be kept by a worker as it never was",
            run.id
        ));
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

/// One fence, one lease; each is held by a session that is known; a local step's lives no longer than its drive's.
fn check_leases<R: ReadRows + ?Sized>(
    rows: &R,
    runs: &[Arc<Run>],
    broken: &mut Vec<String>,
) -> Result<(), Fault> {
    let mut fences = BTreeSet::new();
    for run in runs {
        for (work, lease) in run.leases() {
            if !fences.insert(lease.fence) {
                broken.push(format!("two leases are under fence {}", lease.fence));
            }
            if rows.session(lease.session)?.is_none() {
                broken.push(format!("{work:?} is held by a session that has ended"));
            }
        }
        let driver = run.drive.map(|drive| drive.session);
        let orphan = |step: &Step| {
            let lease = step.tries.lease().filter(|_| step.is_local());
            lease.is_some_and(|lease| Some(lease.session) != driver)
        };
        let held = matches!(run.mode, Mode::Quarantined { .. }); // they are lost when it is resumed
        if !held && run.steps().any(|(_, step)| orphan(step)) {
            broken.push(format!("run {} has a local step without driver", run.id));
        }
    }
    Ok(())
}

/// Signals are counted as they lie, and none lies where a wait could take it.
fn check_signals<R: ReadRows + ?Sized>(
    rows: &R,
    runs: &[Arc<Run>],
    broken: &mut Vec<String>,
) -> Result<(), Fault> {
    let mut buffered: BTreeMap<RunId, (u32, u64, BTreeSet<Name>)> = BTreeMap::new();
    let from = Key::Signal(RunId::from_stored(""), Name::from_stored(""), (0, 0));
    rows.scan(&Stretch::from(from, Alike::Kind), &mut |key, row| {
        let (Key::Signal(run, name, _), Row::Signal(signal)) = (key, row) else {
            return false;
        };
        let of_run = buffered.entry(run).or_default();
        of_run.0 += 1;
        of_run.1 += signal.payload.len() as u64;
        of_run.2.insert(name);
        true
    })?;
    for run in runs {
        let (count, bytes, names) = buffered.remove(&run.id).unwrap_or_default();
        if run.buffered != (count, bytes) {
            let (id, counted) = (&run.id, run.buffered);
            broken.push(format!(
                "run {id} counts {counted:?} signals, {count} lie there"
            ));
        }
        let waits = run.open.values().any(
            |open| matches!(&open.what, OpenKind::Wait { signal, .. } if names.contains(signal)),
        );
        if waits {
            broken.push(format!("run {} waits for a signal that is there", run.id));
        }
    }
    for run in buffered.keys() {
        broken.push(format!("signals lie for {run}, which is not live"));
    }
    Ok(())
}

/// Each run is listed once by class, workflow and time, and nothing else is.
fn check_lists<R: ReadRows + ?Sized>(
    rows: &R,
    runs: &[Arc<Run>],
    broken: &mut Vec<String>,
) -> Result<(), Fault> {
    let mut expected = BTreeSet::new();
    let mut list = |id: &RunId, name: &Name, version, status, started| {
        let newest = Newest::first(started);
        expected.insert(Key::ByClass(Class::from(status), newest, id.clone()));
        expected.insert(Key::ByWorkflow(name.clone(), version, newest, id.clone()));
        expected.insert(Key::ByTime(newest, id.clone()));
    };
    for run in runs {
        list(
            &run.id,
            &run.workflow,
            run.version,
            run.status(),
            run.started,
        );
    }
    let mut ended = BTreeSet::new();
    let from = Key::Finished(RunId::from_stored(""));
    rows.scan(&Stretch::from(from, Alike::Kind), &mut |_, row| {
        let Row::Finished(done) = row else {
            return false;
        };
        let status = done.end.status();
        if !done.forgotten {
            list(&done.id, &done.workflow, done.version, status, done.started);
        }
        ended.insert(Key::Ended(done.keeps(), done.ended, done.id.clone()));
        true
    })?;
    expected.append(&mut ended);
    let mut found = BTreeSet::new();
    let (name, version) = (Name::from_stored(""), Version(0));
    let (newest, id) = (Newest::from_number(0), RunId::from_stored(""));
    for from in [
        Key::ByClass(Class::Live, newest, id.clone()),
        Key::ByWorkflow(name, version, newest, id.clone()),
        Key::ByTime(newest, id.clone()),
        Key::Ended(Keeps::Completed, Timestamp(0), id),
    ] {
        let list = Stretch::from(from, Alike::Kind);
        rows.scan(&list, &mut |key, _| found.insert(key))?;
    }
    if found != expected {
        let odd: Vec<_> = found.symmetric_difference(&expected).collect();
        broken.push(format!("the lists of runs are off by {odd:?}"));
    }
    Ok(())
}

fn check_counters<R: ReadRows + ?Sized>(
    rows: &R,
    counted: &BTreeMap<(Name, Version), BTreeMap<Status, u64>>,
    broken: &mut Vec<String>,
) -> Result<(), Fault> {
    let from = Key::Version(Name::from_stored(""), Version(0));
    rows.scan(&Stretch::from(from, Alike::Kind), &mut |_, row| {
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

/// A limit counts the steps that hold it and those that wait for it, and knows since when the first one does.
fn check_limits<R: ReadRows + ?Sized>(
    rows: &R,
    runs: &[Arc<Run>],
    broken: &mut Vec<String>,
) -> Result<(), Fault> {
    let mut counted: BTreeMap<LimitName, (u32, u64, Option<Timestamp>)> = BTreeMap::new();
    for run in runs {
        for (_, step) in run.steps().filter(|(_, step)| step.admitted) {
            for limit in &step.limits {
                counted.entry(limit.clone()).or_default().0 += 1;
            }
        }
        for (limit, _, work) in run.limit_waits() {
            let (_, waiting, oldest) = counted.entry(limit).or_default();
            let since = run.waits_at_limits_since(&work);
            *waiting += 1;
            *oldest = [*oldest, since].into_iter().flatten().min();
        }
    }
    for view in views::limits(rows)? {
        let expected = counted.remove(&view.name).unwrap_or_default();
        let found = (view.limit.held, view.waiting, view.oldest);
        if found != expected {
            let name = &view.name;
            broken.push(format!(
                "limit {name} counts {found:?} held, waiting, oldest; the runs say {expected:?}"
            ));
        }
    }
    for (name, of_runs) in counted {
        broken.push(format!("limit {name} has no row, the runs say {of_runs:?}"));
    }
    Ok(())
}
