//! Driver threads: each keeps the functions of some runs, and polls them outside any async runtime.

use std::{
    collections::{BTreeMap, HashMap},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
};

use holdfast_proto::v1;
use tokio::sync::oneshot;

use super::{
    Registry,
    driver::{Driver, Fate, Todo},
    execute::{Executor, Origin},
    stream::{ToStream, Up},
};
use crate::cx::State;

/// Suspended functions kept per worker; the least recently used goes.
const KEPT_MAX: usize = 1_000;

/// What a driver thread is told.
pub(crate) enum Down {
    /// A run to drive; rows may come in several parts.
    Drive(u32, v1::Drive),
    /// Facts and grants for a run it drives.
    News(u32, v1::News),
    /// The answer to an Advance.
    Advanced(u32, v1::Advanced),
    /// A local step is over.
    Result(u32, String, v1::StepResult),
    /// Stop an attempt or a drive.
    Stop(u32, v1::Stop),
    /// The stream of a partition is open again: send what was not answered.
    Resend(u32),
    /// The session of a partition is over: drop its runs.
    SessionEnded(u32),
    /// What is driven now, for a Hello.
    Held(u32, oneshot::Sender<Vec<v1::HeldRun>>),
    /// The worker leaves: nothing new is asked for.
    Leave,
    /// Answered once every result that is here has been sent.
    Told(oneshot::Sender<()>),
}

/// The way to the driver thread.
#[derive(Clone)]
pub(crate) struct Drivers(Sender<Down>);

impl Drivers {
    pub(crate) fn send(&self, down: Down) {
        drop(self.0.send(down)); // the thread ends last, when all of these are gone
    }

    /// Starts the thread.
    pub(crate) fn start(
        registry: Arc<Registry>,
        up: ToStream,
        executor: Executor,
        free: Arc<AtomicI64>,
    ) -> (Self, std::thread::JoinHandle<()>) {
        let (sender, inbox) = channel();
        let drivers = Self(sender);
        let name = "holdfast-driver".to_owned();
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            let kept = HashMap::new();
            Thread {
                registry,
                up,
                executor,
                free,
                driven: kept,
                parts: HashMap::new(),
                kept: Kept::default(),
                leaving: false,
                told: Vec::new(),
            }
            .run(&inbox);
        });
        (drivers, thread.expect("a thread can be started"))
    }
}

type Key = (u32, String);

/// Functions by run, and runs by when they were put here.
#[derive(Default)]
struct Kept {
    drivers: HashMap<Key, (u64, Driver)>,
    order: BTreeMap<u64, Key>,
    next: u64,
}

impl Kept {
    fn put(&mut self, key: Key, driver: Driver) {
        self.take(&key);
        self.next += 1;
        self.order.insert(self.next, key.clone());
        self.drivers.insert(key, (self.next, driver));
        if self.drivers.len() > KEPT_MAX
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.drivers.remove(&oldest);
        }
    }

    fn take(&mut self, key: &Key) -> Option<Driver> {
        let (at, driver) = self.drivers.remove(key)?;
        self.order.remove(&at);
        Some(driver)
    }
}

struct Thread {
    registry: Arc<Registry>,
    up: ToStream,
    executor: Executor,
    free: Arc<AtomicI64>,
    driven: HashMap<Key, Driver>,
    /// Journals of which more follows.
    parts: HashMap<Key, v1::Drive>,
    kept: Kept,
    leaving: bool,
    told: Vec<oneshot::Sender<()>>,
}

impl Thread {
    fn run(mut self, inbox: &Receiver<Down>) {
        let mut touched: Vec<Key> = Vec::new();
        while let Ok(first) = inbox.recv() {
            self.take(first, &mut touched);
            while let Ok(next) = inbox.try_recv() {
                self.take(next, &mut touched);
            }
            // Results that finished together travel together.
            for key in touched.drain(..) {
                let Some(driver) = self.driven.get_mut(&key) else {
                    continue;
                };
                let mut todo = Todo::default();
                driver.advance(&mut todo);
                self.perform(key, todo);
            }
            if self.driven.values().all(Driver::has_told) {
                for told in self.told.drain(..) {
                    let _ = told.send(()); // whoever asked may have given up
                }
            }
        }
    }

    fn take(&mut self, down: Down, touched: &mut Vec<Key>) {
        match down {
            Down::Drive(partition, drive) => self.drive(partition, drive),
            Down::News(partition, news) => {
                let key = (partition, news.run.clone());
                if let Some(driver) = self.driven.get_mut(&key) {
                    let todo = driver.news(news);
                    self.perform(key, todo);
                }
            }
            Down::Advanced(partition, advanced) => {
                let key = (partition, advanced.run.clone());
                if let Some(driver) = self.driven.get_mut(&key) {
                    let todo = driver.advanced(advanced);
                    self.perform(key, todo);
                }
            }
            Down::Result(partition, run, result) => {
                let key = (partition, run);
                if let Some(driver) = self.driven.get_mut(&key) {
                    driver.result(result);
                    touched.push(key);
                }
            }
            Down::Stop(partition, stop) => self.stop(partition, &stop),
            Down::Resend(partition) => self.resend(partition),
            Down::SessionEnded(partition) => self.end_session(partition),
            Down::Held(partition, answer) => drop(answer.send(self.held(partition))),
            Down::Leave => self.leaving = true,
            Down::Told(answer) => self.told.push(answer),
        }
    }

    fn drive(&mut self, partition: u32, drive: v1::Drive) {
        let key = (partition, drive.run.clone());
        if self
            .driven
            .get(&key)
            .is_some_and(|driver| driver.fence() == drive.fence)
        {
            return; // offered again
        }
        let Some(drive) = self.join(&key, drive) else {
            return;
        };
        self.drop_run(&key); // driven under an older lease, whose end was not heard of
        let kept = self.kept.take(&key);
        let kept = kept.filter(|it| drive.first_seq > 0 && it.rows() == drive.first_seq);
        if drive.first_seq > 0 && kept.is_none() {
            let need = v1::NeedJournal {
                run: drive.run,
                fence: drive.fence,
            };
            self.up.send(Up::Message(
                partition,
                v1::from_worker::Message::NeedJournal(need),
            ));
            return;
        }
        let driver = kept.or_else(|| self.begin(&drive));
        let Some(mut driver) = driver else {
            self.give_back(partition, drive.run, drive.fence);
            return self.up.send(Up::DriveOver(partition));
        };
        let todo = driver.drive(drive);
        self.driven.insert(key.clone(), driver);
        self.perform(key, todo);
    }

    fn give_back(&self, partition: u32, run: String, fence: u64) {
        let run = v1::HeldRun {
            run,
            fence,
            delivery: 0,
        };
        let back = v1::Return {
            runs: vec![run],
            steps: Vec::new(),
        };
        let back = v1::from_worker::Message::Return(back);
        self.up.send(Up::Message(partition, back));
    }

    /// A journal that fills several messages, once its last one is here. A lost stream leaves a beginning behind, which
    /// the next offer replaces.
    fn join(&mut self, key: &Key, drive: v1::Drive) -> Option<v1::Drive> {
        let joined = match self.parts.remove(key) {
            Some(mut first) if first.fence == drive.fence && drive.first_seq > first.first_seq => {
                first.rows.extend(drive.rows);
                first.more = drive.more;
                first
            }
            _ => drive,
        };
        if joined.more {
            self.parts.insert(key.clone(), joined);
            return None;
        }
        Some(joined)
    }

    /// A function from its beginning; none when this worker did not register it.
    fn begin(&self, drive: &v1::Drive) -> Option<Driver> {
        let make = self
            .registry
            .workflows
            .get(&(drive.workflow.clone(), drive.version))?;
        let registry = Arc::clone(&self.registry);
        let bodies = Box::new(move |step: &str, input| registry.body(step, input));
        let state = State::new(drive.run.clone(), self.registry.queue.clone(), bodies);
        let state = Rc::new(state);
        Some(Driver::new(
            Rc::clone(&state),
            make(state, drive.input.clone()),
        ))
    }

    fn perform(&mut self, key: Key, todo: Todo) {
        if let Some(mut advance) = todo.advance {
            let free = if self.leaving {
                0
            } else {
                self.free.load(Ordering::Relaxed).max(0)
            };
            advance.free_slots = u32::try_from(free).unwrap_or(u32::MAX);
            self.up.send(Up::Message(
                key.0,
                v1::from_worker::Message::Advance(advance),
            ));
        }
        for (grant, body) in todo.begin {
            self.executor
                .begin(Origin::Local(key.0, key.1.clone()), grant, body);
        }
        match todo.fate {
            Fate::Drives => {}
            Fate::Keep => {
                if let Some(driver) = self.driven.remove(&key) {
                    self.up.send(Up::DriveOver(key.0));
                    self.kept.put(key, driver);
                }
            }
            Fate::Return => {
                let fence = self.driven.get(&key).map(Driver::fence);
                self.drop_run(&key);
                if let Some(fence) = fence {
                    self.give_back(key.0, key.1, fence);
                }
            }
            Fate::Drop => self.drop_run(&key),
        }
    }

    fn drop_run(&mut self, key: &Key) {
        if self.driven.remove(key).is_some() {
            self.executor.stop_run(key.0, &key.1);
            self.up.send(Up::DriveOver(key.0));
        }
    }

    fn stop(&mut self, partition: u32, stop: &v1::Stop) {
        let key = (partition, stop.run.clone());
        let driven = self
            .driven
            .get(&key)
            .is_some_and(|driver| driver.fence() == stop.fence);
        if driven {
            tracing::info!(run = stop.run, why = stop.why, "a drive was ended");
            self.drop_run(&key);
        }
    }

    fn resend(&mut self, partition: u32) {
        for ((of, _), driver) in &self.driven {
            if let Some(advance) = driver.unanswered().filter(|_| *of == partition) {
                let advance = v1::from_worker::Message::Advance(advance.clone());
                self.up.send(Up::Message(partition, advance));
            }
        }
    }

    fn end_session(&mut self, partition: u32) {
        self.parts.retain(|(of, _), _| *of != partition);
        let runs: Vec<Key> = self
            .driven
            .keys()
            .filter(|(of, _)| *of == partition)
            .cloned()
            .collect();
        for key in runs {
            self.driven.remove(&key);
            self.executor.stop_run(key.0, &key.1);
        }
    }

    fn held(&self, partition: u32) -> Vec<v1::HeldRun> {
        let driven = self.driven.iter().filter(|((of, _), _)| *of == partition);
        driven
            .map(|((_, run), driver)| v1::HeldRun {
                run: run.clone(),
                fence: driver.fence(),
                delivery: driver.seen(),
            })
            .collect()
    }
}
