//! CPU time and memory of every process, and what each node says of its groups, once a second.
//!
//! Invariant: processes are only read from `/proc`; a system without it has empty files. A run without a wake source is a violation
//! whenever a node counts one (W1). Not here: judging anything else.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::Field;
use crate::clock::monotonic_ns;

const EVERY: Duration = Duration::from_secs(1);
const ANSWERS_WITHIN: Duration = Duration::from_millis(800);
/// Kernel ticks per second of the times in `/proc/PID/stat`, on every Linux that we run on.
const TICKS_PER_SECOND: u64 = 100;
/// Of memory counts in `/proc/PID/statm`.
const PAGE_KIB: u64 = 4;

/// Samples until it is dropped.
pub async fn sample(field: Arc<Field>) -> io::Result<()> {
    use tokio::io::AsyncWriteExt;
    let mut cpu = tokio::fs::File::create(field.store.path("cpu.csv")).await?;
    let mut rss = tokio::fs::File::create(field.store.path("rss.csv")).await?;
    cpu.write_all(b"t,process,cpu_ms\n").await?;
    rss.write_all(b"t,process,rss_kib\n").await?;
    let mut groups = tokio::fs::File::create(field.store.path("groups.csv")).await?;
    let head = b"t,node,group,leader,term,committed,applied,open_runs,without_wake_source\n";
    groups.write_all(head).await?;
    let mut tick = tokio::time::interval(EVERY);
    loop {
        tick.tick().await;
        let nodes = field.members().into_iter();
        let nodes = nodes.map(|it| (it.name.clone(), it.process.pid()));
        let hands = field.workers().into_iter();
        let hands = hands.map(|it| (it.name().to_string(), it.pid()));
        let (t, mut cpu_text, mut rss_text) = (monotonic_ns(), String::new(), String::new());
        for (name, pid) in nodes.chain(hands) {
            let Some((cpu_ms, rss_kib)) = pid.and_then(of_process) else {
                continue;
            };
            // Writing to a string cannot fail.
            let _ = writeln!(cpu_text, "{t},{name},{cpu_ms}");
            let _ = writeln!(rss_text, "{t},{name},{rss_kib}");
        }
        cpu.write_all(cpu_text.as_bytes()).await?;
        rss.write_all(rss_text.as_bytes()).await?;
        groups.write_all(of_groups(&field).await.as_bytes()).await?;
    }
}

async fn of_groups(field: &Field) -> String {
    let members = field.members();
    let asked = members.iter().map(|member| async {
        let to = member.direct();
        let status = field.asker.status(&to, ANSWERS_WITHIN).await;
        (member.name.clone(), status)
    });
    let (t, mut text) = (monotonic_ns(), String::new());
    for (node, status) in futures::future::join_all(asked).await {
        // A node that is down or cut off in the middle of a fault says nothing.
        for it in status.map(|it| it.groups).unwrap_or_default() {
            let _ = writeln!(
                text,
                "{t},{node},{},{},{},{},{},{},{}",
                it.group,
                it.leader,
                it.term,
                it.committed,
                it.applied,
                it.open_runs,
                it.runs_without_wake_source
            );
            if it.runs_without_wake_source > 0 {
                let count = it.runs_without_wake_source;
                field.saw(&format!(
                    "W1: {node} counts {count} runs of group {} that nothing will wake",
                    it.group
                ));
            }
        }
    }
    text
}

fn of_process(pid: u32) -> Option<(u64, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let user: u64 = fields.get(11)?.parse().ok()?;
    let system: u64 = fields.get(12)?.parse().ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(((user + system) * 1000 / TICKS_PER_SECOND, pages * PAGE_KIB))
}
