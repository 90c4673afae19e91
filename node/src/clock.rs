//! Time and chance for real: their only readers. And the group clock, which is what rows believe in.
//!
//! Invariant: within an epoch the group clock is an anchor plus monotonic time, slewed by at most 10 ms a second, so a wall
//! clock that jumps moves nothing; it never goes back and never stands still.
//! Not here: who leads (`leader`), what falls due (`scheduler`).

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;

use holdfast_raft::{
    Clock, Entropy, Stamp,
    seeded::{Bug, armed},
};
use holdfast_scheduler::time::Timestamp;

/// The clocks of this machine.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
    ahead: Duration,
}

impl SystemClock {
    /// `ahead` moves the wall clock, for tests of long waits.
    pub fn new(ahead: Duration) -> Self {
        Self {
            start: Instant::now(),
            ahead,
        }
    }
}

fn ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl Clock for SystemClock {
    fn wall_ms(&self) -> u64 {
        // Before 1970 only if the clock was never set; the median of the others then decides.
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        ms(wall.saturating_add(self.ahead))
    }
    fn mono_ms(&self) -> u64 {
        ms(self.start.elapsed())
    }
}

/// Chance from the system.
#[derive(Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn bytes16(&self) -> [u8; 16] {
        uuid::Uuid::new_v4().into_bytes()
    }
}

/// The most that the group clock is slewed: 10 ms a second.
const SLEW_PER_SECOND_MS: i64 = 10;

/// One group's clock on the node that acts for it.
pub struct GroupClock {
    clock: Arc<dyn Clock>,
    leading: Mutex<Option<Leading>>,
}

/// The clock of an epoch.
#[derive(Debug, Clone, Copy)]
struct Leading {
    epoch: u64,
    base_ms: u64,
    base_mono_ms: u64,
    /// What is still to be made up for, positive when the group clock is behind the median.
    behind_ms: i64,
}

impl Leading {
    /// The time of the rows as a leader reads it.
    fn read(&self, clock: &dyn Clock) -> u64 {
        if armed(Bug::TimerOnLocalClock) {
            return clock.wall_ms();
        }
        self.now(clock.mono_ms())
    }

    fn now(&self, mono_ms: u64) -> u64 {
        let elapsed = mono_ms.saturating_sub(self.base_mono_ms);
        let elapsed_signed = i64::try_from(elapsed).unwrap_or(i64::MAX);
        let most = elapsed_signed.saturating_mul(SLEW_PER_SECOND_MS) / 1000;
        let slew = self.behind_ms.clamp(-most, most);
        (self.base_ms.saturating_add(elapsed)).saturating_add_signed(slew)
    }
}

impl GroupClock {
    /// Not leading: no entry of this node carries a time.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            leading: Mutex::new(None),
        }
    }

    /// This node's own `BecomeLeader` was applied at `epoch`; the group clock stands at `now`.
    pub fn lead(&self, epoch: u64, now: Timestamp) {
        let base_mono_ms = self.clock.mono_ms();
        *self.leading.lock() = Some(Leading {
            epoch,
            base_ms: now.0,
            base_mono_ms,
            behind_ms: 0,
        });
    }

    /// Another leads: from here on entries of this node carry asks only and no time.
    pub fn follow(&self) {
        *self.leading.lock() = None;
    }

    /// The epoch under which this node acts, if it does.
    pub fn epoch(&self) -> Option<u64> {
        self.leading.lock().map(|leading| leading.epoch)
    }

    /// The group clock, if this node acts for the group.
    pub fn now(&self) -> Option<Timestamp> {
        let leading = *self.leading.lock();
        leading.map(|leading| Timestamp(leading.read(&*self.clock)))
    }

    /// Begins to move toward the median of the nodes' wall clocks. Returns how far the group clock is ahead of it.
    pub fn slew_toward(&self, median_ms: u64) -> i64 {
        let mut leading = self.leading.lock();
        let Some(leading) = leading.as_mut() else {
            return 0;
        };
        let mono = self.clock.mono_ms();
        leading.base_ms = leading.now(mono);
        leading.base_mono_ms = mono;
        leading.behind_ms = difference(median_ms, leading.base_ms);
        -leading.behind_ms
    }
}

fn difference(one: u64, other: u64) -> i64 {
    let apart = i128::from(one) - i128::from(other);
    i64::try_from(apart).unwrap_or(if apart > 0 { i64::MAX } else { i64::MIN })
}

impl Stamp for GroupClock {
    fn stamp(&self) -> (u64, u64) {
        let leading = *self.leading.lock();
        leading.map_or((0, 0), |leading| {
            (leading.epoch, leading.read(&*self.clock))
        })
    }
}

/// The median of this node's wall clock and of what is known of the others' (their offsets to ours, in milliseconds).
/// Of an even number the lower middle one: a clock that runs ahead is not followed by half of the nodes alone.
pub fn median_wall_ms(own_ms: u64, offsets_ms: impl IntoIterator<Item = i64>) -> u64 {
    let mut clocks: Vec<u64> = offsets_ms
        .into_iter()
        .map(|offset| own_ms.saturating_add_signed(offset))
        .collect();
    clocks.push(own_ms);
    clocks.sort_unstable();
    clocks[(clocks.len() - 1) / 2]
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[derive(Default)]
    struct Hand(AtomicU64);
    impl Clock for Hand {
        fn wall_ms(&self) -> u64 {
            1_000_000
        }
        fn mono_ms(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn a_follower_stamps_no_time() {
        let clock = GroupClock::new(Arc::new(Hand::default()));
        assert_eq!(clock.stamp(), (0, 0));
        clock.lead(9, Timestamp(500));
        assert_eq!(clock.stamp(), (9, 500));
        clock.follow();
        assert_eq!(clock.stamp(), (0, 0));
    }

    #[test]
    fn the_group_clock_is_slewed_by_ten_milliseconds_a_second_and_never_goes_back() {
        let hand = Arc::new(Hand::default());
        let clock = GroupClock::new(Arc::clone(&hand) as Arc<dyn Clock>);
        clock.lead(1, Timestamp(1_000_000));
        assert_eq!(clock.slew_toward(2_000_000), -1_000_000);
        hand.0.store(1_000, Ordering::Relaxed);
        assert_eq!(clock.now(), Some(Timestamp(1_001_010)));
        clock.slew_toward(0);
        let mut last = clock.now().unwrap();
        for mono in 1_001..3_000 {
            hand.0.store(mono, Ordering::Relaxed);
            let now = clock.now().unwrap();
            assert!(now >= last);
            last = now;
        }
        assert_eq!(last, Timestamp(1_001_010 + 1_999 - 19));
    }

    #[test]
    fn slewing_ends_at_the_median() {
        let hand = Arc::new(Hand::default());
        let clock = GroupClock::new(Arc::clone(&hand) as Arc<dyn Clock>);
        clock.lead(1, Timestamp(1_000));
        clock.slew_toward(1_005);
        hand.0.store(10_000, Ordering::Relaxed);
        assert_eq!(clock.now(), Some(Timestamp(11_005)));
    }

    #[test]
    fn one_wrong_clock_of_three_moves_no_median() {
        assert_eq!(median_wall_ms(1_000, [3 * 86_400_000, 2]), 1_002);
        assert_eq!(median_wall_ms(1_000, [-900, 2]), 1_000);
        assert_eq!(median_wall_ms(1_000, []), 1_000);
    }
}
