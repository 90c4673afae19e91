//! A cluster of our own, and what its processes have used.
//!
//! Not here: comparing two moments (`spent`).

use std::path::PathBuf;
use std::time::Duration;

use holdfast::{Client, wire};
use holdfast_jepsen::cluster::{Cluster, ClusterSpec, Process};

use crate::output::Failure;

/// A process that was asked to end does so well within this, also beside others.
pub const STOP_WITHIN: Duration = Duration::from_secs(20);

/// A cluster of our own. Ends with the value.
pub struct Local {
    pub cluster: Cluster,
    _folder: tempfile::TempDir,
}

/// What a process has used so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Used {
    /// Seconds of processors.
    pub cpu: f64,
    /// Bytes given to disks.
    pub written: u64,
}

impl Local {
    /// Starts and forms it.
    ///
    /// # Errors
    /// A node did not start, or no leader was there within 10 s.
    pub async fn start(nodes: u16, partitions: u32) -> Result<Self, Failure> {
        let home = std::env::var_os("HOME").map_or_else(std::env::temp_dir, PathBuf::from);
        let cache = home.join(".cache").join("holdfast");
        std::fs::create_dir_all(&cache)?;
        let folder = tempfile::Builder::new()
            .prefix("bench-")
            .tempdir_in(cache)?;
        let spec = ClusterSpec::new(std::env::current_exe()?, folder.path())
            .beside_others()
            .nodes(nodes)
            .port_base(0)
            .env("HOLDFAST_TELEMETRY__LOG", "warn");
        let cluster = Cluster::start(spec).map_err(Failure::error)?;
        cluster
            .wait_live(Duration::from_secs(20))
            .await
            .map_err(Failure::error)?;
        let client = Client::connect(&cluster.endpoints()).await?;
        let peers = cluster.peers().into_iter();
        let members = peers.map(|peer| wire::InitMember {
            peer,
            ..Default::default()
        });
        let request = wire::InitRequest {
            name: "bench".to_owned(),
            partitions,
            members: members.collect(),
            abandon: false,
        };
        client.cluster_init(request).await?;
        leader(&client).await?;
        Ok(Self {
            cluster,
            _folder: folder,
        })
    }

    /// Asks all nodes to end, and waits for that.
    ///
    /// # Errors
    /// One had to be killed, or ended with an error.
    pub async fn stop(self) -> Result<(), Failure> {
        self.cluster.stop(STOP_WITHIN).await.map_err(Failure::error)
    }

    /// What each node has used so far.
    pub fn used(&self) -> Vec<Used> {
        let nodes = self.cluster.ids().map(|id| self.cluster.node(id));
        nodes.map(used).collect()
    }

    /// What each node says of itself.
    ///
    /// # Errors
    /// A node did not answer within 5 s.
    pub async fn metrics(&self) -> Result<Vec<String>, Failure> {
        let mut all = Vec::new();
        for id in self.cluster.ids() {
            let url = format!("http://127.0.0.1:{}/metrics", self.cluster.ports(id).admin);
            let asked = async { reqwest::get(&url).await?.text().await };
            let within = tokio::time::timeout(Duration::from_secs(5), asked).await;
            all.push(within.map_err(Failure::error)?.map_err(Failure::error)?);
        }
        Ok(all)
    }

    /// Resident memory of each node, in MiB, and bytes of its data folder.
    pub fn sizes(&self) -> Vec<(u64, u64)> {
        let size = |id| {
            let pid = self.cluster.node(id).pid().unwrap_or_default();
            (rss_mib(pid), bytes_in(&self.cluster.data(id)))
        };
        self.cluster.ids().map(size).collect()
    }
}

/// Who leads the first partition.
///
/// # Errors
/// Nobody within 10 s.
pub async fn leader(client: &Client) -> Result<u64, Failure> {
    for _ in 0..1000 {
        if let Ok(topology) = client.topology().await
            && let Some(it) = topology
                .leaders
                .iter()
                .find(|it| it.partition == 1 && it.node != 0)
        {
            return Ok(it.node);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(Failure::error("no leader within 10 s"))
}

/// What a process has used so far; nothing once it has ended.
pub fn used(process: &Process) -> Used {
    process.pid().map_or_else(Used::default, used_by)
}

/// What this process has used so far.
pub fn used_here() -> Used {
    used_by(std::process::id())
}

#[expect(clippy::cast_precision_loss, reason = "hundredths of seconds")]
fn used_by(pid: u32) -> Used {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = stat.rsplit(')').next().unwrap_or_default();
    let words: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |n: usize| number(words.get(n).copied());
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    Used {
        cpu: (ticks(11) + ticks(12)) as f64 / 100.0,
        written: field(&io, "write_bytes:"),
    }
}

fn rss_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    field(&status, "VmRSS:") / 1024
}

/// The number after a name at the beginning of a line.
fn field(text: &str, name: &str) -> u64 {
    let mut rest = text.lines().filter_map(|line| line.strip_prefix(name));
    number(rest.next().and_then(|it| it.split_whitespace().next()))
}

fn number(text: Option<&str>) -> u64 {
    text.and_then(|it| it.parse().ok()).unwrap_or_default()
}

fn bytes_in(folder: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(it) if it.is_dir() => bytes_in(&entry.path()),
        Ok(it) => it.len(),
        Err(_) => 0, // removed since it was listed
    };
    entries.map(size).sum()
}
