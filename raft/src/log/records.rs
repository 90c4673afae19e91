//! Records of the log: keys and values, byte by byte.
//!
//! Layout, one column family, big-endian so that group and index sort:
//! ```text
//! 00 "ident"                        -> identity
//! 00 "votes"                        -> how many batches with votes there were  {format u8, u64, crc32}
//! 01 | group u32 | 01               -> vote       {format u8, term u64, node u64, committed u8, crc32}
//! 01 | group u32 | 02 / 03          -> committed / purged  {format u8, term u64, node u64, index u64, crc32}
//! 02 | group u32 | index u64        -> entry      {format u8, kind u8, term u64, node u64, crc32, payload}
//! ```
//! The checksum covers header and payload, and is verified on every read: block checksums do not protect a copy that
//! went bad in memory.

use bytes::Bytes;

use crate::error::StorageFault;
use crate::types::{EntryKind, GroupId, LogId, NodeId, StoredEntry, Vote};

const FORMAT: u8 = 1;
const ENTRY_HEADER: usize = 22;
/// Kind and group of a key: what reads of one group share.
#[cfg(not(holdfast_sim))]
pub(crate) const PREFIX_BYTES: usize = 5;

/// Where the identity of the node lies.
pub(crate) const IDENT: &[u8] = b"\x00ident";

/// Where the number of batches with votes stands.
pub(crate) const VOTES: &[u8] = b"\x00votes";

pub(crate) fn encode_votes(votes: u64) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    bytes.extend_from_slice(&votes.to_be_bytes());
    sealed(bytes)
}

pub(crate) fn decode_votes(bytes: &[u8]) -> Result<u64, StorageFault> {
    Ok(u64_at(unsealed("the number of votes", bytes, 9)?, 1))
}

/// The small records of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meta {
    Vote = 1,
    Committed = 2,
    Purged = 3,
}

pub(crate) fn meta_key(group: GroupId, meta: Meta) -> [u8; 6] {
    let mut key = [0; 6];
    key[0] = 1;
    key[1..5].copy_from_slice(&group.0.to_be_bytes());
    key[5] = meta as u8;
    key
}

pub(crate) fn entry_key(group: GroupId, index: u64) -> [u8; 13] {
    let mut key = [0; 13];
    key[0] = 2;
    key[1..5].copy_from_slice(&group.0.to_be_bytes());
    key[5..].copy_from_slice(&index.to_be_bytes());
    key
}

/// The index in an entry's key, if it is one of this group.
pub(crate) fn index_in(key: &[u8], group: GroupId) -> Option<u64> {
    let (prefix, index) = key.split_at_checked(5)?;
    let own = prefix == &entry_key(group, 0)[..5];
    own.then(|| index.try_into().ok().map(u64::from_be_bytes))
        .flatten()
}

pub(crate) fn encode_entry(entry: &StoredEntry) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ENTRY_HEADER + entry.payload.len());
    bytes.extend_from_slice(&[FORMAT, entry.kind as u8]);
    bytes.extend_from_slice(&entry.id.term.to_be_bytes());
    bytes.extend_from_slice(&entry.id.node.0.to_be_bytes());
    let crc = entry_crc(entry.id.index, &bytes[..18], &entry.payload);
    bytes.extend_from_slice(&crc.to_be_bytes());
    bytes.extend_from_slice(&entry.payload);
    bytes
}

pub(crate) fn decode_entry(index: u64, bytes: &[u8]) -> Result<StoredEntry, StorageFault> {
    let bad = |cause: &str| StorageFault::corrupt(format!("log entry {index}"), cause);
    if bytes.len() < ENTRY_HEADER {
        return Err(bad("it is cut short"));
    }
    let (header, payload) = bytes.split_at(ENTRY_HEADER);
    if entry_crc(index, &header[..18], payload) != u32_at(header, 18) {
        return Err(bad("its checksum does not match"));
    }
    if header[0] != FORMAT {
        return Err(bad("its format is unknown; a newer release wrote it"));
    }
    let kind = match header[1] {
        0 => EntryKind::Blank,
        1 => EntryKind::Normal,
        2 => EntryKind::Membership,
        _ => return Err(bad("its kind is unknown; a newer release wrote it")),
    };
    let id = LogId {
        term: u64_at(header, 2),
        node: NodeId(u64_at(header, 10)),
        index,
    };
    Ok(StoredEntry {
        id,
        kind,
        payload: Bytes::copy_from_slice(payload),
    })
}

/// The index is part of it: an entry in another's place is damage, too.
pub(crate) fn entry_crc(index: u64, header: &[u8], payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&index.to_be_bytes());
    crc.update(header);
    crc.update(payload);
    crc.finalize()
}

pub(crate) fn encode_vote(vote: &Vote) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    bytes.extend_from_slice(&vote.term.to_be_bytes());
    bytes.extend_from_slice(&vote.node.0.to_be_bytes());
    bytes.push(u8::from(vote.committed));
    sealed(bytes)
}

pub(crate) fn decode_vote(bytes: &[u8]) -> Result<Vote, StorageFault> {
    let bytes = unsealed("vote", bytes, 18)?;
    Ok(Vote {
        term: u64_at(bytes, 1),
        node: NodeId(u64_at(bytes, 9)),
        committed: bytes[17] == 1,
    })
}

pub(crate) fn encode_log_id(id: &LogId) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    bytes.extend_from_slice(&id.term.to_be_bytes());
    bytes.extend_from_slice(&id.node.0.to_be_bytes());
    bytes.extend_from_slice(&id.index.to_be_bytes());
    sealed(bytes)
}

pub(crate) fn decode_log_id(bytes: &[u8]) -> Result<LogId, StorageFault> {
    let bytes = unsealed("log id", bytes, 25)?;
    Ok(LogId {
        term: u64_at(bytes, 1),
        node: NodeId(u64_at(bytes, 9)),
        index: u64_at(bytes, 17),
    })
}

fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_be_bytes());
    bytes
}

fn unsealed<'b>(what: &str, bytes: &'b [u8], len: usize) -> Result<&'b [u8], StorageFault> {
    if bytes.len() != len + 4 {
        return Err(StorageFault::corrupt(what, "its length is wrong"));
    }
    let (body, crc) = bytes.split_at(len);
    if crc32fast::hash(body) != u32_at(crc, 0) {
        return Err(StorageFault::corrupt(what, "its checksum does not match"));
    }
    if body[0] != FORMAT {
        return Err(StorageFault::corrupt(what, "its format is unknown"));
    }
    Ok(body)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> StoredEntry {
        StoredEntry {
            id: LogId {
                term: 3,
                node: NodeId(2),
                index: 77,
            },
            kind: EntryKind::Normal,
            payload: Bytes::from_static(b"a batch of commands"),
        }
    }

    #[test]
    fn an_entry_comes_back_as_it_was() {
        assert_eq!(decode_entry(77, &encode_entry(&entry())).unwrap(), entry());
    }

    #[test]
    fn every_flipped_byte_of_an_entry_is_noticed() {
        let good = encode_entry(&entry());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x20;
            assert!(decode_entry(77, &bad).is_err(), "byte {at}");
        }
        assert!(decode_entry(78, &good).is_err(), "in another entry's place");
    }

    #[test]
    fn every_truncation_of_an_entry_is_noticed() {
        let good = encode_entry(&entry());
        for len in 0..good.len() {
            assert!(decode_entry(77, &good[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn votes_and_log_ids_come_back_and_damage_is_noticed() {
        let vote = Vote {
            term: 9,
            node: NodeId(4),
            committed: true,
        };
        assert_eq!(decode_vote(&encode_vote(&vote)).unwrap(), vote);
        let id = entry().id;
        assert_eq!(decode_log_id(&encode_log_id(&id)).unwrap(), id);
        let mut bad = encode_vote(&vote);
        bad[3] ^= 1;
        assert!(decode_vote(&bad).is_err());
    }

    #[test]
    fn keys_sort_by_group_and_index() {
        let key = |group, index| entry_key(GroupId(group), index);
        assert!(key(1, u64::MAX) < key(2, 0));
        assert!(key(1, 255) < key(1, 256));
        assert_eq!(index_in(&key(1, 256), GroupId(1)), Some(256));
        assert_eq!(index_in(&key(1, 256), GroupId(2)), None);
    }
}
