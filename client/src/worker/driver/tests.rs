//! A driver against a journal written by hand, or by the drive before: contract §3, without a node.

use std::{
    cell::RefCell,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures::FutureExt;
use v1::{attempt_outcome::Kind as Came, intent::Kind as Asked, outcome::Kind as Became};

use super::*;
use crate::{
    cx::{Cx, Retry},
    names::{Signal, Step, View},
};

const A: Step<u32, u32> = Step::new("a");
const B: Step<u32, u32> = Step::new("b");
const ELSEWHERE: Step<u32, u32> = Step::new("elsewhere");
const GO: Signal<String> = Signal::new("go");
const STAGE: View<String> = View::new("stage");
const RUN: &str = "order-7";

/// A driver of this function, on a worker that registered all steps but `elsewhere`.
fn driver<F, T>(function: F) -> Driver
where
    F: AsyncFnOnce(Cx) -> Result<T, Fail> + 'static,
    T: serde::Serialize + 'static,
{
    let bodies = |name: &str, _: Bytes| {
        let body: LocalBody = Arc::new(|_| async { Ok(Bytes::from_static(b"0")) }.boxed());
        (name != ELSEWHERE.name()).then_some(body)
    };
    let state = Rc::new(State::new(
        RUN.to_owned(),
        "shop".to_owned(),
        Box::new(bodies),
    ));
    let cx = Cx(Rc::clone(&state));
    let function = async move {
        let output = function(cx).await?;
        Ok(serde_json::to_vec(&output).unwrap().into())
    };
    Driver::new(state, Box::pin(function))
}

fn drive(rows: Vec<v1::JournalRow>, grants: Vec<v1::Grant>) -> v1::Drive {
    let delivery = rows.iter().map(|row| row.delivery).max().unwrap_or(0);
    v1::Drive {
        run: RUN.to_owned(),
        fence: 1,
        rows,
        grants,
        delivery,
        ..Default::default()
    }
}

fn grant(entry: u32, fence: u64) -> v1::Grant {
    v1::Grant {
        entry,
        fence,
        attempt: 1,
        ..Default::default()
    }
}

fn came(entry: u32, fence: u64, kind: Came) -> v1::StepResult {
    let outcome = Some(v1::AttemptOutcome { kind: Some(kind) });
    v1::StepResult {
        entry,
        fence,
        outcome,
    }
}

fn done(entry: u32, fence: u64, json: &str) -> v1::StepResult {
    came(entry, fence, Came::Done(json.to_owned().into()))
}

fn became(entry: u32, kind: Became) -> v1::Outcome {
    v1::Outcome {
        entry,
        kind: Some(kind),
    }
}

fn delivery(number: u32, outcomes: Vec<v1::Outcome>) -> v1::JournalRow {
    v1::JournalRow {
        delivery: number,
        outcomes,
        ..Default::default()
    }
}

fn cancel(number: u32) -> v1::JournalRow {
    let cancel = Some(v1::Failure {
        code: "CANCELLED".to_owned(),
        message: "the customer changed her mind".to_owned(),
    });
    v1::JournalRow {
        delivery: number,
        cancel,
        ..Default::default()
    }
}

fn answer(sent: &v1::Advance, outcome: v1::AdvanceOutcome) -> v1::Advanced {
    v1::Advanced {
        run: RUN.to_owned(),
        fence: sent.fence,
        number: sent.number,
        outcome: outcome.into(),
        ..Default::default()
    }
}

fn goes_on(sent: &v1::Advance, grants: Vec<v1::Grant>) -> v1::Advanced {
    let answer = answer(sent, v1::AdvanceOutcome::GoesOn);
    v1::Advanced { grants, ..answer }
}

/// The journal row that the node makes of an Advance.
fn row_of(sent: &v1::Advance) -> v1::JournalRow {
    let outcomes =
        sent.results
            .iter()
            .filter_map(|it| match it.outcome.as_ref()?.kind.as_ref()? {
                Came::Done(output) => Some(became(it.entry, Became::Done(output.clone()))),
                _ => None,
            });
    v1::JournalRow {
        seen: Some(sent.delivery),
        outcomes: outcomes.collect(),
        intents: sent.intents.clone(),
        ..Default::default()
    }
}

fn sent(todo: Todo) -> v1::Advance {
    todo.advance.expect("there is something to say")
}

/// What the intents of an Advance are about: kind, name and occurrence.
fn asked(advance: &v1::Advance) -> Vec<String> {
    let name = |it: &v1::Intent| {
        let key = it.key.clone().unwrap();
        format!(
            "{} {}#{}",
            journal::kind_name(it.kind.as_ref().unwrap()),
            key.name,
            key.occurrence
        )
    };
    advance.intents.iter().map(name).collect()
}

fn output(advance: &v1::Advance) -> String {
    match advance.intents.last().and_then(|it| it.kind.clone()) {
        Some(Asked::Complete(output)) => String::from_utf8(output.to_vec()).unwrap(),
        other => panic!("{other:?} is no completion"),
    }
}

fn failure(advance: &v1::Advance) -> v1::Failure {
    match advance.intents.last().and_then(|it| it.kind.clone()) {
        Some(Asked::Fail(failure)) => failure,
        other => panic!("{other:?} is no failure"),
    }
}

fn panicked(advance: &v1::Advance) -> String {
    advance.panicked.clone().expect("it panicked").message
}

fn diverged(advance: &v1::Advance) -> v1::Diverged {
    advance.diverged.clone().expect("it diverged")
}

async fn two_steps(cx: Cx) -> Result<u32, Fail> {
    let a = cx.step(A, 1).await?;
    Ok(a + cx.step(B, a).await?)
}

#[test]
fn no_body_begins_before_the_commit_that_grants_it() {
    let mut driver = driver(two_steps);
    let todo = driver.drive(drive(vec![], vec![]));
    assert!(todo.begin.is_empty());
    let first = sent(todo);
    assert_eq!(asked(&first), ["step a#0"]);
    let todo = driver.advanced(goes_on(&first, vec![grant(0, 10)]));
    assert_eq!(todo.begin.len(), 1);
    assert!(todo.advance.is_none());
}

#[test]
fn a_result_and_the_intents_that_follow_it_share_one_advance() {
    let mut driver = driver(two_steps);
    let first = sent(driver.drive(drive(vec![], vec![])));
    driver.advanced(goes_on(&first, vec![grant(0, 10)]));
    driver.result(done(0, 10, "2"));
    let mut todo = Todo::default();
    driver.advance(&mut todo);
    let second = sent(todo);
    assert_eq!((second.number, second.results.len()), (2, 1));
    assert_eq!(asked(&second), ["step b#0"]);
    driver.advanced(goes_on(&second, vec![grant(1, 11)]));
    driver.result(done(1, 11, "3"));
    let mut todo = Todo::default();
    driver.advance(&mut todo);
    assert_eq!(output(&sent(todo)), "5");
}

#[test]
fn a_body_begins_once_per_fence_however_often_it_is_offered() {
    let mut driver = driver(two_steps);
    let first = sent(driver.drive(drive(vec![], vec![])));
    let news = |fence| v1::News {
        run: RUN.to_owned(),
        fence: 1,
        grants: vec![grant(0, fence)],
        ..Default::default()
    };
    assert_eq!(
        driver
            .advanced(goes_on(&first, vec![grant(0, 10)]))
            .begin
            .len(),
        1
    );
    assert!(driver.news(news(10)).begin.is_empty());
    driver.result(came(0, 10, Came::Stopped(v1::Empty {})));
    assert!(driver.news(news(10)).begin.is_empty());
    assert_eq!(
        driver.news(news(12)).begin.len(),
        1,
        "the next attempt has a fence of its own"
    );
}

#[test]
fn a_replay_repeats_what_is_recorded_and_goes_on_where_it_stopped() {
    let mut live = driver(two_steps);
    let first = sent(live.drive(drive(vec![], vec![])));
    live.advanced(goes_on(&first, vec![grant(0, 10)]));
    live.result(done(0, 10, "2"));
    let mut todo = Todo::default();
    live.advance(&mut todo);
    let rows = vec![row_of(&first), row_of(&sent(todo))];

    let mut replay = driver(two_steps);
    let todo = replay.drive(drive(rows, vec![grant(1, 20)]));
    assert_eq!(
        todo.begin.len(),
        1,
        "the step that was left open, and no other"
    );
    assert_eq!(todo.begin[0].0.fence, 20);
    let next = sent(todo);
    assert!(next.intents.is_empty() && next.diverged.is_none());
    replay.advanced(goes_on(&next, vec![]));
    replay.result(done(1, 20, "3"));
    let mut todo = Todo::default();
    replay.advance(&mut todo);
    assert_eq!(output(&sent(todo)), "5");
}

#[test]
fn a_kept_function_goes_on_with_the_rows_that_it_has_not_seen() {
    let mut driver = driver(async |cx: Cx| Ok(cx.wait(GO).await?));
    let first = sent(driver.drive(drive(vec![], vec![])));
    let todo = driver.advanced(answer(&first, v1::AdvanceOutcome::Suspended));
    assert_eq!((todo.fate, driver.rows()), (Fate::Keep, 1));
    let came = became(0, Became::Done(r#""yes""#.into()));
    let row = v1::JournalRow {
        outcomes: vec![came],
        ..Default::default()
    };
    let more = v1::Drive {
        first_seq: 1,
        fence: 2,
        ..drive(vec![row], vec![])
    };
    assert_eq!(output(&sent(driver.drive(more))), r#""yes""#);
}

#[test]
fn independent_steps_may_change_places_in_the_code() {
    let ab = async |cx: Cx| {
        let (a, b) = futures::join!(cx.step(A, 1), cx.step(B, 1));
        Ok((a?, b?))
    };
    let ba = async |cx: Cx| {
        let (b, a) = futures::join!(cx.step(B, 1), cx.step(A, 1));
        Ok((a?, b?))
    };
    let first = sent(driver(ab).drive(drive(vec![], vec![])));
    assert_eq!(asked(&first), ["step a#0", "step b#0"]);
    let both = vec![
        became(0, Became::Done("10".into())),
        became(1, Became::Done("20".into())),
    ];
    let mut moved = driver(ba);
    let next = sent(moved.drive(drive(vec![row_of(&first), delivery(1, both)], vec![])));
    assert!(next.diverged.is_none());
    assert_eq!(output(&next), "[10,20]");
}

#[test]
fn the_same_step_twice_is_told_apart_by_its_occurrence() {
    let twice = async |cx: Cx| {
        let (first, second) = (cx.step(A, 1), cx.step(A, 2));
        let (second, first) = futures::join!(second, first); // numbered as built, not as polled
        Ok((first?, second?))
    };
    let first = sent(driver(twice).drive(drive(vec![], vec![])));
    assert_eq!(asked(&first), ["step a#1", "step a#0"]);
}

#[test]
fn a_step_under_another_name_diverges_and_is_told_with_expected_and_got() {
    let first = sent(driver(two_steps).drive(drive(vec![], vec![])));
    let changed = async |cx: Cx| Ok(cx.step(B, 1).await?);
    let next = sent(driver(changed).drive(drive(vec![row_of(&first)], vec![grant(0, 20)])));
    let it = diverged(&next);
    assert_eq!(
        (it.expected.as_str(), it.got.as_str()),
        ("step a#0", "step b#0")
    );
    assert_eq!(it.key.unwrap().name, "a");
    assert!(
        next.intents.is_empty(),
        "a function that diverged asks for nothing"
    );
    assert!(matches!(
        next.results[0].outcome.as_ref().unwrap().kind,
        Some(Came::Stopped(_))
    ));
}

#[test]
fn other_arguments_or_another_kind_under_the_same_name_diverge() {
    let first = sent(driver(two_steps).drive(drive(vec![], vec![])));
    let rows = vec![row_of(&first)];
    let other_input = async |cx: Cx| Ok(cx.step(A, 2).await?);
    let it = diverged(&sent(
        driver(other_input).drive(drive(rows.clone(), vec![])),
    ));
    assert_ne!(it.expected, it.got);
    assert!(
        it.expected.starts_with("step with digest"),
        "{}",
        it.expected
    );
    let other_kind = async |cx: Cx| Ok(cx.wait(Signal::<u32>::new("a")).await?);
    let it = diverged(&sent(driver(other_kind).drive(drive(rows, vec![]))));
    assert!(it.got.starts_with("wait"), "{}", it.got);
}

#[test]
fn a_function_that_ends_before_what_is_recorded_diverges() {
    let first = sent(driver(two_steps).drive(drive(vec![], vec![])));
    let next = sent(driver(async |_| Ok(1)).drive(drive(vec![row_of(&first)], vec![])));
    assert_eq!(diverged(&next).got, "the end of the function");
    assert!(next.intents.is_empty());
}

#[test]
fn what_is_open_and_left_out_of_the_code_diverges_once_the_function_goes_on() {
    let both = async |cx: Cx| {
        let (a, b) = futures::join!(cx.step(A, 1), cx.step(B, 1));
        Ok(a? + b?)
    };
    let first = sent(driver(both).drive(drive(vec![], vec![])));
    let mut changed = driver(async |cx: Cx| {
        let a = cx.step(A, 1).await?;
        Ok(a + cx.step(ELSEWHERE, 1).await?)
    });
    let grants = vec![grant(0, 20), grant(1, 21)];
    let waits = sent(changed.drive(drive(vec![row_of(&first)], grants)));
    assert!(waits.diverged.is_none(), "it may still ask");
    changed.advanced(goes_on(&waits, vec![]));
    changed.result(done(0, 20, "1"));
    let mut todo = Todo::default();
    changed.advance(&mut todo);
    let next = sent(todo);
    let it = diverged(&next);
    assert_eq!(
        (it.expected.as_str(), it.got.as_str()),
        ("step b#0", "step elsewhere#0")
    );
    let last = sent(changed.advanced(answer(&next, v1::AdvanceOutcome::Interrupted)));
    let stopped = Came::Stopped(v1::Empty {});
    assert_eq!(last.results, [came(1, 21, stopped)], "its grant goes back");
}

#[test]
fn options_of_a_step_may_change_under_a_run() {
    let first = sent(driver(two_steps).drive(drive(vec![], vec![])));
    let tuned = async |cx: Cx| {
        let call = cx
            .step(A, 1)
            .retry(Retry::never())
            .timeout(Duration::from_secs(9));
        Ok(call.limit("api").await?)
    };
    let next = sent(driver(tuned).drive(drive(vec![row_of(&first)], vec![])));
    assert!(next.diverged.is_none() && next.panicked.is_none());
}

#[test]
fn join_all_of_hundreds_of_steps_sees_every_result_and_splits_what_it_asks() {
    let many = async |cx: Cx| {
        let steps = (0..300).map(|n| cx.step(A, n));
        Ok(cx.join_all(steps).await?.len())
    };
    let mut driver = driver(many);
    let mut next = sent(driver.drive(drive(vec![], vec![])));
    let mut entries = Vec::new();
    for parts in 1.. {
        assert!(next.intents.len() <= INTENTS_MAX);
        entries.extend(next.intents.iter().map(|it| it.entry));
        let todo = driver.advanced(goes_on(&next, vec![]));
        match todo.advance {
            Some(more) => next = more,
            None => {
                assert_eq!(parts, 3);
                break;
            }
        }
    }
    assert_eq!(
        entries,
        (0..300).collect::<Vec<u32>>(),
        "in program order, without a gap"
    );
    for entry in 0..300 {
        driver.result(done(entry, 1_000 + u64::from(entry), &entry.to_string()));
    }
    let mut todo = Todo::default();
    driver.advance(&mut todo);
    assert_eq!(output(&sent(todo)), "300");
}

#[test]
fn join_all_gives_the_first_failure() {
    let all = async |cx: Cx| Ok(cx.join_all([cx.step(A, 1), cx.step(A, 2)]).await?);
    let mut driver = driver(all);
    let first = sent(driver.drive(drive(vec![], vec![])));
    driver.advanced(goes_on(&first, vec![]));
    let failed = Became::Failed(v1::StepFailed {
        code: "CARD_DECLINED".to_owned(),
        message: "no money".to_owned(),
        attempts: 1,
    });
    let next = sent(driver.news(v1::News {
        run: RUN.to_owned(),
        fence: 1,
        deliveries: vec![delivery(1, vec![became(1, failed)])],
        grants: vec![],
    }));
    assert_eq!(failure(&next).code, "CARD_DECLINED");
    assert_eq!(failure(&next).message, "a: no money");
}

#[test]
fn results_that_are_too_many_for_one_advance_go_in_several() {
    let many = async |cx: Cx| {
        let steps = (0..5).map(|n| cx.step(Step::<u32, String>::new("large"), n));
        Ok(cx.join_all(steps).await?.len())
    };
    let mut driver = driver(many);
    let first = sent(driver.drive(drive(vec![], vec![])));
    driver.advanced(goes_on(
        &first,
        (0..5).map(|n| grant(n, 10 + u64::from(n))).collect(),
    ));
    let large = format!("\"{}\"", "x".repeat(150_000));
    for entry in 0..5 {
        driver.result(done(entry, 10 + u64::from(entry), &large));
    }
    let mut todo = Todo::default();
    driver.advance(&mut todo);
    let mut counts = Vec::new();
    while let Some(advance) = todo.advance.take() {
        assert!(prost::Message::encoded_len(&advance) < 1024 * 1024);
        counts.push(advance.results.len());
        let all = counts.iter().sum::<usize>() == 5;
        assert_eq!(driver.has_told(), all);
        let outcome = if all {
            v1::AdvanceOutcome::Finished
        } else {
            v1::AdvanceOutcome::GoesOn
        };
        todo = driver.advanced(answer(&advance, outcome));
    }
    assert_eq!(todo.fate, Fate::Drop);
    assert_eq!(counts, [2, 2, 1]);
}

#[test]
fn a_wait_gives_what_came_or_none_when_its_time_ran_out() {
    let wait = async |cx: Cx| Ok(cx.wait(GO).timeout(Duration::from_secs(60)).await?);
    let first = sent(driver(wait).drive(drive(vec![], vec![])));
    let Some(Asked::Wait(it)) = &first.intents[0].kind else {
        panic!("{first:?}");
    };
    assert_eq!((it.signal.as_str(), it.timeout_ms), ("go", 60_000));
    let ends = [
        (Became::Done(r#""yes""#.into()), r#""yes""#),
        (Became::TimedOut(v1::Empty {}), "null"),
    ];
    for (end, expected) in ends {
        let rows = vec![row_of(&first), delivery(1, vec![became(0, end)])];
        assert_eq!(
            output(&sent(driver(wait).drive(drive(rows, vec![])))),
            expected
        );
    }
}

#[test]
fn what_is_published_is_recorded_once() {
    let publish = async |cx: Cx| {
        cx.publish(STAGE, "charging".to_owned());
        Ok(cx.step(A, 1).await?)
    };
    let first = sent(driver(publish).drive(drive(vec![], vec![])));
    assert_eq!(asked(&first), ["publish view.stage#0", "step a#0"]);
    let next = sent(driver(publish).drive(drive(vec![row_of(&first)], vec![])));
    assert!(next.intents.is_empty() && next.diverged.is_none());
}

#[test]
fn time_chance_and_ids_are_the_same_in_every_replay() {
    let made_up = async |cx: Cx| {
        let made = (cx.now(), cx.random(), cx.uuid().to_string(), cx.random());
        cx.step(A, 1).await?;
        Ok(made)
    };
    let first = sent(driver(made_up).drive(drive(vec![], vec![])));
    let names = [
        "record cx.now#0",
        "record cx.random#0",
        "record cx.uuid#0",
        "record cx.random#1",
        "step a#0",
    ];
    assert_eq!(asked(&first), names);
    let rows = vec![
        row_of(&first),
        delivery(1, vec![became(4, Became::Done("1".into()))]),
    ];
    let one = output(&sent(driver(made_up).drive(drive(rows.clone(), vec![]))));
    let two = output(&sent(driver(made_up).drive(drive(rows, vec![]))));
    assert_eq!(one, two);
    let fresh = sent(driver(made_up).drive(drive(vec![], vec![])));
    assert_ne!(
        fresh.intents[1].kind, first.intents[1].kind,
        "chance is chance"
    );
}

#[test]
fn cancel_comes_at_the_next_await_and_again_at_each_one_after() {
    let swallow = async |cx: Cx| {
        let slept = cx.sleep(Duration::from_secs(60)).await.is_err();
        let waited = cx.wait(GO).await.is_err();
        let stepped = cx.step(A, 1).await.is_err_and(|it| it.is_cancelled());
        cx.sleep(Duration::from_secs(1)).await?;
        Ok((slept, waited, stepped))
    };
    let caught = Rc::new(RefCell::new(None));
    let seen = Rc::clone(&caught);
    let mut driver = driver(async move |cx: Cx| {
        let end: Result<(bool, bool, bool), Fail> = swallow(cx).await;
        *seen.borrow_mut() = Some(end);
        Ok(())
    });
    let first = sent(driver.drive(drive(vec![], vec![])));
    driver.advanced(goes_on(&first, vec![]));
    driver.news(v1::News {
        run: RUN.to_owned(),
        fence: 1,
        deliveries: vec![cancel(1)],
        grants: vec![],
    });
    let end = caught
        .borrow_mut()
        .take()
        .expect("nothing it awaits may hold it");
    let fail = end.expect_err("the last await was cancelled");
    assert_eq!(
        (fail.code.as_str(), fail.message.as_str()),
        ("CANCELLED", "the customer changed her mind")
    );
}

#[test]
fn a_result_that_came_before_the_cancel_is_seen_before_it() {
    let tell = async |cx: Cx| {
        let a = cx.step(A, 1).await;
        let b = cx.step(B, 1).await;
        Ok((a.is_ok(), b.is_err_and(|it| it.is_cancelled())))
    };
    let first = sent(driver(tell).drive(drive(vec![], vec![])));
    let answered = v1::Advance {
        results: vec![done(0, 10, "1")],
        number: 2,
        ..Default::default()
    };
    let rows = vec![row_of(&first), row_of(&answered), cancel(1)];
    let mut replay = driver(tell);
    assert_eq!(
        output(&sent(replay.drive(drive(rows, vec![])))),
        "[true,true]"
    );
}

#[test]
fn what_the_function_saw_live_it_sees_in_the_same_order_in_a_replay() {
    let order = Rc::new(RefCell::new(Vec::new()));
    let seen = Rc::clone(&order);
    let both = async move |cx: Cx| {
        let step = async {
            let it = cx.step(A, 1).await;
            seen.borrow_mut().push("step");
            it
        };
        let signal = async {
            let it = cx.wait(GO).await;
            seen.borrow_mut().push("signal");
            it
        };
        let (a, _) = futures::join!(step, signal);
        Ok(a?)
    };
    let mut live = driver(both.clone());
    let first = sent(live.drive(drive(vec![], vec![])));
    // The signal is recorded first, yet the Advance with the result was made before its news came.
    live.advanced(goes_on(&first, vec![grant(0, 10)]));
    live.result(done(0, 10, "1"));
    let mut todo = Todo::default();
    live.advance(&mut todo);
    let second = sent(todo);
    let signal = delivery(1, vec![became(1, Became::Done(r#""go""#.into()))]);
    let answer = v1::Advanced {
        deliveries: vec![signal.clone()],
        ..goes_on(&second, vec![])
    };
    let third = sent(live.advanced(answer));
    assert_eq!((second.delivery, third.delivery), (0, 1));
    assert_eq!(*order.borrow(), ["step", "signal"]);
    order.borrow_mut().clear();
    let rows = vec![row_of(&first), signal, row_of(&second)];
    driver(both).drive(drive(rows, vec![]));
    assert_eq!(*order.borrow(), ["step", "signal"]);
}

#[test]
fn a_delivery_is_shown_once_however_often_it_is_told() {
    let two = async |cx: Cx| Ok((cx.wait(GO).await?, cx.wait(GO).await?));
    let mut driver = driver(two);
    let first = sent(driver.drive(drive(vec![], vec![])));
    let news = v1::News {
        run: RUN.to_owned(),
        fence: 1,
        deliveries: vec![delivery(
            1,
            vec![became(0, Became::Done(r#""one""#.into()))],
        )],
        grants: vec![],
    };
    assert!(
        driver.news(news.clone()).advance.is_none(),
        "one Advance is in flight"
    );
    assert!(driver.news(news.clone()).advance.is_none());
    let second = sent(driver.advanced(goes_on(&first, vec![])));
    assert_eq!(
        (second.delivery, asked(&second)),
        (1, vec!["wait go#1".to_owned()])
    );
    let todo = driver.news(v1::News { fence: 99, ..news });
    assert!(todo.advance.is_none(), "news of another lease says nothing");
}

#[test]
fn an_advance_whose_fate_is_unknown_is_sent_again_unchanged() {
    let mut driver = driver(two_steps);
    let first = sent(driver.drive(drive(vec![], vec![])));
    assert_eq!(driver.unanswered(), Some(&first));
    driver.result(done(0, 10, "2"));
    let again = sent(driver.advanced(answer(&first, v1::AdvanceOutcome::Unknown)));
    assert_eq!(again, first);
    let second = sent(driver.advanced(goes_on(&first, vec![])));
    assert_eq!((second.number, second.results.len()), (2, 1));
    assert!(
        driver.advanced(goes_on(&first, vec![])).advance.is_none(),
        "an answer counts once"
    );
}

#[test]
fn a_driver_whose_lease_is_lost_is_dropped() {
    let mut driver = driver(two_steps);
    let first = sent(driver.drive(drive(vec![], vec![])));
    let todo = driver.advanced(answer(&first, v1::AdvanceOutcome::StaleFence));
    assert_eq!((todo.fate, todo.advance.is_none()), (Fate::Drop, true));
}

/// A function joins two steps and ends by the failure of the first; of the second this is known before. And what it says at its end.
fn ended_by_one_of_two(second: Option<v1::StepResult>) -> (Driver, v1::Advance) {
    let mut driver = driver(async |cx: Cx| {
        let (a, b) = (cx.step(A, 1), cx.step(B, 1));
        Ok(cx.join_all([a, b]).await?)
    });
    let first = sent(driver.drive(drive(vec![], vec![])));
    driver.advanced(goes_on(&first, vec![grant(0, 10), grant(1, 11)]));
    if let Some(result) = second {
        driver.result(result);
    }
    driver.result(came(0, 10, Came::Terminal(v1::Failure::default())));
    let mut todo = Todo::default();
    driver.advance(&mut todo);
    let failed = Became::Failed(v1::StepFailed::default());
    let told = sent(todo);
    let ending = sent(driver.advanced(v1::Advanced {
        deliveries: vec![delivery(1, vec![became(0, failed)])],
        ..goes_on(&told, vec![])
    }));
    assert!(matches!(ending.intents[0].kind, Some(Asked::Fail(_))));
    (driver, ending)
}

#[test]
fn a_function_that_ends_with_a_step_in_flight_is_kept_until_that_is_reported() {
    let (mut driver, ending) = ended_by_one_of_two(None);
    let todo = driver.advanced(answer(&ending, v1::AdvanceOutcome::Finished));
    assert_eq!((todo.fate, todo.advance.is_none()), (Fate::Drives, true));
    driver.result(came(1, 11, Came::Stopped(v1::Empty {})));
    let mut todo = Todo::default();
    driver.advance(&mut todo);
    let last = sent(todo);
    assert_eq!((last.results.len(), last.intents.len()), (1, 0));
    let todo = driver.advanced(answer(&last, v1::AdvanceOutcome::Finished));
    assert_eq!(todo.fate, Fate::Drop);
}

#[test]
fn a_grant_that_arrives_after_the_end_of_its_function_is_handed_back_and_not_begun() {
    let retried = came(1, 11, Came::Retryable(v1::Retryable::default()));
    let (mut driver, ending) = ended_by_one_of_two(Some(retried));
    // The other step was granted once more before the end was committed; the answer overtakes the news of it.
    let todo = driver.advanced(answer(&ending, v1::AdvanceOutcome::Interrupted));
    assert_eq!((todo.fate, todo.advance.is_none()), (Fate::Drives, true));
    let todo = driver.news(v1::News {
        run: RUN.to_owned(),
        fence: 1,
        deliveries: vec![],
        grants: vec![grant(1, 12)],
    });
    assert!(todo.begin.is_empty(), "its result would be of no use");
    let last = sent(todo);
    let stopped = came(1, 12, Came::Stopped(v1::Empty {}));
    assert_eq!((&last.results[..], last.intents.len()), (&[stopped][..], 0));
    let todo = driver.advanced(answer(&last, v1::AdvanceOutcome::Finished));
    assert_eq!(todo.fate, Fate::Drop);
}

#[test]
fn an_interrupted_driver_asks_for_nothing_and_still_reports_its_steps() {
    let mut driver = driver(two_steps);
    let first = sent(driver.drive(drive(vec![], vec![])));
    driver.advanced(goes_on(&first, vec![grant(0, 10)]));
    let paused = sent(driver.news(v1::News {
        run: RUN.to_owned(),
        fence: 1,
        deliveries: vec![delivery(1, vec![])],
        grants: vec![],
    }));
    driver.advanced(answer(&paused, v1::AdvanceOutcome::Interrupted));
    driver.result(done(0, 10, "2"));
    let mut todo = Todo::default();
    driver.advance(&mut todo);
    let last = sent(todo);
    assert_eq!((last.results.len(), last.intents.len()), (1, 0));
    assert_eq!(
        driver
            .advanced(answer(&last, v1::AdvanceOutcome::Finished))
            .fate,
        Fate::Drop
    );
}

#[test]
fn a_refused_advance_is_a_panic_under_the_same_number_and_keeps_its_results() {
    let mut driver = driver(async |cx: Cx| {
        futures::join!(cx.step(A, 1), cx.step(A, 2), cx.step(A, 3)).0?;
        Ok(cx.step(B, 1).await?)
    });
    let first = sent(driver.drive(drive(vec![], vec![])));
    driver.advanced(goes_on(
        &first,
        (0..3).map(|n| grant(n, 10 + u64::from(n))).collect(),
    ));
    driver.result(done(0, 10, "2"));
    driver.result(came(1, 11, Came::Throttled(v1::Throttled::default())));
    let mut todo = Todo::default();
    driver.advance(&mut todo);
    let second = sent(todo);
    let refused = |of: &v1::Advance| v1::Advanced {
        code: "HF3001".to_owned(),
        detail: "too large".to_owned(),
        ..answer(of, v1::AdvanceOutcome::Refused)
    };
    let third = sent(driver.advanced(refused(&second)));
    assert_eq!(
        third.number, second.number,
        "the refused one was not counted"
    );
    assert!(third.intents.is_empty());
    assert!(
        panicked(&third).contains("[HF3001] too large"),
        "{}",
        panicked(&third)
    );
    let kinds: Vec<_> = third
        .results
        .iter()
        .map(|it| it.outcome.clone().unwrap().kind)
        .collect();
    assert!(
        matches!(&kinds[..], [Some(Came::Done(_)), Some(Came::Retryable(_))]),
        "{kinds:?}"
    );
    let fourth = sent(driver.advanced(refused(&third)));
    let todo = driver.advanced(refused(&fourth));
    assert_eq!(
        todo.fate,
        Fate::Return,
        "without end it would go in circles"
    );
}

#[test]
fn what_was_granted_to_a_function_that_panics_on_the_way_is_handed_back() {
    let first = sent(driver(two_steps).drive(drive(vec![], vec![])));
    let broken = async |_: Cx| -> Result<u32, Fail> { panic!("no such table") };
    let todo = driver(broken).drive(drive(vec![row_of(&first)], vec![grant(0, 20)]));
    assert!(todo.begin.is_empty());
    let next = sent(todo);
    let stopped = Came::Stopped(v1::Empty {});
    assert_eq!(next.results, [came(0, 20, stopped)]);
    let text = panicked(&next);
    assert!(
        text.contains(RUN) && text.contains("no such table"),
        "{text}"
    );
}

#[test]
fn a_step_that_only_another_worker_has_goes_to_the_queue_or_is_tried_later() {
    let elsewhere = async |cx: Cx| Ok(cx.step(ELSEWHERE, 1).await?);
    let first = sent(driver(elsewhere).drive(drive(vec![], vec![])));
    let mut row = row_of(&first);
    let Some(Asked::Step(step)) = &mut row.intents[0].kind else {
        panic!("{row:?}");
    };
    assert_eq!(step.queue, "shop", "any worker of the same queue");
    step.queue.clear(); // as a worker recorded it that has the step
    let next = sent(driver(elsewhere).drive(drive(vec![row], vec![grant(0, 20)])));
    let Some(Came::Retryable(it)) = next.results[0].outcome.clone().unwrap().kind else {
        panic!("{next:?}");
    };
    assert!(
        it.message.contains("not registered") && it.after_ms > 0,
        "{}",
        it.message
    );
}

#[test]
fn tokio_in_a_workflow_is_an_error_that_names_run_operation_and_remedy() {
    let sleeps = async |cx: Cx| {
        cx.publish(STAGE, "charging".to_owned());
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(())
    };
    let text = panicked(&sent(driver(sleeps).drive(drive(vec![], vec![]))));
    for part in [RUN, "view.stage#0", "into a step"] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    let spawns = async |_: Cx| {
        drop(tokio::spawn(async {}));
        Ok(())
    };
    let text = panicked(&sent(driver(spawns).drive(drive(vec![], vec![]))));
    assert!(
        text.contains("its start") && text.contains("outside Tokio"),
        "{text}"
    );
}

#[test]
fn a_future_of_others_is_an_error_that_names_run_and_last_operation() {
    let foreign = async |cx: Cx| {
        let (_keep, never) = futures::channel::oneshot::channel::<()>();
        cx.publish(STAGE, "stuck".to_owned());
        let _ = never.await;
        Ok(())
    };
    let text = panicked(&sent(driver(foreign).drive(drive(vec![], vec![]))));
    for part in [RUN, "view.stage#0", "not an operation of Cx", "into a step"] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
}

#[test]
fn an_operation_that_was_dropped_does_not_hide_a_future_of_others() {
    let foreign = async |cx: Cx| {
        let (_keep, never) = futures::channel::oneshot::channel::<()>();
        let mut step = Box::pin(cx.step(A, 1));
        assert!(futures::poll!(&mut step).is_pending());
        drop(step);
        let _ = never.await;
        Ok(())
    };
    let text = panicked(&sent(driver(foreign).drive(drive(vec![], vec![]))));
    assert!(text.contains("after a#0"), "{text}");
}

#[test]
fn a_function_that_wakes_itself_is_polled_again() {
    let yields = async |cx: Cx| {
        let mut polled = 0;
        std::future::poll_fn(|task| {
            polled += 1;
            task.waker().wake_by_ref();
            if polled > 3 {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        Ok(cx.step(A, polled).await?)
    };
    assert_eq!(
        asked(&sent(driver(yields).drive(drive(vec![], vec![])))),
        ["step a#0"]
    );
}

#[test]
fn what_is_too_large_says_which_step_its_size_the_limit_and_the_cure() {
    let large = async |cx: Cx| {
        let input = "x".repeat(300_000);
        Ok(cx.step(Step::<String, ()>::new("archive"), input).await?)
    };
    let text = panicked(&sent(driver(large).drive(drive(vec![], vec![]))));
    for part in ["step archive", "300002 bytes", "262144", "make it smaller"] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
}

#[test]
fn an_inline_step_is_begun_here_and_cannot_be_sent_away() {
    let inline = async |cx: Cx| Ok(cx.run("quote", async |_| Ok(1_u32)).queue("far").await?);
    let text = panicked(&sent(driver(inline).drive(drive(vec![], vec![]))));
    assert!(text.contains("inline step quote"), "{text}");
}

/// Counts what is logged.
struct Count(Arc<AtomicUsize>);

impl tracing::Subscriber for Count {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn a_function_logs_each_line_once_and_not_again_in_a_replay() {
    let count = Arc::new(AtomicUsize::new(0));
    let logged = || count.swap(0, Ordering::Relaxed);
    let logs = async |cx: Cx| {
        tracing::info!("before the step");
        let a = cx.step(A, 1).await?;
        tracing::info!(a, "after the step");
        Ok(cx.step(B, a).await?)
    };
    tracing::subscriber::with_default(Count(Arc::clone(&count)), || {
        let first = sent(driver(logs).drive(drive(vec![], vec![])));
        assert_eq!(logged(), 1);
        let came = delivery(1, vec![became(0, Became::Done("1".into()))]);
        let mut goes_on = driver(logs);
        let second = sent(goes_on.drive(drive(vec![row_of(&first), came.clone()], vec![])));
        assert_eq!(logged(), 1, "what is new since then");
        driver(logs).drive(drive(vec![row_of(&first), came, row_of(&second)], vec![]));
        assert_eq!(logged(), 0);
    });
}
