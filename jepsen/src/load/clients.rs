//! Clients: each asks what its generator says, one call after the other, and writes down what came of it.
//!
//! Invariant: a line is written for every call that was sent, also when it was given up. After an unknown outcome the client goes
//! on under another number, for its call may still take effect later. Not here: the calls (`generator`), the answers (`ask`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Asker, Generator, Told, Want};
use crate::clock::monotonic_ns;
use crate::records::{Answer, Call, Op, Outcome, Position};
use crate::store::Lines;

/// Which nodes there are to ask: names and addresses, as they are now.
pub type Nodes = Arc<dyn Fn() -> Vec<(String, String)> + Send + Sync>;

/// What was counted so far.
#[derive(Debug, Default)]
pub struct Progress {
    /// Answered.
    pub ok: AtomicU64,
    /// Refused.
    pub fail: AtomicU64,
    /// Unknown.
    pub info: AtomicU64,
    /// Runs that were made, as far as is known.
    pub runs: AtomicU64,
    /// Could not be written down.
    pub unwritten: AtomicU64,
}

/// All clients of a run, and the file of their history.
pub struct Clients {
    nodes: Nodes,
    history: Lines,
    next_op: AtomicU64,
    next_client: AtomicU32,
    /// What was counted.
    pub progress: Progress,
}

impl Clients {
    /// None yet; `clients` of them will have the first numbers.
    pub fn new(nodes: Nodes, history: Lines, clients: u32) -> Arc<Self> {
        Arc::new(Self {
            nodes,
            history,
            next_op: AtomicU64::new(0),
            next_client: AtomicU32::new(clients),
            progress: Progress::default(),
        })
    }

    /// Asks at this rate per second, over all clients, until told to stop; calls on their way are waited for.
    pub async fn load(
        self: &Arc<Self>,
        generators: Vec<Generator>,
        rate: u32,
        stop: watch::Receiver<bool>,
    ) {
        let count = u32::try_from(generators.len()).unwrap_or(1).max(1);
        let every = Duration::from_secs(1) * count / rate.max(1);
        let mut tasks = JoinSet::new();
        for (number, generator) in (0..).zip(generators) {
            let (clients, stop) = (Arc::clone(self), stop.clone());
            // Begun at different moments, so that they do not knock all at once.
            let first = every * number / count;
            tasks.spawn(async move { clients.client(number, generator, first, every, stop).await });
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn client(
        &self,
        number: u32,
        mut generator: Generator,
        first: Duration,
        every: Duration,
        mut stop: watch::Receiver<bool>,
    ) {
        let asker = Asker::default();
        let mut number = number;
        let mut seen: BTreeMap<u32, Position> = BTreeMap::new();
        let mut next = tokio::time::Instant::now() + first;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                stopped = stop.wait_for(|stop| *stop) => { drop(stopped); return; }
            }
            let want = generator.next_call();
            let told = self.once(&asker, number, want, &mut seen).await;
            if told.outcome == Outcome::Info {
                number = self.next_client.fetch_add(1, Ordering::Relaxed);
            }
            // One that was held up does not hurry to make up for it.
            next = (next + every).max(tokio::time::Instant::now());
        }
    }

    /// A number for a client outside the load.
    pub fn fresh_client(&self) -> u32 {
        self.next_client.fetch_add(1, Ordering::Relaxed)
    }

    /// Makes one call and writes it down.
    pub async fn once(
        &self,
        asker: &Asker,
        client: u32,
        want: Want,
        seen: &mut BTreeMap<u32, Position>,
    ) -> Told {
        let nodes = (self.nodes)();
        let (node, to) = nodes[want.node % nodes.len()].clone();
        let mut call = want.call;
        if let (Call::Get { at_least, .. }, true) = (&mut call, want.at_least) {
            // Positions of several groups cannot be compared; with one there is one.
            *at_least = (seen.len() == 1)
                .then(|| seen.values().next().copied())
                .flatten();
        }
        let id = self.next_op.fetch_add(1, Ordering::Relaxed);
        let t_inv = monotonic_ns();
        let told = asker.ask(&to, &call, want.input.as_deref()).await;
        let t_ret = monotonic_ns();
        if let Some(at) = told.position {
            let newest = seen.entry(at.group).or_insert(at);
            *newest = (*newest).max(at);
        }
        self.count(&told);
        let op = Op {
            id,
            client,
            node,
            call,
            t_inv,
            t_ret,
            outcome: told.outcome,
            answer: told.answer.clone(),
            error: told.error.clone(),
            position: told.position,
        };
        if self.history.append(&op).is_err() {
            self.progress.unwritten.fetch_add(1, Ordering::Relaxed);
        }
        told
    }

    fn count(&self, told: &Told) {
        let progress = &self.progress;
        let counted = match told.outcome {
            Outcome::Ok => &progress.ok,
            Outcome::Fail => &progress.fail,
            Outcome::Info => &progress.info,
        };
        counted.fetch_add(1, Ordering::Relaxed);
        if matches!(told.answer, Some(Answer::Started { created: true, .. })) {
            progress.runs.fetch_add(1, Ordering::Relaxed);
        }
    }
}
