use holdfast::{Cx, Fail, Step};

struct Receipt;

const CHARGE: Step<u32, Receipt> = Step::new("charge");

async fn order(cx: Cx) -> Result<(), Fail> {
    cx.step(CHARGE, 1).await?;
    Ok(())
}

fn main() {}
