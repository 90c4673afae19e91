//! The search for an order, against trying all of them.

use std::time::Duration;

use holdfast_jepsen::checker::model::{Model, RunModel, VersionModel};
use holdfast_jepsen::checker::wgl::{Linearized, linearize};
use holdfast_jepsen::records::{Answer, Call, Op, Outcome};

use super::world::Dice;

const WITHIN: Duration = Duration::from_secs(20);

/// Whether any order at all explains these operations; those of which nothing is known may be left out.
fn by_force<M: Model>(ops: &[Op], done: &mut Vec<usize>, state: &M::State) -> bool {
    let left = (0..ops.len()).filter(|i| !done.contains(i));
    let left: Vec<usize> = left.collect();
    if left.iter().all(|i| ops[*i].outcome == Outcome::Info) {
        return true;
    }
    let known_end = |i: &usize| match ops[*i].outcome {
        Outcome::Info => u64::MAX,
        Outcome::Ok | Outcome::Fail => ops[*i].t_ret,
    };
    let first_end = left.iter().map(known_end).min().unwrap();
    for i in left {
        if ops[i].t_inv > first_end {
            continue;
        }
        if let Some(after) = M::step(state, &ops[i]) {
            done.push(i);
            let fits = by_force::<M>(ops, done, &after);
            done.pop();
            if fits {
                return true;
            }
        }
    }
    false
}

fn op(dice: &mut Dice, id: u64, call: Call, outcome: Outcome, answer: Option<Answer>) -> Op {
    let t_inv = dice.below(40);
    Op {
        id,
        client: 0,
        node: String::new(),
        call,
        t_inv,
        t_ret: t_inv + dice.below(20),
        outcome,
        answer,
        error: None,
        position: None,
    }
}

fn on_a_register(dice: &mut Dice, id: u64) -> Op {
    let version = 1 + u32::try_from(dice.below(3)).unwrap();
    let workflow = "reg".to_owned();
    match dice.below(5) {
        0 => op(
            dice,
            id,
            Call::SetCurrent { workflow, version },
            Outcome::Info,
            None,
        ),
        1 => op(
            dice,
            id,
            Call::SetCurrent { workflow, version },
            Outcome::Ok,
            None,
        ),
        _ => {
            let answer = Some(Answer::Version { version });
            op(dice, id, Call::GetCurrent { workflow }, Outcome::Ok, answer)
        }
    }
}

fn on_a_run(dice: &mut Dice, id: u64) -> Op {
    let run = "r".to_owned();
    let serial = dice.below(2);
    let start = Call::Start {
        run: run.clone(),
        workflow: "w".into(),
        serial,
    };
    let get = Call::Get {
        run: run.clone(),
        stale: false,
        at_least: None,
    };
    let seen = |status: &str| {
        Some(Answer::Run {
            status: status.into(),
            generation: 1,
            serial: None,
        })
    };
    let started = |created| {
        Some(Answer::Started {
            created,
            generation: 1,
        })
    };
    let request = id.to_string();
    match dice.below(9) {
        0 => op(dice, id, start, Outcome::Ok, started(true)),
        1 => op(dice, id, start, Outcome::Ok, started(false)),
        2 => op(dice, id, start, Outcome::Info, None),
        3 => op(dice, id, get, Outcome::Ok, Some(Answer::NoRun)),
        4 | 5 => op(dice, id, get, Outcome::Ok, seen("RUNNING")),
        6 => op(dice, id, get, Outcome::Ok, seen("COMPLETED")),
        7 => op(
            dice,
            id,
            Call::Terminate { run, request },
            Outcome::Info,
            None,
        ),
        _ => {
            let done = Some(Answer::Done { already: false });
            op(
                dice,
                id,
                Call::Terminate { run, request },
                Outcome::Ok,
                done,
            )
        }
    }
}

fn agree<M: Model>(make: fn(&mut Dice, u64) -> Op) -> (u32, u32) {
    let (mut yes, mut no) = (0, 0);
    for seed in 0..3_000 {
        let mut dice = Dice(seed);
        let count = 2 + dice.below(7);
        let ops: Vec<Op> = (0..count).map(|id| make(&mut dice, id)).collect();
        let expected = by_force::<M>(&ops, &mut Vec::new(), &M::State::default());
        let found = linearize::<M>(&ops.iter().collect::<Vec<_>>(), WITHIN);
        match (&found, expected) {
            (Linearized::Yes, true) => yes += 1,
            (Linearized::No { .. }, false) => no += 1,
            _ => panic!("seed {seed}: {found:?}, by force {expected}: {ops:#?}"),
        }
    }
    (yes, no)
}

#[test]
fn the_search_finds_an_order_exactly_when_there_is_one() {
    for (yes, no) in [
        agree::<VersionModel>(on_a_register),
        agree::<RunModel>(on_a_run),
    ] {
        assert!(yes > 100 && no > 100, "{yes} with an order, {no} without");
    }
}

#[test]
fn a_search_without_time_says_so_and_claims_nothing() {
    // Many writes at once, and a read of a value that none of them wrote: every order must be tried.
    let mut dice = Dice(1);
    let mut ops: Vec<Op> = (0..40)
        .map(|id| {
            let version = 1 + u32::try_from(id).unwrap();
            let call = Call::SetCurrent {
                workflow: "reg".into(),
                version,
            };
            let op = op(&mut dice, id, call, Outcome::Ok, None);
            Op {
                t_inv: 0,
                t_ret: 100,
                ..op
            }
        })
        .collect();
    let read = Call::GetCurrent {
        workflow: "reg".into(),
    };
    let answer = Some(Answer::Version { version: 99 });
    let read = op(&mut dice, 40, read, Outcome::Ok, answer);
    ops.push(Op {
        t_inv: 101,
        t_ret: 102,
        ..read
    });
    let found =
        linearize::<VersionModel>(&ops.iter().collect::<Vec<_>>(), Duration::from_millis(50));
    assert_eq!(found, Linearized::TimedOut);
}

#[test]
fn a_long_history_costs_no_more_than_its_busiest_part() {
    let mut ops = Vec::new();
    let mut dice = Dice(3);
    let mut current = 0;
    for id in 0..20_000_u64 {
        let workflow = "reg".to_owned();
        let (call, answer) = if id % 3 == 0 {
            current = 1 + u32::try_from(dice.below(9)).unwrap();
            let version = current;
            (Call::SetCurrent { workflow, version }, None)
        } else {
            let answer = Answer::Version { version: current };
            (Call::GetCurrent { workflow }, Some(answer))
        };
        let t_inv = id * 10;
        let op = op(&mut dice, id, call, Outcome::Ok, answer);
        // Three at a time overlap, and then nobody asks for a moment.
        let t_ret = id / 3 * 30 + 25;
        ops.push(Op { t_inv, t_ret, ..op });
    }
    let all: Vec<&Op> = ops.iter().collect();
    assert_eq!(linearize::<VersionModel>(&all, WITHIN), Linearized::Yes);
    let mut lost = ops.clone();
    lost[15_001].answer = Some(Answer::Version { version: 77 });
    let all: Vec<&Op> = lost.iter().collect();
    match linearize::<VersionModel>(&all, WITHIN) {
        Linearized::No { ordered, stuck, .. } => {
            assert!((15_000..15_003).contains(&ordered), "{ordered}");
            assert!(stuck.contains(&15_001), "{stuck:?}");
        }
        other => panic!("{other:?}"),
    }
}
