//! A machine that is too small: a node gets a sliver of a processor, or no more memory.
//!
//! Invariant: a node is put into a group of its own, made here and removed here; either counts once the kernel says that it held
//! the node up, or ended it. Groups that a killed harness left are removed by the next. Not here: what the node does about it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::aim::{MOSTLY_LEADERS, take_node};
use super::network::suspicion;
use super::process::{MayEnd, follow, start_again};
use crate::clock::monotonic_ns;
use crate::dice::Dice;
use crate::records::FaultStatus::{Healed, Indeterminate, Installed, Skipped};
use crate::run::{Field, Member};

/// Of each period, in microseconds: five of a hundred.
const PERIOD_US: u32 = 100_000;
const SLIVER_US: u32 = 5_000;
const SLIVER_FOR_MS: (u64, u64) = (2500, 8000);
/// A node has something to do many times in each period.
const HELD_UP_WITHIN: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What a node may take beyond what it has: less than a batch of the log.
const MEMORY_BYTES: u32 = 512 * 1024;
/// A node of some load takes memory many times a second.
const ENDED_WITHIN: Duration = Duration::from_secs(15);
/// The name of each group: this, the harness's pid, the node.
const PREFIX: &str = "holdfast-jepsen-";
/// A group is busy for a moment after its last process has left.
const REMOVED_WITHIN: Duration = Duration::from_secs(2);

/// Of which version the groups of a controller are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// Where groups with a controller can be made.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Base {
    version: Version,
    /// Below this folder.
    folder: PathBuf,
    /// Where this program is itself, and its children with it.
    own: PathBuf,
}

/// Why a node cannot be given a sliver of a processor; `None`: it can. Tried once.
pub(super) fn lacks_cpu() -> Option<&'static str> {
    cpu_base().as_ref().err().map(String::as_str)
}

/// The same of memory.
pub(super) fn lacks_memory() -> Option<&'static str> {
    memory_base().as_ref().err().map(String::as_str)
}

fn cpu_base() -> &'static Result<Base, String> {
    static FOUND: OnceLock<Result<Base, String>> = OnceLock::new();
    FOUND.get_or_init(|| find("cpu", Group::sliver))
}

fn memory_base() -> &'static Result<Base, String> {
    static FOUND: OnceLock<Result<Base, String>> = OnceLock::new();
    FOUND.get_or_init(|| find("memory", Group::no_more))
}

fn find(controller: &str, rule: fn(&Group) -> io::Result<()>) -> Result<Base, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("needs root, for control groups".to_string());
    }
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (mounts, own) = (read("/proc/self/mountinfo"), read("/proc/self/cgroup"));
    let offers = |folder: &Path| {
        let offered = fs::read_to_string(folder.join("cgroup.subtree_control"));
        offered.is_ok_and(|it| it.split_whitespace().any(|it| it == controller))
    };
    let base = base_in(&mounts, &own, controller, offers);
    let base = base.ok_or_else(|| format!("needs control groups with {controller}"))?;
    sweep(&base.folder);
    let tried = Group::make(&base, "probe").and_then(|group| {
        let set = rule(&group);
        set.and(group.remove())
    });
    match tried {
        Ok(()) => Ok(base),
        Err(cause) => Err(format!("control groups cannot be made: {cause}")),
    }
}

/// From `/proc/self/mountinfo` and `/proc/self/cgroup`: version one if it has the controller, else the nearest group of version two
/// that offers it to groups below.
fn base_in(
    mounts: &str,
    own: &str,
    controller: &str,
    offers: impl Fn(&Path) -> bool,
) -> Option<Base> {
    let own_path = |wants: &dyn Fn(&str) -> bool| {
        own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let controllers = parts.next()?;
            wants(controllers).then_some(parts.next()?)
        })
    };
    // ID, parent, device, root, mount point, options …, a dash, type, source, options.
    let mounted = |kind: &str, wants: &dyn Fn(&str) -> bool| {
        mounts.lines().find_map(|line| {
            let (front, back) = line.split_once(" - ")?;
            let mut back = back.split(' ');
            let (is, options) = (back.next()? == kind, back.nth(1)?);
            let at = front.split(' ').nth(4)?;
            (is && wants(options)).then(|| PathBuf::from(at))
        })
    };
    let has = |list: &str| list.split(',').any(|it| it == controller);
    if let Some(at) = mounted("cgroup", &has) {
        let path = own_path(&has).unwrap_or("/");
        let own = at.join(path.trim_start_matches('/'));
        return Some(Base {
            version: Version::One,
            folder: own.clone(),
            own,
        });
    }
    let at = mounted("cgroup2", &|_| true)?;
    let path = own_path(&str::is_empty).unwrap_or("/");
    let own = at.join(path.trim_start_matches('/'));
    let mut above = own.ancestors().take_while(|it| it.starts_with(&at));
    let folder = above.find(|it| offers(it))?.to_owned();
    Some(Base {
        version: Version::Two,
        folder,
        own,
    })
}

/// Removes groups of harnesses that are gone. One that somebody lives in stays: it cannot be removed.
fn sweep(folder: &Path) {
    let Ok(all) = fs::read_dir(folder) else {
        return;
    };
    for entry in all.flatten() {
        let name = entry.file_name();
        let is_left = pid_of(&name.to_string_lossy())
            .is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists());
        if is_left {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Whose group this is, if it is one of ours.
fn pid_of(name: &str) -> Option<u32> {
    let (pid, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    pid.parse().ok()
}

/// A group of one node.
struct Group {
    base: Base,
    folder: PathBuf,
}

impl Group {
    fn make(base: &Base, name: &str) -> io::Result<Self> {
        let folder = base
            .folder
            .join(format!("{PREFIX}{}-{name}", std::process::id()));
        fs::create_dir(&folder)?;
        Ok(Self {
            base: base.clone(),
            folder,
        })
    }

    fn set(&self, file: &str, value: &str) -> io::Result<()> {
        fs::write(self.folder.join(file), value)
    }

    fn sliver(&self) -> io::Result<()> {
        match self.base.version {
            Version::One => {
                self.set("cpu.cfs_period_us", &PERIOD_US.to_string())?;
                self.set("cpu.cfs_quota_us", &SLIVER_US.to_string())
            }
            Version::Two => self.set("cpu.max", &format!("{SLIVER_US} {PERIOD_US}")),
        }
    }

    /// So little that the node's next work is too much.
    fn no_more(&self) -> io::Result<()> {
        match self.base.version {
            Version::One => self.set("memory.limit_in_bytes", &MEMORY_BYTES.to_string()),
            Version::Two => self.set("memory.max", &MEMORY_BYTES.to_string()),
        }
    }

    /// How many processes the kernel has ended for want of memory.
    fn ended(&self) -> u64 {
        let file = match self.base.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        let shown = fs::read_to_string(self.folder.join(file));
        shown.map_or(0, |it| number_of(&it, "oom_kill"))
    }

    /// Puts a process with all its threads into it.
    fn take_in(&self, pid: u32) -> io::Result<()> {
        self.set("cgroup.procs", &pid.to_string())
    }

    /// How often the kernel held up who is in it.
    fn held_up(&self) -> u64 {
        let shown = fs::read_to_string(self.folder.join("cpu.stat"));
        shown.map_or(0, |it| number_of(&it, "nr_throttled"))
    }

    /// Puts whoever is in it back to where this program is, and removes it.
    fn remove(&self) -> io::Result<()> {
        let until = Instant::now() + REMOVED_WITHIN;
        loop {
            let inside = fs::read_to_string(self.folder.join("cgroup.procs"))?;
            for pid in inside.lines() {
                // One that ends meanwhile needs no other place.
                let _ = fs::write(self.base.own.join("cgroup.procs"), pid);
            }
            match fs::remove_dir(&self.folder) {
                Err(cause) if Instant::now() > until => return Err(cause),
                Err(_) => std::thread::sleep(LOOK_EVERY),
                Ok(()) => return Ok(()),
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.folder.exists() {
            // The next harness sweeps what is left.
            let _ = self.remove();
        }
    }
}

/// The number behind a name, in lines of a name and a number.
fn number_of(shown: &str, name: &str) -> u64 {
    let mut lines = shown.lines().filter_map(|it| it.split_once(' '));
    let found = lines.find(|it| it.0 == name);
    found.and_then(|it| it.1.trim().parse().ok()).unwrap_or(0)
}

/// A node gets five of a hundred of one processor.
pub(super) async fn cpu(field: &Arc<Field>, dice: &mut Dice) {
    const FAULT: &str = "cpu";
    let time = Duration::from_millis(dice.between(SLIVER_FOR_MS.0, SLIVER_FOR_MS.1));
    let Ok(base) = cpu_base() else {
        field.record(FAULT, &[], Skipped, "no control groups");
        return;
    };
    let Some((member, leader, _taken)) = take_node(field, dice, FAULT, MOSTLY_LEADERS).await else {
        return;
    };
    let targets = [member.name.as_str()];
    let t = monotonic_ns();
    let group = match confine(base, &member, Group::sliver) {
        Ok(group) => group,
        Err(cause) => {
            field.record_at(t, FAULT, &targets, Indeterminate, &cause.to_string());
            return;
        }
    };
    let until = tokio::time::Instant::now() + HELD_UP_WITHIN;
    while group.held_up() == 0 && tokio::time::Instant::now() < until {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    if group.held_up() > 0 {
        field.record_at(t, FAULT, &targets, Installed, "5 % of a processor");
    } else {
        field.record_at(t, FAULT, &targets, Indeterminate, "it was never held up");
    }
    field.hold(time).await;
    let held_up = group.held_up();
    match group.remove() {
        Ok(()) => {
            let what = suspicion(field, leader.as_ref()).await;
            let note = format!("held up {held_up} times; {what}");
            field.record(FAULT, &targets, Healed, note.trim_end_matches("; "))
        }
        Err(cause) => field.record(FAULT, &targets, Indeterminate, &cause.to_string()),
    };
}

/// A node gets hardly any memory beyond what it has, and the kernel ends it.
pub(super) async fn oom(field: &Arc<Field>, dice: &mut Dice) {
    const FAULT: &str = "oom";
    let Ok(base) = memory_base() else {
        field.record(FAULT, &[], Skipped, "no control groups");
        return;
    };
    let Some((member, leader, _taken)) = take_node(field, dice, FAULT, MOSTLY_LEADERS).await else {
        return;
    };
    let targets = [member.name.as_str()];
    let _may_end = MayEnd::of(&member);
    let began = monotonic_ns();
    let group = match confine(base, &member, Group::no_more) {
        Ok(group) => group,
        Err(cause) => {
            field.record(FAULT, &targets, Indeterminate, &cause.to_string());
            return;
        }
    };
    let until = tokio::time::Instant::now() + ENDED_WITHIN;
    while member.process.is_running() && tokio::time::Instant::now() < until {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let t = monotonic_ns();
    let ended = !member.process.is_running();
    let (status, note) = match (ended, group.ended()) {
        (true, 1..) => {
            let ms = (t - began) / 1_000_000;
            (Installed, format!("ended by the kernel after {ms} ms"))
        }
        (true, 0) => (Indeterminate, "it ended, and not by the kernel".to_string()),
        (false, _) => (Indeterminate, "what it has is enough for it".to_string()),
    };
    field.record_at(began, FAULT, &targets, status, &note);
    if let Some(leader) = leader.filter(|_| ended) {
        follow(field, t, FAULT, &leader);
    }
    drop(group);
    start_again(field, FAULT, &member).await;
}

fn confine(base: &Base, member: &Member, rule: fn(&Group) -> io::Result<()>) -> io::Result<Group> {
    let group = Group::make(base, &member.name)?;
    rule(&group)?;
    let pid = member.process.pid();
    group.take_in(pid.ok_or_else(|| io::Error::other("it has ended"))?)?;
    Ok(group)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
        32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
        33 31 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n";
    const TWO: &str =
        "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn groups_of_version_one_are_made_beside_our_own() {
        let own = "5:memory:/a\n3:cpu,cpuacct:/jobs/7\n0::/\n";
        let found = base_in(ONE, own, "cpu", |_| false).unwrap();
        assert_eq!(found.version, Version::One);
        assert_eq!(found.folder, Path::new("/sys/fs/cgroup/cpu,cpuacct/jobs/7"));
        assert_eq!(found.own, found.folder);
    }

    #[test]
    fn groups_of_version_two_are_made_where_the_controller_is_offered() {
        let own = "0::/user.slice/session-3.scope\n";
        let slice = Path::new("/sys/fs/cgroup/user.slice");
        let found = base_in(TWO, own, "cpu", |it| it == slice).unwrap();
        assert_eq!(found.version, Version::Two);
        assert_eq!(found.folder, slice);
        assert_eq!(found.own, slice.join("session-3.scope"));
        assert_eq!(base_in(TWO, own, "cpu", |_| false), None);
    }

    #[test]
    fn a_machine_without_the_controller_has_no_place_for_groups() {
        assert_eq!(base_in("", "", "cpu", |_| true), None);
        assert_eq!(base_in(ONE, "", "io", |_| true), None);
    }

    #[test]
    fn only_our_own_groups_tell_a_pid() {
        assert_eq!(pid_of("holdfast-jepsen-4711-n1"), Some(4711));
        for other in [
            "docker",
            "holdfast-jepsen-",
            "holdfast-jepsen-x-n1",
            "holdfast-jepsen-1",
        ] {
            assert_eq!(pid_of(other), None, "{other}");
        }
    }

    #[test]
    fn numbers_are_found_by_their_whole_name() {
        let shown = "nr_periods 8\nnr_throttled 5\nthrottled_time 12\n";
        assert_eq!(number_of(shown, "nr_throttled"), 5);
        assert_eq!(number_of(shown, "nr"), 0);
    }
}
