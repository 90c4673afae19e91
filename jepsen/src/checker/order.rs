//! S11 reads and registers are linearizable.
//!
//! Decided twice. By positions: what returned before another began has no larger position, a replay in the order of positions gives
//! each answer, and reads are as fresh as they were asked to be. And without positions, by search, per key. Writes of which nothing
//! is known are settled from the taps first. Not here: the models (`model`), the search (`wgl`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::checker::case::{Case, Judge};
use crate::checker::log::is_final;
use crate::checker::model::{Model, RunModel, VersionModel};
use crate::checker::story;
use crate::checker::wgl::{Linearized, linearize};
use crate::records::{Answer, AppliedCommand, Call, Op, Outcome, Position, Verdict};

/// The search per key takes no longer.
const KEY_WITHIN: Duration = Duration::from_secs(5);
/// All searches together take no longer.
const ALL_WITHIN: Duration = Duration::from_secs(120);

/// S11: by positions, then by search.
pub fn s11(case: &Case<'_>) -> Verdict {
    let mut judge = Judge::new();
    real_time(case, &mut judge);
    freshness(case, &mut judge);
    missed(case, &mut judge);
    let until = Instant::now() + ALL_WITHIN;
    let (runs, versions) = keys(case);
    for (run, ops) in runs {
        replay::<RunModel>(case, run, &ops, &mut judge);
        search::<RunModel>(case, run, &ops, until, &mut judge);
    }
    for (workflow, ops) in versions {
        replay::<VersionModel>(case, workflow, &ops, &mut judge);
        search::<VersionModel>(case, workflow, &ops, until, &mut judge);
    }
    judge.verdict()
}

/// Whether it took a place in the log.
fn is_write(call: &Call) -> bool {
    match call {
        Call::Start { .. }
        | Call::Signal { .. }
        | Call::Cancel { .. }
        | Call::Terminate { .. }
        | Call::SetCurrent { .. }
        | Call::SetLimit { .. } => true,
        Call::Result { .. } | Call::Get { .. } | Call::GetCurrent { .. } => false,
    }
}

/// Whether the answer must be as fresh as the moment of asking.
fn is_linear(call: &Call) -> bool {
    match call {
        Call::Get {
            stale, at_least, ..
        } => !stale && at_least.is_none(),
        _ => true,
    }
}

/// A read comes after all commands of its entry.
fn place(op: &Op) -> Option<Position> {
    let mut at = op.position?;
    if !is_write(&op.call) {
        at.slot = u32::MAX;
    }
    Some(at)
}

/// What had returned before another began has a smaller position, or for a read the same one.
fn real_time(case: &Case<'_>, judge: &mut Judge) {
    let placed: Vec<(&Op, Position)> = case
        .answered()
        .filter_map(|op| Some((op, place(op)?)))
        .collect();
    let mut returned = placed.clone();
    returned.sort_by_key(|(op, _)| op.t_ret);
    let mut returned = returned.into_iter().peekable();
    let mut newest: BTreeMap<u32, (Position, &Op)> = BTreeMap::new();
    for (op, at) in placed {
        while let Some((earlier, its)) = returned.next_if(|(earlier, _)| earlier.t_ret < op.t_inv) {
            let newest = newest.entry(its.group).or_insert((its, earlier));
            if its > newest.0 {
                *newest = (its, earlier);
            }
        }
        if !is_linear(&op.call) {
            continue;
        }
        judge.saw();
        let Some((before, earlier)) = newest.get(&at.group) else {
            continue;
        };
        if at < *before || (is_write(&op.call) && at == *before) {
            let headline = format!(
                "S11: op {} had returned with position {}:{} before op {} began, which has {}:{}",
                earlier.id, before.index, before.slot, op.id, at.index, at.slot
            );
            judge.broken(|| story::of_ops(case, &headline, &[earlier, op]));
        }
    }
}

/// A read that asked for a position is not older; stale reads on one node do not go back while it lives.
fn freshness(case: &Case<'_>, judge: &mut Judge) {
    let mut ops: Vec<&Op> = case.answered().collect();
    ops.sort_by_key(|op| op.t_ret);
    // By node and group, in the order answered: when, and the newest index so far.
    let mut newest: BTreeMap<(&str, u32), Vec<(u64, u64)>> = BTreeMap::new();
    for op in &ops {
        let (
            Call::Get {
                stale, at_least, ..
            },
            Some(at),
        ) = (&op.call, op.position)
        else {
            continue;
        };
        if let Some(wanted) = at_least.filter(|wanted| wanted.group == at.group) {
            judge.saw();
            if at.index < wanted.index {
                let headline = format!(
                    "S11: op {} asked for index {} and was answered from {}",
                    op.id, wanted.index, at.index
                );
                judge.broken(|| story::of_ops(case, &headline, &[op]));
            }
        }
        if *stale && !op.node.is_empty() {
            let of = newest.entry((&op.node, at.group)).or_default();
            let most = of.last().map_or(0, |(_, index)| *index).max(at.index);
            of.push((op.t_ret, most));
        }
    }
    for op in &ops {
        let (Call::Get { stale: true, .. }, Some(at)) = (&op.call, op.position) else {
            continue;
        };
        let Some(of) = newest.get(&(op.node.as_str(), at.group)) else {
            continue;
        };
        let earlier = of.partition_point(|(t_ret, _)| *t_ret < op.t_inv);
        let Some((t, index)) = earlier.checked_sub(1).and_then(|nth| of.get(nth)) else {
            continue;
        };
        judge.saw();
        // A node that was killed may come back with less than it had answered from.
        let lived = !case
            .windows
            .iter()
            .any(|it| it.hits(&op.node) && it.overlaps(0, op.t_ret));
        if at.index < *index && lived {
            let headline = format!(
                "S11: {} had answered a stale read from index {index} by {}, and answered op {} from {}",
                op.node,
                case.clock(*t),
                op.id,
                at.index
            );
            judge.broken(|| story::of_ops(case, &headline, &[op]));
        }
    }
}

/// A read that asked for a position finds each run that was started up to it. That there is no such run is told without a
/// position, so neither its own nor the search can tell.
fn missed(case: &Case<'_>, judge: &mut Judge) {
    let mut started: BTreeMap<&str, (Position, &Op)> = BTreeMap::new();
    for op in case.answered() {
        if let (Call::Start { run, .. }, Some(at)) = (&op.call, op.position) {
            started.entry(run).or_insert((at, op));
        }
    }
    for op in case.answered() {
        let Call::Get {
            run,
            stale: false,
            at_least: Some(wanted),
        } = &op.call
        else {
            continue;
        };
        let Some((at, start)) = started.get(run.as_str()) else {
            continue;
        };
        if at.group != wanted.group || at.index > wanted.index {
            continue;
        }
        judge.saw();
        if op.answer == Some(Answer::NoRun) {
            let headline = format!(
                "S11: op {} asked for index {} and missed {run}, which op {} started at {}",
                op.id, wanted.index, start.id, at.index
            );
            judge.broken(|| story::of_ops(case, &headline, &[start, op]));
        }
    }
}

type ByKey<'a> = BTreeMap<&'a str, Vec<Op>>;

/// Operations by key, settled.
fn keys<'a>(case: &Case<'a>) -> (ByKey<'a>, ByKey<'a>) {
    let commands = Commands::of(case);
    let (mut runs, mut versions) = (ByKey::new(), ByKey::new());
    for op in &case.store.history {
        let (by, key) = match &op.call {
            Call::Start { run, .. }
            | Call::Result { run }
            | Call::Get { run, .. }
            | Call::Cancel { run, .. }
            | Call::Terminate { run, .. } => (&mut runs, run),
            Call::SetCurrent { workflow, .. } | Call::GetCurrent { workflow } => {
                (&mut versions, workflow)
            }
            Call::Signal { .. } | Call::SetLimit { .. } => continue,
        };
        if let Some(mut op) = settled(case, op, &commands) {
            // Of several partitions each has its own, and the answer tells the largest.
            if case.store.setup.partitions > 1 && is_write(&op.call) && op.call.run().is_none() {
                op.answer = None;
            }
            by.entry(key).or_default().push(op);
        }
    }
    // A second life begins anew: the model has one.
    runs.retain(|run, _| !case.lives.contains_key(&((*run).to_owned(), 2)));
    (runs, versions)
}

/// Where a command stands, when the first node applied it, and the command.
type Placed<'a> = (Position, u64, &'a AppliedCommand);

/// Writes as the taps have them.
struct Commands<'a> {
    /// By kind, and run or workflow.
    of: BTreeMap<(&'a str, &'a str), Vec<Placed<'a>>>,
    /// Positions that some operation was answered with.
    claimed: BTreeSet<Position>,
}

impl<'a> Commands<'a> {
    fn of(case: &Case<'a>) -> Self {
        let mut of: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (seen, command) in case.log.commands() {
            let kind = command.kind.as_str();
            let about = command.run.as_deref().or(command.name.as_deref());
            if let (Some(about), "start" | "cancel" | "terminate" | "deploy") = (about, kind) {
                let at = Position {
                    group: seen.line.group,
                    index: seen.line.index,
                    slot: command.slot,
                };
                let of = of.entry((kind, about)).or_default();
                of.push((at, seen.first, command));
            }
        }
        let writes = case.answered().filter(|op| is_write(&op.call));
        Self {
            of,
            claimed: writes.filter_map(|op| op.position).collect(),
        }
    }
}

/// A write of which nothing is known: left out if no tap has any like it, else it happened where the taps have it. What was refused
/// for certain is left out, unless the refusal tells something of the key.
fn settled(case: &Case<'_>, op: &Op, commands: &Commands<'_>) -> Option<Op> {
    let telling = |error: &str| error.contains("HF2001") || error.contains("HF3003");
    match op.outcome {
        Outcome::Ok => return Some(op.clone()),
        Outcome::Fail => return op.error.as_deref().is_some_and(telling).then(|| op.clone()),
        Outcome::Info if !is_write(&op.call) => return None,
        Outcome::Info => {}
    }
    if case.log.incomplete().is_some() {
        return Some(op.clone());
    }
    let (kind, about, request, number) = match &op.call {
        Call::Start { run, .. } => ("start", run, None, None),
        Call::Cancel { run, request } => ("cancel", run, Some(request), None),
        Call::Terminate { run, request } => ("terminate", run, Some(request), None),
        Call::SetCurrent { workflow, version } => {
            ("deploy", workflow, None, Some(u64::from(*version)))
        }
        _ => return None,
    };
    let like = commands.of.get(&(kind, about.as_str()))?;
    // Every partition has the current versions; they are read in the first.
    let home = like.iter().map(|(at, _, _)| at.group).min();
    let ids_are_known = like.iter().any(|(_, _, it)| it.request.as_ref() == request);
    let mut happened = like.iter().filter(|(at, first, it)| {
        it.answer == "ok"
            && *first >= op.t_inv
            && (number.is_none() || Some(at.group) == home)
            && !commands.claimed.contains(at)
            && (request.is_none() || !ids_are_known || it.request.as_ref() == request)
            && (number.is_none() || it.number == number)
    });
    let (at, first, _) = happened.next()?;
    let mut settled = op.clone();
    if happened.next().is_none() {
        settled.position = Some(*at);
        settled.t_ret = *first;
    }
    Some(settled)
}

/// A replay in the order of positions gives each answer.
fn replay<M: Model>(case: &Case<'_>, key: &str, ops: &[Op], judge: &mut Judge) {
    // Without its place a write may stand anywhere, and replaying the others would prove nothing.
    let unplaced =
        |op: &&Op| is_write(&op.call) && op.outcome != Outcome::Fail && op.position.is_none();
    if ops.iter().any(|op| unplaced(&op)) {
        return;
    }
    let mut placed: Vec<(Position, &Op)> =
        ops.iter().filter_map(|op| Some((place(op)?, op))).collect();
    placed.sort_by_key(|(at, op)| (*at, op.t_inv));
    let mut state = M::State::default();
    for (nth, (at, op)) in placed.iter().enumerate() {
        judge.saw();
        match M::step(&state, op) {
            Some(after) => state = after,
            None => {
                let headline = format!(
                    "S11: replaying {key} by positions, op {} at {}:{} could not have been answered like that",
                    op.id, at.index, at.slot
                );
                let ops: Vec<&Op> = placed[nth.saturating_sub(8)..=nth]
                    .iter()
                    .map(|(_, op)| *op)
                    .collect();
                judge.broken(|| story::of_ops(case, &headline, &ops));
                return;
            }
        }
    }
}

/// The search, without positions.
fn search<M: Model>(case: &Case<'_>, key: &str, ops: &[Op], until: Instant, judge: &mut Judge) {
    let linear: Vec<&Op> = ops.iter().filter(|op| is_searched(op)).collect();
    if linear.is_empty() {
        return;
    }
    judge.saw();
    let left = until
        .saturating_duration_since(Instant::now())
        .min(KEY_WITHIN);
    match linearize::<M>(&linear, left) {
        Linearized::Yes => {}
        Linearized::TimedOut => judge.unsure(format!(
            "the search over {} operations on {key} ran out of time",
            linear.len()
        )),
        Linearized::No {
            ordered,
            last,
            stuck,
        } => {
            let headline = format!(
                "S11: {key} is not linearizable: of {} operations {ordered} can be ordered, then none of ops {:?} fits",
                linear.len(),
                stuck.iter().map(|nth| linear[*nth].id).collect::<Vec<_>>()
            );
            let last = &last[last.len().saturating_sub(8)..];
            let told: Vec<&Op> = last.iter().chain(&stuck).map(|nth| linear[*nth]).collect();
            judge.broken(|| story::of_ops(case, &headline, &told));
        }
    }
}

/// Reads that may be old tell nothing of real time; a final state that one saw is final all the same.
fn is_searched(op: &Op) -> bool {
    let ended = matches!(&op.answer, Some(Answer::Run { status, .. }) if is_final(status));
    is_linear(&op.call) || ended
}
