//! Index rows and counters: what follows from the run rows that a command changed. No decisions.
//!
//! Invariant: exact at every position, since they are written in the same savepoint as the runs they speak of.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    effect::{Effect, Ended},
    ids::{LimitName, Name, Version},
    reply::Status,
    rows::{Class, Fault, Key, Newest, Row, Rows, TypedRows},
    time::Timestamp,
    turn::{RunChange, Turn},
    values::{
        limit::Limit,
        run::{Finished, Run},
    },
};

/// Derives index rows, counters and `RunChanged` from the run rows that the current command changed, and names these.
///
/// # Errors
/// `Fault`: a row cannot be decoded.
pub fn derive<R: Rows>(turn: &mut Turn<'_, R>) -> Result<Vec<RunChange>, Fault> {
    let changes = turn.changed_runs()?;
    count_waiters(turn, &changes)?;
    for change in &changes {
        let before = change.before.as_deref().map(Run::status);
        let after = change.after.as_deref().map(Run::status);
        let done = match after {
            None => turn.finished(&change.id)?,
            Some(_) => None,
        };
        let end = done.as_ref().map(|it| it.end.status());
        let Some(run) = change.after.as_deref().or(change.before.as_deref()) else {
            continue;
        };
        count(turn, run, before, after)?;
        let was = before.map(Class::from);
        let is = after.or(end).map(Class::from);
        if was != is {
            reclass(turn, run, was, is);
        }
        if before.is_none() {
            list(turn, run);
        }
        if let Some(done) = &done {
            turn.put(
                Key::Ended(done.keeps(), done.ended, done.id.clone()),
                Row::Mark,
            );
        }
        if let Some(status) = after.or(end)
            && Some(status) != before
        {
            turn.effect(Effect::RunChanged {
                run: change.id.clone(),
                status,
                ended: done.map(|it| Ended {
                    workflow: it.workflow.clone(),
                    took: it.ended.since(it.started),
                    rows: it.rows.0,
                }),
            });
        }
    }
    Ok(changes)
}

/// How the queue of a limit changed: places that went, places that came.
#[derive(Default)]
struct Moved {
    gone: BTreeSet<Place>,
    come: BTreeMap<Place, Timestamp>,
}

type Place = (u64, u32);

/// A limit's row says how many steps wait for it, and since when the first of them does.
fn count_waiters<R: Rows>(turn: &mut Turn<'_, R>, changes: &[RunChange]) -> Result<(), Fault> {
    let mut moved: BTreeMap<LimitName, Moved> = BTreeMap::new();
    for change in changes {
        if let Some(run) = &change.before {
            for (limit, place, _) in run.limit_waits() {
                moved.entry(limit).or_default().gone.insert(place);
            }
        }
        if let Some(run) = &change.after {
            for (limit, place, work) in run.limit_waits() {
                let since = run.waits_at_limits_since(&work).unwrap_or(turn.now);
                moved.entry(limit).or_default().come.insert(place, since);
            }
        }
    }
    for (name, moved) in moved {
        if !moved.gone.iter().eq(moved.come.keys()) {
            let (waiting, oldest) = queue_after(turn, &name, &moved)?;
            let now = turn.now;
            let limit = turn.limit(&name)?;
            let mut limit = limit.unwrap_or_else(|| Limit::undeclared(now));
            (limit.waiting, limit.oldest) = (waiting, oldest);
            turn.store_limit(name, limit);
        }
    }
    Ok(())
}

/// The orders stand as before the command; what moved in it comes on top.
fn queue_after<R: Rows>(
    turn: &Turn<'_, R>,
    name: &LimitName,
    moved: &Moved,
) -> Result<(u32, Option<Timestamp>), Fault> {
    let queue = turn.orders().waits.get(name);
    let stayed = queue.map_or(0, BTreeMap::len) - moved.gone.len();
    let waiting = u32::try_from(stayed + moved.come.len()).unwrap_or(u32::MAX);
    let mut others = queue.into_iter().flatten();
    let ahead = others.find(|(place, _)| !moved.gone.contains(place));
    let first = moved.come.first_key_value();
    match (ahead, first) {
        (Some((place, work)), first) if first.is_none_or(|(newcomer, _)| place < newcomer) => {
            let run = turn.run(work.run())?;
            Ok((waiting, run.and_then(|run| run.waits_at_limits_since(work))))
        }
        (_, first) => Ok((waiting, first.map(|(_, since)| *since))),
    }
}

fn count<R: Rows>(
    turn: &mut Turn<'_, R>,
    run: &Run,
    before: Option<Status>,
    after: Option<Status>,
) -> Result<(), Fault> {
    if before == after {
        return Ok(());
    }
    let (name, version): (Name, Version) = (run.workflow.clone(), run.version);
    let Some(row) = turn.version(&name, version)? else {
        return Err(Fault(format!(
            "run {} is pinned to {name}@v{version}, unknown",
            run.id
        )));
    };
    let mut row = Arc::unwrap_or_clone(row);
    if let Some(status) = before {
        let left = row.open.get(&status).copied().unwrap_or_default();
        assert!(left > 0, "{name}@v{version} counts no run as {status:?}");
        if left == 1 {
            row.open.remove(&status);
        } else {
            row.open.insert(status, left - 1);
        }
    }
    if let Some(status) = after {
        *row.open.entry(status).or_default() += 1;
    }
    turn.put(Key::Version(name, version), Row::Version(Arc::new(row)));
    Ok(())
}

fn reclass<R: Rows>(turn: &mut Turn<'_, R>, run: &Run, was: Option<Class>, is: Option<Class>) {
    let newest = Newest::first(run.started);
    if let Some(class) = was {
        turn.delete(Key::ByClass(class, newest, run.id.clone()));
    }
    if let Some(class) = is {
        turn.put(Key::ByClass(class, newest, run.id.clone()), Row::Mark);
    }
}

/// Lists a run by workflow and by time, once, when it starts.
fn list<R: Rows>(turn: &mut Turn<'_, R>, run: &Run) {
    let newest = Newest::first(run.started);
    let by_workflow = Key::ByWorkflow(run.workflow.clone(), run.version, newest, run.id.clone());
    turn.put(by_workflow, Row::Mark);
    turn.put(Key::ByTime(newest, run.id.clone()), Row::Mark);
}

/// Takes a run that ended out of all lists: its id begins a new life, or its time is over.
pub fn unlist<R: Rows>(turn: &mut Turn<'_, R>, done: &Finished) {
    let newest = Newest::first(done.started);
    turn.delete(Key::Ended(done.keeps(), done.ended, done.id.clone()));
    if done.forgotten {
        return; // it is in no other
    }
    let class = Class::from(done.end.status());
    turn.delete(Key::ByClass(class, newest, done.id.clone()));
    turn.delete(Key::ByWorkflow(
        done.workflow.clone(),
        done.version,
        newest,
        done.id.clone(),
    ));
    turn.delete(Key::ByTime(newest, done.id.clone()));
}
