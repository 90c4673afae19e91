//! A limit as the contract tells it (§7): a bucket in millionths of a token, filled by the millisecond, nothing rounded.

use holdfast_scheduler::{
    entry::LimitSpec,
    time::{Millis, Timestamp},
};

/// One token.
const TOKEN: u64 = 1_000_000;

#[derive(Debug, Clone, Default)]
pub struct Gate {
    pub spec: Option<LimitSpec>,
    closed_until: Option<Timestamp>,
    bucket: u64,
    counted: Timestamp,
}

impl Gate {
    fn full(&self) -> u64 {
        self.spec.map_or(1, |spec| u64::from(spec.burst.max(1))) * TOKEN
    }

    fn is_closed(&self, now: Timestamp) -> bool {
        self.closed_until.is_some_and(|until| now < until)
    }

    /// Closed, or so many times five seconds after it opened again, until that is forgotten.
    fn stage(&self, at: Timestamp) -> Option<u32> {
        let open_for = at.since(self.closed_until?).0;
        let remembered = if self.spec.is_some() { 10_000 } else { 60_000 };
        (open_for < remembered).then(|| u32::try_from(open_for / 5_000).expect("twelve at most"))
    }

    /// What flows in per millisecond; none: there is no rate.
    fn rate(&self, at: Timestamp) -> Option<u64> {
        match (self.spec.and_then(|spec| spec.rate), self.stage(at)) {
            (Some((count, per)), None) => Some(u64::from(count) * TOKEN / per.0),
            (Some((count, per)), Some(0)) => Some(u64::from(count) * TOKEN / per.0 / 4),
            (Some((count, per)), Some(_)) => Some(u64::from(count) * TOKEN / per.0 / 2),
            (None, Some(stage)) => Some((TOKEN / 1_000) << stage),
            (None, None) => None,
        }
    }

    /// A stretch without admissions is filled at the rate of its beginning: never too much, since the rate only grows.
    fn bucket(&self, now: Timestamp) -> u64 {
        match self.rate(self.counted.min(now)) {
            None => self.bucket,
            Some(rate) => self
                .full()
                .min(self.bucket + rate * now.since(self.counted).0),
        }
    }

    pub fn admits(&self, held: u32, now: Timestamp) -> bool {
        let most = self.spec.and_then(|spec| spec.concurrency);
        let has_token = self.rate(now).is_none() || self.bucket(now) >= TOKEN;
        !self.is_closed(now) && most.is_none_or(|most| held < most) && has_token
    }

    pub fn take(&mut self, now: Timestamp) {
        if self.rate(now).is_some() {
            self.bucket = self.bucket(now) - TOKEN;
            self.counted = now;
        }
    }

    pub fn close(&mut self, now: Timestamp, after: Millis) {
        let until = now.after(after).max(self.closed_until.unwrap_or_default());
        (self.closed_until, self.bucket, self.counted) = (Some(until), 0, until);
    }

    /// Declared anew: what is in the bucket stays, unless it never had one.
    pub fn declare(&mut self, spec: LimitSpec, now: Timestamp) {
        let first = self.spec.is_none() && self.stage(now).is_none();
        self.bucket = self.bucket(now);
        self.spec = Some(spec);
        self.bucket = if first {
            self.full()
        } else {
            self.full().min(self.bucket)
        };
        self.counted = self.counted.max(now);
    }
}

#[cfg(test)]
mod tests {
    use holdfast_scheduler::values::limit::Limit;

    use super::*;
    use crate::sim::tier_a::dice::Dice;

    /// One limit alone, with closings and declarations far more often than runs bring them about.
    #[test]
    fn a_limit_admits_exactly_when_the_reference_does() {
        for seed in 0..400 {
            let mut dice = Dice::new(seed);
            let mut now = Timestamp(1_000_000);
            let (mut limit, mut gate) = (Limit::undeclared(now), Gate::default());
            for n in 0..200 {
                let longest = dice.one([1, 200, 2_000, 9_000, 70_000]);
                now = now.after(Millis(dice.below(longest)));
                let context = format!("seed {seed}, operation {n} at {now}: {limit:?}, {gate:?}");
                agree(&limit, &gate, now, &context);
                go_on(&mut dice, now, &mut limit, &mut gate);
            }
        }
    }

    fn agree(limit: &Limit, gate: &Gate, now: Timestamp, context: &str) {
        let admits = limit.admits(now);
        assert_eq!(admits, gate.admits(limit.held, now), "{context}");
        if let Some(next) = limit.next_admission(now).filter(|_| !admits) {
            // The bucket fills at the rate of its beginning, and so does the forecast: never too early.
            let sooner = Timestamp(next.0 - 1).max(now);
            assert!(
                !gate.admits(limit.held, sooner),
                "{next} is late, {context}"
            );
            assert!(gate.admits(limit.held, next), "{next} is early, {context}");
        }
    }

    fn go_on(dice: &mut Dice, now: Timestamp, limit: &mut Limit, gate: &mut Gate) {
        let admits = limit.admits(now);
        match dice.below(20) {
            0 => {
                let after = Millis(dice.below(3_000));
                limit.close(now, after);
                gate.close(now, after);
            }
            1 => {
                let spec = LimitSpec {
                    rate: dice.one([None, Some((8, Millis(1_000))), Some((400, Millis(1_000)))]),
                    burst: dice.count(4),
                    concurrency: dice.one([None, Some(1), Some(3)]),
                };
                limit.redeclare(spec, now);
                gate.declare(spec, now);
            }
            2..8 if limit.held > 0 => limit.release(),
            _ if admits => {
                limit.take(now);
                gate.take(now);
            }
            _ => {}
        }
    }
}
