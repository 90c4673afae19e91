use holdfast::{Cx, Fail, Found, Probe, Step};

const CHARGE: Step<u32, String> = Step::new("charge");
const FIND_MAIL: Step<Probe<u32>, Found<bool>> = Step::new("find-mail");

async fn order(cx: Cx) -> Result<String, Fail> {
    Ok(cx.step(CHARGE, 1).reconcile(FIND_MAIL).await?)
}

fn main() {}
