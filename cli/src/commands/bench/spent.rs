//! What a measurement cost: processors, disks, and the time that commits took in each stage.
//!
//! Not here: reading a process (`local`), printing (`figures`).

use holdfast_jepsen::cluster::Process;
use serde_json::{Value, json};

use super::figures::Measured;
use super::local::{Local, Used, used, used_here};
use crate::output::Failure;

/// A moment of all processes.
pub struct Moment {
    nodes: Vec<Used>,
    worker: Used,
    load: Used,
    metrics: Vec<String>,
}

impl Moment {
    /// Now.
    ///
    /// # Errors
    /// A node does not answer.
    pub async fn now(local: &Local, worker: Option<&Process>) -> Result<Self, Failure> {
        Ok(Self {
            nodes: local.used(),
            worker: worker.map_or_else(Used::default, used),
            load: used_here(),
            metrics: local.metrics().await?,
        })
    }
}

/// The stages of a commit on its leader, as its metrics name them, in their order.
const STAGES: [&str; 4] = ["queued", "synced", "committed", "applied"];

/// What lies between two moments.
pub struct Spent {
    /// Seconds of processors: each node, the worker, the load.
    nodes: Vec<f64>,
    worker: f64,
    load: f64,
    /// By node: bytes given to disks, and of them to the log's store; syncs of the log.
    disks: Vec<Disk>,
    /// Entries that the leader answered, commands in them, and how long one took on average, in milliseconds.
    commits: Mean,
    commands: f64,
    /// The means of its stages, in milliseconds.
    stages: Vec<(&'static str, Mean)>,
}

#[derive(Debug, Clone, Copy)]
struct Disk {
    written: u64,
    logged: f64,
    syncs: f64,
}

/// So many, and their mean in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Mean {
    count: f64,
    ms: f64,
}

impl Spent {
    /// Between two moments.
    pub fn between(before: &Moment, after: &Moment) -> Self {
        let nodes = before.nodes.iter().zip(&after.nodes);
        let metrics = || before.metrics.iter().zip(&after.metrics);
        let disks = nodes.clone().zip(metrics());
        let disks = disks.map(|((a, b), (was, is))| Disk {
            written: b.written.saturating_sub(a.written),
            logged: grown(was, is, "holdfast_log_written_bytes_total", ""),
            syncs: grown(was, is, "holdfast_log_fsync_duration_seconds_count", ""),
        });
        let disks = disks.collect();
        // Whoever answered most led most of the time.
        let answered =
            |(was, is): &(&String, &String)| mean(was, is, "holdfast_raft_commit_duration", "");
        let leads = metrics().max_by(|a, b| answered(a).count.total_cmp(&answered(b).count));
        let commits = leads.as_ref().map(answered).unwrap_or_default();
        let stages = leads.into_iter().flat_map(|(was, is)| {
            STAGES.map(|stage| {
                let label = format!("stage=\"{stage}\"");
                (stage, mean(was, is, "holdfast_raft_stage_duration", &label))
            })
        });
        let commands = metrics()
            .map(|(was, is)| grown(was, is, "holdfast_raft_entry_commands_sum", ""))
            .sum();
        Self {
            nodes: nodes.map(|(a, b)| b.cpu - a.cpu).collect(),
            worker: after.worker.cpu - before.worker.cpu,
            load: after.load.cpu - before.load.cpu,
            disks,
            commits,
            commands,
            stages: stages.collect(),
        }
    }

    fn cpu(&self) -> f64 {
        self.nodes.iter().sum::<f64>() + self.worker + self.load
    }

    /// For people.
    pub fn lines(&self, of: &Measured) -> Vec<String> {
        let (secs, items, unit) = (of.within.as_secs_f64(), items(of), unit(of));
        let share = |cpu: &f64| format!("{:.0}", cpu / secs * 100.0);
        let nodes: Vec<String> = self.nodes.iter().map(share).collect();
        let mut lines = vec![format!(
            "cpu      nodes {} · worker {} · load {} % of a core; {:.1} µs of all of it a {unit}",
            nodes.join(" + "),
            share(&self.worker),
            share(&self.load),
            self.cpu() * 1e6 / items,
        )];
        for (nth, disk) in (1..).zip(&self.disks) {
            lines.push(format!("disk n{nth}  {} a {unit}", disk.text(secs, items)));
        }
        let stages: Vec<String> = self
            .stages
            .iter()
            .map(|(name, it)| format!("{name} {:.3}", it.ms))
            .collect();
        lines.push(format!(
            "commits  {:.0}/s of {:.1} commands, {:.3} ms from entry to replies; means of stages in ms: {}",
            self.commits.count / secs,
            self.commands / self.commits.count.max(1.0),
            self.commits.ms,
            stages.join(", "),
        ));
        lines
    }

    /// For programs.
    pub fn json(&self, of: &Measured) -> Value {
        let (secs, items) = (of.within.as_secs_f64(), items(of));
        let disks = self.disks.iter().map(|it| {
            json!({ "written_bytes": as_float(it.written) / items, "logged_bytes": it.logged / items, "syncs_per_s": it.syncs / secs })
        });
        let stages = self
            .stages
            .iter()
            .map(|(name, it)| ((*name).to_owned(), json!(it.ms)));
        json!({
            "per": unit(of), "cpu_s": { "nodes": self.nodes, "worker": self.worker, "load": self.load },
            "cpu_us": self.cpu() * 1e6 / items,
            "disks": disks.collect::<Vec<_>>(),
            "commits_per_s": self.commits.count / secs, "commands": self.commands, "commit_ms": self.commits.ms,
            "stages_ms": stages.collect::<serde_json::Map<_, _>>(),
        })
    }
}

impl Disk {
    fn text(&self, secs: f64, items: f64) -> String {
        let written = as_float(self.written);
        format!(
            "{:.0} syncs/s; {:.0} bytes logged, {:.0} given to the disk ({:.1} times)",
            self.syncs / secs,
            self.logged / items,
            written / items,
            written / self.logged.max(1.0),
        )
    }
}

/// What costs are divided by: steps, or runs where there are none.
fn items(of: &Measured) -> f64 {
    as_float(of.steps.max(of.runs).max(1))
}

fn unit(of: &Measured) -> &'static str {
    if of.steps > 0 { "step" } else { "run" }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn as_float(n: u64) -> f64 {
    n as f64
}

/// By how much the samples of this name and label have grown, over all groups.
fn grown(before: &str, after: &str, name: &str, label: &str) -> f64 {
    sum(after, name, label) - sum(before, name, label)
}

fn sum(text: &str, name: &str, label: &str) -> f64 {
    let samples = text.lines().filter_map(|line| line.strip_prefix(name));
    let values = samples.filter_map(|rest| {
        let (labels, value) = rest.rsplit_once(' ')?;
        let whole = labels.is_empty() || labels.starts_with('{');
        (whole && labels.contains(label)).then(|| value.parse::<f64>().ok())?
    });
    values.sum()
}

/// Of a histogram of seconds.
fn mean(before: &str, after: &str, name: &str, label: &str) -> Mean {
    let grown = |end: &str| grown(before, after, &format!("{name}_seconds_{end}"), label);
    let count = grown("count");
    Mean {
        count,
        ms: grown("sum") * 1e3 / count.max(1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "a_total 5\na_total_else 100\nb_seconds_sum{g=\"1\",stage=\"x\"} 1\nb_seconds_count{g=\"1\",stage=\"x\"} 10\n";
    const AFTER: &str = "a_total 7\na_total_else 900\nb_seconds_sum{g=\"1\",stage=\"x\"} 1.5\nb_seconds_count{g=\"1\",stage=\"x\"} 20\n\
        b_seconds_sum{g=\"2\",stage=\"x\"} 0.5\nb_seconds_count{g=\"2\",stage=\"x\"} 10\nb_seconds_count{g=\"2\",stage=\"y\"} 99\n";

    #[test]
    fn samples_are_added_over_groups_and_names_are_whole() {
        assert!((grown(BEFORE, AFTER, "a_total", "") - 2.0).abs() < 1e-9);
        let it = mean(BEFORE, AFTER, "b", "stage=\"x\"");
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(near(it.count, 20.0) && near(it.ms, 50.0), "{it:?}");
        assert_eq!(mean(BEFORE, BEFORE, "b", "stage=\"x\""), Mean::default());
    }
}
