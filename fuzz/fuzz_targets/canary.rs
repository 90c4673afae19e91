//! Must fail: a batch is refused for one number alone. A fuzzer that does not find it is blind.

#![no_main]

use bytes::Bytes;
use holdfast_proto::domain::log;
use holdfast_scheduler::entry::Body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(entry) = log::decode(Bytes::copy_from_slice(data))
        && let Body::Batch { .. } = entry.body
    {
        assert_ne!(entry.level.0, 3, "the canary sings");
    }
});
