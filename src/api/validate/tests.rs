//! Every problem and warning by its text.

use super::super::configuration::{ScriptOption, UNKNOWN_HOST};
use super::*;
use crate::api::configuration::Port;

fn instance(name: &str, host: [u8; 4]) -> Instance {
    Instance { name: name.to_owned(), host: IpAddr::from(host), listen_port: None }
}

fn node(name: &str, instance: &str, role: ClusterRole, port: Option<u16>) -> Node {
    Node {
        name: name.to_owned(),
        instance: instance.to_owned(),
        role,
        port: port.map(Port::tcp),
        scripts: Vec::new(),
        options: Vec::new(),
        interface: None,
        cpu_affinity: None,
        env: BTreeMap::new(),
        metrics_port: None,
    }
}

/// Two hosts, nothing wrong with it.
fn good() -> Configuration {
    Configuration {
        id: "c-1".to_owned(),
        instances: vec![instance("here", [192, 0, 2, 1]), instance("there", [192, 0, 2, 2])],
        nodes: vec![
            node("manager", "here", ClusterRole::Manager, Some(2200)),
            node("worker-1", "here", ClusterRole::Worker, None),
            node("worker-2", "there", ClusterRole::Worker, None),
        ],
        cluster_backend: None,
    }
}

fn checked(config: &Configuration) -> Report {
    let ours = InstanceName::new("here").unwrap();
    check(config, &HostFacts { instance: &ours, cpus: 4, agent_ports: &[2151] })
}

fn problems(config: &Configuration) -> Vec<String> {
    checked(config).problems.iter().map(ToString::to_string).collect()
}

/// The only problem after `change`.
#[track_caller]
fn problem(change: impl FnOnce(&mut Configuration)) -> String {
    let mut config = good();
    change(&mut config);
    let mut problems = problems(&config);
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems.remove(0)
}

/// The only warning after `change`, which is no problem.
#[track_caller]
fn warning(change: impl FnOnce(&mut Configuration)) -> String {
    let mut config = good();
    change(&mut config);
    let report = checked(&config);
    assert_eq!((report.problems.len(), report.warnings.len()), (0, 1), "{report:?}");
    report.warnings[0].to_string()
}

#[test]
fn a_good_configuration_passes() {
    assert_eq!(checked(&good()), Report::default());
    assert!(checked(&good()).is_valid());
}

#[test]
fn every_problem_is_reported_at_once_and_names_its_subject() {
    let mut config = good();
    config.id.clear();
    config.instances.push(instance("there", [192, 0, 2, 3]));
    config.nodes[0].name = "here".to_owned();
    config.nodes[1].name = "worker-2".to_owned();
    config.nodes[2].instance = "nowhere".to_owned();
    config.nodes.push(node("../etc", "here", ClusterRole::Proxy, None));
    let report = checked(&config);
    let found: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    let expected = [
        "configuration: has no id: give every configuration its own",
        "instance there: is listed 2 times: a name stands for one instance",
        "node ../etc: node name \"../etc\" contains '/', which is not allowed in a name",
        "node ../etc: has no port: a proxy needs one that the other nodes can reach",
        "node here: has the name of an instance: answers could not tell them apart",
        "node worker-2: is listed 2 times: a name stands for one node",
        "node worker-2: instance \"nowhere\" is not among the instances of the configuration",
    ];
    assert_eq!(found, expected);
    assert_eq!(report.to_string(), expected.join("; "));
    assert_eq!(report.problems[1].instance(), Some("there"));
    assert_eq!(report.problems[2].node(), Some("../etc"));
}

#[test]
fn a_configuration_that_does_not_list_this_instance_is_refused_only_here() {
    let mut config = good();
    config.instances[0].name = "elsewhere".to_owned();
    config.nodes[0].instance = "elsewhere".to_owned();
    config.nodes[1].instance = "elsewhere".to_owned();
    let expected =
        "configuration: does not list this instance, here: add it to the instances, or send this to another agent";
    assert_eq!(problems(&config), [expected]);
    assert!(check_anywhere(&config).is_valid());
    let nobody = Configuration { id: "c".to_owned(), ..Configuration::default() };
    assert_eq!(problems(&nobody), [expected]);
}

#[test]
fn ports_collide_on_a_host_and_not_between_hosts() {
    let mut config = good();
    config.nodes[2].port = Some(Port::tcp(2200));
    assert!(checked(&config).is_valid(), "another host");
    let same_host = |config: &mut Configuration| {
        config.instances[1].host = "::ffff:192.0.2.1".parse().unwrap();
        config.nodes[2].port = Some(Port::tcp(2200));
    };
    assert_eq!(
        problem(same_host),
        "node worker-2: port 2200/tcp is also node manager's port on host 192.0.2.1: give it another"
    );
    assert_eq!(
        problem(|config| config.nodes[0].metrics_port = Some(Port::tcp(2200))),
        "node manager: metrics_port 2200/tcp is also its own port on host 192.0.2.1: give it another"
    );
    assert_eq!(
        problem(|config| config.instances[0].listen_port = Some(Port::tcp(2200))),
        "node manager: port 2200/tcp is also instance here's listen_port on host 192.0.2.1: give it another"
    );
    let mut unknown = good();
    for instance in &mut unknown.instances {
        instance.host = UNKNOWN_HOST;
        instance.listen_port = Some(Port::tcp(2151));
    }
    assert!(check_anywhere(&unknown).is_valid(), "hosts that are not known need not be one");
    unknown.nodes[1].metrics_port = Some(Port::tcp(2151));
    assert_eq!(check_anywhere(&unknown).problems.len(), 1);
}

#[test]
fn ports_are_tcp_and_there_where_needed() {
    let udp = Port { number: 53, protocol: Protocol::Udp };
    let none = Port { number: 0, protocol: Protocol::Unknown };
    assert_eq!(problem(|c| c.nodes[0].port = Some(udp)), "node manager: port 53/udp is not a TCP port");
    let expected = "node worker-1: metrics_port 0/unknown is no port: give one from 1 to 65535, or none";
    assert_eq!(problem(|c| c.nodes[1].metrics_port = Some(none)), expected);
    let expected = "instance there: listen_port 53/udp is not a TCP port";
    assert_eq!(problem(|c| c.instances[1].listen_port = Some(udp)), expected);
    for role in [ClusterRole::Logger, ClusterRole::Proxy, ClusterRole::Manager] {
        let change = |c: &mut Configuration| (c.nodes[0].role, c.nodes[0].port) = (role, None);
        assert!(problem(change).contains("has no port"), "{role}");
    }
}

#[test]
fn cpus_that_this_host_lacks_are_a_warning_for_its_own_nodes() {
    let expected = "node worker-1: cpu_affinity 4: this host has 4 CPUs, numbered from 0; it will run unpinned";
    assert_eq!(warning(|c| c.nodes[1].cpu_affinity = Some(4)), expected);
    let mut config = good();
    config.nodes[1].cpu_affinity = Some(3);
    config.nodes[2].cpu_affinity = Some(i64::MAX);
    assert_eq!(checked(&config), Report::default());
    let expected = "node worker-2: cpu_affinity -1 is negative: CPUs are numbered from 0";
    assert_eq!(problem(|c| c.nodes[2].cpu_affinity = Some(-1)), expected);
}

#[test]
fn environments_that_no_process_can_have() {
    let env = |name: &str, value: &str| {
        let (name, value) = (name.to_owned(), value.to_owned());
        move |config: &mut Configuration| drop(config.nodes[1].env.insert(name, value))
    };
    assert_eq!(problem(env("", "x")), "node worker-1: env has a variable without a name");
    assert_eq!(problem(env("A=B", "x")), "node worker-1: env name \"A=B\" contains '=', which no name can");
    assert_eq!(problem(env("A\0", "x")), "node worker-1: env name \"A\u{fffd}\" contains '\\0', which no name can");
    assert!(problem(env("A", "x\0y")).contains("contains a NUL"));
    assert!(problem(env("A", &"x".repeat(PAIR_LIMIT - 1))).contains("is longer than 131071 bytes"));
    assert!(checked(&good()).is_valid());
    for name in ["CLUSTER_NODE", "NOTIFY_SOCKET"] {
        let expected = format!("node worker-1: env {name} has no effect: the agent sets it for every node");
        assert_eq!(warning(env(name, "x")), expected);
    }
}

#[test]
fn interfaces_scripts_and_options_that_zeek_could_not_take() {
    assert!(problem(|c| c.nodes[1].interface = Some(String::new())).contains("interface is empty"));
    assert!(problem(|c| c.nodes[1].interface = Some("a\nb".to_owned())).contains("holds a control character"));
    let script = |script: &str| {
        let script = script.to_owned();
        move |config: &mut Configuration| config.nodes[1].scripts.push(script)
    };
    assert!(problem(script("")).contains("script is empty"));
    assert!(problem(script("a\x1b[m")).contains("holds a control character"));
    assert!(problem(script("-e")).contains("Zeek would take it for an option"));
    assert!(problem(script(&"x".repeat(TEXT_LIMIT + 1))).contains("script has 4097 bytes"));
    assert!(warning(script("a=b.zeek")).contains("redefinition"));

    let options = |pairs: &[(&str, &str)]| {
        let pair = |(name, value): &(&str, &str)| ScriptOption { name: (*name).into(), value: (*value).into() };
        let options: Vec<_> = pairs.iter().map(pair).collect();
        move |config: &mut Configuration| config.nodes[1].options = options
    };
    for name in ["", "a b", "1a", "a::", "::a", "a:b", "a:::b", "é", "a=b", "a\0"] {
        assert!(problem(options(&[(name, "1")])).contains("is not a Zeek identifier"), "{name:?}");
    }
    assert!(problem(options(&[("a", "1\n2")])).contains("holds a control character"));
    assert!(problem(options(&[("a", "1"), ("a", "2")])).contains("is given two values"));
    assert!(problem(options(&[("a", "say \"hi")])).contains("a quote that is not closed"));
    assert!(problem(options(&[("a", "C:\\")])).contains("escapes nothing"));
    for (value, character) in [("1; redef b = 2", ';'), ("1 # one", '#')] {
        assert!(warning(options(&[("a", value)])).contains(&format!("holds {character}: Zeek ends the value")));
    }
    let mut config = good();
    options(&[("Site::local_nets", "{10.0.0.0/8}"), ("_x1", ""), ("a::b::C9", "T"), ("s", "\"a;b #\\\"c\"")])(
        &mut config,
    );
    assert_eq!(checked(&config), Report::default());
}

#[test]
fn roles_that_are_unusual_are_warnings() {
    assert!(warning(|c| c.nodes[1].role = ClusterRole::None).contains("runs by itself"));
    let second = node("m2", "there", ClusterRole::Manager, Some(2200));
    assert_eq!(
        warning(|c| c.nodes.push(second)),
        "configuration: has 2 managers: the other nodes of a Zeek cluster follow one of them"
    );
}

#[test]
fn a_name_that_begins_with_another_is_a_warning() {
    let text = warning(|c| c.instances.push(instance("here-2", [192, 0, 2, 3])));
    assert!(text.starts_with("instance here-2: its name begins with that of instance here, "), "{text}");
}

#[test]
fn a_report_stays_small_whatever_the_configuration() {
    let mut config = good();
    for number in 0..5000 {
        let name = format!("{number}-{}", "/".repeat(10_000));
        config.nodes.push(node(&name, &name, ClusterRole::Proxy, None));
    }
    let report = checked(&config);
    assert_eq!(report.problems.len(), LISTED_LIMIT + 1);
    assert!(report.problems[0].to_string().contains("has 5003 nodes, 4096 is the most"), "{}", report.problems[0]);
    assert!(report.to_string().len() < 512 * 1024, "{}", report.to_string().len());
    assert!(!report.to_string().contains('\n'));
}

#[test]
fn our_unknown_host_becomes_loopback_if_every_node_is_ours() {
    let ours = InstanceName::new("here").unwrap();
    let mut config = good();
    config.instances[0].host = UNKNOWN_HOST;
    config.instances[1].host = UNKNOWN_HOST;
    let errors = resolve_hosts(config.clone(), &ours).unwrap_err();
    let named: Vec<_> = errors.iter().filter_map(Problem::instance).collect();
    assert_eq!(named, ["here", "there"]);
    assert_eq!(checked(&config).problems, errors);

    config.nodes.pop();
    assert_eq!(checked(&config), Report::default());
    let resolved = resolve_hosts(config.clone(), &ours).unwrap();
    let hosts: Vec<_> = resolved.instances.iter().map(|instance| instance.host.to_string()).collect();
    assert_eq!(hosts, ["127.0.0.1", "0.0.0.0"], "an instance without nodes may stay unknown");

    let resolved = resolve_hosts(good(), &ours).unwrap();
    assert_eq!(resolved, good().canonical(), "what is known stays");
}
