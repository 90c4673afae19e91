//! `Repair`: gives a run without a wake source one. The audit on the leader asks for it; it should never find work.

use std::sync::Arc;

use crate::{
    commands::common,
    ids::RunId,
    reply::Reply,
    rows::{Fault, Rows, TypedRows},
    turn::{Facts, Turn},
};

/// Moot where the run can move by itself.
pub fn apply<R: Rows>(turn: &mut Turn<'_, R>, id: &RunId) -> Result<Reply, Fault> {
    let Some(run) = turn.run(id)?.filter(|run| run.wake_source().is_none()) else {
        return Ok(Reply::Moot);
    };
    let mut run = Arc::unwrap_or_clone(run);
    turn.deliver(
        &mut run,
        Facts::note("nothing would have moved this run; woken by the audit"),
    );
    run.wake(turn.now);
    common::settle(turn, run)?;
    Ok(Reply::Done)
}
