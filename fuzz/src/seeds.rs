//! Writes what the fuzzers begin with into `corpus/`: the golden files of what lies on disk, and messages made by hand.

use std::{fs, io, path::Path};

use holdfast_proto::{domain::log, peer, v1};
use prost::Message;

/// The committed bytes of everything that is stored.
const LOG: &str = include_str!("../../proto/tests/golden/log.txt");
const ROWS: &str = include_str!("../../proto/tests/golden/rows.txt");

fn unhex(text: &str) -> Vec<u8> {
    let digit = |it: u8| {
        char::from(it)
            .to_digit(16)
            .expect("golden files are hexadecimal") as u8
    };
    text.as_bytes()
        .chunks(2)
        .map(|two| digit(two[0]) * 16 + digit(two[1]))
        .collect()
}

fn write(target: &str, seeds: impl IntoIterator<Item = Vec<u8>>) -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    fs::create_dir_all(&folder)?;
    for (number, seed) in seeds.into_iter().enumerate() {
        fs::write(folder.join(format!("seed-{number}")), seed)?;
    }
    Ok(())
}

/// Writes all of them.
pub fn write_all() -> io::Result<()> {
    let entries: Vec<Vec<u8>> = LOG
        .lines()
        .filter_map(|line| Some(unhex(line.split_once(' ')?.1)))
        .collect();
    write("log_entry", entries.clone())?;
    write("canary", entries.clone())?;
    write(
        "command",
        entries.iter().filter_map(|entry| command_in(entry)),
    )?;
    let rows: Vec<(Vec<u8>, Vec<u8>)> = ROWS
        .lines()
        .map(|line| {
            let mut parts = line.split(' ').skip(1).map(unhex);
            (
                parts.next().unwrap_or_default(),
                parts.next().unwrap_or_default(),
            )
        })
        .collect();
    let after_its_length = |one: &[u8], other: &[u8]| [&[one.len() as u8], one, other].concat();
    write(
        "row",
        rows.iter().map(|(key, row)| after_its_length(key, row)),
    )?;
    write(
        "row_key",
        rows.windows(2)
            .map(|two| after_its_length(&two[0].0, &two[1].0)),
    )?;
    write("peer_message", peer_messages())?;
    write("stored_record", stored_records())?;
    write("snapshot_stream", snapshots(&rows))?;
    write("client_message", client_messages())?;
    write("journal_replay", holdfast::fuzzing::seeds())?;
    write("settings", settings())
}

/// The bytes of the first command of an entry, if it is a batch.
fn command_in(entry: &[u8]) -> Option<Vec<u8>> {
    log::decode(entry.to_vec().into()).ok()?;
    // Level (2 bytes), field 3 with its length, the batch; in it field 3 is a command.
    let batch = after_field(entry.get(2..)?, 3)?;
    after_field(&batch, 3)
}

/// What the field of this number holds, if it is a message.
fn after_field(mut bytes: &[u8], number: u32) -> Option<Vec<u8>> {
    use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
    while !bytes.is_empty() {
        let (tag, wire) = decode_key(&mut bytes).ok()?;
        if tag == number && wire == WireType::LengthDelimited {
            let len = usize::try_from(decode_varint(&mut bytes).ok()?).ok()?;
            return Some(bytes.get(..len)?.to_vec());
        }
        skip_field(wire, tag, &mut bytes, DecodeContext::default()).ok()?;
    }
    None
}

fn tagged(which: u8, message: &impl Message) -> Vec<u8> {
    let mut bytes = vec![which];
    bytes.extend(message.encode_to_vec());
    bytes
}

fn log_id(index: u64) -> peer::LogId {
    peer::LogId {
        term: 3,
        node: 2,
        index,
    }
}

fn vote() -> peer::Vote {
    peer::Vote {
        term: 3,
        node: 2,
        committed: true,
    }
}

fn membership() -> peer::Membership {
    let member = |id: u64| peer::Member {
        id,
        incarnation: vec![id as u8; 16].into(),
        peer_address: "127.0.0.1:7101".into(),
        api_address: "127.0.0.1:7100".into(),
    };
    peer::Membership {
        configs: vec![
            peer::membership::Voters { ids: vec![1, 2] },
            peer::membership::Voters { ids: vec![2, 3] },
        ],
        nodes: vec![member(1), member(2), member(3)],
    }
}

fn meta() -> peer::SnapshotMeta {
    peer::SnapshotMeta {
        last: Some(log_id(9)),
        membership_at: Some(log_id(4)),
        membership: Some(membership()),
    }
}

fn peer_messages() -> Vec<Vec<u8>> {
    let entry = |kind, payload: Vec<u8>| peer::Entry {
        id: Some(log_id(8)),
        kind,
        payload: payload.into(),
    };
    let append = peer::Append {
        vote: Some(vote()),
        prev: Some(log_id(7)),
        entries: vec![
            entry(0, vec![]),
            entry(1, b"batch".to_vec()),
            entry(2, membership().encode_to_vec()),
        ],
        leader_commit: Some(log_id(6)),
        pulse: None,
    };
    let appended = peer::Appended {
        result: Some(peer::appended::Result::HigherVote(vote())),
        pulse: None,
    };
    let ask = peer::VoteAsk {
        vote: Some(vote()),
        last: Some(log_id(5)),
        leadership_transfer: true,
        pulse: None,
    };
    let reply = peer::VoteReply {
        vote: Some(vote()),
        granted: true,
        last: Some(log_id(5)),
        pulse: None,
    };
    let transfer = peer::TransferAsk {
        from_leader: Some(vote()),
        to: 3,
        last: Some(log_id(5)),
    };
    let not_flushed = peer::transfer_reply::NotFlushed {
        expected: Some(log_id(5)),
        actual: None,
    };
    let told = peer::TransferReply {
        result: Some(peer::transfer_reply::Result::NotFlushed(not_flushed)),
    };
    let node = |id: u64| peer::NodeRef {
        id,
        incarnation: u128::from(id).to_be_bytes().to_vec().into(),
    };
    let address = peer::Address {
        cluster_id: "orders".into(),
        genesis: 2_u128.to_be_bytes().to_vec().into(),
        from: Some(node(2)),
        to: Some(node(1)),
        group: 1,
    };
    let reservation = reservation();
    vec![
        tagged(0, &append),
        tagged(1, &appended),
        tagged(2, &ask),
        tagged(3, &reply),
        tagged(4, &transfer),
        tagged(5, &told),
        tagged(6, &membership()),
        tagged(7, &meta()),
        tagged(8, &reservation),
        tagged(9, &reservation),
        tagged(10, &address),
    ]
}

fn reservation() -> peer::Reservation {
    peer::Reservation {
        genesis: vec![7; 16].into(),
        cluster_id: "orders".into(),
        namespace: vec![8; 16].into(),
        members: membership().nodes,
        partitions: 3,
    }
}

fn stored_records() -> Vec<Vec<u8>> {
    let header = |kind: u8| {
        [
            &[4, 1, kind],
            &3_u64.to_be_bytes()[..],
            &2_u64.to_be_bytes(),
        ]
        .concat()
    };
    let numbers = |count: usize| vec![0, 0, 0, 0, 0, 0, 0, 9].repeat(count);
    let ident = [
        &[3, 1][..],
        &numbers(1),
        &[7; 16],
        &[1],
        &reservation().encode_to_vec(),
    ]
    .concat();
    let pointer = [
        &[2, 1, 0, 0, 0, 1][..],
        &[5; 16],
        &[1],
        &numbers(3),
        &[0],
        &numbers(3),
        &membership().encode_to_vec(),
    ]
    .concat();
    vec![
        [&[0, 1][..], &numbers(2), &[1]].concat(),
        [&[1, 1][..], &numbers(3)].concat(),
        pointer,
        ident,
        header(0),
        [header(1), b"batch".to_vec()].concat(),
        [header(2), membership().encode_to_vec()].concat(),
    ]
}

fn snapshots(rows: &[(Vec<u8>, Vec<u8>)]) -> Vec<Vec<u8>> {
    use peer::snapshot_frame::Part;
    let header = Part::Header(peer::SnapshotHeader {
        vote: Some(vote()),
        meta: Some(meta()),
        format: 1,
        level: 0,
    });
    let mut sorted = rows.to_vec();
    sorted.sort();
    sorted.dedup_by(|one, other| one.0 == other.0);
    let block = |rows: &[(Vec<u8>, Vec<u8>)]| {
        let parts = rows.iter().flat_map(|(key, value)| [key, value]);
        let bytes: Vec<u8> = parts
            .flat_map(|it| [&(it.len() as u32).to_be_bytes()[..], it].concat())
            .collect();
        Part::Block(peer::SnapshotBlock {
            rows: bytes.into(),
            crc: 0,
            first_key: vec![].into(),
            last_key: vec![].into(),
        })
    };
    let digest = vec![9; 16];
    let trailer = Part::Trailer(peer::SnapshotTrailer {
        count: 0,
        bytes: 0,
        rows_digest: digest.clone().into(),
        running_digest: digest.into(),
    });
    let stream = |parts: Vec<Part>| {
        parts.into_iter().fold(Vec::new(), |mut bytes, part| {
            bytes.extend(peer::SnapshotFrame { part: Some(part) }.encode_length_delimited_to_vec());
            bytes
        })
    };
    let (first, rest) = sorted.split_at(sorted.len().min(3));
    vec![
        stream(vec![header.clone(), trailer.clone()]),
        stream(vec![header.clone(), block(first), trailer.clone()]),
        stream(vec![
            header,
            block(first),
            block(&rest[..rest.len().min(3)]),
            trailer,
        ]),
    ]
}

fn client_messages() -> Vec<Vec<u8>> {
    let start = v1::StartRequest {
        workflow: "order".into(),
        run_id: "order-1".into(),
        input: b"1".to_vec().into(),
        timeout_ms: 9,
        signal: Some(v1::StartSignal {
            name: "go".into(),
            signal_id: "s1".into(),
            payload: b"2".to_vec().into(),
        }),
        ..Default::default()
    };
    let signal = v1::SignalRequest {
        run_id: "order-1".into(),
        ..Default::default()
    };
    let hello = v1::Hello {
        queue: "shop".into(),
        process: "01890a5d-ac96-774b-bcce-b302099a8057".into(),
        protocol_min: 1,
        protocol_max: 1,
        steps: vec!["charge".into()],
        slots: 4,
        ..Default::default()
    };
    let key = v1::StepKey {
        scope: "0".into(),
        name: "charge".into(),
        occurrence: 1,
    };
    let step = v1::StepIntent {
        step: "charge".into(),
        input: b"1".to_vec().into(),
        ..Default::default()
    };
    let intent = |kind| v1::Intent {
        entry: 1,
        key: Some(key.clone()),
        digest: 7,
        kind: Some(kind),
    };
    let done = v1::attempt_outcome::Kind::Done(b"1".to_vec().into());
    let result = v1::StepResult {
        entry: 1,
        fence: 9,
        outcome: Some(v1::AttemptOutcome { kind: Some(done) }),
    };
    let advance = v1::Advance {
        run: "order-1".into(),
        fence: 9,
        number: 1,
        results: vec![result],
        intents: vec![
            intent(v1::intent::Kind::Step(step)),
            intent(v1::intent::Kind::Complete(b"1".to_vec().into())),
        ],
        ..Default::default()
    };
    vec![
        tagged(0, &start),
        tagged(1, &signal),
        tagged(
            2,
            &v1::ChangeRequest {
                run_id: "order-1".into(),
                ..Default::default()
            },
        ),
        tagged(
            3,
            &v1::RetryRequest {
                run_id: "order-1".into(),
                ..Default::default()
            },
        ),
        tagged(
            4,
            &v1::SetCurrentRequest {
                name: "order".into(),
                version: 2,
                request_id: "r".into(),
            },
        ),
        tagged(
            5,
            &v1::SetLimitRequest {
                name: "stripe:*".into(),
                ..Default::default()
            },
        ),
        tagged(6, &hello),
        tagged(7, &advance),
        tagged(8, &v1::Report::default()),
        tagged(9, &v1::Progress::default()),
        tagged(10, &v1::Return::default()),
    ]
}

fn settings() -> Vec<Vec<u8>> {
    [
        "[node]\nid = 1\ndata = \"/var/lib/holdfast\"\n[listen]\napi = \"127.0.0.1:0\"\n",
        "insecure = true\n[node]\nid = 3\n[listen]\napi = \"0.0.0.0:7100\"\n[advertise]\napi = \"a.example:7100\"\npeer = \"a:1\"\n",
        "[node]\nid = 1\n[raft]\nprofile = \"custom\"\nheartbeat = \"50ms\"\nelection_min = \"200ms\"\nelection_max = \"1s\"\n",
        "[node]\nid = 1\n[lease]\nbeat = \"1s\"\nterm = \"10s\"\n[disk]\nsoft = 20\nhard = 3\n[cluster]\nseeds = [\"a:1\", \"b:2\"]\n",
        "[node]\nid = 1\n[telemetry]\nlog = \"info\"\nformat = \"json\"\n[testing]\nclock_ahead = \"1h\"\nunsynced = true\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}
