//! Nodes that are asked through their directories.

use super::*;
use crate::api::launch::Channel;
use crate::zeek::{NodeScripts, Version};

fn zeek(version: Version) -> Options {
    let zeek = zeek::Options {
        version,
        checksums: true,
        local: false,
        args: BTreeMap::new(),
        path: None,
        listen_address: None,
        scripts: NodeScripts::Own,
        backend: None,
        keys: None,
        program: "/usr/bin/zeek-cluster-agent".to_owned(),
        state_dir: "/var/lib/zeek-cluster-agent".to_owned(),
    };
    Options { profile: Profile::Zeek(zeek), ..options() }
}

/// Who is asked through files: its name, its process, the request.
fn asked_in_files(effects: &[Effect]) -> Vec<(String, Incarnation, Seq)> {
    let asked = |effect: &Effect| match effect {
        Effect::Ask { of, node, incarnation, pid, channel, action } => {
            assert_eq!((pid, action.as_slice()), (&Some(17), &GET.map(str::to_owned)[..]));
            assert_eq!(channel, &Channel { directory: "ask".to_owned(), doorbell: None });
            Some((node.to_string(), *incarnation, *of))
        }
        _ => None,
    };
    effects.iter().filter_map(asked).collect()
}

fn reply(of: Seq, node: &str, incarnation: Incarnation, value: &str) -> Input {
    Input::NodeReplied { of, node: name(node), incarnation, answer: Ok(Some(value.to_owned())) }
}

#[test]
fn nodes_without_broker_are_asked_at_once_and_answer_once() {
    let mut bench = Bench::running_with(zeek(Version::new(9, 0)), &["w1", "w2"]);
    let effects = bench.ask("d", dispatch(&GET, &[]));
    let asked = asked_in_files(&effects);
    assert_eq!(asked.iter().map(|one| one.0.as_str()).collect::<Vec<_>>(), ["w1", "w2"]);
    let (_, incarnation, of) = asked[0].clone();
    // Of a process that is not asked, for a request that is not open, and over a peering.
    assert_eq!(bench.give(reply(of, "w1", Incarnation(incarnation.0 + 1), "forged")), []);
    assert_eq!(bench.give(reply(Seq(of.0 + 1), "w1", incarnation, "forged")), []);
    assert_eq!(answers(&mut bench, of, 7, Ok(Some("forged"))), []);
    assert_eq!(bench.give(reply(of, "w1", incarnation, "1")), []);
    assert_eq!(bench.give(reply(of, "w1", incarnation, "2")), []);
    let response = only_response(&bench.give(reply(of, "w2", incarnation, "3")));
    assert_eq!(said(&response), [("w1".into(), Some("1".into()), None), ("w2".into(), Some("3".into()), None)]);
}

#[test]
fn a_new_process_is_asked_again_and_so_is_every_node_after_a_restart_of_the_agent() {
    let mut bench = Bench::running_with(zeek(Version::new(9, 0)), &["w1"]);
    let effects = bench.ask("d", dispatch(&GET, &[]));
    let (_, first, of) = asked_in_files(&effects)[0].clone();
    let effects = bench.report("w1", first, exited(ExitCause::Signal(11)));
    let response = only_response(&bench.execute(effects));
    assert_eq!(said(&response)[0].2.as_deref(), Some("cluster node w1 not in running state any more"));
    bench.ready("w1");
    let effects = bench.ask("e", dispatch(&GET, &[]));
    let (_, second, next) = asked_in_files(&effects)[0].clone();
    assert!(second > first && next > of);
    bench.reload();
    let spec = bench.core.durable.nodes[&name("w1")].spec.0.clone();
    let process = bench.process(17);
    let adopted = Finding::Adopted { incarnation: second, process: Some(process), spec: Box::new(spec), ready: true };
    let effects = bench.start("boot-1", vec![("w1", adopted)]);
    assert_eq!(asked_in_files(&effects), [("w1".to_owned(), second, next)]);
}

#[test]
fn a_zeek_of_broker_is_asked_over_its_peering() {
    let mut bench = Bench::running_with(zeek(Version::new(8, 0)), &["w1"]);
    let effects = bench.ask("d", dispatch(&GET, &[]));
    assert_eq!((asked_in_files(&effects), asked(&effects)), (vec![], vec![]));
    assert_eq!(asked(&bench.give(peers(&[(7, "w1")]))).len(), 1);
}

#[test]
fn what_a_configuration_says_about_the_channel_has_no_effect() {
    let mut config = configuration("c1", &["w1"]);
    for (variable, value) in [("ZCA_CHANNEL", "ask"), ("ZCA_DOORBELL", "192.0.2.1:80")] {
        config.nodes[0].env.insert(variable.to_owned(), value.to_owned());
    }
    for options in [options(), zeek(Version::new(8, 0)), zeek(Version::new(9, 0))] {
        let core = Lifecycle::new(options, crate::journal::entry::Recovered::default());
        let spec = core.launch_spec(core.shared_files(&config).as_ref(), &config.nodes[0]);
        assert_eq!(spec.channel().and_then(|channel| channel.doorbell), None);
        assert!(spec.channel().is_none_or(|_| spec.files.contains_key("zeek-cluster-agent-channel.zeek")));
    }
}
