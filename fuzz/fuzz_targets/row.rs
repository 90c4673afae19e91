//! Any bytes as a row under any key: a row or a fault; what was read can be written, and reads the same.
//!
//! The first byte says how long the key is.

#![no_main]

use bytes::Bytes;
use holdfast_proto::domain::{keys, rows};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((len, rest)) = data.split_first() else {
        return;
    };
    let Some((key, row)) = rest.split_at_checked(usize::from(*len)) else {
        return;
    };
    let Ok(key) = keys::decode(key) else {
        return;
    };
    if let Ok(row) = rows::decode(&key, &Bytes::copy_from_slice(row)) {
        let again = rows::decode(&key, &rows::encode(&row)).expect("what was written can be read");
        assert_eq!(again, row);
    }
});
