//! Three nodes in one process, each on runtimes of its own, and a worker that speaks the wire by hand.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use holdfast_node::{
    serve::Node,
    settings::{Overrides, Settings},
};
use holdfast_proto::v1::{
    self, cluster_client::ClusterClient, from_worker::Message as From, runs_client::RunsClient,
    to_worker::Message as To, work_client::WorkClient,
};
use tempfile::TempDir;
use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Streaming,
    transport::{Channel, Endpoint},
};

/// Long enough for a slow machine, short enough to notice.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct TestNode {
    runtime: Option<Runtime>,
    node: Option<Node>,
    overrides: Overrides,
}

impl TestNode {
    async fn start(overrides: Overrides) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let settings = Settings::load(&overrides).unwrap();
        holdfast_node::telemetry::init_logs(&settings).unwrap();
        let node = runtime.spawn(Node::start(settings)).await.unwrap().unwrap();
        // From here on the ports are fixed, so that a restart is found where it was.
        let overrides = overrides
            .set("listen.api", node.api())
            .set("listen.peer", node.peer())
            .set("listen.admin", node.admin());
        Self {
            runtime: Some(runtime),
            node: Some(node),
            overrides,
        }
    }

    pub fn node(&self) -> &Node {
        self.node.as_ref().unwrap()
    }

    pub fn is_up(&self) -> bool {
        self.node.is_some()
    }

    /// As if its process had died.
    pub fn kill(&mut self) {
        self.node.take().unwrap().kill();
        self.runtime.take().unwrap().shutdown_background();
    }

    pub async fn stop(&mut self) -> Duration {
        let (node, began) = (self.node.take().unwrap(), Instant::now());
        let runtime = self.runtime.take().unwrap();
        runtime.spawn(node.stop()).await.unwrap();
        runtime.shutdown_background();
        began.elapsed()
    }
}

/// A database may not be open when the process ends: its own destructors would meet threads that still use it.
impl Drop for Cluster {
    fn drop(&mut self) {
        let leaving = self.nodes.iter_mut().filter_map(|it| {
            let (node, runtime) = (it.node.take()?, it.runtime.take()?);
            // A thread of its own, since a runtime may not be waited for inside another.
            Some(std::thread::spawn(move || runtime.block_on(node.stop())))
        });
        for thread in leaving.collect::<Vec<_>>() {
            drop(thread.join());
        }
    }
}

pub struct Cluster {
    pub nodes: Vec<TestNode>,
    folders: Vec<TempDir>,
}

impl Cluster {
    pub async fn formed(partitions: u32) -> Self {
        Self::formed_with(partitions, |overrides| overrides).await
    }

    /// Three nodes, formed by an explicit init; `set` may change their settings.
    pub async fn formed_with(partitions: u32, set: impl Fn(Overrides) -> Overrides) -> Self {
        let (mut nodes, mut folders) = (Vec::new(), Vec::new());
        for id in 1..=3 {
            let folder = tempfile::tempdir().unwrap();
            let overrides = settings_of(id, folder.path());
            nodes.push(TestNode::start(set(overrides)).await);
            folders.push(folder);
        }
        let cluster = Self { nodes, folders };
        let members = cluster.nodes.iter().map(|it| v1::InitMember {
            node: 0,
            peer: it.node().peer().to_string(),
            api: String::new(),
        });
        let request = v1::InitRequest {
            name: "test".into(),
            partitions,
            members: members.collect(),
            abandon: false,
        };
        let reply = cluster
            .admin(0)
            .init(request.clone())
            .await
            .unwrap()
            .into_inner();
        assert!(reply.formed);
        assert!(
            !cluster
                .admin(0)
                .init(request)
                .await
                .unwrap()
                .into_inner()
                .formed,
            "a repeat"
        );
        for partition in 1..=partitions {
            cluster.leader(partition).await;
        }
        cluster
    }

    pub fn channel(&self, node: usize) -> Channel {
        let address = format!("http://{}", self.nodes[node].node().api());
        Endpoint::from_shared(address).unwrap().connect_lazy()
    }

    pub fn runs(&self, node: usize) -> RunsClient<Channel> {
        RunsClient::new(self.channel(node))
    }

    pub fn admin(&self, node: usize) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel(node))
    }

    /// The node that leads a partition by its own account, and has shown it by a command that it took.
    pub async fn leader(&self, partition: u32) -> usize {
        let began = Instant::now();
        loop {
            for (nth, it) in self.nodes.iter().enumerate().filter(|(_, it)| it.is_up()) {
                let topology = self.admin(nth).topology(v1::TopologyRequest {}).await;
                let Ok(topology) = topology else { continue };
                let leader = topology
                    .into_inner()
                    .leaders
                    .into_iter()
                    .find(|it| it.partition == partition);
                if leader.is_some_and(|leader| leader.node == it.node().node_id())
                    && self.takes_commands(nth, partition).await
                {
                    return nth;
                }
            }
            assert!(
                began.elapsed() < PATIENCE,
                "partition {partition} got no leader"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn takes_commands(&self, node: usize, partition: u32) -> bool {
        let noop = v1::NoopRequest {
            first: 0,
            count: 1,
            payload: bytes::Bytes::new(),
            partition,
        };
        let answers = self.admin(node).noop(tokio_stream::iter([noop])).await;
        let Ok(answers) = answers else { return false };
        let answer = answers.into_inner().message().await;
        answer.is_ok_and(|it| it.is_some_and(|it| it.error.is_empty()))
    }

    /// A node that is up and does not lead partition 1.
    pub async fn follower(&self) -> usize {
        let leader = self.leader(1).await;
        (0..3)
            .find(|nth| *nth != leader && self.nodes[*nth].is_up())
            .unwrap()
    }

    /// Some node that is up.
    pub fn any(&self) -> usize {
        self.nodes.iter().position(TestNode::is_up).unwrap()
    }

    /// One more node, that belongs to no cluster yet.
    pub async fn another(&mut self, id: u64) -> usize {
        let folder = tempfile::tempdir().unwrap();
        let overrides = settings_of(id, folder.path());
        self.nodes.push(TestNode::start(overrides).await);
        self.folders.push(folder);
        self.nodes.len() - 1
    }

    /// A node that was stopped.
    pub async fn start_again(&mut self, node: usize) {
        let overrides = self.nodes[node].overrides.clone();
        self.nodes[node] = TestNode::start(overrides).await;
    }

    pub async fn restart_all(&mut self, set: impl Fn(Overrides) -> Overrides) {
        for it in &mut self.nodes {
            if it.is_up() {
                it.stop().await;
            }
        }
        for nth in 0..3 {
            let overrides = set(self.nodes[nth].overrides.clone());
            self.nodes[nth] = TestNode::start(overrides).await;
        }
        self.leader(1).await;
    }

    /// Starts a run, whoever leads meanwhile.
    pub async fn start(&self, run: &str) -> v1::StartReply {
        let began = Instant::now();
        loop {
            match self.runs(self.any()).start(start(run)).await {
                Ok(reply) => return reply.into_inner(),
                Err(status) if status.code() == tonic::Code::Unavailable => {
                    assert!(began.elapsed() < PATIENCE, "{status:?}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(status) => panic!("{status:?}"),
            }
        }
    }

    /// Why a start is refused, whoever leads meanwhile.
    pub async fn refused(&self, request: v1::StartRequest) -> tonic::Status {
        let began = Instant::now();
        loop {
            let status = self
                .runs(self.any())
                .start(request.clone())
                .await
                .unwrap_err();
            if status.code() != tonic::Code::Unavailable || began.elapsed() > PATIENCE {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until a run is over.
    pub async fn result(&self, run: &str) -> v1::RunDescription {
        let request = v1::ResultRequest {
            run_id: run.into(),
            wait_ms: 15_000,
            at_least: None,
        };
        self.runs(self.any())
            .result(request)
            .await
            .unwrap()
            .into_inner()
            .run
            .unwrap()
    }

    /// Waits until a node refuses to show a run for this reason.
    pub async fn until_refused(&self, node: usize, run: &str, code: &str) -> tonic::Status {
        let began = Instant::now();
        loop {
            let request = v1::GetRequest {
                run_id: run.into(),
                ..v1::GetRequest::default()
            };
            let got = self.runs(node).get(request).await;
            let reason = |status: &tonic::Status| {
                let info = tonic_types::StatusExt::get_details_error_info(status);
                info.map(|it| it.reason).unwrap_or_default()
            };
            match got {
                Err(status) if reason(&status) == code => return status,
                other => assert!(began.elapsed() < PATIENCE, "{other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until a run has this status.
    pub async fn until(&self, run: &str, status: v1::RunStatus) -> v1::RunDescription {
        let began = Instant::now();
        loop {
            let request = v1::GetRequest {
                run_id: run.into(),
                stale: false,
                at_least: None,
            };
            let got = self.runs(self.any()).get(request).await;
            if let Ok(got) = &got {
                let run = got.get_ref().run.clone().unwrap();
                if run.summary.as_ref().unwrap().status() == status {
                    return run;
                }
            }
            assert!(
                began.elapsed() < PATIENCE,
                "{run} is not {status:?} but {got:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A worker at the leader of a partition, new, with room for work.
    pub async fn worker(&self, partition: u32) -> Worker {
        self.worker_with(hello(partition)).await
    }

    pub async fn worker_with(&self, hello: v1::Hello) -> Worker {
        let began = Instant::now();
        loop {
            let leader = self.leader(hello.partition).await;
            match Worker::attach(self.channel(leader), hello.clone()).await {
                Ok(worker) => return worker,
                Err(last) => assert!(began.elapsed() < PATIENCE, "{last:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn settings_of(id: u64, folder: &std::path::Path) -> Overrides {
    Overrides::default()
        .set("node.id", id)
        .set("node.data", folder.display())
        .set("listen.api", "127.0.0.1:0")
        .set("listen.peer", "127.0.0.1:0")
        .set("listen.admin", "127.0.0.1:0")
        // Elections are not what is tested: a busy machine must not bring any about.
        .set("raft.profile", "custom")
        .set("raft.heartbeat", "100ms")
        .set("raft.election_min", "800ms")
        .set("raft.election_max", "1500ms")
        .set("disk.soft", 0)
        .set("disk.hard", 0)
        .set(
            "telemetry.log",
            std::env::var("RUST_LOG").unwrap_or("error".into()),
        )
}

/// What the admin port answers to a GET: status line and body.
pub async fn http_get(address: std::net::SocketAddr, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let ask = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

pub fn start(run: &str) -> v1::StartRequest {
    v1::StartRequest {
        workflow: "order".into(),
        run_id: run.into(),
        input: b"1001".as_slice().into(),
        ..v1::StartRequest::default()
    }
}

pub fn hello(partition: u32) -> v1::Hello {
    v1::Hello {
        partition,
        queue: "default".into(),
        name: "worker-a".into(),
        process: format!("process-{partition}-{:?}", std::time::SystemTime::now())
            .replace(|c: char| !c.is_ascii_alphanumeric(), "-"),
        sdk: "test/1".into(),
        protocol_min: 1,
        protocol_max: 1,
        workflows: vec![v1::WorkflowRegistration {
            name: "order".into(),
            version: 1,
        }],
        steps: vec!["charge".into()],
        slots: 8,
        ..v1::Hello::default()
    }
}

/// A worker by hand.
pub struct Worker {
    to: mpsc::Sender<v1::FromWorker>,
    from: Streaming<v1::ToWorker>,
    pub welcome: v1::Welcome,
    beats: u64,
    pub echoed: BTreeMap<u64, Instant>,
}

impl Worker {
    pub async fn attach(channel: Channel, hello: v1::Hello) -> Result<Self, Option<To>> {
        let (to, messages) = mpsc::channel(64);
        to.send(v1::FromWorker {
            message: Some(From::Hello(hello)),
        })
        .await
        .unwrap();
        let mut client = WorkClient::new(channel);
        let mut from = match client.attach(ReceiverStream::new(messages)).await {
            Ok(stream) => stream.into_inner(),
            Err(_) => return Err(None),
        };
        match tokio::time::timeout(PATIENCE, from.message())
            .await
            .unwrap()
        {
            Ok(Some(v1::ToWorker {
                message: Some(To::Welcome(welcome)),
            })) => {
                let mut worker = Self {
                    to,
                    from,
                    welcome,
                    beats: 0,
                    echoed: BTreeMap::new(),
                };
                worker
                    .send(From::Credit(v1::Credit {
                        drives: 1000,
                        steps: 1000,
                    }))
                    .await;
                Ok(worker)
            }
            Ok(other) => Err(other.and_then(|it| it.message)),
            Err(_) => Err(None),
        }
    }

    pub async fn send(&mut self, message: From) {
        drop(
            self.to
                .send(v1::FromWorker {
                    message: Some(message),
                })
                .await,
        );
    }

    pub async fn beat(&mut self) -> u64 {
        self.beats += 1;
        let number = self.beats;
        self.send(From::Beat(v1::Beat { number })).await;
        number
    }

    /// The next message that is no echo; none: the stream ended.
    pub async fn next(&mut self) -> Option<To> {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.from.message());
            match next.await.expect("nothing came") {
                Ok(Some(v1::ToWorker {
                    message: Some(To::Beat(beat)),
                })) => {
                    self.echoed.insert(beat.number, Instant::now());
                }
                Ok(Some(it)) => return it.message,
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// Whether this beat is echoed within a time.
    pub async fn is_echoed(&mut self, number: u64, within: Duration) -> bool {
        let until = Instant::now() + within;
        while !self.echoed.contains_key(&number) {
            let left = until.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, self.from.message()).await {
                Ok(Ok(Some(v1::ToWorker {
                    message: Some(To::Beat(beat)),
                }))) => {
                    self.echoed.insert(beat.number, Instant::now());
                }
                Ok(Ok(Some(_))) => {}
                Ok(Ok(None) | Err(_)) | Err(_) => return false,
            }
        }
        true
    }

    pub async fn drive(&mut self) -> v1::Drive {
        match self.next().await {
            Some(To::Drive(drive)) => drive,
            other => panic!("a Drive was to come, not {other:?}"),
        }
    }

    pub async fn advance(&mut self, advance: v1::Advance) -> v1::Advanced {
        self.send(From::Advance(advance)).await;
        match self.next().await {
            Some(To::Advanced(advanced)) => advanced,
            other => panic!("an Advanced was to come, not {other:?}"),
        }
    }

    /// Drives a run through one step to its end.
    pub async fn finish(&mut self, drive: &v1::Drive) {
        let first = self
            .advance(advance(drive, 1, vec![], vec![charge(0)]))
            .await;
        assert_eq!(first.outcome(), v1::AdvanceOutcome::GoesOn, "{first:?}");
        let done = done(&first.grants[0]);
        let last = self
            .advance(advance(drive, 2, vec![done], vec![complete(1)]))
            .await;
        assert_eq!(last.outcome(), v1::AdvanceOutcome::Finished, "{last:?}");
    }
}

pub fn advance(
    drive: &v1::Drive,
    number: u32,
    results: Vec<v1::StepResult>,
    intents: Vec<v1::Intent>,
) -> v1::Advance {
    v1::Advance {
        run: drive.run.clone(),
        fence: drive.fence,
        number,
        delivery: drive.delivery,
        results,
        intents,
        free_slots: 8,
        ..v1::Advance::default()
    }
}

pub fn intent(entry: u32, name: &str, kind: v1::intent::Kind) -> v1::Intent {
    let key = v1::StepKey {
        scope: "0".into(),
        name: name.into(),
        occurrence: 0,
    };
    v1::Intent {
        entry,
        key: Some(key),
        digest: 7,
        kind: Some(kind),
    }
}

pub fn charge(entry: u32) -> v1::Intent {
    let step = v1::StepIntent {
        step: "charge".into(),
        input: b"1001".as_slice().into(),
        ..v1::StepIntent::default()
    };
    intent(entry, "charge", v1::intent::Kind::Step(step))
}

pub fn complete(entry: u32) -> v1::Intent {
    intent(
        entry,
        "end",
        v1::intent::Kind::Complete(b"\"ok\"".as_slice().into()),
    )
}

pub fn done(grant: &v1::Grant) -> v1::StepResult {
    let kind = v1::attempt_outcome::Kind::Done(b"\"paid\"".as_slice().into());
    let outcome = Some(v1::AttemptOutcome { kind: Some(kind) });
    v1::StepResult {
        entry: grant.entry,
        fence: grant.fence,
        outcome,
    }
}
