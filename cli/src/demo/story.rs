//! The story itself: start, submit, kill on a condition, restart, wait for the ends, audit.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use holdfast::{Client, ClientError, wire};
use holdfast_jepsen::cluster::{Cluster, ClusterSpec, Process, ProcessSpec, free_port};

use super::{Kill, Story, audit, dice::Dice, look, never_formed, order};
use crate::output::{self, Failure};

/// Then the demo explains what is not finished, and fails.
const WATCHDOG: Duration = Duration::from_secs(120);
/// A node that was started again serves by then.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// Between two probes of the stopwatch.
const PROBE_EVERY: Duration = Duration::from_millis(20);
/// How long the shop takes over each call, so that steps are in flight when something is killed.
const SHOP_LATENCY_MS: u64 = 60;
/// How long a node is missed after a kill.
const MISSED: Duration = Duration::from_secs(1);
/// In a loop of kills, how long a node is missed, and how long the next kill waits, at most and in milliseconds.
const LOOP_PAUSE_MS_MAX: u64 = 400;
/// Steps under lease at which something is killed.
const IN_FLIGHT_MIN: usize = 5;

struct Stage {
    began: Instant,
    folder: PathBuf,
    nodes: Cluster,
    worker: Process,
    _shop: Process,
    client: Client,
    orders: u32,
}

/// Tells it.
pub async fn tell(story: Story) -> Result<(), Failure> {
    let folder = folder()?;
    let seed = story
        .seed
        .unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
    let chance = match story.kill {
        Kill::Loop => format!("   seed {seed}"),
        Kill::Leader | Kill::Follower | Kill::Worker | Kill::None => String::new(),
    };
    output::line(format!(
        "holdfast demo: {} nodes, 1 worker, {} orders      data {}   logs n1.log n2.log n3.log in it{chance}",
        story.nodes,
        story.orders,
        folder.display()
    ));
    let told = tokio::time::timeout(WATCHDOG, play(&story, seed, &folder)).await;
    match told {
        Ok(Ok(())) => {
            if !story.keep {
                std::fs::remove_dir_all(&folder)?;
            }
            Ok(())
        }
        Ok(Err(failure)) => {
            output::talk(format!("kept: {}", folder.display()));
            Err(failure)
        }
        Err(_) => {
            output::talk(format!("kept: {}", folder.display()));
            Err(Failure::error(format!(
                "the demo did not end within {WATCHDOG:?}"
            )))
        }
    }
}

fn folder() -> Result<PathBuf, Failure> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))
        .ok_or_else(|| Failure::error("neither XDG_CACHE_HOME nor HOME is set"))?;
    let name = uuid::Uuid::new_v4().simple().to_string();
    let folder = cache.join("holdfast").join(format!("demo-{}", &name[..6]));
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

async fn play(story: &Story, seed: u64, folder: &Path) -> Result<(), Failure> {
    let stage = set(story, folder).await?;
    stage.submit().await?;
    let approving = tokio::spawn(approve_all(stage.client.clone(), story.orders));
    if story.kill == Kill::Loop {
        stage.strike_until_ends(Dice::new(seed)).await?;
    } else {
        stage.wait_for_in_flight().await?;
        stage.strike(story.kill).await?;
        stage.wait_for_ends().await?;
    }
    approving.abort();
    look::tell(&stage.audit().await?)?;
    if !story.exit {
        output::line("it stays until Ctrl-C");
        tokio::signal::ctrl_c().await?;
    }
    stage.leave().await;
    Ok(())
}

/// Processes up, cluster formed, worker attached.
#[expect(clippy::too_many_lines, reason = "a list of what is started, in order")]
async fn set(story: &Story, folder: &Path) -> Result<Stage, Failure> {
    let began = Instant::now();
    let program = std::env::current_exe()?;
    let spec = ClusterSpec::new(&program, folder)
        .beside_others()
        .nodes(story.nodes)
        .port_base(story.port_base);
    let nodes = Cluster::start(spec).map_err(never_formed)?;
    for busy in nodes.busy() {
        output::line(format!(
            "        {busy}; using {} and on",
            nodes.ports(1).api
        ));
    }
    nodes.wait_live(READY_WITHIN).await.map_err(never_formed)?;
    let client = Client::connect(&nodes.endpoints()).await?;
    let peers = nodes.peers().into_iter();
    let members = peers.map(|peer| wire::InitMember {
        peer,
        ..Default::default()
    });
    let (name, partitions) = ("demo".to_owned(), story.partitions);
    let init = wire::InitRequest {
        name,
        partitions,
        members: members.collect(),
        abandon: false,
    };
    client.cluster_init(init).await.map_err(never_formed)?;
    let shop_at = format!("127.0.0.1:{}", free_port().map_err(Failure::error)?);
    let unlucky = format!("order-{}", order::unlucky(story.orders));
    let ledger = folder.join("ledger.jsonl").display().to_string();
    let latency = SHOP_LATENCY_MS.to_string();
    let shop = [
        "demo",
        "shop",
        "--listen",
        &shop_at,
        "--ledger",
        &ledger,
        "--latency-ms",
        &latency,
        "--throttle",
        &unlucky,
    ];
    let shop = child("shop", &program, &shop, folder)?;
    let endpoints = nodes.endpoints().join(",");
    let worker = [
        "demo",
        "worker",
        "--endpoints",
        &endpoints,
        "--shop",
        &shop_at,
    ];
    let worker = child("worker", &program, &worker, folder)?;
    let folder = folder.to_owned();
    let orders = story.orders;
    let stage = Stage {
        began,
        folder,
        nodes,
        worker,
        _shop: shop,
        client,
        orders,
    };
    let (leader, term) = stage.leader().await?;
    stage.say(format!(
        "n{leader} leads term {term}            api http://127.0.0.1:{}",
        stage.nodes.ports(1).api
    ));
    stage.wait_known().await?;
    Ok(stage)
}

fn child(name: &str, program: &Path, args: &[&str], folder: &Path) -> Result<Process, Failure> {
    let log = folder.join(format!("{name}.log"));
    Process::start(ProcessSpec::new(name, program, log).args(args)).map_err(Failure::error)
}

async fn approve_all(client: Client, orders: u32) {
    for n in (1..=orders).filter(|n| *n != order::waits_for_you(orders)) {
        while let Err(error) = order::approve(&client, n, orders).await {
            if !matches!(error, ClientError::Unavailable(_) | ClientError::TimedOut) {
                output::talk(format!("order-{n} could not be approved: {error}"));
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
}

impl Stage {
    fn say(&self, text: impl std::fmt::Display) {
        output::line(format!(
            "{:5.1}s  {text}",
            self.began.elapsed().as_secs_f64()
        ));
    }

    /// The leader of partition 1 and its term, as soon as some node knows.
    async fn leader(&self) -> Result<(u64, u64), Failure> {
        for _ in 0..500 {
            if let Ok(topology) = self.client.topology().await
                && let Some(it) = topology
                    .leaders
                    .iter()
                    .find(|it| it.partition == 1 && it.node != 0)
            {
                return Ok((it.node, it.term));
            }
            tokio::time::sleep(PROBE_EVERY).await;
        }
        Err(never_formed("no leader within 10 s"))
    }

    /// The worker has registered the workflow in every partition.
    async fn wait_known(&self) -> Result<(), Failure> {
        for _ in 0..500 {
            let known = self
                .client
                .list_workflows(wire::ListWorkflowsRequest {})
                .await;
            let partitions = self.client.topology().await.map_or(1, |it| it.partitions);
            if known.is_ok_and(|it| it.workflows.len() >= partitions as usize) {
                return Ok(());
            }
            tokio::time::sleep(PROBE_EVERY).await;
        }
        Err(Failure::error(format!(
            "the worker did not attach:\n{}",
            self.worker.log_tail(5)
        )))
    }

    async fn submit(&self) -> Result<(), Failure> {
        for n in 1..=self.orders {
            let id = format!("order-{n}");
            self.client.start(order::ORDER, &id, id.clone()).await?;
        }
        self.say(format!("{} orders submitted", self.orders));
        Ok(())
    }

    /// Runs that a worker drives now: each has a step under lease.
    async fn in_flight(&self) -> Result<usize, Failure> {
        let counts = look::counts(&self.client).await?;
        Ok(counts.get("running").copied().unwrap_or_default())
    }

    async fn wait_for_in_flight(&self) -> Result<(), Failure> {
        loop {
            let counts = look::counts(&self.client).await?;
            let done = counts.get("completed").copied().unwrap_or_default();
            if done > 0 && self.in_flight().await? >= IN_FLIGHT_MIN.min(self.orders as usize / 4) {
                return Ok(());
            }
            if done + 3 >= self.orders as usize {
                return Ok(()); // too few orders for a crowd
            }
            tokio::time::sleep(PROBE_EVERY).await;
        }
    }

    async fn strike(&self, kill: Kill) -> Result<(), Failure> {
        let count = u64::try_from(self.nodes.ids().count()).map_err(Failure::error)?;
        let (leader, _) = self.leader().await?;
        match kill {
            Kill::None | Kill::Loop => Ok(()),
            Kill::Worker => self.strike_worker().await,
            Kill::Leader => self.strike_node(leader, kill.into(), MISSED).await,
            Kill::Follower => {
                self.strike_node(leader % count + 1, kill.into(), MISSED)
                    .await
            }
        }
    }

    async fn strike_worker(&self) -> Result<(), Failure> {
        let flying = self.in_flight().await?;
        let pid = self.worker.pid().unwrap_or_default();
        self.worker.kill9().map_err(Failure::error)?;
        self.say(format!(
            "SIGKILL worker (pid {pid})   {flying} steps were in its hands"
        ));
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.worker.restart().map_err(Failure::error)?;
        self.say("a new worker has started; the old leases end with their term");
        Ok(())
    }

    /// Kills a node, waits for the first write without it, and starts it again.
    async fn strike_node(&self, victim: u64, what: &str, missed: Duration) -> Result<(), Failure> {
        let victim = u16::try_from(victim).map_err(Failure::error)?;
        let flying = self.in_flight().await?;
        let (name, pid) = (
            format!("n{victim}"),
            self.nodes.node(victim).pid().unwrap_or_default(),
        );
        self.nodes.node(victim).kill9().map_err(Failure::error)?;
        let killed = Instant::now();
        self.say(format!(
            "SIGKILL {name} (pid {pid}, {what})   {flying} steps were under lease"
        ));
        self.probe(victim, killed).await?;
        tokio::time::sleep(missed).await;
        self.nodes.node(victim).restart().map_err(Failure::error)?;
        self.wait_caught_up(victim, &name).await
    }

    /// Kills one node after the other until all orders have ended.
    async fn strike_until_ends(&self, mut dice: Dice) -> Result<(), Failure> {
        let nodes = self.nodes.ids().count() as u64;
        let striking = async {
            loop {
                let victim = dice.roll(nodes) + 1;
                let missed = Duration::from_millis(dice.roll(LOOP_PAUSE_MS_MAX));
                let struck = self.strike_node(victim, Kill::Loop.into(), missed).await;
                if let Err(failure) = struck {
                    return failure;
                }
                tokio::time::sleep(Duration::from_millis(dice.roll(LOOP_PAUSE_MS_MAX))).await;
            }
        };
        tokio::select! {
            ended = self.wait_for_ends() => ended?,
            failure = striking => return Err(failure),
        }
        // The last one that was killed may not be back yet.
        for id in self
            .nodes
            .ids()
            .filter(|id| !self.nodes.node(*id).is_running())
        {
            self.nodes.node(id).restart().map_err(Failure::error)?;
        }
        self.nodes
            .wait_ready(READY_WITHIN)
            .await
            .map_err(Failure::error)
    }

    /// The first acknowledged write after a kill, by the demo's own stopwatch.
    async fn probe(&self, victim: u16, killed: Instant) -> Result<(), Failure> {
        let mut others = self.nodes.endpoints();
        others.remove(usize::from(victim) - 1);
        let client = Client::connect(&others).await?;
        loop {
            let run = client.run(
                order::ORDER,
                &format!("order-{}", order::waits_for_you(self.orders)),
            );
            let wrote = tokio::time::timeout(Duration::from_millis(200), async {
                run.signal_json("probe", &serde_json::json!(true))
                    .id("probe")
                    .await
            });
            if matches!(wrote.await, Ok(Ok(()))) {
                break;
            }
            tokio::time::sleep(PROBE_EVERY).await;
        }
        let without = killed.elapsed();
        let topology = client.topology().await?;
        let leader = topology.leaders.first().cloned().unwrap_or_default();
        self.say(format!(
            "n{} leads term {}            no leader for {:.3} s",
            leader.node,
            leader.term,
            without.as_secs_f64()
        ));
        Ok(())
    }

    async fn wait_caught_up(&self, node: u16, name: &str) -> Result<(), Failure> {
        let began = Instant::now();
        let admin = self.admin(node);
        let newest = self.newest_applied(node).await;
        loop {
            let applied = look::metric(&admin, "holdfast_raft_applied_index", "group=\"1\"").await;
            if applied.is_some_and(|it| it >= newest) {
                self.say(format!(
                    "{name} is back                 caught up to entry {newest} in {:.1} s",
                    began.elapsed().as_secs_f64()
                ));
                return Ok(());
            }
            tokio::time::sleep(PROBE_EVERY).await;
        }
    }

    async fn newest_applied(&self, but: u16) -> u64 {
        let mut newest = 0;
        for id in self.nodes.ids().filter(|id| *id != but) {
            let admin = self.admin(id);
            let found = look::metric(&admin, "holdfast_raft_applied_index", "group=\"1\"").await;
            newest = newest.max(found.unwrap_or_default());
        }
        newest
    }

    async fn wait_for_ends(&self) -> Result<(), Failure> {
        let wanted = self.orders as usize - 2;
        while !look::ended(&self.client, self.orders).await? {
            if self.began.elapsed() > WATCHDOG.mul_f32(0.9) {
                look::explain_all(&self.client, self.orders).await;
                return Err(Failure::error("not all orders ended"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.say(format!(
            "{wanted} shipped · 1 rejected and refunded · 1 waits for you:"
        ));
        let waits = order::waits_for_you(self.orders);
        let answer = r#"'{"by":"you","approved":true}'"#;
        output::line(format!(
            "        holdfast run signal order-{waits} approval {answer}"
        ));
        Ok(())
    }

    async fn audit(&self) -> Result<audit::Audit, Failure> {
        let admins = self.nodes.ids().map(|id| self.admin(id));
        let ledger = self.folder.join("ledger.jsonl");
        look::verdict(
            &self.client,
            self.orders,
            &ledger,
            &admins.collect::<Vec<_>>(),
        )
        .await
    }

    /// A node's metrics address.
    fn admin(&self, id: u16) -> String {
        format!("127.0.0.1:{}", self.nodes.ports(id).admin)
    }

    async fn leave(self) {
        let within = Duration::from_secs(10);
        if let Err(error) = self.worker.stop(within).await {
            output::talk(error);
        }
        if let Err(error) = self.nodes.stop(within).await {
            output::talk(error);
        }
    }
}
