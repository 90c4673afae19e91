//! Where a test run writes: one folder, one file per kind of line.
//!
//! Invariant: a line is written whole by one call and never again touched; a folder belongs to one run. Not here: the forms of the
//! lines (`records`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::Serialize;

/// The folder of one test run.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// Makes `root/workload/utc/` and points the link `root/latest` at it.
    ///
    /// # Errors
    /// The folder cannot be made or the link cannot be set.
    pub fn create(root: &Path, workload: &str) -> io::Result<Self> {
        let stamp = utc(SystemTime::now());
        let parent = root.join(workload);
        fs::create_dir_all(&parent)?;
        // Two runs may begin within the same second.
        let mut folder = parent.join(&stamp);
        let mut again = 2;
        while let Err(cause) = fs::create_dir(&folder) {
            if cause.kind() != io::ErrorKind::AlreadyExists || again > 1000 {
                return Err(cause);
            }
            folder = parent.join(format!("{stamp}-{again}"));
            again += 1;
        }
        let folder = fs::canonicalize(folder)?;
        let (link, fresh) = (
            root.join("latest"),
            root.join(format!("latest.{}", std::process::id())),
        );
        std::os::unix::fs::symlink(&folder, &fresh)?;
        fs::rename(fresh, link)?;
        Ok(Self { folder })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A file of lines in it.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn lines(&self, name: &str) -> io::Result<Lines> {
        Lines::open(&self.path(name))
    }

    /// Writes a whole file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, name: &str, text: &str) -> io::Result<()> {
        fs::write(self.path(name), text)
    }
}

/// A file that lines are appended to.
#[derive(Debug)]
pub struct Lines {
    file: Mutex<File>,
}

impl Lines {
    /// Opens it, and continues it if it exists.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self {
            file: Mutex::new(file),
        })
    }

    /// Appends one line.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn append<T: Serialize>(&self, line: &T) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.file.lock().write_all(&text)
    }
}

/// `2026-01-31T12-00-00Z`: sorts by time, and is a file name everywhere.
fn utc(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3600, rest % 3600 / 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}-{minute:02}-{second:02}Z")
}

/// Days since 1970 as a date of the Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let of_era = z % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_moment_is_written_as_its_date_in_utc() {
        let at = |seconds| utc(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00-00-00Z");
        assert_eq!(at(951_782_399), "2000-02-28T23-59-59Z");
        assert_eq!(at(951_782_400), "2000-02-29T00-00-00Z");
        assert_eq!(at(1_798_761_599), "2026-12-31T23-59-59Z");
    }

    #[test]
    fn the_link_points_at_the_newest_run() {
        let root = tempfile::tempdir().unwrap();
        let first = Store::create(root.path(), "mix").unwrap();
        let second = Store::create(root.path(), "mix").unwrap();
        assert_ne!(first.folder(), second.folder());
        let latest = fs::canonicalize(root.path().join("latest")).unwrap();
        assert_eq!(latest, second.folder());
    }
}
