//! `SetLimit`: declares or changes a limit. What is held stays held.

use crate::{
    effect::Effect,
    entry::SetLimit,
    reply::{Rejected, Reply},
    rows::{Fault, Key, Row, Rows, TypedRows},
    turn::Turn,
    values::limit::Limit,
};

/// A limit that admits nothing at all is refused: close it by pausing its runs instead.
pub fn apply<R: Rows>(turn: &mut Turn<'_, R>, it: &SetLimit) -> Result<Reply, Fault> {
    let zero_rate = it
        .spec
        .rate
        .is_some_and(|(count, per)| count == 0 || per.0 == 0);
    if zero_rate || it.spec.concurrency == Some(0) {
        let name = &it.name;
        return Ok(Rejected::Invalid(format!("limit {name} would admit nothing, ever")).into());
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
