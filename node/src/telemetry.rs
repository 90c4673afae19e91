//! Telemetry: log lines, `/metrics`, and the probes `/livez` and `/readyz`, on a port of their own.
//!
//! Metrics start with `holdfast_` and carry their unit; no run id, input or payload is ever a label or in a log line.
//! Not here: what is measured (each part records its own), health over gRPC (`api`).

use std::{
    collections::BTreeSet,
    io::IsTerminal,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    Router,
    extract::{Query, State},
    http::StatusCode,
    routing::get,
};
use futures::future::BoxFuture;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use parking_lot::Mutex;
use tokio::{net::TcpListener, sync::watch};
use tracing_subscriber::{EnvFilter, fmt};

use holdfast_raft::log::Durability;

use crate::settings::{LogFormat, Settings};

/// Why log lines cannot be written as asked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `telemetry.log` is no filter.
    #[error(
        "telemetry.log = {filter:?} is no log filter ({cause}); try info, or info,holdfast_raft=warn"
    )]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        cause: String,
    },
}

/// Begins to write log lines to standard error. Once per process; later calls change nothing.
///
/// # Errors
/// `Filter`: correct `telemetry.log`.
pub fn init_logs(settings: &Settings) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(&settings.log).map_err(|cause| LogError::Filter {
        filter: settings.log.clone(),
        cause: cause.to_string(),
    })?;
    let terminal = std::io::stderr().is_terminal();
    let lines = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    let readable = match settings.log_format {
        LogFormat::Auto => terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    // A subscriber that stands already is that of a test or of another node in this process.
    drop(if readable {
        lines.with_ansi(terminal).try_init()
    } else {
        lines.json().flatten_event(true).try_init()
    });
    Ok(())
}

/// From 50 µs, below one sync, to 10 s, above any timeout of ours.
const SECONDS: [f64; 17] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0,
];
/// From 10 ms to a month: runs wait for people.
const LIVES: [f64; 10] = [
    0.01,
    0.1,
    1.0,
    10.0,
    60.0,
    600.0,
    3_600.0,
    86_400.0,
    604_800.0,
    2_592_000.0,
];
/// How many at once: up to a full entry.
const COUNTS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];
/// From a short run to one that is told to fold.
const JOURNALS: [f64; 8] = [4.0, 16.0, 64.0, 256.0, 1_000.0, 4_000.0, 10_000.0, 50_000.0];
/// From 1 KiB to 1 GiB.
const BYTES: [f64; 6] = [
    1024.0,
    32_768.0,
    1_048_576.0,
    33_554_432.0,
    268_435_456.0,
    1_073_741_824.0,
];

/// Names of workflows and queues that become labels; each costs memory here and at whoever gathers them.
const NAMES_MAX: usize = 200;

/// A name as a label: itself, or `other` once too many names have been seen.
pub fn name_label(name: &str) -> String {
    static SEEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut seen = SEEN.lock();
    if !seen.contains(name) {
        if seen.len() >= NAMES_MAX {
            return "other".to_owned();
        }
        seen.insert(name.to_owned());
    }
    name.to_owned()
}

static METRICS: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// The recorder of this process; none if somebody else has installed one.
pub fn metrics() -> Option<PrometheusHandle> {
    METRICS.get_or_init(install).clone()
}

fn install() -> Option<PrometheusHandle> {
    let suffixed = |suffix: &str| Matcher::Suffix(suffix.to_owned());
    let lives = Matcher::Full("holdfast_run_duration_seconds".to_owned());
    let journals = Matcher::Full("holdfast_journal_entries".to_owned());
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(lives, &LIVES)
        .and_then(|it| it.set_buckets_for_metric(journals, &JOURNALS))
        .and_then(|it| it.set_buckets_for_metric(suffixed("_seconds"), &SECONDS))
        .and_then(|it| it.set_buckets_for_metric(suffixed("_commands"), &COUNTS))
        .and_then(|it| it.set_buckets_for_metric(suffixed("_entries"), &COUNTS))
        .and_then(|it| it.set_buckets_for_metric(suffixed("_bytes"), &BYTES))
        .expect("no list of buckets is empty");
    let handle = builder.install_recorder().ok()?;
    metrics::gauge!("holdfast_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Some(handle)
}

/// One thing that `/readyz` looks at.
#[derive(Debug, Clone)]
pub struct Check {
    /// Its name.
    pub name: String,
    /// What is wrong; none: nothing.
    pub trouble: Option<String>,
}

/// What the probes ask the node.
pub trait Probes: Send + Sync + 'static {
    /// Whether this node can serve, by parts.
    fn ready(&self) -> Vec<Check>;
    /// Whether it leads a partition.
    fn leads(&self) -> bool;
    /// Brings gauges up to date that are only looked at when asked.
    fn refresh(&self) -> BoxFuture<'_, ()>;
}

#[derive(Clone)]
struct Admin {
    probes: Arc<dyn Probes>,
}

/// Serves metrics and probes until `stop` says so.
///
/// # Errors
/// The listener failed.
pub async fn serve(
    listener: TcpListener,
    probes: Arc<dyn Probes>,
    mut stop: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(render))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(Admin { probes });
    let stopped = async move { drop(stop.wait_for(|stop| *stop).await) };
    tokio::select! {
        served = axum::serve(listener, router) => served,
        () = stopped => Ok(()),
    }
}

/// How often histograms are drained into their buckets when nobody asks for them.
const UPKEEP: Duration = Duration::from_secs(5);

/// Keeps the recorder small until `stop` says so.
pub async fn upkeep(mut stop: watch::Receiver<bool>) {
    while tokio::time::timeout(UPKEEP, stop.wait_for(|stop| *stop))
        .await
        .is_err()
    {
        if let Some(handle) = metrics() {
            handle.run_upkeep();
        }
    }
}

async fn render(State(admin): State<Admin>) -> String {
    admin.probes.refresh().await;
    metrics().map(|handle| handle.render()).unwrap_or_default()
}

/// `?leader=true`: only a leader is ready. `?verbose`: each part by name.
async fn ready(
    State(admin): State<Admin>,
    Query(asked): Query<Vec<(String, String)>>,
) -> (StatusCode, String) {
    let asks = |name: &str| asked.iter().any(|(n, value)| n == name && value != "false");
    let mut checks = admin.probes.ready();
    if asks("leader") {
        let trouble = (!admin.probes.leads()).then(|| "it leads no partition".to_owned());
        checks.push(Check {
            name: "leader".to_owned(),
            trouble,
        });
    }
    let is_ready = checks.iter().all(|check| check.trouble.is_none());
    let mut text = String::new();
    for Check { name, trouble } in checks {
        match trouble {
            Some(trouble) => text += &["[-] ", &name, ": ", &trouble, "\n"].concat(),
            None if asks("verbose") => text += &["[+] ", &name, "\n"].concat(),
            None => {}
        }
    }
    if is_ready {
        text.push_str("ready\n");
    }
    (
        if is_ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        },
        text,
    )
}

/// The address in words for the first log line.
pub fn announce(settings: &Settings, api: SocketAddr, peer: SocketAddr, admin: SocketAddr) {
    tracing::info!(
        node = settings.node,
        version = env!("CARGO_PKG_VERSION"),
        data = %settings.data.display(),
        %api,
        %peer,
        %admin,
        "started"
    );
    if settings.insecure {
        tracing::warn!(
            "insecure: neither authentication nor encryption on any port; keep this network closed"
        );
    }
    if settings.sync == Durability::Unsynced {
        tracing::warn!("testing.unsynced: what is acknowledged is lost with this machine");
    }
    if !settings.clock_ahead.is_zero() {
        tracing::warn!(ahead = ?settings.clock_ahead, "testing.clock_ahead moves this node's wall clock");
    }
}
