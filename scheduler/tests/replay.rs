//! Replay: the same log gives the same rows, replies and effects, wherever it was interrupted; a repeated ask changes
//! nothing; and from wherever a random history stopped, every run can still come to its end.

#![allow(
    missing_docs,
    clippy::wildcard_imports,
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    dead_code,
    reason = "tests"
)]

mod random;

use std::collections::{BTreeMap, BTreeSet};

use holdfast_scheduler::{
    apply::apply, effect::Effect, entry::*, ids::*, orders::Orders, reply::*, rows::MemRows,
};
use random::*;

#[test]
fn the_same_log_gives_the_same_rows_replies_and_effects_wherever_it_was_interrupted() {
    for seed in seeds(30) {
        let world = history(seed);
        for every in [1, 7, 64] {
            let mut rows = MemRows::default();
            let mut orders = Orders::default();
            for (n, told) in world.log.iter().enumerate() {
                if n % every == 0 {
                    orders = Orders::rebuild(&rows).unwrap(); // as after a restart
                }
                let applied = apply(&mut rows, &mut orders, told.at, &told.entry).unwrap();
                assert_eq!(applied, told.applied, "seed {seed}, entry {}", told.at);
            }
            assert_eq!(rows, world.rows, "seed {seed}");
            assert_eq!(orders, world.orders, "seed {seed}");
        }
    }
}

#[test]
fn effects_alone_tell_a_leader_what_is_ready_and_what_is_leased() {
    for seed in seeds(30) {
        let world = history(seed);
        let mut ready = BTreeMap::new();
        let mut leases = BTreeSet::new();
        for effect in world.log.iter().flat_map(|told| &told.applied.effects) {
            match effect {
                Effect::Ready { work, needs, .. } => {
                    ready.insert(work.clone(), needs.clone());
                }
                Effect::NotReady(work) => {
                    ready.remove(work);
                }
                Effect::LeaseBegan { work, fence, .. } => {
                    assert!(leases.insert((work.clone(), *fence)), "seed {seed}");
                }
                Effect::LeaseEnded { work, fence, .. } => {
                    assert!(leases.remove(&(work.clone(), *fence)), "seed {seed}");
                }
                _ => {}
            }
        }
        let expected: BTreeMap<_, _> = world
            .orders
            .ready
            .iter()
            .map(|(work, it)| (work.clone(), it.needs.clone()))
            .collect();
        assert_eq!(ready, expected, "seed {seed}");
        let held = world.orders.leases.values().flatten();
        let expected: BTreeSet<_> = held.map(|(work, it)| (work.clone(), it.fence)).collect();
        assert_eq!(leases, expected, "seed {seed}");
    }
}

/// Whether the contract names what makes a repeat of this ask the same ask.
fn has_identity(ask: &Ask) -> bool {
    match ask {
        Ask::Start(it) => it.if_ended != IfEnded::NewGeneration,
        Ask::Signal(_)
        | Ask::Cancel(_)
        | Ask::Terminate(_)
        | Ask::Pause(_)
        | Ask::Resume(_)
        | Ask::Retry(_)
        | Ask::Advance(_)
        | Ask::Report(_)
        | Ask::Progress(_)
        | Ask::Return(_)
        | Ask::Detach(_)
        | Ask::Deploy(_)
        | Ask::Noop(_) => true,
        Ask::Attach(it) => it.session.is_some(),
        Ask::SetLimit(_) => false, // a declaration: the bucket is refilled up to now
    }
}

#[test]
fn a_repeated_ask_changes_nothing() {
    for seed in seeds(30) {
        let world = history(seed);
        let mut rows = MemRows::default();
        let mut orders = Orders::default();
        for told in &world.log {
            apply(&mut rows, &mut orders, told.at, &told.entry).unwrap();
            let Body::Batch { commands, .. } = &told.entry.body else {
                continue;
            };
            let (Some(Command::Ask(ask)), Some(first)) =
                (commands.last(), told.applied.replies.last())
            else {
                continue;
            };
            if !has_identity(ask) {
                continue;
            }
            let mut again = told.entry.clone();
            if let Body::Batch { commands, .. } = &mut again.body {
                *commands = vec![Command::Ask(ask.clone())];
            }
            let (mut after, mut orders) = (rows.clone(), orders.clone());
            let at = LogIndex(told.at.0 + 1_000_000);
            let reply = apply(&mut after, &mut orders, at, &again).unwrap();
            assert_eq!(after, rows, "seed {seed}, {}: {ask:?}", told.at);
            if let (Ask::Advance(_), Reply::Advanced(first)) = (ask, first) {
                let Reply::Advanced(second) = &reply.replies[0] else {
                    panic!("seed {seed}: {reply:?}");
                };
                let (number, outcome) = (second.number, &second.outcome);
                assert_eq!((number, outcome), (first.number, &first.outcome));
                assert_eq!(second.deliveries, first.deliveries);
            }
        }
    }
}

#[test]
fn from_any_state_every_run_comes_to_its_end_once_workers_and_people_do_their_part() {
    for seed in seeds(60) {
        let mut world = history(seed);
        bring_to_an_end(&mut world);
    }
}
