//! Space on the data folder's disk, and its two marks.
//!
//! Invariant: below the soft mark new starts are refused while running runs finish; below the hard mark leadership moves
//! away, and where this node still leads, proposals are refused before the log can fill.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use holdfast_raft::{GroupId, Groups, NodeId};
use tokio::{sync::watch, time::Instant};
use tonic::Status;

use crate::{api::status, machine::Engine, partitions::Partitions, settings::DiskMarks};

/// How often the system is asked: a full log fills a few MiB in that time.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// No node is given leadership again within this: it may be as full, and has handed it on.
const MOVE_AGAIN: Duration = Duration::from_mins(1);

/// Bytes that are free, and all there are; `None` where the system does not say.
pub type Space = Box<dyn Fn() -> Option<(u64, u64)> + Send + Sync>;

/// What was seen last.
pub struct Disk {
    space: Space,
    marks: DiskMarks,
    free_bytes: AtomicU64,
    free_percent: AtomicU64,
}

impl Disk {
    /// Of the data folder.
    pub fn new(data: &Path, marks: DiskMarks) -> Self {
        let data = data.to_owned();
        let space = move || {
            let Ok(found) = rustix::fs::statvfs(&data) else {
                tracing::warn!(data = %data.display(), "free space cannot be read");
                return None;
            };
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            Some((free, found.f_blocks.saturating_mul(found.f_frsize)))
        };
        Self::of(Box::new(space), marks)
    }

    /// Of a disk with this much space.
    pub fn of(space: Space, marks: DiskMarks) -> Self {
        let disk = Self {
            space,
            marks,
            free_bytes: AtomicU64::new(u64::MAX),
            free_percent: AtomicU64::new(100),
        };
        disk.look();
        disk
    }

    /// Asks the system.
    pub fn look(&self) {
        if let Some((free, all)) = (self.space)() {
            self.set(free, all);
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "gauges")]
    fn set(&self, free: u64, all: u64) {
        let percent = u64::try_from(u128::from(free) * 100 / u128::from(all.max(1))).unwrap_or(100);
        self.free_bytes.store(free, Ordering::Relaxed);
        let before = self.free_percent.swap(percent, Ordering::Relaxed);
        metrics::gauge!("holdfast_disk_free_bytes").set(free as f64);
        let marks = [
            ("soft", self.marks.soft_percent),
            ("hard", self.marks.hard_percent),
        ];
        for (level, mark) in marks {
            let (is, was) = (percent < u64::from(mark), before < u64::from(mark));
            metrics::gauge!("holdfast_disk_watermark", "level" => level)
                .set(f64::from(u8::from(is)));
            if is && !was {
                tracing::error!(
                    level,
                    free_percent = percent,
                    "the disk is nearly full; free space or add nodes"
                );
            } else if was && !is {
                tracing::info!(level, free_percent = percent, "the disk has space again");
            }
        }
    }

    /// Whether leadership should move away.
    pub fn is_below_hard(&self) -> bool {
        self.free_percent.load(Ordering::Relaxed) < u64::from(self.marks.hard_percent)
    }

    /// Refuses a new start below the soft mark.
    ///
    /// # Errors
    /// HF1004.
    pub fn verify_starts(&self) -> Result<(), Status> {
        self.verify(self.marks.soft_percent, "new starts are")
    }

    /// Refuses any proposal below the hard mark.
    ///
    /// # Errors
    /// HF1004.
    pub fn verify_proposals(&self) -> Result<(), Status> {
        self.verify(self.marks.hard_percent, "changes are")
    }

    fn verify(&self, mark: u8, what: &str) -> Result<(), Status> {
        let free = self.free_percent.load(Ordering::Relaxed);
        if free < u64::from(mark) {
            Err(status::disk(free, mark, what))
        } else {
            Ok(())
        }
    }
}

/// Looks at the disk, and moves leadership away below the hard mark.
pub async fn watch(
    disk: Arc<Disk>,
    groups: Arc<Groups<Engine>>,
    partitions: Arc<Partitions>,
    mut stop: watch::Receiver<bool>,
) {
    tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => {}
        () = keep_looking(&disk) => {}
        () = move_away(&disk, &groups, &partitions) => {}
    }
}

/// On its own: a transfer that nobody takes over lasts for seconds, and meanwhile the disk may have space again.
async fn keep_looking(disk: &Disk) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        disk.look();
    }
}

async fn move_away(disk: &Disk, groups: &Arc<Groups<Engine>>, partitions: &Partitions) {
    let mut asked: BTreeMap<(u32, NodeId), Instant> = BTreeMap::new();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        asked.retain(|_, at| at.elapsed() < MOVE_AGAIN);
        if !disk.is_below_hard() {
            continue;
        }
        for partition in partitions.all() {
            let group = partition.group;
            if partition.clock.epoch().is_none() {
                continue;
            }
            let replication = partition.replica.status().replication;
            let this = groups.this().id;
            let Some(to) = heir(&replication, |id| {
                id != this && !asked.contains_key(&(group, id))
            }) else {
                continue; // each has had its turn
            };
            asked.insert((group, to), Instant::now());
            if let Err(error) = groups.transfer(GroupId(group), Some(to)).await {
                tracing::warn!(group, to = to.0, %error, "leadership stays on a full disk");
            }
        }
    }
}

/// Who of those that may lacks least of the log. How much space it has nobody here knows: if it has none it hands on in turn, and no
/// two that are full hand to each other while a third has not been asked.
fn heir(
    replication: &BTreeMap<NodeId, Option<u64>>,
    may: impl Fn(NodeId) -> bool,
) -> Option<NodeId> {
    let may = replication.iter().filter(|(id, _)| may(**id));
    may.max_by_key(|(_, matched)| **matched).map(|(id, _)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leadership_goes_to_whoever_lacks_least_and_was_not_asked() {
        let replication =
            [(1, Some(9)), (2, Some(9)), (3, Some(4)), (4, None)].map(|(id, it)| (NodeId(id), it));
        let replication = BTreeMap::from(replication);
        let mut asked = vec![NodeId(1)]; // the leader itself
        for expected in [2, 3, 4] {
            let heir = heir(&replication, |id| !asked.contains(&id));
            assert_eq!(heir, Some(NodeId(expected)));
            asked.extend(heir);
        }
        assert_eq!(heir(&replication, |id| !asked.contains(&id)), None);
    }

    #[test]
    fn starts_are_refused_before_everything_is_and_both_recover() {
        let folder = tempfile::tempdir().unwrap();
        let marks = DiskMarks {
            soft_percent: 15,
            hard_percent: 5,
        };
        let disk = Disk::new(folder.path(), marks);
        disk.set(10, 100);
        assert!(disk.verify_starts().is_err() && disk.verify_proposals().is_ok());
        disk.set(4, 100);
        assert!(disk.verify_proposals().is_err() && disk.is_below_hard());
        disk.set(50, 100);
        assert!(disk.verify_starts().is_ok() && !disk.is_below_hard());
    }
}
