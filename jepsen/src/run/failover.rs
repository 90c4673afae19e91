//! From a fault to the first completed step of the group it hit.
//!
//! Invariant: only a step counts that was granted by the new leader, which its fence tells: that is the log index of its grant, and
//! the new leader's epoch is the index of its own first entry. A step that the old leader had granted may end at any time and says
//! nothing. Not here: which faults (`nemesis`).

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::Field;
use crate::records::{Body, BodyMoment, WORKERS_PREFIX};

/// After so long nothing is waited for any more; the line says so.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// The file of all times.
const FILE: &str = "failover.csv";
/// Steps that are kept: some minutes of load.
const DONE_MAX: usize = 100_000;

/// A fault whose end is waited for.
#[derive(Debug, Clone)]
pub struct Lost {
    /// When it was lost.
    pub t: u64,
    /// The fault's name.
    pub fault: String,
    /// The node.
    pub target: String,
    /// The group that it led.
    pub group: u32,
    /// Its epoch there.
    pub epoch: u64,
}

/// A step that has been done.
#[derive(Debug, Clone)]
struct Done {
    t: u64,
    group: u32,
    index: u64,
}

/// All times so far.
#[derive(Debug)]
pub struct Failovers {
    folder: PathBuf,
    file: Mutex<Option<File>>,
    times_ms: Mutex<Vec<(String, Option<f64>)>>,
    tail: Mutex<Tail>,
}

#[derive(Debug, Default)]
struct Tail {
    /// How far each file was read.
    read: HashMap<PathBuf, u64>,
    done: Vec<Done>,
}

impl Failovers {
    /// Of the run in this folder.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            file: Mutex::new(None),
            times_ms: Mutex::default(),
            tail: Mutex::default(),
        }
    }

    /// Times by fault, in milliseconds; none where no step was done in time.
    pub fn times_ms(&self) -> Vec<(String, Option<f64>)> {
        self.times_ms.lock().clone()
    }

    fn note(&self, lost: &Lost, ms: Option<f64>) {
        let text = ms.map_or_else(String::new, |ms| format!("{ms:.3}"));
        let line = format!("{},{},{},{text}\n", lost.t, lost.fault, lost.target);
        let mut file = self.file.lock();
        if file.is_none() {
            *file = File::create(self.folder.join(FILE)).ok();
            if let Some(fresh) = file.as_mut() {
                // The file repeats what the live lines say; without it the run is still whole.
                let _ = fresh.write_all(b"t,fault,target,ms\n");
            }
        }
        if let Some(file) = file.as_mut() {
            let _ = file.write_all(line.as_bytes());
        }
        self.times_ms.lock().push((lost.fault.clone(), ms));
    }

    /// Reads on what workers wrote.
    fn look(&self, group_of: impl Fn(&str) -> u32) -> io::Result<()> {
        let mut tail = self.tail.lock();
        for entry in fs::read_dir(&self.folder)?.flatten() {
            let path = entry.path();
            let name = entry.file_name();
            if !name.to_string_lossy().starts_with(WORKERS_PREFIX) {
                continue;
            }
            let from = tail.read.get(&path).copied().unwrap_or_default();
            let (text, read) = whole_lines(&path, from)?;
            tail.read.insert(path, read);
            for line in text.lines() {
                let Ok(body) = serde_json::from_str::<Body>(line) else {
                    continue;
                };
                if body.what == BodyMoment::Done {
                    tail.done.push(Done {
                        t: body.t,
                        group: group_of(&body.run),
                        index: index_of(body.fence),
                    });
                }
            }
        }
        let many = tail.done.len().saturating_sub(DONE_MAX);
        tail.done.drain(..many);
        Ok(())
    }

    fn first(&self, lost: &Lost, epoch: u64) -> Option<u64> {
        let tail = self.tail.lock();
        let counts = tail
            .done
            .iter()
            .filter(|it| it.group == lost.group && it.t > lost.t && it.index > epoch);
        counts.map(|it| it.t).min()
    }
}

/// The log index of the grant that a fence numbers.
fn index_of(fence: u64) -> u64 {
    fence >> 16 & ((1 << 40) - 1)
}

/// What stands in a file from a place on, up to its last whole line.
fn whole_lines(path: &Path, from: u64) -> io::Result<(String, u64)> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let whole = bytes
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1);
    bytes.truncate(whole);
    Ok((
        String::from_utf8_lossy(&bytes).into_owned(),
        from + whole as u64,
    ))
}

/// Waits for the first step under a new leader, and writes down and says how long that took.
pub async fn follow(field: Arc<Field>, lost: Lost) {
    let until = tokio::time::Instant::now() + GIVEN_UP_AFTER;
    let mut new_epoch = None;
    let mut led_by = (String::new(), 0);
    while tokio::time::Instant::now() < until {
        if new_epoch.is_none()
            && let Some(leader) = field.leader(lost.group).await
            && leader.epoch > lost.epoch
        {
            new_epoch = Some(leader.epoch);
            led_by = (leader.member.name.clone(), leader.term);
        }
        if let Some(epoch) = new_epoch {
            // A file that cannot be read now is read the next time.
            let _ = field.failovers.look(|run| field.group_of(run));
            if let Some(t) = field.failovers.first(&lost, epoch) {
                let ms = f64::from(u32::try_from((t - lost.t) / 1000).unwrap_or(u32::MAX)) / 1000.0;
                field.failovers.note(&lost, Some(ms));
                let Lost { fault, target, .. } = &lost;
                field.say(&format!(
                    "first step done +{:.2} s after {fault} {target} (group {}, {}, term {})",
                    ms / 1000.0,
                    lost.group,
                    led_by.0,
                    led_by.1
                ));
                return;
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    field.failovers.note(&lost, None);
    field.say(&format!(
        "no step done within {GIVEN_UP_AFTER:?} after {} {} (group {})",
        lost.fault, lost.target, lost.group
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_tells_the_index_of_its_grant() {
        let fence = (3_u64 << 56) | (907 << 16) | 2;
        assert_eq!(index_of(fence), 907);
    }

    #[test]
    fn half_a_line_is_read_once_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        fs::write(&path, "one\ntw").unwrap();
        assert_eq!(whole_lines(&path, 0).unwrap(), ("one\n".to_string(), 4));
        fs::write(&path, "one\ntwo\n").unwrap();
        assert_eq!(whole_lines(&path, 4).unwrap(), ("two\n".to_string(), 8));
    }
}
