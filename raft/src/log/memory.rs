//! The log in memory: for tests and simulation. Durable as soon as it is submitted, unless told to hold back.

use std::collections::HashMap;
use std::io;
use std::ops::Range;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::tail::Tail;
use super::{Completion, Ident, LogBackend, LogOp, LogState, Ticket};
use crate::error::StorageFault;
use crate::types::{GroupId, LogId, StoredEntry};

/// Logs that end with the process.
pub struct MemoryLog {
    ident: Ident,
    reservation: Mutex<Option<Vec<u8>>>,
    groups: Mutex<(u64, HashMap<GroupId, Tail>)>,
}

impl MemoryLog {
    /// An empty log of this node.
    pub fn new(ident: Ident) -> Self {
        Self {
            ident,
            reservation: Mutex::default(),
            groups: Mutex::default(),
        }
    }
}

impl LogBackend for MemoryLog {
    fn state(&self, group: GroupId) -> LogState {
        self.groups
            .lock()
            .1
            .get(&group)
            .map(|tail| tail.state)
            .unwrap_or_default()
    }

    fn submit(&self, group: GroupId, op: LogOp, done: Completion) -> BoxFuture<'_, Ticket> {
        let ticket = {
            let mut groups = self.groups.lock();
            groups.0 += 1;
            let ticket = Ticket(groups.0);
            let tail = groups.1.entry(group).or_default();
            tail.take(&op, ticket);
            tail.durable(ticket, usize::MAX);
            ticket
        };
        done(Ok(()));
        futures::future::ready(ticket).boxed()
    }

    fn hint_committed(&self, group: GroupId, committed: LogId) {
        self.groups
            .lock()
            .1
            .entry(group)
            .or_default()
            .state
            .committed = Some(committed);
    }

    fn read(
        &self,
        group: GroupId,
        range: Range<u64>,
        bytes_max: usize,
    ) -> io::Result<Vec<StoredEntry>> {
        let groups = self.groups.lock();
        Ok(groups
            .1
            .get(&group)
            .map(|tail| tail.read(&range, bytes_max))
            .unwrap_or_default())
    }

    fn is_cached(&self, _group: GroupId, _range: &Range<u64>) -> bool {
        true
    }

    fn durable(&self, _group: GroupId, _index: u64) -> BoxFuture<'_, io::Result<()>> {
        futures::future::ready(Ok(())).boxed()
    }

    fn ident(&self) -> Ident {
        self.ident
    }

    fn reservation(&self) -> Option<Vec<u8>> {
        self.reservation.lock().clone()
    }

    fn set_reservation(&self, reservation: Option<Vec<u8>>) -> Result<(), StorageFault> {
        *self.reservation.lock() = reservation;
        Ok(())
    }

    fn written_bytes(&self, group: GroupId) -> u64 {
        self.groups
            .lock()
            .1
            .get(&group)
            .map_or(0, |tail| tail.taken_bytes)
    }

    fn close(&self) {}
}
