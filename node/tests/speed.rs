//! How fast one process with three nodes is, measured by hand: `cargo nextest run --release -p holdfast-node --test speed
//! --run-ignored all --no-capture`. `holdfast bench` measures real processes.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    reason = "tests"
)]

#[expect(dead_code, reason = "shared with the other tests")]
mod harness;

use std::{collections::HashMap, time::Instant};

use harness::{Cluster, advance, charge, complete, done, start};
use holdfast_proto::v1::{self, from_worker::Message as From, to_worker::Message as To};

const STEPS: u32 = 20;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn the_ceiling_of_the_log() {
    let cluster = Cluster::formed(1).await;
    let leader = cluster.leader(1).await;
    let (total, count) = (200_000u64, 64u32);
    let began = Instant::now();
    let (ask, asks) = tokio::sync::mpsc::channel(4); // 256 commands in flight
    let request = tokio_stream::wrappers::ReceiverStream::new(asks);
    let send = |first| v1::NoopRequest {
        first,
        count,
        payload: vec![0; 200].into(),
        partition: 0,
    };
    for first in 0..4 {
        ask.send(send(first)).await.unwrap();
    }
    let mut answers = cluster
        .admin(leader)
        .noop(request)
        .await
        .unwrap()
        .into_inner();
    let mut answered = 0;
    while answered < total {
        let reply = answers.message().await.unwrap().unwrap();
        assert!(reply.error.is_empty(), "{reply:?}");
        answered += u64::from(reply.count);
        ask.send(send(answered)).await.unwrap();
    }
    let rate = answered as f64 / began.elapsed().as_secs_f64();
    eprintln!("noop: {rate:.0} commands/s at 256 in flight");
}

async fn steps(conc: usize, runs: usize) {
    let cluster = Cluster::formed(1).await;
    let mut worker = cluster.worker(1).await;
    let mut client = cluster.runs(cluster.leader(1).await);
    for nth in 0..conc {
        client.start(start(&format!("run-{nth}"))).await.unwrap();
    }
    let (mut started, mut finished, mut advances) = (conc, 0, 0u64);
    let mut drives: HashMap<String, v1::Drive> = HashMap::new();
    let (mut sent, mut waits) = (HashMap::new(), Vec::new());
    let began = Instant::now();
    while finished < runs {
        let next = match worker.next().await.unwrap() {
            To::Drive(drive) => {
                let first = advance(&drive, 1, vec![], vec![charge(0)]);
                drives.insert(drive.run.clone(), drive);
                first
            }
            To::Advanced(it) => {
                let since: Instant = sent.remove(&it.run).unwrap();
                waits.push(since.elapsed());
                advances += 1;
                let drive = &drives[&it.run];
                if it.outcome() == v1::AdvanceOutcome::Finished {
                    finished += 1;
                    if started < runs {
                        let (mut client, id) = (client.clone(), format!("run-{started}"));
                        tokio::spawn(async move { client.start(start(&id)).await.unwrap() });
                        started += 1;
                    }
                    continue;
                }
                let result = done(&it.grants[0]);
                let nth = it.number;
                let next = if nth == STEPS {
                    complete(nth)
                } else {
                    charge(nth)
                };
                let mut key = next.clone();
                key.key.as_mut().unwrap().occurrence = nth;
                advance(drive, nth + 1, vec![result], vec![key])
            }
            other => panic!("{other:?}"),
        };
        sent.insert(next.run.clone(), Instant::now());
        worker.send(From::Advance(next)).await;
    }
    let took = began.elapsed();
    waits.sort();
    let at = |percent: usize| waits[(waits.len() - 1) * percent / 100];
    let rate = advances as f64 / took.as_secs_f64();
    eprintln!(
        "conc {conc}: {rate:.0} Advances/s, p50 {:?} p99 {:?}",
        at(50),
        at(99)
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn steps_at_once() {
    steps(1, 100).await;
    steps(256, 4_000).await;
}
