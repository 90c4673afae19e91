//! What the fuzzer of the replay calls: any messages of a node against a function that uses every operation.
//!
//! Invariant: nothing here changes what the crate does; it is compiled for tests and under feature `fuzzing` alone. A broken promise is a panic.
//! Not here: the program (`fuzz/`).

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::FutureExt;
use holdfast_proto::v1;
use prost::Message;

use crate::cx::{Cx, LocalBody, State};
use crate::error::Fail;
use crate::names::{Signal, Step, View};
use crate::worker::driver::{Driver, Fate, Todo};

const A: Step<u32, u32> = Step::new("a");
const B: Step<u32, String> = Step::new("b");
const ELSEWHERE: Step<u32, u32> = Step::new("elsewhere");
const GO: Signal<u32> = Signal::new("go");
const STAGE: View<u32> = View::new("stage");
/// What one command may hold; an Advance is one command.
const ADVANCE_BYTES_MAX: usize = 1 << 20;

/// Uses every operation, and goes on whatever comes of it.
async fn function(cx: Cx) -> Result<u32, Fail> {
    let made = cx.random();
    cx.now();
    cx.uuid();
    cx.publish(STAGE, 1);
    let first = cx.step(A, 1).await;
    let waits = cx.wait(GO).timeout(Duration::from_secs(60));
    let (second, slept, told) =
        futures::join!(cx.step(B, 2), cx.sleep(Duration::from_secs(1)), waits);
    cx.publish(STAGE, 2);
    if slept.is_err() || second.is_err() {
        cx.step(ELSEWHERE, 3).await?;
    }
    let many = cx.join_all((0..3).map(|n| cx.step(A, n))).await;
    Ok(first.unwrap_or(7)
        + told.ok().flatten().unwrap_or(0) % 9
        + many.map_or(0, |it| it.iter().sum::<u32>() % 9)
        + u32::from(made.is_multiple_of(2)))
}

/// Plays frames of a node, each after its length, against a new driver.
///
/// # Panics
/// The driver panicked, or made an Advance that cannot be a command.
pub fn replay(data: &[u8]) {
    let mut bytes = Bytes::copy_from_slice(data);
    let mut driver = driver();
    while bytes.has_remaining() {
        let Ok(frame) = v1::ToWorker::decode_length_delimited(&mut bytes) else {
            return;
        };
        let todo = match frame.message {
            Some(v1::to_worker::Message::Drive(drive)) => driver.drive(drive),
            Some(v1::to_worker::Message::News(news)) => driver.news(news),
            Some(v1::to_worker::Message::Advanced(it)) => driver.advanced(it),
            _ => return,
        };
        if !go_on(&mut driver, todo) {
            return;
        }
    }
}

/// What the worker does of a todo: bodies end at once, and their results go out.
fn go_on(driver: &mut Driver, todo: Todo) -> bool {
    let mut next = Some(todo);
    while let Some(todo) = next.take() {
        if let Some(advance) = &todo.advance {
            // What came from the node may be sent back, and is as large as it was.
            assert!(
                advance.intents.len() <= 128,
                "too many intents in an Advance"
            );
            let bytes: usize = advance.intents.iter().map(Message::encoded_len).sum();
            assert!(
                bytes <= ADVANCE_BYTES_MAX,
                "{bytes} bytes of intents in an Advance"
            );
        }
        if todo.fate == Fate::Drop || todo.fate == Fate::Return {
            return false;
        }
        let begun = !todo.begin.is_empty();
        for (grant, _) in todo.begin {
            let kind = v1::attempt_outcome::Kind::Done(Bytes::from_static(b"5"));
            driver.result(v1::StepResult {
                entry: grant.entry,
                fence: grant.fence,
                outcome: Some(v1::AttemptOutcome { kind: Some(kind) }),
            });
        }
        if begun {
            let mut todo = Todo::default();
            driver.advance(&mut todo);
            next = Some(todo);
        }
    }
    true
}

fn driver() -> Driver {
    let bodies = |name: &str, _: Bytes| {
        let body: LocalBody = Arc::new(|_| async { Ok(Bytes::from_static(b"5")) }.boxed());
        (name != ELSEWHERE.name()).then_some(body)
    };
    let state = Rc::new(State::new(
        "order-7".to_owned(),
        "shop".to_owned(),
        Box::new(bodies),
    ));
    let cx = Cx(Rc::clone(&state));
    let function = async move {
        let output = function(cx).await?;
        Ok(output.to_string().into())
    };
    Driver::new(state, Box::pin(function))
}

type Frame = v1::to_worker::Message;

fn drive(rows: Vec<v1::JournalRow>) -> Frame {
    Frame::Drive(v1::Drive {
        run: "order-7".to_owned(),
        fence: 1,
        rows,
        ..Default::default()
    })
}

fn grant(entry: u32, fence: u64) -> v1::Grant {
    v1::Grant {
        entry,
        fence,
        attempt: 1,
        ..Default::default()
    }
}

fn advanced(number: u32, outcome: v1::AdvanceOutcome, grants: Vec<v1::Grant>) -> Frame {
    Frame::Advanced(v1::Advanced {
        run: "order-7".to_owned(),
        fence: 1,
        number,
        outcome: outcome.into(),
        grants,
        ..Default::default()
    })
}

/// Lives of a run, in the frames of its node: seeds for the fuzzer.
pub fn seeds() -> Vec<Vec<u8>> {
    let Frame::Drive(first) = drive(vec![]) else {
        return Vec::new();
    };
    let asked = driver().drive(first).advance.unwrap_or_default();
    let row = v1::JournalRow {
        seen: Some(0),
        intents: asked.intents,
        ..Default::default()
    };
    let fired = |entry| v1::Outcome {
        entry,
        kind: Some(v1::outcome::Kind::Fired(v1::Empty {})),
    };
    let delivery = v1::JournalRow {
        seq: 2,
        delivery: 1,
        outcomes: vec![fired(6), fired(7)],
        ..Default::default()
    };
    let news = Frame::News(v1::News {
        run: "order-7".to_owned(),
        fence: 1,
        deliveries: vec![delivery.clone()],
        grants: vec![grant(5, 11)],
    });
    let goes_on = |number, grants| advanced(number, v1::AdvanceOutcome::GoesOn, grants);
    let begun = || goes_on(1, vec![grant(4, 10)]);
    let refused = advanced(1, v1::AdvanceOutcome::Refused, vec![]);
    let suspended = advanced(1, v1::AdvanceOutcome::Suspended, vec![]);
    let lives = [
        vec![drive(vec![])],
        vec![drive(vec![]), begun(), goes_on(2, vec![])],
        vec![drive(vec![row.clone()]), begun()],
        vec![drive(vec![row, delivery]), news.clone(), goes_on(1, vec![])],
        vec![drive(vec![]), news, refused],
        vec![drive(vec![]), suspended],
    ];
    lives.into_iter().map(bytes_of).collect()
}

fn bytes_of(life: Vec<Frame>) -> Vec<u8> {
    life.into_iter().fold(Vec::new(), |mut bytes, message| {
        let frame = v1::ToWorker {
            message: Some(message),
        };
        bytes.extend(frame.encode_length_delimited_to_vec());
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// splitmix64.
    fn roll(state: &mut u64) -> usize {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut it = *state;
        it = (it ^ (it >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        it = (it ^ (it >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((it ^ (it >> 31)) >> 1).unwrap_or_default()
    }

    #[test]
    fn lives_that_were_damaged_on_their_way_never_panic_a_driver() {
        let seeds = seeds();
        let mut state = 1;
        for _ in 0..4_000 {
            let mut life = seeds[roll(&mut state) % seeds.len()].clone();
            for _ in 0..=roll(&mut state) % 4 {
                let (at, byte) = (roll(&mut state) % life.len(), roll(&mut state));
                match byte % 4 {
                    0 => life[at] ^= 1 << (byte % 8),
                    1 => life[at] = 0xff,
                    2 => life.insert(at, byte.to_le_bytes()[2]),
                    _ => life.extend_from_within(at..),
                }
                life.truncate(1 << 14);
            }
            replay(&life);
        }
    }

    #[test]
    fn numbers_at_their_bounds_are_no_reason_to_panic() {
        let max = u32::MAX;
        let intent = v1::Intent {
            entry: max,
            key: Some(v1::StepKey {
                scope: "0".to_owned(),
                name: "a".to_owned(),
                occurrence: 0,
            }),
            digest: 1,
            kind: Some(v1::intent::Kind::Record(Bytes::new())),
        };
        let row = v1::JournalRow {
            seq: max,
            delivery: max,
            intents: vec![intent],
            ..Default::default()
        };
        let drive = v1::Drive {
            fence: 1,
            advance: max,
            first_seq: max,
            delivery: max,
            rows: vec![row.clone(), row.clone()],
            ..Default::default()
        };
        let news = v1::News {
            fence: 1,
            deliveries: vec![v1::JournalRow { delivery: 1, ..row }],
            ..Default::default()
        };
        let life = vec![
            v1::to_worker::Message::Drive(drive),
            v1::to_worker::Message::News(news),
        ];
        let bytes = bytes_of(life);
        replay(&bytes);
    }
}
