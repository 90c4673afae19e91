use holdfast::{Cx, Fail, Step};

const CHARGE: Step<u32, u32> = Step::new("charge");

async fn nested(cx: Cx) -> Result<u32, Fail> {
    let inner = cx.clone();
    Ok(cx.run("nested", move |_| async move { Ok(inner.step(CHARGE, 1).await?) }).await?)
}

async fn borrowed(cx: Cx, order: String) -> Result<usize, Fail> {
    let name = &order;
    Ok(cx.run("borrowed", move |_| async move { Ok(name.len()) }).await?)
}

fn main() {}
