//! A worker process of the load: plays programs, and writes down when the bodies of its steps begin and end.
//!
//! Invariant: built on the public API alone, as a user's worker is. A body's line is written before anything it does, and its end
//! however it ends, unless the process is killed. Not here: judging either.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use holdfast::{
    Client, ClientError, Cx, Fail, Found, GiveUp, LimitSpec, Probe, Retry, Signal, Step, StepCx,
    StepError, StepResult, Undo, View, Worker, Workflow,
};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::program::{Act, Certain, Go, LIMIT, Node, Program, SIGNALS};
use crate::clock::monotonic_ns;
use crate::records::{Body, BodyMoment, Ruling, WORKERS_PREFIX};
use crate::sink::{SinkCall, SinkClient, Wish};
use crate::store::Lines;

/// The workflow of all workloads.
pub(crate) const PLAY: Workflow<Program, Played> = Workflow::new("play");
/// Keys of the register: workflows of which only the current version is read and set.
pub(crate) const REGISTERS: [&str; 8] = [
    "reg-0", "reg-1", "reg-2", "reg-3", "reg-4", "reg-5", "reg-6", "reg-7",
];
/// Values that a register may have.
pub(crate) const REGISTER_VALUES: u32 = 9;
/// Which program it was, for whoever reads the journal.
const SERIAL: View<u64> = View::new("serial");
const ACT: Step<Act, u64> = Step::new("act");
const FIND: Step<Probe<Act>, Found<u64>> = Step::new("find-act");
const TAKE_BACK: Step<Undo<Act, u64>, ()> = Step::new("take-back");
/// How long a throttled step asks the limit to stay closed.
const CLOSED_FOR: Duration = Duration::from_millis(100);

/// Steps at once of one worker among many.
const OF_HERD_SLOTS: usize = 2;

/// What a run comes to.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Played {
    pub serial: u64,
}

/// How a worker process is started.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WorkerConfig {
    /// Its name, `w1`.
    pub name: String,
    /// Where the nodes are.
    pub endpoints: Vec<String>,
    /// Where the sink is.
    pub sink: SocketAddr,
    /// Where it writes what its bodies do: into a file of its own, since a killed process may leave half a line.
    pub folder: PathBuf,
    /// Whether it makes its fences known before an effect.
    pub registers: bool,
}

impl WorkerConfig {
    /// `workers.w1-4711.jsonl`.
    fn file(&self) -> PathBuf {
        let (name, pid) = (&self.name, std::process::id());
        self.folder
            .join(format!("{WORKERS_PREFIX}{name}-{pid}.jsonl"))
    }
}

/// What steps of this process share.
struct Desk {
    config: WorkerConfig,
    sink: Arc<SinkClient>,
    lines: Arc<Lines>,
}

/// Works until SIGTERM.
///
/// # Errors
/// The file cannot be opened, or no node was reached at the start.
pub async fn work(config: WorkerConfig) -> Result<(), ClientError> {
    let desk = Desk::open(config)?;
    let client = Client::connect(&desk.config.endpoints).await?;
    let mut worker = worker(&client, Arc::new(desk));
    for name in REGISTERS {
        for version in 1..=REGISTER_VALUES {
            let workflow = Workflow::<(), ()>::new(name).version(version);
            worker = worker.workflow(workflow, async |_: Cx, ()| Ok(()));
        }
    }
    worker.run().await
}

/// Works as many until SIGTERM: each with a name, a connection and a session of its own, as if it were a process of its own.
///
/// # Errors
/// The file cannot be opened, or no node was reached at the start by one of them.
pub async fn work_as_herd(config: WorkerConfig, workers: u16) -> Result<(), ClientError> {
    let first = Desk::open(config)?;
    let mut herd = JoinSet::new();
    for number in 1..=workers {
        let config = WorkerConfig {
            name: format!("{}.{number}", first.config.name),
            ..first.config.clone()
        };
        let desk = Arc::new(Desk {
            config,
            sink: Arc::clone(&first.sink),
            lines: Arc::clone(&first.lines),
        });
        let client = Client::connect(&desk.config.endpoints).await?;
        herd.spawn(worker(&client, desk).slots(OF_HERD_SLOTS).run());
    }
    while let Some(ended) = herd.join_next().await {
        ended.unwrap_or(Ok(()))?; // one that broke off has said so, and the others work on
    }
    Ok(())
}

fn worker(client: &Client, desk: Arc<Desk>) -> Worker {
    Worker::new(client, "load")
        .name(&desk.config.name)
        .app(Arc::clone(&desk))
        .limit(LIMIT, LimitSpec::rate(40, Duration::from_secs(1)).burst(10))
        .workflow(PLAY, play)
        .step(ACT, act)
        .step(FIND, find)
        .step(TAKE_BACK, take_back)
}

async fn play(cx: Cx, program: Program) -> Result<Played, Fail> {
    cx.publish(SERIAL, program.serial);
    for node in &program.nodes {
        visit(&cx, node).await?;
    }
    Ok(Played {
        serial: program.serial,
    })
}

fn visit<'a>(cx: &'a Cx, node: &'a Node) -> Pin<Box<dyn Future<Output = Result<(), Fail>> + 'a>> {
    Box::pin(async move {
        match node {
            Node::Act(act) => step(cx, act).await,
            Node::Wait { signal, timeout_ms } => {
                let signal = Signal::<u64>::new(SIGNALS[signal % SIGNALS.len()]);
                let timeout = Duration::from_millis(*timeout_ms);
                cx.wait(signal).timeout(timeout).await?;
                Ok(())
            }
            Node::Sleep { ms } => Ok(cx.sleep(Duration::from_millis(*ms)).await?),
            Node::All { parts } => {
                let all = parts.iter().map(|part| visit(cx, part));
                cx.join_all(all).await?;
                Ok(())
            }
            Node::Fail => Err(Fail::new("PLANNED", "the program says so")),
        }
    })
}

async fn step(cx: &Cx, act: &Act) -> Result<(), Fail> {
    let retry = Retry::exponential(Duration::from_millis(30))
        .cap(Duration::from_millis(500))
        .max_attempts(20)
        .then(GiveUp::Fail);
    let mut call = cx.step(ACT, act.clone()).retry(retry);
    if act.undo {
        call = call.undo(TAKE_BACK);
    }
    if act.limited {
        call = call.limit(LIMIT);
    }
    call = match act.certain {
        Certain::AtLeastOnce => call,
        Certain::AtMostOnce => call.at_most_once(),
        Certain::Reconcile => call.reconcile(FIND),
    };
    match call.await {
        Err(failed) if failed.is_cancelled() || !act.tolerated => Err(failed.into()),
        Ok(_) | Err(_) => Ok(()),
    }
}

async fn act(cx: StepCx, act: Act) -> StepResult<u64> {
    let desk = cx.app::<Arc<Desk>>();
    let body = desk.begin(&cx)?;
    body.end(desk.act(&cx, &act).await)
}

async fn take_back(cx: StepCx, undo: Undo<Act, u64>) -> StepResult<()> {
    let desk = cx.app::<Arc<Desk>>();
    let body = desk.begin(&cx)?;
    body.end(desk.effect(&cx, &undo.input, true).await.map(|_| ()))
}

async fn find(cx: StepCx, probe: Probe<Act>) -> StepResult<Found<u64>> {
    let desk = cx.app::<Arc<Desk>>();
    let body = desk.begin(&cx)?;
    let mut call = desk.call(&cx, Wish::Probe, &probe.input, false);
    call.key = probe.key;
    let answer = desk.sink.call(&call).await;
    body.end(match answer?.ruling {
        Ruling::Probed { found: true } => Ok(Found::Done(probe.input.serial)),
        Ruling::Probed { found: false } => Ok(Found::Absent),
        _ => Ok(Found::Unsure),
    })
}

impl Desk {
    fn open(config: WorkerConfig) -> Result<Self, ClientError> {
        let refused = |cause: io::Error| ClientError::Refused {
            code: "FILE".to_string(),
            message: cause.to_string(),
        };
        Ok(Self {
            sink: Arc::new(SinkClient::new(config.sink)),
            lines: Arc::new(Lines::open(&config.file()).map_err(refused)?),
            config,
        })
    }

    async fn act(&self, cx: &StepCx, act: &Act) -> StepResult<u64> {
        let attempt = usize::try_from(cx.attempt()).unwrap_or(usize::MAX);
        let go = act.script.get(attempt.saturating_sub(1));
        let go = *go.unwrap_or(&Go::Well);
        if self.config.registers {
            let call = self.call(cx, Wish::Register, act, false);
            if self.sink.call(&call).await?.ruling == Ruling::Stale {
                return Err(StepError::Stopped);
            }
        }
        tokio::time::sleep(Duration::from_millis(act.takes_ms)).await;
        match go {
            Go::FailBefore => return Err(StepError::retryable("the program says so")),
            Go::Terminal => return Err(StepError::terminal("PLANNED", "the program says so")),
            Go::Well | Go::FailAfter => {}
        }
        let serial = self.effect(cx, act, false).await?;
        if go == Go::FailAfter {
            return Err(StepError::retryable(
                "the program says so, after its effect",
            ));
        }
        Ok(serial)
    }

    async fn effect(&self, cx: &StepCx, act: &Act, undo: bool) -> StepResult<u64> {
        let call = self.call(cx, Wish::Act, act, undo);
        match self.sink.call(&call).await?.ruling {
            Ruling::Acted | Ruling::Repeated => Ok(act.serial),
            Ruling::Throttled => Err(StepError::throttled(LIMIT, CLOSED_FOR)),
            Ruling::Stale => Err(StepError::Stopped),
            Ruling::Registered | Ruling::Probed { .. } => {
                Err(StepError::terminal("SINK", "an answer to another question"))
            }
        }
    }

    fn call(&self, cx: &StepCx, wish: Wish, act: &Act, undo: bool) -> SinkCall {
        let key = Key::of(cx);
        SinkCall {
            wish,
            run: cx.run_id().to_string(),
            generation: key.generation,
            step: key.step.to_string(),
            attempt: cx.attempt(),
            fence: cx.fence(),
            key: cx.idempotency_key().to_string(),
            worker: self.config.name.clone(),
            serial: act.serial,
            undo,
            throttle: if undo { 0 } else { act.throttle },
        }
    }

    fn begin(&self, cx: &StepCx) -> StepResult<Running<'_>> {
        let running = Running {
            desk: self,
            line: Body {
                t: 0,
                worker: self.config.name.clone(),
                pid: std::process::id(),
                run: cx.run_id().to_string(),
                step: Key::of(cx).step.to_string(),
                attempt: cx.attempt(),
                fence: cx.fence(),
                what: BodyMoment::Began,
            },
            ended: false,
        };
        running.write(BodyMoment::Began)?;
        Ok(running)
    }
}

/// A body that has begun.
struct Running<'a> {
    desk: &'a Desk,
    line: Body,
    ended: bool,
}

impl Running<'_> {
    fn write(&self, what: BodyMoment) -> io::Result<()> {
        self.desk.lines.append(&Body {
            t: monotonic_ns(),
            what,
            ..self.line.clone()
        })
    }

    fn end<T>(mut self, outcome: StepResult<T>) -> StepResult<T> {
        self.ended = true;
        self.write(match &outcome {
            Ok(_) => BodyMoment::Done,
            Err(StepError::Stopped) => BodyMoment::Stopped,
            Err(_) => BodyMoment::Failed,
        })?;
        outcome
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.ended {
            // A full disk is found by the next body; a drop has nobody to tell.
            let _ = self.write(BodyMoment::Stopped);
        }
    }
}

/// What an idempotency key tells: `NAMESPACE:RUN:LIFE:STEP`, and `:undo` or `:probe` behind it.
struct Key<'a> {
    generation: u32,
    step: &'a str,
}

impl<'a> Key<'a> {
    fn of(cx: &'a StepCx) -> Self {
        Self::read(cx.idempotency_key(), cx.run_id())
    }

    fn read(key: &'a str, run: &str) -> Self {
        let of_run = format!(":{run}:");
        let rest = key.find(&of_run).map(|at| &key[at + of_run.len()..]);
        // A key of another form is a step of its own: still one name per step.
        let split = rest.and_then(|rest| rest.split_once(':'));
        let read = split.and_then(|(life, step)| Some((life.parse().ok()?, step)));
        let (generation, step) = read.unwrap_or((0, key));
        Self { generation, step }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_the_life_and_the_step() {
        let key = Key::read("01J:mix-3-7:2:14:undo", "mix-3-7");
        assert_eq!((key.generation, key.step), (2, "14:undo"));
        let strange = Key::read("something else", "mix-3-7");
        assert_eq!((strange.generation, strange.step), (0, "something else"));
    }
}
