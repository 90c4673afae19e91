//! `jepsen sim`: tier A, seeds by the million against the pure core; a failure is made small, told, and filed. Tier B, whole
//! clusters, has a binary of its own (`jepsen-sim`).

use std::{
    fmt::Write as _,
    io::Write as _,
    ops::Range,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use holdfast_jepsen::sim::{
    tier_a::{self, Broken, Campaign, Outcome},
    tier_b::UNABLE,
};
use parking_lot::Mutex;

use super::{BAD_ARGUMENTS, print, processors, say};

/// Seeds after which a campaign must have reached everything that it looks for.
const COVERED_AFTER: u64 = 2_000;
/// Progress is told this often.
const TOLD_EVERY: Duration = Duration::from_secs(2);

/// Which simulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Tier {
    /// The pure core against a reference.
    A,
    /// A whole cluster in one thread: `jepsen-sim`.
    B,
}

/// Simulates: seeds against the pure core, judged after each entry.
#[derive(Debug, Args)]
pub struct Sim {
    /// What is simulated.
    #[arg(long, value_enum, default_value = "a")]
    tier: Tier,
    /// Which seeds, the last one not included.
    #[arg(long, value_parser = range, default_value = "0..100000")]
    seeds: Range<u64>,
    /// One seed alone.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Prints all that happens in that seed.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Ends after this long, however many seeds are left: 90s, 10m, 2h.
    #[arg(long = "for", value_parser = span)]
    at_most: Option<Duration>,
    /// Threads; as many as there are processors.
    #[arg(long)]
    jobs: Option<usize>,
    /// A failing seed is only told, not written to the file of seeds.
    #[arg(long)]
    no_file: bool,
}

/// `from..to`.
pub fn range(text: &str) -> Result<Range<u64>, String> {
    let parts = text.split_once("..").ok_or("write it as 0..1000")?;
    let number = |text: &str| text.parse::<u64>().map_err(|cause| cause.to_string());
    Ok(number(parts.0)?..number(parts.1)?)
}

/// A number with s, m or h.
pub fn span(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.len().saturating_sub(1));
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return Err("write it as 90s, 10m or 2h".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "write it as 90s, 10m or 2h")?;
    Ok(Duration::from_secs(number * seconds))
}

/// 0: all held; 1: an invariant broke; 2: something was never reached.
pub fn run(args: &Sim) -> ExitCode {
    match args.tier {
        Tier::A => tier_a(args),
        Tier::B => {
            super::line(UNABLE);
            ExitCode::from(BAD_ARGUMENTS)
        }
    }
}

fn tier_a(args: &Sim) -> ExitCode {
    std::panic::set_hook(Box::new(|_| {})); // the core catches its own; what matters is told with the seed
    if let Some(seed) = args.seed {
        return one(seed, args);
    }
    let jobs = args.jobs.unwrap_or_else(processors);
    for seed in tier_a::filed(SEEDS) {
        let judged = tier_a::judge(seed, true);
        if let Some(broken) = judged.broken.clone() {
            say(&format!("a filed seed fails again: {seed}\n"));
            return failed(seed, &broken, args, false);
        }
    }
    let campaign = Campaign {
        seeds: args.seeds.clone(),
        at_most: args.at_most,
        jobs,
        model: true,
    };
    let told = Mutex::new(Instant::now());
    let outcome = tier_a::run(&campaign, &|so_far| {
        let mut told = told.lock();
        if told.elapsed() > TOLD_EVERY {
            *told = Instant::now();
            say(&format!("\r{}", line(so_far)));
        }
    });
    say(&format!("\r{}\n", line(&outcome)));
    if let Some((seed, broken)) = outcome.failed.first() {
        return failed(*seed, broken, args, true);
    }
    let missing = outcome.coverage.missing();
    if outcome.seeds >= COVERED_AFTER && !missing.is_empty() {
        say(&format!("never reached: {}\n", missing.join(", ")));
        return ExitCode::from(2);
    }
    ExitCode::SUCCESS
}

/// Seeds that once failed are part of the program.
const SEEDS: &str = include_str!("../../seeds/tier-a.txt");

fn line(outcome: &Outcome) -> String {
    let (seeds, commands, rate) = (outcome.seeds, outcome.commands, outcome.rate());
    let all = tier_a::NAMES.len();
    let reached = all - outcome.coverage.missing().len();
    let seconds = outcome.took.as_secs();
    format!(
        "{seeds} seeds, {commands} commands in {seconds} s, {rate} seeds/s, {reached} of {all} states reached"
    )
}

fn one(seed: u64, args: &Sim) -> ExitCode {
    if args.trace {
        print(&tier_a::trace(seed));
    }
    let judged = tier_a::judge(seed, true);
    match &judged.broken {
        None => {
            say(&format!(
                "seed {seed}: {} commands, all held\n",
                judged.commands
            ));
            ExitCode::SUCCESS
        }
        Some(broken) => failed(seed, broken, args, false),
    }
}

/// Tells the smallest story of a failing seed, and files it.
fn failed(seed: u64, broken: &Broken, args: &Sim, file: bool) -> ExitCode {
    say(&format!(
        "seed {seed} breaks {broken}\nmaking it smaller …\n"
    ));
    let judged = tier_a::judge(seed, true);
    let acts = tier_a::shrink(&judged, true);
    let (story, found) = tier_a::story(&acts, true, judged.replay_every);
    print(&story);
    if found.is_none() {
        print(&format!(
            "\n{broken}\n(it shows only with the whole history)\n"
        ));
    }
    let mut again = String::new();
    let _ = writeln!(
        again,
        "\nagain: jepsen sim --tier a --seed {seed}  (exit 1)"
    );
    print(&again);
    if file && !args.no_file {
        file_seed(seed, broken);
    }
    ExitCode::from(1)
}

/// Adds a line to the file of seeds, where this is the repository.
fn file_seed(seed: u64, broken: &Broken) {
    let path = tier_a::seeds_file();
    let what = broken.what.lines().next().unwrap_or_default();
    let what: String = what.chars().take(120).collect();
    let opened = std::fs::OpenOptions::new().append(true).open(&path);
    let text = format!("a {seed} {}: {what}\n", broken.invariant);
    match opened.and_then(|mut file| file.write_all(text.as_bytes())) {
        Ok(()) => say(&format!("filed in {}\n", path.display())),
        Err(cause) => say(&format!(
            "not filed in {}: {cause}; the line is:\n{text}",
            path.display()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_ranges_are_read_as_people_write_them() {
        assert_eq!(span("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(span("2h"), Ok(Duration::from_secs(7_200)));
        assert!(span("5").is_err() && span("").is_err());
        assert_eq!(range("3..10"), Ok(3..10));
        assert!(range("3-10").is_err());
    }
}
