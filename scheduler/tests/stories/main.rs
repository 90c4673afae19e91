//! Stories: scripts with expected replies. Each is a promise of the contract that the core alone decides.

#![allow(
    missing_docs,
    clippy::missing_panics_doc,
    clippy::wildcard_imports,
    clippy::unwrap_used,
    clippy::unused_self,
    clippy::assigning_clones,
    reason = "tests"
)]

mod retention;
mod story;

use holdfast_scheduler::{
    effect::Effect,
    entry::*,
    ids::*,
    reply::*,
    rows::{Fault, Key, MemRows, ReadRows, Row, Stretch, TypedRows},
    time::Millis,
    values::run::{Mode, Run},
    views,
};
use story::*;

#[test]
fn a_run_of_two_steps_completes_with_one_commit_per_step() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    let id = story.start("order-1");
    assert_eq!(story.status(&id), Status::Ready);
    let mut driven = story.drive(&id, worker);
    let reply = story.advance(&mut driven, vec![], vec![charge()]);
    assert_eq!(outcome(&reply), &AdvanceOutcome::GoesOn);
    let ship = IntentKind::Step(step("ship"));
    let done = driven.done(0);
    story.advance(&mut driven, vec![done], vec![ship]);
    let done = driven.done(1);
    let reply = story.advance(&mut driven, vec![done], vec![complete()]);
    assert_eq!(outcome(&reply), &AdvanceOutcome::Finished);
    assert_eq!(story.status(&id), Status::Completed);
}

#[test]
fn the_same_id_and_input_is_the_same_run_and_another_input_is_a_conflict() {
    let mut story = Story::new();
    story.worker("w1");
    story.start("order-1");
    assert!(matches!(
        story.start_with("order-1", "1"),
        Reply::Started { created: false, .. }
    ));
    let conflict = story.start_with("order-1", "2");
    assert_eq!(
        conflict,
        Reply::Rejected(Rejected::IdConflict(run("order-1")))
    );
}

#[test]
fn an_unknown_workflow_is_refused_with_the_nearest_names() {
    let mut story = Story::new();
    story.worker("w1");
    let it = Start {
        workflow: name("odrer"),
        ..start("x", "1")
    };
    let Reply::Rejected(Rejected::UnknownWorkflow { registered, .. }) = story.ask(Ask::Start(it))
    else {
        panic!("it was not refused")
    };
    assert_eq!(registered, ["order"]);
}

#[test]
fn an_advance_from_a_lost_lease_changes_nothing() {
    let mut story = Story::new();
    let (a, b) = (story.worker("a"), story.worker("b"));
    let id = story.start("order-1");
    let mut late = story.drive(&id, a);
    story.advance(&mut late, vec![], vec![charge()]);
    story.lose(a);
    let current = story.drive(&id, b);
    assert!(current.fence > late.fence);
    let before = story.rows.clone();
    let done = late.done(0);
    let reply = story.advance(&mut late, vec![done], vec![complete()]);
    assert_eq!(reply, Reply::Rejected(Rejected::StaleFence(late.fence)));
    assert_eq!(story.rows, before);
}

#[test]
fn recovery_grants_the_run_and_its_open_steps_in_one_commit_under_larger_fences() {
    let mut story = Story::new();
    let (a, b) = (story.worker("a"), story.worker("b"));
    let id = story.start("order-1");
    let mut first = story.drive(&id, a);
    story.advance(&mut first, vec![], vec![charge()]);
    story.lose(a);
    let second = story.drive(&id, b);
    assert_eq!(second.grants.len(), 1);
    assert_eq!(second.grants[0].attempt, 2);
    assert!(second.grants[0].fence > first.grants[0].fence);
}

#[test]
fn a_repeated_advance_gets_the_first_answer_with_only_live_grants() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    let id = story.start("order-1");
    let mut driven = story.drive(&id, worker);
    let it = driven.next_advance(vec![], vec![charge(), charge()]);
    let first = story.ask(Ask::Advance(it.clone()));
    let before = story.rows.clone();
    assert_eq!(story.ask(Ask::Advance(it.clone())), first);
    assert_eq!(story.rows, before);
    let Reply::Advanced(advanced) = first else {
        panic!()
    };
    let work = Work::Step(id.clone(), IntentNo(0));
    story.duty(Duty::Expire(Expire::Attempt {
        work,
        fence: advanced.grants[0].fence,
    }));
    let Reply::Advanced(again) = story.ask(Ask::Advance(it)) else {
        panic!()
    };
    assert_eq!(again.grants, advanced.grants[1..]);
}

#[test]
fn the_last_advance_of_a_run_is_answered_again_after_its_end() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    let id = story.start("order-1");
    let mut driven = story.drive(&id, worker);
    let it = driven.next_advance(vec![], vec![complete()]);
    let first = story.ask(Ask::Advance(it.clone()));
    assert_eq!(story.status(&id), Status::Completed);
    assert_eq!(story.ask(Ask::Advance(it)), first);
}

#[test]
fn a_run_with_nothing_to_execute_is_suspended_and_a_timer_makes_it_ready() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    let id = story.start("order-1");
    let mut driven = story.drive(&id, worker);
    let reply = story.advance(&mut driven, vec![], vec![sleep(3 * 86_400_000)]);
    assert_eq!(outcome(&reply), &AdvanceOutcome::Suspended);
    assert_eq!(story.status(&id), Status::Waiting);
    assert_eq!(story.explain(&id), "sleeps for 3 d 0 h more");
    story.wait(3 * 86_400_000 - 1).fire();
    assert_eq!(story.status(&id), Status::Waiting);
    story.wait(1).fire();
    assert_eq!(story.status(&id), Status::Ready);
}

#[test]
fn a_worker_that_kept_the_function_is_preferred_and_needs_only_newer_rows_while_any_other_needs_all()
 {
    let mut story = Story::new();
    let (one, two) = (story.worker("w1"), story.worker("w2"));
    let id = story.start("order-1");
    let shown_from = |story: &Story| live(story, &id).drive.unwrap().shown_from;
    let mut driven = story.drive(&id, one);
    assert_eq!(shown_from(&story), Seq(0), "nobody had it");
    story.advance(&mut driven, vec![], vec![wait_for("approval", None)]);
    let next_seq = live(&story, &id).next_seq;
    story.signal(&id, "approval", "s1");
    let preferred = |story: &Story| {
        let ready = live(story, &id).ready_work();
        ready[0].1.prefers
    };
    assert_eq!(preferred(&story), Some(one));
    let mut other = story.clone();

    let mut driven = story.drive(&id, one);
    assert_eq!(
        shown_from(&story),
        next_seq,
        "the signal's row is what is new"
    );
    assert!(story.journal(&id).len() > next_seq.0 as usize);
    story.advance(&mut driven, vec![], vec![wait_for("approval", None)]);
    story.lose(one);
    story.signal(&id, "approval", "s2");
    story.drive(&id, two);
    assert_eq!(
        shown_from(&story),
        Seq(0),
        "of a lost session nothing is kept"
    );

    // Driven elsewhere meanwhile, what the first one kept is not built upon again.
    other.drive(&id, two);
    assert_eq!(shown_from(&other), Seq(0));
    other.lose(two);
    assert_eq!(preferred(&other), None);
    other.drive(&id, one);
    assert_eq!(shown_from(&other), Seq(0));
}

fn live(story: &Story, id: &RunId) -> std::sync::Arc<Run> {
    story.rows.run(id).unwrap().expect("it is live")
}

#[test]
fn a_wait_takes_a_buffered_signal_at_once_and_a_repeat_is_the_same_send() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    let id = story.start("order-1");
    story.signal(&id, "approval", "s1");
    story.signal(&id, "approval", "s1");
    let mut driven = story.drive(&id, worker);
    let reply = story.advance(&mut driven, vec![], vec![wait_for("approval", None)]);
    let Reply::Advanced(advanced) = &reply else {
        panic!()
    };
    assert_eq!(advanced.deliveries.len(), 1);
    assert_eq!(advanced.outcome, AdvanceOutcome::GoesOn);
    assert_eq!(story.rows.run(&id).unwrap().unwrap().buffered, (0, 0));
}

#[test]
fn a_signal_to_a_waiting_run_wakes_it_and_one_to_a_finished_run_is_refused() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    let id = story.start("order-1");
    let mut driven = story.drive(&id, worker);
    story.advance(&mut driven, vec![], vec![wait_for("approval", Some(1_000))]);
    assert_eq!(
        story.explain(&id),
        "waits for signal approval since 0 ms, times out in 1 s"
    );
    story.signal(&id, "approval", "s1");
    assert_eq!(story.status(&id), Status::Ready);
    let mut driven = story.drive(&id, worker);
    story.advance(&mut driven, vec![], vec![complete()]);
    let refused = story.signal(&id, "approval", "s2");
    assert!(
        matches!(refused, Reply::Rejected(Rejected::RunEnded { .. })),
        "{refused:?}"
    );
}

#[test]
fn an_ending_is_refused_while_deliveries_wait_and_all_else_is_kept() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    let id = story.start("order-1");
    let mut driven = story.drive(&id, worker);
    let kinds = vec![wait_for("approval", None), charge()];
    story.advance(&mut driven, vec![], kinds);
    story.signal(&id, "approval", "s1");
    let done = driven.done(1);
    let reply = story.advance(&mut driven, vec![done], vec![complete()]);
    assert_eq!(outcome(&reply), &AdvanceOutcome::DeliveriesWait);
    assert_eq!(driven.seen, 1);
    driven.next -= 1; // the ending was not taken
    let reply = story.advance(&mut driven, vec![], vec![complete()]);
    assert_eq!(outcome(&reply), &AdvanceOutcome::Finished);
}

#[test]
fn an_advance_that_has_seen_less_than_the_one_before_is_refused() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    let id = story.start("order-1");
    let mut driven = story.drive(&id, worker);
    story.advance(&mut driven, vec![], vec![wait_for("a", None), charge()]);
    story.signal(&id, "a", "s1");
    driven.seen = 1;
    story.advance(&mut driven, vec![], vec![wait_for("b", None)]);
    driven.seen = 0;
    let reply = story.advance(&mut driven, vec![], vec![]);
    let Reply::Rejected(Rejected::Invalid(why)) = reply else {
        panic!("{reply:?}")
    };
    assert!(why.contains("had seen delivery"), "{why}");
}

#[test]
fn a_function_that_awaits_nothing_is_paused_and_says_so() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    let id = story.start("order-1");
    let mut driven = story.drive(&id, worker);
    story.advance(&mut driven, vec![], vec![]);
    assert_eq!(story.status(&id), Status::Paused);
    assert!(
        story
            .explain(&id)
            .contains("awaits nothing that could wake it")
    );
}

#[test]
fn a_failed_step_backs_off_and_is_granted_again_with_the_same_number() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    let id = story.start("order-1");
    let mut driven = story.drive(&id, worker);
    story.advance(&mut driven, vec![], vec![charge()]);
    let fails = driven.fails(0);
    let reply = story.advance(&mut driven, vec![fails], vec![]);
    assert_eq!(outcome(&reply), &AdvanceOutcome::Suspended);
    assert!(
        story.explain(&id).contains("attempt 1 failed"),
        "{}",
        story.explain(&id)
    );
    story.wait(100).fire();
    let driven = story.drive(&id, worker);
    assert_eq!(driven.grants[0].attempt, 2);
}

#[test]
fn a_step_that_gives_up_pauses_its_run_and_retry_lets_it_go_on() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    let id = story.start("order-1");
    let mut driven = story.drive(&id, worker);
    let retry = RetryPolicy {
        max_attempts: Some(1),
        ..RetryPolicy::default()
    };
    let kind = IntentKind::Step(StepSpec {
        retry,
        ..step("charge")
    });
    story.advance(&mut driven, vec![], vec![kind]);
    let fails = driven.fails(0);
    story.advance(&mut driven, vec![fails], vec![]);
    assert_eq!(story.status(&id), Status::Paused);
    assert!(
        story
            .explain(&id)
            .contains("charge gave up after 1 attempts: 503")
    );
    let request = RequestId::new("retry-1").unwrap();
    let reply = story.ask(Ask::Retry(Retry {
        run: id.clone(),
        step: None,
        request,
    }));
    assert_eq!(reply, Reply::Changed(Status::Ready));
    assert_eq!(story.drive(&id, worker).grants[0].attempt, 2);
}

#[test]
fn at_most_once_pauses_with_the_evidence_instead_of_running_again() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    let id = story.start("order-1");
    let mut driven = story.drive(&id, worker);
    let kind = IntentKind::Step(StepSpec {
        certainty: Certainty::AtMostOnce,
        ..step("charge")
    });
    story.advance(&mut driven, vec![], vec![kind]);
    story.lose(worker);
    assert_eq!(story.status(&id), Status::Paused);
    assert!(
        story.explain(&id).contains("must not be repeated"),
        "{}",
        story.explain(&id)
    );
}

#[test]
fn a_probe_is_asked_before_a_lost_step_runs_again_and_its_answer_is_adopted() {
    let mut story = Story::new();
    let (a, b) = (story.worker("a"), story.worker("b"));
    let id = story.start("order-1");
    let mut driven = story.drive(&id, a);
    let certainty = Certainty::Reconcile(name("find"));
    let kind = IntentKind::Step(StepSpec {
        certainty,
        ..step("charge")
    });
    story.advance(&mut driven, vec![], vec![kind]);
    story.lose(a);
    assert_eq!(
        story.grant(Work::Step(id.clone(), IntentNo(0)), b),
        Reply::Done
    );
    let fence = story.granted_fence();
    let reply = story.report(&id, 0, fence, AttemptOutcome::Done(bytes("\"receipt\"")));
    assert_eq!(reply, Reply::Reported(Reported::Accepted));
    let driven = story.drive(&id, b);
    assert!(driven.grants.is_empty(), "the charge must not run again");
    let row = story.journal(&id).pop().unwrap();
    assert_eq!(
        row.outcomes,
        [(IntentNo(0), Outcome::Done(bytes("\"receipt\"")))]
    );
}

#[test]
fn a_probe_that_says_absent_lets_the_step_run_again_and_nothing_is_owed() {
    let mut story = Story::new();
    let (a, b) = (story.worker("a"), story.worker("b"));
    let id = story.start("order-1");
    let mut driven = story.drive(&id, a);
    let certainty = Certainty::Reconcile(name("find"));
    let undo = Some(name("refund"));
    let kind = IntentKind::Step(StepSpec {
        certainty,
        undo,
        ..step("charge")
    });
    story.advance(&mut driven, vec![], vec![kind]);
    story.lose(a);
    story.grant(Work::Step(id.clone(), IntentNo(0)), b);
    let fence = story.granted_fence();
    story.report(&id, 0, fence, AttemptOutcome::Absent);
    assert!(story.rows.run(&id).unwrap().unwrap().undos.is_empty());
    assert_eq!(story.drive(&id, b).grants.len(), 1);
}

#[test]
fn a_failed_run_undoes_what_it_owes_in_reverse_order_before_it_is_failed() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    let id = story.start("order-1");
    let mut driven = story.drive(&id, worker);
    let ship = IntentKind::Step(StepSpec {
        undo: Some(name("unship")),
        ..step("ship")
    });
    story.advance(&mut driven, vec![], vec![charge(), ship]);
    let done = vec![driven.done(0), driven.done(1)];
    let fail = IntentKind::Fail {
        code: "REJECTED".into(),
        message: "no".into(),
    };
    story.advance(&mut driven, done, vec![fail]);
    assert_eq!(story.status(&id), Status::Undoing);
    assert_eq!(
        story.grant(Work::Undo(id.clone(), IntentNo(0)), worker),
        Reply::Moot
    );
    story.undo(&id, 1, worker);
    assert_eq!(story.status(&id), Status::Undoing);
    story.undo(&id, 0, worker);
    assert_eq!(story.status(&id), Status::Failed);
}

#[test]
fn cancel_waits_for_the_step_in_flight_before_its_undo_begins() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    let id = story.start("order-1");
    let mut driven = story.drive(&id, worker);
    story.advance(&mut driven, vec![], vec![charge()]);
    assert_eq!(story.cancel(&id), Reply::Changed(Status::Undoing));
    assert!(
        story.explain(&id).contains("refund waits for charge"),
        "{}",
        story.explain(&id)
    );
    assert_eq!(
        story.grant(Work::Undo(id.clone(), IntentNo(0)), worker),
        Reply::Moot
    );
    let done = driven.done(0);
    let reply = story.advance(&mut driven, vec![done], vec![complete()]);
    assert_eq!(outcome(&reply), &AdvanceOutcome::Finished);
    story.undo(&id, 0, worker);
    assert_eq!(story.status(&id), Status::Cancelled);
}

#[test]
fn a_function_that_ends_while_its_step_is_granted_again_is_told_to_stay_and_report_it() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    let id = story.start("order-1");
    let mut driven = story.drive(&id, worker);
    let ship = IntentKind::Step(step("ship"));
    story.advance(&mut driven, vec![], vec![charge(), ship]);
    let fails = driven.fails(1);
    story.advance(&mut driven, vec![fails], vec![]);
    story.wait(100).fire();
    let again = Work::Step(id.clone(), IntentNo(1));
    assert_eq!(story.grant(again, worker), Reply::Done);
    let fence = story.granted_fence();
    // Its worker has not heard of that, and the function gives up.
    let fail = IntentKind::Fail {
        code: "NO".into(),
        message: "no".into(),
    };
    let done = driven.done(0);
    let reply = story.advance(&mut driven, vec![done], vec![fail]);
    assert_eq!(outcome(&reply), &AdvanceOutcome::Interrupted);
    let handed_back = StepResult {
        intent: IntentNo(1),
        fence,
        outcome: AttemptOutcome::Stopped,
    };
    let reply = story.advance(&mut driven, vec![handed_back], vec![]);
    assert_eq!(outcome(&reply), &AdvanceOutcome::Finished);
    story.undo(&id, 0, worker);
    assert_eq!(story.status(&id), Status::Failed);
}

#[test]
fn a_cancelled_run_whose_worker_is_lost_still_undoes() {
    let mut story = Story::new();
    let (a, b) = (story.worker("a"), story.worker("b"));
    let id = story.start("order-1");
    let mut driven = story.drive(&id, a);
    story.advance(&mut driven, vec![], vec![charge()]);
    story.cancel(&id);
    story.lose(a);
    story.undo(&id, 0, b);
    assert_eq!(story.status(&id), Status::Cancelled);
}

#[test]
fn an_undo_that_fails_for_good_pauses_the_run_and_resume_tries_it_again() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    let id = story.start("order-1");
    let mut driven = story.drive(&id, worker);
    story.advance(&mut driven, vec![], vec![charge()]);
    let done = driven.done(0);
    let fail = IntentKind::Fail {
        code: "NO".into(),
        message: "no".into(),
    };
    story.advance(&mut driven, vec![done], vec![fail]);
    story.grant(Work::Undo(id.clone(), IntentNo(0)), worker);
    let fence = story.granted_fence();
    let terminal = AttemptOutcome::Terminal {
        code: "GONE".into(),
        message: "no card".into(),
    };
    story.report(&id, 0, fence, terminal);
    assert_eq!(story.status(&id), Status::Paused);
    assert!(
        story.explain(&id).contains("undo stuck: refund"),
        "{}",
        story.explain(&id)
    );
    let change = story.change(&id, "resume-1");
    assert_eq!(
        story.ask(Ask::Resume(change)),
        Reply::Changed(Status::Undoing)
    );
    story.undo(&id, 0, worker);
    assert_eq!(story.status(&id), Status::Failed);
}

#[test]
fn terminate_runs_nothing_and_lists_what_was_not_undone() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    let id = story.start("order-1");
    let mut driven = story.drive(&id, worker);
    story.advance(&mut driven, vec![], vec![charge()]);
    let change = story.change(&id, "t");
    assert_eq!(
        story.ask(Ask::Terminate(change)),
        Reply::Changed(Status::Terminated)
    );
    assert!(
        story
            .explain(&id)
            .contains("not undone: charge (entry 0, by refund)")
    );
}

#[test]
fn a_paused_run_is_not_granted_and_goes_on_where_it_was() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    let id = story.start("order-1");
    let change = story.change(&id, "p");
    assert_eq!(
        story.ask(Ask::Pause(change)),
        Reply::Changed(Status::Paused)
    );
    assert_eq!(story.grant(Work::Run(id.clone()), worker), Reply::Moot);
    let change = story.change(&id, "r");
    assert_eq!(
        story.ask(Ask::Resume(change)),
        Reply::Changed(Status::Ready)
    );
    story.drive(&id, worker);
}

#[test]
fn the_third_worker_that_dies_of_a_run_quarantines_it_and_a_reattach_is_no_death() {
    let mut story = Story::new();
    story.worker("w0");
    let id = story.start("order-2");
    for process in ["p1", "p2", "p3"] {
        let worker = story.worker(process);
        let mut driven = story.drive(&id, worker);
        if driven.next == 0 {
            story.advance(&mut driven, vec![], vec![charge()]);
        }
        story.lose(worker);
    }
    assert_eq!(story.status(&id), Status::Quarantined);
    let id = story.start("order-3");
    let worker = story.worker("p9");
    let mut driven = story.drive(&id, worker);
    story.advance(&mut driven, vec![], vec![charge()]);
    story.lose(worker);
    assert_eq!(story.rows.run(&id).unwrap().unwrap().suspects.len(), 1);
    story.worker("p9");
    assert_eq!(story.rows.run(&id).unwrap().unwrap().suspects.len(), 0);
}

#[test]
fn a_throttle_closes_the_limit_for_every_run_and_burns_no_attempt() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    let (a, b) = (story.start("a"), story.start("b"));
    let limits = vec![LimitName::new("stripe").unwrap()];
    let retry = RetryPolicy {
        max_attempts: Some(1),
        ..RetryPolicy::default()
    };
    let kind = || {
        IntentKind::Step(StepSpec {
            limits: limits.clone(),
            retry: retry.clone(),
            ..step("charge")
        })
    };
    let mut first = story.drive(&a, worker);
    story.advance(&mut first, vec![], vec![kind()]);
    let throttled = AttemptOutcome::Throttled {
        limit: limits[0].clone(),
        after: Millis(2_000),
        message: "429".into(),
    };
    let throttled = first.ends(0, throttled);
    story.advance(&mut first, vec![throttled], vec![]);
    let mut second = story.drive(&b, worker);
    let reply = story.advance(&mut second, vec![], vec![kind()]);
    assert_eq!(outcome(&reply), &AdvanceOutcome::Suspended);
    assert!(
        story.explain(&b).contains("waits for limit stripe"),
        "{}",
        story.explain(&b)
    );
    let admit = || {
        Duty::Admit(Admit {
            limit: limits[0].clone(),
            waiters: vec![],
        })
    };
    story.wait(1_999);
    assert_eq!(
        story.duty(admit()),
        Reply::Did {
            count: 0,
            more: false
        }
    );
    story.wait(1_001);
    assert_eq!(
        story.duty(admit()),
        Reply::Did {
            count: 1,
            more: false
        }
    );
    assert_eq!(story.status(&a), Status::Ready, "first come, first served");
    assert_eq!(story.drive(&a, worker).grants.len(), 1);
}

#[test]
fn a_concurrency_limit_is_held_from_admission_to_the_end_of_the_step() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    let limit = LimitName::new("erp").unwrap();
    let spec = LimitSpec {
        rate: None,
        burst: 1,
        concurrency: Some(1),
    };
    let request = RequestId::new("l").unwrap();
    story.ask(Ask::SetLimit(SetLimit {
        name: limit.clone(),
        spec,
        request,
    }));
    let id = story.start("a");
    let mut driven = story.drive(&id, worker);
    let kind = || {
        IntentKind::Step(StepSpec {
            limits: vec![limit.clone()],
            ..step("charge")
        })
    };
    story.advance(&mut driven, vec![], vec![kind(), kind()]);
    assert_eq!(driven.grants.len(), 1);
    let done = driven.done(0);
    story.advance(&mut driven, vec![done], vec![]);
    let admit = Duty::Admit(Admit {
        limit,
        waiters: vec![],
    });
    assert_eq!(
        story.duty(admit),
        Reply::Did {
            count: 1,
            more: false
        }
    );
}

#[test]
fn a_run_finishes_on_the_version_it_began_on_and_new_ones_take_the_current() {
    let mut story = Story::new();
    let v1 = story.worker("w1");
    let old = story.start("old");
    let v2 = story.worker_of("w2", &[("order", 2)]);
    let deploy = Deploy {
        workflow: name("order"),
        version: Version(2),
        request: RequestId::new("d").unwrap(),
    };
    assert_eq!(
        story.ask(Ask::Deploy(deploy)),
        Reply::Deployed {
            previous: Some(Version(1))
        }
    );
    let new = story.start("new");
    assert_eq!(story.grant(Work::Run(old.clone()), v2), Reply::Moot);
    assert_eq!(story.grant(Work::Run(new.clone()), v1), Reply::Moot);
    story.drive(&old, v1);
    story.drive(&new, v2);
}

#[test]
fn a_run_without_a_worker_waits_and_says_so() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    story.ask(Ask::Detach(worker));
    let id = story.start("order-1");
    assert!(
        story
            .explain(&id)
            .contains("no worker serves order@v1 on queue q")
    );
}

#[test]
fn a_duty_under_another_epoch_is_void_and_the_asks_beside_it_count() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    let id = story.start("order-1");
    let old = story.epoch;
    story.new_leader();
    let grant = Grant {
        work: Work::Run(id),
        session: worker,
        free_slots: 1,
    };
    let commands = vec![
        Command::Duty(Duty::Grant(grant)),
        Command::Ask(Ask::Start(start("order-2", "1"))),
    ];
    let replies = story.batch(old, commands);
    assert_eq!(replies[0], Reply::Void);
    assert!(matches!(replies[1], Reply::Started { created: true, .. }));
}

#[test]
fn an_attach_under_an_expired_session_is_refused() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    story.lose(worker);
    let reply = story.ask(Ask::Attach(Attach {
        session: Some(worker),
        process: ProcessId::new("w1").unwrap(),
        worker: name("w1"),
        queue: name("q"),
        workflows: vec![],
        steps: vec![],
        limits: vec![],
        slots: 1,
    }));
    assert_eq!(reply, Reply::Rejected(Rejected::SessionEnded(worker)));
}

#[test]
fn leases_handed_back_charge_no_attempt() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    let id = story.start("order-1");
    let mut driven = story.drive(&id, worker);
    story.advance(&mut driven, vec![], vec![charge()]);
    story.ask(Ask::Return(Return {
        runs: vec![(id.clone(), driven.fence)],
        steps: vec![],
    }));
    let run = story.rows.run(&id).unwrap().unwrap();
    assert_eq!(run.step(IntentNo(0)).unwrap().tries.failures, 0);
    assert_eq!(story.status(&id), Status::Ready);
}

#[test]
fn a_step_of_another_queue_is_executed_there_while_the_driver_lets_go() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    let id = story.start("order-1");
    let mut driven = story.drive(&id, worker);
    let kind = IntentKind::Step(StepSpec {
        queue: Some(name("q")),
        ..step("mail")
    });
    let reply = story.advance(&mut driven, vec![], vec![kind]);
    assert_eq!(outcome(&reply), &AdvanceOutcome::Suspended);
    story.grant(Work::Step(id.clone(), IntentNo(0)), worker);
    let fence = story.granted_fence();
    let done = AttemptOutcome::Done(bytes("1"));
    assert_eq!(
        story.report(&id, 0, fence, done.clone()),
        Reply::Reported(Reported::Accepted)
    );
    assert_eq!(
        story.report(&id, 0, fence, done),
        Reply::Reported(Reported::Stale)
    );
    assert_eq!(story.status(&id), Status::Ready);
}

#[test]
fn a_runs_own_timeout_undoes_like_a_cancel() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    let it = Start {
        timeout: Some(Millis(5_000)),
        ..start("order-1", "1")
    };
    story.ask(Ask::Start(it));
    let id = run("order-1");
    let mut driven = story.drive(&id, worker);
    story.advance(&mut driven, vec![], vec![charge()]);
    let done = driven.done(0);
    story.advance(&mut driven, vec![done], vec![wait_for("never", None)]);
    story.wait(5_000).fire();
    assert_eq!(story.status(&id), Status::Undoing);
    story.undo(&id, 0, worker);
    assert_eq!(story.status(&id), Status::TimedOut);
}

#[test]
fn a_function_that_diverges_is_quarantined_with_expected_and_got() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    let id = story.start("order-1");
    let mut driven = story.drive(&id, worker);
    let mut it = driven.next_advance(vec![], vec![]);
    it.trouble = Some(Trouble::Diverged {
        key: StepKey {
            scope: "0".into(),
            name: "charge".into(),
            occurrence: 0,
        },
        expected: "step charge".into(),
        got: "step ship".into(),
    });
    story.ask(Ask::Advance(it));
    assert_eq!(story.status(&id), Status::Quarantined);
    assert!(
        story
            .explain(&id)
            .contains("the journal has step charge, the code asked for step ship")
    );
}

#[test]
fn an_id_that_ended_returns_its_result_or_begins_a_new_life_when_asked() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    let id = story.start("order-1");
    let mut driven = story.drive(&id, worker);
    story.advance(&mut driven, vec![], vec![complete()]);
    assert!(matches!(
        story.start_with("order-1", "1"),
        Reply::Started { created: false, .. }
    ));
    let reject = Start {
        if_ended: IfEnded::Reject,
        ..start("order-1", "1")
    };
    assert!(matches!(
        story.ask(Ask::Start(reject)),
        Reply::Rejected(Rejected::RunEnded { .. })
    ));
    let anew = Start {
        if_ended: IfEnded::NewGeneration,
        ..start("order-1", "2")
    };
    let reply = story.ask(Ask::Start(anew));
    assert!(
        matches!(
            reply,
            Reply::Started {
                generation: Generation(2),
                created: true,
                ..
            }
        ),
        "{reply:?}"
    );
    assert!(matches!(
        story.rows.run(&id).unwrap().unwrap().mode,
        Mode::Live
    ));
}

#[test]
fn a_worker_that_leaves_ends_its_leases_in_bounded_parts_and_takes_no_more() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    let runs: Vec<RunId> = (0..300).map(|n| story.start(&format!("r{n}"))).collect();
    let waits = story.start("waits");
    for id in &runs {
        story.drive(id, worker);
    }
    let detach = || Ask::Detach(worker);
    let part = |count, more| Reply::Did { count, more };
    assert_eq!(story.ask(detach()), part(128, true));
    let ended = |effect: &Effect| *effect == Effect::SessionEnded(worker);
    assert!(
        story.effects.iter().any(ended),
        "the leader is told at once"
    );
    let ready = |story: &Story| story.status(&runs[0]) == Status::Ready;
    assert!(ready(&story));
    assert_eq!(story.grant(Work::Run(waits), worker), Reply::Moot);
    let again = story.ask(attach_again(worker));
    assert_eq!(again, Reply::Rejected(Rejected::SessionEnded(worker)));
    // The rest is the leader's; it is no death, since the worker has left.
    assert_eq!(story.lose(worker), part(100, true));
    assert_eq!(story.ask(detach()), part(72, false));
    assert_eq!(story.ask(detach()), Reply::Moot);
    for id in &runs {
        assert_eq!(story.status(id), Status::Ready);
        assert!(story.rows.run(id).unwrap().unwrap().suspects.is_empty());
    }
}

fn attach_again(session: SessionId) -> Ask {
    Ask::Attach(Attach {
        session: Some(session),
        process: ProcessId::new("w1").unwrap(),
        worker: name("w1"),
        queue: name("q"),
        workflows: vec![],
        steps: vec![],
        limits: vec![],
        slots: 1,
    })
}

#[test]
fn a_limits_row_alone_says_who_waits_for_it_since_when_and_is_forgotten_when_nobody_does() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    let erp = LimitName::new("erp").unwrap();
    let limited = || {
        IntentKind::Step(StepSpec {
            limits: vec![erp.clone()],
            ..step("charge")
        })
    };
    let a = story.start("a");
    let mut first = story.drive(&a, worker);
    story.advance(&mut first, vec![], vec![limited()]);
    let throttled = first.ends(
        0,
        AttemptOutcome::Throttled {
            limit: erp.clone(),
            after: Millis(2_000),
            message: "429".into(),
        },
    );
    story.advance(&mut first, vec![throttled], vec![]);
    let since = story.now;
    for id in ["b", "c"] {
        story.wait(100);
        let id = story.start(id);
        let mut driven = story.drive(&id, worker);
        story.advance(&mut driven, vec![], vec![limited()]);
    }
    let seen = |story: &Story| {
        let only_limits = OnlyLimits(&story.rows);
        let view = views::limits(&only_limits).unwrap().pop();
        view.map(|view| (view.waiting, view.oldest, view.limit.held))
    };
    assert_eq!(seen(&story), Some((3, Some(since), 0)));
    story.wait(60_000 + 2_000);
    let waiters = vec![];
    let limit = erp.clone();
    story.duty(Duty::Admit(Admit { limit, waiters }));
    assert_eq!(seen(&story), Some((0, None, 3)));
    for id in ["a", "b", "c"] {
        let mut driven = story.drive(&run(id), worker);
        let done = driven.done(0);
        story.advance(&mut driven, vec![done], vec![complete()]);
    }
    assert_eq!(
        seen(&story),
        None,
        "an open limit that nobody declared needs no row"
    );
}

/// Rows that fail when anything but a limit is read: a view that looked at runs would not scale with them.
struct OnlyLimits<'a>(&'a MemRows);

impl ReadRows for OnlyLimits<'_> {
    fn get(&self, key: &Key) -> Result<Option<Row>, Fault> {
        panic!("{key:?} was read")
    }

    fn scan(&self, stretch: &Stretch, each: &mut dyn FnMut(Key, Row) -> bool) -> Result<(), Fault> {
        self.0.scan(stretch, &mut |key, row| {
            assert!(
                key >= Key::Limit(LimitName::from_stored("")),
                "{key:?} was read"
            );
            each(key, row)
        })
    }
}

#[test]
fn a_drive_that_was_granted_anew_since_stays_stale_after_the_run_has_ended() {
    let mut story = Story::new();
    let (a, b) = (story.worker("a"), story.worker("b"));
    let id = story.start("order-1");
    let mut first = story.drive(&id, a);
    let it = first.next_advance(vec![], vec![charge()]);
    story.ask(Ask::Advance(it.clone()));
    story.lose(a);
    story.drive(&id, b);
    let stale = Reply::Rejected(Rejected::StaleFence(first.fence));
    assert_eq!(story.ask(Ask::Advance(it.clone())), stale);
    let change = story.change(&id, "t");
    story.ask(Ask::Terminate(change));
    assert_eq!(story.ask(Ask::Advance(it)), stale);
}

#[test]
fn a_quarantine_stays_one_when_a_step_that_must_not_be_repeated_is_lost_with_it() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    let id = story.start("order-1");
    let mut driven = story.drive(&id, worker);
    let once = IntentKind::Step(StepSpec {
        certainty: Certainty::AtMostOnce,
        ..step("charge")
    });
    story.advance(&mut driven, vec![], vec![once]);
    let mut it = driven.next_advance(vec![], vec![]);
    let (expected, got) = ("step charge".to_owned(), "step ship".to_owned());
    let key = it_key();
    it.trouble = Some(Trouble::Diverged { key, expected, got });
    story.ask(Ask::Advance(it));
    assert_eq!(story.status(&id), Status::Quarantined);
    assert!(story.explain(&id).contains("replay diverged"));
}

fn it_key() -> StepKey {
    StepKey {
        scope: "0".into(),
        name: "charge".into(),
        occurrence: 0,
    }
}

#[test]
fn retry_does_not_lift_a_persons_pause_because_a_step_gave_up_meanwhile() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    let id = story.start("order-1");
    let mut driven = story.drive(&id, worker);
    let retry = RetryPolicy {
        max_attempts: Some(1),
        ..RetryPolicy::default()
    };
    let kind = IntentKind::Step(StepSpec {
        retry,
        ..step("charge")
    });
    story.advance(&mut driven, vec![], vec![kind]);
    let change = story.change(&id, "p");
    story.ask(Ask::Pause(change));
    let fails = driven.fails(0);
    story.advance(&mut driven, vec![fails], vec![]);
    assert_eq!(story.explain(&id), "paused by a person: because");
    let reply = story.ask(Ask::Retry(Retry {
        run: id.clone(),
        step: None,
        request: RequestId::new("r").unwrap(),
    }));
    assert_eq!(reply, Reply::Changed(Status::Paused));
}

#[test]
fn what_resume_finds_lost_holds_the_run_still_once_more_for_a_person_to_see() {
    let mut story = Story::new();
    let worker = story.worker("w1");
    let id = story.start("order-1");
    let mut driven = story.drive(&id, worker);
    let once = IntentKind::Step(StepSpec {
        certainty: Certainty::AtMostOnce,
        ..step("charge")
    });
    let elsewhere = IntentKind::Step(StepSpec {
        queue: Some(name("q")),
        ..step("mail")
    });
    story.advance(&mut driven, vec![], vec![once, elsewhere]);
    // Three workers die of its other step: the run is taken from its driver, and nobody reports the step in flight there.
    for process in ["p1", "p2", "p3"] {
        let other = story.worker(process);
        story.grant(Work::Step(id.clone(), IntentNo(1)), other);
        story.lose(other);
    }
    assert_eq!(story.status(&id), Status::Quarantined);
    let change = story.change(&id, "r");
    assert_eq!(
        story.ask(Ask::Resume(change)),
        Reply::Changed(Status::Paused)
    );
    assert!(story.explain(&id).contains("must not be repeated"));
    assert_eq!(
        views::open(&story.rows.run(&id).unwrap().unwrap())[0].state,
        "held"
    );
}
