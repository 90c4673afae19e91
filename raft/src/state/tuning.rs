//! How RocksDB is set up for the states of a node.

use crate::error::StorageFault;
use crate::host::rocksdb::{
    self, BlockBasedOptions, Cache, DBCompressionType, Options, SliceTransform, WriteBufferManager,
};

use super::db::PREFIX_BYTES;

/// Blocks of all groups kept in memory.
const CACHE_BYTES: usize = 24 << 20;
/// Rows of all groups that wait for their flush: also what a restart after a kill replays at most.
const MEMTABLES_BYTES_MAX: usize = 256 << 20;
/// Flush and compaction together may write so much a second, so that the log's syncs are not starved.
const BACKGROUND_BYTES_PER_SECOND: i64 = 96 << 20;

/// Options of the instance; a test reads back what RocksDB makes of them.
fn options() -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&Cache::new_hyper_clock_cache(CACHE_BYTES, 0));
    blocks.set_bloom_filter(10.0, false);
    blocks.set_whole_key_filtering(true);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_partition_filters(true);
    blocks.set_index_type(rocksdb::BlockBasedIndexType::TwoLevelIndexSearch);
    let mut it = Options::default();
    it.create_if_missing(true);
    it.set_block_based_table_factory(&blocks);
    it.set_write_buffer_size(64 << 20);
    it.set_write_buffer_manager(&WriteBufferManager::new_write_buffer_manager(
        MEMTABLES_BYTES_MAX,
        false,
    ));
    it.set_max_write_buffer_number(4);
    it.set_level_compaction_dynamic_level_bytes(true);
    it.set_compression_type(DBCompressionType::Lz4);
    it.set_prefix_extractor(SliceTransform::create_fixed_prefix(PREFIX_BYTES));
    it.set_memtable_prefix_bloom_ratio(0.1);
    it.set_memtable_whole_key_filtering(true);
    it.set_ratelimiter(BACKGROUND_BYTES_PER_SECOND, 100_000, 10);
    it.set_bytes_per_sync(1 << 20);
    it.set_max_open_files(512);
    it.set_keep_log_file_num(4);
    it.set_max_log_file_size(4 << 20);
    it.set_max_background_jobs(2);
    it
}

/// Options with the threads behind them.
pub(super) fn tuned() -> Result<Options, StorageFault> {
    let mut options = options();
    set_threads(&mut options)?;
    Ok(options)
}

/// The pool of threads is shared by all instances of the process: flushes must not wait for compactions.
fn set_threads(options: &mut Options) -> Result<(), StorageFault> {
    let mut env =
        rocksdb::Env::new().map_err(|cause| StorageFault::io("starting RocksDB", cause))?;
    env.set_high_priority_background_threads(2);
    env.set_low_priority_background_threads(2);
    options.set_env(&env);
    Ok(())
}
