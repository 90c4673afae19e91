//! `holdfast serve`: one node, until SIGTERM.

use std::path::PathBuf;

use holdfast_node::{
    serve,
    settings::{Overrides, Settings},
    telemetry,
};

use crate::output::{self, Failure};

/// One node, from flags or a file.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  holdfast serve --node-id 1 --data /var/lib/holdfast\n  holdfast serve --config node.toml --check-config"
)]
#[expect(clippy::struct_excessive_bools, reason = "one per flag")]
pub struct Serve {
    /// A TOML file
    #[arg(long)]
    config: Option<PathBuf>,
    /// This node's id; never reused
    #[arg(long)]
    node_id: Option<u64>,
    /// Where its data lies
    #[arg(long)]
    data: Option<PathBuf>,
    /// Where clients and workers call, as 127.0.0.1:7100
    #[arg(long)]
    api: Option<String>,
    /// Where other nodes call
    #[arg(long)]
    peer: Option<String>,
    /// Metrics and health
    #[arg(long)]
    admin: Option<String>,
    /// Listen beyond loopback without authentication
    #[arg(long)]
    insecure: bool,
    /// Any other setting, as key=value
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// For tests: append what this node applies to this file
    #[arg(long, hide = true, value_name = "FILE")]
    chaos_tap: Option<PathBuf>,
    /// For tests: print the failpoints and end
    #[cfg(feature = "chaos")]
    #[arg(long, hide = true)]
    list_failpoints: bool,
    /// Check the settings and end
    #[arg(long)]
    check_config: bool,
    /// Print the settings with the source of each, and end
    #[arg(long)]
    dump_config: bool,
}

impl Serve {
    fn overrides(&self) -> Result<Overrides, Failure> {
        let mut all = Overrides::from_environment();
        all.file.clone_from(&self.config);
        if let Some(id) = self.node_id {
            all = all.set("node.id", id);
        }
        if let Some(data) = &self.data {
            all = all.set("node.data", data.display());
        }
        let listen = [
            ("api", &self.api),
            ("peer", &self.peer),
            ("admin", &self.admin),
        ];
        for (name, address) in listen {
            if let Some(address) = address {
                all = all.set(&format!("listen.{name}"), address);
            }
        }
        if let Some(tap) = &self.chaos_tap {
            all = all.set("testing.chaos_tap", tap.display());
        }
        if self.insecure {
            all = all.set("insecure", true);
        }
        for set in &self.sets {
            let bad = || Failure::usage(format!("--set {set} is not KEY=VALUE"));
            let (key, value) = set.split_once('=').ok_or_else(bad)?;
            all = all.set(key, value);
        }
        Ok(all)
    }

    /// Serves until it is told to stop.
    ///
    /// # Errors
    /// The settings are wrong, or the node cannot start or go on: the text says what to do.
    pub fn call(self) -> Result<(), Failure> {
        #[cfg(feature = "chaos")]
        if self.list_failpoints {
            for (name, about) in holdfast_node::chaos::POINTS {
                output::line(format_args!("{name:26} {about}"));
            }
            return Ok(());
        }
        let settings = Settings::load(&self.overrides()?).map_err(Failure::usage)?;
        if self.dump_config {
            output::line(settings.dump());
            return Ok(());
        }
        if self.check_config {
            output::talk("the settings are fine");
            return Ok(());
        }
        telemetry::init_logs(&settings).map_err(Failure::error)?;
        #[cfg(feature = "chaos")]
        holdfast_node::chaos::arm_failpoints().map_err(Failure::usage)?;
        #[cfg(feature = "seeded-bugs")]
        if let Ok(bug) = std::env::var("HOLDFAST_SEEDED_BUG") {
            holdfast_node::seeded::arm(&bug).map_err(Failure::usage)?;
        }
        serve::run(settings).map_err(Failure::error)
    }
}
