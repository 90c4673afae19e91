//! Which link does what: rules by directed link, and counts of what they held.
//!
//! Invariant: a rule is about the bytes from one to the other, whoever of the two opened the connection. Not here: carrying the
//! bytes (`pipe`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::watch;

/// The name of everything in the harness's own process.
pub const CLIENTS: &str = "clients";

/// What becomes of the bytes of a directed link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// They are held, and nobody is told: as when a cable is cut.
    Cut,
    /// They arrive later, and at most at a rate.
    Slow {
        /// By so many milliseconds.
        delay_ms: u64,
        /// So many bytes a second.
        bytes_per_s: u64,
    },
    /// The connection breaks once so many more bytes have passed.
    BreakAfter {
        /// How many.
        bytes: u64,
    },
}

type Rules = BTreeMap<(String, String), Rule>;

/// The rules of all links, shared by all gates.
#[derive(Debug)]
pub struct Net {
    rules: watch::Sender<Arc<Rules>>,
    /// How often bytes met a rule, by link.
    met: Mutex<BTreeMap<(String, String), u64>>,
    /// Each reset of connections has a number.
    resets: watch::Sender<(u64, String)>,
    reset_connections: AtomicU64,
}

impl Default for Net {
    fn default() -> Self {
        Self {
            rules: watch::Sender::new(Arc::default()),
            met: Mutex::default(),
            resets: watch::Sender::new((0, String::new())),
            reset_connections: AtomicU64::new(0),
        }
    }
}

impl Net {
    /// Sets a rule for each of these directed links.
    pub fn set(&self, links: &[(String, String)], rule: Rule) {
        let mut met = self.met.lock();
        self.rules.send_modify(|rules| {
            let rules = Arc::make_mut(rules);
            for link in links {
                rules.insert(link.clone(), rule);
                met.remove(link);
            }
        });
    }

    /// Lifts the rules of these links.
    pub fn lift(&self, links: &[(String, String)]) {
        self.rules.send_modify(|rules| {
            let rules = Arc::make_mut(rules);
            for link in links {
                rules.remove(link);
            }
        });
    }

    /// Lifts all rules.
    pub fn lift_all(&self) {
        self.rules.send_modify(|rules| *rules = Arc::default());
    }

    /// Whether any rule is in force on these links.
    pub fn is_ruled(&self, links: &[(String, String)]) -> bool {
        let rules = self.rules.borrow();
        links.iter().any(|link| rules.contains_key(link))
    }

    /// How often bytes met the rules of these links since they were set.
    pub fn met(&self, links: &[(String, String)]) -> u64 {
        let met = self.met.lock();
        links.iter().filter_map(|link| met.get(link)).sum()
    }

    /// Breaks every connection of this process or to this node, at once, and says how many there were a moment later.
    pub fn reset(&self, name: &str) {
        self.resets
            .send_modify(|(number, whom)| (*number, *whom) = (*number + 1, name.to_string()));
    }

    /// How many connections were reset so far.
    pub fn reset_count(&self) -> u64 {
        self.reset_connections.load(Ordering::Relaxed)
    }

    pub(super) fn resets(&self) -> watch::Receiver<(u64, String)> {
        self.resets.subscribe()
    }

    pub(super) fn count_reset(&self) {
        self.reset_connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn watch(self: &Arc<Self>, from: &str, to: &str) -> Link {
        Link {
            net: Arc::clone(self),
            name: (from.to_string(), to.to_string()),
            rules: self.rules.subscribe(),
        }
    }
}

/// One directed link as a pipe sees it.
#[derive(Debug)]
pub(super) struct Link {
    net: Arc<Net>,
    name: (String, String),
    rules: watch::Receiver<Arc<Rules>>,
}

impl Link {
    /// Waits while the link is cut; answers the rule for what passes then.
    pub(super) async fn open(&mut self) -> Option<Rule> {
        loop {
            let rule = self.rules.borrow_and_update().get(&self.name).copied();
            if rule.is_some() {
                *self.net.met.lock().entry(self.name.clone()).or_default() += 1;
            }
            if rule != Some(Rule::Cut) {
                return rule;
            }
            if self.rules.changed().await.is_err() {
                return None; // the net is gone, and with it all rules
            }
        }
    }
}
