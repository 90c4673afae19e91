//! The promises about time and change: deploys, rolling restarts, waits of days, retries and limits, charges never lost.
//! Against real node processes and real worker processes.

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::time::Duration;

use holdfast::{
    Client, Cx, Fail, GiveUp, LimitSpec, Retry, Signal, Status, Step, StepCx, StepError, Undo,
    Worker, Workflow, wire,
};
use support::{PATIENCE, Town, client_of_worker, first_to, kind_of_worker, write_down};

const ORDER: Workflow<u32, String> = Workflow::new("order");
const CHAIN: Workflow<u32, u32> = Workflow::new("chain");
const MONTH: Workflow<u32, String> = Workflow::new("month");
const CALLS: Workflow<u32, u32> = Workflow::new("calls");
const FLAKY: Workflow<u32, u32> = Workflow::new("flaky");
const SALE: Workflow<String, String> = Workflow::new("sale");

const CHARGE: Step<u32, u32> = Step::new("charge");
const SHIP: Step<String, ()> = Step::new("ship");
const LINK: Step<u32, u32> = Step::new("link");
const CALL: Step<u32, u32> = Step::new("call");
const TRY: Step<u32, u32> = Step::new("try");
const PAY: Step<String, String> = Step::new("pay");
const REFUND: Step<Undo<String, String>, ()> = Step::new("refund");
const PACK: Step<String, ()> = Step::new("pack");

const APPROVAL: Signal<bool> = Signal::new("approval");

// ---- what the worker processes do

async fn order(cx: Cx, n: u32, code: &str) -> Result<String, Fail> {
    cx.step(CHARGE, n).await?;
    cx.wait(APPROVAL).await?;
    cx.step(SHIP, code.to_owned()).await?;
    Ok(code.to_owned())
}

async fn order_1(cx: Cx, n: u32) -> Result<String, Fail> {
    order(cx, n, "v1").await
}

async fn order_2(cx: Cx, n: u32) -> Result<String, Fail> {
    order(cx, n, "v2").await
}

async fn chain(cx: Cx, links: u32) -> Result<u32, Fail> {
    let mut sum = 0;
    for n in 0..links {
        sum += cx.step(LINK, n).await?;
    }
    Ok(sum)
}

async fn month(cx: Cx, n: u32) -> Result<String, Fail> {
    cx.step(CHARGE, n).await?;
    cx.sleep(Duration::from_secs(3 * 86_400)).await?;
    let approved = cx
        .wait(APPROVAL)
        .timeout(Duration::from_secs(10 * 86_400))
        .await?;
    cx.step(SHIP, "month".to_owned()).await?;
    Ok(format!("{approved:?}"))
}

async fn calls(cx: Cx, n: u32) -> Result<u32, Fail> {
    Ok(cx
        .step(CALL, n)
        .limit("erp")
        .retry(
            Retry::fixed(Duration::from_millis(50))
                .max_attempts(1)
                .then(GiveUp::Fail),
        )
        .await?)
}

async fn flaky(cx: Cx, failures: u32) -> Result<u32, Fail> {
    Ok(cx
        .step(TRY, failures)
        .retry(Retry::exponential(Duration::from_millis(20)))
        .await?)
}

async fn sale(cx: Cx, how: String) -> Result<String, Fail> {
    let paid = match how.as_str() {
        "vanishes" => cx.step(PAY, how.clone()).at_most_once().await?,
        _ => cx.step(PAY, how.clone()).undo(REFUND).await?,
    };
    cx.step(PACK, how).await?;
    Ok(paid)
}

async fn call(cx: StepCx, n: u32) -> Result<u32, StepError> {
    if cx.run_id() == "call-0" && first_to("throttled") {
        write_down(&cx, "throttled");
        return Err(StepError::throttled("erp", Duration::from_secs(1)));
    }
    write_down(&cx, "call");
    Ok(n)
}

async fn attempt(cx: StepCx, failures: u32) -> Result<u32, StepError> {
    write_down(&cx, "try");
    if cx.attempt() <= failures {
        return Err(StepError::Retryable {
            message: "not yet".to_owned(),
            after: (cx.attempt() == 1).then(|| Duration::from_millis(400)),
        });
    }
    Ok(cx.attempt())
}

async fn pay(cx: StepCx, how: String) -> Result<String, StepError> {
    write_down(&cx, "pay");
    if how == "vanishes" {
        std::process::abort(); // the effect happened, nobody was told
    }
    Ok(format!("paid {how}"))
}

async fn pack(cx: StepCx, how: String) -> Result<(), StepError> {
    write_down(&cx, "pack");
    if how == "sold-out" {
        return Err(StepError::terminal("SOLD_OUT", "nothing is left"));
    }
    Ok(())
}

fn shop_of(client: &Client) -> Worker {
    Worker::new(client, "shop")
        .step(CHARGE, async |cx: StepCx, n: u32| {
            write_down(&cx, "charge");
            Ok(n)
        })
        .step(SHIP, async |cx: StepCx, code: String| {
            write_down(&cx, &format!("ship-{code}"));
            Ok(())
        })
}

fn worker_of(kind: &str, client: &Client) -> Worker {
    match kind {
        "v1" => shop_of(client).workflow(ORDER, order_1),
        "v2" => shop_of(client).workflow(ORDER.version(2), order_2),
        "both" => shop_of(client)
            .workflow(ORDER, order_1)
            .workflow(ORDER.version(2), order_2),
        "chain" => Worker::new(client, "chain")
            .slots(64)
            .workflow(CHAIN, chain)
            .step(LINK, async |cx: StepCx, n: u32| {
                write_down(&cx, &format!("link-{n}"));
                tokio::time::sleep(Duration::from_millis(5)).await;
                Ok(n)
            }),
        "month" => shop_of(client).workflow(MONTH, month),
        "calls" => Worker::new(client, "calls")
            .limit(
                "erp",
                LimitSpec::rate(10_000, Duration::from_secs(1)).concurrency(1),
            )
            .workflow(CALLS, calls)
            .step(CALL, call),
        "flaky" => Worker::new(client, "flaky")
            .workflow(FLAKY, flaky)
            .step(TRY, attempt),
        "sale" => Worker::new(client, "sale")
            .workflow(SALE, sale)
            .step(PAY, pay)
            .step(PACK, pack)
            .step(REFUND, async |cx: StepCx, undo: Undo<String, String>| {
                assert_eq!(undo.output, Some(format!("paid {}", undo.input)));
                write_down(&cx, "refund");
                Ok(())
            }),
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

// ---- the promises

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_wait_finish_on_v1_while_v2_rolls_out_and_new_runs_start_on_v2() {
    let town = Town::formed(1).await;
    let old = town.worker("v1");
    town.until_served("order", 1).await;
    town.client.start(ORDER, "early", 1).await.unwrap();
    town.until_status("early", Status::Waiting).await;
    let _new = town.worker("both");
    town.until_served("order", 2).await;
    old.stop(PATIENCE).await.unwrap();
    let before = town.client.start(ORDER, "between", 1).await.unwrap();
    let deploy = wire::SetCurrentRequest {
        name: "order".to_owned(),
        version: 2,
        request_id: Client::request_id(),
    };
    town.client.set_current(deploy).await.unwrap();
    let late = town.client.start(ORDER, "late", 1).await.unwrap();
    for run in ["early", "between", "late"] {
        town.until_status(run, Status::Waiting).await;
        let run = town.client.run(ORDER, run);
        run.signal(APPROVAL, true).id("yes").await.unwrap();
    }
    assert_eq!(town.result("early").await.unwrap(), "v1");
    assert_eq!(before.result_within(PATIENCE).await.unwrap(), "v1");
    assert_eq!(late.result_within(PATIENCE).await.unwrap(), "v2");
    let diary = town.diary();
    assert!(diary.counts().values().all(|n| *n == 1), "{diary:?}");
    assert_eq!(diary.0.len(), 6, "two steps each: {diary:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_version_nobody_serves_is_stranded_in_plain_sight_and_goes_on_when_a_worker_comes()
 {
    let town = Town::formed(1).await;
    let old = town.worker("v1");
    town.until_served("order", 1).await;
    town.client.start(ORDER, "early", 1).await.unwrap();
    town.until_status("early", Status::Waiting).await;
    let _new = town.worker("v2");
    town.until_served("order", 2).await;
    old.stop(PATIENCE).await.unwrap();
    let run = town.client.run(ORDER, "early");
    run.signal(APPROVAL, true).id("yes").await.unwrap();
    town.until("explain names the missing worker", async |town| {
        let text = town.client.run_json("early").explain().await.ok()?;
        text.contains("no worker serves order@v1").then_some(())
    })
    .await;
    let listed = town
        .client
        .list_workflows(wire::ListWorkflowsRequest {})
        .await
        .unwrap();
    let versions = &listed.workflows[0].versions;
    let one = versions.iter().find(|it| it.version == 1).unwrap();
    assert!(one.stranded && one.open_runs == 1, "{one:?}");
    let _again = town.worker_named("v1", "v1-again");
    assert_eq!(town.result("early").await.unwrap(), "v1");
    let diary = town.diary();
    assert_eq!(diary.count("early", "charge"), 1, "{diary:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_of_all_nodes_under_load_loses_nothing_and_repeats_nothing() {
    const LINKS: u32 = 6;
    let town = Town::formed(1).await;
    let _worker = town.worker("chain");
    town.until_served("chain", 1).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let callers: Vec<_> = (0..8)
        .map(|caller| {
            let (client, stopped) = (town.client.clone(), stopped.clone());
            tokio::spawn(async move {
                let mut runs = Vec::new();
                while !*stopped.borrow() {
                    let id = format!("chain-{caller}-{}", runs.len());
                    let run = client.start(CHAIN, &id, LINKS).await.unwrap();
                    assert_eq!(run.result_within(PATIENCE).await.unwrap(), 15);
                    runs.push(id);
                }
                runs
            })
        })
        .collect();
    for id in town.cluster.ids() {
        tokio::time::sleep(Duration::from_millis(300)).await; // load on the cluster as it is now
        let node = town.cluster.node(id);
        let status = node.stop(Duration::from_secs(20)).await.unwrap();
        assert!(
            status.success(),
            "node {id} left by {status}:\n{}",
            node.log_tail(20)
        );
        node.restart().unwrap();
        town.cluster.wait_ready(PATIENCE).await.unwrap();
    }
    stop.send_replace(true);
    let mut runs = Vec::new();
    for caller in callers {
        runs.extend(caller.await.unwrap());
    }
    assert!(runs.len() >= 24, "only {} runs ended", runs.len());
    let counts = town.diary().counts();
    for run in &runs {
        for n in 0..LINKS {
            let times = counts.get(&(run.clone(), format!("link-{n}")));
            assert_eq!(times, Some(&1), "{run} link {n}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_waits_for_days_through_a_restart_of_every_process_with_no_connection_held() {
    let town = Town::formed(1).await;
    let worker = town.worker("month");
    town.until_served("month", 1).await;
    let run = town.client.start(MONTH, "long", 1).await.unwrap();
    town.until_status("long", Status::Waiting).await;
    assert_eq!(run.describe().await.unwrap().worker, "", "nobody holds it");
    worker.stop(PATIENCE).await.unwrap();
    let restart = async |ahead: &str| {
        for id in town.cluster.ids() {
            let node = town.cluster.node(id);
            node.stop(Duration::from_secs(20)).await.unwrap();
            node.set_env("HOLDFAST_TESTING__CLOCK_AHEAD", Some(ahead));
        }
        for id in town.cluster.ids() {
            town.cluster.node(id).restart().unwrap();
        }
        town.cluster.wait_ready(PATIENCE).await.unwrap();
    };
    restart("71h").await;
    let text = run.explain().await.unwrap();
    assert!(text.contains("sleeps"), "one hour is left: {text}");
    restart("73h").await;
    let _worker = town.worker_named("month", "month-later");
    town.until("it waits for approval", async |town| {
        let text = town.client.run_json("long").explain().await.ok()?;
        text.contains("signal approval").then_some(())
    })
    .await;
    run.signal(APPROVAL, true).id("yes").await.unwrap();
    assert_eq!(run.result_within(PATIENCE).await.unwrap(), "Some(true)");
    let diary = town.diary();
    assert_eq!(diary.0.len(), 2, "each step once: {diary:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_429_closes_the_limit_for_every_run_on_every_worker_and_burns_no_attempt() {
    let town = Town::formed(1).await;
    let _one = town.worker_named("calls", "calls-1");
    let _two = town.worker_named("calls", "calls-2");
    town.until_served("calls", 1).await;
    let mut runs = Vec::new();
    for n in 0..8 {
        runs.push(
            town.client
                .start(CALLS, format!("call-{n}"), n)
                .await
                .unwrap(),
        );
    }
    for (n, run) in (0..).zip(&runs) {
        assert_eq!(run.result_within(PATIENCE).await.unwrap(), n);
    }
    let diary = town.diary();
    let closed = diary.of("call-0", "throttled").next().unwrap();
    // One place only: whatever follows the refusal was admitted after it, and the limit was closed for a second.
    let after: Vec<_> = diary
        .0
        .iter()
        .filter(|it| it.what == "call" && it.at_ms > closed.at_ms)
        .collect();
    assert!(!after.is_empty(), "the run that was refused called again");
    for call in after {
        assert!(
            call.at_ms >= closed.at_ms + 990,
            "{call:?} came while it was closed: {closed:?}"
        );
    }
    assert_eq!(
        diary.0.iter().filter(|it| it.what == "call").count(),
        8,
        "{diary:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_step_is_tried_again_with_backoff_under_one_key_until_it_succeeds() {
    let town = Town::formed(1).await;
    let _worker = town.worker("flaky");
    town.until_served("flaky", 1).await;
    let run = town.client.start(FLAKY, "flaky", 4).await.unwrap();
    assert_eq!(run.result_within(PATIENCE).await.unwrap(), 5);
    let diary = town.diary();
    let tries: Vec<_> = diary.of("flaky", "try").collect();
    let attempts: Vec<u32> = tries.iter().map(|it| it.attempt).collect();
    assert_eq!(attempts, [1, 2, 3, 4, 5]);
    assert!(tries.iter().all(|it| it.key == tries[0].key), "{tries:?}");
    assert!(
        tries.windows(2).all(|it| it[0].fence < it[1].fence),
        "{tries:?}"
    );
    let pause = tries[1].at_ms - tries[0].at_ms;
    assert!(pause >= 400, "the callee asked for 400 ms, it was {pause}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_charge_is_never_silently_lost_it_is_completed_compensated_or_paused_and_visible() {
    let town = Town::formed(1).await;
    let worker = town.worker("sale");
    town.until_served("sale", 1).await;
    let start = async |how: &str| town.client.start(SALE, how, how.to_owned()).await.unwrap();
    let (plain, sold_out) = (start("plain").await, start("sold-out").await);
    assert_eq!(plain.result_within(PATIENCE).await.unwrap(), "paid plain");
    let failed = sold_out
        .result_within(PATIENCE)
        .await
        .unwrap_err()
        .to_string();
    assert!(failed.contains("SOLD_OUT"), "{failed}");
    town.until_status("sold-out", Status::Failed).await;
    let vanishes = start("vanishes").await;
    worker.wait_exit(PATIENCE).await.unwrap();
    let _again = town.worker_named("sale", "sale-again");
    town.until_status("vanishes", Status::Paused).await;
    let text = vanishes.explain().await.unwrap();
    assert!(text.contains("pay"), "{text}");
    let diary = town.diary();
    for (run, what, times) in [
        ("plain", "pay", 1),
        ("plain", "refund", 0),
        ("sold-out", "pay", 1),
        ("sold-out", "refund", 1),
        ("vanishes", "pay", 1),
        ("vanishes", "pack", 0),
    ] {
        assert_eq!(diary.count(run, what), times, "{run} {what}: {diary:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_is_replaced_and_catches_up_by_snapshot_where_the_log_is_gone() {
    let small = [
        ("HOLDFAST_RAFT__SNAPSHOT_ENTRIES", "200"),
        ("HOLDFAST_RAFT__KEEP_ENTRIES", "50"),
    ];
    let mut town = Town::formed_with(1, &small).await;
    let _worker = town.worker("chain");
    town.until_served("chain", 1).await;
    let gone = 3;
    town.cluster.node(gone).kill9().unwrap();
    std::fs::remove_dir_all(town.cluster.data(gone)).unwrap();
    town.until("the log is purged", async |town| {
        let id = format!("fill-{}", Client::request_id());
        let run = town.client.start(CHAIN, id, 20).await.ok()?;
        run.result_within(PATIENCE).await.ok()?;
        let status = town
            .client
            .cluster_status(wire::ClusterStatusRequest {})
            .await
            .ok()?;
        status.groups.iter().any(|it| it.purged > 100).then_some(())
    })
    .await;
    let new = town.cluster.start_another().unwrap();
    town.cluster.wait_live(PATIENCE).await.unwrap();
    let request = wire::ReplaceNodeRequest {
        old: u64::from(gone),
        peer: town.cluster.peers()[usize::from(new) - 1].clone(),
        api: String::new(),
    };
    let reply = town.client.cluster_replace(request).await.unwrap();
    assert_eq!(reply.node, u64::from(new));
    // With the new node and one old one the cluster goes on: the new one has all there was.
    town.cluster.node(1).kill9().unwrap();
    let run = town.client.start(CHAIN, "after", 6).await.unwrap();
    assert_eq!(run.result_within(PATIENCE).await.unwrap(), 15);
    let text = town.cluster.text(new, "/metrics").await.unwrap();
    assert!(
        text.contains("holdfast_raft_snapshots_installed_total"),
        "it came by snapshot:\n{text}"
    );
}
