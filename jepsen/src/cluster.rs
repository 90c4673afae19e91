//! A cluster of real nodes on loopback: started, broken and mended from outside.
//!
//! Invariant: a node is known by its pid, its ports, its folder and its log file only. Nothing is asked of it that a load balancer
//! would not ask. Not here: forming the cluster (`Cluster.Init`, by a client), judging what came of it.

mod ports;
mod process;
mod space;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use self::ports::{BusyPort, Claim, NodePorts, claim_ports, free_port};
pub use self::process::{Process, ProcessError, ProcessSpec};
pub use self::space::{Space, leave_for_a_fresh_one};
use crate::http;

/// How often a wait asks again.
const POLL_EVERY: Duration = Duration::from_millis(10);
/// A node that does not answer a probe on loopback in this time is as good as dead for the probe.
const PROBE_WITHIN: Duration = Duration::from_millis(500);
/// Lines of a node's log that an error carries.
const TAIL_LINES: usize = 12;

/// Why the nodes do not stand.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No ports.
    #[error("no ports for the nodes")]
    Ports(#[source] io::Error),
    /// The folder for the data could not be made.
    #[error("the folder {folder} could not be made; choose one that you may write to")]
    Folder {
        /// Which.
        folder: String,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// A process could not be started.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A node ended while it was waited for.
    #[error("{node} ended while it was waited for; the end of {log}:\n{tail}")]
    Ended {
        /// Which.
        node: String,
        /// Its log file.
        log: String,
        /// The end of its log.
        tail: String,
    },
    /// The bound of a wait passed.
    #[error("{node} did not answer {path} with 200 within {within:?}; the end of {log}:\n{tail}")]
    NotYet {
        /// Which.
        node: String,
        /// The probe.
        path: &'static str,
        /// The bound.
        within: Duration,
        /// Its log file.
        log: String,
        /// The end of its log.
        tail: String,
    },
}

/// Which nodes to start.
#[derive(Debug, Clone)]
pub struct ClusterSpec {
    program: PathBuf,
    folder: PathBuf,
    nodes: u16,
    port_base: u16,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

impl ClusterSpec {
    /// Three nodes of the given `holdfast` binary, with their data and logs in `folder`, on any free ports.
    pub fn new(program: impl Into<PathBuf>, folder: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            folder: folder.into(),
            nodes: 3,
            port_base: 0,
            args: Vec::new(),
            env: Vec::new(),
        }
    }

    /// How many nodes.
    #[must_use]
    pub fn nodes(mut self, nodes: u16) -> Self {
        self.nodes = nodes;
        self
    }

    /// The first node's API port; the next free base if it is busy, any free ports for 0.
    #[must_use]
    pub fn port_base(mut self, base: u16) -> Self {
        self.port_base = base;
        self
    }

    /// The nodes live on a disk that is mostly for other things: they go on until 2 % of it are free, not 15 %.
    #[must_use]
    pub fn beside_others(self) -> Self {
        self.env("HOLDFAST_DISK__SOFT", "2%")
            .env("HOLDFAST_DISK__HARD", "1%")
    }

    /// One more argument for each `holdfast serve`.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// One more variable for each node: a setting (`HOLDFAST_A__B`), a moved clock, a preloaded library.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl Into<String>) -> Self {
        self.env.push((key.to_string(), value.into()));
        self
    }
}

/// Running nodes, by id from 1. Dropping it kills them all; their data stay.
#[derive(Debug)]
pub struct Cluster {
    spec: ClusterSpec,
    claim: Claim,
    nodes: Vec<Process>,
}

impl Cluster {
    /// Starts the processes and returns at once; [`wait_live`](Self::wait_live) waits for them.
    ///
    /// # Errors
    /// No free ports, the folder cannot be made, or the program cannot be run.
    pub fn start(spec: ClusterSpec) -> Result<Self, ClusterError> {
        let claim = claim_ports(spec.port_base, spec.nodes).map_err(ClusterError::Ports)?;
        let mut cluster = Self {
            spec,
            claim,
            nodes: Vec::new(),
        };
        for id in 1..=cluster.spec.nodes {
            let node = cluster.process(id)?;
            cluster.nodes.push(node);
        }
        Ok(cluster)
    }

    /// Starts one more node (with free ports, and not yet a member of anything) and returns its id.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub fn start_another(&mut self) -> Result<u16, ClusterError> {
        let claim = claim_ports(0, 1).map_err(ClusterError::Ports)?;
        self.claim.nodes.extend(claim.nodes);
        self.spec.nodes += 1;
        let id = self.spec.nodes;
        let node = self.process(id)?;
        self.nodes.push(node);
        Ok(id)
    }

    /// The ids of all nodes, running or not.
    pub fn ids(&self) -> impl Iterator<Item = u16> + use<> {
        1..=self.spec.nodes
    }

    /// The process of a node.
    ///
    /// # Panics
    /// There is no node of that id.
    pub fn node(&self, id: u16) -> &Process {
        &self.nodes[index(id)]
    }

    /// The ports of a node.
    ///
    /// # Panics
    /// There is no node of that id.
    pub fn ports(&self, id: u16) -> NodePorts {
        self.claim.nodes[index(id)]
    }

    /// The API port of the first node.
    pub fn port_base(&self) -> u16 {
        self.claim.base
    }

    /// Ports of the wished base that others hold; empty when the wish came true.
    pub fn busy(&self) -> &[BusyPort] {
        &self.claim.busy
    }

    /// What a client is given: `http://127.0.0.1:7100` and so on, of all nodes.
    pub fn endpoints(&self) -> Vec<String> {
        self.claim
            .nodes
            .iter()
            .map(|ports| format!("http://127.0.0.1:{}", ports.api))
            .collect()
    }

    /// The peer addresses of all nodes, for forming the cluster.
    pub fn peers(&self) -> Vec<String> {
        self.claim
            .nodes
            .iter()
            .map(|ports| format!("127.0.0.1:{}", ports.peer))
            .collect()
    }

    /// The folder of everything: data and logs.
    pub fn folder(&self) -> &Path {
        &self.spec.folder
    }

    /// The data folder of a node.
    pub fn data(&self, id: u16) -> PathBuf {
        self.spec.folder.join(format!("n{id}"))
    }

    /// Waits until every running node serves: enough to form a cluster of them.
    ///
    /// # Errors
    /// [`ClusterError::Ended`] at once when one ends, [`ClusterError::NotYet`] at the bound; both with the end of its log.
    pub async fn wait_live(&self, within: Duration) -> Result<(), ClusterError> {
        self.wait_for("/livez", within).await
    }

    /// Waits until every running node has caught up and would be given traffic.
    ///
    /// # Errors
    /// As for [`wait_live`](Self::wait_live).
    pub async fn wait_ready(&self, within: Duration) -> Result<(), ClusterError> {
        self.wait_for("/readyz", within).await
    }

    /// Whether a node answers a path of its admin port with 200.
    pub async fn says_yes(&self, id: u16, path: &str) -> bool {
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports(id).admin));
        http::request(to, "GET", path, b"", PROBE_WITHIN)
            .await
            .is_ok_and(|answer| answer.status == 200)
    }

    /// The text of a path of a node's admin port, `/metrics` for instance.
    ///
    /// # Errors
    /// The node does not answer, or not with 200.
    pub async fn text(&self, id: u16, path: &str) -> io::Result<String> {
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports(id).admin));
        let answer = http::request(to, "GET", path, b"", Duration::from_secs(5)).await?;
        if answer.status != 200 {
            return Err(io::Error::other(format!(
                "n{id} answered {path} with {}",
                answer.status
            )));
        }
        String::from_utf8(answer.body).map_err(io::Error::other)
    }

    /// A node that says it leads. Right after a change an old leader may still say so; a test that must know asks the client.
    pub async fn leader(&self) -> Option<u16> {
        for id in self.ids() {
            if self.node(id).is_running() && self.says_yes(id, "/readyz?leader=true").await {
                return Some(id);
            }
        }
        None
    }

    /// Waits for a node that says it leads.
    ///
    /// # Errors
    /// [`ClusterError::NotYet`], about the first node, at the bound.
    pub async fn wait_leader(&self, within: Duration) -> Result<u16, ClusterError> {
        let until = Instant::now() + within;
        loop {
            if let Some(id) = self.leader().await {
                return Ok(id);
            }
            if Instant::now() >= until {
                return Err(self.not_yet(1, "/readyz?leader=true", within));
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    /// Ends all nodes gracefully, all at once; one that does not end in time is killed and named in the error.
    ///
    /// # Errors
    /// [`ProcessError::DidNotEnd`] of the first that had to be killed.
    pub async fn stop(&self, within: Duration) -> Result<(), ClusterError> {
        for node in &self.nodes {
            // One that has ended already needs no signal.
            let _ = node.resume();
            let _ = node.terminate();
        }
        let until = Instant::now() + within;
        let mut first = Ok(());
        for node in &self.nodes {
            let left = until.saturating_duration_since(Instant::now());
            if let Err(late) = node.stop(left).await {
                first = first.and(Err(late.into()));
            }
        }
        first
    }

    fn process(&self, id: u16) -> Result<Process, ClusterError> {
        let (ports, data) = (self.ports(id), self.data(id));
        std::fs::create_dir_all(&self.spec.folder).map_err(|cause| ClusterError::Folder {
            folder: self.spec.folder.display().to_string(),
            cause,
        })?;
        let log = self.spec.folder.join(format!("n{id}.log"));
        // Settings go by environment: their names are a promise, and a caller's own `--config` still may set the rest.
        let mut spec = ProcessSpec::new(&format!("n{id}"), &self.spec.program, log)
            .arg("serve")
            .args(&self.spec.args)
            .env("HOLDFAST_NODE__ID", id.to_string())
            .env("HOLDFAST_NODE__DATA", data.display().to_string())
            .env("HOLDFAST_LISTEN__API", format!("127.0.0.1:{}", ports.api))
            .env("HOLDFAST_LISTEN__PEER", format!("127.0.0.1:{}", ports.peer))
            .env(
                "HOLDFAST_LISTEN__ADMIN",
                format!("127.0.0.1:{}", ports.admin),
            );
        for (key, value) in &self.spec.env {
            spec = spec.env(key, value);
        }
        Ok(Process::start(spec)?)
    }

    async fn wait_for(&self, path: &'static str, within: Duration) -> Result<(), ClusterError> {
        let until = Instant::now() + within;
        for id in self.ids() {
            while !self.says_yes(id, path).await {
                // One that we stopped is not waited for; one that ended by itself is a finding.
                if self.node(id).ended_by_itself() {
                    let node = self.node(id);
                    let (name, log) = (
                        node.name().to_string(),
                        node.log_path().display().to_string(),
                    );
                    return Err(ClusterError::Ended {
                        node: name,
                        log,
                        tail: node.log_tail(TAIL_LINES),
                    });
                }
                if !self.node(id).is_running() {
                    break;
                }
                if Instant::now() >= until {
                    return Err(self.not_yet(id, path, within));
                }
                tokio::time::sleep(POLL_EVERY).await;
            }
        }
        Ok(())
    }

    fn not_yet(&self, id: u16, path: &'static str, within: Duration) -> ClusterError {
        let node = self.node(id);
        let (name, log) = (
            node.name().to_string(),
            node.log_path().display().to_string(),
        );
        ClusterError::NotYet {
            node: name,
            path,
            within,
            log,
            tail: node.log_tail(TAIL_LINES),
        }
    }
}

fn index(id: u16) -> usize {
    usize::from(id).checked_sub(1).expect("node ids begin at 1")
}
