//! One group's consensus, in our words: propose, read index, membership, transfer, takeover, purge, shutdown.
//!
//! Invariant: every write ends in exactly one [`Outcome`], whatever becomes of openraft.
//! Not here: batching (`proposer`), when to purge or transfer (`groups`), the calls of peers (`group`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::error::{ChangeMembershipError, ClientWriteError, Fatal, InitializeError, RaftError};
use openraft::raft::{ChangeMembershipRequest, TransferLeaderRequest};
use openraft::{ChangeMembers, Precondition, Raft, ReadPolicy};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::adapter::acks::Acks;
use crate::adapter::log::Log;
use crate::adapter::machine::{Sm, StateSide};
use crate::adapter::network::Network;
use crate::adapter::pulse::Pulses;
use crate::adapter::settings::Profile;
use crate::adapter::snapshot::Transfers;
use crate::adapter::stages::Stages;
use crate::adapter::types::{
    BatchBytes, BoxedResponder, CoreVote, LeaderId, Types, core_vote, our_log_id, our_vote,
};
use crate::log::LogBackend;
use crate::peer::connections::Peers;
use crate::peer::identity::Member;
use crate::types::{GroupId, LogId, NodeId, Vote};

/// What became of one written entry.
pub(crate) enum Outcome {
    /// Applied; the replies are the machine's.
    Applied {
        index: u64,
        replies: Box<dyn std::any::Any + Send>,
    },
    /// Never appended.
    NotLeader { leader: Option<NodeId> },
    /// Appended and lost sight of, or dropped by a core that ended.
    Unknown,
}

/// What openraft reports about leadership: a hint that may start an attempt, never a right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hint {
    /// The term the hint is of.
    pub term: u64,
    /// Who leads, as far as this node knows.
    pub leader: Option<NodeId>,
    /// Whether that is this node.
    pub is_self: bool,
}

/// Why a leader could not say how far a read has to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoReadIndex {
    NotLeader(Option<NodeId>),
    NoQuorum(String),
    Stopped,
}

/// Why a change of the membership or of the leader was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Send it to the leader.
    #[error("this node does not lead group {}; ask node {leader:?}", group.0)]
    NotLeader {
        /// The group.
        group: GroupId,
        /// Who leads.
        leader: Option<NodeId>,
    },
    /// Another change is under way, or has happened since; look again, then retry.
    #[error("another membership change came first: {0}; look at the membership, then retry")]
    Raced(String),
    /// It would not be safe.
    #[error("{0}")]
    Refused(String),
    /// It may or may not have happened.
    #[error("the change may or may not have happened; look at the membership")]
    Unknown,
    /// The group has stopped on this node.
    #[error("the group has stopped on this node")]
    Stopped,
}

/// A moment of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The group.
    pub group: GroupId,
    /// The current term.
    pub term: u64,
    /// Who leads, as far as this node knows.
    pub leader: Option<NodeId>,
    /// Whether this node leads, by its own account.
    pub is_leader: bool,
    /// The last entry of the log here.
    pub last_log: Option<u64>,
    /// The last entry known to be on a quorum.
    pub committed: Option<u64>,
    /// The last entry applied here.
    pub applied: Option<u64>,
    /// Up to where the log is gone.
    pub purged: Option<u64>,
    /// Up to where the last snapshot goes.
    pub snapshot: Option<u64>,
    /// The members that vote, by set; two sets while the membership changes.
    pub voters: Vec<BTreeSet<NodeId>>,
    /// All members, learners included.
    pub members: BTreeMap<NodeId, Member>,
    /// On the leader: up to where each follower's log is known to match.
    pub replication: BTreeMap<NodeId, Option<u64>>,
    /// On the leader: how long ago a quorum last acknowledged it.
    pub quorum_ack_age: Option<Duration>,
    /// Whether the group still runs.
    pub running: Result<(), String>,
}

/// What a core is made of.
pub(crate) struct Parts {
    pub(crate) group: GroupId,
    pub(crate) this: NodeId,
    pub(crate) cluster: String,
    pub(crate) profile: Profile,
    pub(crate) peers: Arc<Peers>,
    pub(crate) log: Arc<dyn LogBackend>,
    pub(crate) state: Arc<dyn StateSide>,
    pub(crate) pulses: Arc<Pulses>,
    pub(crate) transfers: Arc<Transfers>,
}

/// One group's consensus on this node.
pub(crate) struct Core {
    pub(crate) group: GroupId,
    pub(crate) this: NodeId,
    pub(crate) raft: Raft<Types, Sm>,
    pub(crate) pulses: Arc<Pulses>,
    acks: Arc<Acks>,
    lease: Duration,
    pub(crate) peers: Arc<Peers>,
    pub(crate) state: Arc<dyn StateSide>,
    pub(crate) transfers: Arc<Transfers>,
    /// A leader that no quorum has acknowledged for so long may have a successor: a lease, and the longest election after it.
    cut_off_after: Duration,
    /// The term that the log knew at the start. Consensus reports none until it has run for a moment.
    term_at_start: u64,
    /// The vote of the leader against whom this node has taken over last: at most once per leader term.
    taken_over: parking_lot::Mutex<Option<Vote>>,
}

impl Core {
    /// Replays what is committed and not applied; the core does not run yet.
    pub(crate) async fn build(parts: Parts) -> Result<Arc<Self>, String> {
        let config = parts
            .profile
            .config(&parts.cluster)
            .map_err(|cause| cause.to_string())?;
        let acks = Arc::new(Acks::new(parts.this));
        let network = Network {
            group: parts.group,
            acks: Arc::clone(&acks),
            peers: Arc::clone(&parts.peers),
            pulses: Arc::clone(&parts.pulses),
            transfers: Arc::clone(&parts.transfers),
        };
        let vote = parts.log.state(parts.group).vote;
        let term_at_start = vote.map_or(0, |vote| vote.term);
        let stages = Stages::new(parts.group);
        let log = Log::new(parts.group, Arc::clone(&parts.log), stages.clone());
        let sm = Sm::new(
            parts.group,
            Arc::clone(&parts.state),
            Arc::clone(&parts.log),
            stages,
        );
        let raft = Raft::build(parts.this.0, Arc::new(config), network, log, sm)
            .await
            .map_err(|fatal| fatal.to_string())?;
        Ok(Arc::new(Self {
            group: parts.group,
            this: parts.this,
            raft,
            pulses: parts.pulses,
            acks,
            lease: parts.profile.lease(),
            peers: parts.peers,
            state: parts.state,
            transfers: parts.transfers,
            cut_off_after: parts.profile.lease() + parts.profile.figures().election_max,
            term_at_start,
            taken_over: parking_lot::Mutex::default(),
        }))
    }

    /// Starts the core's task on the current runtime.
    pub(crate) fn run(&self) {
        self.raft.run();
    }

    /// The first membership. `true` if there was a log already.
    pub(crate) async fn initialize(
        &self,
        members: BTreeMap<NodeId, Member>,
    ) -> Result<bool, ChangeError> {
        let members: BTreeMap<u64, Member> = members
            .into_iter()
            .map(|(id, member)| (id.0, member))
            .collect();
        match self.raft.initialize(members).await {
            Ok(()) => Ok(false),
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(true),
            Err(RaftError::APIError(it @ InitializeError::NotInMembers(_))) => {
                Err(ChangeError::Refused(it.to_string()))
            }
            Err(RaftError::Fatal(_)) => Err(ChangeError::Stopped),
        }
    }

    /// Writes one entry, if the leader is still `expected`. `done` is called exactly once, on any thread; it must not block.
    pub(crate) async fn write(
        &self,
        batch: Bytes,
        expected: Option<(u64, NodeId)>,
        done: impl FnOnce(Outcome) + Send + 'static,
    ) {
        let responder = BoxedResponder::new(move |result| done(outcome(result)));
        let write = self.raft.write(BatchBytes(batch)).responder(responder);
        let write = match expected {
            Some((term, node)) => write.with_leader(LeaderId {
                term,
                node_id: node.0,
            }),
            None => write,
        };
        // A core that has ended drops the responder, and that is the answer.
        if let Err(fatal) = write.await {
            tracing::debug!(group = self.group.0, %fatal, "write to an ended core");
        }
    }

    /// Up to where a linearizable read must see: confirmed by a quorum after this call.
    pub(crate) async fn read_index(&self) -> Result<u64, NoReadIndex> {
        use openraft::error::LinearizableReadError as Refused;
        let asked = self.acks.ask(0);
        // It sends a heartbeat at once. That a quorum has answered one is not enough by its own account: see `acks`.
        let read = self.raft.get_read_log_id(ReadPolicy::ReadIndex);
        let (read, _) = read.await.map_err(|refused| match refused {
            RaftError::APIError(Refused::ForwardToLeader(to)) => {
                NoReadIndex::NotLeader(to.leader_id.map(NodeId))
            }
            RaftError::APIError(it @ Refused::QuorumNotEnough(_)) => {
                NoReadIndex::NoQuorum(it.to_string())
            }
            RaftError::Fatal(_) => NoReadIndex::Stopped,
        })?;
        // What a leader may show is at least the first entry of its own term, so this is the term that it leads.
        let term = read.committed_leader_id().term;
        let newer = self.acks.newer(term, asked, || self.voters());
        let confirmed = tokio::time::timeout(self.lease, newer).await;
        confirmed.map_err(|_| {
            NoReadIndex::NoQuorum(format!("no quorum has answered within {:?}", self.lease))
        })?;
        Ok(read.index())
    }

    fn voters(&self) -> Vec<BTreeSet<NodeId>> {
        voters(&self.raft.metrics().borrow_watched())
    }

    /// Leadership hints as they change. The task ends with the core.
    pub(crate) fn hints(&self) -> watch::Receiver<Hint> {
        let mut metrics = self.raft.server_metrics();
        let this = self.this;
        let (tx, rx) = watch::channel(hint_of(&metrics.borrow_watched(), this));
        tokio::spawn(async move {
            while !tx.is_closed() && metrics.changed().await.is_ok() {
                let hint = hint_of(&metrics.borrow_watched(), this);
                tx.send_if_modified(|old| std::mem::replace(old, hint) != hint);
            }
        });
        rx
    }

    /// Tells the members, and again whenever others are heard of. Ends with the core.
    pub(crate) async fn on_members(&self, mut tell: impl FnMut(BTreeMap<NodeId, Member>)) {
        let mut metrics = self.raft.server_metrics();
        let mut told = None;
        loop {
            let config = Arc::clone(&metrics.borrow_and_update().membership_config);
            if told.as_ref() != Some(config.log_id()) {
                told = Some(*config.log_id());
                let members = config.membership().nodes();
                tell(members.map(|(id, it)| (NodeId(*id), it.clone())).collect());
            }
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    /// On a leader, how long ago a quorum last acknowledged it. `None` elsewhere, or before the first time.
    pub(crate) fn quorum_ack_age(&self) -> Option<Duration> {
        self.acked(&self.raft.metrics().borrow_watched())
    }

    /// Whether this node leads, and has heard from no quorum for so long that another may lead by now.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.quorum_ack_age()
            .is_some_and(|age| age >= self.cut_off_after)
    }

    fn acked(&self, it: &openraft::RaftMetrics<Types>) -> Option<Duration> {
        let leads = it.state.is_leader();
        leads.then(|| self.acks.age(it.current_term, &voters(it)))?
    }

    pub(crate) fn status(&self) -> Status {
        let metrics = self.raft.metrics();
        let it = metrics.borrow_watched();
        let membership = it.membership_config.membership();
        let index = |id: &Option<openraft::LogId<LeaderId>>| id.as_ref().map(|id| id.index);
        Status {
            group: self.group,
            term: it.current_term.max(self.term_at_start),
            leader: it.current_leader.map(NodeId),
            is_leader: it.state.is_leader(),
            last_log: it.last_log_index,
            committed: known_committed(index(&it.cluster_committed), index(&it.last_applied)),
            applied: index(&it.last_applied),
            purged: index(&it.purged),
            snapshot: index(&it.snapshot),
            voters: voters(&it),
            members: membership
                .nodes()
                .map(|(id, it)| (NodeId(*id), it.clone()))
                .collect(),
            replication: it
                .replication
                .iter()
                .flatten()
                .map(|(id, matched)| (NodeId(*id), index(matched)))
                .collect(),
            quorum_ack_age: self.acked(&it),
            running: it.running_state.clone().map_err(|fatal| fatal.to_string()),
        }
    }

    /// Waits until `look` says yes to the group's status, which it sees after each change.
    pub(crate) async fn wait_until(
        &self,
        within: Duration,
        look: impl Fn(&Status) -> bool,
    ) -> bool {
        let mut metrics = self.raft.metrics();
        let waiting = async {
            loop {
                // Marked as seen before it is looked at: a change in between wakes us again.
                drop(metrics.borrow_and_update());
                if look(&self.status()) {
                    return true;
                }
                if metrics.changed().await.is_err() {
                    return false;
                }
            }
        };
        tokio::time::timeout(within, waiting).await.unwrap_or(false)
    }

    /// Waits until the core has ended, and says why if nobody asked it to.
    pub(crate) async fn ended(&self) -> Option<String> {
        let mut metrics = self.raft.metrics();
        loop {
            let running = metrics.borrow_and_update().running_state.clone();
            match running {
                Ok(()) => {}
                Err(Fatal::Stopped) => return None,
                Err(fatal) => return Some(fatal.to_string()),
            }
            if metrics.changed().await.is_err() {
                // Gone without a word: by a panic, or cancelled with its runtime. Whoever asks it anything is told which.
                return match self.raft.with_raft_state(|_| ()).await {
                    Ok(()) | Err(Fatal::Stopped) => None,
                    Err(fatal) => Some(fatal.to_string()),
                };
            }
        }
    }

    pub(crate) async fn add_learner(&self, id: NodeId, member: Member) -> Result<(), ChangeError> {
        let answer = self.raft.add_learner(id.0, member, false).await;
        answer.map(drop).map_err(|cause| self.change_error(cause))
    }

    /// Makes `voters` the only voters, in one joint step, if the membership is still the one logged at `seen`.
    pub(crate) async fn change_voters(
        &self,
        voters: BTreeSet<NodeId>,
        seen: Option<LogId>,
    ) -> Result<(), ChangeError> {
        let voters = ChangeMembers::ReplaceAllVoters(voters.into_iter().map(|id| id.0).collect());
        let still = Precondition::LastMembershipLogId {
            last_membership_log_id: seen.map(crate::adapter::types::core_log_id),
        };
        let request = ChangeMembershipRequest::new(voters, false).with_preconditions([still]);
        let answer = self.raft.change_membership_with_payload(request).await;
        answer.map(drop).map_err(|cause| self.change_error(cause))
    }

    /// Takes a learner that never became a voter out again.
    pub(crate) async fn remove_learner(&self, id: NodeId) -> Result<(), ChangeError> {
        let gone = ChangeMembers::RemoveNodes(BTreeSet::from([id.0]));
        let answer = self.raft.change_membership(gone, false).await;
        answer.map(drop).map_err(|cause| self.change_error(cause))
    }

    /// Where the membership in force was logged.
    pub(crate) fn membership_at(&self) -> Option<LogId> {
        let metrics = self.raft.metrics();
        let it = metrics.borrow_watched();
        it.membership_config.log_id().as_ref().map(our_log_id)
    }

    fn change_error(&self, cause: RaftError<Types, ClientWriteError<Types>>) -> ChangeError {
        match cause {
            RaftError::Fatal(_) => ChangeError::Stopped,
            RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => ChangeError::NotLeader {
                group: self.group,
                leader: to.leader_id.map(NodeId),
            },
            RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => ChangeError::Unknown,
            RaftError::APIError(ClientWriteError::PreconditionFailed(it)) => {
                ChangeError::Raced(it.to_string())
            }
            RaftError::APIError(ClientWriteError::ChangeMembershipError(it)) => match it {
                ChangeMembershipError::InProgress(_)
                | ChangeMembershipError::UncommittedLeaderLog(_) => {
                    ChangeError::Raced(it.to_string())
                }
                it => ChangeError::Refused(it.to_string()),
            },
        }
    }

    /// Hands leadership to `to`. Final: this leader writes no more, even if the target dies.
    pub(crate) async fn transfer(&self, to: NodeId) -> Result<(), ChangeError> {
        self.raft
            .trigger()
            .transfer_leader(to.0)
            .await
            .map_err(|_| ChangeError::Stopped)
    }

    /// Asks to build a snapshot: a flush, and with it the leave to purge.
    pub(crate) async fn trigger_snapshot(&self) {
        let _ended = self.raft.trigger().snapshot().await;
    }

    pub(crate) async fn trigger_purge(&self, upto: u64) {
        let _ended = self.raft.trigger().purge_log(upto).await;
    }

    /// Campaigns at once against a leader whose process is gone, as if that leader had asked for it: no pre-vote, and
    /// voters skip its lease. At most once per leader term.
    pub(crate) async fn take_over(&self, dead: NodeId, broke: Instant) -> bool {
        let Some((vote, last)) = self.vote_and_last().await else {
            return false;
        };
        let ours = our_vote(&vote);
        if ours.node != dead || !ours.committed || !self.is_voter() {
            return false;
        }
        if self.pulses.leader_spoke_since(dead, broke) {
            return false;
        }
        if self.taken_over.lock().replace(ours) == Some(ours) {
            return false;
        }
        let ask = TransferLeaderRequest::new(core_vote(ours), self.this.0, last);
        match self.raft.handle_transfer_leader(ask).await {
            Ok(Ok(())) => {
                tracing::info!(
                    group = self.group.0,
                    term = ours.term,
                    node = dead.0,
                    "the leader's process is gone: campaigning at once"
                );
                true
            }
            Ok(Err(refused)) => {
                tracing::debug!(group = self.group.0, %refused, "takeover refused");
                false
            }
            Err(_) => false,
        }
    }

    async fn vote_and_last(&self) -> Option<(CoreVote, Option<openraft::LogId<LeaderId>>)> {
        let state = self
            .raft
            .with_raft_state(|it| (*it.vote_ref(), it.log_ids.last().copied()));
        state.await.ok()
    }

    fn is_voter(&self) -> bool {
        let metrics = self.raft.metrics();
        let it = metrics.borrow_watched();
        it.membership_config.voter_ids().any(|id| id == self.this.0)
    }

    /// Where this node stands in the order in which followers of `dead` take over: 0 first.
    pub(crate) fn takeover_rank(&self, dead: NodeId) -> u32 {
        let metrics = self.raft.metrics();
        let it = metrics.borrow_watched();
        let before = it
            .membership_config
            .voter_ids()
            .filter(|id| *id != dead.0 && *id < self.this.0);
        u32::try_from(before.count()).unwrap_or(u32::MAX)
    }

    /// A panic in the core's task.
    #[cfg(feature = "testing")]
    pub(crate) async fn panic_inside(&self) {
        let asked = self
            .raft
            .with_raft_state(|_| -> () { panic!("a test wants it") });
        drop(asked.await);
    }

    /// Ends the core's task.
    pub(crate) async fn shutdown(&self) {
        if let Err(cause) = self.raft.shutdown().await {
            tracing::warn!(group = self.group.0, %cause, "a core ended badly");
        }
    }
}

fn outcome(result: Option<openraft::raft::ClientWriteResult<Types>>) -> Outcome {
    match result {
        Some(Ok(applied)) => Outcome::Applied {
            index: applied.log_id.index,
            replies: applied.data.into_any(),
        },
        Some(Err(ClientWriteError::ForwardToLeader(to))) => Outcome::NotLeader {
            leader: to.leader_id.map(NodeId),
        },
        // A precondition is judged before the append; no write of ours carries one but `with_leader`.
        Some(Err(
            ClientWriteError::PreconditionFailed(_) | ClientWriteError::ChangeMembershipError(_),
        )) => Outcome::NotLeader { leader: None },
        Some(Err(ClientWriteError::LogEntryDiscarded(_))) | None => Outcome::Unknown,
    }
}

fn hint_of(metrics: &openraft::metrics::RaftServerMetrics<Types>, this: NodeId) -> Hint {
    let leader = metrics.current_leader.map(NodeId);
    Hint {
        term: metrics.vote.leader_id.term,
        leader,
        is_self: leader == Some(this) && metrics.state.is_leader(),
    }
}

fn voters(it: &openraft::RaftMetrics<Types>) -> Vec<BTreeSet<NodeId>> {
    let sets = it.membership_config.membership().get_joint_config();
    sets.iter()
        .map(|set| set.iter().copied().map(NodeId).collect())
        .collect()
}

/// The core counts anew with each leader what the cluster has committed. What is applied here is committed all the same.
fn known_committed(cluster: Option<u64>, applied: Option<u64>) -> Option<u64> {
    cluster.max(applied)
}

#[cfg(test)]
mod tests {
    use super::known_committed;

    #[test]
    fn what_is_known_as_committed_does_not_fall_when_the_leader_changes() {
        assert_eq!(known_committed(Some(835), Some(835)), Some(835));
        assert_eq!(known_committed(Some(819), Some(835)), Some(835));
        assert_eq!(known_committed(None, Some(835)), Some(835));
        assert_eq!(known_committed(Some(840), Some(835)), Some(840));
    }
}
