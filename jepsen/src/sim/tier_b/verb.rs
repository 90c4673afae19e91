//! What `jepsen-sim` does: one seed in this process, or many, each in a process of its own.
//!
//! Invariant: a seed's process ends in time or is ended; its exit code is the verdict: 0 valid, 1 violated, 254 this binary
//! cannot, 255 it failed itself.

use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{Ask, Verdict, run as run_seed, scenarios};

/// A minute of simulated time takes seconds; a process that takes so long goes round in a circle.
const SEED_MAX: Duration = Duration::from_mins(5);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A seed held.
pub const VALID: u8 = 0;
/// A seed did not hold.
pub const VIOLATED: u8 = 1;
const UNABLE: u8 = 254;
const FAILED: u8 = 255;

/// Seeds that once failed are run first, for ever.
const FILED: &str = include_str!("../../../seeds/tier-b.txt");

/// What to simulate.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// One seed, in this process.
    #[arg(long, conflicts_with = "seeds")]
    pub seed: Option<u64>,
    /// Many seeds, `a..b`, without `b`; those that once failed go first.
    #[arg(long, value_parser = span)]
    pub seeds: Option<Range<u64>>,
    /// A directed scenario; `all`: each of them once.
    #[arg(long)]
    pub scenario: Option<String>,
    /// A bug that is planted.
    #[arg(long)]
    pub bug: Option<String>,
    /// Where the trace of the seed goes; `-`: to standard output.
    #[arg(long, requires = "seed")]
    pub trace: Option<PathBuf>,
    /// Processes at once.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub jobs: u64,
    /// No new seed is begun after so many seconds.
    #[arg(long = "for")]
    pub seconds: Option<u64>,
    /// Plants bugs, one after the other, and says what caught each; `--bug`: only that one.
    #[arg(long)]
    pub selftest: bool,
    /// Ends at the first seed that is not valid.
    #[arg(long)]
    pub until_fail: bool,
}

fn span(text: &str) -> Result<Range<u64>, String> {
    let wrong = || format!("{text:?} is not `a..b`");
    let (from, to) = text.split_once("..").ok_or_else(wrong)?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
    let (from, to) = (number(from)?, number(to)?);
    if from >= to {
        return Err(wrong());
    }
    Ok(from..to)
}

/// One process's work.
#[derive(Debug, Clone)]
struct Job {
    seed: u64,
    scenario: Option<String>,
    bug: Option<String>,
}

/// The verb.
pub fn run(args: &Args) -> ExitCode {
    ExitCode::from(code(args))
}

fn code(args: &Args) -> u8 {
    if args.selftest {
        return selftest(args.bug.as_deref());
    }
    let job = |seed, scenario: Option<&str>| Job {
        seed,
        scenario: scenario.map(str::to_owned),
        bug: args.bug.clone(),
    };
    let jobs: Vec<Job> = match (args.seed, &args.seeds, args.scenario.as_deref()) {
        (None, None, Some("all")) if scenarios().is_empty() => {
            say(super::UNABLE);
            return UNABLE;
        }
        (None, None, Some("all")) => {
            let each = scenarios().iter();
            each.map(|name| job(1, Some(name))).collect()
        }
        (Some(seed), _, scenario) => return one(&job(seed, scenario), args.trace.clone()),
        (None, None, Some(scenario)) => return one(&job(1, Some(scenario)), args.trace.clone()),
        (None, seeds, scenario) => {
            let seeds = seeds.clone().unwrap_or(0..100);
            let filed = match scenario {
                None => filed(FILED),
                Some(_) => Vec::new(),
            };
            let all = filed.into_iter().chain(seeds);
            all.map(|seed| job(seed, scenario)).collect()
        }
    };
    many(args, &jobs)
}

/// The seeds of a file: `b SEED what it was`, a line each.
fn filed(text: &str) -> Vec<u64> {
    let seed = |line: &str| line.strip_prefix("b ")?.split(' ').next()?.parse().ok();
    text.lines().filter_map(seed).collect()
}

fn say(line: &str) {
    let said = writeln!(io::stdout(), "{line}");
    drop(said); // a reader that has gone changes no verdict
}

fn one(job: &Job, trace: Option<PathBuf>) -> u8 {
    let ask = Ask {
        seed: job.seed,
        scenario: job.scenario.clone(),
        bug: job.bug.clone(),
        trace,
    };
    let began = Instant::now();
    match run_seed(&ask) {
        Err(why) => {
            say(&why);
            UNABLE
        }
        Ok(verdict) => {
            tell(job, &verdict, began.elapsed());
            if verdict.violations.is_empty() {
                VALID
            } else {
                VIOLATED
            }
        }
    }
}

fn tell(job: &Job, it: &Verdict, took: Duration) {
    let verdict = if it.violations.is_empty() {
        "valid"
    } else {
        "VIOLATED"
    };
    say(&format!(
        "seed {} {}{verdict} simulated_ms {} real_ms {} applied {} acknowledged {} unknown {} finished {} leaders {} ends {} installed {} out {}",
        job.seed,
        job.scenario
            .as_deref()
            .map(|it| format!("{it} "))
            .unwrap_or_default(),
        it.simulated_ms,
        took.as_millis(),
        it.applied,
        it.acknowledged,
        it.unknown,
        it.finished,
        it.leaders,
        it.ends,
        it.installed,
        it.out
    ));
    if !it.violations.is_empty() {
        say(&format!("  {}", it.plan));
    }
    for line in &it.violations {
        say(&format!("  {line}"));
    }
}

/// Each in a process of its own: no thread-local state leaks from seed to seed.
fn many(args: &Args, jobs: &[Job]) -> u8 {
    let began = Instant::now();
    let (next, ran, worst) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::new(VALID));
    let bad = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let job = usize::try_from(at).ok().and_then(|at| jobs.get(at));
                    let Some(job) = job else { return };
                    let in_time = args.seconds.is_none_or(|it| began.elapsed().as_secs() < it);
                    let worst_yet = *worst.lock();
                    let enough = args.until_fail && worst_yet != VALID;
                    if !in_time || enough || worst_yet == UNABLE {
                        return;
                    }
                    let Ended { code, said } = in_own_process(job);
                    say(said.trim_end());
                    ran.fetch_add(1, Ordering::Relaxed);
                    if code != VALID {
                        bad.lock().push(job.seed);
                        let mut worst = worst.lock();
                        *worst = code.max(*worst);
                    }
                }
            });
        }
    });
    let (mut bad, worst) = (bad.into_inner(), worst.into_inner());
    bad.sort_unstable();
    say(&format!(
        "{} seeds in {} s, {} not valid{}",
        ran.into_inner(),
        began.elapsed().as_secs(),
        bad.len(),
        if bad.is_empty() {
            String::new()
        } else {
            format!(": {bad:?}")
        }
    ));
    worst
}

/// What a seed came to, and what it said.
struct Ended {
    code: u8,
    said: String,
}

fn in_own_process(job: &Job) -> Ended {
    let failed = |cause: io::Error| Ended {
        code: FAILED,
        said: format!("seed {} cannot be started: {cause}\n", job.seed),
    };
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(cause) => return failed(cause),
    };
    let mut command = Command::new(program);
    command.args(["--seed", &job.seed.to_string()]);
    if let Some(scenario) = &job.scenario {
        command.args(["--scenario", scenario]);
    }
    if let Some(bug) = &job.bug {
        command.args(["--bug", bug]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    match command.spawn() {
        Ok(child) => wait(job.seed, child),
        Err(cause) => failed(cause),
    }
}

/// It says less than a pipe holds, so it may be read at the end.
fn wait(seed: u64, mut child: Child) -> Ended {
    let began = Instant::now();
    let violated = |what: String| Ended {
        code: VIOLATED,
        said: format!("seed {seed} VIOLATED: {what}\n"),
    };
    loop {
        match child.try_wait() {
            Ok(Some(status)) => {
                let code = status.code().and_then(|code| u8::try_from(code).ok());
                let mut said = String::new();
                let read = child.stdout.as_mut().map(|it| it.read_to_string(&mut said));
                return match (code, read) {
                    (Some(code), Some(Ok(_))) => Ended { code, said },
                    _ => violated(format!("its process died: {status}")),
                };
            }
            Ok(None) if began.elapsed() < SEED_MAX => std::thread::sleep(LOOK_EVERY),
            Ok(None) | Err(_) => {
                drop(child.kill()); // it may have ended just now
                drop(child.wait());
                return violated(format!("no end within {SEED_MAX:?}"));
            }
        }
    }
}

/// Where a planted bug is looked for.
#[derive(Debug, Clone, Copy)]
enum Where {
    /// One of the first so many seeds.
    Seeds(u64),
    /// A directed scenario.
    Scenario(&'static str),
}

/// The planted bugs that this tier must catch, and where.
const PLANTED: &[(&str, Where)] = &[
    ("ack-before-commit", Where::Seeds(100)),
    ("ack-before-fsync", Where::Seeds(100)),
    ("vote-not-persisted", Where::Seeds(100)),
    ("snapshot-of-two-moments", Where::Seeds(100)),
    (
        "prevote-always-grants",
        Where::Scenario("a-node-comes-back"),
    ),
    ("responder-forgotten", Where::Seeds(100)),
    ("completion-lost", Where::Seeds(100)),
    ("follower-read-no-barrier", Where::Seeds(100)),
    (super::FOLDER_SYNC_LIES, Where::Seeds(100)),
];

/// Plants each, and says what caught it.
fn selftest(only: Option<&str>) -> u8 {
    let chosen = |name: &str| only.is_none_or(|only| only == name);
    let mut missed = 0;
    say("| Bug | Caught by | As |\n|---|---|---|");
    for (bug, place) in PLANTED.iter().filter(|(name, _)| chosen(name)) {
        let (seeds, scenario) = match place {
            Where::Seeds(count) => (0..*count, None),
            Where::Scenario(name) => (1..2, Some((*name).to_owned())),
        };
        let found = seeds.into_iter().find_map(|seed| {
            let ended = in_own_process(&Job {
                seed,
                scenario: scenario.clone(),
                bug: Some((*bug).to_owned()),
            });
            (ended.code != VALID).then_some((seed, ended))
        });
        match found {
            Some((seed, ended)) if ended.code == VIOLATED => {
                let at = scenario.unwrap_or_else(|| format!("seed {seed}"));
                let as_what = ended.said.lines().find(|line| line.starts_with("  at "));
                let as_what = as_what.or(ended.said.lines().next()).unwrap_or_default();
                say(&format!("| {bug} | {at} | {} |", as_what.trim()));
            }
            Some((_, ended)) => {
                say(ended.said.trim_end());
                return ended.code;
            }
            None => {
                missed += 1;
                say(&format!("| {bug} | **nothing** | |"));
            }
        }
    }
    if missed == 0 { VALID } else { VIOLATED }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filed_seeds_are_read_past_what_is_said_about_the_file() {
        let text = "# seeds\n\nb 17 S1: lost\nb 4\na 3 of the other tier\n";
        assert_eq!(filed(text), [17, 4]);
    }
}
