//! The log store after a crash: what was acknowledged is there, or the node refuses to start and says what to do.
//!
//! A crash is an image of the folder, taken between two operations or inside a completion, then cut or damaged.
//! Not here: the state after a crash (`state`), three replicas (`groups`).
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use holdfast_raft::StorageFault;
use holdfast_raft::log::rocks::{OnFailure, RocksLog};
use holdfast_raft::log::{LogBackend, LogOp};
use holdfast_raft::types::{GroupId, LogId, NodeId, StoredEntry, Vote};
use rocksdb::DB;
use support::{entry, image, log_id};
use tempfile::TempDir;
use tokio::sync::oneshot;

const GROUP: GroupId = GroupId(1);
const OTHER: GroupId = GroupId(2);
const NODE: NodeId = NodeId(1);

fn vote(term: u64) -> Vote {
    Vote {
        term,
        node: NODE,
        committed: false,
    }
}

/// An error of the disk fails the test and not its process.
fn panicking() -> OnFailure {
    Arc::new(|fault| panic!("{fault}"))
}

fn open(folder: &Path) -> Result<Arc<RocksLog>, StorageFault> {
    RocksLog::open_with(folder, NODE, panicking())
}

/// Submits and waits until it is durable.
async fn put(log: &RocksLog, group: GroupId, op: LogOp) {
    let (done, told) = oneshot::channel();
    let done = Box::new(move |result: io::Result<()>| drop(done.send(result)));
    log.submit(group, op, done).await;
    told.await.unwrap().unwrap();
}

async fn append(log: &RocksLog, term: u64, range: std::ops::Range<u64>) {
    let entries = range.map(|index| entry(term, index)).collect();
    put(log, GROUP, LogOp::Append(entries)).await;
}

fn read_all(log: &RocksLog, group: GroupId) -> io::Result<Vec<StoredEntry>> {
    log.read(group, 0..u64::MAX, usize::MAX)
}

/// The newest file of the log's own log.
fn wal(folder: &Path) -> PathBuf {
    let files = fs::read_dir(folder.join("log")).unwrap();
    let names = files.map(|it| it.unwrap().path());
    let wals = names.filter(|it| it.extension().is_some_and(|it| it == "log"));
    wals.max().unwrap()
}

fn cut(folder: &Path, len: u64) {
    let file = fs::OpenOptions::new()
        .write(true)
        .open(wal(folder))
        .unwrap();
    file.set_len(len).unwrap();
}

fn flip(folder: &Path, at: usize) {
    let path = wal(folder);
    let mut bytes = fs::read(&path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

/// A log of ten entries, the first five acknowledged while the watermark was `early`, all ten at `late`.
struct Recorded {
    folder: TempDir,
    early: Vec<u8>,
    early_len: u64,
    late_len: u64,
}

impl Recorded {
    async fn new() -> Self {
        let live = tempfile::tempdir().unwrap();
        let log = open(live.path()).unwrap();
        append(&log, 1, 0..4).await;
        put(&log, GROUP, LogOp::Vote(vote(7))).await;
        log.hint_committed(GROUP, log_id(1, 4));
        append(&log, 1, 4..5).await;
        let early = fs::read(live.path().join("WATERMARK")).unwrap();
        let early_len = fs::metadata(wal(live.path())).unwrap().len();
        log.hint_committed(GROUP, log_id(1, 8));
        for index in 5..10 {
            append(&log, 1, index..index + 1).await;
        }
        let late_len = fs::metadata(wal(live.path())).unwrap().len();
        let folder = image(live.path());
        Self {
            folder,
            early,
            early_len,
            late_len,
        }
    }

    /// As if the process had ended between the sync of the fifth entry and that of the tenth.
    fn early(&self) -> TempDir {
        let copy = image(self.folder.path());
        fs::write(copy.path().join("WATERMARK"), &self.early).unwrap();
        copy
    }

    fn late(&self) -> TempDir {
        image(self.folder.path())
    }
}

/// What was acknowledged early is there, and nothing that was never written.
fn assert_whole(log: &RocksLog, at_least: usize) {
    let state = log.state(GROUP);
    let entries = read_all(log, GROUP).unwrap();
    assert!(entries.len() >= at_least, "{} entries", entries.len());
    for (found, index) in entries.iter().zip(0..) {
        assert_eq!(*found, entry(1, index));
    }
    assert_eq!(state.last, entries.last().map(|it| it.id));
    assert_eq!(state.vote, Some(vote(7)));
    assert!(state.committed <= state.last, "{state:?}");
    assert!(state.committed >= Some(log_id(1, 4)), "{state:?}");
}

fn assert_refused(refused: &StorageFault) {
    let said = refused.to_string();
    assert!(said.contains("replace"), "it says what to do: {said}");
}

#[tokio::test]
async fn a_torn_tail_that_nobody_was_told_of_is_cut_off() {
    let recorded = Recorded::new().await;
    let mut longest = 0;
    for len in (recorded.early_len..=recorded.late_len).step_by(5) {
        let folder = recorded.early();
        cut(folder.path(), len);
        let log = open(folder.path()).unwrap();
        assert_whole(&log, 5);
        let last = log.state(GROUP).last.unwrap().index;
        assert!(last >= longest, "a longer file holds no less");
        longest = last;
        // It goes on from there.
        append(&log, 1, last + 1..last + 2).await;
        log.close();
        drop(log);
        assert_whole(&open(folder.path()).unwrap(), 6);
    }
    assert!(longest >= 8);
}

#[tokio::test]
async fn a_log_shorter_than_its_watermark_is_refused_with_hf6001() {
    let recorded = Recorded::new().await;
    let early = (0..recorded.early_len).step_by(11);
    let late = (recorded.early_len..recorded.late_len).step_by(7);
    for (len, folder) in early
        .map(|len| (len, recorded.early()))
        .chain(late.map(|len| (len, recorded.late())))
        .chain([(recorded.late_len - 1, recorded.late())])
    {
        cut(folder.path(), len);
        for attempt in ["at once", "and ever after"] {
            let refused = open(folder.path()).err();
            let refused = refused.unwrap_or_else(|| panic!("opened, cut to {len}, {attempt}"));
            assert!(matches!(refused, StorageFault::LostLog { .. }), "{refused}");
            assert!(refused.to_string().contains("HF6001"), "{refused}");
            assert_refused(&refused);
        }
    }
}

#[tokio::test]
async fn a_flipped_byte_is_found_or_provably_harmless() {
    let recorded = Recorded::new().await;
    for at in (0..recorded.late_len).step_by(5) {
        for (folder, acknowledged) in [(recorded.early(), 5), (recorded.late(), 10)] {
            flip(folder.path(), usize::try_from(at).unwrap());
            match open(folder.path()) {
                Ok(log) => assert_whole(&log, acknowledged),
                Err(refused) => {
                    assert!(
                        acknowledged == 10 || at < recorded.early_len,
                        "byte {at} was told to nobody: {refused}"
                    );
                    assert_refused(&refused);
                }
            }
        }
    }
}

/// The entries of a first life in a table, those of a second in the write-ahead log.
async fn two_lives() -> TempDir {
    let live = tempfile::tempdir().unwrap();
    let log = open(live.path()).unwrap();
    put(&log, GROUP, LogOp::Vote(vote(7))).await;
    append(&log, 1, 0..4).await;
    log.hint_committed(GROUP, log_id(1, 4));
    append(&log, 1, 4..5).await;
    drop(log);
    let log = open(live.path()).unwrap();
    append(&log, 1, 5..10).await;
    image(live.path())
}

/// The newest file of the log's store whose name begins, or ends, like this.
fn file_of(folder: &Path, part: &str) -> PathBuf {
    let files = fs::read_dir(folder.join("log")).unwrap();
    let names = files.map(|it| it.unwrap().path());
    let ours = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with(part) || name.ends_with(part)
    };
    names.filter(ours).max().unwrap()
}

#[tokio::test]
async fn a_cut_list_of_tables_never_loses_entries_or_a_vote() {
    let folder = two_lives().await;
    let manifest = file_of(folder.path(), "MANIFEST-");
    let name = manifest.file_name().unwrap();
    let len = fs::metadata(&manifest).unwrap().len();
    let mut refused = 0;
    for len in 0..=len {
        let copy = image(folder.path());
        let path = copy.path().join("log").join(name);
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(len).unwrap();
        match open(copy.path()) {
            Ok(log) => assert_whole(&log, 10),
            Err(fault) => {
                assert_refused(&fault);
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "what the list forgets is missed");
}

#[tokio::test]
async fn a_damaged_block_is_damage_and_never_a_lock() {
    let folder = two_lives().await;
    let table = file_of(folder.path(), ".sst");
    let mut bytes = fs::read(&table).unwrap();
    bytes[20] ^= 1; // among the first rows, where the identity lies
    fs::write(table, bytes).unwrap();
    let refused = open(folder.path()).err().unwrap();
    assert!(
        !matches!(refused, StorageFault::NotOurs { .. }),
        "{refused}"
    );
    let said = refused.to_string();
    assert!(said.contains("checksum"), "{said}");
}

#[tokio::test]
async fn a_log_without_its_watermark_is_refused() {
    let recorded = Recorded::new().await;
    fs::remove_file(recorded.folder.path().join("WATERMARK")).unwrap();
    assert_refused(&open(recorded.folder.path()).err().unwrap());
}

#[tokio::test]
async fn a_watermark_without_its_log_is_refused_and_left_as_it_is() {
    let recorded = Recorded::new().await;
    let folder = recorded.folder.path();
    let mark = fs::read(folder.join("WATERMARK")).unwrap();
    for _ in 0..2 {
        fs::remove_dir_all(folder.join("log")).unwrap();
        let refused = open(folder).err().unwrap();
        assert!(matches!(refused, StorageFault::LostLog { .. }), "{refused}");
        assert_eq!(fs::read(folder.join("WATERMARK")).unwrap(), mark);
    }
}

#[tokio::test]
async fn a_first_start_that_was_cut_short_is_begun_again() {
    let live = tempfile::tempdir().unwrap();
    drop(open(live.path()).unwrap());
    // The watermark is made before the identity, and nothing was synced under it.
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("WATERMARK");
    fs::copy(live.path().join("WATERMARK"), mark).unwrap();
    let log = open(folder.path()).unwrap();
    append(&log, 1, 0..3).await;
}

#[tokio::test]
async fn another_nodes_folder_and_one_in_use_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).unwrap();
    let in_use = open(folder.path()).err().unwrap();
    assert!(matches!(in_use, StorageFault::NotOurs { .. }), "{in_use}");
    assert!(in_use.to_string().contains("another process"), "{in_use}");
    drop(log);
    let other = RocksLog::open_with(folder.path(), NodeId(2), panicking());
    let other = other.err().unwrap();
    assert!(matches!(other, StorageFault::NotOurs { .. }), "{other}");
    assert!(other.to_string().contains("node 1"), "{other}");
}

#[tokio::test]
async fn at_its_completion_an_operation_and_all_before_it_are_in_the_files() {
    let live = tempfile::tempdir().unwrap();
    let log = open(live.path()).unwrap();
    let mut told = Vec::new();
    for index in 0..20 {
        let op = match index % 4 {
            3 => LogOp::Vote(vote(index)),
            _ => LogOp::Append(vec![entry(1, index - index / 4)]),
        };
        let path = live.path().to_owned();
        let (done, seen) = oneshot::channel();
        // On the log-IO thread: nothing is written while the image is taken.
        let completed = move |result: io::Result<()>| {
            result.unwrap();
            drop(done.send(image(&path)));
        };
        // Not waited for one by one, so that batches form.
        log.submit(GROUP, op, Box::new(completed)).await;
        told.push((index, seen));
    }
    for (index, seen) in told {
        let crashed = seen.await.unwrap();
        let log = open(crashed.path()).unwrap();
        let appends = (0..=index).filter(|it| it % 4 != 3).count();
        assert!(
            read_all(&log, GROUP).unwrap().len() >= appends,
            "at {index}"
        );
        let votes = (0..=index).filter(|it| it % 4 == 3).max();
        assert!(
            log.state(GROUP).vote.map(|it| it.term) >= votes,
            "at {index}"
        );
    }
}

#[tokio::test]
async fn votes_reservation_and_committed_survive_and_committed_never_passes_the_log() {
    let live = tempfile::tempdir().unwrap();
    let log = open(live.path()).unwrap();
    put(&log, GROUP, LogOp::Vote(vote(3))).await;
    put(&log, OTHER, LogOp::Vote(vote(9))).await;
    let granted = Vote {
        committed: true,
        ..vote(4)
    };
    put(&log, GROUP, LogOp::Vote(granted)).await;
    log.set_reservation(Some(b"reserved".to_vec())).unwrap();
    append(&log, 1, 0..3).await;
    log.hint_committed(GROUP, log_id(1, 2));
    append(&log, 1, 3..4).await;
    log.hint_committed(GROUP, log_id(1, 99)); // of a leader that is further
    append(&log, 1, 4..5).await;

    let crashed = image(live.path());
    let again = open(crashed.path()).unwrap();
    assert_eq!(again.ident(), log.ident());
    assert_eq!(again.reservation().as_deref(), Some(&b"reserved"[..]));
    assert_eq!(again.state(GROUP).vote, Some(granted));
    assert_eq!(again.state(OTHER).vote, Some(vote(9)));
    assert_eq!(again.state(GROUP).committed, Some(log_id(1, 2)));
    assert_eq!(again.state(OTHER).last, None, "groups are apart");
}

#[tokio::test]
async fn an_index_written_again_is_read_in_its_new_form_after_a_crash() {
    let live = tempfile::tempdir().unwrap();
    let log = open(live.path()).unwrap();
    append(&log, 1, 0..10).await;
    // In one batch, so that their order inside it counts.
    let truncate = log.submit(GROUP, LogOp::Truncate(Some(log_id(1, 3))), Box::new(drop));
    truncate.await;
    append(&log, 2, 4..7).await;
    let crashed = image(live.path());
    let again = open(crashed.path()).unwrap();
    let terms: Vec<u64> = read_all(&again, GROUP)
        .unwrap()
        .iter()
        .map(|it| it.id.term)
        .collect();
    assert_eq!(terms, [1, 1, 1, 1, 2, 2, 2]);
    assert_eq!(again.state(GROUP).last, Some(log_id(2, 6)));
}

#[tokio::test]
async fn a_purged_log_begins_after_its_mark_and_a_lost_purge_only_makes_it_longer() {
    let live = tempfile::tempdir().unwrap();
    let log = open(live.path()).unwrap();
    append(&log, 1, 0..20).await;
    put(&log, GROUP, LogOp::Purge(log_id(1, 9))).await;
    let longer = image(live.path());
    append(&log, 1, 20..21).await;
    let purged = image(live.path());

    let longer = open(longer.path()).unwrap();
    let first = read_all(&longer, GROUP).unwrap()[0].id.index;
    let mark = longer.state(GROUP).purged.map(|it| it.index);
    assert_eq!(first, mark.map_or(0, |it| it + 1));
    let purged = open(purged.path()).unwrap();
    assert_eq!(purged.state(GROUP).purged, Some(log_id(1, 9)));
    assert_eq!(read_all(&purged, GROUP).unwrap()[0].id.index, 10);
    assert_eq!(purged.state(GROUP).last, Some(log_id(1, 20)));
}

#[tokio::test]
async fn a_log_replaced_by_a_snapshot_begins_after_it() {
    let live = tempfile::tempdir().unwrap();
    let log = open(live.path()).unwrap();
    append(&log, 1, 0..5).await;
    let beyond = LogId {
        term: 3,
        ..log_id(3, 99)
    };
    put(&log, GROUP, LogOp::Purge(beyond)).await;
    append(&log, 3, 100..103).await;
    let crashed = image(live.path());
    let again = open(crashed.path()).unwrap();
    let state = again.state(GROUP);
    assert_eq!((state.purged, state.first), (Some(beyond), 100));
    assert_eq!(read_all(&again, GROUP).unwrap().len(), 3);
}

/// Holds the log-IO thread inside a completion until the sender is dropped.
async fn hold_the_thread(log: &RocksLog) -> std::sync::mpsc::Sender<()> {
    let (release, held) = std::sync::mpsc::channel();
    let (inside, reached) = oneshot::channel();
    let done = Box::new(move |_: io::Result<()>| {
        let _ = inside.send(());
        let _ = held.recv(); // ends with its sender
    });
    log.submit(GROUP, LogOp::Barrier, done).await;
    reached.await.unwrap();
    release
}

fn heavy(term: u64, index: u64, bytes: usize) -> StoredEntry {
    StoredEntry {
        payload: vec![7; bytes].into(),
        ..entry(term, index)
    }
}

#[tokio::test]
async fn a_hint_of_what_is_committed_counts_only_where_that_very_entry_stands() {
    let live = tempfile::tempdir().unwrap();
    let log = open(live.path()).unwrap();
    append(&log, 1, 0..5).await;
    let release = hold_the_thread(&log).await;
    // A batch of its own by its weight; an image is taken when it is on disk and what follows is not.
    let old: Vec<StoredEntry> = (5..10).map(|index| heavy(1, index, 1 << 20)).collect();
    let (done, taken) = oneshot::channel();
    let path = live.path().to_owned();
    let done = Box::new(move |_: io::Result<()>| drop(done.send(image(&path))));
    log.submit(GROUP, LogOp::Append(old), done).await;
    // Another leader's entries stand in their place by now, and it says that they are committed.
    let truncate = LogOp::Truncate(Some(log_id(1, 4)));
    log.submit(GROUP, truncate, Box::new(drop)).await;
    let new = (5..10).map(|index| entry(2, index)).collect();
    log.submit(GROUP, LogOp::Append(new), Box::new(drop)).await;
    log.hint_committed(GROUP, log_id(2, 9));
    drop(release);
    let crashed = taken.await.unwrap();
    let again = open(crashed.path()).unwrap();
    let state = again.state(GROUP);
    assert_eq!(
        state.last,
        Some(log_id(1, 9)),
        "the image is of that moment"
    );
    assert_eq!(state.committed, None, "{:?}", state.committed);
}

#[tokio::test]
async fn an_index_written_again_is_never_read_in_its_old_form() {
    let live = tempfile::tempdir().unwrap();
    let log = open(live.path()).unwrap();
    for index in 0..24 {
        let op = LogOp::Append(vec![heavy(1, index, 1 << 20)]);
        put(&log, GROUP, op).await;
    }
    assert!(
        !log.is_cached(GROUP, &(0..1)),
        "the oldest have left the memory"
    );
    let release = hold_the_thread(&log).await;
    log.submit(GROUP, LogOp::Truncate(Some(log_id(1, 19))), Box::new(drop))
        .await;
    let new = (20..23).map(|index| entry(2, index)).collect();
    log.submit(GROUP, LogOp::Append(new), Box::new(drop)).await;
    let mut next = 0;
    while next < 23 {
        let read = log.read(GROUP, next..99, usize::MAX).unwrap();
        assert!(!read.is_empty());
        for found in read {
            let term = if next < 20 { 1 } else { 2 };
            assert_eq!(found.id, log_id(term, next));
            next += 1;
        }
    }
    drop(release);
}

#[tokio::test]
async fn an_entry_gone_bad_on_disk_is_never_given_out() {
    let recorded = Recorded::new().await;
    let folder = recorded.folder.path();
    {
        let db = DB::open_default(folder.join("log")).unwrap();
        let mut key = vec![2];
        key.extend_from_slice(&GROUP.0.to_be_bytes());
        key.extend_from_slice(&4u64.to_be_bytes());
        let mut value = db.get(&key).unwrap().unwrap();
        *value.last_mut().unwrap() ^= 1;
        db.put(key, value).unwrap();
    }
    let log = open(folder).unwrap();
    assert_eq!(log.read(GROUP, 0..4, usize::MAX).unwrap().len(), 4);
    let bad = log.read(GROUP, 2..6, usize::MAX).unwrap_err().to_string();
    assert!(bad.contains("log entry 4 is damaged"), "{bad}");
    assert!(bad.contains("replace"), "{bad}");
}

/// The process whose disk is full: started by the test below, with a limit on the size of its files.
#[tokio::test]
#[ignore = "started by another test"]
async fn append_until_the_disk_is_full() {
    let folder = PathBuf::from(std::env::var_os("HOLDFAST_TEST_FOLDER").unwrap());
    let acks = folder.join("acks");
    let log = RocksLog::open(&folder, NODE).unwrap();
    for index in 0..10_000 {
        append(&log, 1, index..index + 1).await;
        fs::write(&acks, index.to_string()).unwrap();
    }
}

#[tokio::test]
async fn an_error_of_the_logs_disk_ends_the_process_before_any_acknowledgement() {
    let folder = tempfile::tempdir().unwrap();
    // Writes beyond the limit fail; the signal that would end the process for it is ignored.
    let script = "trap '' XFSZ; ulimit -c 0; ulimit -f 256; exec \"$@\"";
    let mut child = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "append_until_the_disk_is_full", "--ignored"])
        .env("HOLDFAST_TEST_FOLDER", folder.path())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    let ended = loop {
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
        if began.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("a process whose log cannot be written went on");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(!ended.success(), "{ended}");
    let signal = std::os::unix::process::ExitStatusExt::signal(&ended);
    assert_eq!(signal, Some(6), "it aborts: {ended}");
    let acked: u64 = fs::read_to_string(folder.path().join("acks"))
        .unwrap()
        .parse()
        .unwrap();
    let log = open(folder.path()).unwrap();
    let last = log.state(GROUP).last.unwrap().index;
    assert!(last >= acked, "{acked} was acknowledged, {last} is there");
    assert!(log.durable(GROUP, last).now_or_never().unwrap().is_ok());
}
