//! The audit: what the shop's ledger says against what the cluster says. A pure function of both.

use std::collections::BTreeMap;

use holdfast::Status;
use holdfast_jepsen::ledger::{Audit as Effects, OrderEffects};

use super::order;

/// What the cluster says.
#[derive(Debug, Default)]
pub struct Runs {
    /// Status of each acknowledged order; none: it is not there.
    pub status: BTreeMap<u32, Option<Status>>,
    /// Runs that nobody submitted.
    pub extra: usize,
    /// From the metrics of all nodes.
    pub without_wake_source: u64,
}

/// The verdict, as the demo's last line and what is wrong with it.
#[derive(Debug)]
pub struct Audit {
    /// One line.
    pub line: String,
    /// Empty: it holds.
    pub broken: Vec<String>,
}

/// How an order is to end.
struct Expected {
    status: Status,
    refunds: u64,
    units: u64,
}

/// Every acknowledged order charged exactly once, the rejected one refunded, one waiting, nothing lost, nothing extra.
pub fn audit(orders: u32, effects: &Effects, runs: &Runs) -> Audit {
    let mut broken = effects.faults();
    for n in 1..=orders {
        check_order(n, orders, effects, runs, &mut broken);
    }
    let lost = runs
        .status
        .values()
        .filter(|status| status.is_none())
        .count();
    for (what, found) in [
        ("orders were lost", lost as u64),
        ("runs nobody submitted", runs.extra as u64),
        ("runs have no wake source", runs.without_wake_source),
    ] {
        if found > 0 {
            broken.push(format!("{found} {what}"));
        }
    }
    let (start, left) = effects
        .stock
        .get(order::SKU)
        .map_or((0, 0), |it| (it.start, it.left));
    let shipped: u64 = (1..=orders).map(|n| expected(n, orders).units).sum();
    if left + shipped != start {
        broken.push(format!(
            "stock went from {start} to {left} for {shipped} orders"
        ));
    }
    let verdict = if broken.is_empty() { "OK" } else { "BROKEN" };
    let line = format!(
        "audit   {orders} orders · {} charges ({} calls) · {} refund · stock {left} = {start} - {shipped} · {lost} lost · {} duplicates        {verdict}",
        effects.charges,
        effects.charge_calls,
        effects.refunds,
        effects.duplicates.len(),
    );
    Audit { line, broken }
}

fn check_order(n: u32, orders: u32, effects: &Effects, runs: &Runs, broken: &mut Vec<String>) {
    let id = format!("order-{n}");
    let wanted = expected(n, orders);
    let status = runs.status.get(&n).copied().flatten();
    if status != Some(wanted.status) {
        broken.push(format!("{id} is {status:?}, not {:?}", wanted.status));
    }
    let nothing = OrderEffects::default();
    let found = effects.orders.get(&id).unwrap_or(&nothing);
    for (what, found, right) in [
        ("charged", found.charge_keys.len() as u64, 1),
        ("refunded", found.refunded_keys.len() as u64, wanted.refunds),
    ] {
        if found != right {
            broken.push(format!("{id} was {what} {found} times, not {right}"));
        }
    }
}

fn expected(n: u32, orders: u32) -> Expected {
    if n == order::rejected(orders) {
        Expected {
            status: Status::Failed,
            refunds: 1,
            units: 0,
        }
    } else if n == order::waits_for_you(orders) {
        Expected {
            status: Status::Waiting,
            refunds: 0,
            units: 0,
        }
    } else {
        Expected {
            status: Status::Completed,
            refunds: 0,
            units: 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_jepsen::ledger::Stock;

    use super::*;

    const ORDERS: u32 = 6;

    /// A world in which everything went well.
    fn good() -> (Effects, Runs) {
        let mut effects = Effects::default();
        let mut runs = Runs::default();
        let mut shipped = 0;
        for n in 1..=ORDERS {
            let wanted = expected(n, ORDERS);
            let mut order = OrderEffects::default();
            order.charge_keys.insert(format!("c{n}"));
            if wanted.refunds > 0 {
                order.refunded_keys.insert(format!("r{n}"));
            }
            effects.orders.insert(format!("order-{n}"), order);
            shipped += wanted.units;
            runs.status.insert(n, Some(wanted.status));
        }
        let left = order::STOCK - shipped;
        effects.stock.insert(
            order::SKU.to_owned(),
            Stock {
                start: order::STOCK,
                left,
            },
        );
        (effects, runs)
    }

    fn broken(change: impl FnOnce(&mut Effects, &mut Runs)) -> String {
        let (mut effects, mut runs) = good();
        change(&mut effects, &mut runs);
        audit(ORDERS, &effects, &runs).broken.join("; ")
    }

    #[test]
    fn a_good_world_passes() {
        assert_eq!(broken(|_, _| {}), "");
    }

    #[test]
    fn a_second_charge_under_another_key_is_found() {
        let found = broken(|effects, _| {
            let order = effects.orders.get_mut("order-1").unwrap();
            order.charge_keys.insert("another".to_owned());
        });
        assert!(found.contains("order-1 was charged 2 times"), "{found}");
    }

    #[test]
    fn a_lost_order_a_missing_refund_and_a_stranger_are_found() {
        assert!(
            broken(|_, runs| *runs.status.get_mut(&1).unwrap() = None)
                .contains("1 orders were lost")
        );
        let found = broken(|effects, _| {
            let rejected = format!("order-{}", order::rejected(ORDERS));
            effects
                .orders
                .get_mut(&rejected)
                .unwrap()
                .refunded_keys
                .clear();
        });
        assert!(found.contains("was refunded 0 times, not 1"), "{found}");
        assert!(broken(|_, runs| runs.extra = 1).contains("nobody submitted"));
        assert!(broken(|_, runs| runs.without_wake_source = 1).contains("no wake source"));
    }

    #[test]
    fn an_older_fence_that_was_served_and_stock_that_leaked_are_found() {
        assert!(!broken(|effects, _| effects.stale_accepted.push("k".to_owned())).is_empty());
        let found = broken(|effects, _| effects.stock.get_mut(order::SKU).unwrap().left -= 1);
        assert!(found.contains("stock went from"), "{found}");
    }
}
