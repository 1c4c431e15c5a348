//! The arrows of docs/ARCHITECTURE.md hold, and pure modules are pure.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

struct Module {
    may_import: Vec<String>,
    is_pure: bool,
}

/// The table of docs/ARCHITECTURE.md.
fn modules() -> BTreeMap<String, Module> {
    let text = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let name = cells[1].trim_matches('`').to_owned();
        let may_import = cells[2].split(',').map(|cell| cell.trim().trim_matches('`').to_owned());
        let may_import = may_import.filter(|cell| !cell.is_empty()).collect();
        (name, Module { may_import, is_pure: cells[3] == "yes" })
    })
    .collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The module that a source file belongs to: the first part of its path below src.
fn module_of(path: &Path) -> String {
    let below = path.strip_prefix(root().join("src")).unwrap();
    let first = below.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The part of a file before its tests.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text)
}

fn is_test_file(path: &Path) -> bool {
    let is_tests = |name: &std::ffi::OsStr| name == "tests.rs" || name == "testing.rs" || name == "tests";
    path.strip_prefix(root()).is_ok_and(|below| below.iter().any(is_tests))
}

#[test]
fn imports_follow_the_arrows() {
    let modules = modules();
    assert!(modules.len() > 8, "the table of docs/ARCHITECTURE.md was not found");
    let mut wrong = Vec::new();
    for path in sources(&root().join("src")) {
        let module = module_of(&path);
        if module == "lib" || module == "main" || is_test_file(&path) {
            continue;
        }
        let rule = modules.get(&module).unwrap_or_else(|| panic!("{module} has no row in docs/ARCHITECTURE.md"));
        let text = fs::read_to_string(&path).unwrap();
        for line in without_tests(&text).lines().map(str::trim) {
            if line.starts_with("//") {
                continue;
            }
            for target in line.split("crate::").skip(1) {
                let target = target.trim_start_matches('{');
                let allowed = target.starts_with(module.as_str())
                    || target.starts_with("crash_point!")
                    || target.starts_with("crash_point;")
                    || rule.may_import.iter().any(|prefix| {
                        target
                            .strip_prefix(prefix.as_str())
                            .is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
                    });
                if !allowed {
                    wrong.push(format!("{}: {line}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "imports that docs/ARCHITECTURE.md does not allow:\n{}", wrong.join("\n"));
}

#[test]
fn pure_modules_are_pure() {
    let modules = modules();
    let pure_files = [
        "journal/format/entry.rs",
        "journal/format/codec.rs",
        "journal/format/keys.rs",
        "journal/tree/export.rs",
        "control/message.rs",
        "identify/diag.rs",
        "identify/owner.rs",
        "supervisor/protocol.rs",
    ];
    let impure = [
        "std::fs",
        "std::net::Tcp",
        "std::os",
        "std::process",
        "std::thread",
        "std::env",
        "SystemTime",
        "Instant",
        "tokio",
        "rustix",
        "libc::",
        "async fn",
        "rand::",
        "uuid::",
        "HashMap",
    ];
    let mut wrong = Vec::new();
    for path in sources(&root().join("src")) {
        let below = path.strip_prefix(root().join("src")).unwrap().to_str().unwrap();
        let is_pure =
            modules.get(&module_of(&path)).is_some_and(|module| module.is_pure) || pure_files.contains(&below);
        if !is_pure || is_test_file(&path) {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for line in without_tests(&text).lines().map(str::trim).filter(|line| !line.starts_with("//")) {
            for word in impure {
                if line.contains(word) {
                    wrong.push(format!("{below}: {line}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "pure modules that are not:\n{}", wrong.join("\n"));
}

/// Where standard output and standard error are a pipe to the supervisor, or opened for everybody.
const OPENS_STREAMS: [&str; 3] = ["terminal.rs", "sim_node/", "supervisor/"];

#[test]
fn what_is_printed_goes_through_one_place() {
    let mut wrong = Vec::new();
    for path in sources(&root().join("src")) {
        let below = path.strip_prefix(root().join("src")).unwrap().to_str().unwrap();
        if OPENS_STREAMS.iter().any(|place| below.starts_with(place)) || is_test_file(&path) {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for line in without_tests(&text).lines().map(str::trim).filter(|line| !line.starts_with("//")) {
            // Whether it is a terminal, and how wide, anybody may ask.
            let asked = line.replace("stdout().is_terminal()", "").replace("stderr().is_terminal()", "");
            let asked = asked.replace("wanted(&std::io::stderr())", "").replace("let stdout = io::stdout();", "");
            let words = ["println!", "print!", "stdout()", "stderr()", "/dev/tty"];
            if words.iter().any(|word| asked.contains(word)) {
                wrong.push(format!("{below}: {line}"));
            }
        }
    }
    assert!(wrong.is_empty(), "printed past src/terminal.rs:\n{}", wrong.join("\n"));
}
