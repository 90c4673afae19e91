//! `BecomeLeader`: a node takes the group over; from here on, epoch = this entry's index.

use crate::{
    apply::Applied,
    effect::Effect,
    entry::BecomeLeader,
    ids::LogIndex,
    reply::Reply,
    rows::{Key, Row, Rows},
    values::run::Group,
};

/// Sets epoch and clock. The anchor never takes the clock back.
pub fn apply<R: Rows>(rows: &mut R, group: Group, at: LogIndex, it: &BecomeLeader) -> Applied {
    let group = Group {
        clock: group.clock.max(it.anchor),
        epoch: at.0,
        boot: Some(it.boot.clone()),
        ..group
    };
    rows.put(&Key::Group, &Row::Group(group));
    Applied {
        replies: vec![Reply::Done],
        effects: vec![Effect::Epoch {
            epoch: at.0,
            boot: it.boot.clone(),
        }],
    }
}
