//! The ports of a run: a block of its own, so that runs at the same time do not meet.
//!
//! Invariant: a block belongs to the run that listens on its first port. All lie below those that the system gives to outgoing
//! connections, so a restarted node finds its own again. Not here: listening on them.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use crate::cluster::NodePorts;

const FROM: u16 = 20_000;
const BLOCKS: u16 = 30;
const OF_BLOCK: u16 = 400;
/// A node's three, and its two gates', with room to read them in a log.
const OF_NODE: u16 = 10;
const NODES_MAX: u16 = OF_BLOCK / OF_NODE - 1;

/// A block of ports.
#[derive(Debug)]
pub struct Ports {
    _ours: TcpListener,
    base: u16,
    next: AtomicU16,
}

/// The ports of a node and of the gates before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claimed {
    pub(super) node: NodePorts,
    pub(super) api_gate: u16,
    pub(super) peer_gate: u16,
}

impl Ports {
    /// A block that no other run has.
    ///
    /// # Errors
    /// All are taken.
    pub(super) fn take() -> io::Result<Self> {
        let first = u16::try_from(std::process::id() % u32::from(BLOCKS)).unwrap_or_default();
        for nth in 0..BLOCKS {
            let base = FROM + (first + nth) % BLOCKS * OF_BLOCK;
            if let Ok(ours) = TcpListener::bind((Ipv4Addr::LOCALHOST, base)) {
                return Ok(Self {
                    _ours: ours,
                    base,
                    next: AtomicU16::new(0),
                });
            }
        }
        Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "other runs have all blocks of ports",
        ))
    }

    /// Free ports for one more node; those of nodes that are gone come again.
    ///
    /// # Errors
    /// None of the block is free.
    pub(super) fn claim(&self) -> io::Result<Claimed> {
        for _ in 0..NODES_MAX {
            let nth = self.next.fetch_add(1, Ordering::Relaxed) % NODES_MAX;
            let at = self.base + OF_NODE * (nth + 1);
            if (at..at + 5).all(is_free) {
                return Ok(Claimed {
                    node: NodePorts {
                        api: at,
                        peer: at + 1,
                        admin: at + 2,
                    },
                    api_gate: at + 3,
                    peer_gate: at + 4,
                });
            }
        }
        Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "no free ports are left in this run's block",
        ))
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_runs_have_no_port_in_common() {
        let (one, other) = (Ports::take().unwrap(), Ports::take().unwrap());
        assert!(one.base.abs_diff(other.base) >= OF_BLOCK);
        let last = one.base + OF_NODE * NODES_MAX + OF_NODE;
        assert!(last <= one.base + OF_BLOCK);
    }

    #[test]
    fn a_node_gets_other_ports_than_the_one_before_and_busy_ones_are_left_out() {
        let ports = Ports::take().unwrap();
        let first = ports.claim().unwrap();
        let busy = first.node.api + OF_NODE + 4;
        let _held = TcpListener::bind((Ipv4Addr::LOCALHOST, busy)).unwrap();
        let second = ports.claim().unwrap();
        assert_eq!(second.node.api, first.node.api + 2 * OF_NODE);
    }
}
