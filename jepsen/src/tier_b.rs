//! The binary `jepsen-sim`: tier B, whole clusters in one thread each. A binary of its own, since a build for the simulation
//! has no disk and no sockets, and what needs them would only make it late.

use std::process::ExitCode;

use clap::Parser;
use holdfast_jepsen::sim::tier_b::verb::{self, Args};

/// Simulates whole clusters: consensus, state and leaders of production; disks, network and time by a seed.
#[derive(Parser)]
#[command(name = "jepsen-sim", version, about, max_term_width = 120)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

/// 0 valid, 1 violated, 254 bad arguments or a build that cannot, 255 the harness itself failed.
fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => verb::run(&cli.args),
        Err(error) => {
            let code = if error.use_stderr() { 254 } else { 0 };
            drop(error.print()); // nowhere else to say it
            ExitCode::from(code)
        }
    }
}
