//! `Worker`: registration, and the process that executes workflows and steps.

mod driver;
mod execute;
mod stream;
mod threads;

use std::{
    any::Any,
    collections::HashMap,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::FutureExt;
use holdfast_proto::v1::{self, attempt_outcome::Kind};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    client::Client,
    cx::{Cx, LocalBody, State, ms},
    error::{ClientError, Fail, StepError, StepResult},
    names::{Data, Step, Workflow},
    step_cx::StepCx,
};
use driver::Function;
use execute::Executor;
use stream::{PartitionStream, ToStream};
use threads::Drivers;

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
    twice: Vec<String>,
}

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
                    let output = f(cx, input).await?;
                    let json = serde_json::to_vec(&output)
                        .map_err(|cause| StepError::terminal("OUTPUT_TYPE", cause.to_string()))?;
                    Ok(json.into())
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

/// A worker at work.
struct Running {
    executor: Executor,
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
        let stop_at = Arc::new(AtomicU64::new(u64::MAX));
        let clock = Instant::now();
        let handle = tokio::runtime::Handle::current();
        let executor = Executor::new(
            handle,
            worker.app,
            Arc::clone(&free),
            Arc::clone(&stop_at),
            clock,
            up.clone(),
        );
        let (drivers, thread) = Drivers::start(Arc::clone(&registry), up, executor.clone(), free);
        executor.connect(drivers.clone());
        let (leaving, left) = (CancellationToken::new(), CancellationToken::new());
        let streams = (1..)
            .zip(inboxes)
            .map(|(partition, inbox)| PartitionStream {
                partition,
                caller: worker.client.caller().fresh(),
                registry: Arc::clone(&registry),
                drivers: drivers.clone(),
                executor: executor.clone(),
                inbox,
                stop_at: Arc::clone(&stop_at),
                clock,
                leaving: leaving.clone(),
                left: left.clone(),
                session: 0,
                reports: HashMap::new(),
            });
        let streams: Vec<PartitionStream> = streams.collect();
        let streaming = std::thread::Builder::new()
            .name("holdfast-stream".to_owned())
            .spawn(move || stream_thread(streams))
            .expect("a thread can be started");
        let threads = vec![thread, streaming];
        Self {
            executor,
            leaving,
            left,
            grace: worker.grace,
            threads,
        }
    }

    async fn leave(self) {
        self.leaving.cancel();
        let until = Instant::now() + self.grace;
        while self.executor.running() > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Results of what has just finished are on their way through the driver thread.
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.executor.stop_all(None);
        self.left.cancel();
        self.executor.disconnect();
        let threads = self.threads;
        let join = move || threads.into_iter().for_each(|thread| drop(thread.join()));
        drop(tokio::task::spawn_blocking(join).await);
    }
}

fn stream_thread(streams: Vec<PartitionStream>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime of one thread can be built");
    runtime.block_on(async {
        let tasks: Vec<_> = streams
            .into_iter()
            .map(|it| tokio::spawn(it.run()))
            .collect();
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
