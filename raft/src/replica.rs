//! `Replica`: all that `node` sees of one group: propose, read, what was applied, effects, and hints of who leads.
//!
//! Invariant: a linearizable read is confirmed by a quorum after it was asked for; a replica that lags waits or says so.
//! Not here: forming and changing the group (`groups`).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use holdfast_proto::peer::{self as wire, read_index_reply};

pub use crate::adapter::core::{ChangeError, Hint, Status};
use crate::adapter::core::{Core, NoReadIndex};
use crate::agreement::Verdict;
use crate::error::{ProposeError, ReadError, StorageFault};
use crate::machine::Machine;
use crate::peer::identity::addressed;
use crate::proposer::Proposer;
use crate::seeded::{Bug, armed};
use crate::state::{Effects, GroupState, RowSnapshot};
use crate::types::{GroupId, NodeId, Position};

/// How fresh a read has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// As of the moment it was asked for, or later.
    Linear,
    /// Whatever this replica has.
    Stale,
    /// As of this log index, or later.
    AtLeast(u64),
}

/// How long a read waits for this replica to catch up.
const CATCH_UP_MAX: Duration = Duration::from_secs(2);
/// How long a follower waits for its leader's word.
const ASK_LEADER_MAX: Duration = Duration::from_secs(1);

/// One group on this node.
pub struct Replica<M: Machine> {
    pub(crate) core: Arc<Core>,
    pub(crate) state: GroupState<M>,
    pub(crate) proposer: Arc<Proposer<M>>,
    pub(crate) hints: watch::Receiver<Hint>,
    pub(crate) verdict: Arc<watch::Sender<Verdict>>,
}

impl<M: Machine> Clone for Replica<M> {
    fn clone(&self) -> Self {
        Self {
            core: Arc::clone(&self.core),
            state: self.state.clone(),
            proposer: Arc::clone(&self.proposer),
            hints: self.hints.clone(),
            verdict: Arc::clone(&self.verdict),
        }
    }
}

impl<M: Machine> Replica<M> {
    /// Which group it is.
    pub fn group(&self) -> GroupId {
        self.core.group
    }

    /// Proposes a command, and waits until it is applied here.
    ///
    /// # Errors
    /// `NotLeader`, `Overloaded`, `TooLarge`, `Stopped`: it was not appended. `Unknown`: repeat it with the same ids.
    pub async fn propose(&self, command: M::Command) -> Result<(M::Reply, Position), ProposeError> {
        let (done, answered) = oneshot::channel();
        self.propose_with(command, move |result| drop(done.send(result)));
        answered.await.unwrap_or(Err(ProposeError::Unknown))
    }

    /// As [`Replica::propose`]; `done` is called once, on the thread where the answer was made, and must not block.
    pub fn propose_with(
        &self,
        command: M::Command,
        done: impl FnOnce(Result<(M::Reply, Position), ProposeError>) + Send + 'static,
    ) {
        self.proposer.propose(command, Box::new(done));
    }

    /// Looks at the rows, on the read pool.
    ///
    /// # Errors
    /// `NoLeader`, `Behind`: try again, here or elsewhere.
    pub async fn read<T: Send + 'static>(
        &self,
        how: Freshness,
        look: impl FnOnce(&RowSnapshot<'_>) -> T + Send + 'static,
    ) -> Result<(T, Position), ReadError> {
        if let Some(fault @ StorageFault::Diverged { .. }) = self.state.refused() {
            return Err(ReadError::Storage(fault.clone()));
        }
        match how {
            Freshness::Stale => {}
            Freshness::AtLeast(index) => self.caught_up(index).await?,
            Freshness::Linear if armed(Bug::FollowerReadNoBarrier) => {}
            Freshness::Linear => {
                let index = self.read_index().await?;
                self.caught_up(index).await?;
            }
        }
        let read = self.state.read(|rows| (look(rows), rows.applied()));
        let (found, index) = read.await.map_err(ReadError::Storage)?;
        Ok((
            found,
            Position {
                group: self.core.group,
                index,
                slot: 0,
            },
        ))
    }

    /// Looks at the rows as they are here and now, on the calling thread: for a row or two that lie in memory.
    pub fn look<T>(&self, look: impl FnOnce(&RowSnapshot<'_>) -> T) -> T {
        self.state.look(look)
    }

    async fn caught_up(&self, wanted: u64) -> Result<(), ReadError> {
        let mut applied = self.state.applied_watch();
        let waited =
            tokio::time::timeout(CATCH_UP_MAX, applied.wait_for(|applied| *applied >= wanted))
                .await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ReadError::Stopped),
            Err(_) => {
                let applied = *self.state.applied_watch().borrow();
                Err(ReadError::Behind { applied, wanted })
            }
        }
    }

    async fn read_index(&self) -> Result<u64, ReadError> {
        let group = self.core.group;
        let leader = match self.core.read_index().await {
            Ok(index) => return Ok(index),
            Err(NoReadIndex::NotLeader(leader)) => leader,
            Err(NoReadIndex::NoQuorum(_)) => return Err(ReadError::NoLeader { group }),
            Err(NoReadIndex::Stopped) => return Err(ReadError::Stopped),
        };
        let leader = leader.ok_or(ReadError::NoLeader { group })?;
        let asked = tokio::time::timeout(ASK_LEADER_MAX, self.ask_leader(leader)).await;
        asked.ok().flatten().ok_or(ReadError::NoLeader { group })
    }

    async fn ask_leader(&self, leader: NodeId) -> Option<u64> {
        let peer = self.core.peers.find(leader)?;
        let address = peer.address(self.core.group).ok()?;
        let ask = addressed(wire::ReadIndexAsk {}, address);
        match peer
            .consensus()
            .read_index(ask)
            .await
            .ok()?
            .into_inner()
            .result?
        {
            read_index_reply::Result::Index(index) => Some(index),
            read_index_reply::Result::NotLeader(_) | read_index_reply::Result::NoQuorum(_) => None,
        }
    }

    /// The last applied index, as it grows.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.state.applied_watch()
    }

    /// Effects in log order; one reader per group.
    pub fn effects(&self) -> Effects<M> {
        self.state.effects()
    }

    /// Who leads, as far as this node knows: hints only.
    pub fn watch_leader(&self) -> watch::Receiver<Hint> {
        self.hints.clone()
    }

    /// A moment of the group.
    pub fn status(&self) -> Status {
        self.core.status()
    }

    /// Commands that wait to be cut into entries.
    pub fn proposals_pending(&self) -> usize {
        self.proposer.pending()
    }

    /// About how many bytes a snapshot of it has.
    pub fn snapshot_bytes(&self) -> u64 {
        self.state.disk_bytes()
    }

    /// What comparing this replica's rows with the others' came to last.
    pub fn verdict(&self) -> Verdict {
        *self.verdict.borrow()
    }

    /// Compares now.
    pub(crate) fn judge(&self) -> Verdict {
        let status = self.core.status();
        let members = status.members.keys().copied().collect();
        let mut voters = status.voters;
        if armed(Bug::HashVerdictByLeaderAlone) {
            voters = vec![status.leader.into_iter().collect()];
        }
        self.core.pulses.judge(&voters, &members)
    }

    /// On a leader, how long ago a quorum last acknowledged it.
    pub fn quorum_ack_age(&self) -> Option<Duration> {
        self.core.quorum_ack_age()
    }

    /// Whether this node leads, and has heard from no quorum for a lease and the longest election after it: another may lead by now, and
    /// whoever turns to this node would wait in vain.
    pub fn is_cut_off(&self) -> bool {
        self.core.is_cut_off()
    }

    /// The wall clocks of the other nodes as heard last, as offsets from this node's in milliseconds.
    pub fn clock_offsets_ms(&self) -> Vec<i64> {
        self.core
            .peers
            .clock_offsets_ms()
            .into_iter()
            .map(|(_, offset)| offset)
            .collect()
    }

    /// The last applied index, and the running digest of all row changes up to it.
    pub fn digest(&self) -> (u64, u128) {
        self.state.digest()
    }
}
