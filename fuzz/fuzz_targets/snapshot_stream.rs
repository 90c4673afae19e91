//! Any bytes as the stream of a snapshot: staged whole as its trailer says, or refused.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| holdfast_raft::fuzzing::snapshot_stream(data));
