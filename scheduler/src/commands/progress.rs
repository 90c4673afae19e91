//! `Progress`: a heartbeat with what the attempt has done so far, kept for the next attempt.

use std::sync::Arc;

use crate::{
    bounds,
    commands::common,
    effect::Effect,
    entry::{Progress, Work},
    reply::{Rejected, Reply},
    rows::{Fault, Rows, TypedRows},
    turn::Turn,
};

/// Under a fence that is not live it changes nothing.
pub fn apply<R: Rows>(turn: &mut Turn<'_, R>, it: &Progress) -> Result<Reply, Fault> {
    if it.progress.len() > bounds::PROGRESS_BYTES_MAX {
        return Ok(Rejected::TooLarge {
            what: "the progress of an attempt".to_owned(),
            size: it.progress.len() as u64,
            max: bounds::PROGRESS_BYTES_MAX as u64,
            cure: "record where to go on, not what was done".to_owned(),
        }
        .into());
    }
    let Some(run) = turn.run(&it.run)? else {
        return Ok(Rejected::StaleFence(it.fence).into());
    };
    let Some(work) = common::under_fence(&run, it.intent, it.fence) else {
        return Ok(Rejected::StaleFence(it.fence).into());
    };
    let mut run = Arc::unwrap_or_clone(run);
    let progress = Some(it.progress.clone());
    match &work {
        Work::Undo(_, intent) => {
            let owed = run.undos.iter_mut().find(|owed| owed.intent == *intent);
            if let Some(tries) = owed.and_then(|owed| owed.tries.as_mut()) {
                tries.progress = progress;
            }
        }
        Work::Step(_, intent) => {
            if let Some(step) = run.step_mut(*intent) {
                step.tries.progress = progress;
            }
        }
        Work::Run(_) => {}
    }
    turn.store_run(run);
    turn.effect(Effect::Progressed {
        work,
        fence: it.fence,
    });
    Ok(Reply::Done)
}
