//! The command line as it is written.

use clap::CommandFactory;

use super::*;

#[test]
fn the_tree_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn commands_of_the_contract_parse() {
    for line in [
        "run --config f --state-dir d --name n --control-socket s --websocket off --listen 1.2.3.4:5 \
         --controller off --node-program p --simulate-nodes --log-format json",
        "run --websocket 127.0.0.1:0 --insecure",
        "request set-configuration - --reqid r --timeout 2.5 --json --via ws://127.0.0.1:1",
        "request deploy f --force --reqid r",
        "request welcome --timeout 1",
        "request standby",
        "request get-nodes --reqid g",
        "request restart w1 w2",
        "request restart",
        "request get-id-value x --nodes a,b",
        "requests list --json",
        "requests resume r --reqid s",
        "requests drop #17",
        "nodes list",
        "nodes start a b",
        "nodes start --all",
        "nodes restart --all --reqid r",
        "nodes stop a",
        "nodes stop a --force",
        "nodes restart a --reqid r",
        "nodes logs a -f --stderr",
        "nodes print Cluster::node",
        "nodes print Cluster::node w1 w2 --timeout 3",
        "nodes netstats",
        "nodes netstats w1 --json",
        "zeek keys /a",
        "nodes crash a",
        "nodes crash a last --json",
        "status --json",
        "shutdown --nodes",
        "state adopt --reqid r",
        "notify --ready",
        "settings -v -q --color never",
        "journal dump --format csv --since 2h --until yesterday --reqid r --event e --state conflict --source s \
         --failed --node n -n 3 --reverse --from-seq 1 --to-seq 2 --kind all --dir d",
        "journal show r --dir d",
        "journal verify",
        "journal export - --dir d",
        "journal import f",
        "config check f",
        "config convert f --to ini",
        "config diff f --force",
        "completions bash",
        "man",
        "man --dir d",
        "complete --for bash -- nodes --js",
        "demo",
    ] {
        let words = std::iter::once("zeek-cluster-agent").chain(line.split_whitespace());
        if let Err(error) = Cli::try_parse_from(words) {
            panic!("{line}: {error}");
        }
    }
    for line in [
        "",
        "nodes start",
        "nodes stop a --all",
        "notify",
        "request deploy",
        "request welcome --timeout 0",
        "frobnicate",
    ] {
        let words = std::iter::once("zeek-cluster-agent").chain(line.split_whitespace());
        assert!(Cli::try_parse_from(words).is_err(), "{line:?} was accepted");
    }
}

#[test]
fn exit_codes_are_told_where_they_matter() {
    for path in [&[][..], &["request"], &["status"], &["shutdown"]] {
        let mut command = Cli::command();
        let mut here = &mut command;
        for name in path {
            here = here.find_subcommand_mut(name).unwrap();
        }
        assert!(here.render_help().to_string().contains("5 conflict"), "{path:?}");
    }
}

#[test]
fn timeouts_are_seconds_with_fractions() {
    assert_eq!(seconds("2.5"), Ok(2500));
    assert_eq!(seconds("0.0001"), Ok(1));
    for bad in ["0", "-1", "nan", "inf", "1e9", "x"] {
        assert!(seconds(bad).is_err(), "{bad}");
    }
}
