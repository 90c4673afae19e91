//! Retries: when to try again, and when to give up.
//!
//! Jitter is a hash of run, intent and attempt, so that every replica computes the same moment.

use twox_hash::XxHash3_64;

use crate::{
    entry::{GiveUp, RetryPolicy},
    ids::{IntentNo, RunId},
    time::Millis,
};

/// However short a policy's span is, it is not given up before this many attempts.
const ATTEMPTS_BEFORE_GIVING_UP_MIN: u32 = 3;

impl Default for RetryPolicy {
    /// The contract's defaults (§6): 200 ms doubling up to 60 s, no attempt limit, 24 h, then pause.
    fn default() -> Self {
        Self {
            initial: Millis(200),
            factor_percent: 200,
            cap: Millis::from_secs(60),
            max_attempts: None,
            give_up_after: Millis::from_secs(24 * 3600),
            give_up: GiveUp::Pause,
        }
    }
}

/// What follows a charged failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Try again after this long.
    Again(Millis),
    /// The policy is used up.
    UsedUp(GiveUp),
}

impl RetryPolicy {
    /// What follows the `failures`-th charged failure of a step that has been tried and backed off for `spent`.
    ///
    /// `asked` is the delay that the callee asked for; it replaces the policy's delay.
    pub fn verdict(
        &self,
        run: &RunId,
        intent: IntentNo,
        failures: u32,
        spent: Millis,
        asked: Option<Millis>,
    ) -> Verdict {
        let attempts_used_up = self.max_attempts.is_some_and(|max| failures >= max);
        let time_used_up = spent >= self.give_up_after && failures >= ATTEMPTS_BEFORE_GIVING_UP_MIN;
        if attempts_used_up || time_used_up {
            return Verdict::UsedUp(self.give_up);
        }
        Verdict::Again(asked.unwrap_or_else(|| self.jittered(run, intent, failures)))
    }

    /// The delay before full jitter: `initial` times the factor per failure after the first, at most `cap`.
    fn ceiling(&self, failures: u32) -> Millis {
        let mut delay = self.initial.0;
        for _ in 1..failures.min(64) {
            delay = delay.saturating_mul(u64::from(self.factor_percent)) / 100;
            if delay >= self.cap.0 {
                break;
            }
        }
        Millis(delay.min(self.cap.0))
    }

    fn jittered(&self, run: &RunId, intent: IntentNo, failures: u32) -> Millis {
        let ceiling = self.ceiling(failures).0;
        let seed = u64::from(intent.0) << 32 | u64::from(failures);
        let hash = XxHash3_64::oneshot_with_seed(seed, run.as_str().as_bytes());
        Millis(if ceiling == 0 { 0 } else { 1 + hash % ceiling })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> RunId {
        RunId::from_stored("order-1")
    }

    #[test]
    fn delays_double_up_to_the_cap() {
        let policy = RetryPolicy::default();
        let ceilings: Vec<u64> = (1..=10).map(|n| policy.ceiling(n).0).collect();
        assert_eq!(
            ceilings,
            [200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000]
        );
    }

    #[test]
    fn jitter_lies_within_the_ceiling_and_differs_between_runs() {
        let policy = RetryPolicy::default();
        let delay = |id: &str| policy.jittered(&RunId::from_stored(id), IntentNo(0), 8).0;
        assert!((1..=25600).contains(&delay("a")));
        assert_ne!(delay("a"), delay("b"));
        assert_eq!(delay("a"), delay("a"));
    }

    #[test]
    fn a_policy_gives_up_after_its_attempts_or_its_time_but_never_before_three_attempts() {
        let day = Millis::from_secs(24 * 3600);
        let policy = RetryPolicy::default();
        let verdict = |failures, spent| policy.verdict(&run(), IntentNo(0), failures, spent, None);
        assert!(matches!(verdict(2, day), Verdict::Again(_)));
        assert_eq!(verdict(3, day), Verdict::UsedUp(GiveUp::Pause));
        assert!(matches!(verdict(1000, Millis(1)), Verdict::Again(_)));
        let few = RetryPolicy {
            max_attempts: Some(2),
            ..policy.clone()
        };
        let last = few.verdict(&run(), IntentNo(0), 2, Millis(1), None);
        assert_eq!(last, Verdict::UsedUp(GiveUp::Pause));
    }

    #[test]
    fn a_delay_that_the_callee_asks_for_replaces_the_policys() {
        let asked = Some(Millis(7777));
        let verdict = RetryPolicy::default().verdict(&run(), IntentNo(0), 1, Millis(0), asked);
        assert_eq!(verdict, Verdict::Again(Millis(7777)));
    }

    #[test]
    fn no_policy_makes_the_arithmetic_overflow() {
        let policy = RetryPolicy {
            initial: Millis(u64::MAX),
            factor_percent: u32::MAX,
            cap: Millis(u64::MAX),
            ..RetryPolicy::default()
        };
        assert!(policy.ceiling(u32::MAX).0 > 0);
    }
}
