//! Which ports the nodes listen on, and who holds one that is busy.
//!
//! Invariant: the ports of one claim were all free at one moment. Another program can take one before the node does; the node then
//! says so and ends. Not here: starting the node.

use std::fmt;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Bases that are tried before giving up: beyond a few dozen something else is wrong with the machine.
const BASES_TRIED_MAX: u16 = 50;

/// The three ports of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodePorts {
    /// gRPC and HTTP for clients and workers.
    pub api: u16,
    /// Node to node.
    pub peer: u16,
    /// Metrics and health.
    pub admin: u16,
}

impl NodePorts {
    fn at(base: u16) -> Self {
        Self {
            api: base,
            peer: base + 1,
            admin: base + 2,
        }
    }

    fn all(self) -> [u16; 3] {
        [self.api, self.peer, self.admin]
    }
}

/// A port somebody else listens on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusyPort {
    /// The port.
    pub port: u16,
    /// Pid and name of the process, where the system tells.
    pub holder: Option<(u32, String)>,
}

impl fmt::Display for BusyPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.holder {
            Some((pid, name)) => write!(f, "port {} is held by pid {pid} ({name})", self.port),
            None => write!(f, "port {} is held by a process of another user", self.port),
        }
    }
}

/// What [`claim_ports`] found.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The first node's API port.
    pub base: u16,
    /// By node, in order.
    pub nodes: Vec<NodePorts>,
    /// What stood in the way of the wished base.
    pub busy: Vec<BusyPort>,
}

/// Finds free loopback ports for `nodes` nodes: `base`, `base + 1`, `base + 2` for the first, a hundred higher for each next one,
/// and if any is busy the next free base. Base 0 stands for any free ports.
///
/// # Errors
/// No free base among the next fifty.
pub fn claim_ports(base: u16, nodes: u16) -> io::Result<Claim> {
    if base == 0 {
        return any_ports(nodes);
    }
    let mut busy = Vec::new();
    let mut at = base;
    for _ in 0..BASES_TRIED_MAX {
        // A base near the end of the range has no room for all nodes.
        if u32::from(at) + 100 * u32::from(nodes) > 65_000 {
            break;
        }
        let found: Vec<NodePorts> = (0..nodes).map(|n| NodePorts::at(at + 100 * n)).collect();
        let taken: Vec<u16> = found
            .iter()
            .flat_map(|ports| ports.all())
            .filter(|port| !is_free(*port))
            .collect();
        if taken.is_empty() {
            return Ok(Claim {
                base: at,
                nodes: found,
                busy,
            });
        }
        if at == base {
            busy = taken
                .into_iter()
                .map(|port| BusyPort {
                    port,
                    holder: holder(port),
                })
                .collect();
        }
        at += 100 * nodes;
    }
    let first = busy
        .first()
        .map_or_else(String::new, |busy| format!(" ({busy})"));
    Err(io::Error::new(
        io::ErrorKind::AddrInUse,
        format!("no {nodes} free port groups from {base} on{first}; choose another base"),
    ))
}

/// One free loopback port.
///
/// # Errors
/// The system has none left.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

fn any_ports(nodes: u16) -> io::Result<Claim> {
    // All are held until all are chosen, so that none is given twice.
    let held: Vec<TcpListener> = (0..nodes * 3)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<io::Result<_>>()?;
    let ports: Vec<u16> = held
        .iter()
        .map(|one| one.local_addr().map(|addr: SocketAddr| addr.port()))
        .collect::<io::Result<_>>()?;
    let nodes: Vec<NodePorts> = ports
        .chunks_exact(3)
        .map(|three| NodePorts {
            api: three[0],
            peer: three[1],
            admin: three[2],
        })
        .collect();
    let base = nodes.first().map_or(0, |first| first.api);
    Ok(Claim {
        base,
        nodes,
        busy: Vec::new(),
    })
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Pid and name of the process that listens on a port, from `/proc`; `None` where that is not ours to see.
fn holder(port: u16) -> Option<(u32, String)> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .find_map(|table| listening_inode(&fs::read_to_string(table).ok()?, port))?;
    let socket = format!("socket:[{inode}]");
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let holds = fs::read_dir(entry.path().join("fd"))
            .ok()?
            .flatten()
            .any(|fd| {
                fs::read_link(fd.path()).is_ok_and(|link| link.as_os_str() == socket.as_str())
            });
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        holds.then(|| (pid, name.trim().to_string()))
    })
}

/// The socket that listens on `port`, in the form of `/proc/net/tcp`: local address in column 1, state (0A listens) in 3, inode in 9.
fn listening_inode(table: &str, port: u16) -> Option<u64> {
    let ending = format!(":{port:04X}");
    table.lines().skip(1).find_map(|line| {
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        let listens = columns.get(1)?.ends_with(&ending) && *columns.get(3)? == "0A";
        if listens {
            columns.get(9)?.parse().ok()
        } else {
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_port_is_named_with_its_holder_and_the_next_base_is_taken() {
        // Some base with a hundred free ports around it; the claim itself tells which.
        let wished = claim_ports(21_100, 3).unwrap().base;
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, wished + 101)).unwrap();
        let claim = claim_ports(wished, 3).unwrap();
        assert!(claim.base > wished);
        let name = fs::read_to_string("/proc/self/comm").unwrap();
        let me = (std::process::id(), name.trim().to_string());
        assert_eq!(
            claim.busy,
            [BusyPort {
                port: wished + 101,
                holder: Some(me)
            }]
        );
        assert!(
            claim.busy[0]
                .to_string()
                .starts_with(&format!("port {} is held by pid", wished + 101))
        );
        drop(held);
    }

    #[test]
    fn nodes_lie_a_hundred_apart() {
        let claim = claim_ports(22_100, 3).unwrap();
        let second = claim.nodes[1];
        assert_eq!(
            [second.api, second.peer, second.admin],
            [100, 101, 102].map(|n| claim.base + n)
        );
    }

    #[test]
    fn base_zero_gives_different_free_ports() {
        let claim = claim_ports(0, 5).unwrap();
        let mut all: Vec<u16> = claim.nodes.iter().flat_map(|ports| ports.all()).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 15);
    }

    #[test]
    fn a_base_without_room_is_an_error_and_not_an_overflow() {
        assert_eq!(
            claim_ports(65_400, 3).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
    }
}
