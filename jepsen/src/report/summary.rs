//! The summary: a screen of text.
//!
//! Invariant: says what was judged and what was not; a violation is told whole. Not here: the page (`html`).

use std::fmt::Write as _;

use super::charts::{gaps, histogram, quantiles_in_words};
use crate::checker::case::{Case, MS};
use crate::checker::failover::Failover;
use crate::checker::store::Store;
use crate::checker::{Judged, Overall, Report};
use crate::records::{FaultStatus, Verdict};

/// Lines of faults that the summary has at most.
const FAULTS_MAX: usize = 40;

/// A test run in words.
pub fn summary(store: &Store, report: &Report) -> String {
    let case = Case::of(store);
    let mut text = String::new();
    head(&case, &mut text);
    faults(&case, report, &mut text);
    totals(&case, report, &mut text);
    verdicts(report, &mut text);
    text
}

fn head(case: &Case<'_>, text: &mut String) {
    let setup = &case.store.setup;
    let nemeses = if setup.nemeses.is_empty() {
        "none".to_owned()
    } else {
        setup.nemeses.join(",")
    };
    let seconds = setup.phases[2].saturating_sub(setup.phases[0]) / (1000 * MS);
    let _ = writeln!(
        text,
        "seed {} · {} nodes · {} partitions · {} workers · {} clients · {} · {nemeses} · {seconds} s · sink {}",
        setup.seed,
        setup.nodes,
        setup.partitions,
        setup.workers,
        setup.clients,
        setup.workload,
        setup.sink
    );
}

fn faults(case: &Case<'_>, report: &Report, text: &mut String) {
    let installed = case.store.faults.iter();
    let installed: Vec<_> = installed
        .filter(|it| it.status == FaultStatus::Installed)
        .collect();
    for fault in installed.iter().take(FAULTS_MAX) {
        let mut of = report.failovers.iter().filter(|it| it.t == fault.t);
        let what = format!("{} {}", fault.fault, fault.targets.join(","));
        let next = of.next().map_or(String::new(), first_step);
        let _ = writeln!(text, "{:>10}  {what:<36} {next}", case.clock(fault.t));
    }
    if installed.len() > FAULTS_MAX {
        let _ = writeln!(
            text,
            "            … {} faults more",
            installed.len() - FAULTS_MAX
        );
    }
}

fn first_step(it: &Failover) -> String {
    match it.first_step_us {
        Some(us) => format!("first step done +{} ({})", seconds(us), it.next),
        None => format!(
            "{} led after +{}, no step was done under it",
            it.next,
            seconds(it.leader_us)
        ),
    }
}

fn seconds(us: u64) -> String {
    format!("{}.{:02} s", us / 1_000_000, us % 1_000_000 / 10_000)
}

fn totals(case: &Case<'_>, report: &Report, text: &mut String) {
    let it = &report.totals;
    let _ = writeln!(
        text,
        "OPS {} ok {} fail {} info {} | RUNS {} submitted {} final {} stuck",
        it.ops, it.ok, it.fail, it.info, it.submitted, it.finished, it.stuck
    );
    let _ = writeln!(
        text,
        "EFFECTS {} | twice for one step {} | stale fences refused {} | entries {}",
        it.effects, it.duplicates, it.stale_refused, it.entries
    );
    let faults: Vec<String> = it
        .faults
        .iter()
        .map(|(name, (installed, skipped))| match skipped {
            0 => format!("{name} {installed}"),
            skipped => format!("{name} {installed} (skipped {skipped})"),
        })
        .collect();
    let failover = report.failover.as_ref().map_or("none".to_owned(), |it| {
        let p99 = it
            .p99
            .map_or(String::new(), |us| format!(" p99 {}", seconds(us)));
        format!(
            "p50 {}{p99} max {} (n={})",
            seconds(it.p50),
            seconds(it.max),
            it.n
        )
    });
    let faults = if faults.is_empty() {
        "none".to_owned()
    } else {
        faults.join(" · ")
    };
    let _ = writeln!(text, "FAULTS {faults}   FAILOVER {failover}");
    let latency = quantiles_in_words(&histogram(case.store.history.iter()));
    let (gaps, _) = gaps(case);
    let gap = gaps.first().map_or(0, |gap| (gap.to - gap.from) / MS);
    let _ = writeln!(text, "LATENCY {latency}   LONGEST GAP {gap} ms");
}

fn verdicts(report: &Report, text: &mut String) {
    let ids = |wanted: fn(&Verdict) -> bool| -> Vec<&str> {
        let those = report.invariants.iter().filter(|it| wanted(&it.verdict));
        those.map(|it| it.id.as_str()).collect()
    };
    let ok = ids(|it| matches!(it, Verdict::Valid { .. }));
    let idle = ids(|it| matches!(it, Verdict::NotExercised));
    let overall = match report.overall {
        Overall::Valid => "VALID",
        Overall::Violated => "VIOLATED",
        Overall::Unknown => "UNKNOWN",
    };
    if !ok.is_empty() {
        let _ = writeln!(text, "ok: {}", ok.join(" "));
    }
    if !idle.is_empty() {
        let _ = writeln!(text, "not exercised: {}", idle.join(" "));
    }
    for reason in &report.reasons {
        let _ = writeln!(text, "unknown: {reason}");
    }
    for Judged { id, verdict, .. } in &report.invariants {
        if let Verdict::Violated { stories } = verdict {
            let _ = writeln!(text, "\n{id} VIOLATED");
            for story in stories {
                let _ = writeln!(text, "{story}");
            }
        }
    }
    let _ = writeln!(text, "{overall}");
}
