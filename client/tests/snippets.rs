//! Every piece of Rust that README.md and docs/ show stands, line by line, in an example that compiles.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn files(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, ending, found);
        } else if path.extension().is_some_and(|it| it == ending) {
            found.push(path);
        }
    }
}

/// Blocks of this language, with the line on which each begins.
fn blocks(text: &str, language: &str) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    let mut open: Option<(bool, usize, Vec<String>)> = None;
    for (at, line) in (1..).zip(text.lines()) {
        match (line.trim().strip_prefix("```"), &mut open) {
            (Some(tag), None) => {
                open = Some((tag.split(',').next() == Some(language), at, Vec::new()));
            }
            (Some(_), Some(_)) => {
                if let Some((true, at, lines)) = open.take() {
                    found.push((at, lines));
                }
            }
            (None, Some((_, _, lines))) => lines.push(line.to_owned()),
            (None, None) => {}
        }
    }
    found
}

fn stands_in(block: &[String], example: &str) -> bool {
    let lines: Vec<&str> = example.lines().collect();
    lines.windows(block.len()).any(|window| window == block)
}

#[test]
fn every_rust_snippet_is_a_part_of_an_example() {
    let mut pages = vec![root().join("README.md")];
    files(&root().join("docs"), "md", &mut pages);
    let mut examples = Vec::new();
    files(&root().join("client/examples"), "rs", &mut examples);
    let examples: Vec<String> = examples
        .iter()
        .map(|it| std::fs::read_to_string(it).unwrap())
        .collect();
    let mut seen = 0;
    for page in pages {
        for (at, block) in blocks(&std::fs::read_to_string(&page).unwrap(), "rust") {
            seen += 1;
            let known = examples.iter().any(|example| stands_in(&block, example));
            assert!(
                known,
                "{}:{at}: no example has this snippet; copy it from there",
                page.display()
            );
        }
    }
    assert!(seen > 0, "README shows a workflow");
}

#[test]
fn readme_shows_the_whole_workflow_of_the_order_example() {
    let example = std::fs::read_to_string(root().join("client/examples/order.rs")).unwrap();
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let workflow: Vec<String> = example
        .lines()
        .skip_while(|line| !line.starts_with("async fn order("))
        .map(str::to_owned)
        .collect();
    let end = workflow.iter().position(|line| line == "}").unwrap();
    let shown = blocks(&readme, "rust");
    assert!(
        shown.iter().any(|(_, block)| *block == workflow[..=end]),
        "README's workflow is not the one of client/examples/order.rs; copy it from there"
    );
}
