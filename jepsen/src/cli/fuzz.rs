//! `jepsen fuzz`: builds the fuzzers of `fuzz/` with the pinned compiler and runs each for so much CPU time.
//!
//! Invariant: the canary runs first, and a fuzzer that does not find what must fail proves nothing. What a target finds lies in
//! `fuzz/artifacts/TARGET`; what it has learned is kept in `fuzz/corpus/TARGET`.
//! Not here: the targets and what they promise (`fuzz/fuzz_targets`).

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// Must fail.
const CANARY: &str = "canary";
/// One per decoder.
const TARGETS: [&str; 10] = [
    "log_entry",
    "command",
    "row",
    "row_key",
    "peer_message",
    "stored_record",
    "client_message",
    "journal_replay",
    "snapshot_stream",
    "settings",
];
/// What libFuzzer needs of the compiler: the same as `cargo fuzz` asks for.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
                     -Cllvm-args=-sanitizer-coverage-trace-compares";
/// Memory of one fuzzer, and of one allocation in it.
const LIMITS: [&str; 4] = [
    "-rss_limit_mb=1024",
    "-malloc_limit_mb=256",
    "-timeout=20",
    "-max_len=65536",
];
/// A fuzzer is looked at again after so long.
const PART: Duration = Duration::from_secs(60);
/// A busy machine gives a fuzzer less than it asks for; so much longer is waited.
const PATIENCE: u32 = 8;

/// Throw anything at every decoder
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  jepsen fuzz --for 30s\n  jepsen fuzz --target log_entry --for 10m"
)]
pub struct Fuzz {
    /// Only these targets
    #[arg(long = "target")]
    targets: Vec<String>,
    /// CPU time for each, as 30s, 10m or 24h
    #[arg(long = "for", default_value = "1m", value_parser = span)]
    span: Duration,
    /// The folder of the fuzzers
    #[arg(long, default_value = "fuzz")]
    folder: PathBuf,
    /// Where they were built already; by default they are built now
    #[arg(long)]
    built: Option<PathBuf>,
}

/// `30s`, `10m`, `24h`.
fn span(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text} is no time; write 30s, 10m or 24h");
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3_600,
        _ => return Err(bad()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| bad())?;
    Ok(Duration::from_secs(number * unit))
}

/// What came of one target.
struct Ran {
    cpu: Duration,
    runs: u64,
    corpus: usize,
    failed: bool,
}

impl Fuzz {
    /// 0: nothing found; 1: something was; 2: the canary did not sing, or nothing could be run.
    pub fn call(self) -> ExitCode {
        match self.run() {
            Ok(code) => ExitCode::from(code),
            Err(cause) => {
                say(&format!("UNKNOWN: {cause}"));
                ExitCode::from(2)
            }
        }
    }

    fn run(&self) -> io::Result<u8> {
        let all: Vec<&str> = if self.targets.is_empty() {
            TARGETS.to_vec()
        } else {
            self.targets.iter().map(String::as_str).collect()
        };
        if let Some(unknown) = all.iter().find(|it| !TARGETS.contains(it)) {
            let what = format!("{unknown} is no target; there are: {}", TARGETS.join(", "));
            return Err(io::Error::other(what));
        }
        let built = match &self.built {
            Some(built) => built.clone(),
            None => self.build()?,
        };
        let seeded = Command::new(built.join("seeds")).status()?;
        if !seeded.success() {
            return Err(io::Error::other("the seeds could not be written"));
        }
        let canary = self.fuzz(&built, CANARY, Duration::from_secs(60))?;
        if !canary.failed {
            say("UNKNOWN: the canary did not sing in a minute: this fuzzer is blind");
            return Ok(2);
        }
        say(&format!(
            "canary           found after {} runs, as it must be",
            canary.runs
        ));
        let mut found = 0;
        for target in all {
            let ran = self.fuzz(&built, target, self.span)?;
            let Ran {
                cpu,
                runs,
                corpus,
                failed,
            } = ran;
            let verdict = if failed { "FAILED" } else { "nothing found" };
            say(&format!(
                "{target:<16} {:>6.1} CPU-s · {runs} runs · corpus {corpus} · {verdict}",
                cpu.as_secs_f64()
            ));
            if failed {
                found += 1;
                say(&self.last_words(target));
            }
        }
        Ok(u8::from(found > 0))
    }

    /// Builds all of them, for the host: coverage flags must not reach build scripts, hence the explicit target.
    fn build(&self) -> io::Result<PathBuf> {
        let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
            || self.folder.join("target"),
            |it| PathBuf::from(it).join("fuzz"),
        );
        let status = Command::new("cargo")
            .args(["build", "--release", "--bins", "--target", &host])
            .current_dir(&self.folder)
            .env("RUSTFLAGS", FLAGS)
            .env("CARGO_TARGET_DIR", std::path::absolute(&target)?)
            .status()?;
        if !status.success() {
            return Err(io::Error::other("the fuzzers do not build, as said above"));
        }
        Ok(target.join(host).join("release"))
    }

    /// Runs one target until it has had its CPU time, or found something.
    fn fuzz(&self, built: &Path, target: &str, span: Duration) -> io::Result<Ran> {
        let (corpus, artifacts) = (
            self.folder.join("corpus").join(target),
            self.artifacts(target),
        );
        std::fs::create_dir_all(&corpus)?;
        std::fs::create_dir_all(&artifacts)?;
        let (began, before) = (Instant::now(), children_cpu()?);
        let mut ran = Ran {
            cpu: Duration::ZERO,
            runs: 0,
            corpus: 0,
            failed: false,
        };
        while ran.cpu < span && !ran.failed {
            if began.elapsed() > span * PATIENCE {
                let what = format!(
                    "{target} got {:?} of CPU time in {:?}",
                    ran.cpu,
                    began.elapsed()
                );
                return Err(io::Error::other(what));
            }
            let part = span.saturating_sub(ran.cpu).min(PART).as_secs().max(1);
            let log = std::fs::File::create(artifacts.join("last.log"))?;
            let status = Command::new(built.join(target))
                .arg(&corpus)
                .args(LIMITS)
                .args([
                    format!("-max_total_time={part}"),
                    format!("-artifact_prefix={}/", artifacts.display()),
                ])
                .arg("-print_final_stats=1")
                .stderr(log)
                .status()?;
            ran.failed = !status.success();
            ran.cpu = children_cpu()?.saturating_sub(before);
            ran.runs += self.runs_of(target);
        }
        ran.corpus = std::fs::read_dir(&corpus)?.count();
        Ok(ran)
    }

    fn artifacts(&self, target: &str) -> PathBuf {
        self.folder.join("artifacts").join(target)
    }

    fn log(&self, target: &str) -> String {
        let bytes = std::fs::read(self.artifacts(target).join("last.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// How many inputs it tried, by its own account at its end or by the number of its last line.
    fn runs_of(&self, target: &str) -> u64 {
        let log = self.log(target);
        let stat = log
            .lines()
            .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
        let number = |line: &str| line.strip_prefix('#')?.split('\t').next()?.parse().ok();
        let last = || log.lines().rev().find_map(number);
        stat.and_then(|it| it.trim().parse().ok())
            .or_else(last)
            .unwrap_or(0)
    }

    fn last_words(&self, target: &str) -> String {
        let log = self.log(target);
        let told = |line: &&str| {
            line.contains("panicked")
                || line.contains("ERROR")
                || line.contains("Test unit written")
        };
        let lines: Vec<&str> = log.lines().filter(told).take(6).collect();
        format!(
            "  {}\n  more in {}",
            lines.join("\n  "),
            self.artifacts(target).display()
        )
    }
}

/// CPU time of the children that have ended.
fn children_cpu() -> io::Result<Duration> {
    /// What the kernel counts in.
    const TICKS_PER_SECOND: u64 = 100;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    // `cutime` and `cstime` are the fields 16 and 17; what was cut off are the first two.
    let ticks = fields.split(' ').skip(13).take(2);
    let ticks: u64 = ticks.filter_map(|it| it.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND))
}

#[expect(clippy::print_stdout, reason = "the report of a command")]
fn say(text: &str) {
    println!("{text}");
}
