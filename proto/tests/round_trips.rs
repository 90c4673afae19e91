//! Round trips of anything that can be stored or sent, and garbage: any bytes give a value or a typed fault, never a panic.

#![cfg(feature = "domain")]
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::wildcard_imports,
    dead_code,
    unused_imports,
    reason = "tests"
)]

mod samples;

use std::ops::{Bound, RangeBounds};

use bytes::Bytes;
use holdfast_proto::{
    domain::{keys, log, rows, wire},
    stored, v1,
};
use holdfast_scheduler::{
    apply::{LEVEL_MAX, apply},
    entry::*,
    ids::*,
    orders::Orders,
    reply::JournalRow,
    rows::{Alike, Key, MemRows, Stretch},
    time::{Millis, Timestamp},
};
use proptest::{prelude::*, sample::Index};
use prost::Message;
use samples::Choices;

fn choices() -> impl Strategy<Value = Choices> {
    let number = prop_oneof![0..16u64, any::<u64>()];
    proptest::collection::vec(number, 0..400).prop_map(Choices::new)
}

/// Valid bytes, somewhere overwritten, cut or repeated.
fn damaged(bytes: &Bytes, damage: &[(usize, u8)]) -> Bytes {
    let mut bytes = bytes.to_vec();
    for (at, byte) in damage {
        if bytes.is_empty() {
            break;
        }
        let at = at % bytes.len();
        match byte % 4 {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, byte.wrapping_mul(37)),
            2 => bytes[at] ^= 1 << (byte / 4 % 8),
            _ => bytes.extend_from_within(at..),
        }
        bytes.truncate(1 << 16);
    }
    bytes.into()
}

fn damage() -> impl Strategy<Value = Vec<(usize, u8)>> {
    proptest::collection::vec(any::<(usize, u8)>(), 1..5)
}

fn garbage() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..200)
}

/// Every message of the public wire that is translated, read from these bytes.
fn read_as_requests(bytes: &[u8]) {
    macro_rules! read {
        ($($message:ty => $translate:expr;)*) => { $(
            if let Ok(message) = <$message>::decode(bytes) {
                drop($translate(message));
            }
        )* };
    }
    read! {
        v1::StartRequest => wire::start;
        v1::SignalRequest => wire::signal;
        v1::ChangeRequest => wire::change;
        v1::RetryRequest => wire::retry;
        v1::SetCurrentRequest => wire::deploy;
        v1::SetLimitRequest => wire::set_limit;
        v1::Hello => |it| wire::attach(&it);
        v1::Advance => wire::advance;
        v1::Report => wire::report;
        v1::Progress => wire::progress;
        v1::Return => wire::returned;
    }
}

/// What the wire can carry: 0 and the empty text mean "not given" there, and policies go one way.
fn sendable(mut intent: Intent) -> Intent {
    let given = |span: Option<Millis>| span.filter(|span| span.0 != 0);
    match &mut intent.kind {
        IntentKind::Step(spec) => {
            spec.retry = RetryPolicy::default();
            spec.timeout = given(spec.timeout);
            spec.heartbeat = given(spec.heartbeat);
            spec.inline &= spec.queue.is_none();
        }
        IntentKind::Timer(TimerSpec::At(at)) => *at = (*at).max(Timestamp(1)),
        IntentKind::Wait { timeout, ask, .. } => {
            *timeout = given(*timeout);
            *ask = ask.take().filter(|ask| !ask.is_empty());
        }
        IntentKind::Timer(TimerSpec::After(_))
        | IntentKind::Record(_)
        | IntentKind::Publish { .. }
        | IntentKind::Complete(_)
        | IntentKind::Fail { .. } => {}
    }
    intent
}

proptest! {
    #[test]
    fn any_entry_comes_back_from_its_bytes(mut choices in choices()) {
        let entry = choices.entry();
        let bytes = log::encode(&entry);
        prop_assert_eq!(log::decode(bytes.clone()).unwrap(), entry.clone());
        if let Body::Batch { epoch, proposed_at, commands } = &entry.body {
            let commands: Vec<Bytes> = commands.iter().map(log::encode_command).collect();
            let batch = log::encode_batch(entry.level, *epoch, *proposed_at, &commands);
            prop_assert_eq!(&batch, &bytes, "both ways to write a batch");
        }
        prop_assert_eq!(stored::Entry::decode(bytes.clone()).unwrap().encode_to_vec(), bytes, "as prost writes it");
    }

    #[test]
    fn rows_are_written_as_prost_would_write_them(mut choices in choices()) {
        let key = choices.key();
        let bytes = rows::encode(&choices.row(&key));
        macro_rules! as_prost {
            ($($kind:pat => $message:ident),*) => {
                match &key {
                    $($kind => {
                        let message = stored::$message::decode(&bytes[1..]).unwrap();
                        prop_assert_eq!(&message.encode_to_vec()[..], &bytes[1..]);
                    })*
                    _ => {}
                }
            };
        }
        as_prost! {
            Key::Group => GroupRow, Key::Run(_) => RunRow, Key::Finished(_) => FinishedRow,
            Key::Journal(..) => JournalRow, Key::Signal(..) => SignalRow, Key::Session(_) => SessionRow,
            Key::Limit(_) => LimitRow, Key::Workflow(_) => WorkflowRow, Key::Version(..) => VersionRow
        }
    }

    #[test]
    fn any_key_comes_back_and_sorts_as_its_bytes_do(mut one in choices(), mut other in choices()) {
        let (one, other) = (one.key(), other.key());
        let (a, b) = (keys::encode(&one), keys::encode(&other));
        prop_assert_eq!(&keys::decode(&a).unwrap(), &one);
        prop_assert_eq!(a.cmp(&b), one.cmp(&other));
    }

    #[test]
    fn a_stretch_of_bytes_has_the_keys_that_are_alike_and_no_others(
        mut one in choices(), mut other in choices(), place in any::<Index>(), byte in any::<u8>()
    ) {
        let (one, other) = (one.key(), other.key());
        let mut near = keys::encode(&one).to_vec();
        let place = place.index(near.len());
        near[place] = byte;
        let near = keys::decode(&near).unwrap_or_else(|_| one.clone());
        for alike in [Alike::Kind, Alike::One, Alike::Two] {
            for stretch in [Stretch::from(one.clone(), alike), Stretch::behind(one.clone(), alike)] {
                let (from, to) = keys::range(&stretch);
                for key in [&one, &other, &near] {
                    let bytes = keys::encode(key);
                    let inside = from[..] <= bytes[..] && bytes[..] < to[..];
                    let begun = (stretch.first(), Bound::Unbounded).contains(key);
                    prop_assert_eq!(inside, begun && stretch.reaches(key), "{:?} {:?}", stretch, key);
                }
            }
        }
    }

    #[test]
    fn any_row_comes_back_from_its_bytes(mut choices in choices()) {
        let key = choices.key();
        let row = choices.row(&key);
        prop_assert_eq!(rows::decode(&key, &rows::encode(&row)).unwrap(), row);
    }

    #[test]
    fn what_a_driver_reads_in_the_journal_is_what_it_asked_for(mut choices in choices()) {
        let intents = vec![sendable(choices.intent()), sendable(choices.intent())];
        let row = JournalRow { intents: intents.clone(), ..choices.journal() };
        let sent = wire::journal_row_to(1, &row, true).encode_to_vec();
        let read = v1::JournalRow::decode(&sent[..]).unwrap();
        let run = "order-1".to_owned();
        let again = wire::advance(v1::Advance { run, intents: read.intents, ..v1::Advance::default() });
        prop_assert_eq!(again.unwrap().intents, intents);
    }

    #[test]
    fn damaged_entries_are_an_entry_or_a_fault(mut choices in choices(), damage in damage()) {
        let bytes = damaged(&log::encode(&choices.entry()), &damage);
        if let Ok(entry) = log::decode(bytes) {
            let again = log::decode(log::encode(&entry)).unwrap();
            prop_assert_eq!(again, entry, "what was read can be written");
        }
    }

    #[test]
    fn damaged_rows_and_keys_are_a_row_or_a_fault(mut choices in choices(), damage in damage()) {
        let key = choices.key();
        let row = choices.row(&key);
        if let Ok(row) = rows::decode(&key, &damaged(&rows::encode(&row), &damage)) {
            prop_assert_eq!(rows::decode(&key, &rows::encode(&row)).unwrap(), row);
        }
        drop(keys::decode(&damaged(&keys::encode(&key), &damage)));
    }

    #[test]
    fn damaged_requests_are_a_request_or_a_refusal(mut choices in choices(), damage in damage()) {
        let row = wire::journal_row_to(1, &choices.journal(), true);
        let (run, intents) = ("order-1".to_owned(), row.intents);
        let sent = v1::Advance { run, intents, ..v1::Advance::default() }.encode_to_vec();
        read_as_requests(&damaged(&sent.into(), &damage));
    }

    #[test]
    fn garbage_is_never_a_panic(bytes in garbage(), mut choices in choices()) {
        let key = choices.key();
        drop(keys::decode(&bytes));
        read_as_requests(&bytes);
        let bytes = Bytes::from(bytes);
        drop(rows::decode(&key, &bytes));
        let formatted: Bytes = [&[1], &bytes[..]].concat().into();
        drop(rows::decode(&key, &formatted));
        drop(log::decode(bytes));
    }
}

/// A field of a message: its number, and what it holds.
fn field(number: u32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_varint(u64::from(number << 3 | 2), &mut out);
    prost::encoding::encode_varint(body.len() as u64, &mut out);
    out.extend_from_slice(body);
    out
}

#[test]
fn a_command_of_a_newer_release_is_a_fault_and_never_skipped() {
    let known = log::encode_batch(FeatureLevel(1), Epoch(1), Timestamp(1), &[]);
    for unknown in [17, 40, 4_711] {
        let batch = field(3, &field(3, &field(unknown, b"?")));
        let bytes: Bytes = [&known[..2], &batch].concat().into(); // its level, then a batch of one command
        let fault = log::decode(bytes).unwrap_err();
        assert_eq!(fault.what, "command", "{fault}");
        assert!(fault.to_string().contains("newer release"), "{fault}");
    }
    let neither: Bytes = field(9, b"?").into();
    assert_eq!(log::decode(neither).unwrap_err().what, "log entry body");
}

/// An empty text is the default, and left out when it is written: read once more, its field would be missing.
#[test]
fn an_empty_name_is_a_fault_whether_it_was_written_or_left_out() {
    let known = log::encode_batch(FeatureLevel(1), Epoch(1), Timestamp(1), &[]);
    for empty in [field(38, b""), field(2, &field(1, b""))] {
        let batch = field(3, &field(3, &empty)); // a repair of no run, a signal to none
        let bytes: Bytes = [&known[..2], &batch].concat().into();
        assert!(log::decode(bytes).is_err());
    }
    let row: Bytes = [&[1][..], &field(1, b"")].concat().into();
    assert!(rows::decode(&Key::Workflow(Name::new("order").unwrap()), &row).is_err());
}

#[test]
fn an_entry_of_a_newer_level_is_a_fault_that_changes_nothing() {
    let level = FeatureLevel(LEVEL_MAX.0 + 1);
    let noop = log::encode_command(&Command::Ask(Ask::Noop(Bytes::new())));
    let bytes = log::encode_batch(level, Epoch(0), Timestamp(5), &[noop]);
    let entry = log::decode(bytes).unwrap();
    let (mut rows, mut orders) = (MemRows::default(), Orders::default());
    let fault = apply(&mut rows, &mut orders, LogIndex(9), &entry).unwrap_err();
    assert!(
        fault.to_string().contains("entry 9 needs feature level 2"),
        "{fault}"
    );
    assert_eq!(rows, MemRows::default());
}

#[test]
fn a_row_of_a_newer_format_or_an_unknown_number_is_a_fault() {
    for (key, row) in samples::rows() {
        let mut bytes = rows::encode(&row).to_vec();
        bytes[0] = 2;
        let fault = rows::decode(&key, &bytes.into()).unwrap_err();
        assert!(fault.to_string().contains("newer release"), "{fault}");
    }
    assert!(rows::status_from(0).is_err() && rows::status_from(13).is_err());
    let empty_run: Bytes = vec![1].into();
    assert!(rows::decode(&Key::Run(samples::run()), &empty_run).is_err());
}
