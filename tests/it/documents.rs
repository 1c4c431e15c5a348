//! The documents point at what is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README and its like, docs, and the journal's formats.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for dir in
        ["", "docs", "docs/checklists", "migrations/0001_initial", "migrations/0002_chain", "migrations/0003_answers"]
    {
        let Ok(entries) = fs::read_dir(root().join(dir)) else { continue };
        found.extend(
            entries.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|it| it == "md")),
        );
    }
    assert!(found.len() > 10, "{found:?}");
    found
}

/// The text without its blocks of code, in which brackets are no links.
fn prose(text: &str) -> String {
    let mut in_code = false;
    let kept = text.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        !in_code && !is_fence
    });
    kept.collect::<Vec<_>>().join("\n")
}

/// What is in parentheses behind each `[text]`.
fn links(text: &str) -> Vec<String> {
    let parts = text.split("](").skip(1);
    parts.filter_map(|part| part.split_once(')')).map(|(target, _)| target.to_owned()).collect()
}

/// The anchors of a document's headings, as they are made where the repository is read: lower case, blanks as dashes,
/// punctuation left out.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let titles = headings.map(|line| line.trim_start_matches('#').trim().to_lowercase());
    titles
        .map(|title| {
            let kept = title.chars().filter(|it| it.is_alphanumeric() || matches!(it, ' ' | '-' | '_'));
            kept.map(|it| if it == ' ' { '-' } else { it }).collect()
        })
        .collect()
}

#[test]
fn links_lead_to_files_and_headings_that_exist() {
    let mut dangling = Vec::new();
    let mut seen = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for link in links(&prose(&text)).iter().filter(|link| !link.contains("://")) {
            seen += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { document.clone() } else { document.parent().unwrap().join(file) };
            let leads = if anchor.is_empty() {
                target.exists()
            } else {
                fs::read_to_string(&target).is_ok_and(|there| anchors(&prose(&there)).contains(anchor))
            };
            if !leads {
                dangling.push(format!("{}: {link}", document.strip_prefix(root()).unwrap().display()));
            }
        }
    }
    assert!(seen > 30, "links are found: {seen}");
    assert!(dangling.is_empty(), "these lead nowhere:\n{}", dangling.join("\n"));
}

#[test]
fn paths_of_sources_and_documents_in_prose_exist() {
    let tops = ["src/", "docs/", "tests/", "fuzz/", "benches/", "scripts/", "migrations/", "packaging/", "share/"];
    let mut gone = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for name in prose(&text).split('`').skip(1).step_by(2) {
            let is_path = tops.iter().any(|top| name.starts_with(top)) && !name.contains(['<', '*', '…', ' ', '{']);
            if is_path && !root().join(name).exists() {
                gone.push(format!("{}: {name}", document.strip_prefix(root()).unwrap().display()));
            }
        }
    }
    assert!(gone.is_empty(), "these are not there:\n{}", gone.join("\n"));
}

#[test]
fn the_readme_is_short() {
    let lines = fs::read_to_string(root().join("README.md")).unwrap().lines().count();
    assert!(lines < 200, "{lines} lines: what is not for a first reader belongs in docs/");
}
