//! Choices from one seed: splitmix64, in streams that do not disturb each other.
//!
//! Invariant: what one stream gives depends on the seed, its name and how often it was asked, and on nothing else. Not here: what
//! is chosen.

/// A stream of choices.
#[derive(Debug, Clone)]
pub struct Dice {
    seed: u64,
    state: u64,
}

impl Dice {
    /// The first stream of a seed.
    pub fn new(seed: u64) -> Self {
        Self { seed, state: seed }
    }

    /// Another stream of the same seed.
    #[must_use]
    pub fn stream(&self, name: &str) -> Self {
        // FNV-1a: names are few and short.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let seed = mixed(self.seed ^ hash);
        Self { seed, state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.state)
    }

    /// One of `0..n`.
    ///
    /// # Panics
    /// `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "nothing to choose from");
        self.next() % n
    }

    /// One of `from..=to`.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to.saturating_sub(from) + 1)
    }

    /// True in so many of a hundred cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of these.
    ///
    /// # Panics
    /// There are none.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let at = self.below(of.len() as u64);
        &of[usize::try_from(at).unwrap_or_default()]
    }

    /// The place of one of these weights, each as likely as it is heavy.
    ///
    /// # Panics
    /// All weights are 0.
    pub fn weighted(&mut self, weights: &[u64]) -> usize {
        let mut left = self.below(weights.iter().sum());
        for (at, weight) in weights.iter().enumerate() {
            if left < *weight {
                return at;
            }
            left -= weight;
        }
        weights.len() - 1
    }
}

fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_does_not_depend_on_what_others_were_asked() {
        let first = Dice::new(42);
        let mut drained = first.clone();
        for _ in 0..100 {
            drained.below(10);
        }
        let draw = |mut dice: Dice| (0..20).map(|_| dice.below(1000)).collect::<Vec<_>>();
        assert_eq!(draw(first.stream("a")), draw(drained.stream("a")));
        assert_ne!(draw(first.stream("a")), draw(first.stream("b")));
        assert_ne!(draw(first.stream("a")), draw(Dice::new(43).stream("a")));
    }

    #[test]
    fn a_weight_of_nothing_is_never_chosen() {
        let mut dice = Dice::new(1);
        let mut seen = [0; 3];
        for _ in 0..1000 {
            seen[dice.weighted(&[1, 0, 3])] += 1;
        }
        assert_eq!(seen[1], 0);
        assert!(seen[0] > 0 && seen[2] > seen[0]);
    }
}
