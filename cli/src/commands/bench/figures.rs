//! What a measurement came to, and how it is told: a line for people, or a JSON object.
//!
//! Not here: measuring (`load`, `raft`), what the nodes spent (`spent`).

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::spent::Spent;
use crate::output::{self, Failure};

/// What one measurement came to.
pub struct Measured {
    /// What was measured.
    pub what: String,
    /// Executions that ended well.
    pub runs: u64,
    /// Steps in them.
    pub steps: u64,
    /// From the first to the end of the last.
    pub within: Duration,
    /// How long each took, in microseconds.
    pub micros: Histogram<u64>,
    /// Executions that did not end well.
    pub errors: u64,
    /// What it cost the processes, where they are ours.
    pub spent: Option<Spent>,
}

/// From 1 µs to 10 min in three digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("1 µs to 10 min in three digits")
}

/// Microseconds since then.
pub fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Milliseconds, for people.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
pub fn to_ms(micros: u64) -> f64 {
    micros as f64 / 1e3
}

/// What callers measured: microseconds, and how often they failed.
pub type Found = (Histogram<u64>, u64);

/// Adds up what callers measured, each for itself.
///
/// # Errors
/// A caller panicked.
pub async fn gather(callers: Vec<JoinHandle<Result<Found, Failure>>>) -> Result<Found, Failure> {
    let (mut all, mut errors) = (histogram(), 0);
    for caller in callers {
        let (found, failed) = caller.await.map_err(Failure::error)??;
        all.add(found).map_err(Failure::error)?;
        errors += failed;
    }
    Ok((all, errors))
}

impl Measured {
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    fn per_second(&self, n: u64) -> f64 {
        n as f64 / self.within.as_secs_f64()
    }

    fn ms(&self, quantile: f64) -> f64 {
        to_ms(self.micros.value_at_quantile(quantile))
    }

    fn json(&self) -> Value {
        let mut it = json!({
            "bench": self.what, "runs_per_s": self.per_second(self.runs), "steps_per_s": self.per_second(self.steps),
            "p50_ms": self.ms(0.5), "p90_ms": self.ms(0.9), "p99_ms": self.ms(0.99), "p999_ms": self.ms(0.999),
            "max_ms": to_ms(self.micros.max()), "errors": self.errors, "secs": self.within.as_secs_f64(),
        });
        if let Some(spent) = &self.spent {
            it["spent"] = spent.json(self);
        }
        it
    }

    /// The line of this one measurement.
    fn line(&self) -> String {
        format!(
            "{:24} {:9.0} runs/s {:9.0} steps/s   p50 {:.3} ms  p99 {:.3} ms  max {:.1} ms  errors {}",
            self.what,
            self.per_second(self.runs),
            self.per_second(self.steps),
            self.ms(0.5),
            self.ms(0.99),
            to_ms(self.micros.max()),
            self.errors,
        )
    }
}

/// Prints one measurement, or several of the same: each, and then their medians with the least and the most.
pub fn print(all: &[Measured], as_json: bool) {
    if as_json {
        let each: Vec<Value> = all.iter().map(Measured::json).collect();
        output::line(match &each[..] {
            [one] => one.clone(),
            _ => json!({ "median": median_json(all), "each": each }),
        });
        return;
    }
    for one in all {
        output::line(one.line());
        for line in one.spent.iter().flat_map(|it| it.lines(one)) {
            output::line(format!("    {line}"));
        }
    }
    if all.len() > 1 {
        let [runs, steps, p50, p99] = medians(all).map(|it| it.text());
        output::line(format!(
            "median of {} (least to most): {runs} runs/s  {steps} steps/s  p50 {p50} ms  p99 {p99} ms",
            all.len(),
        ));
    }
}

fn median_json(all: &[Measured]) -> Value {
    let [runs, steps, p50, p99] = medians(all).map(|it| it.median);
    json!({ "runs_per_s": runs, "steps_per_s": steps, "p50_ms": p50, "p99_ms": p99 })
}

fn medians(all: &[Measured]) -> [Range; 4] {
    let of = |get: &dyn Fn(&Measured) -> f64| Range::of(all.iter().map(get).collect());
    [
        of(&|it| it.per_second(it.runs)),
        of(&|it| it.per_second(it.steps)),
        of(&|it| it.ms(0.5)),
        of(&|it| it.ms(0.99)),
    ]
}

/// The middle of some figures, and their ends.
#[derive(Debug, PartialEq)]
pub struct Range {
    pub least: f64,
    pub median: f64,
    pub most: f64,
}

impl Range {
    /// Of an even number the lower middle: a figure that was measured.
    pub fn of(mut all: Vec<f64>) -> Self {
        all.sort_by(f64::total_cmp);
        let at = |n: usize| all.get(n).copied().unwrap_or_default();
        Self {
            least: at(0),
            median: at(all.len().saturating_sub(1) / 2),
            most: at(all.len().saturating_sub(1)),
        }
    }

    pub fn text(&self) -> String {
        let digits = if self.most < 1_000.0 { 2 } else { 0 };
        let Self {
            least,
            median,
            most,
        } = self;
        format!("{median:.digits$} ({least:.digits$}–{most:.digits$})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_a_figure_that_was_measured() {
        let range = |all: &[f64]| Range::of(all.to_vec());
        let of = |least, median, most| Range {
            least,
            median,
            most,
        };
        assert_eq!(range(&[3.0, 1.0, 2.0]), of(1.0, 2.0, 3.0));
        assert_eq!(range(&[4.0, 1.0, 2.0, 3.0]), of(1.0, 2.0, 4.0));
        assert_eq!(range(&[7.0]), of(7.0, 7.0, 7.0));
        assert_eq!(of(1.0, 2.0, 3.0).text(), "2.00 (1.00–3.00)");
        assert_eq!(of(18427.0, 18498.2, 19564.0).text(), "18498 (18427–19564)");
    }
}
