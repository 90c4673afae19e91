//! Whom a fault hits.
//!
//! Invariant: nobody is taken whom another fault breaks, nor one too many for the rest to be whole; a fault that finds nobody is
//! written down as skipped, with the reason. Not here: what becomes of whom it hits.

use std::sync::Arc;

use crate::dice::Dice;
use crate::records::FaultStatus::Skipped;
use crate::run::{Field, Leader, Member, Taken};

/// Of a hundred faults that may hit any node so many hit a leader, for that is where they hurt.
pub(super) const MOSTLY_LEADERS: u64 = 65;

/// The leader of any group.
pub(super) async fn some_leader(field: &Arc<Field>, dice: &mut Dice) -> Option<Leader> {
    let group = dice.between(1, u64::from(field.options.partitions.max(1)));
    field.leader(u32::try_from(group).unwrap_or(1)).await
}

/// A node that leads no group, as far as is known.
pub(super) async fn some_follower(field: &Arc<Field>, dice: &mut Dice) -> Option<Arc<Member>> {
    let mut leads = Vec::new();
    for group in 1..=field.options.partitions {
        leads.push(field.leader(group).await?.member.id);
    }
    let members = field.members();
    let mut among = members.clone();
    among.retain(|it| !leads.contains(&it.id));
    if among.is_empty() {
        among = members; // with several groups every node may lead one
    }
    Some(Arc::clone(dice.pick(&among)))
}

/// One of the two, the leader of a group in so many of a hundred cases.
async fn some_node(
    field: &Arc<Field>,
    dice: &mut Dice,
    leaders: u64,
) -> Option<(Arc<Member>, Option<Leader>)> {
    if dice.chance(leaders) {
        let leader = some_leader(field, dice).await?;
        return Some((Arc::clone(&leader.member), Some(leader)));
    }
    Some((some_follower(field, dice).await?, None))
}

/// A leader for a fault that breaks no node: others may be broken too.
pub(super) async fn find_leader(
    field: &Arc<Field>,
    dice: &mut Dice,
    fault: &str,
) -> Option<Leader> {
    found(field, fault, some_leader(field, dice).await)
}

/// The same, of any node.
pub(super) async fn find_node(
    field: &Arc<Field>,
    dice: &mut Dice,
    fault: &str,
    leaders: u64,
) -> Option<Arc<Member>> {
    let node = some_node(field, dice, leaders).await;
    found(field, fault, node).map(|it| it.0)
}

/// A leader, for this fault alone until what comes with it is dropped.
pub(super) async fn take_leader(
    field: &Arc<Field>,
    dice: &mut Dice,
    fault: &str,
) -> Option<(Leader, Taken)> {
    let leader = find_leader(field, dice, fault).await?;
    let taken = take(field, fault, &leader.member)?;
    Some((leader, taken))
}

/// The same, of a node that leads nothing.
pub(super) async fn take_follower(
    field: &Arc<Field>,
    dice: &mut Dice,
    fault: &str,
) -> Option<(Arc<Member>, Taken)> {
    let member = found(field, fault, some_follower(field, dice).await)?;
    let taken = take(field, fault, &member)?;
    Some((member, taken))
}

/// The same, of any node, and what it leads.
pub(super) async fn take_node(
    field: &Arc<Field>,
    dice: &mut Dice,
    fault: &str,
    leaders: u64,
) -> Option<(Arc<Member>, Option<Leader>, Taken)> {
    let node = some_node(field, dice, leaders).await;
    let (member, leader) = found(field, fault, node)?;
    let taken = take(field, fault, &member)?;
    Some((member, leader, taken))
}

/// This node, for this fault alone.
pub(super) fn take(field: &Arc<Field>, fault: &str, member: &Member) -> Option<Taken> {
    let taken = field.take(&[member.id]);
    if taken.is_none() {
        field.record(fault, &[&member.name], Skipped, "too few others are whole");
    }
    taken
}

fn found<T>(field: &Arc<Field>, fault: &str, one: Option<T>) -> Option<T> {
    if one.is_none() {
        field.record(fault, &[], Skipped, "nobody leads");
    }
    one
}
