//! Any two keys: each is a key or a fault, is written as it was read, and both sort as their bytes do.
//!
//! The first byte says how long the first one is.

#![no_main]

use holdfast_proto::domain::keys;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((len, rest)) = data.split_first() else {
        return;
    };
    let (one, other) = rest.split_at(usize::from(*len).min(rest.len()));
    let (Ok(one), Ok(other)) = (keys::decode(one), keys::decode(other)) else {
        return;
    };
    let (a, b) = (keys::encode(&one), keys::encode(&other));
    assert_eq!(keys::decode(&a).as_ref(), Ok(&one));
    assert_eq!(keys::decode(&b).as_ref(), Ok(&other));
    assert_eq!(a.cmp(&b), one.cmp(&other), "{one:?} {other:?}");
});
