//! Whether nodes can run is looked at before anything that runs is ended: with the stand-in for Zeek, which learns `zeek -a`.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Host, Said, eventually};

fn stand_in() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stand-in/zeek")
}

struct Bench {
    host: Host,
}

impl Bench {
    fn new(settings: &[(&str, &str)]) -> Self {
        let mut host = Host::new();
        host.run_program(&stand_in()).set("STAND_IN_VERSION", "8.0.10").set("ZCA_LISTEN", "off");
        let checks = host.dir.path().join("checks").display().to_string();
        // A busy machine has no time for what runs at the lowest priority; one test is about that.
        host.set("STAND_IN_CHECKS", &checks)
            .set("ZCA_TEST_CHECK_PRIORITY", "usual")
            .set("ZCA_PREFLIGHT_TIMEOUT", "10min");
        for (name, value) in settings {
            host.set(name, value);
        }
        Self { host }
    }

    /// A script of this text, and a cluster file whose workers load it.
    fn file(&self, name: &str, script: &str) -> String {
        self.file_of(name, script, "")
    }

    fn file_of(&self, name: &str, script: &str, more: &str) -> String {
        let script = self.host.file(&format!("{name}.zeek"), script);
        let node = format!("interface = lo\nscripts = {script}\n{more}");
        self.host.cluster_file(&format!("{name}.ini"), &[("w1", &node), ("w2", &node)])
    }

    fn deploy(&self, file: &str, more: &[&str]) -> Said {
        self.host.run(&[&["request", "deploy", file], more].concat())
    }

    /// How often a check was run.
    fn checks(&self) -> Vec<String> {
        let text = fs::read_to_string(self.host.dir.path().join("checks")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn reports(&self) -> Vec<Value> {
        self.host.events("preflight_ended").into_iter().map(|(_, _, detail)| detail["report"].clone()).collect()
    }

    /// Refused with these words; what ran runs on as it was.
    fn refuses(&self, file: &str, words: &str, before: &BTreeMap<String, u32>) {
        let said = self.deploy(file, &[]);
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.stdout.contains(words), "{words:?} is not in {said:?}\n{}", self.host.read_log());
        assert_eq!(self.host.pids(), *before, "nothing was touched");
        self.nothing_is_left();
    }

    /// No process of a check.
    fn nothing_is_left(&self) {
        eventually("the processes of the check to be gone", || {
            let here = self.host.state_dir().join("preflight");
            let is_there =
                |pid: &u32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&here));
            let left: Vec<u32> = self.host.processes(&self.host.mark).into_iter().filter(is_there).collect();
            left.is_empty().then_some(())
        });
    }
}

#[test]
fn what_cannot_run_is_refused_in_zeeks_words_and_replaces_nothing() {
    let bench = Bench::new(&[]);
    let host = &bench.host;
    let agent = host.start();
    // Where nothing runs there is nothing to protect.
    assert_eq!(bench.deploy(&bench.file("good", "# fine"), &[]).code, 0);
    assert_eq!(bench.checks().len(), 0);
    let before = host.pids();

    let wrong = bench.file("wrong", "# fine\nerror: syntax error, at or near \"}\"");
    bench.refuses(&wrong, "wrong.zeek, line 2: syntax error, at or near \"}\"", &before);
    assert_eq!(bench.checks().len(), 1, "two workers with the same scripts are one check: {:?}", bench.checks());
    let missing = host.cluster_file("missing.ini", &[("w1", "interface = lo\nscripts = /nonexistent/a"), ("w2", "")]);
    bench.refuses(&missing, "can't find /nonexistent/a", &before);

    // What Zeek does not see.
    let nic = host.cluster_file("nic.ini", &[("w1", "interface = nosuch0"), ("w2", "interface = lo")]);
    bench.refuses(&nic, "this host has no network interface nosuch0", &before);
    let fanout = |interface: &str| format!("interface = af_packet::{interface}\noptions = AF_Packet::fanout_id=23");
    let clash = host.cluster_file("clash.ini", &[("w1", &fanout("lo")), ("w2", &fanout("lo0"))]);
    bench.refuses(&clash, "AF_Packet::fanout_id 23 is on several interfaces", &before);
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let ports = host.cluster_file("ports.ini", &[("m:manager", &format!("port = {port}")), ("w1", "interface = lo")]);
    bench.refuses(&ports, &format!("port {port}/tcp is taken by"), &before);

    // The same without a change, and the same once more.
    let said = host.run(&["config", "check", &wrong, "--host"]);
    assert!(said.code == 1 && said.stdout.contains("line 2: syntax error"), "{said:?}");
    let good = bench.file("better", "# better");
    let said = host.run(&["config", "check", &good, "--host"]);
    assert!(said.code == 0 && said.stdout.contains("its nodes can run here"), "{said:?}");
    assert_eq!(host.pids(), before);

    // What it is for: it passes, and the change is made; what has passed is known.
    let checks = bench.checks().len();
    assert_eq!(bench.deploy(&good, &[]).code, 0);
    assert_ne!(host.pids(), before);
    assert_eq!(bench.checks().len(), checks, "the result of before is known");
    let report = bench.reports().pop().unwrap();
    assert!(report["cached"] == 1 && report["ran"] == 0, "{report}");

    // The running id again, and whoever does not want it.
    let reports = bench.reports().len();
    assert_eq!(bench.deploy(&good, &[]).code, 0);
    assert_eq!(bench.reports().len(), reports, "a controller that deploys what runs causes no check");
    let said = bench.deploy(&wrong, &["--no-preflight"]);
    assert_eq!((said.code, bench.reports().len()), (0, reports), "{said:?}");
    host.verify();
    drop(agent);
}

#[test]
fn a_script_that_was_written_again_is_checked_again() {
    let bench = Bench::new(&[]);
    let _agent = bench.host.start();
    assert_eq!(bench.deploy(&bench.file("a", "# a"), &[]).code, 0);
    let b = bench.file("b", "# b");
    let check = |bench: &Bench| bench.host.json(&["config", "check", &b, "--host", "--json"])["report"].clone();
    assert_eq!(check(&bench)["ran"], 1);
    assert_eq!(check(&bench)["cached"], 1);
    bench.file("b", "# b, and longer");
    assert_eq!(check(&bench)["ran"], 1);
}

#[test]
fn a_check_that_goes_wild_is_ended_whole_and_told() {
    let mut bench = Bench::new(&[]);
    let outside = bench.host.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let stray = outside.join("stray");
    // A directory of somebody else; a check has no capability by which root gets into it all the same.
    match rustix::process::getuid().is_root() {
        true => {
            std::os::unix::fs::chown(&outside, Some(65534), Some(65534)).unwrap();
            fs::set_permissions(&outside, fs::Permissions::from_mode(0o700)).unwrap();
            fs::write(&stray, "").unwrap();
            fs::remove_file(&stray).unwrap();
        }
        false => fs::set_permissions(&outside, fs::Permissions::from_mode(0o500)).unwrap(),
    }
    bench.host.set("STAND_IN_OUTSIDE", &stray.display().to_string());
    let agent = bench.host.start();
    assert_eq!(bench.deploy(&bench.file("good", "# fine"), &[]).code, 0);
    let before = bench.host.pids();
    for (name, words) in [
        ("flood", "it wrote more than 256 KiB"),
        ("fork", "it started more than 64 processes"),
        ("allocate", "it took more than 1024 MiB of memory"),
        ("write", "exit code 1"),
        ("outside", "exit code 1"),
    ] {
        bench.refuses(&bench.file(name, &format!("do: {name}")), words, &before);
    }
    assert!(!stray.exists());
    // What it leaves behind is ended with it, and is no reason against the change.
    assert_eq!(bench.deploy(&bench.file("leave", "do: leave"), &[]).code, 0);
    bench.nothing_is_left();
    let before = bench.host.pids();
    agent.kill();
    bench.host.set("ZCA_PREFLIGHT_TIMEOUT", "1s");
    let _agent = bench.host.start();
    bench.refuses(&bench.file("hang", "do: hang"), "it did not end in time", &before);
}

/// Where a sensor captures beside it.
#[test]
fn a_check_has_the_lowest_priority_and_a_directory_of_its_own() {
    let mut bench = Bench::new(&[]);
    bench.host.set("ZCA_TEST_CHECK_PRIORITY", "lowest");
    let _agent = bench.host.start();
    let said = bench.host.run(&["config", "check", &bench.file("good", "# fine"), "--host"]);
    assert_eq!(said.code, 0, "{said:?}");
    let checks = bench.checks();
    assert!(checks.len() == 1 && checks[0].contains("SCHED_IDLE"), "{checks:?}");
    let directory = bench.host.state_dir().join("preflight");
    assert!(checks[0].contains(&format!("in {}", directory.display())), "{checks:?}");
}

#[test]
fn a_later_change_takes_the_place_of_one_that_is_being_checked() {
    let bench = Bench::new(&[]);
    let host = &bench.host;
    let _agent = host.start();
    let good = bench.file("good", "# fine");
    assert_eq!(bench.deploy(&good, &[]).code, 0);
    let hang = bench.file("hang", "do: hang");
    for later in [&["request", "deploy", &good][..], &["request", "standby"]] {
        let waiting = host.begin(&["request", "deploy", &hang, "--reqid", later[1]]);
        eventually("the check to run", || (!bench.checks().is_empty()).then_some(()));
        fs::remove_file(host.dir.path().join("checks")).unwrap();
        // Node commands go on beside it.
        assert_eq!(host.run(&["nodes", "restart", "w1"]).code, 0);
        assert_eq!(host.run(later).code, 0);
        let said = Said::wait(waiting);
        assert!(said.code == 1 && said.stdout.contains("superseded by request"), "{said:?}");
        bench.nothing_is_left();
    }
    assert_eq!(host.pids().len(), 0);
    host.verify();
}

/// Stopped while the change was checked: that was said later.
#[test]
fn a_node_that_is_stopped_meanwhile_stays_stopped() {
    let mut bench = Bench::new(&[]);
    let agent = bench.host.start();
    let host = &bench.host;
    assert_eq!(bench.deploy(&bench.file("good", "# fine"), &[]).code, 0);
    let gate = host.dir.path().join("gate");
    let waits = bench.file("waits", &format!("wait: {}", gate.display()));
    let waiting = host.begin(&["request", "deploy", &waits]);
    eventually("the check to run", || (!bench.checks().is_empty()).then_some(()));
    assert_eq!(host.run(&["nodes", "stop", "w2"]).code, 0);
    fs::write(&gate, "").unwrap();
    let said = Said::wait(waiting);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(host.pids().keys().collect::<Vec<_>>(), ["w1"]);
    assert_eq!(host.nodes()["w2"].want, "stopped");
    // The agent's death, too, ends a check, and the next run begins it again.
    let hang = bench.file("hang", "do: hang");
    let waiting = host.begin(&["request", "deploy", &hang, "--reqid", "again"]);
    let checks = bench.checks().len();
    eventually("the check to run", || (bench.checks().len() > checks).then_some(()));
    let before = host.pids();
    agent.kill();
    Said::wait(waiting);
    bench.nothing_is_left();
    bench.host.set("ZCA_PREFLIGHT_TIMEOUT", "1s");
    let host = &bench.host;
    let _agent = host.start();
    let said = host.run(&["request", "deploy", &hang, "--reqid", "again"]);
    assert!(said.code == 1 && said.stdout.contains("it did not end in time"), "{said:?}");
    assert_eq!(host.pids(), before);
    assert_eq!(host.requests("again")[0].attempts, 2);
    host.verify();
}

#[cfg(feature = "crash-points")]
#[test]
fn killed_at_any_step_of_it_there_is_one_outcome() {
    for point in [
        "before_preflight",
        "after_preflight",
        "before_preflight_started",
        "during_preflight",
        "before_checked",
        "after_checked",
    ] {
        for (script, code) in [("# better", 0), ("error: no", 1)] {
            let mut bench = Bench::new(&[]);
            let agent = bench.host.start();
            assert_eq!(bench.deploy(&bench.file("good", "# fine"), &[]).code, 0);
            let before = bench.host.pids();
            agent.kill();
            bench.host.set("ZCA_CRASH_AT", point);
            let agent = bench.host.start();
            let file = bench.file("next", script);
            let said = bench.deploy(&file, &["--reqid", "r"]);
            assert_eq!(said.code, 3, "{point}: {said:?}");
            agent.wait_crashed(&bench.host);
            bench.nothing_is_left();
            bench.host.unset("ZCA_CRASH_AT");
            let _agent = bench.host.start();
            let said = bench.deploy(&file, &["--reqid", "r"]);
            assert_eq!(said.code, code, "{point}: {said:?}");
            assert_eq!(bench.host.pids() == before, code == 1, "{point}");
            assert_eq!(bench.deploy(&file, &["--reqid", "r"]).stdout, said.stdout, "{point}: once and for all");
            bench.host.verify();
        }
    }
}

/// As an operator would type them, one block after the other.
#[test]
fn the_page_about_changes_is_true() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/CHANGES.md")).unwrap();
    let mut blocks = page.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let mut host = Host::new();
    host.run_program(&stand_in()).set("STAND_IN_VERSION", "8.0.10").set("ZCA_LISTEN", "off");
    host.set("ZCA_TEST_CHECK_PRIORITY", "usual");
    let _agent = host.start();
    let first = host.cluster_file("first.ini", &[("w1", "interface = lo")]);
    assert_eq!(host.run(&["request", "deploy", &first]).code, 0);
    let directory = host.binary.parent().unwrap().display().to_string();
    let path = format!("{directory}:{}", std::env::var("PATH").unwrap());
    host.set("PATH", &path);
    host.cluster_file("cluster.ini", &[("w1", "interface = lo\nenv = A=1"), ("w2", "interface = lo")]);
    let run = |host: &Host, block: &str| {
        let mut shell = std::process::Command::new("sh");
        host.prepare(&mut shell);
        let said = Said::of({
            shell.args(["-euc", block]);
            shell
        });
        assert_eq!(said.code, 0, "{block}: {said:?}");
        said
    };
    let before = run(&host, blocks.next().unwrap());
    assert!(before.stdout.contains("its nodes can run here") && before.stdout.contains("\nplan "), "{before:?}");
    run(&host, blocks.next().unwrap());
    assert_eq!(host.pids().len(), 2);
    let planned = run(&host, blocks.next().unwrap());
    assert_eq!(planned.stdout, "ok\n", "it runs already");
    let back = run(&host, blocks.next().unwrap());
    assert!(back.stdout.contains("@-1") && host.pids().len() == 1, "{back:?}");
    assert_eq!(blocks.next(), None, "every block was run");
}
