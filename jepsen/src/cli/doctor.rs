//! `jepsen doctor`: what this machine offers.

use std::path::Path;
use std::process::Command;

use holdfast_jepsen::cluster::claim_ports;
use holdfast_jepsen::nemesis::{KINDS, Kind};
use holdfast_jepsen::network;

use super::{UNKNOWN, VALID, line};
use crate::cli::run::holdfast_beside;

/// What this machine offers for faults, and whether a run can be made at all
#[derive(clap::Args)]
pub struct Doctor {}

impl Doctor {
    /// Looks, and prints what it found.
    pub fn run(self) -> u8 {
        let holdfast = holdfast_beside();
        let version = Command::new(&holdfast).arg("--version").output();
        let version = version.ok().filter(|it| it.status.success());
        let found = version.map(|it| String::from_utf8_lossy(&it.stdout).trim().to_string());
        say(
            "binary",
            found
                .as_deref()
                .unwrap_or("not found; build `holdfast`, or give --bin"),
        );
        let root = rustix::process::geteuid().is_root();
        say("root", if root { "yes" } else { "no; disk-full is off" });
        let proc = Path::new("/proc/net/tcp").exists();
        say(
            "/proc",
            if proc {
                "yes"
            } else {
                "no; faults on the network are off"
            },
        );
        let strace = runs("strace", "-V");
        say(
            "strace",
            if strace {
                "yes"
            } else {
                "no; fsync-error and slow-disk are off"
            },
        );
        say_whether("netns", network::lacks(), "--net netns");
        say_whether("cpu group", Kind::Cpu.lacks(), "cpu");
        say_whether("mem group", Kind::Oom.lacks(), "oom");
        let ports = claim_ports(20_000, 3).is_ok();
        say(
            "ports",
            if ports {
                "free from 20000 on"
            } else {
                "none free from 20000 on"
            },
        );
        let fuse = Path::new("/dev/fuse").exists();
        say(
            "fuse",
            if fuse {
                "yes, not used yet"
            } else {
                "no, not used yet"
            },
        );
        let lacking: Vec<&str> = KINDS
            .iter()
            .filter(|it| it.0.lacks().is_some())
            .map(|it| it.1)
            .collect();
        let lacking = if lacking.is_empty() {
            "none".to_string()
        } else {
            lacking.join(" ")
        };
        say("faults off", &lacking);
        if found.is_some() && ports {
            VALID
        } else {
            UNKNOWN
        }
    }
}

fn runs(program: &str, arg: &str) -> bool {
    Command::new(program)
        .arg(arg)
        .output()
        .is_ok_and(|it| it.status.success())
}

/// Whether there is something, or why not and what is off then.
fn say_whether(what: &str, lacks: Option<&str>, off: &str) {
    match lacks {
        None => say(what, "yes"),
        Some(why) => say(what, &format!("no, it {why}; {off} is off")),
    }
}

fn say(what: &str, found: &str) {
    line(&format!("{what:<11} {found}"));
}
