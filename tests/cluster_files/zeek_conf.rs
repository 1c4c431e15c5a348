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
        [switch.to_owned(), left_out("12: [zeek] user"), left_out("25: [interface napatech] worker_nice")]
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
