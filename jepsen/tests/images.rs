//! Traces, disks, cuts and damage by hand: what a sync covers, what a cut may take, what counts as harmless.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

use std::collections::BTreeMap;
use std::fmt::Write;

use holdfast_jepsen::images::build::{Builder, Cut};
use holdfast_jepsen::images::damage::{Blow, Came, blows, came};
use holdfast_jepsen::images::disk::{Disk, History};
use holdfast_jepsen::images::judge::{Due, Written, wrong};
use holdfast_jepsen::images::opener::{Answer, Found, Group};
use holdfast_jepsen::images::trace::{Call, Event, How, Reader};

fn hex(text: &str) -> String {
    text.bytes().fold(String::new(), |mut all, byte| {
        write!(all, "\\x{byte:02x}").unwrap();
        all
    })
}

fn read(trace: &str) -> Vec<Call> {
    let mut reader = Reader::new("/d/n1");
    reader.read(trace).unwrap();
    reader.events().into_iter().map(|it| it.call).collect()
}

#[test]
fn a_trace_is_read_call_by_call_and_a_sync_says_where_it_began() {
    let (file, other) = (hex("/d/n1/log/a"), hex("/etc/passwd"));
    let trace = format!(
        "7  1.0 openat(AT_FDCWD<{cwd}>, \"{file}\", O_WRONLY|O_CREAT|O_TRUNC, 0644) = 9<{file}> <0.000010>\n\
         7  1.1 openat(AT_FDCWD<{cwd}>, \"{other}\", O_RDONLY) = 10<{other}> <0.000010>\n\
         7  1.2 fdatasync(9<{file}> <unfinished ...>\n\
         8  1.3 write(9<{file}>, \"{bytes}\", 3) = 2 <0.000010>\n\
         7  1.4 <... fdatasync resumed>) = 0 <0.250000>\n\
         8  1.5 pwritev(9<{file}>, [{{iov_base=\"{bytes}\", iov_len=3}}, {{iov_base=\"{bytes}\", iov_len=3}}], 2, 64) = 6 <0.000010>\n\
         8  1.6 mkdir(\"{file}\", 0777) = -1 EEXIST (File exists) <0.000010>\n\
         7  1.7 +++ exited with 0 +++\n",
        cwd = hex("/root"),
        bytes = hex("abc"),
    );
    let opened = Call::Open {
        path: "log/a".into(),
        fd: 9,
        how: How {
            creates: true,
            empties: true,
            appends: false,
        },
    };
    let wrote = |at, bytes: &[u8]| Call::Write {
        fd: 9,
        at,
        bytes: bytes.into(),
    };
    let all = [
        Call::Restart,
        opened,
        wrote(None, b"ab"),
        Call::Sync { fd: 9, began: 2 },
        wrote(Some(64), b"abcabc"),
    ];
    assert_eq!(read(&trace), all);
    let mut reader = Reader::new("/d/n1");
    reader.read(&trace).unwrap();
    let ended = reader.events()[3].at;
    assert!(
        (ended - 1.45).abs() < 1e-9,
        "begun at 1.2 for 0.25 s: {ended}"
    );
}

#[test]
fn a_call_that_is_not_understood_is_an_error_and_never_skipped() {
    for line in [
        format!(
            "7  1.0 copy_file_range(9<{}>, NULL) = 3 <0.0>",
            hex("/d/n1/a")
        ),
        format!(
            "7  1.0 write(9<{}>, \"{}\"..., 9) = 9 <0.0>",
            hex("/d/n1/a"),
            hex("abc")
        ),
        format!(
            "7  1.0 rename(\"{}\", \"{}\") = 0 <0.0>",
            hex("/d/n1/a"),
            hex("/elsewhere")
        ),
        "7  1.0 <... fsync resumed>) = 0 <0.0>".to_owned(),
    ] {
        let refused = Reader::new("/d/n1").read(&line);
        assert!(refused.is_err(), "{line}");
    }
}

fn events(calls: Vec<Call>) -> Vec<Event> {
    let numbered = calls.into_iter().zip(0_u32..);
    numbered
        .map(|(call, at)| Event {
            at: f64::from(at),
            call,
        })
        .collect()
}

fn open(path: &str, fd: i64, creates: bool) -> Call {
    let how = How {
        creates,
        ..How::default()
    };
    Call::Open {
        path: path.into(),
        fd,
        how,
    }
}

fn write(fd: i64, bytes: &[u8]) -> Call {
    Call::Write {
        fd,
        at: None,
        bytes: bytes.into(),
    }
}

/// A file made and synced, its name not; then more bytes, and the sync of its folder.
fn history() -> History {
    let calls = vec![
        open("", 1, false),
        open("a", 2, true),
        write(2, &[1; 600]),
        Call::Sync { fd: 2, began: 3 },
        write(2, &[2; 600]),
        Call::Sync { fd: 1, began: 5 },
    ];
    History::of(&events(calls)).unwrap()
}

fn files(disk: &Disk) -> BTreeMap<String, Vec<u8>> {
    let files = disk.files();
    files
        .map(|(path, bytes)| (path.to_owned(), bytes.to_vec()))
        .collect()
}

fn cut(history: &History, sync: usize, cut: Cut, seed: u64) -> BTreeMap<String, Vec<u8>> {
    let mut builder = Builder::new(history);
    builder.go_to(sync);
    files(&builder.disk(cut, seed))
}

#[test]
fn a_sync_of_a_file_covers_its_bytes_and_not_its_name() {
    let history = history();
    assert!(
        cut(&history, 1, Cut::Nothing, 0).is_empty(),
        "no name, no file"
    );
    assert!(cut(&history, 1, Cut::BytesOnly, 0).is_empty());
    assert_eq!(cut(&history, 1, Cut::NamesOnly, 0)["a"].len(), 600);
    assert_eq!(cut(&history, 1, Cut::Everything, 0)["a"].len(), 1200);
}

#[test]
fn bytes_written_while_a_sync_ran_are_not_covered_by_it() {
    let calls = vec![
        open("", 1, false),
        open("a", 2, true),
        Call::Sync { fd: 1, began: 2 },
        write(2, b"before"),
        write(2, b"meanwhile"),
        Call::Sync { fd: 2, began: 4 },
        Call::Sync { fd: 1, began: 6 },
    ];
    let history = History::of(&events(calls)).unwrap();
    assert_eq!(cut(&history, 2, Cut::Nothing, 0)["a"], b"before");
}

#[test]
fn a_torn_write_ends_at_a_sector_or_a_page_and_a_seed_means_one_disk() {
    let history = history();
    let mut lengths = std::collections::BTreeSet::new();
    for seed in 0..200 {
        for kind in [Cut::Prefix, Cut::Some] {
            let disk = cut(&history, 1, kind, seed);
            assert_eq!(disk, cut(&history, 1, kind, seed));
            lengths.extend(disk.get("a").map(Vec::len));
        }
    }
    // Nothing of the second write; its part up to the next sector; all of it.
    assert_eq!(lengths, [600, 1024, 1200].into());
}

#[test]
fn a_name_that_moved_is_the_old_or_the_new_one() {
    let calls = vec![
        open("", 1, false),
        open("new", 2, true),
        write(2, b"new"),
        Call::Sync { fd: 2, began: 3 },
        open("current", 3, true),
        write(3, b"old"),
        Call::Sync { fd: 3, began: 6 },
        Call::Sync { fd: 1, began: 7 },
        Call::Rename {
            from: "new".into(),
            to: "current".into(),
        },
        Call::Sync { fd: 1, began: 9 },
    ];
    let history = History::of(&events(calls)).unwrap();
    let kept = cut(&history, 3, Cut::Nothing, 0);
    assert_eq!((kept["current"].as_slice(), kept.len()), (&b"old"[..], 2));
    let moved = cut(&history, 3, Cut::Everything, 0);
    assert_eq!((moved["current"].as_slice(), moved.len()), (&b"new"[..], 1));
}

#[test]
fn a_disk_that_lies_about_a_sync_loses_what_was_synced() {
    let calls = vec![
        open("", 1, false),
        open("a", 2, true),
        Call::Sync { fd: 1, began: 2 },
        write(2, b"acknowledged"),
        Call::Sync { fd: 2, began: 4 },
        Call::Sync { fd: 1, began: 5 },
    ];
    let calls = events(calls);
    let honest = History::of(&calls).unwrap();
    assert_eq!(cut(&honest, 2, Cut::Nothing, 0)["a"], b"acknowledged");
    let lying = History::without(&calls, |path| path == "a").unwrap();
    assert_eq!(cut(&lying, 1, Cut::Nothing, 0)["a"], b"");
}

#[test]
fn the_log_is_known_synced_when_the_watermark_is_written() {
    let calls = vec![
        open("WATERMARK", 1, true),
        open("log/000004.log", 2, true),
        write(2, b"one"),
        Call::Sync { fd: 2, began: 3 },
        write(2, b"two"),
        write(1, b"mark"),
        write(1, b"mark"),
    ];
    let told = History::of(&events(calls)).unwrap().told();
    let told: Vec<_> = told.iter().map(|it| (it.at, it.covered)).collect();
    assert_eq!(
        told,
        [(4, 3)],
        "after both files, one write, and the other write"
    );
}

fn group(last: u64, sums: &[u32]) -> Group {
    let entries = (0..).zip(sums.iter().copied()).collect();
    Group {
        group: 1,
        purged: None,
        last: Some(last),
        term: Some(2),
        vote: Some((2, 1, true)),
        committed: Some(last),
        entries,
        applied: Some(last),
        digest: "d".into(),
        rows_digest: "r".into(),
    }
}

fn found(group: Group) -> Found {
    Found {
        cluster: Some("images".into()),
        groups: vec![group],
    }
}

#[test]
fn a_cut_disk_must_hold_what_was_synced_and_nothing_invented() {
    let whole = found(group(2, &[7, 8, 9]));
    let mut written = Written::default();
    written.learn(&whole);
    let due = |last, acked, vote| {
        let last = Some((2, last));
        BTreeMap::from([(1, Due { last, acked, vote })])
    };
    let answer = |group| Answer::Found(found(group));
    let is_wrong = |answer: &Answer, due| wrong(answer, &due, &written).is_some();
    let short = answer(group(1, &[7, 8]));
    assert!(!is_wrong(&short, due(1, Some(1), Some((2, true)))));
    assert!(is_wrong(&short, due(2, None, None)), "an entry is lost");
    assert!(
        is_wrong(&short, due(1, Some(2), None)),
        "an acknowledged one"
    );
    assert!(is_wrong(&short, due(1, None, Some((3, false)))), "a vote");
    assert!(
        is_wrong(&answer(group(1, &[7, 6])), due(1, None, None)),
        "invented"
    );
    let refused = Answer::Refused {
        at: "log".into(),
        why: "HF6001".into(),
    };
    assert!(is_wrong(&refused, due(0, None, None)));
    assert!(is_wrong(&Answer::Died("signal".into()), due(0, None, None)));
}

#[test]
fn damage_is_harmless_only_if_the_log_is_the_same_and_the_state_comes_from_it() {
    let reference = found(group(2, &[7, 8, 9]));
    let came_of = |group| came(&reference, &Answer::Found(found(group))).0;
    let same = || group(2, &[7, 8, 9]);
    assert_eq!(came_of(same()), Came::Harmless);
    let earlier = Group {
        applied: Some(1),
        digest: "e".into(),
        rows_digest: "s".into(),
        ..same()
    };
    assert_eq!(came_of(earlier), Came::Replayed);
    let other_rows = Group {
        rows_digest: "s".into(),
        ..same()
    };
    let lost_vote = Group {
        vote: Some((1, 1, true)),
        ..same()
    };
    let ahead = Group {
        applied: Some(3),
        ..same()
    };
    for bad in [
        group(1, &[7, 8]),
        group(2, &[7, 8, 6]),
        other_rows,
        lost_vote,
        ahead,
    ] {
        assert_eq!(came_of(bad), Came::Unnoticed);
    }
    let refused = |at: &str| Answer::Refused {
        at: at.into(),
        why: String::new(),
    };
    assert_eq!(came(&reference, &refused("log")).0, Came::Refused);
    assert_eq!(
        came(&reference, &refused("reading")).0,
        Came::ShownByReading
    );
    assert_eq!(came(&reference, &Answer::Hung).0, Came::Hangs);
    let died = Answer::Died("signal".into());
    assert_eq!(came(&reference, &died).0, Came::Unnoticed);
}

#[test]
fn blows_reach_every_byte_if_they_may() {
    let all = blows(5, 100, 100, 3);
    let cuts: Vec<_> = all
        .iter()
        .filter_map(|it| match it {
            Blow::CutAt(at) => Some(*at),
            _ => None,
        })
        .collect();
    assert_eq!(cuts, [0, 1, 2, 3, 4]);
    assert_eq!(all.len(), 11);
    for blow in &all {
        assert_ne!(
            blow.strike(b"bytes").as_deref(),
            Some(&b"bytes"[..]),
            "{blow:?}"
        );
    }
}
