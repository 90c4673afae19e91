//! A caller of the sink: HTTP/1.1 over connections that are kept.
//!
//! Invariant: every call ends within its bound; after an error its effect may or may not have happened, and it is never repeated
//! from here. Not here: what a step does then.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::{SinkAnswer, SinkCall};

/// The sink syncs a file; a disk that takes longer is a finding of its own.
const WITHIN: Duration = Duration::from_secs(10);
/// An answer is a few dozen bytes.
const ANSWER_BYTES_MAX: usize = 4096;
/// More idle connections than steps that run at once are of no use.
const IDLE_MAX: usize = 64;

/// The way to a sink.
#[derive(Debug)]
pub struct SinkClient {
    addr: SocketAddr,
    idle: Mutex<Vec<BufReader<TcpStream>>>,
}

impl SinkClient {
    /// Of the sink at this address.
    pub fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            idle: Mutex::default(),
        }
    }

    /// Makes one call.
    ///
    /// # Errors
    /// The connection failed, or the answer did not come in time or is none of a sink.
    pub async fn call(&self, call: &SinkCall) -> io::Result<SinkAnswer> {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the sink did not answer");
        tokio::time::timeout(WITHIN, self.exchange(call))
            .await
            .map_err(late)?
    }

    async fn exchange(&self, call: &SinkCall) -> io::Result<SinkAnswer> {
        let kept = self.idle.lock().pop();
        let mut stream = match kept {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.addr).await?;
                stream.set_nodelay(true)?;
                BufReader::new(stream)
            }
        };
        let body = serde_json::to_vec(call)?;
        let mut message = format!(
            "POST / HTTP/1.1\r\nHost: sink\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        message.extend_from_slice(&body);
        stream.get_mut().write_all(&message).await?;
        let answer = read_answer(&mut stream).await?;
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_MAX {
            idle.push(stream);
        }
        Ok(answer)
    }
}

async fn read_answer(stream: &mut BufReader<TcpStream>) -> io::Result<SinkAnswer> {
    let broken = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_string());
    let mut line = String::new();
    let mut length = None;
    let mut is_ok = None;
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Err(broken("the sink closed the connection"));
        }
        let text = line.trim_end();
        if text.is_empty() {
            break;
        }
        is_ok.get_or_insert_with(|| text.split(' ').nth(1) == Some("200"));
        if let Some((name, value)) = text.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse::<usize>().ok();
        }
    }
    let length = length.filter(|it| *it <= ANSWER_BYTES_MAX);
    let length = length.ok_or_else(|| broken("an answer without a length"))?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    if is_ok != Some(true) {
        return Err(broken("the sink answered with an error"));
    }
    serde_json::from_slice(&body).map_err(|_| broken("the answer is none of a sink"))
}
