//! The load: the same seed asks the same, programs end by themselves, and what is not known is never called a failure.

#![cfg(feature = "run")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use holdfast_jepsen::cluster::free_port;
use holdfast_jepsen::load::{Asker, Clients, Generator, Node, Program, WORKLOADS, Want, Workload};
use holdfast_jepsen::records::{Call, HISTORY, Op, Outcome};
use holdfast_jepsen::store::Lines;
use tokio::net::TcpListener;

fn calls(seed: u64, workload: &'static Workload, client: u32, count: usize) -> Vec<Want> {
    let mut generator = Generator::new(seed, workload, client, 5);
    (0..count).map(|_| generator.next_call()).collect()
}

fn mix() -> &'static Workload {
    Workload::named("mix").unwrap()
}

fn programs(wants: &[Want]) -> Vec<(String, u64, Program)> {
    let read = |want: &Want| match &want.call {
        Call::Start { run, serial, .. } => {
            let program = serde_json::from_str(want.input.as_ref().unwrap()).unwrap();
            Some((run.clone(), *serial, program))
        }
        _ => None,
    };
    wants.iter().filter_map(read).collect()
}

#[test]
fn the_same_seed_asks_the_same_and_another_seed_something_else() {
    for workload in WORKLOADS {
        assert_eq!(calls(42, workload, 3, 100), calls(42, workload, 3, 100));
        assert_ne!(calls(42, workload, 3, 100), calls(43, workload, 3, 100));
        assert_ne!(calls(42, workload, 3, 100), calls(42, workload, 4, 100));
    }
}

#[test]
fn every_kind_of_call_of_the_mix_is_made() {
    let wants = calls(1, mix(), 0, 2000);
    let kind = |it: &Want| std::mem::discriminant(&it.call);
    let kinds: HashSet<_> = wants.iter().map(kind).collect();
    assert_eq!(kinds.len(), 9);
}

#[test]
fn a_repeated_start_has_the_same_input_unless_it_is_to_be_refused() {
    let mut inputs: BTreeMap<String, BTreeMap<u64, Program>> = BTreeMap::new();
    for (run, serial, program) in programs(&calls(7, mix(), 1, 800)) {
        assert_eq!(program.serial, serial);
        let of_run = inputs.entry(run).or_default();
        let known = of_run.entry(serial).or_insert_with(|| program.clone());
        assert_eq!(*known, program);
    }
    assert!(inputs.values().any(|it| it.len() == 2), "some are refused");
    assert!(inputs.values().all(|it| it.len() <= 2));
}

fn serials(node: &Node, into: &mut Vec<u64>) {
    match node {
        Node::Act(act) => into.push(act.serial),
        Node::All { parts } => parts.iter().for_each(|part| serials(part, into)),
        Node::Wait { .. } | Node::Sleep { .. } | Node::Fail => {}
    }
}

#[test]
fn no_two_runs_steps_or_signals_share_a_serial() {
    for workload in WORKLOADS {
        let mut seen = BTreeMap::new();
        let mut signals = BTreeMap::new();
        for client in 0..5 {
            let wants = calls(11, workload, client, 150);
            for (run, serial, program) in programs(&wants) {
                let mut all = vec![serial];
                program
                    .nodes
                    .iter()
                    .for_each(|node| serials(node, &mut all));
                for serial in all {
                    let of = seen.entry(serial).or_insert_with(|| run.clone());
                    assert_eq!(*of, run, "serial {serial}");
                }
            }
            for want in &wants {
                if let Call::Signal {
                    signal_id, serial, ..
                } = &want.call
                {
                    assert!(!seen.contains_key(serial));
                    let of = signals.entry(*serial).or_insert_with(|| signal_id.clone());
                    assert_eq!(of, signal_id);
                }
            }
        }
    }
}

/// The longest that a node takes when nobody signals, in milliseconds, and how many things it does.
fn bound(node: &Node) -> (u64, u64) {
    match node {
        Node::Act(act) => (act.takes_ms * (1 + act.script.len() as u64), 1),
        Node::Wait { timeout_ms, .. } => (*timeout_ms, 1),
        Node::Sleep { ms } => (*ms, 1),
        Node::Fail => (0, 1),
        Node::All { parts } => {
            let all: Vec<_> = parts.iter().map(bound).collect();
            let longest = all.iter().map(|it| it.0).max().unwrap_or_default();
            (longest, all.iter().map(|it| it.1).sum())
        }
    }
}

#[test]
fn every_program_ends_by_itself_soon() {
    for workload in WORKLOADS {
        for (run, _, program) in programs(&calls(5, workload, 0, 150)) {
            let all: Vec<_> = program.nodes.iter().map(bound).collect();
            let time: u64 = all.iter().map(|it| it.0).sum();
            let things: u64 = all.iter().map(|it| it.1).sum();
            assert!(time < 25_000, "{run} takes {time} ms");
            assert!(things < 1000, "{run} does {things} things");
        }
    }
}

/// What one call at this port comes to, and what was written down of it.
async fn one_call(port: u16, call: Call) -> (Outcome, Vec<Op>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(HISTORY);
    let nodes = Arc::new(move || vec![("n1".to_string(), format!("127.0.0.1:{port}"))]);
    let clients = Clients::new(nodes, Lines::open(&path).unwrap(), 1);
    let want = Want {
        node: 0,
        call,
        input: None,
        at_least: false,
    };
    let told = clients
        .once(&Asker::default(), 0, want, &mut BTreeMap::new())
        .await;
    let text = std::fs::read_to_string(&path).unwrap();
    let ops = text.lines().map(|it| serde_json::from_str(it).unwrap());
    (told.outcome, ops.collect())
}

fn cancel() -> Call {
    Call::Cancel {
        run: "r".to_string(),
        request: "q".to_string(),
    }
}

#[tokio::test]
async fn a_call_to_a_node_that_is_down_certainly_did_not_happen() {
    let (outcome, ops) = one_call(free_port().unwrap(), cancel()).await;
    assert_eq!(outcome, Outcome::Fail);
    assert_eq!(ops.len(), 1);
    assert_eq!(
        (ops[0].outcome, ops[0].node.as_str()),
        (Outcome::Fail, "n1")
    );
    assert!(ops[0].t_inv <= ops[0].t_ret && ops[0].error.is_some());
}

#[tokio::test]
async fn a_call_whose_connection_broke_may_have_happened_and_a_read_did_not() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let breaking = tokio::spawn(async move {
        loop {
            drop(listener.accept().await.unwrap());
        }
    });
    assert_eq!(one_call(port, cancel()).await.0, Outcome::Info);
    let get = Call::Get {
        run: "r".to_string(),
        stale: false,
        at_least: None,
    };
    assert_eq!(one_call(port, get).await.0, Outcome::Fail);
    breaking.abort();
}
