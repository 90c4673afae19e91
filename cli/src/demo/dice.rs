//! Chance that a seed repeats: which node is killed, and when. splitmix64, of which nothing but evenness is asked.

/// Dice that fall the same way again under the same seed.
pub struct Dice(u64);

impl Dice {
    /// Under this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut it = self.0;
        it = (it ^ (it >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        it = (it ^ (it >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (it ^ (it >> 31)) % sides.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_rolls_and_every_side_comes_up() {
        let rolls = |seed| {
            let mut dice = Dice::new(seed);
            (0..60).map(|_| dice.roll(3)).collect::<Vec<_>>()
        };
        assert_eq!(rolls(7), rolls(7));
        assert_ne!(rolls(7), rolls(8));
        for side in 0..3 {
            assert!(
                rolls(7).iter().filter(|it| **it == side).count() > 8,
                "{:?}",
                rolls(7)
            );
        }
    }
}
