//! The binary `holdfast`: parse, call, exit code. No rules of the engine.

mod commands;
#[cfg(feature = "server")]
mod demo;
mod output;
mod parse;
#[cfg(test)]
#[cfg(feature = "server")]
mod snippets;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use output::{Exit, Failure};

/// Small rows and messages are made and dropped by the thousand, often on another thread than the one that made them.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Durable execution: crashes happen, your workflow keeps going.
#[derive(Parser)]
#[command(
    name = "holdfast",
    version,
    about,
    max_term_width = 120,
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    globals: Globals,
}

/// Options of every command.
#[derive(clap::Args, Clone)]
pub struct Globals {
    /// Nodes to ask, comma-separated
    #[arg(
        long,
        global = true,
        env = "HOLDFAST_ENDPOINTS",
        hide_short_help = true,
        value_delimiter = ','
    )]
    endpoints: Vec<String>,
    /// How answers are written
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value = "table",
        hide_short_help = true
    )]
    output: output::Form,
}

#[derive(Subcommand)]
enum Command {
    /// Start and watch runs, and tell them things
    #[command(subcommand)]
    Run(commands::run::Run),
    /// Which version of a workflow new runs take
    #[command(subcommand)]
    Deploy(commands::deploy::Deploy),
    /// Rate and concurrency gates
    #[command(subcommand)]
    Limit(commands::limit::Limit),
    /// Form, watch and change a cluster
    #[command(subcommand)]
    Cluster(commands::cluster::Cluster),
    /// One node, from flags or a file
    #[cfg(feature = "server")]
    Serve(commands::serve::Serve),
    /// One node on loopback, formed and ready
    #[cfg(feature = "server")]
    Dev(commands::dev::Dev),
    /// Three nodes, a worker, 30 orders, the leader killed, an audit
    #[cfg(feature = "server")]
    Demo(demo::Demo),
    /// Measure a cluster
    #[cfg(feature = "server")]
    Bench(commands::bench::Bench),
    /// Look for trouble on this machine
    Doctor(commands::doctor::Doctor),
    /// Shell completions, to be sourced
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match call(cli) {
        Ok(()) => Exit::Done.into(),
        Err(failure) => {
            eprintln_failure(&failure);
            failure.exit.into()
        }
    }
}

#[expect(clippy::print_stderr, reason = "talk goes to stderr, data to stdout")]
fn eprintln_failure(failure: &Failure) {
    if !failure.message.is_empty() {
        eprintln!("holdfast: {}", failure.message);
    }
}

fn call(cli: Cli) -> Result<(), Failure> {
    let globals = cli.globals;
    match cli.command {
        Command::Run(it) => wait(it.call(&globals)),
        Command::Deploy(it) => wait(it.call(&globals)),
        Command::Limit(it) => wait(it.call(&globals)),
        Command::Cluster(it) => wait(it.call(&globals)),
        #[cfg(feature = "server")]
        Command::Serve(it) => it.call(),
        #[cfg(feature = "server")]
        Command::Dev(it) => it.call(),
        #[cfg(feature = "server")]
        Command::Demo(it) => it.call(),
        #[cfg(feature = "server")]
        Command::Bench(it) => it.call(&globals),
        Command::Doctor(it) => wait(it.call(&globals)),
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut Cli::command(),
                "holdfast",
                &mut std::io::stdout(),
            );
            Ok(())
        }
    }
}

fn wait<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.map_err(Failure::error)?.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(command: &mut clap::Command, path: &str, seen: &mut Vec<(String, usize)>) {
        let help = command.render_help().to_string();
        seen.push((path.to_owned(), help.lines().count()));
        let names: Vec<String> = command
            .get_subcommands()
            .map(|it| it.get_name().to_owned())
            .collect();
        for name in names {
            if let Some(sub) = command.find_subcommand_mut(&name) {
                walk(sub, &format!("{path} {name}"), seen);
            }
        }
    }

    #[test]
    fn the_help_of_every_command_fits_25_lines() {
        let mut seen = Vec::new();
        walk(&mut Cli::command(), "holdfast", &mut seen);
        assert!(seen.len() > 20);
        for (command, lines) in seen {
            assert!(lines <= 25, "{command} -h has {lines} lines");
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
