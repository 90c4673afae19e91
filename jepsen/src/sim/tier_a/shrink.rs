//! Makes a failing history small: leaves out acts, then commands, while the same invariant still breaks.
//!
//! Entries keep their log indices, so fences, sessions and epochs mean the same in what is left.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use holdfast_scheduler::entry::{Body, Entry};

use super::{Act, Judged, play_again};

/// Nobody waits longer for a smaller story.
const AT_MOST: Duration = Duration::from_secs(60);

/// The smallest history found that breaks the same invariant; the one it began with where nothing may be left out.
pub fn shrink(judged: &Judged, model: bool) -> Vec<Act> {
    let Some(broken) = &judged.broken else {
        return judged.acts.clone();
    };
    let until = Instant::now() + AT_MOST;
    let still = |acts: &[Act]| {
        let (found, _) = play_again(acts, model, judged.replay_every);
        found.is_some_and(|found| found.invariant == broken.invariant)
    };
    let mut acts = judged.acts.clone();
    if !still(&acts) {
        return acts; // it takes what only the whole history does
    }
    acts = fewer(acts, &until, &still);
    acts = thinner(acts, &until, &still);
    fewer(acts, &until, &still)
}

/// Leaves out acts: large parts first, then one by one.
fn fewer(mut acts: Vec<Act>, until: &Instant, still: &impl Fn(&[Act]) -> bool) -> Vec<Act> {
    let mut part = acts.len().div_ceil(2);
    while part > 0 {
        let mut from = acts.len().saturating_sub(part);
        loop {
            if Instant::now() > *until {
                return acts;
            }
            let mut without = acts.clone();
            without.drain(from..(from + part).min(acts.len()));
            if still(&without) {
                acts = without;
            }
            if from == 0 {
                break;
            }
            from = from.saturating_sub(part);
        }
        part /= 2;
    }
    acts
}

/// Leaves out commands of entries.
fn thinner(mut acts: Vec<Act>, until: &Instant, still: &impl Fn(&[Act]) -> bool) -> Vec<Act> {
    for nth in 0..acts.len() {
        let mut command = commands(&acts[nth]);
        while command > 0 && commands(&acts[nth]) > 1 && Instant::now() < *until {
            command -= 1;
            let mut without = acts.clone();
            without[nth] = without_command(&acts[nth], command);
            if still(&without) {
                acts = without;
            }
        }
    }
    acts
}

fn commands(act: &Act) -> usize {
    match act {
        Act::Apply { entry, .. } => match &entry.body {
            Body::Batch { commands, .. } => commands.len(),
            Body::BecomeLeader(_) => 0,
        },
        Act::Restart | Act::Lead(_) => 0,
    }
}

fn without_command(act: &Act, nth: usize) -> Act {
    let mut act = act.clone();
    if let Act::Apply { entry, .. } = &mut act {
        let mut thinner = Entry::clone(entry);
        if let Body::Batch { commands, .. } = &mut thinner.body {
            commands.remove(nth);
        }
        *entry = Arc::new(thinner);
    }
    act
}
