//! Manual pages: one for the program and one for each command.

use std::io::Write;
use std::path::Path;

use super::examples;
use super::outcome::{Exit, Failure, Outcome};
use crate::terminal;

/// Writes all pages into a directory, or prints them one after the other.
pub fn man(directory: Option<&Path>) -> Outcome {
    let pages = pages().map_err(|error| Failure::because(Exit::Failed, "the manual pages cannot be made", &error))?;
    let Some(directory) = directory else {
        let mut out = terminal::out();
        for (_, page) in &pages {
            out.write_all(page)?;
        }
        return Ok(Exit::Done);
    };
    let failed = |path: &Path, error: &std::io::Error| {
        let what = format!("the manual pages cannot be written to {}", path.display());
        Failure::because(Exit::Failed, what, error)
    };
    std::fs::create_dir_all(directory).map_err(|error| failed(directory, &error))?;
    for (name, page) in pages {
        let path = directory.join(format!("{name}.1"));
        std::fs::write(&path, page).map_err(|error| failed(&path, &error))?;
    }
    Ok(Exit::Done)
}

/// Each page with its name.
fn pages() -> std::io::Result<Vec<(String, Vec<u8>)>> {
    // There is no page for `help`, which pages would refer to.
    let mut command = without_help(examples::command());
    command.build();
    let mut pages = Vec::new();
    page(&command, &mut pages)?;
    Ok(pages)
}

fn without_help(command: clap::Command) -> clap::Command {
    let names: Vec<String> = command.get_subcommands().map(|child| child.get_name().to_owned()).collect();
    let command = command.disable_help_subcommand(true);
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, without_help))
}

fn page(command: &clap::Command, pages: &mut Vec<(String, Vec<u8>)>) -> std::io::Result<()> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut text)?;
    pages.push((command.get_display_name().unwrap_or(command.get_name()).to_owned(), text));
    for child in command.get_subcommands().filter(|child| !child.is_hide_set()) {
        page(child, pages)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn pages_refer_to_pages_that_there_are() {
        let pages = pages().unwrap();
        let names: BTreeSet<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        assert!(names.len() > 35 && names.len() == pages.len(), "{names:?}");
        assert!(names.contains("zeek-cluster-agent") && names.contains("zeek-cluster-agent-journal-dump"));
        let mut references = 0;
        for (name, page) in &pages {
            let page = String::from_utf8(page.clone()).unwrap().replace('\\', "");
            for (at, _) in page.match_indices("(1)") {
                let before = &page[..at];
                let start = before.rfind(|c: char| !c.is_ascii_alphanumeric() && c != '-').map_or(0, |at| at + 1);
                let referred = &before[start..];
                if referred.starts_with("zeek") {
                    references += 1;
                    assert!(names.contains(referred), "{name} refers to {referred}");
                }
            }
            assert!(page.contains("Examples:"), "{name}");
        }
        assert!(references >= names.len() - 1, "{references}");
    }
}
