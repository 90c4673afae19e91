//! The leader's thinking by hand-made inputs: what is proposed, to whom it is told, what is not done twice.
//!
//! Not here: whole histories by seeds (`jepsen/src/sim/tier_a`).

use super::*;
use crate::{ids::IntentNo, values::run::LiveLease};

const TERMS: Terms = Terms {
    term_ms: 5_000,
    election_lease_ms: 400,
};
const SESSION: SessionId = SessionId(7);

fn run() -> RunId {
    RunId::from_stored("order-1")
}

fn attached() -> Effect {
    Effect::SessionAttached {
        session: SESSION,
        queue: crate::ids::Name::from_stored("q"),
        workflows: vec![(
            crate::ids::Name::from_stored("order"),
            crate::ids::Version(1),
        )],
        steps: Vec::new(),
        slots: 4,
        new: true,
    }
}

fn session() -> Session {
    let name = crate::ids::Name::from_stored("q");
    Session {
        id: SESSION,
        process: crate::ids::ProcessId::from_stored("p"),
        worker: name.clone(),
        queue: name,
        workflows: Vec::new(),
        steps: Vec::new(),
        slots: 4,
        since: Timestamp(0),
        leaving: false,
    }
}

fn began(work: Work, fence: u64) -> Effect {
    let lease = LiveLease {
        session: SESSION,
        fence: Fence::from_wire(fence),
        timeout: None,
        heartbeat: None,
    };
    Effect::LeaseBegan {
        work,
        session: lease.session,
        fence: lease.fence,
        timeout: lease.timeout,
        heartbeat: lease.heartbeat,
    }
}

#[test]
fn what_was_granted_between_a_streams_opening_and_the_epoch_is_offered_when_the_epoch_begins() {
    let mut lead = Lead::new(TERMS);
    lead.step(Input::Effects(vec![attached()]), 0, Timestamp(0));
    lead.step(Input::Opened(SESSION), 1, Timestamp(0));
    let step = Work::Step(run(), IntentNo(0));
    let granted = began(step.clone(), 9);
    assert!(
        lead.step(Input::Effects(vec![granted]), 2, Timestamp(0))
            .is_empty()
    );
    let out = lead.step(Input::Won(Epoch(3)), 3, Timestamp(0));
    let leases = vec![(step, Fence::from_wire(9))];
    assert!(
        out.contains(&Output::Reoffer {
            session: SESSION,
            leases
        }),
        "{out:?}"
    );
}

#[test]
fn a_beat_is_echoed_only_under_an_epoch_with_a_fresh_quorum_and_before_the_expiry_is_proposed() {
    let mut lead = Lead::new(TERMS);
    lead.step(Input::Effects(vec![attached()]), 0, Timestamp(0));
    lead.step(Input::Opened(SESSION), 0, Timestamp(0));
    let beat = |ack_age_ms| Input::Beat {
        session: SESSION,
        number: 1,
        ack_age_ms,
    };
    let echo = Output::Echo {
        session: SESSION,
        number: 1,
    };
    assert!(
        !lead.step(beat(0), 1, Timestamp(0)).contains(&echo),
        "no epoch"
    );
    lead.step(Input::Won(Epoch(1)), 2, Timestamp(0));
    assert!(lead.step(beat(399), 3, Timestamp(0)).contains(&echo));
    assert!(
        !lead.step(beat(400), 4, Timestamp(0)).contains(&echo),
        "no fresh quorum"
    );
    let out = lead.step(Input::Tick, 5_004, Timestamp(0));
    let expires = |it: &Output| {
        matches!(
            it,
            Output::Propose {
                duty: Duty::Expire(_),
                ..
            }
        )
    };
    assert!(out.iter().any(expires), "{out:?}");
    assert!(
        !lead.step(beat(0), 5_005, Timestamp(0)).contains(&echo),
        "expiry was proposed"
    );
}

#[test]
fn no_beat_is_echoed_while_an_expiry_is_under_way_though_its_worker_attached_again() {
    let mut lead = Lead::new(TERMS);
    lead.step(Input::Effects(vec![attached()]), 0, Timestamp(0));
    lead.step(Input::Opened(SESSION), 0, Timestamp(0));
    lead.step(Input::Won(Epoch(1)), 0, Timestamp(0));
    let out = lead.step(Input::Tick, 5_001, Timestamp(0));
    let expiry = out.iter().find_map(|it| match it {
        Output::Propose {
            id,
            duty: Duty::Expire(_),
        } => Some(*id),
        _ => None,
    });
    let id = expiry.expect("it was silent for a whole term");
    lead.step(Input::Effects(vec![attached()]), 5_002, Timestamp(0));
    let orders = Box::default();
    let sessions = vec![Arc::new(session())];
    lead.step(Input::Rebuild { orders, sessions }, 5_003, Timestamp(0));
    let beat = || Input::Beat {
        session: SESSION,
        number: 1,
        ack_age_ms: 0,
    };
    assert!(lead.step(beat(), 5_004, Timestamp(0)).is_empty());
    let came = Came::Unknown;
    let out = lead.step(Input::Done { id, came }, 5_005, Timestamp(0));
    assert!(
        out.is_empty(),
        "refused in no time, and proposed again in no time, it would go round for ever: {out:?}"
    );
    lead.step(Input::Effects(vec![attached()]), 5_006, Timestamp(0));
    assert!(lead.step(beat(), 5_007, Timestamp(0)).is_empty());
    let out = lead.step(Input::Tick, 5_005 + RETRY_AFTER_MS, Timestamp(0));
    assert_eq!(
        out.len(),
        1,
        "what may not have been applied is proposed again: {out:?}"
    );
}

#[test]
fn a_new_leader_lets_every_lease_live_one_more_term() {
    let mut lead = Lead::new(TERMS);
    lead.step(Input::Effects(vec![attached()]), 0, Timestamp(0));
    let out = lead.step(Input::Won(Epoch(1)), 100_000, Timestamp(0));
    let expires = |it: &Output| {
        matches!(
            it,
            Output::Propose {
                duty: Duty::Expire(_),
                ..
            }
        )
    };
    assert!(!out.iter().any(expires), "{out:?}");
    assert!(
        !lead
            .step(Input::Tick, 105_000, Timestamp(0))
            .iter()
            .any(expires)
    );
    assert!(
        lead.step(Input::Tick, 105_001, Timestamp(0))
            .iter()
            .any(expires)
    );
}

#[test]
fn what_a_deposed_leader_took_to_be_due_is_looked_at_when_it_leads_again() {
    let mut lead = Lead::new(TERMS);
    let limit = LimitName::from_stored("api");
    let at = Timestamp(500);
    let waits = Effect::LimitWaits {
        limit: limit.clone(),
        at,
    };
    lead.step(Input::Effects(vec![Effect::Due(at), waits]), 0, at);
    let fires = |out: &[Output]| {
        let fire = |it: &&Output| {
            matches!(
                it,
                Output::Propose {
                    duty: Duty::FireDue { .. },
                    ..
                }
            )
        };
        out.iter().filter(fire).count()
    };
    let admits = |out: &[Output]| {
        out.iter().any(|it| {
            matches!(it, Output::Propose { duty: Duty::Admit(admit), .. } if admit.limit == limit)
        })
    };
    let out = lead.step(Input::Won(Epoch(1)), 1, Timestamp(600));
    assert_eq!((fires(&out), admits(&out)), (1, true));
    lead.step(Input::Lost, 2, Timestamp(600));
    let behind = Timestamp(400);
    let out = lead.step(Input::Won(Epoch(2)), 3, behind);
    assert_eq!((fires(&out), admits(&out)), (1, true));
    let id = out.iter().find_map(|it| match it {
        Output::Propose {
            id,
            duty: Duty::FireDue { .. },
        } => Some(*id),
        _ => None,
    });
    let id = id.expect("it was counted");
    let came = Came::Done;
    assert_eq!(fires(&lead.step(Input::Done { id, came }, 4, behind)), 0);
    assert_eq!(
        fires(&lead.step(Input::Tick, 5, at)),
        1,
        "it was void before"
    );
}

#[test]
fn a_ready_run_goes_to_the_worker_that_serves_it_and_has_credit_and_only_once() {
    let mut lead = Lead::new(TERMS);
    let needs = crate::effect::Needs::Workflow(
        crate::ids::Name::from_stored("order"),
        crate::ids::Version(1),
    );
    let ready = Effect::Ready {
        work: Work::Run(run()),
        needs,
        since: Timestamp(0),
        prefers: None,
        alone: false,
    };
    lead.step(Input::Effects(vec![attached(), ready]), 0, Timestamp(0));
    lead.step(Input::Opened(SESSION), 0, Timestamp(0));
    let grants = |out: Vec<Output>| {
        let grant = |it: &&Output| {
            matches!(
                it,
                Output::Propose {
                    duty: Duty::Grant(_),
                    ..
                }
            )
        };
        out.iter().filter(grant).count()
    };
    assert_eq!(
        grants(lead.step(Input::Won(Epoch(1)), 1, Timestamp(0))),
        0,
        "no credit"
    );
    let credit = Input::Credit {
        session: SESSION,
        drives: 1,
        steps: 0,
    };
    assert_eq!(grants(lead.step(credit, 2, Timestamp(0))), 1);
    assert_eq!(
        grants(lead.step(Input::Tick, 3, Timestamp(0))),
        0,
        "it is under way"
    );
}

#[test]
fn what_a_worker_that_has_left_still_holds_is_ended_part_by_part_and_by_the_next_leader_too() {
    let mut lead = Lead::new(TERMS);
    let held = began(Work::Run(run()), 9);
    lead.step(Input::Effects(vec![attached(), held]), 0, Timestamp(0));
    lead.step(Input::Opened(SESSION), 0, Timestamp(0));
    lead.step(Input::Won(Epoch(1)), 1, Timestamp(0));
    let expiry = |out: &[Output]| {
        out.iter().find_map(|it| match it {
            Output::Propose {
                id,
                duty: Duty::Expire(Expire::Session { session, .. }),
            } if *session == SESSION => Some(*id),
            _ => None,
        })
    };
    let left = Input::Effects(vec![Effect::SessionEnded(SESSION)]);
    let out = lead.step(left, 2, Timestamp(0));
    assert!(out.contains(&Output::Ended(SESSION)), "{out:?}");
    let id = expiry(&out).expect("the rest is ended at once");
    let answer = |id, came| Input::Done { id, came };
    let id =
        expiry(&lead.step(answer(id, Came::More), 3, Timestamp(0))).expect("and the next part");
    assert_eq!(
        expiry(&lead.step(answer(id, Came::Done), 4, Timestamp(0))),
        None
    );
    lead.step(Input::Lost, 5, Timestamp(0));
    assert!(expiry(&lead.step(Input::Won(Epoch(2)), 6, Timestamp(0))).is_some());
}

/// One leads, with one worker that takes `drives` runs.
fn led(drives: u64) -> Lead {
    let mut lead = Lead::new(TERMS);
    lead.step(Input::Effects(vec![attached()]), 0, Timestamp(0));
    lead.step(Input::Won(Epoch(1)), 1, Timestamp(0));
    lead.step(Input::Opened(SESSION), 2, Timestamp(0));
    let (session, steps) = (SESSION, 4);
    let credit = Input::Credit {
        session,
        drives,
        steps,
    };
    lead.step(credit, 3, Timestamp(0));
    lead
}

fn starting(run: &str) -> Input {
    Input::Starting {
        run: RunId::from_stored(run),
        workflow: crate::ids::Name::from_stored("order"),
    }
}

fn ready(run: &str) -> Input {
    let needs = crate::effect::Needs::Workflow(
        crate::ids::Name::from_stored("order"),
        crate::ids::Version(1),
    );
    Input::Effects(vec![Effect::Ready {
        work: Work::Run(RunId::from_stored(run)),
        needs,
        since: Timestamp(0),
        prefers: None,
        alone: false,
    }])
}

fn granted(out: &[Output]) -> Vec<(u64, String)> {
    let grant = |it: &Output| match it {
        Output::Propose {
            id,
            duty: Duty::Grant(grant),
        } => Some((*id, grant.work.run().to_string())),
        _ => None,
    };
    out.iter().filter_map(grant).collect()
}

#[test]
fn a_run_is_granted_right_behind_its_start_and_once() {
    let mut lead = led(4);
    let out = granted(&lead.step(starting("order-1"), 4, Timestamp(0)));
    assert_eq!(out.len(), 1);
    assert_eq!(
        granted(&lead.step(starting("order-1"), 5, Timestamp(0))),
        []
    );
    assert_eq!(granted(&lead.step(ready("order-1"), 6, Timestamp(0))), []);
    let (id, came) = (out[0].0, Came::Done);
    let taken = Input::Effects(vec![
        Effect::NotReady(Work::Run(RunId::from_stored("order-1"))),
        began(Work::Run(RunId::from_stored("order-1")), 9),
    ]);
    lead.step(taken, 7, Timestamp(0));
    let out = lead.step(Input::Done { id, came }, 8, Timestamp(0));
    assert_eq!(granted(&out), []);
    assert_eq!(
        granted(&lead.step(starting("order-1"), 9, Timestamp(0))),
        []
    );
}

#[test]
fn a_grant_that_was_moot_or_refused_takes_nothing_of_its_workers_credit() {
    let mut lead = led(1);
    let out = granted(&lead.step(starting("order-0"), 4, Timestamp(0)));
    let (id, came) = (out[0].0, Came::Refused);
    lead.step(Input::Done { id, came }, 4, Timestamp(0));
    let out = granted(&lead.step(starting("order-1"), 4, Timestamp(0)));
    let (id, came) = (out[0].0, Came::Moot);
    assert_eq!(
        granted(&lead.step(starting("order-2"), 5, Timestamp(0))),
        []
    );
    lead.step(Input::Done { id, came }, 6, Timestamp(0));
    let out = granted(&lead.step(starting("order-3"), 7, Timestamp(0)));
    assert_eq!(out.len(), 1);
    // Of a stream that was opened meanwhile it was not taken.
    lead.step(Input::Opened(SESSION), 8, Timestamp(0));
    let (session, drives, steps) = (SESSION, 1, 4);
    let credit = Input::Credit {
        session,
        drives,
        steps,
    };
    lead.step(credit, 9, Timestamp(0));
    assert_eq!(
        granted(&lead.step(starting("order-4"), 10, Timestamp(0))).len(),
        1
    );
    let id = out[0].0;
    lead.step(Input::Done { id, came }, 11, Timestamp(0));
    assert_eq!(
        granted(&lead.step(starting("order-5"), 12, Timestamp(0))),
        []
    );
}

#[test]
fn a_start_overtakes_no_run_that_waits_and_nobody_is_granted_without_a_leader() {
    let mut lead = led(0);
    assert_eq!(granted(&lead.step(ready("order-1"), 4, Timestamp(0))), []);
    let (session, drives, steps) = (SESSION, 2, 4);
    let credit = Input::Credit {
        session,
        drives,
        steps,
    };
    // The credit is for who waits; what starts meanwhile waits behind it.
    let out = granted(&lead.step(credit, 5, Timestamp(0)));
    assert_eq!(
        out.iter().map(|it| it.1.as_str()).collect::<Vec<_>>(),
        ["order-1"]
    );
    assert_eq!(
        granted(&lead.step(starting("order-2"), 6, Timestamp(0))),
        []
    );
    lead.step(Input::Lost, 7, Timestamp(0));
    assert_eq!(
        granted(&lead.step(starting("order-3"), 8, Timestamp(0))),
        []
    );
}

/// A ready run that workers died of.
fn ready_alone(run: &str) -> Effect {
    let needs = crate::effect::Needs::Workflow(
        crate::ids::Name::from_stored("order"),
        crate::ids::Version(1),
    );
    Effect::Ready {
        work: Work::Run(RunId::from_stored(run)),
        needs,
        since: Timestamp(0),
        prefers: None,
        alone: true,
    }
}

#[test]
fn two_runs_that_workers_died_of_do_not_go_to_one_worker_at_once() {
    let mut lead = led(8);
    let both = Input::Effects(vec![ready_alone("order-1"), ready_alone("order-2")]);
    let out = granted(&lead.step(both, 4, Timestamp(0)));
    assert_eq!(out.len(), 1, "{out:?}");
    let (id, came) = (out[0].0, Came::Done);
    let work = Work::Run(RunId::from_stored("order-1"));
    let taken = Input::Effects(vec![Effect::NotReady(work.clone()), began(work.clone(), 9)]);
    assert_eq!(granted(&lead.step(taken, 5, Timestamp(0))), []);
    let out = lead.step(Input::Done { id, came }, 6, Timestamp(0));
    assert_eq!(granted(&out), [], "it holds the first");
    let (session, fence) = (SESSION, Fence::from_wire(9));
    let over = Effect::LeaseEnded {
        work,
        session,
        fence,
    };
    let out = granted(&lead.step(Input::Effects(vec![over]), 7, Timestamp(0)));
    assert_eq!(out.len(), 1, "the second has its turn");
}

#[test]
fn a_run_that_workers_died_of_waits_for_what_is_on_its_way_and_goes_once_nothing_came_of_that() {
    for came in [Came::Moot, Came::Refused, Came::Unknown, Came::Done] {
        let mut lead = led(8);
        let out = granted(&lead.step(starting("order-1"), 4, Timestamp(0)));
        let id = out[0].0;
        let alone = Input::Effects(vec![ready_alone("order-2")]);
        assert_eq!(granted(&lead.step(alone, 5, Timestamp(0))), []);
        let mut out = lead.step(Input::Done { id, came }, 6, Timestamp(0));
        out.extend(lead.step(Input::Tick, 6 + RETRY_AFTER_MS, Timestamp(0)));
        assert_eq!(granted(&out).len(), 1, "{came:?}");
    }
}
