//! Log entries: the core's `Entry` and its bytes.
//!
//! Invariant: the same entry gives the same bytes on every node; any bytes give an entry or an `Undecodable`, never a
//! panic. An unknown command is undecodable: skipping it would make replicas differ.

pub(super) mod put;
pub(super) mod take;

use bytes::Bytes;

use holdfast_scheduler::{
    entry::{Body, Command, Entry},
    ids::{Epoch, FeatureLevel},
    time::Timestamp,
};

use super::{Undecodable, read::Reader, required, write::Writer};
use put::{put_become_leader, put_command};
use take::{take_batch, take_become_leader};

/// What most commands take, and some more.
const COMMAND_BYTES: usize = 256;
/// What stands before the commands of a batch, and some more.
const ROOM: usize = 32;

/// The bytes of an entry.
pub fn encode(entry: &Entry) -> Bytes {
    match &entry.body {
        Body::BecomeLeader(it) => {
            let mut to = Writer::with_capacity(128);
            to.uint(1, entry.level.0);
            to.message(2, |to| put_become_leader(to, it));
            to.into_bytes()
        }
        Body::Batch {
            epoch,
            proposed_at,
            commands,
        } => {
            let commands: Vec<Bytes> = commands.iter().map(encode_command).collect();
            encode_batch(entry.level, *epoch, *proposed_at, &commands)
        }
    }
}

/// The bytes of a batch of commands, each as `encode_command` gives it.
pub fn encode_batch(
    level: FeatureLevel,
    epoch: Epoch,
    proposed_at: Timestamp,
    commands: &[Bytes],
) -> Bytes {
    let mut head = Writer::with_capacity(ROOM);
    head.uint(1, epoch.0);
    head.uint(2, proposed_at.0);
    let head = head.into_bytes();
    let body = head.len() + commands.iter().map(Bytes::len).sum::<usize>();
    let mut to = Writer::with_capacity(body + ROOM);
    to.uint(1, level.0);
    to.length(3, body);
    to.raw(&head);
    for command in commands {
        to.raw(command);
    }
    to.into_bytes()
}

/// A command as it lies within a batch.
pub fn encode_command(command: &Command) -> Bytes {
    let mut to = Writer::with_capacity(COMMAND_BYTES);
    to.message(3, |to| put_command(to, command));
    to.into_bytes()
}

/// The entry in these bytes.
///
/// # Errors
/// `Undecodable`: they are no entry, or one of a newer release; this replica must stop.
pub fn decode(bytes: Bytes) -> Result<Entry, Undecodable> {
    let (mut level, mut body) = (FeatureLevel(0), None);
    Reader::new(&bytes, 0).each(|number, field| match number {
        1 => field.to(&mut level),
        2 => field.message_to(&mut body, take_become_leader),
        3 => field.message_to(&mut body, take_batch),
        _ => Ok(()),
    })?;
    let body = required(body, "log entry body")?;
    Ok(Entry { level, body })
}
