//! What shells and `man` want to know of the command line.

use std::io::Write;

use clap::CommandFactory;

use super::flags::Cli;
use super::outcome::{Exit, Outcome};
use crate::terminal;

pub fn completions(shell: clap_complete::Shell) -> Outcome {
    // Collected first, since the generator ends the process where a pipe is closed.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "zeek-cluster-agent", &mut script);
    terminal::out().write_all(&script)?;
    Ok(Exit::Done)
}

/// One page for the program, followed by one for each command.
pub fn man() -> Outcome {
    let mut command = Cli::command();
    command.build();
    let mut pages = Vec::new();
    page(&command, &mut pages)?;
    terminal::out().write_all(&pages)?;
    Ok(Exit::Done)
}

fn page(command: &clap::Command, pages: &mut Vec<u8>) -> std::io::Result<()> {
    clap_mangen::Man::new(command.clone()).render(pages)?;
    for child in command.get_subcommands().filter(|child| child.get_name() != "help" && !child.is_hide_set()) {
        page(child, pages)?;
    }
    Ok(())
}
