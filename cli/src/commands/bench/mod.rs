//! `holdfast bench`: measures a cluster through its public interfaces. Prints numbers, judges nothing.

mod failover;
mod figures;
mod load;
mod local;
mod raft;
mod rest;
mod scale;
mod spent;
mod table;
mod work;

use std::path::PathBuf;
use std::time::Duration;

use holdfast::Client;
use holdfast_jepsen::cluster::Process;

use crate::{
    Globals,
    output::{self, Failure},
};
use failover::How;
use figures::Measured;
use local::Local;
use spent::{Moment, Spent};
use work::Kind;

/// Measure a cluster.
#[derive(clap::Args)]
#[command(
    after_long_help = "Examples:\n  holdfast bench raft --conc 256 --local 3\n  holdfast bench steps --steps 10 --conc 64 --local 3 --repeats 3\n  holdfast bench latency --rate 500 --local 3\n\nWith --local each measurement also says what it cost: processors, disks, and the stages of a commit on its leader."
)]
pub struct Bench {
    #[command(subcommand)]
    what: What,
    /// Start so many nodes on this machine, synced, and stop them after
    #[arg(long, global = true)]
    local: Option<u16>,
    /// Partitions of the cluster that is started
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        default_value_t = 1,
        requires = "local"
    )]
    partitions: u32,
    /// How long to measure, in seconds
    #[arg(long, global = true, default_value_t = 10)]
    secs: u64,
    /// Load before it, in seconds
    #[arg(long, global = true, hide_short_help = true, default_value_t = 2)]
    warm_up: u64,
    /// Measure so often, and tell the medians
    #[arg(long, global = true, hide_short_help = true, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,
    /// One JSON object instead of lines
    #[arg(long, global = true, hide_short_help = true)]
    json: bool,
}

#[derive(clap::Subcommand)]
enum What {
    /// No-op commands of 200 bytes through the log: the ceiling
    Raft {
        /// In flight at once
        #[arg(long, default_value_t = 256)]
        conc: usize,
    },
    /// Runs of no-op steps through a worker
    Steps {
        /// Steps of a run
        #[arg(long, default_value_t = 10)]
        steps: u32,
        /// Runs at once
        #[arg(long, default_value_t = 64)]
        conc: usize,
    },
    /// Runs of one step
    Submit {
        /// Runs at once
        #[arg(long, default_value_t = 256)]
        conc: usize,
    },
    /// Runs that begin at a fixed rate, whatever becomes of the others
    Latency {
        /// Runs a second
        #[arg(long, default_value_t = 200)]
        rate: u32,
        /// Steps of a run
        #[arg(long, default_value_t = 1)]
        steps: u32,
    },
    /// From a signal to the end of the run that waits for it
    Signals {
        /// Runs at once
        #[arg(long, default_value_t = 64)]
        conc: usize,
    },
    /// How late runs end that sleep
    Timers {
        /// Runs at once
        #[arg(long, default_value_t = 1024)]
        conc: usize,
        /// How long each sleeps, in milliseconds
        #[arg(long, default_value_t = 500)]
        sleep_ms: u64,
    },
    /// Runs of one step with a large result
    Payload {
        /// Runs at once
        #[arg(long, default_value_t = 16)]
        conc: usize,
        /// Bytes of the result
        #[arg(long, default_value_t = 64 * 1024)]
        bytes: u32,
    },
    /// Long runs, one at a time
    Long {
        /// Steps of a run
        #[arg(long, default_value_t = 5_000)]
        steps: u32,
    },
    /// Runs whose steps are all asked for at once
    Fanout {
        /// Runs at once
        #[arg(long, default_value_t = 4)]
        conc: usize,
        /// Steps of a run
        #[arg(long, default_value_t = 100)]
        steps: u32,
    },
    /// From the loss of the leader to the first step that completes, under load
    Failover {
        /// How often
        #[arg(long, default_value_t = 20)]
        kills: u32,
        /// Runs of ten steps at once meanwhile
        #[arg(long, default_value_t = 32)]
        conc: usize,
        /// What happens to the leader
        #[arg(long, value_enum, default_value = "kill")]
        how: How,
    },
    /// A fixed rate for long, with memory and disk at every interval
    Soak {
        /// Runs of ten steps a second
        #[arg(long, default_value_t = 100)]
        rate: u32,
        /// Between two lines, in seconds
        #[arg(long, default_value_t = 10)]
        every: u64,
    },
    /// CPU of each node while nothing happens
    Idle,
    /// Memory and disk of each node with so many waiting runs
    Sleepers {
        /// How many
        #[arg(long, default_value_t = 10_000)]
        runs: u32,
    },
    /// Throughput, memory and disk as the store grows, and then the leader killed
    Scale {
        /// Runs that end
        #[arg(long, default_value_t = 5_000_000)]
        finished: u64,
        /// Runs that wait for a month
        #[arg(long, default_value_t = 1_000_000)]
        waiting: u64,
        /// Measured after each of so many parts
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
        parts: u64,
    },
    /// All of these, one after the other, as the table of docs/benchmarks.md
    Table {
        /// A program that measures a peer: `PROGRAM steps10x256` prints `steps_per_s=… runs_per_s=… p50_ms=… p99_ms=…`
        #[arg(long)]
        peer: Option<PathBuf>,
    },
    /// The worker of the benchmark
    #[command(hide = true)]
    Worker,
}

/// How a load is made.
#[derive(Debug, Clone, Copy)]
enum Pace {
    /// By so many callers.
    Callers(usize),
    /// So many a second.
    Rate(u32),
}

impl What {
    /// What is done again and again, if that is what it is.
    fn load(&self) -> Option<(String, Kind, Pace)> {
        let callers = |n: &usize| Pace::Callers(*n);
        Some(match self {
            Self::Steps { steps, conc } => {
                let what = format!("steps {steps} conc {conc}");
                (what, Kind::Steps(*steps), callers(conc))
            }
            Self::Submit { conc } => {
                let what = format!("submit conc {conc}");
                (what, Kind::Steps(1), callers(conc))
            }
            Self::Latency { rate, steps } => {
                let what = format!("latency {steps} at {rate}/s");
                (what, Kind::Steps(*steps), Pace::Rate(*rate))
            }
            Self::Signals { conc } => (format!("signals conc {conc}"), Kind::Signal, callers(conc)),
            Self::Timers { conc, sleep_ms } => {
                let what = format!("timers {sleep_ms} ms conc {conc}");
                let sleeps = Duration::from_millis(*sleep_ms);
                (what, Kind::Timer(sleeps), callers(conc))
            }
            Self::Payload { conc, bytes } => {
                let what = format!("payload {bytes} conc {conc}");
                (what, Kind::Payload(*bytes), callers(conc))
            }
            Self::Long { steps } => {
                let what = format!("long {steps}");
                (what, Kind::Steps(*steps), Pace::Callers(1))
            }
            Self::Fanout { conc, steps } => {
                let what = format!("fanout {steps} conc {conc}");
                (what, Kind::FanOut(*steps), callers(conc))
            }
            Self::Raft { .. }
            | Self::Failover { .. }
            | Self::Soak { .. }
            | Self::Idle
            | Self::Sleepers { .. }
            | Self::Scale { .. }
            | Self::Table { .. }
            | Self::Worker => return None,
        })
    }
}

impl Bench {
    /// Measures and prints.
    ///
    /// # Errors
    /// The cluster could not be started or reached.
    pub fn call(self, globals: &Globals) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        runtime.block_on(self.measure(globals))
    }

    async fn measure(self, globals: &Globals) -> Result<(), Failure> {
        if matches!(self.what, What::Worker) {
            let client = super::client(globals).await?;
            return Ok(work::worker(&client).run().await?);
        }
        if let What::Table { peer } = &self.what {
            let table = table::Table {
                nodes: self.local.unwrap_or(3),
                secs: self.secs,
                repeats: self.repeats,
                peer: peer.clone(),
            };
            return table.print().await;
        }
        let local = match self.local {
            Some(nodes) => Some(Local::start(nodes, self.partitions).await?),
            None => None,
        };
        let endpoints = match &local {
            Some(local) => local.cluster.endpoints(),
            None if globals.endpoints.is_empty() => {
                return Err(Failure::usage(
                    "name a cluster by --endpoints, or start one by --local 3",
                ));
            }
            None => globals.endpoints.clone(),
        };
        let client = Client::connect(&endpoints).await?;
        let measured = self.with(local.as_ref(), &client, &endpoints).await;
        if let Some(local) = local {
            local.stop().await?;
        }
        measured
    }

    async fn with(
        &self,
        local: Option<&Local>,
        client: &Client,
        endpoints: &[String],
    ) -> Result<(), Failure> {
        match &self.what {
            What::Raft { conc } => {
                let noops = |span| raft::noops(client, *conc, span);
                self.repeat(local, None, noops).await
            }
            What::Idle => {
                rest::idle(needed(local)?, self.span(), self.json).await;
                Ok(())
            }
            _ => {
                let worker = work::worker_process(client, endpoints).await?;
                let measured = self.with_worker(local, client, &worker).await;
                worker
                    .stop(local::STOP_WITHIN)
                    .await
                    .map_err(Failure::error)?;
                measured
            }
        }
    }

    /// What needs a worker.
    async fn with_worker(
        &self,
        local: Option<&Local>,
        client: &Client,
        worker: &Process,
    ) -> Result<(), Failure> {
        match &self.what {
            What::Failover { kills, conc, how } => {
                failover::measure(needed(local)?, client, *how, *kills, *conc, self.json).await
            }
            What::Soak { rate, every } => {
                let every = Duration::from_secs((*every).max(1));
                self.soak(local, client, worker, *rate, every).await
            }
            What::Sleepers { runs } => {
                rest::sleepers(needed(local)?, client, *runs, self.json).await
            }
            What::Scale {
                finished,
                waiting,
                parts,
            } => {
                let growth = scale::Growth {
                    finished: *finished,
                    waiting: *waiting,
                    parts: *parts,
                };
                let ours = (client, worker);
                scale::measure(needed(local)?, ours, growth, self.span(), self.json).await
            }
            other => {
                let Some((what, kind, pace)) = other.load() else {
                    return Ok(()); // done without a worker
                };
                let load = async |span| {
                    let measured = load(client, kind, pace, span).await?;
                    let what = what.clone();
                    Ok(Measured { what, ..measured })
                };
                self.repeat(local, Some(worker), load).await
            }
        }
    }

    /// Warms up, measures as often as asked, and prints.
    async fn repeat(
        &self,
        local: Option<&Local>,
        worker: Option<&Process>,
        measure: impl AsyncFn(Duration) -> Result<Measured, Failure>,
    ) -> Result<(), Failure> {
        if self.warm_up > 0 {
            measure(Duration::from_secs(self.warm_up)).await?;
        }
        let mut all = Vec::new();
        for _ in 0..self.repeats {
            all.push(spending(local, worker, measure(self.span())).await?);
        }
        figures::print(&all, self.json);
        Ok(())
    }

    fn span(&self) -> Duration {
        Duration::from_secs(self.secs)
    }

    /// Line by line until the time is over.
    async fn soak(
        &self,
        local: Option<&Local>,
        client: &Client,
        worker: &Process,
        rate: u32,
        every: Duration,
    ) -> Result<(), Failure> {
        let parts = Duration::from_secs(self.secs)
            .div_duration_f64(every)
            .ceil();
        let mut nth = 0.0;
        while nth < parts {
            let load = load(client, Kind::Steps(10), Pace::Rate(rate), every);
            let measured = spending(local, Some(worker), load).await?;
            let what = format!("soak {:.0} s", nth * every.as_secs_f64());
            figures::print(&[Measured { what, ..measured }], self.json);
            for (nth, (rss, disk)) in (1..).zip(local.map(Local::sizes).unwrap_or_default()) {
                let line = format!("    n{nth}  RSS {rss} MiB  on disk {} MiB", disk >> 20);
                if self.json {
                    output::line(
                        serde_json::json!({ "node": nth, "rss_mib": rss, "disk_bytes": disk }),
                    );
                } else {
                    output::line(line);
                }
            }
            nth += 1.0;
        }
        Ok(())
    }
}

fn needed(local: Option<&Local>) -> Result<&Local, Failure> {
    local.ok_or_else(|| Failure::usage("this needs nodes of its own: add --local 3"))
}

async fn load(
    client: &Client,
    kind: Kind,
    pace: Pace,
    span: Duration,
) -> Result<Measured, Failure> {
    match pace {
        Pace::Callers(callers) => load::closed(client, kind, callers, span).await,
        Pace::Rate(per_second) => load::open(client, kind, per_second, span).await,
    }
}

/// What is measured, and what it cost where the cluster is ours.
async fn spending(
    local: Option<&Local>,
    worker: Option<&Process>,
    measuring: impl Future<Output = Result<Measured, Failure>>,
) -> Result<Measured, Failure> {
    let Some(local) = local else {
        return measuring.await;
    };
    let before = Moment::now(local, worker).await?;
    let measured = measuring.await?;
    let after = Moment::now(local, worker).await?;
    let spent = Some(Spent::between(&before, &after));
    Ok(Measured { spent, ..measured })
}
