//! How a cluster fares as its store grows: runs that ended and runs that wait are added part by part, and between the parts
//! it is measured; in the end its leader is killed, and started again.
//!
//! Not here: what one measurement is (`load`), what it cost (`spent`).

use std::time::{Duration, Instant};

use holdfast::Client;
use holdfast_jepsen::cluster::Process;
use serde_json::json;

use super::failover::{How, hit};
use super::figures::{self, Measured, micros, to_ms};
use super::local::Local;
use super::work::{Kind, start_finished, start_sleeper};
use super::{Pace, load, spending};
use crate::output::{self, Failure};

/// Load between two parts.
const KIND: Kind = Kind::Steps(10);
const CALLERS: usize = 64;
/// Runs are added by so many at once.
const FILLERS: u64 = 512;
/// Flushes and compactions that a part left behind are mostly over by then.
const SETTLES: Duration = Duration::from_secs(5);
/// A node is back once it answers for all its partitions.
const BACK_WITHIN: Duration = Duration::from_secs(120);

/// How far a store is to grow.
#[derive(Debug, Clone, Copy)]
pub struct Growth {
    /// Runs that end.
    pub finished: u64,
    /// Runs that wait for a month.
    pub waiting: u64,
    /// In so many parts.
    pub parts: u64,
}

/// Grows and measures.
///
/// # Errors
/// A run could not be started, or a node did not come back.
pub async fn measure(
    local: &Local,
    (client, worker): (&Client, &Process),
    growth: Growth,
    span: Duration,
    as_json: bool,
) -> Result<(), Failure> {
    for part in 0..=growth.parts {
        let before = share(growth, part.saturating_sub(1));
        let (finished, waiting) = share(growth, part);
        let began = Instant::now();
        fill(client, (before.0, finished), Adds::Finished).await?;
        fill(client, (before.1, waiting), Adds::Waiting).await?;
        let filled = began.elapsed();
        tokio::time::sleep(SETTLES).await;
        let what = format!("scale {finished} finished, {waiting} waiting");
        let loaded = load(client, KIND, Pace::Callers(CALLERS), span);
        let measured = spending(Some(local), Some(worker), loaded).await?;
        figures::print(&[Measured { what, ..measured }], as_json);
        tell_sizes(local, filled, as_json);
    }
    lose_the_leader(local, client, as_json).await
}

/// What there is after so many parts.
fn share(growth: Growth, part: u64) -> (u64, u64) {
    let of = |all: u64| all * part / growth.parts.max(1);
    (of(growth.finished), of(growth.waiting))
}

#[derive(Clone, Copy)]
enum Adds {
    Finished,
    Waiting,
}

async fn fill(client: &Client, (from, to): (u64, u64), adds: Adds) -> Result<(), Failure> {
    let fillers = (0..FILLERS).map(|filler| {
        let client = client.clone();
        tokio::spawn(async move {
            let mut nth = from + filler;
            while nth < to {
                match adds {
                    Adds::Finished => start_finished(&client, nth).await?,
                    Adds::Waiting => start_sleeper(&client, nth).await?,
                }
                nth += FILLERS;
            }
            Ok::<(), Failure>(())
        })
    });
    let fillers: Vec<_> = fillers.collect();
    for filler in fillers {
        filler.await.map_err(Failure::error)??;
    }
    Ok(())
}

fn tell_sizes(local: &Local, filled: Duration, as_json: bool) {
    let sizes = local.sizes();
    if as_json {
        let sizes: Vec<_> = sizes
            .iter()
            .map(|(rss, disk)| json!({ "rss_mib": rss, "disk_bytes": disk }))
            .collect();
        output::line(json!({ "bench": "scale", "filled_s": filled.as_secs_f64(), "nodes": sizes }));
        return;
    }
    output::line(format!("    filled in {:.0} s", filled.as_secs_f64()));
    for (nth, (rss, disk)) in (1..).zip(sizes) {
        output::line(format!(
            "    n{nth}  RSS {rss} MiB  on disk {} MiB",
            disk >> 20
        ));
    }
}

/// From its death to the first step that completes, and from its new start until it is ready.
async fn lose_the_leader(local: &Local, client: &Client, as_json: bool) -> Result<(), Failure> {
    let (node, first_step) = hit(local, client, How::Kill).await?;
    let process = local.cluster.node(node);
    let began = Instant::now();
    process.restart().map_err(Failure::error)?;
    local
        .cluster
        .wait_ready(BACK_WITHIN)
        .await
        .map_err(Failure::error)?;
    let (first_step, back) = (to_ms(first_step), to_ms(micros(began)));
    if as_json {
        output::line(
            json!({ "bench": "scale", "takeover_first_step_ms": first_step, "restart_ready_ms": back }),
        );
    } else {
        output::line(format!(
            "leader n{node} killed: first step after {first_step:.0} ms; started again: ready after {back:.0} ms"
        ));
    }
    Ok(())
}
