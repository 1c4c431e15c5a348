//! zeekctl's `node.cfg` in, configurations out.

use std::collections::BTreeSet;
use std::fs;

use zeek_cluster_agent::cluster_file::hosts::Addresses;
use zeek_cluster_agent::cluster_file::{self, Foreign, Format, Kind, Known};

use super::{lines, ours, property, read, repository};

fn data(name: &str) -> String {
    fs::read_to_string(repository("tests/data/zeekctl").join(name)).unwrap()
}

/// The INI file that it becomes, and the warnings.
fn converted(text: &str) -> (String, Vec<String>) {
    assert_eq!(Foreign::of(text.as_bytes()), Some(Foreign::NodeCfg));
    let reading = cluster_file::read_foreign(text.as_bytes(), "f", Foreign::NodeCfg, Some(&ours())).unwrap();
    let ini = cluster_file::write(&reading.configuration, Format::Ini).unwrap();
    assert_eq!(read(&ini).unwrap(), property::as_ini(&reading.configuration), "{ini}");
    (ini, lines(&reading.warnings))
}

fn errors(text: &str) -> Vec<String> {
    lines(&cluster_file::read_foreign(text.as_bytes(), "f", Foreign::NodeCfg, Some(&ours())).unwrap_err())
}

#[test]
fn a_standalone_zeek_becomes_a_node_outside_of_any_cluster() {
    assert_eq!(converted(&data("standalone.cfg")), (data("standalone.ini"), Vec::new()));
}

#[test]
fn hosts_become_instances_and_af_packet_workers_share_an_interface() {
    let (ini, warnings) = converted(&data("three-hosts.cfg"));
    assert_eq!(ini, data("three-hosts.ini"));
    let expected = "f: its 3 hosts became instances named agent-HOST; rename those whose agents have other names";
    assert_eq!(warnings, [expected]);
}

#[test]
fn every_method_of_load_balancing_does_what_zeekctl_makes_of_it() {
    let (ini, warnings) = converted(&data("balanced.cfg"));
    assert_eq!(ini, data("balanced.ini"));
    let methods: Vec<&str> = warnings.iter().filter_map(|text| text.split(": ").nth(1)).collect();
    let pf_ring = ["pf", "pf-more", "pf-again", "zc"].map(|name| format!("[{name}] lb_method"));
    assert_eq!(methods, pf_ring.iter().map(String::as_str).chain(["[own] lb_method"]).collect::<Vec<_>>());
}

#[test]
fn one_host_with_an_address_is_this_agents_and_a_name_has_to_be_resolved_by_the_reader() {
    let (ini, warnings) = converted("[m]\ntype=manager\nhost=192.0.2.7\n[w]\ntype=worker\nhost=192.0.2.7\n");
    assert!(ini.starts_with("[instances]\nagent-1 = 192.0.2.7:2151\n") && warnings.is_empty(), "{ini}");

    let text = "[m]\ntype=manager\nhost=2001:db8::1\n[w]\ntype=worker\nhost=sensor\n";
    let read = |addresses: &Addresses| {
        let known = Known { ours: Some(&ours()), addresses };
        cluster_file::read_as(text.as_bytes(), "f", Kind::Foreign(Foreign::NodeCfg), &known)
    };
    let reading = read(&Addresses::new()).unwrap();
    assert_eq!(reading.unresolved, BTreeSet::from(["sensor".to_owned()]));

    let found = Addresses::from([("sensor".to_owned(), Ok("192.0.2.8".parse().unwrap()))]);
    let reading = read(&found).unwrap();
    assert!(reading.unresolved.is_empty());
    let ini = cluster_file::write(&reading.configuration, Format::Ini).unwrap();
    let instances = "[instances]\nagent-2001-db8--1 = [2001:db8::1]:2151\nagent-sensor = 192.0.2.8:2151\n";
    assert!(ini.starts_with(instances), "{ini}");

    let failed = Addresses::from([("sensor".to_owned(), Err("no such host is known".to_owned()))]);
    let expected = "f:4: [w]: the address of \"sensor\" cannot be found: no such host is known; correct the name, or give \
                    the host's address";
    assert_eq!(lines(&read(&failed).unwrap_err()), [expected]);
}

/// Host names have no case.
#[test]
fn one_host_in_two_spellings_is_one_host() {
    let (ini, warnings) = converted("[m]\ntype=manager\nhost=sensor-a\n[w]\ntype=worker\nhost=SENSOR-A\n");
    assert!(ini.starts_with("[instances]\nagent-1\n") && warnings.is_empty(), "{ini}{warnings:?}");
}

/// zeekctl runs where the manager is, so localhost is there.
#[test]
fn localhost_is_the_managers_host() {
    let text = "[m]\ntype=manager\nhost=192.0.2.7\n[p]\ntype=proxy\nhost=localhost\n[w]\ntype=worker\nhost=192.0.2.8\n";
    let (ini, warnings) = converted(text);
    assert!(ini.contains("[p]\ninstance = agent-192.0.2.7\n"), "{ini}");
    let expected = "f:4: [p]: runs on localhost, which to zeekctl is the manager's host; it is taken for that one";
    assert_eq!(warnings[1], expected);
}

#[test]
fn all_that_is_wrong_is_said_with_its_place() {
    let text = data("wrong.cfg");
    assert_eq!(errors(&text).join("\n") + "\n", data("wrong.txt"));
    // Said with the errors in the way, too: they are about what an operator has to find another place for.
    let warned = converted("[s]\ntype=standalone\nhost=localhost\nzone_id=eth0\nmyplugin.key=1\n").1;
    let expected = [
        "f:4: [s] zone_id: has no equivalent here and is left out; give the hosts addresses that need no zone",
        "f:5: [s] myplugin.key: is no key that zeekctl itself knows, and is left out; see to what its plugin did in \
         scripts or options",
    ];
    assert_eq!(warned, expected);
}

#[test]
fn a_few_lines_do_not_become_a_cluster_of_any_size() {
    let many = "[w]\ntype=worker\nhost=localhost\ninterface=e\nlb_method=custom\nlb_procs=4097\n";
    assert_eq!(errors(many), ["f: has 4097 nodes, 4096 is the most; make it several clusters"]);
    let long = format!("[w]\ntype=worker\nhost=localhost\nlb_procs=4000\naux_scripts={}\n", "x".repeat(2000));
    let found = errors(&long);
    assert!(found.len() == 1 && found[0].starts_with("f: says "), "{found:?}");
}

#[test]
fn cluster_files_are_not_taken_for_a_node_cfg() {
    let cluster_files = [
        "",
        "{}",
        "[instances]\na\n[w]\nhost=x\n",
        "[w]\nrole=worker\nhost=x\n",
        "[w]\ntype=worker\n",
        "host=x",
        // A stray host.
        "[m]\ntype=manager\nhost=x\n[w]\ntype=worker\ninterface=eth0\n",
        "[w]\ntype=worker\nhost=x\nscripts=local\n",
        "[w]\ntype=worker\nhost=x\nenv=A=1\n",
    ];
    for text in cluster_files {
        assert_eq!(Foreign::of(text.as_bytes()), None, "{text:?}");
    }
    let node_cfgs = [
        "[m]\ntype=manager\nhost=x\n[w]\ntype=worker\nhost=x\ninterface=eth0\n",
        "[DEFAULT]\nhost=x\n[m]\ntype=manager\n[w]\ntype=worker\n",
        "[m]\ntype=manager\n[w]\ntype=worker\nhost=x\npin_cpus=1\n",
        "[z]\ntype=standalone\nhost=localhost\n",
    ];
    for text in node_cfgs {
        assert_eq!(Foreign::of(text.as_bytes()), Some(Foreign::NodeCfg), "{text:?}");
    }
}

/// The inputs that fuzzing started from and whatever it found, without a fuzzer.
#[test]
fn the_fuzz_corpus_holds() {
    let mut count = 0;
    for file in fs::read_dir(repository("fuzz/corpus/node_cfg")).unwrap() {
        let text = fs::read(file.unwrap().path()).unwrap();
        for end in 0..=text.len() {
            property::foreign_holds(&text[..end], Foreign::NodeCfg);
        }
        count += 1;
    }
    assert!(count >= 5, "{count} inputs");
}
