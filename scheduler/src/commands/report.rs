//! `Report`: a worker says what a step came to that it was given by Execute: a step of its queue, a probe, an undo.

use std::sync::Arc;

use crate::{
    bounds,
    commands::{common, start},
    entry::{AttemptOutcome, Report, Work},
    reply::{Outcome, Reply, Reported},
    rows::{Fault, Rows, TypedRows},
    turn::{Facts, Turn},
    values::run::{Back, Run},
};

/// Under a fence that is not live it changes nothing.
pub fn apply<R: Rows>(turn: &mut Turn<'_, R>, it: &Report) -> Result<Reply, Fault> {
    if let AttemptOutcome::Done(output) = &it.result.outcome
        && output.len() > bounds::INLINE_PAYLOAD_BYTES_MAX
    {
        return Ok(start::too_large("a step's output", output.len()).into());
    }
    let Some(run) = turn.run(&it.run)? else {
        return Ok(Reply::Reported(Reported::Stale));
    };
    let Some(work) = common::under_fence(&run, it.result.intent, it.result.fence) else {
        return Ok(Reply::Reported(Reported::Stale));
    };
    let mut run = Arc::unwrap_or_clone(run);
    match work {
        Work::Undo(_, intent) => common::end_undo(turn, &mut run, intent, &it.result.outcome),
        Work::Step(..) | Work::Run(_) => end_step(turn, &mut run, it)?,
    }
    common::settle(turn, run)?;
    Ok(Reply::Reported(Reported::Accepted))
}

fn end_step<R: Rows>(turn: &mut Turn<'_, R>, run: &mut Run, it: &Report) -> Result<(), Fault> {
    let intent = it.result.intent;
    let Some(outcome) = common::end_attempt(turn, run, intent, &it.result.outcome)? else {
        return Ok(());
    };
    let quiet = matches!(run.back(), Back::Undoing { .. }) && !matches!(outcome, Outcome::Done(_));
    if !quiet {
        turn.deliver(run, Facts::outcomes(vec![(intent, outcome)]));
    }
    Ok(())
}
