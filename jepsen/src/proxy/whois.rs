//! Whose connection it is: from its port to its process, by what the kernel tells in `/proc`.
//!
//! Invariant: only processes that the harness started are known by name; everything else is its own clients. Not here: what a name
//! may do (`rules`).

use std::fs;
use std::sync::Arc;

use super::CLIENTS;

/// The processes that run now: name and pid.
pub type Known = Arc<dyn Fn() -> Vec<(String, u32)> + Send + Sync>;

/// Tells callers apart.
pub struct Whois {
    known: Known,
}

impl std::fmt::Debug for Whois {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Whois")
    }
}

impl Whois {
    /// Among these.
    pub fn among(known: Known) -> Self {
        Self { known }
    }

    /// Who holds the connection from port `theirs` to port `ours` on loopback; `None` if nobody does any more.
    pub fn caller(&self, theirs: u16, ours: u16) -> Option<String> {
        let table = fs::read_to_string("/proc/net/tcp").ok();
        let Some(table) = table else {
            // No such table on this system: all look like clients, and cuts between nodes are never met.
            return Some(CLIENTS.to_string());
        };
        let inode = connection_inode(&table, theirs, ours)?;
        let socket = format!("socket:[{inode}]");
        let holds = |pid: u32| {
            let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else {
                return false;
            };
            files.flatten().any(|file| {
                fs::read_link(file.path()).is_ok_and(|link| link.as_os_str() == socket.as_str())
            })
        };
        let known = (self.known)();
        let found = known.into_iter().find(|(_, pid)| holds(*pid));
        Some(found.map_or_else(|| CLIENTS.to_string(), |(name, _)| name))
    }
}

/// In the form of `/proc/net/tcp`: local address in column 1, remote in 2, inode in 9. A closed one has inode 0.
fn connection_inode(table: &str, local: u16, remote: u16) -> Option<u64> {
    let (local, remote) = (format!(":{local:04X}"), format!(":{remote:04X}"));
    table.lines().skip(1).find_map(|line| {
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        let is_it = columns.get(1)?.ends_with(&local) && columns.get(2)?.ends_with(&remote);
        let inode = columns.get(9)?.parse().ok()?;
        (is_it && inode != 0).then_some(inode)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_found_by_both_its_ports() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:A000 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  0 0 111 1 x\n\
             1: 0100007F:1F90 0100007F:A000 01 00000000:00000000 00:00000000 00000000  0 0 222 1 x\n\
             2: 0100007F:A001 0100007F:1F90 06 00000000:00000000 00:00000000 00000000  0 0 0 1 x\n";
        assert_eq!(connection_inode(table, 0xA000, 0x1F90), Some(111));
        assert_eq!(connection_inode(table, 0x1F90, 0xA000), Some(222));
        assert_eq!(connection_inode(table, 0xA001, 0x1F90), None);
        assert_eq!(connection_inode(table, 0xA002, 0x1F90), None);
    }
}
