use holdfast::{Run, Signal};

const APPROVED: Signal<bool> = Signal::new("approved");

async fn approve(run: Run<String>) -> Result<(), holdfast::ClientError> {
    run.signal(APPROVED, "yes").await
}

fn main() {}
