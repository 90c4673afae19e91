//! `Cancel`, `Terminate`, `Pause`, `Resume`: changes that people make to a run. A repeat gets the same answer.

use std::sync::Arc;

use crate::{
    commands::common,
    effect::Effect,
    entry::Change,
    reply::{End, Rejected, Reply},
    rows::{Fault, Rows, TypedRows},
    seeded::{self, Bug},
    turn::{Facts, Turn},
    values::{
        run::{Back, Mode, Run},
        step::{TryState, cut},
    },
};

/// Loads the run; a repeated ask is answered with its status, one that came too late with how it ended.
fn change<R: Rows>(
    turn: &mut Turn<'_, R>,
    it: &Change,
    decide: impl FnOnce(&mut Turn<'_, R>, Run) -> Result<Reply, Fault>,
) -> Result<Reply, Fault> {
    let Some(run) = turn.run(&it.run)? else {
        return common::not_live(turn, &it.run);
    };
    if run.remembers(&it.request) {
        return Ok(Reply::Changed(run.status()));
    }
    let mut run = Arc::unwrap_or_clone(run);
    run.remember(&it.request);
    decide(turn, run)
}

fn store<R: Rows>(turn: &mut Turn<'_, R>, run: Run) -> Result<Reply, Fault> {
    let id = run.id.clone();
    common::settle(turn, run)?;
    let status = match turn.run(&id)? {
        Some(run) => run.status(),
        None => turn
            .finished(&id)?
            .map_or(crate::reply::Status::Cancelled, |d| d.end.status()),
    };
    Ok(Reply::Changed(status))
}

/// Asks the run to cancel: nothing new begins, what is owed is undone, then it is CANCELLED.
pub fn cancel<R: Rows>(turn: &mut Turn<'_, R>, it: &Change) -> Result<Reply, Fault> {
    change(turn, it, |turn, mut run| {
        if matches!(run.back(), Back::Undoing { .. }) {
            return store(turn, run); // it is ending already; the first writer won
        }
        let reason = cut(&it.reason);
        let facts = Facts {
            cancel: Some(reason.clone()),
            ..Facts::default()
        };
        turn.deliver(&mut run, facts);
        if !seeded::armed(Bug::CancelNotFinal) {
            common::begin_ending(turn, &mut run, End::Cancelled(reason))?;
        }
        store(turn, run)
    })
}

/// Ends the run at once. Runs nothing, and lists the effects that are left as they are.
pub fn terminate<R: Rows>(turn: &mut Turn<'_, R>, it: &Change) -> Result<Reply, Fault> {
    if it.reason.trim().is_empty() {
        return Ok(Rejected::Invalid("terminate needs a reason".to_owned()).into());
    }
    change(turn, it, |turn, mut run| {
        for (work, lease) in run.leases() {
            let (session, fence) = (lease.session, lease.fence);
            turn.effect(Effect::Stop {
                work,
                session,
                fence,
                why: "the run was terminated",
            });
        }
        let not_undone = run
            .undos
            .iter()
            .map(|owed| format!("{} (entry {}, by {})", owed.step, owed.intent, owed.undo))
            .collect();
        let intents: Vec<_> = run.open.keys().copied().collect();
        for intent in intents {
            common::close_step(turn, &mut run, intent)?;
        }
        run.open.clear();
        run.drive = None;
        turn.finish(
            run,
            End::Terminated {
                reason: cut(&it.reason),
                not_undone,
            },
        )?;
        Ok(Reply::Changed(crate::reply::Status::Terminated))
    })
}

/// Holds the run still. Steps in flight finish, and their results are kept.
pub fn pause<R: Rows>(turn: &mut Turn<'_, R>, it: &Change) -> Result<Reply, Fault> {
    change(turn, it, |turn, mut run| {
        if matches!(run.mode, Mode::Paused { .. } | Mode::Quarantined { .. }) {
            return store(turn, run);
        }
        turn.deliver(
            &mut run,
            Facts::note(format!("paused: {}", cut(&it.reason))),
        );
        run.pause(cut(&it.reason), false);
        if run.local_in_flight() == 0 {
            common::lose_drive(turn, &mut run, "the run was paused")?;
        }
        store(turn, run)
    })
}

/// Lets a run go on where it was held still; a step that was given up is tried again, from a fresh policy.
pub fn resume<R: Rows>(turn: &mut Turn<'_, R>, it: &Change) -> Result<Reply, Fault> {
    change(turn, it, |turn, mut run| {
        if !matches!(run.mode, Mode::Paused { .. } | Mode::Quarantined { .. }) {
            let (status, id) = (run.status(), run.id.clone());
            let why = "only a paused or quarantined run can be resumed".to_owned();
            return Ok(Rejected::NotNow {
                run: id,
                status,
                why,
            }
            .into());
        }
        go_on(turn, &mut run)?;
        store(turn, run)
    })
}

/// Resumes, and schedules whatever was held for a person.
///
/// # Errors
/// `Fault`: a row cannot be decoded.
pub fn go_on<R: Rows>(turn: &mut Turn<'_, R>, run: &mut Run) -> Result<(), Fault> {
    turn.deliver(run, Facts::note("resumed"));
    run.resume(turn.now);
    // What is lost only now was not what the person saw: it may hold the run still once more.
    let held: Vec<_> = run
        .steps()
        .filter(|(_, step)| step.tries.state == TryState::Held)
        .map(|(intent, _)| intent)
        .collect();
    common::lose_orphans(turn, run, "its drive ended")?;
    common::look_at_limits(turn, run); // nobody looked for it while it was held
    for intent in held {
        if let Some(step) = run.step_mut(intent) {
            step.tries.reset_policy();
        }
        common::schedule(turn, run, intent)?;
    }
    let now = turn.now;
    for tries in run.undos.iter_mut().filter_map(|owed| owed.tries.as_mut()) {
        if tries.state == TryState::Held {
            tries.reset_policy();
            tries.wait_for_worker(false, (0, 0), now);
        }
    }
    Ok(())
}
