use holdfast::{Cx, Fail, Step};

const CHARGE: Step<u32, u32> = Step::new("charge");

async fn order(cx: Cx) -> Result<u32, Fail> {
    Ok(cx.step(CHARGE, "a hundred").await?)
}

fn main() {}
