//! `Return`: a worker hands leases back, no failure charged. Each run has a savepoint of its own.

use std::sync::Arc;

use crate::{
    commands::common,
    entry::{AttemptOutcome, Return, Work},
    ids::{Fence, IntentNo, RunId},
    reply::Reply,
    rows::{Fault, Rows, TypedRows},
    turn::Turn,
};

/// A body may have begun before its worker handed it back: its certainty mode says what follows.
const HANDED_BACK: &str = "its worker handed it back";

/// What is under another fence by now is left alone.
pub fn apply<R: Rows>(turn: &mut Turn<'_, R>, it: &Return) -> Result<Reply, Fault> {
    let mut count = 0;
    for (id, fence) in &it.runs {
        let reply = turn.guarded(id, |turn| return_drive(turn, id, *fence))?;
        count += u32::from(reply == Reply::Done);
    }
    for (id, intent, fence) in &it.steps {
        let reply = turn.guarded(id, |turn| return_step(turn, id, *intent, *fence))?;
        count += u32::from(reply == Reply::Done);
    }
    Ok(Reply::Did { count, more: false })
}

fn return_drive<R: Rows>(turn: &mut Turn<'_, R>, id: &RunId, fence: Fence) -> Result<Reply, Fault> {
    let Some(run) = turn
        .run(id)?
        .filter(|run| run.drive.is_some_and(|d| d.fence == fence))
    else {
        return Ok(Reply::Moot);
    };
    let mut run = Arc::unwrap_or_clone(run);
    common::lose_drive(turn, &mut run, HANDED_BACK)?;
    common::settle(turn, run)?;
    Ok(Reply::Done)
}

fn return_step<R: Rows>(
    turn: &mut Turn<'_, R>,
    id: &RunId,
    intent: IntentNo,
    fence: Fence,
) -> Result<Reply, Fault> {
    let Some(run) = turn.run(id)? else {
        return Ok(Reply::Moot);
    };
    let Some(work) = common::under_fence(&run, intent, fence) else {
        return Ok(Reply::Moot);
    };
    let mut run = Arc::unwrap_or_clone(run);
    match work {
        Work::Undo(_, intent) => {
            common::end_undo(turn, &mut run, intent, &AttemptOutcome::Stopped);
        }
        Work::Step(..) | Work::Run(_) => common::lose_step(turn, &mut run, intent, HANDED_BACK)?,
    }
    common::settle(turn, run)?;
    Ok(Reply::Done)
}
