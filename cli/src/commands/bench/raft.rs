//! Commands that touch no run, through the log: the ceiling of one partition.
//!
//! Not here: runs (`load`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast::{Client, wire};

use super::figures::{Found, Measured, gather, histogram, micros};
use crate::output::Failure;

/// Bytes of a command.
const NOOP_BYTES: usize = 200;
/// Streams that share what is in flight.
const STREAMS_MAX: usize = 4;

/// So many in flight for so long.
///
/// # Errors
/// The leader cannot be reached, or a stream broke.
pub async fn noops(client: &Client, conc: usize, span: Duration) -> Result<Measured, Failure> {
    let topology = client.topology().await?;
    let leader = topology.leaders.first().cloned().unwrap_or_default();
    let streams = conc.clamp(1, STREAMS_MAX);
    let began = Instant::now();
    let window = (conc / streams).max(1);
    let streams =
        (0..streams).map(|_| tokio::spawn(stream(leader.api.clone(), window, began + span)));
    let (micros, errors) = gather(streams.collect()).await?;
    let runs = micros.len();
    Ok(Measured {
        what: format!("raft conc {conc}"),
        runs,
        steps: runs,
        within: began.elapsed(),
        micros,
        errors,
        spent: None,
    })
}

/// Each message carries several commands, and each reply answers some of them.
async fn stream(address: String, window: usize, end: Instant) -> Result<Found, Failure> {
    let mut grpc = wire::cluster_client::ClusterClient::connect(format!("http://{address}"))
        .await
        .map_err(Failure::error)?;
    let (send, receive) = tokio::sync::mpsc::channel::<wire::NoopRequest>(window);
    let payload: Arc<[u8]> = vec![7; NOOP_BYTES].into();
    let outgoing = tokio_stream::wrappers::ReceiverStream::new(receive);
    let reply = grpc
        .noop(outgoing)
        .await
        .map_err(|status| Failure::error(status.message()))?;
    let mut replies = reply.into_inner();
    let (mut found, mut errors, mut next) = (histogram(), 0, 0_u64);
    let mut sent = std::collections::HashMap::new();
    let ask = |first: u64, count: usize| wire::NoopRequest {
        first,
        count: u32::try_from(count).unwrap_or(u32::MAX),
        payload: payload.to_vec().into(),
        partition: 1,
    };
    send.send(ask(next, window)).await.map_err(Failure::error)?;
    sent.extend((0..window as u64).map(|n| (n, Instant::now())));
    next += window as u64;
    while !sent.is_empty() {
        let Some(reply) = replies
            .message()
            .await
            .map_err(|it| Failure::error(it.message()))?
        else {
            break;
        };
        for n in reply.first..reply.first + u64::from(reply.count) {
            if let Some(at) = sent.remove(&n) {
                if reply.error.is_empty() {
                    found.saturating_record(micros(at));
                } else {
                    errors += 1;
                }
            }
        }
        if Instant::now() < end {
            let count = reply.count as usize;
            sent.extend((next..next + count as u64).map(|n| (n, Instant::now())));
            send.send(ask(next, count)).await.map_err(Failure::error)?;
            next += count as u64;
        }
    }
    Ok((found, errors))
}
