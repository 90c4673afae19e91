//! `Caller`: reaches a cluster through any of its nodes. Follows the leader, tries again with the same ids.
//!
//! Invariant: a call is repeated only unchanged; every loop has an end.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::stream::{FuturesUnordered, StreamExt};
use holdfast_proto::v1;
use parking_lot::Mutex;
use rand::Rng;
use tonic::{
    Code, Request, Response, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;
use twox_hash::XxHash3_64;

use crate::error::ClientError;

/// Over all nodes and tries; an election takes a fraction of it.
const CALL_WITHIN: Duration = Duration::from_secs(15);
/// One try at one node.
pub(crate) const TRY_WITHIN: Duration = Duration::from_secs(5);
const CONNECT_WITHIN: Duration = Duration::from_millis(500);
const WAIT_FIRST: Duration = Duration::from_millis(10);
const WAIT_LAST: Duration = Duration::from_millis(300);
/// A connection on which nothing came for so long is asked for a sign of life …
const SILENT_FOR: Duration = Duration::from_millis(250);
/// … and given up without one: a frozen node is left about when the others have elected a new leader. A node that was only
/// slow is connected to again; nothing is lost, for all is repeated under the same ids.
const DEAF_AFTER: Duration = Duration::from_millis(500);
/// What a node says of its leaders is asked again after this long, or as soon as a call fails.
const TOPOLOGY_FOR: Duration = Duration::from_secs(2);

/// The way to a cluster. Cheap to clone; clones share connections.
#[derive(Clone)]
pub(crate) struct Caller {
    shared: Arc<Shared>,
}

struct Shared {
    endpoints: Vec<String>,
    channels: Mutex<HashMap<String, Channel>>,
    topology: Mutex<Option<(Instant, Arc<v1::TopologyReply>)>>,
    /// The nodes by the newest word of any, and the term of that: those that were named at the start may all be gone by now.
    nodes: Mutex<(u64, Vec<String>)>,
    /// The last question for it, and when it began: callers who wait for the next share one.
    asking: tokio::sync::Mutex<Option<(Instant, Topology)>>,
}

type Topology = Result<Arc<v1::TopologyReply>, ClientError>;

impl Caller {
    pub(crate) fn new(endpoints: Vec<String>) -> Result<Self, ClientError> {
        if endpoints.is_empty() {
            let why = "no endpoint is given; set HOLDFAST_ENDPOINTS, for example to 127.0.0.1:7100";
            return Err(ClientError::Unavailable(why.to_owned()));
        }
        for endpoint in &endpoints {
            address(endpoint)?;
        }
        Ok(Self::of(endpoints))
    }

    fn of(endpoints: Vec<String>) -> Self {
        Self {
            shared: Arc::new(Shared {
                endpoints,
                channels: Mutex::default(),
                topology: Mutex::default(),
                nodes: Mutex::default(),
                asking: tokio::sync::Mutex::default(),
            }),
        }
    }

    /// The same cluster over connections of its own: a connection belongs to the runtime that made it.
    pub(crate) fn fresh(&self) -> Self {
        Self::of(self.all_addresses())
    }

    fn all_addresses(&self) -> Vec<String> {
        let mut all = self.shared.endpoints.clone();
        let known = self.shared.nodes.lock();
        let others = known
            .1
            .iter()
            .filter(|api| !self.shared.endpoints.contains(api));
        all.extend(others.cloned());
        all
    }

    /// Remembers who the nodes are. One that was removed, or cut off, knows an older term and an older list.
    fn learn(&self, topology: &v1::TopologyReply) {
        let term = topology
            .leaders
            .iter()
            .map(|it| it.term)
            .max()
            .unwrap_or_default();
        let nodes = topology.nodes.iter().map(|node| node.api.clone());
        let nodes: Vec<String> = nodes.filter(|api| !api.is_empty()).collect();
        let mut known = self.shared.nodes.lock();
        if topology.formed && !nodes.is_empty() && term >= known.0 {
            *known = (term, nodes);
        }
    }

    /// A connection to this address; made once.
    pub(crate) async fn channel(&self, to: &str) -> Result<Channel, ClientError> {
        if let Some(channel) = self.shared.channels.lock().get(to) {
            return Ok(channel.clone());
        }
        let unreachable = |cause: tonic::transport::Error| {
            let why =
                std::error::Error::source(&cause).map_or(cause.to_string(), ToString::to_string);
            ClientError::Unavailable(format!("{to}: {why}"))
        };
        let channel = address(to)?.connect().await.map_err(unreachable)?;
        self.shared
            .channels
            .lock()
            .insert(to.to_owned(), channel.clone());
        Ok(channel)
    }

    fn forget(&self, to: &str) {
        self.shared.channels.lock().remove(to);
        *self.shared.topology.lock() = None;
    }

    /// What the first node that answers knows of the cluster.
    pub(crate) async fn topology(&self) -> Topology {
        if let Some((at, topology)) = &*self.shared.topology.lock()
            && at.elapsed() < TOPOLOGY_FOR
        {
            return Ok(topology.clone());
        }
        let called = Instant::now();
        let mut asking = self.shared.asking.lock().await;
        if let Some((began, answer)) = &*asking
            && *began >= called
        {
            return answer.clone();
        }
        let began = Instant::now();
        let answer = self.ask_topology().await;
        *asking = Some((began, answer.clone()));
        answer
    }

    /// All are asked at once: a frozen one must not hold up the rest.
    async fn ask_topology(&self) -> Topology {
        let mut last = ClientError::Unavailable("no endpoint".to_owned());
        let mut best: Option<Arc<v1::TopologyReply>> = None;
        let addresses = self.all_addresses();
        let mut asked: FuturesUnordered<_> =
            addresses.iter().map(|to| self.topology_of(to)).collect();
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(topology)
                    if topology.formed && topology.leaders.iter().all(|it| it.node != 0) =>
                {
                    let known = (Instant::now(), Arc::clone(&topology));
                    *self.shared.topology.lock() = Some(known);
                    return Ok(topology);
                }
                Ok(topology) => {
                    if best.as_ref().is_none_or(|best| !best.formed) {
                        best = Some(topology);
                    }
                }
                Err(error) => last = error,
            }
        }
        best.ok_or(last)
    }

    async fn topology_of(&self, to: &str) -> Topology {
        let asked = async {
            let mut grpc = v1::cluster_client::ClusterClient::new(self.channel(to).await?);
            let reply = grpc.topology(v1::TopologyRequest {}).await;
            let topology = reply
                .map(Response::into_inner)
                .map_err(|status| of_status(&status))?;
            self.learn(&topology);
            Ok(Arc::new(topology))
        };
        let answer = tokio::time::timeout(CONNECT_WITHIN, asked).await;
        answer.unwrap_or(Err(ClientError::TimedOut))
    }

    /// Waits until the cluster is formed; answers how many partitions it has.
    pub(crate) async fn wait_formed(&self) -> Result<u32, ClientError> {
        let until = Instant::now() + CALL_WITHIN;
        loop {
            match self.topology().await {
                Ok(topology) if topology.formed => return Ok(topology.partitions.max(1)),
                Ok(_) if Instant::now() > until => {
                    let why = "the cluster is not formed; run `holdfast cluster init`".to_owned();
                    return Err(ClientError::Unavailable(why));
                }
                Err(error) if Instant::now() > until => return Err(error),
                Ok(_) | Err(_) => tokio::time::sleep(WAIT_LAST).await,
            }
        }
    }

    /// Where the leader of a partition is; waits until some node knows.
    pub(crate) async fn leader_address(&self, partition: u32) -> String {
        let mut wait = WAIT_FIRST;
        loop {
            *self.shared.topology.lock() = None;
            if let Ok(topology) = self.topology().await
                && let Some(address) = leader_of(&topology, partition)
            {
                return address;
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(WAIT_LAST);
        }
    }

    /// Where the leader of a partition is by the newest word of any node: one that was cut off still believes in itself, in
    /// an older term. None if nobody knows one.
    pub(crate) async fn newest_leader(&self, partition: u32) -> Option<String> {
        let addresses = self.all_addresses();
        let asked = addresses.iter().map(|to| self.topology_of(to));
        let answers = futures::future::join_all(asked).await;
        let leaders = answers.iter().flatten().flat_map(|it| &it.leaders);
        leaders
            .filter(|it| it.partition == partition && !it.api.is_empty())
            .max_by_key(|it| it.term)
            .map(|it| it.api.clone())
    }

    /// Calls about a run: its leader first, then any node, until one answers.
    pub(crate) async fn call<Q, A, F>(
        &self,
        run: Option<&str>,
        request: Q,
        make: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<A, ClientError>
    where
        Q: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        self.call_within(run, request, TRY_WITHIN, make).await
    }

    pub(crate) async fn call_within<Q, A, F>(
        &self,
        run: Option<&str>,
        request: Q,
        one_try: Duration,
        make: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<A, ClientError>
    where
        Q: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let until = Instant::now() + CALL_WITHIN + one_try;
        let mut wait = WAIT_FIRST;
        loop {
            let mut last = ClientError::Unavailable("no node answered".to_owned());
            let mut candidates = Candidates::new(self, run).await;
            while let Some(to) = candidates.next() {
                let tried = async {
                    let channel = self.channel(&to).await.map_err(Tried::Next)?;
                    let mut request = Request::new(request.clone());
                    request.set_timeout(one_try);
                    make(channel, request)
                        .await
                        .map(Response::into_inner)
                        .map_err(|it| judge(&it))
                };
                match tokio::time::timeout(one_try + CONNECT_WITHIN, tried).await {
                    Ok(Ok(answer)) => return Ok(answer),
                    Ok(Err(Tried::Final(error))) => return Err(error),
                    Ok(Err(Tried::Next(error))) => {
                        tracing::debug!(to, %error, "trying the next node");
                        self.forget(&to);
                        last = error;
                    }
                    Err(_) => {
                        self.forget(&to);
                        last = ClientError::TimedOut;
                    }
                }
            }
            if Instant::now() > until {
                return Err(last);
            }
            let jitter = rand::rng().random_range(50..150);
            tokio::time::sleep(wait * jitter / 100).await;
            wait = (wait * 2).min(WAIT_LAST);
        }
    }
}

/// Whom to ask about a run: its leader first, if it is known, and then all others.
struct Candidates<'a> {
    caller: &'a Caller,
    leader: Option<String>,
    /// Made when it is needed: nearly always the leader answers.
    others: Option<VecDeque<String>>,
    began: bool,
}

impl<'a> Candidates<'a> {
    async fn new(caller: &'a Caller, run: Option<&str>) -> Self {
        let leader = match run {
            Some(run) => {
                let topology = caller.topology().await.ok();
                topology.and_then(|it| leader_of(&it, home_of(run, &it)))
            }
            None => None,
        };
        Self {
            caller,
            leader,
            others: None,
            began: false,
        }
    }

    fn next(&mut self) -> Option<String> {
        let first = !std::mem::replace(&mut self.began, true);
        if first && self.leader.is_some() {
            return self.leader.clone();
        }
        let others = self.others.get_or_insert_with(|| {
            let mut all = self.caller.all_addresses();
            all.retain(|it| Some(it) != self.leader.as_ref());
            all.into()
        });
        others.pop_front()
    }
}

/// The partition of a run: by what stands before the first `~`.
fn home_of(run: &str, topology: &v1::TopologyReply) -> u32 {
    let root = run.split('~').next().unwrap_or_default();
    let nth = XxHash3_64::oneshot(root.as_bytes()) % u64::from(topology.partitions.max(1));
    u32::try_from(nth).unwrap_or_default() + 1
}

enum Tried {
    Final(ClientError),
    Next(ClientError),
}

/// Whether another node, or another moment, may answer differently.
fn judge(status: &Status) -> Tried {
    let error = of_status(status);
    match status.code() {
        Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Unknown => {
            Tried::Next(error)
        }
        // Without a code of ours it is the connection's word, not the node's.
        Code::ResourceExhausted if code_of(status).is_none_or(|code| code == "HF1005") => {
            Tried::Next(error)
        }
        _ => Tried::Final(error),
    }
}

fn leader_of(topology: &v1::TopologyReply, partition: u32) -> Option<String> {
    let leader = topology
        .leaders
        .iter()
        .find(|it| it.partition == partition)?;
    Some(leader.api.clone()).filter(|api| !api.is_empty())
}

fn address(text: &str) -> Result<Endpoint, ClientError> {
    let with_scheme = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let bad = |cause| ClientError::Refused {
        code: "HF3002".to_owned(),
        message: format!("{text} is no address such as 127.0.0.1:7100: {cause}"),
    };
    let endpoint = Endpoint::from_shared(with_scheme).map_err(bad)?;
    Ok(endpoint
        .connect_timeout(CONNECT_WITHIN)
        .tcp_nodelay(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .http2_keep_alive_interval(SILENT_FOR)
        .keep_alive_timeout(DEAF_AFTER)
        .keep_alive_while_idle(true))
}

fn code_of(status: &Status) -> Option<String> {
    status.get_details_error_info().map(|info| info.reason)
}

/// A status as a user's error, by what they do next.
pub(crate) fn of_status(status: &Status) -> ClientError {
    let message = status.message().to_owned();
    let code = code_of(status).unwrap_or_default();
    match (code.as_str(), status.code()) {
        ("HF2001", _) => {
            let run = message
                .split_whitespace()
                .nth(1)
                .unwrap_or_default()
                .to_owned();
            ClientError::IdConflict { run }
        }
        ("HF3003" | "HF2005", _) => ClientError::NotFound(message),
        ("HF1001" | "HF1002" | "HF1005", _) => {
            ClientError::Unavailable(format!("[{code}] {message}"))
        }
        ("HF1003", _) => ClientError::TimedOut,
        ("", Code::Unavailable | Code::Unknown | Code::Cancelled) => {
            ClientError::Unavailable(message)
        }
        ("", Code::DeadlineExceeded) => ClientError::TimedOut,
        (_, Code::PermissionDenied | Code::Unauthenticated) => ClientError::NotAllowed(message),
        ("", other) => ClientError::Refused {
            code: format!("{other:?}"),
            message,
        },
        _ => ClientError::Refused { code, message },
    }
}
