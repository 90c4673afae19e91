//! Keys of rows, byte by byte: `kind u8 | …`, big-endian, texts end with 0x00, so that bytes sort as the core's keys do.
//!
//! `raft` puts group and generation before them. Numbers of kinds are added, never reused.

use std::ops::Bound;

use bytes::Bytes;

use holdfast_scheduler::{
    ids::{Generation, LimitName, Name, RequestId, RunId, Seq, SessionId, Version},
    rows::{Alike, Class, Keeps, Key, Newest, Stretch},
    time::Timestamp,
};

use super::Undecodable;

/// The number of a row's kind: the first byte of its key.
pub fn kind(key: &Key) -> u8 {
    match key {
        Key::Group => 1,
        Key::Run(_) => 2,
        Key::Finished(_) => 3,
        Key::Input(..) => 4,
        Key::Journal(..) => 5,
        Key::Signal(..) => 6,
        Key::Seen(..) => 7,
        Key::View(..) => 8,
        Key::Session(_) => 9,
        Key::Limit(_) => 10,
        Key::Workflow(_) => 11,
        Key::Version(..) => 12,
        Key::ByClass(..) => 13,
        Key::ByWorkflow(..) => 14,
        Key::ByTime(..) => 15,
        Key::Ended(..) => 16,
    }
}

/// The bytes of a key.
pub fn encode(key: &Key) -> Bytes {
    let mut out = Vec::with_capacity(64);
    out.push(kind(key));
    match key {
        Key::Group => {}
        Key::Run(run) | Key::Finished(run) => text(&mut out, run.as_str()),
        Key::Input(run, generation) => {
            text(&mut out, run.as_str());
            out.extend_from_slice(&generation.0.to_be_bytes());
        }
        Key::Journal(run, generation, seq) => {
            text(&mut out, run.as_str());
            out.extend_from_slice(&generation.0.to_be_bytes());
            out.extend_from_slice(&seq.0.to_be_bytes());
        }
        Key::Signal(run, name, (index, nth)) => {
            text(&mut out, run.as_str());
            text(&mut out, name.as_str());
            out.extend_from_slice(&index.to_be_bytes());
            out.extend_from_slice(&nth.to_be_bytes());
        }
        Key::Seen(run, id) => {
            text(&mut out, run.as_str());
            text(&mut out, id.as_str());
        }
        Key::View(run, name) => {
            text(&mut out, run.as_str());
            text(&mut out, name.as_str());
        }
        Key::Session(session) => out.extend_from_slice(&session.0.to_be_bytes()),
        Key::Limit(name) => text(&mut out, name.as_str()),
        Key::Workflow(name) => text(&mut out, name.as_str()),
        Key::Version(name, version) => {
            text(&mut out, name.as_str());
            out.extend_from_slice(&version.0.to_be_bytes());
        }
        Key::ByClass(class, newest, run) => {
            out.push(*class as u8);
            out.extend_from_slice(&newest.number().to_be_bytes());
            text(&mut out, run.as_str());
        }
        Key::ByWorkflow(name, version, newest, run) => {
            text(&mut out, name.as_str());
            out.extend_from_slice(&version.0.to_be_bytes());
            out.extend_from_slice(&newest.number().to_be_bytes());
            text(&mut out, run.as_str());
        }
        Key::ByTime(newest, run) => {
            out.extend_from_slice(&newest.number().to_be_bytes());
            text(&mut out, run.as_str());
        }
        Key::Ended(keeps, ended, run) => {
            out.push(*keeps as u8);
            out.extend_from_slice(&ended.0.to_be_bytes());
            text(&mut out, run.as_str());
        }
    }
    out.into()
}

/// The bytes between which the keys of a stretch lie: from these on, and below those.
pub fn range(stretch: &Stretch) -> (Vec<u8>, Vec<u8>) {
    let (like, alike) = stretch.like();
    let first = encode(like);
    let mut end = first[..common(like, alike)].to_vec();
    // The least bytes above all that begin like this. Kinds are small numbers, so there are some.
    while end.pop_if(|last| *last == u8::MAX).is_some() {}
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    match stretch.first() {
        Bound::Excluded(_) => (after(&first), end),
        Bound::Included(_) | Bound::Unbounded => (first.to_vec(), end),
    }
}

/// How many bytes all keys begin with that are like this one.
fn common(like: &Key, alike: Alike) -> usize {
    let text = |text: &str| text.len() + usize::from(!text.is_empty());
    let (one, two) = match like {
        Key::Group => (0, 0),
        Key::Run(run) | Key::Finished(run) => (text(run.as_str()), 0),
        Key::Input(run, _) | Key::Journal(run, ..) => (text(run.as_str()), 4),
        Key::Signal(run, name, _) | Key::View(run, name) => {
            (text(run.as_str()), text(name.as_str()))
        }
        Key::Seen(run, id) => (text(run.as_str()), text(id.as_str())),
        Key::Session(_) => (8, 0),
        Key::Limit(name) => (text(name.as_str()), 0),
        Key::Workflow(name) => (text(name.as_str()), 0),
        Key::Version(name, _) | Key::ByWorkflow(name, ..) => (text(name.as_str()), 4),
        Key::ByClass(..) | Key::Ended(..) => (1, 8),
        Key::ByTime(_, run) => (8, text(run.as_str())),
    };
    match alike {
        Alike::Kind => 1,
        Alike::One => 1 + one,
        Alike::Two => 1 + one + two,
    }
}

/// The least key above this one.
pub fn after(key: &[u8]) -> Vec<u8> {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next
}

/// The key in these bytes.
///
/// # Errors
/// `Undecodable`: they are no key of ours.
pub fn decode(bytes: &[u8]) -> Result<Key, Undecodable> {
    let mut rest = Rest(bytes);
    let kind = rest.u8()?;
    let key = match kind {
        1 => Key::Group,
        2 => Key::Run(rest.run()?),
        3 => Key::Finished(rest.run()?),
        4 => Key::Input(rest.run()?, Generation(rest.u32()?)),
        5 => Key::Journal(rest.run()?, Generation(rest.u32()?), Seq(rest.u32()?)),
        6 => Key::Signal(rest.run()?, rest.name()?, (rest.u64()?, rest.u32()?)),
        7 => Key::Seen(rest.run()?, RequestId::from_stored(rest.text()?)),
        8 => Key::View(rest.run()?, rest.name()?),
        9 => Key::Session(SessionId(rest.u64()?)),
        10 => Key::Limit(LimitName::from_stored(rest.text()?)),
        11 => Key::Workflow(rest.name()?),
        12 => Key::Version(rest.name()?, Version(rest.u32()?)),
        13 => Key::ByClass(rest.class()?, Newest::from_number(rest.u64()?), rest.run()?),
        14 => {
            let (name, version) = (rest.name()?, Version(rest.u32()?));
            Key::ByWorkflow(name, version, Newest::from_number(rest.u64()?), rest.run()?)
        }
        15 => Key::ByTime(Newest::from_number(rest.u64()?), rest.run()?),
        16 => Key::Ended(rest.keeps()?, Timestamp(rest.u64()?), rest.run()?),
        other => {
            return Err(Undecodable::new(
                "row key",
                format!("kind {other} is unknown"),
            ));
        }
    };
    if !rest.0.is_empty() {
        return Err(Undecodable::new("row key", "bytes are left over"));
    }
    Ok(key)
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    if !text.is_empty() {
        out.push(0); // the empty text is only ever where a scan begins
    }
}

struct Rest<'b>(&'b [u8]);

impl<'b> Rest<'b> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Undecodable> {
        let (taken, rest) = self
            .0
            .split_first_chunk()
            .ok_or_else(|| Undecodable::new("row key", "cut short"))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, Undecodable> {
        Ok(self.take::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32, Undecodable> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Undecodable> {
        self.take().map(u64::from_be_bytes)
    }

    fn text(&mut self) -> Result<&'b str, Undecodable> {
        let bad = |why| Undecodable::new("row key", why);
        let end = self
            .0
            .iter()
            .position(|byte| *byte == 0)
            .ok_or_else(|| bad("a text has no end"))?;
        if end == 0 {
            return Err(bad("a text is empty")); // only ever where a scan begins, never stored
        }
        let (text, rest) = self.0.split_at(end);
        self.0 = &rest[1..];
        std::str::from_utf8(text).map_err(|_| bad("a text is not UTF-8"))
    }

    fn run(&mut self) -> Result<RunId, Undecodable> {
        self.text().map(RunId::from_stored)
    }

    fn name(&mut self) -> Result<Name, Undecodable> {
        self.text().map(Name::from_stored)
    }

    fn keeps(&mut self) -> Result<Keeps, Undecodable> {
        Ok(match self.u8()? {
            1 => Keeps::Completed,
            2 => Keeps::Failed,
            3 => Keeps::Id,
            other => {
                let why = format!("nothing is kept as {other}");
                return Err(Undecodable::new("row key", why));
            }
        })
    }

    fn class(&mut self) -> Result<Class, Undecodable> {
        Ok(match self.u8()? {
            1 => Class::Live,
            2 => Class::Paused,
            3 => Class::Quarantined,
            4 => Class::Undoing,
            5 => Class::Completed,
            6 => Class::Failed,
            7 => Class::Cancelled,
            8 => Class::Terminated,
            9 => Class::TimedOut,
            other => {
                return Err(Undecodable::new(
                    "row key",
                    format!("class {other} is unknown"),
                ));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use holdfast_scheduler::time::Timestamp;

    use super::*;

    /// One of each kind, in the core's order.
    fn samples() -> Vec<Key> {
        let run = RunId::new("order-1").unwrap();
        let name = Name::new("order").unwrap();
        let newest = Newest::first(Timestamp(1_000));
        vec![
            Key::Group,
            Key::Run(run.clone()),
            Key::Finished(run.clone()),
            Key::Input(run.clone(), Generation(1)),
            Key::Journal(run.clone(), Generation(1), Seq(7)),
            Key::Signal(run.clone(), name.clone(), (900, 2)),
            Key::Seen(run.clone(), RequestId::new("s1").unwrap()),
            Key::View(run.clone(), name.clone()),
            Key::Session(SessionId(77)),
            Key::Limit(LimitName::new("stripe:*").unwrap()),
            Key::Workflow(name.clone()),
            Key::Version(name.clone(), Version(2)),
            Key::ByClass(Class::Live, newest, run.clone()),
            Key::ByWorkflow(name, Version(2), newest, run.clone()),
            Key::ByTime(newest, run),
        ]
    }

    #[test]
    fn every_kind_comes_back_and_the_golden_bytes_stand() {
        let mut golden = String::new();
        for key in samples() {
            let bytes = encode(&key);
            assert_eq!(decode(&bytes).unwrap(), key);
            for byte in &bytes {
                write!(golden, "{byte:02x}").unwrap();
            }
            golden.push('\n');
        }
        assert_eq!(golden, include_str!("golden/keys.txt"));
    }

    #[test]
    fn bytes_sort_as_the_cores_keys_do() {
        let mut keys = samples();
        for id in ["order-10", "order-2", "a", "order"] {
            keys.push(Key::Run(RunId::new(id).unwrap()));
            keys.push(Key::Journal(
                RunId::new(id).unwrap(),
                Generation(1),
                Seq(256),
            ));
        }
        keys.sort();
        let mut bytes: Vec<Bytes> = keys.iter().map(encode).collect();
        let in_order = bytes.clone();
        bytes.sort();
        assert_eq!(bytes, in_order);
    }

    #[test]
    fn a_key_with_an_empty_text_is_no_stored_one() {
        let found = [12, 0, 229, 0, 0, 2]; // a version of the workflow of no name
        assert!(decode(&found).is_err());
        assert!(decode(&[2, 0]).is_err());
    }

    #[test]
    fn garbage_is_refused_and_never_panics() {
        for key in samples() {
            let good = encode(&key);
            for len in 0..good.len() {
                assert!(decode(&good[..len]).is_err(), "{key:?} cut to {len}");
            }
        }
        for kind in 0..=255 {
            drop(decode(&[kind, 0xff, 0xfe, 0, 1, 2, 3]));
        }
    }
}
