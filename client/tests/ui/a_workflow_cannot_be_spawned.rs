use holdfast::{Cx, Fail, Step};

const CHARGE: Step<u32, u32> = Step::new("charge");

/// As `tokio::spawn` and threads ask.
fn spawn(_: impl Future + Send + 'static) {}

async fn order(cx: Cx) -> Result<(), Fail> {
    spawn(async move { cx.step(CHARGE, 1).await });
    Ok(())
}

fn main() {}
