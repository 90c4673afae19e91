//! `Admit`: lets waiters of a limit pass, first come first served, as far as their limits admit.

use std::sync::Arc;

use crate::{
    bounds,
    commands::{common, grant},
    effect::{Effect, Needs},
    entry::{Admit, Work},
    ids::{IntentNo, RunId},
    reply::Reply,
    rows::{Fault, Rows, TypedRows},
    turn::Turn,
    values::run::{Run, Session},
    views,
};

/// Waiters whose worker is missing keep their place and are passed over.
pub fn apply<R: Rows>(turn: &mut Turn<'_, R>, it: &Admit) -> Result<Reply, Fault> {
    let named = (!it.waiters.is_empty()).then(|| it.waiters.clone());
    let in_order = || -> Vec<Work> {
        turn.orders()
            .waits
            .get(&it.limit)
            .map(|w| w.values().cloned().collect())
            .unwrap_or_default()
    };
    let waiters = named.unwrap_or_else(in_order);
    let sessions = views::sessions(turn)?;
    let mut count = 0;
    let mut more = false;
    for work in &waiters {
        if count as usize >= bounds::RUNS_PER_DUTY_MAX {
            more = true;
            break;
        }
        let limit = turn.limit(&it.limit)?;
        if limit.as_ref().is_some_and(|limit| !limit.admits(turn.now)) {
            break;
        }
        let Work::Step(id, intent) = work else {
            continue;
        };
        let reply = turn.guarded(id, |turn| pass(turn, id, *intent, &sessions))?;
        count += u32::from(reply == Reply::Done);
    }
    look_again(turn, it)?;
    Ok(Reply::Did { count, more })
}

/// Says when the next waiter may pass, if time alone decides; a place given back says so itself.
fn look_again<R: Rows>(turn: &mut Turn<'_, R>, it: &Admit) -> Result<(), Fault> {
    if !turn.orders().waits.contains_key(&it.limit) {
        return Ok(());
    }
    let Some(limit) = turn.limit(&it.limit)? else {
        return Ok(());
    };
    if let Some(at) = limit.next_admission(turn.now).filter(|at| *at > turn.now) {
        turn.attempt(|turn| {
            turn.effect(Effect::LimitWaits {
                limit: it.limit.clone(),
                at,
            });
            Ok(Reply::Done)
        })?;
    }
    Ok(())
}

fn is_served(run: &Run, intent: IntentNo, sessions: &[Arc<Session>]) -> bool {
    let Some(step) = run.step(intent) else {
        return false;
    };
    let needs = if step.is_local() {
        Needs::Workflow(run.workflow.clone(), run.version)
    } else {
        let queue = step.queue.clone().unwrap_or_else(|| run.queue.clone());
        Needs::Step {
            queue,
            step: step.executes().clone(),
        }
    };
    sessions
        .iter()
        .any(|session| grant::serves(session, &needs))
}

fn pass<R: Rows>(
    turn: &mut Turn<'_, R>,
    id: &RunId,
    intent: IntentNo,
    sessions: &[Arc<Session>],
) -> Result<Reply, Fault> {
    let Some(run) = turn.run(id)?.filter(|run| run.is_live()) else {
        return Ok(Reply::Moot);
    };
    if !is_served(&run, intent, sessions) {
        return Ok(Reply::Moot);
    }
    let mut run = Arc::unwrap_or_clone(run);
    if !common::pass_limits(turn, &mut run, intent, false)? {
        return Ok(Reply::Moot);
    }
    common::settle(turn, run)?;
    Ok(Reply::Done)
}
