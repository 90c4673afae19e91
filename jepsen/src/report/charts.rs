//! The pictures: latency by operation, its quantiles, the rate, and availability with its gaps.
//!
//! Invariant: times are seconds since the load began; a fault's span lies behind everything that happened in it. A 99th percentile is
//! said only of 1,000 samples and more. Not here: drawing (`svg`).

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::svg::{Axis, Chart, Scale};
use crate::checker::case::{Case, MS};
use crate::records::{Op, Outcome};

/// A bin of the availability chart.
const BIN_NS: u64 = 100 * MS;
/// Points that a picture has at most: every n-th operation is drawn where there are more.
const POINTS_MAX: usize = 20_000;
/// From so many samples on a 99th percentile is said.
const P99_SAMPLES: u64 = 1_000;

/// Longer times are counted as this one: an hour.
const LATENCY_US_MAX: u64 = 3_600_000_000;

const OK: &str = "#2a7";
const FAIL: &str = "#e90";
const INFO: &str = "#c33";
const FAULT: &str = "#c8a";

/// A time in which nothing was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Since when.
    pub from: u64,
    /// Until when.
    pub to: u64,
}

/// All pictures by file name.
pub fn all(case: &Case<'_>) -> Vec<(&'static str, String)> {
    vec![
        ("latency.svg", latency(case)),
        ("latency-quantiles.svg", quantiles(case)),
        ("rate.svg", rate(case)),
        ("availability.svg", availability(case)),
    ]
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a picture has no place for more digits"
)]
fn seconds(case: &Case<'_>, t: u64) -> f64 {
    t.saturating_sub(case.zero()) as f64 / 1e9
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a picture has no place for more digits"
)]
fn count(number: u64) -> f64 {
    number as f64
}

fn end(case: &Case<'_>) -> u64 {
    case.store
        .history
        .iter()
        .map(|op| op.t_ret)
        .max()
        .unwrap_or(case.zero())
}

fn time_axis(case: &Case<'_>) -> Axis {
    Axis {
        label: "seconds since the load began",
        max: seconds(case, end(case)).max(1.0),
        scale: Scale::Linear,
    }
}

fn chart(case: &Case<'_>, title: impl Into<String>, y: Axis) -> Chart {
    let mut chart = Chart::new(title, time_axis(case), y);
    let last = end(case);
    for window in &case.windows {
        let what = format!("{} on {}", window.fault, window.targets.join(", "));
        let (from, to) = (window.from, window.to.min(last));
        chart.band(seconds(case, from), seconds(case, to), FAULT, &what);
    }
    chart
}

fn color(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => OK,
        Outcome::Fail => FAIL,
        Outcome::Info => INFO,
    }
}

fn took_ms(op: &Op) -> f64 {
    count(op.t_ret.saturating_sub(op.t_inv)) / 1e6
}

fn latency(case: &Case<'_>) -> String {
    let ops = &case.store.history;
    let y = Axis {
        label: "milliseconds",
        max: ops.iter().map(took_ms).fold(10.0, f64::max),
        scale: Scale::Log,
    };
    let mut chart = chart(case, format!("Latency of {} operations", ops.len()), y);
    let every = ops.len().div_ceil(POINTS_MAX).max(1);
    for op in ops.iter().step_by(every) {
        chart.point(seconds(case, op.t_inv), took_ms(op), color(op.outcome));
    }
    chart.legend(&[("ok", OK), ("refused", FAIL), ("unknown", INFO)]);
    chart.finish()
}

/// Quantiles of what was answered, in microseconds.
pub fn histogram<'a>(ops: impl Iterator<Item = &'a Op>) -> Histogram<u64> {
    let mut histogram = Histogram::new_with_max(LATENCY_US_MAX, 3)
        .expect("three digits are within the bounds of a histogram");
    for op in ops.filter(|op| op.outcome == Outcome::Ok) {
        histogram.saturating_record(op.t_ret.saturating_sub(op.t_inv) / 1000);
    }
    histogram
}

/// `p50 1.2 ms · max 40.1 ms (n=312)`: the 99th percentile is left out where there are too few.
pub fn quantiles_in_words(histogram: &Histogram<u64>) -> String {
    let n = histogram.len();
    if n == 0 {
        return "none".to_owned();
    }
    let ms = |us: u64| format!("{}.{} ms", us / 1000, us % 1000 / 100);
    let p50 = ms(histogram.value_at_quantile(0.5));
    let p99 = if n >= P99_SAMPLES {
        format!(" · p99 {}", ms(histogram.value_at_quantile(0.99)))
    } else {
        String::new()
    };
    format!("p50 {p50}{p99} · max {} (n={n})", ms(histogram.max()))
}

fn quantiles(case: &Case<'_>) -> String {
    let histogram = histogram(case.store.history.iter());
    let title = format!(
        "Latency of what was answered: {}",
        quantiles_in_words(&histogram)
    );
    let x = Axis {
        label: "percent of operations",
        max: 100.0,
        scale: Scale::Linear,
    };
    let y = Axis {
        label: "milliseconds",
        max: (count(histogram.max()) / 1e3).max(10.0),
        scale: Scale::Log,
    };
    let mut chart = Chart::new(title, x, y);
    let points: Vec<(f64, f64)> = (0..=1000)
        .map(|permille| f64::from(permille) / 1000.0)
        .map(|share| {
            (
                share * 100.0,
                count(histogram.value_at_quantile(share)) / 1e3,
            )
        })
        .collect();
    chart.line(&points, OK);
    chart.finish()
}

/// Operations that ended in each span of this length, by outcome.
fn bins(case: &Case<'_>, length: u64) -> BTreeMap<u64, [u64; 3]> {
    let mut bins: BTreeMap<u64, [u64; 3]> = BTreeMap::new();
    for op in &case.store.history {
        let of = match op.outcome {
            Outcome::Ok => 0,
            Outcome::Fail => 1,
            Outcome::Info => 2,
        };
        let bin = op.t_ret.saturating_sub(case.zero()) / length;
        bins.entry(bin).or_default()[of] += 1;
    }
    bins
}

fn rate(case: &Case<'_>) -> String {
    let bins = bins(case, 1000 * MS);
    let most = bins.values().flatten().max().copied().unwrap_or(1);
    let y = Axis {
        label: "operations per second",
        max: count(most).max(1.0),
        scale: Scale::Linear,
    };
    let mut chart = chart(case, "Rate by outcome", y);
    for (of, color) in [OK, FAIL, INFO].into_iter().enumerate() {
        let points: Vec<(f64, f64)> = bins
            .iter()
            .map(|(bin, counts)| (count(*bin) + 0.5, count(counts[of])))
            .collect();
        chart.line(&points, color);
    }
    chart.legend(&[("ok", OK), ("refused", FAIL), ("unknown", INFO)]);
    chart.finish()
}

/// No pause between two answers is called a gap that is not so many times the usual one.
const GAP_OF_USUAL: u64 = 5;

/// Times without an answer though somebody asked, the longest first; and how long one must be to count.
pub fn gaps(case: &Case<'_>) -> (Vec<Gap>, u64) {
    let mut answered: Vec<u64> = case.answered().map(|op| op.t_ret).collect();
    answered.sort_unstable();
    let mut spans: Vec<u64> = answered.windows(2).map(|pair| pair[1] - pair[0]).collect();
    spans.sort_unstable();
    let usual = spans.get(spans.len() / 2).copied().unwrap_or(0);
    let least = BIN_NS.max(GAP_OF_USUAL * usual);
    let asked: Vec<u64> = case.store.history.iter().map(|op| op.t_inv).collect();
    let pauses = answered.windows(2).map(|pair| Gap {
        from: pair[0],
        to: pair[1],
    });
    let mut gaps: Vec<Gap> = pauses
        .filter(|gap| gap.to - gap.from > least)
        // Where nobody asked, nothing was missing.
        .filter(|gap| {
            let next = asked.partition_point(|t| *t <= gap.from);
            asked.get(next).is_some_and(|t| *t < gap.to)
        })
        .collect();
    gaps.sort_by_key(|gap| std::cmp::Reverse(gap.to - gap.from));
    (gaps, least)
}

fn availability(case: &Case<'_>) -> String {
    let bins = bins(case, BIN_NS);
    let (gaps, least) = gaps(case);
    let most = bins.values().map(|it| it[0]).max().unwrap_or(1);
    let longest = gaps.first().map_or_else(
        || format!("no gap above {} ms", least / MS),
        |gap| {
            let ms = (gap.to - gap.from) / MS;
            let least = least / MS;
            format!("{} gaps above {least} ms, the longest {ms} ms", gaps.len())
        },
    );
    let y = Axis {
        label: "answered per second",
        max: count(most * 10).max(1.0),
        scale: Scale::Linear,
    };
    let mut chart = chart(
        case,
        format!("Availability in bins of 100 ms: {longest}"),
        y,
    );
    for gap in &gaps {
        let what = format!("{} ms without an answer", (gap.to - gap.from) / MS);
        chart.band(seconds(case, gap.from), seconds(case, gap.to), INFO, &what);
    }
    let width = count(BIN_NS) / 1e9;
    for (bin, counts) in &bins {
        let from = count(*bin) * width;
        chart.bar(from, from + width, count(counts[0] * 10), OK);
    }
    chart.finish()
}
