//! What the cluster and the shop's ledger say, gathered for the audit: by the story, and by `demo audit` for a cluster
//! that something else started (docker). Reads only; how the two are compared is in `audit.rs`.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use holdfast::{Client, RunSummary, Status};
use holdfast_jepsen::ledger::{Audit as Effects, read_ledger};

use super::{audit, order};
use crate::output::{self, Exit, Failure};

/// Between two looks at the runs.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// `demo audit`: waits for the orders' ends, then says what the audit says.
///
/// # Errors
/// The orders do not end in time, or the audit does not hold.
pub async fn audit(
    client: &Client,
    orders: u32,
    ledger: &Path,
    admins: &[String],
    within: Duration,
) -> Result<(), Failure> {
    let began = Instant::now();
    // A cluster that is between two leaders is no verdict: asked again until the time is over.
    loop {
        let looked = ended(client, orders).await;
        match looked {
            Ok(true) => break,
            Ok(false) | Err(_) if began.elapsed() < within => {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Ok(false) => {
                explain_all(client, orders).await;
                return Err(Failure::error(format!(
                    "not all orders ended within {within:?}"
                )));
            }
            Err(failure) => return Err(failure),
        }
    }
    tell(&verdict(client, orders, ledger, admins).await?)
}

/// All but two are completed, one failed and one waits.
pub async fn ended(client: &Client, orders: u32) -> Result<bool, Failure> {
    let counts = counts(client).await?;
    let count = |word: &str| counts.get(word).copied().unwrap_or_default();
    Ok(count("completed") + 2 == orders as usize && count("failed") == 1 && count("waiting") == 1)
}

/// Orders by where they stand.
pub async fn counts(client: &Client) -> Result<BTreeMap<&'static str, usize>, Failure> {
    let mut counts = BTreeMap::new();
    for summary in all_runs(client).await? {
        let word = match summary.status {
            Status::Completed => "completed",
            Status::Failed => "failed",
            Status::Waiting => "waiting",
            Status::Running => "running",
            _ => "moving",
        };
        *counts.entry(word).or_default() += 1;
    }
    Ok(counts)
}

async fn all_runs(client: &Client) -> Result<Vec<RunSummary>, Failure> {
    let mut runs = client.runs().page_size(500);
    let mut all = Vec::new();
    while let Some(page) = runs.page().await? {
        all.extend(page);
    }
    Ok(all)
}

/// Why each order that has not ended stands where it does.
pub async fn explain_all(client: &Client, orders: u32) {
    for n in 1..=orders {
        let run = client.run(order::ORDER, &format!("order-{n}"));
        if let Ok(sentence) = run.explain().await
            && !sentence.starts_with("completed")
        {
            output::talk(format!("order-{n}: {sentence}"));
        }
    }
}

/// Compares the runs with the ledger.
pub async fn verdict(
    client: &Client,
    orders: u32,
    ledger: &Path,
    admins: &[String],
) -> Result<audit::Audit, Failure> {
    let mut runs = audit::Runs::default();
    let all = all_runs(client).await?;
    runs.extra = all.len().saturating_sub(orders as usize);
    for n in 1..=orders {
        let id = format!("order-{n}");
        runs.status
            .insert(n, all.iter().find(|it| it.id == id).map(|it| it.status));
    }
    for admin in admins {
        let stuck = metric(admin, "holdfast_runs_without_wake_source", "").await;
        runs.without_wake_source += stuck.unwrap_or_default();
    }
    let lines = read_ledger(ledger).map_err(Failure::error)?;
    Ok(audit::audit(orders, &Effects::of(&lines), &runs))
}

/// Prints the audit's line.
///
/// # Errors
/// It does not hold; what is broken was said.
pub fn tell(verdict: &audit::Audit) -> Result<(), Failure> {
    output::line(&verdict.line);
    if verdict.broken.is_empty() {
        return Ok(());
    }
    for it in &verdict.broken {
        output::talk(format!("  {it}"));
    }
    Err(Failure::new(Exit::Error, "the audit does not hold"))
}

/// The sum of a metric's lines that carry this label, from a node's admin address.
pub async fn metric(admin: &str, name: &str, label: &str) -> Option<u64> {
    let url = format!("http://{admin}/metrics");
    let text = reqwest::get(url).await.ok()?.text().await.ok()?;
    let lines = text.lines().filter(|line| {
        let named = line
            .strip_prefix(name)
            .is_some_and(|rest| rest.starts_with(['{', ' ']));
        named && line.contains(label)
    });
    let values: Vec<f64> = lines
        .filter_map(|line| line.split_whitespace().last()?.parse().ok())
        .collect();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts in a text format of floats"
    )]
    (!values.is_empty()).then(|| values.iter().sum::<f64>() as u64)
}
