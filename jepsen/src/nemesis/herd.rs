//! A herd: many workers whose leader dies under them, all of which attach to the next one at once.
//!
//! Invariant: it counts only once all of them were seen attached, and then the leader seen dead. What follows is counted by the log of
//! the next leader and by the network, a second at a time, and more than the bounds is a violation. Not here: what a worker does.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::aim::some_leader;
use super::process::{follow, is_gone, start_again};
use crate::clock::monotonic_ns;
use crate::cluster::Process;
use crate::dice::Dice;
use crate::records::FaultStatus::{Indeterminate, Installed, Skipped};
use crate::records::{Applied, TapEvent};
use crate::run::{Field, Leader, Member, Taken};

/// So many workers.
const HERD: u16 = 500;
const NAME: &str = "herd";
/// A debug build on a busy machine has them all attached by then.
const ATTACHED_WITHIN: Duration = Duration::from_secs(60);
/// Other faults are over by then, as a rule.
const TURN_WITHIN: Duration = Duration::from_secs(15);
/// What comes of the leader's death is over by then.
const WATCHED_FOR: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(250);
const LEAVES_WITHIN: Duration = Duration::from_secs(20);
const SECOND: Duration = Duration::from_secs(1);
const SECOND_NS: u64 = 1_000_000_000;
/// Each attaches to the next leader once; a connection may break twice more while nodes find each other.
const ATTACHES_OF_EACH_MAX: u64 = 3;
/// Of each partition and each worker, in the worst second: a greeting, and the beats and news of some hundred runs.
const BYTES_OF_EACH_MAX: u64 = 32 * 1024;
/// For each call of the load, in the worst second: a run has a drive and a few steps, and what stood still is caught up on.
const GRANTS_OF_A_CALL_MAX: u64 = 40;

/// What a tap tells of some seconds.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counted {
    attaches: BTreeMap<u64, u64>,
    grants: BTreeMap<u64, u64>,
}

impl Counted {
    /// Counts each entry once, by the second in which it was applied first.
    fn of(lines: impl Iterator<Item = Applied>, from: u64) -> Self {
        let mut counted = Self::default();
        let mut newest: BTreeMap<u32, u64> = BTreeMap::new();
        for line in lines {
            let newest = newest.entry(line.group).or_default();
            if line.index <= *newest {
                continue; // told again after a restart
            }
            *newest = line.index;
            let Some(after) = line.t.checked_sub(from) else {
                continue;
            };
            for event in &line.events {
                let of = match event {
                    TapEvent::SessionAttached { .. } => &mut counted.attaches,
                    TapEvent::LeaseBegan { .. } => &mut counted.grants,
                    _ => continue,
                };
                *of.entry(after / SECOND_NS).or_default() += 1;
            }
        }
        counted
    }
}

fn peak(of: &BTreeMap<u64, u64>) -> u64 {
    of.values().copied().max().unwrap_or_default()
}

/// A moment, and where the taps of all nodes ended then.
struct Mark {
    t: u64,
    ends: BTreeMap<u16, u64>,
}

impl Mark {
    fn now(field: &Field) -> Self {
        let end = |path: &Path| std::fs::metadata(path).map_or(0, |it| it.len());
        let members = field.members();
        Self {
            t: monotonic_ns(),
            ends: members.iter().map(|it| (it.id, end(it.tap()))).collect(),
        }
    }

    /// What a node has applied since.
    async fn count(&self, member: &Member) -> Counted {
        let from = self.ends.get(&member.id).copied().unwrap_or_default();
        let (path, t) = (member.tap().to_owned(), self.t);
        let counted = tokio::task::spawn_blocking(move || {
            // A tap that cannot be read has shown nothing.
            let text = behind(&path, from).unwrap_or_default();
            let lines = text.lines();
            // Half a line at either end is none.
            Counted::of(lines.filter_map(|it| serde_json::from_str(it).ok()), t)
        });
        counted.await.unwrap_or_default()
    }
}

/// What stands in a file behind a place.
fn behind(path: &Path, from: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

pub(super) async fn strike(field: &Arc<Field>, dice: &mut Dice) {
    if field.options.own.is_some() {
        field.record(NAME, &[], Skipped, "workers are somebody's own");
        return;
    }
    let began = Mark::now(field);
    let herd = match field.start_herd(NAME, HERD) {
        Ok(herd) => herd,
        Err(cause) => {
            field.record(NAME, &[], Indeterminate, &cause.to_string());
            return;
        }
    };
    match attached(field, &herd, &began).await {
        Ok(()) => kill_under(field, dice).await,
        Err(why) => {
            field.record(NAME, &[], Indeterminate, &why);
        }
    }
    // How it leaves is of interest to the cluster alone: its sessions end or expire.
    let _ = herd.stop(LEAVES_WITHIN).await;
}

/// Until every worker of the herd has a session in every partition.
async fn attached(field: &Arc<Field>, herd: &Process, began: &Mark) -> Result<(), String> {
    let until = tokio::time::Instant::now() + ATTACHED_WITHIN;
    let all = u64::from(HERD) * u64::from(field.options.partitions);
    loop {
        let mut most = 0;
        for member in field.members() {
            let counted = began.count(&member).await;
            most = most.max(counted.attaches.values().sum());
        }
        if most >= all {
            return Ok(());
        }
        if !herd.is_running() {
            return Err(format!("the herd ended: {}", herd.log_tail(3)));
        }
        if tokio::time::Instant::now() > until || !field.faults_go_on() {
            return Err(format!("only {most} of {all} were attached in time"));
        }
        field.hold(LOOK_EVERY).await;
    }
}

async fn kill_under(field: &Arc<Field>, dice: &mut Dice) {
    let Some((leader, _taken)) = leader_to_take(field, dice).await else {
        field.record(
            NAME,
            &[],
            Skipped,
            "nobody leads, or too few others are whole",
        );
        return;
    };
    let member = Arc::clone(&leader.member);
    let targets = [member.name.as_str()];
    let pid = member.process.pid();
    let mark = Mark::now(field);
    if member.process.kill9().is_err() || !is_gone(pid) {
        field.record(NAME, &targets, Indeterminate, "it is not seen to be gone");
        return;
    }
    let note = format!("kill -9 under {HERD} workers");
    field.record_at(mark.t, NAME, &targets, Installed, &note);
    follow(field, mark.t, NAME, &leader);
    let bytes = bytes_in_the_worst_second(field).await;
    start_again(field, NAME, &member).await;
    judge(field, &mark, member.id, bytes).await;
}

/// A herd is dear: it waits for its turn.
async fn leader_to_take(field: &Arc<Field>, dice: &mut Dice) -> Option<(Leader, Taken)> {
    let until = tokio::time::Instant::now() + TURN_WITHIN;
    while field.faults_go_on() && tokio::time::Instant::now() < until {
        if let Some(leader) = some_leader(field, dice).await
            && let Some(taken) = field.take(&[leader.member.id])
        {
            return Some((leader, taken));
        }
        field.hold(LOOK_EVERY).await;
    }
    None
}

async fn bytes_in_the_worst_second(field: &Arc<Field>) -> u64 {
    let until = tokio::time::Instant::now() + WATCHED_FOR;
    let (mut last, mut worst) = (field.network.bytes().await, 0);
    while tokio::time::Instant::now() < until {
        tokio::time::sleep(SECOND).await;
        let now = field.network.bytes().await;
        worst = now.saturating_sub(last).max(worst);
        last = now;
    }
    worst
}

async fn judge(field: &Arc<Field>, mark: &Mark, killed: u16, bytes: u64) {
    let mut counted = Counted::default();
    for member in field.members().iter().filter(|it| it.id != killed) {
        let other = mark.count(member).await;
        if other.attaches.len() >= counted.attaches.len() {
            counted = other;
        }
    }
    let workers = u64::from(HERD) + u64::from(field.options.workers);
    let seats = workers * u64::from(field.options.partitions);
    let attaches: u64 = counted.attaches.values().sum();
    let (attached, granted) = (peak(&counted.attaches), peak(&counted.grants));
    field.say(&format!(
        "{NAME}: {attaches} attaches, in the worst second {attached} attaches, {granted} grants, {} KiB",
        bytes / 1024
    ));
    let bounds = [
        ("attaches", attaches, seats * ATTACHES_OF_EACH_MAX),
        (
            "grants in a second",
            granted,
            u64::from(field.options.rate) * GRANTS_OF_A_CALL_MAX,
        ),
        ("bytes in a second", bytes, seats * BYTES_OF_EACH_MAX),
    ];
    for (what, seen, bound) in bounds {
        if seen > bound {
            let why = format!(
                "herd: {seen} {what} after the leader of {workers} workers died, more than {bound}"
            );
            field.saw(&why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Work;

    fn line(t: u64, index: u64, events: Vec<TapEvent>) -> Applied {
        Applied {
            t,
            group: 1,
            index,
            epoch: 1,
            in_force: 1,
            now: 0,
            commands: Vec::new(),
            events,
            digest: String::new(),
        }
    }

    fn attach(session: u64) -> TapEvent {
        TapEvent::SessionAttached {
            session,
            process: String::new(),
        }
    }

    fn grant() -> TapEvent {
        TapEvent::LeaseBegan {
            work: Work::Drive {
                run: "r".to_string(),
            },
            session: 1,
            fence: 1,
            attempt: None,
        }
    }

    #[test]
    fn attaches_and_grants_are_counted_by_the_second_and_each_once() {
        let second = SECOND_NS;
        let lines = vec![
            line(5, 1, vec![attach(1)]),
            line(10 + second, 2, vec![attach(2), attach(3), grant()]),
            line(10 + 2 * second, 3, vec![attach(4)]),
            line(10 + 3 * second, 2, vec![attach(2), attach(3), grant()]),
        ];
        let counted = Counted::of(lines.into_iter(), 10);
        assert_eq!(counted.attaches, [(1, 2), (2, 1)].into());
        assert_eq!(counted.grants, [(1, 1)].into());
        assert_eq!((peak(&counted.attaches), peak(&BTreeMap::new())), (2, 0));
    }
}
