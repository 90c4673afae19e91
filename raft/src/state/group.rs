//! One group's state and its thread: entries in, rows, replies and effects out.
//!
//! Invariant: entries are applied in log order, each whole; rows and pointer reach the disk in one batch. Replies are given
//! once the entry's rows can be read.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use twox_hash::XxHash3_128;

use super::db::{StateDb, prefix};
use super::effects::{EffectQueue, Effects};
use super::pointer::{self, Pointer};
use super::rows::{Held, Overlay, RowSnapshot, Stored, Writes};
use super::transfer::{LocalBlocks, SnapData, SnapMeta, Staged, Staging};
use crate::agreement::Own;
use crate::error::StorageFault;
use crate::failpoints;
use crate::host::rocksdb::{Range, ReadTier, WriteBatch};
use crate::host::{self, Inbox, SyncSender, Thread, Worker};
use crate::machine::Machine;
use crate::seeded::{Bug, armed};
use crate::types::{EntryKind, GroupId, LogId, StoredEntry};

/// Writes are held back this long, so that rows born and dead meanwhile never reach the database.
const HOLD_BACK: Duration = Duration::from_millis(100);
/// … or until they weigh this much.
const HOLD_BACK_BYTES: usize = 4 << 20;
/// Calls on their way to the state thread: openraft makes few at once.
const CALLS_MAX: usize = 64;

/// Called with the replies to an entry, on the state thread: it must not block.
pub type Told<M> = Box<dyn FnOnce(Vec<<M as Machine>::Reply>) + Send>;

/// One entry to apply.
pub struct ToApply<M: Machine> {
    /// The entry.
    pub entry: StoredEntry,
    /// Told once it is applied, whatever it was; a blank or membership entry brings no replies.
    pub done: Option<Told<M>>,
}

type Answer<T> = oneshot::Sender<Result<T, StorageFault>>;

enum Call<M: Machine> {
    Apply(Vec<ToApply<M>>, Answer<()>),
    WriteOut(Answer<()>),
    Snapshot(Answer<(SnapMeta, SnapData)>),
    Install(SnapMeta, Box<Staged>, Answer<()>),
    Stop,
}

/// The state of one group.
pub struct GroupState<M: Machine> {
    shared: Arc<Shared<M>>,
}

impl<M: Machine> Clone for GroupState<M> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

struct Shared<M: Machine> {
    db: Arc<StateDb>,
    group: GroupId,
    held: RwLock<Held>,
    /// Never given out twice: two snapshots received at once must not meet in one generation.
    next_generation: AtomicU32,
    applied: watch::Sender<u64>,
    effects: Arc<EffectQueue<M>>,
    calls: SyncSender<Call<M>>,
    thread: Mutex<Option<Thread>>,
    /// The digests of the entries applied lately.
    digests: Arc<Mutex<Own>>,
    /// The entry that this replica cannot apply, or that its rows are wrong.
    refused: OnceLock<StorageFault>,
}

impl<M: Machine> Shared<M> {
    fn snapshot(&self) -> RowSnapshot<'_> {
        let held = self.held.read();
        let generation = held.pointer.generation;
        let stored = Stored {
            db: &self.db.db,
            group: self.group,
            generation,
        };
        RowSnapshot { stored, held }
    }
}

impl<M: Machine> GroupState<M> {
    /// Opens the group and starts its thread; the machine has been rebuilt from the rows.
    ///
    /// # Errors
    /// The rows cannot be read.
    pub fn open(db: &Arc<StateDb>, group: GroupId, machine: M) -> Result<Self, StorageFault> {
        if let Some(index) = db.found_wrong(group)? {
            return Err(StorageFault::Diverged { group, index });
        }
        let pointer = db.pointer(group, ReadTier::All)?;
        db.drop_other_generations(group, pointer.generation)?;
        let applied = pointer.last.map_or(0, |id| id.index);
        let next_generation = AtomicU32::new(pointer.generation + 1);
        let (calls, inbox) = host::bounded(CALLS_MAX);
        let mut digests = Own::default();
        digests.begin(applied, pointer.digest);
        let shared = Arc::new(Shared {
            db: Arc::clone(db),
            group,
            held: RwLock::new(Held {
                pointer,
                ..Held::default()
            }),
            next_generation,
            applied: watch::Sender::new(applied),
            effects: EffectQueue::new(),
            calls,
            thread: Mutex::new(None),
            digests: Arc::new(Mutex::new(digests)),
            refused: OnceLock::new(),
        });
        let mut machine = machine;
        machine.rebuild(&shared.snapshot());
        let applier = Applier {
            shared: Arc::clone(&shared),
            machine,
            held_since: None,
        };
        let thread = host::start(format!("state-{}", group.0), applier, inbox)
            .map_err(|cause| StorageFault::io("starting a state thread", cause))?;
        *shared.thread.lock() = Some(thread);
        Ok(Self { shared })
    }

    /// The last applied entry, and the membership with the entry that brought it.
    pub fn applied(&self) -> (Option<LogId>, Option<(LogId, Bytes)>) {
        let held = self.shared.held.read();
        let pointer = &held.pointer;
        let membership = pointer
            .membership_at
            .map(|at| (at, pointer.membership.clone()));
        (pointer.last, membership)
    }

    /// About how many bytes its rows take on disk.
    pub fn disk_bytes(&self) -> u64 {
        let generation = self.shared.held.read().pointer.generation;
        let from = prefix(self.shared.group, generation);
        let to = prefix(self.shared.group, generation + 1);
        let sizes = (self.shared.db.db).get_approximate_sizes(&[Range::new(&from, &to)]);
        sizes.first().copied().unwrap_or_default()
    }

    /// The last applied index (0 before the first), as it grows.
    pub fn applied_watch(&self) -> watch::Receiver<u64> {
        self.shared.applied.subscribe()
    }

    /// Applies entries that follow the last applied one; ends when all are in the overlay and all `done` were told.
    pub fn apply(&self, entries: Vec<ToApply<M>>) -> BoxFuture<'static, Result<(), StorageFault>> {
        self.call(|answer| Call::Apply(entries, answer))
    }

    /// Looks at the rows as of now, on the read pool.
    pub fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&RowSnapshot<'_>) -> T + Send + 'static,
    ) -> BoxFuture<'static, Result<T, StorageFault>> {
        let shared = Arc::clone(&self.shared);
        async move {
            host::blocking(move || look(&shared.snapshot()))
                .await
                .map_err(|cause| StorageFault::io("reading rows", cause))
        }
        .boxed()
    }

    /// Looks at the rows as of now, on the calling thread: for a few rows that are most likely in memory.
    pub fn look<T>(&self, look: impl FnOnce(&RowSnapshot<'_>) -> T) -> T {
        look(&self.shared.snapshot())
    }

    /// The effects; one reader per group.
    pub fn effects(&self) -> Effects<M> {
        Effects::of(&self.shared.effects)
    }

    /// The digests of the entries applied lately.
    pub(crate) fn digests(&self) -> Arc<Mutex<Own>> {
        Arc::clone(&self.shared.digests)
    }

    /// The rows here are wrong, as was noticed at `index`: nothing is read from them any more, also after a restart.
    pub(crate) async fn condemn(&self, index: u64) -> StorageFault {
        let (group, shared) = (self.shared.group, Arc::clone(&self.shared));
        let fault = StorageFault::Diverged { group, index };
        let fault = self.shared.refused.get_or_init(|| fault).clone();
        let mark = move || shared.db.mark_wrong(group, index);
        let marked = host::blocking(mark).await;
        if let Ok(Err(cause)) = marked {
            tracing::error!(%cause, "a wrong replica was not marked: after a restart it is found anew");
        }
        fault
    }

    /// What keeps this replica from going on, if it is no fault of the disk.
    pub fn refused(&self) -> Option<&StorageFault> {
        self.shared.refused.get()
    }

    /// The last applied index and the running digest there.
    pub fn digest(&self) -> (u64, u128) {
        let held = self.shared.held.read();
        (
            held.pointer.last.map_or(0, |id| id.index),
            held.pointer.digest,
        )
    }

    /// Up to which index the state would survive a loss of power now.
    pub fn persisted(&self) -> BoxFuture<'static, Result<u64, StorageFault>> {
        let shared = Arc::clone(&self.shared);
        async move {
            let read = move || shared.db.pointer(shared.group, ReadTier::Persisted);
            let pointer = host::blocking(read)
                .await
                .map_err(|cause| StorageFault::io("reading a group's pointer", cause))??;
            Ok(pointer.last.map_or(0, |id| id.index))
        }
        .boxed()
    }

    /// A snapshot of now, in turn with apply: written out, flushed, persisted at least up to its meta.
    pub fn snapshot(&self) -> BoxFuture<'static, Result<(SnapMeta, SnapData), StorageFault>> {
        self.call(Call::Snapshot)
    }

    /// Begins to receive a snapshot. Blocking.
    ///
    /// # Errors
    /// The disk is full or failed.
    pub fn stage(&self) -> Result<Staging, StorageFault> {
        let generation = self.shared.next_generation.fetch_add(1, Ordering::Relaxed);
        Staging::begin(&self.shared.db, self.shared.group, generation)
    }

    /// Installs a received snapshot: waits for `barrier` before the pointer flips, rebuilds the machine after.
    pub fn install(
        &self,
        meta: SnapMeta,
        data: Staged,
        barrier: BoxFuture<'static, io::Result<()>>,
    ) -> BoxFuture<'static, Result<(), StorageFault>> {
        let this = self.clone();
        async move {
            this.call(Call::WriteOut).await?;
            // An earlier truncate must be durable before the pointer passes it, or the node could not start again.
            barrier
                .await
                .map_err(|cause| StorageFault::io("the log's barrier", cause))?;
            this.call(|answer| Call::Install(meta, Box::new(data), answer))
                .await
        }
        .boxed()
    }

    /// Applies nothing more, writes out and flushes; the thread has ended on return. Blocking.
    pub fn close(&self) {
        drop(self.shared.calls.send(Call::Stop));
        if let Some(thread) = self.shared.thread.lock().take() {
            thread.join();
        }
    }

    fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(Answer<T>) -> Call<M>,
    ) -> BoxFuture<'static, Result<T, StorageFault>> {
        let (answer, answered) = oneshot::channel();
        let ended = || StorageFault::io("the state thread", "it has ended");
        // The channel is far from full unless a call takes seconds; then the caller is to wait.
        if self.shared.calls.send(call(answer)).is_err() {
            return futures::future::ready(Err(ended())).boxed();
        }
        async move { answered.await.map_err(|_| ended())? }.boxed()
    }
}

/// The state thread.
struct Applier<M: Machine> {
    shared: Arc<Shared<M>>,
    machine: M,
    held_since: Option<Instant>,
}

impl<M: Machine> Worker for Applier<M> {
    type Job = Call<M>;

    fn patience(&self) -> Option<Duration> {
        let since = self.held_since?;
        Some(HOLD_BACK.saturating_sub(since.elapsed()))
    }

    fn work(&mut self, call: Call<M>, _more: &mut Inbox<Call<M>>) -> bool {
        if matches!(call, Call::Stop) {
            return false;
        }
        let worked = self.answer(call);
        self.goes_on(&worked)
    }

    fn idle(&mut self) -> bool {
        let worked = self.write_out();
        self.goes_on(&worked)
    }

    fn end(&mut self) {
        self.shared.effects.close();
        if let Err(fault) = self.write_out().and_then(|()| self.shared.db.flush()) {
            tracing::warn!(%fault, "the state was not written out at the end; it is replayed from the log");
        }
    }
}

impl<M: Machine> Applier<M> {
    fn goes_on(&self, worked: &Result<(), StorageFault>) -> bool {
        if let Err(fault) = worked {
            tracing::error!(%fault, group = self.shared.group.0, "this replica cannot go on");
        }
        worked.is_ok()
    }

    /// A failure is told to the caller, and ends the thread.
    fn answer(&mut self, call: Call<M>) -> Result<(), StorageFault> {
        match call {
            Call::Apply(entries, answer) => {
                let result = self.apply(entries);
                reply(answer, result)
            }
            Call::WriteOut(answer) => {
                let result = self.write_out();
                reply(answer, result)
            }
            Call::Snapshot(answer) => {
                let result = self.capture();
                let (told, result) = match result {
                    Ok(captured) => (Ok(captured), Ok(())),
                    Err(fault) => (Err(fault.clone()), Err(fault)),
                };
                drop(answer.send(told)); // whoever asked may have gone
                result
            }
            Call::Install(meta, staged, answer) => {
                let result = self.install(meta, *staged);
                reply(answer, result)
            }
            Call::Stop => Ok(()),
        }
    }

    fn apply(&mut self, entries: Vec<ToApply<M>>) -> Result<(), StorageFault> {
        if let Some(fault) = self.shared.refused.get() {
            return Err(fault.clone());
        }
        let began = Instant::now();
        let mut last = None;
        for ToApply { entry, done } in entries {
            last = Some(entry.id.index);
            let replies = self.apply_one(&entry)?;
            if let Some(done) = done {
                done(replies);
            }
        }
        if let Some(last) = last {
            self.shared.applied.send_replace(last);
        }
        metrics::histogram!("holdfast_state_apply_duration_seconds").record(began.elapsed());
        if self.shared.held.read().bytes >= HOLD_BACK_BYTES {
            return self.write_out();
        }
        self.held_since.get_or_insert_with(Instant::now);
        Ok(())
    }

    fn apply_one(&mut self, entry: &StoredEntry) -> Result<Vec<M::Reply>, StorageFault> {
        failpoints::reach("apply::before");
        let at = entry.id.index;
        let (writes, replies, effects) = match entry.kind {
            EntryKind::Blank | EntryKind::Membership => (Writes::default(), Vec::new(), Vec::new()),
            EntryKind::Normal => {
                let held = self.shared.held.read();
                let generation = held.pointer.generation;
                let (db, group) = (&*self.shared.db.db, self.shared.group);
                let stored = Stored {
                    db,
                    group,
                    generation,
                };
                let mut overlay = Overlay {
                    stored,
                    held: &held,
                    writes: Writes::default(),
                };
                let applied = self.machine.apply(&mut overlay, at, &entry.payload);
                let applied = applied.map_err(|fault| {
                    let cause = fault.0;
                    let fault = StorageFault::Apply {
                        group,
                        index: at,
                        cause,
                    };
                    self.shared.refused.get_or_init(|| fault).clone()
                })?;
                (overlay.writes, applied.replies, applied.effects)
            }
        };
        let mut held = self.shared.held.write();
        let before = held.pointer.last.map(|id| id.index);
        assert!(before < Some(at), "entry {at} applied after {before:?}");
        let digest = digest(held.pointer.digest, at, &writes);
        held.pointer.digest = digest;
        held.pointer.last = Some(entry.id);
        if entry.kind == EntryKind::Membership {
            held.pointer.membership_at = Some(entry.id);
            held.pointer.membership = entry.payload.clone();
        }
        held.take(writes);
        #[cfg(holdfast_sim)]
        host::sim::applied(self.shared.group, entry, held.pointer.digest);
        drop(held);
        self.shared.digests.lock().applied(at, digest);
        self.machine.applied(at, digest);
        failpoints::reach("apply::after");
        self.shared.effects.push(at, effects);
        Ok(replies)
    }

    /// One batch: rows and the pointer of the last entry among them.
    fn write_out(&mut self) -> Result<(), StorageFault> {
        self.held_since = None;
        let group = self.shared.group;
        let mut batch;
        {
            // Only this thread changes what is held, so reading is enough while the batch is made.
            let held = self.shared.held.read();
            if held.pointer == self.shared.db.pointer(group, ReadTier::All)? {
                return Ok(());
            }
            batch = WriteBatch::with_capacity_bytes(held.bytes);
            let prefix = prefix(group, held.pointer.generation);
            let mut stored = prefix.to_vec();
            for (key, value) in &held.writes {
                stored.truncate(prefix.len());
                stored.extend_from_slice(key);
                match value {
                    Some(value) => batch.put(&stored, value),
                    None => batch.delete(&stored),
                }
            }
            batch.put(pointer::key(group), held.pointer.encode());
            if armed(Bug::AppliedIndexOutsideBatch) {
                let mut alone = WriteBatch::default();
                alone.put(pointer::key(group), held.pointer.encode());
                self.shared.db.write(alone)?;
                self.shared.db.flush()?;
            }
        }
        failpoints::reach("apply::before-write-out");
        self.shared.db.write(batch)?;
        failpoints::reach("apply::after-write-out");
        // Readers see the rows in either place; the order of these two steps is what makes that true.
        let written = {
            let mut held = self.shared.held.write();
            held.bytes = 0;
            std::mem::take(&mut held.writes)
        };
        drop(written); // nobody waits for the lock meanwhile
        Ok(())
    }

    fn capture(&mut self) -> Result<(SnapMeta, SnapData), StorageFault> {
        failpoints::reach("snapshot::before-build");
        if !armed(Bug::SnapshotOfTwoMoments) {
            self.write_out()?;
        }
        let pointer = self.shared.held.read().pointer.clone();
        let db = &self.shared.db;
        let blocks = LocalBlocks::of(
            &db.db,
            self.shared.group,
            pointer.generation,
            pointer.digest,
        );
        if !armed(Bug::PurgePastPersistedApplied) {
            db.flush()?;
        }
        let persisted = db.pointer(self.shared.group, ReadTier::Persisted)?;
        let spared = armed(Bug::PurgePastPersistedApplied) || armed(Bug::SnapshotOfTwoMoments);
        assert!(
            spared || persisted.last >= pointer.last,
            "a snapshot at {:?} with only {:?} persisted",
            pointer.last,
            persisted.last
        );
        failpoints::reach("snapshot::built");
        let meta = SnapMeta {
            last: pointer.last,
            membership_at: pointer.membership_at,
            membership: pointer.membership,
        };
        Ok((meta, SnapData::Local(Box::new(blocks))))
    }

    fn install(&mut self, meta: SnapMeta, staged: Staged) -> Result<(), StorageFault> {
        let group = self.shared.group;
        failpoints::reach("snapshot::received");
        let (generation, digest) = staged.ingest()?;
        if armed(Bug::InstallNotAtomic) {
            self.shared.db.drop_other_generations(group, generation)?;
            self.shared.db.flush()?;
        }
        failpoints::reach("install::ingested");
        self.shared.db.reached("ingested");
        let pointer = Pointer {
            generation,
            digest,
            last: meta.last,
            membership_at: meta.membership_at,
            membership: meta.membership,
        };
        let mut batch = WriteBatch::default();
        batch.put(pointer::key(group), pointer.encode());
        self.shared.db.write(batch)?;
        failpoints::reach("install::pointed");
        self.shared.db.reached("pointed");
        self.shared.db.flush()?;
        failpoints::reach("install::flushed");
        self.shared.db.reached("flushed");
        // Readers keep the old generation until here: nobody waits for the flush.
        *self.shared.held.write() = Held {
            pointer,
            ..Held::default()
        };
        self.shared.db.drop_other_generations(group, generation)?;
        failpoints::reach("install::dropped");
        self.shared.db.reached("dropped");
        self.machine.rebuild(&self.shared.snapshot());
        let index = meta.last.map_or(0, |id| id.index);
        self.shared.digests.lock().begin(index, digest);
        self.shared.applied.send_replace(index);
        self.shared.effects.push_everything(index);
        #[cfg(holdfast_sim)]
        host::sim::installed(group, meta.last, digest);
        Ok(())
    }
}

fn reply(answer: Answer<()>, result: Result<(), StorageFault>) -> Result<(), StorageFault> {
    drop(answer.send(result.clone())); // whoever asked may have gone
    result
}

/// The running digest: of the digest so far, the entry's index, and its row changes in the order in which they were made.
fn digest(before: u128, at: u64, writes: &Writes) -> u128 {
    let mut hasher = XxHash3_128::new();
    hasher.write(&before.to_be_bytes());
    hasher.write(&at.to_be_bytes());
    for (key, value) in &writes.rows {
        hasher.write(&(key.len() as u64).to_be_bytes());
        hasher.write(key);
        match value {
            Some(value) => {
                hasher.write(&(value.len() as u64 + 1).to_be_bytes());
                hasher.write(value);
            }
            None => hasher.write(&0u64.to_be_bytes()),
        }
    }
    hasher.finish_128()
}
