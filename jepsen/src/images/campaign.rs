//! A whole campaign over one recording: what is due when, images at its syncs, damage to its end, each opened and judged.
//!
//! Invariant: the figures count what was opened; a campaign that found nothing wrong also showed that it would have: on a disk that lies
//! about its syncs the same cuts are found wrong. Not here: recording, printing.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use serde::Serialize;

use super::build::{Builder, Cut};
use super::damage::{self, Blow, Came};
use super::disk::{Disk, History, Told, is_wal};
use super::judge::{Due, Written, wrong};
use super::opener::{Answer, Found, Opener};
use super::record::{Ack, Recording};
use super::serve::{Served, serve_now};
use super::trace::{Event, Reader};

/// Kept on disk when they are wrong; the rest of the wrong ones are only counted.
const KEPT_MAX: usize = 20;

/// What is due of each group.
type Dues = BTreeMap<u32, Due>;

/// How much is done.
#[derive(Debug, Clone)]
pub struct Scope {
    /// The `holdfast` binary that opens.
    pub program: PathBuf,
    /// Where images are written while they are opened: memory, if there is a file system of it.
    pub scratch: PathBuf,
    /// Where wrong images are kept.
    pub kept: PathBuf,
    /// Children that open at once.
    pub jobs: usize,
    /// At most so many images of cuts.
    pub images: usize,
    /// Seeds of the cuts that have one.
    pub seeds: u64,
    /// At most so many cuts of each file, and flips.
    pub truncations: usize,
    /// See `truncations`.
    pub flips: usize,
    /// So many cut disks are given to a whole node, and so many damaged ones of each outcome that opens.
    pub served: usize,
}

/// What was wrong once.
#[derive(Debug, Clone, Serialize)]
pub struct Wrong {
    /// Which image: sync, cut and seed, or file and blow.
    pub image: String,
    /// What.
    pub what: String,
    /// Where the image is kept.
    pub kept: Option<PathBuf>,
}

/// Figures of the cuts.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Cuts {
    /// Changes and syncs of the recording.
    pub changes: usize,
    /// See `changes`.
    pub syncs: usize,
    /// Moments at which the node knew its log synced.
    pub told: usize,
    /// Acknowledgements, and the last entry of the log.
    pub acks: usize,
    /// Different entries that were written.
    pub entries: usize,
    /// Images opened: of whole disks, and of cut ones by kind.
    pub whole: usize,
    /// See `whole`.
    pub cut: BTreeMap<String, usize>,
    /// What was wrong.
    pub wrong: Vec<Wrong>,
    /// Given to a whole node.
    pub served: usize,
    /// On a disk that lies: images opened, and found wrong.
    pub lying: (usize, usize),
}

/// Figures of the damage, by kind of file.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Damage {
    /// By kind of file and blow: how many of each outcome.
    pub outcomes: BTreeMap<String, BTreeMap<String, usize>>,
    /// By kind of file, blow and outcome: what is said, numbers left out, and how often.
    pub reasons: BTreeMap<String, BTreeMap<String, usize>>,
    /// Given to a whole node: how many served all runs, and how many ended with a reason.
    pub served: (usize, usize),
    /// What nobody noticed.
    pub wrong: Vec<Wrong>,
}

/// A recording, read.
pub struct Case {
    recording: Recording,
    events: Vec<Event>,
    history: History,
    acks: Vec<Ack>,
}

/// One thing to open.
struct Task {
    name: String,
    sync: usize,
    cut: Cut,
    seed: u64,
}

impl Case {
    /// Reads a recording's folder.
    ///
    /// # Errors
    /// It is not whole: a fault of the harness.
    pub fn read(folder: &Path) -> io::Result<Self> {
        let recording = Recording::read(folder)?;
        let data = recording.data.display().to_string();
        let mut reader = Reader::new(&data);
        for text in Recording::traces(folder)? {
            reader.read(&text).map_err(io::Error::other)?;
        }
        let events = reader.events();
        let history = History::of(&events).map_err(io::Error::other)?;
        Ok(Self {
            recording,
            events,
            history,
            acks: Recording::acks(folder)?,
        })
    }

    /// Cuts at the recording's syncs.
    ///
    /// # Errors
    /// The harness failed.
    pub fn cuts(&self, scope: &Scope) -> io::Result<Cuts> {
        let told = self.history.told();
        let mut figures = Cuts {
            changes: self.history.changes.len(),
            syncs: self.history.syncs.len(),
            told: told.len(),
            acks: self.acks.len(),
            ..Cuts::default()
        };
        let (dues, written) = self.dues(scope, &told, &mut figures)?;
        figures.entries = written.len();
        let tasks = self.tasks(scope, self.history.syncs.len(), &Cut::ALL, scope.images);
        for task in &tasks {
            *figures.cut.entry(format!("{:?}", task.cut)).or_default() += 1;
        }
        let judge = |task: &Task, answer: &Answer| {
            let due = self.due(&dues, &self.history, task.sync);
            wrong(answer, &due, &written)
        };
        let found = open_all(scope, self.node(), &self.history, &tasks, &judge)?;
        figures.wrong.extend(found);
        if self.recording.nodes == 1 {
            self.serve_cuts(scope, &tasks, &mut figures)?;
        }
        figures.lying = self.lie(scope, &dues, &written)?;
        Ok(figures)
    }

    fn node(&self) -> u64 {
        self.recording.node
    }

    /// What was synced at each moment at which the node knew of it, read from the disk as it was then; and all that was written.
    fn dues(
        &self,
        scope: &Scope,
        told: &[Told],
        figures: &mut Cuts,
    ) -> io::Result<(Vec<(usize, Dues)>, Written)> {
        let (mut dues, mut written) = (Vec::new(), Written::default());
        let mut opener = Opener::new(&scope.program, self.node());
        let mut disk = Disk::default();
        let mut next = 0;
        let moments = told.iter().map(|it| (it.at, it.covered));
        let end = self.history.changes.len();
        for (at, covered) in moments.chain([(end, end)]) {
            for (change, _) in self.history.changes.get(next..covered).unwrap_or_default() {
                disk.apply(change, None);
            }
            next = next.max(covered);
            figures.whole += 1;
            let name = format!("whole-{covered}");
            match open(scope, &mut opener, &disk, &name)? {
                Answer::Found(found) => {
                    written.learn(&found);
                    let due = found.groups.iter().map(|it| {
                        let acked = None; // the acknowledgements say it
                        (
                            it.group,
                            Due {
                                acked,
                                ..Due::shown_by(it)
                            },
                        )
                    });
                    dues.push((at, due.collect()));
                }
                other => figures.wrong.push(Wrong {
                    kept: keep(scope, &disk, &name, figures.wrong.len())?,
                    image: name,
                    what: format!("a process that died there cannot start again: {other:?}"),
                }),
            }
        }
        dues.pop(); // the end is learned from, and due to nobody
        Ok((dues, written))
    }

    /// What must be there when a cut comes right before this sync ends.
    fn due(&self, dues: &[(usize, Dues)], history: &History, sync: usize) -> Dues {
        let (made, at) = (history.syncs[sync].ended, history.syncs[sync].at);
        let known = dues.partition_point(|(told, _)| *told < made);
        let mut due = known
            .checked_sub(1)
            .map_or_else(BTreeMap::new, |last| dues[last].1.clone());
        if self.recording.nodes == 1 {
            for ack in self.acks.iter().take_while(|ack| ack.at < at) {
                let acked = &mut due.entry(ack.group).or_default().acked;
                *acked = (*acked).max(Some(ack.index));
            }
        }
        due
    }

    fn tasks(&self, scope: &Scope, syncs: usize, cuts: &[Cut], images: usize) -> Vec<Task> {
        let seeded = |cut: &Cut| matches!(cut, Cut::Prefix | Cut::Some);
        let seeds = |cut: &Cut| if seeded(cut) { scope.seeds.max(1) } else { 1 };
        let kinds: Vec<(Cut, u64)> = cuts
            .iter()
            .flat_map(|cut| (0..seeds(cut)).map(|seed| (*cut, seed)))
            .collect();
        let places = (images / kinds.len().max(1)).clamp(1, syncs.max(1));
        let mut tasks = Vec::new();
        for place in 0..places.min(syncs) {
            let sync = place * syncs / places;
            for (cut, seed) in &kinds {
                tasks.push(Task {
                    name: format!("sync-{sync}-{cut:?}-{seed}"),
                    sync,
                    cut: *cut,
                    seed: *seed,
                });
            }
        }
        tasks
    }

    /// Some of the images, spread over all, under a whole node.
    fn serve_cuts(&self, scope: &Scope, tasks: &[Task], figures: &mut Cuts) -> io::Result<()> {
        let step = tasks.len().div_ceil(scope.served.max(1)).max(1) | 1; // odd: all kinds of cuts come by
        let mut builder = Builder::new(&self.history);
        for task in tasks.iter().skip(step / 2).step_by(step).take(scope.served) {
            builder.go_to(task.sync);
            let disk = builder.disk(task.cut, task.seed);
            let at = self.history.syncs[task.sync].at;
            let acked = self.acks.iter().filter(|ack| ack.at < at);
            let runs: Vec<&str> = acked.map(|ack| ack.run.as_str()).collect();
            if runs.is_empty() {
                continue; // not formed yet: nothing to serve
            }
            figures.served += 1;
            let folder = scope.scratch.join(format!("serve-{}", task.name));
            std::fs::create_dir_all(folder.join("n1"))?;
            disk.write_to(&folder.join("n1"))?;
            let served = serve_now(&scope.program, &folder, &runs)?;
            std::fs::remove_dir_all(&folder)?;
            if served != Served::Whole {
                figures.wrong.push(Wrong {
                    image: format!("served {}", task.name),
                    what: format!("{served:?}"),
                    kept: keep(scope, &disk, &task.name, figures.wrong.len())?,
                });
            }
        }
        Ok(())
    }

    /// The same on a disk that does not do what a sync of the log's own log asks: what this harness is for.
    fn lie(
        &self,
        scope: &Scope,
        dues: &[(usize, Dues)],
        written: &Written,
    ) -> io::Result<(usize, usize)> {
        const IMAGES: usize = 12;
        let history = History::without(&self.events, is_wal).map_err(io::Error::other)?;
        let half = history.syncs.len() / 2;
        let mut tasks = self.tasks(scope, history.syncs.len() - half, &[Cut::Nothing], IMAGES);
        for task in &mut tasks {
            task.sync += half; // by then there is something to lose
            task.name.insert_str(0, "lying-");
        }
        let found = AtomicUsize::new(0);
        let judge = |task: &Task, answer: &Answer| {
            let due = self.due(dues, &history, task.sync);
            if wrong(answer, &due, written).is_some() {
                found.fetch_add(1, Ordering::Relaxed);
            }
            None // as it should be
        };
        open_all(scope, self.node(), &history, &tasks, &judge)?;
        Ok((tasks.len(), found.into_inner()))
    }

    /// Damage to each file of the disk as it was when the node last knew all of its log synced: what it wrote after that it may lose.
    ///
    /// # Errors
    /// The harness failed.
    pub fn damage(&self, scope: &Scope) -> io::Result<Damage> {
        let told = self.history.told();
        let last = told
            .last()
            .map_or(self.history.changes.len(), |it| it.at + 1);
        let end = Builder::whole(&self.history, last);
        let mut opener = Opener::new(&scope.program, self.node());
        let reference = match open(scope, &mut opener, &end, "reference")? {
            Answer::Found(found) => found,
            other => {
                let why = format!("the disk that is to be damaged does not open: {other:?}");
                return Err(io::Error::other(why));
            }
        };
        drop(opener);
        let mut all = Vec::new();
        for (path, bytes) in end.files() {
            let seed = bytes.len() as u64;
            for blow in damage::blows(bytes.len(), scope.truncations, scope.flips, seed) {
                all.push((path.to_owned(), blow));
            }
        }
        let (mut figures, opened) = strike_all(scope, self.node(), &end, &reference, &all)?;
        if self.recording.nodes == 1 {
            self.serve_damaged(scope, &end, &opened, &mut figures)?;
        }
        Ok(figures)
    }

    /// Damage that a start does not refuse, or not at once, under a whole node: it serves all runs, or ends and says why.
    fn serve_damaged(
        &self,
        scope: &Scope,
        end: &Disk,
        opened: &[(String, Blow)],
        figures: &mut Damage,
    ) -> io::Result<()> {
        let runs: Vec<&str> = self.acks.iter().map(|ack| ack.run.as_str()).collect();
        let files = files_of(end);
        for (path, blow) in opened {
            let folder = scope.scratch.join("serve-damaged");
            strike(&folder.join("n1"), &files, path, blow)?;
            let served = serve_now(&scope.program, &folder, &runs)?;
            std::fs::remove_dir_all(&folder)?;
            match served {
                Served::Whole => figures.served.0 += 1,
                Served::Ended(_) => figures.served.1 += 1,
                Served::Misses(missing) => figures.wrong.push(Wrong {
                    image: format!("served {path} {blow:?}"),
                    what: format!("runs are missing: {missing:?}"),
                    kept: None,
                }),
            }
        }
        Ok(())
    }
}

/// Opens all tasks, in parts by as many children as may work at once.
fn open_all(
    scope: &Scope,
    node: u64,
    history: &History,
    tasks: &[Task],
    judge: &(dyn Fn(&Task, &Answer) -> Option<String> + Sync),
) -> io::Result<Vec<Wrong>> {
    let found = Mutex::new(Vec::new());
    let work = |part: &[Task]| -> io::Result<()> {
        let mut opener = Opener::new(&scope.program, node);
        let mut builder = Builder::new(history);
        for task in part {
            builder.go_to(task.sync);
            let disk = builder.disk(task.cut, task.seed);
            let answer = open(scope, &mut opener, &disk, &task.name)?;
            if let Some(what) = judge(task, &answer) {
                let number = found.lock().len();
                let kept = keep(scope, &disk, &task.name, number)?;
                let path = &history.syncs[task.sync].path;
                let image = format!("{} (before the sync of {path})", task.name);
                found.lock().push(Wrong { image, what, kept });
            }
        }
        Ok(())
    };
    in_parts(scope.jobs, tasks, &work)?;
    Ok(found.into_inner())
}

fn in_parts<T: Sync>(
    jobs: usize,
    all: &[T],
    work: &(dyn Fn(&[T]) -> io::Result<()> + Sync),
) -> io::Result<()> {
    let size = all.len().div_ceil(jobs.max(1)).max(1);
    std::thread::scope(|scope| {
        let parts: Vec<_> = all
            .chunks(size)
            .map(|part| scope.spawn(move || work(part)))
            .collect();
        for part in parts {
            let ended = part
                .join()
                .map_err(|_| io::Error::other("a part panicked"))?;
            ended?;
        }
        Ok(())
    })
}

fn strike_all(
    scope: &Scope,
    node: u64,
    end: &Disk,
    reference: &Found,
    all: &[(String, Blow)],
) -> io::Result<(Damage, Vec<(String, Blow)>)> {
    let files = files_of(end);
    let figures = Mutex::new((Damage::default(), Vec::new()));
    let work = |part: &[(String, Blow)]| -> io::Result<()> {
        let mut opener = Opener::new(&scope.program, node);
        for (path, blow) in part {
            let name = format!("{}-{blow:?}", path.replace('/', "-"))
                .replace([' ', '{', '}', ':', ','], "");
            let folder = scope.scratch.join(&name);
            strike(&folder, &files, path, blow)?;
            let answer = opener.open(&folder)?;
            std::fs::remove_dir_all(&folder)?;
            let (came, why) = damage::came(reference, &answer);
            let kind = match blow {
                Blow::CutAt(_) => "truncated",
                Blow::Flip { .. } => "flipped",
                Blow::Gone => "gone",
            };
            let (figures, opened) = &mut *figures.lock();
            let row = figures.outcomes.entry(format!("{} {kind}", kind_of(path)));
            let count = row.or_default().entry(format!("{came:?}")).or_default();
            *count += 1;
            if !why.is_empty() {
                let what = format!("{} {kind} {came:?}", kind_of(path));
                let said = figures.reasons.entry(what).or_default();
                *said.entry(without_numbers(&why)).or_default() += 1;
            }
            if !matches!(came, Came::Refused | Came::Hangs) && *count <= scope.served {
                opened.push((path.clone(), blow.clone()));
            }
            if came == Came::Unnoticed {
                let image = format!("{path} {blow:?}");
                let kept = scope.kept.join(&name);
                let keeps = figures.wrong.len() < KEPT_MAX;
                if keeps {
                    strike(&kept, &files, path, blow)?;
                }
                figures.wrong.push(Wrong {
                    image,
                    what: why,
                    kept: keeps.then_some(kept),
                });
            }
        }
        Ok(())
    };
    in_parts(scope.jobs, all, &work)?;
    Ok(figures.into_inner())
}

/// What two reasons of one kind share.
fn without_numbers(text: &str) -> String {
    let words = text.split_whitespace().map(|word| {
        let is_own = word.contains('/') || word.bytes().any(|it| it.is_ascii_digit());
        if is_own { "…" } else { word }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// A file's name without its number.
fn kind_of(path: &str) -> String {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let kind = match name.rsplit_once('.') {
        Some((_, ending)) => format!("*.{ending}"),
        None => name.split('-').next().unwrap_or(name).to_owned(),
    };
    if folder.is_empty() {
        kind
    } else {
        format!("{folder}/{kind}")
    }
}

fn files_of(disk: &Disk) -> BTreeMap<String, Vec<u8>> {
    let files = disk.files();
    files
        .map(|(path, bytes)| (path.to_owned(), bytes.to_vec()))
        .collect()
}

/// Writes the files into a new folder, one of them damaged.
fn strike(
    folder: &Path,
    files: &BTreeMap<String, Vec<u8>>,
    path: &str,
    blow: &Blow,
) -> io::Result<()> {
    write_files(folder, files)?;
    match blow.strike(&files[path]) {
        Some(bytes) => std::fs::write(folder.join(path), bytes),
        None => std::fs::remove_file(folder.join(path)),
    }
}

fn write_files(folder: &Path, files: &BTreeMap<String, Vec<u8>>) -> io::Result<()> {
    for (path, bytes) in files {
        let path = folder.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, bytes)?;
    }
    Ok(())
}

fn open(scope: &Scope, opener: &mut Opener, disk: &Disk, name: &str) -> io::Result<Answer> {
    let folder = scope.scratch.join(name);
    std::fs::create_dir_all(&folder)?;
    disk.write_to(&folder)?;
    let answer = opener.open(&folder)?;
    std::fs::remove_dir_all(&folder)?;
    Ok(answer)
}

/// Keeps an image that is wrong, as it was before it was opened.
fn keep(scope: &Scope, disk: &Disk, name: &str, number: usize) -> io::Result<Option<PathBuf>> {
    if number >= KEPT_MAX {
        return Ok(None);
    }
    let folder = scope.kept.join(name);
    std::fs::create_dir_all(&folder)?;
    disk.write_to(&folder)?;
    Ok(Some(folder))
}
