use holdfast::{Cx, Fail};

async fn order(_: Cx) -> Result<String, Fail> {
    let prices = std::fs::read_to_string("prices.csv")?;
    Ok(prices)
}

fn main() {}
