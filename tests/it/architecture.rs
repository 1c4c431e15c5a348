//! The arrows of docs/ARCHITECTURE.md hold, between modules and inside them, and pure modules are pure.

mod circles;

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
    path.strip_prefix(root()).unwrap_or(path).iter().any(is_tests)
}

/// Whether a path is this one, or goes on from it: `journal::entry` is within `journal`, and `journaling` is not.
fn is_within(path: &str, prefix: &str) -> bool {
    let rest = path.strip_prefix(prefix);
    rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// What follows `crate::`: a path, or several in braces.
fn listed(rest: &str) -> Vec<&str> {
    match rest.strip_prefix('{') {
        Some(list) => list.split('}').next().unwrap_or_default().split(',').map(str::trim).collect(),
        None => vec![rest],
    }
}

fn source_files(root: &Path) -> Vec<PathBuf> {
    let mut files = sources(root);
    files.retain(|path| !is_test_file(path));
    files.sort();
    files
}

#[test]
fn no_files_of_a_module_import_each_other_in_a_circle() {
    let src = root().join("src");
    let files = source_files(&src);
    assert!(files.len() > 100, "{} files", files.len());
    let told = circles::find(&src, &files).into_iter().map(|(files, arrows)| {
        format!("a circle of {}: {}\n    {}", files.len(), files.join(", "), arrows.join("\n    "))
    });
    let told: Vec<String> = told.collect();
    assert!(told.is_empty(), "files that cannot be read one after the other:\n{}", told.join("\n"));
}

#[test]
fn a_circle_is_found_whatever_the_path_leads_through() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let found = || {
        let found = circles::find(dir.path(), &source_files(dir.path()));
        found.into_iter().map(|(files, _)| files.join(" ")).collect::<Vec<_>>()
    };
    write("a/mod.rs", "mod x;\nmod y;\nmod z;\npub use x::{self as other, X as Ex};\npub use z::*;\n");
    write("a/x.rs", "pub struct X; fn f() -> super::y::Y { \"\\\"\"; super::y::Y }\n");
    write("a/y.rs", "// crate::a::x::X\npub struct Y;\n#[cfg(test)]\nmod tests {\n    use super::super::x::X;\n}\n");
    write("a/z.rs", "use crate::a::Ex;\npub struct Z(Ex);\n");
    write("b.rs", "use crate::a::{Ex, Z};\n");
    assert_eq!(found(), Vec::<String>::new());
    for back in ["use super::{x::{X}};", "fn g(_: crate::a::Ex) {}", "use crate::a::other;", "use super::Z;"] {
        write("a/y.rs", &format!("{back}\npub struct Y;\n"));
        let circle = if back.contains("Z") { "a/x.rs a/y.rs a/z.rs" } else { "a/x.rs a/y.rs" };
        assert_eq!(found(), [circle], "{back}");
    }
    // The same by name alone is another thing.
    write("a/y.rs", "pub struct Y; fn xs(x: u8) -> u8 { crate::ab::x(x) }\n");
    assert_eq!(found(), Vec::<String>::new());
}

/// The rooms of the journal, lowest first: the line of docs/ARCHITECTURE.md that has them in order.
fn rooms() -> Vec<String> {
    let text = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let line = text.lines().find(|line| line.starts_with("`format` <")).expect("the rooms of the journal");
    line.split('<').map(|room| room.trim().trim_matches('`').to_owned()).collect()
}

#[test]
fn rooms_of_the_journal_use_those_below_them() {
    let rooms = rooms();
    let src = root().join("src");
    let mut wrong = Vec::new();
    for path in source_files(&src.join("journal")) {
        let below = path.strip_prefix(src.join("journal")).unwrap();
        let room = below.iter().next().unwrap().to_str().unwrap();
        if room == "mod.rs" {
            continue;
        }
        let height = rooms.iter().position(|one| one == room).unwrap_or_else(|| panic!("{room} is no room"));
        let text = fs::read_to_string(&path).unwrap();
        for line in without_tests(&text).lines().map(str::trim).filter(|line| !line.starts_with("//")) {
            for target in line.split("crate::journal::").skip(1) {
                if !rooms[..=height].iter().any(|below| is_within(target, below)) {
                    wrong.push(format!("{}: {line}", below.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "imports from a room above:\n{}", wrong.join("\n"));
}

#[test]
fn imports_follow_the_arrows() {
    let modules = modules();
    assert!(modules.len() > 8, "the table of docs/ARCHITECTURE.md was not found");
    let mut wrong = Vec::new();
    for path in sources(&root().join("src")) {
        let module = module_of(&path);
        if ["lib", "main", "bin"].contains(&module.as_str()) || is_test_file(&path) {
            continue;
        }
        let rule = modules.get(&module).unwrap_or_else(|| panic!("{module} has no row in docs/ARCHITECTURE.md"));
        let text = fs::read_to_string(&path).unwrap();
        for line in without_tests(&text).lines().map(str::trim) {
            if line.starts_with("//") {
                continue;
            }
            for target in line.split("crate::").skip(1).flat_map(listed) {
                let allowed = is_within(target, &module)
                    || is_within(target, "crash_point")
                    || rule.may_import.iter().any(|prefix| is_within(target, prefix));
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
    let pure_files = ["control/message.rs", "identify/diag.rs", "identify/owner.rs", "supervisor/protocol.rs"];
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
        let is_pure = modules.get(&module_of(&path)).is_some_and(|module| module.is_pure)
            || pure_files.contains(&below)
            || below.starts_with("journal/format/")
            || below.starts_with("journal/tree/");
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
const OPENS_STREAMS: [&str; 4] = ["terminal.rs", "sim_node/", "supervisor/", "bin/zca-shim/"];

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
