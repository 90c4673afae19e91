//! The promises, against real processes: nodes, a worker, a shop with a ledger of its own, and an audit that reads both.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::process::{Command, Output};

/// Tells the demo's story on ports and in a folder of its own; its exit status is the audit.
fn story(port_base: u16, args: &[&str]) -> Output {
    let cache = tempfile::tempdir().unwrap();
    let port_base = port_base.to_string();
    Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(["demo", "--exit", "--port-base", &port_base])
        .args(args)
        .env("XDG_CACHE_HOME", cache.path())
        .output()
        .unwrap()
}

fn holds(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{talk}");
    assert!(text.contains("0 lost · 0 duplicates"), "{text}");
    text
}

#[test]
fn every_order_survives_a_killed_leader_charged_exactly_once() {
    let text = holds(&story(21_000, &["--orders", "16", "--kill", "leader"]));
    assert!(text.contains("SIGKILL"), "{text}");
    assert!(text.contains("leads term 2"), "{text}");
}

#[test]
fn every_order_survives_a_killed_leader_with_three_partitions() {
    holds(&story(
        23_000,
        &["--orders", "16", "--kill", "leader", "--partitions", "3"],
    ));
}

#[test]
fn every_order_survives_a_killed_follower() {
    holds(&story(25_000, &["--orders", "16", "--kill", "follower"]));
}

#[test]
fn every_order_survives_a_killed_worker_and_no_completed_step_is_done_again() {
    holds(&story(27_000, &["--orders", "16", "--kill", "worker"]));
}

#[test]
fn every_order_survives_nodes_that_are_killed_by_chance_again_and_again() {
    let args = ["--orders", "80", "--kill", "loop", "--seed", "20"];
    let text = holds(&story(31_000, &args));
    assert!(text.lines().next().unwrap().ends_with("seed 20"), "{text}");
    let kills = text.matches("by chance").count();
    assert!(kills >= 2, "only {kills} kills: {text}");
    assert!(text.matches("is back").count() >= kills - 1, "{text}");
}

#[test]
fn a_cluster_that_cannot_be_reached_is_exit_code_7_with_a_sentence() {
    let output = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(["--endpoints", "127.0.0.1:1", "run", "show", "x"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert!(String::from_utf8_lossy(&output.stderr).contains("127.0.0.1:1"));
}

#[test]
fn nonsense_on_the_command_line_is_exit_code_2() {
    let output = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(["run", "stat"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
}
