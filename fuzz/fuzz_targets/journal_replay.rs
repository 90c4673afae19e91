//! Any journal, and any news after it, against a function: it goes on, diverges or refuses, and never panics.

#![no_main]

// A function's own panic is caught by its driver; only one that is not ends the process.
libfuzzer_sys::fuzz_target!(
    init: {
        std::panic::set_hook(Box::new(|_| {}));
    },
    |data: &[u8]| {
        let replayed = std::panic::catch_unwind(|| holdfast::fuzzing::replay(data));
        if let Err(panic) = replayed {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            eprintln!("panicked: {}", text.unwrap_or("no text"));
            std::process::abort();
        }
    }
);
