//! Completions that follow from the command line's own definition.

use clap::{Arg, ValueHint};

/// A word, and what it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    pub word: String,
    pub about: Option<String>,
}

impl Offer {
    pub fn plain(word: impl Into<String>) -> Self {
        Self { word: word.into(), about: None }
    }
}

/// What belongs in the place.
#[derive(Debug, PartialEq, Eq)]
pub enum Wanted {
    /// One of these, which all begin as the word does.
    Listed(Vec<Offer>),
    Files,
    Nodes,
    Reqids,
}

/// The position of the word that is being written.
#[derive(Debug)]
pub struct Position {
    pub wanted: Wanted,
    /// Options with their values before it, by the options' ids.
    pub given: Vec<(String, String)>,
    /// What there is of the value, and of the word in front of it.
    value: String,
    front: String,
}

impl Position {
    /// Of these values those that begin as the word does, as whole words.
    pub fn complete(&self, values: Vec<String>) -> Vec<Offer> {
        let fit = values.into_iter().filter(|value| value.starts_with(self.value.as_str()) && is_plain(value));
        fit.map(|value| Offer::plain(format!("{}{value}", self.front))).collect()
    }
}

/// A shell takes the word as it is. Others are not offered: they would have to be quoted by each shell's rules, and nothing
/// that somebody chose elsewhere may become a command here.
fn is_plain(word: &str) -> bool {
    let is_letter = |c: char| c.is_ascii_alphanumeric() || "._-/@%+,".contains(c);
    !word.is_empty() && !word.starts_with('-') && word.chars().all(is_letter)
}

/// Looks at the words behind the program's name; the last is the one that is being written, and may be empty.
pub fn look(root: &clap::Command, words: &[String]) -> Position {
    let (word, before) = words.split_last().map_or(("", &[][..]), |(word, before)| (word.as_str(), before));
    let mut walk = Walk { command: root, pending: None, arguments: 0, is_over: false, given: Vec::new() };
    before.iter().for_each(|word| walk.step(word));
    walk.end(word)
}

struct Walk<'a> {
    command: &'a clap::Command,
    /// An option whose value is still to come.
    pending: Option<&'a Arg>,
    /// How many there were that are no options.
    arguments: usize,
    /// `--` was there: options are over.
    is_over: bool,
    given: Vec<(String, String)>,
}

impl<'a> Walk<'a> {
    fn step(&mut self, word: &str) {
        if let Some(option) = self.pending.take() {
            // bash makes words of their own of what stands around this.
            if word == "=" {
                self.pending = Some(option);
            } else {
                self.given.push((option.get_id().to_string(), word.to_owned()));
            }
        } else if self.is_over {
            self.arguments += 1;
        } else if word == "--" {
            self.is_over = true;
        } else if let Some(long) = word.strip_prefix("--") {
            let (name, value) = long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
            match (self.long(name), value) {
                (Some(option), Some(value)) => self.given.push((option.get_id().to_string(), value.to_owned())),
                (Some(option), None) if takes_value(option) => self.pending = Some(option),
                (Some(_) | None, _) => {}
            }
        } else if let Some(short) = word.strip_prefix('-').filter(|short| !short.is_empty()) {
            // Of several in one word, the last may have its value behind it.
            let last = short.chars().next_back();
            let takes = |option: &&Arg| option.get_short() == last && takes_value(option);
            self.pending = self.command.get_arguments().find(takes);
        } else if let Some(command) = self.command.find_subcommand(word).filter(|_| self.arguments == 0) {
            self.command = command;
        } else {
            self.arguments += 1;
        }
    }

    fn end(self, word: &str) -> Position {
        if let Some(option) = self.pending {
            return self.value(option, if word == "=" { "" } else { word }, "");
        }
        if !self.is_over && word.starts_with('-') {
            let with_value = word.strip_prefix("--").and_then(|long| long.split_once('='));
            return match with_value.and_then(|(name, value)| Some((self.long(name)?, name, value))) {
                Some((option, name, value)) => self.value(option, value, &format!("--{name}=")),
                None => {
                    let offers = self.options(word);
                    self.listed(offers)
                }
            };
        }
        let commands = self.commands(word);
        if !commands.is_empty() {
            return self.listed(commands);
        }
        match self.argument() {
            Some(argument) => self.value(argument, word, ""),
            None => self.listed(Vec::new()),
        }
    }

    fn listed(self, offers: Vec<Offer>) -> Position {
        Position { wanted: Wanted::Listed(offers), given: self.given, value: String::new(), front: String::new() }
    }

    fn long(&self, name: &str) -> Option<&'a Arg> {
        self.command.get_arguments().find(|option| {
            let aliases = option.get_all_aliases().unwrap_or_default();
            option.get_long() == Some(name) || aliases.contains(&name)
        })
    }

    /// The argument whose turn it is; the last one may take several.
    fn argument(&self) -> Option<&'a Arg> {
        let arguments: Vec<&Arg> = self.command.get_positionals().collect();
        let last = arguments.last().filter(|last| last.get_num_args().is_some_and(|count| count.max_values() > 1));
        arguments.get(self.arguments).or(last).copied()
    }

    fn commands(&self, word: &str) -> Vec<Offer> {
        if self.arguments > 0 || self.is_over {
            return Vec::new();
        }
        let commands = self.command.get_subcommands().filter(|command| !command.is_hide_set());
        let fit = commands.filter(|command| command.get_name().starts_with(word));
        let offer = |command: &clap::Command| Offer {
            word: command.get_name().to_owned(),
            about: command.get_about().map(|about| first_line(&about.to_string())),
        };
        fit.map(offer).collect()
    }

    fn options(&self, word: &str) -> Vec<Offer> {
        let options = self.command.get_arguments().filter(|option| !option.is_hide_set());
        let offer = |option: &Arg| {
            let long = format!("--{}", option.get_long()?);
            let about = option.get_help().map(|help| first_line(&help.to_string()));
            long.starts_with(word).then_some(Offer { word: long, about })
        };
        options.filter_map(offer).collect()
    }

    /// The value of an option or argument, of which `value` is there, with `front` before it in the same word.
    fn value(self, arg: &Arg, value: &str, front: &str) -> Position {
        let (mut front, mut value) = (front.to_owned(), value);
        if let Some((done, rest)) = arg.get_value_delimiter().and_then(|delimiter| value.rsplit_once(delimiter)) {
            front = format!("{front}{done},");
            value = rest;
        }
        let possible = arg.get_possible_values();
        let wanted = if !possible.is_empty() {
            let fit = possible.iter().filter(|one| !one.is_hide_set() && one.get_name().starts_with(value));
            let offer = |one: &clap::builder::PossibleValue| Offer {
                word: format!("{front}{}", one.get_name()),
                about: one.get_help().map(|help| first_line(&help.to_string())),
            };
            Wanted::Listed(fit.map(offer).collect())
        } else {
            match (arg.get_id().as_str(), arg.get_value_hint()) {
                ("node" | "nodes", _) => Wanted::Nodes,
                ("reqid", _) => Wanted::Reqids,
                (_, ValueHint::AnyPath | ValueHint::FilePath | ValueHint::DirPath) => Wanted::Files,
                _ => Wanted::Listed(Vec::new()),
            }
        };
        Position { wanted, given: self.given, value: value.to_owned(), front }
    }
}

fn takes_value(option: &Arg) -> bool {
    option.get_action().takes_values()
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(line: &str) -> Position {
        let mut command = crate::cli::examples::command();
        command.build();
        // A blank in the end begins a word.
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        look(&command, &words)
    }

    fn offered(line: &str) -> Vec<String> {
        match place(line).wanted {
            Wanted::Listed(offers) => offers.into_iter().map(|offer| offer.word).collect(),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn commands_are_offered_on_each_level() {
        assert_eq!(offered("re"), ["request", "requests"]);
        assert!(offered("").contains(&"journal".to_owned()) && !offered("").contains(&"complete".to_owned()));
        assert_eq!(offered("request set"), ["set-configuration"]);
        assert_eq!(offered("--state-dir /s journal ver"), ["verify"]);
        assert_eq!(offered("nodes l"), ["list", "logs"]);
        assert_eq!(offered("nodes list frob"), Vec::<String>::new());
    }

    #[test]
    fn options_and_their_values_are_offered() {
        assert_eq!(offered("journal dump --rev"), ["--reverse"]);
        assert!(offered("status --").contains(&"--json".to_owned()), "those that stand everywhere");
        assert_eq!(offered("journal dump --state conf"), ["conflict"]);
        assert_eq!(offered("journal dump --state=conf"), ["--state=conflict"]);
        assert_eq!(offered("journal dump --state = conf"), ["conflict"], "as bash has it");
        assert_eq!(offered("journal dump --state ="), offered("journal dump --state "));
        assert_eq!(offered("completions b"), ["bash"]);
        for files in
            ["request deploy ", "--config ", "journal dump --dir x", "request deploy f --ca=", "config check -- -"]
        {
            assert_eq!(place(files).wanted, Wanted::Files, "{files}");
        }
        assert_eq!(offered("request deploy file "), Vec::<String>::new(), "there is one file");
    }

    #[test]
    fn nodes_and_reqids_are_wanted_where_they_belong() {
        for nodes in [
            "nodes restart ",
            "nodes stop w1 w",
            "nodes logs -f -n 3 w",
            "request restart w1 ",
            "request get-id-value x --nodes w1,w",
            "journal dump --node=",
            "nodes crash ",
        ] {
            assert_eq!(place(nodes).wanted, Wanted::Nodes, "{nodes}");
        }
        for reqids in ["journal show ", "journal dump --reqid r", "request welcome --reqid=", "shutdown --reqid "] {
            assert_eq!(place(reqids).wanted, Wanted::Reqids, "{reqids}");
        }
        // A flag of that name has no value.
        assert_eq!(offered("shutdown --nodes --js"), ["--json"]);
    }

    #[test]
    fn which_agent_is_meant_is_known() {
        let given = place("--state-dir /s nodes stop --control-socket=/c w").given;
        let pair = |id: &str, value: &str| (id.to_owned(), value.to_owned());
        assert_eq!(given, [pair("state_dir", "/s"), pair("control_socket", "/c")]);
    }

    #[test]
    fn values_are_completed_and_none_that_a_shell_would_read_otherwise() {
        let values = || ["w1", "w2", "x1", "w$(reboot)", "w;ls", "w 1", "w'", "w`", "w*"].map(str::to_owned).to_vec();
        let words = |line: &str| -> Vec<String> {
            place(line).complete(values()).into_iter().map(|offer| offer.word).collect()
        };
        assert_eq!(words("nodes stop w"), ["w1", "w2"]);
        assert_eq!(words("nodes stop "), ["w1", "w2", "x1"]);
        assert_eq!(words("request get-id-value x --nodes x1,w"), ["x1,w1", "x1,w2"]);
        assert_eq!(words("journal dump --node=x"), ["--node=x1"]);
        for harmful in ["", "-x", "a b", "a\tb", "$x", "~", "ä", "a\u{202e}"] {
            assert!(!is_plain(harmful), "{harmful:?}");
        }
    }
}
