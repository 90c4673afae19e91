//! What a test run is asked to be.
//!
//! Invariant: all of it is in `setup.json` and in `repro.sh`. Not here: reading it from a command line (`jepsen run`).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{PartCommand, Require};
use crate::load::Workload;
use crate::nemesis::Kind;
use crate::network::Means;
use crate::sink::Mode;

/// Where live lines go.
pub type Say = Arc<dyn Fn(&str) + Send + Sync>;

/// How a run is made.
#[derive(Clone)]
pub struct Options {
    /// The `holdfast` binary.
    pub holdfast: PathBuf,
    /// How the harness's own child processes are started.
    pub part: PartCommand,
    /// Where folders of runs are made.
    pub store: PathBuf,
    /// Nodes.
    pub nodes: u16,
    /// Partitions.
    pub partitions: u32,
    /// Worker processes.
    pub workers: u16,
    /// Clients.
    pub clients: u32,
    /// Calls per second, over all clients.
    pub rate: u32,
    /// The workload.
    pub workload: &'static Workload,
    /// How the network is made, and broken.
    pub net: Means,
    /// The faults.
    pub nemeses: Vec<Kind>,
    /// Between two faults of a kind, on average.
    pub interval: Duration,
    /// Before the first fault.
    pub lead_in: Duration,
    /// Lead-in and faults.
    pub duration: Duration,
    /// Of everything that is chosen.
    pub seed: u64,
    /// The kind of sink.
    pub sink: Mode,
    /// What must have happened.
    pub require: Vec<Require>,
    /// A command that is a user's own worker, instead of ours.
    pub worker_command: Option<String>,
    /// With it: which workflow is started, and its input as JSON.
    pub own: Option<(String, String)>,
    /// Settings for every node, as environment variables.
    pub node_env: Vec<(String, String)>,
    /// The command line that repeats it.
    pub command: String,
    /// Keeps the processes.
    pub leave_running: bool,
    /// Live lines.
    pub say: Say,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("command", &self.command)
            .finish_non_exhaustive()
    }
}

impl Options {
    /// Three nodes of this binary, two workers, four clients, the mix, and no faults.
    pub fn new(
        holdfast: impl Into<PathBuf>,
        part: PartCommand,
        workload: &'static Workload,
    ) -> Self {
        Self {
            holdfast: holdfast.into(),
            part,
            store: PathBuf::from("store"),
            nodes: 3,
            partitions: 1,
            workers: 2,
            clients: 4,
            rate: 40,
            workload,
            net: Means::Gates,
            nemeses: Vec::new(),
            interval: Duration::from_secs(10),
            lead_in: Duration::from_secs(5),
            duration: Duration::from_secs(30),
            seed: 1,
            sink: Mode::Idempotent,
            require: Vec::new(),
            worker_command: None,
            own: None,
            node_env: Vec::new(),
            command: String::new(),
            leave_running: false,
            say: Arc::new(|_| {}),
        }
    }
}
