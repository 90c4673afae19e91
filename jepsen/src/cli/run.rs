//! `jepsen run`: real processes, load, faults; then the verdict.

use std::ffi::OsString;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser as _;
use holdfast_jepsen::checker;
use holdfast_jepsen::load::Workload;
use holdfast_jepsen::nemesis::Kind;
use holdfast_jepsen::network::{self, Means};
use holdfast_jepsen::report;
use holdfast_jepsen::run::{Finished, Options, PartCommand, Require, conduct};
use holdfast_jepsen::sink::Mode;
use tokio::sync::watch;

use super::tally::Tally;
use super::{BAD_ARGUMENTS, HARNESS, UNKNOWN, VALID, VIOLATED, line, profiles, trouble};

/// Real processes under load and faults, and everything written down
#[derive(clap::Args)]
pub struct Run {
    /// Nodes
    #[arg(long, default_value_t = 3)]
    nodes: u16,
    /// Partitions
    #[arg(long, default_value_t = 1)]
    partitions: u32,
    /// Worker processes
    #[arg(long, default_value_t = 4)]
    workers: u16,
    /// Clients
    #[arg(long, default_value_t = 10)]
    clients: u32,
    /// What is asked: see `jepsen list`
    #[arg(long, default_value = "mix")]
    workload: String,
    /// What breaks: names, none, chaos, all; see `jepsen list`
    #[arg(long, default_value = "none")]
    nemesis: String,
    /// How nodes are connected, and the network broken: proxy, or netns (packets; root)
    #[arg(long, default_value = "proxy")]
    net: Means,
    /// Between two faults of a kind, on average
    #[arg(long, default_value = "10s", value_parser = time)]
    nemesis_interval: Duration,
    /// Healthy lead-in and faults; healing comes after it
    #[arg(long, default_value = "60s", value_parser = time)]
    duration: Duration,
    /// Calls per second, over all clients
    #[arg(long, default_value_t = 50)]
    rate: u32,
    /// Of every choice
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// The kind of sink: idempotent, fenced, naive
    #[arg(long, default_value = "idempotent")]
    sink: Mode,
    /// A fault that must have been seen so often, as kill-leader>=5; else nothing is proven
    #[arg(long, value_delimiter = ',')]
    require: Vec<Require>,
    /// So many runs, each with the next seed
    #[arg(long, default_value_t = 1)]
    test_count: u64,
    /// Ends at the first run that is not valid
    #[arg(long)]
    until_fail: bool,
    /// Keeps the processes until Ctrl-C
    #[arg(long)]
    leave_running: bool,
    /// Writes no report
    #[arg(long)]
    no_report: bool,
    /// The `holdfast` binary; by default the one beside this program
    #[arg(long)]
    bin: Option<PathBuf>,
    /// Where folders of runs are made
    #[arg(long, default_value = "store")]
    store: PathBuf,
    /// A command that is a worker of your own; it finds the nodes by HOLDFAST_ENDPOINTS
    #[arg(long, requires = "start")]
    worker_cmd: Option<String>,
    /// With --worker-cmd: the workflow to start, and its input as JSON, as NAME=JSON
    #[arg(long)]
    start: Option<String>,
    /// A setting of every node, as NAME=VALUE of the environment
    #[arg(long)]
    node_env: Vec<String>,
    /// A list of runs, one after the other: ci, night (every fault and every pair), rest (the pairs that no valid run in --store has
    /// had), release
    #[arg(long)]
    profile: Option<String>,
    /// Which lines of the profile, counted from 0: FIRST.., or FIRST..END
    #[arg(long, requires = "profile", value_parser = span)]
    lines: Option<Range<usize>>,
    /// The line of a profile that this is.
    #[arg(skip)]
    line: Option<String>,
}

/// A line of a profile.
#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    run: Run,
}

impl Run {
    /// To be called before this program has threads: where packets are to be ruled it leaves for a network of its own.
    ///
    /// # Errors
    /// The exit code, after the reason was said.
    pub fn enter(&self) -> Result<(), u8> {
        let lines = self.profile.as_deref();
        let lines = lines.and_then(|it| profiles::lines(it, &self.store));
        let some = lines.iter().flatten();
        let some = some.filter_map(|it| self.of_line(it).ok());
        let wanted = self.net == Means::Spaces;
        if let Some(why) = network::lacks().filter(|_| wanted) {
            trouble(&format!("--net netns cannot be had: it {why}"));
            return Err(BAD_ARGUMENTS);
        }
        if !wanted
            && (network::lacks().is_some() || !some.into_iter().any(|it| it.net == Means::Spaces))
        {
            return Ok(());
        }
        network::enter().map_err(|cause| {
            trouble(&format!("no network of its own: {cause}"));
            HARNESS
        })
    }

    /// Makes the runs; answers the exit code.
    pub async fn run(self) -> u8 {
        let stop = match interrupts() {
            Ok(stop) => stop,
            Err(cause) => {
                trouble(&format!("signals cannot be watched: {cause}"));
                return HARNESS;
            }
        };
        let mut tally = Tally::default();
        let Some(profile) = self.profile.clone() else {
            let code = self.some(&stop, &mut tally).await;
            if self.test_count > 1 {
                line(&tally.text());
            }
            return code;
        };
        let Some(lines) = profiles::lines(&profile, &self.store) else {
            trouble(&format!("{profile} is none of ci, night, rest, release"));
            return BAD_ARGUMENTS;
        };
        let mut worst = VALID;
        let all = 0..lines.len();
        let wanted = self.lines.clone().unwrap_or(all);
        for (at, text) in lines.into_iter().enumerate() {
            if !wanted.contains(&at) {
                continue;
            }
            line(&format!("line {at} of profile {profile}"));
            let code = match self.of_line(&text) {
                Ok(run) if run.net == Means::Spaces && network::lacks().is_some() => {
                    line(&format!(
                        "off here: it {}",
                        network::lacks().unwrap_or_default()
                    ));
                    tally.off(&text);
                    continue;
                }
                Ok(run) => run.some(&stop, &mut tally).await,
                Err(why) => {
                    trouble(&why);
                    return BAD_ARGUMENTS;
                }
            };
            tally.line(code, &text);
            worst = worse(worst, code);
            if *stop.borrow() || (self.until_fail && code != VALID) {
                break;
            }
        }
        line(&tally.text());
        worst
    }

    /// A line of a profile, with the seed, binary and folder of this command line.
    fn of_line(&self, text: &str) -> Result<Self, String> {
        let words = std::iter::once("run").chain(text.split_whitespace());
        let mut run = Line::try_parse_from(words)
            .map_err(|cause| cause.to_string())?
            .run;
        run.seed = self.seed;
        run.bin.clone_from(&self.bin);
        run.store.clone_from(&self.store);
        run.no_report = self.no_report;
        if self.net == Means::Spaces {
            run.net = Means::Spaces;
        }
        run.line = Some(text.to_string());
        Ok(run)
    }

    /// What a line of `jepsen run` asks for, with this binary and in this folder.
    #[cfg(feature = "seeded-bugs")]
    pub(super) fn read(text: &str, bin: PathBuf, store: PathBuf) -> Result<Options, String> {
        let words = std::iter::once("run").chain(text.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|cause| cause.to_string())?;
        let run = Self {
            bin: Some(bin),
            store,
            ..line.run
        };
        let mut options = run.options(run.seed)?;
        options.command = format!("jepsen run {text}");
        Ok(options)
    }

    async fn some(&self, stop: &watch::Receiver<bool>, tally: &mut Tally) -> u8 {
        let mut worst = VALID;
        for nth in 0..self.test_count {
            let seed = self.seed + nth;
            let options = match self.options(seed) {
                Ok(options) => options,
                Err(why) => {
                    trouble(&why);
                    return BAD_ARGUMENTS;
                }
            };
            let code = self.once(options, stop.clone(), tally).await;
            worst = worse(worst, code);
            if *stop.borrow() || code == HARNESS || (self.until_fail && code != VALID) {
                break;
            }
        }
        worst
    }

    async fn once(&self, options: Options, stop: watch::Receiver<bool>, tally: &mut Tally) -> u8 {
        let names: Vec<&str> = options.nemeses.iter().map(|it| it.name()).collect();
        let faults = if names.is_empty() {
            "none".to_string()
        } else {
            names.join(",")
        };
        line(&format!(
            "seed {} · {} nodes · {} workers · {} clients · {} · {faults} · {:?} · {}",
            options.seed,
            options.nodes,
            options.workers,
            options.clients,
            options.workload.name,
            options.duration,
            options.net.name()
        ));
        let mut leave = stop.clone();
        match conduct(options, stop).await {
            Ok(finished) => {
                let code = self.judge(&finished);
                tally.run(code, &finished);
                if let Some(field) = finished.left {
                    line("left running until Ctrl-C");
                    if field.network.means() == Means::Spaces {
                        let pid = std::process::id();
                        line(&format!("reached from: nsenter --net --target {pid}"));
                    }
                    // An end of the sender would be an end of the wait as well.
                    let _ = leave.wait_for(|it| *it).await;
                    field.tear_down().await;
                }
                code
            }
            Err(cause) => {
                trouble(&format!("the run could not be made: {}", chain(&cause)));
                UNKNOWN
            }
        }
    }

    /// The verdict: the checkers', on the folder alone; and what the harness itself has to say.
    fn judge(&self, finished: &Finished) -> u8 {
        let folder = finished.store.folder();
        let judged = if self.no_report {
            report::check(folder)
        } else {
            report::write(folder)
        };
        let mut code = match judged {
            Ok(judged) => {
                let text = report::summary(&checker::store::Store::read(folder), &judged);
                line(text.trim_end());
                judged.overall.exit_code()
            }
            Err(cause) => {
                trouble(&format!("the run could not be judged: {cause}"));
                UNKNOWN
            }
        };
        if finished.stuck > 0 {
            line(&format!(
                "VIOLATED L2: {} runs are not final after the heal",
                finished.stuck
            ));
            code = VIOLATED;
        }
        for what in &finished.violations {
            line(&format!("VIOLATED {what}"));
            code = VIOLATED;
        }
        for why in finished.troubles.iter().chain(&finished.coverage.missing) {
            line(&format!("UNKNOWN {why}"));
            // What was seen to be broken is broken, whatever else could not be seen.
            if code == VALID {
                code = UNKNOWN;
            }
        }
        line(&format!("{}", folder.display()));
        code
    }

    fn options(&self, seed: u64) -> Result<Options, String> {
        let workload = Workload::named(&self.workload)
            .ok_or_else(|| format!("{} is no workload; see `jepsen list`", self.workload))?;
        let program = std::env::current_exe().map_err(|cause| cause.to_string())?;
        let part = PartCommand {
            program,
            args: vec![OsString::from("part")],
        };
        let holdfast = self.bin.clone().unwrap_or_else(holdfast_beside);
        let mut options = Options::new(holdfast, part, workload);
        options.store.clone_from(&self.store);
        options.nodes = self.nodes.max(1);
        options.partitions = self.partitions.max(1);
        options.workers = self.workers;
        options.clients = self.clients.max(1);
        options.rate = self.rate.max(1);
        options.nemeses = Kind::list(&self.nemesis)?;
        options.net = self.net;
        options.interval = self.nemesis_interval;
        options.duration = self.duration;
        options.lead_in = options.lead_in.min(self.duration);
        options.seed = seed;
        options.sink = self.sink;
        options.require.clone_from(&self.require);
        options.worker_command.clone_from(&self.worker_cmd);
        options.own = self.start.as_deref().map(own).transpose()?;
        for pair in &self.node_env {
            let bad = || format!("--node-env {pair} is not NAME=VALUE");
            let (name, value) = pair.split_once('=').ok_or_else(bad)?;
            options.node_env.push((name.to_string(), value.to_string()));
        }
        options.leave_running = self.leave_running;
        options.command = self.command(seed);
        options.say = Arc::new(line);
        Ok(options)
    }

    /// The command line that makes this run again.
    fn command(&self, seed: u64) -> String {
        if let Some(line) = &self.line {
            let words: Vec<String> = line.split_whitespace().map(quoted).collect();
            return format!("jepsen run {} --seed {seed}", words.join(" "));
        }
        let mut words: Vec<String> = vec!["jepsen".to_string()];
        let mut given = std::env::args().skip(1);
        while let Some(word) = given.next() {
            match word.as_str() {
                "--seed" | "--test-count" => drop(given.next()),
                it if it.starts_with("--seed=") || it.starts_with("--test-count=") => {}
                _ => words.push(quoted(&word)),
            }
        }
        words.push(format!("--seed {seed}"));
        words.join(" ")
    }
}

/// A violation outweighs an unknown, in whatever order they come.
fn worse(one: u8, other: u8) -> u8 {
    if one == VALID || other == VIOLATED {
        other
    } else {
        one
    }
}

fn quoted(word: &str) -> String {
    let plain = |it: char| it.is_ascii_alphanumeric() || "-_./,=:".contains(it);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_string();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn own(text: &str) -> Result<(String, String), String> {
    let bad = || format!("--start {text} is not NAME=JSON");
    let (name, json) = text.split_once('=').ok_or_else(bad)?;
    let value: serde_json::Value =
        serde_json::from_str(json).map_err(|cause| format!("{}: {cause}", bad()))?;
    Ok((name.to_string(), value.to_string()))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// True after Ctrl-C or SIGTERM.
fn interrupts() -> std::io::Result<watch::Receiver<bool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let (tell, told) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        line("interrupted: healing, ending, and judging what there is");
        tell.send_replace(true);
        // Kept, so that nobody takes the end of the sender for an answer.
        std::future::pending::<()>().await;
    });
    Ok(told)
}

/// `holdfast` beside this program, else whichever is found by name.
pub fn holdfast_beside() -> PathBuf {
    let beside = std::env::current_exe()
        .ok()
        .map(|it| it.with_file_name("holdfast"));
    beside
        .filter(|it| it.exists())
        .unwrap_or_else(|| PathBuf::from("holdfast"))
}

/// `60s`, `500ms`, `2m`, `1h`.
fn time(text: &str) -> Result<Duration, String> {
    let at = text
        .find(|it: char| !it.is_ascii_digit())
        .ok_or_else(|| format!("{text} has no unit; write {text}s"))?;
    let (number, unit) = text.split_at(at);
    let number: u64 = number
        .parse()
        .map_err(|_| format!("{text} is no time such as 60s"))?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        "h" => Ok(Duration::from_secs(number * 3600)),
        _ => Err(format!("{unit} is none of ms, s, m, h")),
    }
}

/// `3..`, `3..9`.
fn span(text: &str) -> Result<Range<usize>, String> {
    let bad = || format!("{text} is not of the form 3.. or 3..9");
    let (from, to) = text.split_once("..").ok_or_else(bad)?;
    let number = |text: &str| text.parse::<usize>().map_err(|_| bad());
    let to = if to.is_empty() {
        usize::MAX
    } else {
        number(to)?
    };
    Ok(number(from)?..to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_lines_are_chosen_by_number() {
        assert_eq!(span("3.."), Ok(3..usize::MAX));
        assert_eq!(span("3..9"), Ok(3..9));
        for bad in ["", "3", "..9", "a..b"] {
            assert!(span(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_read_with_their_unit_only() {
        assert_eq!(time("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(time("2m"), Ok(Duration::from_secs(120)));
        for bad in ["60", "s", "1d", ""] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_line_of_every_profile_is_a_run() {
        let this = Line::try_parse_from(["run", "--seed", "7"]).unwrap().run;
        let store = tempfile::tempdir().unwrap();
        for profile in ["ci", "night", "rest", "release"] {
            for text in profiles::lines(profile, store.path()).unwrap() {
                let run = this.of_line(&text).unwrap();
                let options = run.options(run.seed).unwrap();
                assert_eq!(options.seed, 7);
                assert!(options.command.ends_with("--seed 7"), "{}", options.command);
            }
        }
        assert!(profiles::lines("noon", store.path()).is_none());
    }

    #[test]
    fn a_violation_outweighs_an_unknown() {
        assert_eq!(worse(VALID, UNKNOWN), UNKNOWN);
        assert_eq!(worse(UNKNOWN, VALID), UNKNOWN);
        assert_eq!(worse(UNKNOWN, VIOLATED), VIOLATED);
        assert_eq!(worse(VIOLATED, UNKNOWN), VIOLATED);
    }

    #[test]
    fn words_that_a_shell_would_read_are_quoted() {
        assert_eq!(quoted("--nodes"), "--nodes");
        assert_eq!(quoted("kill-leader>=5"), "'kill-leader>=5'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
    }
}
