//! Changing who replicates a group: add, replace in one joint step, remove; and handing leadership on.
//!
//! Invariant: one change at a time per group; the membership it was decided on must still be in force; the leader never
//! takes itself out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::adapter::core::ChangeError;
use crate::machine::Machine;
use crate::peer::identity::Member;
use crate::replica::Replica;
use crate::seeded::{Bug, armed};
use crate::types::{GroupId, NodeId};

use super::forming::FormError;
use super::{Groups, upkeep};

/// How long a new replica may take to catch up before it votes.
const CATCH_UP_MAX: Duration = Duration::from_mins(10);
/// Entries that it may lack then.
const CAUGHT_UP_WITHIN: u64 = 1_000;
/// How long leadership may take to move.
const TRANSFER_MAX: Duration = Duration::from_secs(5);

/// Why the membership was not changed.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// Consensus refused.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The new node.
    #[error(transparent)]
    Form(#[from] FormError),
    /// It would not be right.
    #[error("{0}")]
    Refused(String),
    /// It does not get there.
    #[error("node {} did not catch up within {within:?}; it stays a learner, look at its log and repeat the command", node.0)]
    Slow {
        /// Which node.
        node: NodeId,
        /// How long it was waited for.
        within: Duration,
    },
}

impl<M: Machine> Groups<M> {
    fn replica(&self, group: GroupId) -> Result<Replica<M>, MemberError> {
        let replicas = self.replicas.borrow();
        let found = replicas.iter().find(|it| it.group() == group).cloned();
        found.ok_or_else(|| MemberError::Refused("this node belongs to no cluster yet".to_owned()))
    }

    /// On the leader of `group`: makes the node at `peer_address` a voter; with `instead_of`, in place of that one.
    /// `api_address`: how clients reach it; none: as it says. Returns the node.
    ///
    /// # Errors
    /// `MemberError` says what stands in the way; repeating the call goes on where it ended.
    pub async fn add(
        self: &Arc<Self>,
        group: GroupId,
        peer_address: &str,
        api_address: Option<String>,
        instead_of: Option<NodeId>,
    ) -> Result<NodeId, MemberError> {
        let this = Arc::clone(self);
        let peer_address = peer_address.to_owned();
        let changing = self.runtime.spawn(async move {
            this.add_here(group, &peer_address, api_address, instead_of)
                .await
        });
        changing
            .await
            .map_err(|cause| MemberError::Refused(format!("the change was cut short: {cause}")))?
    }

    async fn add_here(
        self: &Arc<Self>,
        group: GroupId,
        peer_address: &str,
        api_address: Option<String>,
        instead_of: Option<NodeId>,
    ) -> Result<NodeId, MemberError> {
        let _one = self.changing.lock().await;
        let replica = self.replica(group)?;
        let status = Self::leading(&replica)?;
        let (node, mut member) = self.who_is(peer_address).await?;
        if let Some(api_address) = api_address {
            member.api_address = api_address;
        }
        let mut voters: BTreeSet<NodeId> = status.voters.iter().flatten().copied().collect();
        if voters.contains(&node.id) {
            let known = status.members.get(&node.id);
            if known.is_some_and(|it| it.incarnation == node.incarnation) {
                return Ok(node.id); // done by an earlier call
            }
            if !armed(Bug::NodeIdReuseAllowed) {
                return Err(Self::used(node.id));
            }
        }
        if self
            .door
            .known(node.id)
            .is_some_and(|known| known != node.incarnation)
            && !armed(Bug::NodeIdReuseAllowed)
        {
            return Err(Self::used(node.id));
        }
        if let Some(old) = instead_of
            && !voters.contains(&old)
        {
            return Err(MemberError::Refused(format!(
                "node {} is no member of partition {}",
                old.0, group.0
            )));
        }
        if instead_of == Some(self.settings.node) {
            return Err(MemberError::Refused(format!(
                "node {} leads partition {}; move leadership first (`holdfast cluster transfer-leader`), then repeat",
                self.settings.node.0, group.0
            )));
        }
        self.reserve_new(&replica, node.id, &member, peer_address)
            .await?;
        self.door.learn(node.id, node.incarnation);
        replica.core.add_learner(node.id, member).await?;
        Self::catch_up(&replica, node.id).await?;
        voters.insert(node.id);
        if let Some(old) = instead_of {
            voters.remove(&old);
        }
        replica
            .core
            .change_voters(voters, replica.core.membership_at())
            .await?;
        Ok(node.id)
    }

    fn used(node: NodeId) -> MemberError {
        MemberError::Refused(format!(
            "node id {} was used in this cluster by another disk; start the node under a new id",
            node.0
        ))
    }

    /// The cluster's reservation, as of now, on a node that joins.
    async fn reserve_new(
        &self,
        replica: &Replica<M>,
        id: NodeId,
        member: &Member,
        peer_address: &str,
    ) -> Result<(), MemberError> {
        let reservation = self.reservation();
        let mut reservation = reservation
            .ok_or_else(|| MemberError::Refused("this node belongs to no cluster".to_owned()))?;
        reservation.members = replica.core.status().members;
        reservation.members.insert(id, member.clone());
        Ok(self.reserve_joiner(peer_address, &reservation).await?)
    }

    fn leading(replica: &Replica<M>) -> Result<crate::replica::Status, MemberError> {
        let status = replica.core.status();
        if status.is_leader {
            return Ok(status);
        }
        let (group, leader) = (replica.group(), status.leader);
        Err(ChangeError::NotLeader { group, leader }.into())
    }

    async fn catch_up(replica: &Replica<M>, id: NodeId) -> Result<(), MemberError> {
        let near = move |status: &crate::replica::Status| {
            let last = status.last_log.unwrap_or(0);
            let matched = status.replication.get(&id).copied().flatten();
            matched.is_some_and(|matched| matched + CAUGHT_UP_WITHIN >= last)
        };
        if replica.core.wait_until(CATCH_UP_MAX, near).await {
            return Ok(());
        }
        Err(MemberError::Slow {
            node: id,
            within: CATCH_UP_MAX,
        })
    }

    /// On the leader of `group`: takes a node out.
    ///
    /// # Errors
    /// As for `add`.
    pub async fn remove(self: &Arc<Self>, group: GroupId, node: NodeId) -> Result<(), MemberError> {
        let this = Arc::clone(self);
        let changing = self
            .runtime
            .spawn(async move { this.remove_here(group, node).await });
        changing
            .await
            .map_err(|cause| MemberError::Refused(format!("the change was cut short: {cause}")))?
    }

    async fn remove_here(&self, group: GroupId, node: NodeId) -> Result<(), MemberError> {
        let _one = self.changing.lock().await;
        let replica = self.replica(group)?;
        let status = Self::leading(&replica)?;
        if node == self.settings.node {
            return Err(MemberError::Refused(format!(
                "node {} leads partition {}; move leadership first (`holdfast cluster transfer-leader`), then repeat",
                node.0, group.0
            )));
        }
        let mut voters: BTreeSet<NodeId> = status.voters.iter().flatten().copied().collect();
        if voters.remove(&node) {
            if voters.is_empty() {
                return Err(MemberError::Refused(
                    "the last node cannot be removed".to_owned(),
                ));
            }
            replica
                .core
                .change_voters(voters, replica.core.membership_at())
                .await?;
        } else if status.members.contains_key(&node) {
            replica.core.remove_learner(node).await?;
        } else if self.door.known(node).is_none() {
            return Err(MemberError::Refused(format!(
                "node {} was never in this cluster; its nodes are listed by `holdfast cluster status`",
                node.0
            )));
        }
        Ok(())
    }

    /// On the leader of `group`: hands leadership to `to`, or to the follower that lacks least.
    ///
    /// # Errors
    /// It does not lead, or leadership was not taken in time.
    pub async fn transfer(
        self: &Arc<Self>,
        group: GroupId,
        to: Option<NodeId>,
    ) -> Result<(), MemberError> {
        let replica = self.replica(group)?;
        let status = Self::leading(&replica)?;
        if to == Some(self.settings.node) {
            return Ok(());
        }
        if let Some(to) = to
            && !status.voters.iter().flatten().any(|id| *id == to)
        {
            return Err(MemberError::Refused(format!(
                "node {} is no voter of partition {}",
                to.0, group.0
            )));
        }
        let moving = self.runtime.spawn(async move {
            match to {
                Some(to) => upkeep::hand_to(&replica, to, TRANSFER_MAX).await,
                None => upkeep::move_away(&replica, TRANSFER_MAX).await,
            }
        });
        if moving.await.unwrap_or(false) {
            return Ok(());
        }
        Err(MemberError::Refused(format!(
            "leadership of partition {} was not taken over; look at `holdfast cluster status`",
            group.0
        )))
    }
}
