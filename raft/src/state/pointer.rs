//! The pointer of a group: which generation of rows counts, and up to which entry they are.
//!
//! Layout: `[group u32][FFFFFFFF] -> {format, generation, digest, last, membership_at, membership, crc32}`.

use bytes::Bytes;

use crate::error::StorageFault;
use crate::types::{GroupId, LogId, NodeId};

const FORMAT: u8 = 1;

/// Written in one batch with the rows it speaks of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pointer {
    pub(crate) generation: u32,
    /// The running digest of all row changes up to `last`.
    pub(crate) digest: u128,
    pub(crate) last: Option<LogId>,
    pub(crate) membership_at: Option<LogId>,
    pub(crate) membership: Bytes,
}

pub(super) fn key(group: GroupId) -> [u8; 8] {
    let mut key = [0xff; 8];
    key[..4].copy_from_slice(&group.0.to_be_bytes());
    key
}

/// Where it is marked that the rows of a group here are wrong.
pub(super) fn mark(group: GroupId) -> Vec<u8> {
    [&key(group)[..], b"wrong"].concat()
}

impl Pointer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        bytes.extend_from_slice(&self.generation.to_be_bytes());
        bytes.extend_from_slice(&self.digest.to_be_bytes());
        put_log_id(&mut bytes, self.last);
        put_log_id(&mut bytes, self.membership_at);
        bytes.extend_from_slice(&self.membership);
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_be_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, StorageFault> {
        let bad = |cause: &str| StorageFault::corrupt("the pointer of a group's state", cause);
        let (body, crc) = bytes
            .split_last_chunk::<4>()
            .ok_or_else(|| bad("it is cut short"))?;
        if crc32fast::hash(body) != u32::from_be_bytes(*crc) {
            return Err(bad("its checksum does not match"));
        }
        if body.len() < 71 || body[0] != FORMAT {
            return Err(bad("its format is unknown; a newer release wrote it"));
        }
        Ok(Self {
            generation: u32::from_be_bytes(body[1..5].try_into().expect("four bytes")),
            digest: u128::from_be_bytes(body[5..21].try_into().expect("sixteen bytes")),
            last: log_id_at(&body[21..46]),
            membership_at: log_id_at(&body[46..71]),
            membership: Bytes::copy_from_slice(&body[71..]),
        })
    }
}

fn put_log_id(bytes: &mut Vec<u8>, id: Option<LogId>) {
    bytes.push(u8::from(id.is_some()));
    let id = id.unwrap_or(LogId {
        term: 0,
        node: NodeId(0),
        index: 0,
    });
    for number in [id.term, id.node.0, id.index] {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
}

fn log_id_at(bytes: &[u8]) -> Option<LogId> {
    let number = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    (bytes[0] == 1).then(|| LogId {
        term: number(1),
        node: NodeId(number(9)),
        index: number(17),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_comes_back_and_any_damage_is_noticed() {
        let id = LogId {
            term: 2,
            node: NodeId(3),
            index: 99,
        };
        let pointer = Pointer {
            generation: 7,
            digest: 12_345,
            last: Some(id),
            membership_at: None,
            membership: Bytes::from_static(b"members"),
        };
        let good = pointer.encode();
        assert_eq!(Pointer::decode(&good).unwrap(), pointer);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(Pointer::decode(&bad).is_err(), "byte {at}");
        }
    }
}
