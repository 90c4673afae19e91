//! Limits: a token bucket and a count of leases, on the group clock, in whole numbers.
//!
//! Invariant: over any span W no more than burst + rate × W admissions, whatever fails over or restarts, since the
//! bucket is a row and is taken from in `apply` alone. While reopening the rate only grows, so refilling an interval at
//! the rate of its beginning is never too much.

use crate::{
    entry::LimitSpec,
    seeded::{self, Bug},
    time::{Millis, Timestamp},
};

/// Tokens are counted in thousandths, so that slow rates lose nothing to rounding.
const MILLI: u64 = 1000;
/// A limit that was closed reopens in stages of this length.
const STAGE: Millis = Millis(5_000);
/// A declared limit reopens at this share of its rate.
const FIRST_STAGE_PERCENT: u64 = 25;
/// An undeclared limit reopens at one admission a second, doubling, and is open again after this long.
const UNDECLARED_REOPENS_FOR: Millis = Millis(60_000);

/// The bucket of one limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// As declared; none: nobody declared it, it exists because it was throttled.
    pub spec: Option<LimitSpec>,
    /// Thousandths of tokens in the bucket.
    pub tokens_milli: u64,
    /// Up to when the bucket has been refilled.
    pub refilled: Timestamp,
    /// Steps that hold a place: admitted and not over.
    pub held: u32,
    /// Closed before this moment; then it reopens in stages.
    pub closed_until: Option<Timestamp>,
    /// Steps that wait for it; derived from the runs by `index`.
    pub waiting: u32,
    /// Since when the first of them waits.
    pub oldest: Option<Timestamp>,
}

/// A rate: so many thousandths of a token per span.
#[derive(Debug, Clone, Copy)]
struct Flow {
    milli: u64,
    per: Millis,
}

impl Limit {
    /// A limit as declared, with a full bucket.
    pub fn declared(spec: LimitSpec, now: Timestamp) -> Self {
        Self {
            spec: Some(spec),
            tokens_milli: u64::from(spec.burst.max(1)) * MILLI,
            refilled: now,
            held: 0,
            closed_until: None,
            waiting: 0,
            oldest: None,
        }
    }

    /// A limit that a step names and nobody declared: open until throttled.
    pub fn undeclared(now: Timestamp) -> Self {
        Self {
            spec: None,
            tokens_milli: MILLI,
            refilled: now,
            held: 0,
            closed_until: None,
            waiting: 0,
            oldest: None,
        }
    }

    /// Whether an undeclared limit has nothing left to remember.
    pub fn is_forgettable(&self, now: Timestamp) -> bool {
        let idle = self.held == 0 && self.waiting == 0;
        self.spec.is_none() && idle && self.flow(now).is_none() && !self.is_closed(now)
    }

    /// Takes another declaration; what is held stays, the bucket never has more than the new burst. A closing stands, and
    /// nothing flows before its end.
    pub fn redeclare(&mut self, spec: LimitSpec, now: Timestamp) {
        self.refill(now);
        let first = self.spec.is_none() && self.stage(now).is_none();
        self.spec = Some(spec);
        let full = u64::from(spec.burst.max(1)) * MILLI;
        self.tokens_milli = if first {
            full
        } else {
            self.tokens_milli.min(full)
        };
        self.refilled = self.refilled.max(now);
    }

    /// Whether one more step may pass now.
    pub fn admits(&self, now: Timestamp) -> bool {
        if self.is_closed(now) || !self.has_place() {
            return false;
        }
        match self.flow(now) {
            None => true,
            Some(_) => self.tokens_at(now).0 >= MILLI,
        }
    }

    /// Takes a token and a place. Call only when `admits`.
    pub fn take(&mut self, now: Timestamp) {
        assert!(
            self.admits(now),
            "a limit was taken that does not admit at {now}: {self:?}"
        );
        if self.flow(now).is_some() {
            self.refill(now);
            self.tokens_milli -= MILLI;
        }
        self.held += 1;
    }

    /// Gives the place back; the token is spent.
    pub fn release(&mut self) {
        assert!(
            self.held > 0,
            "a place was given back that nobody held: {self:?}"
        );
        self.held -= 1;
    }

    /// The callee said to stop: nothing passes for `after`, then it reopens slowly. Never shortens an earlier closing.
    pub fn close(&mut self, now: Timestamp, after: Millis) {
        let until = now.after(after);
        self.closed_until = Some(
            self.closed_until
                .map_or(until, |earlier| earlier.max(until)),
        );
        self.tokens_milli = 0;
        self.refilled = self.closed_until.unwrap_or(until);
    }

    /// The earliest moment at which it may admit, as far as time alone decides; none: it waits for a place.
    pub fn next_admission(&self, now: Timestamp) -> Option<Timestamp> {
        if !self.has_place() {
            return None;
        }
        if self.admits(now) {
            return Some(now);
        }
        let from = self.closed_until.map_or(now, |until| until.max(now));
        let Some(flow) = self.flow(self.refilled.min(from)) else {
            return Some(from);
        };
        let lacking = MILLI.saturating_sub(self.tokens_milli);
        let wait = (lacking * flow.per.0).div_ceil(flow.milli);
        let filled = self.refilled.after(Millis(wait)).max(from);
        let at = match self.closed_until {
            Some(until) if !self.has_rate() => filled.min(until.after(self.reopens_for())),
            _ => filled,
        };
        Some(at.max(now.after(Millis(1))))
    }

    /// Percent of its rate that it admits at now; 0 while closed, 100 when fully open.
    pub fn open_percent(&self, now: Timestamp) -> u32 {
        if self.is_closed(now) {
            return 0;
        }
        match (self.spec, self.stage(now)) {
            (_, None) => 100,
            (Some(_), Some(stage)) => {
                u32::try_from((FIRST_STAGE_PERCENT << stage.min(2)).min(100)).unwrap_or(100)
            }
            (None, Some(stage)) => 1 << stage.min(6),
        }
    }

    /// Thousandths of tokens in the bucket now.
    pub fn available_milli(&self, now: Timestamp) -> u64 {
        self.tokens_at(now).0
    }

    /// As if nothing had ever been taken from it: what no restart and no new leader may do.
    pub(crate) fn fill(&mut self) {
        let burst = self.spec.map_or(1, |spec| spec.burst.max(1));
        (self.tokens_milli, self.closed_until) = (u64::from(burst) * MILLI, None);
    }

    fn is_closed(&self, now: Timestamp) -> bool {
        self.closed_until.is_some_and(|until| now < until)
    }

    fn has_place(&self) -> bool {
        if seeded::armed(Bug::ConcurrencyIgnored) {
            return true;
        }
        self.spec
            .and_then(|spec| spec.concurrency)
            .is_none_or(|most| self.held < most)
    }

    fn has_rate(&self) -> bool {
        self.spec.is_some_and(|spec| spec.rate.is_some())
    }

    fn reopens_for(&self) -> Millis {
        match self.spec {
            Some(_) => Millis(2 * STAGE.0),
            None => UNDECLARED_REOPENS_FOR,
        }
    }

    /// Which stage of reopening `at` lies in; none: never closed, or reopened for good.
    fn stage(&self, at: Timestamp) -> Option<u64> {
        let since = at.since(self.closed_until?);
        (since < self.reopens_for()).then_some(since.0 / STAGE.0)
    }

    /// How fast the bucket fills at `at`; none: no rate, everything passes.
    fn flow(&self, at: Timestamp) -> Option<Flow> {
        let stage = self.stage(at);
        match (self.spec, stage) {
            (Some(spec), stage) => {
                let Some((count, per)) = spec.rate else {
                    return self.reopening_without_rate(at);
                };
                let percent = stage.map_or(100, |n| (FIRST_STAGE_PERCENT << n.min(2)).min(100));
                let milli = u64::from(count.max(1)) * MILLI * percent / 100;
                Some(Flow {
                    milli: milli.max(1),
                    per: Millis(per.0.max(1)),
                })
            }
            (None, Some(n)) => Some(Flow {
                milli: MILLI << n.min(12),
                per: Millis(1000),
            }),
            (None, None) => None,
        }
    }

    /// A declared limit without a rate reopens as an undeclared one does, but for its two stages only.
    fn reopening_without_rate(&self, at: Timestamp) -> Option<Flow> {
        self.stage(at).map(|n| Flow {
            milli: MILLI << n.min(12),
            per: Millis(1000),
        })
    }

    /// Tokens at `now`, and up to when those were counted.
    fn tokens_at(&self, now: Timestamp) -> (u64, Timestamp) {
        let Some(flow) = self.flow(self.refilled.min(now)) else {
            return (self.tokens_milli, self.refilled);
        };
        let elapsed = now.since(self.refilled).0;
        let gained = u128::from(elapsed) * u128::from(flow.milli) / u128::from(flow.per.0);
        let gained = u64::try_from(gained).unwrap_or(u64::MAX).min(u64::MAX / 2);
        if gained == 0 {
            return (self.tokens_milli, self.refilled);
        }
        let used = (u128::from(gained) * u128::from(flow.per.0)).div_ceil(u128::from(flow.milli));
        let used = Millis(u64::try_from(used).unwrap_or(elapsed));
        let full = self
            .spec
            .map_or(MILLI, |spec| u64::from(spec.burst.max(1)) * MILLI);
        (
            (self.tokens_milli + gained).min(full),
            self.refilled.after(used),
        )
    }

    fn refill(&mut self, now: Timestamp) {
        (self.tokens_milli, self.refilled) = self.tokens_at(now);
        // A full bucket gains nothing by waiting: what flowed meanwhile ran over.
        let full = self
            .spec
            .map_or(MILLI, |spec| u64::from(spec.burst.max(1)) * MILLI);
        if self.tokens_milli == full && now > self.refilled {
            self.refilled = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Timestamp = Timestamp(1_000_000);

    fn per_second(count: u32, burst: u32) -> LimitSpec {
        LimitSpec {
            rate: Some((count, Millis(1000))),
            burst,
            concurrency: None,
        }
    }

    /// Admissions in each millisecond of `span`, taken as soon as they are admitted.
    fn greedy(limit: &mut Limit, from: Timestamp, span: u64) -> Vec<Timestamp> {
        let mut taken = Vec::new();
        for ms in 0..span {
            let now = from.after(Millis(ms));
            while limit.admits(now) {
                limit.take(now);
                limit.release();
                taken.push(now);
            }
        }
        taken
    }

    #[test]
    fn a_rate_is_never_exceeded_in_any_window() {
        let mut limit = Limit::declared(per_second(10, 3), T0);
        let taken = greedy(&mut limit, T0, 5_000);
        for (i, first) in taken.iter().enumerate() {
            for (j, last) in taken.iter().enumerate().skip(i) {
                let window = last.since(*first).0;
                let allowed = 3 + window * 10 / 1000 + 1;
                assert!(
                    (j - i + 1) as u64 <= allowed,
                    "{} in {window} ms",
                    j - i + 1
                );
            }
        }
        assert_eq!(taken.len(), 3 + 49);
    }

    #[test]
    fn a_rate_slower_than_the_clock_still_flows() {
        let spec = LimitSpec {
            rate: Some((1, Millis(3_600_000))),
            burst: 1,
            concurrency: None,
        };
        let mut limit = Limit::declared(spec, T0);
        limit.take(T0);
        let mut now = T0;
        for _ in 0..3_599 {
            now = now.after(Millis(1000));
            assert!(!limit.admits(now));
            limit.refill(now);
        }
        assert!(limit.admits(now.after(Millis(5_000))));
    }

    #[test]
    fn concurrency_is_held_until_given_back() {
        let spec = LimitSpec {
            rate: None,
            burst: 1,
            concurrency: Some(2),
        };
        let mut limit = Limit::declared(spec, T0);
        limit.take(T0);
        limit.take(T0);
        assert!(!limit.admits(T0));
        assert_eq!(limit.next_admission(T0), None);
        limit.release();
        assert!(limit.admits(T0));
    }

    #[test]
    fn a_throttled_limit_lets_nothing_pass_and_reopens_at_a_quarter_of_its_rate() {
        let mut limit = Limit::declared(per_second(100, 10), T0);
        limit.close(T0, Millis(2_000));
        assert!(greedy(&mut limit, T0, 2_000).is_empty());
        let reopened = T0.after(Millis(2_000));
        assert_eq!(limit.open_percent(reopened), 25);
        let first = greedy(&mut limit, reopened, 5_000).len();
        let second = greedy(&mut limit, reopened.after(Millis(5_000)), 5_000).len();
        let third = greedy(&mut limit, reopened.after(Millis(10_000)), 5_000).len();
        assert!((120..=125).contains(&first), "{first}");
        assert!((240..=252).contains(&second), "{second}");
        assert!((490..=510).contains(&third), "{third}");
    }

    #[test]
    fn an_undeclared_limit_reopens_at_one_a_second_and_is_open_after_a_minute() {
        let mut limit = Limit::undeclared(T0);
        assert!(limit.admits(T0));
        limit.close(T0, Millis(1_000));
        let reopened = T0.after(Millis(1_000));
        let first = greedy(&mut limit, reopened, 5_000).len();
        assert!((4..=5).contains(&first), "{first}");
        let later = reopened.after(Millis(60_000));
        assert!(limit.is_forgettable(later));
    }

    #[test]
    fn closing_again_never_shortens_the_first_closing() {
        let mut limit = Limit::declared(per_second(100, 10), T0);
        limit.close(T0, Millis(10_000));
        limit.close(T0.after(Millis(10)), Millis(1));
        assert!(!limit.admits(T0.after(Millis(9_999))));
    }

    #[test]
    fn a_limit_declared_anew_while_it_is_closed_is_no_fuller_when_it_reopens() {
        let mut limit = Limit::declared(per_second(100, 10), T0);
        limit.close(T0, Millis(2_000));
        limit.redeclare(per_second(100, 10), T0.after(Millis(100)));
        let mut unknown = Limit::undeclared(T0);
        unknown.close(T0, Millis(2_000));
        unknown.redeclare(per_second(100, 10), T0.after(Millis(100)));
        for limit in [&mut limit, &mut unknown] {
            assert!(greedy(limit, T0, 2_001).is_empty());
            let reopened = T0.after(Millis(2_001));
            assert_eq!(greedy(limit, reopened, 1_000).len(), 25);
        }
    }

    #[test]
    fn the_next_admission_is_neither_early_nor_in_the_past() {
        let mut limit = Limit::declared(per_second(10, 1), T0);
        limit.take(T0);
        limit.release();
        let next = limit.next_admission(T0).expect("time alone decides");
        assert_eq!(next, T0.after(Millis(100)));
        assert!(!limit.admits(Timestamp(next.0 - 1)));
        assert!(limit.admits(next));
    }
}
