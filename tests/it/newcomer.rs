//! The way of somebody who comes from zeekctl: its stock node.cfg becomes running nodes, and each command says what it did.

use std::fmt::Write;

use crate::support::{Host, Said};
use crate::words::same_as;

/// In the form in which zeekctl installs it, comments included.
const STOCK: &str = include_str!("../data/zeekctl/stock.cfg");

#[test]
fn from_the_stock_node_cfg_of_zeekctl_to_running_nodes() {
    let host = Host::new();
    host.file("node.cfg", STOCK);
    let mut told = String::new();
    let mut tell = |said: &Said, line: &str| {
        writeln!(told, "$ zeek-cluster-agent {line}\n{}{}exit code {}\n", said.stderr, said.stdout, said.code).unwrap();
    };
    let run = |line: &str| host.run(&line.split(' ').collect::<Vec<_>>());

    let said = run("config check node.cfg");
    tell(&said, "config check node.cfg");
    assert_eq!(said.code, 0, "{said:?}");
    // Sent as it is, it is refused with what to do.
    let agent = host.start();
    let said = run("request deploy node.cfg --reqid too-early");
    tell(&said, "request deploy node.cfg --reqid too-early");
    assert_eq!(said.code, 78, "{said:?}");
    let said = run("config convert node.cfg --to ini");
    tell(&said, "config convert node.cfg --to ini");
    assert_eq!(said.code, 0, "{said:?}");
    host.file("cluster.ini", &said.stdout);
    for line in ["config check cluster.ini", "config diff cluster.ini", "request deploy cluster.ini --reqid first"] {
        let said = run(line);
        tell(&said, line);
        assert_eq!(said.code, 0, "{line}: {said:?}");
    }
    // The same again is the same answer, and the same node.
    let before = host.pids();
    let said = run("request deploy cluster.ini --reqid first");
    tell(&said, "request deploy cluster.ini --reqid first");
    assert_eq!((said.code, host.pids()), (0, before));
    // When that was, it says.
    let told: Vec<&str> = told
        .lines()
        .map(|line| if line.starts_with("stored answer of ") { "stored answer of TIME" } else { line })
        .collect();
    same_as(&host, "newcomer.txt", &(told.join("\n") + "\n"), &[]);

    let nodes = host.json(&["nodes", "list", "--json"]);
    let nodes = nodes.as_array().unwrap();
    assert!(!nodes.is_empty() && nodes.iter().all(|node| node["state"] == "RUNNING"), "{nodes:?}");
    let status = run("status");
    assert!(status.code == 0 && status.stdout.contains("1 RUNNING"), "{status:?}");
    let logs = run("nodes logs zeek");
    assert!(logs.code == 0 && logs.stdout.contains("node zeek runs as pid"), "{logs:?}");
    let rows = run("journal dump").lines();
    assert!(rows.iter().all(|row| row["success"] == true), "{rows:?}");
    assert_eq!(run("journal verify").code, 0);
    let said = run("shutdown --nodes --reqid last");
    assert_eq!((said.code, said.stdout.as_str()), (0, "ok\n"));
    assert!(agent.wait().success());
}
