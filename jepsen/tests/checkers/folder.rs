//! Whole folders: what is read, what is unknown, what is written, and how the binary ends.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

use holdfast_jepsen::checker::store::Store;
use holdfast_jepsen::checker::{Overall, check, check_folder};
use holdfast_jepsen::records::{
    Answer, Call, FaultStatus, Op, Outcome, Position, Ruling, Setup, Verdict,
};
use holdfast_jepsen::report;

use super::world::{MS, legal};

fn lines<T: Serialize>(folder: &Path, name: &str, lines: &[T]) {
    let mut text = String::new();
    for line in lines {
        let _ = writeln!(text, "{}", serde_json::to_string(line).unwrap());
    }
    std::fs::write(folder.join(name), text).unwrap();
}

/// As a test run leaves it.
fn write(store: &Store, folder: &Path) {
    let setup = serde_json::to_string_pretty(&store.setup).unwrap();
    std::fs::write(folder.join("setup.json"), setup).unwrap();
    lines(folder, "history.jsonl", &store.history);
    lines(folder, "effects.jsonl", &store.effects);
    lines(folder, "nemesis.jsonl", &store.faults);
    lines(folder, "workers.w1.jsonl", &store.bodies);
    for (node, tap) in &store.taps {
        lines(folder, &format!("tap.{node}.jsonl"), tap);
    }
    for (node, runs) in &store.journals {
        lines(folder, &format!("journal.{node}.jsonl"), runs);
    }
}

fn folder_of(store: &Store) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(store, folder.path());
    folder
}

fn violations(store: &Store) -> Vec<String> {
    let report = check(store);
    let violated = report.invariants.into_iter();
    let violated = violated.filter(|it| matches!(it.verdict, Verdict::Violated { .. }));
    violated.map(|it| it.id).collect()
}

#[test]
fn a_folder_is_judged_as_what_was_written_into_it() {
    let store = legal(1, "idempotent");
    let folder = folder_of(&store);
    assert_eq!(check_folder(folder.path()), check(&store));
}

#[test]
fn a_torn_last_line_is_forgiven_and_any_other_is_named() {
    let store = legal(2, "idempotent");
    let folder = folder_of(&store);
    let path = folder.path().join("tap.n3.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, &text[..text.len() - 20]).unwrap();
    assert_eq!(check_folder(folder.path()).overall, Overall::Valid);
    std::fs::write(&path, text.replacen("\"group\"", "\"gro", 1)).unwrap();
    let report = check_folder(folder.path());
    assert_eq!(report.overall, Overall::Unknown);
    assert!(
        report.reasons[0].starts_with("tap.n3.jsonl:1: "),
        "{:?}",
        report.reasons
    );
}

#[test]
fn a_file_that_is_missing_makes_it_unknown() {
    for name in [
        "setup.json",
        "history.jsonl",
        "effects.jsonl",
        "nemesis.jsonl",
    ] {
        let folder = folder_of(&legal(3, "idempotent"));
        std::fs::remove_file(folder.path().join(name)).unwrap();
        let report = check_folder(folder.path());
        assert!(
            report.reasons.contains(&format!("{name} is missing")),
            "{:?}",
            report.reasons
        );
        assert_eq!(report.overall, Overall::Unknown, "{name}");
    }
}

#[test]
fn a_test_run_that_was_cut_short_or_had_troubles_is_unknown_whatever_else_is_seen() {
    let mut store = legal(3, "idempotent");
    store.journals.get_mut("n2").unwrap().pop();
    assert_eq!(check(&store).overall, Overall::Violated);
    store
        .setup
        .troubles
        .push("n2: its journals could not be read".into());
    let report = check(&store);
    assert_eq!(report.overall, Overall::Unknown);
    assert!(
        report.reasons[0].starts_with("harness: n2"),
        "{:?}",
        report.reasons
    );

    let mut store = legal(3, "idempotent");
    store.setup.phases[3] = 0;
    let report = check_folder(folder_of(&store).path());
    assert_eq!(report.overall, Overall::Unknown);
    assert!(
        report.reasons[0].contains("did not come to its end"),
        "{:?}",
        report.reasons
    );
}

#[test]
fn what_the_harness_itself_saw_is_a_violation() {
    let mut store = legal(4, "idempotent");
    store
        .setup
        .seen
        .push("n2 served after its disk was wiped".into());
    assert_eq!(check(&store).overall, Overall::Violated);
    assert_eq!(violations(&store), ["H1"]);
}

#[test]
fn a_required_fault_that_was_only_skipped_makes_it_unknown() {
    let mut store = legal(4, "idempotent");
    for fault in store
        .faults
        .iter_mut()
        .filter(|it| it.fault == "kill-worker")
    {
        fault.status = FaultStatus::Skipped;
    }
    let report = check(&store);
    assert!(
        report.reasons[0].contains("kill-worker"),
        "{:?}",
        report.reasons
    );
    assert_ne!(report.overall, Overall::Valid);
}

#[test]
fn a_cluster_that_only_returned_errors_is_never_valid() {
    let mut store = Store {
        setup: Setup {
            nodes: 3,
            ..Setup::default()
        },
        ..Store::default()
    };
    for id in 0..200 {
        store.history.push(failed(id));
    }
    let report = check(&store);
    assert_eq!(report.overall, Overall::Unknown);
    assert!(
        report.reasons[0].contains("only 0 of 200"),
        "{:?}",
        report.reasons
    );
}

fn failed(id: u64) -> Op {
    Op {
        id,
        client: 0,
        node: "n1".into(),
        call: Call::Get {
            run: "r".into(),
            stale: false,
            at_least: None,
        },
        t_inv: id * MS,
        t_ret: id * MS + 1,
        outcome: Outcome::Fail,
        answer: None,
        error: Some("HF1001".into()),
        position: None,
    }
}

#[test]
fn too_few_answers_of_one_node_after_the_heal_make_it_unknown() {
    let mut store = legal(5, "idempotent");
    let healed = store.setup.phases[2];
    let mut kept = 0;
    store.history.retain(|op| {
        let of_it = op.t_inv > healed && op.node == "n3";
        kept += u32::from(of_it);
        !of_it || kept < 15
    });
    let report = check(&store);
    assert_eq!(report.overall, Overall::Unknown);
    assert!(report.reasons[0].contains("on n3"), "{:?}", report.reasons);
}

#[test]
fn a_hole_in_all_taps_makes_it_unknown_and_accuses_nobody_of_what_was_in_it() {
    let mut store = legal(6, "idempotent");
    for lines in store.taps.values_mut() {
        lines.retain(|line| line.index != 9);
    }
    let report = check(&store);
    assert!(
        report
            .reasons
            .contains(&"no tap has group 1, index 9 to 9".to_owned())
    );
    assert!(!violations(&store).contains(&"S1".to_owned()));
    assert!(!violations(&store).contains(&"S12".to_owned()));
}

/// A start whose answer was lost, and a read that finds the run, or does not.
fn lost_answer((applied, found): (bool, bool)) -> Store {
    let mut store = legal(7, "idempotent");
    let at = |t: u64| store.setup.phases[3] + t * MS;
    let start = Call::Start {
        run: "late".into(),
        workflow: "play".into(),
        serial: 9_999,
    };
    let read = Call::Get {
        run: "late".into(),
        stale: false,
        at_least: None,
    };
    let lost = Op {
        call: start,
        outcome: Outcome::Info,
        t_inv: at(1),
        t_ret: at(2),
        error: Some("timeout".into()),
        ..failed(9_001)
    };
    let answer = if found {
        Answer::Run {
            status: "READY".into(),
            generation: 1,
            serial: None,
        }
    } else {
        Answer::NoRun
    };
    let last = store.taps["n1"].iter().map(|it| it.index).max().unwrap();
    let read = Op {
        call: read,
        outcome: Outcome::Ok,
        t_inv: at(20),
        t_ret: at(21),
        answer: Some(answer),
        error: None,
        position: Some(Position {
            group: 1,
            index: last + u64::from(applied),
            slot: 0,
        }),
        ..failed(9_002)
    };
    let t = at(10);
    store.history.extend([lost, read]);
    if applied {
        for lines in store.taps.values_mut() {
            let mut line = lines.iter().find(|it| it.index == last).unwrap().clone();
            (line.t, line.index, line.events) = (t, last + 1, Vec::new());
            line.now += 1_000;
            line.commands.truncate(1);
            line.commands[0].kind = "start".into();
            line.commands[0].answer = "ok".into();
            line.commands[0].run = Some("late".into());
            line.commands[0].results.clear();
            lines.push(line);
        }
    }
    store.sort();
    store
}

#[test]
fn what_became_of_a_lost_answer_is_settled_from_the_taps() {
    // It was applied nowhere: then a run that is there all the same came from nothing.
    assert!(!violations(&lost_answer((false, false))).contains(&"S11".to_owned()));
    assert!(violations(&lost_answer((false, true))).contains(&"S11".to_owned()));
    assert!(!violations(&lost_answer((true, true))).contains(&"S11".to_owned()));
}

#[test]
fn a_story_tells_everything_about_the_guilty_run_in_order() {
    let mut store = legal(8, "naive");
    let acted = store
        .effects
        .iter()
        .find(|it| it.ruling == Ruling::Acted)
        .unwrap();
    let mut again = acted.clone();
    (again.t, again.seq) = (again.t + 1, 10_000);
    let run = again.run.clone();
    store.effects.push(again);
    let report = check(&store);
    let s8 = report.invariants.iter().find(|it| it.id == "S8").unwrap();
    let Verdict::Violated { stories } = &s8.verdict else {
        panic!("{:?}", s8.verdict);
    };
    let (headline, told) = stories[0].split_once('\n').unwrap();
    assert!(
        headline.contains(&run) && headline.contains("acted twice"),
        "{headline}"
    );
    for part in ["asked", "log 1:", "worker w", "sink: ", "is given"] {
        assert!(told.contains(part), "{part} is missing in\n{told}");
    }
    let times: Vec<f64> = told
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.parse().ok())
        .collect();
    assert!(times.len() > 8 && times.is_sorted(), "{told}");
}

#[test]
fn a_report_is_one_page_with_pictures_and_needs_nothing_else() {
    let folder = folder_of(&legal(9, "idempotent"));
    let report = report::write(folder.path()).unwrap();
    assert_eq!(report.overall, Overall::Valid);
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let page = read("report.html");
    assert!(page.contains("S26") && page.contains("kill on n1"));
    assert_eq!(page.matches("<svg").count(), 5);
    let without_names = page.replace("http://www.w3.org/2000/svg", "");
    assert!(!without_names.contains("http") && !page.contains("<script"));
    for name in [
        "latency.svg",
        "latency-quantiles.svg",
        "rate.svg",
        "availability.svg",
    ] {
        assert!(
            read(name).starts_with("<svg") && read(name).trim_end().ends_with("</svg>"),
            "{name}"
        );
    }
    // Too few samples have no 99th percentile.
    assert!(!read("latency-quantiles.svg").contains("p99"));
    assert!(
        read("failover.csv").lines().count() == 2,
        "{}",
        read("failover.csv")
    );
    let results: holdfast_jepsen::checker::Report =
        serde_json::from_str(&read("results.json")).unwrap();
    assert_eq!(results, report);
}

fn jepsen(verb: &str, folder: &Path) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jepsen"));
    let out = command.arg(verb).arg(folder).output().unwrap();
    (
        out.status.code().unwrap(),
        String::from_utf8(out.stdout).unwrap(),
    )
}

#[test]
fn the_binary_ends_with_0_1_2_and_254() {
    let mut store = legal(10, "idempotent");
    let folder = folder_of(&store);
    let (code, text) = jepsen("check", folder.path());
    assert_eq!(code, 0, "{text}");
    assert!(
        text.trim_end().ends_with("VALID") && text.contains("FAILOVER p50"),
        "{text}"
    );

    store.journals.get_mut("n2").unwrap().pop();
    write(&store, folder.path());
    let (code, text) = jepsen("report", folder.path());
    assert_eq!(code, 1, "{text}");
    assert!(
        text.contains("S1 VIOLATED") && text.contains("report.html"),
        "{text}"
    );

    std::fs::remove_file(folder.path().join("journal.n1.jsonl")).unwrap();
    std::fs::remove_file(folder.path().join("journal.n2.jsonl")).unwrap();
    std::fs::remove_file(folder.path().join("journal.n3.jsonl")).unwrap();
    assert_eq!(jepsen("check", folder.path()).0, 2);
    assert_eq!(jepsen("chekc", folder.path()).0, 254);
}
