//! Faults on disks: full, failing, slow.
//!
//! Invariant: only a disk of the node's own is filled, and only system calls of the node's own process are touched; a node whose
//! sync failed must end, and is then started again. Not here: damaged bytes (`member`).

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::statvfs;

use super::aim::{take, take_node};
use super::process::{MayEnd, start_again};
use crate::cluster::{Process, ProcessSpec};
use crate::dice::Dice;
use crate::records::FaultStatus::{Healed, Indeterminate, Installed, Skipped};
use crate::run::{Field, Member};

/// Of a hundred nodes whose disk suffers so many lead.
const LEADERS: u64 = 50;
const FULL_FOR_MS: (u64, u64) = (2000, 8000);
/// Left free by the filler: below every mark of a node, and not so little that nothing works at all.
const FREE_PERCENT: u64 = 2;
const SLOW_FOR_MS: (u64, u64) = (2000, 8000);
/// A node of some load syncs many times a second.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
/// A process that is ending has ended by then.
const GONE_WITHIN: Duration = Duration::from_millis(500);
const TRACED_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub(super) fn has_strace() -> bool {
    Command::new("strace")
        .arg("-V")
        .output()
        .is_ok_and(|it| it.status.success())
}

pub(super) async fn full(field: &Arc<Field>, dice: &mut Dice) {
    const FAULT: &str = "disk-full";
    let members: Vec<_> = field
        .members()
        .into_iter()
        .filter(|it| it.small_disk)
        .collect();
    if members.is_empty() {
        field.record(FAULT, &[], Skipped, "no node has a small disk of its own");
        return;
    }
    let member = Arc::clone(dice.pick(&members));
    let Some(_taken) = take(field, FAULT, &member) else {
        return;
    };
    let _may_end = MayEnd::of(&member);
    let (disk, filler) = (member.data.clone(), member.data.join("filler"));
    let file = filler.clone();
    // It can take seconds, and the clients of this run live on the same threads.
    let filled = tokio::task::spawn_blocking(move || fill(&disk, &file)).await;
    match filled.unwrap_or_else(|gone| Err(gone.into())) {
        Ok(free) => {
            let note = format!("{free} % free");
            field.record(FAULT, &[&member.name], Installed, &note)
        }
        Err(cause) => field.record(FAULT, &[&member.name], Indeterminate, &cause.to_string()),
    };
    let time = Duration::from_millis(dice.between(FULL_FOR_MS.0, FULL_FOR_MS.1));
    field.hold(time).await;
    let freed = fs::remove_file(&filler);
    if !member.process.is_running() {
        start_again(field, FAULT, &member).await;
        return;
    }
    match freed {
        Ok(()) => field.record(FAULT, &[&member.name], Healed, "freed"),
        Err(cause) => field.record(FAULT, &[&member.name], Indeterminate, &cause.to_string()),
    };
}

fn free_percent(at: &Path) -> std::io::Result<u64> {
    let disk = statvfs(at)?;
    Ok(disk.f_bavail * 100 / disk.f_blocks.max(1))
}

fn fill(disk: &Path, filler: &Path) -> std::io::Result<u64> {
    let of = statvfs(disk)?;
    let keep = of.f_blocks * FREE_PERCENT / 100;
    let bytes = of.f_bavail.saturating_sub(keep) * of.f_frsize;
    let file = fs::File::create(filler)?;
    // Zeros written, not a hole: a hole takes no room.
    let chunk = vec![0; 1 << 20];
    let mut left = bytes;
    while left > 0 {
        let now = usize::try_from(left.min(1 << 20)).unwrap_or(chunk.len());
        std::io::Write::write_all(&mut &file, &chunk[..now])?;
        left -= now as u64;
    }
    free_percent(disk)
}

/// Attaches strace with an injection; the process when it is attached.
async fn inject(field: &Arc<Field>, member: &Member, what: &str) -> Result<Process, String> {
    let pid = member.process.pid().ok_or("it has ended")?;
    let log = field.store.path(&format!("strace.{}.log", member.name));
    let spec = ProcessSpec::new("strace", "strace", log)
        .args(["-f", "-qq", "-o", "/dev/null", "-p", &pid.to_string()])
        .args(["-e", "trace=fsync,fdatasync"])
        .args(["-e", what]);
    let strace = Process::start(spec).map_err(|cause| cause.to_string())?;
    let until = Instant::now() + TRACED_WITHIN;
    loop {
        if is_traced(pid) {
            return Ok(strace);
        }
        if Instant::now() > until || !strace.is_running() {
            return Err(format!("strace is not attached: {}", strace.log_tail(2)));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Whether every thread of a process is traced.
fn is_traced(pid: u32) -> bool {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    tasks.flatten().all(|task| {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        status
            .lines()
            .any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
    })
}

/// Ended by SIGTERM it lets go of what it traces; killed it would too, by the kernel.
async fn detach(strace: &Process) {
    let _ = strace.stop(Duration::from_secs(5)).await;
}

pub(super) async fn fsync_error(field: &Arc<Field>, dice: &mut Dice) {
    const FAULT: &str = "fsync-error";
    let Some((member, _, _taken)) = take_node(field, dice, FAULT, LEADERS).await else {
        return;
    };
    let _may_end = MayEnd::of(&member);
    // The second and all later ones: had the first a thread of its own, others fail too.
    let strace = match inject(field, &member, "inject=fsync,fdatasync:error=EIO:when=2+").await {
        Ok(strace) => Some(strace),
        // It may have ended before strace was seen at work.
        Err(_) if member.process.wait_exit(GONE_WITHIN).await.is_ok() => None,
        Err(why) => {
            field.record(FAULT, &[&member.name], Skipped, &why);
            return;
        }
    };
    let ended = member.process.wait_exit(ENDS_WITHIN).await;
    if let Some(strace) = strace {
        detach(&strace).await;
    }
    match ended {
        Ok(status) => {
            let note = format!("EIO of a sync, and it ended with {status}");
            field.record(FAULT, &[&member.name], Installed, &note);
            start_again(field, FAULT, &member).await;
        }
        Err(cause) => {
            field.record(FAULT, &[&member.name], Indeterminate, &cause.to_string());
            // It may have failed a sync and gone on: nothing that it says can be trusted, so it does not say more.
            let _ = member.process.kill9();
            start_again(field, FAULT, &member).await;
        }
    }
}

pub(super) async fn slow(field: &Arc<Field>, dice: &mut Dice) {
    const FAULT: &str = "slow-disk";
    let Some((member, _, _taken)) = take_node(field, dice, FAULT, LEADERS).await else {
        return;
    };
    let time = Duration::from_millis(dice.between(SLOW_FOR_MS.0, SLOW_FOR_MS.1));
    match inject(field, &member, "inject=fsync,fdatasync:delay_enter=150000").await {
        Ok(strace) => {
            let note = "each sync takes 150 ms more";
            field.record(FAULT, &[&member.name], Installed, note);
            field.hold(time).await;
            detach(&strace).await;
            let traced = member.process.pid().is_some_and(is_traced);
            let status = if traced { Indeterminate } else { Healed };
            field.record(FAULT, &[&member.name], status, "");
        }
        Err(why) => {
            field.record(FAULT, &[&member.name], Skipped, &why);
        }
    }
}
