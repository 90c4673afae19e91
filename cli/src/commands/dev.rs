//! `holdfast dev`: one node on loopback, formed and ready in a moment.

use std::path::PathBuf;

use holdfast::{Client, wire};
use holdfast_node::{
    serve::Node,
    settings::{Overrides, Settings},
    telemetry,
};

use crate::output::{self, Failure};

/// One node on loopback, formed and ready.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  holdfast dev\n  holdfast dev --data ./data --port 7100")]
pub struct Dev {
    /// The API's port; peers and metrics take the next two
    #[arg(long, default_value_t = 7100)]
    port: u16,
    /// Keep data here, instead of in a folder that goes with the process
    #[arg(long)]
    data: Option<PathBuf>,
    /// Write the API's address here once it is ready
    #[arg(long)]
    ready_file: Option<PathBuf>,
}

impl Dev {
    /// Serves until Ctrl-C or SIGTERM.
    ///
    /// # Errors
    /// The node cannot start: the text says what to do.
    pub fn call(self) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        runtime.block_on(self.serve())
    }

    async fn serve(self) -> Result<(), Failure> {
        let temporary = tempfile::tempdir()?;
        let kept = self.data.is_some();
        let folder = self.data.unwrap_or_else(|| temporary.path().to_owned());
        let listen = |shift: u16| format!("127.0.0.1:{}", self.port.saturating_add(shift));
        let overrides = Overrides::from_environment()
            .set("node.id", 1)
            .set("node.data", folder.display())
            .set("listen.api", listen(0))
            .set("listen.peer", listen(1))
            .set("listen.admin", listen(2))
            .set("telemetry.log", "warn");
        let settings = Settings::load(&overrides).map_err(Failure::usage)?;
        telemetry::init_logs(&settings).map_err(Failure::error)?;
        let node = Node::start(settings).await.map_err(Failure::error)?;
        let api = node.api().to_string();
        let client = Client::connect(std::slice::from_ref(&api)).await?;
        client
            .cluster_init(wire::InitRequest {
                name: "dev".to_owned(),
                ..Default::default()
            })
            .await?;
        let where_to = if kept {
            format!("data in {}", folder.display())
        } else {
            "temporary data, gone when this ends; --data DIR keeps it".to_owned()
        };
        output::line(format!("holdfast dev: one node, {where_to}"));
        output::line(format!(
            "api      {api}\nmetrics  http://{}/metrics",
            node.admin()
        ));
        output::line(format!("\nexport HOLDFAST_ENDPOINTS={api}"));
        if let Some(file) = self.ready_file {
            std::fs::write(file, format!("{api}\n"))?;
        }
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = term.recv() => {}
        }
        node.stop().await;
        Ok(())
    }
}
