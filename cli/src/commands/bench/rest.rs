//! What a cluster costs that does little: nothing at all, or runs that wait.
//!
//! Not here: load (`load`).

use std::time::Duration;

use holdfast::Client;
use serde_json::json;

use super::local::Local;
use super::work::start_sleeper;
use crate::output::{self, Failure};

/// Elections and first compactions are over by then.
const SETTLES: Duration = Duration::from_secs(3);
/// Memory is looked at so long after the last start.
const RESTS: Duration = Duration::from_secs(5);
const CALLERS: u32 = 64;

/// The share of one processor that each node takes while nothing happens.
pub async fn idle(local: &Local, span: Duration, as_json: bool) {
    tokio::time::sleep(SETTLES).await;
    let before = local.used();
    tokio::time::sleep(span).await;
    let shares = before.iter().zip(local.used());
    let shares: Vec<f64> = shares
        .map(|(before, after)| (after.cpu - before.cpu) / span.as_secs_f64() * 100.0)
        .collect();
    if as_json {
        output::line(json!({ "bench": "idle", "percent_of_a_core": shares }));
        return;
    }
    for (nth, percent) in (1..).zip(shares) {
        output::line(format!("idle    n{nth}  {percent:.2} % of one core"));
    }
}

/// Memory and disk of each node with so many waiting runs.
///
/// # Errors
/// A run could not be started.
pub async fn sleepers(
    local: &Local,
    client: &Client,
    runs: u32,
    as_json: bool,
) -> Result<(), Failure> {
    let starting = (0..CALLERS).map(|caller| async move {
        for nth in (caller..runs).step_by(CALLERS as usize) {
            start_sleeper(client, u64::from(nth)).await?;
        }
        Ok::<(), Failure>(())
    });
    futures::future::try_join_all(starting).await?;
    tokio::time::sleep(RESTS).await;
    let sizes = local.sizes();
    if as_json {
        let sizes = sizes
            .iter()
            .map(|(rss, disk)| json!({ "rss_mib": rss, "disk_bytes": disk }));
        let sizes: Vec<_> = sizes.collect();
        output::line(json!({ "bench": "sleepers", "runs": runs, "nodes": sizes }));
        return Ok(());
    }
    for (nth, (rss, disk)) in (1..).zip(sizes) {
        output::line(format!(
            "sleepers {runs}    n{nth}  RSS {rss} MiB  on disk {} MiB",
            disk >> 20
        ));
    }
    Ok(())
}
