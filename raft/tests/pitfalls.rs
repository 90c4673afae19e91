//! docs/pitfalls.md and docs/catalogue.md name tests that exist, for every mistake in turn, or say what is still missing.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The last mistake that is known.
const LAST_PITFALL: usize = 47;
/// The last bug of the catalogue.
const LAST_BUG: usize = 51;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The names of all test functions below a folder: what follows a test attribute.
fn tests_below(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()) {
        if entry.is_dir() {
            tests_below(&entry, found);
        } else if entry.extension().is_some_and(|it| it == "rs") {
            found.extend(tests_in(&fs::read_to_string(entry).unwrap()));
        }
    }
}

fn tests_in(source: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut is_test = false;
    for line in source.lines().map(str::trim) {
        let function = line
            .strip_prefix("async ")
            .unwrap_or(line)
            .strip_prefix("fn ");
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some(rest) = function
            && std::mem::take(&mut is_test)
        {
            names.extend(rest.split('(').next().map(str::to_owned));
        }
    }
    names
}

/// What is wrong with the table.
fn wrong_rows(table: &str, last: usize, tests: &BTreeSet<String>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut number = 0;
    for row in table
        .lines()
        .filter(|it| it.starts_with("| ") && !it.starts_with("| # "))
    {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [found, mistake, caught_by] = cells[..] else {
            wrong.push(format!("not three cells: {row}"));
            continue;
        };
        number += 1;
        if found != number.to_string() || mistake.is_empty() {
            wrong.push(format!("number {number} is due: {row}"));
        }
        let names: Vec<&str> = caught_by.split('`').skip(1).step_by(2).collect();
        let owed = ["later: ", "cannot happen"];
        if names.is_empty() && !owed.iter().any(|words| caught_by.starts_with(words)) {
            wrong.push(format!(
                "{found}: neither a test nor \"later\" nor why it cannot happen"
            ));
        }
        let absent = names.iter().filter(|name| !tests.contains(**name));
        wrong.extend(absent.map(|name| format!("{found}: there is no test {name}")));
    }
    if number != last {
        wrong.push(format!("{number} rows, not {last}"));
    }
    wrong
}

#[test]
fn every_pitfall_and_every_bug_of_the_catalogue_is_caught_by_tests_that_exist_or_owes_them_in_words()
 {
    let root = root();
    let mut tests = BTreeSet::new();
    for part in [
        "scheduler",
        "proto",
        "raft",
        "node",
        "client",
        "cli",
        "jepsen",
    ] {
        tests_below(&root.join(part), &mut tests);
    }
    for (table, last) in [
        ("docs/pitfalls.md", LAST_PITFALL),
        ("docs/catalogue.md", LAST_BUG),
    ] {
        let rows = fs::read_to_string(root.join(table)).unwrap();
        let wrong = wrong_rows(&rows, last, &tests);
        assert!(wrong.is_empty(), "{table}: {wrong:#?}");
    }
}

#[test]
fn a_test_that_is_not_there_a_gap_and_an_empty_promise_are_found() {
    let tests = BTreeSet::from(["it_is_caught".to_owned()]);
    let rows = |rows: &[&str]| wrong_rows(&rows.join("\n"), LAST_PITFALL, &tests);
    let good: Vec<String> = (1..=LAST_PITFALL)
        .map(|n| format!("| {n} | so | `it_is_caught` |"))
        .collect();
    let good: Vec<&str> = good.iter().map(String::as_str).collect();
    assert_eq!(rows(&good), Vec::<String>::new());
    for bad in [
        "| 1 | so | `it_is_not` |",
        "| 2 | so | later: x |",
        "| 1 | so | soon |",
    ] {
        let mut all = good.clone();
        all[0] = bad;
        assert_eq!(rows(&all).len(), 1, "{bad}");
    }
    assert_eq!(
        rows(&good[1..]).len(),
        LAST_PITFALL,
        "every number is one off, and one row is missing"
    );
}

#[test]
fn only_functions_under_a_test_attribute_count() {
    let source = "#[tokio::test(flavor = \"x\")]\n#[ignore = \"y\"]\nasync fn one() {}\nfn two() {}\n    #[test]\n    fn three() {}";
    assert_eq!(tests_in(source), ["one", "three"]);
}
