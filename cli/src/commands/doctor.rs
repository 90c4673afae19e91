//! `holdfast doctor`: looks for trouble on this machine. Silent when well.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use crate::{
    Globals,
    output::{self, Exit, Failure},
};

/// A sync slower than this makes every step slow.
const SYNC_MS_MAX: u128 = 20;
/// A busy node has thousands of connections and files.
const OPEN_FILES_MIN: u64 = 4_096;
/// What builds RocksDB, by any of its names.
const COMPILERS: [&str; 3] = ["clang++", "g++", "c++"];
/// Where distributions put libclang, beside the folders of each LLVM in `/usr/lib`.
const LIBRARIES: [&str; 5] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib",
];

/// Look for trouble on this machine.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  holdfast doctor --data /var/lib/holdfast\n  holdfast doctor healthcheck"
)]
pub struct Doctor {
    #[command(subcommand)]
    what: Option<What>,
    /// Where a node's data lie or will lie; by default the folder for temporary files
    #[arg(long)]
    data: Option<PathBuf>,
    /// The first of the node's three ports
    #[arg(long, default_value_t = 7100)]
    port: u16,
}

#[derive(clap::Subcommand)]
enum What {
    /// Whether the node at the endpoints answers, for containers
    Healthcheck,
    #[cfg(feature = "server")]
    Disk(super::disk::Disk),
}

impl Doctor {
    /// One line per trouble.
    ///
    /// # Errors
    /// There is trouble, or the node does not answer.
    pub async fn call(self, globals: &Globals) -> Result<(), Failure> {
        match self.what {
            Some(What::Healthcheck) => {
                super::client(globals).await?.topology().await?;
                return Ok(());
            }
            #[cfg(feature = "server")]
            Some(What::Disk(disk)) => return disk.call(globals.output),
            None => {}
        }
        let data = self.data.unwrap_or_else(std::env::temp_dir);
        let mut troubles = vec![slow_sync(&data), few_files(), clock_adrift()];
        if builds_here() {
            troubles.extend([no_compiler(), no_libclang()]);
        }
        #[cfg(feature = "server")]
        troubles.push(busy_ports(self.port));
        let troubles: Vec<String> = troubles.into_iter().flatten().collect();
        troubles.iter().for_each(output::line);
        if troubles.is_empty() {
            Ok(())
        } else {
            Err(Failure::new(Exit::Error, ""))
        }
    }
}

/// The median of a few syncs.
fn slow_sync(folder: &Path) -> Option<String> {
    let path = folder.join(format!("holdfast-doctor-{}", std::process::id()));
    let times = sync_times_ms(&path);
    let _ = std::fs::remove_file(&path); // it may never have been made
    match times {
        Err(cause) => Some(format!(
            "{} cannot be written: {cause}; give --data a folder that this user may write",
            folder.display()
        )),
        Ok(times) => {
            let median = times[times.len() / 2];
            (median > SYNC_MS_MAX).then(|| {
                format!(
                    "a sync in {} takes {median} ms; every step waits for one: use a faster disk",
                    folder.display()
                )
            })
        }
    }
}

fn sync_times_ms(path: &Path) -> std::io::Result<Vec<u128>> {
    let mut file = std::fs::File::create(path)?;
    let mut times = Vec::new();
    for _ in 0..9 {
        let began = Instant::now();
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        times.push(began.elapsed().as_millis());
    }
    times.sort_unstable();
    Ok(times)
}

fn few_files() -> Option<String> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))?;
    let soft: u64 = line.split_whitespace().nth(3)?.parse().ok()?;
    (soft < OPEN_FILES_MIN)
        .then(|| format!("only {soft} files may be open; raise it: ulimit -n 65536"))
}

/// Leaders take the median of the nodes' clocks, so one that drifts does little harm, and three do.
fn clock_adrift() -> Option<String> {
    let asked = Command::new("timedatectl")
        .args(["show", "--property=NTPSynchronized", "--value"])
        .output();
    let answer = asked.ok().filter(|it| it.status.success())?; // another system: nothing is known
    (answer.stdout.trim_ascii() == b"no").then(|| {
        "the clock is not synchronized, timers of runs follow it; switch it on: timedatectl set-ntp true"
            .to_owned()
    })
}

/// Whether this is a place where somebody builds Holdfast: on other machines no compiler is needed.
fn builds_here() -> bool {
    let here = std::env::current_dir().unwrap_or_default();
    here.ancestors()
        .any(|folder| folder.join("Cargo.toml").exists())
}

fn no_compiler() -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .any(|folder| COMPILERS.iter().any(|name| folder.join(name).exists()));
    (!found).then(|| {
        "no C++ compiler was found, RocksDB cannot be built; run: scripts/setup".to_owned()
    })
}

fn no_libclang() -> Option<String> {
    let folders: Vec<PathBuf> = match std::env::var_os("LIBCLANG_PATH") {
        Some(folder) => vec![folder.into()],
        None => {
            let versions = std::fs::read_dir("/usr/lib")
                .into_iter()
                .flatten()
                .flatten();
            let llvms = versions.filter(|it| it.file_name().to_string_lossy().starts_with("llvm"));
            let llvms = llvms.map(|it| it.path().join("lib"));
            llvms.chain(LIBRARIES.iter().map(PathBuf::from)).collect()
        }
    };
    let is_libclang = |name: &str| name.starts_with("libclang") && name.contains(".so");
    let found = folders.iter().any(|folder| {
        let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
        files
            .into_iter()
            .any(|file| is_libclang(&file.file_name().to_string_lossy()))
    });
    (!found).then(|| {
        "no libclang was found, RocksDB's bindings cannot be made; run: scripts/setup, or set LIBCLANG_PATH"
            .to_owned()
    })
}

/// Whoever else holds a node's ports.
#[cfg(feature = "server")]
fn busy_ports(first: u16) -> Option<String> {
    use holdfast_jepsen::cluster::claim_ports;
    let claim = claim_ports(first, 1);
    let busy = match &claim {
        Ok(claim) => claim.busy.first()?,
        Err(cause) => return Some(cause.to_string()),
    };
    let is_ours = busy
        .holder
        .as_ref()
        .is_some_and(|(_, name)| name.starts_with("holdfast"));
    (!is_ours)
        .then(|| format!("{busy}; a node needs it: stop that, or set listen.* to other ports"))
}
