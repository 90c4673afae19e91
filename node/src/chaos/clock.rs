//! A clock that a test moves while the node runs: feature `chaos` alone.
//!
//! The control file has lines `wall_offset_ms=-3600000` and `mono_rate=1.5`; it is read again and again, and what it does not
//! say is 0 and 1. Invariant: monotonic time never goes back, however its rate changes. What waits by tokio's own time (beats
//! of consensus, connections) is not moved: only what asks the node's clock. Not here: the real clocks (`clock`).

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;

use holdfast_raft::Clock;

/// How often the file is read.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The clocks of the machine, moved.
pub struct ChaosClock {
    real: Arc<dyn Clock>,
    moved: Mutex<Moved>,
}

/// How they are moved, and where monotonic time stood when that began.
#[derive(Debug, Clone, Copy)]
struct Moved {
    wall_offset_ms: i64,
    mono_rate: f64,
    real_base_ms: u64,
    base_ms: u64,
}

impl Moved {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "spans of a test run, and rates from 0 to 100"
    )]
    fn mono_ms(&self, real_ms: u64) -> u64 {
        let elapsed = real_ms.saturating_sub(self.real_base_ms);
        self.base_ms + (elapsed as f64 * self.mono_rate) as u64
    }
}

impl ChaosClock {
    /// Follows the control file, on a thread of its own that lives as long as the process.
    ///
    /// # Errors
    /// The system gave no thread.
    pub fn follow(real: Arc<dyn Clock>, file: &Path) -> std::io::Result<Arc<Self>> {
        let clock = Arc::new(Self::new(real));
        clock.read(file);
        let (followed, file): (_, PathBuf) = (Arc::clone(&clock), file.to_owned());
        std::thread::Builder::new()
            .name("chaos-clock".to_owned())
            .spawn(move || {
                loop {
                    std::thread::sleep(LOOK_EVERY);
                    followed.read(&file);
                }
            })?;
        Ok(clock)
    }

    fn new(real: Arc<dyn Clock>) -> Self {
        let now = real.mono_ms();
        let moved = Moved {
            wall_offset_ms: 0,
            mono_rate: 1.0,
            real_base_ms: now,
            base_ms: now,
        };
        Self {
            real,
            moved: Mutex::new(moved),
        }
    }

    fn read(&self, file: &Path) {
        if let Ok(text) = std::fs::read_to_string(file) {
            self.set(&text);
        }
    }

    fn set(&self, text: &str) {
        let value = |name: &str| {
            let mut pairs = text.lines().filter_map(|line| line.split_once('='));
            let found = pairs.find(|(key, _)| key.trim() == name);
            found.map(|(_, value)| value.trim())
        };
        let offset = value("wall_offset_ms").map_or(Ok(0), str::parse::<i64>);
        let rate = value("mono_rate").map_or(Ok(1.0), str::parse::<f64>);
        let (Ok(wall_offset_ms), Ok(mono_rate)) = (offset, rate) else {
            return; // half written: it is read again in a moment
        };
        let mono_rate = mono_rate.clamp(0.0, 100.0);
        let mut moved = self.moved.lock();
        let same_rate = (moved.mono_rate - mono_rate).abs() < f64::EPSILON;
        if moved.wall_offset_ms == wall_offset_ms && same_rate {
            return;
        }
        tracing::warn!(wall_offset_ms, mono_rate, "this node's clock is moved");
        let real = self.real.mono_ms();
        *moved = Moved {
            wall_offset_ms,
            mono_rate,
            real_base_ms: real,
            base_ms: moved.mono_ms(real),
        };
    }
}

impl Clock for ChaosClock {
    fn wall_ms(&self) -> u64 {
        let offset = self.moved.lock().wall_offset_ms;
        self.real.wall_ms().saturating_add_signed(offset)
    }

    fn mono_ms(&self) -> u64 {
        // Read under the lock: else a change in between could take time back.
        let moved = self.moved.lock();
        moved.mono_ms(self.real.mono_ms())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[derive(Default)]
    struct Hand(AtomicU64);
    impl Clock for Hand {
        fn wall_ms(&self) -> u64 {
            1_000_000 + self.mono_ms()
        }
        fn mono_ms(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn wall_time_jumps_and_monotonic_time_changes_its_rate_without_going_back() {
        let hand = Arc::new(Hand::default());
        let clock = ChaosClock::new(Arc::clone(&hand) as Arc<dyn Clock>);
        let at = |ms| hand.0.store(ms, Ordering::Relaxed);
        at(1_000);
        assert_eq!((clock.wall_ms(), clock.mono_ms()), (1_001_000, 1_000));
        clock.set("wall_offset_ms=-500\nmono_rate = 2.0\n");
        assert_eq!((clock.wall_ms(), clock.mono_ms()), (1_000_500, 1_000));
        at(2_000);
        assert_eq!(clock.mono_ms(), 3_000);
        clock.set("mono_rate=0.5");
        assert_eq!((clock.wall_ms(), clock.mono_ms()), (1_002_000, 3_000));
        at(3_000);
        assert_eq!(clock.mono_ms(), 3_500);
        clock.set("mono_rate=fa");
        assert_eq!(clock.mono_ms(), 3_500);
        clock.set("");
        at(3_100);
        assert_eq!(clock.mono_ms(), 3_600);
    }
}
