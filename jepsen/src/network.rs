//! The network of a test run: how its processes reach each other, and what may become of a link between two of them.
//!
//! Invariant: a fault names links and what becomes of them, never the means. There are two: gates in the harness itself, for which
//! nobody needs to be root (`proxy`), and packet rules in namespaces (`spaces`). What is true of a link is asked of the means, and not
//! remembered. Not here: which links, and when (`nemesis`).

mod packets;
mod ports;
mod spaces;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use self::ports::Ports;
use self::spaces::Spaces;
pub use self::spaces::{enter, lacks};
use crate::cluster::{NodePorts, Space};
pub use crate::proxy::CLIENTS;
use crate::proxy::{Gate, Known, Net, Rule, Whois};

/// A directed link: from whom, to whom.
pub type Link = (String, String);

/// The ports of a node in a namespace of its own, where all are free.
const PORTS: NodePorts = NodePorts {
    api: 7100,
    peer: 7200,
    admin: 7300,
};

/// Gates break connections within this time.
const COUNTED_AFTER: Duration = Duration::from_millis(10);

/// What may become of what is sent over a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// It does not arrive, and nobody is told.
    Cut,
    /// It arrives later, and at most at a rate. Packets have the rate only: what waits for its turn is late enough.
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
    /// Some packets do not arrive.
    Lose {
        /// So many of a hundred.
        percent: u64,
    },
    /// Each packet is answered with a reset, of which the process that it was for knows nothing.
    Refuse,
    /// Each packet arrives twice.
    Twice,
}

/// How links are ruled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    /// By gates in the harness.
    Gates,
    /// By packet rules in namespaces.
    Spaces,
}

impl Means {
    /// As the command line names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gates => "proxy",
            Self::Spaces => "netns",
        }
    }
}

impl std::str::FromStr for Means {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Gates, Self::Spaces];
        let found = all.into_iter().find(|it| it.name() == text);
        found.ok_or_else(|| format!("{text} is none of proxy, netns"))
    }
}

/// What a caller hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Somebody is there.
    Accepted,
    /// The host is there, and nobody listens; or something says so.
    Refused,
    /// Nothing.
    Silence,
}

/// The network of a run.
#[derive(Debug)]
pub enum Network {
    /// By gates.
    Gates(Gates),
    /// By packet rules.
    Spaces(Arc<Spaces>),
}

/// What gates share.
#[derive(Debug)]
pub struct Gates {
    net: Arc<Net>,
    whois: Arc<Whois>,
    ports: Ports,
}

/// Where a node stands in the network.
#[derive(Debug)]
pub struct Place {
    /// Where it listens: API, peer, admin.
    pub listens: [SocketAddr; 3],
    /// Its API as clients and workers know it.
    pub api: String,
    /// Its peer port as other nodes know it.
    pub peer: String,
    /// Its API past all faults.
    pub direct: SocketAddr,
    /// Its admin port past all faults.
    pub admin: SocketAddr,
    /// Where it lives, if not where the harness does.
    pub space: Option<Space>,
    _gates: Vec<Gate>,
}

impl Network {
    /// Of a run; `known` tells which processes there are.
    ///
    /// # Errors
    /// No ports are left; or a command failed.
    pub fn lay(means: Means, known: Known) -> io::Result<Self> {
        Ok(match means {
            Means::Gates => Self::Gates(Gates {
                net: Arc::default(),
                whois: Arc::new(Whois::among(known)),
                ports: Ports::take()?,
            }),
            Means::Spaces => Self::Spaces(Arc::new(Spaces::lay()?)),
        })
    }

    /// A place for one more node.
    ///
    /// # Errors
    /// There is none, or a command failed.
    pub fn place(&self, name: &str) -> io::Result<Place> {
        match self {
            Self::Gates(gates) => gates.place(name),
            Self::Spaces(spaces) => {
                let (space, line, control) = spaces.seat(name)?;
                let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
                let all = [PORTS.api, PORTS.peer, PORTS.admin];
                Ok(Place {
                    listens: all.map(|port| SocketAddr::new(any, port)),
                    api: SocketAddr::new(line, PORTS.api).to_string(),
                    peer: SocketAddr::new(line, PORTS.peer).to_string(),
                    direct: SocketAddr::new(control, PORTS.api),
                    admin: SocketAddr::new(control, PORTS.admin),
                    space: Some(space),
                    _gates: Vec::new(),
                })
            }
        }
    }

    /// Where a process that only calls others lives; `None`: where the harness does.
    ///
    /// # Errors
    /// A command failed.
    pub fn seat(&self, name: &str) -> io::Result<Option<Space>> {
        match self {
            Self::Gates(_) => Ok(None),
            Self::Spaces(spaces) => spaces.seat(name).map(|it| Some(it.0)),
        }
    }

    /// Where the harness is reached past all faults.
    pub fn own_address(&self) -> IpAddr {
        match self {
            Self::Gates(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Self::Spaces(_) => Spaces::own_address(),
        }
    }

    /// Which means it has.
    pub fn means(&self) -> Means {
        match self {
            Self::Gates(_) => Means::Gates,
            Self::Spaces(_) => Means::Spaces,
        }
    }

    /// What becomes of these links from now on.
    ///
    /// # Errors
    /// The means cannot do that, or a command failed.
    pub async fn set(&self, links: &[Link], trouble: Trouble) -> io::Result<()> {
        match self {
            Self::Gates(gates) => {
                let rule = rule(trouble).ok_or(io::ErrorKind::Unsupported)?;
                gates.net.set(links, rule);
                Ok(())
            }
            Self::Spaces(spaces) => {
                let links = links.to_vec();
                blocking(spaces, move |it| it.set(&links, trouble)).await?
            }
        }
    }

    /// Nothing becomes of them any more.
    ///
    /// # Errors
    /// A command failed.
    pub async fn lift(&self, links: &[Link]) -> io::Result<()> {
        match self {
            Self::Gates(gates) => {
                gates.net.lift(links);
                Ok(())
            }
            Self::Spaces(spaces) => {
                let links = links.to_vec();
                blocking(spaces, move |it| it.lift(&links)).await?
            }
        }
    }

    /// Nothing becomes of anything any more.
    ///
    /// # Errors
    /// A command failed.
    pub async fn lift_all(&self) -> io::Result<()> {
        match self {
            Self::Gates(gates) => {
                gates.net.lift_all();
                Ok(())
            }
            Self::Spaces(spaces) => blocking(spaces, Spaces::lift_all).await?,
        }
    }

    /// How often something has met what was set on these links.
    pub async fn met(&self, links: &[Link]) -> u64 {
        match self {
            Self::Gates(gates) => gates.net.met(links),
            Self::Spaces(spaces) => {
                let links = links.to_vec();
                let met = blocking(spaces, move |it| it.met(&links)).await;
                met.unwrap_or_default()
            }
        }
    }

    /// Whether anything is set on these links. What cannot be seen is.
    pub async fn is_ruled(&self, links: &[Link]) -> bool {
        match self {
            Self::Gates(gates) => gates.net.is_ruled(links),
            Self::Spaces(spaces) => {
                let links = links.to_vec();
                let ruled = blocking(spaces, move |it| it.is_ruled(&links)).await;
                ruled.unwrap_or(true)
            }
        }
    }

    /// What one of the two hears when it calls the other's peer port; `None`: a gate is no witness of itself.
    pub async fn call(&self, (from, to): &Link) -> Option<Answer> {
        let Self::Spaces(spaces) = self else {
            return None;
        };
        let (from, to) = (from.clone(), to.clone());
        let called = blocking(spaces, move |it| it.call(&from, &to, PORTS.peer)).await;
        called.and_then(|it| it).ok()
    }

    /// Connections that the first takes for whole and of which the second knows nothing.
    pub async fn half_open(&self, here: &str, there: &str) -> usize {
        let Self::Spaces(spaces) = self else {
            return 0;
        };
        let (here, there) = (here.to_string(), there.to_string());
        let found = blocking(spaces, move |it| it.half_open(&here, &there)).await;
        found.unwrap_or_default()
    }

    /// Breaks every connection of this process or to this node, at once, and says how many there were.
    pub async fn reset(&self, name: &str) -> u64 {
        match self {
            Self::Gates(gates) => {
                let before = gates.net.reset_count();
                gates.net.reset(name);
                tokio::time::sleep(COUNTED_AFTER).await;
                gates.net.reset_count() - before
            }
            Self::Spaces(spaces) => {
                let name = name.to_string();
                let broken = blocking(spaces, move |it| it.reset(&name)).await;
                broken.unwrap_or_default()
            }
        }
    }

    /// Bytes that have gone over it so far; gates count none.
    pub async fn bytes(&self) -> u64 {
        let Self::Spaces(spaces) = self else {
            return 0;
        };
        let counted = blocking(spaces, Spaces::bytes).await;
        counted.unwrap_or_default()
    }

    /// Removes what was laid; after this nobody reaches anybody.
    pub fn take_down(&self) {
        if let Self::Spaces(spaces) = self {
            spaces.take_down();
        }
    }
}

impl Gates {
    fn place(&self, name: &str) -> io::Result<Place> {
        let claimed = self.ports.claim()?;
        let ports = claimed.node;
        let gate = |at: u16, to: u16| {
            let (net, whois) = (Arc::clone(&self.net), Arc::clone(&self.whois));
            Gate::before(name, at, to, net, whois)
        };
        let api = gate(claimed.api_gate, ports.api);
        let peer = gate(claimed.peer_gate, ports.peer);
        let at = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Ok(Place {
            listens: [ports.api, ports.peer, ports.admin].map(at),
            api: api.address(),
            peer: peer.address(),
            direct: at(ports.api),
            admin: at(ports.admin),
            space: None,
            _gates: vec![api, peer],
        })
    }
}

/// As gates do it; `None`: they carry bytes and know nothing of packets.
fn rule(trouble: Trouble) -> Option<Rule> {
    match trouble {
        Trouble::Cut => Some(Rule::Cut),
        Trouble::Slow {
            delay_ms,
            bytes_per_s,
        } => Some(Rule::Slow {
            delay_ms,
            bytes_per_s,
        }),
        Trouble::BreakAfter { bytes } => Some(Rule::BreakAfter { bytes }),
        Trouble::Lose { .. } | Trouble::Refuse | Trouble::Twice => None,
    }
}

/// Commands are run and waited for where that holds nobody up.
async fn blocking<T: Send + 'static>(
    spaces: &Arc<Spaces>,
    work: impl FnOnce(&Spaces) -> T + Send + 'static,
) -> io::Result<T> {
    let spaces = Arc::clone(spaces);
    let done = tokio::task::spawn_blocking(move || work(&spaces)).await;
    done.map_err(io::Error::other)
}
