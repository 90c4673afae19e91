//! Any text as a settings file: settings or faults; settings that are written out read the same.

#![no_main]

use holdfast_node::settings::Settings;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match Settings::parse(text) {
        Ok(settings) => {
            let again = Settings::parse(&settings.dump()).expect("what was written can be read");
            assert!(
                settings.means(&again),
                "{}\n{}",
                settings.dump(),
                again.dump()
            );
        }
        Err(faults) => assert!(!faults.0.is_empty(), "a refusal says why"),
    }
});
