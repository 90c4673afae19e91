//! Load: what is asked of the cluster, by whom, and what the workers do.
//!
//! Invariant: every choice comes from the seed; what the cluster answers changes nothing about what is asked next. So a seed
//! names the same calls again, though not the same order over clients. Not here: faults (`nemesis`), judging.

mod ask;
mod clients;
mod generator;
mod program;
mod worker;
mod workload;

pub use self::ask::{Asker, Told};
pub use self::clients::{Clients, Progress};
pub use self::generator::{Generator, Want};
pub use self::program::{Act, Certain, Go, Node, Program, SIGNALS, draw};
pub use self::worker::{WorkerConfig, work, work_as_herd};
pub use self::workload::{WORKLOADS, Workload};

pub(crate) use self::ask::{CALL_WITHIN, serial_of, status_name, timed};
pub use self::clients::Nodes;
