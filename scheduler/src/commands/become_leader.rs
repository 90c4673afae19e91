//! `BecomeLeader`: a node takes the group over; from here on, epoch = this entry's index.

use crate::{
    apply::Applied,
    effect::Effect,
    entry::BecomeLeader,
    ids::LogIndex,
    reply::Reply,
    rows::{Key, Row, Rows},
    seeded::{self, Bug},
    values::run::Group,
};

/// Sets epoch and clock. The anchor never takes the clock back.
pub fn apply<R: Rows>(rows: &mut R, group: Group, at: LogIndex, it: &BecomeLeader) -> Applied {
    let group = Group {
        clock: if seeded::armed(Bug::ClockAnchorIgnored) {
            group.clock
        } else {
            group.clock.max(it.anchor)
        },
        epoch: at.0,
        boot: Some(it.boot.clone()),
        ..group
    };
    if seeded::armed(Bug::BucketRefilledOnFailover) {
        fill_buckets(rows);
    }
    rows.put(Key::Group, Row::Group(group));
    Applied {
        replies: vec![Reply::Done],
        effects: vec![Effect::Epoch {
            epoch: at.0,
            boot: it.boot.clone(),
        }],
    }
}

/// Only ever called with that bug armed.
fn fill_buckets<R: Rows>(rows: &mut R) {
    for view in crate::views::limits(rows).unwrap_or_default() {
        let mut limit = view.limit;
        limit.fill();
        rows.put(Key::Limit(view.name), Row::Limit(limit));
    }
}
