//! `Worker`: registration, and the process that executes workflows and steps.

pub(crate) mod driver;
mod execute;
mod stream;
mod term;
mod threads;

use std::{
    any::Any,
    collections::HashMap,
    rc::Rc,
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};

use bytes::Bytes;
use futures::FutureExt;
use holdfast_proto::v1::{self, attempt_outcome::Kind};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    client::Client,
    cx::{Cx, LocalBody, State, ms, output_of},
    digest,
    error::{ClientError, Fail, StepError, StepResult},
    names::{Data, Step, Workflow},
    step_cx::StepCx,
};
use driver::Function;
use execute::{Executor, STOP_GRACE};
use stream::{PartitionStream, ToStream};
pub(crate) use term::TermWatch;
use term::{Terms, Warden};
use threads::{Down, Drivers};

/// How long bodies that were told to stop may take, beyond being aborted, before a shutdown goes on without them.
const ABORTED_WITHIN: Duration = Duration::from_millis(500);
/// How long a shutdown waits until the last results are on their way.
const TOLD_WITHIN: Duration = Duration::from_secs(2);

/// A step as it is registered: from its input to its body.
type MakeBody = Arc<dyn Fn(Bytes) -> LocalBody + Send + Sync>;
/// A workflow as it is registered: from its state and input to its function.
type MakeFunction = Arc<dyn Fn(Rc<State>, Bytes) -> Function + Send + Sync>;

/// What a worker can do.
pub(crate) struct Registry {
    pub(crate) queue: String,
    pub(crate) slots: u32,
    pub(crate) workflows: HashMap<(String, u32), MakeFunction>,
    pub(crate) steps: HashMap<String, MakeBody>,
    limits: Vec<v1::NamedLimit>,
    name: String,
    process: String,
}

impl Registry {
    /// The body of a registered step for this input.
    pub(crate) fn body(&self, step: &str, input: Bytes) -> Option<LocalBody> {
        self.steps.get(step).map(|make| make(input))
    }

    /// What a Hello says of the worker.
    pub(crate) fn hello(&self) -> v1::Hello {
        let mut workflows: Vec<_> = self
            .workflows
            .keys()
            .map(|(name, version)| v1::WorkflowRegistration {
                name: name.clone(),
                version: *version,
            })
            .collect();
        workflows.sort_by(|a, b| (&a.name, a.version).cmp(&(&b.name, b.version)));
        let mut steps: Vec<String> = self.steps.keys().cloned().collect();
        steps.sort();
        v1::Hello {
            queue: self.queue.clone(),
            name: self.name.clone(),
            process: self.process.clone(),
            sdk: concat!("rust/", env!("CARGO_PKG_VERSION")).to_owned(),
            workflows,
            steps,
            limits: self.limits.clone(),
            slots: self.slots,
            ..Default::default()
        }
    }
}

/// A rate and concurrency gate, as a worker declares it where nobody has.
///
/// ```
/// # use std::time::Duration;
/// # use holdfast::{Client, LimitSpec, Worker};
/// # fn demo(client: &Client) -> Worker {
/// let netsuite = LimitSpec::rate(10, Duration::from_secs(1)).burst(20).concurrency(5);
/// Worker::new(client, "orders").limit("netsuite", netsuite)
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct LimitSpec(v1::LimitSpec);

impl LimitSpec {
    /// So many admissions per span.
    pub fn rate(count: u32, per: Duration) -> Self {
        Self(v1::LimitSpec {
            rate_count: count,
            rate_per_ms: ms(per).max(1),
            burst: 1,
            concurrency: 0,
        })
    }
    /// Admissions that may come at once after a pause.
    #[must_use]
    pub fn burst(mut self, n: u32) -> Self {
        self.0.burst = n;
        self
    }
    /// Steps under lease at once.
    #[must_use]
    pub fn concurrency(mut self, n: u32) -> Self {
        self.0.concurrency = n;
        self
    }
}

/// A process that executes workflows and steps of one queue.
///
/// ```no_run
/// # use holdfast::{Client, ClientError, Cx, Fail, Step, Worker, Workflow};
/// # const HELLO: Workflow<String, String> = Workflow::new("hello");
/// # const GREET: Step<String, String> = Step::new("greet");
/// # async fn hello(cx: Cx, name: String) -> Result<String, Fail> { Ok(cx.step(GREET, name).await?) }
/// # async fn demo() -> Result<(), ClientError> {
/// let client = Client::from_env().await?;
/// Worker::new(&client, "greetings")
///     .workflow(HELLO, hello)
///     .step(GREET, async |_, name: String| Ok(format!("hello, {name}")))
///     .run()
///     .await?;
/// # Ok(()) }
/// ```
#[must_use = "a worker does nothing until it is run"]
pub struct Worker {
    client: Client,
    registry: Registry,
    app: Option<Arc<dyn Any + Send + Sync>>,
    grace: Duration,
    stuck: Stuck,
    twice: Vec<String>,
}

/// What a worker does when a step that blocks its thread outlives its lease, so that it may be running elsewhere too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stuck {
    /// Says which one on stderr and ends the process, with exit code 70, for its supervisor to start again. The default.
    Exit,
    /// Logs it as an error. For steps whose receivers check fences.
    GoOn,
}

/// Software that cannot go on, by the convention of `sysexits`.
const EXIT_STUCK: i32 = 70;

impl Worker {
    /// A worker that serves this queue.
    pub fn new(client: &Client, queue: &str) -> Self {
        let process = Uuid::new_v4().to_string();
        let registry = Registry {
            queue: queue.to_owned(),
            slots: 64,
            workflows: HashMap::new(),
            steps: HashMap::new(),
            limits: Vec::new(),
            name: format!("{queue}-{}", std::process::id()),
            process,
        };
        Self {
            client: client.clone(),
            registry,
            app: None,
            grace: Duration::from_secs(10),
            stuck: Stuck::Exit,
            twice: Vec::new(),
        }
    }

    /// What steps reach by `StepCx::app`.
    pub fn app<T: Send + Sync + 'static>(mut self, app: T) -> Self {
        self.app = Some(Arc::new(app));
        self
    }

    /// Steps executed at once; 64 by default.
    pub fn slots(mut self, n: usize) -> Self {
        self.registry.slots = u32::try_from(n.max(1)).unwrap_or(u32::MAX);
        self
    }

    /// How long a shutdown may let steps finish before it hands them back; 10 s by default.
    pub fn grace(mut self, d: Duration) -> Self {
        self.grace = d;
        self
    }

    /// What happens when a step cannot be stopped by its lease's end, since it blocks its thread.
    pub fn if_stuck(mut self, then: Stuck) -> Self {
        self.stuck = then;
        self
    }

    /// What people see; by default the queue and the process id.
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.registry.name);
        self
    }

    /// Declares a limit where nobody has.
    pub fn limit(mut self, name: &str, spec: LimitSpec) -> Self {
        self.registry.limits.push(v1::NamedLimit {
            name: name.to_owned(),
            spec: Some(spec.0),
        });
        self
    }

    /// Registers a version of a workflow.
    pub fn workflow<I, O, F>(mut self, workflow: Workflow<I, O>, f: F) -> Self
    where
        I: Data,
        O: Data,
        F: AsyncFn(Cx, I) -> Result<O, Fail> + Send + Sync + 'static,
    {
        let f = Arc::new(f);
        let make: MakeFunction = Arc::new(move |state, input| {
            let f = Arc::clone(&f);
            Box::pin(async move {
                let input: I = serde_json::from_slice(&input)
                    .map_err(|cause| Fail::new("INPUT_TYPE", cause.to_string()))?;
                let output = f(Cx(state), input).await?;
                let json = serde_json::to_vec(&output)
                    .map_err(|cause| Fail::new("OUTPUT_TYPE", cause.to_string()))?;
                // Told as a panic: the run is quarantined with this sentence, and nothing is undone.
                digest::fits("the run's output", &json).unwrap_or_else(|large| panic!("{large}"));
                Ok(json.into())
            })
        });
        let key = (workflow.name().to_owned(), workflow.number());
        if self.registry.workflows.insert(key, make).is_some() {
            self.twice.push(format!(
                "workflow {}@v{}",
                workflow.name(),
                workflow.number()
            ));
        }
        self
    }

    /// Registers a step.
    pub fn step<I, O, F, Fut>(mut self, step: Step<I, O>, f: F) -> Self
    where
        I: Data,
        O: Data,
        F: Fn(StepCx, I) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = StepResult<O>> + Send + 'static,
    {
        let f = Arc::new(f);
        let make: MakeBody = Arc::new(move |input: Bytes| {
            let f = Arc::clone(&f);
            Arc::new(move |cx: StepCx| {
                let (f, input) = (Arc::clone(&f), input.clone());
                async move {
                    let input: I = serde_json::from_slice(&input)
                        .map_err(|cause| StepError::terminal("INPUT_TYPE", cause.to_string()))?;
                    output_of(&f(cx, input).await?)
                }
                .boxed()
            })
        });
        if self
            .registry
            .steps
            .insert(step.name().to_owned(), make)
            .is_some()
        {
            self.twice.push(format!("step {}", step.name()));
        }
        self
    }

    /// Until SIGTERM or Ctrl-C: takes nothing new, finishes what it can within the grace, hands the rest back, returns.
    ///
    /// # Errors
    /// `Refused`: a name was registered twice. `Unavailable`: no node of the cluster was reached at the start.
    pub async fn run(self) -> Result<(), ClientError> {
        self.run_until(interrupted()).await
    }

    /// As `run`, until `stop` resolves.
    ///
    /// # Errors
    /// As `run`.
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> Result<(), ClientError> {
        if let Some(twice) = self.twice.first() {
            let message =
                format!("{twice} is registered twice in this worker; remove one of the two");
            return Err(ClientError::Refused {
                code: "HF3002".to_owned(),
                message,
            });
        }
        let partitions = self.client.caller().wait_formed().await?;
        let started = Running::start(self, partitions);
        stop.await;
        started.leave().await;
        Ok(())
    }
}

async fn interrupted() {
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .expect("a process can watch its signals");
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = term.recv() => {}
    }
}

/// Says so, and ends the process: its supervisor starts it again, and the cluster has given its work to others.
#[expect(
    clippy::print_stderr,
    reason = "the process ends here; a log may not be read, or not be there"
)]
fn exit(outlived: Vec<String>) {
    let outlived = outlived.join(", ");
    eprintln!(
        "holdfast: a step did not stop before its lease ended, and may be running elsewhere by now: {outlived}. It blocks \
         its thread: move blocking work into tokio::task::spawn_blocking. The worker ends (see Worker::if_stuck)"
    );
    std::process::exit(EXIT_STUCK);
}

fn warn(outlived: Vec<String>) {
    let outlived = outlived.join(", ");
    tracing::error!(
        outlived,
        "a step did not stop before its lease ended, and may be running elsewhere by now"
    );
}

/// A worker at work.
struct Running {
    executor: Executor,
    drivers: Drivers,
    leaving: CancellationToken,
    left: CancellationToken,
    grace: Duration,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Running {
    fn start(worker: Worker, partitions: u32) -> Self {
        let registry = Arc::new(worker.registry);
        let (up, inboxes) = ToStream::new(partitions);
        let free = Arc::new(AtomicI64::new(i64::from(registry.slots)));
        let terms = Terms::new(partitions);
        let handle = tokio::runtime::Handle::current();
        let (free_now, to) = (Arc::clone(&free), up.clone());
        let executor = Executor::new(handle, worker.app, free_now, terms.clone(), to);
        let (drivers, thread) = Drivers::start(Arc::clone(&registry), up, executor.clone(), free);
        executor.connect(drivers.clone());
        let (leaving, left) = (CancellationToken::new(), CancellationToken::new());
        let outlived: Arc<dyn Fn(Vec<String>) + Send + Sync> = match worker.stuck {
            Stuck::Exit => Arc::new(exit),
            Stuck::GoOn => Arc::new(warn),
        };
        let wardens = (1..=partitions).map(|partition| Warden {
            partition,
            terms: terms.clone(),
            executor: executor.clone(),
            left: left.clone(),
            outlived: Arc::clone(&outlived),
        });
        let streams = (1..)
            .zip(inboxes)
            .map(|(partition, inbox)| PartitionStream {
                partition,
                caller: worker.client.caller().fresh(),
                registry: Arc::clone(&registry),
                drivers: drivers.clone(),
                executor: executor.clone(),
                inbox,
                terms: terms.clone(),
                leaving: leaving.clone(),
                left: left.clone(),
                session: 0,
                reports: HashMap::new(),
            });
        let (streams, wardens) = (streams.collect(), wardens.collect());
        let streaming = std::thread::Builder::new()
            .name("holdfast-stream".to_owned())
            .spawn(move || stream_thread(streams, wardens))
            .expect("a thread can be started");
        Self {
            executor,
            drivers,
            leaving,
            left,
            grace: worker.grace,
            threads: vec![thread, streaming],
        }
    }

    /// Nothing is handed back before its body is over: it could run twice at once.
    async fn leave(self) {
        self.leaving.cancel();
        self.drivers.send(Down::Leave);
        let finished = tokio::time::timeout(self.grace, self.executor.idle()).await;
        if finished.is_err() {
            self.executor.stop_all(None);
            let aborted = STOP_GRACE + ABORTED_WITHIN;
            drop(tokio::time::timeout(aborted, self.executor.idle()).await);
        }
        let (told, all) = tokio::sync::oneshot::channel();
        self.drivers.send(Down::Told(told));
        drop(tokio::time::timeout(TOLD_WITHIN, all).await);
        self.left.cancel();
        self.executor.disconnect();
        let (threads, drivers) = (self.threads, self.drivers);
        drop(drivers); // the driver thread ends once nobody can talk to it
        let join = move || threads.into_iter().for_each(|thread| drop(thread.join()));
        drop(tokio::task::spawn_blocking(join).await);
    }
}

fn stream_thread(streams: Vec<PartitionStream>, wardens: Vec<Warden>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime of one thread can be built");
    runtime.block_on(async {
        let streams = streams.into_iter().map(|it| tokio::spawn(it.run()));
        let wardens = wardens.into_iter().map(|it| tokio::spawn(it.run()));
        let tasks: Vec<_> = streams.chain(wardens).collect();
        futures::future::join_all(tasks).await;
    });
}

/// What a body is given: the step's own input, or what a probe or an undo asks about.
fn input_of(it: &v1::Execute) -> Bytes {
    let raw = |bytes: &Bytes| -> Box<serde_json::value::RawValue> {
        let text = String::from_utf8_lossy(bytes).into_owned();
        serde_json::value::RawValue::from_string(text)
            .unwrap_or_else(|_| serde_json::value::RawValue::NULL.to_owned())
    };
    #[derive(serde::Serialize)]
    struct Asked {
        input: Box<serde_json::value::RawValue>,
        output: Option<Box<serde_json::value::RawValue>>,
        key: String,
    }
    match it.purpose() {
        v1::Purpose::Unspecified | v1::Purpose::Step => it.input.clone(),
        v1::Purpose::Probe | v1::Purpose::Undo => {
            let asked = Asked {
                input: raw(&it.input),
                output: it.has_output.then(|| raw(&it.output)),
                key: it.key_asked.clone(),
            };
            serde_json::to_vec(&asked)
                .map(Bytes::from)
                .unwrap_or_default()
        }
    }
}

/// What a body's output means: a probe's is a finding.
fn judge_of(purpose: v1::Purpose) -> execute::Judge {
    match purpose {
        v1::Purpose::Unspecified | v1::Purpose::Step | v1::Purpose::Undo => Kind::Done,
        v1::Purpose::Probe => |output| match serde_json::from_slice::<
            crate::names::Found<Box<serde_json::value::RawValue>>,
        >(&output)
        {
            Ok(crate::names::Found::Done(value)) => {
                Kind::Done(Bytes::from(value.get().to_owned().into_bytes()))
            }
            Ok(crate::names::Found::Absent) => Kind::Absent(v1::Empty {}),
            Ok(crate::names::Found::Unsure) => Kind::Unsure(v1::Failure {
                code: "UNSURE".to_owned(),
                message: "the probe cannot tell".to_owned(),
            }),
            Err(cause) => Kind::Terminal(v1::Failure {
                code: "OUTPUT_TYPE".to_owned(),
                message: cause.to_string(),
            }),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{Found, Probe, Undo};

    fn execute(purpose: v1::Purpose) -> v1::Execute {
        v1::Execute {
            purpose: purpose.into(),
            input: r#"{"cents":420}"#.into(),
            output: r#""r-1""#.into(),
            has_output: true,
            key_asked: "hf-7-1".to_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn an_undo_is_given_input_key_and_the_output_only_if_there_is_one() {
        type Asked = Undo<serde_json::Value, String>;
        let asked: Asked = serde_json::from_slice(&input_of(&execute(v1::Purpose::Undo))).unwrap();
        assert_eq!(
            (asked.input["cents"].as_u64(), asked.key.as_str()),
            (Some(420), "hf-7-1")
        );
        assert_eq!(asked.output.as_deref(), Some("r-1"));
        let lost = v1::Execute {
            has_output: false,
            ..execute(v1::Purpose::Undo)
        };
        let asked: Asked = serde_json::from_slice(&input_of(&lost)).unwrap();
        assert_eq!(asked.output, None);
    }

    #[test]
    fn a_probe_is_given_input_and_key_and_a_step_its_plain_input() {
        let asked = input_of(&execute(v1::Purpose::Probe));
        let asked: Probe<serde_json::Value> = serde_json::from_slice(&asked).unwrap();
        assert_eq!(
            (asked.input["cents"].as_u64(), asked.key.as_str()),
            (Some(420), "hf-7-1")
        );
        assert_eq!(input_of(&execute(v1::Purpose::Step)), r#"{"cents":420}"#);
    }

    #[test]
    fn what_a_probe_found_is_adopted_run_again_or_left_to_a_person() {
        let judge = |found: &Found<u32>| {
            judge_of(v1::Purpose::Probe)(serde_json::to_vec(found).unwrap().into())
        };
        assert_eq!(judge(&Found::Done(7)), Kind::Done("7".into()));
        assert_eq!(judge(&Found::Absent), Kind::Absent(v1::Empty {}));
        assert!(matches!(judge(&Found::Unsure), Kind::Unsure(_)));
        assert!(matches!(
            judge_of(v1::Purpose::Probe)("7".into()),
            Kind::Terminal(_)
        ));
        assert_eq!(
            judge_of(v1::Purpose::Undo)("7".into()),
            Kind::Done("7".into())
        );
    }
}
