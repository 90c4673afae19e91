//! Packet rules in real namespaces, between real sockets: what arrives, what does not, and who is told.
//!
//! Invariant: each test lives on a thread in a network of its own and touches no other. They need root, `ip`, `tc`, `ss` and `iptables`,
//! so they are not among those that run everywhere: `make packets` runs them, and there a machine that cannot is a failure.

#![cfg(feature = "run")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use holdfast_jepsen::network::{self, Answer, CLIENTS, Link, Means, Network, Place, Trouble};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Long enough for a busy machine, and for packets that have to be sent again.
const SOON: Duration = Duration::from_secs(60);
/// Nothing is expected to come within it.
const A_WHILE: Duration = Duration::from_millis(400);

/// Does it on a thread that has left for a network of its own.
fn apart<F: Future<Output = ()>>(test: impl FnOnce(Town) -> F + Send + 'static) {
    let done = std::thread::spawn(move || {
        assert_eq!(network::lacks(), None, "packets cannot be ruled here");
        network::enter().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async { test(Town::laid()).await });
    });
    if let Err(panic) = done.join() {
        std::panic::resume_unwind(panic);
    }
}

fn link(from: &str, to: &str) -> Link {
    (from.to_string(), to.to_string())
}

/// Two nodes that are only a place in the network.
struct Town {
    network: Network,
    n1: Place,
    n2: Place,
}

impl Town {
    fn laid() -> Self {
        let network = Network::lay(Means::Spaces, Arc::new(Vec::new)).unwrap();
        let (n1, n2) = (network.place("n1").unwrap(), network.place("n2").unwrap());
        Self { network, n1, n2 }
    }

    /// One who listens at a place's peer port.
    fn listen(at: &Place) -> TcpListener {
        let space = at.space.as_ref().unwrap();
        let bound = space.within(|| std::net::TcpListener::bind(at.listens[1]));
        let listener = bound.unwrap().unwrap();
        listener.set_nonblocking(true).unwrap();
        TcpListener::from_std(listener).unwrap()
    }

    /// Both ends of a connection that a node has made to another one's peer port.
    async fn connected(from: &Place, to: &Place) -> (TcpStream, TcpStream) {
        let listener = Self::listen(to);
        let space = from.space.as_ref().unwrap();
        let made = space.within(|| std::net::TcpStream::connect(to.peer.as_str()));
        let near = made.unwrap().unwrap();
        near.set_nonblocking(true).unwrap();
        let (far, _) = listener.accept().await.unwrap();
        (TcpStream::from_std(near).unwrap(), far)
    }

    async fn hears(&self, from: &str, to: &str) -> Answer {
        self.network.call(&link(from, to)).await.unwrap()
    }
}

async fn say(stream: &mut TcpStream, byte: u8) {
    stream.write_all(&[byte]).await.unwrap();
}

async fn hear(stream: &mut TcpStream) -> u8 {
    let heard = timeout(SOON, stream.read_u8()).await;
    heard.unwrap().unwrap()
}

async fn hears_nothing(stream: &mut TcpStream) {
    assert!(timeout(A_WHILE, stream.read_u8()).await.is_err());
}

#[test]
#[ignore = "needs root and namespaces: make packets"]
fn a_cut_stops_one_direction_and_what_was_said_arrives_once_it_is_lifted() {
    apart(async |town: Town| {
        let (mut near, mut far) = Town::connected(&town.n1, &town.n2).await;
        let cut = [link("n1", "n2")];
        town.network.set(&cut, Trouble::Cut).await.unwrap();
        assert!(town.network.is_ruled(&cut).await);
        say(&mut near, 1).await;
        hears_nothing(&mut far).await;
        assert!(town.network.met(&cut).await > 0);
        say(&mut far, 2).await;
        assert_eq!(hear(&mut near).await, 2);
        town.network.lift(&cut).await.unwrap();
        assert!(!town.network.is_ruled(&cut).await);
        assert_eq!(hear(&mut far).await, 1);
    });
}

#[test]
#[ignore = "needs root and namespaces: make packets"]
fn a_call_across_a_cut_hears_nothing_and_one_to_a_closed_port_is_refused() {
    apart(async |town: Town| {
        assert_eq!(town.hears("n1", "n2").await, Answer::Refused);
        let _listener = Town::listen(&town.n2);
        assert_eq!(town.hears("n1", "n2").await, Answer::Accepted);
        assert_eq!(town.hears(CLIENTS, "n2").await, Answer::Accepted);
        for cut in [link("n1", "n2"), link("n2", "n1")] {
            let cut = [cut];
            town.network.set(&cut, Trouble::Cut).await.unwrap();
            assert_eq!(town.hears("n1", "n2").await, Answer::Silence);
            assert_eq!(town.hears(CLIENTS, "n2").await, Answer::Accepted);
            town.network.lift(&cut).await.unwrap();
            assert_eq!(town.hears("n1", "n2").await, Answer::Accepted);
        }
    });
}

#[test]
#[ignore = "needs root and namespaces: make packets"]
fn clients_are_cut_off_in_either_direction_and_the_harness_itself_never_is() {
    apart(async |town: Town| {
        let space = town.n1.space.as_ref().unwrap();
        let bound = space.within(|| std::net::TcpListener::bind(town.n1.listens[2]));
        let _admin = bound.unwrap().unwrap();
        let _peer = Town::listen(&town.n1);
        for cut in [link(CLIENTS, "n1"), link("n1", CLIENTS)] {
            town.network.set(&[cut], Trouble::Cut).await.unwrap();
            assert_eq!(town.hears(CLIENTS, "n1").await, Answer::Silence);
            let called = timeout(SOON, TcpStream::connect(town.n1.admin)).await;
            called.unwrap().unwrap();
            town.network.lift_all().await.unwrap();
            assert_eq!(town.hears(CLIENTS, "n1").await, Answer::Accepted);
        }
    });
}

#[test]
#[ignore = "needs root and namespaces: make packets"]
fn a_half_open_connection_is_reset_for_one_side_and_whole_for_the_other() {
    apart(async |town: Town| {
        let (mut near, mut far) = Town::connected(&town.n1, &town.n2).await;
        assert_eq!(town.network.half_open("n2", "n1").await, 0);
        let refused = [link("n1", "n2")];
        town.network.set(&refused, Trouble::Refuse).await.unwrap();
        say(&mut near, 1).await;
        let told = timeout(SOON, near.read_u8()).await.unwrap();
        assert_eq!(told.unwrap_err().kind(), ErrorKind::ConnectionReset);
        hears_nothing(&mut far).await;
        assert_eq!(town.network.half_open("n2", "n1").await, 1);
        assert_eq!(town.network.half_open("n1", "n2").await, 0);
        assert_eq!(town.hears("n1", "n2").await, Answer::Refused);
        assert!(town.network.met(&refused).await > 0);
    });
}

#[test]
#[ignore = "needs root and namespaces: make packets"]
fn lost_and_doubled_packets_change_nothing_of_what_is_read() {
    apart(async |town: Town| {
        let both = [link("n1", "n2"), link("n2", "n1")];
        for trouble in [Trouble::Lose { percent: 20 }, Trouble::Twice] {
            town.network.set(&both, trouble).await.unwrap();
            let (mut near, mut far) = Town::connected(&town.n1, &town.n2).await;
            let sent: Vec<u8> = (0..200_000_u32).map(|it| it.to_le_bytes()[0]).collect();
            let mut read = Vec::new();
            let all = async {
                let said = async {
                    near.write_all(&sent).await.unwrap();
                    near.shutdown().await.unwrap();
                };
                tokio::join!(said, far.read_to_end(&mut read)).1.unwrap();
            };
            timeout(SOON, all).await.unwrap();
            assert_eq!(read, sent);
            assert!(town.network.met(&both).await > 0, "{trouble:?}");
            town.network.lift(&both).await.unwrap();
        }
    });
}

#[test]
#[ignore = "needs root and namespaces: make packets"]
fn a_slow_line_carries_everything_and_is_fast_again_once_it_is_lifted() {
    apart(async |town: Town| {
        let links = [link("n1", "n2"), link("n2", "n1")];
        let slow = Trouble::Slow {
            delay_ms: 0,
            bytes_per_s: 250_000,
        };
        town.network.set(&links, slow).await.unwrap();
        let (mut near, mut far) = Town::connected(&town.n1, &town.n2).await;
        say(&mut near, 7).await;
        assert_eq!(hear(&mut far).await, 7);
        assert!(town.network.is_ruled(&links).await);
        assert!(town.network.met(&links).await > 0);
        town.network.lift(&links).await.unwrap();
        assert!(!town.network.is_ruled(&links).await);
    });
}

#[test]
#[ignore = "needs root and namespaces: make packets"]
fn a_reset_breaks_the_connections_of_one_node_on_both_sides() {
    apart(async |town: Town| {
        let (mut near, mut far) = Town::connected(&town.n1, &town.n2).await;
        assert_eq!(town.network.reset("n1").await, 1);
        for stream in [&mut near, &mut far] {
            assert!(timeout(SOON, stream.read_u8()).await.unwrap().is_err());
        }
        assert_eq!(town.network.reset("n1").await, 0);
    });
}

#[test]
#[ignore = "needs root and namespaces: make packets"]
fn of_two_faults_at_once_each_is_lifted_alone() {
    apart(async |town: Town| {
        let (one, other) = ([link("n1", "n2")], [link(CLIENTS, "n2")]);
        let _listener = Town::listen(&town.n2);
        town.network.set(&one, Trouble::Cut).await.unwrap();
        town.network.set(&other, Trouble::Refuse).await.unwrap();
        assert_eq!(town.hears("n1", "n2").await, Answer::Silence);
        assert_eq!(town.hears(CLIENTS, "n2").await, Answer::Refused);
        town.network.lift(&one).await.unwrap();
        assert_eq!(town.hears("n1", "n2").await, Answer::Accepted);
        assert_eq!(town.hears(CLIENTS, "n2").await, Answer::Refused);
    });
}

#[test]
#[ignore = "needs root and namespaces: make packets"]
fn a_connection_that_breaks_after_some_bytes_is_no_matter_of_packets() {
    apart(async |town: Town| {
        let links = [link("n1", "n2")];
        let tried = town.network.set(&links, Trouble::BreakAfter { bytes: 1 });
        assert_eq!(tried.await.unwrap_err().kind(), ErrorKind::Unsupported);
        assert!(!town.network.is_ruled(&links).await);
    });
}

#[test]
#[ignore = "needs root and namespaces: make packets"]
fn a_next_run_finds_nothing_of_the_one_before() {
    apart(async |town: Town| {
        let links = [link("n1", "n2")];
        town.network.set(&links, Trouble::Cut).await.unwrap();
        let network = Network::lay(Means::Spaces, Arc::new(Vec::new)).unwrap();
        drop(town); // dropped late, it must leave what was laid since
        let (n1, n2) = (network.place("n1").unwrap(), network.place("n2").unwrap());
        let next = Town { network, n1, n2 };
        let (mut near, mut far) = Town::connected(&next.n1, &next.n2).await;
        say(&mut near, 3).await;
        assert_eq!(hear(&mut far).await, 3);
        assert!(!next.network.is_ruled(&links).await);
    });
}

#[test]
fn the_machines_own_network_is_never_touched() {
    let laid = Network::lay(Means::Spaces, Arc::new(Vec::new));
    let why = laid.unwrap_err().to_string();
    assert!(why.contains("never touched"), "{why}");
}
