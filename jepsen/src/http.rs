//! HTTP/1.0 as a client, one connection a request: enough for probes and for the shop, and nothing to configure.
//!
//! Invariant: every request ends within its bound, and an answer is at most [`ANSWER_BYTES_MAX`].
//! Not here: retries; who asks decides whether an unknown outcome may be repeated.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// `/metrics` of a busy node is a few hundred kilobytes; beyond this the other end is not one of ours.
pub(crate) const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// Sends one request and reads the whole answer.
///
/// # Errors
/// The connection failed, the answer was cut short or was no HTTP, or `within` passed.
/// After an error the request may or may not have been carried out.
pub(crate) async fn request(
    to: SocketAddr,
    method: &str,
    path: &str,
    body: &[u8],
    within: Duration,
) -> io::Result<Answer> {
    tokio::time::timeout(within, exchange(to, method, path, body))
        .await
        .map_err(|_| {
            io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{to} did not answer within {within:?}"),
            )
        })?
}

async fn exchange(to: SocketAddr, method: &str, path: &str, body: &[u8]) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    // HTTP/1.0: the answer is never chunked and its end is the end of the connection.
    let mut message = format!(
        "{method} {path} HTTP/1.0\r\nHost: {to}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    message.extend_from_slice(body);
    stream.write_all(&message).await?;
    let mut bytes = Vec::new();
    stream
        .take(ANSWER_BYTES_MAX)
        .read_to_end(&mut bytes)
        .await?;
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> io::Result<Answer> {
    let broken = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_string());
    let end = bytes
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .ok_or_else(|| broken("the answer ended within its headers"))?;
    let head = str::from_utf8(&bytes[..end]).map_err(|_| broken("headers are not text"))?;
    let status = head
        .split_ascii_whitespace()
        .nth(1)
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| broken("no HTTP status in the answer"))?;
    let body = bytes[end + 4..].to_vec();
    let said = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find_map(|(name, value)| {
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse::<usize>().ok())?
        });
    if said.is_some_and(|length| length != body.len()) {
        return Err(broken("the answer was cut short"));
    }
    Ok(Answer { status, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_cut_short_is_an_error_and_not_an_empty_answer() {
        let whole = b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok";
        assert_eq!(parse(whole).unwrap().body, b"ok");
        assert!(parse(&whole[..whole.len() - 1]).is_err());
        assert!(parse(&whole[..20]).is_err());
    }
}
