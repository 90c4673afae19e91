//! The work stream of one partition: beats, grants in, Advances out, reconnecting by itself.
//!
//! Runs on a thread of the SDK, so that a blocking step costs neither beats nor stream. Invariant: the term counts from the
//! *sending* of the last echoed beat; what was not answered is sent again unchanged; under an ended session all of its
//! fences are dropped first. Not here: stopping steps before their leases end (`term`), which needs no stream.

use std::{
    collections::{HashMap, VecDeque},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use futures::future::{Fuse, FusedFuture, FutureExt};
use holdfast_proto::v1::{self, from_worker::Message as From, to_worker::Message as To};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::{
    Registry,
    execute::{Executor, Origin},
    term::Terms,
    threads::{Down, Drivers},
};
use crate::call::Caller;

/// Drives at once; suspended runs do not count.
const DRIVES_MAX: u64 = 2_048;
/// Messages between this task and the connection.
const OUT_MAX: usize = 4_096;
/// A node that does not answer a Hello in this time is left for another. Each time it is given twice as long, up to the second of
/// these: one that a herd of workers turns to at once would else be left by all of them just before it comes to them, again and again.
const WELCOME_WITHIN: Duration = Duration::from_secs(1);
const WELCOME_WITHIN_MAX: Duration = Duration::from_secs(8);
const RETRY_FIRST: Duration = Duration::from_millis(10);
const RETRY_LAST: Duration = Duration::from_millis(200);
/// How much is taken from the queue before the connection is looked at again.
const BATCH: usize = 256;
/// What a node cannot say yet it is asked again after this long.
const UNKNOWN_FOR: Duration = Duration::from_millis(100);
/// A worker asks who the nodes are every so many beats.
const LEARN_EVERY_BEATS: u64 = 10;
const PROTOCOL: u32 = 1;

/// What goes to a partition's stream.
pub(crate) enum Up {
    /// To be sent while the stream is open; what must not be lost is kept by its owner.
    Message(u32, From),
    /// A step that came by Execute is over: kept here until it is answered.
    Report(u32, v1::Report),
    /// A drive is over: there is room for another.
    DriveOver(u32),
}

/// The way to the streams, by partition.
#[derive(Clone)]
pub(crate) struct ToStream(Arc<Vec<mpsc::UnboundedSender<Up>>>);

impl ToStream {
    pub(crate) fn new(partitions: u32) -> (Self, Vec<mpsc::UnboundedReceiver<Up>>) {
        let (senders, receivers) = (0..partitions).map(|_| mpsc::unbounded_channel()).unzip();
        (Self(Arc::new(senders)), receivers)
    }

    /// Never blocks: what queues up is bounded by the credit that the worker gave.
    pub(crate) fn send(&self, up: Up) {
        let (Up::Message(partition, _) | Up::Report(partition, _) | Up::DriveOver(partition)) = &up;
        if let Some(sender) = self.0.get(*partition as usize - 1) {
            drop(sender.send(up)); // the stream has ended for good
        }
    }
}

/// The stream of one partition.
pub(crate) struct PartitionStream {
    pub(crate) partition: u32,
    pub(crate) caller: Caller,
    pub(crate) registry: Arc<Registry>,
    pub(crate) drivers: Drivers,
    pub(crate) executor: Executor,
    pub(crate) inbox: mpsc::UnboundedReceiver<Up>,
    pub(crate) terms: Terms,
    pub(crate) leaving: CancellationToken,
    pub(crate) left: CancellationToken,
    pub(crate) session: u64,
    pub(crate) reports: HashMap<u64, v1::Report>,
}

/// An open stream.
struct Open {
    out: mpsc::Sender<v1::FromWorker>,
    replies: Streaming<v1::ToWorker>,
    term: Duration,
    margin: Duration,
    beats: tokio::time::Interval,
    sent: VecDeque<(u64, Instant)>,
    beat: u64,
    echoed: Instant,
    credit: v1::Credit,
    credit_due: bool,
    /// Answers that say nothing, and when what they are about is sent again.
    unknown: VecDeque<(Instant, To)>,
}

enum Next {
    /// Connect again.
    Again,
    /// The worker has left.
    Done,
}

impl PartitionStream {
    /// Until the worker has left.
    pub(crate) async fn run(mut self) {
        let mut wait = RETRY_FIRST;
        let mut patience = WELCOME_WITHIN;
        let mut address = None;
        while !self.left.is_cancelled() {
            let leader = match address.take() {
                Some(address) => address,
                None => tokio::select! {
                    leader = self.caller.leader_address(self.partition) => leader,
                    () = self.left.cancelled() => return, // nobody may ever lead
                },
            };
            match self.open(&leader, patience).await {
                Ok(Opened::Stream(open)) => {
                    (wait, patience) = (RETRY_FIRST, WELCOME_WITHIN);
                    match self.serve(*open, &leader, &mut address).await {
                        Next::Done => return,
                        Next::Again => {}
                    }
                }
                Ok(Opened::Moved(to)) => address = to,
                Ok(Opened::Late) => patience = (patience * 2).min(WELCOME_WITHIN_MAX),
                Err(why) => {
                    tracing::debug!(partition = self.partition, leader, why, "no work stream");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.left.cancelled() => return,
            }
            wait = (wait * 2).min(RETRY_LAST);
        }
    }

    async fn open(&mut self, address: &str, patience: Duration) -> Result<Opened, String> {
        let channel = self
            .caller
            .channel(address)
            .await
            .map_err(|cause| cause.to_string())?;
        let mut grpc = v1::work_client::WorkClient::new(channel).max_decoding_message_size(8 << 20);
        let (out, outgoing) = mpsc::channel(OUT_MAX);
        let sent_at = Instant::now();
        let hello = self.hello().await;
        let (runs, steps) = (hello.runs.len() as u64, hello.held_steps.len() as u64);
        let first = v1::FromWorker {
            message: Some(From::Hello(hello)),
        };
        out.try_send(first)
            .map_err(|_| "the stream is full at its start".to_owned())?;
        let call = grpc.attach(ReceiverStream::new(outgoing));
        let within = tokio::time::timeout(patience, async {
            let mut replies = call
                .await
                .map_err(|status| status.to_string())?
                .into_inner();
            let first = replies
                .message()
                .await
                .map_err(|status| status.to_string())?;
            Ok::<_, String>((first, replies))
        });
        let Ok(answered) = within.await else {
            return Ok(Opened::Late);
        };
        let (first, replies) = answered?;
        match first.and_then(|it| it.message) {
            Some(To::Welcome(welcome)) => {
                let open = self.welcomed(welcome, (out, replies), sent_at, (runs, steps));
                Ok(Opened::Stream(Box::new(open)))
            }
            Some(To::Moved(it)) => Ok(Opened::Moved(Some(it.address).filter(|to| !to.is_empty()))),
            Some(To::SessionEnded(it)) => {
                self.end_session(&it.why);
                Err("the session has ended; attaching anew".to_owned())
            }
            Some(To::Refused(it)) => {
                tracing::error!(code = it.code, "the worker was refused: {}", it.message);
                tokio::time::sleep(Duration::from_secs(1)).await;
                Err(format!("[{}] {}", it.code, it.message))
            }
            other => Err(format!("{other:?} instead of Welcome")),
        }
    }

    async fn hello(&self) -> v1::Hello {
        let (answer, held) = oneshot::channel();
        self.drivers.send(Down::Held(self.partition, answer));
        v1::Hello {
            partition: self.partition,
            session: self.session,
            protocol_min: PROTOCOL,
            protocol_max: PROTOCOL,
            runs: held.await.unwrap_or_default(),
            held_steps: self.executor.held(self.partition),
            ..self.registry.hello()
        }
    }

    fn welcomed(
        &mut self,
        welcome: v1::Welcome,
        (out, replies): (mpsc::Sender<v1::FromWorker>, Streaming<v1::ToWorker>),
        sent_at: Instant,
        (runs, steps): (u64, u64),
    ) -> Open {
        self.session = welcome.session;
        for warning in &welcome.warnings {
            tracing::warn!(partition = self.partition, "{warning}");
        }
        let credit = v1::Credit {
            drives: DRIVES_MAX.saturating_sub(runs),
            steps: u64::from(self.registry.slots).saturating_sub(steps),
        };
        let mut beats = tokio::time::interval(Duration::from_millis(welcome.beat_ms.max(10)));
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.drivers.send(Down::Resend(self.partition));
        let open = Open {
            out,
            replies,
            term: Duration::from_millis(welcome.term_ms),
            margin: Duration::from_millis(welcome.stop_margin_ms),
            beats,
            sent: VecDeque::new(),
            beat: 0,
            echoed: sent_at,
            credit,
            credit_due: !self.leaving.is_cancelled(),
            unknown: VecDeque::new(),
        };
        self.prolong(&open);
        open
    }

    async fn serve(&mut self, mut open: Open, here: &str, moved: &mut Option<String>) -> Next {
        let unanswered: Vec<v1::Report> = self.reports.values().cloned().collect();
        for report in unanswered {
            if open.send(From::Report(report)).await.is_err() {
                return Next::Again;
            }
        }
        let mut newest = pin!(Fuse::terminated());
        loop {
            if open.credit_due && !self.leaving.is_cancelled() {
                open.credit_due = false;
                if open.send(From::Credit(open.credit)).await.is_err() {
                    return Next::Again;
                }
            }
            let again = open.unknown.front().map(|(at, _)| *at);
            tokio::select! {
                reply = open.replies.next() => match reply {
                    Some(Ok(v1::ToWorker { message: Some(message) })) => {
                        if let Err(next) = self.take(&mut open, message, moved) {
                            return next;
                        }
                    }
                    Some(Ok(v1::ToWorker { message: None })) => {}
                    Some(Err(_)) | None => return Next::Again,
                },
                up = self.inbox.recv() => {
                    let Some(up) = up else { return Next::Done };
                    if self.forward(&mut open, up).await.is_err() {
                        return Next::Again;
                    }
                }
                _ = open.beats.tick() => {
                    // A leader that lost its quorum echoes nothing, and may not know that others elected a new one. And whoever
                    // is asked tells who the nodes are by now: a stream may outlive all those that its worker knew.
                    let learns = open.beat.is_multiple_of(LEARN_EVERY_BEATS);
                    if (open.is_unheard() || learns) && newest.is_terminated() {
                        newest.set(newest_leader(self.caller.clone(), self.partition).fuse());
                    }
                    if open.send_beat().await.is_err() {
                        return Next::Again;
                    }
                }
                leader = &mut newest => {
                    if let Some(leader) = leader.filter(|it| it != here && open.is_unheard()) {
                        *moved = Some(leader);
                        return Next::Again;
                    }
                }
                () = sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {
                    if let Some((_, answer)) = open.unknown.pop_front() {
                        self.ask_again(&open, answer);
                    }
                }
                () = self.left.cancelled() => {
                    self.say_goodbye(&mut open).await;
                    return Next::Done;
                }
            }
        }
    }

    /// Sends what is queued, a batch at a time.
    async fn forward(&mut self, open: &mut Open, first: Up) -> Result<(), ()> {
        self.forward_one(open, first).await?;
        for _ in 0..BATCH {
            let Ok(next) = self.inbox.try_recv() else {
                break;
            };
            self.forward_one(open, next).await?;
        }
        Ok(())
    }

    async fn forward_one(&mut self, open: &mut Open, up: Up) -> Result<(), ()> {
        match up {
            Up::Message(_, message) => open.send(message).await,
            Up::Report(_, report) => {
                self.reports.insert(report.fence, report.clone());
                open.send(From::Report(report)).await
            }
            Up::DriveOver(_) => {
                open.credit.drives += 1;
                open.credit_due = true;
                Ok(())
            }
        }
    }

    fn take(
        &mut self,
        open: &mut Open,
        message: To,
        moved: &mut Option<String>,
    ) -> Result<(), Next> {
        let partition = self.partition;
        match message {
            To::Drive(it) if self.leaving.is_cancelled() => {
                let back = v1::HeldRun {
                    run: it.run,
                    fence: it.fence,
                    delivery: 0,
                };
                self.give_back(
                    open,
                    v1::Return {
                        runs: vec![back],
                        steps: Vec::new(),
                    },
                );
            }
            To::Drive(it) => self.drivers.send(Down::Drive(partition, it)),
            To::News(it) => self.drivers.send(Down::News(partition, it)),
            // At once it would be unknown again.
            To::Advanced(ref it) if it.outcome() == v1::AdvanceOutcome::Unknown => {
                open.unknown
                    .push_back((Instant::now() + UNKNOWN_FOR, message));
            }
            To::Reported(ref it) if it.outcome() == v1::ReportOutcome::Unknown => {
                open.unknown
                    .push_back((Instant::now() + UNKNOWN_FOR, message));
            }
            To::Advanced(it) => self.drivers.send(Down::Advanced(partition, it)),
            To::Execute(it) => self.execute(open, it),
            To::Reported(it) => {
                if self.reports.remove(&it.fence).is_some() {
                    self.executor.reported(partition, it.fence);
                    open.credit.steps += 1;
                    open.credit_due = true;
                }
            }
            To::Beat(it) => {
                open.echo(it.number);
                self.prolong(open);
            }
            To::Stop(it) => {
                self.executor.stop(partition, it.fence);
                self.drivers.send(Down::Stop(partition, it));
            }
            To::Moved(it) => {
                *moved = Some(it.address).filter(|to| !to.is_empty());
                return Err(Next::Again);
            }
            To::SessionEnded(it) => {
                self.end_session(&it.why);
                return Err(Next::Again);
            }
            To::Refused(it) => tracing::error!(code = it.code, "{}", it.message),
            To::Welcome(_) | To::Drain(_) => {}
        }
        Ok(())
    }

    /// The node could not say whether it was done: the same is sent again.
    fn ask_again(&self, open: &Open, answer: To) {
        match answer {
            To::Advanced(it) => self.drivers.send(Down::Advanced(self.partition, it)),
            To::Reported(it) => {
                if let Some(report) = self.reports.get(&it.fence) {
                    drop(open.out.try_send(from(From::Report(report.clone())))); // else with the next stream
                }
            }
            _ => {}
        }
    }

    /// Begins a step, a probe or an undo; what this worker does not have goes back.
    fn execute(&mut self, open: &mut Open, it: v1::Execute) {
        let input = super::input_of(&it);
        let judge = super::judge_of(it.purpose());
        let body = if self.leaving.is_cancelled() {
            None
        } else {
            self.registry.body(&it.step, input)
        };
        let Some(body) = body else {
            let step = v1::HeldStep {
                run: it.run,
                entry: it.entry,
                fence: it.fence,
            };
            self.give_back(
                open,
                v1::Return {
                    runs: Vec::new(),
                    steps: vec![step],
                },
            );
            open.credit.steps += 1;
            open.credit_due = true;
            return;
        };
        let grant = v1::Grant {
            entry: it.entry,
            fence: it.fence,
            attempt: it.attempt,
            idempotency_key: it.idempotency_key,
            timeout_ms: it.timeout_ms,
            progress: it.progress,
        };
        self.executor
            .begin_judged(Origin::Report(self.partition, it.run), grant, body, judge);
    }

    fn give_back(&self, open: &Open, it: v1::Return) {
        drop(open.out.try_send(from(From::Return(it)))); // lost with the stream: the lease expires
    }

    fn prolong(&self, open: &Open) {
        self.terms
            .prolong(self.partition, open.echoed, open.term, open.margin);
    }

    /// All fences of the session are dropped before anything is said under a new one.
    fn end_session(&mut self, why: &str) {
        tracing::warn!(
            partition = self.partition,
            why,
            "the session has ended; its work was given to others"
        );
        self.session = 0;
        self.reports.clear();
        self.executor.end_session(self.partition);
        self.drivers.send(Down::SessionEnded(self.partition));
    }

    async fn say_goodbye(&mut self, open: &mut Open) {
        while let Ok(up) = self.inbox.try_recv() {
            if self.forward_one(open, up).await.is_err() {
                return;
            }
        }
        if !self.executor.still_running(self.partition).is_empty() {
            return; // what cannot be stopped must not be begun elsewhere before its lease ends
        }
        let (answer, held) = oneshot::channel();
        self.drivers.send(Down::Held(self.partition, answer));
        let back = v1::Return {
            runs: held.await.unwrap_or_default(),
            steps: Vec::new(), // each was reported
        };
        let sent = open.send(From::Return(back)).await.is_ok();
        if !sent || open.send(From::Goodbye(v1::Goodbye {})).await.is_err() {
            return; // the leases expire by themselves
        }
        // The node closes the stream once it has taken the leave.
        let closed = async { while let Some(Ok(_)) = open.replies.next().await {} };
        drop(tokio::time::timeout(Duration::from_secs(1), closed).await);
    }
}

enum Opened {
    Stream(Box<Open>),
    Moved(Option<String>),
    /// It did not answer in time.
    Late,
}

impl Open {
    async fn send(&mut self, message: From) -> Result<(), ()> {
        self.out.send(from(message)).await.map_err(|_| ())
    }

    async fn send_beat(&mut self) -> Result<(), ()> {
        self.beat += 1;
        self.sent.push_back((self.beat, Instant::now()));
        if self.sent.len() > 64 {
            self.sent.pop_front();
        }
        self.send(From::Beat(v1::Beat { number: self.beat })).await
    }

    /// Whether a beat was sent that has not been echoed.
    fn is_unheard(&self) -> bool {
        !self.sent.is_empty()
    }

    /// The term counts from when the echoed beat was sent.
    fn echo(&mut self, number: u64) {
        while let Some((beat, at)) = self.sent.pop_front() {
            if beat == number {
                self.echoed = at;
                return;
            }
        }
    }
}

async fn newest_leader(caller: Caller, partition: u32) -> Option<String> {
    caller.newest_leader(partition).await
}

fn from(message: From) -> v1::FromWorker {
    v1::FromWorker {
        message: Some(message),
    }
}
