//! `jepsen images`: crash images and damage of one recording.
//!
//! Not here: what is built, opened and judged (`images`).

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use holdfast_jepsen::images::campaign::{Case, Cuts, Damage, Scope, Wrong};
use holdfast_jepsen::images::record::{self, Plan, RecordError};

/// Cut the power at every sync of a recorded node, and damage its files
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  jepsen images --runs 10 --images 400\n  jepsen images --trace store/images/last --images 100000"
)]
pub struct Images {
    /// The `holdfast` binary
    #[arg(long, default_value = "target/release/holdfast")]
    bin: PathBuf,
    /// A recording of an earlier call; by default a new one is made
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Where a new recording goes, and images that are wrong
    #[arg(long, default_value = "store/images/last")]
    folder: PathBuf,
    /// Nodes of the recorded cluster; acknowledgements bind its disk if it is one
    #[arg(long, default_value_t = 1)]
    nodes: u16,
    /// How often the recorded node is started
    #[arg(long, default_value_t = 3)]
    lives: u32,
    /// Runs in each of its lives
    #[arg(long, default_value_t = 24)]
    runs: u32,
    /// At most so many images of cuts
    #[arg(long, default_value_t = 1_200)]
    images: usize,
    /// Seeds of the cuts that draw
    #[arg(long, default_value_t = 2)]
    seeds: u64,
    /// At most so many truncations of each file
    #[arg(long, default_value_t = 20)]
    truncations: usize,
    /// At most so many flipped bits in each file
    #[arg(long, default_value_t = 20)]
    flips: usize,
    /// So many cut disks are given to a whole node, and so many of each kind of damage that opens
    #[arg(long, default_value_t = 2)]
    served: usize,
    /// Disks opened at once
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Also what was said of damage, and how often
    #[arg(long)]
    reasons: bool,
    /// Figures as JSON
    #[arg(long)]
    json: bool,
}

/// 0 valid, 1 violated, 2 unknown.
const VIOLATED: u8 = 1;
const UNKNOWN: u8 = 2;

/// A folder for images that goes when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> std::io::Result<Self> {
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() {
            memory.to_owned()
        } else {
            std::env::temp_dir()
        };
        let folder = base.join(format!("holdfast-images-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0); // temporary by its place
    }
}

impl Images {
    /// Records if it must, opens, judges, prints.
    pub fn call(self) -> ExitCode {
        match self.run() {
            Ok(code) => code,
            Err(why) => {
                say(&format!("UNKNOWN: {why}"));
                ExitCode::from(UNKNOWN)
            }
        }
    }

    fn run(&self) -> Result<ExitCode, Box<dyn std::error::Error>> {
        let folder = match &self.trace {
            Some(folder) => folder.clone(),
            None => self.record()?,
        };
        let scratch = Scratch::new()?;
        let scope = Scope {
            program: self.bin.clone(),
            scratch: scratch.0.clone(),
            kept: folder.join("wrong"),
            jobs: self.jobs,
            images: self.images,
            seeds: self.seeds,
            truncations: self.truncations,
            flips: self.flips,
            served: self.served,
        };
        let case = Case::read(&folder)?;
        let began = Instant::now();
        let cuts = case.cuts(&scope)?;
        let cut_seconds = began.elapsed().as_secs_f64();
        self.tell_cuts(&cuts, cut_seconds);
        let began = Instant::now();
        let damage = case.damage(&scope)?;
        self.tell_damage(&damage, began.elapsed().as_secs_f64());
        Ok(verdict(&cuts, &damage))
    }

    fn record(&self) -> Result<PathBuf, RecordError> {
        if self.folder.exists() {
            std::fs::remove_dir_all(&self.folder)?;
        }
        let plan = Plan {
            program: self.bin.clone(),
            folder: self.folder.clone(),
            nodes: self.nodes,
            lives: self.lives,
            runs: self.runs,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        runtime.block_on(record::record(&plan))?;
        Ok(self.folder.clone())
    }

    fn tell_cuts(&self, it: &Cuts, seconds: f64) {
        if self.json {
            say(&serde_json::to_string(it).unwrap_or_default());
            return;
        }
        let cut: usize = it.cut.values().sum();
        let each: Vec<String> = it
            .cut
            .iter()
            .map(|(kind, n)| format!("{kind} {n}"))
            .collect();
        say(&format!(
            "RECORDED {} changes · {} syncs · log known synced {} times · {} entries · {} acknowledgements",
            it.changes, it.syncs, it.told, it.entries, it.acks
        ));
        say(&format!(
            "CUTS {cut} images ({}) and {} whole · {} under a node · wrong {} · {seconds:.1} s",
            each.join(", "),
            it.whole,
            it.served,
            it.wrong.len()
        ));
        say(&format!(
            "A DISK THAT LIES {} images, {} found wrong",
            it.lying.0, it.lying.1
        ));
        tell_wrong(&it.wrong);
    }

    fn tell_damage(&self, it: &Damage, seconds: f64) {
        if self.json {
            say(&serde_json::to_string(it).unwrap_or_default());
            return;
        }
        let total: usize = it.outcomes.values().flat_map(|row| row.values()).sum();
        say(&format!(
            "DAMAGE {total} blows · under a node {} served, {} ended with a reason · unnoticed {} · {seconds:.1} s",
            it.served.0,
            it.served.1,
            it.wrong.len()
        ));
        for (kind, row) in &it.outcomes {
            let cells: Vec<String> = row.iter().map(|(came, n)| format!("{came} {n}")).collect();
            say(&format!("  {kind:<28} {}", cells.join(" · ")));
        }
        if self.reasons {
            for (kind, said) in &it.reasons {
                for (text, times) in said {
                    say(&format!("  {kind}: {times} × {text}"));
                }
            }
        }
        tell_wrong(&it.wrong);
    }
}

fn tell_wrong(all: &[Wrong]) {
    for it in all.iter().take(30) {
        let kept = it
            .kept
            .as_ref()
            .map(|kept| format!("; kept in {}", kept.display()));
        say(&format!(
            "  WRONG {}: {}{}",
            it.image,
            it.what,
            kept.unwrap_or_default()
        ));
    }
}

/// A harness that would not see a lying disk proves nothing.
fn verdict(cuts: &Cuts, damage: &Damage) -> ExitCode {
    if !cuts.wrong.is_empty() || !damage.wrong.is_empty() {
        say("VIOLATED");
        return ExitCode::from(VIOLATED);
    }
    if cuts.told == 0 || cuts.lying.1 == 0 {
        say("UNKNOWN: a disk that lies about its syncs was not found out");
        return ExitCode::from(UNKNOWN);
    }
    say("VALID");
    ExitCode::SUCCESS
}

#[expect(clippy::print_stdout, reason = "the report of a command")]
fn say(text: &str) {
    println!("{text}");
}
