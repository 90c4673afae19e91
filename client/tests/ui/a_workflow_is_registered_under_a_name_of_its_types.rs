use holdfast::{Client, Cx, Fail, Worker, Workflow};

const ORDER: Workflow<String, u32> = Workflow::new("order");

async fn order(_: Cx, id: String) -> Result<String, Fail> {
    Ok(id)
}

fn worker(client: &Client) -> Worker {
    Worker::new(client, "orders").workflow(ORDER, order)
}

fn main() {}
