//! All workloads one after the other, each on a cluster of its own, as a table; and a peer beside us, turn by turn.
//!
//! The machine is not the same every hour, so a ratio counts only between runs that alternate: ours, the peer's, ours, the peer's.
//! Not here: measuring (each row is a call of this program with `--json`).

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use super::figures::Range;
use crate::output::{self, Failure};

/// A row's longest way: a cluster is started, loaded, measured and stopped.
const ROW_MAX: Duration = Duration::from_secs(900);

/// Rows of throughput: our arguments, what is counted, and the peer's name for the same.
const LOADS: [(&str, Count, Option<&str>); 14] = [
    ("raft --conc 1", Count::Runs("commands"), None),
    ("raft --conc 64", Count::Runs("commands"), None),
    ("raft --conc 256", Count::Runs("commands"), None),
    ("steps --steps 10 --conc 1", Count::Steps, Some("steps10x1")),
    (
        "steps --steps 10 --conc 64",
        Count::Steps,
        Some("steps10x64"),
    ),
    (
        "steps --steps 10 --conc 256",
        Count::Steps,
        Some("steps10x256"),
    ),
    ("submit --conc 256", Count::Runs("runs"), Some("steps1x256")),
    ("latency --rate 200", Count::Runs("runs"), None),
    ("signals --conc 64", Count::Runs("signals"), None),
    ("timers --conc 1024", Count::Runs("timers"), None),
    ("payload --conc 16", Count::Runs("runs"), None),
    ("long --steps 5000", Count::Steps, None),
    ("fanout --conc 4 --steps 100", Count::Steps, None),
    (
        "steps --steps 10 --conc 256 --partitions 3",
        Count::Steps,
        None,
    ),
];

/// Rows that print lines of their own.
const OTHERS: [&str; 5] = [
    "failover --how kill",
    "failover --how pause",
    "failover --how transfer",
    "idle",
    "sleepers --runs 10000",
];

/// What a row counts.
#[derive(Clone, Copy)]
enum Count {
    Steps,
    Runs(&'static str),
}

/// How the table is made.
pub struct Table {
    /// Nodes of each cluster.
    pub nodes: u16,
    /// Seconds of each measurement.
    pub secs: u64,
    /// Measurements of each row.
    pub repeats: u32,
    /// Runs a peer: `PROGRAM WORKLOAD` prints `steps_per_s=… runs_per_s=… p50_ms=…`.
    pub peer: Option<PathBuf>,
}

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Figures {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
}

impl Table {
    /// Measures and prints, row by row.
    ///
    /// # Errors
    /// A measurement failed.
    pub async fn print(&self) -> Result<(), Failure> {
        output::line("| command | | per second | p50 | p99 | peer per second | ratio |");
        output::line("|---|---|---|---|---|---|---|");
        for (args, count, at_peer) in LOADS {
            output::line(self.row(args, count, at_peer).await?);
        }
        for args in OTHERS {
            for line in self.ours(args, false).await?.lines() {
                output::line(format!("`{args}` {line}"));
            }
        }
        Ok(())
    }

    async fn row(
        &self,
        args: &str,
        count: Count,
        at_peer: Option<&str>,
    ) -> Result<String, Failure> {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..self.repeats {
            ours.push(figures(&self.ours(args, true).await?, count)?);
            if let (Some(peer), Some(workload)) = (&self.peer, at_peer) {
                theirs.push(peer_figures(&self.theirs(peer, workload).await?, count)?);
            }
        }
        Ok(text(args, count, &ours, &theirs))
    }

    async fn ours(&self, args: &str, json: bool) -> Result<String, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("bench").args(args.split(' '));
        command.args(["--local", &self.nodes.to_string()]);
        command.args(["--secs", &self.secs.to_string()]);
        if json {
            command.arg("--json");
        }
        printed(command).await
    }

    async fn theirs(&self, peer: &PathBuf, workload: &str) -> Result<String, Failure> {
        let mut command = Command::new(peer);
        command.arg(workload).env("SECS", self.secs.to_string());
        // Where its own files lie is for it to say; this name is ours for the folder of the program.
        command.env("REPS", "1").env_remove("PEERS_DIR");
        printed(command).await
    }
}

async fn printed(mut command: Command) -> Result<String, Failure> {
    command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true);
    let ended = tokio::time::timeout(ROW_MAX, command.output()).await;
    let ended = ended.map_err(Failure::error)??;
    if !ended.status.success() {
        let what = format!("{command:?} ended with {}", ended.status);
        return Err(Failure::error(what));
    }
    Ok(String::from_utf8_lossy(&ended.stdout).into_owned())
}

fn figures(printed: &str, count: Count) -> Result<Figures, Failure> {
    let it: Value = serde_json::from_str(printed.trim()).map_err(Failure::error)?;
    let number = |name: &str| {
        it[name]
            .as_f64()
            .ok_or_else(|| Failure::error(format!("no {name} in {printed}")))
    };
    Ok(Figures {
        per_second: number(count.name())?,
        p50_ms: number("p50_ms")?,
        p99_ms: number("p99_ms")?,
    })
}

/// From `name=value` pairs in the last line.
fn peer_figures(printed: &str, count: Count) -> Result<Figures, Failure> {
    let last = printed.trim().lines().last().unwrap_or_default();
    let number = |name: &str| {
        let mut pairs = last.split_whitespace().filter_map(|it| it.split_once('='));
        pairs
            .find(|(key, _)| *key == name)
            .and_then(|(_, value)| value.parse().ok())
            .ok_or_else(|| Failure::error(format!("the peer printed no {name}: {last}")))
    };
    Ok(Figures {
        per_second: number(count.name())?,
        p50_ms: number("p50_ms")?,
        p99_ms: number("p99_ms")?,
    })
}

impl Count {
    fn name(self) -> &'static str {
        match self {
            Self::Steps => "steps_per_s",
            Self::Runs(_) => "runs_per_s",
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::Steps => "steps",
            Self::Runs(unit) => unit,
        }
    }
}

fn text(args: &str, count: Count, ours: &[Figures], theirs: &[Figures]) -> String {
    let range =
        |all: &[Figures], get: fn(&Figures) -> f64| Range::of(all.iter().map(get).collect());
    let per_second = range(ours, |it| it.per_second);
    let peer = range(theirs, |it| it.per_second);
    let (peer_text, ratio) = match theirs {
        [] => (String::new(), String::new()),
        _ => (
            peer.text(),
            format!("{:.1}", per_second.median / peer.median),
        ),
    };
    format!(
        "| `bench {args}` | {} | {} | {:.2} ms | {:.1} ms | {peer_text} | {ratio} |",
        count.unit(),
        per_second.text(),
        range(ours, |it| it.p50_ms).median,
        range(ours, |it| it.p99_ms).median,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_tells_the_medians_and_the_ratio_to_the_peer() {
        let printed = |n: u32| {
            format!("{{\"steps_per_s\": {n}, \"runs_per_s\": 1, \"p50_ms\": {n}.5, \"p99_ms\": 9}}")
        };
        let ours = [3000, 1000, 2000].map(|n| figures(&printed(n), Count::Steps).unwrap());
        let line = "warm\npeer=x steps_per_s=500 runs_per_s=50 p50_ms=7.5 p99_ms=8\n";
        let theirs = [peer_figures(line, Count::Steps).unwrap()];
        assert_eq!(
            text("steps", Count::Steps, &ours, &theirs),
            "| `bench steps` | steps | 2000 (1000–3000) | 2000.50 ms | 9.0 ms | 500.00 (500.00–500.00) | 4.0 |"
        );
        assert_eq!(
            text("steps", Count::Steps, &ours, &[]),
            "| `bench steps` | steps | 2000 (1000–3000) | 2000.50 ms | 9.0 ms |  |  |"
        );
        assert!(peer_figures("steps_per_s=5", Count::Steps).is_err());
    }
}
