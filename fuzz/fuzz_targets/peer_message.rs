//! Any bytes as a message of a peer: understood or refused; what was understood is sent on with every field.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| holdfast_raft::fuzzing::peer_message(data));
