use holdfast::{Cx, Fail, Step, Undo};

const CHARGE: Step<u32, String> = Step::new("charge");
const RELEASE: Step<Undo<u32, bool>, ()> = Step::new("release");

async fn order(cx: Cx) -> Result<String, Fail> {
    Ok(cx.step(CHARGE, 1).undo(RELEASE).await?)
}

fn main() {}
