//! `Retry`: tries steps again now, instead of at their next attempt's time or never.

use std::sync::Arc;

use crate::{
    commands::{change, common},
    entry::Retry,
    reply::{Rejected, Reply},
    rows::{Fault, Rows, TypedRows},
    turn::Turn,
    values::{
        run::{Mode, Run},
        step::TryState,
    },
};

/// Of the named step, or of all that wait to be retried; a run that the system paused goes on.
pub fn apply<R: Rows>(turn: &mut Turn<'_, R>, it: &Retry) -> Result<Reply, Fault> {
    let Some(run) = turn.run(&it.run)? else {
        return common::not_live(turn, &it.run);
    };
    if run.remembers(&it.request) {
        return Ok(Reply::Changed(run.status()));
    }
    let named = |name: &crate::ids::Name| it.step.as_ref().is_none_or(|wanted| wanted == name);
    let steps: Vec<_> = run
        .steps()
        .filter(|(_, step)| named(&step.step) && waits(&step.tries.state))
        .map(|(intent, _)| intent)
        .collect();
    let undos: Vec<_> = run
        .undos
        .iter()
        .filter(|owed| named(&owed.undo))
        .filter(|owed| owed.tries.as_ref().is_some_and(|tries| waits(&tries.state)))
        .map(|owed| owed.intent)
        .collect();
    if steps.is_empty() && undos.is_empty() {
        let why = "no step of it waits to be retried".to_owned();
        let (run, status) = (run.id.clone(), run.status());
        return Ok(Rejected::NotNow { run, status, why }.into());
    }
    let mut run = Arc::unwrap_or_clone(run);
    run.remember(&it.request);
    if matches!(
        run.mode,
        Mode::Paused {
            by_system: true,
            ..
        }
    ) {
        change::go_on(turn, &mut run)?;
    }
    for intent in steps {
        if let Some(step) = run.step_mut(intent) {
            step.tries.reset_policy();
        }
        if run
            .step(intent)
            .is_some_and(|step| waits(&step.tries.state))
        {
            common::schedule(turn, &mut run, intent)?;
        }
    }
    retry_undos(turn, &mut run, &undos);
    let status = run.status();
    common::settle(turn, run)?;
    Ok(Reply::Changed(status))
}

fn waits(state: &TryState) -> bool {
    matches!(state, TryState::Backoff { .. } | TryState::Held)
}

fn retry_undos<R: Rows>(turn: &Turn<'_, R>, run: &mut Run, intents: &[crate::ids::IntentNo]) {
    let now = turn.now;
    for owed in run
        .undos
        .iter_mut()
        .filter(|owed| intents.contains(&owed.intent))
    {
        if let Some(tries) = owed.tries.as_mut().filter(|tries| waits(&tries.state)) {
            tries.reset_policy();
            tries.wait_for_worker(false, (0, 0), now);
        }
    }
}
