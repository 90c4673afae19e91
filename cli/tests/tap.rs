//! What nodes write down of what they apply, read as the checkers of `holdfast-jepsen` read it.

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::{collections::BTreeMap, path::Path, time::Duration};

use holdfast::{
    Cx, Fail, LimitSpec, Retry, Signal, Status, Step, StepCx, StepError, Undo, Worker, Workflow,
};
use holdfast_jepsen::records::{Applied, AppliedCommand, TapEvent, Work};
use support::{PATIENCE, Plan, Town, client_of_worker};

const ORDER: Workflow<u32, String> = Workflow::new("order");
const CHARGE: Step<u32, u32> = Step::new("charge");
const REFUND: Step<Undo<u32, u32>, ()> = Step::new("refund");
const SHIP: Step<u32, ()> = Step::new("ship");
const APPROVAL: Signal<bool> = Signal::new("approval");

async fn order(cx: Cx, n: u32) -> Result<String, Fail> {
    let charge = cx.step(CHARGE, n).limit("erp").undo(REFUND);
    let paid = charge
        .retry(Retry::exponential(Duration::from_millis(20)))
        .await?;
    let approved = cx.wait(APPROVAL).await?;
    cx.step(SHIP, n).await?;
    Ok(format!("{paid} {approved}"))
}

/// Order 1 fails at its first attempt.
async fn charge(cx: StepCx, n: u32) -> Result<u32, StepError> {
    if n == 1 && cx.attempt() == 1 {
        return Err(StepError::Retryable {
            message: "not yet".to_owned(),
            after: None,
        });
    }
    Ok(n)
}

#[test]
#[ignore = "a worker process of the other tests"]
fn worker_process() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = client_of_worker().await;
        let per_second = LimitSpec::rate(10_000, Duration::from_secs(1)).concurrency(1);
        Worker::new(&client, "shop")
            .limit("erp", per_second)
            .workflow(ORDER, order)
            .step(CHARGE, charge)
            .step(REFUND, async |_: StepCx, _: Undo<u32, u32>| Ok(()))
            .step(SHIP, async |_: StepCx, _: u32| Ok(()))
            .run()
            .await
            .unwrap();
    });
}

/// Three nodes that write down what they apply, a worker, four orders that wait for their approval; then node 1 is killed
/// and comes back, three orders are approved, and one is cancelled.
async fn told() -> Town {
    let plan = Plan {
        taps: true,
        ..Plan::default()
    };
    let town = Town::founded(plan).await;
    let _worker = town.worker("shop");
    town.until_served("order", 1).await;
    for n in 0..4 {
        let run = format!("order-{n}");
        town.client.start(ORDER, &run, n).await.unwrap();
        town.until_status(&run, Status::Waiting).await;
    }
    town.cluster.node(1).kill9().unwrap();
    town.cluster.node(1).restart().unwrap();
    town.cluster.wait_live(PATIENCE).await.unwrap();
    for n in 0..3 {
        town.call(&format!("run signal order-{n} approval true"))
            .ends(0, &[]);
        town.until_status(&format!("order-{n}"), Status::Completed)
            .await;
    }
    town.call("run cancel order-3").ends(0, &[]);
    town.until_status("order-3", Status::Cancelled).await;
    town
}

/// What a node wrote, after it has written `last`.
async fn lines(town: &Town, id: u16, last: u64) -> Vec<(String, Applied)> {
    town.until("a node has applied all", async |town| {
        let all = read(&town.tap(id));
        all.iter().any(|(_, it)| it.index >= last).then_some(all)
    })
    .await
}

fn read(tap: &Path) -> Vec<(String, Applied)> {
    let text = std::fs::read_to_string(tap).unwrap();
    // The last line may be half written just now.
    let whole = text
        .split_inclusive('\n')
        .filter_map(|it| it.strip_suffix('\n'));
    whole
        .map(|line| {
            let applied = serde_json::from_str(line);
            let applied = applied.unwrap_or_else(|cause| panic!("{cause}: {line}"));
            (line.to_owned(), applied)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_writes_down_all_that_it_applies_in_the_form_that_checkers_read() {
    let town = told().await;
    let whole = read(&town.tap(2));
    let last = whole.last().unwrap().1.index;
    let mut by_index: BTreeMap<u64, Applied> = BTreeMap::new();
    let mut repeated = 0;
    for id in 1..=3 {
        let all = lines(&town, id, last).await;
        assert!(all.windows(2).all(|two| {
            let (before, after) = (two[0].1.index, two[1].1.index);
            after == before + 1 || (id == 1 && after <= before) // where it came back
        }));
        for (line, applied) in all {
            assert_eq!(serde_json::to_string(&applied).unwrap(), line);
            let applied = Applied { t: 0, ..applied };
            let other = by_index.entry(applied.index).or_insert(applied.clone());
            assert_eq!(*other, applied, "of node {id}");
            repeated += usize::from(id == 1);
        }
    }
    assert!(
        repeated >= by_index.len(),
        "node 1 wrote {repeated} of {}",
        by_index.len()
    );
    story_of_order_1(&by_index.into_values().collect::<Vec<_>>());
}

fn story_of_order_1(all: &[Applied]) {
    let commands: Vec<&AppliedCommand> = all.iter().flat_map(|it| &it.commands).collect();
    let of = |kind: &str| -> Vec<&AppliedCommand> {
        let about = commands
            .iter()
            .filter(|it| it.kind == kind && it.answer == "ok");
        let mine = about.filter(|it| it.run.as_deref().is_none_or(|run| run == "order-1"));
        mine.copied().collect()
    };
    assert!(
        all.iter()
            .any(|it| it.epoch == it.index && it.in_force == it.index)
    );
    assert!(all.windows(2).all(|two| two[0].now <= two[1].now));
    let start = &of("start")[0];
    assert_eq!(start.name.as_deref(), Some("order"));
    assert_eq!(start.generation, Some(1));
    let signal = &of("signal")[0];
    assert_eq!(signal.name.as_deref(), Some("approval"));
    assert!(signal.request.is_some());
    assert!(of("attach")[0].session.is_some());
    assert!(
        of("grant")
            .iter()
            .all(|it| it.fence.is_some() && it.session.is_some())
    );

    let advances = of("advance");
    let results: Vec<&str> = advances
        .iter()
        .flat_map(|it| it.results.iter().map(|it| it.outcome.as_str()))
        .collect();
    assert_eq!(results, ["retryable", "done", "done"]);
    let admitted = commands.iter().flat_map(|it| &it.admitted);
    let mine = admitted.filter(|(run, _)| run == "order-1").count();
    assert_eq!(mine, 2, "one admission an attempt");

    let events: Vec<&TapEvent> = all.iter().flat_map(|it| &it.events).collect();
    let mut attempts = Vec::new();
    for event in &events {
        if let TapEvent::LeaseBegan {
            work: Work::Step { run, .. },
            fence,
            attempt,
            ..
        } = event
        {
            let ends = |it: &&&TapEvent| matches!(it, TapEvent::LeaseEnded { fence: of, .. } if of == fence);
            assert_eq!(events.iter().filter(ends).count(), 1);
            attempts.extend(attempt.filter(|_| run == "order-1"));
        }
    }
    assert_eq!(attempts, [1, 2, 1]);
    let attached = |it: &&&TapEvent| matches!(it, TapEvent::SessionAttached { process, .. } if !process.is_empty());
    assert!(events.iter().any(|it| attached(&it)));
    let statuses = |run: &str| -> Vec<&str> {
        let status = |it: &&TapEvent| matches!(it, TapEvent::Run { run: of, .. } if of == run);
        let mine = events.iter().copied().filter(status);
        mine.filter_map(|it| match it {
            TapEvent::Run { status, .. } => Some(status.as_str()),
            _ => None,
        })
        .collect()
    };
    assert_eq!(statuses("order-1").first(), Some(&"READY"));
    assert_eq!(statuses("order-1").last(), Some(&"COMPLETED"));
    assert_eq!(statuses("order-3").last(), Some(&"CANCELLED"));
}

#[test]
fn a_tap_that_cannot_be_written_is_told_at_the_start() {
    let data = tempfile::tempdir().unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(["serve", "--node-id", "1", "--chaos-tap", "/proc/tap.jsonl"])
        .args(["--set", "listen.api=127.0.0.1:0", "--set"])
        .args([
            "listen.peer=127.0.0.1:0",
            "--set",
            "listen.admin=127.0.0.1:0",
        ])
        .arg("--data")
        .arg(data.path())
        .output()
        .unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("the tap /proc/tap.jsonl cannot be written"),
        "{text}"
    );
}
