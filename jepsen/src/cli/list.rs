//! `jepsen list`: what can be run, and what this machine lacks.

use holdfast_jepsen::load::WORKLOADS;
use holdfast_jepsen::nemesis::KINDS;

use super::{VALID, line};

/// Workloads and faults, and what this machine lacks
#[derive(clap::Args)]
pub struct List {}

impl List {
    /// Prints them.
    pub fn run(self) -> u8 {
        line("WORKLOADS");
        for workload in WORKLOADS {
            line(&format!("  {:<13} {}", workload.name, workload.about));
        }
        line("FAULTS");
        for (kind, name, about) in KINDS {
            let lacks = kind.lacks().map(|why| format!("  (off here: {why})"));
            let by = kind.only_by().map(|it| format!("  (--net {})", it.name()));
            line(&format!(
                "  {name:<13} {about}{}{}",
                by.unwrap_or_default(),
                lacks.unwrap_or_default()
            ));
        }
        line(
            "  none          the control: nothing breaks, then 10 s idle, then every node is asked",
        );
        line("  chaos         those that go together on any machine");
        line("  all           every fault of this list");
        VALID
    }
}
