//! `Engine`: raft's `Machine` by `scheduler::apply`; rows over the overlay, in their stored form.
//!
//! Invariant: what is cached here equals what the overlay would give, so a replica that was restarted a moment ago writes
//! the same bytes. Rows are written only when a command counts (`Turn` holds them back), so the cache needs no savepoints.
//! Not here: rules (`scheduler`), bytes (`proto::domain`), when something is applied (`raft`).

use std::{cell::RefCell, collections::HashMap, ops::RangeInclusive};

use bytes::Bytes;
use foldhash::fast::RandomState;

use holdfast_proto::domain::{keys, log, rows as stored};
use holdfast_raft::{Applied, Encoded, Fault, Machine, Overlay, RowSnapshot, StorageFault};
use holdfast_scheduler::{
    apply::{LEVEL_MAX, apply},
    effect::Effect,
    entry::{Ask, BecomeLeader, Body, Command, Duty, Entry},
    ids::{Epoch, IntentNo, LogIndex, RunId, SessionId},
    orders::Orders,
    reply::Reply,
    rows::{self, Key, ReadRows, Row, Rows, Stretch},
    time::Timestamp,
};

use crate::tap::GroupTap;

/// What this node puts into the log of a group.
#[derive(Debug, Clone)]
pub enum Proposal {
    /// An ask or a duty.
    Command(Command),
    /// This node takes the group over. It always travels alone.
    BecomeLeader(BecomeLeader),
}

impl From<Ask> for Proposal {
    fn from(ask: Ask) -> Self {
        Self::Command(Command::Ask(ask))
    }
}

impl From<Duty> for Proposal {
    fn from(duty: Duty) -> Self {
        Self::Command(Command::Duty(duty))
    }
}

/// What to read again when effects found no room.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dirty {
    /// The leadership.
    Epoch,
    /// A run, and all that is open in it.
    Run(RunId),
    /// A session.
    Session(SessionId),
    /// What waits at limits, and when something falls due.
    Orders,
}

/// Rows kept decoded: a busy run is read and written once per Advance. Two generations of so many rows, some 2 KiB each.
const CACHED_ROWS_MAX: usize = 8_192;

/// The engine of one group.
#[derive(Debug, Default)]
pub struct Engine {
    orders: Orders,
    cache: RefCell<Cache>,
    tap: Option<GroupTap>,
}

impl Engine {
    /// Without rows so far; what it applies is written to `tap`, if there is one.
    pub fn new(tap: Option<GroupTap>) -> Self {
        Self {
            tap,
            ..Self::default()
        }
    }
}

impl Machine for Engine {
    type Command = Proposal;
    type Reply = Reply;
    type Effect = Effect;
    type Dirty = Dirty;

    fn encode(command: &Proposal) -> Encoded {
        match command {
            Proposal::Command(command) => Encoded::Item(log::encode_command(command)),
            Proposal::BecomeLeader(it) => Encoded::Entry(log::encode(&Entry {
                level: LEVEL_MAX,
                body: Body::BecomeLeader(it.clone()),
            })),
        }
    }

    fn entry(epoch: u64, proposed_at_ms: u64, items: &[Bytes]) -> Bytes {
        log::encode_batch(LEVEL_MAX, Epoch(epoch), Timestamp(proposed_at_ms), items)
    }

    fn apply(
        &mut self,
        rows: &mut Overlay<'_>,
        at: u64,
        entry: &Bytes,
    ) -> Result<Applied<Reply, Effect>, Fault> {
        let entry = log::decode(entry.clone()).map_err(|cause| Fault(cause.to_string()))?;
        let mut rows = OverlayRows {
            overlay: rows,
            cache: &self.cache,
            admitted: self.tap.is_some().then(Vec::new),
        };
        let applied = apply(&mut rows, &mut self.orders, LogIndex(at), &entry)
            .map_err(|fault| Fault(fault.0))?;
        if let Some(tap) = &mut self.tap {
            let admitted = rows.admitted.take().unwrap_or_default();
            tap.entry(&rows, LogIndex(at), &entry, &applied, &admitted)
                .map_err(|fault| Fault(fault.0))?;
        }
        Ok(Applied {
            replies: applied.replies,
            effects: applied.effects,
        })
    }

    fn applied(&mut self, at: u64, digest: u128) {
        if let Some(tap) = &mut self.tap {
            tap.applied(at, digest);
        }
    }

    fn rebuild(&mut self, rows: &RowSnapshot<'_>) {
        self.cache = RefCell::default();
        if let Some(tap) = &mut self.tap {
            tap.rebuilt(&SnapshotRows(rows));
        }
        self.orders = Orders::rebuild(&SnapshotRows(rows)).unwrap_or_else(|fault| {
            // Without orders nothing could be applied as the other replicas apply it: this node must not go on.
            panic!("the rows of this replica cannot be read, replace this node: {fault}")
        });
    }

    fn dirty(effect: &Effect) -> Dirty {
        match effect {
            Effect::Epoch { .. } => Dirty::Epoch,
            Effect::Ready { work, .. }
            | Effect::NotReady(work)
            | Effect::Granted { work, .. }
            | Effect::LeaseBegan { work, .. }
            | Effect::Progressed { work, .. }
            | Effect::LeaseEnded { work, .. }
            | Effect::Stop { work, .. } => Dirty::Run(work.run().clone()),
            Effect::Driven { run, .. }
            | Effect::JournalGrew { run, .. }
            | Effect::RunChanged { run, .. } => Dirty::Run(run.clone()),
            Effect::SessionAttached { session, .. } | Effect::SessionEnded(session) => {
                Dirty::Session(*session)
            }
            Effect::Due(_) | Effect::LimitWaits { .. } => Dirty::Orders,
        }
    }

    fn levels(&self) -> RangeInclusive<u32> {
        1..=LEVEL_MAX.0
    }
}

/// Decoded rows of the kinds that are read again soon. When the younger half is full, the older half goes.
#[derive(Debug, Default)]
struct Cache {
    young: HashMap<Key, Option<Row>, RandomState>,
    old: HashMap<Key, Option<Row>, RandomState>,
}

impl Cache {
    fn keeps(key: &Key) -> bool {
        match key {
            Key::Group
            | Key::Run(_)
            | Key::Session(_)
            | Key::Limit(_)
            | Key::Workflow(_)
            | Key::Version(..) => true,
            Key::Finished(_)
            | Key::Input(..)
            | Key::Journal(..)
            | Key::Signal(..)
            | Key::Seen(..)
            | Key::View(..)
            | Key::ByClass(..)
            | Key::ByWorkflow(..)
            | Key::ByTime(..)
            | Key::Ended(..) => false,
        }
    }

    #[expect(
        clippy::option_option,
        reason = "known to be absent is not the same as not known"
    )]
    fn get(&mut self, key: &Key) -> Option<Option<Row>> {
        if let Some(row) = self.young.get(key) {
            return Some(row.clone());
        }
        let row = self.old.remove(key)?;
        self.put(key.clone(), row.clone());
        Some(row)
    }

    fn put(&mut self, key: Key, row: Option<Row>) {
        if self.young.len() >= CACHED_ROWS_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.old.remove(&key);
        self.young.insert(key, row);
    }
}

/// The rows of a group while an entry is applied.
struct OverlayRows<'a, 'o> {
    overlay: &'a mut Overlay<'o>,
    cache: &'a RefCell<Cache>,
    /// Steps that passed their limits, when somebody wants to know.
    admitted: Option<Vec<(RunId, IntentNo)>>,
}

impl OverlayRows<'_, '_> {
    fn note_admissions(&mut self, key: &Key, row: &Row) {
        let Row::Run(run) = row else { return };
        let Some(mut all) = self.admitted.take() else {
            return;
        };
        // What cannot be decoded stops the replica where it is read for a decision.
        let before = self.get(key).ok().flatten();
        let was = |intent| match &before {
            Some(Row::Run(run)) => run.step(intent).is_some_and(|step| step.admitted),
            _ => false,
        };
        let now = run
            .steps()
            .filter(|(intent, step)| step.admitted && !was(*intent));
        all.extend(now.map(|(intent, _)| (run.id.clone(), intent)));
        self.admitted = Some(all);
    }
}

impl ReadRows for OverlayRows<'_, '_> {
    fn get(&self, key: &Key) -> Result<Option<Row>, rows::Fault> {
        if Cache::keeps(key)
            && let Some(row) = self.cache.borrow_mut().get(key)
        {
            return Ok(row);
        }
        let row = decode_found(key, self.overlay.get(&keys::encode(key)))?;
        if Cache::keeps(key) {
            self.cache.borrow_mut().put(key.clone(), row.clone());
        }
        Ok(row)
    }

    fn scan(
        &self,
        stretch: &Stretch,
        each: &mut dyn FnMut(Key, Row) -> bool,
    ) -> Result<(), rows::Fault> {
        scan(
            |from, to, limit| self.overlay.scan(from, to, limit),
            stretch,
            each,
        )
    }
}

impl Rows for OverlayRows<'_, '_> {
    fn put(&mut self, key: Key, row: Row) {
        self.note_admissions(&key, &row);
        self.overlay.put(keys::encode(&key), stored::encode(&row));
        if Cache::keeps(&key) {
            self.cache.borrow_mut().put(key, Some(row));
        }
    }

    fn delete(&mut self, key: Key) {
        self.overlay.delete(keys::encode(&key));
        if Cache::keeps(&key) {
            self.cache.borrow_mut().put(key, None);
        }
    }
}

/// The rows of a group as a reader sees them.
pub struct SnapshotRows<'a, 's>(pub &'a RowSnapshot<'s>);

impl ReadRows for SnapshotRows<'_, '_> {
    fn get(&self, key: &Key) -> Result<Option<Row>, rows::Fault> {
        decode_found(key, self.0.get(&keys::encode(key)))
    }

    fn scan(
        &self,
        stretch: &Stretch,
        each: &mut dyn FnMut(Key, Row) -> bool,
    ) -> Result<(), rows::Fault> {
        scan(
            |from, to, limit| self.0.scan(from, to, limit),
            stretch,
            each,
        )
    }
}

fn decode_found(
    key: &Key,
    found: Result<Option<Bytes>, StorageFault>,
) -> Result<Option<Row>, rows::Fault> {
    let found = found.map_err(|fault| rows::Fault(fault.to_string()))?;
    found.map(|bytes| decode(key, &bytes)).transpose()
}

fn decode(key: &Key, bytes: &Bytes) -> Result<Row, rows::Fault> {
    stored::decode(key, bytes).map_err(|cause| rows::Fault(format!("row {key:?}: {cause}")))
}

/// The first part of a scan: most look at one or two rows and stop.
const FIRST_ROWS: usize = 4;
/// Parts grow, so that a long scan seeks seldom.
const PART_ROWS_MAX: usize = 1_024;

fn scan(
    part: impl Fn(&[u8], &[u8], usize) -> Result<Vec<(Bytes, Bytes)>, StorageFault>,
    stretch: &Stretch,
    each: &mut dyn FnMut(Key, Row) -> bool,
) -> Result<(), rows::Fault> {
    let (mut next, end) = keys::range(stretch);
    let mut limit = FIRST_ROWS;
    loop {
        let rows = part(&next, &end, limit);
        let rows = rows.map_err(|fault| rows::Fault(fault.to_string()))?;
        let full = rows.len() == limit;
        if let Some((last, _)) = rows.last() {
            next = keys::after(last);
        }
        for (key, value) in rows {
            let key = keys::decode(&key).map_err(|cause| rows::Fault(cause.to_string()))?;
            let row = decode(&key, &value)?;
            if !each(key, row) {
                return Ok(());
            }
        }
        if !full {
            return Ok(());
        }
        limit = (limit * 4).min(PART_ROWS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use holdfast_scheduler::ids::{Name, NodeId};

    use super::*;

    #[test]
    fn a_become_leader_is_an_entry_by_itself() {
        let name = |text| Name::new(text).unwrap();
        let levels = (LEVEL_MAX, LEVEL_MAX);
        let (node, anchor) = (NodeId(1), Timestamp(7));
        let it = BecomeLeader {
            node,
            incarnation: name("i"),
            boot: name("b"),
            levels,
            anchor,
        };
        let proposal = Proposal::BecomeLeader(it.clone());
        let Encoded::Entry(bytes) = Engine::encode(&proposal) else {
            panic!("it is an item among others");
        };
        let entry = log::decode(bytes).unwrap();
        assert_eq!(entry.body, Body::BecomeLeader(it));
    }

    #[test]
    fn the_cache_forgets_the_older_half_only() {
        let mut cache = Cache::default();
        let key = |n: u64| Key::Session(SessionId(n));
        for n in 0..=CACHED_ROWS_MAX as u64 {
            cache.put(key(n), None);
        }
        assert!(cache.get(&key(0)).is_some());
        assert!(cache.young.len() + cache.old.len() <= 2 * CACHED_ROWS_MAX);
    }
}
