//! What the crate counts, for tests that no other way shows what they look for.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use parking_lot::Mutex;

/// Counters of this process by name, all labels together.
#[derive(Default)]
struct Counted(Mutex<HashMap<String, Arc<AtomicU64>>>);

fn counted() -> &'static Counted {
    static COUNTED: OnceLock<Counted> = OnceLock::new();
    COUNTED.get_or_init(Counted::default)
}

/// Begins to count.
pub fn begin() {
    // Another test of this process may have begun already: it counts into the same place.
    drop(metrics::set_global_recorder(Shared));
}

/// What was counted under this name.
pub fn count(name: &str) -> u64 {
    let counters = counted().0.lock();
    counters
        .get(name)
        .map_or(0, |it| it.load(Ordering::Relaxed))
}

struct Shared;

impl Recorder for Shared {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let mut counters = counted().0.lock();
        Counter::from_arc(Arc::clone(
            counters.entry(key.name().to_owned()).or_default(),
        ))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
