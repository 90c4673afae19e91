//! Runs as clients and journals see them: what may not be changed.

use holdfast_jepsen::checker::log::is_final;
use holdfast_jepsen::checker::store::Store;
use holdfast_jepsen::records::{
    Answer, Applied, AppliedCommand, Call, FinalRun, Op, Outcome, TapEvent, Work,
};

use super::mutants::{any, breaks, entries, events, everywhere, everywhere_in, keeps, ops};
use super::world::Dice;

#[test]
fn a_run_that_one_node_lost_breaks_s1() {
    breaks("S1", "idempotent", |store, dice| {
        let runs = store.journals.get_mut("n2")?;
        let lost = dice.pick(runs.len());
        runs.remove(lost);
        Some(())
    });
}

#[test]
fn an_acknowledgement_of_what_was_never_applied_breaks_s1() {
    breaks("S1", "idempotent", |store, dice| {
        let starts = ops(store, |op| {
            matches!(op.answer, Some(Answer::Started { .. }))
        });
        let op = any(dice, starts)?;
        let run = store.history[op].call.run()?.to_owned();
        let index = store.history[op].position?.index;
        everywhere(store, index, |line| {
            line.commands
                .retain(|it| it.run.as_deref() != Some(run.as_str()));
        });
        Some(())
    });
}

#[test]
fn a_second_final_state_breaks_s2() {
    breaks("S2", "idempotent", |store, dice| {
        let last = store.taps["n1"].iter().map(|it| it.index).max()?;
        let ends =
            |event: &TapEvent| matches!(event, TapEvent::Run { status, .. } if is_final(status));
        let found = events(store, ends)
            .into_iter()
            .filter(|index| *index < last);
        let index = any(dice, found.collect())?;
        let line = store.taps["n1"].iter().find(|it| it.index == index)?;
        let mut again = line.events.iter().find(|it| ends(it))?.clone();
        if let TapEvent::Run { status, .. } = &mut again {
            *status = "FAILED".into();
        }
        everywhere(store, last, |line| line.events.push(again.clone()));
        Some(())
    });
}

#[test]
fn an_end_with_a_lease_in_flight_breaks_s2() {
    breaks("S2", "idempotent", |store, dice| {
        let found = events(store, |it| {
            matches!(
                it,
                TapEvent::LeaseEnded {
                    work: Work::Drive { .. },
                    ..
                }
            )
        });
        let ends = |line: &Applied| {
            line.events
                .iter()
                .any(|it| matches!(it, TapEvent::Run { status, .. } if status == "COMPLETED"))
        };
        let lines = &store.taps["n1"];
        let found = found
            .into_iter()
            .filter(|index| lines.iter().any(|it| it.index == *index && ends(it)));
        let index = any(dice, found.collect())?;
        everywhere(store, index, |line| {
            line.events
                .retain(|it| !matches!(it, TapEvent::LeaseEnded { .. }));
        });
        Some(())
    });
}

#[test]
fn another_input_under_the_same_id_breaks_s3() {
    breaks("S3", "idempotent", |store, dice| {
        let attached = |op: &Op| matches!(op.answer, Some(Answer::Started { created: false, .. }));
        let op = any(dice, ops(store, attached))?;
        if let Call::Start { serial, .. } = &mut store.history[op].call {
            *serial += 5_000;
        }
        Some(())
    });
}

#[test]
fn a_run_created_twice_breaks_s3() {
    breaks("S3", "idempotent", |store, dice| {
        let attached = |op: &Op| matches!(op.answer, Some(Answer::Started { created: false, .. }));
        let op = any(dice, ops(store, attached))?;
        store.history[op].answer = Some(Answer::Started {
            created: true,
            generation: 1,
        });
        Some(())
    });
}

#[test]
fn a_run_whose_start_was_refused_breaks_s4() {
    breaks("S4", "idempotent", |store, dice| {
        let runs: Vec<String> = store.journals["n1"]
            .iter()
            .map(|it| it.run.clone())
            .collect();
        let run = any(dice, runs)?;
        for op in &mut store.history {
            if matches!(&op.call, Call::Start { run: of, .. } if *of == run) {
                (op.outcome, op.answer, op.error) = (Outcome::Fail, None, Some("HF1002".into()));
            }
        }
        Some(())
    });
}

#[test]
fn a_signal_that_nobody_sent_breaks_s4() {
    breaks("S4", "idempotent", |store, dice| {
        let index = any(dice, entries(store, |it| it.kind == "signal"))?;
        everywhere(store, index, |line| {
            line.commands[0].request = Some("made-up".into());
        });
        Some(())
    });
}

#[test]
fn another_result_for_another_asker_breaks_s10() {
    breaks("S10", "idempotent", |store, dice| {
        let told = |op: &Op| {
            matches!(
                op.answer,
                Some(Answer::Run {
                    serial: Some(_),
                    ..
                })
            )
        };
        let op = any(dice, ops(store, told))?;
        if let Some(Answer::Run { serial, .. }) = &mut store.history[op].answer {
            *serial = Some(1);
        }
        Some(())
    });
}

/// Reads that are to be linearizable, begun after another operation had returned with a larger position than `below`.
#[test]
fn a_read_from_before_what_had_returned_breaks_s11() {
    breaks("S11", "idempotent", |store, dice| {
        let read = |op: &Op| {
            matches!(
                op.call,
                Call::Get { stale: false, .. } | Call::GetCurrent { .. }
            )
        };
        let newest_before = |op: &Op| {
            let earlier = store.history.iter().filter(|it| it.t_ret < op.t_inv);
            earlier
                .filter_map(|it| it.position)
                .map(|at| at.index)
                .max()
        };
        let found: Vec<(usize, u64)> = ops(store, read)
            .into_iter()
            .filter_map(|i| Some((i, newest_before(&store.history[i])?)))
            .collect();
        let (op, newest) = any(dice, found)?;
        store.history[op].position.as_mut()?.index = newest - 1;
        Some(())
    });
}

#[test]
fn a_run_that_is_not_found_after_its_start_breaks_s11() {
    breaks("S11", "idempotent", |store, dice| {
        let found = |op: &Op| {
            matches!(op.call, Call::Get { stale: false, .. })
                && matches!(op.answer, Some(Answer::Run { .. }))
        };
        let started = |run: &str, t: u64| {
            store.history.iter().any(|op| {
                op.call.run() == Some(run)
                    && matches!(op.answer, Some(Answer::Started { .. }))
                    && op.t_ret < t
            })
        };
        let after = ops(store, found).into_iter().filter(|i| {
            let op = &store.history[*i];
            op.call.run().is_some_and(|run| started(run, op.t_inv))
        });
        let op = any(dice, after.collect())?;
        store.history[op].answer = Some(Answer::NoRun);
        store.history[op].position = None; // an index that lies does not hide it
        Some(())
    });
}

#[test]
fn a_run_that_is_not_found_at_the_position_of_its_own_start_breaks_s11() {
    breaks("S11", "idempotent", |store, dice| {
        let started = |run: &str| {
            let starts = ops(store, |op| {
                op.call.run() == Some(run) && matches!(op.answer, Some(Answer::Started { .. }))
            });
            starts.first().and_then(|i| store.history[*i].position)
        };
        let read = |op: &Op| matches!(op.call, Call::Get { stale: false, .. });
        let found = ops(store, read).into_iter();
        let found = found.filter_map(|i| Some((i, started(store.history[i].call.run()?)?)));
        let (op, at) = any(dice, found.collect())?;
        let op = &mut store.history[op];
        if let Call::Get { at_least, .. } = &mut op.call {
            *at_least = Some(at);
        }
        (op.answer, op.position) = (Some(Answer::NoRun), None);
        Some(())
    });
}

#[test]
fn a_version_that_nobody_set_breaks_s11() {
    breaks("S11", "idempotent", |store, dice| {
        let read = |op: &Op| matches!(op.call, Call::GetCurrent { .. });
        let op = any(dice, ops(store, read))?;
        store.history[op].answer = Some(Answer::Version { version: 77 });
        store.history[op].position = None;
        Some(())
    });
}

#[test]
fn a_write_that_is_lost_again_breaks_s11() {
    breaks("S11", "idempotent", |store, dice| {
        // A read after a write shows what was there before that write, which no other write had set.
        let mut writes = ops(store, |op| matches!(op.call, Call::SetCurrent { .. }));
        writes.remove(0);
        let write = any(dice, writes)?;
        let (returned, before) = match &store.history[write].answer {
            Some(Answer::Version { version }) => (store.history[write].t_ret, *version),
            _ => return None,
        };
        let Call::SetCurrent { version: set, .. } = store.history[write].call else {
            return None;
        };
        let later_write = |t: u64| {
            let later = store
                .history
                .iter()
                .filter(|op| matches!(op.call, Call::SetCurrent { .. }));
            later
                .filter(|op| op.t_ret > returned)
                .any(|op| op.t_inv < t)
        };
        let read = ops(store, |op| {
            matches!(op.call, Call::GetCurrent { .. })
                && op.t_inv > returned
                && !later_write(op.t_ret)
        });
        let read = any(dice, read).filter(|_| set != before);
        let Some(read) = read else {
            // Nobody looked in between: then somebody does.
            let mut look = store.history[write].clone();
            (look.t_inv, look.t_ret) = (returned + 1, returned + 2);
            look.call = Call::GetCurrent {
                workflow: "reg".into(),
            };
            look.answer = Some(Answer::Version { version: 78 });
            store.history.push(look);
            return Some(());
        };
        store.history[read].answer = Some(Answer::Version { version: before });
        Some(())
    });
}

#[test]
fn a_final_state_that_is_gone_again_breaks_s17_and_s11() {
    let gone = |store: &mut Store, dice: &mut Dice| {
        let healed = store.setup.phases[2];
        let late = |op: &Op| matches!(op.call, Call::Get { stale: false, .. }) && op.t_inv > healed;
        let op = any(dice, ops(store, late))?;
        if let Some(Answer::Run { status, serial, .. }) = &mut store.history[op].answer {
            (*status, *serial) = ("RUNNING".into(), None);
        }
        Some(())
    };
    breaks("S17", "idempotent", gone);
    breaks("S11", "idempotent", gone);
}

#[test]
fn a_stale_read_that_goes_back_breaks_s11() {
    breaks("S11", "idempotent", |store, dice| {
        store.faults.retain(|it| it.fault == "kill-worker");
        let healed = store.setup.phases[2];
        let last: Vec<usize> = ops(store, |op| op.t_inv > healed && op.node == "n2");
        for op in &last {
            if let Call::Get { stale, .. } = &mut store.history[*op].call {
                *stale = true;
            }
        }
        let op = any(dice, last[2..].to_vec())?;
        store.history[op].position.as_mut()?.index -= 1;
        Some(())
    });
}

#[test]
fn a_signal_taken_twice_breaks_s12() {
    breaks("S12", "idempotent", |store, dice| {
        let took = |it: &FinalRun| it.journal.iter().any(|row| !row.received.is_empty());
        let found = store.journals["n1"]
            .iter()
            .filter(|it| took(it))
            .map(|it| it.run.clone());
        let run = any(dice, found.collect())?;
        everywhere_in(store, &run, |it| {
            let row = it
                .journal
                .iter_mut()
                .find(|row| !row.received.is_empty())
                .unwrap();
            let again = row.received[0];
            row.received.push(again);
        });
        Some(())
    });
}

/// Another signal of the sender of some signal, to the same run, taken just before that one, and sent at this time; and which
/// operation that one is.
fn another_signal_taken_before(
    store: &mut Store,
    dice: &mut Dice,
    sent: impl Fn(&Op) -> (u64, u64),
) -> Option<usize> {
    let found = ops(store, |op| matches!(op.call, Call::Signal { .. }));
    let at = any(dice, found)?;
    let mut another = store.history[at].clone();
    (another.t_inv, another.t_ret) = sent(&another);
    let Call::Signal {
        run,
        signal_id,
        serial,
        ..
    } = &mut another.call
    else {
        return None;
    };
    let (run, first) = (run.clone(), *serial);
    let request = std::mem::replace(signal_id, format!("{signal_id}-another"));
    *serial = 90_000;
    store.history.push(another);
    let is_it = |it: &AppliedCommand| it.request.as_ref() == Some(&request);
    for index in entries(store, is_it) {
        everywhere(store, index, |line| {
            let mut command = line.commands.iter().find(|it| is_it(it)).unwrap().clone();
            command.request = Some(format!("{request}-another"));
            line.commands.push(command);
        });
    }
    everywhere_in(store, &run, |it| {
        for row in &mut it.journal {
            if let Some(at) = row.received.iter().position(|(_, serial)| *serial == first) {
                row.received.insert(at, (row.received[at].0, 90_000));
            }
        }
    });
    Some(at)
}

#[test]
fn signals_of_one_sender_in_the_wrong_order_break_s12() {
    breaks("S12", "idempotent", |store, dice| {
        another_signal_taken_before(store, dice, |op| (op.t_ret + 1, op.t_ret + 2)).map(drop)
    });
}

#[test]
fn a_signal_that_was_refused_at_first_or_sent_again_keeps_s12() {
    for again in [false, true] {
        keeps("S12", "idempotent", |store, dice| {
            let before = |op: &Op| (op.t_inv - 2, op.t_inv - 1);
            let at = another_signal_taken_before(store, dice, before)?;
            let mut op = store.history[at].clone();
            if again {
                let another = store.history.last().unwrap().clone();
                (op.t_inv, op.t_ret) = (op.t_ret + 3, op.t_ret + 4);
                store.history.push(Op {
                    t_inv: op.t_ret + 1,
                    t_ret: op.t_ret + 2,
                    ..another
                });
            } else {
                // Before the other one, and the run had not been started.
                (op.t_inv, op.t_ret) = (op.t_inv - 4, op.t_inv - 3);
                op.answer = Some(Answer::NoRun);
            }
            store.history.push(op);
            Some(())
        });
    }
}

#[test]
fn a_signal_that_was_acknowledged_and_never_applied_breaks_s12() {
    breaks("S12", "idempotent", |store, dice| {
        let index = any(dice, entries(store, |it| it.kind == "signal"))?;
        everywhere(store, index, |line| line.commands.clear());
        Some(())
    });
}

#[test]
fn a_timer_that_fires_early_or_twice_breaks_s13() {
    let fired =
        |row: &holdfast_jepsen::records::JournalLine| row.outcomes.iter().any(|it| it.1 == "fired");
    let with_timer = move |store: &Store, dice: &mut Dice| {
        let found = store.journals["n1"]
            .iter()
            .filter(|it| it.journal.iter().any(fired));
        let found: Vec<String> = found.map(|it| it.run.clone()).collect();
        any(dice, found)
    };
    breaks("S13", "idempotent", |store, dice| {
        let run = with_timer(store, dice)?;
        everywhere_in(store, &run, |it| {
            let at = it.journal.iter().position(fired).unwrap();
            it.journal[at].at_ms -= 200;
        });
        Some(())
    });
    breaks("S13", "idempotent", |store, dice| {
        let run = with_timer(store, dice)?;
        everywhere_in(store, &run, |it| {
            let at = it.journal.iter().position(fired).unwrap();
            let again = it.journal[at].clone();
            it.journal.push(again);
        });
        Some(())
    });
}

#[test]
fn a_journal_that_lost_a_row_breaks_s16() {
    breaks("S16", "idempotent", |store, dice| {
        let found = store.journals["n1"]
            .iter()
            .filter(|it| it.journal.len() > 2);
        let run = any(dice, found.map(|it| it.run.clone()).collect())?;
        everywhere_in(store, &run, |it| drop(it.journal.remove(1)));
        Some(())
    });
}

#[test]
fn a_delivery_that_is_left_out_breaks_s24() {
    breaks("S24", "idempotent", |store, dice| {
        let numbered = |it: &FinalRun| it.journal.iter().any(|row| row.delivery.is_some());
        let found = store.journals["n1"].iter().filter(|it| numbered(it));
        let run = any(dice, found.map(|it| it.run.clone()).collect())?;
        everywhere_in(store, &run, |it| {
            let row = it
                .journal
                .iter_mut()
                .find(|row| row.delivery.is_some())
                .unwrap();
            row.delivery = Some(7);
        });
        Some(())
    });
}
