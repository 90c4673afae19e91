use holdfast::{Step, StepCx, StepResult};

const CHARGE: Step<u32, u32> = Step::new("charge");

async fn reserve(cx: StepCx, cents: u32) -> StepResult<u32> {
    Ok(cx.step(CHARGE, cents).await?)
}

fn main() {}
