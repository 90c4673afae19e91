//! One call to one node, and what is known of its end.
//!
//! Invariant: one call is one attempt at the node that the history names; nothing is repeated here. Whatever might have happened
//! is `Info`; `Fail` is only what was certainly refused. Not here: which call, and when (`generator`, `clients`).

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast::wire as v1;
use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt;
use v1::cluster_client::ClusterClient;
use v1::limits_client::LimitsClient;
use v1::runs_client::RunsClient;
use v1::workflows_client::WorkflowsClient;

use crate::clock::monotonic_ns;
use crate::records::{Answer, Call, Outcome, Position};

/// A node that accepts no connection in this time is as good as down.
const CONNECT_WITHIN: Duration = Duration::from_millis(1000);
/// So long a question for a result waits at the node.
const RESULT_WAIT: Duration = Duration::from_millis(1500);
/// No operation outlives this.
pub(crate) const CALL_WITHIN: Duration = Duration::from_secs(5);

/// What came of a call.
#[derive(Debug, Clone)]
pub struct Told {
    /// What is known.
    pub outcome: Outcome,
    /// The answer.
    pub answer: Option<Answer>,
    /// The error.
    pub error: Option<String>,
    /// Where, or how fresh.
    pub position: Option<Position>,
}

impl Told {
    fn ok(answer: Option<Answer>, position: Option<v1::Position>) -> Self {
        Self {
            outcome: Outcome::Ok,
            answer,
            error: None,
            position: position.map(position_of),
        }
    }
}

/// The way to nodes by their addresses.
#[derive(Debug, Default)]
pub struct Asker {
    channels: Mutex<BTreeMap<String, Channel>>,
}

impl Asker {
    /// A connection of this asker's own; made at the first call.
    fn channel(&self, to: &str) -> Result<Channel, Status> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(to) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{to}"))
            .map_err(|cause| Status::invalid_argument(format!("{to}: {cause}")))?
            .connect_timeout(CONNECT_WITHIN)
            .tcp_nodelay(true);
        let channel = endpoint.connect_lazy();
        channels.insert(to.to_string(), channel.clone());
        Ok(channel)
    }

    /// Makes one call at the node at this address.
    pub async fn ask(&self, to: &str, call: &Call, input: Option<&str>) -> Told {
        let asked = tokio::time::timeout(CALL_WITHIN, self.carry_out(to, call, input));
        match asked.await {
            Ok(Ok(told)) => told,
            Ok(Err(status)) => refused(call, &status),
            Err(_) => Told {
                outcome: unknown(call),
                answer: None,
                error: Some("timeout".to_string()),
                position: None,
            },
        }
    }

    async fn carry_out(&self, to: &str, call: &Call, input: Option<&str>) -> Result<Told, Status> {
        let channel = self.channel(to)?;
        match call {
            Call::Start { .. } | Call::Result { .. } | Call::Get { .. } => {
                runs(RunsClient::new(channel), call, input).await
            }
            Call::Signal { .. } | Call::Cancel { .. } | Call::Terminate { .. } => {
                changes(RunsClient::new(channel), call).await
            }
            Call::SetCurrent { workflow, version } => {
                let request = v1::SetCurrentRequest {
                    name: workflow.clone(),
                    version: *version,
                    request_id: fresh_id(),
                };
                let mut client = WorkflowsClient::new(channel);
                let reply = client.set_current(bounded(request)).await?.into_inner();
                let version = reply.previous;
                let position = reply.positions.first().copied();
                Ok(Told::ok(Some(Answer::Version { version }), position))
            }
            Call::GetCurrent { workflow } => {
                let request = bounded(v1::ListWorkflowsRequest {});
                let mut client = WorkflowsClient::new(channel);
                let reply = client.list(request).await?.into_inner();
                Ok(current_of(&reply, workflow))
            }
            Call::SetLimit {
                limit,
                rate,
                burst,
                concurrency,
            } => {
                let spec = v1::LimitSpec {
                    rate_count: rate.unwrap_or_default(),
                    rate_per_ms: rate.map_or(0, |_| 1000),
                    burst: burst.unwrap_or_default(),
                    concurrency: concurrency.unwrap_or_default(),
                };
                let request = v1::SetLimitRequest {
                    name: limit.clone(),
                    spec: Some(spec),
                    request_id: fresh_id(),
                };
                let mut client = LimitsClient::new(channel);
                let reply = client.set(bounded(request)).await?.into_inner();
                let done = Answer::Done { already: false };
                Ok(Told::ok(Some(done), reply.positions.first().copied()))
            }
        }
    }

    /// What a node says of the cluster.
    ///
    /// # Errors
    /// It does not answer in this time, or not so.
    pub async fn status(
        &self,
        to: &str,
        within: Duration,
    ) -> Result<v1::ClusterStatusReply, Status> {
        let mut client = ClusterClient::new(self.channel(to)?);
        timed(within, client.status(v1::ClusterStatusRequest {})).await
    }

    /// The admin service of a node.
    ///
    /// # Errors
    /// The address is malformed.
    pub fn cluster(&self, to: &str) -> Result<ClusterClient<Channel>, Status> {
        Ok(ClusterClient::new(self.channel(to)?))
    }

    /// The runs service of a node.
    ///
    /// # Errors
    /// The address is malformed.
    pub fn runs(&self, to: &str) -> Result<RunsClient<Channel>, Status> {
        Ok(RunsClient::new(self.channel(to)?))
    }

    /// The workflows service of a node.
    ///
    /// # Errors
    /// The address is malformed.
    pub fn workflows(&self, to: &str) -> Result<WorkflowsClient<Channel>, Status> {
        Ok(WorkflowsClient::new(self.channel(to)?))
    }
}

/// Bounds a call of an admin.
///
/// # Errors
/// What the node answered, or that it did not.
pub(crate) async fn timed<T>(
    within: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Status> {
    tokio::time::timeout(within, call)
        .await
        .map_err(|_| Status::deadline_exceeded("no answer in time"))?
        .map(Response::into_inner)
}

fn bounded<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_WITHIN);
    request
}

async fn runs(
    mut client: RunsClient<Channel>,
    call: &Call,
    input: Option<&str>,
) -> Result<Told, Status> {
    match call {
        Call::Start { run, workflow, .. } => {
            let request = v1::StartRequest {
                workflow: workflow.clone(),
                run_id: run.clone(),
                input: input.unwrap_or("null").to_string().into_bytes().into(),
                ..Default::default()
            };
            let reply = client.start(bounded(request)).await?.into_inner();
            let started = Answer::Started {
                created: reply.created,
                generation: reply.generation,
            };
            Ok(Told::ok(Some(started), reply.position))
        }
        Call::Result { run } => {
            let request = v1::ResultRequest {
                run_id: run.clone(),
                wait_ms: u64::try_from(RESULT_WAIT.as_millis()).unwrap_or_default(),
                at_least: None,
            };
            let reply = client.result(bounded(request)).await?.into_inner();
            Ok(Told::ok(Some(run_of(&reply)), reply.position))
        }
        Call::Get {
            run,
            stale,
            at_least,
        } => {
            let request = v1::GetRequest {
                run_id: run.clone(),
                stale: *stale,
                at_least: at_least.map(|it| v1::Position {
                    group: it.group,
                    index: it.index,
                    slot: it.slot,
                }),
            };
            let reply = client.get(bounded(request)).await?.into_inner();
            Ok(Told::ok(Some(run_of(&reply)), reply.position))
        }
        _ => Err(Status::invalid_argument("not a question about a run")),
    }
}

async fn changes(mut client: RunsClient<Channel>, call: &Call) -> Result<Told, Status> {
    let change = |run: &str, request: &str| {
        bounded(v1::ChangeRequest {
            run_id: run.to_string(),
            reason: "the load asks for it".to_string(),
            request_id: request.to_string(),
        })
    };
    let reply = match call {
        Call::Signal {
            run,
            name,
            signal_id,
            serial,
        } => {
            let request = v1::SignalRequest {
                run_id: run.clone(),
                name: name.clone(),
                signal_id: signal_id.clone(),
                payload: serial.to_string().into_bytes().into(),
            };
            client.signal(bounded(request)).await?
        }
        Call::Cancel { run, request } => client.cancel(change(run, request)).await?,
        Call::Terminate { run, request } => client.terminate(change(run, request)).await?,
        _ => return Err(Status::invalid_argument("not a change of a run")),
    };
    // The contract does not tell a repeat from the first.
    let done = Answer::Done { already: false };
    Ok(Told::ok(Some(done), reply.into_inner().position))
}

fn current_of(reply: &v1::ListWorkflowsReply, workflow: &str) -> Told {
    let found = reply
        .workflows
        .iter()
        .filter(|it| it.name == workflow)
        .min_by_key(|it| it.partition);
    let version = found.map_or(0, |it| it.current);
    let position = reply.positions.iter().min_by_key(|it| it.group).copied();
    Told::ok(Some(Answer::Version { version }), position)
}

fn run_of(reply: &v1::GetReply) -> Answer {
    let empty = v1::RunDescription::default();
    let run = reply.run.as_ref().unwrap_or(&empty);
    let summary = run.summary.clone().unwrap_or_default();
    Answer::Run {
        status: status_name(summary.status()),
        generation: summary.generation,
        serial: serial_of(&run.output),
    }
}

/// The serial in a run's output.
pub(crate) fn serial_of(output: &[u8]) -> Option<u64> {
    let json: serde_json::Value = serde_json::from_slice(output).ok()?;
    json.get("serial")?.as_u64()
}

/// A status as the contract names it: `WAITING`.
pub(crate) fn status_name(status: v1::RunStatus) -> String {
    let name = status.as_str_name();
    name.strip_prefix("RUN_STATUS_").unwrap_or(name).to_string()
}

pub(crate) fn position_of(it: v1::Position) -> Position {
    Position {
        group: it.group,
        index: it.index,
        slot: it.slot,
    }
}

/// Of a request that is sent once.
fn fresh_id() -> String {
    format!("load-{}-{}", std::process::id(), monotonic_ns())
}

/// Reads change nothing, so a read without an answer did not happen.
fn unknown(call: &Call) -> Outcome {
    match call {
        Call::Get { .. } | Call::Result { .. } | Call::GetCurrent { .. } => Outcome::Fail,
        _ => Outcome::Info,
    }
}

fn refused(call: &Call, status: &Status) -> Told {
    let info = status.get_details_error_info();
    let code = info.as_ref().map(|it| it.reason.as_str());
    let told = |outcome, answer| Told {
        outcome,
        answer,
        error: None,
        position: None,
    };
    let failed = |outcome| Told {
        error: Some(error_text(code, status)),
        ..told(outcome, None)
    };
    match code {
        Some("HF3003") if !matches!(call, Call::Start { .. }) && call.run().is_some() => {
            told(Outcome::Ok, Some(Answer::NoRun))
        }
        Some("HF2002") => match ended_as(status.message()) {
            Some(status) => told(Outcome::Ok, Some(Answer::Ended { status })),
            None => failed(Outcome::Fail),
        },
        // Before anything was proposed: this node does not lead, or knows of nobody who does, or has no room.
        Some("HF1002" | "HF1004" | "HF1005") => failed(Outcome::Fail),
        Some("HF1001") if status.message().contains("has no leader that this node") => {
            failed(Outcome::Fail)
        }
        Some("HF1001" | "HF1003" | "HF9001") => failed(unknown(call)),
        Some(_) => failed(Outcome::Fail),
        None if never_sent(status) => failed(Outcome::Fail),
        None if status.code() == Code::InvalidArgument => failed(Outcome::Fail),
        None => failed(unknown(call)),
    }
}

fn error_text(code: Option<&str>, status: &Status) -> String {
    match code {
        Some(code) => code.to_string(),
        None => format!("{:?}: {}", status.code(), status.message()),
    }
}

/// Whether the connection was never made.
fn never_sent(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.kind() == std::io::ErrorKind::ConnectionRefused;
        }
        cause = error.source();
    }
    false
}

/// `run X has ended as TimedOut` names the status as code does.
fn ended_as(message: &str) -> Option<String> {
    let (_, name) = message.split_once(" has ended as ")?;
    let name = name.split(|it: char| !it.is_alphanumeric()).next()?;
    let mut text = String::new();
    for (at, letter) in name.chars().enumerate() {
        if at > 0 && letter.is_uppercase() {
            text.push('_');
        }
        text.extend(letter.to_uppercase());
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get() -> Call {
        Call::Get {
            run: "r".to_string(),
            stale: false,
            at_least: None,
        }
    }

    fn cancel() -> Call {
        Call::Cancel {
            run: "r".to_string(),
            request: "q".to_string(),
        }
    }

    #[test]
    fn a_run_that_had_ended_is_an_answer_and_names_the_end() {
        assert_eq!(
            ended_as("run r has ended as TimedOut"),
            Some("TIMED_OUT".to_string())
        );
        assert_eq!(
            ended_as("run r has ended as Completed; look at it"),
            Some("COMPLETED".to_string())
        );
        assert_eq!(ended_as("run r is Paused: no"), None);
    }

    #[test]
    fn a_lost_connection_leaves_a_change_open_and_a_read_undone() {
        let lost = Status::unavailable("connection reset");
        assert_eq!(refused(&cancel(), &lost).outcome, Outcome::Info);
        assert_eq!(refused(&get(), &lost).outcome, Outcome::Fail);
    }

    #[test]
    fn a_serial_is_read_from_an_output_and_nothing_from_another() {
        assert_eq!(serial_of(br#"{"serial":12}"#), Some(12));
        assert_eq!(serial_of(b""), None);
        assert_eq!(serial_of(b"\"text\""), None);
    }
}
