use holdfast::{Client, Step, StepCx, StepResult, Worker};

const CHARGE: Step<u32, String> = Step::new("charge");

async fn charge(_: StepCx, cents: u64) -> StepResult<String> {
    Ok(cents.to_string())
}

fn worker(client: &Client) -> Worker {
    Worker::new(client, "orders").step(CHARGE, charge)
}

fn main() {}
