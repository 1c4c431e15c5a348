//! `config check` and `config convert` as an operator runs them.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::repository;

/// Exit code, standard output and standard error.
pub fn config(arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zeek-cluster-agent"));
    command.env_clear().env("HOME", "/nonexistent").env("ZEEK_AGENT_NAME", "agent-1");
    // A machine without a name service says so soon.
    command.env("RES_OPTIONS", "timeout:1 attempts:1");
    let output = command.arg("config").args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A file that is gone with the test.
pub struct Scratch {
    directory: tempfile::TempDir,
}

impl Scratch {
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn convert(path: &Path, to: &str) -> (i32, String, String) {
    config(&["convert", "--to", to, path.to_str().unwrap()])
}

fn field(name: &str) -> PathBuf {
    repository("tests/data/field").join(name)
}

/// References between values are followed, and `%%` is a `%`.
#[test]
fn interpolation_is_zeek_clients() {
    let (exit, json, said) = convert(&field("interpolation.ini"), "json");
    assert_eq!((exit, &*said), (0, ""));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let worker = &json["nodes"][1];
    assert_eq!((&worker["interface"], &worker["env"]["FMT"]), (&"af_packet::eth0".into(), &"%Y-%m".into()));
    let (_, ini, _) = convert(&field("interpolation.ini"), "ini");
    assert!(ini.contains("interface = af_packet::eth0\n") && ini.contains("env = FMT=%%Y-%%m\n"), "{ini}");
}

/// Instances are `host:port`, a `%` is `%%`, scripts are zeekctl's, and what zeek-client does not know is named.
#[test]
fn what_becomes_of_a_node_cfg_is_for_zeek_client() {
    let (exit, ini, said) = convert(&field("two-hosts.node.cfg"), "ini");
    assert_eq!(exit, 0, "{said}");
    assert!(
        ini.starts_with("[instances]\nagent-192.0.2.7 = 192.0.2.7:2151\nagent-192.0.2.8 = 192.0.2.8:2151\n"),
        "{ini}"
    );
    assert!(ini.contains("env = FMT=%%Y\n"), "{ini}");
    assert_eq!(ini.matches("scripts = local\n").count(), 4, "{ini}");
    for warned in [
        "warning: options of worker-1-1, worker-1-2: zeek-client does not know this key",
        "warning: the port of agent-192.0.2.7, agent-192.0.2.8: zeek-client takes no address without a port, so 2151 was added",
    ] {
        assert!(said.contains(warned), "{said}");
    }
}

/// What leaves the command line holds addresses.
#[test]
fn host_names_are_looked_up() {
    let scratch = Scratch::new();
    let file = scratch.file("named.ini", "[instances]\na = localhost:2151\n[n]\nrole = worker\ninstance = a\n");
    let (exit, ini, said) = convert(&file, "ini");
    assert_eq!((exit, &*said), (0, ""), "{ini}");
    assert!(ini.starts_with("[instances]\na = 127.0.0.1:2151\n"), "{ini}");
    let json = r#"{"instances": [{"name": "a", "host": "localhost"}, {"name": "b", "host": "[::1]"}], "nodes": []}"#;
    let (_, ini, said) = convert(&scratch.file("named.json", json), "ini");
    assert!(ini.starts_with("[instances]\na = 127.0.0.1:2151\nb = [::1]:2151\n"), "{ini}");
    assert!(said.contains("host localhost is 127.0.0.1 here, which other hosts cannot reach"), "{said}");

    let file = scratch.file("unknown.ini", "[instances]\na\nb = no-such-host.invalid:1\n");
    for arguments in [["check", file.to_str().unwrap()].as_slice(), &["convert", "--to", "ini", file.to_str().unwrap()]]
    {
        let (exit, out, said) = config(arguments);
        assert_eq!((exit, &*out), (78, ""), "{said}");
        let place = "unknown.ini:3: [instances] b: the address of \"no-such-host.invalid\" cannot be found: ";
        assert!(said.contains(place) && said.contains("; correct the name, or give the host's address"), "{said}");
    }
}

/// A directory of HOST.zeek.conf is one cluster: the manual's, with addresses in the files and from the name service.
#[test]
fn a_directory_of_zeek_conf_files_is_a_cluster() {
    let scratch = Scratch::new();
    let manual = |name: &str| std::fs::read_to_string(repository("tests/data/manual").join(name)).unwrap();
    scratch.file("cluster/c-mgr.zeek.conf", &manual("c-mgr-address.conf"));
    let file = scratch.file("cluster/c-w-01.zeek.conf", &manual("c-w-01-address.conf"));
    // Whatever else lies there is none of it.
    scratch.file("cluster/Notes.zeek.conf.orig", "not a file of Zeek's");
    let cluster = file.parent().unwrap();
    let (exit, ini, said) = convert(cluster, "ini");
    assert_eq!(exit, 0, "{said}");
    assert!(ini.starts_with("[instances]\nagent-c-mgr = 10.0.0.1:2151\nagent-c-w-01 = 10.0.0.2:2151\n"), "{ini}");
    let nodes: Vec<&str> = ini.lines().filter(|line| line.starts_with('[')).skip(1).collect();
    let expected = [
        "[logger-1]",
        "[logger-2]",
        "[logger-3]",
        "[manager]",
        "[proxy-1]",
        "[proxy-2]",
        "[worker-01-worker-eth1-1]",
        "[worker-01-worker-eth1-2]",
        "[worker-01-worker-eth1-3]",
        "[worker-01-worker-eth1-4]",
    ];
    assert_eq!(nodes, expected, "{ini}");
    assert!(ini.contains("[worker-01-worker-eth1-1]\ninstance = agent-c-w-01\n"), "{ini}");

    scratch.file("cluster/localhost.zeek.conf", &manual("c-w-01.conf"));
    let (_, ini, said) = convert(cluster, "ini");
    assert!(
        ini.contains("agent-localhost = 127.0.0.1:2151\n") && ini.contains("[localhost-worker-eth1-4]"),
        "{ini}{said}"
    );

    scratch.file("cluster/no-such-host.zeek.conf", &manual("c-mgr.conf"));
    let (exit, _, said) = config(&["check", cluster.to_str().unwrap()]);
    assert!(exit == 78 && said.contains("no-such-host.zeek.conf: has a manager, and so does another host"), "{said}");

    let empty = scratch.file("nothing/x", "");
    let (exit, _, said) = config(&["check", empty.parent().unwrap().to_str().unwrap()]);
    assert!(exit == 78 && said.contains("is a directory without any HOST.zeek.conf; name a cluster file"), "{said}");
}

/// `config check` of a text: exit code and standard error.
fn checked(name: &str, text: &str) -> (i32, String) {
    let (exit, _, said) = config(&["check", Scratch::new().file(name, text).to_str().unwrap()]);
    (exit, said)
}

/// The kernel lets one interface have a fanout id.
#[test]
fn check_tells_of_a_fanout_id_on_two_interfaces() {
    let (exit, _, said) = config(&["check", field("fanout-two-interfaces.node.cfg").to_str().unwrap()]);
    let expected = "warning: node worker-2-1: captures eth1 with AF_PACKET fanout id 23, and worker-1-1 captures eth0 with it: \
                    the kernel refuses the second interface (EINVAL); give the workers of each interface an \
                    AF_Packet::fanout_id of their own";
    assert!(exit == 0 && said.contains(expected), "{said}");
}

#[test]
fn check_tells_of_packets_seen_twice_or_not_at_all() {
    let (exit, said) = checked(
        "c.ini",
        "[m]\nrole=manager\n[w1]\nrole=worker\ninterface=lo\n[w2]\nrole=worker\ninterface=lo\n\
         [w3]\nrole=worker\ninterface=no-such-nic0 # uplink\n[w4]\nrole=worker\ninterface=af_packet::no-such-nic1\n",
    );
    assert_eq!(exit, 0, "{said}");
    for expected in [
        "warning: node w2: captures lo as w1 does, and each sees every packet",
        "warning: node w3: interface \"no-such-nic0 # uplink\" holds a blank, # or ;, and no interface is called so",
        "warning: this host has no interface no-such-nic1, which w4 captures; see `ip link`",
    ] {
        assert!(said.contains(expected), "{expected}\n{said}");
    }
    assert!(!said.contains("no interface lo"), "{said}");
}

#[test]
fn check_tells_of_workers_without_a_manager() {
    let (exit, said) = checked("c.ini", "[w1]\nrole=worker\ninterface=lo\n");
    assert!(
        exit == 0 && said.contains("warning: configuration: has workers and no manager: they wait for one"),
        "{said}"
    );
}

#[test]
fn check_tells_of_ports_that_are_not_free() {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let (first, last) = range.trim().split_once('\t').unwrap();
    let (exit, said) = checked("c.ini", &format!("[m]\nrole=manager\nport={last}\n"));
    let expected =
        format!("warning: port {last} is among {first} to {last}, from which this host's kernel takes ports");
    assert!(exit == 0 && said.contains(&expected), "{said}");

    let (exit, said) = checked("c.ini", "[m]\nrole=manager\nport=2151\n");
    let expected = "c.ini: node m: port 2151/tcp is one that the agent of this host listens on: give the node another";
    assert!(exit == 78 && said.contains(expected), "{said}");
    // Of another host's node nothing is known.
    assert_eq!(checked("c.ini", "[m]\nrole=manager\nport=2151\ninstance=b\n").0, 0);
}

#[test]
fn check_tells_of_scripts_that_are_not_there() {
    let scratch = Scratch::new();
    let script = scratch.file("site/there.zeek", "");
    let site = script.parent().unwrap().to_str().unwrap();
    let text = format!("[m]\nrole=manager\nscripts = {site}/there {site}/gone there elsewhere\n");
    let file = scratch.file("c.ini", &text);
    let check = |path: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zeek-cluster-agent"));
        command
            .env_clear()
            .env("HOME", "/nonexistent")
            .env("ZEEK_AGENT_NAME", "agent-1")
            .envs(path.map(|path| ("ZEEKPATH", path)));
        String::from_utf8(command.args(["config", "check"]).arg(&file).output().unwrap().stderr).unwrap()
    };
    let said = check(Some(site));
    let gone = format!("warning: script {site}/gone is not there; m would end at once without it");
    let elsewhere = format!("warning: script elsewhere is not in {site}; m would end at once without it");
    assert!(said.contains(&gone) && said.contains(&elsewhere), "{said}");
    assert!(!said.contains("script there") && !said.contains("there.zeek"), "{said}");
    // Without Zeek it is not known where to look.
    let said = check(None);
    assert!(said.contains(&gone) && !said.contains("script elsewhere"), "{said}");
}

/// Agents refuse what has neither instances nor nodes, so check does.
#[test]
fn check_refuses_an_empty_file() {
    for (name, text) in [("c.ini", ""), ("c.ini", "# nothing\n"), ("c.json", r#"{"instances": [], "nodes": []}"#)] {
        let (exit, said) = checked(name, text);
        assert!(exit == 78 && said.contains("configuration: is empty, and agents refuse it: give it nodes"), "{said}");
    }
    assert_eq!(checked("c.ini", "[instances]\nagent-1\n").0, 0);
}

/// Names alone are what a controller fills in, and what an agent refuses.
#[test]
fn check_tells_of_instances_without_an_address() {
    let text = "[instances]\na = 192.0.2.1:2151\nb\n[m]\nrole=manager\ninstance=a\n[w]\nrole=worker\ninstance=b\n";
    let (exit, said) = checked("c.ini", text);
    let expected =
        "warning: instance b: has nodes and no address: a controller fills it in, and `request deploy` refuses";
    assert!(exit == 0 && said.contains(expected), "{said}");
}
