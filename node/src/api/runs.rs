//! `Runs`: start them, ask about them, tell them things.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::stream::BoxStream;
use tokio::{
    sync::futures::Notified,
    time::{Instant, timeout_at},
};
use tonic::{Request, Response, Status};

use holdfast_proto::{
    domain::{rows::status_from, wire},
    v1::{self, runs_client::RunsClient, runs_server::Runs},
};
use holdfast_raft::{
    Freshness,
    seeded::{Bug, armed},
};
use holdfast_scheduler::{
    entry::{Ask, Change},
    ids::{RunId, Seq, Version},
    reply::{Reply, Status as RunStatus},
    rows::{Fault, ReadRows},
    time::Timestamp,
    views::{self, AnyRun, Filter, PageStart},
};

use super::{Api, describe, freshness, opened, status};
use crate::{
    machine::SnapshotRows,
    partitions::{Partition, Watch},
    telemetry::name_label,
};

/// The longest that `Result` waits; a caller asks again.
const RESULT_WAIT_MAX: Duration = Duration::from_secs(30);
/// A watcher looks again after this, should a wake have been lost with a restart of its node's state.
const WATCH_AGAIN: Duration = Duration::from_secs(15);
/// Runs on a page unless asked otherwise, and at most.
const PAGE_DEFAULT: u32 = 50;
const PAGE_MAX: u32 = 500;
/// Journal rows in one answer; with payloads they must fit a message of 4 MiB, so few of them may.
const JOURNAL_ROWS_MAX: usize = 1_000;
const JOURNAL_BYTES_MAX: usize = 2 * 1024 * 1024;

/// The service.
pub struct RunsApi(pub Arc<Api>);

fn bad(it: &wire::BadRequest) -> Status {
    status::bad_request(it)
}

/// The next change of a watched run; created before the run is looked at, so that none is missed.
type Next<'a> = Pin<Box<Notified<'a>>>;

fn enrolled<'a>(watch: &'a Watch<'_>) -> Next<'a> {
    let mut next = Box::pin(watch.next());
    next.as_mut().enable();
    next
}

/// When a call that waits so long answers at the latest; none if it does not wait.
fn until(wait_ms: u64) -> Option<Instant> {
    (wait_ms > 0).then(|| Instant::now() + Duration::from_millis(wait_ms).min(RESULT_WAIT_MAX))
}

fn run_id(text: &str) -> Result<RunId, Status> {
    wire::run_id(text).map_err(|it| bad(&it))
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "an answer is taken, as by the others"
)]
fn changed(reply: Reply, position: v1::Position) -> Result<v1::ChangeReply, Status> {
    match reply {
        Reply::Changed(after) => Ok(v1::ChangeReply {
            position: Some(position),
            status: wire::status_to(after).into(),
        }),
        _ => Err(status::unexpected("a change of a run")),
    }
}

impl RunsApi {
    async fn describe(
        &self,
        partition: &Partition,
        id: &RunId,
        how: Freshness,
    ) -> Result<v1::GetReply, Status> {
        let of = id.clone();
        let look = self
            .0
            .look(partition, how, move |rows| describe_run(rows, &of));
        let (found, position) = look.await?;
        let run = found.map_err(|it| it.of(id))?;
        Ok(v1::GetReply {
            position: Some(position),
            run: Some(run),
        })
    }

    /// As `describe`, on the calling thread: for a run whose rows were written a moment ago.
    fn describe_now(&self, partition: &Partition, id: &RunId) -> Result<v1::GetReply, Status> {
        let (found, index) = partition
            .replica
            .look(|rows| (describe_run(&SnapshotRows(rows), id), rows.applied()));
        let run = found.map_err(|fault| status::fault(&fault))?;
        let position = v1::Position {
            group: partition.group,
            index,
            slot: 0,
        };
        Ok(v1::GetReply {
            position: Some(position),
            run: Some(run.map_err(|it| it.of(id))?),
        })
    }

    /// The run once it has ended, or as it was seen last.
    async fn ended<'a>(
        &self,
        partition: &Partition,
        id: &RunId,
        mut seen: Option<v1::GetReply>,
        (watch, mut next): (&'a Watch<'_>, Next<'a>),
        until: Instant,
    ) -> Result<Option<v1::GetReply>, Status> {
        while !seen.as_ref().is_some_and(is_final) && timeout_at(until, next).await.is_ok() {
            next = enrolled(watch);
            // This replica has just applied the end that woke us, and a final state never changes.
            seen = Some(self.describe_now(partition, id)?);
        }
        Ok(seen)
    }

    /// Cancel, terminate, pause, resume.
    async fn change<F>(
        &self,
        request: Request<v1::ChangeRequest>,
        ask: impl FnOnce(Change) -> Ask,
        call: impl FnOnce(tonic::transport::Channel, Request<v1::ChangeRequest>) -> F,
    ) -> Result<Response<v1::ChangeReply>, Status>
    where
        F: Future<Output = Result<Response<v1::ChangeReply>, Status>>,
    {
        let (hop, it) = opened(request);
        let change = wire::change(it.clone()).map_err(|it| bad(&it))?;
        let partition = self.0.home(&change.run)?;
        self.0
            .ask(&partition, ask(change), (hop, it), changed, call)
            .await
    }
}

#[tonic::async_trait]
impl Runs for RunsApi {
    async fn start(
        &self,
        request: Request<v1::StartRequest>,
    ) -> Result<Response<v1::StartReply>, Status> {
        let (hop, mut it) = opened(request);
        let start = wire::start(it.clone()).map_err(|it| bad(&it))?;
        self.0.disk.verify_starts()?;
        // It waits here, for whoever leads may change meanwhile.
        let until = until(std::mem::take(&mut it.wait_ms));
        let partition = self.0.home(&start.run)?;
        let id = start.run.clone();
        let watch = until.map(|_| partition.ended.watch(&id));
        let next = watch.as_ref().map(|watch| enrolled(watch));
        let (run_id, workflow) = (it.run_id.clone(), it.workflow.clone());
        let answer = move |reply, position| match reply {
            Reply::Started {
                generation,
                version,
                created,
            } => {
                if created {
                    metrics::counter!("holdfast_runs_started_total", "workflow" => name_label(&workflow))
                        .increment(1);
                }
                Ok(v1::StartReply {
                    position: Some(position),
                    run_id,
                    generation: generation.0,
                    version: version.0,
                    created,
                    run: None,
                })
            }
            _ => Err(status::unexpected("a start")),
        };
        let mut started = self
            .0
            .ask(
                &partition,
                Ask::Start(start),
                (hop, it),
                answer,
                |channel, request| async move { RunsClient::new(channel).start(request).await },
            )
            .await?;
        if let (Some(until), Some(watch), Some(next)) = (until, &watch, next) {
            let reply = started.get_mut();
            let run = if reply.created {
                None // it ends later than it begins, and then this call is woken
            } else {
                let how = freshness(partition.group, false, reply.position);
                Some(self.describe(&partition, &id, how).await?)
            };
            let run = self
                .ended(&partition, &id, run, (watch, next), until)
                .await?;
            reply.run = run.filter(is_final).and_then(|it| it.run);
        }
        Ok(started)
    }

    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::GetReply>, Status> {
        let it = request.into_inner();
        let id = run_id(&it.run_id)?;
        let partition = self.0.home(&id)?;
        let how = freshness(partition.group, it.stale, it.at_least);
        if armed(Bug::NotFoundFromFollower) {
            self.describe_now(&partition, &id)?;
        }
        self.describe(&partition, &id, how).await.map(Response::new)
    }

    async fn list(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<v1::ListReply>, Status> {
        let it = request.into_inner();
        let filter = filter(&it)?;
        let page_size = match it.page_size {
            0 => PAGE_DEFAULT,
            size => size.min(PAGE_MAX),
        };
        let limit = usize::try_from(page_size).unwrap_or(usize::MAX);
        let (first, mut after) = page_start(&it.page_token)?;
        let how = if it.stale {
            Freshness::Stale
        } else {
            Freshness::Linear
        };
        let mut reply = v1::ListReply::default();
        let partitions = self.0.concerned(super::Hop::First)?;
        for partition in partitions.iter().filter(|it| it.group >= first) {
            let room = limit - reply.runs.len();
            let (filter, from) = (filter.clone(), after.take());
            let ((page, next), position) = self
                .0
                .look(partition, how, move |rows| {
                    views::list(rows, &filter, &from, room)
                })
                .await?;
            reply.positions.push(position);
            reply.runs.extend(page.iter().map(describe::summary));
            let is_last = partitions
                .last()
                .is_some_and(|last| last.group == partition.group);
            if let Some((started, id)) = next {
                reply.next_page_token = format!("{}:{}:{id}", partition.group, started.0);
                break;
            }
            if reply.runs.len() >= limit && !is_last {
                reply.next_page_token = format!("{}::", partition.group + 1);
                break;
            }
        }
        Ok(Response::new(reply))
    }

    async fn journal(
        &self,
        request: Request<v1::JournalRequest>,
    ) -> Result<Response<v1::JournalReply>, Status> {
        let it = request.into_inner();
        let id = run_id(&it.run_id)?;
        let partition = self.0.home(&id)?;
        let of = id.clone();
        let from = Seq(it.from_seq);
        let look = self.0.look(&partition, Freshness::Linear, move |rows| {
            let run = match known(rows, &of)? {
                Ok(run) => run,
                Err(unknown) => return Ok(Err(unknown)),
            };
            views::journal(rows, &of, run.generation(), from, JOURNAL_ROWS_MAX).map(Ok)
        });
        let (found, position) = look.await?;
        let found = found.map_err(|it| it.of(&id))?;
        let full = found.len() == JOURNAL_ROWS_MAX;
        let mut reply = v1::JournalReply {
            position: Some(position),
            ..v1::JournalReply::default()
        };
        let mut bytes = 0;
        for row in &found {
            let shown = wire::journal_row_to(partition.group, row, it.payloads);
            bytes += prost::Message::encoded_len(&shown);
            if bytes > JOURNAL_BYTES_MAX && !reply.rows.is_empty() {
                reply.next_seq = row.seq.0;
                break;
            }
            reply.rows.push(shown);
        }
        if full && reply.next_seq == 0 {
            reply.next_seq = found.last().map_or(0, |row| row.seq.0 + 1);
        }
        Ok(Response::new(reply))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainReply>, Status> {
        let id = run_id(&request.into_inner().run_id)?;
        let partition = self.0.home(&id)?;
        let (of, now) = (id.clone(), partition.clock.now());
        let look = self.0.look(&partition, Freshness::Linear, move |rows| {
            let run = match known(rows, &of)? {
                Ok(run) => run,
                Err(unknown) => return Ok(Err(unknown)),
            };
            views::explain(rows, &run, as_of(rows, now)?).map(Ok)
        });
        let (found, position) = look.await?;
        let found = found.map_err(|it| it.of(&id))?;
        Ok(Response::new(v1::ExplainReply {
            position: Some(position),
            sentence: found.sentence,
            evidence: found.evidence,
        }))
    }

    async fn result(
        &self,
        request: Request<v1::ResultRequest>,
    ) -> Result<Response<v1::GetReply>, Status> {
        let it = request.into_inner();
        let id = run_id(&it.run_id)?;
        let partition = self.0.home(&id)?;
        let watch = partition.ended.watch(&id);
        let how = freshness(partition.group, false, it.at_least);
        let next = enrolled(&watch);
        let now = self.describe(&partition, &id, how).await?;
        let Some(until) = until(it.wait_ms) else {
            return Ok(Response::new(now));
        };
        let then = self.ended(&partition, &id, Some(now), (&watch, next), until);
        let reply = then.await?.ok_or_else(|| Unknown::Never.of(&id))?;
        Ok(Response::new(reply))
    }

    async fn signal(
        &self,
        request: Request<v1::SignalRequest>,
    ) -> Result<Response<v1::ChangeReply>, Status> {
        let (hop, it) = opened(request);
        let signal = wire::signal(it.clone()).map_err(|it| bad(&it))?;
        let partition = self.0.home(&signal.run)?;
        let sent = self
            .0
            .ask(
                &partition,
                Ask::Signal(signal),
                (hop, it),
                changed,
                |channel, request| async move { RunsClient::new(channel).signal(request).await },
            )
            .await;
        match sent {
            Err(status)
                if armed(Bug::SignalDroppedOnChange)
                    && status.code() == tonic::Code::Unavailable =>
            {
                Ok(Response::new(v1::ChangeReply::default()))
            }
            sent => sent,
        }
    }

    async fn get_view(
        &self,
        request: Request<v1::GetViewRequest>,
    ) -> Result<Response<v1::GetViewReply>, Status> {
        let it = request.into_inner();
        let id = run_id(&it.run_id)?;
        let name = wire::name("name", &it.name).map_err(|it| bad(&it))?;
        let partition = self.0.home(&id)?;
        let of = id.clone();
        let look = self.0.look(&partition, Freshness::Linear, move |rows| {
            let run = known(rows, &of)?;
            Ok((run, views::view(rows, &of, &name)?))
        });
        let ((run, value), position) = look.await?;
        run.map_err(|it| it.of(&id))?;
        Ok(Response::new(v1::GetViewReply {
            position: Some(position),
            found: value.is_some(),
            value: value.unwrap_or_default(),
        }))
    }

    async fn cancel(
        &self,
        request: Request<v1::ChangeRequest>,
    ) -> Result<Response<v1::ChangeReply>, Status> {
        self.change(request, Ask::Cancel, |channel, request| async move {
            RunsClient::new(channel).cancel(request).await
        })
        .await
    }

    async fn terminate(
        &self,
        request: Request<v1::ChangeRequest>,
    ) -> Result<Response<v1::ChangeReply>, Status> {
        self.change(request, Ask::Terminate, |channel, request| async move {
            RunsClient::new(channel).terminate(request).await
        })
        .await
    }

    async fn pause(
        &self,
        request: Request<v1::ChangeRequest>,
    ) -> Result<Response<v1::ChangeReply>, Status> {
        self.change(request, Ask::Pause, |channel, request| async move {
            RunsClient::new(channel).pause(request).await
        })
        .await
    }

    async fn resume(
        &self,
        request: Request<v1::ChangeRequest>,
    ) -> Result<Response<v1::ChangeReply>, Status> {
        self.change(request, Ask::Resume, |channel, request| async move {
            RunsClient::new(channel).resume(request).await
        })
        .await
    }

    async fn retry(
        &self,
        request: Request<v1::RetryRequest>,
    ) -> Result<Response<v1::ChangeReply>, Status> {
        let (hop, it) = opened(request);
        let retry = wire::retry(it.clone()).map_err(|it| bad(&it))?;
        let partition = self.0.home(&retry.run)?;
        self.0
            .ask(
                &partition,
                Ask::Retry(retry),
                (hop, it),
                changed,
                |channel, request| async move { RunsClient::new(channel).retry(request).await },
            )
            .await
    }

    type WatchStream = BoxStream<'static, Result<v1::GetReply, Status>>;

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let id = run_id(&request.into_inner().run_id)?;
        let partition = self.0.home(&id)?;
        let runs = Self(Arc::clone(&self.0));
        let watching = Watching {
            runs,
            partition,
            id,
            shown: None,
            over: false,
        };
        let changes = futures::stream::unfold(watching, |mut watching| async move {
            let item = watching.next().await?;
            Some((item, watching))
        });
        Ok(Response::new(Box::pin(changes)))
    }
}

/// One `Watch` call.
struct Watching {
    runs: RunsApi,
    partition: Arc<Partition>,
    id: RunId,
    shown: Option<v1::RunSummary>,
    over: bool,
}

impl Watching {
    /// The run as it is, once it differs from what was shown last.
    async fn next(&mut self) -> Option<Result<v1::GetReply, Status>> {
        if self.over {
            return None;
        }
        let partition = Arc::clone(&self.partition);
        let watch = partition.watchers.watch(&self.id);
        loop {
            let mut next = std::pin::pin!(watch.next());
            next.as_mut().enable();
            let how = if self.shown.is_none() {
                Freshness::Linear
            } else {
                Freshness::Stale
            };
            let reply = match self.runs.describe(&partition, &self.id, how).await {
                Ok(reply) => reply,
                Err(status) => {
                    self.over = true;
                    return Some(Err(status));
                }
            };
            let summary = reply.run.as_ref().and_then(|run| run.summary.clone());
            if armed(Bug::WatchResumeOffByOne) && self.shown.is_some() && is_final(&reply) {
                return None;
            }
            if summary != self.shown {
                self.shown = summary;
                self.over = is_final(&reply);
                return Some(Ok(reply));
            }
            drop(tokio::time::timeout(WATCH_AGAIN, next).await);
        }
    }
}

/// The group clock: the leader's own, or where the rows stand.
fn as_of<R: holdfast_scheduler::rows::ReadRows + ?Sized>(
    rows: &R,
    now: Option<Timestamp>,
) -> Result<Timestamp, holdfast_scheduler::rows::Fault> {
    use holdfast_scheduler::rows::TypedRows;
    match now {
        Some(now) => Ok(now),
        None => Ok(rows.group()?.unwrap_or_default().clock),
    }
}

/// Why nothing can be shown of a run.
enum Unknown {
    /// There is none, as far as anybody remembers.
    Never,
    /// It ended like this, and its time is over.
    Forgotten(RunStatus),
}

impl Unknown {
    fn of(self, id: &RunId) -> Status {
        match self {
            Self::Never => describe::no_such_run(id),
            Self::Forgotten(ended) => status::forgotten(id, ended),
        }
    }
}

/// A run of which more is kept than how it ended.
fn known<R: ReadRows + ?Sized>(rows: &R, id: &RunId) -> Result<Result<AnyRun, Unknown>, Fault> {
    Ok(match views::run(rows, id)? {
        None => Err(Unknown::Never),
        Some(AnyRun::Final(done)) if done.forgotten => Err(Unknown::Forgotten(done.end.status())),
        Some(run) => Ok(run),
    })
}

fn describe_run<R: ReadRows + ?Sized>(
    rows: &R,
    id: &RunId,
) -> Result<Result<v1::RunDescription, Unknown>, Fault> {
    match known(rows, id)? {
        Ok(run) => describe::run(rows, &run).map(Ok),
        Err(unknown) => Ok(Err(unknown)),
    }
}

fn is_final(reply: &v1::GetReply) -> bool {
    let summary = reply.run.as_ref().and_then(|run| run.summary.as_ref());
    summary.is_some_and(|summary| {
        run_status(summary.status)
            .ok()
            .flatten()
            .is_some_and(RunStatus::is_final)
    })
}

fn run_status(number: i32) -> Result<Option<RunStatus>, Status> {
    if number == 0 {
        return Ok(None);
    }
    let known = u32::try_from(number)
        .ok()
        .and_then(|number| status_from(number).ok());
    known
        .map(Some)
        .ok_or_else(|| status::invalid("status", format!("{number} is unknown")))
}

fn filter(it: &v1::ListRequest) -> Result<Filter, Status> {
    let workflow = (!it.workflow.is_empty()).then(|| wire::name("workflow", &it.workflow));
    let version = (it.version != 0).then_some(Version(it.version));
    if version.is_some() && workflow.is_none() {
        return Err(status::invalid("version", "name the workflow, too"));
    }
    Ok(Filter {
        status: run_status(it.status)?,
        workflow: workflow.transpose().map_err(|it| bad(&it))?,
        version,
    })
}

/// `partition:started:run`: where the page before ended.
fn page_start(token: &str) -> Result<(u32, PageStart), Status> {
    if token.is_empty() {
        return Ok((0, None));
    }
    let wrong = || status::invalid("page_token", "it is not one that this cluster gave");
    let mut parts = token.splitn(3, ':');
    let partition = parts
        .next()
        .and_then(|part| part.parse().ok())
        .ok_or_else(wrong)?;
    let (started, id) = (
        parts.next().ok_or_else(wrong)?,
        parts.next().ok_or_else(wrong)?,
    );
    if id.is_empty() {
        return Ok((partition, None));
    }
    let started = started.parse().map_err(|_| wrong())?;
    Ok((partition, Some((Timestamp(started), run_id(id)?))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_token_is_taken_back_and_anything_else_refused() {
        let (partition, after) = page_start("2:17:order:1").unwrap();
        assert_eq!(partition, 2);
        assert_eq!(after, Some((Timestamp(17), RunId::new("order:1").unwrap())));
        assert_eq!(page_start("3::").unwrap(), (3, None));
        assert!(page_start("x").is_err());
    }

    #[test]
    fn an_unknown_status_is_refused() {
        assert!(run_status(0).unwrap().is_none());
        assert_eq!(run_status(8).unwrap(), Some(RunStatus::Completed));
        assert!(run_status(99).is_err());
    }
}
