//! Any bytes as one command inside a batch: a command or a fault, and a command comes back from its bytes.

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
    let commands: Vec<_> = commands.iter().map(log::encode_command).collect();
    let bytes = log::encode_batch(entry.level, *epoch, *proposed_at, &commands);
    assert_eq!(
        log::decode(bytes.clone()).expect("what was written can be read"),
        entry
    );
});
