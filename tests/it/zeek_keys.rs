//! Keys of clusters on ZeroMQ: handed to the nodes that need them, and written down nowhere.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Host, Said};

const CLUSTER: &[(&str, &str)] = &[("manager:manager", "port = 2200"), ("logger:logger", "port = 2201"), ("w1", "")];
const PREFIX: &str = "ZEEK_CLUSTER_BACKEND_ZEROMQ_CURVE_";
const FILES: [(&str, &str); 4] = [
    ("CLIENT_PUBLICKEY", "client.public"),
    ("CLIENT_SECRETKEY", "client.secret"),
    ("SERVER_PUBLICKEY", "server.public"),
    ("SERVER_SECRETKEY", "server.secret"),
];

fn stand_in() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stand-in/zeek")
}

/// What an agent says that does not start because of its settings.
fn refused(host: &Host) -> String {
    let said = host.run(&["run", "--node-program", &stand_in().display().to_string()]);
    assert_eq!(said.code, 78, "{said:?}");
    said.stderr
}

fn host(version: &str) -> (Host, String) {
    let mut host = Host::new();
    host.run_program(&stand_in()).set("STAND_IN_VERSION", version).set("ZCA_LISTEN", "off");
    let keys = host.dir.path().join("keys").display().to_string();
    host.set("ZCA_ZEROMQ_KEYS", &keys);
    (host, keys)
}

fn key(keys: &str, file: &str) -> String {
    fs::read_to_string(Path::new(keys).join(file)).unwrap().trim_end().to_owned()
}

/// Every file below a directory.
fn files(directory: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match fs::symlink_metadata(&path).unwrap() {
            kind if kind.is_dir() => files(&path, found),
            kind if kind.is_file() => found.push(path),
            _ => {}
        }
    }
}

#[test]
fn nodes_get_their_keys_and_nothing_else_has_them() {
    let (mut host, keys) = host("9.0.0");
    assert_eq!(host.run(&["zeek", "keys", &keys]).code, 0);
    assert_eq!(host.run(&["zeek", "keys", &keys]).code, 1, "keys are not overwritten");
    // Of the shell in which somebody starts the agent.
    host.set(&format!("{PREFIX}CLIENT_SECRETKEY"), "not this one");
    let _agent = host.start();
    let file = host.cluster_file("a.ini", CLUSTER);
    let said = host.run(&["request", "deploy", &file]);
    assert_eq!(said.code, 0, "{said:?}\n{}", host.read_log());
    for (node, count) in [("manager", 4), ("logger", 4), ("w1", 3)] {
        // The stand-in wrote its environment down.
        let path = host.state_dir().join("nodes").join(node).join("given");
        let given = fs::read_to_string(&path).unwrap();
        assert_eq!(given.matches(PREFIX).count(), count, "{node}: {given}");
        for (name, file) in FILES.into_iter().take(count) {
            assert!(given.contains(&format!("{PREFIX}{name}={}\n", key(&keys, file))), "{node} {name}: {given}");
        }
        fs::remove_file(path).unwrap();
    }
    let export = host.dir.path().join("export").display().to_string();
    assert_eq!(host.run(&["journal", "export", &export]).code, 0);
    let dump = host.run(&["journal", "dump", "--kind", "all", "--json"]).stdout;
    let mut processes = Command::new("ps");
    processes.args(["-ww", "-eo", "args"]);
    let everything = [dump, Said::of(processes).stdout, host.read_log()].concat();
    let mut found = Vec::new();
    files(&host.state_dir(), &mut found);
    found.push(export.into());
    let contents: Vec<Vec<u8>> = found.iter().filter_map(|path| fs::read(path).ok()).collect();
    assert!(contents.len() > 10);
    for (_, file) in FILES {
        let key = key(&keys, file);
        assert!(!everything.contains(&key), "{file}");
        for (content, path) in contents.iter().zip(&found) {
            let has_it = content.windows(key.len()).any(|part| part == key.as_bytes());
            assert!(!has_it, "{file} is in {}", path.display());
        }
    }
}

#[test]
fn keys_that_cannot_work_are_named_at_the_start_and_at_each_launch() {
    let (host, keys) = host("9.0.0");
    let start = || refused(&host);
    assert!(start().contains("cannot read the key"), "there is none");
    assert_eq!(host.run(&["zeek", "keys", &keys]).code, 0);
    let secret = Path::new(&keys).join("client.secret");
    let good = fs::read(&secret).unwrap();
    fs::write(&secret, "malformed").unwrap();
    let told = start();
    assert!(
        told.contains("client.secret cannot be used: it has 9 characters") && !told.contains("malformed"),
        "{told}"
    );
    fs::copy(Path::new(&keys).join("server.secret"), &secret).unwrap();
    assert!(start().contains("are not a pair"));
    fs::write(&secret, &good).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(start().contains("can be read by others (mode 0644)"));
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();

    // A host where no manager or logger was to run.
    fs::remove_file(Path::new(&keys).join("server.secret")).unwrap();
    let _agent = host.start();
    let file = host.cluster_file("a.ini", CLUSTER);
    let said = host.run(&["request", "deploy", &file, "--timeout", "3"]);
    assert_ne!(said.code, 0, "{said:?}");
    let wait = || host.read_log().contains("server.secret: No such file");
    crate::support::eventually("the missing key to be named", || wait().then_some(()));
}

#[test]
fn a_zeek_that_cannot_encrypt_is_not_taken_for_one_that_does() {
    let (host, keys) = host("8.1.1");
    assert_eq!(host.run(&["zeek", "keys", &keys]).code, 0);
    let said = refused(&host);
    assert!(said.contains("the nodes here are Zeek 8.1, and encryption needs 8.2"), "{said}");
}
