//! What RocksDB made of our options, as it writes them down itself: a default that changes, or a setter that does nothing, shows.
//!
//! Not in that file, and so not here: options of single writes, the thread pools, the rate limiter, the cache.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use holdfast_raft::log::rocks::RocksLog;
use holdfast_raft::state::{GroupState, StateDb};
use holdfast_raft::types::{GroupId, NodeId};
use support::{Register, entry, to_apply};
use uuid::Uuid;

/// The newest OPTIONS file of an instance: every `name=value` of its sections.
fn written_options(folder: &Path) -> BTreeMap<String, String> {
    let files = fs::read_dir(folder).unwrap().map(|it| it.unwrap().path());
    let named = |path: &std::path::PathBuf| {
        path.file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"OPTIONS-"))
    };
    let newest = files
        .filter(named)
        .max()
        .expect("RocksDB writes its options");
    let text = fs::read_to_string(newest).unwrap();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .collect()
}

fn assert_options(folder: &Path, expected: &[(&str, &str)]) {
    let found = written_options(folder);
    let wrong: Vec<_> = expected
        .iter()
        .map(|(name, value)| (*name, *value, found.get(*name).map_or("absent", |it| it)))
        .filter(|(_, value, found)| value != found)
        .collect();
    assert!(wrong.is_empty(), "(name, wanted, found): {wrong:?}");
}

/// Of both instances.
const BOTH: [(&str, &str); 4] = [
    ("enable_pipelined_write", "false"),
    ("unordered_write", "false"),
    ("atomic_flush", "false"),
    ("paranoid_checks", "true"),
];

#[test]
fn the_log_never_stalls_a_vote_and_never_loses_a_synced_record_silently() {
    let folder = tempfile::tempdir().unwrap();
    let log = RocksLog::open(folder.path(), NodeId(1)).unwrap();
    let log_folder = folder.path().join("log");
    assert_options(&log_folder, &BOTH);
    assert_options(
        &log_folder,
        &[
            ("manual_wal_flush", "true"),
            ("wal_recovery_mode", "kPointInTimeRecovery"),
            ("track_and_verify_wals_in_manifest", "true"),
            ("wal_bytes_per_sync", "0"),
            ("recycle_log_file_num", "0"),
            ("write_buffer_size", "67108864"),
            ("max_write_buffer_number", "6"),
            ("max_total_wal_size", "536870912"),
            ("level0_slowdown_writes_trigger", "1048576"),
            ("level0_stop_writes_trigger", "1048576"),
            ("soft_pending_compaction_bytes_limit", "1125899906842624"),
            ("hard_pending_compaction_bytes_limit", "1125899906842624"),
            // Never FIFO and never by age: both would drop entries that are not purged, and votes.
            ("compaction_style", "kCompactionStyleLevel"),
            ("ttl", "2592000"),
            (
                "compression_per_level",
                "kNoCompression:kNoCompression:kLZ4Compression:kLZ4Compression:kLZ4Compression:kLZ4Compression:kLZ4Compression",
            ),
            ("filter_policy", "nullptr"),
            ("prefix_extractor", "rocksdb.FixedPrefix.5"),
            ("max_open_files", "256"),
        ],
    );
    drop(log);
}

#[tokio::test]
async fn the_state_has_no_wal_and_its_filters_know_kinds_of_rows() {
    let folder = tempfile::tempdir().unwrap();
    let db = StateDb::open(folder.path(), NodeId(1), Uuid::from_u128(1)).unwrap();
    let state_folder = folder.path().join("state");
    assert_options(&state_folder, &BOTH);
    assert_options(
        &state_folder,
        &[
            ("write_buffer_size", "67108864"),
            ("max_write_buffer_number", "4"),
            ("level_compaction_dynamic_level_bytes", "true"),
            ("compression", "kLZ4Compression"),
            ("index_type", "kTwoLevelIndexSearch"),
            ("partition_filters", "true"),
            ("cache_index_and_filter_blocks", "true"),
            ("filter_policy", "bloomfilter"),
            ("prefix_extractor", "rocksdb.FixedPrefix.9"),
            ("memtable_prefix_bloom_size_ratio", "0.100000"),
            ("bytes_per_sync", "1048576"),
            ("max_open_files", "512"),
        ],
    );

    let state = GroupState::open(&db, GroupId(1), Register::default()).unwrap();
    state.apply(vec![to_apply(entry(1, 0))]).await.unwrap();
    drop(state.snapshot().await.unwrap()); // written out and flushed
    state.apply(vec![to_apply(entry(1, 1))]).await.unwrap();
    state.close();
    let files = fs::read_dir(state_folder).unwrap().map(|it| it.unwrap());
    let wal_bytes: u64 = files
        .filter(|it| it.path().extension().is_some_and(|it| it == "log"))
        .map(|it| it.metadata().unwrap().len())
        .sum();
    assert_eq!(
        wal_bytes, 0,
        "rows are rebuilt from our log, never from a second one"
    );
}
