//! S13 timers never early, once, and late by little.
//!
//! Decided on the group clock from the times of journal rows, and in real time from the taps' times of the same entries.
//! Not here: waits with a timeout, retries.

use crate::checker::case::{Case, Judge, MS};
use crate::checker::log::{Moment, What};
use crate::checker::story;
use crate::records::{FinalRun, JournalLine, Position, TapEvent, Verdict};

/// How late a timer may be where no fault is or was near: a busy machine, and the leader's next look.
const LATE_MS: u64 = 5_000;
/// The group clock may run faster than real time by this share while it is slewed.
const SLEW_PERCENT: u64 = 1;
/// The group clock is read when an entry is proposed, and the taps tell when it was applied: so long may that take.
const COMMIT_MS: u64 = 2_000;

/// S13.
pub fn s13(case: &Case<'_>) -> Verdict {
    let mut judge = Judge::new();
    for ((run, _), journal) in case.journals() {
        for row in &journal.journal {
            for detail in &row.details {
                let due = match (detail.delay_ms, detail.due_ms) {
                    (_, Some(due)) => due,
                    (Some(delay), None) if row.at_ms > 0 => row.at_ms + delay,
                    _ => continue,
                };
                let fired = fired(journal, detail.entry);
                let Some(first) = fired.first() else { continue };
                judge.saw();
                let tell = |what: String| {
                    let headline = format!("S13: timer {} of {run} {what}", detail.entry);
                    story::of_run(case, &headline, run)
                };
                if fired.len() > 1 {
                    judge.broken(|| tell(format!("fired {} times", fired.len())));
                }
                if first.at_ms < due {
                    judge.broken(|| tell(format!("was due at {due} and fired at {}", first.at_ms)));
                }
                if let Some(delay) = detail.delay_ms {
                    in_real_time(case, journal, (row, first), delay, &mut judge, &tell);
                }
            }
        }
    }
    judge.verdict()
}

fn fired(journal: &FinalRun, entry: u32) -> Vec<&JournalLine> {
    let rows = journal.journal.iter();
    rows.filter(|row| {
        let mut outcomes = row.outcomes.iter();
        outcomes.any(|(number, what)| *number == entry && what == "fired")
    })
    .collect()
}

/// Whether it took as long for everybody as the function asked for.
fn in_real_time(
    case: &Case<'_>,
    journal: &FinalRun,
    (set, fired): (&JournalLine, &JournalLine),
    delay_ms: u64,
    judge: &mut Judge,
    tell: &dyn Fn(String) -> String,
) {
    let life = case.lives.get(&(journal.run.clone(), journal.generation));
    let group = life.map(|life| life.group);
    let seen = |row: &JournalLine| {
        let (index, slot) = row.position?;
        let group = group?;
        case.log.at(&Position { group, index, slot })
    };
    let (Some(set), Some(fired)) = (seen(set), seen(fired)) else {
        return;
    };
    let took = fired.first.saturating_sub(set.first) / MS;
    // An epoch begins with a clock of its own, which may be ahead of the last; within one it runs as real time does.
    let one_epoch = set.line.in_force == fired.line.in_force;
    let calm = !case.is_disturbed(set.first, fired.first);
    let least = delay_ms - delay_ms * SLEW_PERCENT / 100;
    let steady = !case.is_stalled(set.first, fired.first);
    if one_epoch && steady && took + COMMIT_MS < least {
        judge.broken(|| tell(format!("of {delay_ms} ms fired {took} ms after it was set")));
    }
    let held = |it: &Moment<'_>| {
        let What::Event(TapEvent::Run { status, .. }) = it.what else {
            return false;
        };
        matches!(status.as_str(), "PAUSED" | "QUARANTINED")
    };
    let was_held = life.is_some_and(|life| life.moments.iter().any(held));
    if calm && !was_held && took > delay_ms + delay_ms * SLEW_PERCENT / 100 + LATE_MS {
        judge.broken(|| {
            tell(format!(
                "of {delay_ms} ms fired only {took} ms after it was set"
            ))
        });
    }
}
