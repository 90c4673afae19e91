//! `Work.Attach`: the work stream, from greeting to goodbye.
//!
//! Invariant: what a worker asks is proposed in the order it was sent; an answer whose fate is unknown says so, and the
//! worker sends the same again. Nothing here waits for the log: answers are queued where they are made.
//! Not here: who gets what (`leader`), leases (`scheduler`).

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::stream::BoxStream;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};
use tonic::{Request, Response, Status, Streaming};

use holdfast_proto::{
    domain::wire::{self, BadRequest},
    v1::{
        self, from_worker::Message as From, to_worker::Message as To, work_server::Work as Service,
    },
};
use holdfast_raft::{GroupId, Position, ProposeError};
use holdfast_scheduler::{
    entry::{Ask, Work},
    ids::{DeliveryNo, Fence, Generation, PartitionId, RunId, SessionId},
    reply::{Advanced, Rejected, Reply},
    rows::TypedRows,
};

use super::{Api, position, status};
use crate::{
    leader::FromStream,
    machine::{Proposal, SnapshotRows},
    partitions::Partition,
    streams::{AdvancedOut, Held, Out, Stream},
};

/// The protocol spoken here.
const PROTOCOL: u32 = 1;
/// A worker greets at once, or is none.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Disk is freed by people, or by retention.
const DISK_RETRY: Duration = Duration::from_secs(1);
/// Asks of one stream under way: four full entries. At the bound the stream is not read, and the worker waits.
const IN_FLIGHT_MAX: usize = 2_048;

/// The service.
pub struct WorkApi(pub Arc<Api>);

#[tonic::async_trait]
impl Service for WorkApi {
    type AttachStream = BoxStream<'static, Result<v1::ToWorker, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<v1::FromWorker>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let mut inbound = request.into_inner();
        let first = timeout(HELLO_TIMEOUT, inbound.message()).await;
        let first =
            first.map_err(|_| status::invalid("hello", "no greeting came within 10 s"))??;
        let Some(From::Hello(hello)) = first.and_then(|it| it.message) else {
            return Err(status::invalid(
                "hello",
                "it must be the first message on a work stream",
            ));
        };
        let partition = self.0.partitions.get(PartitionId(hello.partition.max(1)));
        let Some(partition) = partition else {
            return match self.0.partitions.all().len() {
                0 => Err(status::not_formed()),
                count => Err(status::invalid(
                    "hello.partition",
                    format!("{} is none of the {count} partitions", hello.partition),
                )),
            };
        };
        let held = held(&hello).map_err(|it| status::bad_request(&it))?;
        let (stream, queue) = Stream::open(held);
        let worker = Worker {
            api: Arc::clone(&self.0),
            partition: Arc::clone(&partition),
            stream,
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT_MAX)),
        };
        // Ends with the stream: when the worker is gone, or when the last message was sent and nobody reads any more.
        tokio::spawn(worker.run(hello, inbound));
        Ok(Response::new(outbound(partition, queue)))
    }
}

fn held(hello: &v1::Hello) -> Result<Held, BadRequest> {
    let mut held = Held::default();
    for it in &hello.runs {
        let fence = Fence::from_wire(it.fence);
        held.runs
            .insert(wire::run_id(&it.run)?, (fence, DeliveryNo(it.delivery)));
    }
    for it in &hello.held_steps {
        held.steps.insert(
            (wire::run_id(&it.run)?, it.entry),
            Fence::from_wire(it.fence),
        );
    }
    Ok(held)
}

/// The reading side of one stream.
struct Worker {
    api: Arc<Api>,
    partition: Arc<Partition>,
    stream: Stream,
    in_flight: Arc<Semaphore>,
}

impl Worker {
    async fn run(self, hello: v1::Hello, inbound: Streaming<v1::FromWorker>) {
        let Some(session) = self.attach(&hello).await else {
            return;
        };
        self.partition.streams.insert(session, self.stream.clone());
        if self
            .partition
            .leader
            .send(FromStream::Opened(session))
            .await
            .is_ok()
        {
            self.serve(session, inbound).await;
        }
        if self.partition.streams.remove(session, self.stream.id()) {
            drop(
                self.partition
                    .leader
                    .send(FromStream::Closed(session))
                    .await,
            ); // the node stops
        }
        self.stream.send(Out::End(None));
    }

    /// Greets; says the session, or why there is none and ends the stream.
    async fn attach(&self, hello: &v1::Hello) -> Option<SessionId> {
        let last = match self.greet(hello).await {
            Ok((session, welcome)) => {
                self.stream.send(Out::Message(To::Welcome(welcome)));
                return Some(session);
            }
            Err(last) => last,
        };
        self.stream.end(last);
        None
    }

    async fn greet(&self, hello: &v1::Hello) -> Result<(SessionId, v1::Welcome), To> {
        if !(hello.protocol_min..=hello.protocol_max.max(PROTOCOL)).contains(&PROTOCOL) {
            let message = format!(
                "this node speaks protocol {PROTOCOL} (Holdfast {}), the worker {} to {}; use an SDK of the same release",
                env!("CARGO_PKG_VERSION"),
                hello.protocol_min,
                hello.protocol_max
            );
            return Err(To::Refused(v1::Refused {
                code: "HF5003".to_owned(),
                message,
            }));
        }
        let attach = wire::attach(hello).map_err(|it| refused(&it))?;
        let asked = attach.session;
        if self.partition.replica.is_cut_off() {
            return Err(self.partition.moved_message());
        }
        match self
            .partition
            .replica
            .propose(Proposal::from(Ask::Attach(attach)))
            .await
        {
            Ok((Reply::Attached { session, warnings }, at)) => {
                Ok((session, self.welcome(session, warnings, at)))
            }
            Ok((Reply::Rejected(rejected @ Rejected::SessionEnded(_)), _)) => {
                let session = asked.unwrap_or_default().0;
                Err(To::SessionEnded(v1::SessionEnded {
                    session,
                    why: rejected.to_string(),
                }))
            }
            Ok((Reply::Rejected(rejected), _)) => Err(To::Refused(v1::Refused {
                code: wire::code(&rejected).to_owned(),
                message: rejected.to_string(),
            })),
            Ok(_) => Err(To::Refused(v1::Refused {
                code: "HF9001".to_owned(),
                message: "an attach got an answer of another kind; please report this".to_owned(),
            })),
            // Wherever the leader is, the worker attaches there, under the same session.
            Err(_) => Err(self.partition.moved_message()),
        }
    }

    fn welcome(&self, session: SessionId, warnings: Vec<String>, at: Position) -> v1::Welcome {
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        v1::Welcome {
            session: session.0,
            protocol: PROTOCOL,
            beat_ms: ms(self.api.lease.beat),
            term_ms: ms(self.api.lease.term),
            stop_margin_ms: ms(self.api.stop_margin),
            position: Some(position(at)),
            warnings,
        }
    }

    /// Reads until the worker is gone, says goodbye, or breaks the protocol.
    async fn serve(&self, session: SessionId, mut inbound: Streaming<v1::FromWorker>) {
        loop {
            let message = tokio::select! {
                message = inbound.message() => message,
                () = self.stream.broken() => return,
            };
            let Ok(Some(message)) = message else { return };
            let Some(message) = message.message else {
                continue;
            }; // of a newer protocol
            match self.take(session, message).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(bad) => return self.stream.end(refused(&bad)),
            }
        }
    }

    /// Takes one message; says whether the stream goes on.
    async fn take(&self, session: SessionId, message: From) -> Result<bool, BadRequest> {
        match message {
            From::Advance(it) => self.advance(it).await,
            From::Beat(it) => self.tell(FromStream::Beat(session, it.number)).await,
            From::Credit(it) => {
                let (drives, steps) = (it.drives, it.steps);
                self.tell(FromStream::Credit {
                    session,
                    drives,
                    steps,
                })
                .await;
            }
            From::Report(it) => self.report(it).await?,
            From::Progress(it) => self.progress(it).await?,
            From::Return(it) => {
                let ask = Ask::Return(wire::returned(it)?);
                self.propose(ask, |_| {}).await;
            }
            From::NeedJournal(it) => {
                let (run, fence) = (wire::run_id(&it.run)?, Fence::from_wire(it.fence));
                self.tell(FromStream::NeedJournal(session, run, fence))
                    .await;
            }
            From::Goodbye(_) => {
                let stream = self.stream.clone();
                self.propose(Ask::Detach(session), move |_| stream.send(Out::End(None)))
                    .await;
            }
            From::Hello(_) => {
                let why = "it may come once only on a stream".to_owned();
                return Err(BadRequest::Invalid {
                    field: "hello",
                    why,
                });
            }
        }
        Ok(true)
    }

    async fn tell(&self, message: FromStream) {
        drop(self.partition.leader.send(message).await); // the node stops
    }

    async fn permit(&self) -> OwnedSemaphorePermit {
        let permit = Arc::clone(&self.in_flight).acquire_owned().await;
        permit.expect("the semaphore is never closed")
    }

    /// Proposes without waiting for the answer; `done` is called where it is made.
    async fn propose(
        &self,
        ask: Ask,
        done: impl FnOnce(Result<(Reply, Position), ProposeError>) + Send + 'static,
    ) {
        if self.api.disk.verify_proposals().is_err() {
            // Never appended; the worker holds on to it and sends it again.
            let group = GroupId(self.partition.group);
            return done(Err(ProposeError::Overloaded {
                group,
                queued_bytes: 0,
                retry_after: DISK_RETRY,
            }));
        }
        let permit = self.permit().await;
        self.partition
            .replica
            .propose_with(Proposal::from(ask), move |result| {
                done(result);
                drop(permit);
            });
    }

    /// The hot path: one message, one command, one answer.
    async fn advance(&self, it: v1::Advance) {
        let told = (it.run.clone(), it.fence, it.number);
        let advance = match wire::advance(it) {
            Ok(advance) => advance,
            Err(bad) => return self.stream.send(Out::Message(refused_advance(told, &bad))),
        };
        let (run, fence, number) = (advance.run.clone(), advance.fence, advance.number.0);
        let stream = self.stream.clone();
        let partition = Arc::clone(&self.partition);
        self.propose(Ask::Advance(advance), move |result| match result {
            // Never appended here: the new leader gets the same Advance.
            Err(ProposeError::NotLeader { .. } | ProposeError::Stopped) => {
                stream.end(partition.moved_message());
            }
            result => stream.send(Out::Advanced(AdvancedOut {
                run,
                fence,
                number,
                result,
            })),
        })
        .await;
    }

    async fn report(&self, it: v1::Report) -> Result<(), BadRequest> {
        let (run, entry, fence) = (it.run.clone(), it.entry, it.fence);
        let report = wire::report(it)?;
        let stream = self.stream.clone();
        let partition = Arc::clone(&self.partition);
        self.propose(Ask::Report(report), move |result| {
            let (outcome, at) = match result {
                Ok((Reply::Reported(outcome), at)) => (wire::reported_to(outcome), Some(at)),
                Ok((Reply::Rejected(_), at)) => (v1::ReportOutcome::Stale, Some(at)),
                Ok((_, at)) => (v1::ReportOutcome::Accepted, Some(at)),
                Err(ProposeError::NotLeader { .. } | ProposeError::Stopped) => {
                    return stream.end(partition.moved_message());
                }
                Err(_) => (v1::ReportOutcome::Unknown, None),
            };
            let reported = v1::Reported {
                run,
                entry,
                fence,
                outcome: outcome.into(),
                position: at.map(position),
            };
            stream.send(Out::Message(To::Reported(reported)));
        })
        .await;
        Ok(())
    }

    /// Progress is recorded; a heartbeat without any only says that the attempt lives.
    async fn progress(&self, it: v1::Progress) -> Result<(), BadRequest> {
        let progress = wire::progress(it)?;
        if progress.progress.is_empty() {
            let (run, intent, fence) = (progress.run, progress.intent, progress.fence);
            for work in [Work::Step(run.clone(), intent), Work::Undo(run, intent)] {
                self.tell(FromStream::Alive(work, fence)).await;
            }
        } else {
            // Lost progress is only lost comfort; the next heartbeat brings more.
            self.propose(Ask::Progress(progress), |_| {}).await;
        }
        Ok(())
    }
}

fn refused(bad: &BadRequest) -> To {
    let code = status::bad_request_code(bad).to_owned();
    To::Refused(v1::Refused {
        code,
        message: bad.to_string(),
    })
}

fn refused_advance((run, fence, number): (String, u64, u32), bad: &BadRequest) -> To {
    To::Advanced(v1::Advanced {
        run,
        fence,
        number,
        outcome: v1::AdvanceOutcome::Refused.into(),
        detail: bad.to_string(),
        code: status::bad_request_code(bad).to_owned(),
        ..v1::Advanced::default()
    })
}

/// The writing side: encodes what is queued, on the connection's own task.
fn outbound(
    partition: Arc<Partition>,
    queue: mpsc::Receiver<Out>,
) -> BoxStream<'static, Result<v1::ToWorker, Status>> {
    let outcomes = (0..).map_while(|number| v1::AdvanceOutcome::try_from(number).ok());
    let counter = |outcome: v1::AdvanceOutcome| metrics::counter!("holdfast_advances_total", "outcome" => outcome.as_str_name());
    let encoder = Encoder {
        partition,
        generations: HashMap::new(),
        answered: outcomes.map(counter).collect(),
    };
    let state = (encoder, queue, false);
    Box::pin(futures::stream::unfold(
        state,
        |(mut encoder, mut queue, over)| async move {
            if over {
                return None;
            }
            loop {
                let (message, over) = match queue.recv().await? {
                    Out::End(None) => return None,
                    Out::End(Some(last)) => (last, true),
                    out => match encoder.encode(out) {
                        Some(message) => (message, false),
                        None => continue,
                    },
                };
                let message = v1::ToWorker {
                    message: Some(message),
                };
                return Some((Ok(message), (encoder, queue, over)));
            }
        },
    ))
}

struct Encoder {
    partition: Arc<Partition>,
    /// Of the runs that are driven over this stream: part of their idempotency keys.
    generations: HashMap<RunId, Generation>,
    /// Advances, by their outcome's number.
    answered: Vec<metrics::Counter>,
}

impl Encoder {
    fn encode(&mut self, out: Out) -> Option<To> {
        match out {
            Out::Message(message) => Some(message),
            Out::Drive(generation, drive) => {
                self.generations
                    .insert(RunId::from_stored(&drive.run), generation);
                Some(To::Drive(*drive))
            }
            Out::News(generation, news) => {
                self.generations
                    .insert(RunId::from_stored(&news.run), generation);
                let is_empty = news.deliveries.is_empty() && news.grants.is_empty();
                (!is_empty).then_some(To::News(news))
            }
            Out::Advanced(it) => Some(To::Advanced(self.advanced(it))),
            Out::End(last) => last,
        }
    }

    fn advanced(&mut self, it: AdvancedOut) -> v1::Advanced {
        let mut out = v1::Advanced {
            run: it.run.to_string(),
            fence: it.fence.number(),
            number: it.number,
            ..v1::Advanced::default()
        };
        let outcome = match it.result {
            Ok((reply, at)) => {
                out.position = Some(position(at));
                self.answered(&it.run, reply, &mut out)
            }
            Err(error @ ProposeError::TooLarge { .. }) => {
                (out.detail, out.code) = (error.to_string(), "HF3001".to_owned());
                v1::AdvanceOutcome::Refused
            }
            Err(error) => {
                out.detail = error.to_string();
                v1::AdvanceOutcome::Unknown
            }
        };
        out.outcome = outcome.into();
        if let Some(counter) = self.answered.get(outcome as usize) {
            counter.increment(1);
        }
        let goes_on = matches!(
            outcome,
            v1::AdvanceOutcome::GoesOn
                | v1::AdvanceOutcome::Deliveries
                | v1::AdvanceOutcome::Interrupted
                | v1::AdvanceOutcome::Refused
                | v1::AdvanceOutcome::Unknown
        );
        if !goes_on {
            self.generations.remove(&it.run);
        }
        out
    }

    fn answered(
        &mut self,
        run: &RunId,
        reply: Reply,
        out: &mut v1::Advanced,
    ) -> v1::AdvanceOutcome {
        match reply {
            Reply::Advanced(Advanced {
                outcome,
                grants,
                deliveries,
                ..
            }) => {
                if !grants.is_empty() {
                    let generation = self.generation(run);
                    let namespace = &self.partition.namespace;
                    let grants = grants.iter();
                    out.grants = grants
                        .map(|it| wire::grant_to(namespace, run, generation, it))
                        .collect();
                }
                let rows = deliveries.iter();
                let group = self.partition.group;
                out.deliveries = rows
                    .map(|row| wire::journal_row_to(group, row, true))
                    .collect();
                wire::advance_outcome_to(&outcome)
            }
            Reply::Rejected(Rejected::StaleFence(_) | Rejected::NoSuchRun(_)) => {
                metrics::counter!("holdfast_stale_fence_total").increment(1);
                v1::AdvanceOutcome::StaleFence
            }
            Reply::Rejected(rejected) => {
                (out.detail, out.code) = (rejected.to_string(), wire::code(&rejected).to_owned());
                v1::AdvanceOutcome::Refused
            }
            // Quarantined: the drive is over for this worker.
            _ => v1::AdvanceOutcome::StaleFence,
        }
    }

    /// Known since its Drive; after a new stream was opened for a run in hand it is read once.
    fn generation(&mut self, run: &RunId) -> Generation {
        if let Some(generation) = self.generations.get(run) {
            return *generation;
        }
        let found = self
            .partition
            .replica
            .look(|rows| SnapshotRows(rows).run(run));
        let generation = found.ok().flatten().map(|run| run.generation);
        // A run that is over by now has no grant that lives.
        let generation = generation.unwrap_or(Generation(1));
        self.generations.insert(run.clone(), generation);
        generation
    }
}
