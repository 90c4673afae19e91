//! One observation changed: the checker whose rule it breaks says so, whatever the seed.
//!
//! Invariant: each change makes the test run an illegal one, so a checker that misses it is wrong. A change that finds nothing to
//! bite on in a seed is not counted, and must find something in most.

use holdfast_jepsen::checker::store::Store;
use holdfast_jepsen::checker::{Overall, check};
use holdfast_jepsen::records::{Applied, AppliedCommand, FinalRun, Op, TapEvent, Verdict, Work};

use super::world::{Dice, legal};

const SEEDS: u64 = 25;

/// What this invariant says of a legal world of each seed that was changed, and what is said of the whole.
fn changed(
    id: &str,
    sink: &str,
    change: impl Fn(&mut Store, &mut Dice) -> Option<()>,
) -> Vec<(u64, Verdict, Overall)> {
    let mut judged = Vec::new();
    for seed in 0..SEEDS {
        let mut store = legal(seed, sink);
        if change(&mut store, &mut Dice(seed + 1_000)).is_none() {
            continue;
        }
        store.sort();
        let report = check(&store);
        let found = report.invariants.iter().find(|it| it.id == id).unwrap();
        judged.push((seed, found.verdict.clone(), report.overall));
    }
    let tried = judged.len() as u64;
    assert!(
        tried * 2 > SEEDS,
        "only {tried} of {SEEDS} worlds could be changed"
    );
    judged
}

/// A change that violates this invariant in more than 99 of 100 worlds.
pub fn breaks(id: &str, sink: &str, change: impl Fn(&mut Store, &mut Dice) -> Option<()>) {
    let judged = changed(id, sink, change);
    let tried = judged.len();
    let caught = |verdict: &Verdict, overall: &Overall| {
        let told = matches!(verdict, Verdict::Violated { stories } if !stories.is_empty());
        told && *overall == Overall::Violated
    };
    let missed = judged.into_iter().filter(|it| !caught(&it.1, &it.2));
    let missed: Vec<_> = missed.collect();
    assert!(
        missed.len() * 100 < tried,
        "{id} missed {} of {tried}: {missed:#?}",
        missed.len()
    );
}

/// A change that is legal too, as far as this invariant can tell.
pub fn keeps(id: &str, sink: &str, change: impl Fn(&mut Store, &mut Dice) -> Option<()>) {
    for (seed, verdict, _) in changed(id, sink, change) {
        let valid = matches!(verdict, Verdict::Valid { .. });
        assert!(valid, "seed {seed}: {verdict:#?}");
    }
}

pub fn any<T>(dice: &mut Dice, found: Vec<T>) -> Option<T> {
    let count = found.len();
    (count > 0).then(|| found.into_iter().nth(dice.pick(count)).unwrap())
}

/// Places of the entries that have such a command.
pub fn entries(store: &Store, wanted: impl Fn(&AppliedCommand) -> bool) -> Vec<u64> {
    let lines = store.taps["n1"].iter();
    let mut found: Vec<u64> = lines
        .filter(|line| line.commands.iter().any(&wanted))
        .map(|line| line.index)
        .collect();
    found.sort_unstable(); // a node that was killed has written them again
    found.dedup();
    found
}

/// Places of the entries that have such an event.
pub fn events(store: &Store, wanted: impl Fn(&TapEvent) -> bool) -> Vec<u64> {
    let lines = store.taps["n2"].iter();
    lines
        .filter(|line| line.events.iter().any(&wanted))
        .map(|line| line.index)
        .collect()
}

/// Changes an entry on all nodes alike.
pub fn everywhere(store: &mut Store, index: u64, change: impl Fn(&mut Applied)) {
    for line in store
        .taps
        .values_mut()
        .flatten()
        .filter(|line| line.index == index)
    {
        change(line);
    }
}

pub fn everywhere_in(store: &mut Store, run: &str, change: impl Fn(&mut FinalRun)) {
    for it in store
        .journals
        .values_mut()
        .flatten()
        .filter(|it| it.run == run)
    {
        change(it);
    }
}

pub fn ops(store: &Store, wanted: impl Fn(&Op) -> bool) -> Vec<usize> {
    (0..store.history.len())
        .filter(|i| wanted(&store.history[*i]))
        .collect()
}

pub fn begins(kind: &str) -> impl Fn(&TapEvent) -> bool {
    move |event| match event {
        TapEvent::LeaseBegan { work, .. } => matches!(
            (kind, work),
            ("step", Work::Step { .. })
                | ("undo", Work::Undo { .. })
                | ("drive", Work::Drive { .. })
        ),
        _ => false,
    }
}
