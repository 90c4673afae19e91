//! The binary `jepsen`: parse, call, exit code.

mod cli;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Proves Holdfast: real processes under real faults, simulation, checkers.
#[derive(Parser)]
#[command(name = "jepsen", version, about, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(Box<cli::Run>),
    List(cli::List),
    Doctor(cli::Doctor),
    #[command(hide = true)]
    Part(cli::PartArgs),
    Sink(cli::SinkArgs),
    /// Run the checkers again on a stored test run.
    Check(cli::check::CheckArgs),
    /// The same, and write its page and pictures.
    Report(cli::check::CheckArgs),
    Fuzz(cli::fuzz::Fuzz),
    Images(cli::images::Images),
    Sim(cli::sim::Sim),
    Selftest(cli::selftest::Selftest),
}

/// 0 valid, 1 violated, 2 unknown, 254 bad arguments, 255 the harness itself failed.
fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) => {
            let code = if error.use_stderr() { 254 } else { 0 };
            drop(error.print()); // nowhere else to say it
            return ExitCode::from(code);
        }
    };
    if let Command::Run(run) = &command
        && let Err(code) = run.enter()
    {
        return ExitCode::from(code);
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(cause) => {
            cli::trouble(&format!("no runtime: {cause}"));
            return ExitCode::from(cli::HARNESS);
        }
    };
    let code = match command {
        Command::Check(it) => return cli::check::check(&it),
        Command::Report(it) => return cli::check::report(&it),
        Command::Fuzz(it) => return it.call(),
        Command::Images(it) => return it.call(),
        Command::Sim(it) => return cli::sim::run(&it),
        Command::Selftest(it) => return cli::selftest::run(&it, &runtime),
        Command::Run(it) => runtime.block_on(it.run()),
        Command::List(it) => it.run(),
        Command::Doctor(it) => it.run(),
        Command::Part(it) => runtime.block_on(it.run()),
        Command::Sink(it) => runtime.block_on(it.run()),
    };
    ExitCode::from(code)
}
