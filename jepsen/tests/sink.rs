//! The sink as its callers meet it: over HTTP, many at once, with its file as the witness.

#![cfg(feature = "run")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_jepsen::records::{Effect, Ruling};
use holdfast_jepsen::sink::{Mode, Sink, SinkCall, SinkClient, Wish};

async fn open(mode: Mode, folder: &Path) -> (SinkClient, PathBuf) {
    let file = folder.join("effects.jsonl");
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let sink = Sink::open(mode, &file, any).await.unwrap();
    let addr = sink.addr().unwrap();
    tokio::spawn(sink.serve());
    (SinkClient::new(addr), file)
}

fn act(key: &str, fence: u64) -> SinkCall {
    SinkCall {
        wish: Wish::Act,
        run: "r".to_string(),
        generation: 1,
        step: key.to_string(),
        attempt: 1,
        fence,
        key: key.to_string(),
        worker: "w1".to_string(),
        serial: 7,
        undo: false,
        throttle: 0,
    }
}

fn written(file: &Path) -> Vec<Effect> {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines()
        .map(|it| serde_json::from_str(it).unwrap())
        .collect()
}

#[tokio::test]
async fn what_was_answered_is_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let (client, file) = open(Mode::Idempotent, folder.path()).await;
    for nth in 0..5 {
        let answer = client.call(&act(&format!("k{nth}"), nth)).await.unwrap();
        assert_eq!(answer.ruling, Ruling::Acted);
        let lines = written(&file);
        let last = lines.last().unwrap();
        assert_eq!((last.seq, last.fence), (nth, nth));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_calls_under_one_key_one_acts_and_the_file_has_them_all_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let (client, file) = open(Mode::Idempotent, folder.path()).await;
    let client = Arc::new(client);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let client = Arc::clone(&client);
        calls.spawn(async move { client.call(&act("same", 5)).await.unwrap().ruling });
    }
    let rulings = calls.join_all().await;
    assert_eq!(rulings.iter().filter(|it| **it == Ruling::Acted).count(), 1);
    let lines = written(&file);
    assert_eq!(lines.len(), 200);
    assert!(lines.iter().zip(0..).all(|(line, seq)| line.seq == seq));
    assert!(lines.is_sorted_by_key(|line| line.t));
    assert_eq!(lines[0].ruling, Ruling::Acted);
}

#[tokio::test]
async fn a_naive_sink_acts_each_time_and_a_fenced_one_refuses_the_late() {
    let folder = tempfile::tempdir().unwrap();
    let (naive, _) = open(Mode::Naive, folder.path()).await;
    for fence in [9, 5] {
        let answer = naive.call(&act("k", fence)).await.unwrap();
        assert_eq!(answer.ruling, Ruling::Acted);
    }
    let folder = tempfile::tempdir().unwrap();
    let (fenced, _) = open(Mode::Fenced, folder.path()).await;
    let mut seen = Vec::new();
    for fence in [5, 9, 5] {
        seen.push(fenced.call(&act("k", fence)).await.unwrap().ruling);
    }
    assert_eq!(seen, [Ruling::Acted, Ruling::Acted, Ruling::Stale]);
}

#[tokio::test]
async fn a_sink_that_is_gone_is_an_error_and_no_answer() {
    let port = holdfast_jepsen::cluster::free_port().unwrap();
    let client = SinkClient::new(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    assert!(client.call(&act("k", 1)).await.is_err());
}
