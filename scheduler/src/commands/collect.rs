//! `Collect`: what is left of runs that ended goes when its time is over. First all but how they ended, later that too.
//!
//! Bounded, the oldest end first; each run has a savepoint of its own. What goes is deleted row by row: compaction gives the
//! space back, and no scan goes through it (`rows::Stretch`).

use std::sync::Arc;

use crate::{
    bounds,
    entry::Collect,
    ids::{Generation, Name, RequestId, RunId, Seq},
    index,
    reply::{End, Reply},
    rows::{Alike, Fault, Key, ReadRows, Row, Rows, Stretch, TypedRows},
    time::Timestamp,
    turn::Turn,
    values::run::Finished,
};

/// Rows that one command deletes, about: a run is never left half deleted, and a long one goes alone.
const ROWS_MAX: u64 = 4_096;

/// Collects what ended before the given times, but never what the group clock has not reached.
pub fn apply<R: Rows>(turn: &mut Turn<'_, R>, it: &Collect) -> Result<Reply, Fault> {
    let most = usize::try_from(it.at_most).unwrap_or(usize::MAX);
    let most = most.clamp(1, bounds::RUNS_PER_DUTY_MAX);
    // One more than may go: whether there are more.
    let mut due = due(turn, it, most + 1)?;
    let mut more = due.len() > most;
    due.truncate(most);
    let (mut count, mut rows) = (0, 0);
    for id in &due {
        if rows >= ROWS_MAX {
            more = true;
            break;
        }
        rows += turn
            .finished(id)?
            .map_or(1, |done| u64::from(done.rows.0) + 8);
        let reply = turn.guarded(id, |turn| collect(turn, id))?;
        count += u32::from(reply == Reply::Done);
    }
    // What cannot be collected is not tried over and over.
    let more = more && count > 0;
    Ok(Reply::Did { count, more })
}

fn due<R: Rows>(turn: &Turn<'_, R>, it: &Collect, most: usize) -> Result<Vec<RunId>, Fault> {
    let mut due = Vec::new();
    for (keeps, before) in it.bounds() {
        let before = before.min(turn.now);
        let all = Key::Ended(keeps, Timestamp(0), RunId::from_stored(""));
        turn.scan(&Stretch::from(all, Alike::One), &mut |key, _| {
            let Key::Ended(_, ended, id) = key else {
                return false;
            };
            if ended >= before || due.len() >= most {
                return false;
            }
            due.push(id);
            true
        })?;
    }
    Ok(due)
}

fn collect<R: Rows>(turn: &mut Turn<'_, R>, id: &RunId) -> Result<Reply, Fault> {
    let Some(done) = turn.finished(id)? else {
        return Ok(Reply::Moot);
    };
    index::unlist(turn, &done);
    if done.forgotten {
        turn.delete(Key::Finished(id.clone()));
        return Ok(Reply::Done);
    }
    delete_all(turn, id)?;
    let done = forgotten(Arc::unwrap_or_clone(done));
    turn.put(Key::Ended(done.keeps(), done.ended, id.clone()), Row::Mark);
    turn.put(Key::Finished(id.clone()), Row::Finished(Arc::new(done)));
    Ok(Reply::Done)
}

/// How it ended, without what it came to.
fn forgotten(done: Finished) -> Finished {
    let end = match done.end {
        End::Completed(_) => End::Completed(bytes::Bytes::new()),
        other => other,
    };
    Finished {
        end,
        last: None,
        forgotten: true,
        ..done
    }
}

/// Rows of all lives of this id.
fn delete_all<R: Rows>(turn: &mut Turn<'_, R>, id: &RunId) -> Result<(), Fault> {
    for from in [
        Key::Input(id.clone(), Generation(0)),
        Key::Journal(id.clone(), Generation(0), Seq(0)),
        Key::Seen(id.clone(), RequestId::from_stored("")),
        Key::View(id.clone(), Name::from_stored("")),
    ] {
        turn.delete_all(&Stretch::from(from, Alike::One))?;
    }
    Ok(())
}
