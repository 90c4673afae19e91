//! Any bytes as a log entry: an entry or a fault; what was read can be written, and reads the same.

#![no_main]

use bytes::Bytes;
use holdfast_proto::domain::log;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(entry) = log::decode(Bytes::copy_from_slice(data)) {
        let again = log::decode(log::encode(&entry)).expect("what was written can be read");
        assert_eq!(again, entry);
    }
});
