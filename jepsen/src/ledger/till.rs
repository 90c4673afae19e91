//! The till: judges one call at a time and remembers what was done.
//!
//! Invariant: the fence is judged before anything else, repeats included; a key acts once; stock is never negative. All that is
//! remembered can be rebuilt from the lines of the ledger. Not here: sockets and disk (`server`, `file`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::client::Caller;
use super::file::{CallLine, Deed, Line, Verdict};

/// How the shop misbehaves, on purpose.
#[derive(Debug, Clone, Default)]
pub struct Behaviour {
    /// What each call takes: half before it is judged, half after it is recorded. So a caller killed within it may have been served.
    pub latency: Duration,
    /// Orders whose charges are told to come back later.
    pub throttle: Vec<Throttle>,
    /// Orders whose charges the bank refuses.
    pub decline: Vec<String>,
}

/// Answers 429 to the charges of one order for a while, counted from the first of them.
#[derive(Debug, Clone)]
pub struct Throttle {
    /// Which order.
    pub order: String,
    /// For how long.
    pub lasts: Duration,
}

/// What was done under a key, to answer the same again.
#[derive(Debug, Clone)]
struct Done {
    deed: Deed,
    undone: bool,
}

/// A verdict with what the answer needs besides.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ruling {
    pub verdict: Verdict,
    pub retry_after: Option<Duration>,
}

impl From<Verdict> for Ruling {
    fn from(verdict: Verdict) -> Self {
        Self {
            verdict,
            retry_after: None,
        }
    }
}

/// What the shop knows.
#[derive(Debug, Default)]
pub(super) struct Till {
    pub next_seq: u64,
    pub behaviour: Behaviour,
    stock: BTreeMap<String, u64>,
    done: BTreeMap<String, Done>,
    /// Charges and reservations that were undone before they came.
    closed: BTreeSet<String>,
    /// The newest fence by run and step.
    fences: BTreeMap<(String, String), u64>,
    throttled_since: BTreeMap<String, Instant>,
}

impl Till {
    /// The state after these lines.
    pub fn replay(lines: &[Line]) -> Self {
        let mut till = Self::default();
        for line in lines {
            match line {
                Line::Opened { stock } => till.stock.clone_from(stock),
                Line::Call(call) => {
                    till.remember(call);
                    till.next_seq = call.seq + 1;
                }
            }
        }
        till
    }

    pub fn stock(&self, sku: &str) -> Option<u64> {
        self.stock.get(sku).copied()
    }

    /// Judges, and carries out what it allows.
    pub fn judge(&mut self, caller: &Caller, deed: &Deed, now: Instant) -> Ruling {
        if let Deed::FindCharge { charge } = deed {
            let live = self.done.get(charge).is_some_and(|done| !done.undone);
            return if live {
                Verdict::Found
            } else {
                Verdict::Absent
            }
            .into();
        }
        let newest = self
            .fences
            .get(&place(&caller.run, &caller.step))
            .copied()
            .unwrap_or(0);
        if caller.fence < newest {
            return Verdict::StaleFence.into();
        }
        if let Some(retry_after) = self.throttled(caller, deed, now) {
            return Ruling {
                verdict: Verdict::Throttled,
                retry_after: Some(retry_after),
            };
        }
        self.verdict(caller, deed).into()
    }

    fn verdict(&self, caller: &Caller, deed: &Deed) -> Verdict {
        if let Some(done) = self.done.get(&caller.key) {
            return if done.deed == *deed {
                Verdict::Repeated
            } else {
                Verdict::Conflict
            };
        }
        if self.closed.contains(&caller.key) {
            return Verdict::Closed;
        }
        match deed {
            Deed::Charge { .. } if self.behaviour.decline.contains(&caller.order) => {
                Verdict::Declined
            }
            Deed::Reserve { sku, qty } if self.stock(sku).unwrap_or(0) < *qty => {
                Verdict::OutOfStock
            }
            Deed::Refund { charge: of } | Deed::Release { reservation: of } => {
                match self.done.get(of) {
                    Some(done) if !done.undone => Verdict::Acted,
                    Some(_) | None => Verdict::Nothing,
                }
            }
            Deed::Charge { .. }
            | Deed::Reserve { .. }
            | Deed::Mail { .. }
            | Deed::FindCharge { .. } => Verdict::Acted,
        }
    }

    fn throttled(&mut self, caller: &Caller, deed: &Deed, now: Instant) -> Option<Duration> {
        if !matches!(deed, Deed::Charge { .. }) {
            return None;
        }
        let lasts = self
            .behaviour
            .throttle
            .iter()
            .find(|one| one.order == caller.order)?
            .lasts;
        let since = *self
            .throttled_since
            .entry(caller.order.clone())
            .or_insert(now);
        let left = lasts.saturating_sub(now.saturating_duration_since(since));
        (!left.is_zero()).then_some(left)
    }

    /// Takes in what a line says was done.
    pub fn remember(&mut self, call: &CallLine) {
        if matches!(call.deed, Deed::FindCharge { .. }) || call.verdict == Verdict::StaleFence {
            return;
        }
        let newest = self.fences.entry(place(&call.run, &call.step)).or_insert(0);
        *newest = call.fence.max(*newest);
        match (call.verdict, &call.deed) {
            (Verdict::Acted, deed) => self.carry_out(&call.key, deed),
            (Verdict::Nothing, Deed::Refund { charge: of } | Deed::Release { reservation: of }) => {
                self.closed.insert(of.clone());
                self.done.insert(
                    call.key.clone(),
                    Done {
                        deed: call.deed.clone(),
                        undone: false,
                    },
                );
            }
            _ => {}
        }
    }

    fn carry_out(&mut self, key: &str, deed: &Deed) {
        match deed {
            Deed::Reserve { sku, qty } => {
                let left = self.stock.entry(sku.clone()).or_insert(0);
                *left = left.saturating_sub(*qty);
            }
            Deed::Refund { charge: of } | Deed::Release { reservation: of } => {
                if let Some(done) = self.done.get_mut(of) {
                    done.undone = true;
                    if let Deed::Reserve { sku, qty } = done.deed.clone() {
                        *self.stock.entry(sku).or_insert(0) += qty;
                    }
                }
            }
            Deed::Charge { .. } | Deed::Mail { .. } | Deed::FindCharge { .. } => {}
        }
        self.done.insert(
            key.to_string(),
            Done {
                deed: deed.clone(),
                undone: false,
            },
        );
    }
}

fn place(run: &str, step: &str) -> (String, String) {
    (run.to_string(), step.to_string())
}
