//! One real process: started, signalled, waited for, started again.
//!
//! Invariant: a signal goes only to a process that this program started and has not reaped yet, so never to a stranger that got
//! the same pid. Every child dies with this program, however it ends. Not here: what the process is told (`super::Cluster`).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal};

use super::space::Space;

/// How often a wait looks again.
const POLL_EVERY: Duration = Duration::from_millis(5);

/// Why a process could not be started, signalled or waited for.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The program or its log file could not be opened.
    #[error("{name} could not be started ({program}); check that the file exists and may be run")]
    Start {
        /// The process, as the spec names it.
        name: String,
        /// The program that was to run.
        program: String,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// A signal for a process that has ended.
    #[error("{name} is not running; start it again before signalling it")]
    NotRunning {
        /// The process.
        name: String,
    },
    /// A second start while the first still lives.
    #[error("{name} still runs as pid {pid}; stop it before starting it again")]
    StillRunning {
        /// The process.
        name: String,
        /// Its pid.
        pid: u32,
    },
    /// The bound of a wait passed.
    #[error("{name} did not end within {within:?}; its log is {log}")]
    DidNotEnd {
        /// The process.
        name: String,
        /// The bound.
        within: Duration,
        /// Where to look.
        log: String,
    },
    /// The system refused.
    #[error("{name}: the system refused to signal it or to wait for it")]
    System {
        /// The process.
        name: String,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
}

/// What to run. Kept, so that a restart runs the same again.
#[derive(Debug, Clone)]
pub struct ProcessSpec {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    env: BTreeMap<String, String>,
    log: PathBuf,
    space: Option<Space>,
}

impl ProcessSpec {
    /// A program, the name it goes by in messages, and the file that its output is appended to.
    pub fn new(name: &str, program: impl Into<PathBuf>, log: impl Into<PathBuf>) -> Self {
        let (program, log) = (program.into(), log.into());
        Self {
            name: name.to_string(),
            program,
            args: Vec::new(),
            env: BTreeMap::new(),
            log,
            space: None,
        }
    }

    /// Appends one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Appends arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item = A>, A: Into<OsString>>(mut self, args: I) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets one environment variable; the rest is inherited.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl Into<String>) -> Self {
        self.env.insert(key.to_string(), value.into());
        self
    }

    /// Lets it live in this network namespace.
    #[must_use]
    pub fn space(mut self, space: Option<Space>) -> Self {
        self.space = space;
        self
    }
}

/// A process under supervision. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    spec: ProcessSpec,
    child: Child,
    ended: Option<ExitStatus>,
    /// We asked it to end, by SIGTERM or SIGKILL.
    asked: bool,
}

impl Process {
    /// Starts the program. Its output is appended to the log file of the spec, its input is empty.
    ///
    /// # Errors
    /// [`ProcessError::Start`]: the program or the log file cannot be opened.
    pub fn start(spec: ProcessSpec) -> Result<Self, ProcessError> {
        let child = spawn(&spec)?;
        let (name, log) = (spec.name.clone(), spec.log.clone());
        Ok(Self {
            name,
            log,
            state: Mutex::new(State {
                spec,
                child,
                ended: None,
                asked: false,
            }),
        })
    }

    /// The name from the spec.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its output goes.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// The pid while it runs (a paused process runs too).
    pub fn pid(&self) -> Option<u32> {
        let mut state = self.state.lock();
        reap(&mut state).is_none().then(|| state.child.id())
    }

    /// Whether it has not ended.
    pub fn is_running(&self) -> bool {
        self.pid().is_some()
    }

    /// Whether it ended without having been asked to: it crashed, or refused to start.
    pub fn ended_by_itself(&self) -> bool {
        let mut state = self.state.lock();
        reap(&mut state).is_some() && !state.asked
    }

    /// Sets (or with `None` removes) a variable for the next [`restart`](Self::restart), a moved clock for instance.
    pub fn set_env(&self, key: &str, value: Option<&str>) {
        let env = &mut self.state.lock().spec.env;
        match value {
            Some(value) => env.insert(key.to_string(), value.to_string()),
            None => env.remove(key),
        };
    }

    /// SIGKILL, and waits until the process is gone, which is a matter of milliseconds.
    ///
    /// # Errors
    /// [`ProcessError::NotRunning`]: it has ended by itself; read its log.
    pub fn kill9(&self) -> Result<(), ProcessError> {
        let mut state = self.state.lock();
        self.signal_locked(&mut state, Signal::KILL)?;
        state.asked = true;
        let status = state.child.wait().map_err(|cause| self.system(cause))?;
        state.ended = Some(status);
        Ok(())
    }

    /// SIGTERM: asks it to end, and returns at once.
    ///
    /// # Errors
    /// [`ProcessError::NotRunning`]: it has ended already.
    pub fn terminate(&self) -> Result<(), ProcessError> {
        let mut state = self.state.lock();
        self.signal_locked(&mut state, Signal::TERM)?;
        state.asked = true;
        Ok(())
    }

    /// SIGSTOP: it keeps its ports and its locks and does nothing.
    ///
    /// # Errors
    /// [`ProcessError::NotRunning`]: it has ended already.
    pub fn pause(&self) -> Result<(), ProcessError> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// [`ProcessError::NotRunning`]: it has ended already.
    pub fn resume(&self) -> Result<(), ProcessError> {
        self.signal(Signal::CONT)
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// [`ProcessError::DidNotEnd`] at the bound; the process is left as it is.
    pub async fn wait_exit(&self, within: Duration) -> Result<ExitStatus, ProcessError> {
        let until = Instant::now() + within;
        loop {
            if let Some(status) = reap(&mut self.state.lock()) {
                return Ok(status);
            }
            if Instant::now() >= until {
                let (name, log) = (self.name.clone(), self.log.display().to_string());
                return Err(ProcessError::DidNotEnd { name, within, log });
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    /// SIGTERM, and SIGKILL if it has not ended `within`. A process that has ended is left alone.
    ///
    /// # Errors
    /// [`ProcessError::DidNotEnd`]: it had to be killed, which a caller that cares about graceful ends wants to know.
    pub async fn stop(&self, within: Duration) -> Result<ExitStatus, ProcessError> {
        if let Some(status) = reap(&mut self.state.lock()) {
            return Ok(status);
        }
        // A paused process would not see SIGTERM; either may find it gone, which the wait reports.
        let _ = self.resume();
        let _ = self.terminate();
        let outcome = self.wait_exit(within).await;
        if outcome.is_err() {
            let _ = self.kill9();
        }
        outcome
    }

    /// Runs the same spec again, with variables set since, appending to the same log.
    ///
    /// # Errors
    /// [`ProcessError::StillRunning`], or [`ProcessError::Start`].
    pub fn restart(&self) -> Result<(), ProcessError> {
        let mut state = self.state.lock();
        if reap(&mut state).is_none() {
            return Err(ProcessError::StillRunning {
                name: self.name.clone(),
                pid: state.child.id(),
            });
        }
        state.child = spawn(&state.spec)?;
        state.ended = None;
        state.asked = false;
        Ok(())
    }

    /// The last lines of its log, for a message about what went wrong. Empty if there is no log.
    pub fn log_tail(&self, lines: usize) -> String {
        const TAIL_BYTES: u64 = 64 * 1024;
        let mut bytes = Vec::new();
        if let Ok(mut file) = File::open(&self.log) {
            let length = file.metadata().map_or(0, |meta| meta.len());
            // An unreadable log gives an empty tail: this text only decorates another error.
            let _ = file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)));
            let _ = file.read_to_end(&mut bytes);
        }
        let text = String::from_utf8_lossy(&bytes);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    fn signal(&self, signal: Signal) -> Result<(), ProcessError> {
        self.signal_locked(&mut self.state.lock(), signal)
    }

    /// The lock is held from "has not been reaped" to the signal: until then the pid is ours.
    fn signal_locked(&self, state: &mut State, signal: Signal) -> Result<(), ProcessError> {
        if reap(state).is_some() {
            return Err(ProcessError::NotRunning {
                name: self.name.clone(),
            });
        }
        rustix::process::kill_process(Pid::from_child(&state.child), signal)
            .map_err(|cause| self.system(cause.into()))
    }

    fn system(&self, cause: io::Error) -> ProcessError {
        ProcessError::System {
            name: self.name.clone(),
            cause,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Not running any more is what we want; nothing else can go wrong for a child of ours.
        let _ = self.kill9();
    }
}

fn reap(state: &mut State) -> Option<ExitStatus> {
    if state.ended.is_none() {
        // An error here means that somebody else has waited for our child, which nobody does.
        state.ended = state.child.try_wait().ok().flatten();
    }
    state.ended
}

type Request = (Command, SyncSender<io::Result<Child>>);

fn spawn(spec: &ProcessSpec) -> Result<Child, ProcessError> {
    let failed = |cause| ProcessError::Start {
        name: spec.name.clone(),
        program: spec.program.display().to_string(),
        cause,
    };
    let command = command(spec).map_err(failed)?;
    let (tx, rx) = sync_channel(1); // one answer
    let gone = || io::Error::other("the thread that starts processes has ended");
    starter().send((command, tx)).map_err(|_| failed(gone()))?;
    rx.recv().map_err(|_| failed(gone()))?.map_err(failed)
}

/// The one thread that forks. Linux sends the death signal when the *thread* that forked ends, and threads of an async runtime
/// come and go; this one lives as long as the program.
fn starter() -> &'static SyncSender<Request> {
    static STARTER: OnceLock<SyncSender<Request>> = OnceLock::new();
    STARTER.get_or_init(|| {
        let (tx, rx) = sync_channel::<Request>(16); // starts are rare and take a millisecond; a sender at the bound waits
        std::thread::Builder::new()
            .name("starter".to_string())
            .spawn(move || {
                while let Ok((mut command, answer)) = rx.recv() {
                    // Who asked may have been cancelled; a child that nobody gets must not live on.
                    if let Err(unheard) = answer.send(command.spawn())
                        && let Ok(mut child) = unheard.0
                    {
                        let _ = child.kill();
                        let _ = child.wait();
                    }
                }
            })
            .expect("a program that cannot have one more thread cannot supervise anything");
        tx
    })
}

fn command(spec: &ProcessSpec) -> io::Result<Command> {
    if let Some(folder) = spec.log.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&spec.log)?;
    let mut command = Command::new(&spec.program);
    command
        .args(&spec.args)
        .envs(&spec.env)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0); // Ctrl-C on a terminal is for us; children are ended in our order
    die_with_parent(&mut command);
    if let Some(space) = &spec.space {
        live_in(&mut command, space.clone());
    }
    Ok(command)
}

fn live_in(command: &mut Command, space: Space) {
    #[expect(
        unsafe_code,
        reason = "one system call, no allocation and no lock between fork and exec"
    )]
    unsafe {
        command.pre_exec(move || space.enter());
    }
}

#[cfg(target_os = "linux")]
fn die_with_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    let hook = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died between the fork and the line above; then no signal comes.
        if rustix::process::getppid() == Some(parent) {
            Ok(())
        } else {
            Err(io::Error::from(rustix::io::Errno::SRCH))
        }
    };
    #[expect(
        unsafe_code,
        reason = "two system calls, no allocation and no lock between fork and exec"
    )]
    unsafe {
        command.pre_exec(hook);
    }
}

/// Elsewhere only `Drop` ends children, so not after a SIGKILL of this program.
#[cfg(not(target_os = "linux"))]
fn die_with_parent(_: &mut Command) {}
