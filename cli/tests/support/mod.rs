//! A town to test in: real node processes, real worker processes, and diaries in which steps write down what they do.
//!
//! Invariant: a worker process is this very test binary, started again to run one ignored test; it dies with the town.
//! Not here: what is promised (the files beside this one).

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use holdfast::{Client, ClientError, RunError, Status, StepCx, wire};
use holdfast_jepsen::cluster::{Cluster, ClusterSpec, Process, ProcessSpec};

/// Long enough for a slow machine, short enough to notice.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Nodes, formed, and a client.
pub struct Town {
    pub cluster: Cluster,
    pub client: Client,
    folder: tempfile::TempDir,
}

impl Town {
    pub async fn formed(partitions: u32) -> Self {
        Self::formed_with(partitions, &[]).await
    }

    /// Three nodes with these settings.
    pub async fn formed_with(partitions: u32, env: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut spec = ClusterSpec::new(env!("CARGO_BIN_EXE_holdfast"), folder.path());
        for (key, value) in env {
            spec = spec.env(key, *value);
        }
        let cluster = Cluster::start(spec).unwrap();
        cluster.wait_live(PATIENCE).await.unwrap();
        let client = Client::connect(&cluster.endpoints()).await.unwrap();
        let peers = cluster.peers().into_iter();
        let members = peers.map(|peer| wire::InitMember {
            peer,
            ..Default::default()
        });
        let request = wire::InitRequest {
            name: "town".to_owned(),
            partitions,
            members: members.collect(),
            abandon: false,
        };
        client.cluster_init(request).await.unwrap();
        cluster.wait_leader(PATIENCE).await.unwrap();
        Self {
            cluster,
            client,
            folder,
        }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn diary_path(&self) -> PathBuf {
        self.folder.path().join("diary.jsonl")
    }

    /// What all workers have written so far.
    pub fn diary(&self) -> Diary {
        Diary::read(&self.diary_path())
    }

    /// A worker process of this kind; the test named `worker_process` of the calling binary makes it.
    pub fn worker(&self, kind: &str) -> Process {
        self.worker_named(kind, kind)
    }

    pub fn worker_named(&self, kind: &str, name: &str) -> Process {
        self.worker_at(kind, name, &self.cluster.endpoints())
    }

    /// A worker that knows the cluster by these addresses.
    pub fn worker_at(&self, kind: &str, name: &str, endpoints: &[String]) -> Process {
        let log = self.folder.path().join(format!("worker-{name}.log"));
        let spec = ProcessSpec::new(name, std::env::current_exe().unwrap(), log)
            .args(["--ignored", "--exact", "worker_process", "--nocapture"])
            .env("TOWN_KIND", kind)
            .env("TOWN_NAME", name)
            .env("TOWN_ENDPOINTS", endpoints.join(","))
            .env("TOWN_DIARY", self.diary_path().display().to_string());
        Process::start(spec).unwrap()
    }

    /// Until `look` finds something.
    pub async fn until<T>(&self, what: &str, mut look: impl AsyncFnMut(&Self) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look(self).await {
                return found;
            }
            assert!(
                Instant::now() < until,
                "{what}: not within {PATIENCE:?}; logs in {}",
                self.folder.path().display()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn until_status(&self, run: &str, status: Status) {
        self.until(&format!("{run} is {status:?}"), async |town| {
            let found = town.client.run_json(run).status().await.ok()?;
            (found == status).then_some(())
        })
        .await;
    }

    /// Until a worker has registered this workflow in this version.
    pub async fn until_served(&self, workflow: &str, version: u32) {
        self.until(&format!("{workflow}@v{version} is served"), async |town| {
            let known = town
                .client
                .list_workflows(wire::ListWorkflowsRequest {})
                .await;
            let known = known.ok()?.workflows;
            let served = known.iter().filter(|it| it.name == workflow).all(|it| {
                it.versions
                    .iter()
                    .any(|it| it.version == version && it.served)
            });
            (served && known.iter().any(|it| it.name == workflow)).then_some(())
        })
        .await;
    }

    /// The result, asked for again while the cluster has no leader.
    pub async fn result(&self, run: &str) -> Result<serde_json::Value, RunError> {
        self.client.run_json(run).result_within(PATIENCE).await
    }
}

/// The client part of a worker process, from what `Town::worker` gave it.
pub async fn client_of_worker() -> Client {
    let endpoints = std::env::var("TOWN_ENDPOINTS").unwrap();
    let endpoints: Vec<&str> = endpoints.split(',').collect();
    loop {
        match Client::connect(&endpoints).await {
            Ok(client) => return client,
            Err(ClientError::Unavailable { .. }) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

pub fn kind_of_worker() -> String {
    std::env::var("TOWN_KIND").unwrap()
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

/// In a step of a worker process: writes one line, whole, whatever happens to the process after.
pub fn write_down(cx: &StepCx, what: &str) {
    use std::io::Write;
    let line = serde_json::json!({
        "run": cx.run_id(), "what": what, "key": cx.idempotency_key(), "fence": cx.fence(), "attempt": cx.attempt(),
        "worker": std::env::var("TOWN_NAME").unwrap(), "at_ms": unix_ms(),
    });
    let path = std::env::var("TOWN_DIARY").unwrap();
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// One line of a diary.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct Line {
    pub run: String,
    pub what: String,
    pub key: String,
    pub fence: u64,
    pub attempt: u32,
    pub worker: String,
    pub at_ms: u64,
}

/// All that steps wrote down, in order.
#[derive(Debug, Default)]
pub struct Diary(pub Vec<Line>);

impl Diary {
    fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        Self(
            text.lines()
                .filter_map(|line| serde_json::from_str(line).ok())
                .collect(),
        )
    }

    pub fn of<'a>(&'a self, run: &'a str, what: &'a str) -> impl Iterator<Item = &'a Line> {
        self.0
            .iter()
            .filter(move |it| it.run == run && it.what == what)
    }

    pub fn count(&self, run: &str, what: &str) -> usize {
        self.of(run, what).count()
    }

    /// How often each step was begun: run, step, times.
    pub fn counts(&self) -> BTreeMap<(String, String), usize> {
        let mut counts = BTreeMap::new();
        for line in &self.0 {
            *counts
                .entry((line.run.clone(), line.what.clone()))
                .or_default() += 1;
        }
        counts
    }
}
