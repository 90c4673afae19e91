//! S14 limits never exceeded: rate in every window, places at every moment, nothing while closed.
//!
//! Decided in log order on the group clock from admissions and declarations in the taps and the steps' limits in the journals. A
//! limit whose numbers no file tells is left out. Not here: fairness between waiters.

use std::collections::{BTreeMap, BTreeSet};

use crate::checker::case::{Case, Judge};
use crate::checker::log::Seen;
use crate::records::{Call, TapEvent, Verdict, Work};

/// A limit as it was declared.
#[derive(Debug, Clone, Copy, Default)]
struct Spec {
    from: u64,
    rate: Option<(u32, u64)>,
    burst: u32,
    places: Option<u32>,
}

/// The limits of each step, by run and number.
type Needs<'a> = BTreeMap<(&'a str, u32), BTreeSet<&'a str>>;

/// S14.
pub fn s14(case: &Case<'_>) -> Verdict {
    let mut judge = Judge::new();
    let needs = needs(case);
    for group in case.log.groups.values() {
        for (limit, settings) in specs(case, group) {
            let admissions = admissions(group.values(), limit, &needs);
            rates(limit, &settings, &admissions, &mut judge);
            places(
                case,
                limit,
                &settings,
                &mut group.values(),
                &needs,
                &mut judge,
            );
            closings(case, limit, &mut group.values(), &needs, &mut judge);
        }
    }
    judge.verdict()
}

/// The limits of a group, each with its declarations in log order. A declaration whose numbers no file tells promises nothing.
fn specs<'a>(case: &Case<'a>, group: &BTreeMap<u64, Seen<'a>>) -> BTreeMap<&'a str, Vec<Spec>> {
    let told = told(case);
    let mut specs: BTreeMap<&str, Vec<Spec>> = BTreeMap::new();
    for (index, seen) in group {
        for command in seen.line.commands.iter().filter(|it| it.answer == "ok") {
            for limit in &command.limits {
                let of = specs.entry(&limit.name).or_default();
                if command.kind == "set-limit" || of.is_empty() {
                    of.push(Spec {
                        from: *index,
                        rate: limit
                            .rate_count
                            .map(|count| (count, limit.rate_per_ms.max(1))),
                        burst: limit.burst.max(1),
                        places: limit.concurrency,
                    });
                }
            }
            if let (Some(name), "set-limit", []) = (
                &command.name,
                command.kind.as_str(),
                command.limits.as_slice(),
            ) {
                let spec = told.get(&(seen.line.group, *index, command.slot));
                specs.entry(name).or_default().push(Spec {
                    from: *index,
                    ..spec.copied().unwrap_or_default()
                });
            }
        }
    }
    specs
}

/// What clients set, by the position that they were told.
fn told(case: &Case<'_>) -> BTreeMap<(u32, u64, u32), Spec> {
    let told = case
        .answered()
        .filter_map(|op| match (&op.call, op.position) {
            (
                Call::SetLimit {
                    rate,
                    burst,
                    concurrency,
                    ..
                },
                Some(at),
            ) => {
                let spec = Spec {
                    from: at.index,
                    rate: rate.map(|rate| (rate, 1000)),
                    burst: burst.unwrap_or(1).max(1),
                    places: *concurrency,
                };
                Some(((at.group, at.index, at.slot), spec))
            }
            _ => None,
        });
    told.collect()
}

fn needs<'a>(case: &Case<'a>) -> Needs<'a> {
    let mut needs: Needs<'a> = BTreeMap::new();
    for ((run, _), journal) in case.journals() {
        for detail in journal.journal.iter().flat_map(|row| &row.details) {
            let of = needs.entry((run, detail.entry)).or_default();
            of.extend(detail.limits.iter().map(String::as_str));
        }
    }
    needs
}

fn concerns(needs: &Needs<'_>, limit: &str, run: &str, entry: u32) -> bool {
    needs
        .get(&(run, entry))
        .is_some_and(|limits| limits.contains(limit))
}

/// Admissions at a limit in log order: index, group clock, and who.
fn admissions<'a>(
    entries: impl Iterator<Item = &'a Seen<'a>>,
    limit: &str,
    needs: &Needs<'_>,
) -> Vec<(u64, u64, String)> {
    let mut admissions = Vec::new();
    for seen in entries {
        for (run, entry) in seen.line.commands.iter().flat_map(|it| &it.admitted) {
            if concerns(needs, limit, run, *entry) {
                admissions.push((
                    seen.line.index,
                    seen.line.now,
                    format!("step {entry} of {run}"),
                ));
            }
        }
    }
    admissions
}

/// No window of the group clock holds more than burst + rate × its length.
fn rates(limit: &str, settings: &[Spec], admissions: &[(u64, u64, String)], judge: &mut Judge) {
    for (nth, spec) in settings.iter().enumerate() {
        let until = settings.get(nth + 1).map_or(u64::MAX, |next| next.from);
        let Some((rate, per_ms)) = spec.rate else {
            continue;
        };
        let within: Vec<_> = admissions
            .iter()
            .filter(|(index, _, _)| spec.from <= *index && *index < until)
            .collect();
        judge.saw_many(within.len());
        // With level(i) = per·i − rate·now(i), the window from i to j holds too much iff level(j) − level(i) > per·(burst − 1), so
        // only the lowest level so far needs to be remembered.
        let mut lowest: Option<(i128, usize)> = None;
        for (j, (index, now, who)) in within.iter().enumerate() {
            let place = i128::try_from(j).unwrap_or(i128::MAX);
            let level = i128::from(per_ms) * place - i128::from(rate) * i128::from(*now);
            if lowest.is_none_or(|(low, _)| level < low) {
                lowest = Some((level, j));
            }
            let Some((low, first)) = lowest else { continue };
            if level - low > i128::from(per_ms) * i128::from(spec.burst - 1) {
                let (count, span) = (j - first + 1, now.saturating_sub(within[first].1));
                judge.broken(|| {
                    format!(
                        "S14: limit {limit} ({rate} in {per_ms} ms, burst {}) admitted {count} within {span} ms: from index {} to {index}, the last {who}\n{}",
                        spec.burst,
                        within[first].0,
                        listing(&within[first..=j])
                    )
                });
                lowest = Some((level, j)); // one story a burst
            }
        }
    }
}

fn listing(admissions: &[&(u64, u64, String)]) -> String {
    let lines = admissions.iter().take(40);
    let lines = lines.map(|(index, now, who)| format!("    index {index}, clock {now} ms: {who}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// At every position no more live leases of admitted steps than places.
fn places(
    case: &Case<'_>,
    limit: &str,
    settings: &[Spec],
    entries: &mut dyn Iterator<Item = &Seen<'_>>,
    needs: &Needs<'_>,
    judge: &mut Judge,
) {
    let mut live: BTreeMap<(&str, u32), u64> = BTreeMap::new();
    for seen in entries {
        let mut grew = false;
        for event in &seen.line.events {
            match event {
                TapEvent::LeaseBegan {
                    work: Work::Step { run, entry },
                    fence,
                    ..
                } if concerns(needs, limit, run, *entry) => {
                    live.insert((run, *entry), *fence);
                    grew = true;
                }
                TapEvent::LeaseEnded {
                    work: Work::Step { run, entry },
                    ..
                } => {
                    live.remove(&(run.as_str(), *entry));
                }
                _ => {}
            }
        }
        let index = seen.line.index;
        // A setting that takes places away does not take what was admitted before it.
        let so_far = settings.iter().filter(|spec| spec.from <= index);
        let places = so_far.map(|spec| spec.places.unwrap_or(u32::MAX)).max();
        let Some(places) = places.filter(|places| *places < u32::MAX) else {
            continue;
        };
        if grew {
            judge.saw();
        }
        if grew && live.len() > places as usize {
            let who: Vec<String> = live
                .keys()
                .map(|(run, entry)| format!("step {entry} of {run}"))
                .collect();
            judge.broken(|| {
                format!(
                    "S14: limit {limit} has {places} places, and at index {index} ({}) {} steps were under lease: {}",
                    case.clock(seen.first),
                    who.len(),
                    who.join(", ")
                )
            });
        }
    }
}

/// Nothing passes a limit between a throttle of it and the end that the callee named. A throttle closes nothing if the step does not
/// name the limit, if its run was ending, or if a probe said it: what may be one of those is left out.
fn closings(
    case: &Case<'_>,
    limit: &str,
    entries: &mut dyn Iterator<Item = &Seen<'_>>,
    needs: &Needs<'_>,
    judge: &mut Judge,
) {
    let probed = probed(case);
    let mut ending: BTreeSet<&str> = BTreeSet::new();
    let mut closed_until = 0;
    for seen in entries {
        let now = seen.line.now;
        ending.extend(seen.line.events.iter().filter_map(|event| match event {
            TapEvent::Run { run, status } if status == "UNDOING" => Some(run.as_str()),
            _ => None,
        }));
        for command in &seen.line.commands {
            for (run, entry) in &command.admitted {
                if concerns(needs, limit, run, *entry) && now < closed_until {
                    judge.broken(|| {
                        format!(
                            "S14: limit {limit} was closed until {closed_until} ms, and at index {} ({}, clock {now} ms) it admitted step {entry} of {run}",
                            seen.line.index,
                            case.clock(seen.first)
                        )
                    });
                }
            }
            // Whatever the same command admitted may have passed before.
            for result in command
                .results
                .iter()
                .filter(|it| it.outcome == "throttled")
            {
                let (Work::Step { run, entry }, Some(span)) = (&result.work, result.closed_ms)
                else {
                    continue;
                };
                let counts = result.limit.as_deref() == Some(limit)
                    && concerns(needs, limit, run, *entry)
                    && !probed.contains(&(run.as_str(), *entry))
                    && !ending.contains(run.as_str());
                if counts {
                    judge.saw();
                    closed_until = closed_until.max(now + span);
                }
            }
        }
    }
}

/// Steps whose attempts may be those of a probe.
fn probed<'a>(case: &Case<'a>) -> BTreeSet<(&'a str, u32)> {
    let mut probed = BTreeSet::new();
    for ((run, _), journal) in case.journals() {
        let details = journal.journal.iter().flat_map(|row| &row.details);
        let of = details.filter(|it| it.certainty.as_deref() == Some("reconcile"));
        probed.extend(of.map(|it| (run, it.entry)));
    }
    probed
}
