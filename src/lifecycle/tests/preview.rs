//! What `config diff` shows.

use super::*;

/// The running configuration of two hosts, of which this one has w1.
fn two_hosts(id: &str, hosts: [&str; 2]) -> Configuration {
    let mut config = configuration(id, &["w1", "w2"]);
    config.nodes[1].instance = "b1".to_owned();
    let instance =
        |(name, host): (&str, &str)| Instance { name: name.to_owned(), host: host.parse().unwrap(), listen_port: None };
    config.instances = ["a1", "b1"].into_iter().zip(hosts).map(instance).collect();
    config
}

fn running(strategy: DeployStrategy) -> Bench {
    let mut bench = Bench::with(Options { deploy_strategy: strategy, ..options() });
    let config = two_hosts("c1", ["192.0.2.1", "192.0.2.2"]);
    let effects = bench.ask("a", Request::Deploy { config, force: false, how: Box::default() });
    bench.execute(effects);
    bench.ready("w1");
    bench
}

/// A controller fills in what the file does not have, and it was done for the running configuration.
#[test]
fn a_file_without_addresses_has_those_of_what_runs() {
    let bench = running(DeployStrategy::Changed);
    let plan = bench.core.preview(&two_hosts("c2", ["0.0.0.0", "0.0.0.0"]), false);
    assert_eq!((plan.problems.as_slice(), plan.nodes.len()), (&[][..], 1));
    assert_eq!((plan.nodes[0].action, plan.nodes[0].why.as_slice()), (Action::Keep, &[][..]));
    let said = "instance b1 has no address here; 192.0.2.2 was taken, which it has in what runs";
    assert!(plan.warnings.iter().any(|warning| warning == said), "{:?}", plan.warnings);

    let mut other = two_hosts("c2", ["0.0.0.0", "0.0.0.0"]);
    other.instances[1].name = "c1".to_owned();
    other.nodes[1].instance = "c1".to_owned();
    let plan = bench.core.preview(&other, false);
    assert!(
        plan.problems.len() == 1 && plan.problems[0].starts_with("instance c1: has nodes and no address"),
        "{plan:?}"
    );
}

#[test]
fn a_node_that_is_replaced_has_a_reason_even_if_nothing_differs() {
    let bench = running(DeployStrategy::Replace);
    let same = |id: &str| two_hosts(id, ["192.0.2.1", "192.0.2.2"]);
    let why = |bench: &Bench, id: &str, force| {
        let plan = bench.core.preview(&same(id), force);
        (plan.nodes[0].action, plan.nodes[0].why.join(", "))
    };
    let id = "another configuration id, and deploy_strategy is replace";
    assert_eq!(why(&bench, "c2", false), (Action::Replace, id.to_owned()));
    assert_eq!(why(&bench, "c1", true), (Action::Replace, "forced".to_owned()));
    assert_eq!(why(&running(DeployStrategy::Changed), "c2", false), (Action::Keep, String::new()));
}

/// A node that waits for a port of its own agent would wait for ever.
#[test]
fn a_port_of_the_agent_is_refused_at_once() {
    let bench = Bench::new();
    let mut config = configuration("c1", &["manager"]);
    config.nodes[0].port = Some(Port::tcp(2151));
    let plan = bench.core.preview(&config, false);
    let expected = "node manager: port 2151/tcp is one that the agent of this host listens on: give the node another";
    assert_eq!(plan.problems, [expected]);
}
