//! `jepsen part` and `jepsen sink`: the child processes of a run.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use holdfast_jepsen::run::{PART_VARIABLE, Part};
use holdfast_jepsen::sink::{Mode, Sink};

use super::{HARNESS, VALID, line, trouble};

/// What the environment says: a worker of the load, or the sink
#[derive(clap::Args)]
pub struct PartArgs {}

impl PartArgs {
    /// Until it is told to end.
    pub async fn run(self) -> u8 {
        let Some(part) = Part::told() else {
            trouble(&format!(
                "{PART_VARIABLE} names no part; `jepsen run` sets it"
            ));
            return HARNESS;
        };
        match part.run().await {
            Ok(()) => VALID,
            Err(why) => {
                trouble(&why);
                HARNESS
            }
        }
    }
}

/// The effect sink by itself, for workers of your own
#[derive(clap::Args)]
pub struct SinkArgs {
    /// What it protects against: idempotent, fenced, naive
    #[arg(long, default_value = "idempotent")]
    mode: Mode,
    /// Where it writes what it saw
    #[arg(long)]
    file: PathBuf,
    /// Where it listens on loopback; 0: any port
    #[arg(long, default_value_t = 0)]
    port: u16,
}

impl SinkArgs {
    /// Until it is ended.
    pub async fn run(self) -> u8 {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let opened = Sink::open(self.mode, &self.file, addr).await;
        let sink = match opened {
            Ok(sink) => sink,
            Err(cause) => {
                trouble(&cause.to_string());
                return HARNESS;
            }
        };
        if let Ok(addr) = sink.addr() {
            line(&format!("the sink listens on http://{addr}/"));
        }
        match sink.serve().await {
            Ok(()) => VALID,
            Err(cause) => {
                trouble(&cause.to_string());
                HARNESS
            }
        }
    }
}
