//! `Leader`: the shell around `scheduler::lead`, one task per group: feeds inputs, performs outputs.
//!
//! Invariant: raft's word that this node leads only makes it propose `BecomeLeader`; it acts once it has applied its own,
//! and stops when it applies another's. What it reads here is a hint; every duty is judged again in `apply`.
//! Not here: what to do next (`scheduler::lead`), what goes out (`offers`), sockets (`streams`).

mod audit;

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use holdfast_proto::v1::{self, to_worker::Message};
use holdfast_raft::{
    Clock, Freshness, Hint, Position, ProposeError, ReadError, Verdict, failpoints,
};
use holdfast_scheduler::apply::LEVEL_MAX;
use holdfast_scheduler::{
    bounds,
    effect::{Effect, Ended},
    entry::{Ask, BecomeLeader, Collect, Duty, Start, Work},
    ids::{Epoch, FeatureLevel, Fence, Name, NodeId, RunId, Seq, SessionId},
    lead::{Came, Input, Lead, Output, Terms},
    orders::Orders,
    reply::{Reply, Status},
    rows::{Fault, ReadRows, TypedRows},
    time::Timestamp,
    views,
};

use crate::{
    clock::{GroupClock, median_wall_ms},
    machine::{Dirty, Engine, Proposal, SnapshotRows},
    offers::Offers,
    partitions::Partition,
    settings::Retention,
    streams::{Out, entry_of},
    telemetry::name_label,
};

/// How often the leader looks at the time; nothing is later than this for want of a look.
const TICK: Duration = Duration::from_millis(10);
/// A follower's picture is behind its rows by this at most: it is woken less often than entries are applied.
const FOLLOWER_RESTS: Duration = Duration::from_millis(5);
/// How often figures are published and the clock is compared with the others'.
const SLOW_TICK: Duration = Duration::from_secs(1);
/// A `BecomeLeader` that was refused while no leader was named is proposed again after this.
const EPOCH_RETRY: Duration = Duration::from_millis(5);
/// How long a new leader waits for the clocks of a quorum; they are told on connections that stand already.
const CLOCKS_WAIT_MAX: Duration = Duration::from_secs(3);
/// Entries whose effects are taken in one go.
const BATCHES_AT_ONCE: usize = 256;
/// Offers made from one look at the rows; apply waits while it lasts.
const OFFERS_PER_LOOK: usize = 32;
/// Streams' messages to the leader: a beat a second from each worker, and credit.
pub const INBOX_MAX: usize = 4_096;

/// What work streams and starts tell their leader.
#[derive(Debug)]
pub enum FromStream {
    /// The worker is welcome, and its stream stands in `Streams`.
    Opened(SessionId),
    /// It is gone, and stood there until now.
    Closed(SessionId),
    /// A beat.
    Beat(SessionId, u64),
    /// Totals of what the worker will take.
    Credit {
        /// Whose.
        session: SessionId,
        /// Drives.
        drives: u64,
        /// Steps.
        steps: u64,
    },
    /// A heartbeat with no progress to record.
    Alive(Work, Fence),
    /// The worker does not keep the function: all of the journal, please.
    NeedJournal(SessionId, RunId, Fence),
    /// To be proposed, and the run granted in the same entry if somebody is there to drive it.
    Start(Start, oneshot::Sender<Proposed>),
}

/// The answer to a proposal.
pub type Proposed = Result<(Reply, Position), ProposeError>;

/// The end of a proposal of this task.
enum Answer {
    Duty(u64, Proposed),
    Epoch(u64, Proposed),
}

/// What the whole node knows, and its leaders need.
pub struct Situation {
    /// The node.
    pub node: NodeId,
    /// Its incarnation.
    pub incarnation: Name,
    /// Minted when this process began.
    pub boot: Name,
    /// Terms of leases.
    pub terms: Terms,
    /// How long is kept what is left of runs.
    pub retention: Retention,
    /// Its clocks.
    pub clock: Arc<dyn Clock>,
}

/// One group's leader shell. Runs on every node; acts on one.
pub struct Leader {
    partition: Arc<Partition>,
    situation: Arc<Situation>,
    lead: Lead,
    inbox: mpsc::Receiver<FromStream>,
    hints: watch::Receiver<Hint>,
    stop: watch::Receiver<bool>,
    // Not more answers than duties under way, and those are bounded by `lead`.
    answers: (
        mpsc::UnboundedSender<Answer>,
        mpsc::UnboundedReceiver<Answer>,
    ),
    /// Effects up to this index are in the picture already.
    seen: u64,
    hint: Hint,
    /// Of the term whose `BecomeLeader` is under way or applied.
    claimed: Option<u64>,
    claimed_at: Instant,
    retry_epoch: Option<Instant>,
    /// Replicas differ and nobody knows who is right: nothing is decided here until somebody does.
    disputed: bool,
    audit: audit::Audit,
}

impl Leader {
    /// The shell of one group.
    pub fn new(
        partition: Arc<Partition>,
        situation: Arc<Situation>,
        inbox: mpsc::Receiver<FromStream>,
        stop: watch::Receiver<bool>,
    ) -> Self {
        let hints = partition.replica.watch_leader();
        let lead = Lead::new(situation.terms);
        Self {
            partition,
            situation,
            lead,
            inbox,
            hints,
            stop,
            answers: mpsc::unbounded_channel(),
            seen: 0,
            hint: Hint::default(),
            claimed: None,
            claimed_at: Instant::now(),
            retry_epoch: None,
            disputed: false,
            audit: audit::Audit::default(),
        }
    }

    /// Runs until the group or the node stops.
    pub async fn run(mut self) {
        let mut effects = self.partition.replica.effects();
        let mut stop = self.stop.clone();
        self.rebuild().await;
        self.hinted();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut slow = interval(SLOW_TICK);
        slow.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut rests_until = Instant::now();
        loop {
            let retry = self.retry_epoch;
            let rests = !self.hint.is_self && rests_until > Instant::now();
            tokio::select! {
                biased;
                () = async { drop(stop.wait_for(|stop| *stop).await) } => break,
                changed = self.hints.changed() => match changed {
                    Ok(()) => self.hinted(),
                    Err(_) => break,
                },
                () = sleep_until(rests_until), if rests => {}
                batch = effects.next(), if !rests => {
                    let Some(batch) = batch else { break };
                    let mut batches = VecDeque::from([batch]);
                    while batches.len() < BATCHES_AT_ONCE && let Some(batch) = effects.try_next() {
                        batches.push_back(batch);
                    }
                    self.applied(batches).await;
                    rests_until = Instant::now() + FOLLOWER_RESTS;
                }
                Some(answer) = self.answers.1.recv() => self.answered(answer).await,
                Some(message) = self.inbox.recv() => self.told(message).await,
                () = until(retry) => self.propose_epoch(),
                _ = tick.tick(), if self.lead.epoch().is_some() => {
                    self.look_around();
                    self.step(Input::Tick).await;
                }
                _ = slow.tick() => self.slow_tick().await,
            }
        }
        self.lose();
    }

    /// Workers of a leader without a quorum would wait for answers in vain: they are to find out who leads now. Should nobody, they
    /// come back.
    fn look_around(&self) {
        if self.partition.replica.is_cut_off() {
            self.partition.moved();
        }
    }

    /// One input, and whatever follows from it.
    async fn step(&mut self, input: Input) {
        let mono = self.situation.clock.mono_ms();
        let outputs = self.lead.step(input, mono, self.now());
        if !outputs.is_empty() {
            self.perform(outputs).await;
        }
    }

    fn now(&self) -> Timestamp {
        self.partition.clock.now().unwrap_or_default()
    }

    fn hinted(&mut self) {
        let hint = *self.hints.borrow_and_update();
        let before = std::mem::replace(&mut self.hint, hint);
        if !hint.is_self {
            self.claimed = None;
            self.retry_epoch = None;
            if before.is_self || self.lead.epoch().is_some() {
                self.lose();
            }
            self.partition.moved();
        } else if self.claimed != Some(hint.term) {
            self.claimed = Some(hint.term);
            self.claimed_at = Instant::now();
            self.propose_epoch();
        }
    }

    /// From here on nothing is proposed, and no beat is echoed.
    fn lose(&mut self) {
        self.partition.clock.follow();
        let mono = self.situation.clock.mono_ms();
        drop(self.lead.step(Input::Lost, mono, Timestamp::default()));
        self.partition.moved();
    }

    fn propose_epoch(&mut self) {
        self.retry_epoch = None;
        let Some(term) = self.claimed else { return };
        failpoints::reach("lead::before-claim");
        let situation = &self.situation;
        let waited = self.claimed_at.elapsed();
        let anchor = match self.median_wall() {
            Some(median) => Timestamp(median),
            None if waited < CLOCKS_WAIT_MAX => {
                self.retry_epoch = Some(Instant::now() + EPOCH_RETRY);
                return;
            }
            None => {
                tracing::warn!(
                    group = self.partition.group,
                    "leads by its own clock: too few nodes told theirs"
                );
                Timestamp(situation.clock.wall_ms())
            }
        };
        let it = BecomeLeader {
            node: situation.node,
            incarnation: situation.incarnation.clone(),
            boot: situation.boot.clone(),
            levels: (FeatureLevel(1), LEVEL_MAX),
            anchor,
        };
        let answers = self.answers.0.clone();
        self.partition
            .replica
            .propose_with(Proposal::BecomeLeader(it), move |result| {
                drop(answers.send(Answer::Epoch(term, result))); // the task may have ended
            });
    }

    /// The median of the nodes' wall clocks, once a quorum has told its own: one wrong clock must not move time.
    fn median_wall(&self) -> Option<u64> {
        let offsets = self.partition.replica.clock_offsets_ms();
        let voters = self.partition.replica.status().voters;
        let quorum = voters
            .iter()
            .map(|set| set.len() / 2 + 1)
            .max()
            .unwrap_or(1);
        (offsets.len() + 1 >= quorum)
            .then(|| median_wall_ms(self.situation.clock.wall_ms(), offsets))
    }

    async fn epoch(&mut self, epoch: u64, boot: &Name) {
        if *boot != self.situation.boot || !self.hint.is_self || self.disputed {
            return self.lose();
        }
        // The rows may be further than the epoch; their clock is at least its anchor, and no time came after it.
        let clock = self
            .look(|rows| Ok(rows.group()?.unwrap_or_default().clock))
            .await;
        let Some(now) = clock else { return };
        failpoints::reach("lead::after-claim");
        self.partition.clock.lead(epoch, now);
        tracing::info!(group = self.partition.group, epoch, "acts as leader");
        metrics::counter!("holdfast_raft_leader_changes_total", "group" => self.partition.group.to_string())
            .increment(1);
        self.step(Input::Won(Epoch(epoch))).await;
    }

    async fn applied(&mut self, mut batches: VecDeque<holdfast_raft::state::EffectBatch<Engine>>) {
        use holdfast_raft::state::EffectBatch;
        let mut gathered = Vec::new();
        while let Some(batch) = batches.pop_front() {
            match batch {
                EffectBatch::Effects(index, _) if index <= self.seen => {}
                EffectBatch::Effects(index, effects) => {
                    self.seen = index;
                    for effect in effects {
                        match effect {
                            Effect::Epoch { epoch, boot } => {
                                self.step(Input::Effects(std::mem::take(&mut gathered)))
                                    .await;
                                self.epoch(epoch, &boot).await;
                            }
                            Effect::RunChanged { run, status, ended } => {
                                self.changed(&run, status, ended.as_ref());
                            }
                            other => gathered.push(other),
                        }
                    }
                }
                EffectBatch::Dirty(_, dirty) => {
                    self.step(Input::Effects(std::mem::take(&mut gathered)))
                        .await;
                    self.reread(dirty).await;
                }
                EffectBatch::Everything(_) => {
                    gathered.clear();
                    self.rebuild().await;
                }
            }
        }
        if !gathered.is_empty() {
            self.step(Input::Effects(gathered)).await;
        }
    }

    fn changed(&self, run: &RunId, status: Status, ended: Option<&Ended>) {
        self.partition.watchers.changed(run);
        if status.is_final() {
            self.partition.ended.changed(run);
        }
        self.count(status, ended);
    }

    /// A life that ended counts where it was led.
    #[expect(clippy::cast_precision_loss, reason = "a histogram")]
    fn count(&self, status: Status, ended: Option<&Ended>) {
        let Some(ended) = ended.filter(|_| self.lead.epoch().is_some()) else {
            return;
        };
        let workflow = name_label(ended.workflow.as_str());
        let outcome = format!("{status:?}").to_lowercase();
        metrics::counter!("holdfast_runs_finished_total", "workflow" => workflow.clone(), "outcome" => outcome)
            .increment(1);
        metrics::histogram!("holdfast_run_duration_seconds", "workflow" => workflow)
            .record(ended.took.0 as f64 / 1000.0);
        metrics::histogram!("holdfast_journal_entries").record(f64::from(ended.rows));
    }

    /// Effects found no room. Where only runs are concerned they are read again, else everything is.
    async fn reread(&mut self, dirty: std::collections::BTreeSet<Dirty>) {
        let mut runs = Vec::new();
        for it in dirty {
            match it {
                Dirty::Run(run) => runs.push(run),
                Dirty::Epoch | Dirty::Session(_) | Dirty::Orders => return self.rebuild().await,
            }
        }
        for run in &runs {
            self.partition.watchers.changed(run);
            self.partition.ended.changed(run);
        }
        let found = self
            .look(move |rows| {
                runs.into_iter()
                    .map(|id| rows.run(&id).map(|run| (id, run)))
                    .collect()
            })
            .await;
        let found: Vec<_> = found.unwrap_or_default();
        for (id, run) in found {
            self.step(Input::Reread(id, run)).await;
        }
    }

    /// The picture from the rows alone.
    async fn rebuild(&mut self) {
        let read = self
            .partition
            .replica
            .read(Freshness::Stale, |rows| {
                let rows = SnapshotRows(rows);
                let orders = Orders::rebuild(&rows)?;
                Ok::<_, Fault>((
                    orders,
                    views::sessions(&rows)?,
                    rows.group()?.unwrap_or_default(),
                ))
            })
            .await;
        let (orders, sessions, group) = match read {
            Ok((Ok(picture), position)) => {
                self.seen = self.seen.max(position.index);
                picture
            }
            Ok((Err(fault), _)) => {
                return tracing::error!(%fault, "the rows of this replica cannot be read");
            }
            Err(error) => return self.unread(&error),
        };
        self.partition.watchers.all_changed();
        self.partition.ended.all_changed();
        self.step(Input::Rebuild {
            orders: Box::new(orders),
            sessions,
        })
        .await;
        let led = self.lead.epoch().map(|epoch| epoch.0);
        if let Some(boot) = group.boot.filter(|_| led != Some(group.epoch)) {
            let mine = boot == self.situation.boot;
            if mine && self.hint.is_self {
                self.epoch(group.epoch, &boot).await;
            } else if led.is_some() {
                self.lose();
            }
        }
    }

    fn unread(&self, error: &ReadError) {
        if !matches!(error, ReadError::Stopped) {
            tracing::warn!(group = self.partition.group, %error, "rows were not read");
        }
    }

    fn unreadable(&self, fault: &Fault) {
        tracing::error!(group = self.partition.group, %fault, "rows cannot be read");
    }

    /// Looks at the rows on the read pool; what cannot be read is said in the log.
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&SnapshotRows<'_, '_>) -> Result<T, Fault> + Send + 'static,
    ) -> Option<T> {
        let looked = self
            .partition
            .replica
            .read(Freshness::Stale, |rows| look(&SnapshotRows(rows)));
        match looked.await {
            Ok((Ok(found), _)) => Some(found),
            Ok((Err(fault), _)) => {
                self.unreadable(&fault);
                None
            }
            Err(error) => {
                self.unread(&error);
                None
            }
        }
    }

    async fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::Duty(id, result) => {
                let came = match result {
                    Ok((Reply::Did { more: true, .. }, _)) => Came::More,
                    Ok((Reply::Moot, _)) => Came::Moot,
                    Err(ProposeError::Unknown) => Came::Unknown,
                    Ok((Reply::Void, _)) | Err(_) => Came::Refused,
                    Ok(_) => Came::Done,
                };
                self.step(Input::Done { id, came }).await;
            }
            Answer::Epoch(term, result) if self.claimed == Some(term) => match result {
                // The effect says the rest.
                Ok(_) | Err(ProposeError::Stopped) => {}
                Err(error) => {
                    tracing::debug!(group = self.partition.group, term, %error, "BecomeLeader was not taken");
                    self.retry_epoch = Some(Instant::now() + EPOCH_RETRY);
                }
            },
            Answer::Epoch(..) => {} // of a term that is over
        }
    }

    async fn told(&mut self, message: FromStream) {
        let input = match message {
            FromStream::Opened(session) => Input::Opened(session),
            FromStream::Closed(session) => Input::Closed(session),
            FromStream::Beat(session, number) => {
                let age = self.partition.replica.quorum_ack_age();
                let ack_age_ms = age.map_or(u64::MAX, |age| {
                    u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
                });
                Input::Beat {
                    session,
                    number,
                    ack_age_ms,
                }
            }
            FromStream::Credit {
                session,
                drives,
                steps,
            } => Input::Credit {
                session,
                drives,
                steps,
            },
            FromStream::Alive(work, fence) => Input::Alive(work, fence),
            FromStream::Start(start, answer) => {
                let (run, workflow) = (start.run.clone(), start.workflow.clone());
                let proposal = Proposal::from(Ask::Start(start));
                let answer = |answered| drop(answer.send(answered)); // who asked may have gone
                self.partition.replica.propose_with(proposal, answer);
                Input::Starting { run, workflow }
            }
            FromStream::NeedJournal(session, run, fence) => {
                return self.offer(vec![Offer::Whole(session, run, fence)]).await;
            }
        };
        self.step(input).await;
    }

    #[expect(clippy::too_many_lines, reason = "one arm per output")]
    async fn perform(&mut self, outputs: Vec<Output>) {
        let mut offers = Vec::new();
        for output in outputs {
            match output {
                Output::Propose { id, duty } => self.propose(id, duty),
                Output::Echo { session, number } => {
                    let beat = Message::Beat(v1::Beat { number });
                    self.partition.streams.send(session, Out::Message(beat));
                }
                Output::Drive {
                    session,
                    run,
                    fence,
                    ..
                } => {
                    failpoints::reach("grant::before-send");
                    offers.push(Offer::Drive(session, run, fence));
                }
                Output::Execute {
                    session,
                    work,
                    grant,
                } => {
                    failpoints::reach("grant::before-send");
                    offers.push(Offer::Execute(session, work, grant.fence));
                }
                Output::News {
                    session,
                    run,
                    fence,
                    rows,
                    grants,
                } => {
                    offers.push(Offer::News {
                        session,
                        run,
                        fence,
                        rows,
                        grants,
                    });
                }
                Output::Reoffer { session, leases } => {
                    let again = leases.into_iter();
                    offers.extend(again.map(|(work, fence)| Offer::Again(session, work, fence)));
                }
                Output::Stop {
                    session,
                    work,
                    fence,
                    why,
                } => {
                    let stop = v1::Stop {
                        run: work.run().to_string(),
                        entry: entry_of(&work),
                        fence: fence.number(),
                        why: why.to_owned(),
                    };
                    // In turn with the offers before it, or it would overtake what it stops.
                    offers.push(Offer::Ready(session, Out::Message(Message::Stop(stop))));
                }
                Output::Ended(session) => {
                    let why = "no beat came for a whole term".to_owned();
                    let ended = v1::SessionEnded {
                        session: session.0,
                        why,
                    };
                    let last = Out::End(Some(Message::SessionEnded(ended)));
                    offers.push(Offer::Ready(session, last));
                }
            }
        }
        self.offer(offers).await;
    }

    fn propose(&self, id: u64, duty: Duty) {
        let answers = self.answers.0.clone();
        self.partition
            .replica
            .propose_with(duty.into(), move |result| {
                drop(answers.send(Answer::Duty(id, result))); // the task may have ended
            });
    }

    /// Makes offers from rows, and sends them in their order.
    async fn offer(&self, offers: Vec<Offer>) {
        let mut offers = VecDeque::from(offers);
        while !offers.is_empty() {
            let part: Vec<Offer> = offers.drain(..offers.len().min(OFFERS_PER_LOOK)).collect();
            let partition = Arc::clone(&self.partition);
            let now = self.now();
            // What lies in memory is not worth a way to the read pool and back.
            let replica = &self.partition.replica;
            let made = if replica
                .look(|rows| part.iter().all(|it| it.is_fresh(&SnapshotRows(rows))))
            {
                let made = replica.look(|rows| make(part, &SnapshotRows(rows), &partition, now));
                made.map_err(|fault| self.unreadable(&fault)).ok()
            } else {
                self.look(move |rows| make(part, rows, &partition, now))
                    .await
            };
            self.send(made.unwrap_or_default().into_iter());
        }
    }

    fn send(&self, made: impl Iterator<Item = (SessionId, Out)>) {
        for (session, out) in made {
            self.partition.streams.send(session, out);
        }
    }

    /// Stops acting while a dispute lasts; the rows that are wrong may be these.
    async fn look_at_disputes(&mut self) {
        let disputed = matches!(self.partition.replica.verdict(), Verdict::Disputed(_));
        let before = std::mem::replace(&mut self.disputed, disputed);
        match (before, disputed) {
            (false, true) => self.lose(),
            (true, false) => self.rebuild().await,
            _ => {}
        }
    }

    async fn slow_tick(&mut self) {
        self.publish();
        self.look_at_disputes().await;
        if self.lead.epoch().is_none() {
            return self.step(Input::Tick).await;
        }
        if let Some(median) = self.median_wall() {
            let ahead_ms = self.partition.clock.slew_toward(median);
            #[expect(clippy::cast_precision_loss, reason = "a gauge")]
            metrics::gauge!("holdfast_group_clock_ahead_seconds", "group" => self.partition.group.to_string())
                .set(ahead_ms as f64 / 1000.0);
        }
        self.let_go().await;
        let mono = self.situation.clock.mono_ms();
        if let Some(from) = self.audit.due(mono)
            && let Some(found) = self.look(move |rows| audit::part(rows, &from)).await
        {
            let stuck = self.audit.took(found, mono);
            let count = self.audit.found();
            self.partition
                .without_wake_source
                .store(count, Ordering::Relaxed);
            for run in stuck {
                tracing::warn!(%run, "a run had no wake source and is given one; please report");
                let repair = Duty::Repair(run).into();
                self.partition.replica.propose_with(repair, |_| {});
            }
        }
    }

    /// Has collected whose time is over.
    async fn let_go(&mut self) {
        let (now, kept) = (self.now(), self.situation.retention);
        let before = |kept: Duration| {
            let kept = u64::try_from(kept.as_millis()).unwrap_or(u64::MAX);
            Timestamp(now.0.saturating_sub(kept))
        };
        let due = Collect {
            completed: before(kept.completed),
            failed: before(kept.failed),
            ids: before(kept.ids),
            at_most: u32::try_from(bounds::RUNS_PER_DUTY_MAX).unwrap_or(u32::MAX),
        };
        if self.look(move |rows| views::is_overripe(rows, &due)).await == Some(true) {
            self.step(Input::Overripe(due)).await;
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "gauges")]
    fn publish(&self) {
        let group = self.partition.group.to_string();
        let hot = self.lead.hot();
        let oldest = hot
            .oldest_ready()
            .map(|(needs, since)| (needs.clone(), since));
        *self.partition.oldest_ready.lock() = oldest.collect();
        metrics::gauge!("holdfast_leases_live", "group" => group.clone())
            .set(hot.lease_count() as f64);
        metrics::gauge!("holdfast_queue_depth", "group" => group.clone())
            .set(hot.ready_count() as f64);
        metrics::gauge!("holdfast_workers_connected", "group" => group.clone())
            .set(self.partition.streams.len() as f64);
        metrics::gauge!("holdfast_runs_without_wake_source", "group" => group)
            .set(self.audit.found() as f64);
    }
}

async fn until(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

/// Something to send that has to be made from rows first.
enum Offer {
    Drive(SessionId, RunId, Fence),
    /// The same for a worker that has nothing of it any more.
    Whole(SessionId, RunId, Fence),
    Execute(SessionId, Work, Fence),
    News {
        session: SessionId,
        run: RunId,
        fence: Fence,
        rows: Vec<holdfast_scheduler::reply::JournalRow>,
        grants: Vec<holdfast_scheduler::reply::StepGrant>,
    },
    Again(SessionId, Work, Fence),
    Ready(SessionId, Out),
}

fn make<R: ReadRows + ?Sized>(
    part: Vec<Offer>,
    rows: &R,
    partition: &Partition,
    now: Timestamp,
) -> Result<Vec<(SessionId, Out)>, Fault> {
    let offers = Offers {
        rows,
        group: partition.group,
        namespace: &partition.namespace,
        now,
    };
    let mut made = Vec::new();
    for offer in part {
        made.extend(offer.make(&offers, partition)?);
    }
    Ok(made)
}

impl Offer {
    /// Whether all that it takes was written a moment ago: it is ready, or its run has no journal yet.
    fn is_fresh<R: ReadRows + ?Sized>(&self, rows: &R) -> bool {
        match self {
            Self::Ready(..) => true,
            Self::Drive(_, id, _) => {
                matches!(rows.run(id), Ok(Some(run)) if run.next_seq == Seq(0))
            }
            Self::Whole(..) | Self::Execute(..) | Self::News { .. } | Self::Again(..) => false,
        }
    }

    fn make<R: ReadRows + ?Sized>(
        self,
        offers: &Offers<'_, R>,
        partition: &Partition,
    ) -> Result<Vec<(SessionId, Out)>, Fault> {
        let (session, made) = match self {
            Self::Drive(session, run, fence) => (session, offers.drive(&run, fence, false)?),
            Self::Whole(session, run, fence) => (session, offers.drive(&run, fence, true)?),
            Self::Execute(session, work, fence) => {
                (session, offers.execute(&work, fence)?.into_iter().collect())
            }
            Self::News {
                session,
                run,
                fence,
                rows,
                grants,
            } => (
                session,
                offers
                    .news(&run, fence, &rows, &grants)?
                    .into_iter()
                    .collect(),
            ),
            Self::Again(session, work, fence) => {
                let Some(stream) = partition.streams.of(session) else {
                    return Ok(Vec::new());
                };
                (session, offers.again(stream.held(), &work, fence)?)
            }
            Self::Ready(session, out) => (session, vec![out]),
        };
        Ok(made.into_iter().map(|out| (session, out)).collect())
    }
}

/// The clock of a group, as the proposer stamps entries by it.
pub fn stamp(clock: &Arc<GroupClock>) -> Arc<dyn holdfast_raft::Stamp> {
    Arc::clone(clock) as Arc<dyn holdfast_raft::Stamp>
}
