//! The shim as a program of its own: small, found beside the agent, kept across an upgrade, and named by its release.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use zeek_cluster_agent::api::status::NodeState;

use crate::support::{BINARY, Host, cluster, set};

const SHIM: &str = env!("CARGO_BIN_EXE_zca-shim");

#[test]
fn it_says_what_it_is_to_whoever_starts_it() {
    let run = |args: &[&str]| {
        let output = Command::new(SHIM).args(args).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, said, _) = run(&["--version"]);
    assert_eq!((code, said.as_str()), (Some(0), concat!("zca-shim ", env!("CARGO_PKG_VERSION"), "\n")));
    for args in [&[][..], &["--help"], &[""], &["-x", "1"]] {
        let (code, said, complaint) = run(args);
        assert_eq!((code, said.as_str()), (Some(2), ""), "{args:?}");
        assert!(complaint.contains("is started by zeek-cluster-agent"), "{args:?}: {complaint}");
    }
}

/// It has nothing of TLS, databases or runtimes: what it is for is to be small.
#[test]
fn it_needs_no_library_but_libc() {
    let output = Command::new("ldd").arg(SHIM).output().expect("ldd comes with the C library");
    let text = String::from_utf8(output.stdout).unwrap();
    let libraries = text.lines().filter_map(|line| line.split_whitespace().next());
    let known =
        ["linux-vdso.so.1", "libc.so.6", "libgcc_s.so.1", "/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];
    let others: Vec<&str> = libraries.filter(|library| !known.contains(library)).collect();
    assert!(others.is_empty(), "{others:?} in\n{text}");
}

#[test]
fn nodes_run_under_it_and_their_list_names_its_release() {
    let host = Host::new();
    let _agent = host.start();
    host.ask("d", set(cluster(&[("w1", "")])));
    host.wait_state("w1", NodeState::Running);
    let program = fs::read_link(format!("/proc/{}/exe", host.shim_of("w1"))).unwrap();
    assert_eq!(program, fs::canonicalize(SHIM).unwrap());
    let nodes = host.json(&["nodes", "list", "--json"]);
    assert_eq!(nodes[0]["shim"], env!("CARGO_PKG_VERSION"), "{nodes}");
    let said = host.run(&["nodes", "list", "--wide"]);
    let rows: Vec<Vec<&str>> = said.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    let column = rows[0].iter().position(|name| *name == "SHIM").unwrap();
    assert_eq!(rows[0][column - 1], "DEATHS");
    assert!(rows[1].contains(&env!("CARGO_PKG_VERSION")), "{}", said.stdout);
    assert!(!host.run(&["nodes", "list"]).stdout.contains("SHIM"));
}

/// The files may be replaced while an agent runs; it goes on with those that it was started with.
#[test]
fn an_upgrade_does_not_change_the_shims_of_a_running_agent() {
    let mut host = Host::new();
    let place = host.dir.path().join("bin");
    fs::create_dir(&place).unwrap();
    let install = |name: &str, from: &str| {
        let _ = fs::remove_file(place.join(name));
        fs::copy(from, place.join(name)).unwrap();
    };
    install("zeek-cluster-agent", BINARY);
    install("zca-shim", SHIM);
    host.binary = place.join("zeek-cluster-agent");
    let agent = host.start();
    host.ask("d", set(cluster(&[("w1", "")])));
    host.wait_state("w1", NodeState::Running);
    // A shim that runs nothing takes its place.
    install("zca-shim", "/bin/false");
    host.ask("e", set(cluster(&[("w1", ""), ("w2", "")])));
    let pids = host.pids();
    assert_eq!(pids.len(), 2);
    agent.kill();
    // Without a shim of its own the agent is its nodes' shim, as the first release was.
    fs::remove_file(place.join("zca-shim")).unwrap();
    let agent = host.start();
    assert!(
        host.read_log().contains("zca-shim is missing, so shims are the agent's own program"),
        "{}",
        host.read_log()
    );
    assert_eq!(host.pids(), pids);
    host.ask("f", set(cluster(&[("w1", ""), ("w2", ""), ("w3", "")])));
    host.wait_state("w3", NodeState::Running);
    let program = fs::read_link(format!("/proc/{}/exe", host.shim_of("w3"))).unwrap();
    assert_eq!(program, fs::canonicalize(&host.binary).unwrap());
    agent.kill();
    // One that cannot be used is told, and nothing is started in its place.
    fs::create_dir(place.join("zca-shim")).unwrap();
    let mut refused = host.spawn();
    let code = crate::support::eventually("its end", || refused.exited());
    assert_eq!(code, 1, "{}", host.read_log());
    assert!(host.read_log().contains("from which shims are started"), "{}", host.read_log());
    fs::remove_dir(place.join("zca-shim")).unwrap();
    install("zca-shim", SHIM);
    fs::set_permissions(place.join("zca-shim"), fs::Permissions::from_mode(0o755)).unwrap();
    let _agent = host.start();
    host.wait_state("w3", NodeState::Running);
}
