//! The order workflow of the demo: as in `client/examples/order.rs`, against the shop over HTTP, whose ledger sees keys,
//! fences and attempts.

use std::{net::SocketAddr, time::Duration};

use holdfast::{
    Client, ClientError, Cx, Fail, Found, LimitSpec, Probe, ResultExt, Retry, Signal, Step, StepCx,
    StepResult, Undo, View, Worker, Workflow,
};
use holdfast_jepsen::ledger::{Caller, ShopClient, ShopError};
use serde::{Deserialize, Serialize};

const DAY: u64 = 86_400;
/// What the shop sells.
pub const SKU: &str = "widget";
/// Units of it at the beginning.
pub const STOCK: u64 = 1_000;

/// What the shop sells and to whom.
#[derive(Serialize, Deserialize, Clone)]
pub struct Order {
    /// Its id.
    pub id: String,
    /// How many units.
    pub units: u64,
    /// Its price.
    pub cents: u64,
}

/// What is charged.
#[derive(Serialize, Deserialize, Clone)]
pub struct Charge {
    order: String,
    cents: u64,
}

/// What the payment service gave.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Receipt {
    id: String,
}

/// What is taken from stock.
#[derive(Serialize, Deserialize, Clone)]
pub struct Reserve {
    order: String,
    units: u64,
}

/// A person's answer.
#[derive(Serialize, Deserialize)]
pub struct Approval {
    /// Who.
    pub by: String,
    /// Whether it may ship.
    pub approved: bool,
}

/// What the customer sees.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// Money.
    Charging,
    /// A person.
    AwaitingApproval,
    /// Stock and mail.
    Shipping,
}

pub const ORDER: Workflow<String, Receipt> = Workflow::new("order");
pub const FETCH: Step<String, Order> = Step::new("fetch-order");
pub const CHARGE: Step<Charge, Receipt> = Step::new("charge-payment");
pub const FIND_CHARGE: Step<Probe<Charge>, Found<Receipt>> = Step::new("find-charge");
pub const REFUND: Step<Undo<Charge, Receipt>, ()> = Step::new("refund-payment");
pub const RESERVE: Step<Reserve, ()> = Step::new("update-inventory");
pub const RELEASE: Step<Undo<Reserve, ()>, ()> = Step::new("release-inventory");
pub const NOTIFY: Step<(String, String), ()> = Step::new("notify");
pub const APPROVAL: Signal<Approval> = Signal::new("approval");
pub const STAGE: View<Stage> = View::new("stage");

async fn order(cx: Cx, id: String) -> Result<Receipt, Fail> {
    let o = cx.step(FETCH, id).await?;
    cx.publish(STAGE, Stage::Charging);
    let receipt = cx
        .step(
            CHARGE,
            Charge {
                order: o.id.clone(),
                cents: o.cents,
            },
        )
        .retry(Retry::exponential(Duration::from_millis(100)))
        .timeout(Duration::from_secs(30))
        .reconcile(FIND_CHARGE) // lease lost on the way: ask before charging again
        .undo(REFUND) // owed once an attempt was granted; runs if the order fails or is cancelled
        .limit("payments") // a 429 closes it for every run
        .await?;
    cx.publish(STAGE, Stage::AwaitingApproval);
    let asked = cx.wait(APPROVAL).ask(format!("Ship order {}?", o.id));
    match asked.timeout(Duration::from_secs(3 * DAY)).await? {
        Some(a) if a.approved => {}
        Some(a) => return Err(Fail::new("REJECTED", format!("by {}", a.by))),
        None => return Err(Fail::new("APPROVAL_TIMEOUT", "nobody answered in 3 days")),
    }
    cx.publish(STAGE, Stage::Shipping);
    cx.step(
        RESERVE,
        Reserve {
            order: o.id.clone(),
            units: o.units,
        },
    )
    .undo(RELEASE)
    .await?;
    let to = ["customer", "warehouse"].map(|to| cx.step(NOTIFY, (to.to_owned(), o.id.clone())));
    cx.join_all(to).await?; // in parallel
    Ok(receipt)
}

/// Who calls the shop: the key and the fence go along.
fn caller(cx: &StepCx, step: &str, order: &str) -> Caller {
    Caller {
        order: order.to_owned(),
        key: cx.idempotency_key().to_owned(),
        run: cx.run_id().to_owned(),
        step: step.to_owned(),
        fence: cx.fence(),
        attempt: cx.attempt(),
        worker: std::process::id().to_string(),
    }
}

async fn charge(cx: StepCx, it: Charge) -> StepResult<Receipt> {
    let who = caller(&cx, CHARGE.name(), &it.order);
    match cx.app::<ShopClient>().charge(&who, it.cents).await {
        Err(busy @ ShopError::Busy { .. }) => {
            Err(busy).throttled("payments", Duration::from_secs(2))
        }
        other => Ok(Receipt { id: other?.id }), // `?` means: try again
    }
}

async fn find_charge(cx: StepCx, probe: Probe<Charge>) -> StepResult<Found<Receipt>> {
    let found = cx.app::<ShopClient>().find_charge(&probe.key).await?;
    Ok(found.map_or(Found::Absent, |it| Found::Done(Receipt { id: it.id })))
}

async fn refund(cx: StepCx, undo: Undo<Charge, Receipt>) -> StepResult<()> {
    let who = caller(&cx, REFUND.name(), &undo.input.order);
    cx.app::<ShopClient>().refund(&who, &undo.key).await?;
    Ok(())
}

async fn reserve(cx: StepCx, it: Reserve) -> StepResult<()> {
    let who = caller(&cx, RESERVE.name(), &it.order);
    cx.app::<ShopClient>().reserve(&who, SKU, it.units).await?;
    Ok(())
}

async fn release(cx: StepCx, undo: Undo<Reserve, ()>) -> StepResult<()> {
    let who = caller(&cx, RELEASE.name(), &undo.input.order);
    cx.app::<ShopClient>().release(&who, &undo.key).await?;
    Ok(())
}

async fn notify(cx: StepCx, (to, order): (String, String)) -> StepResult<()> {
    let who = caller(&cx, &format!("{}:{to}", NOTIFY.name()), &order);
    cx.app::<ShopClient>()
        .mail(&who, &to, "your order has shipped")
        .await?;
    Ok(())
}

/// The worker of the order workflow.
pub fn worker(client: &Client, shop: SocketAddr) -> Worker {
    let shop = ShopClient::new(shop);
    Worker::new(client, "orders")
        .app(shop)
        .slots(16)
        .grace(Duration::from_secs(3))
        .limit(
            "payments",
            LimitSpec::rate(100, Duration::from_secs(1)).burst(20),
        )
        .workflow(ORDER, order)
        .step(FETCH, async |_, id: String| {
            Ok(Order {
                id,
                units: 1,
                cents: 4_200,
            })
        })
        .step(CHARGE, charge)
        .step(FIND_CHARGE, find_charge)
        .step(REFUND, refund)
        .step(RESERVE, reserve)
        .step(RELEASE, release)
        .step(NOTIFY, notify)
}

/// The order that is rejected.
pub fn rejected(orders: u32) -> u32 {
    orders.min(5)
}

/// The order that is left for a person.
pub fn waits_for_you(orders: u32) -> u32 {
    orders.div_ceil(2) + 2
}

/// The order whose payment is answered 429 for a while.
pub fn unlucky(orders: u32) -> u32 {
    orders.min(2)
}

/// Approves an order, or rejects the one that is to be.
///
/// # Errors
/// The cluster did not take the signal.
pub async fn approve(client: &Client, n: u32, orders: u32) -> Result<(), ClientError> {
    let id = format!("order-{n}");
    let approved = n != rejected(orders);
    let by = "sales desk".to_owned();
    let run = client.run(ORDER, &id);
    run.signal(APPROVAL, Approval { by, approved })
        .id(format!("approve-{id}"))
        .await
}
