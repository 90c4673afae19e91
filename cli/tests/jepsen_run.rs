//! Short test runs of the harness against this very build: what it breaks it mends, and what it saw is written down whole.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use holdfast::{Client, Cx, Fail, Step, Worker, Workflow};
use holdfast_jepsen::load::Workload;
use holdfast_jepsen::nemesis::Kind;
use holdfast_jepsen::records::{
    Answer, Body, BodyMoment, Call, EFFECTS, Effect, Fault, FaultStatus, FinalRun, HISTORY,
    NEMESIS, Op, Outcome, Ruling, SETUP, Setup, TAP_PREFIX, WORKERS_PREFIX,
};
use holdfast_jepsen::run::{Finished, Options, Part, PartCommand, conduct};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

#[test]
#[ignore = "a child process of the other tests"]
fn part_process() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(Part::told().unwrap().run()).unwrap();
}

const GREET: Step<String, String> = Step::new("greet");

#[test]
#[ignore = "a user's own worker, as a child process of the other tests"]
fn own_worker() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = Client::from_env().await.unwrap();
        Worker::new(&client, "greetings")
            .workflow(Workflow::new("hello"), async |cx: Cx, name: String| {
                Ok::<String, Fail>(cx.step(GREET, name).await?)
            })
            .step(GREET, async |_, name: String| Ok(format!("hello, {name}")))
            .run()
            .await
            .unwrap();
    });
}

/// This test binary, started again as a part.
fn part() -> PartCommand {
    let args = ["--ignored", "--exact", "part_process", "--nocapture"];
    PartCommand {
        program: std::env::current_exe().unwrap(),
        args: args.map(OsString::from).to_vec(),
    }
}

async fn run(store: &Path, workload: &str, change: impl FnOnce(&mut Options)) -> Finished {
    let holdfast = env!("CARGO_BIN_EXE_holdfast");
    let mut options = Options::new(holdfast, part(), Workload::named(workload).unwrap());
    options.store = store.to_owned();
    options.clients = 3;
    options.rate = 20;
    options.seed = 20;
    options.lead_in = Duration::from_secs(2);
    change(&mut options);
    let (_keep, interrupted) = watch::channel(false);
    conduct(options, interrupted).await.unwrap()
}

fn lines<T: DeserializeOwned>(finished: &Finished, name: &str) -> Vec<T> {
    let text = std::fs::read_to_string(finished.store.path(name)).unwrap();
    let read = text.lines().map(|it| serde_json::from_str(it).unwrap());
    read.collect()
}

/// Each run as each node has it, by node and by run.
fn journals(finished: &Finished, nodes: u16) -> Vec<BTreeMap<String, FinalRun>> {
    let of_node = |id| {
        let all = lines::<FinalRun>(finished, &format!("journal.n{id}.jsonl"));
        all.into_iter().map(|it| (it.run.clone(), it)).collect()
    };
    (1..=nodes).map(of_node).collect()
}

fn acknowledged(ops: &[Op]) -> BTreeSet<String> {
    let started = ops.iter().filter(|op| op.outcome == Outcome::Ok);
    let run = |op: &Op| match (&op.call, &op.answer) {
        (Call::Start { run, .. }, Some(Answer::Started { .. })) => Some(run.clone()),
        _ => None,
    };
    started.filter_map(run).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn under_killed_leaders_and_cuts_every_acknowledged_start_ends_once_on_every_node() {
    let store = tempfile::tempdir().unwrap();
    let finished = run(store.path(), "mix", |options| {
        options.nemeses = vec![Kind::KillLeader, Kind::Partition, Kind::KillWorker];
        options.interval = Duration::from_secs(3);
        options.duration = Duration::from_secs(14);
    })
    .await;
    assert_eq!(finished.violations, Vec::<String>::new());
    assert_eq!(finished.troubles, Vec::<String>::new());
    assert_eq!(finished.stuck, 0);
    assert_eq!(finished.coverage.missing, Vec::<String>::new());

    let faults: Vec<Fault> = lines(&finished, NEMESIS);
    let installed = faults
        .iter()
        .filter(|it| it.status == FaultStatus::Installed)
        .count();
    assert!(installed >= 2, "{faults:?}");

    let acknowledged = acknowledged(&lines(&finished, HISTORY));
    assert!(acknowledged.len() > 20, "{}", acknowledged.len());
    let journals = journals(&finished, 3);
    for of_node in &journals {
        assert_eq!(*of_node, journals[0], "all nodes have the same");
        for run in &acknowledged {
            let found = of_node.get(run).unwrap_or_else(|| panic!("{run} is lost"));
            let ended = ["COMPLETED", "FAILED", "CANCELLED", "TERMINATED"];
            assert!(ended.contains(&found.status.as_str()), "{found:?}");
            if found.status == "COMPLETED" {
                assert_eq!(found.result, found.serial);
            }
        }
    }

    let mut acted = BTreeMap::new();
    for effect in lines::<Effect>(&finished, EFFECTS) {
        if effect.ruling == Ruling::Acted {
            *acted.entry(effect.key).or_insert(0) += 1;
        }
    }
    assert!(acted.len() > 20 && acted.values().all(|times| *times == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_faults_everything_is_answered_and_every_file_is_there() {
    let store = tempfile::tempdir().unwrap();
    let finished = run(store.path(), "submit", |options| {
        options.duration = Duration::from_secs(4);
        options.command = "jepsen run --seed 20".to_string();
    })
    .await;
    assert_eq!(finished.violations, Vec::<String>::new());
    assert_eq!(finished.troubles, Vec::<String>::new());
    assert_eq!((finished.stuck, finished.coverage.ops[2]), (0, 0));
    assert_eq!(finished.coverage.missing, Vec::<String>::new());

    let ops: Vec<Op> = lines(&finished, HISTORY);
    // What is refused is refused by the contract: an id with another input.
    let refused = ops.iter().filter(|op| op.outcome == Outcome::Fail);
    assert!(
        refused
            .clone()
            .all(|op| op.error.as_deref() == Some("HF2001"))
    );
    let asked: BTreeSet<&str> = ops.iter().map(|op| op.node.as_str()).collect();
    assert_eq!(asked, BTreeSet::from(["n1", "n2", "n3"]));

    let text = std::fs::read_to_string(finished.store.path(SETUP)).unwrap();
    let setup: Setup = serde_json::from_str(&text).unwrap();
    assert!(setup.phases.is_sorted() && setup.phases[0] > 0);
    let repro = std::fs::read_to_string(finished.store.path("repro.sh")).unwrap();
    assert!(repro.contains("jepsen run --seed 20"));
    for id in 1..=3 {
        let tap = finished.store.path(&format!("{TAP_PREFIX}{id}.jsonl"));
        assert!(tap.metadata().unwrap().len() > 0);
    }
    let files = std::fs::read_dir(finished.store.folder()).unwrap();
    let names = files.map(|it| it.unwrap().file_name().into_string().unwrap());
    let diaries: Vec<String> = names.filter(|it| it.starts_with(WORKERS_PREFIX)).collect();
    assert_eq!(diaries.len(), 2);
    for diary in diaries {
        let bodies: Vec<Body> = lines(&finished, &diary);
        let count = |what| bodies.iter().filter(|it| it.what == what).count();
        let ends = count(BodyMoment::Done) + count(BodyMoment::Failed) + count(BodyMoment::Stopped);
        assert_eq!(
            count(BodyMoment::Began),
            ends,
            "each body that began has ended"
        );
    }
    // Gates that stayed would use up the ports of runs to come.
    for _ in 0..500 {
        if listening() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} ports are still listened on", listening());
}

/// Sockets of this very process on which it listens.
fn listening() -> usize {
    const LISTENS: &str = "0A";
    let fds = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let links = fds.filter_map(|it| std::fs::read_link(it.path()).ok());
    let ours: BTreeSet<String> = links
        .filter_map(|it| {
            let inode = it.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(inode.to_string())
        })
        .collect();
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let rows = table
        .lines()
        .map(|row| row.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| {
        row.get(3) == Some(&LISTENS) && row.get(9).is_some_and(|it| ours.contains(*it))
    })
    .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_own_worker_stands_the_same_faults() {
    let store = tempfile::tempdir().unwrap();
    let me = std::env::current_exe().unwrap();
    let finished = run(store.path(), "submit", |options| {
        options.worker_command = Some(format!(
            "{} --ignored --exact own_worker --nocapture",
            me.display()
        ));
        options.own = Some(("hello".to_string(), "\"you\"".to_string()));
        options.nemeses = vec![Kind::KillWorker];
        options.interval = Duration::from_secs(1);
        options.duration = Duration::from_secs(6);
    })
    .await;
    assert_eq!(finished.violations, Vec::<String>::new());
    assert_eq!(finished.troubles, Vec::<String>::new());
    assert_eq!(finished.stuck, 0);
    let faults: Vec<Fault> = lines(&finished, NEMESIS);
    let killed = |it: &&Fault| it.status == FaultStatus::Installed;
    assert!(faults.iter().filter(killed).count() >= 1, "{faults:?}");
    let acknowledged = acknowledged(&lines(&finished, HISTORY));
    let journals = journals(&finished, 3);
    assert!(acknowledged.len() > 10);
    for run in acknowledged {
        let found = &journals[0][&run];
        assert_eq!(
            (found.workflow.as_str(), found.status.as_str()),
            ("hello", "COMPLETED")
        );
    }
}
