//! `FireDue`: whatever time alone moves. Bounded, oldest first; each run has a savepoint of its own.

use std::sync::Arc;

use crate::{
    bounds,
    commands::common,
    ids::{IntentNo, RunId},
    reply::{End, Outcome, Reply},
    rows::{Fault, Rows, TypedRows},
    seeded::{self, Bug},
    time::{Millis, Timestamp},
    turn::{Facts, Turn},
    values::{
        run::{Mode, OpenKind, Run},
        step::TryState,
    },
};

/// Fires what is due by `up_to`, but never what the group clock has not reached.
pub fn apply<R: Rows>(
    turn: &mut Turn<'_, R>,
    up_to: Timestamp,
    at_most: u32,
) -> Result<Reply, Fault> {
    let until = up_to.min(now(turn));
    let most = usize::try_from(at_most)
        .unwrap_or(usize::MAX)
        .min(bounds::RUNS_PER_DUTY_MAX);
    let due: Vec<RunId> = turn
        .orders()
        .due
        .iter()
        .take_while(|(when, _)| *when <= until)
        .take(most)
        .map(|(_, run)| run.clone())
        .collect();
    for run in &due {
        turn.guarded(run, |turn| fire(turn, run))?;
    }
    let more = turn
        .orders()
        .due
        .first()
        .is_some_and(|(when, _)| *when <= until);
    Ok(Reply::Did {
        count: u32::try_from(due.len()).unwrap_or(u32::MAX),
        more,
    })
}

fn fire<R: Rows>(turn: &mut Turn<'_, R>, id: &RunId) -> Result<Reply, Fault> {
    let Some(run) = turn.run(id)? else {
        return Ok(Reply::Moot);
    };
    let mut run = Arc::unwrap_or_clone(run);
    let now = now(turn);
    match &run.mode {
        Mode::Scheduled { at } if *at <= now => {
            run.mode = Mode::Live;
            run.wake(now);
        }
        Mode::Live if run.due.is_some_and(|due| due <= now) => {
            turn.deliver(&mut run, Facts::note("the run's own time ran out"));
            common::begin_ending(turn, &mut run, End::TimedOut)?;
        }
        Mode::Live => fire_open(turn, &mut run)?,
        Mode::Undoing { .. } => retry_undo(&mut run, now),
        Mode::Scheduled { .. } | Mode::Paused { .. } | Mode::Quarantined { .. } => {}
    }
    common::settle(turn, run)?;
    Ok(Reply::Done)
}

/// The moment up to which things are due.
fn now<R: Rows>(turn: &Turn<'_, R>) -> Timestamp {
    let early = u64::from(seeded::armed(Bug::TimerFiresEarly)) * 1_000;
    turn.now.after(Millis(early))
}

fn fire_open<R: Rows>(turn: &mut Turn<'_, R>, run: &mut Run) -> Result<(), Fault> {
    let now = now(turn);
    let mut due: Vec<(Timestamp, IntentNo)> = run
        .open
        .iter()
        .filter_map(|(intent, open)| open.next_due().map(|due| (due, *intent)))
        .filter(|(due, _)| *due <= now)
        .collect();
    due.sort_unstable();
    let mut outcomes = Vec::new();
    for (_, intent) in due {
        match run.open.get(&intent).map(|open| &open.what) {
            Some(OpenKind::Timer { .. }) => {
                run.open.remove(&intent);
                outcomes.push((intent, Outcome::Fired));
            }
            Some(OpenKind::Wait { .. }) => {
                run.open.remove(&intent);
                outcomes.push((intent, Outcome::TimedOut));
            }
            Some(OpenKind::Step(_)) => common::schedule(turn, run, intent)?,
            None => {}
        }
    }
    if !outcomes.is_empty() {
        turn.deliver(run, Facts::outcomes(outcomes));
    }
    Ok(())
}

fn retry_undo(run: &mut Run, now: Timestamp) {
    for tries in run.undos.iter_mut().filter_map(|owed| owed.tries.as_mut()) {
        if matches!(tries.state, TryState::Backoff { until, .. } if until <= now) {
            tries.wait_for_worker(false, (0, 0), now);
        }
    }
}
