//! Zeek's `zeek.conf` in, configurations out.

use std::fs;

use zeek_cluster_agent::cluster_file::{self, Foreign, Format};

use super::{lines, ours, property, read, repository};

fn data(name: &str) -> String {
    fs::read_to_string(repository("tests/data/zeek-conf").join(name)).unwrap()
}

/// The INI file that it becomes, and the warnings.
fn converted(text: &str) -> (String, Vec<String>) {
    assert_eq!(Foreign::of(text.as_bytes()), Some(Foreign::ZeekConf));
    let reading = cluster_file::read_foreign(text.as_bytes(), "f", Foreign::ZeekConf, Some(&ours())).unwrap();
    let ini = cluster_file::write(&reading.configuration, Format::Ini).unwrap();
    assert_eq!(read(&ini).unwrap(), property::as_ini(&reading.configuration), "{ini}");
    (ini, lines(&reading.warnings))
}

#[test]
fn the_manuals_small_deployment_keeps_its_names_and_ports() {
    let (ini, warnings) = converted(&data("small.conf"));
    assert_eq!(ini, data("small.ini"));
    let backend = "f: has ZeroMQ or another backend between its nodes, and here it is Broker; nothing is to be done if no \
                   script of yours depends on it";
    assert_eq!(warnings, [backend]);
}

#[test]
fn interfaces_have_their_workers_and_templates_are_filled_in() {
    let (ini, warnings) = converted(&data("interfaces.conf"));
    assert_eq!(ini, data("interfaces.ini"));
    let switch = "f:6: [zeek] args: \"-C\" is a switch, and cluster files have scripts and options only; give it in node_args \
                  of the agent's settings";
    let left_out = |place: &str| {
        format!(
            "f:{place}: has no place in a cluster file and is left out; see to it in the settings of the agent, or of the host"
        )
    };
    assert_eq!(
        warnings,
        [
            switch.to_owned(),
            left_out("12: [zeek] user"),
            "f:25: [interface napatech] worker_nice: has no effect here yet; these nodes have the agent's niceness"
                .to_owned()
        ]
    );
}

#[test]
fn all_that_is_wrong_is_said_with_its_place() {
    let errors = cluster_file::read_foreign(data("wrong.conf").as_bytes(), "f", Foreign::ZeekConf, Some(&ours()));
    assert_eq!(lines(&errors.unwrap_err()).join("\n") + "\n", data("wrong.txt"));
}

#[test]
fn a_few_lines_do_not_become_a_cluster_of_any_size() {
    let errors = |text: &str| {
        lines(&cluster_file::read_foreign(text.as_bytes(), "f", Foreign::ZeekConf, Some(&ours())).unwrap_err())
    };
    let many = "interface = e\nworkers = 4097\n";
    assert_eq!(errors(many), ["f: has 4097 nodes, 4096 is the most; make it several clusters"]);
    let long = format!("interface = {}\nworkers = 4000\n", "x".repeat(2000));
    assert!(errors(&long)[0].starts_with("f: says "), "{:?}", errors(&long));
    let cpus = format!("interface = e\nworkers = 1\nworkers_cpu_list = {}0\n", "0-4000,".repeat(100_000));
    assert!(errors(&cpus)[0].contains("more CPUs"), "{:?}", errors(&cpus));
}

/// Zeek before 9.0 had no sections.
#[test]
fn interfaces_come_again_without_sections() {
    let text = "interface = af_packet::eth0\nworkers = 2\nworker_args = AF_Packet::fanout_id=1\n\
                interface = af_packet::eth1\nworkers = 1\nmanager = 1\nloggers = 1\n";
    let (ini, warnings) = converted(text);
    let workers: Vec<&str> =
        ini.lines().filter(|line| line.starts_with("[worker") || line.starts_with("interface")).collect();
    let expected = [
        "[worker-eth0-1]",
        "interface = af_packet::eth0",
        "[worker-eth0-2]",
        "interface = af_packet::eth0",
        "[worker-eth1-1]",
        "interface = af_packet::eth1",
    ];
    assert_eq!(workers, expected, "{ini}");
    assert_eq!(ini.matches("options = AF_Packet::fanout_id=1\n").count(), 2, "{ini}");
    assert!(ini.contains("[manager]") && ini.contains("[logger-1]"), "{ini}");
    let said = "f:4: interface: is one of 2 interfaces, which Zeek takes in sections only; \"af_packet::eth1\" is read as that \
                of [interface eth1]";
    assert_eq!(warnings[2], said, "{warnings:?}");
    let twice = "interface = e\nworkers = 1\nworkers = 2\n";
    let errors = cluster_file::read_foreign(twice.as_bytes(), "f", Foreign::ZeekConf, Some(&ours())).unwrap_err();
    assert_eq!(lines(&errors), ["f:3: workers: the option is there already, at line 2; remove one of the two"]);
}

#[test]
fn an_empty_interface_without_workers_is_none() {
    for text in ["manager = 1\ninterface =\nworkers = 0\n", "manager = 1\ninterface =\n", "manager = 1\n"] {
        let (ini, _) = converted(text);
        assert!(ini.contains("[manager]") && !ini.contains("worker"), "{ini}");
    }
    let errors = |text: &str| {
        lines(&cluster_file::read_foreign(text.as_bytes(), "f", Foreign::ZeekConf, Some(&ours())).unwrap_err())
    };
    let missing = |line: usize| format!("f:{line}: interface: is missing for these workers; name the interface");
    assert_eq!(errors("manager = 1\ninterface =\nworkers = 2\n"), [missing(2)]);
    assert_eq!(errors("manager = 1\nworkers = 2\n"), [missing(2)]);
    let workers = "f:2: workers: is missing for this interface; say how many workers share it";
    assert_eq!(errors("manager = 1\ninterface = eth0\n"), [workers]);
}

/// Limits have no place in a configuration yet, which is said of each; one CPU is an affinity.
#[test]
fn limits_are_named() {
    let text = "[zeek]\nmanager = 1\nloggers = 2\nmanager_memory_max = 4G\nlogger_nice = -5\nmanager_cpu_set = 3\n\
                logger_cpu_set = 4,5\n[interface a]\ninterface = eth0\nworkers = 1\nworker_memory_max = 1T\n\
                worker_numa_policy = local\nworker_nice = 0\n";
    let (ini, warnings) = converted(text);
    assert_eq!(ini.matches("cpu_affinity = 3\n").count(), 1, "{ini}");
    let named: Vec<&str> = warnings.iter().filter_map(|text| text.strip_suffix_of("has no effect here yet")).collect();
    let expected = [
        "f:4: [zeek] manager_memory_max",
        "f:5: [zeek] logger_nice",
        "f:7: [zeek] logger_cpu_set",
        "f:11: [interface a] worker_memory_max",
        "f:12: [interface a] worker_numa_policy",
        "f:13: [interface a] worker_nice",
    ];
    assert_eq!(named, expected);
}

trait Words {
    fn strip_suffix_of(&self, words: &str) -> Option<&str>;
}

impl Words for String {
    /// What stands before a problem.
    fn strip_suffix_of(&self, words: &str) -> Option<&str> {
        Some(self.split_once(&format!(": {words}"))?.0)
    }
}

/// The manager has one name in the whole cluster; all else has its host's name in front, if the file's name says the host.
#[test]
fn names_have_a_prefix_except_the_managers() {
    let named = |text: &str, file: &str| {
        let reading = cluster_file::read_foreign(text.as_bytes(), file, Foreign::ZeekConf, Some(&ours())).unwrap();
        reading.configuration.nodes.into_iter().map(|node| node.name).collect::<Vec<_>>()
    };
    let text = "manager = 1\nloggers = 1\ninterface = e\nworkers = 1\n";
    assert_eq!(named(text, "/etc/zeek/zeek.conf"), ["logger-1", "manager", "worker-1"]);
    assert_eq!(named(text, "/etc/zeek/cluster/h1.zeek.conf"), ["h1-logger-1", "h1-worker-1", "manager"]);
    let prefixed = format!("{text}cluster_node_prefix = x\n");
    assert_eq!(named(&prefixed, "h1.zeek.conf"), ["manager", "x-logger-1", "x-worker-1"]);
    let none = format!("{text}cluster_node_prefix =\n");
    assert_eq!(named(&none, "h1.zeek.conf"), ["logger-1", "manager", "worker-1"]);
}

#[test]
fn other_files_are_not_taken_for_a_zeek_conf() {
    for text in ["", "{}", "[manager]\nrole=manager\n", "[zeek]\ntype=standalone\nhost=localhost\n", "x = 1\n"] {
        assert_ne!(Foreign::of(text.as_bytes()), Some(Foreign::ZeekConf), "{text:?}");
    }
}

/// The inputs that fuzzing started from and whatever it found, without a fuzzer.
#[test]
fn the_fuzz_corpus_holds() {
    let mut count = 0;
    for file in fs::read_dir(repository("fuzz/corpus/zeek_conf")).unwrap() {
        let text = fs::read(file.unwrap().path()).unwrap();
        for end in 0..=text.len() {
            property::foreign_holds(&text[..end], Foreign::ZeekConf);
        }
        count += 1;
    }
    assert!(count >= 5, "{count} inputs");
}
