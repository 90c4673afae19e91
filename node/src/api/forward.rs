//! Forwarding: a unary call that only the leader can answer goes to it once, by its API address.
//!
//! Invariant: a forwarded call is never forwarded again; its mark names the one partition that it is about.

use std::{collections::HashMap, error::Error as _, time::Duration};

use holdfast_raft::ProposeError;
use parking_lot::Mutex;
use tonic::{
    Request, Response, Status,
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};

use super::status;

/// On a forwarded call: the partition that it was forwarded for.
const MARK: &str = "holdfast-forwarded";
/// As for callers: a leader that accepts no connection within this is gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A forwarded call that takes longer has an unknown outcome; the caller repeats it with the same ids.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How a call came here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    /// From a client.
    First,
    /// From another node, for this partition alone.
    Forwarded(u32),
}

impl Hop {
    /// As the call's metadata say.
    pub fn of(metadata: &MetadataMap) -> Self {
        let mark = metadata.get(MARK).and_then(|mark| mark.to_str().ok());
        mark.map_or(Self::First, |mark| {
            Self::Forwarded(mark.parse().unwrap_or_default())
        })
    }

    /// Whether the call is about this partition.
    pub fn concerns(self, partition: u32) -> bool {
        match self {
            Self::First => true,
            Self::Forwarded(only) => only == partition,
        }
    }
}

/// Connections to the other nodes' API ports.
#[derive(Default)]
pub struct Forward(Mutex<HashMap<String, Channel>>);

impl Forward {
    fn channel(&self, address: &str) -> Result<Channel, Status> {
        if let Some(channel) = self.0.lock().get(address) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|cause| {
            Status::internal(format!("the leader's address {address}: {cause}"))
        })?;
        let channel = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT)
            .connect_lazy();
        self.0.lock().insert(address.to_owned(), channel.clone());
        Ok(channel)
    }

    /// Makes the call at `address`.
    ///
    /// # Errors
    /// What the other node answered. Where it did not answer (its process died, the connection broke, [`CALL_TIMEOUT`] went
    /// by), the outcome is unknown, and the status says so: the caller repeats the call with the same ids.
    pub async fn call<M, T, F>(
        &self,
        address: &str,
        partition: u32,
        message: M,
        call: impl FnOnce(Channel, Request<M>) -> F,
    ) -> Result<Response<T>, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut request = Request::new(message);
        request.metadata_mut().insert(MARK, partition.into());
        let called = call(self.channel(address)?, request).await;
        // An answer that came over the wire has no source. What this end made up has one, of any code.
        called.map_err(|status| match status.source() {
            Some(_) => status::propose(&ProposeError::Unknown, None),
            None => status,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forwarded_call_concerns_one_partition_alone() {
        let mut metadata = MetadataMap::new();
        assert!(Hop::of(&metadata).concerns(2));
        metadata.insert(MARK, 2u32.into());
        let hop = Hop::of(&metadata);
        assert_eq!(hop, Hop::Forwarded(2));
        assert!(hop.concerns(2) && !hop.concerns(1));
    }
}
