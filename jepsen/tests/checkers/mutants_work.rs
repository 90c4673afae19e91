//! Leases, effects, limits and undos: what may not be changed.

use holdfast_jepsen::checker::store::Store;
use holdfast_jepsen::records::{
    Answer, AppliedCommand, BodyMoment, Call, FinalRun, Ruling, TapEvent, Work,
};

use super::mutants::{any, begins, breaks, entries, events, everywhere};
use super::world::Dice;

#[test]
fn a_grant_of_what_is_done_breaks_s5a() {
    breaks("S5a", "idempotent", |store, dice| {
        let done = |it: &AppliedCommand| {
            it.results
                .iter()
                .any(|it| matches!(it.work, Work::Step { .. }))
        };
        let index = any(dice, entries(store, done))?;
        let line = store.taps["n1"].iter().find(|it| it.index == index)?;
        let work = line.commands[0].results[0].work.clone();
        let last = store.taps["n1"].iter().map(|it| it.index).max()?;
        everywhere(store, last, |line| {
            line.events.push(TapEvent::LeaseBegan {
                work: work.clone(),
                session: 1,
                fence: last << 16 | 9,
                attempt: Some(7),
            });
        });
        Some(())
    });
}

/// An effect that acted, made to act so late that its step was done.
fn late(store: &mut Store, dice: &mut Dice) -> Option<()> {
    let undone = ["UNDOING", "CANCELLED"];
    let completed: Vec<String> = store.journals["n1"]
        .iter()
        .filter(|it| !undone.contains(&it.status.as_str()))
        .map(|it| it.run.clone())
        .collect();
    let found: Vec<usize> = (0..store.effects.len())
        .filter(|i| store.effects[*i].ruling == Ruling::Acted)
        .filter(|i| completed.contains(&store.effects[*i].run))
        .collect();
    let nth = any(dice, found)?;
    store.effects[nth].t = store.setup.phases[3];
    Some(())
}

#[test]
fn an_effect_after_the_checkpoint_breaks_s5b_at_a_sink_that_looks() {
    breaks("S5b", "fenced", late);
}

#[test]
fn an_effect_after_the_checkpoint_breaks_s5c_at_any_sink() {
    breaks("S5c", "naive", late);
}

#[test]
fn two_bodies_of_one_step_at_once_break_s5c() {
    breaks("S5c", "idempotent", |store, dice| {
        // The lost attempt goes on in its worker until the next one has begun.
        let again: Vec<usize> = (0..store.bodies.len())
            .filter(|i| store.bodies[*i].attempt == 2 && store.bodies[*i].what == BodyMoment::Began)
            .collect();
        let second = store.bodies[any(dice, again)?].clone();
        let first = store
            .bodies
            .iter()
            .find(|it| it.run == second.run && it.step == second.step)?;
        let mut end = first.clone();
        (end.t, end.what) = (second.t + 1, BodyMoment::Stopped);
        store.bodies.push(end);
        Some(())
    });
}

#[test]
fn two_live_leases_of_one_step_break_s6() {
    breaks("S6", "idempotent", |store, dice| {
        let second = |it: &TapEvent| {
            matches!(
                it,
                TapEvent::LeaseBegan {
                    attempt: Some(2),
                    ..
                }
            )
        };
        let index = any(dice, events(store, second))?;
        let line = store.taps["n1"].iter().find(|it| it.index == index)?;
        let Some(TapEvent::LeaseBegan { work, .. }) = line.events.iter().find(|it| second(it))
        else {
            return None;
        };
        let work = work.clone();
        for line in store
            .taps
            .values_mut()
            .flatten()
            .filter(|it| it.index < index)
        {
            line.events
                .retain(|it| !matches!(it, TapEvent::LeaseEnded { work: of, .. } if *of == work));
        }
        Some(())
    });
}

#[test]
fn a_session_expired_by_a_leader_that_has_just_begun_breaks_s6() {
    breaks("S6", "idempotent", |store, _| {
        let leaders = entries(store, |it| it.kind == "become-leader");
        let index = *leaders.last()?;
        let next = store.taps["n1"]
            .iter()
            .find(|it| it.index == index + 1)?
            .index;
        everywhere(store, next, |line| {
            line.commands.push(AppliedCommand {
                slot: 9,
                kind: "expire".into(),
                answer: "ok".into(),
                session: Some(110),
                ..AppliedCommand::default()
            });
        });
        Some(())
    });
}

#[test]
fn a_fence_that_was_used_before_breaks_s7() {
    breaks("S7", "idempotent", |store, dice| {
        let second = |it: &TapEvent| {
            matches!(
                it,
                TapEvent::LeaseBegan {
                    attempt: Some(2),
                    ..
                }
            )
        };
        let index = any(dice, events(store, second))?;
        everywhere(store, index, |line| {
            for event in &mut line.events {
                if let TapEvent::LeaseBegan {
                    fence,
                    attempt: Some(2),
                    ..
                } = event
                {
                    *fence = 5 << 16;
                }
            }
        });
        Some(())
    });
}

#[test]
fn an_older_fence_accepted_at_the_fenced_sink_breaks_s7() {
    breaks("S7", "fenced", |store, dice| {
        let found = (0..store.effects.len()).filter(|i| {
            let it = &store.effects[*i];
            it.ruling == Ruling::Acted && it.attempt == 2
        });
        let nth = any(dice, found.collect())?;
        let older = store
            .effects
            .iter()
            .find(|it| it.key == store.effects[nth].key)?;
        let mut zombie = older.clone();
        (zombie.ruling, zombie.t) = (Ruling::Acted, store.effects[nth].t + 1);
        zombie.seq = store.effects.len() as u64;
        store.effects.push(zombie);
        Some(())
    });
}

#[test]
fn a_second_effect_at_the_idempotent_sink_breaks_s8() {
    breaks("S8", "idempotent", |store, dice| {
        let found =
            (0..store.effects.len()).filter(|i| store.effects[*i].ruling == Ruling::Repeated);
        let nth = any(dice, found.collect())?;
        store.effects[nth].ruling = Ruling::Acted;
        Some(())
    });
}

#[test]
fn a_duplicate_without_a_reason_at_the_naive_sink_breaks_s8() {
    breaks("S8", "naive", |store, dice| {
        let found = (0..store.effects.len()).filter(|i| store.effects[*i].ruling == Ruling::Acted);
        let nth = any(dice, found.collect())?;
        let mut again = store.effects[nth].clone();
        again.t += 1;
        again.seq = store.effects.len() as u64;
        store.effects.push(again);
        Some(())
    });
}

#[test]
fn a_step_that_is_done_without_its_effect_breaks_s8() {
    breaks("S8", "idempotent", |store, dice| {
        let found = (0..store.effects.len()).filter(|i| {
            let it = &store.effects[*i];
            it.ruling == Ruling::Acted && !it.undo
        });
        let key = store.effects[any(dice, found.collect())?].key.clone();
        store
            .effects
            .retain(|it| it.key != key || it.ruling == Ruling::Registered);
        Some(())
    });
}

#[test]
fn an_effect_that_was_never_granted_breaks_s9() {
    breaks("S9", "idempotent", |store, dice| {
        let nth = dice.pick(store.effects.len());
        store.effects[nth].fence += 1 << 20;
        Some(())
    });
}

#[test]
fn an_effect_before_its_grant_was_applied_breaks_s9() {
    breaks("S9", "idempotent", |store, dice| {
        let nth = dice.pick(store.effects.len());
        let of = (store.effects[nth].fence >> 16) & ((1 << 40) - 1);
        let granted = store.taps["n1"].iter().find(|it| it.index == of)?.t;
        store.effects[nth].t = granted - 1;
        Some(())
    });
}

#[test]
fn two_bodies_under_one_fence_break_s9() {
    breaks("S9", "idempotent", |store, dice| {
        let nth = dice.pick(store.bodies.len());
        let mut again = store.bodies[nth].clone();
        (again.t, again.what) = (again.t + 1, BodyMoment::Began);
        store.bodies.push(again);
        Some(())
    });
}

#[test]
fn an_attempt_that_is_left_out_breaks_s9() {
    breaks("S9", "idempotent", |store, dice| {
        let index = any(dice, events(store, begins("step")))?;
        everywhere(store, index, |line| {
            for event in &mut line.events {
                if let TapEvent::LeaseBegan {
                    attempt: Some(attempt),
                    ..
                } = event
                {
                    *attempt += 1;
                }
            }
        });
        Some(())
    });
}

#[test]
fn more_admissions_than_the_rate_break_s14() {
    breaks("S14", "idempotent", |store, dice| {
        // One admission a second, without bursts: the world admits faster.
        let index = any(dice, entries(store, |it| it.kind == "attach"))?;
        let mut admitting = entries(store, |it| !it.admitted.is_empty());
        admitting.dedup();
        if admitting.len() < 2 || index > admitting[0] {
            return None;
        }
        for index in entries(store, |it| it.kind == "attach") {
            everywhere(store, index, |line| {
                let limit = &mut line.commands[0].limits[0];
                (limit.rate_count, limit.rate_per_ms, limit.burst) = (Some(1), 60_000, 1);
            });
        }
        Some(())
    });
}

#[test]
fn more_admissions_than_a_client_allowed_break_s14() {
    breaks("S14", "idempotent", |store, _| {
        let attaching = entries(store, |it| it.kind == "attach");
        let (set, others) = attaching.split_first()?;
        for index in others {
            everywhere(store, *index, |line| line.commands[0].limits.clear());
        }
        // A tap that tells no numbers: the client that was given this position does.
        everywhere(store, *set, |line| {
            line.commands[0].kind = "set-limit".into();
            line.commands[0].name = Some("api".into());
            line.commands[0].limits.clear();
        });
        let mut op = store.history[0].clone();
        op.call = Call::SetLimit {
            limit: "api".into(),
            rate: Some(1),
            burst: None,
            concurrency: None,
        };
        op.answer = Some(Answer::Done { already: false });
        op.position.as_mut()?.index = *set;
        store.history.push(op);
        let admitting = entries(store, |it| !it.admitted.is_empty());
        (admitting.len() > 1).then_some(())
    });
}

#[test]
fn more_leases_than_places_break_s14() {
    breaks("S14", "idempotent", |store, _| {
        let limited = |it: &FinalRun| {
            let details = it.journal.iter().flat_map(|row| &row.details);
            details.filter(|it| !it.limits.is_empty()).count()
        };
        let steps: usize = store.journals["n1"].iter().map(limited).sum();
        for index in entries(store, |it| it.kind == "attach") {
            everywhere(store, index, |line| {
                line.commands[0].limits[0].concurrency = Some(0);
            });
        }
        (steps > 0).then_some(())
    });
}

#[test]
fn an_admission_while_the_limit_is_closed_breaks_s14() {
    breaks("S14", "idempotent", |store, _| {
        let admitting = entries(store, |it| !it.admitted.is_empty());
        let (first, last) = (*admitting.first()?, *admitting.last()?);
        let between = store.taps["n1"]
            .iter()
            .find(|it| first < it.index && it.index < last)?
            .index;
        let line = store.taps["n1"].iter().find(|it| it.index == first)?;
        let mut admitted = line.commands.iter().flat_map(|it| &it.admitted);
        let (run, entry) = admitted.next()?.clone();
        let throttle = holdfast_jepsen::records::TapResult {
            work: Work::Step { run, entry },
            fence: 1,
            outcome: "throttled".into(),
            limit: Some("api".into()),
            closed_ms: Some(60_000),
        };
        everywhere(store, between, |line| {
            line.commands[0].results.push(throttle.clone());
        });
        Some(())
    });
}

#[test]
fn a_step_given_out_after_a_cancel_breaks_s17() {
    breaks("S17", "idempotent", |store, dice| {
        let index = any(dice, entries(store, |it| it.kind == "cancel"))?;
        let line = store.taps["n1"].iter().find(|it| it.index == index)?;
        let run = line.commands[0].run.clone()?;
        let next = store.taps["n1"]
            .iter()
            .find(|it| it.index == index + 1)?
            .index;
        everywhere(store, next, |line| {
            line.events.push(TapEvent::LeaseBegan {
                work: Work::Step {
                    run: run.clone(),
                    entry: 0,
                },
                session: 1,
                fence: next << 16 | 5,
                attempt: Some(9),
            });
        });
        Some(())
    });
}

#[test]
fn an_undo_that_was_forgotten_breaks_s23() {
    breaks("S23", "idempotent", |store, dice| {
        let undone = |it: &AppliedCommand| {
            it.results
                .iter()
                .any(|it| matches!(it.work, Work::Undo { .. }))
        };
        let index = any(dice, entries(store, undone))?;
        everywhere(store, index, |line| line.commands[0].results.clear());
        Some(())
    });
}

#[test]
fn undos_in_the_wrong_order_break_s23() {
    breaks("S23", "idempotent", |store, _| {
        let undone = |it: &AppliedCommand| {
            it.run.as_deref() == Some("r-3")
                && it
                    .results
                    .iter()
                    .any(|it| matches!(it.work, Work::Undo { .. }))
        };
        let of = entries(store, undone);
        let [first, .., last] = of.as_slice() else {
            return None;
        };
        let results = |index: u64| {
            let line = store.taps["n1"].iter().find(|it| it.index == index)?;
            Some(line.commands[0].results.clone())
        };
        let (a, b) = (results(*first)?, results(*last)?);
        everywhere(store, *first, |line| line.commands[0].results = b.clone());
        everywhere(store, *last, |line| line.commands[0].results = a.clone());
        Some(())
    });
}

#[test]
fn a_key_of_another_step_breaks_s25() {
    breaks("S25", "idempotent", |store, dice| {
        let nth = dice.pick(store.effects.len());
        let (run, step) = (
            store.effects[nth].run.clone(),
            store.effects[nth].step.clone(),
        );
        let other = store
            .effects
            .iter()
            .find(|it| it.run != run || it.step != step)?
            .key
            .clone();
        store.effects[nth].key = other;
        Some(())
    });
}
