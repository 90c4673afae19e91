//! What the programs share: a command inside a batch, and all messages that are translated.

pub mod seeds;

use bytes::Bytes;
use holdfast_proto::{
    domain::{log, wire},
    v1,
};
use holdfast_scheduler::{
    entry::{Ask, Command},
    ids::{Epoch, FeatureLevel},
    time::Timestamp,
};
use prost::Message;

/// A log entry of one command, which is these bytes.
pub fn batch_of(command: &[u8]) -> Bytes {
    let known = log::encode_batch(FeatureLevel(1), Epoch(1), Timestamp(1), &[]);
    let batch = field(3, &field(3, command));
    [&known[..2], &batch].concat().into() // its level, then a batch of one command
}

/// A field of a message: its number, and what it holds.
pub fn field(number: u32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_varint(u64::from(number << 3 | 2), &mut out);
    prost::encoding::encode_varint(body.len() as u64, &mut out);
    out.extend_from_slice(body);
    out
}

/// Reads a message, translates it, and stores what comes of it as the log does.
pub fn as_message(which: u8, bytes: &[u8]) {
    macro_rules! read {
        ($($message:ty => $translate:expr, $ask:path;)*) => {{
            const KINDS: u8 = [$(stringify!($message)),*].len() as u8;
            let mut kind = which % KINDS;
            $(
                if kind == 0 {
                    if let Ok(message) = <$message>::decode(bytes) && let Ok(ask) = $translate(message) {
                        stored($ask(ask));
                    }
                    return;
                }
                kind = kind.wrapping_sub(1);
            )*
            let _ = kind;
        }};
    }
    read! {
        v1::StartRequest => wire::start, Ask::Start;
        v1::SignalRequest => wire::signal, Ask::Signal;
        v1::ChangeRequest => wire::change, Ask::Cancel;
        v1::RetryRequest => wire::retry, Ask::Retry;
        v1::SetCurrentRequest => wire::deploy, Ask::Deploy;
        v1::SetLimitRequest => wire::set_limit, Ask::SetLimit;
        v1::Hello => |it| wire::attach(&it), Ask::Attach;
        v1::Advance => wire::advance, Ask::Advance;
        v1::Report => wire::report, Ask::Report;
        v1::Progress => wire::progress, Ask::Progress;
        v1::Return => wire::returned, Ask::Return;
    }
}

/// What a client asks for must be in the log as it was understood.
fn stored(ask: Ask) {
    let commands = [Command::Ask(ask)];
    let encoded = [log::encode_command(&commands[0])];
    let bytes = log::encode_batch(FeatureLevel(1), Epoch(1), Timestamp(1), &encoded);
    let entry = log::decode(bytes).expect("what was written can be read");
    let holdfast_scheduler::entry::Body::Batch { commands: read, .. } = entry.body else {
        panic!("a batch was read as something else");
    };
    assert_eq!(read, commands);
}
