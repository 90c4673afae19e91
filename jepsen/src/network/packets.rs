//! What `ip`, `iptables-restore` and `tc` are told, and what is read from their answers. Pure.
//!
//! Invariant: a rule about the bytes from one to the other lies where they arrive, so that the sender never knows; only what goes to
//! the harness's own clients is dropped where it leaves. Only the line `eth0` has rules: `ctl0` is the harness's, past all faults.
//! Not here: running any of it (`spaces`).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{CLIENTS, Link, Trouble};

/// The harness's own place on both lines.
pub(super) const HARNESS: u8 = 1;
/// The line on which processes talk with each other.
const LINE: &str = "10.90.0";
/// The line on which the harness asks past all faults.
const CONTROL: &str = "10.91.0";
/// What waits in a slow line for longer is lost.
const QUEUED_FOR: &str = "3s";
/// The least that a slow line sends at once: two packets.
const BURST_MIN: u64 = 4096;

/// The address of a place on the line.
pub(super) fn on_line(host: u8) -> String {
    format!("{LINE}.{host}")
}

/// The address of a place past all faults.
pub(super) fn on_control(host: u8) -> String {
    format!("{CONTROL}.{host}")
}

/// For `ip -batch`, in the harness's own network: a bridge for each line, and its own addresses.
pub(super) fn bridges() -> String {
    format!(
        "link set lo up\n\
         link add data type bridge\n\
         link add control type bridge\n\
         address add {}/24 dev data\n\
         address add {}/24 dev control\n\
         link set data up\n\
         link set control up\n",
        on_line(HARNESS),
        on_control(HARNESS)
    )
}

/// For `ip -batch`, in the harness's own network: two cables into the namespace at this path.
pub(super) fn cables(name: &str, path: &str) -> String {
    format!(
        "link add {name} type veth peer name eth0 netns {path}\n\
         link add {name}c type veth peer name ctl0 netns {path}\n\
         link set {name} master data up\n\
         link set {name}c master control up\n"
    )
}

/// For `ip -batch`, in a namespace with two cables: its addresses.
pub(super) fn addresses(host: u8) -> String {
    format!(
        "link set lo up\n\
         address add {}/24 dev eth0\n\
         address add {}/24 dev ctl0\n\
         link set eth0 up\n\
         link set ctl0 up\n",
        on_line(host),
        on_control(host)
    )
}

/// For `ip -batch`: removes all that `ip -brief link` shows, but for loopback.
pub(super) fn sweep(links: &str) -> String {
    let names = links.lines().filter_map(|it| it.split_whitespace().next());
    // A cable is shown as `n1@if2`; its other end goes with it.
    let names = names.map(|it| it.split('@').next().unwrap_or(it));
    let mut text = String::new();
    for name in names.filter(|it| *it != "lo") {
        let _ = writeln!(text, "link del {name}");
    }
    text
}

/// For `iptables-restore`: all rules that lie in the namespace of `me`, and no others.
pub(super) fn script(
    me: &str,
    rules: &BTreeMap<Link, Trouble>,
    hosts: &BTreeMap<String, u8>,
) -> String {
    let address = |name: &str| hosts.get(name).map(|it| on_line(*it));
    let mut filter = String::new();
    let mut mangle = String::new();
    for (link, trouble) in rules {
        let (from, to) = link;
        let (Some(source), Some(target)) = (address(from), address(to)) else {
            continue;
        };
        let tag = format!("-m comment --comment {}", mark(link));
        let place = if to == me {
            format!("-A INPUT -i eth0 -s {source}")
        } else if to == CLIENTS && from == me {
            format!("-A OUTPUT -o eth0 -d {target}")
        } else {
            String::new()
        };
        let here = !place.is_empty();
        // Writing to a string cannot fail.
        let _ = match trouble {
            Trouble::Cut if here => writeln!(filter, "{place} {tag} -j DROP"),
            Trouble::Lose { percent } if here => {
                let share = format!("0.{:02}", percent.clamp(&1, &99));
                let chance = format!("-m statistic --mode random --probability {share}");
                writeln!(filter, "{place} {chance} {tag} -j DROP")
            }
            Trouble::Refuse if here => {
                writeln!(
                    filter,
                    "{place} -p tcp {tag} -j REJECT --reject-with tcp-reset"
                )
            }
            Trouble::Twice if from == me => {
                let place = format!("-A OUTPUT -o eth0 -d {target}");
                writeln!(mangle, "{place} {tag} -j TEE --gateway {target}")
            }
            _ => Ok(()),
        };
    }
    format!("*filter\n{filter}COMMIT\n*mangle\n{mangle}COMMIT\n")
}

/// By what a rule is known in what the kernel tells of it. No name is the end of another one's mark.
pub(super) fn mark((from, to): &Link) -> String {
    format!("link_{from}_{to}_")
}

/// How many packets met the rules of a link, from what `iptables-save -c` shows; none: there is no such rule.
pub(super) fn met(shown: &str, link: &Link) -> Option<u64> {
    let mark = mark(link);
    let counts = shown.lines().filter(|line| line.contains(&mark));
    let counts = counts.filter_map(|line| line.strip_prefix('[')?.split_once(':')?.0.parse().ok());
    counts.fold(None, |sum: Option<u64>, count: u64| {
        Some(sum.unwrap_or_default() + count)
    })
}

/// The one process whose line a slow line can be: a cable has no rule for each of those who use it.
pub(super) fn line_of(links: &[Link]) -> Option<&str> {
    let (one, other) = links.first()?;
    let is_of_all = |name: &&String| links.iter().all(|it| it.0 == **name || it.1 == **name);
    [one, other].into_iter().find(is_of_all).map(String::as_str)
}

/// The arguments of `tc` that make the line of a device slow.
pub(super) fn slow(device: &str, bytes_per_s: u64) -> Vec<String> {
    let burst = BURST_MIN.max(bytes_per_s / 50);
    let text = format!(
        "qdisc replace dev {device} root tbf rate {}bit burst {burst} latency {QUEUED_FOR}",
        bytes_per_s * 8
    );
    text.split(' ').map(ToString::to_string).collect()
}

/// The arguments of `tc` that lift it.
pub(super) fn fast(device: &str) -> Vec<String> {
    let text = format!("qdisc del dev {device} root");
    text.split(' ').map(ToString::to_string).collect()
}

/// How many packets a slow line sent, from what `tc -s qdisc show` says; none: the line is not slow.
pub(super) fn sent(shown: &str) -> Option<u64> {
    let own = &shown[shown.find("qdisc tbf")?..];
    let sent = &own[own.find("Sent ")?..];
    sent.split_whitespace().nth(3)?.parse().ok()
}

/// Bytes that a device has sent, from `/proc/net/dev`.
pub(super) fn sent_by(table: &str, device: &str) -> Option<u64> {
    let lines = table
        .lines()
        .filter_map(|it| it.trim_start().split_once(':'));
    let mut own = lines.filter(|(name, _)| *name == device);
    let (_, counts) = own.next()?;
    // Eight columns of what was received come first.
    counts.split_ascii_whitespace().nth(8)?.parse().ok()
}

/// Connections that `here` are established, and of which the other end knows nothing any more: both in the form of `/proc/net/tcp`.
pub(super) fn half_open(here: &str, there: &str) -> usize {
    let others: Vec<(&str, &str)> = established(there).collect();
    established(here)
        .filter(|(local, remote)| !others.contains(&(*remote, *local)))
        .count()
}

/// Local and remote address of each established connection.
fn established(table: &str) -> impl Iterator<Item = (&str, &str)> {
    table.lines().skip(1).filter_map(|line| {
        let mut columns = line.split_ascii_whitespace().skip(1);
        let (local, remote) = (columns.next()?, columns.next()?);
        (columns.next()? == "01").then_some((local, remote))
    })
}

/// Those of a table whose other end is at this address of the line.
pub(super) fn only_with(table: &str, host: u8) -> String {
    // As the kernel writes it: the four bytes as one number of this machine.
    let address = u32::from_ne_bytes([10, 90, 0, host]);
    let address = format!("{address:08X}:");
    let with = |line: &&str| {
        line.split_ascii_whitespace()
            .nth(2)
            .is_some_and(|it| it.starts_with(&address))
    };
    let head = table.lines().take(1);
    let lines: Vec<&str> = head.chain(table.lines().skip(1).filter(with)).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(from: &str, to: &str) -> Link {
        (from.to_string(), to.to_string())
    }

    fn hosts() -> BTreeMap<String, u8> {
        let all = [(CLIENTS, HARNESS), ("n1", 11), ("n2", 12), ("w1", 21)];
        all.map(|(name, host)| (name.to_string(), host)).into()
    }

    fn of(me: &str, rules: &[(Link, Trouble)]) -> String {
        script(me, &rules.iter().cloned().collect(), &hosts())
    }

    #[test]
    fn a_cut_lies_where_packets_arrive_and_in_one_direction_only() {
        let rules = [(link("n1", "n2"), Trouble::Cut)];
        assert_eq!(of("n1", &rules), "*filter\nCOMMIT\n*mangle\nCOMMIT\n");
        let want = "*filter\n-A INPUT -i eth0 -s 10.90.0.11 -m comment --comment link_n1_n2_ -j DROP\nCOMMIT\n*mangle\nCOMMIT\n";
        assert_eq!(of("n2", &rules), want);
    }

    #[test]
    fn what_goes_to_the_clients_is_dropped_where_it_leaves() {
        let rules = [(link("n1", CLIENTS), Trouble::Cut)];
        assert!(of("n1", &rules).contains("-A OUTPUT -o eth0 -d 10.90.0.1 "));
        let rules = [(link(CLIENTS, "n1"), Trouble::Cut)];
        assert!(of("n1", &rules).contains("-A INPUT -i eth0 -s 10.90.0.1 "));
    }

    #[test]
    fn packets_are_lost_refused_or_sent_twice() {
        let lose = of("n2", &[(link("n1", "n2"), Trouble::Lose { percent: 5 })]);
        assert!(lose.contains("--probability 0.05 "), "{lose}");
        let refuse = of("n2", &[(link("n1", "n2"), Trouble::Refuse)]);
        assert!(refuse.contains("-p tcp ") && refuse.contains("--reject-with tcp-reset"));
        let twice = of("n1", &[(link("n1", "n2"), Trouble::Twice)]);
        let want = "*mangle\n-A OUTPUT -o eth0 -d 10.90.0.12 -m comment --comment link_n1_n2_ -j TEE --gateway 10.90.0.12\n";
        assert!(twice.contains(want), "{twice}");
    }

    #[test]
    fn a_rule_about_somebody_who_is_nowhere_is_no_rule() {
        let rules = [(link("n9", "n2"), Trouble::Cut)];
        assert_eq!(of("n2", &rules), "*filter\nCOMMIT\n*mangle\nCOMMIT\n");
    }

    #[test]
    fn packets_that_met_a_rule_are_counted_by_link() {
        let shown = "*filter\n:INPUT ACCEPT [0:0]\n\
            [7:420] -A INPUT -s 10.90.0.11/32 -i eth0 -m comment --comment link_n1_n2_ -j DROP\n\
            [2:120] -A INPUT -s 10.90.0.21/32 -i eth0 -m comment --comment \"link_n11_n2_\" -j DROP\nCOMMIT\n";
        assert_eq!(met(shown, &link("n1", "n2")), Some(7));
        assert_eq!(met(shown, &link("n11", "n2")), Some(2));
        assert_eq!(met(shown, &link("n2", "n1")), None);
    }

    #[test]
    fn a_slow_line_is_that_of_the_one_whom_all_links_have_in_common() {
        let all = [link("n1", "n2"), link("n3", "n1"), link("n1", "n3")];
        assert_eq!(line_of(&all), Some("n1"));
        assert_eq!(line_of(&[link("n1", "n2"), link("n3", "n4")]), None);
        assert_eq!(line_of(&[]), None);
    }

    #[test]
    fn a_slow_line_has_its_rate_and_says_what_it_sent() {
        let told = slow("eth0", 25_000).join(" ");
        assert_eq!(
            told,
            "qdisc replace dev eth0 root tbf rate 200000bit burst 4096 latency 3s"
        );
        let shown = "qdisc tbf 8001: root refcnt 2 rate 200Kbit burst 4Kb lat 3s\n \
            Sent 1234 bytes 17 pkt (dropped 0, overlimits 3 requeues 0)\n backlog 0b 0p requeues 0\n";
        assert_eq!(sent(shown), Some(17));
        assert_eq!(
            sent("qdisc noqueue 0: root refcnt 2\n Sent 5 bytes 1 pkt\n"),
            None
        );
    }

    #[test]
    fn all_devices_but_loopback_are_swept() {
        let shown = "lo UNKNOWN 00:00 <LOOPBACK,UP>\ndata UP aa <UP>\nn1@if2 UP bb <UP>\n";
        assert_eq!(sweep(shown), "link del data\nlink del n1\n");
    }

    #[test]
    fn what_a_device_sent_is_found_by_its_whole_name() {
        let table = "Inter-|   Receive\n face |bytes\n   n1c: 9 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n    n1: 100 1 0 0 0 0 0 0 23 2 0 0 0 0 0 0\n";
        assert_eq!(sent_by(table, "n1"), Some(23));
        assert_eq!(sent_by(table, "n2"), None);
    }

    #[test]
    fn a_connection_is_half_open_if_only_one_end_knows_it() {
        let head = "  sl  local_address rem_address   st\n";
        let (a, b) = ("0B005A0A:1C20", "0C005A0A:A000");
        let here = format!("{head} 0: {a} {b} 01\n 1: {a} 0C005A0A:A001 01\n 2: {a} {b} 06\n");
        let there = format!("{head} 0: {b} {a} 01\n");
        assert_eq!(half_open(&here, &there), 1);
        assert_eq!(half_open(&there, &here), 0);
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn connections_with_one_address_are_told_from_others() {
        let table =
            "head\n 0: 0B005A0A:1C20 0C005A0A:A000 01\n 1: 0B005A0A:1C20 0D005A0A:A000 01\n";
        assert_eq!(
            only_with(table, 12),
            "head\n 0: 0B005A0A:1C20 0C005A0A:A000 01"
        );
    }
}
