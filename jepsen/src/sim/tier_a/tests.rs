//! What the histories of many seeds show beside what each entry is judged by.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_scheduler::{
    apply::apply,
    effect::Effect,
    entry::{Ask, Body, Command, IfEnded},
    ids::LogIndex,
    orders::Orders,
    reply::Reply,
    rows::MemRows,
};

use super::{Act, judge, play_again, shrink, story, tape_of};

#[test]
fn effects_alone_tell_a_leader_what_is_ready_and_what_is_leased() {
    for seed in 0..40 {
        let (broken, tape) = tape_of(seed);
        assert_eq!(broken, None, "SEED={seed}");
        let mut ready = BTreeMap::new();
        let mut leases = BTreeSet::new();
        for effect in tape.group.log.iter().flat_map(|told| &told.applied.effects) {
            match effect {
                Effect::Ready { work, needs, .. } => {
                    ready.insert(work.clone(), needs.clone());
                }
                Effect::NotReady(work) => {
                    ready.remove(work);
                }
                Effect::LeaseBegan { work, fence, .. } => {
                    assert!(leases.insert((work.clone(), *fence)), "SEED={seed}");
                }
                Effect::LeaseEnded { work, fence, .. } => {
                    assert!(leases.remove(&(work.clone(), *fence)), "SEED={seed}");
                }
                _ => {}
            }
        }
        let orders = tape.group.orders();
        let waiting = orders.ready.iter();
        let expected: BTreeMap<_, _> = waiting
            .map(|(work, it)| (work.clone(), it.needs.clone()))
            .collect();
        assert_eq!(ready, expected, "SEED={seed}");
        let held = orders.leases.values().flatten();
        let expected: BTreeSet<_> = held.map(|(work, it)| (work.clone(), it.fence)).collect();
        assert_eq!(leases, expected, "SEED={seed}");
    }
}

/// Whether the contract names what makes a repeat of this ask the same ask.
fn has_identity(ask: &Ask) -> bool {
    match ask {
        Ask::Start(it) => it.if_ended != IfEnded::NewGeneration,
        Ask::Attach(it) => it.session.is_some(),
        Ask::SetLimit(_) => false, // a declaration: the bucket is refilled up to now
        _ => true,
    }
}

#[test]
fn a_repeated_ask_changes_nothing() {
    for seed in 0..40 {
        let (_, tape) = tape_of(seed);
        let (mut rows, mut orders) = (MemRows::default(), Orders::default());
        for told in tape
            .group
            .log
            .iter()
            .take_while(|told| told.broke_at.is_none())
        {
            apply(&mut rows, &mut orders, told.at, &told.entry).expect("it was applied before");
            if let Body::Batch { commands, .. } = &told.entry.body
                && let Some(Command::Ask(ask)) = commands.last().filter(|_| told.entry.level.0 == 1)
                && has_identity(ask)
            {
                let again = repeat(&told.entry, ask);
                let (mut after, mut orders) = (rows.clone(), orders.clone());
                let at = LogIndex(told.at.0 + 1_000_000);
                let second =
                    apply(&mut after, &mut orders, at, &again).expect("it was applied before");
                assert_eq!(after, rows, "SEED={seed}, {}: {ask:?}", told.at);
                same_advance(told.applied.replies.last(), second.replies.first(), seed);
            }
        }
    }
}

fn repeat(entry: &holdfast_scheduler::entry::Entry, ask: &Ask) -> holdfast_scheduler::entry::Entry {
    let mut again = entry.clone();
    if let Body::Batch { commands, .. } = &mut again.body {
        *commands = vec![Command::Ask(ask.clone())];
    }
    again
}

fn same_advance(first: Option<&Reply>, second: Option<&Reply>, seed: u64) {
    if let (Some(Reply::Advanced(first)), Some(Reply::Advanced(second))) = (first, second) {
        assert_eq!(
            (&second.number, &second.outcome),
            (&first.number, &first.outcome),
            "SEED={seed}"
        );
        assert_eq!(second.deliveries, first.deliveries, "SEED={seed}");
    }
}

#[test]
fn from_any_state_every_run_comes_to_its_end_once_workers_and_people_do_their_part() {
    let mut ended = 0;
    for seed in 0..150 {
        let judged = super::judge_to_the_end(seed);
        assert_eq!(judged.broken, None, "SEED={seed}");
        ended += judged
            .coverage
            .count(super::coverage::Reached::BroughtToAnEnd);
    }
    assert_eq!(ended, 150);
}

#[test]
fn a_history_that_is_played_again_says_the_same() {
    for seed in 0..40 {
        let judged = judge(seed, true);
        let (broken, tape) = play_again(&judged.acts, true, judged.replay_every);
        assert_eq!(broken, None, "SEED={seed}");
        assert_eq!(tape.acts.len(), judged.acts.len());
    }
}

/// An entry whose time lies before the one before it is what no leader proposes: here it stands for any mistake.
#[test]
fn a_failing_history_is_made_small_and_told() {
    let mut judged = judge(3, true);
    let broken = super::Broken::new("S26", "planted");
    let nth = judged.acts.len() / 2;
    let mut planted = None;
    for act in judged.acts.iter_mut().skip(nth) {
        if let Act::Apply { entry, .. } = act {
            let mut later = holdfast_scheduler::entry::Entry::clone(entry);
            later.level = holdfast_scheduler::ids::FeatureLevel(99);
            *entry = std::sync::Arc::new(later);
            planted = Some(());
            break;
        }
    }
    assert_eq!(planted, Some(()), "an entry was found");
    judged.broken = Some(super::Broken {
        invariant: "fault",
        ..broken
    });
    let acts = shrink(&judged, true);
    assert_eq!(acts.len(), 1, "one entry of an unknown level is enough");
    let (story, found) = story(&acts, true, 0);
    assert!(story.contains("needs feature level 99"), "{story}");
    assert_eq!(found.map(|found| found.invariant), Some("fault"));
}
