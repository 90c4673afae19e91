//! Rows: the core's values and their bytes, `format u8` + a message of `stored/rows.proto`.
//!
//! Invariant: the same row gives the same bytes on every node (the digest is over them); any bytes give a row or an
//! `Undecodable`, never a panic.

mod put;
mod take;

use std::sync::Arc;

use bytes::Bytes;

use holdfast_scheduler::{
    reply::Status,
    rows::{Key, Row},
    values::run::Workflow,
};

use super::log::take::take_registered;
use super::{Undecodable, read::Reader, write::Writer};
use put::{put_finished, put_group, put_journal, put_limit, put_run, put_session, put_version};
use take::{
    take_finished, take_group, take_journal, take_limit, take_run, take_session, take_signal,
    take_version,
};

const FORMAT: u8 = 1;
/// What most rows take, and some more.
const ROW_BYTES: usize = 384;

/// The bytes of a row.
pub fn encode(row: &Row) -> Bytes {
    if matches!(row, Row::Mark) {
        return Bytes::from_static(&[FORMAT]);
    }
    let mut to = Writer::with_capacity(ROW_BYTES);
    to.raw(&[FORMAT]);
    match row {
        Row::Group(it) => put_group(&mut to, it),
        Row::Run(it) => put_run(&mut to, it),
        Row::Finished(it) => put_finished(&mut to, it),
        Row::Bytes(it) => to.raw(it),
        Row::Journal(it) => put_journal(&mut to, it),
        Row::Signal(it) => {
            to.text(1, it.id.as_str());
            to.bytes(2, &it.payload);
        }
        Row::Mark => {}
        Row::Session(it) => put_session(&mut to, it),
        Row::Limit(it) => put_limit(&mut to, it),
        Row::Workflow(it) => {
            to.text(1, it.name.as_str());
            to.uint(2, it.current.0);
        }
        Row::Version(it) => put_version(&mut to, it),
    }
    to.into_bytes()
}

/// The row under this key.
///
/// # Errors
/// `Undecodable`: the bytes are no such row, or of a newer release; this replica must stop.
pub fn decode(key: &Key, bytes: &Bytes) -> Result<Row, Undecodable> {
    let bad = |why: &str| Undecodable::new("row", why);
    if bytes.first() != Some(&FORMAT) {
        return Err(bad("its format is unknown; a newer release wrote it"));
    }
    let from = Reader::new(bytes, 1);
    Ok(match key {
        Key::Group => Row::Group(take_group(from)?),
        Key::Run(_) => Row::Run(Arc::new(take_run(from)?)),
        Key::Finished(_) => Row::Finished(Arc::new(take_finished(from)?)),
        Key::Input(..) | Key::View(..) => Row::Bytes(bytes.slice(1..)),
        Key::Journal(..) => Row::Journal(Arc::new(take_journal(from)?)),
        Key::Signal(..) => Row::Signal(take_signal(from)?),
        Key::Seen(..)
        | Key::ByClass(..)
        | Key::ByWorkflow(..)
        | Key::ByTime(..)
        | Key::Ended(..) => Row::Mark,
        Key::Session(_) => Row::Session(Arc::new(take_session(from)?)),
        Key::Limit(_) => Row::Limit(take_limit(from)?),
        Key::Workflow(_) => {
            let (name, current) = take_registered(from)?;
            Row::Workflow(Workflow { name, current })
        }
        Key::Version(..) => Row::Version(Arc::new(take_version(from)?)),
    })
}

/// The number of a status, in rows and on the wire alike.
pub fn status_number(status: Status) -> u32 {
    match status {
        Status::Scheduled => 1,
        Status::Ready => 2,
        Status::Running => 3,
        Status::Waiting => 4,
        Status::Paused => 5,
        Status::Quarantined => 6,
        Status::Undoing => 7,
        Status::Completed => 8,
        Status::Failed => 9,
        Status::Cancelled => 10,
        Status::Terminated => 11,
        Status::TimedOut => 12,
    }
}

/// The status with this number.
///
/// # Errors
/// `Undecodable`: none has it.
pub fn status_from(number: u32) -> Result<Status, Undecodable> {
    Ok(match number {
        1 => Status::Scheduled,
        2 => Status::Ready,
        3 => Status::Running,
        4 => Status::Waiting,
        5 => Status::Paused,
        6 => Status::Quarantined,
        7 => Status::Undoing,
        8 => Status::Completed,
        9 => Status::Failed,
        10 => Status::Cancelled,
        11 => Status::Terminated,
        12 => Status::TimedOut,
        other => return Err(Undecodable::new("status", format!("{other} is unknown"))),
    })
}
