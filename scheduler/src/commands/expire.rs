//! `Expire` and `Detach`: leases whose holder is lost, or has left. Each run has a savepoint of its own.

use std::sync::Arc;

use crate::{
    bounds,
    commands::common,
    effect::Effect,
    entry::{AttemptOutcome, Expire, Work},
    ids::{Fence, ProcessId, RunId, SessionId},
    reply::{Outcome, Reply},
    rows::{Fault, Key, Row, Rows, TypedRows},
    turn::{Facts, Turn},
    values::run::{Run, Session},
};

/// Ends what is lost; in bounded parts where it is a whole session.
pub fn apply<R: Rows>(turn: &mut Turn<'_, R>, it: &Expire) -> Result<Reply, Fault> {
    match it {
        Expire::Session { session, at_most } => end_session(turn, *session, *at_most),
        Expire::Attempt { work, fence } => {
            turn.guarded(work.run(), |turn| expire_attempt(turn, work, *fence))
        }
        Expire::Drive { run, fence } => turn.guarded(run, |turn| expire_drive(turn, run, *fence)),
    }
}

/// A worker leaves for good: its leases end, nothing is held against its runs. The first part ends here; the leader ends
/// the rest, which the mark on the session tells from a death.
pub fn detach<R: Rows>(turn: &mut Turn<'_, R>, id: SessionId) -> Result<Reply, Fault> {
    let Some(session) = turn.session(id)? else {
        return Ok(Reply::Moot);
    };
    if !session.leaving {
        turn.attempt(|turn| {
            let session = Session {
                leaving: true,
                ..Arc::unwrap_or_clone(session)
            };
            turn.put(Key::Session(id), Row::Session(Arc::new(session)));
            turn.effect(Effect::SessionEnded(id));
            Ok(Reply::Done)
        })?;
    }
    end_session(turn, id, u32::MAX)
}

/// A session without leases is over; until then its row stays, for the parts that follow.
fn end_session<R: Rows>(
    turn: &mut Turn<'_, R>,
    id: SessionId,
    at_most: u32,
) -> Result<Reply, Fault> {
    let Some(session) = turn.session(id)? else {
        return Ok(Reply::Moot);
    };
    let most = usize::try_from(at_most)
        .unwrap_or(usize::MAX)
        .min(bounds::RUNS_PER_DUTY_MAX);
    let held = turn.orders().leases.get(&id);
    let mut runs: Vec<RunId> = held
        .into_iter()
        .flatten()
        .map(|(work, _)| work.run().clone())
        .collect();
    runs.sort();
    runs.dedup();
    let more = runs.len() > most;
    runs.truncate(most);
    let count = u32::try_from(runs.len()).unwrap_or(u32::MAX);
    let died = (!session.leaving).then_some(&session.process);
    for run in &runs {
        turn.guarded(run, |turn| lose_all(turn, run, id, died))?;
    }
    if !more {
        turn.attempt(|turn| {
            turn.delete(Key::Session(id));
            turn.effect(Effect::SessionEnded(id));
            Ok(Reply::Done)
        })?;
    }
    Ok(Reply::Did { count, more })
}

/// A run loses all that this session held of it.
fn lose_all<R: Rows>(
    turn: &mut Turn<'_, R>,
    id: &RunId,
    session: SessionId,
    died: Option<&ProcessId>,
) -> Result<Reply, Fault> {
    let Some(run) = turn.run(id)? else {
        return Ok(Reply::Moot);
    };
    let mut run = Arc::unwrap_or_clone(run);
    let why = if died.is_some() {
        "its worker was lost"
    } else {
        "its worker has left"
    };
    for (work, lease) in run
        .leases()
        .into_iter()
        .filter(|(_, lease)| lease.session == session)
    {
        match &work {
            Work::Run(_) => common::lose_drive(turn, &mut run, why)?, // and its local steps
            Work::Step(_, intent) | Work::Undo(_, intent) => {
                match common::under_fence(&run, *intent, lease.fence) {
                    Some(Work::Step(..)) => common::lose_step(turn, &mut run, *intent, why)?,
                    Some(Work::Undo(..)) => {
                        common::end_undo(turn, &mut run, *intent, &AttemptOutcome::Stopped);
                    }
                    Some(Work::Run(_)) | None => {}
                }
            }
        }
    }
    if let Some(process) = died {
        common::suspect(&mut run, process);
    }
    common::settle(turn, run)?;
    Ok(Reply::Done)
}

/// An attempt outlived its timeout, or its heartbeats stopped: a charged failure, unless its certainty forbids a repeat.
fn expire_attempt<R: Rows>(
    turn: &mut Turn<'_, R>,
    work: &Work,
    fence: Fence,
) -> Result<Reply, Fault> {
    let Some(run) = turn.run(work.run())? else {
        return Ok(Reply::Moot);
    };
    let Some((_, lease)) = run
        .leases()
        .into_iter()
        .find(|(w, l)| w == work && l.fence == fence)
    else {
        return Ok(Reply::Moot);
    };
    let mut run = Arc::unwrap_or_clone(run);
    let (session, why) = (lease.session, "the attempt outlived its time");
    turn.effect(Effect::Stop {
        work: work.clone(),
        session,
        fence,
        why,
    });
    let overdue = AttemptOutcome::Retryable {
        message: why.to_owned(),
        after: None,
    };
    match work {
        Work::Run(_) => return Ok(Reply::Moot),
        Work::Undo(_, intent) => common::end_undo(turn, &mut run, *intent, &overdue),
        Work::Step(_, intent) => {
            let repeatable = run
                .step(*intent)
                .is_some_and(|step| step.after_loss() == crate::values::step::AfterLoss::TryAgain);
            if repeatable {
                let over = common::end_attempt(turn, &mut run, *intent, &overdue)?;
                tell(turn, &mut run, *intent, over);
            } else {
                common::lose_step(turn, &mut run, *intent, why)?;
            }
        }
    }
    if let Some(drive) = run.drive {
        turn.effect(Effect::Driven {
            run: run.id.clone(),
            fence: drive.fence,
            in_flight: run.local_in_flight(),
        });
    }
    common::settle(turn, run)?;
    Ok(Reply::Done)
}

fn tell<R: Rows>(
    turn: &mut Turn<'_, R>,
    run: &mut Run,
    intent: crate::ids::IntentNo,
    over: Option<Outcome>,
) {
    if let Some(outcome) = over {
        turn.deliver(run, Facts::outcomes(vec![(intent, outcome)]));
    }
}

/// A drive that does nothing: it is given to another worker. Its steps in flight, if any, are not touched.
fn expire_drive<R: Rows>(turn: &mut Turn<'_, R>, id: &RunId, fence: Fence) -> Result<Reply, Fault> {
    let Some(run) = turn
        .run(id)?
        .filter(|run| run.drive.is_some_and(|d| d.fence == fence))
    else {
        return Ok(Reply::Moot);
    };
    if run.local_in_flight() > 0 {
        return Ok(Reply::Moot);
    }
    let mut run = Arc::unwrap_or_clone(run);
    if let Some(drive) = run.drive {
        turn.effect(Effect::Stop {
            work: Work::Run(id.clone()),
            session: drive.session,
            fence,
            why: "the drive did nothing for too long",
        });
    }
    common::lose_drive(turn, &mut run, "the drive did nothing for too long")?;
    common::settle(turn, run)?;
    Ok(Reply::Done)
}
