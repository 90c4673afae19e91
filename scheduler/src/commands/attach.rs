//! `Attach`: a worker process attaches, new or again, and says what it can do.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    bounds,
    commands::set_limit,
    effect::Effect,
    entry::Attach,
    ids::{Name, ProcessId, SessionId, Version},
    reply::{Rejected, Reply},
    rows::{Fault, Key, Row, Rows, TypedRows},
    turn::Turn,
    values::{
        limit::Limit,
        run::{Session, VersionRow, Workflow},
    },
};

/// Under an expired session it is refused: the worker drops that session's fences first.
pub fn apply<R: Rows>(turn: &mut Turn<'_, R>, it: &Attach) -> Result<Reply, Fault> {
    let registered = it.workflows.len() + it.steps.len();
    if registered > bounds::REGISTRATIONS_PER_SESSION_MAX {
        return Ok(Rejected::TooLarge {
            what: "the registration".to_owned(),
            size: registered as u64,
            max: bounds::REGISTRATIONS_PER_SESSION_MAX as u64,
            cure: "register fewer workflows and steps in one worker".to_owned(),
        }
        .into());
    }
    if let Some((name, _)) = it.limits.iter().find(|(_, spec)| !set_limit::admits(spec)) {
        return Ok(set_limit::admits_nothing(name).into());
    }
    let (id, since, new) = match it.session {
        None => (SessionId(turn.next_fence().number()), turn.now, true),
        Some(id) => match turn.session(id)? {
            Some(known) if known.process == it.process && !known.leaving => {
                (id, known.since, false)
            }
            Some(_) | None => return Ok(Rejected::SessionEnded(id).into()),
        },
    };
    let session = Session {
        id,
        process: it.process.clone(),
        worker: it.worker.clone(),
        queue: it.queue.clone(),
        workflows: it.workflows.clone(),
        steps: it.steps.clone(),
        slots: it.slots,
        since,
        leaving: false,
    };
    turn.put(Key::Session(id), Row::Session(Arc::new(session)));
    let warnings = register(turn, it)?;
    declare_limits(turn, it)?;
    absolve(turn, &it.process)?;
    let waited: Vec<_> = turn.orders().waits.keys().cloned().collect();
    for limit in waited {
        let at = turn.now;
        turn.effect(Effect::LimitWaits { limit, at }); // a waiter's worker may be there now
    }
    turn.effect(Effect::SessionAttached {
        session: id,
        queue: it.queue.clone(),
        workflows: it.workflows.clone(),
        steps: it.steps.clone(),
        slots: it.slots,
        new,
    });
    Ok(Reply::Attached {
        session: id,
        warnings,
    })
}

/// The first registration of a name makes the highest version it lists current.
fn register<R: Rows>(turn: &mut Turn<'_, R>, it: &Attach) -> Result<Vec<String>, Fault> {
    let mut warnings = Vec::new();
    let mut highest: BTreeMap<&Name, Version> = BTreeMap::new();
    for (name, version) in &it.workflows {
        let best = highest.entry(name).or_insert(*version);
        *best = (*best).max(*version);
        match turn.version(name, *version)? {
            Some(known) if known.queue == it.queue => {}
            Some(known) => warnings.push(format!(
                "{name}@v{version} is served on queue {}, its runs do not wait on {}",
                known.queue, it.queue
            )),
            None => {
                let row = VersionRow {
                    name: name.clone(),
                    version: *version,
                    queue: it.queue.clone(),
                    open: BTreeMap::new(),
                };
                turn.put(
                    Key::Version(name.clone(), *version),
                    Row::Version(Arc::new(row)),
                );
            }
        }
    }
    for (name, version) in highest {
        match turn.workflow(name)? {
            None => {
                let row = Workflow {
                    name: name.clone(),
                    current: version,
                };
                turn.put(Key::Workflow(name.clone()), Row::Workflow(row));
            }
            Some(known) if known.current < version => warnings.push(format!(
                "new runs take {name}@v{}; `holdfast deploy set {name}@v{version}` moves them",
                known.current
            )),
            Some(_) => {}
        }
    }
    Ok(warnings)
}

/// A worker declares limits only where nobody declared them before.
fn declare_limits<R: Rows>(turn: &mut Turn<'_, R>, it: &Attach) -> Result<(), Fault> {
    let now = turn.now;
    for (name, spec) in &it.limits {
        let row = match turn.limit(name)? {
            None => Limit::declared(*spec, now),
            Some(mut known) if known.spec.is_none() => {
                known.redeclare(*spec, now);
                known
            }
            Some(_) => continue,
        };
        turn.put(Key::Limit(name.clone()), Row::Limit(row));
    }
    Ok(())
}

/// A process that attaches is not dead: no run has killed it.
fn absolve<R: Rows>(turn: &mut Turn<'_, R>, process: &ProcessId) -> Result<(), Fault> {
    let Some(runs) = turn.orders().suspects.get(process).cloned() else {
        return Ok(());
    };
    for id in runs {
        if let Some(run) = turn.run(&id)? {
            let mut run = Arc::unwrap_or_clone(run);
            run.suspects.retain(|suspect| suspect != process);
            turn.store_run(run);
        }
    }
    Ok(())
}
