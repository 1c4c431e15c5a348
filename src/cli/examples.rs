//! The command line with an example on each of its help pages. A test walks through all commands and parses every example.

use clap::CommandFactory;

use super::flags::Cli;

/// What is written behind the program's name, and what that does.
type Example = (&'static str, &'static str);

/// By the words that lead to the command.
const EXAMPLES: &[(&str, &[Example])] = &[
    ("", &[("demo", "see on simulated nodes what the agent does"), ("status", "how the agent of this host is")]),
    (
        "run",
        &[
            (
                "run --listen 127.0.0.1:2151 --controller 192.0.2.1:2150",
                "the agent of a host whose controller is elsewhere",
            ),
            ("run --state-dir /tmp/zca --listen off --simulate-nodes", "try it out, as any user and without Zeek"),
        ],
    ),
    ("request", &[("request deploy cluster.ini", "make this host run what the file says")]),
    (
        "request set-configuration",
        &[("request set-configuration cluster.ini --reqid monday-1", "once, however often this is repeated")],
    ),
    (
        "request deploy",
        &[
            ("request deploy cluster.ini", "replace what runs, and wait until the nodes are ready"),
            ("request deploy @-1", "back to what ran before"),
            (
                "request deploy - --reqid 4711 --timeout 30 < cluster.ini",
                "ask again with the same --reqid after a timeout",
            ),
        ],
    ),
    ("request welcome", &[("request welcome --via ws://127.0.0.1:2149", "over WebSocket, as a controller would")]),
    ("request standby", &[("request standby", "stop all nodes, and start none after a reboot")]),
    ("request get-nodes", &[("request get-nodes --json", "for a script")]),
    (
        "request restart",
        &[("request restart", "all nodes of this host, in stages"), ("request restart worker-1 worker-2", "these two")],
    ),
    (
        "request get-id-value",
        &[("request get-id-value Cluster::node --nodes worker-1,worker-2", "what two nodes have in a variable")],
    ),
    ("requests", &[("requests list", "what was asked before hold mode and waits for a word")]),
    ("requests list", &[("requests list --json", "for a script")]),
    (
        "requests resume",
        &[
            ("requests resume monday-1", "it is still wanted"),
            ("requests resume '#17'", "one that has no reqid, by its number in the list"),
        ],
    ),
    ("requests drop", &[("requests drop monday-1", "it is not wanted any more")]),
    ("nodes", &[("nodes list", "this host's nodes and how they are")]),
    ("nodes list", &[("nodes list --json", "for a script"), ("nodes list --wide", "with what each uses and captures")]),
    (
        "nodes top",
        &[
            ("nodes top", "until Ctrl-C"),
            ("nodes top -n 5 --interval 10 --json", "five looks for a script, as lines of JSON"),
        ],
    ),
    ("nodes start", &[("nodes start worker-1", "one that was stopped, or has FAILED")]),
    (
        "nodes stop",
        &[
            ("nodes stop worker-1", "until it is started, or a new configuration comes"),
            ("nodes stop worker-1 --force", "one that is UNKNOWN: its run directory is damaged, and set aside"),
        ],
    ),
    ("nodes restart", &[("nodes restart worker-1 worker-2", "these two")]),
    (
        "nodes logs",
        &[
            ("nodes logs worker-1 --stderr -n 20", "the last lines of its standard error"),
            ("nodes logs worker-1 -f", "its standard output, as it is written"),
        ],
    ),
    ("nodes print", &[("nodes print Cluster::node worker-1 worker-2", "what two nodes have in a variable")]),
    ("nodes netstats", &[("nodes netstats", "whether any node drops packets")]),
    ("nodes crash", &[("nodes crash worker-1", "a list"), ("nodes crash worker-1 last", "the newest in full")]),
    (
        "status",
        &[
            ("status", "0 once the agent serves"),
            ("status --json", "for a script"),
            ("status --check", "for a probe: 1 and one line if something is wrong"),
        ],
    ),
    (
        "shutdown",
        &[("shutdown", "the agent ends, its nodes run on"), ("shutdown --nodes", "before the host is taken down")],
    ),
    ("state", &[("state adopt", "make a copy of a state directory one of its own")]),
    ("state adopt", &[("state adopt --state-dir /srv/second-agent", "a copy that is to live beside the original")]),
    ("notify", &[("notify --ready", "in a program that runs as a node, with `ready = \"checkin\"`")]),
    ("settings", &[("settings", "every value, and whether a flag, the environment or a file set it")]),
    ("journal", &[("journal dump --failed --since 2h", "what went wrong lately")]),
    (
        "journal dump",
        &[
            ("journal dump --failed --since 2h", "what went wrong lately"),
            ("journal dump --kind node --node worker-1 -n 20", "a node's last starts, check-ins and exits"),
            ("journal dump --source uid=0 --format csv", "what root asked for, for a spreadsheet"),
        ],
    ),
    (
        "journal tail",
        &[
            ("journal tail -f --kind all", "everything, as it happens"),
            ("journal tail --cursor-file /var/tmp/zca.cursor", "what came since the last time"),
        ],
    ),
    ("journal show", &[("journal show monday-1", "one request, with its arguments, attempts and response")]),
    (
        "journal prune",
        &[("journal prune --keep 1000 --dry-run", "what would go"), ("journal prune --older-than 30d", "remove it")],
    ),
    ("journal stats", &[("journal stats", "how many of what, and how long they took")]),
    ("journal compact", &[("journal compact", "if it is worth it")]),
    (
        "journal verify",
        &[
            ("journal verify", "prints the head, to be noted elsewhere"),
            ("journal verify --dir /backup/zeek-cluster-agent", "of a copy"),
        ],
    ),
    ("journal export", &[("journal export /backup/journal.zcaj", "also while the agent runs")]),
    (
        "journal import",
        &[
            ("journal import /backup/journal.zcaj", "into a state directory whose journal is empty"),
            ("journal import --salvage /backup/zeek-cluster-agent", "what reads of a damaged one"),
        ],
    ),
    ("zeek", &[("zeek keys /etc/zeek-cluster-agent/keys", "once for the whole cluster")]),
    (
        "zeek keys",
        &[("zeek keys /etc/zeek-cluster-agent/keys", "once for the whole cluster; then copy them to each host")],
    ),
    ("config", &[("config check cluster.ini", "before it is deployed")]),
    (
        "config check",
        &[
            ("config check cluster.ini", "78 if it is not valid"),
            ("config check cluster.ini --host", "whether its nodes can run on this host, scripts included"),
            ("config check node.cfg", "zeekctl's file, too"),
        ],
    ),
    ("config history", &[("config history", "what ran here, since when, and who wanted it")]),
    (
        "config show",
        &[("config show @-1", "what ran before, as a cluster file"), ("config show --to json", "what runs")],
    ),
    (
        "config diff",
        &[
            ("config diff cluster.ini", "which nodes a deploy would replace, why, and in which order"),
            ("config diff @-1", "what going back would do"),
            ("config diff @-2 @-1", "the values that changed then"),
        ],
    ),
    ("config convert", &[("config convert node.cfg --to ini", "from zeekctl to a cluster file")]),
    ("completions", &[("completions bash", "in ~/.bashrc: source <(zeek-cluster-agent completions bash)")]),
    (
        "man",
        &[
            ("man --dir /usr/local/share/man/man1", "a page for each command"),
            ("man", "all of them in one, for `man -l -`"),
        ],
    ),
    ("demo", &[("demo", "takes some seconds, and leaves nothing behind")]),
];

/// The command line with its examples.
pub fn command() -> clap::Command {
    let mut command = Cli::command();
    for (path, examples) in EXAMPLES {
        command = at(command, path, |page| with_examples(page, examples));
    }
    command
}

/// Changes the command to which these words lead.
fn at(command: clap::Command, path: &str, change: impl FnOnce(clap::Command) -> clap::Command) -> clap::Command {
    match path.split_once(' ') {
        _ if path.is_empty() => change(command),
        None => command.mut_subcommand(path, change),
        Some((first, rest)) => command.mut_subcommand(first, |child| at(child, rest, change)),
    }
}

fn with_examples(page: clap::Command, examples: &[Example]) -> clap::Command {
    let mut text = "Examples:".to_owned();
    for (line, about) in examples {
        text.push_str(&format!("\n  zeek-cluster-agent {line}\n      {about}"));
    }
    if let Some(more) = page.get_after_help() {
        text = format!("{text}\n\n{more}");
    }
    page.after_help(text)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn pages(command: &clap::Command, path: &str, found: &mut Vec<(String, clap::Command)>) {
        found.push((path.to_owned(), command.clone()));
        for child in command.get_subcommands().filter(|child| !child.is_hide_set() && child.get_name() != "help") {
            let path =
                if path.is_empty() { child.get_name().to_owned() } else { format!("{path} {}", child.get_name()) };
            pages(child, &path, found);
        }
    }

    #[test]
    fn every_help_page_has_an_example_that_can_be_typed() {
        let mut found = Vec::new();
        pages(&command(), "", &mut found);
        assert!(found.len() > 35, "{}", found.len());
        for (path, mut page) in found {
            for help in [page.render_help(), page.render_long_help()] {
                let help = help.to_string();
                assert!(help.contains("Examples:\n  zeek-cluster-agent "), "{path:?} has none:\n{help}");
            }
            let (_, examples) = EXAMPLES.iter().find(|(of, _)| *of == path).unwrap_or_else(|| panic!("{path}"));
            for (line, _) in *examples {
                assert!(line.starts_with(path.as_str()), "{line:?} is no example of {path:?}");
                let line = line.split(" < ").next().unwrap();
                let words = std::iter::once("zeek-cluster-agent").chain(line.split(' '));
                Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
            }
        }
    }

    #[test]
    fn no_help_text_leans_on_another() {
        let mut found = Vec::new();
        pages(&command(), "", &mut found);
        for (path, page) in found {
            let texts = page.get_about().into_iter().chain(page.get_arguments().filter_map(clap::Arg::get_help));
            for text in texts.map(ToString::to_string) {
                assert!(!text.starts_with("The same"), "{path}: {text}");
            }
            assert!(
                page.get_about().is_some_and(|about| !about.to_string().is_empty()),
                "{path} says nothing of itself"
            );
        }
    }
}
