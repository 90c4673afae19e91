//! The state of one group: whatever a crash leaves is a prefix of the log, a snapshot is of one moment, an install is whole.
//!
//! Not here: who sends a snapshot to whom (`snapshots`), the log (`crash`, `order`).
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use holdfast_raft::state::{Blocks, GroupState, Row, SnapData, SnapMeta, StateDb};
use holdfast_raft::testing;
use holdfast_raft::types::{EntryKind, GroupId, NodeId, StoredEntry};
use parking_lot::Mutex;
use support::{Command, Register, add, count, entry, entry_of, image, last, log_id, to_apply};
use tempfile::TempDir;
use uuid::Uuid;

const GROUP: GroupId = GroupId(1);
const OTHER: GroupId = GroupId(2);
const INCARNATION: Uuid = Uuid::from_u128(7);

/// Two groups in one database.
struct Place {
    ours: GroupState<Register>,
    other: GroupState<Register>,
    folder: TempDir,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.ours.close();
        self.other.close();
    }
}

/// The rows, the last applied index and its digest.
type Whole = (Vec<Row>, u64, u128);

impl Place {
    fn new() -> Self {
        Self::at(tempfile::tempdir().unwrap())
    }

    fn at(folder: TempDir) -> Self {
        let db = StateDb::open(folder.path(), NodeId(1), INCARNATION).unwrap();
        let open = |group| GroupState::open(&db, group, Register::default()).unwrap();
        let (ours, other) = (open(GROUP), open(OTHER));
        Self {
            ours,
            other,
            folder,
        }
    }

    async fn apply(&self, entries: &[StoredEntry]) {
        let entries = entries.iter().cloned().map(to_apply).collect();
        self.ours.apply(entries).await.unwrap();
    }

    fn whole(&self) -> Whole {
        let (index, digest) = self.ours.digest();
        let rows = self.ours.look(|rows| rows.scan(b"", b"\xff", usize::MAX));
        (rows.unwrap(), index, digest)
    }

    /// All that was written out reaches the disk, whatever is held back stays held back.
    async fn flush(&self) {
        drop(self.other.snapshot().await.unwrap());
    }

    async fn snapshot(&self) -> (SnapMeta, Box<dyn Blocks>) {
        match self.ours.snapshot().await.unwrap() {
            (meta, SnapData::Local(blocks)) => (meta, blocks),
            (_, SnapData::Staged(_)) => panic!("a state of one's own is local"),
        }
    }

    /// Receives a snapshot and installs it.
    async fn take(&self, meta: SnapMeta, blocks: &mut dyn Blocks) {
        let staged = receive(&self.ours, blocks);
        let barrier = std::future::ready(Ok(())).boxed();
        self.ours.install(meta, staged, barrier).await.unwrap();
    }

    /// How many keys the group has on disk, of whatever generation, its pointer included.
    fn stored_keys(folder: &Path) -> usize {
        let db = rocksdb::DB::open_for_read_only(
            &rocksdb::Options::default(),
            folder.join("state"),
            false,
        );
        let db = db.unwrap();
        let of = |key: &[u8]| key.starts_with(&GROUP.0.to_be_bytes());
        let all = db.iterator(rocksdb::IteratorMode::Start);
        all.filter(|it| of(&it.as_ref().unwrap().0)).count()
    }
}

fn receive(state: &GroupState<Register>, blocks: &mut dyn Blocks) -> holdfast_raft::state::Staged {
    let mut staging = state.stage().unwrap();
    while let Some(block) = blocks.next_block().unwrap() {
        staging.write(&block).unwrap();
    }
    staging.finish(&blocks.trailer()).unwrap()
}

/// Small numbers that look random and are the same in each run of a seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

fn random_log(seed: u64, count: u64) -> Vec<StoredEntry> {
    let mut chance = Chance(seed);
    let mut one = |index| {
        let command = |chance: &mut Chance| match chance.below(8) {
            0 => Command::Pass,
            _ => Command::Add {
                id: chance.below(60),
                ballast: usize::try_from(chance.below(300)).unwrap(),
            },
        };
        let commands: Vec<Command> = (0..=chance.below(5))
            .map(|_| command(&mut chance))
            .collect();
        let (kind, payload) = match chance.below(20) {
            0 => (EntryKind::Blank, Bytes::new()),
            1 => (EntryKind::Membership, Bytes::from_static(b"members")),
            _ => (EntryKind::Normal, entry_of(&commands)),
        };
        StoredEntry {
            id: log_id(1 + index / 50, index),
            kind,
            payload,
        }
    };
    (0..count).map(&mut one).collect()
}

/// What a state is after each entry of a log.
async fn every_moment(log: &[StoredEntry]) -> BTreeMap<u64, Whole> {
    let place = Place::new();
    let mut moments = BTreeMap::new();
    for entry in log {
        place.apply(std::slice::from_ref(entry)).await;
        moments.insert(entry.id.index, place.whole());
    }
    moments
}

#[tokio::test]
async fn chunks_hold_back_and_restarts_show_in_no_digest() {
    for seed in 1..=3 {
        let log = random_log(seed, 200);
        let moments = every_moment(&log).await;
        let expected = moments.values().last().unwrap();

        let at_once = Place::new();
        at_once.apply(&log).await;
        assert!(at_once.whole() == *expected, "seed {seed}, at once");

        let mut chance = Chance(seed + 1_000);
        let mut place = Place::new();
        let mut rest = &log[..];
        while !rest.is_empty() {
            let chunk = usize::try_from(1 + chance.below(30))
                .unwrap()
                .min(rest.len());
            place.apply(&rest[..chunk]).await;
            rest = &rest[chunk..];
            if chance.below(3) == 0 {
                place.ours.close();
                place.other.close();
                let folder = image(place.folder.path());
                place = Place::at(folder);
            }
        }
        assert!(place.whole() == *expected, "seed {seed}, in chunks");
    }
}

#[tokio::test]
async fn after_a_crash_the_rows_are_those_of_the_log_up_to_the_pointer() {
    for seed in 11..=14 {
        let log = random_log(seed, 150);
        let moments = every_moment(&log).await;
        let mut chance = Chance(seed);
        let mut place = Place::new();
        let (mut next, mut crashes, mut lost) = (0, 0, 0);
        while next < log.len() {
            let chunk = usize::try_from(1 + chance.below(12)).unwrap();
            let end = (next + chunk).min(log.len());
            place.apply(&log[next..end]).await;
            next = end;
            match chance.below(6) {
                // What is held back is written out and flushed …
                0 => drop(place.snapshot().await),
                // … or only what had been written out before …
                1 | 2 => place.flush().await,
                // … or what its time had come for …
                4 if crashes % 3 == 0 => {
                    while place.ours.persisted().await.unwrap() < place.whole().1 {
                        place.flush().await;
                    }
                }
                3 if crashes < 12 => {
                    let folder = image(place.folder.path());
                    place = Place::at(folder);
                    crashes += 1;
                    let (rows, index, digest) = place.whole();
                    let found = (place.ours.applied().0.is_some()).then_some(index);
                    let expected = found.map(|index| moments[&index].clone());
                    let nothing = (Vec::new(), 0, 0);
                    let as_it_was = (rows, index, digest) == expected.unwrap_or(nothing);
                    assert!(
                        as_it_was,
                        "seed {seed}: other rows than those up to {index}"
                    );
                    let applied = found.map_or(0, |index| usize::try_from(index).unwrap() + 1);
                    lost += next - applied;
                    next = applied;
                }
                // … or neither.
                _ => {}
            }
        }
        assert!(
            crashes > 2 && lost > 0,
            "seed {seed} tests nothing: {crashes}, {lost}"
        );
        let expected = moments.values().last().unwrap();
        assert!(place.whole() == *expected, "seed {seed}, at the end");
    }
}

#[tokio::test]
async fn a_snapshot_is_of_one_moment_under_a_hammering_writer() {
    let place = Place::new();
    let ours = place.ours.clone();
    let stop = tokio_util::sync::CancellationToken::new();
    let stopped = stop.clone();
    let writer = tokio::spawn(async move {
        let mut index = 0;
        while !stopped.is_cancelled() {
            // One command an entry: the count says how many entries there were.
            let batch = (index..index + 7).map(|index| to_apply(entry(1, index)));
            ours.apply(batch.collect()).await.unwrap();
            index += 7;
        }
        index
    });
    let receiver = Place::new();
    let mut newest = None;
    for _ in 0..100 {
        let (meta, mut blocks) = place.snapshot().await;
        let Some(at) = meta.last.map(|id| id.index).filter(|at| Some(*at) > newest) else {
            continue;
        };
        receiver.take(meta, blocks.as_mut()).await;
        let (counted, written_at) = receiver.ours.look(|rows| (count(rows), last(rows)));
        assert_eq!((counted, written_at), (at + 1, at));
        assert_eq!(receiver.ours.digest().0, at);
        newest = Some(at);
    }
    stop.cancel();
    assert!(writer.await.unwrap() > newest.unwrap(), "it hammered on");
}

#[tokio::test]
async fn a_snapshot_misses_no_row_of_any_file() {
    let place = Place::new();
    let rows = (0..120).map(|index| StoredEntry {
        payload: entry_of(&[Command::Add {
            id: index,
            ballast: 10_000,
        }]),
        ..entry(1, index)
    });
    place.apply(&rows.collect::<Vec<_>>()).await;
    drop(place.snapshot().await); // one file with all kinds of rows
    let passes = StoredEntry {
        payload: entry_of(&[Command::Pass]),
        ..entry(1, 120)
    };
    place.apply(&[passes]).await;
    // A second file, with one kind alone: a search that begins elsewhere must not pass it by.
    let (meta, mut blocks) = place.snapshot().await;
    let (rows, ..) = place.whole();
    assert_eq!(place.ours.look(last), 120);
    let from = &rows[50].0;
    let scanned = place.ours.look(|rows| rows.scan(from, b"\xff", usize::MAX));
    assert!(
        scanned.unwrap() == rows[50..],
        "a scan over several kinds of rows"
    );
    let back = place
        .ours
        .look(|rows| rows.scan_back(b"", b"j", usize::MAX));
    assert!(
        back.unwrap()
            .into_iter()
            .rev()
            .eq(rows[..rows.len() - 1].iter().cloned())
    );

    let receiver = Place::new();
    receiver.take(meta, blocks.as_mut()).await;
    assert!(receiver.whole() == place.whole(), "a row is missing or old");
}

#[tokio::test]
async fn an_install_aborted_at_any_step_leaves_the_old_state_or_the_new_one() {
    let sender = Place::new();
    sender.apply(&random_log(5, 120)).await;
    let new = sender.whole();
    let (meta, mut blocks) = sender.snapshot().await;

    let receiver = Place::new();
    receiver.apply(&random_log(6, 30)).await;
    let old = receiver.whole();
    receiver.flush().await;
    drop(receiver.snapshot().await); // the old one is on disk

    let images = Arc::new(Mutex::new(Vec::new()));
    let (taken, folder) = (Arc::clone(&images), receiver.folder.path().to_owned());
    testing::on_step(receiver.folder.path(), move |step| {
        taken.lock().push((step, image(&folder)));
    });
    let staged = receive(&receiver.ours, blocks.as_mut());
    images
        .lock()
        .push(("staged", image(receiver.folder.path())));
    let barrier = std::future::ready(Ok(())).boxed();
    receiver.ours.install(meta, staged, barrier).await.unwrap();
    assert!(
        receiver.whole() == new,
        "what was installed is not what was sent"
    );

    let images = std::mem::take(&mut *images.lock());
    let steps: Vec<&str> = images.iter().map(|(step, _)| *step).collect();
    assert_eq!(
        steps,
        ["staged", "ingested", "pointed", "flushed", "dropped"]
    );
    for (step, folder) in images {
        let place = Place::at(folder);
        let found = place.whole();
        assert!(found == old || found == new, "at {step}: neither");
        if ["flushed", "dropped"].contains(&step) {
            assert!(found == new, "at {step} it is durable");
        }
        // It goes on from there, and nothing is left of what did not come to be.
        let next = log_id(9, found.1 + 1);
        let payload = entry_of(&[add(1)]);
        let kind = EntryKind::Normal;
        place
            .apply(&[StoredEntry {
                id: next,
                kind,
                payload,
            }])
            .await;
        let rows = place.whole().0.len();
        drop(place.snapshot().await);
        assert!(
            !place.folder.path().join("state-staging").exists(),
            "at {step}"
        );
        let keys = Place::stored_keys(image(place.folder.path()).path());
        assert_eq!(keys, rows + 1, "at {step}");
    }
}

#[tokio::test]
async fn two_snapshots_received_at_once_do_not_mix() {
    let (small, large) = (Place::new(), Place::new());
    small.apply(&random_log(8, 20)).await;
    large.apply(&random_log(9, 300)).await;
    let receiver = Place::new();
    let (old_meta, mut old) = large.snapshot().await;
    let (mut new_meta, mut new) = small.snapshot().await;
    // Both were begun before either was installed: a sender that gave up and tried again.
    let (first, second) = (
        receive(&receiver.ours, old.as_mut()),
        receive(&receiver.ours, new.as_mut()),
    );
    new_meta.last = Some(log_id(20, 1_000));
    for (meta, staged) in [(old_meta, first), (new_meta, second)] {
        let barrier = std::future::ready(Ok(())).boxed();
        receiver.ours.install(meta, staged, barrier).await.unwrap();
    }
    assert!(receiver.whole().0 == small.whole().0, "rows of both");
}

#[tokio::test]
async fn a_damaged_or_incomplete_snapshot_is_never_taken() {
    let sender = Place::new();
    sender.apply(&random_log(5, 50)).await;
    let (_, blocks) = sender.snapshot().await;
    let receiver = Place::new();

    let mut whole = blocks.restart();
    let mut block = whole.next_block().unwrap().unwrap();
    let mut rows = block.rows.to_vec();
    rows[20] ^= 1;
    block.rows = rows.into();
    let mut staging = receiver.ours.stage().unwrap();
    assert!(
        staging
            .write(&block)
            .unwrap_err()
            .to_string()
            .contains("checksum")
    );

    let mut whole = blocks.restart();
    let block = whole.next_block().unwrap().unwrap();
    assert!(whole.next_block().unwrap().is_none(), "it fits one block");
    let mut staging = receiver.ours.stage().unwrap();
    staging.write(&block).unwrap();
    assert!(
        staging
            .write(&block)
            .unwrap_err()
            .to_string()
            .contains("order")
    );
    let nothing = receiver.ours.stage().unwrap();
    assert!(
        nothing.finish(&whole.trailer()).is_err(),
        "all rows are missing"
    );
}
