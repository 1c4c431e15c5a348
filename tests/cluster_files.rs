//! Cluster files: zeek-client's INI and JSON in, configurations with ports and id out, and back again.

// Helpers are tests, too.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use zeek_cluster_agent::api::configuration::{ClusterRole, Configuration, Instance, Node, Port, ScriptOption};
use zeek_cluster_agent::api::ids::InstanceName;
use zeek_cluster_agent::cluster_file::{self, FileError, Format, SIZE_LIMIT, WriteError, ports};

#[path = "../fuzz/properties/cluster_file.rs"]
mod property;

#[path = "cluster_files/dice.rs"]
mod dice;

#[path = "cluster_files/manual.rs"]
mod manual;

#[path = "cluster_files/node_cfg.rs"]
mod node_cfg;

#[path = "cluster_files/program.rs"]
mod program;

#[path = "cluster_files/zeek_client.rs"]
mod zeek_client;

#[path = "cluster_files/zeekctl_recorded.rs"]
mod zeekctl_recorded;

#[path = "cluster_files/zeek_conf_recorded.rs"]
mod zeek_conf_recorded;

#[path = "cluster_files/zeek_conf.rs"]
mod zeek_conf;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn data(name: &str) -> String {
    fs::read_to_string(repository("tests/data/cluster").join(name)).unwrap()
}

fn ours() -> InstanceName {
    InstanceName::new("agent-1").unwrap()
}

fn read(text: &str) -> Result<Configuration, Vec<FileError>> {
    cluster_file::read(text.as_bytes(), "f", None, Some(&ours()))
}

fn lines(errors: &[FileError]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn an_ini_file_with_every_key_reads_and_is_written_as_json() {
    let config = read(&data("every-key.ini")).unwrap();
    let json = cluster_file::write(&config, Format::Json).unwrap();
    assert_eq!(json.replace(&config.id, "file-ID"), data("every-key.json"));
    assert_eq!(read(&json).unwrap(), config);
    let ini = cluster_file::write(&config, Format::Ini).unwrap();
    assert_eq!(read(&ini).unwrap(), config);
}

#[test]
fn a_file_without_instances_is_about_the_agent_at_hand() {
    let text = data("one-host.ini");
    let config = read(&text).unwrap();
    assert_eq!(config.instances.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["agent-1"]);
    assert!(config.nodes.iter().all(|node| node.instance == "agent-1"));

    let errors = cluster_file::read(text.as_bytes(), "f", None, None).unwrap_err();
    assert_eq!(errors.len(), 3);
    assert_eq!(
        errors[0].to_string(),
        "f:2: [manager]: names no instance, and there is no agent at hand to take its name; give it the name of an instance"
    );
}

#[test]
fn instances_that_only_nodes_name_are_listed() {
    let config =
        read("[a]\nrole=manager\ninstance=x\n[b]\nrole=worker\ninstance=y\n[c]\nrole=worker\ninstance=x").unwrap();
    assert_eq!(config.instances.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["x", "y"]);
}

#[test]
fn nodes_with_and_without_instance_do_not_mix() {
    let errors = read("[a]\nrole=manager\n[b]\nrole=worker\ninstance=x").unwrap_err();
    let advice = "give it the name of an instance";
    assert_eq!(lines(&errors), [format!("f:1: [a]: names no instance, and other nodes do; {advice}")]);
    let errors = read("[instances]\nx\n[a]\nrole=manager").unwrap_err();
    let problem = "names no instance, and the file has a list of instances";
    assert_eq!(lines(&errors), [format!("f:3: [a]: {problem}; {advice}")]);
}

#[test]
fn an_indented_key_is_told_from_a_value_that_goes_on() {
    let errors =
        read("[a]\nrole = manager\ninstance = x\n  port = 2300\ninterface = eth0\n\n scripts = b").unwrap_err();
    let advice = "begin every key at the left edge";
    let below = read("[a]\nrole = manager\ninterface =\n port = 2300\n").unwrap_err();
    let expected = format!(r#"f:3: [a] interface: goes on with "port = 2300", which is indented; {advice}"#);
    assert_eq!(lines(&below), [expected]);
    let expected = [
        format!(r#"f:3: [a] instance: goes on with "port = 2300", which is indented; {advice}"#),
        format!(r#"f:5: [a] interface: goes on with "scripts = b", which is indented; {advice}"#),
    ];
    assert_eq!(lines(&errors), expected);
}

#[test]
fn every_error_of_an_ini_file_names_line_section_and_key() {
    let expected = [
        r#"f:1: "worker = 1" comes before the first section; begin with [instances] or with a node's [name]"#
            .to_owned(),
        r#"f:3: [instances] agent-1: "192.0.2.300" is neither an IP address nor a host name; give the host's IPv4 or IPv6 address, or its name"#.to_owned(),
        "f:4: [instances] agent-2: port 70000 is out of range; give a TCP port from 1 to 65535".to_owned(),
        "f:5: [instances] agent 3: instance name \"agent 3\" contains ' ', which is not allowed in a name; give the \
         instance another name"
            .to_owned(),
        r#"f:7: [manager] role: "boss" is not a role; give manager, logger, proxy, worker or none"#.to_owned(),
        r#"f:8: [manager] port: "eighty" is not a whole number; give a TCP port from 1 to 65535"#.to_owned(),
        "f:9: [manager] instance: instance name is empty, and needs at least one character; give the instance another name".to_owned(),
        r#"f:13: [worker-1] cpu_affinity: "first" is not a whole number; give the number of a CPU, counted from 0"#
            .to_owned(),
        r#"f:14: [worker-1] scripts: a quote is not closed; close the quote, or write the quote or \ as \" or \\"#
            .to_owned(),
        r#"f:15: [worker-1] env: "A" has no =; write name=value, with quotes around a value that holds blanks"#
            .to_owned(),
        "f:16: [worker-1] metrics_port: port 0 is out of range; give a TCP port from 1 to 65535".to_owned(),
        "f:17: [worker-1] role: the key is there already, at line 11; remove one of the two".to_owned(),
        r#"f:18: [.hidden]: node name ".hidden" would not be a plain directory name; give the node another name"#
            .to_owned(),
        "f:18: [.hidden]: has no role; give manager, logger, proxy, worker or none".to_owned(),
        "f:21: [worker-1]: the section is there already, at line 10; rename it or join the two".to_owned(),
    ];
    assert_eq!(lines(&read(&data("wrong.ini")).unwrap_err()), expected);
}

#[test]
fn every_error_of_a_json_file_names_line_and_path() {
    let number = "give a TCP port from 1 to 65535";
    let expected = [
        "f:2: id: is the number 7; give a text in quotes".to_owned(),
        "f:4: instances[0].host: \"local host\" is neither an IP address nor a host name; give the host's IPv4 or IPv6 \
         address, or its name"
            .to_owned(),
        format!("f:4: instances[0].port: is the number 70000; {number}"),
        "f:5: instances[1].name: is missing; give the name of the agent there".to_owned(),
        "f:6: instances[2]: is the text \"agent-3\"; give an object in braces".to_owned(),
        "f:9: nodes[0].name: node name \"w/1\" contains '/', which is not allowed in a name; give the node another name"
            .to_owned(),
        format!("f:9: nodes[0].port: is the text \"2200/udp\"; {number}"),
        "f:10: nodes[1].role: \"boss\" is not a role; give manager, logger, proxy, worker or none".to_owned(),
        "f:10: nodes[1].cpu_affinity: is the number 1.5; give the number of a CPU, counted from 0".to_owned(),
        "f:11: nodes[2]: names no instance, and the file has a list of instances; give it the name of an instance"
            .to_owned(),
        "f:14: nodes[2].scripts: is the text \"a.zeek\"; give a list in brackets".to_owned(),
        "f:15: nodes[2].options[0].value: is missing; give its value as a text".to_owned(),
        "f:16: nodes[2].env.A: is the number 1; give a text in quotes".to_owned(),
        "f:17: nodes[2].interface: is true; give a text in quotes".to_owned(),
        "f:18: env: the key is there already; remove one of the two".to_owned(),
    ];
    assert_eq!(lines(&read(&data("wrong.json")).unwrap_err()), expected);
}

#[test]
fn what_is_no_cluster_file_at_all_is_refused() {
    let cases: [(&[u8], &str); 5] = [
        (b"a\n\xff", "f:2: is not UTF-8 text; save it in UTF-8"),
        (b"{\n\"nodes\" 1}", "f:2: is not JSON: expected `:` at line 2 column 9; correct the JSON there"),
        (b"{}", "f:1: nodes: has no list of nodes; give \"nodes\": [], if no node is to run"),
        (b"{\"nodes\": 1}", "f:1: nodes: is the number 1; give a list in brackets"),
        (b"{\"nodes\":[{\"name\":\"\\ud800\"}]}", "f:1: \"\\\"\\\\ud800\\\"\" is not a JSON text"),
    ];
    for (text, expected) in cases {
        let errors = cluster_file::read(text, "f", None, None).unwrap_err();
        assert!(errors[0].to_string().starts_with(expected), "{}", errors[0]);
    }
    let huge = vec![b' '; SIZE_LIMIT + 1];
    let errors = cluster_file::read(&huge, "f", None, None).unwrap_err();
    assert!(errors[0].to_string().starts_with("f: has 4194305 bytes, 4194304 is the most"), "{}", errors[0]);
    let deep = format!("{{\"nodes\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let errors = cluster_file::read(deep.as_bytes(), "f", None, None).unwrap_err();
    assert!(errors[0].to_string().contains("nested more than 32 levels deep"), "{}", errors[0]);
}

#[test]
fn hostile_sizes_end_in_errors() {
    let nodes: String = (0..5000).map(|n| format!("[n{n}]\nrole=proxy\n")).collect();
    assert_eq!(lines(&read(&nodes).unwrap_err()), ["f: has 5000 nodes, 4096 is the most; make it several clusters"]);

    let nodes: String = (0..4000).map(|n| format!("[n{n}]\nrole=proxy\n")).collect();
    let inherited = format!("[DEFAULT]\nscripts = {}\n{nodes}", "x".repeat(100_000));
    let errors = lines(&read(&inherited).unwrap_err());
    assert_eq!(
        errors,
        ["f:2: [DEFAULT]: 4000 nodes inherit 100000 bytes each, 4194304 in all is the most; shorten the values there"]
    );

    let errors = read(&format!("[n]\n{}", "=\n".repeat(1_000_000))).unwrap_err();
    assert_eq!(errors.len(), cluster_file::LISTED_LIMIT + 1);
    assert!(errors.last().unwrap().to_string().contains("more errors are not listed"));

    let taken: String = (2200..=65535).map(|port| format!("i{port} = 192.0.2.1:{port}\n")).collect();
    let errors = read(&format!("[instances]\n{taken}[n]\nrole=proxy\ninstance=i2200")).unwrap_err();
    assert_eq!(lines(&errors), ["f: no port is left for node n; name fewer ports in the file"]);
}

#[test]
fn what_has_no_effect_is_a_warning() {
    let text = "[n]\nrole=worker\ntype=proxy\nstate=STOPPED\ncpu_afinity=1\nenv=A=1 A=2";
    let reading = cluster_file::read_with_warnings(text.as_bytes(), "f", None, Some(&ours())).unwrap();
    assert_eq!(reading.configuration.nodes[0].role, ClusterRole::Worker);
    assert_eq!(
        lines(&reading.warnings),
        [
            "f:3: [n] type: is not used; role is used, and type has no effect",
            "f:4: [n] state: is not used; it has no effect",
            "f:5: [n] cpu_afinity: is not a key of a node; it has no effect",
            "f:6: [n] env: \"A\" is given twice; the last one counts",
        ]
    );
    let text = "{\"nodes\": [{\"name\": \"n\", \"role\": \"worker\", \"state\": \"RUNNING\"}],\n\"note\": 1}";
    let reading = cluster_file::read_with_warnings(text.as_bytes(), "f", None, Some(&ours())).unwrap();
    let expected =
        ["f:1: nodes[0].state: is not used; it has no effect", "f:2: note: is not a known key; it has no effect"];
    assert_eq!(lines(&reading.warnings), expected);
}

#[test]
fn instances_are_written_in_several_ways() {
    let cases = [
        ("a", "0.0.0.0", None),
        ("a =", "0.0.0.0", None),
        ("a = 127.0.0.1:2151", "127.0.0.1", Some(2151)),
        ("a : ::1:2151", "::1", Some(2151)),
        ("a = [::2]:2151", "::2", Some(2151)),
        ("a = [ ::2 ] : +2_151", "::2", Some(2151)),
        ("a = 192.0.2.1", "192.0.2.1", None),
        ("a = [2001:db8::1]", "2001:db8::1", None),
    ];
    for (line, host, port) in cases {
        let config = read(&format!("[instances]\n{line}")).unwrap();
        let expected = Instance { name: "a".into(), host: host.parse().unwrap(), listen_port: port.map(Port::tcp) };
        assert_eq!(config.instances, [expected], "{line}");
    }
    for line in ["a = 127.0.0.1.1:2151", "a = ::2/128:2151", "a = foo:", "a = :1", "a = 2151", "a = ::1"] {
        assert!(read(&format!("[instances]\n{line}")).is_err(), "{line}");
    }
}

#[test]
fn json_is_read_with_lenience() {
    let port = |text: &str| {
        let json = format!(r#"{{"nodes": [{{"name": "n", "role": "WORKER", "port": {text}}}], "instances": null}}"#);
        read(&json).map(|config| config.nodes[0].port)
    };
    for text in ["2200", "\"2200\"", "\"2200/tcp\"", r#"{"number": 2200, "protocol": "tcp"}"#] {
        assert_eq!(port(text).unwrap(), Some(Port::tcp(2200)), "{text}");
    }
    assert_eq!(port("null").unwrap(), None);
    for text in ["0", "65536", "-1", "2200.0", "\"2200/udp\"", "{}", "[]", "true", "1e99"] {
        assert!(port(text).is_err(), "{text}");
    }
    let json = r#"{"id": "x", "instances": [{"name": "a", "listen_port": 1, "port": 2}], "nodes": []}"#;
    assert!(lines(&read(json).unwrap_err())[0].contains("listen_port: and port are different"));
}

#[test]
fn the_same_content_has_the_same_id_in_any_layout() {
    let one = read("[instances]\na\nb\n[n]\nrole=worker\ninstance=a\n[m]\nrole=manager\ninstance=b").unwrap();
    let other = read("[m]\nType: MANAGER\ninstance: b\n[n]\nROLE=Worker\ninstance=a\n[instances]\nb\na").unwrap();
    assert_eq!(one, other);
    let with = |keys: &str| read(&format!("[m]\nrole=manager\ninstance=b\n{keys}\n[n]\nrole=worker\ninstance=a"));
    assert_eq!(one.id, with("").unwrap().id, "instances listed and not listed");
    assert_eq!(one.id, with("port=2200\nmetrics_port=9001").unwrap().id, "the ports that it gets anyway");
    assert_ne!(one.id, with("port=2201").unwrap().id, "another port");
}

/// Operators note ids, and a changed id restarts every node: this one stays as it is.
#[test]
fn the_form_that_ids_are_made_from_stays_as_it_is() {
    let config = read("[manager]\nrole=manager\ninstance=a\nenv=A=1").unwrap();
    let content = r#"{"instances":[{"name":"a"}],"nodes":[{"cpu_affinity":null,"env":{"A":"1"},"instance":"a","interface":null,"metrics_port":9000,"name":"manager","options":null,"port":2200,"role":"MANAGER","scripts":null}]}"#;
    assert_eq!(config.id, format!("file-{}", &blake3::hash(content.as_bytes()).to_hex()[..32]));
}

#[test]
fn an_id_in_the_file_is_kept() {
    let json = |id: &str| format!(r#"{{"id": {id}, "instances": [], "nodes": []}}"#);
    assert_eq!(read(&json("\"c-1\"")).unwrap().id, "c-1");
    for none in ["null", "\"\""] {
        assert!(read(&json(none)).unwrap().id.starts_with("file-"), "{none}");
    }
}

#[test]
fn what_a_format_cannot_hold_is_named() {
    let mut config = read("[n]\nrole=proxy\ninstance=a").unwrap();
    config.nodes[0].interface = Some(" eth0".to_owned());
    config.nodes[0].env.insert("A=B".to_owned(), String::new());
    config.nodes[0].name = "instances".to_owned();
    config.instances[0].name = "#a".to_owned();
    let errors = cluster_file::write(&config, Format::Ini).unwrap_err();
    let places: Vec<_> = errors
        .iter()
        .map(|error| match error {
            WriteError::NotInIni { place, .. } => place.as_str(),
            WriteError::NotTcp { .. } | WriteError::TooLarge { .. } => "",
        })
        .collect();
    let expected =
        ["instance \"#a\"", "node \"instances\"", "node \"instances\": interface", "node \"instances\": env \"A=B\""];
    assert_eq!(places, expected);
    assert!(cluster_file::write(&config, Format::Json).is_ok());

    config.nodes[0].port = Some(Port { number: 5, protocol: zeek_cluster_agent::api::configuration::Protocol::Udp });
    let errors = cluster_file::write(&config, Format::Json).unwrap_err();
    let expected = "node instances: port is 5/udp, and cluster files have TCP ports only: correct it first";
    assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected]);
}

/// The inputs that fuzzing started from and whatever it found, without a fuzzer.
#[test]
fn the_fuzz_corpus_holds() {
    for (folder, format) in [("ini_file", Format::Ini), ("json_file", Format::Json)] {
        let mut count = 0;
        for file in fs::read_dir(repository("fuzz/corpus").join(folder)).unwrap() {
            let text = fs::read(file.unwrap().path()).unwrap();
            for end in 0..=text.len() {
                property::holds(&text[..end], format);
            }
            count += 1;
        }
        assert!(count >= 5, "{folder} holds {count} inputs");
    }
}

fn name() -> impl Strategy<Value = String> {
    "[A-Za-z0-9_äß%+*,\"'\\\\-][A-Za-z0-9_.äß%+*,\"'\\\\-]{0,12}"
}

/// Any text without a carriage return, now and then with what makes INI and quoting hard.
fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[ -~]{1,12}", "[\\PC\n\t #;=:\"'\\\\\u{a0}]{0,12}"]
}

fn instance_of(name: String) -> impl Strategy<Value = Instance> {
    let host = prop_oneof![
        Just(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        any::<Ipv4Addr>().prop_map(IpAddr::V4),
        any::<Ipv6Addr>().prop_map(IpAddr::V6)
    ];
    let port = proptest::option::of(1..=u16::MAX);
    (host, port).prop_map(move |(host, port)| Instance { name: name.clone(), host, listen_port: port.map(Port::tcp) })
}

fn node_of(name: String, instances: Vec<String>) -> impl Strategy<Value = Node> {
    use ClusterRole::{Logger, Manager, None as NoRole, Proxy, Worker};
    let port = || proptest::option::of((1..=u16::MAX).prop_map(Port::tcp));
    let option = ("[a-z:]{1,9}", text()).prop_map(|(name, value)| ScriptOption { name, value });
    (
        proptest::sample::select(instances),
        proptest::sample::select(vec![NoRole, Logger, Manager, Proxy, Worker]),
        (port(), port()),
        proptest::collection::vec(text(), 0..3),
        proptest::collection::vec(option, 0..3),
        proptest::option::of("[!-~]([ -~]{0,9}[!-~])?"),
        proptest::option::of(any::<i64>()),
        proptest::collection::btree_map("[^=\r]{0,6}", text(), 0..3),
    )
        .prop_map(move |(instance, role, (port, metrics_port), scripts, options, interface, cpu_affinity, env)| {
            Node {
                name: name.clone(),
                instance,
                role,
                port,
                scripts,
                options,
                interface,
                cpu_affinity,
                env,
                metrics_port,
            }
        })
}

fn configuration() -> impl Strategy<Value = Configuration> {
    let names = |count| proptest::collection::btree_set(name(), count);
    // Names of instances that differ in case alone do not fit into an INI file.
    let unlike = |names: &BTreeSet<String>| {
        names.iter().map(|name| name.to_lowercase()).collect::<BTreeSet<_>>().len() == names.len()
    };
    (names(1..4).prop_filter("case", unlike), names(0..5)).prop_flat_map(
        |(instances, nodes): (BTreeSet<String>, BTreeSet<String>)| {
            let of: Vec<String> = instances.iter().cloned().collect();
            let instances: Vec<_> = instances.into_iter().map(instance_of).collect();
            let nodes: Vec<_> = nodes.into_iter().map(|name| node_of(name, of.clone())).collect();
            (text(), instances, nodes).prop_map(|(id, instances, nodes)| {
                let mut config =
                    Configuration { id: format!("x{id}"), instances, nodes, cluster_backend: None }.canonical();
                ports::assign(&mut config).unwrap();
                config
            })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn written_configurations_read_back_equal(config in configuration()) {
        let json = cluster_file::write(&config, Format::Json).unwrap();
        prop_assert_eq!(&read(&json).unwrap(), &config);

        let ini = cluster_file::write(&config, Format::Ini).unwrap();
        let expected = property::as_ini(&config);
        prop_assert_eq!(&read(&ini).unwrap(), &expected);
        prop_assert_eq!(cluster_file::write(&expected, Format::Ini).unwrap(), ini);
    }

    #[test]
    fn any_text_holds(text in "(\\[(instances|DEFAULT|[a-c]?)\\]|[a-c= :]|role|=worker|env=|\n|\r|\t|\"|\\\\|#|%|\\PC){0,40}") {
        property::holds(text.as_bytes(), Format::Ini);
    }

    #[test]
    fn any_lines_hold(lines in proptest::collection::vec(line(), 0..20)) {
        property::holds(lines.join("\n").as_bytes(), Format::Ini);
    }

    #[test]
    fn any_json_holds(text in json()) {
        property::holds(text.as_bytes(), Format::Json);
    }
}

fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\[(instances|DEFAULT|[a-d]|agent-1)\\]",
        "(role|type) ?[=:] ?(worker|MANAGER|proxy|x)",
        "(env|options|scripts|interface|instance|port|cpu_affinity) = [ -~]{0,12}",
        "(env|options) = \"?A=[ -~]{0,6}\\\\?",
        "[ \t]+[ -~]{0,9}\"?",
        "[a-d](=192\\.0\\.2\\.[1-9]:[0-9]{1,5})?",
        "[#;][ -~]{0,4}",
        Just(String::new()),
    ]
}

fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        "-?[0-9]{1,6}",
        text().prop_map(|text| serde_json::Value::from(text).to_string()),
        prop_oneof!["\"(worker|proxy|a|b)\"", "\"192\\.0\\.2\\.[1-9]\"", "\"[0-9]{1,5}/tcp\""],
    ];
    let key = proptest::sample::select(vec![
        "id",
        "instances",
        "nodes",
        "name",
        "host",
        "port",
        "role",
        "instance",
        "scripts",
        "options",
        "value",
        "env",
        "interface",
        "cpu_affinity",
        "metrics_port",
    ]);
    let value = leaf.prop_recursive(4, 32, 4, move |inner| {
        let entries = proptest::collection::btree_map(key.clone(), inner.clone(), 0..4);
        prop_oneof![
            proptest::collection::vec(inner, 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            entries.prop_map(|entries| object(&entries)),
        ]
    });
    (value.clone(), value, proptest::collection::vec(value_of_node(), 0..3)).prop_map(|(id, extra, nodes)| {
        let nodes = format!("[{}]", nodes.join(",\n"));
        object(&BTreeMap::from([("id", id), ("nodes", nodes), ("x", extra)]))
    })
}

fn value_of_node() -> impl Strategy<Value = String> {
    (name(), text(), text(), "[0-9]{1,5}").prop_map(|(name, script, value, port)| {
        let text = |text: String| serde_json::Value::from(text).to_string();
        let env = object(&BTreeMap::from([("A", text(value))]));
        object(&BTreeMap::from([
            ("name", text(name)),
            ("role", "\"proxy\"".to_owned()),
            ("scripts", format!("[{}]", text(script))),
            ("env", env),
            ("port", if port == "0" { port } else { port.trim_start_matches('0').to_owned() }),
        ]))
    })
}

fn object(entries: &BTreeMap<&str, String>) -> String {
    let entries: Vec<String> = entries.iter().map(|(key, value)| format!("\"{key}\": {value}")).collect();
    format!("{{{}}}", entries.join(", "))
}
