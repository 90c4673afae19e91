//! Any bytes as a record of the log's or the state's store: read or refused; what was read is written as it was.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| holdfast_raft::fuzzing::stored_record(data));
