//! What the fuzzers of this crate's decoders call: any bytes as peer messages, stored records, the stream of a snapshot.
//!
//! Invariant: nothing here changes what the crate does; it is compiled for tests and under feature `fuzzing` alone. A broken promise is a panic.
//! Not here: the programs (`fuzz/`).

use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

use bytes::{Buf, Bytes};
use holdfast_proto::peer as wire;
use holdfast_proto::peer::snapshot_frame::Part;
use prost::Message;
use tonic::metadata::MetadataValue;
use uuid::Uuid;

use crate::adapter::codec;
use crate::adapter::snapshot::{block_from_wire, trailer_from_wire};
use crate::log::records;
use crate::log::rocks::Stored;
use crate::peer::identity::{Door, NodeRef, Reservation, addressed_bytes};
use crate::state::pointer::Pointer;
use crate::state::{Staging, StateDb};
use crate::types::{GroupId, NodeId};

/// Any bytes as a message of a peer; the first one says which.
///
/// # Panics
/// What was understood is not sent on as it came.
pub fn peer_message(data: &[u8]) {
    let Some((which, bytes)) = data.split_first() else {
        return;
    };
    let pulse = wire::Pulse::default;
    match which % 11 {
        0 => round_trip(bytes, codec::append_from_wire, |it| {
            codec::append_to_wire(it, pulse())
        }),
        1 => round_trip(bytes, codec::appended_from_wire, |it| {
            codec::appended_to_wire(&it, pulse())
        }),
        2 => round_trip(bytes, codec::vote_ask_from_wire, |it| {
            codec::vote_ask_to_wire(&it, pulse())
        }),
        3 => round_trip(bytes, codec::vote_reply_from_wire, |it| {
            codec::vote_reply_to_wire(&it, pulse())
        }),
        4 => round_trip(bytes, codec::transfer_from_wire, |it| {
            codec::transfer_to_wire(&it)
        }),
        5 => round_trip(bytes, codec::transfer_reply_from_wire, |it| {
            codec::transfer_reply_to_wire(&it)
        }),
        6 => round_trip(bytes, codec::membership_from_wire, |it| {
            codec::membership_to_wire(&it)
        }),
        7 => round_trip(
            bytes,
            |it| codec::meta_from_wire(Some(it)),
            |it| codec::meta_to_wire(&it),
        ),
        8 => round_trip(bytes, Reservation::from_wire, |it| it.to_wire()),
        9 => {
            if let Ok(reservation) = Reservation::decode(bytes) {
                assert_eq!(Reservation::decode(&reservation.encode()), Ok(reservation));
            }
        }
        _ => admit(bytes),
    }
}

/// From the wire, to it, and from it again: the same.
fn round_trip<W: Message + Default, T: Debug, E: Debug>(
    bytes: &[u8],
    from: impl Fn(W) -> Result<T, E>,
    to: impl Fn(T) -> W,
) {
    let Ok(message) = W::decode(bytes) else {
        return;
    };
    let Ok(first) = from(message) else {
        return;
    };
    let text = format!("{first:?}");
    let again = from(to(first)).expect("what was sent on can be read");
    assert_eq!(format!("{again:?}"), text);
}

/// A call with this address at the door of a node.
fn admit(address: &[u8]) {
    let member = NodeRef {
        id: NodeId(1),
        incarnation: Uuid::from_u128(1),
    };
    let reservation = Reservation {
        genesis: Uuid::from_u128(2),
        cluster_id: "orders".to_owned(),
        namespace: Uuid::from_u128(3),
        members: [].into(),
        partitions: 3,
    };
    let door = Door::new(member, Some(reservation));
    let call = addressed_bytes(MetadataValue::from_bytes(address));
    if let Ok(admitted) = door.admit(&call) {
        let address = wire::Address::decode(address).expect("it was read at the door");
        assert_eq!(address.cluster_id, "orders");
        assert_eq!(address.group, admitted.group.0);
    }
}

/// Any bytes as a record on disk; the first one says which. A record gets its right checksum, so that what lies behind it is reached.
///
/// # Panics
/// What was read is not written as it was.
pub fn stored_record(data: &[u8]) {
    let Some((which, bytes)) = data.split_first() else {
        return;
    };
    let sealed = || {
        let mut sealed = bytes.to_vec();
        sealed.extend_from_slice(&crc32fast::hash(bytes).to_be_bytes());
        sealed
    };
    match which % 10 {
        0 => {
            if let Ok(it) = records::decode_vote(&sealed()) {
                assert_eq!(records::decode_vote(&records::encode_vote(&it)), Ok(it));
            }
        }
        1 => {
            if let Ok(it) = records::decode_log_id(&sealed()) {
                assert_eq!(records::decode_log_id(&records::encode_log_id(&it)), Ok(it));
            }
        }
        2 => {
            if let Ok(it) = Pointer::decode(&sealed()) {
                assert_eq!(Pointer::decode(&it.encode()), Ok(it));
            }
        }
        3 => {
            if let Ok(it) = Stored::decode(&sealed()) {
                assert_eq!(Stored::decode(&it.encode()), Ok(it));
            }
        }
        4 => entry(bytes),
        5 => drop(records::decode_entry(7, bytes)),
        6 => drop(records::decode_vote(bytes)),
        7 => drop(Pointer::decode(bytes)),
        8 => drop(Stored::decode(bytes)),
        _ => drop(records::index_in(bytes, GroupId(1))),
    }
}

/// A header and a payload with the checksum that belongs to them.
fn entry(bytes: &[u8]) {
    let Some((header, payload)) = bytes.split_at_checked(18) else {
        return;
    };
    let crc = records::entry_crc(7, header, payload);
    let whole = [header, &crc.to_be_bytes(), payload].concat();
    if let Ok(it) = records::decode_entry(7, &whole) {
        assert_eq!(records::encode_entry(&it), whole);
        drop(crate::adapter::types::core_entry(it)); // a membership inside it is read, too
    }
}

/// Any bytes as the frames of a snapshot, each after its length. A block with checksum 0 gets its right one, a trailer that counts
/// nothing the right count.
///
/// # Panics
/// It is staged, and not as its trailer says.
pub fn snapshot_stream(data: &[u8]) {
    let mut bytes = Bytes::copy_from_slice(data);
    let mut staging = None;
    while bytes.has_remaining() {
        let Ok(frame) = wire::SnapshotFrame::decode_length_delimited(&mut bytes) else {
            return;
        };
        match frame.part {
            None => return,
            Some(Part::Header(header)) => {
                let vote = codec::vote_from_wire(header.vote);
                let meta = codec::meta_from_wire(header.meta);
                if vote.is_err() || meta.is_err() || staging.is_some() {
                    return;
                }
                let begun = Staging::begin(scratch(), GroupId(1), 2);
                staging = Some(begun.expect("the scratch folder can be written"));
            }
            Some(Part::Block(mut block)) => {
                let Some(staging) = &mut staging else { return };
                if block.crc == 0 {
                    block.crc = crc32fast::hash(&block.rows);
                }
                if staging.write(&block_from_wire(block)).is_err() {
                    return;
                }
            }
            Some(Part::Trailer(trailer)) => {
                let Some(staging) = staging.take() else {
                    return;
                };
                let Ok(mut trailer) = trailer_from_wire(&trailer) else {
                    return;
                };
                let counted = staging.counted(trailer.running_digest);
                if trailer.count == 0 {
                    trailer = counted.clone();
                }
                let finished = staging.finish(&trailer);
                assert_eq!(
                    finished.is_ok(),
                    trailer == counted,
                    "{trailer:?} {counted:?}"
                );
                return;
            }
        }
    }
}

/// A state in a folder for temporary files.
fn scratch() -> &'static Arc<StateDb> {
    static DB: OnceLock<Arc<StateDb>> = OnceLock::new();
    DB.get_or_init(|| {
        let name = format!("holdfast-fuzz-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("the scratch folder can be made");
        StateDb::open(&folder, NodeId(1), Uuid::nil()).expect("a new folder opens")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn garbage() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any::<u8>(), 0..120)
    }

    /// Fields of low numbers, as messages are made of.
    fn fields() -> impl Strategy<Value = Vec<u8>> {
        let field = (1..6_u32, prop_oneof![0..9_u64, any::<u64>()], garbage());
        proptest::collection::vec(field, 0..6).prop_map(|fields| {
            let mut bytes = Vec::new();
            for (number, value, body) in fields {
                if value.is_multiple_of(2) {
                    prost::encoding::uint64::encode(number, &value, &mut bytes);
                } else {
                    prost::encoding::bytes::encode(number, &body, &mut bytes);
                }
            }
            bytes
        })
    }

    proptest! {
        #[test]
        fn any_peer_message_is_understood_or_refused(which in any::<u8>(), message in fields(), bytes in garbage()) {
            peer_message(&[&[which], &message[..]].concat());
            peer_message(&bytes);
        }

        #[test]
        fn any_stored_record_is_read_or_refused(bytes in garbage()) {
            stored_record(&bytes);
        }

        #[test]
        fn any_stream_of_a_snapshot_is_staged_as_its_trailer_says_or_refused(bytes in garbage()) {
            let frame = |part| wire::SnapshotFrame { part: Some(part) }.encode_length_delimited_to_vec();
            let member = wire::Member {
                id: 1,
                incarnation: Bytes::from_static(&[7; 16]),
                ..Default::default()
            };
            let membership = wire::Membership {
                configs: vec![wire::membership::Voters { ids: vec![1] }],
                nodes: vec![member],
            };
            let meta = wire::SnapshotMeta {
                membership: Some(membership),
                ..Default::default()
            };
            let header = wire::SnapshotHeader {
                vote: Some(wire::Vote::default()),
                meta: Some(meta),
                ..Default::default()
            };
            let block = wire::SnapshotBlock { rows: bytes.into(), ..Default::default() };
            let digest = Bytes::from_static(&[7; 16]);
            let trailer = wire::SnapshotTrailer { rows_digest: digest.clone(), running_digest: digest, ..Default::default() };
            let parts = [Part::Header(header), Part::Block(block), Part::Trailer(trailer)];
            snapshot_stream(&parts.map(frame).concat());
        }
    }
}
