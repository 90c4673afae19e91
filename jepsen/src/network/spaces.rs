//! The network as the kernel's: a namespace for each node and each worker process, bridges between them, and packet rules.
//!
//! Invariant: the harness has left for a namespace of its own before (`enter`), so the machine's network is never touched, runs never
//! meet, and whatever is left goes with the last process that lives in it. The rules of a namespace are always replaced as a whole,
//! from one table. Not here: the texts (`packets`).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::packets::{self, HARNESS};
use super::{Answer, CLIENTS, Link, Trouble};
use crate::cluster::{Space, leave_for_a_fresh_one};

/// Places on a line, without those of the harness and the broadcast.
const LAST_HOST: u8 = 250;
/// A peer in the next namespace answers a call at once; a lost packet costs a second.
const CALLED_FOR: Duration = Duration::from_millis(300);
/// What all of this is done with.
const PROGRAMS: [(&str, &str); 5] = [
    ("ip", "-V"),
    ("tc", "-V"),
    ("ss", "-V"),
    ("iptables-restore", "--version"),
    ("iptables-save", "--version"),
];

/// The networks of its own that this program has entered, by what the kernel numbers them with.
static ENTERED: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());
/// The number of the network that was laid last. A former one that is dropped late must not sweep it away.
static LAID: AtomicU64 = AtomicU64::new(0);

/// Moves this program into a network of its own. To be called before it has threads.
///
/// # Errors
/// This system has none, or we may not make one.
pub fn enter() -> io::Result<()> {
    leave_for_a_fresh_one()?;
    batch("link set lo up\n")?;
    ENTERED.lock().insert(here()?);
    Ok(())
}

/// The number of the network that this thread lives in.
fn here() -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata("/proc/thread-self/ns/net")?.ino())
}

/// Why packets cannot be ruled here; `None`: they can. Tried once, in a namespace that is thrown away.
pub fn lacks() -> Option<&'static str> {
    static FOUND: OnceLock<Option<String>> = OnceLock::new();
    FOUND.get_or_init(why_not).as_deref()
}

fn why_not() -> Option<String> {
    if !cfg!(target_os = "linux") {
        return Some("needs Linux".to_string());
    }
    if !rustix::process::geteuid().is_root() {
        return Some("needs root, for network namespaces".to_string());
    }
    for (program, arg) in PROGRAMS {
        if run(program, &[arg], "").is_err() {
            return Some(format!("needs {program} (packages iproute2 and iptables)"));
        }
    }
    let space = match Space::fresh() {
        Ok(space) => space,
        Err(cause) => return Some(format!("network namespaces cannot be made: {cause}")),
    };
    match space.within(try_all) {
        Ok(Ok(())) => None,
        Ok(Err(cause)) | Err(cause) => Some(cause.to_string()),
    }
}

/// Everything once that a run needs, between two names that nobody has.
fn try_all() -> io::Result<()> {
    let other = Space::fresh()?;
    batch(&packets::bridges())?;
    batch(&packets::cables("n1", &other.path()))?;
    other.within(|| {
        batch(&packets::addresses(2))?;
        let hosts = [("a".to_string(), 2), ("b".to_string(), 3)].into();
        let links = [("b", "a"), ("a", "b")];
        let all = [
            Trouble::Cut,
            Trouble::Lose { percent: 10 },
            Trouble::Refuse,
            Trouble::Twice,
        ];
        for trouble in all {
            let rules = links.map(|(from, to)| ((from.to_string(), to.to_string()), trouble));
            let text = packets::script("a", &rules.into(), &hosts);
            run("iptables-restore", &[], &text)?;
        }
        run("tc", &words(&packets::slow("eth0", 25_000)), "")
    })??;
    Ok(())
}

/// A process's namespace, and the place that it has there.
#[derive(Debug, Clone)]
struct Seat {
    space: Space,
    host: u8,
}

/// All namespaces of a run.
#[derive(Debug)]
pub struct Spaces {
    number: u64,
    seats: Mutex<BTreeMap<String, Seat>>,
    rules: Mutex<BTreeMap<Link, Trouble>>,
}

impl Spaces {
    /// Bridges, and nobody on them.
    ///
    /// # Errors
    /// The program has not entered a network of its own, or a command failed.
    pub(super) fn lay() -> io::Result<Self> {
        if !ENTERED.lock().contains(&here()?) {
            let why = "this program lives in the machine's own network, which is never touched";
            return Err(io::Error::other(why));
        }
        sweep()?;
        batch(&packets::bridges())?;
        Ok(Self {
            number: LAID.fetch_add(1, Ordering::AcqRel) + 1,
            seats: Mutex::default(),
            rules: Mutex::default(),
        })
    }

    /// The namespace of a process of this name, on both lines; and its address on the one that has faults, and on the other.
    ///
    /// # Errors
    /// All places are taken, or a command failed.
    pub(super) fn seat(&self, name: &str) -> io::Result<(Space, IpAddr, IpAddr)> {
        let mut seats = self.seats.lock();
        if let Some(Seat { space, host }) = seats.get(name).cloned() {
            return addressed(space, host);
        }
        let taken = seats.values().map(|it| it.host).max().unwrap_or(HARNESS);
        if taken >= LAST_HOST {
            return Err(io::Error::other("all places in the network are taken"));
        }
        let (space, host) = (Space::fresh()?, taken + 1);
        batch(&packets::cables(name, &space.path()))?;
        space.within(|| batch(&packets::addresses(host)))??;
        let held = Seat {
            space: space.clone(),
            host,
        };
        seats.insert(name.to_string(), held);
        addressed(space, host)
    }

    /// The harness's own address past all faults.
    pub(super) fn own_address() -> IpAddr {
        address(&packets::on_control(HARNESS)).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    /// What becomes of these links from now on.
    ///
    /// # Errors
    /// A command failed, or these links have no line of their own that could be slow.
    pub(super) fn set(&self, links: &[Link], trouble: Trouble) -> io::Result<()> {
        if matches!(trouble, Trouble::BreakAfter { .. }) {
            return Err(io::ErrorKind::Unsupported.into()); // packets know nothing of what a connection has carried
        }
        if let Trouble::Slow { bytes_per_s, .. } = trouble {
            let name = packets::line_of(links).filter(|it| self.seat_of(it).is_some());
            let name = name.ok_or_else(|| io::Error::other("no line of one process"))?;
            self.on_both_ends(name, |device| packets::slow(device, bytes_per_s))?;
        }
        {
            let mut rules = self.rules.lock();
            rules.extend(links.iter().map(|link| (link.clone(), trouble)));
        }
        self.load(links)
    }

    /// Nothing becomes of them any more.
    ///
    /// # Errors
    /// A command failed.
    pub(super) fn lift(&self, links: &[Link]) -> io::Result<()> {
        let mut were_slow = false;
        {
            let mut rules = self.rules.lock();
            for link in links {
                let was = rules.remove(link);
                were_slow |= matches!(was, Some(Trouble::Slow { .. }));
            }
        }
        if let Some(name) = packets::line_of(links).filter(|_| were_slow) {
            self.on_both_ends(name, packets::fast)?;
        }
        self.load(links)
    }

    /// Lifts everything.
    ///
    /// # Errors
    /// A command failed.
    pub(super) fn lift_all(&self) -> io::Result<()> {
        let links: Vec<Link> = self.rules.lock().keys().cloned().collect();
        let lines: BTreeSet<String> = {
            let rules = self.rules.lock();
            let slow = rules.iter();
            let slow = slow.filter(|it| matches!(it.1, Trouble::Slow { .. }));
            slow.flat_map(|(link, _)| [link.0.clone(), link.1.clone()])
                .collect()
        };
        for name in lines {
            // Of each slow link one end only has a slow line.
            let _ = self.on_both_ends(&name, packets::fast);
        }
        self.rules.lock().clear();
        self.load(&links)
    }

    /// Gives the kernel the rules of every namespace at these links.
    fn load(&self, links: &[Link]) -> io::Result<()> {
        let seats = self.seats.lock().clone();
        let mut hosts: BTreeMap<String, u8> = seats
            .iter()
            .map(|(name, seat)| (name.clone(), seat.host))
            .collect();
        hosts.insert(CLIENTS.to_string(), HARNESS);
        let ends: BTreeSet<&String> = links.iter().flat_map(|it| [&it.0, &it.1]).collect();
        // Held, so that of two faults at once none loads a table without the other's rules.
        let rules = self.rules.lock();
        // All at once, so that a cut between many begins everywhere at nearly the same moment.
        std::thread::scope(|scope| {
            let loading: Vec<_> = ends
                .into_iter()
                .filter_map(|name| Some((seats.get(name)?, packets::script(name, &rules, &hosts))))
                .map(|(seat, text)| {
                    let load = move || run("iptables-restore", &[], &text);
                    scope.spawn(move || seat.space.within(load)?)
                })
                .collect();
            loading.into_iter().try_for_each(|it| {
                let broke_off = |_| io::Error::other("loading rules broke off");
                it.join().map_err(broke_off)?.map(drop)
            })
        })
    }

    /// How many packets met the rules of these links since the kernel has them.
    pub(super) fn met(&self, links: &[Link]) -> u64 {
        let mut seen: u64 = 0;
        if let Some(name) = packets::line_of(links).filter(|_| self.is_slow(links)) {
            let shown = self.shown(name, "tc", &["-s", "qdisc", "show", "dev", "eth0"]);
            seen += packets::sent(&shown).unwrap_or_default();
        }
        seen + self.counted(links).into_iter().flatten().sum::<u64>()
    }

    /// Whether the kernel has any rule on these links.
    pub(super) fn is_ruled(&self, links: &[Link]) -> bool {
        let slow = packets::line_of(links).is_some_and(|name| {
            let shown = self.shown(name, "tc", &["-s", "qdisc", "show", "dev", "eth0"]);
            packets::sent(&shown).is_some() && self.is_slow(links)
        });
        slow || self.counted(links).iter().any(Option::is_some)
    }

    fn is_slow(&self, links: &[Link]) -> bool {
        let rules = self.rules.lock();
        let slow = |link: &Link| matches!(rules.get(link), Some(Trouble::Slow { .. }));
        links.iter().any(slow)
    }

    /// For each link what its rules count, as the kernel shows it; none: it has no rule.
    fn counted(&self, links: &[Link]) -> Vec<Option<u64>> {
        let ends: BTreeSet<&String> = links.iter().flat_map(|it| [&it.0, &it.1]).collect();
        let ends = ends.into_iter();
        let shown: Vec<String> = ends
            .map(|name| self.shown(name, "iptables-save", &["-c"]))
            .collect();
        let of_link = |link: &Link| shown.iter().find_map(|text| packets::met(text, link));
        links.iter().map(of_link).collect()
    }

    fn shown(&self, name: &str, program: &str, args: &[&str]) -> String {
        let Some(seat) = self.seat_of(name) else {
            return String::new();
        };
        let ran = seat.space.within(|| run(program, args, ""));
        // What cannot be seen has not been seen.
        ran.and_then(|it| it).unwrap_or_default()
    }

    /// What one process hears when it calls another.
    pub(super) fn call(&self, from: &str, to: &str, port: u16) -> io::Result<Answer> {
        let nowhere = || io::Error::other(format!("{to} has no place in the network"));
        let host = self.seat_of(to).ok_or_else(nowhere)?.host;
        let at = SocketAddr::new(address(&packets::on_line(host))?, port);
        let ring = move || match TcpStream::connect_timeout(&at, CALLED_FOR) {
            Ok(_) => Answer::Accepted,
            Err(cause) if cause.kind() == io::ErrorKind::ConnectionRefused => Answer::Refused,
            Err(_) => Answer::Silence,
        };
        match self.seat_of(from) {
            Some(seat) => seat.space.within(ring),
            None => Ok(ring()),
        }
    }

    /// Connections of a process that it takes for whole and of which the other knows nothing.
    pub(super) fn half_open(&self, here: &str, there: &str) -> usize {
        let (Some(one), Some(other)) = (self.seat_of(here), self.seat_of(there)) else {
            return 0;
        };
        let table = |seat: &Seat| {
            let read = || std::fs::read_to_string("/proc/thread-self/net/tcp");
            seat.space
                .within(read)
                .and_then(|it| it)
                .unwrap_or_default()
        };
        // First the side that has fewer, so that one that ends meanwhile is not counted.
        let theirs = packets::only_with(&table(&other), one.host);
        packets::half_open(&packets::only_with(&table(&one), other.host), &theirs)
    }

    /// Breaks every connection of a process on the line, and says how many there were.
    pub(super) fn reset(&self, name: &str) -> u64 {
        let line = format!("{}/24", packets::on_line(0));
        let args = ["-t", "-n", "-K", "-H", "state", "established", "dst", &line];
        self.shown(name, "ss", &args).lines().count() as u64
    }

    /// Bytes that have left the bridge for anybody so far.
    pub(super) fn bytes(&self) -> u64 {
        let shown = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
        let seats = self.seats.lock();
        let sent = seats.keys().filter_map(|it| packets::sent_by(&shown, it));
        sent.sum()
    }

    fn seat_of(&self, name: &str) -> Option<Seat> {
        self.seats.lock().get(name).cloned()
    }

    /// A slow line is slow both ways: at the process's end of the cable, and at the bridge's.
    fn on_both_ends(&self, name: &str, args: impl Fn(&str) -> Vec<String>) -> io::Result<()> {
        let seat = self.seat_of(name).ok_or(io::ErrorKind::NotFound)?;
        let inside = args("eth0");
        let there = seat.space.within(|| run("tc", &words(&inside), ""))?;
        let here = run("tc", &words(&args(name)), "");
        there.and(here).map(drop)
    }

    /// Removes all of it. The namespaces go when nobody lives in them.
    pub(super) fn take_down(&self) {
        self.seats.lock().clear();
        self.rules.lock().clear();
        if LAID.load(Ordering::Acquire) == self.number {
            // What is left goes with this program at the latest, and before that with the next run.
            let _ = sweep();
        }
    }
}

impl Drop for Spaces {
    fn drop(&mut self) {
        self.take_down();
    }
}

fn sweep() -> io::Result<()> {
    let shown = run("ip", &["-brief", "link"], "")?;
    batch_forced(&packets::sweep(&shown));
    Ok(())
}

fn addressed(space: Space, host: u8) -> io::Result<(Space, IpAddr, IpAddr)> {
    let (line, control) = (packets::on_line(host), packets::on_control(host));
    Ok((space, address(&line)?, address(&control)?))
}

fn address(text: &str) -> io::Result<IpAddr> {
    text.parse().map_err(io::Error::other)
}

fn words(all: &[String]) -> Vec<&str> {
    all.iter().map(String::as_str).collect()
}

fn batch(text: &str) -> io::Result<()> {
    run("ip", &["-batch", "-"], text).map(drop)
}

/// Goes on after a line that fails: a cable is gone with its other end.
fn batch_forced(text: &str) {
    // Its answer is about single lines, and what could not be removed is found by whoever needs the name.
    let _ = run("ip", &["-force", "-batch", "-"], text);
}

/// Runs a program to its end; what it printed, or what it complained of.
fn run(program: &str, args: &[&str], input: &str) -> io::Result<String> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read has ended, and says why below.
        let _ = stdin.write_all(input.as_bytes());
    }
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output()?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).into_owned());
    }
    let why = String::from_utf8_lossy(&stderr);
    let why = why.lines().next().unwrap_or("it does not say why");
    Err(io::Error::other(format!("{program}: {why}")))
}
