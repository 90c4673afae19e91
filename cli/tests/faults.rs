//! Bad input and faults: in each, nothing acknowledged is lost, and the message says what happened and what to do next.
//! Against real node processes and real worker processes.
//!
//! What is proven elsewhere is not repeated here:
//!
//! | Case | Proven by |
//! |---|---|
//! | unknown workflow; oversize input; unknown enum; empty, malformed, overlong ids | `node/tests/cluster.rs`: what cannot be is refused before it is proposed and says why |
//! | the same id with another input | `node/tests/cluster.rs`: a repeated start attaches …; as exit code 8 in `verbs.rs` |
//! | a stale fence | `node/tests/cluster.rs`: a stale fence changes nothing |
//! | a step reported twice | `node/tests/cluster.rs`: a step of another queue …; an Advance twice: a repeated advance gets its first answer |
//! | a signal to a finished run | `verbs.rs`: changes of a run that has ended are refused … |
//! | a version that nobody serves any more | `deploys.rs`: a run whose version nobody serves is stranded in plain sight … |
//! | every way in which a log can be cut or damaged | `raft/tests/crash.rs`; here the whole node, once each way |
//! | an error of the log's disk ends the process | `raft/tests/crash.rs`: an error of the logs disk ends the process … |
//! | a worker that vanishes in a step that must not be repeated | `deploys.rs`: a charge is never silently lost … |

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use holdfast::{
    Client, ClientError, Cx, Fail, GiveUp, Retry, RunError, Signal, Status, Step, StepCx,
    StepError, Worker, Workflow,
};
use support::{
    PATIENCE, Plan, Said, Town, client_of_worker, first_to, kind_of_worker, unix_ms, write_down,
};

const SHOP: Workflow<String, String> = Workflow::new("shop");
const CHAIN: Workflow<u32, u32> = Workflow::new("chain");
const CHARGE: Step<String, ()> = Step::new("charge");
const WORK: Step<String, String> = Step::new("work");
const MISSPELT: Step<String, ()> = Step::new("chrge");
const LINK: Step<u32, u32> = Step::new("link");
const GO: Signal<bool> = Signal::new("go");

/// The term of a lease, as nodes have it by default: a worker must have stopped its steps by its end.
const TERM_MS: u64 = 5_000;

// ---- what the worker processes do

/// Charges, works, and tells who did the work.
async fn shop(cx: Cx, how: String) -> Result<String, Fail> {
    cx.step(CHARGE, how.clone()).await?;
    match how.as_str() {
        "misspelt" => cx.step(MISSPELT, how.clone()).await?,
        "waits" => {
            cx.wait(GO).await?;
        }
        "function-panics" => panic!("the shop is on fire"),
        _ => {}
    }
    let work = cx.step(WORK, how.clone());
    let work = match how.as_str() {
        "hangs" => work.timeout(Duration::from_secs(1)),
        "oversize" => work.retry(Retry::fixed(Duration::from_millis(20)).then(GiveUp::Fail)),
        _ => work.retry(Retry::fixed(Duration::from_millis(20))),
    };
    Ok(work.await?)
}

async fn work(cx: StepCx, how: String) -> Result<String, StepError> {
    write_down(&cx, "work");
    let me = std::env::var("TOWN_NAME").unwrap();
    let is_first = first_to(cx.run_id());
    match how.as_str() {
        "panics" if is_first => panic!("out of paper"),
        "oversize" => return Ok("x".repeat(300 * 1024)),
        // No await: nothing can stop it but the end of its process.
        "hangs" if is_first => std::thread::sleep(Duration::from_secs(600)),
        "holds" if is_first => return Err(hold(&cx).await),
        "freezes" if is_first => {
            tokio::time::sleep(Duration::from_millis(500)).await;
            write_down(&cx, "thawed");
        }
        _ => {}
    }
    Ok(me)
}

/// Works until it is told to stop, which has to come as soon as nothing is left of the time that it may work.
async fn hold(cx: &StepCx) -> StepError {
    let mut over: Option<Instant> = None;
    loop {
        tokio::select! {
            () = cx.cancelled() => break,
            () = tokio::time::sleep(Duration::from_millis(10)) => {}
        }
        if cx.lease_remaining().is_zero() {
            over.get_or_insert_with(Instant::now);
        }
    }
    let late = over.is_some_and(|at| at.elapsed() > Duration::from_millis(400));
    write_down(cx, if late { "stopped-late" } else { "stopped" });
    StepError::Stopped
}

async fn chain(cx: Cx, links: u32) -> Result<u32, Fail> {
    let mut sum = 0;
    for n in 0..links {
        sum += cx.step(LINK, n).await?;
    }
    Ok(sum)
}

fn worker_of(kind: &str, client: &Client) -> Worker {
    match kind {
        "shop" => Worker::new(client, "shop")
            .workflow(SHOP, shop)
            .step(WORK, work)
            .step(CHARGE, async |cx: StepCx, _| {
                write_down(&cx, "charge");
                Ok(())
            }),
        "chain" => Worker::new(client, "chain").workflow(CHAIN, chain).step(
            LINK,
            async |cx: StepCx, n: u32| {
                write_down(&cx, &format!("link-{n}"));
                tokio::time::sleep(Duration::from_millis(30)).await;
                Ok(n)
            },
        ),
        other => panic!("no such worker: {other}"),
    }
}

#[test]
#[ignore = "a worker process of the other tests"]
fn worker_process() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = client_of_worker().await;
        worker_of(&kind_of_worker(), &client).run().await.unwrap();
    });
}

async fn start(town: &Town, how: &str) -> holdfast::Run<String> {
    let run = town.client.start(SHOP, how, how.to_owned()).await;
    run.unwrap()
}

// ---- bad input

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_no_live_worker_can_move_waits_and_explain_names_what_is_missing() {
    let town = Town::formed(1).await;
    let worker = town.worker("shop");
    town.until_served("shop", 1).await;
    let misspelt = start(&town, "misspelt").await;
    town.until(
        "explain names the step and what is registered",
        async |_| {
            let (sentence, evidence) = misspelt.explain_with_evidence().await.ok()?;
            let named = sentence.contains("no worker serves step chrge on queue shop");
            let listed = evidence
                .iter()
                .any(|it| it.contains("registered on queue shop are: charge, work"));
            (named && listed).then_some(())
        },
    )
    .await;
    worker.stop(PATIENCE).await.unwrap();
    let late = start(&town, "late").await;
    town.until("explain names the workflow", async |_| {
        let sentence = late.explain().await.ok()?;
        sentence
            .contains("no worker serves shop@v1 on queue shop")
            .then_some(())
    })
    .await;
    let _again = town.worker_named("shop", "again");
    assert_eq!(late.result_within(PATIENCE).await.unwrap(), "again");
    assert_eq!(town.diary().count("misspelt", "charge"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused_by_name_with_its_size_and_what_to_do_instead() {
    let town = Town::formed(1).await;
    let _worker = town.worker("shop");
    town.until_served("shop", 1).await;
    let waits = start(&town, "waits").await;
    let huge = "x".repeat(300 * 1024);
    let refused = waits
        .signal(Signal::<String>::new("go"), huge)
        .await
        .unwrap_err();
    let ClientError::Refused { code, message } = &refused else {
        panic!("{refused}")
    };
    assert_eq!(code, "HF3001");
    for word in ["the signal", "307202 bytes", "262144", "keep it elsewhere"] {
        assert!(message.contains(word), "{word}: {message}");
    }
    let failed = start(&town, "oversize").await.result_within(PATIENCE).await;
    let Err(RunError::Failed(fail)) = failed else {
        panic!("{failed:?}")
    };
    assert_eq!(fail.code, "OUTPUT_TOO_LARGE");
    for word in ["307202 bytes", "262144", "keep it elsewhere"] {
        assert!(fail.message.contains(word), "{word}: {}", fail.message);
    }
    // Nothing of it reached the log: the run that was told too much goes on.
    waits.signal(GO, true).await.unwrap();
    waits.result_within(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_none_are_refused_and_harm_nobody() {
    let town = Town::formed(1).await;
    let _worker = town.worker("shop");
    town.until_served("shop", 1).await;
    let api = format!("http://127.0.0.1:{}", town.cluster.ports(1).api);
    let channel = tonic::transport::Endpoint::from_shared(api)
        .unwrap()
        .connect_lazy();
    for path in [
        "/holdfast.v1.Runs/Start",
        "/holdfast.v1.Runs/Get",
        "/holdfast.v1.Cluster/Init",
    ] {
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        grpc.ready().await.unwrap();
        let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
        let request = tonic::Request::new(b"\xff\xff\xff\xffno message".to_vec());
        let status = grpc.unary(request, path, raw::Raw).await.unwrap_err();
        assert!(
            status.message().contains("decode") || status.message().contains("buffer"),
            "{status}"
        );
    }
    // Not even HTTP, on each port.
    let ports = town.cluster.ports(1);
    for port in [ports.api, ports.peer, ports.admin] {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&[0x16; 4096]).unwrap();
        let _ = stream.read_to_end(&mut Vec::new()); // closed, or reset
    }
    assert!(town.cluster.node(1).is_running());
    let run = start(&town, "plain").await;
    assert_eq!(run.result_within(PATIENCE).await.unwrap(), "shop");
}

/// A codec that sends bytes as they are.
mod raw {
    use tonic::{
        Status,
        codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    };

    #[derive(Clone, Copy)]
    pub struct Raw;

    impl Codec for Raw {
        type Encode = Vec<u8>;
        type Decode = ();
        type Encoder = Self;
        type Decoder = Self;
        fn encoder(&mut self) -> Self {
            Self
        }
        fn decoder(&mut self) -> Self {
            Self
        }
    }

    impl Encoder for Raw {
        type Item = Vec<u8>;
        type Error = Status;
        fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
            bytes::BufMut::put_slice(to, &item);
            Ok(())
        }
    }

    impl Decoder for Raw {
        type Item = ();
        type Error = Status;
        fn decode(&mut self, _: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
            Ok(Some(()))
        }
    }
}

// ---- nodes that must not serve

/// Runs `holdfast serve` with these settings on ports of its own until it ends by itself.
fn serve(data: &Path, settings: &[(&str, &str)]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.arg("serve").env("HOLDFAST_NODE__DATA", data);
    for name in ["API", "PEER", "ADMIN"] {
        command.env(format!("HOLDFAST_LISTEN__{name}"), "127.0.0.1:0");
    }
    for (key, value) in settings {
        command.args(["--set", &format!("{key}={value}")]);
    }
    Said::of(&command.output().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_refuses_a_disk_a_name_or_a_port_that_is_not_its_own_and_says_what_to_do() {
    let town = Town::formed(1).await;
    let (two, three) = (town.cluster.data(2), town.cluster.data(3));
    serve(&two, &[("node.id", "2")]).ends(1, &["in use by another process", "stop it first"]);
    for id in [2, 3] {
        town.cluster.node(id).kill9().unwrap();
    }
    serve(&two, &[("node.id", "7")]).ends(
        1,
        &["belongs to node 2", "started as node 7", "its own folder"],
    );
    let other = [("node.id", "2"), ("cluster.name", "city")];
    serve(&two, &other).ends(
        1,
        &[
            "belongs to cluster \"town\"",
            "use another folder, or correct cluster.name",
        ],
    );
    let port = town.cluster.ports(1).api.to_string();
    let taken = [
        ("node.id", "2"),
        ("listen.api", &format!("127.0.0.1:{port}")),
    ];
    serve(&two, &taken).ends(
        1,
        &[&format!("port {port} is in use"), "listen.api", "ss -ltnp"],
    );
    let file = town.folder().join("file");
    std::fs::write(&file, b"").unwrap();
    serve(&file.join("data"), &[("node.id", "9")])
        .ends(1, &["cannot be written", "give --data a folder"]);
    // A wiped disk, where a seed knows the node, and where nobody can be asked first.
    std::fs::remove_dir_all(&three).unwrap();
    let seeds = town.cluster.peers()[0].clone();
    let wiped = [("node.id", "3"), ("cluster.seeds", seeds.as_str())];
    serve(&three, &wiped).ends(
        1,
        &[
            "this disk was wiped",
            "under a new node id",
            "holdfast cluster replace 3",
        ],
    );
    town.cluster.node(2).restart().unwrap();
    town.cluster.node(3).restart().unwrap();
    town.until("the wiped node says so", async |town| {
        let log = town.cluster.node(3).log_tail(50);
        let said =
            log.contains("must not serve under the old id") && log.contains("cluster replace");
        said.then_some(())
    })
    .await;
    assert!(
        !town.cluster.says_yes(3, "/readyz").await,
        "it serves nobody"
    );
    let _worker = town.worker("shop");
    town.until_served("shop", 1).await;
    let run = start(&town, "plain").await;
    assert_eq!(
        run.result_within(PATIENCE).await.unwrap(),
        "shop",
        "two of three go on"
    );
}

/// The newest file of the log's own log.
fn wal(data: &Path) -> PathBuf {
    let files = std::fs::read_dir(data.join("log")).unwrap();
    let logs = files.map(|it| it.unwrap().path());
    let logs = logs.filter(|it| it.extension().is_some_and(|it| it == "log"));
    logs.max().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_end_of_the_log_is_cut_off_and_a_lost_one_is_refused_with_hf6001() {
    let mut town = Town::formed(1).await;
    let _worker = town.worker("chain");
    town.until_served("chain", 1).await;
    let run = async |town: &Town, id: &str| {
        let run = town.client.start(CHAIN, id, 3).await.unwrap();
        assert_eq!(run.result_within(PATIENCE).await.unwrap(), 3);
    };
    run(&town, "one").await;
    let (node, data) = (3, town.cluster.data(3));
    town.cluster.node(node).kill9().unwrap();
    // What was being written when the power went, and was never acknowledged.
    let mut bytes = std::fs::read(wal(&data)).unwrap();
    bytes.extend_from_slice(&[0x5a; 700]);
    std::fs::write(wal(&data), bytes).unwrap();
    town.cluster.node(node).restart().unwrap();
    town.cluster.wait_ready(PATIENCE).await.unwrap();
    run(&town, "two").await;
    town.until("it has all of it", async |town| {
        let applied = |id| applied(town, id);
        (applied(node).await? >= applied(1).await?).then_some(())
    })
    .await;
    town.cluster.node(node).kill9().unwrap();
    // What was acknowledged is gone.
    let path = wal(&data);
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let len = file.metadata().unwrap().len();
    assert!(len > 100, "{} has only {len} bytes", path.display());
    file.set_len(len - 100).unwrap();
    serve(&data, &[("node.id", "3")]).ends(
        1,
        &["HF6001", "lost acknowledged log", "under a new node id"],
    );
    let new = town.cluster.start_another().unwrap();
    town.cluster.wait_live(PATIENCE).await.unwrap();
    let peer = town.cluster.peers()[usize::from(new) - 1].clone();
    town.said(&["cluster", "replace", "3", "--peer", &peer])
        .ends(0, &["in place of node 3"]);
    run(&town, "three").await;
    for id in ["one", "two"] {
        assert_eq!(town.result(id).await.unwrap(), 3, "{id}");
    }
}

async fn applied(town: &Town, id: u16) -> Option<u64> {
    let text = town.cluster.text(id, "/metrics").await.ok()?;
    let line = text
        .lines()
        .find(|it| it.starts_with("holdfast_raft_applied_index{"))?;
    line.rsplit(' ').next()?.parse().ok()
}

// ---- disks that are full

/// A small file system in memory; gone with this value.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// None where this user may not mount anything.
    fn mounted(megabytes: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={megabytes}m");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "none"])
            .arg(folder.path())
            .output();
        mount
            .is_ok_and(|it| it.status.success())
            .then_some(Self(folder))
    }

    /// Fills it until this share is free.
    fn fill(&self, free_percent: u64) {
        let found = rustix::fs::statvfs(self.0.path()).unwrap();
        let all = found.f_blocks * found.f_frsize;
        let mut left = (found.f_bavail * found.f_frsize).saturating_sub(all * free_percent / 100);
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.ballast())
            .unwrap();
        while left > 0 {
            let part = left.min(1 << 20);
            std::io::Write::write_all(&mut file, &vec![1; usize::try_from(part).unwrap()]).unwrap();
            left -= part;
        }
    }

    fn ballast(&self) -> PathBuf {
        self.0.path().join("ballast")
    }
}

/// Tells a test again in a namespace of its own, whose root may mount. Where the system forbids even that, it is said.
#[expect(clippy::print_stderr, reason = "what is left out is said aloud")]
fn again_where_one_may_mount(test: &str) {
    const INSIDE: &str = "TOWN_IN_A_NAMESPACE";
    assert!(
        std::env::var_os(INSIDE).is_none(),
        "its root may not mount either"
    );
    let inside = |program: &Path| {
        let mut command = Command::new("unshare");
        command
            .args(["--user", "--map-root-user", "--mount"])
            .arg(program)
            .env(INSIDE, "1");
        command
    };
    if !inside(Path::new("true"))
        .output()
        .is_ok_and(|it| it.status.success())
    {
        eprintln!("LEFT OUT: {test}: nothing can be mounted here, in no namespace; run it as root");
        return;
    }
    let told = inside(&std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .output();
    let told = Said::of(&told.unwrap());
    assert!(told.out.contains("1 passed"), "{told:#?}");
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output(); // the folder goes anyway
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_starts_then_changes_and_takes_both_again_when_space_is_freed() {
    let Some(disk) = SmallDisk::mounted(512) else {
        return again_where_one_may_mount(
            "a_full_disk_refuses_starts_then_changes_and_takes_both_again_when_space_is_freed",
        );
    };
    let folder = disk.0.path().join("town");
    let plan = Plan {
        nodes: 1,
        folder: Some(&folder),
        env: &[
            ("HOLDFAST_DISK__SOFT", "15%"),
            ("HOLDFAST_DISK__HARD", "5%"),
        ],
        ..Plan::default()
    };
    let town = Town::founded(plan).await;
    let _worker = town.worker("shop");
    town.until_served("shop", 1).await;
    let waits = start(&town, "waits").await;
    town.until_status("waits", Status::Waiting).await;
    disk.fill(10);
    let mut tried = 0;
    let message = town
        .until("starts are refused", async |town| {
            tried += 1;
            let how = format!("soft-{tried}");
            match town.client.start(SHOP, &how, how.clone()).await {
                Err(ClientError::Refused { code, message }) if code == "HF1004" => Some(message),
                Ok(_) => None,
                Err(other) => panic!("{other}"),
            }
        })
        .await;
    assert!(
        message.contains("new starts are refused") && message.contains("free space"),
        "{message}"
    );
    waits.signal(GO, true).id("go").await.unwrap();
    assert_eq!(
        waits.result_within(PATIENCE).await.unwrap(),
        "shop",
        "what runs goes on"
    );
    disk.fill(2);
    let message = town
        .until("changes are refused", async |_| {
            match waits.cancel("").await {
                Err(ClientError::Refused { code, message }) if code == "HF1004" => Some(message),
                Err(ClientError::Refused { .. }) => None, // it has ended: the disk was not looked at yet
                other => panic!("{other:?}"),
            }
        })
        .await;
    assert!(message.contains("changes are refused"), "{message}");
    assert!(town.cluster.node(1).is_running());
    std::fs::remove_file(disk.ballast()).unwrap();
    let after = town
        .until("starts are taken again", async |town| {
            town.client
                .start(SHOP, "after", "after".to_owned())
                .await
                .ok()
        })
        .await;
    assert_eq!(after.result_within(PATIENCE).await.unwrap(), "shop");
    for nth in 1..tried {
        let id = format!("soft-{nth}"); // acknowledged before the mark was noticed
        assert_eq!(town.result(&id).await.unwrap(), "shop", "{id}");
    }
}

// ---- quorum lost

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_nothing_is_acknowledged_and_with_it_all_goes_on() {
    let town = Town::formed(1).await;
    let _worker = town.worker("shop");
    town.until_served("shop", 1).await;
    let waits = start(&town, "waits").await;
    town.until_status("waits", Status::Waiting).await;
    let leader = town.cluster.wait_leader(PATIENCE).await.unwrap();
    let others: Vec<u16> = town.cluster.ids().filter(|id| *id != leader).collect();
    for id in &others {
        town.cluster.node(*id).kill9().unwrap();
    }
    let start = ["run", "start", "shop", "\"plain\"", "--id", "plain"];
    let said = town.said(&start);
    assert!(matches!(said.code, Some(6 | 7)), "{said:#?}");
    let words = ["no answer from any endpoint", "gave up waiting"];
    assert!(
        words.iter().any(|word| said.err.contains(word)),
        "{said:#?}"
    );
    assert!(
        !said.out.contains("plain"),
        "it is not acknowledged: {said:#?}"
    );
    for id in &others {
        town.cluster.node(*id).restart().unwrap();
    }
    town.cluster.wait_ready(PATIENCE).await.unwrap();
    town.said(&start).ends(0, &["plain"]); // the same id: whatever became of it
    assert_eq!(town.result("plain").await.unwrap(), "shop");
    waits.signal(GO, true).await.unwrap();
    assert_eq!(waits.result_within(PATIENCE).await.unwrap(), "shop");
    let diary = town.diary();
    assert!(
        diary.counts().values().all(|times| *times == 1),
        "{diary:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_under_a_leader_without_a_quorum_is_stopped_before_it_begins_elsewhere() {
    let town = Town::formed(1).await;
    let _worker = town.worker("shop");
    town.until_served("shop", 1).await;
    let run = start(&town, "holds").await;
    let first = town.until_written("holds", "work").await;
    let leader = town.cluster.wait_leader(PATIENCE).await.unwrap();
    let others: Vec<u16> = town.cluster.ids().filter(|id| *id != leader).collect();
    let cut_at = unix_ms();
    for id in &others {
        town.cluster.node(*id).pause().unwrap();
    }
    let stopped = town.until_written("holds", "stopped").await;
    assert!(
        stopped.at_ms <= cut_at + TERM_MS,
        "after its lease: {stopped:?}, cut at {cut_at}"
    );
    // Now the others go on without the old leader, and then it comes back.
    town.cluster.node(leader).pause().unwrap();
    for id in &others {
        town.cluster.node(*id).resume().unwrap();
    }
    let _other = town.worker_named("shop", "other");
    run.result_within(PATIENCE).await.unwrap();
    town.cluster.node(leader).resume().unwrap();
    town.cluster.wait_ready(PATIENCE).await.unwrap();
    let diary = town.diary();
    assert_eq!(
        (diary.count("holds", "charge"), diary.count("holds", "work")),
        (1, 2),
        "{diary:?}"
    );
    let second = diary.of("holds", "work").nth(1).unwrap();
    assert!(second.at_ms >= stopped.at_ms, "two at once: {diary:?}");
    assert!(
        second.fence > first.fence && second.key == first.key,
        "{diary:?}"
    );
    assert_eq!(
        town.client.run(SHOP, "holds").status().await.unwrap(),
        Status::Completed
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_cut_off_from_every_node_stops_its_steps_before_their_leases_end() {
    let plan = Plan {
        behind_proxies: true,
        ..Plan::default()
    };
    let town = Town::founded(plan).await;
    let _worker = town.worker("shop");
    town.until_served("shop", 1).await;
    let run = start(&town, "holds").await;
    town.until_written("holds", "work").await;
    let cut_at = unix_ms();
    town.proxies.iter().for_each(support::Proxy::cut);
    let stopped = town.until_written("holds", "stopped").await;
    assert!(
        stopped.at_ms <= cut_at + TERM_MS,
        "after its lease: {stopped:?}, cut at {cut_at}"
    );
    town.proxies.iter().for_each(support::Proxy::mend);
    run.result_within(PATIENCE).await.unwrap();
    let diary = town.diary();
    assert_eq!(
        (diary.count("holds", "charge"), diary.count("holds", "work")),
        (1, 2),
        "{diary:?}"
    );
    let second = diary.of("holds", "work").nth(1).unwrap();
    assert!(second.at_ms >= stopped.at_ms, "two at once: {diary:?}");
}

// ---- workers

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_panics_is_tried_again_and_a_function_that_panics_is_quarantined_with_its_words()
 {
    let town = Town::formed(1).await;
    let worker = town.worker("shop");
    town.until_served("shop", 1).await;
    let run = start(&town, "panics").await;
    assert_eq!(run.result_within(PATIENCE).await.unwrap(), "shop");
    let diary = town.diary();
    let attempts: Vec<u32> = diary.of("panics", "work").map(|it| it.attempt).collect();
    assert_eq!(attempts, [1, 2], "{diary:?}");
    let run = start(&town, "function-panics").await;
    town.until_status("function-panics", Status::Quarantined)
        .await;
    let sentence = run.explain().await.unwrap();
    assert!(
        sentence.contains("panicked 3 times") && sentence.contains("the shop is on fire"),
        "{sentence}"
    );
    assert_eq!(town.diary().count("function-panics", "charge"), 1);
    assert!(worker.is_running(), "it harms its own run only");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_blocks_beyond_its_timeout_ends_its_worker_and_goes_on_elsewhere() {
    let town = Town::formed(1).await;
    let workers = ["one", "two"].map(|name| town.worker_named("shop", name));
    town.until_served("shop", 1).await;
    let run = start(&town, "hangs").await;
    let first = town.until_written("hangs", "work").await;
    run.result_within(PATIENCE).await.unwrap();
    let stuck = workers.iter().find(|it| it.name() == first.worker).unwrap();
    let status = stuck.wait_exit(PATIENCE).await.unwrap();
    assert_eq!(status.code(), Some(70), "{}", stuck.log_tail(20));
    let log = stuck.log_tail(20);
    for word in [
        "of run hangs",
        "did not stop before its lease ended",
        "spawn_blocking",
    ] {
        assert!(log.contains(word), "{word}: {log}");
    }
    let diary = town.diary();
    assert_eq!(
        (diary.count("hangs", "charge"), diary.count("hangs", "work")),
        (1, 2),
        "{diary:?}"
    );
    let second = diary.of("hangs", "work").nth(1).unwrap();
    assert!(
        second.fence > first.fence && second.key == first.key,
        "{diary:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_frozen_beyond_its_lease_changes_nothing_when_it_thaws_and_serves_again() {
    let town = Town::formed(1).await;
    let frozen = town.worker_named("shop", "frozen");
    town.until_served("shop", 1).await;
    let run = start(&town, "freezes").await;
    let first = town.until_written("freezes", "work").await;
    frozen.pause().unwrap();
    let other = town.worker_named("shop", "other");
    assert_eq!(run.result_within(PATIENCE).await.unwrap(), "other");
    let journal = run.journal(true).await.unwrap();
    frozen.resume().unwrap();
    other.stop(PATIENCE).await.unwrap();
    let next = start(&town, "next").await;
    assert_eq!(
        next.result_within(PATIENCE).await.unwrap(),
        "frozen",
        "it serves again"
    );
    assert_eq!(run.journal(true).await.unwrap(), journal);
    assert_eq!(run.result_within(PATIENCE).await.unwrap(), "other");
    let diary = town.diary();
    assert_eq!(
        (
            diary.count("freezes", "charge"),
            diary.count("freezes", "work")
        ),
        (1, 2),
        "{diary:?}"
    );
    let second = diary.of("freezes", "work").nth(1).unwrap();
    assert!(
        second.fence > first.fence && second.key == first.key,
        "{diary:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_told_to_leave_while_no_node_answers_leaves() {
    let town = Town::formed(1).await;
    let worker = town.worker("shop");
    town.until_served("shop", 1).await;
    for id in town.cluster.ids() {
        town.cluster.node(id).kill9().unwrap();
    }
    let status = worker.stop(PATIENCE).await.unwrap();
    assert!(status.success(), "{status}: {}", worker.log_tail(20));
}

// ---- exactly where it left off

const LINKS: u32 = 12;
const SUM: u32 = 66;

/// Chains under way, each with some links behind it and some before it.
async fn chains(town: &Town) -> Vec<holdfast::Run<u32>> {
    let mut runs = Vec::new();
    for n in 0..8 {
        let id = format!("chain-{n}");
        runs.push(town.client.start(CHAIN, id, LINKS).await.unwrap());
    }
    town.until("all are under way", async |town| {
        let diary = town.diary();
        (0..8)
            .all(|n| diary.count(&format!("chain-{n}"), "link-3") > 0)
            .then_some(())
    })
    .await;
    runs
}

/// Each link of each chain was done, and at most this many times.
async fn done_at_most(town: &Town, runs: &[holdfast::Run<u32>], begun_twice_max: usize) {
    for run in runs {
        assert_eq!(run.result_within(PATIENCE).await.unwrap(), SUM);
    }
    let diary = town.diary();
    let mut twice = 0;
    for ((run, link), times) in diary.counts() {
        assert!(times <= 2, "{run} {link} was begun {times} times");
        twice += usize::from(times == 2);
        let keys: std::collections::BTreeSet<_> = diary.of(&run, &link).map(|it| &it.key).collect();
        assert_eq!(keys.len(), 1, "one key for all attempts of {run} {link}");
    }
    assert_eq!(diary.counts().len(), 8 * LINKS as usize);
    assert!(
        twice <= begun_twice_max,
        "{twice} links were begun twice: {diary:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_worker_is_killed_its_runs_go_on_with_the_step_that_was_in_flight() {
    let town = Town::formed(1).await;
    let worker = town.worker("chain");
    town.until_served("chain", 1).await;
    let runs = chains(&town).await;
    worker.kill9().unwrap();
    let before = town.diary();
    let _next = town.worker_named("chain", "next");
    done_at_most(&town, &runs, runs.len()).await;
    // Only the last link that each had begun may have been begun again.
    let after = town.diary();
    for ((run, link), times) in after.counts() {
        let begun = before
            .counts()
            .get(&(run.clone(), link.clone()))
            .copied()
            .unwrap_or(0);
        let last = before.0.iter().rfind(|it| it.run == run).unwrap();
        assert!(
            times == 1 || begun == 1 && last.what == link,
            "{run} {link}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_connections_drop_again_and_again_no_step_is_begun_twice() {
    let plan = Plan {
        behind_proxies: true,
        ..Plan::default()
    };
    let town = Town::founded(plan).await;
    let worker = town.worker("chain");
    town.until_served("chain", 1).await;
    let runs = chains(&town).await;
    let mut dropped = 0;
    town.until(
        "connections dropped while chains are under way",
        async |town| {
            dropped += town
                .proxies
                .iter()
                .map(support::Proxy::drop_connections)
                .sum::<usize>();
            tokio::time::sleep(Duration::from_millis(100)).await; // a drop is an event in time
            (dropped >= 5 || town.diary().counts().len() >= 8 * LINKS as usize).then_some(())
        },
    )
    .await;
    assert!(dropped > 0);
    done_at_most(&town, &runs, 0).await;
    assert!(worker.is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_leader_is_killed_no_step_is_begun_twice() {
    let town = Town::formed(1).await;
    let _worker = town.worker("chain");
    town.until_served("chain", 1).await;
    let runs = chains(&town).await;
    let leader = town.cluster.wait_leader(PATIENCE).await.unwrap();
    town.cluster.node(leader).kill9().unwrap();
    done_at_most(&town, &runs, 0).await;
}
