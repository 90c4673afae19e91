//! Replicas, leaders, clocks and liveness: what may not be changed.

use holdfast_jepsen::checker::status::Group;
use holdfast_jepsen::checker::store::Store;
use holdfast_jepsen::checker::{Overall, check};
use holdfast_jepsen::records::{Applied, Fault, FaultStatus, Outcome, TapEvent, Verdict, Work};

use super::mutants::{any, breaks, entries, everywhere, everywhere_in, ops};
use super::world::{MS, legal};

#[test]
fn one_replica_with_another_digest_breaks_s15() {
    breaks("S15", "idempotent", |store, dice| {
        let lines = store.taps.get_mut("n3")?;
        let nth = dice.pick(lines.len());
        lines[nth].digest = "ff".into();
        Some(())
    });
}

#[test]
fn a_replay_with_another_digest_breaks_s20() {
    breaks("S20", "idempotent", |store, _| {
        let killed = store.faults.iter().find(|it| it.fault == "kill")?.targets[0].clone();
        store.taps.get_mut(&killed)?.last_mut()?.digest = "ff".into();
        Some(())
    });
}

#[test]
fn two_leaders_of_one_epoch_break_s19() {
    breaks("S19", "idempotent", |store, dice| {
        let index = any(dice, entries(store, |it| it.kind == "become-leader"))?;
        let line = store
            .taps
            .get_mut("n3")?
            .iter_mut()
            .find(|it| it.index == index)?;
        line.commands[0].number = Some(9);
        Some(())
    });
}

#[test]
fn a_duty_of_an_epoch_that_is_over_breaks_s19() {
    breaks("S19", "idempotent", |store, dice| {
        let leaders = entries(store, |it| it.kind == "become-leader");
        let granted = entries(store, |it| it.kind == "grant").into_iter();
        let index = any(
            dice,
            granted
                .filter(|index| *index > leaders[leaders.len() - 1])
                .collect(),
        )?;
        everywhere(store, index, |line| line.epoch = leaders[0]);
        (leaders.len() > 1).then_some(())
    });
}

#[test]
fn a_clock_that_falls_breaks_s26() {
    breaks("S26", "idempotent", |store, dice| {
        let last = store.taps["n1"].iter().map(|it| it.index).max()?;
        let index = 2 + dice.below(last - 2);
        everywhere(store, index, |line| line.now -= 60_000);
        Some(())
    });
}

#[test]
fn a_clock_that_jumps_with_one_nodes_own_breaks_s26() {
    breaks("S26", "idempotent", |store, _| {
        // From the middle of the last epoch on, the leader's own clock is an hour ahead.
        let duties = entries(store, |it| it.kind == "grant" || it.kind == "fire");
        let leaders = entries(store, |it| it.kind == "become-leader");
        let duties: Vec<u64> = duties
            .into_iter()
            .filter(|index| index > leaders.last().unwrap())
            .collect();
        let from = *duties.get(duties.len() / 2)?;
        for line in store
            .taps
            .values_mut()
            .flatten()
            .filter(|it| it.index >= from)
        {
            line.now += 3_600_000;
        }
        (duties.len() > 2).then_some(())
    });
}

#[test]
fn a_clock_that_stands_still_breaks_s26() {
    breaks("S26", "idempotent", |store, _| {
        store.faults.clear();
        // The same minutes pass for everybody but the group clock.
        let now = store.taps["n1"].first()?.now;
        for line in store.taps.values_mut().flatten() {
            line.t += line.index * 1_000 * MS;
            line.now = now;
        }
        Some(())
    });
}

#[test]
fn a_first_step_long_after_its_leader_was_killed_breaks_l1() {
    breaks("L1", "idempotent", |store, _| {
        let killed = store.faults.iter().find(|it| it.fault == "kill")?.t;
        store.faults.retain(|it| it.fault == "kill");
        for line in store.taps.values_mut().flatten().filter(|it| it.t > killed) {
            line.t += 6_000 * MS;
        }
        let granted = |line: &Applied| {
            let begun = |it: &TapEvent| {
                matches!(
                    it,
                    TapEvent::LeaseBegan {
                        work: Work::Step { .. },
                        ..
                    }
                )
            };
            line.t > killed && line.events.iter().any(begun)
        };
        store.taps["n1"].iter().any(granted).then_some(())
    });
}

/// What L1 says of a leader that was hit early and lost late: first others stop hearing it, and seven seconds later another leads.
fn hit_long_before_it_was_lost(seed: u64, works_on: bool) -> Option<Verdict> {
    let late = 7_000 * MS;
    let mut store = legal(seed, "idempotent");
    let kill = store.faults.iter().find(|it| it.fault == "kill")?.clone();
    let target = &kill.targets[0];
    let leads = |it: &&Applied| it.commands.iter().any(|it| it.kind == "become-leader");
    let began = store.taps[target].iter().find(leads)?;
    let (began, own) = (began.t, began.commands[0].number?);
    if format!("n{own}") != *target {
        return None;
    }
    for line in store.taps.values_mut().flatten().filter(|it| it.t > began) {
        line.t += late;
    }
    let (from, to) = (began + 1, kill.t + late);
    let own = store.taps.get_mut(target)?.iter_mut();
    let own = own.filter(|it| it.t < to);
    let results = own
        .flat_map(|it| &mut it.commands)
        .map(|it| &mut it.results);
    let mut done = 0;
    for results in results {
        done += results.iter().filter(|it| it.outcome == "done").count();
        if !works_on {
            results.clear();
        }
    }
    if done == 0 {
        return None;
    }
    let half_open = |t: u64, status: FaultStatus| Fault {
        t,
        fault: "half-open".into(),
        targets: vec![target.clone()],
        status,
        note: String::new(),
    };
    store.faults = vec![
        half_open(from, FaultStatus::Installed),
        half_open(to, FaultStatus::Healed),
    ];
    let report = check(&store);
    let l1 = report.invariants.into_iter().find(|it| it.id == "L1")?;
    Some(l1.verdict)
}

#[test]
fn a_leader_that_works_on_through_a_fault_is_lost_with_its_last_step() {
    let judged = |works_on| (1..20).find_map(|seed| hit_long_before_it_was_lost(seed, works_on));
    let works_on = judged(true).unwrap();
    assert!(matches!(works_on, Verdict::Valid { .. }), "{works_on:?}");
    let idle = judged(false).unwrap();
    assert!(matches!(idle, Verdict::Violated { .. }), "{idle:?}");
}

#[test]
fn an_operation_on_a_whole_node_that_fails_while_a_follower_is_cut_off_breaks_l4() {
    breaks("L4", "idempotent", |store, dice| {
        // After the heal nothing else is broken; a follower is cut off then.
        let (from, to) = (store.setup.phases[2] + 1, store.setup.phases[3]);
        store.faults.clear();
        let mut leaders = store.taps["n1"]
            .iter()
            .filter(|it| it.commands.iter().any(|it| it.kind == "become-leader"));
        let leads = leaders.next_back()?.commands[0].number?;
        let follower = format!("n{}", leads % 3 + 1);
        for (t, status) in [(from, FaultStatus::Installed), (to, FaultStatus::Healed)] {
            store.faults.push(Fault {
                t,
                fault: "partition".into(),
                targets: vec![follower.clone()],
                status,
                note: String::new(),
            });
        }
        let elsewhere = ops(store, |op| {
            op.t_inv > from && op.t_ret < to && op.node != follower
        });
        let op = any(dice, elsewhere)?;
        let op = &mut store.history[op];
        (op.outcome, op.answer, op.error) = (Outcome::Fail, None, Some("HF1001".into()));
        Some(())
    });
}

/// What the nodes of a world would have said, once a second after the heal and long before.
fn said(store: &mut Store) {
    let end = store.setup.phases[3];
    store.groups.clear();
    for second in 0..30_u64 {
        for node in 1..=3 {
            store.groups.push(Group {
                t: end - (29 - second) * 1_000 * MS,
                node,
                group: 1,
                leader: 2,
                term: 3,
                committed: 100 + second,
                applied: 100 + second,
                without_wake_source: 0,
            });
        }
    }
}

#[test]
fn what_nodes_say_of_themselves_is_judged() {
    let mut store = legal(1, "idempotent");
    store.faults.retain(|it| it.fault == "kill-worker");
    said(&mut store);
    assert_eq!(check(&store).overall, Overall::Valid);
    breaks("W1", "idempotent", |store, dice| {
        said(store);
        let nth = dice.pick(store.groups.len());
        store.groups[nth].without_wake_source = 1;
        Some(())
    });
    breaks("S19", "idempotent", |store, dice| {
        said(store);
        let nth = 3 + dice.pick(store.groups.len() - 3);
        store.groups[nth].term = 2;
        Some(())
    });
    breaks("L2", "idempotent", |store, dice| {
        said(store);
        let last = store.groups.len() - 1 - dice.pick(3);
        store.groups[last].leader = 1;
        Some(())
    });
    breaks("L3", "idempotent", |store, _| {
        said(store);
        store.faults.clear();
        for it in store.groups.iter_mut().filter(|it| it.node == 3) {
            it.applied = 100;
        }
        Some(())
    });
}

#[test]
fn a_run_that_never_ends_breaks_l2() {
    breaks("L2", "idempotent", |store, dice| {
        let runs: Vec<String> = store.journals["n1"]
            .iter()
            .map(|it| it.run.clone())
            .collect();
        let run = any(dice, runs)?;
        everywhere_in(store, &run, |it| it.status = "WAITING".into());
        Some(())
    });
}

#[test]
fn a_node_that_is_stuck_applying_breaks_l3() {
    breaks("L3", "idempotent", |store, _| {
        store.faults.clear();
        let lines = store.taps.get_mut("n3")?;
        let from = lines.len() / 2;
        for line in &mut lines[from..] {
            line.t += 9_000 * MS;
        }
        Some(())
    });
}

#[test]
fn a_node_that_does_not_serve_again_breaks_l5() {
    breaks("L5", "idempotent", |store, _| {
        let last = store.history.iter_mut().rfind(|op| op.node == "n2")?;
        (last.outcome, last.answer, last.error) = (Outcome::Info, None, Some("timeout".into()));
        Some(())
    });
}

#[test]
fn an_operation_that_outlives_its_deadline_breaks_l6() {
    breaks("L6", "idempotent", |store, dice| {
        let nth = dice.pick(store.history.len());
        store.history[nth].t_ret += 9_000 * MS;
        Some(())
    });
}
