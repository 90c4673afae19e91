//! Records what a node does to its disk: a small cluster under a small load, one node of it traced, killed and started again.
//!
//! Invariant: an acknowledgement is written down with the moment at which it was received, so that a disk cut later must hold it. The
//! traced process is the child itself (`strace -D`): signals go to the node, and the tracer ends with it.
//! Not here: reading the trace (`trace`).

use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use holdfast::{Client, Cx, Fail, Step, Worker, Workflow, wire};
use serde::{Deserialize, Serialize};

use crate::cluster::{Cluster, ClusterError, ClusterSpec};

const NOTE: Workflow<u32, u32> = Workflow::new("images-note");
const WRITE: Step<u32, u32> = Step::new("images-write");
/// The node that is traced.
pub const TRACED: u16 = 1;
/// Everything that changes a disk, or waits for it.
const CALLS: &str = "openat,write,pwrite64,writev,pwritev,fsync,fdatasync,sync_file_range,rename,renameat,renameat2,\
                     ftruncate,truncate,fallocate,unlink,unlinkat,link,linkat,mkdir,mkdirat,rmdir";
/// Runs that are started at once.
const AT_ONCE: usize = 4;
/// A node looks after its log and state that often.
const UPKEEP: Duration = Duration::from_millis(5_500);
pub(super) const SOON: Duration = Duration::from_secs(60);

/// What to record.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The `holdfast` binary.
    pub program: PathBuf,
    /// Where the recording goes.
    pub folder: PathBuf,
    /// How many nodes.
    pub nodes: u16,
    /// How often the traced node is started.
    pub lives: u32,
    /// Runs that are started in each of its lives.
    pub runs: u32,
}

/// One acknowledged entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ack {
    /// When it was received (seconds of the wall clock).
    pub at: f64,
    /// The group.
    pub group: u32,
    /// The index.
    pub index: u64,
    /// The run that was started by it.
    pub run: String,
}

/// A recording: traces of each life and the acknowledgements, in one folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recording {
    /// The traced node's id.
    pub node: u64,
    /// The absolute path of its data folder when it was recorded.
    pub data: PathBuf,
    /// How many nodes there were: the acknowledgements bind this disk alone if it was the only one.
    pub nodes: u16,
}

/// Why nothing was recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// This machine cannot trace.
    #[error("no trace can be recorded here: {0}")]
    NoTracer(String),
    /// The nodes.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The load.
    #[error("the load failed: {0}")]
    Load(String),
    /// Files of the recording.
    #[error("the recording's files: {0}")]
    Io(#[from] io::Error),
}

fn load(cause: impl std::fmt::Display) -> RecordError {
    RecordError::Load(cause.to_string())
}

/// Whether `strace` is here and may trace.
///
/// # Errors
/// Why it may not.
pub fn can_trace() -> Result<(), RecordError> {
    let tried = Command::new("strace")
        .args(["-f", "-D", "-o", "/dev/null", "true"])
        .output();
    let no = |why: String| RecordError::NoTracer(why);
    let tried = tried.map_err(|cause| no(format!("strace cannot be run ({cause}); install it")))?;
    if tried.status.success() {
        Ok(())
    } else {
        let why = String::from_utf8_lossy(&tried.stderr);
        Err(no(format!("strace may not trace ({})", why.trim())))
    }
}

/// Records.
///
/// # Errors
/// This machine cannot trace, or the cluster did not do its work.
pub async fn record(plan: &Plan) -> Result<Recording, RecordError> {
    can_trace()?;
    std::fs::create_dir_all(&plan.folder)?;
    let folder = plan.folder.canonicalize()?;
    let traced = write_wrapper(&plan.program.canonicalize()?, &folder)?;
    // Small enough that state is flushed and log is purged within a small trace.
    let spec = ClusterSpec::new(traced, &folder)
        .nodes(plan.nodes)
        .env("HOLDFAST_RAFT__SNAPSHOT_ENTRIES", "40")
        .env("HOLDFAST_RAFT__KEEP_ENTRIES", "20")
        // The recording needs little; how full the machine is otherwise is not its question.
        .env("HOLDFAST_DISK__SOFT", "2")
        .env("HOLDFAST_DISK__HARD", "1");
    let cluster = Cluster::start(spec)?;
    cluster.wait_live(SOON).await?;
    let client = form(&cluster).await?;
    let worker = tokio::spawn(
        Worker::new(&client, "images")
            .workflow(NOTE, note)
            .step(WRITE, async |_, number: u32| Ok(number + 1))
            .run(),
    );
    wait_known(&client).await?;
    let mut acks = std::fs::File::create(folder.join("acks.jsonl"))?;
    for life in 0..plan.lives {
        if life > 0 {
            cluster.node(TRACED).restart().map_err(ClusterError::from)?;
            cluster.wait_ready(SOON).await?;
        }
        let half = plan.runs / 2;
        start_runs(&client, life, 0..half, &mut acks).await?;
        if !life.is_multiple_of(2) {
            tokio::time::sleep(UPKEEP * 2).await; // state is flushed at the first, log is purged at the second
        }
        start_runs(&client, life, half..plan.runs, &mut acks).await?;
        end_life(&cluster, life).await?;
        wait_traced(&folder, life).await?;
    }
    worker.abort();
    drop(worker.await); // it was told to end
    let recording = Recording {
        node: u64::from(TRACED),
        data: cluster.data(TRACED),
        nodes: plan.nodes,
    };
    cluster.stop(SOON).await?;
    let text = serde_json::to_string(&recording).map_err(io::Error::other)?;
    std::fs::write(folder.join("recording.json"), text)?;
    Ok(recording)
}

/// A program that is `holdfast`, and traces itself if it is the traced node.
fn write_wrapper(program: &Path, folder: &Path) -> io::Result<PathBuf> {
    let (program, here) = (program.display(), folder.display());
    let script = format!(
        "#!/bin/sh\n\
         [ \"$HOLDFAST_NODE__ID\" = {TRACED} ] || exec '{program}' \"$@\"\n\
         life=$(ls '{here}' | grep -c '^trace[.]')\n\
         exec strace -D -f -ttt -T -y -xx -s 4194304 --seccomp-bpf -e trace={CALLS} -o '{here}/trace.'$life '{program}' \"$@\"\n"
    );
    let path = folder.join("traced");
    std::fs::write(&path, script)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

async fn form(cluster: &Cluster) -> Result<Client, RecordError> {
    let client = Client::connect(&cluster.endpoints()).await.map_err(load)?;
    let members = cluster.peers().into_iter().map(|peer| wire::InitMember {
        peer,
        ..Default::default()
    });
    let request = wire::InitRequest {
        name: "images".to_owned(),
        partitions: 1,
        members: members.collect(),
        abandon: false,
    };
    client.cluster_init(request).await.map_err(load)?;
    cluster.wait_ready(SOON).await?;
    Ok(client)
}

async fn note(cx: Cx, number: u32) -> Result<u32, Fail> {
    let first = cx.step(WRITE, number).await?;
    Ok(cx.step(WRITE, first).await?)
}

async fn wait_known(client: &Client) -> Result<(), RecordError> {
    let until = Instant::now() + SOON;
    loop {
        let known = client.list_workflows(wire::ListWorkflowsRequest {}).await;
        if known.is_ok_and(|it| !it.workflows.is_empty()) {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(load("the worker did not attach"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Starts runs, four at a time, and waits until they are done; each start's position is an acknowledgement.
async fn start_runs(
    client: &Client,
    life: u32,
    runs: std::ops::Range<u32>,
    acks: &mut std::fs::File,
) -> Result<(), RecordError> {
    for first in runs.clone().step_by(AT_ONCE) {
        let mut started = tokio::task::JoinSet::new();
        for number in (first..runs.end).take(AT_ONCE) {
            let client = client.clone();
            started.spawn(async move {
                let id = format!("note-{life}-{number}");
                let (run, reply) = client.start(NOTE, &id, number).send().await?;
                Ok::<_, holdfast::ClientError>((run, reply.position, now()))
            });
        }
        let mut last = None;
        while let Some(joined) = started.join_next().await {
            let (run, position, at) = joined.map_err(load)?.map_err(load)?;
            let position = position.ok_or_else(|| load("a reply without its position"))?;
            let ack = Ack {
                at,
                group: position.group,
                index: position.index,
                run: run.id().to_owned(),
            };
            let line = serde_json::to_string(&ack).map_err(io::Error::other)?;
            writeln!(acks, "{line}")?;
            last = Some(run);
        }
        if let Some(run) = last {
            run.result_within(SOON).await.map_err(load)?;
        }
    }
    Ok(())
}

fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |it| it.as_secs_f64())
}

/// By turns a sudden end and one in good order, which flushes the state.
async fn end_life(cluster: &Cluster, life: u32) -> Result<(), RecordError> {
    let node = cluster.node(TRACED);
    if life.is_multiple_of(2) {
        node.kill9().map_err(ClusterError::from)?;
    } else {
        node.stop(SOON).await.map_err(ClusterError::from)?;
    }
    Ok(())
}

/// Waits until the tracer has written down the end of the process.
async fn wait_traced(folder: &Path, life: u32) -> Result<(), RecordError> {
    let path = folder.join(format!("trace.{life}"));
    let until = Instant::now() + SOON;
    loop {
        let text = std::fs::read(&path)?;
        let last = text.trim_ascii_end().rsplit(|it| *it == b'\n').next();
        let first_pid = text.split(|it| *it == b' ').next();
        if let (Some(last), Some(pid)) = (last, first_pid)
            && last.starts_with(pid)
            && last.ends_with(b"+++")
        {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(load(format!("{} does not end", path.display())));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Recording {
    /// Reads what [`record`] left in a folder.
    ///
    /// # Errors
    /// There is no recording.
    pub fn read(folder: &Path) -> io::Result<Self> {
        let text = std::fs::read_to_string(folder.join("recording.json"))?;
        serde_json::from_str(&text).map_err(io::Error::other)
    }

    /// The acknowledgements, in order of their moments.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn acks(folder: &Path) -> io::Result<Vec<Ack>> {
        let text = std::fs::read_to_string(folder.join("acks.jsonl"))?;
        let parsed = text.lines().map(serde_json::from_str::<Ack>);
        let mut acks: Vec<Ack> = parsed.collect::<Result<_, _>>().map_err(io::Error::other)?;
        acks.sort_by(|one, other| one.at.total_cmp(&other.at));
        Ok(acks)
    }

    /// The text of each life's trace, in order.
    ///
    /// # Errors
    /// A file cannot be read, or there is none.
    pub fn traces(folder: &Path) -> io::Result<Vec<String>> {
        let mut all = Vec::new();
        loop {
            let path = folder.join(format!("trace.{}", all.len()));
            if !path.exists() && !all.is_empty() {
                return Ok(all);
            }
            all.push(std::fs::read_to_string(path)?);
        }
    }
}
