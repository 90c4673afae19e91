//! The harness's own child processes: the sink and the workers.
//!
//! Invariant: a part is told what to be by one environment variable, so that any binary that calls [`Part::run`] can be one. Not
//! here: what they do (`sink`, `load::worker`).

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cluster::ProcessSpec;
use crate::load::{WorkerConfig, work, work_as_herd};
use crate::sink::{Mode, Sink};

/// What a part is told by.
pub const PART_VARIABLE: &str = "JEPSEN_PART";

/// The command that becomes a part.
#[derive(Debug, Clone)]
pub struct PartCommand {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
}

impl PartCommand {
    pub(super) fn spec(&self, name: &str, log: PathBuf, part: &Part) -> ProcessSpec {
        let told = serde_json::to_string(part).unwrap_or_default();
        ProcessSpec::new(name, &self.program, log)
            .args(self.args.clone())
            .env(PART_VARIABLE, told)
    }
}

/// One child process.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "part", rename_all = "kebab-case")]
pub enum Part {
    /// The sink.
    Sink {
        /// Its rules.
        mode: Mode,
        /// Its file.
        file: PathBuf,
        /// Where it listens.
        addr: SocketAddr,
    },
    /// A worker.
    Worker(WorkerConfig),
    /// Many workers in one process.
    Herd {
        /// As for one; each adds its number to the name.
        config: WorkerConfig,
        /// How many.
        workers: u16,
    },
}

impl Part {
    /// The part that this process is told to be; `None`: it is told nothing.
    pub fn told() -> Option<Self> {
        let text = std::env::var(PART_VARIABLE).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Is it, until it is told to end.
    ///
    /// # Errors
    /// What kept it from beginning or going on, as a sentence.
    pub async fn run(self) -> Result<(), String> {
        match self {
            Self::Sink { mode, file, addr } => {
                let sink = Sink::open(mode, &file, addr).await;
                let sink = sink.map_err(|cause| cause.to_string())?;
                sink.serve().await.map_err(|cause| cause.to_string())
            }
            Self::Herd { config, workers } => {
                let worked = work_as_herd(config, workers).await;
                worked.map_err(|cause| cause.to_string())
            }
            Self::Worker(config) => work(config).await.map_err(|cause| cause.to_string()),
        }
    }
}
