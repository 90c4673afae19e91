//! `holdfast demo`: three real nodes, a worker, orders against an independent shop, a kill, an audit. No shortcuts into
//! the server: everything goes over the public API.

mod audit;
mod dice;
mod look;
pub mod order;
mod story;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use holdfast_jepsen::ledger::{Behaviour, Shop, ShopOptions, Throttle};

use crate::output::{Exit, Failure};

/// Three nodes, a worker, 30 orders, the leader killed, an audit.
#[derive(clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  holdfast demo --exit\n  holdfast demo --orders 100 --kill worker --exit"
)]
pub struct Demo {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    story: Story,
}

/// What the demo does.
#[derive(clap::Args, Clone)]
pub struct Story {
    /// How many orders
    #[arg(long, default_value_t = 30)]
    orders: u32,
    /// What is killed while steps are in flight
    #[arg(long, value_enum, default_value = "leader")]
    kill: Kill,
    /// Repeats which node `--kill loop` kills and when, as it is said in the first line of a story
    #[arg(long, hide_short_help = true)]
    seed: Option<u64>,
    /// How many nodes
    #[arg(long, default_value_t = 3)]
    nodes: u16,
    /// How many partitions
    #[arg(long, default_value_t = 1, hide_short_help = true)]
    partitions: u32,
    /// From which port on
    #[arg(long, default_value_t = 7100)]
    port_base: u16,
    /// Keep the data after a good audit
    #[arg(long)]
    keep: bool,
    /// End after the audit, instead of staying until Ctrl-C
    #[arg(long)]
    exit: bool,
}

/// What is killed.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kill {
    /// The node that leads.
    Leader,
    /// A node that follows.
    Follower,
    /// The worker.
    Worker,
    /// Any node, again and again, until all orders have ended.
    Loop,
    /// Nothing.
    None,
}

/// The demo's processes, for a cluster of your own.
#[derive(clap::Subcommand)]
enum Part {
    /// The worker of the order workflow
    Worker {
        /// Nodes, comma-separated
        #[arg(long, value_delimiter = ',')]
        endpoints: Vec<String>,
        /// The shop's address
        #[arg(long)]
        shop: SocketAddr,
    },
    /// The shop: payment, inventory and mail, with a ledger
    Shop {
        /// Where it listens
        #[arg(long)]
        listen: SocketAddr,
        /// Its ledger file
        #[arg(long)]
        ledger: PathBuf,
        /// How long it takes over each call, in milliseconds
        #[arg(long, default_value_t = 20)]
        latency_ms: u64,
        /// The order whose first charge is answered 429, for 2 s
        #[arg(long)]
        throttle: Option<String>,
    },
    /// Submit orders and approve them
    Orders {
        /// Nodes, comma-separated
        #[arg(long, value_delimiter = ',')]
        endpoints: Vec<String>,
        /// How many
        #[arg(long, default_value_t = 30)]
        orders: u32,
    },
    /// Wait for the ends of the orders, then audit
    Audit {
        /// Nodes, comma-separated
        #[arg(long, value_delimiter = ',')]
        endpoints: Vec<String>,
        /// The shop's ledger file
        #[arg(long)]
        ledger: PathBuf,
        /// The nodes' admin addresses, comma-separated: their metrics are looked at too
        #[arg(long, value_delimiter = ',')]
        admins: Vec<String>,
        /// How many orders
        #[arg(long, default_value_t = 30)]
        orders: u32,
        /// How long the orders may take to end, in seconds
        #[arg(long, default_value_t = 60)]
        within: u64,
    },
}

impl Demo {
    /// Tells the story, or plays one part of it.
    ///
    /// # Errors
    /// The audit did not hold (1), or the cluster never formed (7).
    pub fn call(self) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        match self.part {
            None => runtime.block_on(story::tell(self.story)),
            Some(Part::Worker { endpoints, shop }) => runtime.block_on(async {
                let client = holdfast::Client::connect(&endpoints).await?;
                order::worker(&client, shop).run().await?;
                Ok(())
            }),
            Some(Part::Shop {
                listen,
                ledger,
                latency_ms,
                throttle,
            }) => runtime.block_on(async {
                let throttle = throttle.map(|order| Throttle {
                    order,
                    lasts: Duration::from_secs(2),
                });
                let latency = Duration::from_millis(latency_ms);
                let behaviour = Behaviour {
                    latency,
                    throttle: throttle.into_iter().collect(),
                    ..Behaviour::default()
                };
                let options = ShopOptions::new(listen, ledger)
                    .stock(order::SKU, order::STOCK)
                    .behaviour(behaviour);
                let mut shop = Shop::open(options).await.map_err(Failure::error)?;
                shop.ended().await;
                Ok(())
            }),
            Some(Part::Orders { endpoints, orders }) => runtime.block_on(async {
                let client = holdfast::Client::connect(&endpoints).await?;
                for n in 1..=orders {
                    let id = format!("order-{n}");
                    client.start(order::ORDER, &id, id.clone()).await?;
                }
                crate::output::line(format!("{orders} orders submitted"));
                for n in (1..=orders).filter(|n| *n != order::waits_for_you(orders)) {
                    order::approve(&client, n, orders).await?;
                }
                Ok(())
            }),
            Some(Part::Audit {
                endpoints,
                ledger,
                admins,
                orders,
                within,
            }) => runtime.block_on(async {
                let client = holdfast::Client::connect(&endpoints).await?;
                let within = Duration::from_secs(within);
                look::audit(&client, orders, &ledger, &admins, within).await
            }),
        }
    }
}

impl From<Kill> for &'static str {
    fn from(kill: Kill) -> Self {
        match kill {
            Kill::Leader => "leader",
            Kill::Follower => "follower",
            Kill::Worker => "worker",
            Kill::Loop => "by chance",
            Kill::None => "nothing",
        }
    }
}

fn never_formed(why: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::NoCluster, format!("the cluster never formed: {why}"))
}
