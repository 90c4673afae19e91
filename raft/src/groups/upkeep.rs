//! What a group needs now and then: a takeover when its leader's process dies, snapshots and purges, moving leadership away.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::agreement::Verdict;
use crate::error::StorageFault;
use crate::log::LogBackend;
use crate::machine::Machine;
use crate::peer::watch::Gone;
use crate::replica::Replica;
use crate::seeded::{Bug, armed};
use crate::types::NodeId;

use super::Groups;

/// Between the followers that would take over: the next tries when the one before has not won by then.
const STAGGER: Duration = Duration::from_millis(20);
/// How often snapshots and purges are thought of.
const EVERY: Duration = Duration::from_secs(5);
/// A flush of the state is asked for after so much log, however few entries it is.
const SNAPSHOT_BYTES: u64 = 64 << 20;
/// A runtime that is told to end drops its tasks well within this.
const RUNTIME_ENDS_WITHIN: Duration = Duration::from_millis(100);
/// How often this replica is compared with the others.
const JUDGE_EVERY: Duration = Duration::from_millis(200);
/// A dispute counts when it is found so often in turn: of a third replica's digest one hears a moment later.
const DISPUTED_TIMES: u32 = 10;
/// A purge of fewer entries would only leave tombstones.
const PURGE_STRIDE: u64 = 4_096;

/// Campaigns at once where the leader's process is gone.
pub(super) async fn take_over<M: Machine>(
    groups: Arc<Groups<M>>,
    mut deaths: mpsc::Receiver<Gone>,
) {
    while let Some(gone) = deaths.recv().await {
        if !groups.settings.takeover {
            continue;
        }
        let replicas = groups.replicas.borrow().clone();
        for replica in replicas {
            if replica.hints.borrow().leader != Some(gone.node) {
                continue;
            }
            let core = Arc::clone(&replica.core);
            groups.spawn(async move {
                tokio::time::sleep(STAGGER * core.takeover_rank(gone.node)).await;
                core.take_over(gone.node, gone.at).await;
            });
        }
    }
}

/// Keeps one group's log short, and watches over its core: a dead group in a live process would serve nobody and say
/// nothing (pitfall 35).
pub(super) async fn keep<M: Machine>(groups: Arc<Groups<M>>, replica: Replica<M>) {
    let tending = async {
        let mut written = groups.log.written_bytes(replica.group());
        loop {
            tokio::time::sleep(EVERY).await;
            tend(&groups, &replica, &mut written).await;
        }
    };
    let meeting = replica
        .core
        .on_members(|members| groups.meet(replica.group(), &members));
    let tending = async { tokio::join!(meeting, tending) };
    tokio::select! {
        _ = tending => {}
        index = found_wrong(&replica) => condemn(&replica, index).await,
        ended = replica.core.ended() => if let Some(cause) = ended {
            stopped_by_fault(&replica, &cause).await;
        },
        () = groups.stop.cancelled() => {}
    }
}

/// Compares this replica with the others now and then; ends when its rows are known to be wrong.
async fn found_wrong<M: Machine>(replica: &Replica<M>) -> u64 {
    let mut disputes = 0;
    loop {
        tokio::time::sleep(JUDGE_EVERY).await;
        let verdict = replica.judge();
        disputes = match verdict {
            Verdict::Disputed(_) => disputes + 1,
            _ => 0,
        };
        let counts = disputes == 0 || disputes >= DISPUTED_TIMES;
        let before = replica.verdict();
        if counts && verdict != before {
            replica.verdict.send_replace(verdict);
            report(replica, before, verdict);
        }
        if let Verdict::Wrong(index) = verdict {
            return index;
        }
    }
}

fn report<M: Machine>(replica: &Replica<M>, before: Verdict, now: Verdict) {
    let group = replica.group().0;
    match (before, now) {
        (Verdict::Other(one, _), Verdict::Other(other, _)) if one == other => {}
        (Verdict::Disputed(_), Verdict::Disputed(_)) | (_, Verdict::Wrong(_)) => {}
        (_, Verdict::InStep) => tracing::info!(group, "replicas have the same rows again"),
        (_, Verdict::Other(node, index)) => tracing::error!(
            group,
            node = node.0,
            index,
            "HF6002: that node has other rows than a majority; replace it under a new id"
        ),
        (_, Verdict::Disputed(index)) => tracing::error!(
            group,
            index,
            "HF6002: replicas differ and no majority says who is right: nothing more is given to workers"
        ),
    }
}

/// This replica is wrong: it leads no more, answers no more, and does not begin again.
async fn condemn<M: Machine>(replica: &Replica<M>, index: u64) {
    let fault: StorageFault = replica.state.condemn(index).await;
    let group = replica.group().0;
    tracing::error!(group, %fault, "this replica has stopped, the other groups go on");
    replica.proposer.stop();
    replica.core.shutdown().await;
}

/// An entry that cannot be applied stops this replica alone; any other fault ends the process, which can be started again.
async fn stopped_by_fault<M: Machine>(replica: &Replica<M>, cause: &str) {
    let group = replica.group().0;
    if let Some(fault) = replica.state.refused() {
        tracing::error!(group, %fault, "this replica has stopped, the other groups go on; upgrade or replace this node");
        return;
    }
    // Where the whole runtime ends, calls fail too; then this task never goes on.
    tokio::time::sleep(RUNTIME_ENDS_WITHIN).await;
    tracing::error!(
        group,
        cause,
        "a group of this node has died: the process ends; look at the disk if it happens again"
    );
    crate::host::abort();
}

/// One turn of it: a snapshot if it is due, and a purge as far as nobody needs the log.
pub(crate) async fn tend<M: Machine>(groups: &Groups<M>, replica: &Replica<M>, written: &mut u64) {
    let status = replica.core.status();
    let (Some(applied), purged) = (status.applied, status.purged.unwrap_or(0)) else {
        return;
    };
    let now = groups.log.written_bytes(replica.group());
    let since = applied.saturating_sub(status.snapshot.unwrap_or(0));
    let keep = groups.settings.keep;
    if since >= keep.snapshot_entries
        || (now.saturating_sub(*written) >= SNAPSHOT_BYTES && since > 0)
    {
        *written = now;
        replica.core.trigger_snapshot().await;
    }
    let Some(snapshot) = status.snapshot else {
        return;
    };
    let Ok(persisted) = replica.state.persisted().await else {
        return;
    };
    let held = groups.transfers.purge_max(replica.group());
    let up_to = if armed(Bug::PurgePastPersistedApplied) {
        snapshot
    } else {
        snapshot.min(persisted).saturating_sub(keep.entries)
    };
    let up_to = up_to.min(held.unwrap_or(u64::MAX));
    if up_to >= purged + PURGE_STRIDE.min(keep.snapshot_entries) {
        replica.core.trigger_purge(up_to).await;
    }
}

/// Hands leadership to the follower that lacks least, and waits until it leads.
pub(super) async fn move_away<M: Machine>(replica: &Replica<M>, within: Duration) -> bool {
    let status = replica.core.status();
    if !status.is_leader {
        return true;
    }
    let this = replica.core.this;
    let voters = status
        .voters
        .iter()
        .flatten()
        .copied()
        .filter(|id| *id != this);
    let best = voters.max_by_key(|id| status.replication.get(id).copied().flatten());
    match best {
        Some(to) => hand_to(replica, to, within).await,
        None => false,
    }
}

/// Hands leadership to `to`, and waits until somebody else leads, or this node again: then nobody takes over any more.
pub(super) async fn hand_to<M: Machine>(
    replica: &Replica<M>,
    to: NodeId,
    within: Duration,
) -> bool {
    let term = replica.core.status().term;
    if replica.core.transfer(to).await.is_err() {
        return false;
    }
    let this = replica.core.this;
    let is_led = replica
        .core
        .wait_until(within, |status| {
            let again = status.is_leader && status.term > term;
            again || status.leader.is_some_and(|leader| leader != this)
        })
        .await;
    let moved = is_led && !replica.core.status().is_leader;
    if !moved {
        tracing::warn!(
            group = replica.group().0,
            to = to.0,
            "leadership was not taken over"
        );
    }
    moved
}
