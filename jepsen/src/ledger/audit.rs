//! Adding up a ledger: what was done for each order, under each key, and what must never have been done.
//!
//! Invariant: computed from the lines alone, and stale fences and double effects from the calls and not from the till's word for
//! them; so a fault of the till shows too. Not here: how many orders there should be.

use std::collections::{BTreeMap, BTreeSet};

use super::file::{CallLine, Deed, Line, Verdict};

/// What was done for one order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OrderEffects {
    /// The keys it was charged under: one, in a good world.
    pub charge_keys: BTreeSet<String>,
    /// Money taken.
    pub charged_cents: u64,
    /// Calls that asked for a charge, refused ones included.
    pub charge_calls: u64,
    /// Keys of charges that were given back.
    pub refunded_keys: BTreeSet<String>,
    /// Money given back.
    pub refunded_cents: u64,
    /// Units taken from the shelf.
    pub reserved: u64,
    /// Units put back.
    pub released: u64,
    /// Messages sent.
    pub mails: u64,
}

/// The calls under one key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyCalls {
    /// The order of the first call.
    pub order: String,
    /// The run of the first call.
    pub run: String,
    /// The step of the first call.
    pub step: String,
    /// How many calls there were.
    pub calls: u64,
    /// Which attempts called.
    pub attempts: BTreeSet<u32>,
    /// Under which fences.
    pub fences: BTreeSet<u64>,
    /// How many of the calls had an effect: at most one.
    pub acted: u64,
}

/// What is on the shelf.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stock {
    /// When the shop opened.
    pub start: u64,
    /// After the last line.
    pub left: u64,
}

/// The sums of a ledger.
#[derive(Debug, Clone, Default)]
pub struct Audit {
    /// By order.
    pub orders: BTreeMap<String, OrderEffects>,
    /// By idempotency key.
    pub keys: BTreeMap<String, KeyCalls>,
    /// By article.
    pub stock: BTreeMap<String, Stock>,
    /// Charges that took money.
    pub charges: u64,
    /// Calls that asked for a charge.
    pub charge_calls: u64,
    /// Refunds that gave money back.
    pub refunds: u64,
    /// Calls that were told to come back later.
    pub throttled: u64,
    /// Calls refused for an older fence.
    pub stale_refused: u64,
    /// Orders charged under more than one key.
    pub duplicates: Vec<String>,
    /// Calls that were served although a newer fence had been seen for their step: none, ever.
    pub stale_accepted: Vec<String>,
    /// Keys under which more than one call had an effect: none, ever.
    pub acted_twice: Vec<String>,
    /// Refunds of charges that had not been made.
    pub refunds_without_charge: Vec<String>,
}

impl Audit {
    /// Adds up the lines of a ledger.
    pub fn of(lines: &[Line]) -> Self {
        let mut audit = Self::default();
        let mut adding = Adding::default();
        for line in lines {
            match line {
                Line::Opened { stock } => {
                    let shelf = stock.iter().map(|(sku, n)| {
                        (
                            sku.clone(),
                            Stock {
                                start: *n,
                                left: *n,
                            },
                        )
                    });
                    audit.stock = shelf.collect();
                }
                Line::Call(call) => audit.add(call, &mut adding),
            }
        }
        for (order, effects) in &audit.orders {
            if effects.charge_keys.len() > 1 {
                audit.duplicates.push(order.clone());
            }
        }
        for (key, calls) in &audit.keys {
            if calls.acted > 1 {
                audit.acted_twice.push(key.clone());
            }
        }
        audit
    }

    /// What must not be, one sentence each; empty when every effect happened once and under the newest fence.
    pub fn faults(&self) -> Vec<String> {
        let twice = self.duplicates.iter().map(|order| {
            let keys = &self.orders[order].charge_keys;
            format!(
                "{order} was charged {} times, under keys {keys:?}",
                keys.len()
            )
        });
        let acted = self
            .acted_twice
            .iter()
            .map(|key| format!("key {key} had more than one effect"));
        let stale = self.stale_accepted.iter().cloned();
        let refunds = self.refunds_without_charge.iter().cloned();
        twice.chain(acted).chain(stale).chain(refunds).collect()
    }

    fn add(&mut self, call: &CallLine, adding: &mut Adding) {
        if matches!(call.deed, Deed::FindCharge { .. }) {
            return; // asking has no effect, and its key is that of the charge
        }
        self.judge_fence(call, adding);
        let key = self
            .keys
            .entry(call.key.clone())
            .or_insert_with(|| KeyCalls {
                order: call.order.clone(),
                run: call.run.clone(),
                step: call.step.clone(),
                ..KeyCalls::default()
            });
        key.calls += 1;
        key.attempts.insert(call.attempt);
        key.fences.insert(call.fence);
        let acted = call.verdict == Verdict::Acted;
        key.acted += u64::from(acted);
        self.throttled += u64::from(call.verdict == Verdict::Throttled);
        self.stale_refused += u64::from(call.verdict == Verdict::StaleFence);
        let order = self.orders.entry(call.order.clone()).or_default();
        if matches!(call.deed, Deed::Charge { .. }) {
            order.charge_calls += 1;
            self.charge_calls += 1;
        }
        if acted {
            self.add_effect(call, adding);
        }
    }

    fn add_effect(&mut self, call: &CallLine, adding: &mut Adding) {
        let order = self.orders.entry(call.order.clone()).or_default();
        match &call.deed {
            Deed::Charge { cents } => {
                self.charges += 1;
                order.charge_keys.insert(call.key.clone());
                order.charged_cents += cents;
                adding.charged.insert(call.key.clone(), *cents);
            }
            Deed::Refund { charge } => match adding.charged.remove(charge) {
                Some(cents) => {
                    self.refunds += 1;
                    order.refunded_keys.insert(charge.clone());
                    order.refunded_cents += cents;
                }
                None => self.refunds_without_charge.push(format!(
                    "seq {}: {} was refunded under {charge}, which holds no charge",
                    call.seq, call.order
                )),
            },
            Deed::Reserve { sku, qty } => {
                order.reserved += qty;
                let shelf = self.stock.entry(sku.clone()).or_default();
                shelf.left = shelf.left.saturating_sub(*qty);
                adding
                    .reserved
                    .insert(call.key.clone(), (sku.clone(), *qty));
            }
            Deed::Release { reservation } => {
                if let Some((sku, qty)) = adding.reserved.remove(reservation) {
                    order.released += qty;
                    self.stock.entry(sku).or_default().left += qty;
                }
            }
            Deed::Mail { .. } => order.mails += 1,
            Deed::FindCharge { .. } => {}
        }
    }

    fn judge_fence(&mut self, call: &CallLine, adding: &mut Adding) {
        let newest = adding
            .fences
            .entry((call.run.clone(), call.step.clone()))
            .or_insert(0);
        if call.fence < *newest && call.verdict != Verdict::StaleFence {
            self.stale_accepted.push(format!(
                "seq {}: {} step {} was served under fence {} after fence {newest}",
                call.seq, call.run, call.step, call.fence
            ));
        }
        *newest = call.fence.max(*newest);
    }
}

/// What is known while adding: who holds what.
#[derive(Default)]
struct Adding {
    fences: BTreeMap<(String, String), u64>,
    charged: BTreeMap<String, u64>,
    reserved: BTreeMap<String, (String, u64)>,
}
