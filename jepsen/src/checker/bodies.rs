//! S5c at any sink: no effect after the checkpoint and no two bodies of one step at once, unless their worker was frozen.
//!
//! Decided from the workers' own files, the sink's and the taps. A body whose end nobody wrote is counted for its beginning only:
//! its process was killed. Not here: effects against grants (`effects`).

use std::collections::{BTreeMap, BTreeSet};

use crate::checker::case::{Case, Judge};
use crate::checker::log::{self, Lease};
use crate::checker::story;
use crate::records::{Body, BodyMoment, Ruling, Verdict};

/// One body from its begin to its end.
#[derive(Debug)]
struct Span<'a> {
    body: &'a Body,
    from: u64,
    to: u64,
}

fn spans<'a>(case: &Case<'a>) -> BTreeMap<(&'a str, &'a str), Vec<Span<'a>>> {
    let mut open: BTreeMap<(&str, u32, &str, u64), &Body> = BTreeMap::new();
    let mut spans: BTreeMap<(&str, &str), Vec<Span<'a>>> = BTreeMap::new();
    for body in &case.store.bodies {
        let key = (
            body.worker.as_str(),
            body.pid,
            body.run.as_str(),
            body.fence,
        );
        match body.what {
            BodyMoment::Began => {
                open.insert(key, body);
            }
            BodyMoment::Done | BodyMoment::Failed | BodyMoment::Stopped => {
                if let Some(began) = open.remove(&key) {
                    let of = spans.entry((&body.run, &body.step)).or_default();
                    of.push(Span {
                        body: began,
                        from: began.t,
                        to: body.t,
                    });
                }
            }
        }
    }
    for began in open.into_values() {
        let of = spans.entry((&began.run, &began.step)).or_default();
        of.push(Span {
            body: began,
            from: began.t,
            to: began.t,
        });
    }
    for of in spans.values_mut() {
        of.sort_by_key(|span| span.from);
    }
    spans
}

/// Whether this worker was paused, or its clock meddled with, at some time of the span.
fn was_frozen(case: &Case<'_>, worker: &str, from: u64, to: u64) -> bool {
    let freezes =
        |fault: &str| fault.contains("pause") || fault.contains("clock") || fault.contains("cpu");
    case.windows
        .iter()
        .any(|it| freezes(it.fault) && it.hits(worker) && it.overlaps(from, to))
}

/// S5c.
pub fn s5c(case: &Case<'_>) -> Verdict {
    let mut judge = Judge::new();
    for ((run, step), of) in spans(case) {
        judge.saw();
        // The one that reaches furthest so far is the only one that the next can overlap first.
        let mut furthest: Option<&Span<'_>> = None;
        for span in &of {
            if let Some(before) = furthest
                && span.from < before.to
                && span.body.fence != before.body.fence
                && !was_frozen(case, &before.body.worker, before.from, before.to)
                && !was_frozen(case, &span.body.worker, span.from, span.to)
            {
                let headline = format!(
                    "S5c: two bodies of {run} {step} ran at once: under fence {} in {} until {}, under fence {} in {} from {}",
                    story::fence(before.body.fence),
                    before.body.worker,
                    case.clock(before.to),
                    story::fence(span.body.fence),
                    span.body.worker,
                    case.clock(span.from)
                );
                judge.broken(|| story::of_run(case, &headline, run));
            }
            if furthest.is_none_or(|before| span.to > before.to) {
                furthest = Some(span);
            }
        }
    }
    late_effects(case, &mut judge);
    judge.verdict()
}

/// Effects of a step that was done already, whatever the sink made of them.
fn late_effects(case: &Case<'_>, judge: &mut Judge) {
    let dones = log::dones(&case.lives);
    for it in &case.store.effects {
        if !matches!(it.ruling, Ruling::Acted | Ruling::Repeated) {
            continue;
        }
        let Some(lease) = case.leases.get(&(it.run.as_str(), it.fence)) else {
            continue;
        };
        let Some((done, _)) = dones.get(&(lease.work, lease.generation)) else {
            continue;
        };
        judge.saw();
        if it.t > done.first && !was_frozen(case, &it.worker, lease.began.first, it.t) {
            let headline = format!(
                "S5c: {} was done at {}, and {} called the sink for it at {} under fence {}",
                story::work(lease.work),
                case.clock(done.first),
                it.worker,
                case.clock(it.t),
                story::fence(it.fence)
            );
            judge.broken(|| story::of_run(case, &headline, &it.run));
        }
    }
}

/// Part of S9: each body began after its grant was applied, and at most once per fence.
pub fn granted(case: &Case<'_>, complete: bool, judge: &mut Judge) {
    let mut begun: BTreeSet<(&str, u64)> = BTreeSet::new();
    for body in case
        .store
        .bodies
        .iter()
        .filter(|it| it.what == BodyMoment::Began)
    {
        judge.saw();
        let tell = |why: &str| {
            let fence = story::fence(body.fence);
            let headline = format!(
                "S9: {} began a body of {} {} under fence {fence} at {}, {why}",
                body.worker,
                body.run,
                body.step,
                case.clock(body.t)
            );
            story::of_run(case, &headline, &body.run)
        };
        if !begun.insert((&body.run, body.fence)) {
            judge.broken(|| tell("for the second time"));
        }
        let lease: Option<&Lease<'_>> = case.leases.get(&(body.run.as_str(), body.fence));
        match lease {
            None if complete => judge.broken(|| tell("which was never granted")),
            None => {}
            Some(lease) if body.t < lease.began.first => {
                judge.broken(|| tell("before any node had applied the grant"));
            }
            Some(lease) if lease.attempt.is_some_and(|attempt| attempt != body.attempt) => {
                judge.broken(|| tell("which belongs to another attempt"));
            }
            Some(_) => {}
        }
    }
}
