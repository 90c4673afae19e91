//! What the worker of a benchmark serves, and one execution of each kind as a client makes it.
//!
//! Not here: how many at once, and for how long (`load`).

use std::time::{Duration, Instant};

use holdfast::{Client, Cx, Fail, Signal, Step, Worker, Workflow, wire};
use holdfast_jepsen::cluster::{Process, ProcessSpec};

use crate::output::Failure;

const STEPS: Workflow<u32, u32> = Workflow::new("bench-steps");
const FAN_OUT: Workflow<u32, u32> = Workflow::new("bench-fan-out");
const WAITS: Workflow<(), u32> = Workflow::new("bench-waits");
const SLEEPS: Workflow<u64, u64> = Workflow::new("bench-sleeps");
const CARRIES: Workflow<u32, u32> = Workflow::new("bench-carries");
const NOOP: Step<u32, u32> = Step::new("bench-noop");
const MAKE: Step<u32, String> = Step::new("bench-make");
const GO: Signal<u32> = Signal::new("bench-go");
/// Workflows that the worker registers.
const WORKFLOWS: usize = 5;
/// Runs and steps that the worker holds at once: more than any load here has in flight.
const SLOTS: usize = 1024;

/// What is done again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A run of so many steps, one after the other, that do nothing.
    Steps(u32),
    /// A run of so many such steps at once.
    FanOut(u32),
    /// A run that waits for a signal; what counts is the time from the signal to the end.
    Signal,
    /// A run that sleeps so long; what counts is how late it ends.
    Timer(Duration),
    /// A run of one step whose result has so many bytes.
    Payload(u32),
}

impl Kind {
    /// Steps of one execution.
    pub fn steps(self) -> u64 {
        match self {
            Self::Steps(n) | Self::FanOut(n) => u64::from(n),
            Self::Payload(_) => 1,
            Self::Signal | Self::Timer(_) => 0,
        }
    }

    /// Executes it once. The answer is what its latency counts from, if that is later than the call.
    ///
    /// # Errors
    /// It could not be started, or failed.
    pub async fn once(self, client: &Client) -> Result<Option<Instant>, Failure> {
        let id = uuid::Uuid::now_v7().to_string();
        match self {
            Self::Steps(n) => drop(client.start(STEPS, id, n).result().await?),
            Self::FanOut(n) => drop(client.start(FAN_OUT, id, n).result().await?),
            Self::Payload(bytes) => drop(client.start(CARRIES, id, bytes).result().await?),
            Self::Signal => {
                let run = client.start(WAITS, id, ()).await?;
                let sent = Instant::now();
                run.signal(GO, 1).await?;
                run.result().await?;
                return Ok(Some(sent));
            }
            Self::Timer(sleeps) => {
                let ms = u64::try_from(sleeps.as_millis()).unwrap_or(u64::MAX);
                let run = client.start(SLEEPS, id, ms).await?;
                let due = Instant::now() + sleeps;
                run.result().await?;
                return Ok(Some(due));
            }
        }
        Ok(None)
    }
}

/// Starts a run that sleeps for a month.
///
/// # Errors
/// It could not be started.
pub async fn start_sleeper(client: &Client, nth: u64) -> Result<(), Failure> {
    const MONTH_MS: u64 = 30 * 86_400_000;
    client
        .start(SLEEPS, format!("sleeper-{nth}"), MONTH_MS)
        .await?;
    Ok(())
}

/// Starts a run that does nothing, and waits for its end.
///
/// # Errors
/// It could not be started, or failed.
pub async fn start_finished(client: &Client, nth: u64) -> Result<(), Failure> {
    let ended = client.start(STEPS, format!("finished-{nth}"), 0).result();
    ended.await?;
    Ok(())
}

/// The worker of the benchmarks.
pub fn worker(client: &Client) -> Worker {
    async fn steps(cx: Cx, n: u32) -> Result<u32, Fail> {
        let mut sum = 0;
        for i in 0..n {
            sum += cx.step(NOOP, i).await?;
        }
        Ok(sum)
    }
    async fn fan_out(cx: Cx, n: u32) -> Result<u32, Fail> {
        let all = cx.join_all((0..n).map(|i| cx.step(NOOP, i))).await?;
        Ok(all.into_iter().sum())
    }
    async fn waits(cx: Cx, (): ()) -> Result<u32, Fail> {
        Ok(cx.wait(GO).await?)
    }
    async fn sleeps(cx: Cx, ms: u64) -> Result<u64, Fail> {
        cx.sleep(Duration::from_millis(ms)).await?;
        Ok(ms)
    }
    async fn carries(cx: Cx, bytes: u32) -> Result<u32, Fail> {
        let made = cx.step(MAKE, bytes).await?;
        Ok(u32::try_from(made.len()).unwrap_or(u32::MAX))
    }
    Worker::new(client, "bench")
        .slots(SLOTS)
        .workflow(STEPS, steps)
        .workflow(FAN_OUT, fan_out)
        .workflow(WAITS, waits)
        .workflow(SLEEPS, sleeps)
        .workflow(CARRIES, carries)
        .step(NOOP, async |_, i: u32| Ok(i))
        .step(MAKE, async |_, bytes: u32| Ok("x".repeat(bytes as usize)))
}

/// The worker is a process of its own, as it is in life. Ends with the value.
///
/// # Errors
/// It could not be started, or did not attach within 10 s.
pub async fn worker_process(client: &Client, endpoints: &[String]) -> Result<Process, Failure> {
    let log = format!("holdfast-bench-worker-{}.log", std::process::id());
    let log = std::env::temp_dir().join(log);
    let endpoints = endpoints.join(",");
    let args = ["--endpoints", &endpoints, "bench", "worker"];
    let spec = ProcessSpec::new("worker", std::env::current_exe()?, log).args(args);
    let process = Process::start(spec).map_err(Failure::error)?;
    for _ in 0..500 {
        let known = client.list_workflows(wire::ListWorkflowsRequest {}).await;
        if known.is_ok_and(|it| it.workflows.len() >= WORKFLOWS) {
            return Ok(process);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(Failure::error("the worker did not attach within 10 s"))
}
