//! Seeds that once failed: run first, for ever.
//!
//! One line each: tier, seed, what it found. Invariant: nothing is ever taken out.

use std::path::{Path, PathBuf};

/// Seeds of tier A in such a file.
pub fn filed(text: &str) -> Vec<u64> {
    let of_tier_a = text.lines().filter_map(|line| line.strip_prefix("a "));
    let seeds = of_tier_a.filter_map(|rest| rest.split_whitespace().next()?.parse().ok());
    seeds.collect()
}

/// Where they lie in the repository.
pub fn seeds_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds/tier-a.txt")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_tier_seed_and_what_it_found() {
        let text = "# tier seed found\na 17 S12: a signal was lost\nb 4 S1: x\na 99 W1: y\n";
        assert_eq!(filed(text), [17, 99]);
    }
}
