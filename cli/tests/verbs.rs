//! Every verb of the command line against a real cluster: what it prints, in each form, and its exit code.

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::{path::Path, process::Command, time::Duration};

use holdfast::{
    Cx, Fail, GiveUp, LimitSpec, Retry, Signal, Status, Step, StepCx, StepError, View, Worker,
    Workflow,
};
use support::{PATIENCE, Plan, Said, Town, client_of_worker, first_to, kind_of_worker};

const ORDER: Workflow<String, String> = Workflow::new("order");
const PAY: Step<String, String> = Step::new("pay");
const APPROVAL: Signal<bool> = Signal::new("approval");
const STAGE: View<String> = View::new("stage");

// ---- what the worker process does

async fn order(cx: Cx, how: String) -> Result<String, Fail> {
    cx.publish(STAGE, "paying".to_owned());
    let pay = cx.step(PAY, how.clone()).limit("payments");
    let paid = pay
        .retry(
            Retry::fixed(Duration::from_secs(3_600))
                .max_attempts(5)
                .then(GiveUp::Pause),
        )
        .await?;
    if how.starts_with("waits") {
        cx.publish(STAGE, "waiting".to_owned());
        cx.wait(APPROVAL).await?;
    }
    if how.ends_with("fails") {
        return Err(Fail::new("REJECTED", "by the desk"));
    }
    Ok(paid)
}

#[test]
#[ignore = "a worker process of the other tests"]
fn worker_process() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = client_of_worker().await;
        let worker = Worker::new(&client, "orders")
            .limit(
                "payments",
                LimitSpec::rate(1_000, Duration::from_secs(1)).burst(100),
            )
            .workflow(ORDER, order)
            .step(PAY, async |cx: StepCx, how: String| {
                if how == "retries" && first_to(cx.run_id()) {
                    return Err(StepError::retryable("the bank is closed"));
                }
                Ok(format!("paid {how}"))
            });
        let worker = match kind_of_worker().as_str() {
            "v2" => worker.workflow(ORDER.version(2), order),
            _ => worker,
        };
        worker.run().await.unwrap();
    });
}

async fn open_for_business(kind: &str) -> (Town, holdfast_jepsen::cluster::Process) {
    let town = Town::formed(1).await;
    let worker = town.worker(kind);
    town.until_served("order", if kind == "v2" { 2 } else { 1 })
        .await;
    (town, worker)
}

/// The lines of a table: header first, then rows as cells.
fn table(said: &Said) -> Vec<Vec<&str>> {
    said.out
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect()
}

// ---- runs

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_started_once_explained_and_listed_in_every_form() {
    let (town, _worker) = open_for_business("v1").await;
    let start = "run start order waits --id one";
    let said = town.call(start);
    said.ends(0, &["order@v1 started"]);
    assert_eq!(said.out, "one\n", "data alone on stdout");
    town.call(start)
        .ends(0, &["exists already, with the same input"]);
    let json = town.call(&format!("{start} -o json")).ends(0, &[]).json();
    assert_eq!(
        (&json["id"], &json["created"]),
        (&"one".into(), &false.into())
    );
    town.call("run start order other --id one").ends(
        8,
        &["run one exists with another input", "choose another id"],
    );
    town.call("run start ordre x").ends(
        3,
        &[
            "no worker ever registered workflow ordre",
            "registered are: order",
        ],
    );
    town.call("run start order @/no/such/file")
        .ends(2, &["/no/such/file"]);
    town.said(&["run", "start", "order", "x", "--id", "a b"])
        .ends(2, &["run_id"]);
    town.call("run start order x --wait soon")
        .ends(2, &["no duration"]);
    town.until_status("one", Status::Waiting).await;

    let said = town.call("run explain one");
    assert!(
        said.ends(0, &[])
            .out
            .starts_with("waits for signal approval since"),
        "{said:?}"
    );
    let json = town.call("run explain one -o json").json();
    assert!(json["sentence"].as_str().unwrap().contains("approval"));
    town.call("run view one stage").ends(0, &["waiting"]);
    town.call("run view one nothing")
        .ends(3, &["published no nothing"]);
    town.call("run result one --within 100ms")
        .ends(6, &["gave up waiting"]);

    let listed = town.call("run list --status waiting");
    let rows = table(&listed);
    assert_eq!(rows[0], ["RUN", "WORKFLOW", "STATUS", "STARTED"]);
    assert_eq!(rows[1][..3], ["one", "order@v1", "Waiting"]);
    assert_eq!(town.call("run list -o id").out, "one\n");
    let json = town.call("run list --workflow order -o json").json();
    assert_eq!(json[0]["id"], "one");
    let lines = town.call("run list -o jsonl");
    let line: serde_json::Value = serde_json::from_str(lines.out.lines().next().unwrap()).unwrap();
    assert_eq!(line["status"], "Waiting");
    assert_eq!(
        town.call("run list --workflow ghost -o id")
            .ends(0, &[])
            .out,
        ""
    );
    town.call("run list --status sleepy")
        .ends(2, &["sleepy is no status", "waiting"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_fails_is_watched_to_its_end_and_one_that_is_told_nonsense_stands_still() {
    let (town, _worker) = open_for_business("v1").await;
    town.call("run start order waits-fails --id unhappy")
        .ends(0, &[]);
    town.until_status("unhappy", Status::Waiting).await;
    let mut watch = town.holdfast(&["run", "watch", "unhappy"]);
    let watch = watch
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let watch = watch.spawn().unwrap();
    town.call("run signal unhappy approval true --signal-id s1")
        .ends(0, &["approval sent to unhappy"]);
    let watched = Said::of(&watch.wait_with_output().unwrap());
    watched.ends(4, &["Failed: failed", "[REJECTED]: by the desk"]);
    town.call("run start order fails --id three --wait")
        .ends(4, &["[REJECTED]", "by the desk"]);
    town.call("run result three").ends(4, &["[REJECTED]"]);
    town.call("run start order waits --id one").ends(0, &[]);
    town.until_status("one", Status::Waiting).await;
    // A payload of another type loses nothing: the run stands still and says which.
    town.call("run signal one approval maybe").ends(0, &[]);
    town.until_status("one", Status::Quarantined).await;
    town.call("run explain one").ends(
        0,
        &[
            "quarantined",
            "signal approval brought a payload of another type",
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_signalled_and_its_result_and_journal_are_shown_in_every_form() {
    let (town, _worker) = open_for_business("v1").await;
    town.call("run start order waits --id two").ends(0, &[]);
    town.until_status("two", Status::Waiting).await;
    town.call("run signal two approval true")
        .ends(0, &["approval sent to two"]);
    let said = town.call("run result two");
    assert_eq!(said.ends(0, &[]).out, "\"paid waits\"\n");
    let shown = town.call("run show two --journal --payloads");
    shown.ends(
        0,
        &[
            "two  order@v1  Completed",
            "output  \"paid waits\"",
            "step pay",
            "wait approval",
            "complete",
        ],
    );
    let json = town.call("run show two -o json").json();
    assert_eq!(
        (&json["status"], &json["output"]),
        (&"Completed".into(), &"paid waits".into())
    );
    assert_eq!(town.call("run show two -o id").out, "two\n");
    assert_eq!(town.call("run show two -o jsonl").out.lines().count(), 1);
    town.call("run watch two").ends(0, &["Completed"]);
    town.said(&["run", "start", "order", "\"plain\"", "--wait=20s"])
        .ends(0, &["\"paid plain\""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_nobody_started_is_not_found_by_any_verb() {
    let (town, _worker) = open_for_business("v1").await;
    for verb in [
        "show", "explain", "watch", "result", "cancel", "pause", "resume", "retry",
    ] {
        town.said(&["run", verb, "ghost"])
            .ends(3, &["no run ghost"]);
    }
    town.call("run signal ghost approval")
        .ends(3, &["no run ghost"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_paused_resumed_retried_cancelled_and_terminated() {
    let (town, _worker) = open_for_business("v1").await;
    for id in ["cancelled", "terminated"] {
        town.said(&["run", "start", "order", "waits", "--id", id])
            .ends(0, &[]);
        town.until_status(id, Status::Waiting).await;
    }
    town.said(&["run", "pause", "cancelled", "--reason", "ERP is down"])
        .ends(0, &["run cancelled is Paused now"]);
    town.call("run explain cancelled")
        .ends(0, &["paused by a person: ERP is down"]);
    town.call("run resume cancelled")
        .ends(0, &["resume: run cancelled is"]);
    town.call("run resume cancelled")
        .ends(8, &["cancelled", "[HF2002]"]);
    town.said(&["run", "cancel", "cancelled", "--reason", "customer called"])
        .ends(0, &["cancel: run cancelled is"]);
    town.call("run result cancelled").ends(5, &["cancelled"]);
    town.call("run watch cancelled")
        .ends(5, &["Cancelled", "customer called"]);
    town.said(&["run", "terminate", "terminated", "--reason", "wrong data"])
        .ends(2, &["repeat it with --yes"]);
    town.said(&[
        "run",
        "terminate",
        "terminated",
        "--yes",
        "--reason",
        "wrong data",
    ])
    .ends(0, &["Terminated"]);
    town.call("run result terminated").ends(5, &["wrong data"]);

    town.call("run start order retries --id retries")
        .ends(0, &[]);
    town.until("its attempt has failed", async |town| {
        let text = town.client.run_json("retries").explain().await.ok()?;
        text.contains("attempt 1 failed").then_some(())
    })
    .await;
    town.call("run explain retries")
        .ends(0, &["step pay", "the bank is closed", "next in"]);
    town.call("run retry retries --step ship")
        .ends(8, &["no step of it waits to be retried"]);
    town.call("run retry retries --step pay")
        .ends(0, &["retry: run retries is"]);
    town.call("run result retries").ends(0, &["paid retries"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_a_run_that_has_ended_are_refused_with_how_it_ended() {
    let (town, _worker) = open_for_business("v1").await;
    town.call("run start order plain --id done --wait")
        .ends(0, &[]);
    for verb in [
        &["run", "signal", "done", "approval", "true"][..],
        &["run", "cancel", "done"],
        &["run", "retry", "done"],
        &["run", "pause", "done"],
    ] {
        town.said(verb)
            .ends(8, &["[HF2002]", "run done", "Completed"]);
    }
    town.call("run result done").ends(0, &["paid plain"]);
}

// ---- deploys and limits

#[tokio::test(flavor = "multi_thread")]
async fn versions_and_limits_are_set_and_listed() {
    let (town, worker) = open_for_business("v1").await;
    worker.stop(PATIENCE).await.unwrap();
    let _worker = town.worker("v2");
    town.until_served("order", 2).await;
    town.call("deploy set order@v2").ends(
        0,
        &["new runs of order take v2", "holdfast deploy set order@v1"],
    );
    town.call("deploy set order@v9")
        .ends(3, &["no worker ever registered order@v9", "v2"]);
    town.call("deploy set order")
        .ends(2, &["no version such as order@v3"]);
    let listed = town.call("deploy list");
    let rows = table(&listed);
    assert_eq!(rows[0][0], "WORKFLOW");
    assert_eq!(rows[1], ["order@v1", "0", "served", "1"]);
    assert_eq!(rows[2], ["order@v2", "current", "0", "served", "1"]);
    assert_eq!(town.call("deploy list -o id").out, "order@v1\norder@v2\n");
    assert_eq!(town.call("deploy list -o json").json()[1]["current"], true);
    town.call("run start order plain --wait")
        .ends(0, &["order@v2 started"]);

    let set = [
        "limit",
        "set",
        "payments",
        "--rate",
        "10/s",
        "--burst",
        "20",
        "--concurrency",
        "5",
    ];
    town.said(&set).ends(
        0,
        &[
            "limit payments: 10 per 1000 ms, burst 20, 5 at once",
            "was 1000 per 1000 ms",
        ],
    );
    town.call("limit set payments")
        .ends(2, &["needs --rate, --concurrency, or both"]);
    town.call("limit set payments --rate fast")
        .ends(2, &["no rate"]);
    town.call("limit list")
        .ends(0, &["payments", "10 per 1000 ms, burst 20, 5 at once"]);
    assert_eq!(town.call("limit list -o id").out, "payments\n");
    assert_eq!(town.call("limit list -o json").json()[0]["waiting"], 0);
    assert_eq!(town.call("limit list -o jsonl").out.lines().count(), 1);
}

// ---- clusters

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_formed_shown_grown_mended_and_shrunk() {
    let mut town = Town::founded(Plan {
        forms: false,
        ..Plan::default()
    })
    .await;
    let peers = town.cluster.peers().join(",");
    town.call("cluster status")
        .ends(7, &["belongs to no cluster yet", "holdfast cluster init"]);
    let strangers = town.cluster.peers()[1].clone();
    town.said(&[
        "--endpoints",
        &town.endpoints()[0],
        "cluster",
        "init",
        "--peers",
        &strangers,
    ])
    .ends(2, &["the node that is asked must be one of those named"]);
    let nobody = format!("{peers},127.0.0.1:1");
    town.said(&["cluster", "init", "--name", "town", "--peers", &nobody])
        .ends(7, &["127.0.0.1:1 does not answer", "run init again"]);
    let init = ["cluster", "init", "--name", "town", "--peers", &peers];
    town.said(&init).ends(0, &["is formed"]);
    town.said(&init).ends(0, &["was formed already"]);
    town.said(&["cluster", "init", "--name", "city", "--peers", &peers])
        .ends(2, &["belongs to cluster \"town\" already"]);
    town.cluster.wait_leader(PATIENCE).await.unwrap();
    town.call("cluster status")
        .ends(0, &["cluster town", "node 3  voter", "group 1  leader"]);
    let json = town.call("cluster status -o json").json();
    assert_eq!(json["nodes"].as_array().unwrap().len(), 3);
    assert_eq!(town.call("cluster status -o id").out, "1\n2\n3\n");
    assert_eq!(town.call("cluster status -o jsonl").out.lines().count(), 1);

    let (four, five) = (
        town.cluster.start_another().unwrap(),
        town.cluster.start_another().unwrap(),
    );
    town.cluster.wait_live(PATIENCE).await.unwrap();
    let peer = |town: &Town, id: u16| town.cluster.peers()[usize::from(id) - 1].clone();
    town.said(&["cluster", "add", "--peer", &peer(&town, four)])
        .ends(0, &["node 4 is a member and votes"]);
    town.call("cluster status").ends(0, &["node 4  voter"]);
    for _ in 0..2 {
        // A repeat finds it done.
        town.call("cluster remove 4")
            .ends(0, &["node 4 is no member any more; stop it"]);
    }
    town.call("cluster remove 77")
        .ends(2, &["node 77 was never in this cluster"]);
    town.cluster.node(3).kill9().unwrap();
    town.said(&["cluster", "replace", "3", "--peer", &peer(&town, five)])
        .ends(0, &["node 5 votes in place of node 3"]);
    let said = town.call("cluster status");
    said.ends(0, &["node 5  voter"]);
    assert!(!said.out.contains("node 3 "), "{said:?}");
    town.call("cluster replace 2 --peer 127.0.0.1:1")
        .ends(7, &["127.0.0.1:1 does not answer"]);
    let _worker = town.worker("v1");
    town.until_served("order", 1).await;
    town.call("run start order plain --wait")
        .ends(0, &["paid plain"]);
}

// ---- without a cluster

fn holdfast(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.args(args);
    command
}

fn said(args: &[&str]) -> Said {
    Said::of(&holdfast(args).output().unwrap())
}

#[test]
fn completions_are_made_for_each_shell() {
    for (shell, word) in [
        ("bash", "_holdfast()"),
        ("zsh", "#compdef holdfast"),
        ("fish", "complete -c holdfast"),
    ] {
        said(&["completions", shell]).ends(0, &[word, "transfer-leader"]);
    }
    said(&["completions", "abacus"]).ends(2, &["abacus"]);
}

#[test]
fn settings_are_checked_and_shown_with_their_source() {
    let fine = ["serve", "--node-id", "1"];
    said(&[&fine[..], &["--check-config"]].concat()).ends(0, &["the settings are fine"]);
    said(&[&fine[..], &["--dump-config"]].concat())
        .ends(0, &["id = 1  # flag", "term = \"5s\"  # default"]);
    let wrong = ["--set", "lease.trem=9s", "--set", "disk.soft=400"];
    said(&[&fine[..], &wrong[..]].concat()).ends(2, &["did you mean lease.term?", "disk.soft"]);
}

/// `holdfast dev` on ports of its own, with a folder for what it makes.
struct Dev {
    folder: tempfile::TempDir,
    port: String,
}

impl Dev {
    /// `base` is the caller's own: what is claimed is not held, so two that ask for the same get the same.
    fn new(base: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("tmp")).unwrap();
        let claim = holdfast_jepsen::cluster::claim_ports(base, 1).unwrap();
        Self {
            folder,
            port: claim.base.to_string(),
        }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn api(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts it, and waits until it says that it is ready.
    async fn begins(&self, more: &[&str]) -> Running {
        let ready = self.path("ready");
        let mut command = holdfast(&["dev", "--port", &self.port, "--ready-file", &ready]);
        command
            .args(more)
            .env("TMPDIR", self.path("tmp"))
            .stdout(std::process::Stdio::piped());
        let mut node = Running(Some(command.spawn().unwrap()));
        let began = std::time::Instant::now();
        while !Path::new(&ready).exists() {
            assert!(began.elapsed() < PATIENCE, "not ready");
            let ended = node.0.as_mut().unwrap().try_wait().unwrap();
            assert_eq!(ended, None, "before it was ready");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(std::fs::read_to_string(&ready).unwrap().trim(), self.api());
        std::fs::remove_file(ready).unwrap();
        node
    }
}

/// A node's process; killed if a test fails before it was ended in good order.
struct Running(Option<std::process::Child>);

impl Running {
    /// Ends it in good order; its first line.
    fn ends(mut self) -> String {
        let node = self.0.take().unwrap();
        let pid = rustix::process::Pid::from_child(&node);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let said = Said::of(&node.wait_with_output().unwrap());
        assert_eq!(said.code, Some(0), "{said:?}");
        said.out.lines().next().unwrap().to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut node) = self.0.take() {
            node.kill().unwrap();
            node.wait().unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_development_node_without_a_folder_leaves_nothing_behind_and_says_so_first() {
    let dev = Dev::new(28_000);
    let node = dev.begins(&[]).await;
    said(&["--endpoints", &dev.api(), "cluster", "status"]).ends(0, &["cluster dev"]);
    said(&["--endpoints", &dev.api(), "doctor", "healthcheck"]).ends(0, &[]);
    assert_eq!(entries(Path::new(&dev.path("tmp"))), 1, "the data");
    let first = node.ends();
    assert!(
        first.contains("temporary data, unsynced, removed at the end"),
        "{first}"
    );
    assert_eq!(entries(Path::new(&dev.path("tmp"))), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_development_node_with_a_folder_keeps_what_it_was_told() {
    let dev = Dev::new(29_000);
    let data = dev.path("data");
    let limits = |count: usize| {
        let said = said(&["--endpoints", &dev.api(), "limit", "list", "-o", "id"]);
        assert_eq!(said.ends(0, &[]).out.lines().count(), count);
    };
    let node = dev.begins(&["--data", &data]).await;
    limits(0);
    let set = [
        "limit",
        "set",
        "bank",
        "--concurrency",
        "1",
        "--endpoints",
        &dev.api(),
    ];
    said(&set).ends(0, &["limit bank: 1 at once"]);
    node.ends();
    let node = dev.begins(&["--data", &data]).await;
    limits(1);
    let first = node.ends();
    assert!(first.contains(&format!("data in {data}")), "{first}");
    assert!(!first.contains("unsynced"), "{first}");
    assert_eq!(entries(Path::new(&dev.path("tmp"))), 0);
}

fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

/// A folder of programs: each says one line.
fn tools(folder: &Path, tools: &[(&str, &str)]) {
    use std::os::unix::fs::PermissionsExt;
    for (name, says) in tools {
        let path = folder.join(name);
        std::fs::write(&path, format!("#!/bin/sh\necho {says}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn the_doctor_is_silent_when_all_is_well_and_says_a_line_for_each_trouble() {
    let folder = tempfile::tempdir().unwrap();
    let (bin, lib, source) = (
        folder.path().join("bin"),
        folder.path().join("lib"),
        folder.path().join("source"),
    );
    for it in [&bin, &lib, &source] {
        std::fs::create_dir(it).unwrap();
    }
    let free = holdfast_jepsen::cluster::claim_ports(29_500, 1)
        .unwrap()
        .base;
    let port = free.to_string();
    // In memory, where a sync takes no time whatever else this machine does.
    let data = if Path::new("/dev/shm").is_dir() {
        "/dev/shm"
    } else {
        "/tmp"
    };
    let doctor = |limit: &str| {
        let call = format!("ulimit -n {limit}; exec \"$0\" doctor --port {port} --data {data}");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &call, env!("CARGO_BIN_EXE_holdfast")]);
        command
            .env("PATH", &bin)
            .env("LIBCLANG_PATH", &lib)
            .current_dir(&source);
        Said::of(&command.output().unwrap())
    };
    tools(&bin, &[("timedatectl", "yes")]);
    let well = doctor("4096");
    assert_eq!(
        (well.code, well.out.as_str(), well.err.as_str()),
        (Some(0), "", ""),
        "nobody builds here"
    );
    std::fs::write(source.join("Cargo.toml"), "").unwrap();
    let ill = doctor("4096");
    assert_eq!(
        ill.ends(1, &["no C++ compiler", "no libclang", "scripts/setup"])
            .out
            .lines()
            .count(),
        2
    );
    tools(&bin, &[("g++", "")]);
    std::fs::write(lib.join("libclang-19.so.1"), "").unwrap();
    let well = doctor("4096");
    assert_eq!((well.code, well.out.as_str()), (Some(0), ""));
    tools(&bin, &[("timedatectl", "no")]);
    let _taken = std::net::TcpListener::bind(("127.0.0.1", free + 1)).unwrap();
    let ill = doctor("512");
    ill.ends(
        1,
        &[
            "only 512 files may be open",
            "ulimit -n 65536",
            "the clock is not synchronized",
            &format!("port {} is held by pid", free + 1),
        ],
    );
    assert_eq!(ill.out.lines().count(), 3, "{ill:?}");
    said(&["doctor", "--data", "/no/such/folder", "--port", "29900"])
        .ends(1, &["/no/such/folder cannot be written", "--data"]);
    said(&["--endpoints", "127.0.0.1:1", "doctor", "healthcheck"]).ends(7, &["127.0.0.1:1"]);
}
