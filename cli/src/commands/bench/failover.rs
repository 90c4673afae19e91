//! The leader is killed, frozen, or told to hand over, again and again, under load: how long until a step completes again.
//!
//! Not here: whether anything was lost or done twice (the crate `jepsen`).

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use holdfast::{Client, wire};
use tokio::task::JoinHandle;

use super::figures::{histogram, micros, to_ms};
use super::local::{Local, leader};
use super::work::Kind;
use crate::output::{self, Failure};

/// Load before the leader is hit, and after the first step that completes again.
const BEFORE: Duration = Duration::from_millis(500);
const AFTER: Duration = Duration::from_secs(2);
/// One run of the prober; it tries again until [`GIVE_UP`].
const TRY: Duration = Duration::from_secs(20);
const GIVE_UP: Duration = Duration::from_secs(60);

/// What happens to the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum How {
    /// SIGKILL: its connections are reset
    Kill,
    /// SIGSTOP: silence, as when its host is gone
    Pause,
    /// It hands over to another, as before an upgrade
    Transfer,
}

/// Hits the leader so often, under so many runs of ten steps at once.
///
/// # Errors
/// A node could not be hit, or no step completed within a minute.
pub async fn measure(
    local: &Local,
    client: &Client,
    how: How,
    times: u32,
    conc: usize,
    json: bool,
) -> Result<(), Failure> {
    let (mut first_step, mut longest_run) = (histogram(), histogram());
    for nth in 1..=times {
        let load = Load::start(client, conc);
        tokio::time::sleep(BEFORE).await;
        let (node, took) = hit(local, client, how).await?;
        first_step.saturating_record(took);
        if how == How::Transfer {
            tokio::time::sleep(AFTER).await;
        } else {
            let process = local.cluster.node(node);
            let again = match how {
                How::Pause => process.resume(),
                How::Kill | How::Transfer => process.restart(),
            };
            tokio::time::sleep(AFTER).await;
            again.map_err(Failure::error)?;
        }
        let longest = load.stop().await?;
        longest_run.saturating_record(longest);
        output::talk(format!(
            "{nth:3}  n{node}  first step {:.1} ms  longest run {:.1} ms",
            to_ms(took),
            to_ms(longest)
        ));
    }
    let how = format!("{how:?}").to_lowercase();
    if json {
        output::line(serde_json::json!({
            "bench": "failover", "how": how, "times": times, "conc": conc,
            "first_step_ms": quantiles(&first_step), "longest_run_ms": quantiles(&longest_run),
        }));
    } else {
        output::line(format!(
            "failover {how}, {times} times under {conc} runs   to the first completed step: {}   longest run: {}",
            text(&first_step),
            text(&longest_run),
        ));
    }
    Ok(())
}

/// Hits it; answers whom, and the microseconds to the first completed step of a client that knows the other nodes.
///
/// # Errors
/// As [`measure`].
pub async fn hit(local: &Local, client: &Client, how: How) -> Result<(u16, u64), Failure> {
    let node = u16::try_from(leader(client).await?).map_err(Failure::error)?;
    let mut others = local.cluster.endpoints();
    if how != How::Transfer {
        others.remove(usize::from(node) - 1);
    }
    let prober = Client::connect(&others).await?;
    prober.topology().await?;
    let began = Instant::now();
    match how {
        How::Kill => local.cluster.node(node).kill9().map_err(Failure::error)?,
        How::Pause => local.cluster.node(node).pause().map_err(Failure::error)?,
        How::Transfer => {
            let request = wire::TransferLeaderRequest {
                partition: 1,
                ..Default::default()
            };
            drop(client.transfer_leader(request).await?);
        }
    }
    while tokio::time::timeout(TRY, Kind::Steps(1).once(&prober))
        .await
        .map_or(true, |it| it.is_err())
    {
        if began.elapsed() > GIVE_UP {
            return Err(Failure::error("no step completed within 60 s"));
        }
    }
    Ok((node, micros(began)))
}

/// Runs of ten steps, as many at once as asked, until it is stopped.
struct Load {
    stop: tokio::sync::watch::Sender<bool>,
    callers: Vec<JoinHandle<u64>>,
}

impl Load {
    fn start(client: &Client, conc: usize) -> Self {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let callers = (0..conc).map(|_| {
            let (client, stopped) = (client.clone(), stopped.clone());
            tokio::spawn(async move {
                let mut longest = 0;
                while !*stopped.borrow() {
                    let began = Instant::now();
                    if Kind::Steps(10).once(&client).await.is_err() {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    longest = longest.max(micros(began));
                }
                longest
            })
        });
        Self {
            stop,
            callers: callers.collect(),
        }
    }

    /// The longest run, in microseconds.
    async fn stop(self) -> Result<u64, Failure> {
        self.stop.send_replace(true);
        let mut longest = 0;
        for caller in self.callers {
            longest = longest.max(caller.await.map_err(Failure::error)?);
        }
        Ok(longest)
    }
}

fn text(all: &Histogram<u64>) -> String {
    let ms = |quantile: f64| to_ms(all.value_at_quantile(quantile));
    format!(
        "min {:.1} ms  p50 {:.1} ms  p90 {:.1} ms  p99 {:.1} ms  max {:.1} ms",
        to_ms(all.min()),
        ms(0.5),
        ms(0.9),
        ms(0.99),
        to_ms(all.max())
    )
}

fn quantiles(all: &Histogram<u64>) -> serde_json::Value {
    let ms = |quantile: f64| to_ms(all.value_at_quantile(quantile));
    serde_json::json!({ "min": to_ms(all.min()), "p50": ms(0.5), "p90": ms(0.9), "p99": ms(0.99), "max": to_ms(all.max()) })
}
