//! How something is done again and again: a closed loop of callers, or an open one at a rate.
//!
//! In a closed loop a caller waits for the end before it begins again, so that a slow cluster is asked less. In an open one executions
//! begin at their times whatever becomes of the others, and each latency counts from the time at which it should have begun: a stall
//! is seen by all who came during it, not by the one who hit it (Gil Tene calls the mistake coordinated omission).

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use holdfast::Client;
use tokio::{sync::mpsc, task::JoinSet};

use super::figures::{Measured, gather, histogram, micros};
use super::work::Kind;
use crate::output::{self, Failure};

/// Executions that an open loop has in flight; whoever finds no room waits, and its latency grows all the same.
const IN_FLIGHT_MAX: usize = 20_000;
/// Times that have come and were not looked at yet.
const DUES_MAX: usize = 1024;

/// So many callers for so long.
///
/// # Errors
/// A caller panicked.
pub async fn closed(
    client: &Client,
    kind: Kind,
    callers: usize,
    span: Duration,
) -> Result<Measured, Failure> {
    let began = Instant::now();
    let end = began + span;
    let callers = (0..callers).map(|_| {
        let client = client.clone();
        tokio::spawn(async move {
            let (mut found, mut errors) = (histogram(), 0);
            while Instant::now() < end {
                let started = Instant::now();
                match kind.once(&client).await {
                    Ok(since) => found.saturating_record(micros(since.unwrap_or(started))),
                    Err(error) => {
                        if errors == 0 {
                            output::talk(format!("one failed: {}", error.message));
                        }
                        errors += 1;
                    }
                }
            }
            Ok((found, errors))
        })
    });
    let (found, errors) = gather(callers.collect()).await?;
    Ok(measured(kind, began, found, errors))
}

/// So many a second for so long.
///
/// # Errors
/// An execution panicked, or no thread could be started.
pub async fn open(
    client: &Client,
    kind: Kind,
    per_second: u32,
    span: Duration,
) -> Result<Measured, Failure> {
    let (give, mut dues) = mpsc::channel(DUES_MAX);
    let began = Instant::now();
    let every = Duration::from_secs(1) / per_second.max(1);
    // A thread of its own sleeps to the microsecond; the runtime's timers have milliseconds, and a late beginning would count.
    std::thread::Builder::new()
        .name("pace".into())
        .spawn(move || {
            for nth in 0.. {
                let due = began + every * nth;
                if due >= began + span || give.blocking_send(due).is_err() {
                    return;
                }
                std::thread::sleep((due + every).saturating_duration_since(Instant::now()));
            }
        })?;
    let (mut found, mut errors) = (histogram(), 0);
    let mut under_way = JoinSet::new();
    loop {
        tokio::select! {
            Some(due) = dues.recv(), if under_way.len() < IN_FLIGHT_MAX => {
                let client = client.clone();
                under_way.spawn(async move {
                    let since = kind.once(&client).await?;
                    Ok::<u64, Failure>(micros(since.unwrap_or(due)))
                });
            }
            Some(ended) = under_way.join_next() => match ended.map_err(Failure::error)? {
                Ok(took) => found.saturating_record(took),
                Err(_) => errors += 1,
            },
            else => break,
        }
    }
    Ok(measured(kind, began, found, errors))
}

fn measured(kind: Kind, began: Instant, micros: Histogram<u64>, errors: u64) -> Measured {
    let runs = micros.len();
    Measured {
        what: String::new(),
        runs,
        steps: runs * kind.steps(),
        within: began.elapsed(),
        micros,
        errors,
        spent: None,
    }
}
