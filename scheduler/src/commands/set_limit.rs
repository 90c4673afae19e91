//! `SetLimit`: declares or changes a limit. What is held stays held.

use crate::{
    effect::Effect,
    entry::{LimitSpec, SetLimit},
    ids::LimitName,
    reply::{Rejected, Reply},
    rows::{Fault, Key, Row, Rows, TypedRows},
    time::Millis,
    turn::Turn,
    values::limit::Limit,
};

/// A limit that admits nothing at all is refused: close it by pausing its runs instead.
pub fn apply<R: Rows>(turn: &mut Turn<'_, R>, it: &SetLimit) -> Result<Reply, Fault> {
    if !admits(&it.spec) {
        return Ok(admits_nothing(&it.name).into());
    }
    let now = turn.now;
    let (row, previous) = match turn.limit(&it.name)? {
        None => (Limit::declared(it.spec, now), None),
        Some(mut known) => {
            let previous = known.spec;
            known.redeclare(it.spec, now);
            (known, previous)
        }
    };
    let at = row.next_admission(now).unwrap_or(now);
    turn.put(Key::Limit(it.name.clone()), Row::Limit(row));
    turn.effect(Effect::LimitWaits {
        limit: it.name.clone(),
        at,
    });
    Ok(Reply::LimitSet { previous })
}

/// A rate is counted over this long at most.
const SPAN_MAX: Millis = Millis::from_secs(366 * 24 * 3600);

/// Whether it would ever admit anything, in a span that people live through.
pub fn admits(spec: &LimitSpec) -> bool {
    let rate = spec
        .rate
        .is_none_or(|(count, per)| count > 0 && per.0 > 0 && per <= SPAN_MAX);
    rate && spec.concurrency != Some(0)
}

/// The refusal of a limit that never admits.
pub fn admits_nothing(name: &LimitName) -> Rejected {
    Rejected::Invalid(format!(
        "limit {name} would admit nothing, ever; a rate is at least 1 in a span of 1 ms to 366 d, a concurrency at least 1"
    ))
}
