//! Any bytes as a message of a client or a worker: a command that can be stored, or a refusal with words.
//!
//! The first byte says which message.

#![no_main]

use holdfast_fuzz::as_message;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Some((which, bytes)) = data.split_first() {
        as_message(*which, bytes);
    }
});
