//! A town to test in: real node processes, real worker processes, and diaries in which steps write down what they do.
//!
//! Invariant: a worker process is this very test binary, started again to run one ignored test; it dies with the town.
//! Not here: what is promised (the files beside this one).

#![allow(dead_code, reason = "each test binary uses its own part")]

mod proxy;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use holdfast::{Client, ClientError, RunError, Status, StepCx, wire};
use holdfast_jepsen::cluster::{Cluster, ClusterSpec, Process, ProcessSpec};

pub use proxy::Proxy;

/// Long enough for a slow machine, short enough to notice.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Nodes, formed, and a client.
pub struct Town {
    pub cluster: Cluster,
    pub client: Client,
    /// Between workers and nodes, by node, where it was asked for.
    pub proxies: Vec<Proxy>,
    folder: PathBuf,
    _own: Option<tempfile::TempDir>,
}

/// How a town is founded.
pub struct Plan<'a> {
    pub partitions: u32,
    pub nodes: u16,
    pub env: &'a [(&'a str, &'a str)],
    /// Data and logs lie here; none: in a folder of its own, which goes with it.
    pub folder: Option<&'a Path>,
    /// Clients and workers find the nodes at proxies.
    pub behind_proxies: bool,
    /// Each node writes down what it applies.
    pub taps: bool,
    /// The cluster is formed, and leads itself.
    pub forms: bool,
}

impl Default for Plan<'_> {
    fn default() -> Self {
        Self {
            partitions: 1,
            nodes: 3,
            env: &[],
            folder: None,
            behind_proxies: false,
            taps: false,
            forms: true,
        }
    }
}

impl Town {
    pub async fn formed(partitions: u32) -> Self {
        Self::formed_with(partitions, &[]).await
    }

    /// Three nodes with these settings.
    pub async fn formed_with(partitions: u32, env: &[(&str, &str)]) -> Self {
        Self::founded(Plan {
            partitions,
            env,
            ..Plan::default()
        })
        .await
    }

    pub async fn founded(plan: Plan<'_>) -> Self {
        let own = plan.folder.is_none().then(|| tempfile::tempdir().unwrap());
        let folder = plan.folder.map(Path::to_owned);
        let folder = folder.unwrap_or_else(|| own.as_ref().unwrap().path().to_owned());
        let mut spec = ClusterSpec::new(env!("CARGO_BIN_EXE_holdfast"), &folder)
            .beside_others()
            .nodes(plan.nodes);
        for (key, value) in plan.env {
            spec = spec.env(key, *value);
        }
        let cluster = Cluster::start(spec).unwrap();
        cluster.wait_live(PATIENCE).await.unwrap();
        let mut proxies = Vec::new();
        if plan.behind_proxies {
            for id in cluster.ids() {
                let proxy = Proxy::before(cluster.ports(id).api).await;
                let node = cluster.node(id);
                node.kill9().unwrap();
                node.set_env("HOLDFAST_ADVERTISE__API", Some(&proxy.address()));
                node.restart().unwrap();
                proxies.push(proxy);
            }
            cluster.wait_live(PATIENCE).await.unwrap();
        }
        if plan.taps {
            for id in cluster.ids() {
                let tap = tap_of(&folder, id).display().to_string();
                let node = cluster.node(id);
                node.kill9().unwrap();
                node.set_env("HOLDFAST_TESTING__CHAOS_TAP", Some(&tap));
                node.restart().unwrap();
            }
            cluster.wait_live(PATIENCE).await.unwrap();
        }
        let client = Client::connect(&cluster.endpoints()).await.unwrap();
        let town = Self {
            cluster,
            client,
            proxies,
            folder,
            _own: own,
        };
        if plan.forms {
            town.form(plan.partitions).await;
        }
        town
    }

    /// Where a node writes down what it applies.
    pub fn tap(&self, id: u16) -> PathBuf {
        tap_of(&self.folder, id)
    }

    async fn form(&self, partitions: u32) {
        let peers = self.cluster.peers().into_iter();
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
        self.client.cluster_init(request).await.unwrap();
        self.cluster.wait_leader(PATIENCE).await.unwrap();
    }

    /// Where workers call: the proxies, if there are any.
    pub fn endpoints(&self) -> Vec<String> {
        if self.proxies.is_empty() {
            return self.cluster.endpoints();
        }
        self.proxies.iter().map(Proxy::address).collect()
    }

    /// The binary, about to be called on this cluster.
    pub fn holdfast(&self, args: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command
            .args(args)
            .env("HOLDFAST_ENDPOINTS", self.cluster.endpoints().join(","));
        command
    }

    /// As `said`, with words that have no space in them.
    pub fn call(&self, line: &str) -> Said {
        self.said(&line.split(' ').collect::<Vec<_>>())
    }

    /// Calls the binary and takes what it said.
    pub fn said(&self, args: &[&str]) -> Said {
        Said::of(&self.holdfast(args).output().unwrap())
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn diary_path(&self) -> PathBuf {
        self.folder.join("diary.jsonl")
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
        self.worker_at(kind, name, &self.endpoints())
    }

    /// A worker that knows the cluster by these addresses.
    pub fn worker_at(&self, kind: &str, name: &str, endpoints: &[String]) -> Process {
        let log = self.folder.join(format!("worker-{name}.log"));
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
                self.folder.display()
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

    /// Until a step has written this down for a run; its first such line.
    pub async fn until_written(&self, run: &str, what: &str) -> Line {
        self.until(&format!("{run} writes {what}"), async |town| {
            town.diary().of(run, what).next().cloned()
        })
        .await
    }

    /// The result, asked for again while the cluster has no leader.
    pub async fn result(&self, run: &str) -> Result<serde_json::Value, RunError> {
        self.client.run_json(run).result_within(PATIENCE).await
    }
}

fn tap_of(folder: &Path, id: u16) -> PathBuf {
    folder.join(format!(
        "{}{id}.jsonl",
        holdfast_jepsen::records::TAP_PREFIX
    ))
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

/// What a call of the binary said, and how it ended.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    pub fn of(output: &std::process::Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code(),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    /// Ends with this code, and says all of these words, wherever.
    pub fn ends(&self, code: i32, words: &[&str]) -> &Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        for word in words {
            assert!(
                self.out.contains(word) || self.err.contains(word),
                "{word}: {self:#?}"
            );
        }
        self
    }

    /// Its output as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|cause| panic!("{cause}: {self:#?}"))
    }
}

/// In a step: whether this is the first process to come here.
pub fn first_to(mark: &str) -> bool {
    let diary = std::env::var("TOWN_DIARY").unwrap();
    let path = Path::new(&diary).with_file_name(format!("mark-{mark}"));
    std::fs::File::create_new(path).is_ok()
}

pub fn kind_of_worker() -> String {
    std::env::var("TOWN_KIND").unwrap()
}

pub fn unix_ms() -> u64 {
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
