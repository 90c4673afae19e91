//! Index rows and counters: what follows from the run rows that a command changed. No decisions.
//!
//! Invariant: exact at every position, since they are written in the same savepoint as the runs they speak of.

use crate::{
    effect::Effect,
    ids::{Name, Version},
    reply::Status,
    rows::{Class, Fault, Key, Newest, Row, Rows, TypedRows},
    time::Timestamp,
    turn::Turn,
    values::run::Run,
};

/// Derives index rows, counters and `RunChanged` from the run rows that the current command changed.
///
/// # Errors
/// `Fault`: a row cannot be decoded.
pub fn derive<R: Rows>(turn: &mut Turn<'_, R>) -> Result<(), Fault> {
    for change in turn.changed_runs()? {
        let before = change.before.as_deref().map(Run::status);
        let after = change.after.as_deref().map(Run::status);
        let end = match after {
            None => turn.finished(&change.id)?.map(|it| it.end.status()),
            Some(_) => None,
        };
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
        if let Some(status) = after.or(end)
            && Some(status) != before
        {
            turn.effect(Effect::RunChanged {
                run: change.id,
                status,
            });
        }
    }
    Ok(())
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
    let Some(mut row) = turn.version(&name, version)? else {
        return Err(Fault(format!(
            "run {} is pinned to {name}@v{version}, unknown",
            run.id
        )));
    };
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
    turn.put(Key::Version(name, version), Row::Version(row));
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

/// Takes a run that ended out of all lists: its id begins a new life.
pub fn unlist<R: Rows>(
    turn: &mut Turn<'_, R>,
    started: Timestamp,
    (workflow, version): (&Name, Version),
    (id, status): (&crate::ids::RunId, Status),
) {
    let newest = Newest::first(started);
    turn.delete(Key::ByClass(Class::from(status), newest, id.clone()));
    turn.delete(Key::ByWorkflow(
        workflow.clone(),
        version,
        newest,
        id.clone(),
    ));
    turn.delete(Key::ByTime(newest, id.clone()));
}
