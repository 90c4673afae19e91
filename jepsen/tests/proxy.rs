//! Gates against real sockets: what passes, what is held, and that a dead port never looks like a silent one.

#![cfg(feature = "run")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_jepsen::cluster::free_port;
use holdfast_jepsen::proxy::{CLIENTS, Gate, Net, Rule, Whois};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Long enough for a busy machine.
const SOON: Duration = Duration::from_secs(20);
/// Nothing is expected to come within it.
const A_WHILE: Duration = Duration::from_millis(150);

fn at(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// A node that answers each byte with the same byte.
struct Echo {
    port: u16,
    task: JoinHandle<()>,
}

impl Echo {
    async fn at(port: u16) -> Self {
        let listener = TcpListener::bind(at(port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                open.spawn(async move {
                    let (mut from, mut to) = stream.split();
                    // It ends when its caller does; how, is of no interest here.
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        Self { port, task }
    }

    /// As a killed process: listener and connections are gone at once.
    async fn die(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

struct Town {
    net: Arc<Net>,
    gate: Gate,
    gate_port: u16,
}

/// A gate before this port of `n1`. Everything in this test's process is `caller`.
fn town(port: u16, caller: &str) -> Town {
    let net: Arc<Net> = Arc::default();
    let caller = caller.to_string();
    let known = Arc::new(move || vec![(caller.clone(), std::process::id())]);
    let whois = Arc::new(Whois::among(known));
    let gate_port = free_port().unwrap();
    let gate = Gate::before("n1", gate_port, port, Arc::clone(&net), whois);
    Town {
        net,
        gate,
        gate_port,
    }
}

impl Town {
    async fn call(&self) -> TcpStream {
        let until = Instant::now() + SOON;
        loop {
            match TcpStream::connect(self.gate.address()).await {
                Ok(stream) => return stream,
                Err(cause) => assert!(Instant::now() < until, "the gate stays closed: {cause}"),
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

fn links(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |it: &&str| (*it).to_string();
    pairs.iter().map(|(a, b)| (owned(a), owned(b))).collect()
}

async fn says(stream: &mut TcpStream, word: &[u8]) {
    stream.write_all(word).await.unwrap();
}

async fn hears(stream: &mut TcpStream, word: &[u8]) {
    let mut got = vec![0; word.len()];
    let read = tokio::time::timeout(SOON, stream.read_exact(&mut got)).await;
    read.unwrap().unwrap();
    assert_eq!(got, word);
}

async fn hears_nothing(stream: &mut TcpStream) {
    let mut byte = [0];
    let read = tokio::time::timeout(A_WHILE, stream.read(&mut byte)).await;
    assert!(read.is_err(), "{read:?}");
}

#[tokio::test]
async fn what_is_said_at_a_gate_arrives_and_is_answered() {
    let town = town(Echo::at(0).await.port, "n2");
    let mut stream = town.call().await;
    says(&mut stream, b"hello").await;
    hears(&mut stream, b"hello").await;
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
}

#[tokio::test]
async fn a_cut_holds_what_is_said_and_a_mended_link_delivers_it() {
    let town = town(Echo::at(0).await.port, "n2");
    let mut stream = town.call().await;
    says(&mut stream, b"a").await;
    hears(&mut stream, b"a").await;
    let cut = links(&[("n2", "n1")]);
    town.net.set(&cut, Rule::Cut);
    assert_eq!(town.net.met(&cut), 0);
    says(&mut stream, b"b").await;
    hears_nothing(&mut stream).await;
    assert!(town.net.met(&cut) > 0, "the cut was met");
    town.net.lift(&cut);
    hears(&mut stream, b"b").await;
}

#[tokio::test]
async fn a_cut_of_one_direction_lets_the_other_pass() {
    let listener = TcpListener::bind(at(0)).await.unwrap();
    let town = town(listener.local_addr().unwrap().port(), "n2");
    let mut near = town.call().await;
    // The gate looks at the port before it opens: that call is not ours.
    let mut far = loop {
        let (mut far, _) = listener.accept().await.unwrap();
        says(&mut near, b"x").await;
        let mut byte = [0];
        if far.read(&mut byte).await.unwrap() == 1 {
            break far;
        }
    };
    let cut = links(&[("n1", "n2")]);
    town.net.set(&cut, Rule::Cut);
    says(&mut near, b"there").await;
    let mut got = vec![0; 5];
    tokio::time::timeout(SOON, far.read_exact(&mut got))
        .await
        .unwrap()
        .unwrap();
    far.write_all(b"back").await.unwrap();
    hears_nothing(&mut near).await;
    town.net.lift_all();
    hears(&mut near, b"back").await;
}

#[tokio::test]
async fn a_cut_is_of_one_caller_and_others_pass() {
    let echo = Echo::at(0).await;
    let (n2, clients) = (town(echo.port, "n2"), town(echo.port, "w1"));
    let cut = links(&[("n2", "n1"), ("n1", "n2")]);
    n2.net.set(&cut, Rule::Cut);
    clients.net.set(&cut, Rule::Cut);
    let (mut held, mut passes) = (n2.call().await, clients.call().await);
    says(&mut held, b"a").await;
    says(&mut passes, b"a").await;
    hears(&mut passes, b"a").await;
    hears_nothing(&mut held).await;
}

#[tokio::test]
async fn whoever_is_no_process_of_the_run_is_a_client() {
    let whois = Whois::among(Arc::new(Vec::new));
    let listener = TcpListener::bind(at(0)).await.unwrap();
    let ours = listener.local_addr().unwrap().port();
    let stream = TcpStream::connect(at(ours)).await.unwrap();
    let theirs = stream.local_addr().unwrap().port();
    assert_eq!(whois.caller(theirs, ours).as_deref(), Some(CLIENTS));
    assert_eq!(whois.caller(1, ours), None);
}

#[tokio::test]
async fn a_dead_port_is_refused_at_its_gate_and_its_connections_break_at_once() {
    let echo = Echo::at(0).await;
    let port = echo.port;
    let town = town(port, "n2");
    let mut stream = town.call().await;
    says(&mut stream, b"a").await;
    hears(&mut stream, b"a").await;
    echo.die().await;
    let mut byte = [0];
    let read = tokio::time::timeout(SOON, stream.read(&mut byte))
        .await
        .unwrap();
    assert!(!matches!(read, Ok(1)), "{read:?}");
    // The break was passed on only after the gate had closed: no later call is accepted.
    let refused = TcpStream::connect(at(town.gate_port)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let _back = Echo::at(port).await;
    let mut again = town.call().await;
    says(&mut again, b"b").await;
    hears(&mut again, b"b").await;
}

#[tokio::test]
async fn behind_a_cut_nobody_learns_that_the_other_side_died() {
    let echo = Echo::at(0).await;
    let town = town(echo.port, "n2");
    let mut stream = town.call().await;
    says(&mut stream, b"a").await;
    hears(&mut stream, b"a").await;
    town.net
        .set(&links(&[("n2", "n1"), ("n1", "n2")]), Rule::Cut);
    echo.die().await;
    hears_nothing(&mut stream).await;
    town.net.lift_all();
    let mut byte = [0];
    let read = tokio::time::timeout(SOON, stream.read(&mut byte))
        .await
        .unwrap();
    assert!(!matches!(read, Ok(1)), "{read:?}");
}

#[tokio::test]
async fn a_reset_breaks_what_is_open_and_welcomes_what_comes() {
    let town = town(Echo::at(0).await.port, "n2");
    let mut stream = town.call().await;
    says(&mut stream, b"a").await;
    hears(&mut stream, b"a").await;
    town.net.reset("n1");
    let mut byte = [0];
    let read = tokio::time::timeout(SOON, stream.read(&mut byte))
        .await
        .unwrap();
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(town.net.reset_count(), 1);
    let mut again = town.call().await;
    says(&mut again, b"b").await;
    hears(&mut again, b"b").await;
}

#[tokio::test]
async fn a_connection_breaks_in_the_middle_of_what_is_said() {
    let town = town(Echo::at(0).await.port, "n2");
    town.net
        .set(&links(&[("n2", "n1")]), Rule::BreakAfter { bytes: 3 });
    let mut stream = town.call().await;
    says(&mut stream, b"hello").await;
    let mut got = Vec::new();
    let read = tokio::time::timeout(SOON, stream.read_to_end(&mut got))
        .await
        .unwrap();
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(got.len() <= 3, "{got:?}");
}

#[tokio::test]
async fn a_slow_link_delays_and_loses_nothing() {
    let town = town(Echo::at(0).await.port, "n2");
    let rule = Rule::Slow {
        delay_ms: 120,
        bytes_per_s: 1_000_000,
    };
    town.net.set(&links(&[("n2", "n1")]), rule);
    let mut stream = town.call().await;
    let began = Instant::now();
    says(&mut stream, b"slowly").await;
    hears(&mut stream, b"slowly").await;
    assert!(began.elapsed() >= Duration::from_millis(120));
}
