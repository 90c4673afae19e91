//! The machine as a simulation gives it: one thread, time that only the world moves, disks and sockets in memory.
//!
//! Invariant: one seed, one course: nothing here asks the real machine for anything. A node that is ended loses what a real
//! one would lose: what its database held in memory, what its files were not synced of, its connections.
//! Not here: when which fault strikes, and what is judged (`jepsen::sim::tier_b`).

pub mod disk;
pub(crate) mod machine;
pub mod net;
pub mod rocksdb;
mod store;

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::types::{GroupId, LogId, StoredEntry};

/// Why a process ends that dies between a write and its sync.
pub const AT_A_SYNC: &str = "at a sync";

thread_local! {
    static CURRENT: RefCell<Option<Arc<Host>>> = const { RefCell::new(None) };
    static NOW_MS: Cell<u64> = const { Cell::new(0) };
    static SEEN: RefCell<Vec<Seen>> = const { RefCell::new(Vec::new()) };
    static TRACE: RefCell<Option<Box<dyn FnMut(&str)>>> = const { RefCell::new(None) };
}

/// How the disk of a node behaves: each write of the log and each turn of the state takes a time drawn from these, in ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Habits {
    /// The longest that a sync of the log takes when nothing is wrong.
    pub sync_ms_max: u64,
    /// Of a thousand syncs, how many stall.
    pub stall_permille: u64,
    /// How long a stall lasts at most.
    pub stall_ms_max: u64,
    /// The longest that the state waits before its next turn.
    pub apply_ms_max: u64,
    /// Of a million syncs, how many fail.
    pub sync_fails_ppm: u64,
    /// Of a million syncs, in how many the process dies once the records are written and before they are synced.
    pub dies_at_sync_ppm: u64,
}

impl Habits {
    /// A disk that does nothing unexpected.
    pub const GOOD: Self = Self {
        sync_ms_max: 2,
        stall_permille: 0,
        stall_ms_max: 0,
        apply_ms_max: 0,
        sync_fails_ppm: 0,
        dies_at_sync_ppm: 0,
    };
}

/// One process of the simulation, from its start to its end.
pub struct Host {
    /// The node that it is.
    pub node: u64,
    rng: Mutex<Rng>,
    habits: Mutex<Habits>,
    ended: Mutex<Option<&'static str>>,
}

impl Host {
    /// A process of `node`, with its own chance.
    pub fn new(node: u64, seed: u64, habits: Habits) -> Arc<Self> {
        Arc::new(Self {
            node,
            rng: Mutex::new(Rng::new(seed)),
            habits: Mutex::new(habits),
            ended: Mutex::new(None),
        })
    }

    /// Why it ended itself, if it has: the world is to drop its runtime.
    pub fn ended(&self) -> Option<&'static str> {
        *self.ended.lock()
    }

    /// Another disk behaviour from here on.
    pub fn set_habits(&self, habits: Habits) {
        *self.habits.lock() = habits;
    }

    pub(crate) fn habits(&self) -> Habits {
        *self.habits.lock()
    }

    pub(crate) fn draw(&self) -> u64 {
        self.rng.lock().draw()
    }

    pub(crate) fn below(&self, end: u64) -> u64 {
        self.rng.lock().below(end)
    }

    pub(crate) fn chance(&self, ppm: u64) -> bool {
        ppm > 0 && self.below(1_000_000) < ppm
    }
}

/// Runs `what` as this process: files, sockets and chance inside are its own.
pub fn within<T>(host: &Arc<Host>, what: impl FnOnce() -> T) -> T {
    struct Back(Option<Arc<Host>>);
    impl Drop for Back {
        fn drop(&mut self) {
            CURRENT.with_borrow_mut(|current| *current = self.0.take());
        }
    }
    let before = CURRENT.with_borrow_mut(|current| current.replace(Arc::clone(host)));
    let _back = Back(before);
    what()
}

/// The process that runs now.
pub(crate) fn current() -> Arc<Host> {
    let current = CURRENT.with_borrow(Option::clone);
    current.expect("code of a node runs inside `within`")
}

/// Ends this process: whoever asked goes no further, and the world drops the rest.
pub(crate) fn end(why: &'static str) -> ! {
    let host = current();
    trace(&format!("n{} ends: {why}", host.node));
    host.ended.lock().get_or_insert(why);
    std::panic::resume_unwind(Box::new(why))
}

/// What the world says the time is, in milliseconds since it began.
pub fn now_ms() -> u64 {
    NOW_MS.get()
}

/// Only the world moves time.
pub fn set_now_ms(now: u64) {
    NOW_MS.set(now);
}

/// Where lines of the trace go; `None`: nowhere.
pub fn set_trace(to: Option<Box<dyn FnMut(&str)>>) {
    TRACE.with_borrow_mut(|trace| *trace = to);
}

/// One line of what happens, with the time before it.
pub fn trace(line: &str) {
    TRACE.with_borrow_mut(|trace| {
        if let Some(trace) = trace {
            trace(line);
        }
    });
}

/// What the state of a replica went through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Whose.
    pub node: u64,
    /// Of which group.
    pub group: u32,
    /// Which entry.
    pub id: LogId,
    /// Of its bytes; none: a snapshot up to it was installed.
    pub hash: Option<u32>,
    /// The running digest after it.
    pub digest: u128,
}

/// What was seen since the last call, in order.
pub fn seen() -> Vec<Seen> {
    SEEN.take()
}

/// A replica has applied this entry.
pub(crate) fn applied(group: GroupId, entry: &StoredEntry, digest: u128) {
    see(
        group,
        entry.id,
        Some(crc32fast::hash(&entry.payload)),
        digest,
    );
}

/// A replica has installed a snapshot.
pub(crate) fn installed(group: GroupId, last: Option<LogId>, digest: u128) {
    if let Some(last) = last {
        see(group, last, None, digest);
    }
}

fn see(group: GroupId, id: LogId, hash: Option<u32>, digest: u128) {
    let node = current().node;
    let what = if hash.is_some() {
        "applied"
    } else {
        "installed"
    };
    trace(&format!(
        "n{node} g{} {what} {} of t{}/n{} {:08x} digest {digest:032x}",
        group.0,
        id.index,
        id.term,
        id.node.0,
        hash.unwrap_or_default()
    ));
    SEEN.with_borrow_mut(|seen| {
        seen.push(Seen {
            node,
            group: group.0,
            id,
            hash,
            digest,
        });
    });
}

/// What the disk of a node would still have of an entry if it lost power now and nothing more than what was synced stayed.
pub fn is_durable(folder: &std::path::Path, group: u32, id: LogId) -> bool {
    let group = GroupId(group);
    crate::log::rocks::durable(folder, group, id)
        || crate::state::durable(folder, group) >= id.index
}

/// Chance that a seed decides: SplitMix64.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut it = self.0;
        it = (it ^ (it >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        it = (it ^ (it >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        it ^ (it >> 31)
    }

    /// Below `end`; 0 if that is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.draw() % end }
    }

    /// From `from` up to and with `to`.
    pub fn within(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to.saturating_sub(from) + 1)
    }

    /// Whether one of a hundred falls among the first `percent`.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}
