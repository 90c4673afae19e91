//! `holdfast dev`: one node on loopback, formed and ready in a moment.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use holdfast::{Client, wire};
use holdfast_node::{
    serve::Node,
    settings::{Overrides, Settings},
    telemetry,
};

use crate::output::{self, Exit, Failure};

/// An election among one takes a fraction of it.
const READY_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// One node on loopback, formed and ready.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  holdfast dev\n  holdfast dev --data ./data --port 7100")]
pub struct Dev {
    /// The API's port; peers and metrics take the next two
    #[arg(long, default_value_t = 7100)]
    port: u16,
    /// Keep data here, synced, instead of in a folder that goes with the process
    #[arg(long)]
    data: Option<PathBuf>,
    /// Write the API's address here once it is ready
    #[arg(long)]
    ready_file: Option<PathBuf>,
}

/// Where the data lie.
enum Data {
    Kept(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Data {
    fn folder(&self) -> &Path {
        match self {
            Self::Kept(folder) => folder,
            Self::Temporary(folder) => folder.path(),
        }
    }
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
        // Before anything is made that a signal should not leave behind.
        let stopped = stopped()?;
        let data = match &self.data {
            Some(folder) => Data::Kept(folder.clone()),
            None => Data::Temporary(tempfile::Builder::new().prefix("holdfast-dev-").tempdir()?),
        };
        let node = Node::start(self.settings(&data)?).await;
        let node = node.map_err(Failure::error)?;
        let told = self.tell(&node, &data).await;
        if told.is_ok() {
            stopped.await;
        }
        node.stop().await;
        if let Data::Temporary(folder) = data {
            folder.close()?;
        }
        told
    }

    fn settings(&self, data: &Data) -> Result<Settings, Failure> {
        let listen = |shift: u16| format!("127.0.0.1:{}", self.port.saturating_add(shift));
        let overrides = Overrides::from_environment()
            .set("node.id", 1)
            .set("node.data", data.folder().display())
            .set("listen.api", listen(0))
            .set("listen.peer", listen(1))
            .set("listen.admin", listen(2))
            .set("testing.unsynced", matches!(data, Data::Temporary(_)))
            .set("disk.soft", 2) // a developer's disk is mostly for other things
            .set("disk.hard", 1)
            .set("telemetry.log", "warn,holdfast_node::telemetry=error");
        let settings = Settings::load(&overrides).map_err(Failure::usage)?;
        telemetry::init_logs(&settings).map_err(Failure::error)?;
        Ok(settings)
    }

    /// Forms the cluster of one, waits until it is ready, and says where it is.
    async fn tell(&self, node: &Node, data: &Data) -> Result<(), Failure> {
        let api = node.api().to_string();
        let client = Client::connect(std::slice::from_ref(&api)).await?;
        let init = wire::InitRequest {
            name: "dev".to_owned(),
            ..Default::default()
        };
        client.cluster_init(init).await?;
        ready(&format!("http://{}/readyz?leader=true", node.admin())).await?;
        let data = match data {
            Data::Temporary(_) => {
                "temporary data, unsynced, removed at the end; --data DIR keeps them".to_owned()
            }
            Data::Kept(folder) => format!("data in {}", folder.display()),
        };
        output::line(format!("holdfast dev: one node, {data}"));
        output::line(format!("api      {api}"));
        output::line(format!("metrics  http://{}/metrics", node.admin()));
        output::line(format!("\nexport HOLDFAST_ENDPOINTS={api}"));
        if let Some(file) = &self.ready_file {
            write_whole(file, &format!("{api}\n"))?;
        }
        Ok(())
    }
}

/// Who waits for the file to be there finds all of it.
fn write_whole(file: &Path, text: &str) -> std::io::Result<()> {
    let mut beside = file.as_os_str().to_owned();
    beside.push(".new");
    std::fs::write(&beside, text)?;
    std::fs::rename(beside, file)
}

async fn ready(url: &str) -> Result<(), Failure> {
    let ready = async {
        while !reqwest::get(url)
            .await
            .is_ok_and(|it| it.status().is_success())
        {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(READY_WITHIN, ready)
        .await
        .map_err(|_| {
            Failure::new(
                Exit::NoCluster,
                format!("the node was not ready within {READY_WITHIN:?}"),
            )
        })
}

/// Resolves at Ctrl-C or SIGTERM, of which neither kills the process from here on.
fn stopped() -> Result<impl Future<Output = ()>, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
