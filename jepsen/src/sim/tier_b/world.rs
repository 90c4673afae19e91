//! The world: moves time by a millisecond, lets every node run up to it, and the rest of the course of a seed: form the
//! cluster, storm, heal, judge.
//!
//! Invariant: the order of everything in a tick is fixed: ends and starts, what the network delivers, the nodes by number,
//! clients, checks. Not here: what a fault does (`faults`), what is checked (`checks`).

use std::io::Write;

use holdfast_raft::NodeId;
use holdfast_raft::groups::Named;
use holdfast_raft::host::sim::disk::{self, End};
use holdfast_raft::host::sim::{self, Rng, net};

use super::checks::{Checks, all_act};
use super::clients::Clients;
use super::faults::Nemesis;
use super::node::{Node, peer_address};
use super::plan::Plan;
use super::scenarios::{self, Scenario};
use super::spoil::{self, Spoiler};
use super::{Ask, FOLDER_SYNC_LIES, Verdict};

/// A new cluster leads within this, in ms.
const FORM_MS_MAX: u64 = 15_000;
/// L2: after the heal everything has converged within this, in ms.
const HEAL_MS_MAX: u64 = 30_000;
/// With all but one healed, somebody leads again within this, in ms.
const LED_MS_MAX: u64 = 10_000;
/// Starts that are asked for one after another at the end.
const ALONE: u64 = 70;
/// Each of them is acknowledged within this, in ms.
const ALONE_MS_MAX: u64 = 1_000;
/// Between two close looks, in ms.
const CLOSE_LOOK_MS: u64 = 500;

/// All of it.
pub struct World {
    pub plan: Plan,
    pub nodes: Vec<Node>,
    pub clients: Clients,
    pub nemesis: Nemesis,
    pub spoiler: Spoiler,
    pub checks: Checks,
    pub rng: Rng,
    asks: bool,
}

/// Runs one seed.
pub fn run(ask: &Ask) -> Result<Verdict, String> {
    match ask.bug.as_deref() {
        None => {}
        Some(FOLDER_SYNC_LIES) => disk::lie_about_names(),
        Some(bug) => plant(bug)?,
    }
    trace_to(ask)?;
    let mut rng = Rng::new(ask.seed ^ 0x0068_6f6c_6466_6173);
    let scenario = match &ask.scenario {
        Some(name) => Some(scenarios::of(name)?),
        None => None,
    };
    let plan = match &scenario {
        Some(scenario) => scenario.plan(),
        None => Plan::draw(ask.seed, &mut rng),
    };
    panics_are_kept();
    sim::trace(&format!("seed {} {}", ask.seed, plan.line()));
    let mut world = World::new(plan, rng);
    world.course(scenario);
    let verdict = world.verdict();
    sim::trace(&format!("end {verdict:?}"));
    sim::set_trace(None);
    Ok(verdict)
}

#[cfg(feature = "seeded-bugs")]
fn plant(name: &str) -> Result<(), String> {
    use holdfast_raft::seeded;
    let found = seeded::ALL.iter().find(|(known, _)| *known == name);
    let (_, bug) = found.ok_or_else(|| format!("no bug {name:?}"))?;
    seeded::arm_process(*bug);
    Ok(())
}

#[cfg(not(feature = "seeded-bugs"))]
fn plant(name: &str) -> Result<(), String> {
    Err(format!(
        "{name:?} is not planted in this build: it needs feature `seeded-bugs`"
    ))
}

fn trace_to(ask: &Ask) -> Result<(), String> {
    let Some(path) = &ask.trace else {
        return Ok(());
    };
    let mut out: Box<dyn Write> = if path.as_os_str() == "-" {
        Box::new(std::io::stdout())
    } else {
        let file = std::fs::File::create(path)
            .map_err(|cause| format!("{} cannot be written: {cause}", path.display()))?;
        Box::new(std::io::BufWriter::new(file))
    };
    sim::set_trace(Some(Box::new(move |line: &str| {
        let wrote = writeln!(out, "{:>7} {line}", sim::now_ms());
        drop(wrote); // a reader that has gone changes no course
    })));
    Ok(())
}

thread_local! {
    static PANICS: std::cell::RefCell<Vec<String>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// A panic inside a node is a finding: nothing there may panic.
fn panics_are_kept() {
    std::panic::set_hook(Box::new(|panic| {
        PANICS.with_borrow_mut(|panics| panics.push(panic.to_string()));
    }));
}

impl World {
    fn new(plan: Plan, mut rng: Rng) -> Self {
        net::begin(rng.draw(), plan.link);
        sim::set_now_ms(0);
        let skew = |rng: &mut Rng| {
            let span = plan.skew_ms_max;
            i64::try_from(rng.below(2 * span + 1)).unwrap_or(0) - i64::try_from(span).unwrap_or(0)
        };
        let nodes = (1..=plan.voters)
            .map(|id| {
                let skew = skew(&mut rng);
                Node::new(id, skew)
            })
            .collect();
        let checks = Checks::new(!plan.faults.membership);
        Self {
            nodes,
            clients: Clients::new(rng.draw(), plan.partitions),
            nemesis: Nemesis::new(rng.draw()),
            spoiler: Spoiler::new(plan.spoil),
            checks,
            rng,
            plan,
            asks: false,
        }
    }

    fn course(&mut self, scenario: Option<Scenario>) {
        if !self.form() {
            return;
        }
        self.asks = true;
        match scenario {
            Some(scenario) => scenario.play(self),
            None => {
                self.run_for(2_000);
                let until = sim::now_ms() + self.plan.storm_ms;
                while sim::now_ms() < until && self.goes_on() {
                    self.nemesis.step(&mut self.nodes, &self.plan);
                    self.nemesis.ends += self.spoiler.step(&mut self.nodes, self.plan.spoil);
                    self.tick();
                }
            }
        }
        self.heal();
    }

    pub fn goes_on(&self) -> bool {
        self.checks.violations.is_empty()
    }

    pub fn run_for(&mut self, ms: u64) {
        let until = sim::now_ms() + ms;
        while sim::now_ms() < until && self.goes_on() {
            self.tick();
        }
    }

    /// Runs until `look` says yes, at most `ms`; whether it did.
    pub fn run_until(&mut self, ms: u64, look: impl Fn(&Self) -> bool) -> bool {
        let until = sim::now_ms() + ms;
        while sim::now_ms() < until && self.goes_on() {
            if look(self) {
                return true;
            }
            self.tick();
        }
        look(self)
    }

    pub fn tick(&mut self) {
        for node in &mut self.nodes {
            if node.back_at_ms.is_some_and(|at| at <= sim::now_ms()) {
                node.start(&self.plan, &mut self.rng);
            }
        }
        sim::set_now_ms(sim::now_ms() + 1);
        net::deliver();
        for at in 0..self.nodes.len() {
            let node = &mut self.nodes[at];
            if let Some(why) = node.tick() {
                sim::trace(&format!("n{} ended itself: {why}", node.id));
                self.nemesis.ends += 1;
                let how = match why {
                    sim::AT_A_SYNC => self.spoiler.end_at_sync(self.plan.spoil),
                    _ => End::Killed,
                };
                node.end(how, &mut self.rng);
                node.back_at_ms = Some(sim::now_ms() + self.rng.within(1, 500));
                self.spoiler.take_out(node);
            }
            let failed = node
                .process
                .as_ref()
                .and_then(|it| it.door.failed.lock().clone());
            if let Some(cause) = failed {
                // What was injected is tried again, as a supervisor would; anything else is a finding.
                let is_out = self.spoiler.take_out(node);
                let is_known = spoil::explains(&cause, self.plan.spoil, is_out);
                if !is_known && !cause.contains("Input/output error") {
                    let id = node.id;
                    self.checks.violated(format!("n{id} cannot start: {cause}"));
                }
                node.end(End::Killed, &mut self.rng);
                node.back_at_ms = (!is_out).then(|| sim::now_ms() + 500);
            }
        }
        self.checks.look(&self.nodes);
        for panic in PANICS.take() {
            self.checks.violated(format!("a panic: {panic}"));
        }
        if self.asks {
            let plan = &self.plan;
            self.clients.step(
                &self.nodes,
                plan.ask_every_ms,
                plan.burst_max,
                &mut self.checks,
            );
        }
        self.clients
            .keep_workers(&self.nodes, self.plan.workers.max(1));
        if sim::now_ms().is_multiple_of(CLOSE_LOOK_MS) {
            self.checks.look_closely(&self.nodes);
        }
    }

    /// The index of the node that leads all groups' first one, if any does.
    pub fn leader(&self) -> Option<usize> {
        self.nodes.iter().position(|node| {
            let Some(groups) = node.groups() else {
                return false;
            };
            let replicas = groups.replicas();
            let replicas = replicas.borrow();
            let leads = |it: &holdfast_raft::Replica<_>| it.watch_leader().borrow().is_self;
            replicas.first().is_some_and(leads)
        })
    }

    fn form(&mut self) -> bool {
        let all_open = |it: &Self| it.nodes.iter().all(|node| node.groups().is_some());
        if !self.run_until(FORM_MS_MAX, all_open) {
            self.checks
                .violated("a node does not open an empty folder".to_owned());
            return false;
        }
        if !self.lose_power_early(all_open) {
            return false;
        }
        let named: Vec<Named> = self
            .nodes
            .iter()
            .map(|node| Named {
                node: Some(NodeId(node.id)),
                peer_address: peer_address(node.id),
                api_address: None,
            })
            .collect();
        // A storage fault may strike already: init is repeated until it is through, as a person would.
        for round in 0..5 {
            if let (Some(process), Some(groups)) = (&self.nodes[0].process, self.nodes[0].groups())
            {
                let (named, partitions) = (named.clone(), self.plan.partitions);
                process.runtime.spawn(async move {
                    let formed = groups.init("sim", partitions, named).await;
                    sim::trace(&format!("init: {:?}", formed.map(|it| it.already)));
                });
            }
            if self.plan.spoil.names && round < 2 && self.spoiler.cuts_again() {
                let wait = self.spoiler.wait_ms();
                self.run_for(wait);
                self.nemesis.ends += self.spoiler.cut(&mut self.nodes);
            }
            if self.run_until(FORM_MS_MAX, |it| it.leader().is_some()) {
                return true;
            }
        }
        self.checks.violated("L2: no leader after init".to_owned());
        false
    }

    /// Where names are lost with the power, it is lost a few times before anything else has happened.
    fn lose_power_early(&mut self, all_open: impl Fn(&Self) -> bool) -> bool {
        while self.plan.spoil.names && self.spoiler.cuts_again() {
            self.nemesis.ends += self.spoiler.cut(&mut self.nodes);
            let wait = self.spoiler.wait_ms();
            self.run_for(wait);
        }
        if !self.run_until(FORM_MS_MAX, all_open) && self.goes_on() {
            let what = "a node does not open its folder again after it lost power";
            self.checks.violated(what.to_owned());
        }
        self.goes_on()
    }

    fn heal(&mut self) {
        if !self.goes_on() {
            return;
        }
        sim::trace("heal");
        self.plan.habits = sim::Habits::GOOD;
        self.plan.link = net::Link::GOOD;
        self.nemesis.heal(&mut self.nodes);
        self.spoiler.heal(&self.nodes);
        self.run_for(3_000);
        self.asks = false;
        let converged = |it: &Self| {
            it.clients.is_quiet()
                && it.clients.finished(&it.nodes).1.is_empty()
                && agree(it).is_ok()
        };
        let mut healed = false;
        let until = sim::now_ms() + HEAL_MS_MAX;
        while sim::now_ms() < until && self.goes_on() && !healed {
            for _ in 0..50 {
                self.tick();
            }
            self.clients.hear(&mut self.checks);
            self.clients.resume_what_outlived_its_workers(&self.nodes);
            healed = converged(self);
        }
        if !healed && self.goes_on() {
            let (_, live) = self.clients.finished(&self.nodes);
            let (count, why) = (live.len(), agree(self).err());
            let first = live.first().map(|run| (&run.id, &run.mode));
            self.checks.violated(format!(
                "L2: not converged {HEAL_MS_MAX} ms after the heal: {count} runs are not final, {why:?}, {first:?}"
            ));
        }
        self.leave_the_damaged_behind();
        self.goes_on_quickly();
        let mut lines = self.clients.nothing_is_lost(&self.nodes);
        lines.extend(self.clients.never_answered(&self.nodes));
        lines.extend(Checks::same_rows(&self.nodes));
        for line in lines {
            self.checks.violated(line);
        }
    }

    /// A disk that was damaged may be noticed at any time: from here on nothing is to be wrong.
    fn leave_the_damaged_behind(&mut self) {
        let struck = self.spoiler.struck();
        let node = self.nodes.iter_mut().find(|it| Some(it.id) == struck);
        let Some(node) = node else { return };
        node.end(End::Killed, &mut self.rng);
        node.is_out = true;
        node.back_at_ms = None;
        let led = |it: &Self| all_act(&it.nodes, it.plan.partitions);
        if !self.run_until(LED_MS_MAX, led) && self.goes_on() {
            let what = "L1: without the damaged node nobody leads";
            self.checks.violated(what.to_owned());
        }
    }

    /// L3: with nothing wrong, each of many starts in a row is acknowledged soon, though nothing follows that would push it on.
    fn goes_on_quickly(&mut self) {
        for _ in 0..ALONE {
            if !self.goes_on() {
                return;
            }
            let Some(run) = self.clients.ask_one(&self.nodes) else {
                self.checks.violated("L1: a group is not led".to_owned());
                return;
            };
            let until = sim::now_ms() + ALONE_MS_MAX;
            while !self.clients.is_acknowledged(run) && self.goes_on() {
                if sim::now_ms() >= until {
                    self.checks.violated(format!(
                        "L3: the start of r{run} is not acknowledged within {ALONE_MS_MAX} ms, with nothing wrong"
                    ));
                    return;
                }
                self.tick();
                self.clients.hear(&mut self.checks);
            }
        }
        // What these runs led to is applied everywhere.
        let all = |it: &Self| agree(it).is_ok();
        if !self.run_until(HEAL_MS_MAX, all) && self.goes_on() {
            let why = agree(self).err();
            self.checks
                .violated(format!("L2: replicas do not meet: {why:?}"));
        }
    }

    fn verdict(&mut self) -> Verdict {
        let (finished, _) = self.clients.finished(&self.nodes);
        let verdict = Verdict {
            violations: self.checks.violations.clone(),
            plan: self.plan.line(),
            simulated_ms: sim::now_ms(),
            applied: self.checks.applied,
            acknowledged: self.clients.acknowledged,
            unknown: self.clients.unknown,
            finished,
            leaders: self.checks.leaders(),
            ends: self.nemesis.ends,
            installed: self.checks.installed,
            out: self.spoiler.out,
        };
        for node in &mut self.nodes {
            node.end(End::Killed, &mut self.rng);
        }
        verdict
    }
}

/// All members agree; a node that was taken out need not.
fn agree(world: &World) -> Result<(), String> {
    Checks::agree(&world.nodes)
}
