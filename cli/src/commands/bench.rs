//! `holdfast bench`: measures a cluster through its public interfaces. Prints numbers, judges nothing.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use holdfast::{Client, Cx, Fail, Step, Worker, Workflow, wire};
use holdfast_jepsen::cluster::{Cluster, ClusterSpec, Process, ProcessSpec};

use crate::{
    Globals,
    output::{self, Failure},
};

const STEPS: Workflow<u32, u32> = Workflow::new("bench-steps");
const SLEEPER: Workflow<u32, u32> = Workflow::new("bench-sleeper");
const NOOP: Step<u32, u32> = Step::new("bench-noop");
/// Bytes of a no-op command.
const NOOP_BYTES: usize = 200;

/// Measure a cluster.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  holdfast bench raft --conc 256 --local 3\n  holdfast bench steps --steps 10 --conc 64 --local 3"
)]
pub struct Bench {
    #[command(subcommand)]
    what: What,
    /// Start so many nodes on this machine, synced, and stop them after
    #[arg(long, global = true)]
    local: Option<u16>,
    /// How long to measure, in seconds
    #[arg(long, global = true, default_value_t = 10)]
    secs: u64,
    /// One JSON object instead of a line
    #[arg(long, global = true)]
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
    /// Time from a leader's death to the first completed run, under load
    Failover {
        /// How often
        #[arg(long, default_value_t = 20)]
        kills: u32,
        /// Freeze the leader instead of killing it
        #[arg(long)]
        pause: bool,
    },
    /// CPU of each node while nothing happens
    Idle,
    /// Memory of each node with so many waiting runs
    Sleepers {
        /// How many
        #[arg(long, default_value_t = 10_000)]
        runs: u32,
    },
    /// The worker of the benchmark
    #[command(hide = true)]
    Worker,
}

/// What a workload measured.
struct Measured {
    what: String,
    runs: u64,
    steps: u64,
    within: Duration,
    micros: Histogram<u64>,
    errors: u64,
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
            return Ok(bench_worker(&client).run().await?);
        }
        let local = match self.local {
            Some(nodes) => Some(Local::start(nodes).await?),
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
        let span = Duration::from_secs(self.secs);
        match self.what {
            What::Raft { conc } => self.print(&raft(&client, conc, span).await?),
            What::Steps { steps, conc } => {
                let _worker = worker_process(&endpoints)?;
                wait_known(&client).await?;
                load(&client, steps, conc, Duration::from_secs(2)).await?;
                self.print(&load(&client, steps, conc, span).await?);
            }
            What::Failover { kills, pause } => {
                let local = local
                    .as_ref()
                    .ok_or_else(|| Failure::usage("failover needs --local"))?;
                failover(local, &client, kills, pause, self.json).await?;
            }
            What::Idle => {
                let local = local
                    .as_ref()
                    .ok_or_else(|| Failure::usage("idle needs --local"))?;
                tokio::time::sleep(Duration::from_secs(3)).await;
                let before = local.cpu();
                tokio::time::sleep(span).await;
                for (n, (before, after)) in before.iter().zip(local.cpu()).enumerate() {
                    let percent = (after - before) / span.as_secs_f64() * 100.0;
                    output::line(format!("idle    n{}  {percent:.2} % of one core", n + 1));
                }
            }
            What::Sleepers { runs } => {
                let local = local
                    .as_ref()
                    .ok_or_else(|| Failure::usage("sleepers needs --local"))?;
                sleepers(local, &client, &endpoints, runs).await?;
            }
            What::Worker => {}
        }
        Ok(())
    }

    fn print(&self, it: &Measured) {
        let per_second = |n: u64| per_second(n, it.within);
        let ms = |q: f64| to_ms(it.micros.value_at_quantile(q));
        let max = to_ms(it.micros.max());
        if self.json {
            output::line(serde_json::json!({
                "bench": it.what, "runs_per_s": per_second(it.runs), "steps_per_s": per_second(it.steps),
                "p50_ms": ms(0.5), "p99_ms": ms(0.99), "max_ms": max, "errors": it.errors,
                "secs": it.within.as_secs_f64(),
            }));
            return;
        }
        output::line(format!(
            "{:24} {:9.0} runs/s {:9.0} steps/s   p50 {:.3} ms  p99 {:.3} ms  max {max:.1} ms  errors {}",
            it.what,
            per_second(it.runs),
            per_second(it.steps),
            ms(0.5),
            ms(0.99),
            it.errors
        ));
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn per_second(n: u64, within: Duration) -> f64 {
    n as f64 / within.as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn to_ms(micros: u64) -> f64 {
    micros as f64 / 1e3
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("1 µs to 10 min in three digits")
}

/// A cluster of our own.
struct Local {
    cluster: Cluster,
    _folder: tempfile::TempDir,
}

impl Local {
    async fn start(nodes: u16) -> Result<Self, Failure> {
        let home = std::env::var_os("HOME").map_or_else(std::env::temp_dir, PathBuf::from);
        let cache = home.join(".cache").join("holdfast");
        std::fs::create_dir_all(&cache)?;
        let folder = tempfile::Builder::new()
            .prefix("bench-")
            .tempdir_in(cache)?;
        let spec = ClusterSpec::new(std::env::current_exe()?, folder.path())
            .beside_others()
            .nodes(nodes)
            .port_base(0)
            .env("HOLDFAST_TELEMETRY__LOG", "warn");
        let cluster = Cluster::start(spec).map_err(Failure::error)?;
        cluster
            .wait_live(Duration::from_secs(20))
            .await
            .map_err(Failure::error)?;
        let client = Client::connect(&cluster.endpoints()).await?;
        let peers = cluster.peers().into_iter();
        let members = peers.map(|peer| wire::InitMember {
            peer,
            ..Default::default()
        });
        let request = wire::InitRequest {
            name: "bench".to_owned(),
            partitions: 1,
            members: members.collect(),
            abandon: false,
        };
        client.cluster_init(request).await?;
        leader(&client).await?;
        Ok(Self {
            cluster,
            _folder: folder,
        })
    }

    /// CPU seconds of each node so far.
    fn cpu(&self) -> Vec<f64> {
        self.cluster
            .ids()
            .map(|id| cpu_of(self.cluster.node(id).pid().unwrap_or_default()))
            .collect()
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "clock ticks of a short benchmark"
)]
fn cpu_of(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = stat.rsplit(')').next().unwrap_or_default();
    let words: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |n: usize| {
        words
            .get(n)
            .and_then(|it| it.parse::<u64>().ok())
            .unwrap_or_default()
    };
    (ticks(11) + ticks(12)) as f64 / 100.0
}

fn rss_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|it| it.parse::<u64>().ok())
        .unwrap_or_default()
        / 1024
}

async fn leader(client: &Client) -> Result<u64, Failure> {
    for _ in 0..1000 {
        if let Ok(topology) = client.topology().await
            && let Some(it) = topology
                .leaders
                .iter()
                .find(|it| it.partition == 1 && it.node != 0)
        {
            return Ok(it.node);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(Failure::error("no leader within 10 s"))
}

/// The worker is a process of its own, as it is in life.
fn worker_process(endpoints: &[String]) -> Result<Process, Failure> {
    let log =
        std::env::temp_dir().join(format!("holdfast-bench-worker-{}.log", std::process::id()));
    let spec = ProcessSpec::new("worker", std::env::current_exe()?, log).args([
        "--endpoints",
        &endpoints.join(","),
        "bench",
        "worker",
    ]);
    Process::start(spec).map_err(Failure::error)
}

fn bench_worker(client: &Client) -> Worker {
    async fn steps(cx: Cx, n: u32) -> Result<u32, Fail> {
        let mut sum = 0;
        for i in 0..n {
            sum += cx.step(NOOP, i).await?;
        }
        Ok(sum)
    }
    async fn sleeper(cx: Cx, days: u32) -> Result<u32, Fail> {
        cx.sleep(Duration::from_secs(u64::from(days) * 86_400))
            .await?;
        Ok(days)
    }
    Worker::new(client, "bench")
        .slots(1024)
        .workflow(STEPS, steps)
        .workflow(SLEEPER, sleeper)
        .step(NOOP, async |_, i: u32| Ok(i))
}

async fn wait_known(client: &Client) -> Result<(), Failure> {
    for _ in 0..500 {
        let known = client.list_workflows(wire::ListWorkflowsRequest {}).await;
        if known.is_ok_and(|it| it.workflows.len() >= 2) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(Failure::error("the worker did not attach within 10 s"))
}

/// A closed loop: each caller starts a run, waits for its result, and starts the next.
async fn load(
    client: &Client,
    steps: u32,
    conc: usize,
    span: Duration,
) -> Result<Measured, Failure> {
    let began = Instant::now();
    let end = began + span;
    let callers: Vec<_> = (0..conc)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                let (mut found, mut errors) = (histogram(), 0);
                while Instant::now() < end {
                    let started = Instant::now();
                    match one_run(&client, steps).await {
                        Ok(()) => found.saturating_record(micros(started)),
                        Err(error) => {
                            if errors == 0 {
                                output::talk(format!("a run failed: {}", error.message));
                            }
                            errors += 1;
                        }
                    }
                }
                (found, errors)
            })
        })
        .collect();
    let (mut all, mut errors) = (histogram(), 0);
    for caller in callers {
        let (found, failed) = caller.await.map_err(Failure::error)?;
        all.add(found).map_err(Failure::error)?;
        errors += failed;
    }
    let what = format!("steps {steps} conc {conc}");
    let runs = all.len();
    let within = began.elapsed();
    Ok(Measured {
        what,
        runs,
        steps: runs * u64::from(steps),
        within,
        micros: all,
        errors,
    })
}

async fn one_run(client: &Client, steps: u32) -> Result<(), Failure> {
    let id = uuid::Uuid::now_v7().to_string();
    let run = client.start(STEPS, id, steps).await?;
    run.result().await?;
    Ok(())
}

/// No-op commands over streams; each message carries several, and each reply answers some of them.
async fn raft(client: &Client, conc: usize, span: Duration) -> Result<Measured, Failure> {
    let topology = client.topology().await?;
    let leader = topology.leaders.first().cloned().unwrap_or_default();
    let streams = conc.clamp(1, 4);
    let began = Instant::now();
    let tasks: Vec<_> = (0..streams)
        .map(|_| {
            tokio::spawn(noop_stream(
                leader.api.clone(),
                (conc / streams).max(1),
                began + span,
            ))
        })
        .collect();
    let (mut all, mut errors) = (histogram(), 0);
    for task in tasks {
        let (found, failed) = task.await.map_err(Failure::error)??;
        all.add(found).map_err(Failure::error)?;
        errors += failed;
    }
    let (runs, within) = (all.len(), began.elapsed());
    let what = format!("raft conc {conc}");
    Ok(Measured {
        what,
        runs,
        steps: runs,
        within,
        micros: all,
        errors,
    })
}

async fn noop_stream(
    address: String,
    window: usize,
    end: Instant,
) -> Result<(Histogram<u64>, u64), Failure> {
    let mut grpc = wire::cluster_client::ClusterClient::connect(format!("http://{address}"))
        .await
        .map_err(Failure::error)?;
    let (send, receive) = tokio::sync::mpsc::channel::<wire::NoopRequest>(window);
    let payload: Arc<[u8]> = vec![7; NOOP_BYTES].into();
    let outgoing = tokio_stream::wrappers::ReceiverStream::new(receive);
    let reply = grpc
        .noop(outgoing)
        .await
        .map_err(|status| Failure::error(status.message()))?;
    let mut replies = reply.into_inner();
    let (mut found, mut errors, mut next) = (histogram(), 0, 0_u64);
    let mut sent = std::collections::HashMap::new();
    let ask = |first: u64, count: usize| wire::NoopRequest {
        first,
        count: u32::try_from(count).unwrap_or(u32::MAX),
        payload: payload.to_vec().into(),
        partition: 1,
    };
    send.send(ask(next, window)).await.map_err(Failure::error)?;
    sent.extend((0..window as u64).map(|n| (n, Instant::now())));
    next += window as u64;
    while !sent.is_empty() {
        let Some(reply) = replies
            .message()
            .await
            .map_err(|it| Failure::error(it.message()))?
        else {
            break;
        };
        for n in reply.first..reply.first + u64::from(reply.count) {
            if let Some(at) = sent.remove(&n) {
                if reply.error.is_empty() {
                    found.saturating_record(micros(at));
                } else {
                    errors += 1;
                }
            }
        }
        if Instant::now() < end {
            let count = reply.count as usize;
            sent.extend((next..next + count as u64).map(|n| (n, Instant::now())));
            send.send(ask(next, count)).await.map_err(Failure::error)?;
            next += count as u64;
        }
    }
    Ok((found, errors))
}

/// Kills or freezes the leader under load, again and again.
#[expect(
    clippy::fn_params_excessive_bools,
    reason = "two flags of the command line"
)]
async fn failover(
    local: &Local,
    client: &Client,
    kills: u32,
    pause: bool,
    json: bool,
) -> Result<(), Failure> {
    let endpoints = local.cluster.endpoints();
    let _worker = worker_process(&endpoints)?;
    wait_known(client).await?;
    let mut times = histogram();
    for n in 0..kills {
        let loading = tokio::spawn(background(client.clone()));
        tokio::time::sleep(Duration::from_millis(500)).await;
        let leader = u16::try_from(leader(client).await?).map_err(Failure::error)?;
        let mut others = endpoints.clone();
        others.remove(usize::from(leader) - 1);
        let prober = Client::connect(&others).await?;
        prober.topology().await?;
        let node = local.cluster.node(leader);
        if pause { node.pause() } else { node.kill9() }.map_err(Failure::error)?;
        let began = Instant::now();
        while tokio::time::timeout(Duration::from_secs(20), one_run(&prober, 1))
            .await
            .map_or(true, |it| it.is_err())
        {
            if began.elapsed() > Duration::from_secs(60) {
                return Err(Failure::error("no step completed within 60 s of a kill"));
            }
        }
        times.saturating_record(micros(began));
        output::talk(format!(
            "{:3}  n{}  {:.1} ms",
            n + 1,
            leader,
            to_ms(micros(began))
        ));
        loading.abort();
        if pause { node.resume() } else { node.restart() }.map_err(Failure::error)?;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let ms = |q: f64| to_ms(times.value_at_quantile(q));
    let how = if pause { "paused" } else { "killed" };
    if json {
        output::line(serde_json::json!({
            "bench": format!("failover {how}"), "kills": kills, "p50_ms": ms(0.5), "p90_ms": ms(0.9),
            "max_ms": to_ms(times.max()), "min_ms": to_ms(times.min()),
        }));
    } else {
        output::line(format!(
            "failover, leader {how}, {kills} times, to the first completed step: min {:.1} ms  p50 {:.1} ms  p90 {:.1} ms  max {:.1} ms",
            to_ms(times.min()),
            ms(0.5),
            ms(0.9),
            to_ms(times.max())
        ));
    }
    Ok(())
}

/// Load until it is aborted.
async fn background(client: Client) {
    let callers = (0..16).map(|_| {
        let client = client.clone();
        async move {
            loop {
                if one_run(&client, 10).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    });
    futures::future::join_all(callers).await;
}

async fn sleepers(
    local: &Local,
    client: &Client,
    endpoints: &[String],
    runs: u32,
) -> Result<(), Failure> {
    let _worker = worker_process(endpoints)?;
    wait_known(client).await?;
    let starting = (0..64_u32).map(|caller| {
        let client = client.clone();
        async move {
            for n in (caller..runs).step_by(64) {
                client.start(SLEEPER, format!("sleeper-{n}"), 30).await?;
            }
            Ok::<(), Failure>(())
        }
    });
    futures::future::try_join_all(starting).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    for id in local.cluster.ids() {
        let rss = rss_mib(local.cluster.node(id).pid().unwrap_or_default());
        output::line(format!("sleepers {runs}    n{id}  RSS {rss} MiB"));
    }
    Ok(())
}
