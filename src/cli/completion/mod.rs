//! Completion of commands, options and values in shells.
//!
//! The scripts for bash, zsh and fish know nothing of the command line: each asks this program (the hidden command `complete`)
//! what could stand in the place of the word that is being written ([`words`]), and gets this host's nodes and the journal's
//! newest reqids from the running agent ([`values`]). One who asks for completion must never wait, nor read an error: whatever
//! goes wrong, there is nothing to offer.

mod values;
mod words;

use std::ffi::OsString;
use std::io::Write;

use super::flags::{Global, Script};
use super::outcome::{Exit, Outcome};
use super::{Context, examples};
use crate::terminal;
use words::{Offer, Wanted};

const BASH: &str = include_str!("bash");
const ZSH: &str = include_str!("zsh");
const FISH: &str = include_str!("fish");

/// Tells a script that the shell itself is to offer files.
const FILES: &str = ":files";

/// Prints a shell's script.
pub fn script(shell: clap_complete::Shell) -> Outcome {
    let script = match shell {
        clap_complete::Shell::Bash => BASH.as_bytes().to_vec(),
        clap_complete::Shell::Zsh => ZSH.as_bytes().to_vec(),
        clap_complete::Shell::Fish => FISH.as_bytes().to_vec(),
        // These know the commands alone.
        other => {
            // Collected first, since the generator ends the process where a pipe is closed.
            let mut script = Vec::new();
            clap_complete::generate(other, &mut examples::command(), "zeek-cluster-agent", &mut script);
            script
        }
    };
    terminal::out().write_all(&script)?;
    Ok(Exit::Done)
}

/// Prints the completions of the last of these words, one per line.
pub fn complete(context: &Context, script: Script, words: &[OsString]) -> Outcome {
    let words: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let mut command = examples::command();
    command.build();
    let place = words::look(&command, &words);
    let offers = match place.wanted {
        Wanted::Files => vec![Offer::plain(FILES)],
        Wanted::Listed(offers) => offers,
        Wanted::Nodes => place.complete(values::nodes(asked(context, &place.given))),
        Wanted::Reqids => place.complete(values::reqids(asked(context, &place.given))),
    };
    let mut out = terminal::out();
    for Offer { word, about } in offers {
        match (script, about) {
            (Script::Bash, _) | (Script::Zsh | Script::Fish, None) => writeln!(out, "{word}")?,
            (Script::Zsh | Script::Fish, Some(about)) => writeln!(out, "{word}\t{about}")?,
        }
    }
    Ok(Exit::Done)
}

/// The call as it would be with what was given so far, as far as it says which agent is meant.
fn asked(context: &Context, given: &[(String, String)]) -> Context {
    let find = |id: &str| given.iter().rev().find(|(name, _)| name == id).map(|(_, value)| value.clone());
    Context {
        global: Global {
            config: find("config").map(Into::into),
            state_dir: find("state_dir"),
            control_socket: find("control_socket"),
            ..context.global.clone()
        },
        surroundings: context.surroundings.clone(),
    }
}
