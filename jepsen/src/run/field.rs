//! The field of a test run: nodes, workers, the sink, the network between them, and who may be broken at the same time.
//!
//! Invariant: only processes that were started here are signalled. Faults on nodes keep a majority whole, unless a fault asks for
//! all and nothing else is broken. Not here: which faults (`nemesis`), the phases (`conduct`).

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use futures::stream::{FuturesUnordered, StreamExt};
use holdfast::wire as v1;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use twox_hash::XxHash3_64;

use super::failover::Failovers;
use super::member::{Birth, Leader, Member, has_tap, points_of, unmount};
use super::options::Options;
use super::parts::Part;
use crate::clock::monotonic_ns;
use crate::cluster::{Process, ProcessError, ProcessSpec, free_port};
use crate::load::{Asker, WorkerConfig};
use crate::network::Network;
use crate::proxy::Known;
use crate::records::{EFFECTS, Fault, FaultStatus, NEMESIS};
use crate::sink::Mode;
use crate::store::{Lines, Store};

/// A node of a debug build on a busy machine still starts in this time.
pub(crate) const STARTS_WITHIN: Duration = Duration::from_secs(60);
/// A node that does not answer in this time is taken for one that cannot.
const ANSWERS_WITHIN: Duration = Duration::from_millis(1500);
/// After one has answered, others that can do so in this time.
const OTHERS_WITHIN: Duration = Duration::from_millis(200);
const POLL_EVERY: Duration = Duration::from_millis(20);

/// Why the field could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum FieldError {
    /// A file or a port.
    #[error("{what}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// A process.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// Something did not happen in time.
    #[error("{0}")]
    NotYet(String),
}

pub(super) fn system(what: &str) -> impl FnOnce(io::Error) -> FieldError {
    let what = what.to_string();
    move |cause| FieldError::System { what, cause }
}

/// Everything that runs.
pub struct Field {
    /// How the run is made.
    pub options: Options,
    /// Where it writes.
    pub store: Store,
    /// What is between all of them.
    pub network: Network,
    /// For questions past all faults.
    pub asker: Asker,
    /// Times from a fault to the first completed step.
    pub failovers: Failovers,
    /// Named points at which this binary can be killed; none in a released one.
    pub points: Vec<String>,
    /// What a node did that none may do.
    pub violations: Mutex<Vec<String>>,
    members: Arc<RwLock<Vec<Arc<Member>>>>,
    workers: Arc<RwLock<Vec<Arc<Process>>>>,
    /// Former members: ended, and kept to be ended again should anything start them.
    retired: Mutex<Vec<Arc<Member>>>,
    sink: Process,
    sink_addr: SocketAddr,
    nemesis: Lines,
    began: Instant,
    has_tap: bool,
    next_id: AtomicU16,
    broken: Mutex<BTreeSet<u16>>,
    faults_over: watch::Sender<bool>,
}

/// Nodes that one fault may break. Given back when dropped.
pub struct Taken {
    field: Arc<Field>,
    ids: Vec<u16>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut broken = self.field.broken.lock();
        for id in &self.ids {
            broken.remove(id);
        }
    }
}

impl Field {
    /// Starts the sink, the nodes, forms the cluster, starts the workers, and waits until they serve.
    ///
    /// # Errors
    /// Something did not start or did not answer in time; what did start is ended.
    pub async fn set_up(options: Options, store: Store) -> Result<Arc<Self>, FieldError> {
        let field = Arc::new(Self::lay_out(options, store)?);
        if let Err(cause) = field.begin().await {
            field.tear_down().await;
            return Err(cause);
        }
        Ok(field)
    }

    async fn begin(&self) -> Result<(), FieldError> {
        for _ in 0..self.options.nodes {
            let member = self.start_member()?;
            self.members.write().push(member);
        }
        for member in self.members() {
            self.wait_for(&member, "/livez", STARTS_WITHIN).await?;
        }
        self.form().await?;
        for number in 1..=self.options.workers {
            let worker = Arc::new(Process::start(self.worker_spec(number)?)?);
            self.workers.write().push(worker);
        }
        self.wait_served().await
    }

    fn lay_out(options: Options, store: Store) -> Result<Self, FieldError> {
        let members: Arc<RwLock<Vec<Arc<Member>>>> = Arc::default();
        let workers: Arc<RwLock<Vec<Arc<Process>>>> = Arc::default();
        let (nodes, hands) = (Arc::clone(&members), Arc::clone(&workers));
        let known: Known = Arc::new(move || {
            let nodes = nodes.read().clone().into_iter();
            let nodes = nodes.filter_map(|it| Some((it.name.clone(), it.process.pid()?)));
            let hands = hands.read().clone().into_iter();
            let hands = hands.filter_map(|it| Some((it.name().to_string(), it.pid()?)));
            nodes.chain(hands).collect()
        });
        let network = Network::lay(options.net, known);
        let network = network.map_err(system("the network cannot be laid"))?;
        let port = free_port().map_err(system("no port for the sink"))?;
        let sink_addr = SocketAddr::new(network.own_address(), port);
        let part = Part::Sink {
            mode: options.sink,
            file: store.path(EFFECTS),
            addr: sink_addr,
        };
        let sink = options.part.spec("sink", store.path("sink.log"), &part);
        let nemesis = store
            .lines(NEMESIS)
            .map_err(system("nemesis.jsonl cannot be opened"))?;
        Ok(Self {
            has_tap: has_tap(&options),
            points: points_of(&options),
            network,
            asker: Asker::default(),
            failovers: Failovers::new(store.folder()),
            violations: Mutex::default(),
            members,
            workers,
            retired: Mutex::default(),
            sink: Process::start(sink)?,
            sink_addr,
            nemesis,
            began: Instant::now(),
            next_id: AtomicU16::new(1),
            broken: Mutex::default(),
            faults_over: watch::Sender::new(false),
            options,
            store,
        })
    }

    /// Starts a node under a fresh id. It is no member of anything yet.
    ///
    /// # Errors
    /// No ports, or it cannot be started.
    pub fn start_member(&self) -> Result<Arc<Member>, FieldError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let birth = Birth {
            id,
            options: &self.options,
            store: &self.store,
            has_tap: self.has_tap,
            has_points: !self.points.is_empty(),
        };
        Ok(Arc::new(Member::start(birth, &self.network)?))
    }

    /// A process that is so many workers, started now and ended by whoever gets it. It finds the nodes that there are.
    ///
    /// # Errors
    /// It has no place, or cannot be started.
    pub fn start_herd(&self, name: &str, workers: u16) -> Result<Process, FieldError> {
        let seated = self.network.seat(name);
        let space = seated.map_err(system("no place in the network for a herd"))?;
        let part = Part::Herd {
            config: self.worker_config(name),
            workers,
        };
        let log = self.store.path(&format!("{name}.log"));
        let spec = self.options.part.spec(name, log, &part).space(space);
        Ok(Process::start(spec)?)
    }

    fn worker_config(&self, name: &str) -> WorkerConfig {
        WorkerConfig {
            folder: self.store.folder().to_owned(),
            name: name.to_string(),
            endpoints: self.members().iter().map(|it| it.api()).collect(),
            sink: self.sink_addr,
            registers: self.options.sink != Mode::Naive,
        }
    }

    fn worker_spec(&self, number: u16) -> Result<ProcessSpec, FieldError> {
        let name = format!("w{number}");
        let seated = self.network.seat(&name);
        let space = seated.map_err(system("no place in the network for a worker"))?;
        let log = self.store.path(&format!("{name}.log"));
        let config = self.worker_config(&name);
        if let Some(command) = &self.options.worker_command {
            return Ok(ProcessSpec::new(&name, "sh", log)
                .args(["-c", &format!("exec {command}")])
                .env("HOLDFAST_ENDPOINTS", config.endpoints.join(","))
                .env("JEPSEN_SINK", self.sink_addr.to_string())
                .space(space));
        }
        let part = Part::Worker(config);
        Ok(self.options.part.spec(&name, log, &part).space(space))
    }

    async fn form(&self) -> Result<(), FieldError> {
        let members = self.members();
        let request = v1::InitRequest {
            name: "jepsen".to_string(),
            partitions: self.options.partitions,
            members: members
                .iter()
                .map(|it| v1::InitMember {
                    peer: it.peer(),
                    ..Default::default()
                })
                .collect(),
            abandon: false,
        };
        let until = Instant::now() + STARTS_WITHIN;
        loop {
            let asked = async {
                let mut cluster = self.asker.cluster(&members[0].direct())?;
                cluster.init(request.clone()).await
            };
            let tried = tokio::time::timeout(STARTS_WITHIN, asked).await;
            match tried {
                Ok(Ok(_)) => break,
                Ok(Err(status)) if Instant::now() > until => {
                    let why = format!("the cluster was not formed: {}", status.message());
                    return Err(FieldError::NotYet(why));
                }
                Err(_) => return Err(FieldError::NotYet("init was not answered".to_string())),
                // Repeated at will: it is the same genesis.
                Ok(Err(_)) => tokio::time::sleep(POLL_EVERY * 10).await,
            }
        }
        for group in 1..=self.options.partitions {
            while self.leader(group).await.is_none() {
                if Instant::now() > until {
                    let why = format!("group {group} has no leader");
                    return Err(FieldError::NotYet(why));
                }
                tokio::time::sleep(POLL_EVERY).await;
            }
        }
        Ok(())
    }

    /// Until live workers serve the workflow of the load, in every partition.
    async fn wait_served(&self) -> Result<(), FieldError> {
        let until = Instant::now() + STARTS_WITHIN;
        let own = self.options.own.as_ref().map(|it| it.0.as_str());
        let name = own.unwrap_or("play");
        loop {
            let mut served = 0;
            if let Some(leader) = self.leader(1).await
                && let Ok(mut client) = self.asker.workflows(&leader.member.direct())
                && let Ok(reply) = client.list(v1::ListWorkflowsRequest {}).await
            {
                let known = reply.into_inner().workflows;
                served = known
                    .iter()
                    .filter(|it| it.name == name && it.versions.iter().any(|it| it.served))
                    .count();
            }
            if served >= self.options.partitions as usize {
                return Ok(());
            }
            if Instant::now() > until {
                let tails: Vec<String> = self.workers().iter().map(|it| it.log_tail(3)).collect();
                let why = format!("no worker serves {name}: {}", tails.join(" | "));
                return Err(FieldError::NotYet(why));
            }
            tokio::time::sleep(POLL_EVERY * 5).await;
        }
    }

    /// The members now.
    pub fn members(&self) -> Vec<Arc<Member>> {
        self.members.read().clone()
    }

    /// The worker processes.
    pub fn workers(&self) -> Vec<Arc<Process>> {
        self.workers.read().clone()
    }

    /// Makes a node one of the members.
    pub fn enlist(&self, member: Arc<Member>) {
        self.members.write().push(member);
    }

    /// Lets a member go, and puts another in its place.
    pub fn retire(&self, old: u16, instead: Option<Arc<Member>>) {
        let mut members = self.members.write();
        let (gone, stay) = members.drain(..).partition(|it| it.id == old);
        *members = stay;
        members.extend(instead);
        let gone: Vec<Arc<Member>> = gone;
        self.retired.lock().extend(gone);
    }

    /// How clients find the nodes.
    pub fn addresses(self: &Arc<Self>) -> crate::load::Nodes {
        let members = Arc::clone(&self.members);
        Arc::new(move || {
            let members = members.read();
            members
                .iter()
                .map(|it| (it.name.clone(), it.api()))
                .collect()
        })
    }

    /// Who leads a group: all nodes are asked, the highest term counts.
    pub async fn leader(&self, group: u32) -> Option<Leader> {
        let members = self.members();
        let mut asked: FuturesUnordered<_> = members
            .iter()
            .filter(|member| member.process.is_running())
            .map(|member| async {
                let to = member.direct();
                self.asker.status(&to, ANSWERS_WITHIN).await.ok()
            })
            .collect();
        let mut best: Option<(u64, u64)> = None;
        let mut epoch = 0;
        let mut rest = ANSWERS_WITHIN;
        while let Ok(Some(status)) = tokio::time::timeout(rest, asked.next()).await {
            let Some(status) = status else {
                continue;
            };
            // A paused node answers nothing, and is not waited for once others have.
            rest = OTHERS_WITHIN;
            for found in status.groups.iter().filter(|it| it.group == group) {
                epoch = epoch.max(found.epoch);
                if found.leader != 0 && best.is_none_or(|(term, _)| found.term > term) {
                    best = Some((found.term, found.leader));
                }
            }
        }
        drop(asked);
        let (term, id) = best?;
        let member = members.into_iter().find(|it| u64::from(it.id) == id)?;
        Some(Leader {
            member,
            group,
            term,
            epoch,
        })
    }

    /// The group of a run.
    pub fn group_of(&self, run: &str) -> u32 {
        let root = run.split('~').next().unwrap_or_default();
        let partitions = u64::from(self.options.partitions.max(1));
        u32::try_from(XxHash3_64::oneshot(root.as_bytes()) % partitions).unwrap_or_default() + 1
    }

    /// Takes nodes for a fault, if a majority stays whole.
    pub fn take(self: &Arc<Self>, ids: &[u16]) -> Option<Taken> {
        let spare = self.members.read().len().saturating_sub(1) / 2;
        let mut broken = self.broken.lock();
        if broken.len() + ids.len() > spare || ids.iter().any(|id| broken.contains(id)) {
            return None;
        }
        broken.extend(ids);
        Some(self.taken(ids))
    }

    /// Takes any nodes, if nothing else is broken.
    pub fn take_beyond(self: &Arc<Self>, ids: &[u16]) -> Option<Taken> {
        let mut broken = self.broken.lock();
        if !broken.is_empty() {
            return None;
        }
        broken.extend(ids);
        Some(self.taken(ids))
    }

    fn taken(self: &Arc<Self>, ids: &[u16]) -> Taken {
        Taken {
            field: Arc::clone(self),
            ids: ids.to_vec(),
        }
    }

    /// Starts a node that was stopped, and waits until it serves.
    ///
    /// # Errors
    /// It ended or did not answer in time.
    pub async fn start_again(&self, member: &Member) -> Result<(), FieldError> {
        match member.restart() {
            Ok(()) | Err(ProcessError::StillRunning { .. }) => {}
            Err(cause) => return Err(cause.into()),
        }
        self.wait_for(member, "/livez", STARTS_WITHIN).await
    }

    /// Waits until a node answers a probe.
    ///
    /// # Errors
    /// It ended or did not answer in time.
    pub async fn wait_for(
        &self,
        member: &Member,
        path: &str,
        within: Duration,
    ) -> Result<(), FieldError> {
        let until = Instant::now() + within;
        while !member.says_yes(path).await {
            let ended = !member.process.is_running();
            if ended || Instant::now() > until {
                let how = if ended { "ended" } else { "did not answer" };
                let tail = member.process.log_tail(8);
                let why = format!("{} {how} while {path} was asked:\n{tail}", member.name);
                return Err(FieldError::NotYet(why));
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
        Ok(())
    }

    /// Waits, but not beyond the end of faults.
    pub async fn hold(&self, time: Duration) {
        let mut over = self.faults_over.subscribe();
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            _ = over.wait_for(|over| *over) => {}
        }
    }

    /// No new faults; those in force heal.
    pub fn end_faults(&self) {
        self.faults_over.send_replace(true);
    }

    /// Whether faults may begin.
    pub fn faults_go_on(&self) -> bool {
        !*self.faults_over.borrow()
    }

    /// Writes down what became of a fault, and says it.
    pub fn record(&self, fault: &str, targets: &[&str], status: FaultStatus, note: &str) -> u64 {
        self.record_at(monotonic_ns(), fault, targets, status, note)
    }

    /// The same of an earlier moment: of one that it took a while to be sure of.
    pub fn record_at(
        &self,
        t: u64,
        fault: &str,
        targets: &[&str],
        status: FaultStatus,
        note: &str,
    ) -> u64 {
        let line = Fault {
            t,
            fault: fault.to_string(),
            targets: targets.iter().map(ToString::to_string).collect(),
            status,
            note: note.to_string(),
        };
        let written = self.nemesis.append(&line);
        let how = match status {
            FaultStatus::Installed => "",
            FaultStatus::Healed => "healed  ",
            FaultStatus::Skipped => "skipped  ",
            FaultStatus::Indeterminate => "unclear  ",
        };
        self.say(&format!("{how}{fault} {}  {note}", targets.join(",")));
        if let Err(cause) = written {
            self.say(&format!("nemesis.jsonl cannot be written: {cause}"));
        }
        t
    }

    /// Writes down that a node did what none may do; the same is written once.
    pub fn saw(&self, what: &str) {
        let mut all = self.violations.lock();
        if !all.iter().any(|it| it == what) {
            all.push(what.to_string());
        }
    }

    /// A live line, with the time since the start.
    pub fn say(&self, text: &str) {
        let seconds = self.began.elapsed().as_secs_f64();
        (self.options.say)(&format!("{seconds:6.1}s  {text}"));
    }

    /// Ends every process, whatever state it is in.
    pub async fn tear_down(&self) {
        // A cut would only make each end take longer.
        let _ = self.network.lift_all().await;
        for worker in self.workers() {
            let _ = worker.resume();
            let _ = worker.terminate();
        }
        for worker in self.workers() {
            // It is killed if it does not end; how it ends is of no interest any more.
            let _ = worker.stop(Duration::from_secs(15)).await;
        }
        let retired = self.retired.lock().drain(..).collect::<Vec<_>>();
        let members = self.members();
        for member in members.iter().chain(&retired) {
            let _ = member.process.resume();
            let _ = member.process.terminate();
        }
        for member in members.iter().chain(&retired) {
            let _ = member.process.stop(Duration::from_secs(15)).await;
            if member.small_disk {
                unmount(&member.data);
            }
        }
        let _ = self.sink.stop(Duration::from_secs(2)).await;
        // Gates know the processes, and processes have the gates: neither would ever be dropped.
        self.members.write().clear();
        self.workers.write().clear();
        self.network.take_down();
    }
}
