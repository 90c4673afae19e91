//! Gauges that are looked at only when somebody asks for `/metrics`: of consensus, of the databases, and counted from rows.
//!
//! Invariant: nothing here costs a command anything. What is counted from rows is shown by the node that acts for the
//! partition, so that a sum over the nodes is true; the others show zero.
//! Not here: counters and durations, which each part records where they happen.

use std::sync::Arc;

use holdfast_raft::{Freshness, Groups, Verdict};
use holdfast_scheduler::{
    effect::Needs,
    reply::Status,
    rows::{Fault, ReadRows},
    values::run::VersionRow,
    views,
};
use metrics::gauge;

use crate::{
    machine::{Engine, SnapshotRows},
    partitions::{Partition, Partitions},
    telemetry::name_label,
};

/// Paused runs looked at: whoever has more of them needs no exact number.
const PAUSED_MAX: usize = 1_000;
/// Statuses of runs that are open.
const OPEN: [Status; 7] = [
    Status::Scheduled,
    Status::Ready,
    Status::Running,
    Status::Waiting,
    Status::Paused,
    Status::Quarantined,
    Status::Undoing,
];

/// Brings all of them up to date.
pub async fn refresh(groups: &Groups<Engine>, partitions: &Partitions) {
    databases(groups);
    for partition in partitions.all() {
        consensus(&partition);
        runs(&partition).await;
    }
}

#[expect(clippy::cast_precision_loss, reason = "gauges")]
fn databases(groups: &Groups<Engine>) {
    for it in groups.db_figures() {
        gauge!("holdfast_rocksdb_live_bytes", "db" => it.db).set(it.live_bytes as f64);
        gauge!("holdfast_rocksdb_l0_files", "db" => it.db).set(it.l0_files as f64);
        gauge!("holdfast_rocksdb_stall_seconds_total", "db" => it.db).set(it.stall_seconds);
        gauge!("holdfast_rocksdb_compaction_pending_bytes", "db" => it.db)
            .set(it.compaction_pending_bytes as f64);
    }
    // There are no backups yet: one that never was is infinitely old, which is what an alert should see.
    gauge!("holdfast_backup_age_seconds").set(f64::INFINITY);
}

#[expect(clippy::cast_precision_loss, reason = "gauges")]
fn consensus(partition: &Partition) {
    let replica = &partition.replica;
    let status = replica.status();
    let group = partition.group.to_string();
    let last_log = status.last_log.unwrap_or(0);
    let age = status.quorum_ack_age.unwrap_or_default();
    for (name, value) in [
        ("holdfast_raft_is_leader", u64::from(status.is_leader)),
        (
            "holdfast_raft_has_leader",
            u64::from(status.leader.is_some()),
        ),
        ("holdfast_raft_term", status.term),
        ("holdfast_raft_last_log_index", last_log),
        (
            "holdfast_raft_committed_index",
            status.committed.unwrap_or(0),
        ),
        ("holdfast_raft_applied_index", status.applied.unwrap_or(0)),
        (
            "holdfast_raft_proposals_pending",
            replica.proposals_pending() as u64,
        ),
        (
            "holdfast_raft_snapshot_size_bytes",
            replica.snapshot_bytes(),
        ),
        (
            "holdfast_replica_digest_disputed",
            u64::from(replica.verdict() != Verdict::InStep),
        ),
    ] {
        gauge!(name, "group" => group.clone()).set(value as f64);
    }
    gauge!("holdfast_raft_quorum_ack_age_seconds", "group" => group.clone()).set(age.as_secs_f64());
    for (node, matched) in &status.replication {
        let lag = last_log.saturating_sub(matched.unwrap_or(0));
        gauge!("holdfast_raft_replication_lag_entries", "group" => group.clone(), "node" => node.0.to_string())
            .set(lag as f64);
    }
}

/// What rows say of runs.
struct Counted {
    versions: Vec<(VersionRow, bool)>,
    paused: (u64, u64),
}

fn count<R: ReadRows + ?Sized>(rows: &R) -> Result<Counted, Fault> {
    let workflows = views::workflows(rows)?;
    Ok(Counted {
        versions: workflows.into_iter().flat_map(|it| it.versions).collect(),
        paused: views::paused(rows, PAUSED_MAX)?,
    })
}

#[expect(clippy::cast_precision_loss, reason = "gauges")]
async fn runs(partition: &Arc<Partition>) {
    let read = partition
        .replica
        .read(Freshness::Stale, |rows| count(&SnapshotRows(rows)));
    let Ok((Ok(counted), _)) = read.await else {
        return; // said in the log by whoever needs these rows
    };
    let acts = u64::from(partition.clock.epoch().is_some());
    let group = || partition.group.to_string();
    for status in OPEN {
        let open = counted
            .versions
            .iter()
            .filter_map(|(row, _)| row.open.get(&status));
        let (open, state) = (
            open.sum::<u64>() * acts,
            format!("{status:?}").to_lowercase(),
        );
        gauge!("holdfast_runs_open", "group" => group(), "state" => state).set(open as f64);
        if status == Status::Quarantined {
            gauge!("holdfast_runs_quarantined", "group" => group()).set(open as f64);
        }
    }
    for (reason, count) in [("system", counted.paused.0), ("person", counted.paused.1)] {
        gauge!("holdfast_runs_paused", "group" => group(), "reason" => reason)
            .set((count * acts) as f64);
    }
    for (row, served) in &counted.versions {
        let stranded = if *served {
            0
        } else {
            views::WorkflowView::open_runs(row) * acts
        };
        let labels = [
            ("group", group()),
            ("workflow", name_label(row.name.as_str())),
            ("version", row.version.0.to_string()),
        ];
        gauge!("holdfast_runs_stranded", &labels).set(stranded as f64);
    }
    oldest_ready(partition, &counted.versions, acts);
}

#[expect(clippy::cast_precision_loss, reason = "gauges")]
fn oldest_ready(partition: &Partition, versions: &[(VersionRow, bool)], acts: u64) {
    let now = partition.clock.now().unwrap_or_default();
    let ready = partition.oldest_ready.lock().clone();
    let queues: std::collections::BTreeSet<_> =
        versions.iter().map(|(row, _)| &row.queue).collect();
    for queue in queues {
        let waits_here = |needs: &Needs| match needs {
            Needs::Workflow(name, version) => versions.iter().any(|(row, _)| {
                row.name == *name && row.version == *version && row.queue == *queue
            }),
            Needs::Step { queue: of, .. } => of == queue,
            Needs::Session(_) => false,
        };
        let here = ready.iter().filter(|(needs, _)| waits_here(needs));
        let oldest = here
            .map(|(_, since)| now.since(*since).0)
            .max()
            .unwrap_or(0)
            * acts;
        gauge!("holdfast_oldest_ready_age_seconds", "group" => partition.group.to_string(), "queue" => name_label(queue.as_str()))
            .set(oldest as f64 / 1000.0);
    }
}
