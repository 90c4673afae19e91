//! `docs/metrics.md` against real nodes: what it lists is served, and what is served it lists.

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::{collections::BTreeMap, path::Path};

use holdfast::{Cx, Fail, Signal, Status, Step, StepCx, Worker, Workflow};
use support::{PATIENCE, Town, client_of_worker};

const ORDER: Workflow<u32, u32> = Workflow::new("order");
const PAY: Step<u32, u32> = Step::new("pay");
const APPROVAL: Signal<bool> = Signal::new("approval");

async fn order(cx: Cx, n: u32) -> Result<u32, Fail> {
    let paid = cx.step(PAY, n).await?;
    if n == 0 {
        cx.wait(APPROVAL).await?;
    }
    Ok(paid)
}

#[test]
#[ignore = "a worker process of the other tests"]
fn worker_process() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = client_of_worker().await;
        let worker = Worker::new(&client, "orders").workflow(ORDER, order);
        let pay = async |_: StepCx, n: u32| Ok(n);
        worker.step(PAY, pay).run().await.unwrap();
    });
}

/// Names and kinds that the page lists.
fn listed() -> BTreeMap<String, String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let page = std::fs::read_to_string(page).unwrap();
    let rows = page.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split('|');
        let name = cells.next()?.trim().trim_end_matches('`').to_owned();
        Some((name, cells.next()?.trim().to_owned()))
    });
    rows.collect()
}

/// Names and kinds that any node serves.
async fn served(town: &Town) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for id in town.cluster.ids() {
        let text = town.cluster.text(id, "/metrics").await.unwrap();
        for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let (name, kind) = line.split_once(' ').unwrap();
            found.insert(name.to_owned(), kind.to_owned());
        }
    }
    found
}

/// The sum of a metric's lines with this label, over all nodes, without its fraction.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts and seconds in a text format of floats"
)]
async fn sum(town: &Town, name: &str, label: &str) -> u64 {
    let mut sum = 0.0;
    for id in town.cluster.ids() {
        let text = town.cluster.text(id, "/metrics").await.unwrap();
        let lines = text
            .lines()
            .filter(|line| line.starts_with(name) && line.contains(label));
        let values = lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap());
        sum += values.sum::<f64>();
    }
    sum as u64
}

/// Runs that end, one that is paused, and one that nobody serves; what is counted of them is checked on the way.
async fn tell_a_story(town: &Town) {
    let worker = town.worker("orders");
    town.until_served("order", 1).await;
    for n in 0..8 {
        let run = town
            .client
            .start(ORDER, format!("order-{n}"), n)
            .await
            .unwrap();
        if n > 0 {
            run.result_within(PATIENCE).await.unwrap();
        }
    }
    town.until_status("order-0", Status::Waiting).await;
    // Who waits for a result may hear of it before it is counted.
    town.until("ends are counted", async |town| {
        let ended = sum(town, "holdfast_runs_finished_total", "completed").await == 7;
        let open = sum(town, "holdfast_runs_open", "waiting").await == 1;
        let label = "workflow=\"order\"";
        let lasted = sum(town, "holdfast_run_duration_seconds_count", label).await == 7;
        let journals = sum(town, "holdfast_journal_entries_count", "").await == 7;
        (ended && open && lasted && journals).then_some(())
    })
    .await;
    let run = town.client.run(ORDER, "order-0");
    run.pause("lunch").await.unwrap();
    worker.stop(PATIENCE).await.unwrap();
    town.client.start(ORDER, "stranded", 1).await.unwrap();
    town.until("figures of the rows follow", async |town| {
        let paused = sum(town, "holdfast_runs_paused", "person").await == 1;
        let stranded = sum(town, "holdfast_runs_stranded", "version=\"1\"").await == 2;
        let queue = "queue=\"orders\"";
        let waited = sum(town, "holdfast_oldest_ready_age_seconds", queue).await >= 1;
        (paused && stranded && waited).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_metrics_lists_what_nodes_serve_and_nodes_serve_what_it_lists() {
    let few = [
        ("HOLDFAST_RAFT__SNAPSHOT_ENTRIES", "20"),
        ("HOLDFAST_RAFT__KEEP_ENTRIES", "10"),
    ];
    let town = Town::formed_with(1, &few).await;
    tell_a_story(&town).await;
    let listed = listed();
    assert!(listed.len() > 40, "{listed:?}");
    let served = town
        .until("a snapshot is made", async |town| {
            let served = served(town).await;
            served
                .contains_key("holdfast_raft_snapshot_duration_seconds")
                .then_some(served)
        })
        .await;
    for (name, kind) in &listed {
        assert_eq!(
            served.get(name),
            Some(kind),
            "{name} is listed, and not served so"
        );
    }
    for name in served.keys() {
        assert!(
            listed.contains_key(name),
            "{name} is served, and docs/metrics.md does not list it"
        );
    }
    // Leadership moves: what is counted from rows moves along, and is counted once.
    let leader = town.cluster.wait_leader(PATIENCE).await.unwrap();
    let next = leader % 3 + 1;
    town.said(&["cluster", "transfer-leader", "--to", &next.to_string()])
        .ends(0, &[]);
    town.until("the next node leads", async |town| {
        town.cluster
            .says_yes(next, "/readyz?leader=true")
            .await
            .then_some(())
    })
    .await;
    town.until("each run is counted once", async |town| {
        (sum(town, "holdfast_runs_open", "paused").await == 1).then_some(())
    })
    .await;
}
