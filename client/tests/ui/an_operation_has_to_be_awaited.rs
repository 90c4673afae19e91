#![deny(unused_must_use)]

use std::time::Duration;

use holdfast::{Client, Cx, Fail, Signal, Step, Workflow};

const CHARGE: Step<u32, u32> = Step::new("charge");
const APPROVED: Signal<bool> = Signal::new("approved");
const ORDER: Workflow<String, u32> = Workflow::new("order");

async fn order(cx: Cx) -> Result<(), Fail> {
    cx.step(CHARGE, 1);
    cx.wait(APPROVED);
    cx.sleep(Duration::from_secs(1));
    Ok(())
}

fn submit(client: &Client) {
    client.start(ORDER, "order-1", "1".to_string());
}

fn main() {}
