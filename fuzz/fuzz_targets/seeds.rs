//! No fuzzer: writes what the others begin with, and ends. It stands among them because all that is built here is linked alike.

#![no_main]

libfuzzer_sys::fuzz_target!(
    init: {
        holdfast_fuzz::seeds::write_all().expect("the corpus can be written");
        std::process::exit(0);
    },
    |_data: &[u8]| {}
);
