//! Space on the data folder's disk, and its two marks.
//!
//! Invariant: below the soft mark new starts are refused while running runs finish; below the hard mark leadership moves
//! away, and where this node still leads, proposals are refused before the log can fill.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use tonic::Status;

use crate::{api::status, settings::DiskMarks};

/// What was seen last.
pub struct Disk {
    data: PathBuf,
    marks: DiskMarks,
    free_bytes: AtomicU64,
    free_percent: AtomicU64,
}

impl Disk {
    /// Of the data folder.
    pub fn new(data: &Path, marks: DiskMarks) -> Self {
        let disk = Self {
            data: data.to_owned(),
            marks,
            free_bytes: AtomicU64::new(u64::MAX),
            free_percent: AtomicU64::new(100),
        };
        disk.look();
        disk
    }

    /// Asks the system. Once a second is enough: a full log fills a few MiB in that time.
    pub fn look(&self) {
        let Ok(found) = rustix::fs::statvfs(&self.data) else {
            return tracing::warn!(data = %self.data.display(), "free space cannot be read");
        };
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        let all = found.f_blocks.saturating_mul(found.f_frsize).max(1);
        self.set(free, all);
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

#[cfg(test)]
mod tests {
    use super::*;

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
