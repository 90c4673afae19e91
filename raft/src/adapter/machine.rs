//! openraft's state machine over a group's state.
//!
//! Invariant: an entry is applied only once it is durable here in the form that is applied; every responder is told; a
//! snapshot is offered only after this process has built or installed one.
//! Not here: applying itself (`state`).

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};

use crate::adapter::stages::Stages;
use crate::adapter::types::{
    Answer, CoreEntry, CoreLogId, CoreSnapshot, CoreSnapshotMeta, CoreStoredMembership, Types,
    core_log_id, membership_bytes, membership_from_bytes, our_log_id, stored_entry,
};
use crate::error::StorageFault;
use crate::log::{LogBackend, LogOp};
use crate::machine::Machine;
use crate::seeded::{Bug, armed};
use crate::state::{self, GroupState, SnapData, SnapMeta, Staged, Staging};
use crate::types::{GroupId, LogId, StoredEntry};

/// How many entries go to the state thread at once, so that reads and snapshots come in between.
const ENTRIES_PER_CALL: usize = 64;

/// What the answer to one entry is given to: the replies, as the machine's own type.
pub(crate) type Done = Box<dyn FnOnce(Box<dyn std::any::Any + Send>) + Send>;

/// One entry on its way to the state thread.
pub(crate) struct ToApply {
    pub(crate) entry: StoredEntry,
    pub(crate) done: Option<Done>,
}

/// A group's state as the adapter needs it, whatever its machine.
pub(crate) trait StateSide: Send + Sync + 'static {
    fn applied(&self) -> (Option<LogId>, Option<(LogId, bytes::Bytes)>);
    fn apply(&self, entries: Vec<ToApply>) -> BoxFuture<'static, Result<(), StorageFault>>;
    fn stage(&self) -> BoxFuture<'static, Result<Staging, StorageFault>>;
    fn snapshot(&self) -> BoxFuture<'static, Result<(SnapMeta, SnapData), StorageFault>>;
    fn install(
        &self,
        meta: SnapMeta,
        data: Staged,
        barrier: BoxFuture<'static, io::Result<()>>,
    ) -> BoxFuture<'static, Result<(), StorageFault>>;
}

impl<M: Machine> StateSide for GroupState<M> {
    fn applied(&self) -> (Option<LogId>, Option<(LogId, bytes::Bytes)>) {
        Self::applied(self)
    }

    fn apply(&self, entries: Vec<ToApply>) -> BoxFuture<'static, Result<(), StorageFault>> {
        // The replies stay the machine's own type up to the proposer, which knows it too.
        let typed = |it: ToApply| state::ToApply::<M> {
            entry: it.entry,
            done: it.done.map(|done| {
                Box::new(move |replies: Vec<M::Reply>| done(Box::new(replies)))
                    as Box<dyn FnOnce(Vec<M::Reply>) + Send>
            }),
        };
        Self::apply(self, entries.into_iter().map(typed).collect())
    }

    fn stage(&self) -> BoxFuture<'static, Result<Staging, StorageFault>> {
        let state = self.clone();
        let staging = crate::host::blocking(move || state.stage());
        let ended = |cause| StorageFault::io("begin to receive a snapshot", cause);
        async move { staging.await.map_err(ended)? }.boxed()
    }

    fn snapshot(&self) -> BoxFuture<'static, Result<(SnapMeta, SnapData), StorageFault>> {
        Self::snapshot(self)
    }

    fn install(
        &self,
        meta: SnapMeta,
        data: Staged,
        barrier: BoxFuture<'static, io::Result<()>>,
    ) -> BoxFuture<'static, Result<(), StorageFault>> {
        Self::install(self, meta, data, barrier)
    }
}

/// openraft's view of one group's state.
#[derive(Clone)]
pub struct Sm {
    group: GroupId,
    state: Arc<dyn StateSide>,
    log: Arc<dyn LogBackend>,
    stages: Stages,
    /// Whether this process has built or installed a snapshot. State that was replayed and not flushed must not be
    /// offered as one: a purge up to it could not be undone by a replay.
    may_offer: Arc<std::sync::atomic::AtomicBool>,
}

impl Sm {
    pub(crate) fn new(
        group: GroupId,
        state: Arc<dyn StateSide>,
        log: Arc<dyn LogBackend>,
        stages: Stages,
    ) -> Self {
        Self {
            group,
            state,
            log,
            stages,
            may_offer: Arc::default(),
        }
    }

    async fn hand_over(&self, entries: Vec<ToApply>) -> io::Result<()> {
        let Some(last) = entries.last() else {
            return Ok(());
        };
        // By ticket and not by index: see `LogBackend::durable`.
        let last = last.entry.id.index;
        self.log.durable(self.group, last).await?;
        let since = self.stages.committed(last);
        self.state.apply(entries).await?;
        self.stages.applied(since);
        Ok(())
    }
}

fn to_apply(entry: CoreEntry, responder: Option<ApplyResponder<Types>>) -> ToApply {
    let done: Option<Done> =
        responder.map(|it| Box::new(move |replies| it.send(Answer::new(replies))) as Done);
    let entry = stored_entry(entry);
    if armed(Bug::ResponderForgotten) && entry.id.index.is_multiple_of(64) {
        std::mem::forget(done);
        return ToApply { entry, done: None };
    }
    ToApply { entry, done }
}

impl RaftStateMachine<Types> for Sm {
    type SnapshotData = SnapData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<CoreLogId>, CoreStoredMembership)> {
        let (last, membership) = self.state.applied();
        let membership = match membership {
            None => CoreStoredMembership::default(),
            Some((at, bytes)) => {
                CoreStoredMembership::new(Some(core_log_id(at)), membership_from_bytes(&bytes)?)
            }
        };
        Ok((last.map(core_log_id), membership))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        // Its end may be met while a batch is gathered; the outer loop asks once more.
        let mut entries = entries.fuse();
        while let Some(first) = entries.next().await {
            let (entry, responder) = first?;
            let mut batch = vec![to_apply(entry, responder)];
            while batch.len() < ENTRIES_PER_CALL
                && let Some(Some(next)) = Pin::new(&mut entries).next().now_or_never()
            {
                let (entry, responder) = next?;
                batch.push(to_apply(entry, responder));
            }
            self.hand_over(batch).await?;
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Builder> {
        Some(Builder { sm: self.clone() })
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { sm: self.clone() }
    }

    async fn install_snapshot(
        &mut self,
        meta: &CoreSnapshotMeta,
        snapshot: SnapData,
    ) -> io::Result<()> {
        let log = Arc::clone(&self.log);
        let group = self.group;
        // An earlier truncate must be durable before the state's pointer passes it.
        let barrier = async move {
            let (tx, rx) = tokio::sync::oneshot::channel();
            let done = Box::new(move |result| drop(tx.send(result)));
            log.submit(group, LogOp::Barrier, done).await;
            rx.await
                .map_err(|_| io::Error::other("the log ended before its barrier"))?
        };
        let SnapData::Staged(staged) = snapshot else {
            // At a start openraft installs what `get_current_snapshot` offers, and that offers nothing then.
            return Err(io::Error::other(
                "a snapshot of this very replica is not installed",
            ));
        };
        self.state
            .install(our_meta(meta), staged, barrier.boxed())
            .await?;
        let label = group.0.to_string();
        metrics::counter!("holdfast_raft_snapshots_installed_total", "group" => label).increment(1);
        self.may_offer
            .store(true, std::sync::atomic::Ordering::Release);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<CoreSnapshot>> {
        if !self.may_offer.load(std::sync::atomic::Ordering::Acquire) {
            return Ok(None);
        }
        self.capture().await.map(Some)
    }
}

impl Sm {
    async fn capture(&self) -> io::Result<CoreSnapshot> {
        let (meta, data) = self.state.snapshot().await?;
        Ok(openraft::Snapshot {
            meta: core_meta(meta)?,
            snapshot: data,
        })
    }
}

/// Builds a snapshot: state is persistent, so this flushes and says up to where.
pub struct Builder {
    sm: Sm,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapData;

    async fn build_snapshot(&mut self) -> io::Result<CoreSnapshot> {
        let started = tokio::time::Instant::now();
        let snapshot = self.sm.capture().await?;
        self.sm
            .may_offer
            .store(true, std::sync::atomic::Ordering::Release);
        let group = self.sm.group.0.to_string();
        metrics::histogram!("holdfast_raft_snapshot_duration_seconds", "group" => group)
            .record(started.elapsed());
        Ok(snapshot)
    }
}

pub(crate) fn our_meta(meta: &CoreSnapshotMeta) -> SnapMeta {
    SnapMeta {
        last: meta.last_log_id.as_ref().map(our_log_id),
        membership_at: meta.last_membership.log_id().as_ref().map(our_log_id),
        membership: membership_bytes(meta.last_membership.membership()),
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "what is converted is used up"
)]
pub(crate) fn core_meta(meta: SnapMeta) -> io::Result<CoreSnapshotMeta> {
    let membership = membership_from_bytes(&meta.membership)?;
    Ok(CoreSnapshotMeta {
        last_log_id: meta.last.map(core_log_id),
        last_membership: CoreStoredMembership::new(meta.membership_at.map(core_log_id), membership),
    })
}
