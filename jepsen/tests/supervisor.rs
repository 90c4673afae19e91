//! The supervisor against real processes: small commands that every Debian machine has.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use holdfast_jepsen::cluster::{
    Cluster, ClusterError, ClusterSpec, Process, ProcessError, ProcessSpec,
};

const SOON: Duration = Duration::from_secs(10);

fn shell(folder: &Path, script: &str) -> Process {
    Process::start(ProcessSpec::new("sh", "sh", folder.join("sh.log")).args(["-c", script]))
        .unwrap()
}

/// The letter of `/proc/PID/stat`, or `None` when the process is gone.
fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let until = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < until, "not within {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_killed_process_is_gone_when_the_call_returns_and_can_be_started_again() {
    let folder = tempfile::tempdir().unwrap();
    let process = shell(folder.path(), "echo up $WHO; exec sleep 600");
    let first = process.pid().unwrap();
    assert!(
        matches!(process.restart(), Err(ProcessError::StillRunning { pid, .. }) if pid == first)
    );
    process.kill9().unwrap();
    assert_eq!(state(first), None);
    assert!(!process.is_running() && !process.ended_by_itself());
    assert!(matches!(
        process.kill9(),
        Err(ProcessError::NotRunning { .. })
    ));
    process.set_env("WHO", Some("again"));
    process.restart().unwrap();
    assert_ne!(process.pid(), Some(first));
    eventually("both starts in one log", || {
        process.log_tail(2).ends_with("up again")
    });
}

#[test]
fn a_paused_process_is_stopped_and_a_resumed_one_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let process = shell(folder.path(), "exec sleep 600");
    let pid = process.pid().unwrap();
    process.pause().unwrap();
    eventually("stopped", || state(pid) == Some('T'));
    assert!(process.is_running());
    process.resume().unwrap();
    eventually("goes on", || state(pid) == Some('S'));
}

#[tokio::test]
async fn stop_ends_gently_even_a_paused_process() {
    let folder = tempfile::tempdir().unwrap();
    let process = shell(
        folder.path(),
        "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.01; done",
    );
    eventually("up", || process.log_tail(1) == "up");
    process.pause().unwrap();
    assert_eq!(process.stop(SOON).await.unwrap().code(), Some(3));
    assert_eq!(process.log_tail(1), "bye");
}

#[tokio::test]
async fn a_process_that_ignores_sigterm_is_killed_and_that_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let process = shell(
        folder.path(),
        "trap '' TERM; echo up; while :; do sleep 0.01; done",
    );
    eventually("up", || process.log_tail(1) == "up");
    let outcome = process.stop(Duration::from_millis(100)).await;
    assert!(
        matches!(outcome, Err(ProcessError::DidNotEnd { .. })),
        "{outcome:?}"
    );
    assert!(!process.is_running());
}

#[test]
fn a_dropped_process_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let process = shell(folder.path(), "exec sleep 600");
    let pid = process.pid().unwrap();
    drop(process);
    assert_eq!(state(pid), None);
}

#[test]
fn a_process_started_from_a_thread_that_ends_lives_on() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().to_path_buf();
    let process = std::thread::spawn(move || shell(&at, "exec sleep 600"))
        .join()
        .unwrap();
    std::thread::sleep(Duration::from_millis(100)); // the death signal of a thread would come at once
    assert!(process.is_running());
}

/// Not a test: the parent of the next one, run as a process of its own so that it can be killed.
#[test]
#[ignore = "run by children_die_with_a_parent_that_is_killed"]
fn helper_parent() {
    let folder = std::env::var("HELPER_FOLDER").unwrap();
    let process = shell(Path::new(&folder), "exec sleep 600");
    std::fs::write(
        format!("{folder}/pid.part"),
        process.pid().unwrap().to_string(),
    )
    .unwrap();
    std::fs::rename(format!("{folder}/pid.part"), format!("{folder}/pid")).unwrap();
    std::thread::sleep(Duration::from_mins(1));
}

#[test]
fn children_die_with_a_parent_that_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "helper_parent", "--ignored"])
        .env("HELPER_FOLDER", folder.path())
        .spawn()
        .unwrap();
    let written = folder.path().join("pid");
    eventually("the child's pid", || written.exists());
    let child: u32 = std::fs::read_to_string(written).unwrap().parse().unwrap();
    assert!(state(child).is_some());
    parent.kill().unwrap();
    parent.wait().unwrap();
    // A container's init may leave a zombie, which runs nothing.
    eventually("the child is gone", || {
        matches!(state(child), None | Some('Z'))
    });
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let spec = ProcessSpec::new("n1", "/nowhere/holdfast", folder.path().join("n1.log"));
    let error = Process::start(spec).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("n1 could not be started (/nowhere/holdfast)"),
        "{error}"
    );
}

#[tokio::test]
async fn a_node_that_refuses_to_start_is_reported_at_once_with_its_last_words() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("refuses");
    std::fs::write(
        &program,
        "#!/bin/sh\necho \"no: $1 $HOLDFAST_NODE__ID\"; exit 1\n",
    )
    .unwrap();
    Command::new("chmod")
        .arg("+x")
        .arg(&program)
        .status()
        .unwrap();
    let spec = ClusterSpec::new(&program, folder.path().join("data")).nodes(2);
    let cluster = Cluster::start(spec).unwrap();
    let began = Instant::now();
    let error = cluster.wait_live(SOON).await.unwrap_err();
    assert!(
        matches!(&error, ClusterError::Ended { node, tail, .. } if node == "n1" && tail == "no: serve 1"),
        "{error}"
    );
    assert!(began.elapsed() < SOON);
    assert_eq!(cluster.endpoints().len(), 2);
}
