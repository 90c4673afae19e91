//! A node that says what its test tells it to: the services that the SDK calls, and no engine behind them.
//!
//! Beats are echoed by themselves until the test says `deaf`. Not here: what is promised (the files beside this folder).

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::stream::BoxStream;
use holdfast::{
    Client,
    wire::{self, from_worker::Message as From, to_worker::Message as To},
};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::{
    StreamExt,
    wrappers::{ReceiverStream, TcpListenerStream},
};
use tonic::{Code, Request, Response, Status, Streaming, transport::Server};
use tonic_types::{ErrorDetails, StatusExt};

/// Long enough for a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Of the leases that a fake node gives.
pub const TERM: Duration = Duration::from_secs(5);
/// How long before its lease ends a step is stopped.
pub const MARGIN: Duration = Duration::from_secs(1);

/// A node under a test's control.
pub struct Node {
    pub address: String,
    pub told: Arc<Told>,
    streams: mpsc::UnboundedReceiver<Stream>,
    alive: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

/// What a node knows, will answer, and was asked.
pub struct Told {
    pub topology: Mutex<wire::TopologyReply>,
    /// How often it was asked for that.
    pub topologies: AtomicUsize,
    pub starts: Script<wire::StartRequest, wire::StartReply>,
    pub gets: Script<wire::GetRequest, wire::GetReply>,
    pub results: Script<wire::ResultRequest, wire::GetReply>,
    pub signals: Script<wire::SignalRequest, wire::ChangeReply>,
    pub views: Script<wire::GetViewRequest, wire::GetViewReply>,
    pub cancels: Script<wire::ChangeRequest, wire::ChangeReply>,
    pub lists: Script<wire::ListRequest, wire::ListReply>,
    attached: mpsc::UnboundedSender<Stream>,
}

/// Answers of one call in their order, and what was asked.
pub struct Script<Q, A> {
    answers: Mutex<VecDeque<Result<A, Status>>>,
    asked: Mutex<Vec<Q>>,
}

impl<Q: Clone, A> Script<Q, A> {
    fn new() -> Self {
        let (answers, asked) = (Mutex::default(), Mutex::default());
        Self { answers, asked }
    }

    /// The next call is answered like this.
    pub fn then(&self, answer: Result<A, Status>) -> &Self {
        self.answers.lock().push_back(answer);
        self
    }

    /// What was asked so far.
    pub fn asked(&self) -> Vec<Q> {
        self.asked.lock().clone()
    }

    fn answer(&self, request: Request<Q>) -> Result<Response<A>, Status> {
        self.asked.lock().push(request.into_inner());
        let next = self.answers.lock().pop_front();
        let nothing = || {
            Err(coded(
                Code::Internal,
                "HF9001",
                "the test has no answer to this",
            ))
        };
        next.unwrap_or_else(nothing).map(Response::new)
    }
}

/// A refusal as a node makes it.
pub fn coded(code: Code, reason: &str, message: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, "holdfast", []);
    Status::with_error_details(code, message, details)
}

/// What a node says that does not lead.
pub fn not_leader() -> Status {
    coded(
        Code::Unavailable,
        "HF1001",
        "this node does not lead the partition",
    )
}

impl Node {
    /// A node that leads all there is.
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (attached, streams) = mpsc::unbounded_channel();
        let told = Arc::new(Told {
            topology: Mutex::new(led_by(1, &[&address])),
            topologies: AtomicUsize::new(0),
            starts: Script::new(),
            gets: Script::new(),
            results: Script::new(),
            signals: Script::new(),
            views: Script::new(),
            cancels: Script::new(),
            lists: Script::new(),
            attached,
        });
        let fake = Fake(Arc::clone(&told));
        // A runtime of its own: when that ends, every connection does.
        let listener = listener.into_std().unwrap();
        let (alive, dead) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(async {
                let incoming =
                    TcpListenerStream::new(tokio::net::TcpListener::from_std(listener).unwrap());
                let serving = Server::builder()
                    .add_service(wire::cluster_server::ClusterServer::new(fake.clone()))
                    .add_service(wire::runs_server::RunsServer::new(fake.clone()))
                    .add_service(wire::work_server::WorkServer::new(fake))
                    .serve_with_incoming(incoming);
                tokio::select! {
                    served = serving => served.unwrap(),
                    _ = dead => {}
                }
            });
        });
        Self {
            address,
            told,
            streams,
            alive,
            thread,
        }
    }

    pub async fn client(&self) -> Client {
        Client::connect(&[&self.address]).await.unwrap()
    }

    /// The next worker that attaches, once it has greeted.
    pub async fn attached(&mut self) -> Stream {
        let next = timeout(PATIENCE, self.streams.recv()).await;
        next.expect("a worker attaches").expect("the node lives")
    }

    /// As `attached`, and welcomed under this session.
    pub async fn welcomed(&mut self, session: u64) -> Stream {
        let stream = self.attached().await;
        stream.welcome(session);
        stream
    }

    /// From here on its connections are closed, and nobody listens at its address.
    pub fn die(self) {
        drop(self.alive);
        self.thread.join().unwrap();
    }
}

/// A cluster of these nodes, of which the one at this place (from 1) leads the only partition.
pub fn led_by(leader: usize, addresses: &[&str]) -> wire::TopologyReply {
    let nodes = (1..).zip(addresses).map(|(node, api)| wire::NodeInfo {
        node,
        api: (*api).to_owned(),
        voter: true,
        ..Default::default()
    });
    let leads = wire::PartitionLeader {
        partition: 1,
        node: leader as u64,
        api: addresses[leader - 1].to_owned(),
        term: 1,
    };
    wire::TopologyReply {
        formed: true,
        cluster: "fake".to_owned(),
        partitions: 1,
        nodes: nodes.collect(),
        leaders: vec![leads],
    }
}

/// A work stream, from the node's side.
pub struct Stream {
    pub hello: wire::Hello,
    pub beats: Arc<AtomicUsize>,
    deaf: Arc<AtomicBool>,
    to: mpsc::Sender<Result<wire::ToWorker, Status>>,
    from: mpsc::UnboundedReceiver<From>,
    pump: JoinHandle<()>,
}

impl Drop for Stream {
    /// The connection ends with the test's end of it.
    fn drop(&mut self) {
        self.pump.abort();
    }
}

impl Stream {
    fn open(
        hello: wire::Hello,
        inbound: Streaming<wire::FromWorker>,
    ) -> (Self, mpsc::Receiver<Result<wire::ToWorker, Status>>) {
        let (to, outbound) = mpsc::channel(1_024);
        let (forward, from) = mpsc::unbounded_channel();
        let (beats, deaf) = (Arc::default(), Arc::default());
        let pump = pump(
            inbound,
            to.clone(),
            forward,
            Arc::clone(&beats),
            Arc::clone(&deaf),
        );
        let stream = Self {
            hello,
            beats,
            deaf,
            to,
            from,
            pump: tokio::spawn(pump),
        };
        (stream, outbound)
    }

    pub fn send(&self, message: To) {
        let message = wire::ToWorker {
            message: Some(message),
        };
        self.to.try_send(Ok(message)).unwrap();
    }

    pub fn welcome(&self, session: u64) {
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap();
        self.send(To::Welcome(wire::Welcome {
            session,
            protocol: 1,
            beat_ms: 50,
            term_ms: ms(TERM),
            stop_margin_ms: ms(MARGIN),
            ..Default::default()
        }));
    }

    /// From here on no beat is echoed.
    pub fn deafen(&self) {
        self.deaf.store(true, Ordering::Relaxed);
    }

    /// What the worker says next, other than beats and credit; none once its side has ended.
    pub async fn next(&mut self) -> Option<From> {
        timeout(PATIENCE, self.from.recv())
            .await
            .expect("the worker says something")
    }

    pub async fn advance(&mut self) -> wire::Advance {
        match self.next().await {
            Some(From::Advance(it)) => it,
            other => panic!("{other:?} instead of an Advance"),
        }
    }

    pub async fn report(&mut self) -> wire::Report {
        match self.next().await {
            Some(From::Report(it)) => it,
            other => panic!("{other:?} instead of a Report"),
        }
    }

    pub async fn returned(&mut self) -> wire::Return {
        match self.next().await {
            Some(From::Return(it)) => it,
            other => panic!("{other:?} instead of a Return"),
        }
    }

    pub fn reported(&self, of: &wire::Report, outcome: wire::ReportOutcome) {
        self.send(To::Reported(wire::Reported {
            run: of.run.clone(),
            entry: of.entry,
            fence: of.fence,
            outcome: outcome.into(),
            ..Default::default()
        }));
    }

    pub fn advanced(
        &self,
        of: &wire::Advance,
        outcome: wire::AdvanceOutcome,
        grants: Vec<wire::Grant>,
    ) {
        self.send(To::Advanced(wire::Advanced {
            run: of.run.clone(),
            fence: of.fence,
            number: of.number,
            outcome: outcome.into(),
            grants,
            ..Default::default()
        }));
    }
}

async fn pump(
    mut inbound: Streaming<wire::FromWorker>,
    to: mpsc::Sender<Result<wire::ToWorker, Status>>,
    forward: mpsc::UnboundedSender<From>,
    beats: Arc<AtomicUsize>,
    deaf: Arc<AtomicBool>,
) {
    while let Some(Ok(message)) = inbound.next().await {
        match message.message {
            Some(From::Beat(beat)) => {
                beats.fetch_add(1, Ordering::Relaxed);
                if !deaf.load(Ordering::Relaxed) {
                    let echo = wire::ToWorker {
                        message: Some(To::Beat(beat)),
                    };
                    drop(to.send(Ok(echo)).await);
                }
            }
            Some(From::Credit(_)) | None => {}
            Some(message) => drop(forward.send(message)),
        }
    }
}

#[derive(Clone)]
struct Fake(Arc<Told>);

#[tonic::async_trait]
impl wire::work_server::Work for Fake {
    type AttachStream = BoxStream<'static, Result<wire::ToWorker, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<wire::FromWorker>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let mut inbound = request.into_inner();
        let first = inbound.message().await?.and_then(|it| it.message);
        let Some(From::Hello(hello)) = first else {
            return Err(Status::invalid_argument("no Hello"));
        };
        let (stream, outbound) = Stream::open(hello, inbound);
        drop(self.0.attached.send(stream));
        Ok(Response::new(Box::pin(ReceiverStream::new(outbound))))
    }
}

macro_rules! calls {
    ($(#[$attribute:meta])* $service:path { $($types:item)* } $($name:ident: $request:ty => $reply:ty = $how:expr;)*) => {
        #[tonic::async_trait]
        impl $service for Fake {
            $($types)*
            $(async fn $name(&self, request: Request<$request>) -> Result<Response<$reply>, Status> {
                let how: fn(&Told, Request<$request>) -> Result<Response<$reply>, Status> = $how;
                how(&self.0, request)
            })*
        }
    };
}

fn unasked<Q, A>(_: &Told, _: Request<Q>) -> Result<Response<A>, Status> {
    Err(coded(Code::Internal, "HF9001", "no test asks this"))
}

calls! {
    wire::runs_server::Runs { type WatchStream = BoxStream<'static, Result<wire::GetReply, Status>>; }
    start: wire::StartRequest => wire::StartReply = |told, it| told.starts.answer(it);
    get: wire::GetRequest => wire::GetReply = |told, it| told.gets.answer(it);
    list: wire::ListRequest => wire::ListReply = |told, it| told.lists.answer(it);
    journal: wire::JournalRequest => wire::JournalReply = unasked;
    explain: wire::ExplainRequest => wire::ExplainReply = unasked;
    result: wire::ResultRequest => wire::GetReply = |told, it| told.results.answer(it);
    signal: wire::SignalRequest => wire::ChangeReply = |told, it| told.signals.answer(it);
    get_view: wire::GetViewRequest => wire::GetViewReply = |told, it| told.views.answer(it);
    cancel: wire::ChangeRequest => wire::ChangeReply = |told, it| told.cancels.answer(it);
    terminate: wire::ChangeRequest => wire::ChangeReply = unasked;
    pause: wire::ChangeRequest => wire::ChangeReply = unasked;
    resume: wire::ChangeRequest => wire::ChangeReply = unasked;
    retry: wire::RetryRequest => wire::ChangeReply = unasked;
    watch: wire::WatchRequest => Self::WatchStream = unasked;
}

calls! {
    wire::cluster_server::Cluster { type NoopStream = BoxStream<'static, Result<wire::NoopReply, Status>>; }
    topology: wire::TopologyRequest => wire::TopologyReply = |told, _| {
        told.topologies.fetch_add(1, Ordering::Relaxed);
        Ok(Response::new(told.topology.lock().clone()))
    };
    init: wire::InitRequest => wire::InitReply = unasked;
    status: wire::ClusterStatusRequest => wire::ClusterStatusReply = unasked;
    add: wire::AddNodeRequest => wire::ClusterChangeReply = unasked;
    replace: wire::ReplaceNodeRequest => wire::ClusterChangeReply = unasked;
    remove: wire::RemoveNodeRequest => wire::ClusterChangeReply = unasked;
    transfer_leader: wire::TransferLeaderRequest => wire::ClusterChangeReply = unasked;
    noop: Streaming<wire::NoopRequest> => Self::NoopStream = unasked;
}
