//! Configurations that follow each other faster than nodes start: each time the last one wins, and no node is given up for it.
//!
//! `ZCA_TEST_CHURN_ROUNDS` sets how many rounds there are, [`ROUNDS`] by default; 10,000 take more than an hour.

use zeek_cluster_agent::api::configuration::Configuration;
use zeek_cluster_agent::api::event::{Dialect, Request};
use zeek_cluster_agent::api::status::NodeState;

use crate::support::{Host, cluster, eventually};

const NODES: usize = 40;
const ROUNDS: usize = 200;

/// Every other node is only in this one.
fn configuration(id: &str, all: bool) -> Configuration {
    let names: Vec<String> = (0..NODES).filter(|number| all || number % 2 == 0).map(|n| format!("w{n:02}")).collect();
    let nodes: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    let mut config = cluster(&nodes);
    config.id = id.to_owned();
    config
}

#[test]
fn deployed_to_and_fro_all_nodes_come_up_and_none_is_given_up() {
    let rounds = std::env::var("ZCA_TEST_CHURN_ROUNDS").map_or(ROUNDS, |text| text.parse().unwrap());
    let host = Host::new();
    let mut agent = host.start();
    for round in 0..rounds {
        let deploy = |part: &str, all| Request::Deploy {
            config: configuration(&format!("{part}-{round}"), all),
            force: false,
            how: Box::default(),
        };
        let mut client = host.client();
        for (part, all) in [("a", true), ("b", false), ("again", true)] {
            client.submit(&format!("{part}-{round}"), deploy(part, all), Dialect::Management, None).unwrap();
        }
        if round % 10 == 9 {
            agent.kill();
            agent = host.start();
            // An agent that is killed this often holds at its start. Requests from before then wait, also when they are sent
            // again, and are superseded by this new one.
            host.ask_until_answered(&format!("after-{round}"), &deploy("again", true));
        }
        let wanted = format!("again-{round}");
        eventually(&format!("round {round}"), || {
            let status = host.status();
            let given_up: Vec<_> = status.nodes.iter().filter(|node| node.state == NodeState::Failed).collect();
            assert!(given_up.is_empty(), "round {round}: {given_up:?}");
            let all = status.nodes.len() == NODES && status.nodes.iter().all(|node| node.state == NodeState::Running);
            (all && status.configuration.as_deref() == Some(wanted.as_str())).then_some(())
        });
    }
    println!("{rounds} rounds of {NODES} nodes");
    host.verify();
}
