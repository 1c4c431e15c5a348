//! What somebody reads of the journal who wants to know what went wrong, and when.

use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::support::{Host, Said, cluster, eventually, kill, set};

/// On a terminal in a time zone.
fn on_a_terminal(host: &Host, zone: &str, args: &str) -> String {
    let mut script = Command::new("script");
    host.prepare(&mut script);
    let command = format!("stty cols 200; exec {} {args}", host.binary.display());
    script.env("TZ", zone).args(["-qec", &command, "/dev/null"]).stdin(Stdio::null());
    let said = Said::of(script);
    assert_eq!(said.code, 0, "{args}: {said:?}");
    said.stdout.replace("\r\n", "\n")
}

#[test]
fn what_went_wrong_is_found_whether_it_was_a_request_or_a_node() {
    let host = Host::new();
    let _agent = host.start();
    assert!(host.ask("good", set(cluster(&[("w1", "")]))).success());
    // Two requests that did nothing of what they were for, one that did half, and a node that crashed.
    for (args, reqid) in [
        (&["request", "restart", "nosuch"][..], "restart"),
        (&["nodes", "stop", "nosuch"], "stop"),
        (&["request", "restart", "w1", "nosuch"], "half"),
    ] {
        assert_eq!(host.run(&[args, &["--reqid", reqid]].concat()).code, 1, "{args:?}");
    }
    assert_eq!(host.run(&["nodes", "restart", "w1", "--reqid", "fine"]).code, 0);
    let pid = host.pids()["w1"];
    kill(pid, Signal::KILL, Some(&host.mark));
    eventually("w1 again", || host.pids().get("w1").copied().filter(|now| *now != pid));

    // As docs/COMMANDS.md has it.
    let wrong = host.run(&["journal", "dump", "--failed", "--since", "yesterday 18:00"]).lines();
    let requests: Vec<&str> = wrong.iter().filter_map(|row| row["reqid"].as_str()).collect();
    assert_eq!(requests, ["restart", "stop", "half"]);
    for row in wrong.iter().filter(|row| row["reqid"].is_string()) {
        assert_eq!(row["success"], false, "{row}");
        assert!(row.to_string().contains("no such node on this host"), "{row}");
    }
    let exits: Vec<_> = wrong.iter().filter(|row| row["event"] == "node_exited").collect();
    assert_eq!((exits.len(), wrong.len()), (1, 4), "{wrong:?}");
    let table = host.run(&["journal", "dump", "--failed", "--format", "table"]).stdout;
    assert!(table.contains("no such node on this host") && table.contains("signal 9"), "{table}");
    let stats = host.json(&["journal", "stats", "--json"]);
    assert_eq!((&stats["failed"], &stats["requests"]["restart_request"]["failed"]), (&3.into(), &2.into()), "{stats}");
    // The longest is exact: one of the rows has it.
    let rows = host.run(&["journal", "dump"]).lines();
    let longest = rows.iter().filter_map(|row| row["duration_ms"].as_f64()).fold(0.0, f64::max);
    assert_eq!(stats["latency"]["max_ms"].as_f64(), Some(longest), "{stats}");

    // A word that there is not, and values that say nothing.
    let said = host.run(&["journal", "dump", "--event", "deplyo"]);
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.stderr.contains("\"deplyo\"; the most similar name is deploy"), "{said:?}");
    for args in [&["journal", "dump", "--state", "complete"][..], &["request", "welcome", "--reqid", ""]] {
        assert_eq!(host.run(args).code, 2, "{args:?}");
    }
}

#[test]
fn a_time_that_a_terminal_shows_finds_its_row_when_it_is_pasted() {
    let host = Host::new();
    let _agent = host.start();
    assert!(host.ask("r", set(cluster(&[("w1", "")]))).success());
    for zone in ["America/New_York", "Asia/Kolkata", "Australia/Sydney"] {
        let table = on_a_terminal(&host, zone, "journal dump --reqid r");
        let row = table.lines().nth(1).unwrap_or_else(|| panic!("{table}"));
        let words: Vec<&str> = row.split_whitespace().collect();
        let time = format!("{} {}", words[1], words[2]);
        let found = on_a_terminal(&host, zone, &format!("journal dump --since '{time}' --event set_configuration"));
        assert_eq!(found.lines().nth(1), Some(row), "{zone}: {found}");
        // Of today, wherever that is.
        let clock = &words[2][..8];
        let found = on_a_terminal(&host, zone, &format!("journal dump --since {clock} --event set_configuration"));
        assert_eq!(found.lines().nth(1), Some(row), "{zone}: {found}");
        // Who it was has a name for people.
        let user = rustix::process::getuid().as_raw();
        let name = Said::of({
            let mut id = Command::new("id");
            id.arg("-un");
            id
        });
        assert!(row.contains(&format!("uid={user}({})", name.stdout.trim())), "{row}");
    }
    let row = host.run(&["journal", "dump", "--reqid", "r"]).lines().remove(0);
    assert!(row["received_at"].as_str().unwrap().ends_with('Z'), "{row}");
    let piped = host.run(&["journal", "dump", "--reqid", "r", "--format", "table"]).stdout;
    assert!(piped.contains(&format!("{}Z", &row["received_at"].as_str().unwrap()[..19])), "{piped}");
}
