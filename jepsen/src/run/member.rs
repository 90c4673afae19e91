//! A node of the run: its process, its data, and its place in the network.
//!
//! Invariant: it is started again only after half a line of its tap was cut off, so that every line there is whole. Not here: who
//! breaks it (`nemesis`), the others (`field`).

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::Options;
use super::field::{FieldError, system};
use crate::cluster::{Process, ProcessError, ProcessSpec};
use crate::http;
use crate::nemesis::Kind;
use crate::network::{Network, Place};
use crate::records::TAP_PREFIX;
use crate::store::Store;

/// Room for the data of a node whose disk is to be filled.
const SMALL_DISK: &str = "size=384m";

/// A node.
#[derive(Debug)]
pub struct Member {
    /// Its id.
    pub id: u16,
    /// `n1`.
    pub name: String,
    /// Its process.
    pub process: Process,
    /// Its data.
    pub data: PathBuf,
    /// Whether its data lie on a small disk of their own.
    pub small_disk: bool,
    /// Whether a fault makes it end by itself just now.
    pub may_end: AtomicBool,
    tap: PathBuf,
    /// What arms its failpoints and moves its clocks, where it was built with such.
    points: PathBuf,
    clock: PathBuf,
    place: Place,
}

/// What a node is started from.
pub(super) struct Birth<'a> {
    pub(super) id: u16,
    pub(super) options: &'a Options,
    pub(super) store: &'a Store,
    pub(super) has_tap: bool,
    pub(super) has_points: bool,
}

impl Member {
    pub(super) fn start(birth: Birth<'_>, network: &Network) -> Result<Self, FieldError> {
        let Birth {
            id, options, store, ..
        } = birth;
        let name = format!("n{id}");
        let place = network
            .place(&name)
            .map_err(system("no place in the network for a node"))?;
        let [api, peer, admin] = place.listens;
        let data = store.path("data").join(&name);
        std::fs::create_dir_all(&data).map_err(system("a data folder cannot be made"))?;
        let small_disk = options.nemeses.contains(&Kind::DiskFull) && mount_small(&data);
        let mut spec =
            ProcessSpec::new(&name, &options.holdfast, store.path(&format!("{name}.log")))
                .arg("serve")
                .env("HOLDFAST_NODE__ID", id.to_string())
                .env("HOLDFAST_NODE__DATA", data.display().to_string())
                .env("HOLDFAST_LISTEN__API", api.to_string())
                .env("HOLDFAST_LISTEN__PEER", peer.to_string())
                .env("HOLDFAST_LISTEN__ADMIN", admin.to_string())
                .env("HOLDFAST_ADVERTISE__API", &*place.api)
                .env("HOLDFAST_ADVERTISE__PEER", &*place.peer)
                .space(place.space.clone());
        if !api.ip().is_loopback() {
            spec = spec.env("HOLDFAST_INSECURE", "true");
        }
        if !small_disk {
            // The disk is mostly for other things, and how full it is no part of the test.
            spec = spec
                .env("HOLDFAST_DISK__SOFT", "2%")
                .env("HOLDFAST_DISK__HARD", "1%");
        }
        let tap = store.path(&format!("{TAP_PREFIX}{id}.jsonl"));
        if birth.has_tap {
            spec = spec.arg("--chaos-tap").arg(&tap);
        }
        let points = store.path(&format!("failpoints.{name}"));
        let clock = store.path(&format!("clock.{name}"));
        if birth.has_points {
            spec = spec
                .env("HOLDFAST_FAILPOINTS_FILE", points.display().to_string())
                .env("HOLDFAST_CHAOS_CLOCK", clock.display().to_string());
        }
        for (key, value) in &options.node_env {
            spec = spec.env(key, value.as_str());
        }
        Ok(Self {
            id,
            process: Process::start(spec)?,
            name,
            data,
            small_disk,
            may_end: AtomicBool::new(false),
            tap,
            points,
            clock,
            place,
        })
    }

    /// Its API, past all faults.
    pub fn direct(&self) -> String {
        self.place.direct.to_string()
    }
    /// Its API as clients and workers know it.
    pub fn api(&self) -> String {
        self.place.api.clone()
    }
    /// Its peer port as other nodes know it.
    pub fn peer(&self) -> String {
        self.place.peer.clone()
    }
    /// What it applied, as it writes it down; no such file where the binary has no tap.
    pub fn tap(&self) -> &Path {
        &self.tap
    }
    /// Runs it again after it has ended.
    ///
    /// # Errors
    /// It still runs, or cannot be started.
    pub fn restart(&self) -> Result<(), ProcessError> {
        if !self.process.is_running() {
            // Half a line that a killed process left is no line; the entry is told again when it is applied again.
            drop_torn_line(&self.tap);
        }
        self.process.restart()
    }
    /// Arms its failpoints anew.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn tell_points(&self, text: &str) -> io::Result<()> {
        replace(&self.points, text)
    }
    /// Moves its clocks.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn tell_clock(&self, text: &str) -> io::Result<()> {
        replace(&self.clock, text)
    }
    /// Whether it answers a path of its admin port with 200.
    pub async fn says_yes(&self, path: &str) -> bool {
        let asked = http::request(
            self.place.admin,
            "GET",
            path,
            b"",
            Duration::from_millis(500),
        )
        .await;
        asked.is_ok_and(|answer| answer.status == 200)
    }
}

/// Who leads a group.
#[derive(Debug, Clone)]
pub struct Leader {
    /// The node.
    pub member: Arc<Member>,
    /// Which group.
    pub group: u32,
    /// In which term.
    pub term: u64,
    /// Its epoch, as far as any node has applied it.
    pub epoch: u64,
}

/// Whether this binary writes what it applies.
pub(super) fn has_tap(options: &Options) -> bool {
    let tried = Command::new(&options.holdfast)
        .args(["serve", "--chaos-tap", "/dev/null", "--check-config"])
        .env("HOLDFAST_NODE__ID", "1")
        .output();
    tried.is_ok_and(|it| it.status.success())
}

/// Its reader finds the old text or the new one, and never a part.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    std::fs::write(&fresh, text)?;
    std::fs::rename(fresh, path)
}

/// The failpoints of this binary: none, unless it was built with them.
pub(super) fn points_of(options: &Options) -> Vec<String> {
    let told = Command::new(&options.holdfast)
        .args(["serve", "--list-failpoints"])
        .output();
    let Some(told) = told.ok().filter(|it| it.status.success()) else {
        return Vec::new();
    };
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    let names = text
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    names
        .filter(|it| it.contains("::"))
        .map(ToString::to_string)
        .collect()
}

/// Cuts what stands behind the last whole line.
fn drop_torn_line(path: &Path) {
    // A node without a tap has no file; one that cannot be read is found by whoever reads the run.
    let Ok(bytes) = std::fs::read(path) else {
        return;
    };
    let whole = bytes.iter().rposition(|byte| *byte == b'\n');
    let whole = whole.map_or(0, |at| at as u64 + 1);
    if whole < bytes.len() as u64
        && let Ok(file) = std::fs::File::options().write(true).open(path)
    {
        let _ = file.set_len(whole);
    }
}

fn mount_small(at: &Path) -> bool {
    let tried = Command::new("mount")
        .args(["-t", "tmpfs", "-o", SMALL_DISK, "holdfast-jepsen"])
        .arg(at)
        .output();
    tried.is_ok_and(|it| it.status.success())
}

pub(super) fn unmount(at: &Path) {
    // What cannot be unmounted goes with the machine; nothing depends on it.
    let _ = Command::new("umount").arg(at).output();
}

/// The letter of `/proc/PID/stat`, or `None` when the process is gone.
pub(crate) fn state_of(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_behind_the_last_whole_line_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tap.n1.jsonl");
        drop_torn_line(&path);
        assert!(!path.exists());
        for (before, after) in [("a\nb\n", "a\nb\n"), ("a\nb", "a\n"), ("b", ""), ("", "")] {
            std::fs::write(&path, before).unwrap();
            drop_torn_line(&path);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), after);
        }
    }
}
