//! One connection through a gate: two directions, each under the rule of its link.
//!
//! Invariant: an end or a break on one side is passed to the other side at once, except through a cut, where it waits like the
//! bytes. Not here: whom the connection belongs to (`gate`).

use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use super::gate::Post;
use super::rules::{Link, Rule};

/// Bytes read at once: small enough that a slow link is slow evenly.
const CHUNK: usize = 16 * 1024;

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Both sides had said all.
    Closed,
    /// One side broke.
    Broken,
}

/// Carries bytes both ways until both have ended or one has broken. The links are those from near and from far.
pub(super) async fn carry(
    mut near: TcpStream,
    mut far: TcpStream,
    (mut out, mut back): (Link, Link),
    post: &Post,
) -> End {
    let mut both = (None, None);
    {
        let (near_read, near_write) = near.split();
        let (far_read, far_write) = far.split();
        let there = one_way(near_read, far_write, &mut out, None);
        let here = one_way(far_read, near_write, &mut back, Some(post));
        tokio::pin!(there, here);
        while both.0.is_none() || both.1.is_none() {
            tokio::select! {
                end = &mut there, if both.0.is_none() => both.0 = Some(end),
                end = &mut here, if both.1.is_none() => both.1 = Some(end),
            }
            if [both.0, both.1].contains(&Some(End::Broken)) {
                return End::Broken;
            }
        }
    }
    for stream in [&near, &far] {
        // What was said last is still to arrive.
        let _ = set_socket_linger(stream, None);
    }
    End::Closed
}

/// `post`: of the node that is read from; it is told of an end before that is passed on.
async fn one_way(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    link: &mut Link,
    post: Option<&Post>,
) -> End {
    let mut bytes = vec![0; CHUNK];
    let mut left: Option<u64> = None;
    let end = loop {
        let read = from.read(&mut bytes).await;
        // What stands at a cut waits there; so does the news that a side is gone.
        let rule = link.open().await;
        let Ok(count) = read else {
            break End::Broken;
        };
        if count == 0 {
            break End::Closed;
        }
        let mut passes = count;
        match rule {
            Some(Rule::Slow {
                delay_ms,
                bytes_per_s,
            }) => {
                let at_rate = count as u64 * 1000 / bytes_per_s.max(1);
                tokio::time::sleep(Duration::from_millis(delay_ms + at_rate)).await;
            }
            Some(Rule::BreakAfter { bytes }) => {
                let room = left.get_or_insert(bytes);
                passes = count.min(usize::try_from(*room).unwrap_or(count));
                *room -= passes as u64;
            }
            Some(Rule::Cut) | None => left = None,
        }
        if to.write_all(&bytes[..passes]).await.is_err() || passes < count {
            break End::Broken;
        }
    };
    if let Some(post) = post {
        post.close_if_gone().await;
    }
    if end == End::Closed {
        // The other direction may still have something to say.
        let _ = to.shutdown().await;
    }
    end
}

/// Makes the close of a connection a reset, as that of a killed process with unread bytes.
pub(super) fn break_on_close(stream: &TcpStream) {
    // It is closed either way; a plain close is only the gentler news.
    let _ = set_socket_linger(stream, Some(Duration::ZERO));
}
