//! Faults on processes: killed, stopped, paused, started with another clock.
//!
//! Invariant: a process is signalled by its supervisor only, and was seen dead or stopped before the fault counts.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::aim::{some_leader, take, take_follower, take_leader, take_node};
use crate::cluster::Process;
use crate::dice::Dice;
use crate::records::FaultStatus::{Healed, Indeterminate, Installed, Skipped};
use crate::run::{Field, Leader, Member, failover, state_of};

/// A killed process stays down for up to this long, but not for longer than half of an interval.
const DOWN_MAX: Duration = Duration::from_secs(10);
/// A graceful end: a leader hands over first.
const STOPS_WITHIN: Duration = Duration::from_secs(30);
/// Between two kills of a storm.
const STORM_EVERY: Duration = Duration::from_secs(2);
const STORM_FOR: Duration = Duration::from_secs(30);
/// Halves, wholes and triples of the longest election timeout and of a session's term, in milliseconds.
const PAUSES_MS: [u64; 6] = [200, 400, 1200, 2500, 5000, 15_000];
/// A node with another clock runs so long at least.
const CLOCK_FOR_MS: (u64, u64) = (3000, 10_000);
const CLOCK: &str = "HOLDFAST_TESTING__CLOCK_AHEAD";

fn down_for(field: &Field, dice: &mut Dice) -> Duration {
    let most = DOWN_MAX.min(field.options.interval / 2);
    // Within the election's time, so that it may come back as if nothing had happened.
    if dice.chance(20) {
        return Duration::ZERO;
    }
    let most = u64::try_from(most.as_millis()).unwrap_or_default();
    Duration::from_millis(dice.between(0, most))
}

/// Begins to measure from a fault to the first step under a new leader.
pub(super) fn follow(field: &Arc<Field>, t: u64, fault: &str, leader: &Leader) {
    let lost = failover::Lost {
        t,
        fault: fault.to_string(),
        target: leader.member.name.clone(),
        group: leader.group,
        epoch: leader.epoch,
    };
    tokio::spawn(failover::follow(Arc::clone(field), lost));
}

pub(super) async fn kill_leader(field: &Arc<Field>, dice: &mut Dice) {
    const FAULT: &str = "kill-leader";
    let down = down_for(field, dice);
    let Some((leader, _taken)) = take_leader(field, dice, FAULT).await else {
        return;
    };
    let member = Arc::clone(&leader.member);
    let pid = member.process.pid();
    // The moment before the signal: what the dead leader did lies before it.
    let t = crate::clock::monotonic_ns();
    if member.process.kill9().is_err() {
        field.record(FAULT, &[&member.name], Skipped, "it had ended");
        return;
    }
    let note = format!(
        "kill -9 (leader of group {}, term {})",
        leader.group, leader.term
    );
    if !is_gone(pid) {
        field.record(FAULT, &[&member.name], Indeterminate, &note);
        return;
    }
    field.record(FAULT, &[&member.name], Installed, &note);
    follow(field, t, FAULT, &leader);
    field.hold(down).await;
    start_again(field, FAULT, &member).await;
}

/// Back before anybody can have elected another: the election's time has not passed, and its old connections are just being reset.
pub(super) async fn kill_quick(field: &Arc<Field>, dice: &mut Dice) {
    const FAULT: &str = "kill-quick";
    let Some((leader, _taken)) = take_leader(field, dice, FAULT).await else {
        return;
    };
    let member = Arc::clone(&leader.member);
    let targets = [member.name.as_str()];
    let pid = member.process.pid();
    let t = crate::clock::monotonic_ns();
    if member.process.kill9().is_err() {
        field.record(FAULT, &targets, Skipped, "it had ended");
        return;
    }
    let gone = is_gone(pid);
    let back = member.restart();
    let ms = crate::clock::monotonic_ns().saturating_sub(t) / 1_000_000;
    let (status, note) = match back {
        Ok(()) if gone => (Installed, format!("kill -9, started again {ms} ms later")),
        Ok(()) => (Indeterminate, "its pid is there".to_string()),
        Err(cause) => (Indeterminate, cause.to_string()),
    };
    field.record_at(t, FAULT, &targets, status, &note);
    follow(field, t, FAULT, &leader);
    start_again(field, FAULT, &member).await;
}

pub(super) async fn kill_follower(field: &Arc<Field>, dice: &mut Dice) {
    const FAULT: &str = "kill";
    let down = down_for(field, dice);
    let Some((member, _taken)) = take_follower(field, dice, FAULT).await else {
        return;
    };
    kill(field, FAULT, &member);
    field.hold(down).await;
    start_again(field, FAULT, &member).await;
}

pub(super) fn is_gone(pid: Option<u32>) -> bool {
    pid.is_some_and(|pid| state_of(pid).is_none())
}

fn kill(field: &Arc<Field>, fault: &str, member: &Member) {
    let pid = member.process.pid();
    match member.process.kill9() {
        Ok(()) if is_gone(pid) => field.record(fault, &[&member.name], Installed, "kill -9"),
        Ok(()) => field.record(fault, &[&member.name], Indeterminate, "its pid is there"),
        Err(cause) => field.record(fault, &[&member.name], Skipped, &cause.to_string()),
    };
}

pub(super) async fn start_again(field: &Arc<Field>, fault: &str, member: &Member) {
    match field.start_again(member).await {
        Ok(()) => field.record(fault, &[&member.name], Healed, "started again"),
        Err(cause) => field.record(fault, &[&member.name], Indeterminate, &cause.to_string()),
    };
}

pub(super) async fn kill_many(field: &Arc<Field>, dice: &mut Dice, all: bool) {
    let fault = if all { "kill-all" } else { "majority" };
    let down = down_for(field, dice);
    let leader = some_leader(field, dice).await;
    let mut members = field.members();
    if !all {
        let first = leader.as_ref().map(|it| it.member.id);
        members.sort_by_key(|it| (Some(it.id) != first, it.id));
        members.truncate(members.len() / 2 + 1);
    }
    let ids: Vec<u16> = members.iter().map(|it| it.id).collect();
    let Some(_taken) = field.take_beyond(&ids) else {
        field.record(fault, &[], Skipped, "something else is broken");
        return;
    };
    let t = crate::clock::monotonic_ns();
    kill_all_of(field, fault, &members);
    if let Some(leader) = &leader {
        follow(field, t, fault, leader);
    }
    field.hold(down).await;
    start_all_of(field, fault, &members).await;
}

fn names(members: &[Arc<Member>]) -> Vec<&str> {
    members.iter().map(|it| it.name.as_str()).collect()
}

fn kill_all_of(field: &Arc<Field>, fault: &str, members: &[Arc<Member>]) {
    let dead = |member: &Arc<Member>| {
        let pid = member.process.pid();
        member.process.kill9().is_ok() && is_gone(pid)
    };
    let count = members.iter().filter(|it| dead(it)).count();
    let status = if count == members.len() {
        Installed
    } else {
        Indeterminate
    };
    field.record(
        fault,
        &names(members),
        status,
        &format!("kill -9, {count} of {}", members.len()),
    );
}

async fn start_all_of(field: &Arc<Field>, fault: &str, members: &[Arc<Member>]) {
    for member in members {
        // All at once: they need each other. One that does not start is found below.
        let _ = member.restart();
    }
    let mut status = Healed;
    let mut note = "started again".to_string();
    for member in members {
        if let Err(cause) = field.start_again(member).await {
            (status, note) = (Indeterminate, cause.to_string());
        }
    }
    field.record(fault, &names(members), status, &note);
}

pub(super) async fn rolling(field: &Arc<Field>) {
    const FAULT: &str = "stop";
    for member in field.members() {
        if !field.faults_go_on() {
            return;
        }
        let Some(_taken) = take(field, FAULT, &member) else {
            continue;
        };
        match stop(&member.process).await {
            Ok(()) => field.record(FAULT, &[&member.name], Installed, "SIGTERM, and it ended"),
            Err(why) => field.record(FAULT, &[&member.name], Indeterminate, &why),
        };
        start_again(field, FAULT, &member).await;
        if let Err(cause) = field.wait_for(&member, "/readyz", STOPS_WITHIN).await {
            field.say(&cause.to_string());
        }
    }
}

async fn stop(process: &Process) -> Result<(), String> {
    process.terminate().map_err(|cause| cause.to_string())?;
    match process.wait_exit(STOPS_WITHIN).await {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("it ended with {status}")),
        Err(cause) => {
            // Did not end in time: it is killed, and the note says so.
            let _ = process.kill9();
            Err(cause.to_string())
        }
    }
}

pub(super) async fn storm(field: &Arc<Field>, dice: &mut Dice) {
    const FAULT: &str = "storm";
    let members = field.members();
    let ids: Vec<u16> = members.iter().map(|it| it.id).collect();
    let Some(_taken) = field.take_beyond(&ids) else {
        field.record(FAULT, &[], Skipped, "something else is broken");
        return;
    };
    let until = tokio::time::Instant::now() + STORM_FOR;
    while tokio::time::Instant::now() < until && field.faults_go_on() {
        kill_all_of(field, FAULT, &members);
        for member in &members {
            let _ = member.restart();
            // Not all back at the same moment each time.
            tokio::time::sleep(Duration::from_millis(dice.between(0, 100))).await;
        }
        field.hold(STORM_EVERY).await;
    }
    start_all_of(field, FAULT, &members).await;
}

pub(super) async fn pause(field: &Arc<Field>, dice: &mut Dice) {
    const FAULT: &str = "pause";
    let time = Duration::from_millis(*dice.pick(&PAUSES_MS));
    let Some((member, leader, _taken)) = take_node(field, dice, FAULT, 70).await else {
        return;
    };
    let what = if leader.is_some() {
        "leader"
    } else {
        "follower"
    };
    let t = crate::clock::monotonic_ns();
    if !pause_process(
        field,
        FAULT,
        &member.process,
        &format!("{what} for {time:?}"),
    )
    .await
    {
        return;
    }
    // A short pause costs no leader its place.
    if let Some(leader) = leader.filter(|_| time >= Duration::from_millis(1200)) {
        follow(field, t, FAULT, &leader);
    }
    field.hold(time).await;
    go_on(field, FAULT, &member.process);
}

/// Whether it is paused now.
async fn pause_process(field: &Arc<Field>, fault: &str, process: &Process, note: &str) -> bool {
    let name = process.name();
    if let Err(cause) = process.pause() {
        field.record(fault, &[name], Skipped, &cause.to_string());
        return false;
    }
    // The signal takes effect at the next return to user space: soon, not at once.
    for _ in 0..50 {
        if process.pid().and_then(state_of) == Some('T') {
            field.record(fault, &[name], Installed, &format!("SIGSTOP, {note}"));
            return true;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    field.record(fault, &[name], Indeterminate, "it does not show as stopped");
    go_on(field, fault, process);
    false
}

fn go_on(field: &Arc<Field>, fault: &str, process: &Process) {
    match process.resume() {
        Ok(()) => field.record(fault, &[process.name()], Healed, "SIGCONT"),
        Err(cause) => field.record(fault, &[process.name()], Indeterminate, &cause.to_string()),
    };
}

fn some_worker(field: &Arc<Field>, dice: &mut Dice) -> Option<Arc<Process>> {
    let workers = field.workers();
    (!workers.is_empty()).then(|| Arc::clone(dice.pick(&workers)))
}

pub(super) async fn kill_worker(field: &Arc<Field>, dice: &mut Dice) {
    const FAULT: &str = "kill-worker";
    let down = down_for(field, dice);
    let Some(worker) = some_worker(field, dice) else {
        field.record(FAULT, &[], Skipped, "there are no workers");
        return;
    };
    let pid = worker.pid();
    match worker.kill9() {
        Ok(()) if is_gone(pid) => field.record(FAULT, &[worker.name()], Installed, "kill -9"),
        Ok(()) => field.record(FAULT, &[worker.name()], Indeterminate, "its pid is there"),
        // A worker ends itself when a step outlives its lease.
        Err(cause) => field.record(FAULT, &[worker.name()], Skipped, &cause.to_string()),
    };
    field.hold(down).await;
    match worker.restart() {
        Ok(()) => field.record(FAULT, &[worker.name()], Healed, "started again"),
        Err(cause) => field.record(FAULT, &[worker.name()], Indeterminate, &cause.to_string()),
    };
}

pub(super) async fn pause_worker(field: &Arc<Field>, dice: &mut Dice) {
    const FAULT: &str = "pause-worker";
    let time = Duration::from_millis(*dice.pick(&PAUSES_MS));
    let Some(worker) = some_worker(field, dice) else {
        field.record(FAULT, &[], Skipped, "there are no workers");
        return;
    };
    if pause_process(field, FAULT, &worker, &format!("for {time:?}")).await {
        field.hold(time).await;
        go_on(field, FAULT, &worker);
    }
}

pub(super) async fn clock(field: &Arc<Field>, dice: &mut Dice) {
    const FAULT: &str = "clock";
    let ahead = *dice.pick(&["200ms", "1h", "24h"]);
    let time = Duration::from_millis(dice.between(CLOCK_FOR_MS.0, CLOCK_FOR_MS.1));
    let members = field.members();
    let member = Arc::clone(dice.pick(&members));
    let Some(_taken) = take(field, FAULT, &member) else {
        return;
    };
    if member.process.kill9().is_err() {
        field.record(FAULT, &[&member.name], Skipped, "it had ended");
        return;
    }
    member.process.set_env(CLOCK, Some(ahead));
    let started = field.start_again(&member).await;
    let told = member
        .process
        .pid()
        .map(|pid| std::fs::read(format!("/proc/{pid}/environ")));
    let has_it = told.is_some_and(|it| {
        let wish = format!("{CLOCK}={ahead}");
        it.is_ok_and(|it| it.split(|byte| *byte == 0).any(|it| it == wish.as_bytes()))
    });
    match started {
        Ok(()) if has_it => {
            let note = format!("started with its clock {ahead} ahead");
            field.record(FAULT, &[&member.name], Installed, &note)
        }
        Ok(()) => field.record(
            FAULT,
            &[&member.name],
            Indeterminate,
            "the setting is not seen",
        ),
        Err(cause) => field.record(FAULT, &[&member.name], Indeterminate, &cause.to_string()),
    };
    field.hold(time).await;
    clear_clock(&member);
    if let Err(why) = stop(&member.process).await {
        field.say(&format!("{}: {why}", member.name));
    }
    start_again(field, FAULT, &member).await;
}

/// The next start has the machine's own clock.
pub(crate) fn clear_clock(member: &Member) {
    member.process.set_env(CLOCK, None);
}

/// Lets a node end by itself while this lives.
pub(super) struct MayEnd(Arc<Member>);

impl MayEnd {
    pub(super) fn of(member: &Arc<Member>) -> Self {
        member.may_end.store(true, Ordering::Release);
        Self(Arc::clone(member))
    }
}

impl Drop for MayEnd {
    fn drop(&mut self) {
        self.0.may_end.store(false, Ordering::Release);
    }
}
