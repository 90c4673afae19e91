//! Any bytes as one command inside a batch: a command or a fault, and its own account of its size holds.

#![no_main]

use holdfast_fuzz::batch_of;
use holdfast_proto::domain::log;
use holdfast_scheduler::entry::Body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(entry) = log::decode(batch_of(data)) else {
        return;
    };
    let Body::Batch {
        epoch,
        proposed_at,
        commands,
    } = &entry.body
    else {
        panic!("a batch was read as something else");
    };
    let bytes = log::encode_batch(entry.level, *epoch, *proposed_at, commands);
    assert_eq!(
        log::decode(bytes.clone()).expect("what was written can be read"),
        entry
    );
    let empty = log::encode_batch(entry.level, *epoch, *proposed_at, []);
    let counted: usize = commands.iter().map(log::command_bytes).sum();
    assert!(
        bytes.len() <= empty.len() + counted,
        "a command is larger than it says"
    );
});
