//! Our own lints over the whole workspace, in the crate that is fastest to build.
//!
//! Invariant: each rule is a function from what it reads to what it finds, and has a test below that it catches a planted
//! violation. Not here: what rustfmt and clippy see.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails here")]
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the bans are for the core itself; this reads the files of the workspace"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Asked about, not forbidden: shape matters more than size.
const LINES_ASKED: usize = 600;

/// A file as the rules see it: its path from the root, with `/`, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Self {
            path: path.to_string(),
            text: text.to_string(),
        }
    }

    /// Lines of code with their numbers: no comment lines.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let numbered = self
            .text
            .lines()
            .enumerate()
            .map(|(at, line)| (at + 1, line));
        numbered.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

/// One dependency of one of our crates.
#[derive(Debug, Clone)]
struct Arrow {
    from: String,
    to: String,
    dev: bool,
    optional: bool,
    /// The features of `from` that switch it on.
    features: BTreeSet<String>,
}

/// Architecture, section 2: who may name whom, and under which feature only.
const ARROWS: &[(&str, &str, Option<&str>)] = &[
    ("holdfast-proto", "holdfast-scheduler", Some("domain")),
    ("holdfast-raft", "holdfast-proto", None),
    ("holdfast-node", "holdfast-raft", None),
    ("holdfast-node", "holdfast-scheduler", None),
    ("holdfast-node", "holdfast-proto", None),
    ("holdfast", "holdfast-proto", None),
    ("holdfast", "holdfast-scheduler", Some("testing")),
    ("holdfast-cli", "holdfast", None),
    ("holdfast-cli", "holdfast-proto", None),
    ("holdfast-cli", "holdfast-node", Some("server")),
    ("holdfast-cli", "holdfast-jepsen", Some("server")),
    ("holdfast-jepsen", "holdfast", None),
    ("holdfast-jepsen", "holdfast-proto", None),
    ("holdfast-jepsen", "holdfast-scheduler", Some("sim")),
    ("holdfast-jepsen", "holdfast-raft", Some("sim-cluster")),
    ("holdfast-jepsen", "holdfast-node", Some("sim-cluster")),
];

/// All that the core may use from outside: no clock, no randomness, no IO, no runtime.
const CORE_MAY_NAME: &[&str] = &["bytes", "thiserror", "twox-hash"];

fn wrong_arrows(arrows: &[Arrow]) -> Vec<String> {
    let ours: BTreeSet<&str> = ARROWS
        .iter()
        .flat_map(|(from, to, _)| [*from, *to])
        .collect();
    let mut found = Vec::new();
    for arrow in arrows
        .iter()
        .filter(|arrow| ours.contains(arrow.to.as_str()))
    {
        let rule = ARROWS
            .iter()
            .find(|(from, to, _)| *from == arrow.from && *to == arrow.to);
        let Arrow { from, to, .. } = arrow;
        match rule {
            None => found.push(format!(
                "{from} names {to}, which architecture §2 does not allow"
            )),
            // Tests may use what a feature would switch on.
            Some((_, _, Some(feature))) if !arrow.dev => {
                let only = BTreeSet::from([(*feature).to_string()]);
                if !arrow.optional || !arrow.features.is_subset(&only) {
                    found.push(format!("{from} may name {to} under feature {feature} only"));
                }
            }
            Some(_) => {}
        }
    }
    found
}

fn impure_core(arrows: &[Arrow]) -> Vec<String> {
    arrows
        .iter()
        .filter(|arrow| arrow.from == "holdfast-scheduler" && !arrow.dev)
        .filter(|arrow| !CORE_MAY_NAME.contains(&arrow.to.as_str()))
        .map(|arrow| {
            format!(
                "the core names {}; it may name {CORE_MAY_NAME:?} only",
                arrow.to
            )
        })
        .collect()
}

/// Crates that only one crate of ours may depend on at all.
fn foreign_depths(arrows: &[Arrow]) -> Vec<String> {
    arrows
        .iter()
        .filter(|arrow| ["openraft", "rocksdb"].contains(&arrow.to.as_str()))
        .filter(|arrow| arrow.from != "holdfast-raft")
        .map(|arrow| format!("{} names {}; only holdfast-raft may", arrow.from, arrow.to))
        .collect()
}

/// Planted bugs are switched on by a feature of the same name alone: by no default and by no other feature.
fn reachable_bugs(features: &BTreeMap<String, BTreeMap<String, Vec<String>>>) -> Vec<String> {
    const BUGS: &str = "seeded-bugs";
    let mut found = Vec::new();
    for (package, features) in features {
        for (feature, parts) in features {
            let plants = |part: &String| part == BUGS || part.ends_with(&format!("/{BUGS}"));
            if feature != BUGS && parts.iter().any(plants) {
                found.push(format!("feature {feature} of {package} plants bugs"));
            }
        }
    }
    found
}

/// A dependency that asks for the planted bugs has them in every build.
fn planting_dependencies(metadata: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        for dependency in package["dependencies"].as_array().unwrap() {
            let asked = dependency["features"].as_array().unwrap();
            if asked.iter().any(|feature| feature == "seeded-bugs") {
                found.push(format!(
                    "{} plants bugs in {}",
                    package["name"], dependency["name"]
                ));
            }
        }
    }
    found
}

fn features(metadata: &Value) -> BTreeMap<String, BTreeMap<String, Vec<String>>> {
    let packages = metadata["packages"].as_array().unwrap().iter();
    let features = |package: &Value| serde_json::from_value(package["features"].clone()).unwrap();
    packages
        .map(|package| {
            (
                package["name"].as_str().unwrap().to_string(),
                features(package),
            )
        })
        .collect()
}

/// `openraft::` in the adapter and in its own conformance suite, `rocksdb::` in raft, nowhere else.
fn misplaced_names(source: &Source) -> Vec<String> {
    let places: [(&str, &[&str]); 2] = [
        (
            "openraft::",
            &["raft/src/adapter/", "raft/src/adapter.rs", "raft/tests/"],
        ),
        ("rocksdb::", &["raft/"]),
    ];
    let mut found = Vec::new();
    for (name, places) in places {
        if places.iter().any(|place| source.path.starts_with(place)) {
            continue;
        }
        for (number, line) in source.code().filter(|(_, line)| names(line, name)) {
            found.push(format!(
                "{}:{number}: {name} outside {places:?}: {}",
                source.path,
                line.trim()
            ));
        }
    }
    found
}

/// Whether a line uses a path, and not another one that ends alike.
fn names(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '"')
    })
}

/// The box around the cluster knows its outside only: `scheduler`, `raft` and `node` under `sim/`.
fn nosy_jepsen(source: &Source) -> Vec<String> {
    if !source.path.starts_with("jepsen/") || source.path.starts_with("jepsen/src/sim/") {
        return Vec::new();
    }
    let inside = ["holdfast_scheduler", "holdfast_raft", "holdfast_node"];
    source
        .code()
        .filter(|(_, line)| inside.iter().any(|name| line.contains(name)))
        .map(|(number, line)| format!("{}:{number}: looks inside: {}", source.path, line.trim()))
        .collect()
}

fn headless(source: &Source) -> Vec<String> {
    // Programs of `trybuild` are shown to readers whole; their header is their file name.
    let exempt = source.path.contains("/tests/ui/");
    // A shebang or an attribute does not come before what the file is about.
    let headed = source
        .text
        .lines()
        .next()
        .is_some_and(|line| line.starts_with("//! "));
    if exempt || headed {
        Vec::new()
    } else {
        vec![format!("{}: no //! header", source.path)]
    }
}

fn to_be_filled(source: &Source) -> Vec<String> {
    let marks = [
        concat!("To be ", "filled"),
        concat!("unimplemented", "!("),
        concat!("todo", "!("),
    ];
    find(
        source,
        |line| marks.iter().any(|mark| line.contains(mark)),
        "is a stub",
    )
}

fn unowned_work(source: &Source) -> Vec<String> {
    let (fix, to_do) = (concat!("FIX", "ME"), concat!("TO", "DO"));
    let unowned = |line: &str| {
        let open = line
            .match_indices(to_do)
            .any(|(at, word)| !line[at + word.len()..].starts_with("(#"));
        line.contains(fix) || open
    };
    find(
        source,
        unowned,
        "names no issue; write it as TODO(#12) or do it",
    )
}

fn find(source: &Source, is_wrong: impl Fn(&str) -> bool, what: &str) -> Vec<String> {
    let lines = source
        .text
        .lines()
        .enumerate()
        .filter(|(_, line)| is_wrong(line));
    lines
        .map(|(at, line)| format!("{}:{}: {what}: {}", source.path, at + 1, line.trim()))
        .collect()
}

/// Every error code that code names has a page, and every page is of a code that something names.
fn codes_without_page(source: &Source, pages: &BTreeSet<String>) -> Vec<String> {
    let codes = codes(&source.text);
    let missing = codes.into_iter().filter(|code| !pages.contains(code));
    missing
        .map(|code| format!("{}: {code} has no page docs/errors/{code}.md", source.path))
        .collect()
}

fn codes(text: &str) -> BTreeSet<String> {
    text.match_indices("HF")
        .filter_map(|(at, _)| text.get(at..at + 6))
        .filter(|code| code[2..].bytes().all(|byte| byte.is_ascii_digit()))
        .map(str::to_string)
        .collect()
}

/// Paths of Rust files that ARCHITECTURE.md names, in backquotes or in its house plan. A crate's line in the plan
/// (`scheduler/  …`) gives the folder for the lines below it.
fn missing_files(map: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut folder = String::new();
    let mut found = Vec::new();
    for line in map.lines() {
        let crate_line = line.split_whitespace().next().filter(|first| {
            first.ends_with('/') && line.starts_with(first) && first.matches('/').count() == 1
        });
        if let Some(name) = crate_line {
            folder = name.to_string();
        }
        for word in line.split(|c: char| c.is_whitespace() || "`()[],;|".contains(c)) {
            let path = word.trim_end_matches(['.', ':']);
            let is_file = Path::new(path)
                .extension()
                .is_some_and(|ending| ending == "rs")
                && path.contains('/')
                && !path.contains(['*', '<']);
            if is_file && !exists(path) && !exists(&format!("{folder}{path}")) {
                found.push(format!("ARCHITECTURE.md names {path}, which is not there"));
            }
        }
    }
    found
}

/// The library that `scripts/rocksdb` builds ahead must be what cargo would build: version from the lock file, same features.
fn rocksdb_drift(script: &str, manifest: &str) -> Vec<String> {
    let mut found = Vec::new();
    for crate_name in ["rocksdb", "librocksdb-sys"] {
        if !script.contains(&format!("locked {crate_name}")) {
            found.push(format!(
                "scripts/rocksdb does not take {crate_name}'s version from Cargo.lock"
            ));
        }
    }
    let wanted = manifest
        .lines()
        .find(|line| line.starts_with("rocksdb = "))
        .and_then(|line| line.split_once("features = [")?.1.split_once(']'))
        .map(|(features, _)| features.trim().to_string());
    let built = script
        .lines()
        .find_map(|line| line.strip_prefix("features='"))
        .and_then(|rest| Some(rest.split_once('\'')?.0.to_string()));
    if wanted.is_none() || wanted != built {
        found.push(format!(
            "rocksdb features: Cargo.toml has {wanted:?}, scripts/rocksdb {built:?}"
        ));
    }
    found
}

fn long(source: &Source) -> Option<String> {
    let lines = source.text.lines().count();
    (lines > LINES_ASKED).then(|| {
        format!(
            "{} has {lines} lines: would two files read better?",
            source.path
        )
    })
}

#[test]
fn dependencies_point_only_where_the_architecture_says() {
    let arrows = arrows(&metadata());
    assert!(
        arrows.len() > 20,
        "cargo metadata was not understood: {arrows:?}"
    );
    none(
        &[
            wrong_arrows(&arrows),
            impure_core(&arrows),
            foreign_depths(&arrows),
        ]
        .concat(),
    );
}

#[test]
fn planted_bugs_are_out_of_reach_of_what_is_shipped() {
    let metadata = metadata();
    let features = features(&metadata);
    let known = |package: &str| features[package].contains_key("seeded-bugs");
    assert!(known("holdfast-scheduler") && known("holdfast-jepsen"));
    none(&[reachable_bugs(&features), planting_dependencies(&metadata)].concat());
}

#[test]
fn every_source_file_keeps_the_house_rules() {
    let pages = pages();
    let mut found = Vec::new();
    for source in sources() {
        let own = source.path == "scheduler/tests/tidy.rs"; // it plants violations
        found.extend(headless(&source));
        if !own {
            found.extend(misplaced_names(&source));
            found.extend(nosy_jepsen(&source));
            found.extend(unowned_work(&source));
            found.extend(to_be_filled(&source));
            found.extend(codes_without_page(&source, &pages));
        }
        if let Some(question) = long(&source) {
            println!("{question}");
        }
    }
    none(&found);
}

#[test]
fn the_map_names_only_files_that_are_there() {
    let map = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    none(&missing_files(&map, |path| root().join(path).is_file()));
}

#[test]
fn the_rocksdb_built_ahead_is_the_one_that_cargo_wants() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    none(&rocksdb_drift(
        &read("scripts/rocksdb"),
        &read("Cargo.toml"),
    ));
}

fn arrow(from: &str, to: &str) -> Arrow {
    let (from, to) = (from.to_string(), to.to_string());
    Arrow {
        from,
        to,
        dev: false,
        optional: false,
        features: BTreeSet::new(),
    }
}

fn under(feature: &str, from: &str, to: &str) -> Arrow {
    let features = BTreeSet::from([feature.to_string()]);
    Arrow {
        optional: true,
        features,
        ..arrow(from, to)
    }
}

#[test]
fn an_arrow_against_the_architecture_is_found() {
    assert_eq!(
        wrong_arrows(&[arrow("holdfast-raft", "holdfast-scheduler")]).len(),
        1
    );
    assert_eq!(wrong_arrows(&[arrow("holdfast", "holdfast-raft")]).len(), 1);
    let dev = Arrow {
        dev: true,
        ..arrow("holdfast-scheduler", "holdfast-node")
    };
    assert_eq!(wrong_arrows(&[dev]).len(), 1);
    assert!(
        wrong_arrows(&[
            arrow("holdfast-node", "holdfast-raft"),
            arrow("holdfast", "tonic")
        ])
        .is_empty()
    );
}

#[test]
fn an_arrow_that_needs_a_feature_is_found_without_it_or_under_another() {
    assert_eq!(
        wrong_arrows(&[arrow("holdfast", "holdfast-scheduler")]).len(),
        1
    );
    assert_eq!(
        wrong_arrows(&[under("default", "holdfast", "holdfast-scheduler")]).len(),
        1
    );
    assert!(wrong_arrows(&[under("testing", "holdfast", "holdfast-scheduler")]).is_empty());
}

#[test]
fn a_core_that_names_a_runtime_is_found() {
    assert_eq!(
        impure_core(&[arrow("holdfast-scheduler", "tokio")]).len(),
        1
    );
    assert!(
        impure_core(&[
            arrow("holdfast-scheduler", "bytes"),
            arrow("holdfast-node", "tokio")
        ])
        .is_empty()
    );
    let dev = Arrow {
        dev: true,
        ..arrow("holdfast-scheduler", "proptest")
    };
    assert!(impure_core(&[dev]).is_empty());
}

#[test]
fn consensus_and_disk_outside_raft_are_found() {
    assert_eq!(
        foreign_depths(&[arrow("holdfast-node", "rocksdb")]).len(),
        1
    );
    let planted = "//! x\nuse openraft::Raft;\nuse rocksdb::DB;\n// rocksdb::DB in words\nlet x = our_rocksdb::open();\n";
    assert_eq!(
        misplaced_names(&Source::new("raft/src/log/rocks.rs", planted)).len(),
        1
    );
    assert_eq!(
        misplaced_names(&Source::new("node/src/api.rs", planted)).len(),
        2
    );
    assert!(misplaced_names(&Source::new("raft/src/adapter/log.rs", planted)).is_empty());
}

#[test]
fn a_feature_that_plants_bugs_on_the_way_is_found() {
    let of = |package: &str, feature: &str, part: &str| {
        let parts = BTreeMap::from([(feature.to_string(), vec![part.to_string()])]);
        BTreeMap::from([(package.to_string(), parts)])
    };
    let jepsen = "holdfast-jepsen";
    let through = "holdfast-scheduler/seeded-bugs";
    assert_eq!(
        reachable_bugs(&of(jepsen, "default", "seeded-bugs")).len(),
        1
    );
    assert_eq!(reachable_bugs(&of(jepsen, "sim", through)).len(), 1);
    assert_eq!(
        reachable_bugs(&of("holdfast-cli", "server", through)).len(),
        1
    );
    assert!(reachable_bugs(&of(jepsen, "seeded-bugs", through)).is_empty());
    let dependency = serde_json::json!({ "name": "b", "features": ["seeded-bugs"] });
    let packages =
        serde_json::json!({ "packages": [{ "name": "a", "dependencies": [dependency] }] });
    assert_eq!(planting_dependencies(&packages).len(), 1);
}

#[test]
fn a_harness_that_looks_inside_is_found() {
    let planted = "//! x\nuse holdfast_node::serve;\n";
    assert_eq!(
        nosy_jepsen(&Source::new("jepsen/src/cluster.rs", planted)).len(),
        1
    );
    assert!(nosy_jepsen(&Source::new("jepsen/src/sim/tier_b.rs", planted)).is_empty());
}

#[test]
fn a_file_without_header_is_found() {
    assert_eq!(
        headless(&Source::new("a/src/b.rs", "use std::fmt;\n")).len(),
        1
    );
    assert_eq!(headless(&Source::new("a/src/b.rs", "")).len(), 1);
    assert!(headless(&Source::new("a/src/b.rs", "//! Things.\n")).is_empty());
}

#[test]
fn work_left_without_an_issue_is_found() {
    let planted = format!(
        "// {}: later\n// {}: x\n// {}(#7): y\n",
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("TO", "DO")
    );
    assert_eq!(unowned_work(&Source::new("a.rs", &planted)).len(), 2);
    assert_eq!(
        to_be_filled(&Source::new("a.rs", concat!("//! To be ", "filled.\n"))).len(),
        1
    );
}

#[test]
fn an_error_code_without_a_page_is_found() {
    let pages = BTreeSet::from(["HF1001".to_string()]);
    let source = Source::new("a.rs", r#"("HF1001", "HF1002", "HFabcd")"#);
    assert_eq!(
        codes_without_page(&source, &pages),
        ["a.rs: HF1002 has no page docs/errors/HF1002.md"]
    );
}

#[test]
fn a_file_that_only_the_map_knows_is_found() {
    let map = "see `raft/src/log.rs`, `gone/src/x.rs` and `Type::method`\nraft/  holdfast-raft: disk\n  src/log.rs   the log\n  src/lost.rs  lost\n";
    let found = missing_files(map, |path| path == "raft/src/log.rs");
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("gone/src/x.rs") && found[1].contains("src/lost.rs"));
}

#[test]
fn a_rocksdb_of_other_features_or_of_a_version_of_its_own_is_found() {
    let manifest = "rocksdb = { version = \"0.25\", features = [\"lz4\"] }\n";
    let good = "features='\"lz4\"' # x\ncrate=$(locked rocksdb) sys=$(locked librocksdb-sys)\n";
    assert!(rocksdb_drift(good, manifest).is_empty());
    assert_eq!(
        rocksdb_drift("features='\"snappy\"'\ncrate=0.24\n", manifest).len(),
        3
    );
}

#[test]
fn a_long_file_is_asked_about() {
    assert!(long(&Source::new("a.rs", &"x\n".repeat(LINES_ASKED))).is_none());
    assert!(long(&Source::new("a.rs", &"x\n".repeat(LINES_ASKED + 1))).is_some());
}

fn none(found: &[String]) {
    let text = found.iter().fold(String::new(), |mut text, one| {
        writeln!(text, "  {one}").unwrap();
        text
    });
    assert!(found.is_empty(), "{} things to tidy:\n{text}", found.len());
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn arrows(metadata: &Value) -> Vec<Arrow> {
    let mut arrows = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        let from = package["name"].as_str().unwrap();
        let features: BTreeMap<String, Vec<String>> =
            serde_json::from_value(package["features"].clone()).unwrap();
        for dependency in package["dependencies"].as_array().unwrap() {
            let to = dependency["name"].as_str().unwrap();
            let switches = |parts: &Vec<String>| {
                parts
                    .iter()
                    .any(|part| part == &format!("dep:{to}") || part.starts_with(&format!("{to}/")))
            };
            let on = features.iter().filter(|(_, parts)| switches(parts));
            arrows.push(Arrow {
                from: from.to_string(),
                to: to.to_string(),
                dev: dependency["kind"] == "dev",
                optional: dependency["optional"] == true,
                features: on.map(|(name, _)| name.clone()).collect(),
            });
        }
    }
    arrows
}

fn pages() -> BTreeSet<String> {
    let folder = std::fs::read_dir(root().join("docs/errors")).unwrap();
    folder
        .map(|entry| {
            entry
                .unwrap()
                .path()
                .file_stem()
                .unwrap()
                .to_string_lossy()
                .into_owned()
        })
        .collect()
}

fn sources() -> Vec<Source> {
    let crates = [
        "scheduler",
        "proto",
        "raft",
        "node",
        "client",
        "cli",
        "jepsen",
    ];
    let mut sources = Vec::new();
    for folder in crates {
        collect(&root().join(folder), &mut sources);
    }
    assert!(sources.len() > 50, "only {} files found", sources.len());
    sources.sort_by(|one, other| one.path.cmp(&other.path));
    sources
}

fn collect(folder: &Path, sources: &mut Vec<Source>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            collect(&path, sources);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let name = path
                .strip_prefix(root())
                .unwrap()
                .to_string_lossy()
                .into_owned();
            sources.push(Source {
                path: name,
                text: std::fs::read_to_string(&path).unwrap(),
            });
        }
    }
}
