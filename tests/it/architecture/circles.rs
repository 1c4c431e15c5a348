//! Circles of imports between the files of a module, found in the text of the sources.
//!
//! A path leads to the file that defines what it names: re-exports, also by `*`, are followed. Paths in code count like those
//! of `use`, tests and comments do not. A file and those of the modules inside it are one thing in several files, so a
//! path up to the module that a file is part of is no arrow.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

type Segments = Vec<String>;

/// A source file, by the path of its module.
struct Source {
    /// Below the root, for people.
    file: String,
    /// Without comments, texts and tests.
    code: String,
    /// What its `use` lines bring in, by the name that it has there.
    uses: Vec<(String, Segments)>,
}

/// The files of each circle, and the arrows between them.
pub fn find(root: &Path, files: &[std::path::PathBuf]) -> Vec<(Vec<String>, Vec<String>)> {
    let sources = read(root, files);
    let mut arrows: BTreeMap<&Segments, BTreeMap<Segments, BTreeSet<String>>> = BTreeMap::new();
    for (module, source) in &sources {
        let targets = arrows.entry(module).or_default();
        for path in paths(module, source, &sources) {
            let Some(target) = resolve(&path, &sources, 0) else { continue };
            let same_top = target.first() == module.first();
            if same_top && target != *module && !module.starts_with(&target) {
                let name = path.get(target.len()..).unwrap_or_default().join("::");
                targets.entry(target).or_default().insert(name);
            }
        }
    }
    components(&sources, &arrows)
        .into_iter()
        .map(|circle| {
            let names = circle.iter().map(|module| sources[module.as_slice()].file.clone()).collect();
            let inside = circle.iter().flat_map(|from| {
                let targets = arrows[*from].iter().filter(|(to, _)| circle.contains(to));
                targets.map(|(to, what)| {
                    let what: Vec<&str> = what.iter().map(String::as_str).collect();
                    format!("{} -> {}: {}", sources[from.as_slice()].file, sources[to.as_slice()].file, what.join(", "))
                })
            });
            (names, inside.collect())
        })
        .collect()
}

fn read(root: &Path, files: &[std::path::PathBuf]) -> BTreeMap<Segments, Source> {
    let mut sources = BTreeMap::new();
    let mut tests = Vec::new();
    for path in files {
        let file = path.strip_prefix(root).expect("it is below").to_str().expect("it is text").to_owned();
        let module = file.trim_end_matches(".rs").trim_end_matches("/mod");
        if matches!(module, "lib" | "main") {
            continue;
        }
        let module: Segments = module.split('/').map(str::to_owned).collect();
        let code = without_comments(&fs::read_to_string(path).expect("it reads"));
        for (at, _) in code.match_indices("#[cfg(test)]") {
            let declared = code[at + 12..].trim_start();
            if let Some((name, _)) = declared.strip_prefix("mod ").and_then(|rest| rest.split_once(';')) {
                tests.push([module.as_slice(), &[name.to_owned()]].concat());
            }
        }
        let code = without_tests(&code);
        sources.insert(module, Source { file, code, uses: Vec::new() });
    }
    sources.retain(|module, _| !tests.iter().any(|test| module.starts_with(test)));
    let modules: BTreeSet<Segments> = sources.keys().cloned().collect();
    for (module, source) in &mut sources {
        source.uses = uses(module, &source.code, &modules);
    }
    sources
}

/// Takes out comments and what stands between quotes.
fn without_comments(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        if rest.starts_with("//") {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
        } else if let Some(after) = rest.strip_prefix("r#\"") {
            rest = after.find("\"#").map_or("", |end| &after[end + 2..]);
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\\"'") {
            rest = &rest[rest[1..].find('\'').map_or(rest.len(), |end| end + 2)..];
        } else if next == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            rest = end.map_or("", |end| &rest[end + 2..]);
        } else {
            code.push(next);
            rest = &rest[next.len_utf8()..];
        }
    }
    code
}

/// Takes out the modules and items that only tests have.
fn without_tests(code: &str) -> String {
    let mut kept = String::new();
    let mut rest = code;
    while let Some((before, after)) = rest.split_once("#[cfg(test)]") {
        kept.push_str(before);
        let end = after.find(['{', ';']).unwrap_or(after.len());
        let mut depth = 0;
        let end = if after[end..].starts_with('{') {
            let closing = after[end..].char_indices().find(|(_, c)| {
                depth += i32::from(*c == '{') - i32::from(*c == '}');
                depth == 0
            });
            closing.map_or(after.len(), |(at, _)| end + at + 1)
        } else {
            (end + 1).min(after.len())
        };
        rest = &after[end..];
    }
    kept + rest
}

/// All that the file brings in, with where it comes from.
fn uses(module: &Segments, code: &str, modules: &BTreeSet<Segments>) -> Vec<(String, Segments)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let is_word = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        if let Some((tree, _)) = code[at + 4..].split_once(';')
            && is_word
        {
            expand(&Vec::new(), &tree.split_whitespace().collect::<Vec<_>>().join(" "), &mut found);
        }
    }
    let absolute = found.into_iter().filter_map(|(name, path)| Some((name, absolute(module, &path, modules)?)));
    absolute.collect()
}

/// `a::{b, c as d}` to the name and the path of each.
fn expand(prefix: &Segments, tree: &str, found: &mut Vec<(String, Segments)>) {
    let tree = tree.trim();
    if let Some((head, inner)) = tree.split_once('{') {
        let mut prefix = prefix.clone();
        prefix.extend(head.split("::").map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned));
        let inner = inner.rsplit_once('}').map_or(inner, |(inner, _)| inner);
        let mut depth = 0;
        let parts = inner.split(|c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            c == ',' && depth == 0
        });
        parts.filter(|part| !part.trim().is_empty()).for_each(|part| expand(&prefix, part, found));
        return;
    }
    let (path, name) = tree.split_once(" as ").map_or((tree, None), |(path, name)| (path, Some(name.trim())));
    let mut segments = prefix.clone();
    segments.extend(path.split("::").map(|part| part.trim().to_owned()));
    if segments.last().is_some_and(|last| last == "self") {
        segments.pop();
    }
    let name = name.map(str::to_owned).or_else(|| segments.last().cloned()).unwrap_or_default();
    found.push((name, segments));
}

/// From the crate's root on; `None` for what is not of this crate.
fn absolute(module: &Segments, path: &[String], modules: &BTreeSet<Segments>) -> Option<Segments> {
    let (first, rest) = path.split_first()?;
    let mut base = module.clone();
    let mut rest = rest;
    match first.as_str() {
        "crate" => return Some(rest.to_vec()),
        "self" => {}
        "super" => {
            base.pop();
            while let Some((next, after)) = rest.split_first()
                && next == "super"
            {
                base.pop();
                rest = after;
            }
        }
        child => {
            base.push(child.to_owned());
            if !modules.contains(&base) {
                return None;
            }
        }
    }
    base.extend_from_slice(rest);
    Some(base)
}

/// Every path of the crate that stands in the file, from the root on.
fn paths(module: &Segments, source: &Source, sources: &BTreeMap<Segments, Source>) -> Vec<Segments> {
    let modules: BTreeSet<Segments> = sources.keys().cloned().collect();
    let mut found: Vec<Segments> = source.uses.iter().map(|(_, path)| path.clone()).collect();
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let mut in_use = false;
    for word in source.code.split_inclusive(|c: char| !is_part(c)) {
        let text = word.trim_end_matches(|c: char| !is_part(c)).trim_end_matches(':');
        in_use = (in_use || text == "use") && !word.ends_with(';');
        if in_use || !text.contains("::") {
            continue;
        }
        let segments: Segments = text.split("::").map(str::to_owned).collect();
        found.extend(absolute(module, &segments, &modules));
    }
    found
}

/// The file that defines what the path names, if it is of this crate.
fn resolve(path: &[String], sources: &BTreeMap<Segments, Source>, depth: usize) -> Option<Segments> {
    let length = (1..=path.len()).rev().find(|length| sources.contains_key(&path[..*length]))?;
    let (module, rest) = path.split_at(length);
    let Some(name) = rest.first() else { return Some(module.to_vec()) };
    let source = &sources[module];
    if depth > 8 || name == "*" || defines(&source.code, name) {
        return Some(module.to_vec());
    }
    let named = source.uses.iter().find(|(used, _)| used == name).map(|(_, path)| path.clone());
    let by_star = || {
        let stars = source.uses.iter().filter(|(used, _)| used == "*").map(|(_, path)| &path[..path.len() - 1]);
        let mut homes = stars.filter_map(|path| resolve(path, sources, depth + 1));
        homes.find(|home| defines(&sources[home].code, name)).map(|home| [home, vec![name.clone()]].concat())
    };
    match named.or_else(by_star) {
        Some(origin) => resolve(&[&origin, &rest[1..]].concat(), sources, depth + 1).or(Some(module.to_vec())),
        None => Some(module.to_vec()),
    }
}

fn defines(code: &str, name: &str) -> bool {
    let kinds = ["struct", "enum", "union", "trait", "fn", "const", "static", "type", "mod", "macro_rules!"];
    code.match_indices(name).any(|(at, _)| {
        let ends = !code[at + name.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_');
        let before = code[..at].trim_end_matches([' ', '\n']);
        ends && before.len() < at && kinds.iter().any(|kind| before.ends_with(kind))
    })
}

/// Files that reach each other.
fn components<'a>(
    sources: &'a BTreeMap<Segments, Source>,
    arrows: &BTreeMap<&Segments, BTreeMap<Segments, BTreeSet<String>>>,
) -> Vec<Vec<&'a Segments>> {
    let reach = |from: &Segments| {
        let mut seen = BTreeSet::new();
        let mut next = vec![from];
        while let Some(module) = next.pop() {
            next.extend(arrows[module].keys().filter(|to| seen.insert(*to)));
        }
        seen.into_iter().cloned().collect::<BTreeSet<Segments>>()
    };
    let reached: BTreeMap<&Segments, BTreeSet<Segments>> = sources.keys().map(|from| (from, reach(from))).collect();
    let mut circles: Vec<Vec<&Segments>> = Vec::new();
    for module in sources.keys().filter(|module| reached[*module].contains(*module)) {
        if circles.iter().any(|circle| circle.contains(&module)) {
            continue;
        }
        let together = |other: &&Segments| reached[module].contains(*other) && reached[*other].contains(module);
        circles.push(sources.keys().filter(together).collect());
    }
    circles
}
