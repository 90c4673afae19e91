//! `holdfast limit`: named rate and concurrency gates.

use std::time::Duration;

use holdfast::{Client, wire};
use serde::Serialize;

use crate::{
    Globals,
    output::{self, Failure},
    parse,
};

/// Rate and concurrency gates.
#[derive(clap::Subcommand)]
pub enum Limit {
    /// Declare or change a limit
    #[command(
        after_help = "Examples:\n  holdfast limit set netsuite --rate 10/s --burst 20 --concurrency 5\n  holdfast limit set erp --concurrency 2"
    )]
    Set {
        /// Its name
        name: String,
        /// Admissions per span, as 10/s
        #[arg(long, value_parser = parse::rate)]
        rate: Option<(u32, Duration)>,
        /// Admissions that may come at once after a pause
        #[arg(long, default_value_t = 1)]
        burst: u32,
        /// Steps under lease at once
        #[arg(long)]
        concurrency: Option<u32>,
    },
    /// Limits with depth, oldest waiter and next admission
    #[command(after_help = "Examples:\n  holdfast limit list\n  holdfast limit list -o json")]
    List,
}

#[derive(Serialize)]
struct Line {
    name: String,
    partition: u32,
    rate: String,
    held: u32,
    waiting: u64,
    oldest_wait_ms: u64,
    open_percent: u32,
}

impl Limit {
    /// Calls the cluster and prints the answer.
    ///
    /// # Errors
    /// With the exit code of what went wrong.
    pub async fn call(self, globals: &Globals) -> Result<(), Failure> {
        let client = super::client(globals).await?;
        match self {
            Self::Set {
                name,
                rate,
                burst,
                concurrency,
            } => {
                if rate.is_none() && concurrency.is_none() {
                    return Err(Failure::usage(
                        "a limit needs --rate, --concurrency, or both",
                    ));
                }
                let ms = |it: Duration| u64::try_from(it.as_millis()).unwrap_or(u64::MAX);
                let spec = wire::LimitSpec {
                    rate_count: rate.map_or(0, |(count, _)| count),
                    rate_per_ms: rate.map_or(0, |(_, per)| ms(per)),
                    burst,
                    concurrency: concurrency.unwrap_or_default(),
                };
                let request_id = Client::request_id();
                let request = wire::SetLimitRequest {
                    name: name.clone(),
                    spec: Some(spec),
                    request_id,
                };
                let reply = client.set_limit(request).await?;
                let before = match reply.previous {
                    Some(previous) if reply.existed => format!(" (was {})", shown(&previous)),
                    _ => String::new(),
                };
                output::talk(format!("limit {name}: {}{before}", shown(&spec)));
                if reply.positions.len() > 1 {
                    output::talk("with several partitions a limit holds per partition for now");
                }
                Ok(())
            }
            Self::List => list(&client, globals).await,
        }
    }
}

fn shown(spec: &wire::LimitSpec) -> String {
    let rate = (spec.rate_count > 0).then(|| {
        format!(
            "{} per {} ms, burst {}",
            spec.rate_count, spec.rate_per_ms, spec.burst
        )
    });
    let concurrency = (spec.concurrency > 0).then(|| format!("{} at once", spec.concurrency));
    let both: Vec<String> = [rate, concurrency].into_iter().flatten().collect();
    if both.is_empty() {
        "open".to_owned()
    } else {
        both.join(", ")
    }
}

async fn list(client: &Client, globals: &Globals) -> Result<(), Failure> {
    let reply = client.list_limits(wire::ListLimitsRequest {}).await?;
    if reply.limits.iter().any(|it| it.partition > 1) {
        output::talk("with several partitions a limit holds per partition for now");
    }
    let lines: Vec<Line> = reply
        .limits
        .into_iter()
        .map(|it| Line {
            rate: it
                .spec
                .as_ref()
                .filter(|_| it.declared)
                .map_or("undeclared".to_owned(), shown),
            name: it.name,
            partition: it.partition,
            held: it.held,
            waiting: it.waiting,
            oldest_wait_ms: it.oldest_wait_ms,
            open_percent: it.reopening_percent,
        })
        .collect();
    let header = [
        "LIMIT",
        "SPEC",
        "HELD",
        "WAITING",
        "OLDEST",
        "OPEN",
        "PARTITION",
    ];
    output::rows(globals.output, &header, &lines, |it| {
        vec![
            it.name.clone(),
            it.rate.clone(),
            it.held.to_string(),
            it.waiting.to_string(),
            format!("{} ms", it.oldest_wait_ms),
            format!("{} %", it.open_percent),
            it.partition.to_string(),
        ]
    });
    Ok(())
}
