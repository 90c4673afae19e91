//! Golden bytes: one committed sample of everything that lies on disk. What is on disks today must be read for ever.
//!
//! A line that changes means that old disks cannot be read any more: numbers are added, never reused. New samples only
//! add lines: `UPDATE=1 cargo test -p holdfast-proto --features domain --test golden`.

#![cfg(feature = "domain")]
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::wildcard_imports,
    dead_code,
    unused_imports,
    reason = "tests"
)]

mod samples;

use std::{collections::BTreeSet, fmt::Write};

use bytes::Bytes;
use holdfast_proto::domain::{keys, log, rows};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn unhex(text: &str) -> Bytes {
    let digits = text.as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// The committed lines, each a name and what follows it; with `UPDATE=1` those of today are written first.
fn committed(file: &str, today: &[String]) -> Vec<String> {
    let path = format!("{}/tests/golden/{file}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var("UPDATE").is_ok() {
        std::fs::write(&path, today.join("\n") + "\n").unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn all(names: &[&[&'static str]]) -> BTreeSet<&'static str> {
    names.iter().flat_map(|some| some.iter().copied()).collect()
}

#[test]
fn every_entry_of_the_log_has_the_bytes_that_are_on_disks() {
    let entries = samples::entries();
    let lines = entries.iter().map(|entry| {
        let name = samples::log_names(entry)[..].last().unwrap().to_owned();
        let first = samples::log_names(entry).get(1).copied().unwrap_or(name);
        format!("{first} {}", hex(&log::encode(entry)))
    });
    let lines: Vec<String> = lines.collect();
    let committed = committed("log.txt", &lines);
    for ((line, known), entry) in lines.iter().zip(&committed).zip(&entries) {
        assert_eq!(line, known);
        let (_, bytes) = known.split_once(' ').unwrap();
        assert_eq!(log::decode(unhex(bytes)).unwrap(), *entry);
    }
    assert_eq!(lines.len(), committed.len(), "a sample has no golden bytes");
}

#[test]
fn every_row_has_the_bytes_that_are_on_disks() {
    let all = samples::rows();
    let lines = all.iter().map(|(key, row)| {
        let kind = samples::row_names(key, row)[0];
        format!(
            "{kind} {} {}",
            hex(&keys::encode(key)),
            hex(&rows::encode(row))
        )
    });
    let lines: Vec<String> = lines.collect();
    let committed = committed("rows.txt", &lines);
    for ((line, known), (key, row)) in lines.iter().zip(&committed).zip(&all) {
        assert_eq!(line, known);
        let mut parts = known.split(' ').skip(1).map(unhex);
        assert_eq!(keys::decode(&parts.next().unwrap()).unwrap(), *key);
        assert_eq!(rows::decode(key, &parts.next().unwrap()).unwrap(), *row);
    }
    assert_eq!(lines.len(), committed.len(), "a sample has no golden bytes");
}

#[test]
fn every_kind_and_every_variant_within_it_has_a_sample() {
    let entries = samples::entries();
    let found: BTreeSet<_> = entries.iter().flat_map(samples::log_names).collect();
    assert_eq!(found, all(samples::LOG_NAMES));
    let rows = samples::rows();
    let found: BTreeSet<_> = rows
        .iter()
        .flat_map(|(key, row)| samples::row_names(key, row))
        .collect();
    assert_eq!(found, all(samples::ROW_NAMES));
}
