//! Every `holdfast …` command line that README.md and docs/ show is one that this binary understands.
//!
//! What stands in a block is parsed as it is. In running text arguments may be left out or stand for others (`ID`): there
//! the names of commands and flags have to be right.

use std::path::{Path, PathBuf};

use clap::{Parser, error::ErrorKind};

use crate::Cli;

fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            pages(&path, found);
        } else if path.extension().is_some_and(|it| it == "md") {
            found.push(path);
        }
    }
}

/// Words as a shell makes them of a line without variables; what follows a `#` is talk.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (c, quote) {
            (c, Some(q)) if c == q => quote = None,
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            ('#', None) if word.is_none() => break,
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// Command lines of a page: the line, what it says, and whether it is in a block.
fn commands(text: &str) -> Vec<(usize, String, bool)> {
    let mut found = Vec::new();
    let mut in_block = false;
    for (at, line) in (1..).zip(text.lines()) {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if in_block {
            let command = line.trim().trim_start_matches("$ ");
            if command.starts_with("holdfast ") && !command.starts_with("holdfast demo:") {
                found.push((at, command.to_owned(), true));
            }
        } else {
            let inline = line.split('`').skip(1).step_by(2);
            found.extend(
                inline
                    .filter(|it| it.starts_with("holdfast "))
                    .map(|it| (at, it.to_owned(), false)),
            );
        }
    }
    found
}

/// Whether a command line of running text may be as it is, though it does not parse.
fn may_be_short(kind: ErrorKind) -> bool {
    use ErrorKind::{
        DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, InvalidValue,
        MissingRequiredArgument, MissingSubcommand, ValueValidation,
    };
    matches!(
        kind,
        DisplayHelp
            | DisplayHelpOnMissingArgumentOrSubcommand
            | InvalidValue
            | MissingRequiredArgument
            | MissingSubcommand
            | ValueValidation
    )
}

#[test]
fn every_command_line_that_is_shown_is_understood() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = vec![root.join("README.md")];
    pages(&root.join("docs"), &mut found);
    let (mut in_blocks, mut in_text) = (0, 0);
    for page in found {
        for (at, line, in_block) in commands(&std::fs::read_to_string(&page).unwrap()) {
            *(if in_block {
                &mut in_blocks
            } else {
                &mut in_text
            }) += 1;
            let shown = line.replace('…', "");
            if let Err(error) = Cli::try_parse_from(words(&shown)) {
                let fine = !in_block && may_be_short(error.kind());
                assert!(fine, "{}:{at}: {line}\n{error}", page.display());
            }
        }
    }
    assert!(
        in_blocks > 0 && in_text > 3,
        "README shows some: {in_blocks}, {in_text}"
    );
}

#[test]
fn a_command_line_with_a_mistake_is_found() {
    assert!(Cli::try_parse_from(words("holdfast run signl order-1 go")).is_err());
    let unknown = Cli::try_parse_from(words("holdfast run explain ID --lound")).err();
    assert!(!may_be_short(unknown.unwrap().kind()));
    let quoted = words("holdfast run signal order-17 approval '{\"by\":\"you\"}' # talk");
    assert_eq!(quoted[5..], [r#"{"by":"you"}"#]);
    assert!(Cli::try_parse_from(quoted).is_ok());
}
