//! What becomes of nodes' output when somebody moves it, or the disk does not take it, through the real binary.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::{Host, cluster, eventually, set};

#[test]
fn output_goes_on_where_it_is_looked_for_after_its_file_was_moved_or_removed() {
    let mut host = Host::new();
    let program = host.file("node.sh", "#!/bin/sh\nwhile :; do echo tick; sleep 0.05; done\n");
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    host.run_program(Path::new(&program)).set("ZCA_READY", "alive").set("ZCA_ALIVE_SECS", "0.05");
    let _agent = host.start();
    assert!(host.ask("r", set(cluster(&[("w1", "")]))).success());
    let stdout = host.state_dir().join("nodes/w1/stdout");
    let has_ticks = || fs::read_to_string(&stdout).is_ok_and(|text| text.contains("tick\n"));
    eventually("output", || has_ticks().then_some(()));
    let pid = host.pids()["w1"];
    fs::rename(&stdout, host.dir.path().join("rotated")).unwrap();
    eventually("output where it was before", || has_ticks().then_some(()));
    fs::remove_file(&stdout).unwrap();
    eventually("output where it was before", || has_ticks().then_some(()));
    let said = host.run(&["nodes", "logs", "w1"]);
    assert!(said.code == 0 && said.stdout.contains("tick"), "{said:?}");
    assert_eq!(host.pids()["w1"], pid, "the node was not asked");
}

#[test]
fn output_that_the_disk_does_not_take_is_told_and_counted() {
    let host = Host::new();
    let directory = host.state_dir().join("nodes/w1");
    // In the way, and cannot be moved out of it.
    for name in ["stdout", "stdout.1", "stdout.2/full"] {
        fs::create_dir_all(directory.join(name)).unwrap();
    }
    let agent = host.start();
    assert!(host.ask("r", set(cluster(&[("w1", "env = SIM_FLOOD=1000000")]))).success());
    let counted = || {
        let nodes = host.json(&["nodes", "list", "--json"]);
        nodes[0]["dropped_bytes"].as_u64().filter(|bytes| *bytes > 1_000_000)
    };
    let bytes = eventually("all of it to be counted", counted);
    assert!(host.read_log().contains("output of w1 is dropped and not written: "), "{}", host.read_log());
    assert!(host.run(&["status"]).stdout.contains("bytes of its output were dropped"));
    // Its shim knows, whoever the agent is.
    agent.kill();
    let _agent = host.start();
    assert_eq!(eventually("the same from the next agent", counted), bytes);
}
