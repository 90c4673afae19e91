//! `Grant`: gives a ready run or step to a session. Choosing is the leader's; here it is checked and made true.

use std::sync::Arc;

use crate::{
    commands::common,
    effect::{Effect, Needs},
    entry::{Grant, Work},
    ids::{DeliveryNo, IntentNo, Seq, SessionId},
    reply::{Reply, StepGrant},
    rows::{Fault, Rows, TypedRows},
    turn::Turn,
    values::run::{Drive, Run, Session},
};

/// Moot unless the work is still ready and the session may have it.
pub fn apply<R: Rows>(turn: &mut Turn<'_, R>, it: &Grant) -> Result<Reply, Fault> {
    let Some(run) = turn.run(it.work.run())? else {
        return Ok(Reply::Moot);
    };
    let Some(session) = turn.session(it.session)? else {
        return Ok(Reply::Moot);
    };
    let Some((_, ready)) = run
        .ready_work()
        .into_iter()
        .find(|(work, _)| *work == it.work)
    else {
        return Ok(Reply::Moot);
    };
    if !serves(&session, &ready.needs) {
        return Ok(Reply::Moot);
    }
    let mut run = Arc::unwrap_or_clone(run);
    match &it.work {
        Work::Run(_) => grant_run(turn, &mut run, it),
        Work::Step(_, intent) => grant_step(turn, &mut run, it, *intent),
        Work::Undo(_, intent) => grant_undo(turn, &mut run, it, *intent),
    }
    turn.store_run(run);
    Ok(Reply::Done)
}

/// Whether a session may take work with these needs.
pub fn serves(session: &Session, needs: &Needs) -> bool {
    if session.leaving {
        return false;
    }
    match needs {
        Needs::Workflow(name, version) => session
            .workflows
            .iter()
            .any(|(n, v)| n == name && v == version),
        Needs::Step { queue, step } => session.queue == *queue && session.steps.contains(step),
        Needs::Session(id) => session.id == *id,
    }
}

/// The right to drive, and with it each local step that is left open: recovery is one commit.
fn grant_run<R: Rows>(turn: &mut Turn<'_, R>, run: &mut Run, it: &Grant) {
    let fence = turn.next_fence();
    // Whoever is not it begins anew, and what it kept is out of date by the next Advance.
    let kept = run.kept.take().filter(|kept| kept.session == it.session);
    run.drive = Some(Drive {
        session: it.session,
        fence,
        since: turn.now,
        delivery: DeliveryNo(0),
        seen: DeliveryNo(0),
        unseen_from: run.next_seq,
        shown_from: kept.map_or(Seq(0), |kept| kept.shown_from),
    });
    run.newest_fence = Some(fence);
    run.ready = None;
    let grants = common::grant_local(turn, run, it.session, it.free_slots);
    turn.effect(Effect::Granted {
        work: it.work.clone(),
        session: it.session,
        fence,
        grants,
        driver: None,
    });
}

fn grant_step<R: Rows>(turn: &mut Turn<'_, R>, run: &mut Run, it: &Grant, intent: IntentNo) {
    let local = run
        .step(intent)
        .is_some_and(crate::values::step::Step::is_local);
    let driver = run.drive.filter(|_| local).map(|drive| drive.fence);
    let Some(grant) = common::grant_step(turn, run, intent, it.session) else {
        return;
    };
    turn.effect(Effect::Granted {
        work: it.work.clone(),
        session: it.session,
        fence: grant.fence,
        grants: vec![grant],
        driver,
    });
}

fn grant_undo<R: Rows>(turn: &mut Turn<'_, R>, run: &mut Run, it: &Grant, intent: IntentNo) {
    let Some(grant) = undo_grant(turn, run, it.session, intent) else {
        return;
    };
    turn.effect(Effect::Granted {
        work: it.work.clone(),
        session: it.session,
        fence: grant.fence,
        grants: vec![grant],
        driver: None,
    });
}

fn undo_grant<R: Rows>(
    turn: &mut Turn<'_, R>,
    run: &mut Run,
    session: SessionId,
    intent: IntentNo,
) -> Option<StepGrant> {
    let fence = turn.next_fence();
    let owed = run.undos.iter_mut().find(|owed| owed.intent == intent)?;
    let tries = owed.tries.as_mut()?;
    tries.grant(session, fence, turn.now);
    Some(StepGrant {
        intent,
        fence,
        attempt: tries.attempt,
        timeout: None,
        progress: tries.progress.clone(),
    })
}
