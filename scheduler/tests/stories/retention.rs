//! What is left of runs that ended, and for how long.

use holdfast_scheduler::{
    entry::*,
    ids::*,
    reply::*,
    rows::Key,
    time::{Millis, Timestamp},
    views::{self, AnyRun, Filter},
};

use crate::story::*;

/// A run of one step that completed.
fn completed(story: &mut Story, id: &str, worker: SessionId) -> RunId {
    let id = story.start(id);
    let mut driven = story.drive(&id, worker);
    story.advance(&mut driven, vec![], vec![charge()]);
    let done = driven.done(0);
    story.advance(&mut driven, vec![done], vec![complete()]);
    assert_eq!(story.status(&id), Status::Completed);
    id
}

/// What ended so many milliseconds ago or earlier is over: completed runs, others, ids.
fn collect(story: &mut Story, [completed, failed, ids]: [u64; 3], at_most: u32) -> Reply {
    let now = story.now;
    let before = |ago: u64| Timestamp(now.0.saturating_sub(ago) + 1);
    story.duty(Duty::Collect(Collect {
        completed: before(completed),
        failed: before(failed),
        ids: before(ids),
        at_most,
    }))
}

fn did(count: u32, more: bool) -> Reply {
    Reply::Did { count, more }
}

fn is_forgotten(story: &Story, id: &RunId) -> bool {
    matches!(story.any(id), AnyRun::Final(done) if done.forgotten)
}

/// Keys that name the run.
fn keys_of(story: &Story, id: &RunId) -> Vec<Key> {
    let keys = story.rows.iter().map(|(key, _)| key);
    let named = keys.filter(|key| format!("{key:?}").contains(id.as_str()));
    named.cloned().collect()
}

fn listed(story: &Story) -> usize {
    let (page, _) = views::list(&story.rows, &Filter::default(), &None, 100).unwrap();
    page.len()
}

#[test]
fn what_is_left_of_a_run_goes_when_its_time_is_over_and_later_its_id_too() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    let id = completed(&mut story, "order-1", worker);
    story.wait(10_000);
    assert_eq!(collect(&mut story, [10_001, 0, 0], 9), did(0, false));
    assert!(!is_forgotten(&story, &id) && listed(&story) == 1);

    assert_eq!(collect(&mut story, [10_000, 0, 60_000], 9), did(1, false));
    assert!(is_forgotten(&story, &id) && listed(&story) == 0);
    assert_eq!(story.status(&id), Status::Completed);
    let left = keys_of(&story, &id);
    assert!(
        matches!(&left[..], [Key::Finished(_), Key::Ended(..)]),
        "{left:?}"
    );

    story.wait(50_000);
    assert_eq!(collect(&mut story, [0, 0, 60_000], 9), did(1, false));
    assert_eq!(keys_of(&story, &id), []);
    let again = story.start_with("order-1", "2");
    let anew = |it: &Reply| {
        matches!(
            it,
            Reply::Started {
                generation: Generation(1),
                created: true,
                ..
            }
        )
    };
    assert!(anew(&again), "{again:?}");
}

#[test]
fn a_run_that_failed_is_kept_for_its_own_time() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    let good = completed(&mut story, "good", worker);
    let bad = story.start("bad");
    story.cancel(&bad);
    assert_eq!(story.status(&bad), Status::Cancelled);
    story.wait(100);
    assert_eq!(collect(&mut story, [100, 200, 900], 9), did(1, false));
    assert!(is_forgotten(&story, &good) && !is_forgotten(&story, &bad));
    story.wait(100);
    assert_eq!(collect(&mut story, [100, 200, 900], 9), did(1, false));
    assert!(is_forgotten(&story, &bad));
}

#[test]
fn a_forgotten_run_is_still_the_run_of_its_id() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    let id = completed(&mut story, "order-1", worker);
    story.wait(1_000);
    collect(&mut story, [0, 0, 9_000], 9);
    let same = story.start_with("order-1", "1");
    assert!(matches!(same, Reply::Started { created: false, .. }));
    let other = story.start_with("order-1", "2");
    assert_eq!(other, Reply::Rejected(Rejected::IdConflict(id.clone())));
    let late = story.ask(Ask::Cancel(story.change(&id, "late")));
    assert!(
        matches!(late, Reply::Rejected(Rejected::RunEnded { .. })),
        "{late:?}"
    );
    let anew = Start {
        if_ended: IfEnded::NewGeneration,
        ..start("order-1", "2")
    };
    let anew = story.ask(Ask::Start(anew));
    let second = |it: &Reply| {
        matches!(
            it,
            Reply::Started {
                generation: Generation(2),
                created: true,
                ..
            }
        )
    };
    assert!(second(&anew), "{anew:?}");
    // The new life is nobody's to collect, and its end begins a time of its own.
    story.wait(60_000);
    assert_eq!(collect(&mut story, [0, 0, 0], 9), did(0, false));
    let mut driven = story.drive(&id, worker);
    story.advance(&mut driven, vec![], vec![complete()]);
    assert_eq!(collect(&mut story, [1, 1, 1], 9), did(0, false));
    story.wait(1);
    assert_eq!(collect(&mut story, [1, 1, 90_000], 9), did(1, false));
}

#[test]
fn many_go_in_bounded_parts_the_oldest_first() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    let ids: Vec<RunId> = (0..5)
        .map(|nth| {
            story.wait(10);
            completed(&mut story, &format!("order-{}", 9 - nth), worker)
        })
        .collect();
    story.wait(1_000);
    assert_eq!(collect(&mut story, [0, 0, 9_000], 2), did(2, true));
    let gone = ids.iter().map(|id| is_forgotten(&story, id));
    assert_eq!(gone.collect::<Vec<_>>(), [true, true, false, false, false]);
    assert_eq!(collect(&mut story, [0, 0, 9_000], 2), did(2, true));
    assert_eq!(collect(&mut story, [0, 0, 9_000], 2), did(1, false));
    assert_eq!(collect(&mut story, [0, 0, 9_000], 2), did(0, false));
}

#[test]
fn nothing_goes_before_the_group_clock_says_so() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    completed(&mut story, "order-1", worker);
    let later = story.now.after(Millis(1_000_000));
    let all = Collect {
        completed: later,
        failed: later,
        ids: later,
        at_most: 9,
    };
    assert_eq!(story.duty(Duty::Collect(all)), did(0, false));
}

#[test]
fn the_rows_of_every_life_of_an_id_go() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    let id = completed(&mut story, "order-1", worker);
    let anew = Start {
        if_ended: IfEnded::NewGeneration,
        ..start("order-1", "1")
    };
    story.ask(Ask::Start(anew));
    let mut driven = story.drive(&id, worker);
    story.advance(&mut driven, vec![], vec![complete()]);
    story.wait(5);
    collect(&mut story, [5, 5, 9_000], 9);
    let left = keys_of(&story, &id);
    assert!(
        matches!(&left[..], [Key::Finished(_), Key::Ended(..)]),
        "{left:?}"
    );
}
