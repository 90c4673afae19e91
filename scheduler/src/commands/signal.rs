//! `Signal`: a message to a run. Taken once per id, first come first served, buffered until a wait takes it.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    bounds,
    commands::{common, start},
    entry::Signal,
    ids::{IntentNo, Name, RunId},
    reply::{Outcome, Rejected, Reply},
    rows::{Alike, Fault, Key, ReadRows, Row, Rows, Stretch, TypedRows},
    seeded::{self, Bug},
    turn::{Facts, Turn},
    values::run::{Buffered, OpenKind, Run},
};

/// Seen: the same answer. Waited for: delivered at once. Else buffered, up to a bound that refuses and never drops.
pub fn apply<R: Rows>(turn: &mut Turn<'_, R>, it: &Signal) -> Result<Reply, Fault> {
    if it.payload.len() > bounds::INLINE_PAYLOAD_BYTES_MAX {
        return Ok(start::too_large("the signal's payload", it.payload.len()).into());
    }
    let seen = Key::Seen(it.run.clone(), it.id.clone());
    let repeated = turn.get(&seen)?.is_some();
    let Some(run) = turn.run(&it.run)? else {
        if repeated && let Some(done) = turn.finished(&it.run)? {
            return Ok(Reply::Changed(done.end.status()));
        }
        return common::not_live(turn, &it.run);
    };
    if repeated {
        return Ok(Reply::Changed(run.status()));
    }
    let mut run = Arc::unwrap_or_clone(run);
    match waiting(&run, &it.name) {
        Some(intent) => {
            run.open.remove(&intent);
            let outcome = Outcome::Done(it.payload.clone());
            turn.deliver(&mut run, Facts::outcomes(vec![(intent, outcome)]));
        }
        None => {
            if let Some(rejected) = overflow(&run, it.payload.len() as u64) {
                return Ok(rejected.into());
            }
            let arrival = turn.next_ticket();
            run.buffered.0 += 1;
            run.buffered.1 += it.payload.len() as u64;
            let buffered = Buffered {
                id: it.id.clone(),
                payload: it.payload.clone(),
            };
            let key = Key::Signal(it.run.clone(), it.name.clone(), arrival);
            turn.put(key, Row::Signal(buffered));
        }
    }
    turn.put(seen, Row::Mark);
    let status = run.status();
    common::settle(turn, run)?;
    Ok(Reply::Changed(status))
}

/// The wait for this signal that was opened first.
fn waiting(run: &Run, name: &Name) -> Option<IntentNo> {
    run.open
        .iter()
        .find(|(_, open)| matches!(&open.what, OpenKind::Wait { signal, .. } if signal == name))
        .map(|(intent, _)| *intent)
}

fn overflow(run: &Run, bytes: u64) -> Option<Rejected> {
    let (signals, held) = run.buffered;
    let full = signals as usize >= bounds::SIGNALS_PER_RUN_MAX
        || held + bytes > bounds::SIGNAL_BYTES_PER_RUN_MAX as u64;
    full.then(|| Rejected::SignalOverflow {
        run: run.id.clone(),
        signals,
        bytes: held,
    })
}

/// Takes the signal of this name that was buffered first.
///
/// # Errors
/// `Fault`: a row cannot be decoded.
pub fn take_buffered<R: Rows>(
    turn: &mut Turn<'_, R>,
    run: &mut Run,
    name: &Name,
) -> Result<Option<Bytes>, Fault> {
    if run.buffered.0 == 0 {
        return Ok(None);
    }
    let Some((key, payload)) = first_buffered(turn, &run.id, name)? else {
        return Ok(None);
    };
    turn.delete(key);
    run.buffered.0 -= 1;
    run.buffered.1 -= payload.len() as u64;
    Ok(Some(payload))
}

fn first_buffered<R: Rows>(
    turn: &Turn<'_, R>,
    run: &RunId,
    name: &Name,
) -> Result<Option<(Key, Bytes)>, Fault> {
    let mut first = None;
    let from = Key::Signal(run.clone(), name.clone(), (0, 0));
    turn.scan(&Stretch::from(from, Alike::Two), &mut |key, row| {
        if let Row::Signal(buffered) = row {
            first = Some((key, buffered.payload));
        }
        seeded::armed(Bug::SignalsOvertake)
    })?;
    Ok(first)
}
