//! The order example: contract, workflow, steps, worker and client in one file. README shows its workflow.
//!
//! `holdfast dev` in one terminal, `cargo run --example order` in a second: the worker. Then `cargo run --example order --
//! submit 1001` starts an order, approves it and waits for its end. Kill the worker while it works, and start it again.

#![expect(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use std::{collections::HashMap, error::Error, sync::Mutex, time::Duration};

use holdfast::{
    Client, Cx, Fail, Found, Probe, ResultExt, Retry, Signal, Step, StepCx, StepResult, Undo, View,
    Worker, Workflow,
};
use serde::{Deserialize, Serialize};

const DAY: u64 = 86_400;

// The contract: typed names, shared by clients, workers and tests.

const ORDER: Workflow<String, Shipped> = Workflow::new("order");
const FETCH: Step<String, Order> = Step::new("fetch-order");
const CHARGE: Step<Charge, Receipt> = Step::new("charge-payment");
const FIND_CHARGE: Step<Probe<Charge>, Found<Receipt>> = Step::new("find-charge");
const REFUND: Step<Undo<Charge, Receipt>, ()> = Step::new("refund-payment");
const RESERVE: Step<Reserve, ()> = Step::new("update-inventory");
const RELEASE: Step<Undo<Reserve, ()>, ()> = Step::new("release-inventory");
const NOTIFY: Step<(String, String), ()> = Step::new("notify");
const APPROVAL: Signal<Approval> = Signal::new("approval");
const STAGE: View<Stage> = View::new("stage");

#[derive(Serialize, Deserialize)]
struct Order {
    id: String,
    sku: String,
    units: u32,
    cents: u64,
    email: String,
}

#[derive(Serialize, Deserialize)]
struct Charge {
    order: String,
    cents: u64,
}

#[derive(Serialize, Deserialize, Clone)]
struct Receipt {
    charge: String,
}

#[derive(Serialize, Deserialize)]
struct Reserve {
    sku: String,
    units: u32,
}

#[derive(Serialize, Deserialize)]
struct Approval {
    by: String,
    approved: bool,
}

#[derive(Serialize, Deserialize, Debug)]
enum Stage {
    Charging,
    AwaitingApproval,
    Shipping,
}

#[derive(Serialize, Deserialize, Debug)]
struct Shipped {
    charge: String,
}

// The workflow: deterministic, no I/O.

async fn order(cx: Cx, id: String) -> Result<Shipped, Fail> {
    let o = cx.step(FETCH, id).await?;
    cx.publish(STAGE, Stage::Charging);
    let charge = Charge {
        order: o.id.clone(),
        cents: o.cents,
    };
    let receipt = cx
        .step(CHARGE, charge)
        .retry(Retry::exponential(Duration::from_secs(1)).max_attempts(5))
        .timeout(Duration::from_secs(30)) // of one attempt
        .reconcile(FIND_CHARGE) // lease lost on the way: ask before charging again
        .undo(REFUND) // owed once an attempt was granted; runs if the order fails or is cancelled
        .limit("payments") // a 429 closes it for every run
        .await?;
    cx.publish(STAGE, Stage::AwaitingApproval);
    let asked = cx.wait(APPROVAL).ask(format!("Ship order {}?", o.id));
    match asked.timeout(Duration::from_secs(3 * DAY)).await? {
        Some(it) if it.approved => {}
        Some(it) => return Err(Fail::new("REJECTED", format!("by {}", it.by))),
        None => return Err(Fail::new("APPROVAL_TIMEOUT", "nobody answered in 3 days")),
    }
    cx.publish(STAGE, Stage::Shipping);
    let (sku, units) = (o.sku, o.units);
    cx.step(RESERVE, Reserve { sku, units })
        .undo(RELEASE)
        .await?;
    let mails = [o.email, "warehouse@example.com".to_owned()];
    cx.join_all(mails.map(|to| cx.step(NOTIFY, (to, o.id.clone()))))
        .await?; // in parallel
    let charge = receipt.charge;
    Ok(Shipped { charge })
}

/// The version before approvals: runs that began on it end on it.
async fn order_v1(cx: Cx, id: String) -> Result<Shipped, Fail> {
    let Order { id, cents, .. } = cx.step(FETCH, id).await?;
    let charge = cx.step(CHARGE, Charge { order: id, cents });
    let receipt = charge.undo(REFUND).limit("payments").await?;
    let charge = receipt.charge;
    Ok(Shipped { charge })
}

// The steps: ordinary async Rust.

async fn charge(cx: StepCx, it: Charge) -> StepResult<Receipt> {
    // The same key on every attempt.
    match cx.app::<Shop>().charge(&it, cx.idempotency_key()).await {
        Err(e) if e.declined() => Err(e).terminal("CARD_DECLINED"), // no retry
        Err(e) if e.busy() => Err(e).throttled("payments", Duration::from_secs(2)),
        other => Ok(other?), // `?` means: try again
    }
}

async fn find_charge(cx: StepCx, probe: Probe<Charge>) -> StepResult<Found<Receipt>> {
    let found = cx.app::<Shop>().find_charge(&probe.key).await?;
    Ok(found.map_or(Found::Absent, Found::Done))
}

async fn refund(cx: StepCx, undo: Undo<Charge, Receipt>) -> StepResult<()> {
    // By key, so that it works even if the charge's answer was lost.
    Ok(cx.app::<Shop>().refund(&undo.key).await?)
}

async fn reserve(cx: StepCx, it: Reserve) -> StepResult<()> {
    for unit in cx.progress().unwrap_or(0)..it.units {
        let key = format!("{}/{unit}", cx.idempotency_key());
        cx.app::<Shop>().reserve(&it.sku, &key).await?;
        cx.heartbeat(unit + 1).await?; // an error: lease lost or run cancelled, stop at once
    }
    Ok(())
}

async fn release(cx: StepCx, undo: Undo<Reserve, ()>) -> StepResult<()> {
    Ok(cx.app::<Shop>().release(&undo.key).await?)
}

async fn notify(cx: StepCx, (to, order): (String, String)) -> StepResult<()> {
    Ok(cx
        .app::<Shop>()
        .mail(&to, &order, cx.idempotency_key())
        .await?)
}

// Worker and client.

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = Client::from_env().await?; // HOLDFAST_ENDPOINTS, or the profile that the CLI uses
    let mut words = std::env::args().skip(1);
    match (words.next().as_deref(), words.next()) {
        (None, _) => work(&client).await,
        (Some("submit"), Some(id)) => submit(&client, &id).await,
        _ => Err("usage: order [submit ID]".into()),
    }
}

async fn work(client: &Client) -> Result<(), Box<dyn Error>> {
    Worker::new(client, "orders")
        .app(Shop::default())
        .slots(64)
        .workflow(ORDER.version(1), order_v1)
        .workflow(ORDER.version(2), order) // the highest is current at first, later what `holdfast deploy set order@v2` says
        .step(FETCH, async |cx, id: String| {
            Ok(cx.app::<Shop>().order(&id).await?)
        })
        .step(CHARGE, charge)
        .step(FIND_CHARGE, find_charge)
        .step(REFUND, refund)
        .step(RESERVE, reserve)
        .step(RELEASE, release)
        .step(NOTIFY, notify)
        .run() // SIGTERM: takes nothing new, finishes or hands back within the grace
        .await?;
    Ok(())
}

async fn submit(client: &Client, id: &str) -> Result<(), Box<dyn Error>> {
    let run_id = format!("order-{id}");
    let run = client.start(ORDER, &run_id, id.to_owned()).await?; // same id and input again: the same run
    let approval = Approval {
        by: "sales desk".to_owned(),
        approved: true,
    };
    run.signal(APPROVAL, approval)
        .id(format!("approve-{id}"))
        .await?;
    let shipped = run.result().await?;
    println!("{:?}, last seen {:?}", shipped, run.view(STAGE).await?);
    Ok(())
}

// A shop to talk to: in real life a few services behind HTTP. It acts once per key.

#[derive(Default)]
struct Shop {
    charges: Mutex<HashMap<String, Receipt>>,
    reserved: Mutex<HashMap<String, String>>,
    mails: Mutex<HashMap<String, String>>,
}

#[derive(Debug)]
struct ShopError {
    status: u16,
}

impl std::fmt::Display for ShopError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the shop answered {}", self.status)
    }
}

impl Error for ShopError {}

impl ShopError {
    fn declined(&self) -> bool {
        self.status == 402
    }
    fn busy(&self) -> bool {
        self.status == 429
    }
}

type Answer<T> = Result<T, ShopError>;

impl Shop {
    async fn order(&self, id: &str) -> Answer<Order> {
        answer().await;
        Ok(Order {
            id: id.to_owned(),
            sku: "widget".to_owned(),
            units: 3,
            cents: 4_200,
            email: "customer@example.com".to_owned(),
        })
    }

    async fn charge(&self, it: &Charge, key: &str) -> Answer<Receipt> {
        answer().await;
        if it.cents == 0 {
            return Err(ShopError { status: 402 });
        }
        let charge = format!("charge of order {}", it.order);
        let mut charges = lock(&self.charges);
        Ok(charges
            .entry(key.to_owned())
            .or_insert(Receipt { charge })
            .clone())
    }

    async fn find_charge(&self, key: &str) -> Answer<Option<Receipt>> {
        answer().await;
        Ok(lock(&self.charges).get(key).cloned())
    }

    async fn refund(&self, key: &str) -> Answer<()> {
        answer().await;
        lock(&self.charges).remove(key);
        Ok(())
    }

    async fn reserve(&self, sku: &str, key: &str) -> Answer<()> {
        answer().await;
        lock(&self.reserved).insert(key.to_owned(), sku.to_owned());
        Ok(())
    }

    async fn release(&self, key: &str) -> Answer<()> {
        answer().await;
        let unit = format!("{key}/");
        lock(&self.reserved).retain(|of, _| !of.starts_with(&unit));
        Ok(())
    }

    async fn mail(&self, to: &str, order: &str, key: &str) -> Answer<()> {
        answer().await;
        let text = format!("to {to}: order {order} has shipped");
        if lock(&self.mails)
            .insert(key.to_owned(), text.clone())
            .is_none()
        {
            println!("mail {text}");
        }
        Ok(())
    }
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().expect("no one panics while holding it")
}

/// The way there and back.
async fn answer() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}
