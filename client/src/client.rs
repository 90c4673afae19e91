//! `Client`: start runs, ask about them, tell them things.

use std::{
    marker::PhantomData,
    pin::Pin,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use holdfast_proto::v1::{self, runs_client::RunsClient};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    call::{Caller, TRY_WITHIN},
    cx::ms,
    digest::{self, Encoded},
    endpoints,
    error::{ClientError, Fail, RunError},
    names::{Data, Signal, View, Workflow},
};

/// How long one question for a result may wait at the node.
const RESULT_WAIT: Duration = Duration::from_secs(20);

/// Where a run stands (see `docs/guarantees.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Status {
    /// It begins later.
    Scheduled,
    /// It waits for a worker.
    Ready,
    /// A worker drives it.
    Running,
    /// It waits for something named.
    Waiting,
    /// Held still, by a person or by the system.
    Paused,
    /// It killed its workers, diverged, or broke a rule.
    Quarantined,
    /// It ends, and undoes what is owed.
    Undoing,
    /// Done.
    Completed,
    /// Its function failed.
    Failed,
    /// Cancelled.
    Cancelled,
    /// Ended at once.
    Terminated,
    /// Its own time ran out.
    TimedOut,
}

impl Status {
    /// As the wire has it.
    pub fn of(status: v1::RunStatus) -> Self {
        match status {
            v1::RunStatus::Unspecified | v1::RunStatus::Scheduled => Self::Scheduled,
            v1::RunStatus::Ready => Self::Ready,
            v1::RunStatus::Running => Self::Running,
            v1::RunStatus::Waiting => Self::Waiting,
            v1::RunStatus::Paused => Self::Paused,
            v1::RunStatus::Quarantined => Self::Quarantined,
            v1::RunStatus::Undoing => Self::Undoing,
            v1::RunStatus::Completed => Self::Completed,
            v1::RunStatus::Failed => Self::Failed,
            v1::RunStatus::Cancelled => Self::Cancelled,
            v1::RunStatus::Terminated => Self::Terminated,
            v1::RunStatus::TimedOut => Self::TimedOut,
        }
    }

    /// Whether nothing can change any more.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Self::Completed | Self::Failed | Self::Cancelled | Self::Terminated | Self::TimedOut
        )
    }
}

/// When the id belongs to a run that has ended.
#[derive(Clone, Copy, Debug)]
pub enum Ended {
    /// Attach to it. The default.
    ReturnResult,
    /// Refuse.
    Reject,
    /// Begin a new life of the id.
    NewGeneration,
}

/// The way to a cluster: finds its leaders, follows them, and repeats a call with the same ids until it is answered. Cheap to
/// clone.
///
/// ```no_run
/// # use holdfast::{Client, Signal, View, Workflow};
/// # const ORDER: Workflow<String, String> = Workflow::new("order");
/// # const APPROVED: Signal<bool> = Signal::new("approved");
/// # const STAGE: View<String> = View::new("stage");
/// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::from_env().await?;
/// let run = client.start(ORDER, "order-1001", "1001".to_string()).await?; // again: the same run
/// println!("{:?}", run.view(STAGE).await?);
/// run.signal(APPROVED, true).id("approve-1001").await?; // again: the same signal
/// println!("{}", run.result().await?);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Client {
    caller: Caller,
}

impl Client {
    /// From `HOLDFAST_ENDPOINTS` (comma-separated), else from `endpoints` in `$XDG_CONFIG_HOME/holdfast/config.toml`, else
    /// `127.0.0.1:7100`. Connects at the first call.
    ///
    /// # Errors
    /// `Refused`: an address or the profile is malformed; correct it.
    #[expect(
        clippy::unused_async,
        reason = "it may have to look a name up one day; callers await it today"
    )]
    pub async fn from_env() -> Result<Self, ClientError> {
        let caller = Caller::new(endpoints::from_env()?)?;
        Ok(Self { caller })
    }

    /// Through these nodes; the others of the cluster are found by themselves.
    ///
    /// ```no_run
    /// # use holdfast::{Client, ClientError};
    /// # async fn demo() -> Result<(), ClientError> {
    /// let client = Client::connect(&["10.0.0.1:7100", "10.0.0.2:7100"]).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `Refused`: an address is malformed; correct it. A node that is down is no error.
    #[expect(clippy::unused_async, reason = "as from_env")]
    pub async fn connect<S: AsRef<str>>(endpoints: &[S]) -> Result<Self, ClientError> {
        let endpoints = endpoints.iter().map(|it| it.as_ref().to_owned()).collect();
        Ok(Self {
            caller: Caller::new(endpoints)?,
        })
    }

    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Starts a run, or attaches to it if this id has been started with the same input.
    ///
    /// # Errors
    /// `IdConflict`: the id was used with another input; choose another id. `NotFound`: no worker ever registered this
    /// workflow. `Unavailable`: call again with the same id.
    ///
    /// ```no_run
    /// # const ORDER: holdfast::Workflow<String, String> = holdfast::Workflow::new("order");
    /// # async fn demo(client: holdfast::Client) -> Result<(), holdfast::ClientError> {
    /// let run = client.start(ORDER, "order-1001", "1001".to_string()).await?;
    /// # Ok(()) }
    /// ```
    pub fn start<I: Data, O: Data>(
        &self,
        workflow: Workflow<I, O>,
        id: impl Into<String>,
        input: I,
    ) -> Start<O> {
        let input = digest::encode(&input);
        self.begin(workflow.name().to_owned(), id.into(), input)
    }

    /// As `start`, by name and with JSON: for tools.
    pub fn start_json(
        &self,
        workflow: &str,
        id: impl Into<String>,
        input: &serde_json::Value,
    ) -> Start<serde_json::Value> {
        self.begin(workflow.to_owned(), id.into(), digest::encode(input))
    }

    fn begin<O>(
        &self,
        workflow: String,
        run_id: String,
        input: Result<Encoded, serde_json::Error>,
    ) -> Start<O> {
        let mut request = v1::StartRequest {
            workflow,
            run_id,
            ..Default::default()
        };
        let trouble = match input {
            Ok(it) => {
                let trouble = too_large("the input", &it);
                (request.input, request.digest) = (it.json, it.digest);
                trouble
            }
            Err(cause) => Some(unencodable("the input", &cause)),
        };
        Start {
            caller: self.caller.clone(),
            request,
            trouble,
            output: PhantomData,
        }
    }

    /// A handle on a run that exists.
    pub fn run<I, O>(&self, _workflow: Workflow<I, O>, id: &str) -> Run<O> {
        Run {
            caller: self.caller.clone(),
            id: id.to_owned(),
            started: None,
            output: PhantomData,
        }
    }

    /// As `run`, for tools: outputs are JSON.
    pub fn run_json(&self, id: &str) -> Run<serde_json::Value> {
        Run {
            caller: self.caller.clone(),
            id: id.to_owned(),
            started: None,
            output: PhantomData,
        }
    }

    /// Runs, newest first.
    ///
    /// ```no_run
    /// # use holdfast::{Client, ClientError, Status};
    /// # async fn demo(client: Client) -> Result<(), ClientError> {
    /// let mut paused = client.runs().workflow("order").status(Status::Paused);
    /// while let Some(page) = paused.page().await? {
    ///     page.iter().for_each(|run| println!("{}", run.id));
    /// }
    /// # Ok(()) }
    /// ```
    pub fn runs(&self) -> Runs {
        Runs {
            caller: self.caller.clone(),
            request: v1::ListRequest::default(),
            done: false,
        }
    }
}

fn unencodable(what: &str, cause: &serde_json::Error) -> ClientError {
    let message = format!("{what} cannot be written as JSON: {cause}");
    ClientError::Refused {
        code: "HF3002".to_owned(),
        message,
    }
}

/// Found before anything is sent.
fn too_large(what: &str, value: &Encoded) -> Option<ClientError> {
    let message = digest::fits(what, &value.json).err()?;
    let code = "HF3001".to_owned();
    Some(ClientError::Refused { code, message })
}

type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A run about to be started.
#[must_use = "nothing starts until it is awaited"]
pub struct Start<O> {
    caller: Caller,
    request: v1::StartRequest,
    trouble: Option<ClientError>,
    output: PhantomData<fn() -> O>,
}

impl<O> Start<O> {
    /// Not before this time.
    pub fn at(mut self, t: SystemTime) -> Self {
        self.request.at_unix_ms = t.duration_since(UNIX_EPOCH).map_or(1, ms);
        self
    }
    /// Of the whole run: then it undoes what is owed and is TIMED_OUT.
    pub fn timeout(mut self, d: Duration) -> Self {
        self.request.timeout_ms = ms(d).max(1);
        self
    }
    /// What this means when the id belongs to a run that has ended.
    pub fn if_ended(mut self, e: Ended) -> Self {
        self.request.if_ended = match e {
            Ended::ReturnResult => v1::IfEnded::ReturnResult,
            Ended::Reject => v1::IfEnded::Reject,
            Ended::NewGeneration => v1::IfEnded::NewGeneration,
        }
        .into();
        self
    }
    /// Start and signal in one command.
    pub fn with_signal<T: Data>(mut self, signal: Signal<T>, value: T) -> Self {
        match digest::encode(&value) {
            Ok(it) => {
                self.trouble = self.trouble.or_else(|| too_large("the signal", &it));
                self.request.signal = Some(v1::StartSignal {
                    name: signal.name().to_owned(),
                    signal_id: format!("start-{}", self.request.run_id),
                    payload: it.json,
                });
            }
            Err(cause) => self.trouble = Some(unencodable("the signal", &cause)),
        }
        self
    }

    /// Starts it, and tells what the cluster answered besides.
    ///
    /// # Errors
    /// As [`Client::start`].
    pub async fn send(self) -> Result<(Run<O>, v1::StartReply), ClientError> {
        if let Some(trouble) = self.trouble {
            return Err(trouble);
        }
        let id = self.request.run_id.clone();
        let within = TRY_WITHIN + Duration::from_millis(self.request.wait_ms);
        let make = |channel, request| async move { RunsClient::new(channel).start(request).await };
        let reply = self
            .caller
            .call_within(Some(&id), self.request, within, make)
            .await?;
        Ok((
            Run {
                caller: self.caller,
                id,
                started: reply.position,
                output: PhantomData,
            },
            reply,
        ))
    }
}

impl<O: Data> Start<O> {
    /// Starts it, and waits for its end, however long that takes: one call to the cluster where starting and then waiting are two.
    ///
    /// ```no_run
    /// # const ORDER: holdfast::Workflow<String, String> = holdfast::Workflow::new("order");
    /// # async fn demo(client: holdfast::Client) -> Result<(), holdfast::RunError> {
    /// let parcel = client.start(ORDER, "order-1001", "1001".to_string()).result().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Run::result`]; what [`Client::start`] may answer comes as `Client`.
    pub async fn result(mut self) -> Result<O, RunError> {
        let once = matches!(
            self.request.if_ended(),
            v1::IfEnded::Unspecified | v1::IfEnded::ReturnResult
        );
        if once {
            self.request.wait_ms = ms(RESULT_WAIT);
        }
        let (run, reply) = self.send().await?;
        match reply.run {
            Some(ended) => output(ended),
            None => run.result().await,
        }
    }
}

impl<O: 'static> IntoFuture for Start<O> {
    type Output = Result<Run<O>, ClientError>;
    type IntoFuture = Answer<Self::Output>;
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.send().await.map(|(run, _)| run) })
    }
}

/// A handle on a run.
pub struct Run<O> {
    caller: Caller,
    id: String,
    /// Where it was started, if by this very handle: what it comes to lies behind it.
    started: Option<v1::Position>,
    output: PhantomData<fn() -> O>,
}

macro_rules! change {
    ($($(#[$doc:meta])* $name:ident($call:ident);)*) => { $(
        $(#[$doc])*
        ///
        /// # Errors
        /// `Refused` with HF2002: the run has ended, or is in a state that this does not fit. `NotFound`: there is no
        /// such run. `Unavailable`: repeat it.
        pub async fn $name(&self, reason: &str) -> Result<Status, ClientError> {
            let request = self.change(reason);
            let make = |channel, request| async move { RunsClient::new(channel).$call(request).await };
            let reply = self.caller.call(Some(&self.id), request, make).await?;
            Ok(Status::of(reply.status()))
        }
    )* };
}

impl<O> Run<O> {
    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    fn change(&self, reason: &str) -> v1::ChangeRequest {
        v1::ChangeRequest {
            run_id: self.id.clone(),
            reason: reason.to_owned(),
            request_id: Uuid::now_v7().to_string(),
        }
    }

    change! {
        /// Asks it to cancel: nothing new begins, and what is owed is undone.
        cancel(cancel);
        /// Ends it at once, running nothing; needs a reason.
        terminate(terminate);
        /// Holds it still; steps in flight finish.
        pause(pause);
        /// Lets a paused or quarantined run go on.
        resume_because(resume);
    }

    /// Lets a paused or quarantined run go on.
    ///
    /// # Errors
    /// As [`Run::pause`].
    pub async fn resume(&self) -> Result<Status, ClientError> {
        self.resume_because("").await
    }

    /// Tries a step again now, or all that wait to be retried.
    ///
    /// # Errors
    /// `Refused` with HF2002: no step of it waits to be retried. `NotFound`: there is no such run. `Unavailable`: repeat
    /// it.
    pub async fn retry(&self, step: Option<&str>) -> Result<Status, ClientError> {
        let request = v1::RetryRequest {
            run_id: self.id.clone(),
            step: step.unwrap_or_default().to_owned(),
            request_id: Uuid::now_v7().to_string(),
        };
        let make = |channel, request| async move { RunsClient::new(channel).retry(request).await };
        let reply = self.caller.call(Some(&self.id), request, make).await?;
        Ok(Status::of(reply.status()))
    }

    /// Sends it a signal; acknowledged once it is on a majority of disks. Kept until the run waits for it.
    ///
    /// # Errors
    /// `Refused` with HF2002: the run has ended; with HF2003: too many signals wait for it. `Unavailable`: repeat it
    /// with the same id.
    pub fn signal<T: Data>(&self, signal: Signal<T>, value: T) -> Outgoing {
        self.outgoing(signal.name(), digest::encode(&value))
    }

    /// As `signal`, by name and with JSON: for tools.
    pub fn signal_json(&self, signal: &str, value: &serde_json::Value) -> Outgoing {
        self.outgoing(signal, digest::encode(value))
    }

    fn outgoing(&self, signal: &str, value: Result<Encoded, serde_json::Error>) -> Outgoing {
        let mut request = v1::SignalRequest {
            run_id: self.id.clone(),
            name: signal.to_owned(),
            signal_id: Uuid::now_v7().to_string(),
            payload: Bytes::new(),
        };
        let trouble = match value {
            Ok(it) => {
                let trouble = too_large("the signal", &it);
                request.payload = it.json;
                trouble
            }
            Err(cause) => Some(unencodable("the signal", &cause)),
        };
        Outgoing {
            caller: self.caller.clone(),
            request,
            trouble,
        }
    }

    /// What it published last under this name.
    ///
    /// # Errors
    /// `NotFound`: there is no such run. `Refused`: the value is of another type; use the constant that the workflow
    /// publishes under. `Unavailable`: ask again.
    pub async fn view<T: Data>(&self, view: View<T>) -> Result<Option<T>, ClientError> {
        let Some(bytes) = self.view_bytes(view.name()).await? else {
            return Ok(None);
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|cause| unencodable("the view", &cause))
    }

    /// As `view`, by name: for tools.
    ///
    /// # Errors
    /// As `view`.
    pub async fn view_bytes(&self, name: &str) -> Result<Option<Bytes>, ClientError> {
        let request = v1::GetViewRequest {
            run_id: self.id.clone(),
            name: name.to_owned(),
        };
        let make =
            |channel, request| async move { RunsClient::new(channel).get_view(request).await };
        let reply = self.caller.call(Some(&self.id), request, make).await?;
        Ok(reply.found.then_some(reply.value))
    }

    /// Where it stands.
    ///
    /// # Errors
    /// `NotFound`: there is no such run. `Unavailable`: ask again.
    pub async fn status(&self) -> Result<Status, ClientError> {
        let run = self.describe().await?;
        Ok(Status::of(run.summary.unwrap_or_default().status()))
    }

    /// All that is known of it.
    ///
    /// # Errors
    /// As `status`.
    pub async fn describe(&self) -> Result<v1::RunDescription, ClientError> {
        let request = v1::GetRequest {
            run_id: self.id.clone(),
            ..Default::default()
        };
        let make = |channel, request| async move { RunsClient::new(channel).get(request).await };
        let reply = self.caller.call(Some(&self.id), request, make).await?;
        Ok(reply.run.unwrap_or_default())
    }

    /// Why it is where it is: a sentence.
    ///
    /// # Errors
    /// As `status`.
    pub async fn explain(&self) -> Result<String, ClientError> {
        Ok(self.explain_with_evidence().await?.0)
    }

    /// Why it is where it is: a sentence, and evidence a line each.
    ///
    /// # Errors
    /// As `status`.
    pub async fn explain_with_evidence(&self) -> Result<(String, Vec<String>), ClientError> {
        let request = v1::ExplainRequest {
            run_id: self.id.clone(),
        };
        let make =
            |channel, request| async move { RunsClient::new(channel).explain(request).await };
        let reply = self.caller.call(Some(&self.id), request, make).await?;
        Ok((reply.sentence, reply.evidence))
    }

    /// Its journal, in order; without payloads unless asked for.
    ///
    /// # Errors
    /// As `status`.
    pub async fn journal(&self, payloads: bool) -> Result<Vec<v1::JournalRow>, ClientError> {
        let mut rows = Vec::new();
        let mut from_seq = 0;
        loop {
            let request = v1::JournalRequest {
                run_id: self.id.clone(),
                payloads,
                from_seq,
            };
            let make =
                |channel, request| async move { RunsClient::new(channel).journal(request).await };
            let page = self.caller.call(Some(&self.id), request, make).await?;
            rows.extend(page.rows);
            if page.next_seq == 0 {
                return Ok(rows);
            }
            from_seq = page.next_seq;
        }
    }

    async fn ended_within(&self, d: Option<Duration>) -> Result<v1::RunDescription, ClientError> {
        let until = d.map(|d| Instant::now() + d);
        loop {
            let left = until.map_or(RESULT_WAIT, |until| {
                until.saturating_duration_since(Instant::now())
            });
            let wait = left.min(RESULT_WAIT);
            let request = v1::ResultRequest {
                run_id: self.id.clone(),
                wait_ms: ms(wait),
                at_least: self.started,
            };
            let within = wait + TRY_WITHIN;
            let make =
                |channel, request| async move { RunsClient::new(channel).result(request).await };
            let reply = self
                .caller
                .call_within(Some(&self.id), request, within, make)
                .await?;
            let run = reply.run.unwrap_or_default();
            if Status::of(run.summary.clone().unwrap_or_default().status()).is_final() {
                return Ok(run);
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return Err(ClientError::TimedOut);
            }
        }
    }
}

impl<O: Data> Run<O> {
    /// Waits for its end, however long that takes.
    ///
    /// ```no_run
    /// # use holdfast::{Run, RunError};
    /// # async fn demo(run: Run<String>) -> Result<(), RunError> {
    /// match run.result().await {
    ///     Ok(parcel) => println!("shipped as {parcel}"),
    ///     Err(RunError::Failed(why)) if why.code == "REJECTED" => println!("{}", why.message),
    ///     Err(other) => return Err(other),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// How it ended, if not completed: it has been undone, and its id may be started again with
    /// [`Ended::NewGeneration`]. `Client`: the cluster could not be asked; ask again.
    pub async fn result(&self) -> Result<O, RunError> {
        output(self.ended_within(None).await?)
    }

    /// Waits for its end at most this long.
    ///
    /// # Errors
    /// As `result`, and `Client(TimedOut)`.
    pub async fn result_within(&self, d: Duration) -> Result<O, RunError> {
        output(self.ended_within(Some(d)).await?)
    }
}

fn output<O: Data>(run: v1::RunDescription) -> Result<O, RunError> {
    let failure = run.failure.unwrap_or_default();
    match Status::of(run.summary.unwrap_or_default().status()) {
        Status::Completed => {
            serde_json::from_slice(&run.output).map_err(|it| RunError::BadOutput(it.to_string()))
        }
        Status::Cancelled => Err(RunError::Cancelled),
        Status::Terminated => Err(RunError::Terminated(run.reason)),
        Status::TimedOut => Err(RunError::TimedOut),
        _ => Err(RunError::Failed(Fail {
            code: failure.code,
            message: failure.message,
        })),
    }
}

/// A signal on its way.
#[must_use = "nothing is sent until it is awaited"]
pub struct Outgoing {
    caller: Caller,
    request: v1::SignalRequest,
    trouble: Option<ClientError>,
}

impl Outgoing {
    /// Removes duplicates; by default a fresh one.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.request.signal_id = id.into();
        self
    }
}

impl IntoFuture for Outgoing {
    type Output = Result<(), ClientError>;
    type IntoFuture = Answer<Self::Output>;
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            if let Some(trouble) = self.trouble {
                return Err(trouble);
            }
            let id = self.request.run_id.clone();
            let make =
                |channel, request| async move { RunsClient::new(channel).signal(request).await };
            self.caller
                .call(Some(&id), self.request, make)
                .await
                .map(|_| ())
        })
    }
}

/// A list of runs, page by page, newest first.
#[must_use = "nothing is listed until it is asked for a page"]
pub struct Runs {
    caller: Caller,
    request: v1::ListRequest,
    done: bool,
}

/// One line of a list.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RunSummary {
    /// Its id.
    pub id: String,
    /// What it runs.
    pub workflow: String,
    /// The version it is pinned to.
    pub version: u32,
    /// Where it stands.
    pub status: Status,
    /// When it began.
    pub started: SystemTime,
}

impl Runs {
    /// Only with this status.
    pub fn status(mut self, status: Status) -> Self {
        self.request.status = match status {
            Status::Scheduled => v1::RunStatus::Scheduled,
            Status::Ready => v1::RunStatus::Ready,
            Status::Running => v1::RunStatus::Running,
            Status::Waiting => v1::RunStatus::Waiting,
            Status::Paused => v1::RunStatus::Paused,
            Status::Quarantined => v1::RunStatus::Quarantined,
            Status::Undoing => v1::RunStatus::Undoing,
            Status::Completed => v1::RunStatus::Completed,
            Status::Failed => v1::RunStatus::Failed,
            Status::Cancelled => v1::RunStatus::Cancelled,
            Status::Terminated => v1::RunStatus::Terminated,
            Status::TimedOut => v1::RunStatus::TimedOut,
        }
        .into();
        self
    }
    /// Only of this workflow.
    pub fn workflow(mut self, name: &str) -> Self {
        name.clone_into(&mut self.request.workflow);
        self
    }
    /// Runs on a page; 50 by default, at most 500.
    pub fn page_size(mut self, n: u32) -> Self {
        self.request.page_size = n;
        self
    }
    /// From whatever replica, as old as that is.
    pub fn stale(mut self) -> Self {
        self.request.stale = true;
        self
    }

    /// The next page; `None` after the last one.
    ///
    /// # Errors
    /// `Unavailable`: ask for it again.
    pub async fn page(&mut self) -> Result<Option<Vec<RunSummary>>, ClientError> {
        if self.done {
            return Ok(None);
        }
        let make = |channel, request| async move { RunsClient::new(channel).list(request).await };
        let page = self.caller.call(None, self.request.clone(), make).await?;
        self.done = page.next_page_token.is_empty();
        self.request.page_token = page.next_page_token;
        Ok(Some(page.runs.into_iter().map(summary).collect()))
    }
}

fn summary(it: v1::RunSummary) -> RunSummary {
    RunSummary {
        status: Status::of(it.status()),
        started: UNIX_EPOCH + Duration::from_millis(it.started_unix_ms),
        id: it.run_id,
        workflow: it.workflow,
        version: it.version,
    }
}
