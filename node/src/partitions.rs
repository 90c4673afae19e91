//! The partitions that this node has a replica of, as its servers see them.
//!
//! Invariant: before the cluster is formed there are none, and every request says so.
//! Not here: who leads (`leader`), consensus (`raft`).

use std::sync::{Arc, atomic::AtomicUsize};

use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use tokio::sync::{Notify, mpsc};

use holdfast_proto::v1::{self, to_worker::Message};
use holdfast_raft::{NodeId, Replica};
use holdfast_scheduler::{
    effect::Needs,
    ids::{PartitionId, RunId},
    time::Timestamp,
};

use crate::{clock::GroupClock, leader::FromStream, machine::Engine, streams::Streams};

/// One partition on this node.
pub struct Partition {
    /// Its number, which is that of its group.
    pub group: u32,
    /// Of idempotency keys; fixed when the cluster was formed.
    pub namespace: Arc<str>,
    /// Its replica here.
    pub replica: Replica<Engine>,
    /// Its clock, while this node acts for it.
    pub clock: Arc<GroupClock>,
    /// Open work streams.
    pub streams: Streams,
    /// Who waits for a change of a run.
    pub watchers: Watchers,
    /// Who waits for the end of a run.
    pub ended: Watchers,
    /// Live runs that nothing would move, as the audit found last on this node while it led.
    pub without_wake_source: AtomicUsize,
    /// Since when the longest waiting work of each kind waits, as its leader shell saw it last.
    pub oldest_ready: Mutex<Vec<(Needs, Timestamp)>>,
    /// To its leader shell.
    pub leader: mpsc::Sender<FromStream>,
}

impl Partition {
    /// Who leads, as far as this node knows. One that leads without a quorum does not know.
    pub fn known_leader(&self) -> Option<NodeId> {
        let leader = self.replica.status().leader;
        leader.filter(|_| !self.replica.is_cut_off())
    }

    /// How clients reach the node that leads, as far as this node knows.
    pub fn leader_address(&self) -> Option<String> {
        let leader = self.known_leader()?;
        let status = self.replica.status();
        status
            .members
            .get(&leader)
            .map(|member| member.api_address.clone())
    }

    /// This node does not act for the partition any more: its workers go elsewhere.
    pub fn moved(&self) {
        if !self.streams.is_empty() {
            self.streams.end_all(&self.moved_message());
        }
    }

    /// Where a worker has to go.
    pub fn moved_message(&self) -> Message {
        let address = self.leader_address().unwrap_or_default();
        Message::Moved(v1::Moved {
            partition: self.group,
            address,
        })
    }
}

/// All partitions; none before the cluster is formed.
#[derive(Default)]
pub struct Partitions(RwLock<Vec<Arc<Partition>>>);

impl Partitions {
    /// The cluster is formed, or was formed before.
    pub fn set(&self, partitions: Vec<Arc<Partition>>) {
        *self.0.write() = partitions;
    }

    /// All of them, by number.
    pub fn all(&self) -> Vec<Arc<Partition>> {
        self.0.read().clone()
    }

    /// The one with this number.
    pub fn get(&self, partition: PartitionId) -> Option<Arc<Partition>> {
        self.0
            .read()
            .iter()
            .find(|it| it.group == partition.0)
            .cloned()
    }

    /// The one that this run lives in.
    pub fn of(&self, run: &RunId) -> Option<Arc<Partition>> {
        let partitions = self.0.read();
        let count = u32::try_from(partitions.len()).unwrap_or(u32::MAX);
        if count == 0 {
            return None;
        }
        let home = run.partition(count);
        partitions.iter().find(|it| it.group == home.0).cloned()
    }
}

/// Who waits for a change of a run: each is woken, and looks again.
#[derive(Default)]
pub struct Watchers(Mutex<HashMap<RunId, Arc<Notify>>>);

impl Watchers {
    /// Wakes up at the next change of this run; enrol before looking at the run.
    pub fn watch(&self, run: &RunId) -> Watch<'_> {
        let notify = Arc::clone(self.0.lock().entry(run.clone()).or_default());
        Watch {
            watchers: self,
            run: run.clone(),
            notify,
        }
    }

    /// A run's status changed.
    pub fn changed(&self, run: &RunId) {
        let notify = self.0.lock().get(run).cloned();
        if let Some(notify) = notify {
            notify.notify_waiters();
        }
    }

    /// Any run may have changed.
    pub fn all_changed(&self) {
        for notify in self.0.lock().values() {
            notify.notify_waiters();
        }
    }
}

/// One who waits for a change of a run.
pub struct Watch<'a> {
    watchers: &'a Watchers,
    run: RunId,
    notify: Arc<Notify>,
}

impl Watch<'_> {
    /// The next change from here on; create it before looking at the run.
    pub fn next(&self) -> tokio::sync::futures::Notified<'_> {
        self.notify.notified()
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let mut waiting = self.watchers.0.lock();
        // Ours and the map's: nobody else waits.
        if Arc::strong_count(&self.notify) <= 2 {
            waiting.remove(&self.run);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_watcher_is_woken_by_its_run_alone_and_leaves_nothing_behind() {
        let watchers = Watchers::default();
        let (mine, other) = (RunId::new("mine").unwrap(), RunId::new("other").unwrap());
        {
            let watch = watchers.watch(&mine);
            let mut next = std::pin::pin!(watch.next());
            next.as_mut().enable();
            watchers.changed(&other);
            assert!(futures::poll!(next.as_mut()).is_pending());
            watchers.changed(&mine);
            next.await;
        }
        assert!(watchers.0.lock().is_empty());
    }
}
