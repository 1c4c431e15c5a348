use std::fmt::Write as _;
use std::path::Path;

use super::*;
use crate::api::configuration::Port;
use crate::api::ids::InstanceName;
use crate::cluster_file;

fn data(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/zeek").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn cluster() -> Configuration {
    let ours = InstanceName::new("agent-1").unwrap();
    cluster_file::read(data("cluster.ini").as_bytes(), "cluster.ini", None, Some(&ours)).unwrap()
}

fn options(version: Version) -> Options {
    Options {
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
    }
}

/// The layout, and each node's arguments, environment and files, as a golden file has them.
fn shown(options: &Options, args: &[String]) -> String {
    let config = cluster();
    let shared = SharedFiles::of(options, &config);
    let mut text = format!("== {LAYOUT}\n{}", shared.layout.content.as_deref().unwrap());
    if let Some(zeromq) = &shared.zeromq {
        write!(text, "\n== {}.zeek\n{}", endpoints::NAME, zeromq.content.as_deref().unwrap()).unwrap();
    }
    for node in &config.nodes {
        let Recipe { args, env, files, secrets } = recipe(options, &shared, node, args);
        write!(text, "\n== {}\n", node.name).unwrap();
        let ports = ports(options, &shared, node);
        for argument in args {
            writeln!(text, "argument  {argument}").unwrap();
        }
        for (name, value) in env {
            writeln!(text, "variable  {name}={value}").unwrap();
        }
        for (name, file) in secrets {
            writeln!(text, "secret    {name} from {file}").unwrap();
        }
        for name in files.keys() {
            writeln!(text, "file      {name}").unwrap();
        }
        if shared.backend == ClusterBackend::ZeroMq {
            writeln!(text, "ports     {ports:?}").unwrap();
        }
    }
    text
}

#[test]
fn each_release_gets_what_it_needs() {
    for (major, minor) in [(5, 0), (6, 0), (7, 0), (8, 0), (8, 1), (8, 2), (9, 0)] {
        let version = Version::new(major, minor);
        assert_eq!(shown(&options(version), &[]), data(&format!("{version}.txt")), "Zeek {version}");
    }
    for ((major, minor), backend) in [((8, 0), ClusterBackend::ZeroMq), ((9, 0), ClusterBackend::Broker)] {
        let options = Options { backend: Some(backend), ..options(Version::new(major, minor)) };
        let name = format!("{}-{backend}.txt", options.version);
        assert_eq!(shown(&options, &[]), data(&name), "{name}");
    }
}

#[test]
fn whoever_accepts_connections_has_the_servers_secret_key() {
    let options = Options { keys: Some("/etc/keys".to_owned()), ..options(Version::new(9, 0)) };
    let config = cluster();
    let shared = SharedFiles::of(&options, &config);
    for node in &config.nodes {
        let secrets = recipe(&options, &shared, node, &[]).secrets;
        let files: Vec<&str> = secrets.values().map(String::as_str).collect();
        let all = [
            "/etc/keys/client.public",
            "/etc/keys/client.secret",
            "/etc/keys/server.public",
            "/etc/keys/server.secret",
        ];
        match node.role {
            ClusterRole::Manager | ClusterRole::Logger => assert_eq!(files, all),
            ClusterRole::Proxy | ClusterRole::Worker => assert_eq!(files, all[..3]),
            ClusterRole::None => assert!(files.is_empty()),
        }
        assert!(secrets.keys().all(|name| name.starts_with("ZEEK_CLUSTER_BACKEND_ZEROMQ_CURVE_")));
    }
    let broker = Options { backend: Some(ClusterBackend::Broker), ..options };
    let shared = SharedFiles::of(&broker, &config);
    assert!(config.nodes.iter().all(|node| recipe(&broker, &shared, node, &[]).secrets.is_empty()));
}

#[test]
fn several_hosts_on_zeromq_without_keys_are_warned_of() {
    let ours = InstanceName::new("agent-1").unwrap();
    let advice = |options: &Options, config: &Configuration| {
        unencrypted(options, config, &ours).map(|problem| problem.text.rsplit_once("; ").unwrap().1.to_owned())
    };
    let nine = options(Version::new(9, 0));
    let mut config = cluster();
    assert_eq!(advice(&nine, &config).unwrap(), "set zeromq_keys (`zeek keys` makes them)");
    let old = Options { backend: Some(ClusterBackend::ZeroMq), ..options(Version::new(8, 0)) };
    assert_eq!(advice(&old, &config).unwrap(), "until then keep its ports away from others");
    assert_eq!(advice(&Options { keys: Some("/keys".to_owned()), ..nine.clone() }, &config), None);
    assert_eq!(advice(&options(Version::new(8, 0)), &config), None, "Broker");
    config.nodes.retain(|node| node.instance == "agent-1");
    assert_eq!(advice(&nine, &config), None, "one host");
}

#[test]
fn a_configuration_chooses_its_backend_before_the_settings_do() {
    let (new, old) = (Version::new(9, 0), Version::new(8, 0));
    for (version, setting, own, expected) in [
        (new, None, None, ClusterBackend::ZeroMq),
        (old, None, None, ClusterBackend::Broker),
        (new, Some(ClusterBackend::Broker), None, ClusterBackend::Broker),
        (old, Some(ClusterBackend::Broker), Some(ClusterBackend::ZeroMq), ClusterBackend::ZeroMq),
        (old, Some(ClusterBackend::ZeroMq), Some(ClusterBackend::Broker), ClusterBackend::Broker),
    ] {
        let options = Options { backend: setting, ..options(version) };
        let config = Configuration { cluster_backend: own, ..cluster() };
        assert_eq!(options.backend_of(&config), expected, "{version}, {setting:?}, {own:?}");
        assert_eq!(problem(&options, &config, None), None);
    }
}

#[test]
fn a_zeek_without_zeromq_is_not_asked_for_it() {
    let config = Configuration { cluster_backend: Some(ClusterBackend::ZeroMq), ..cluster() };
    let found = problem(&options(Version::new(7, 0)), &config, None).unwrap().to_string();
    assert!(
        found.ends_with("the nodes here are Zeek 7.0: it is supported from Zeek 8.0 on; use cluster_backend = broker"),
        "{found}"
    );
    let elsewhere = InstanceName::new("agent-3").unwrap();
    assert_eq!(problem(&options(Version::new(7, 0)), &config, Some(&elsewhere)), None, "no node of it runs there");
}

/// Every agent has to come to the same ports, whatever they are.
#[test]
fn endpoints_avoid_the_ports_that_a_configuration_names() {
    let mut config = cluster();
    let script = |config: &Configuration| Endpoints::of(config).script(None).unwrap();
    let manager = config.nodes.iter().position(|node| node.role == ClusterRole::Manager).unwrap();
    let proxy = config.nodes.iter().position(|node| node.role == ClusterRole::Proxy).unwrap();
    config.nodes[manager].port = None;
    config.nodes[proxy].port = Some(Port::tcp(5555));
    let text = script(&config);
    assert!(text.contains("listen_xpub_endpoint = \"tcp://192.0.2.10:5556\""), "{text}");
    assert!(text.contains("listen_xsub_endpoint = \"tcp://192.0.2.10:5557\""), "{text}");
    config.nodes[manager].port = Some(Port::tcp(u16::MAX));
    assert!(script(&config).contains("listen_xsub_endpoint = \"tcp://192.0.2.10:1024\""));
    assert_eq!(Endpoints::of(&config).ports(&config.nodes[manager]), [u16::MAX, 1024]);
    assert_eq!(Endpoints::of(&config).ports(&config.nodes[proxy]), [0_u16; 0]);
    config.nodes.retain(|node| node.role != ClusterRole::Logger);
    let manager = config.nodes.iter().find(|node| node.role == ClusterRole::Manager).unwrap();
    assert_eq!(Endpoints::of(&config).ports(manager), [u16::MAX, 1024, 1025], "it receives the logs");
    assert!(layout::layout(&config, Version::new(9, 0), Some(&Endpoints::of(&config))).contains("$p=1025/tcp"));
    config.nodes.retain(|node| node.role != ClusterRole::Manager);
    assert_eq!(Endpoints::of(&config).script(None), None);
}

#[test]
fn endpoints_listen_where_nodes_do_and_ipv6_is_switched_on_for_it() {
    let script = |listen: &str| Endpoints::of(&cluster()).script(Some(listen.parse().unwrap())).unwrap();
    let text = script("::");
    for line in [
        "redef listen_xpub_endpoint = \"tcp://[::]:2200\";",
        "redef connect_xsub_endpoint = \"tcp://192.0.2.10:2200\";",
        "redef ipv6 = T;",
    ] {
        assert!(text.contains(line), "{text}");
    }
    // One of the hosts has IPv6 already.
    assert!(script("0.0.0.0").contains("redef ipv6 = T;"));
    let mut config = cluster();
    config.nodes.retain(|node| node.instance == "agent-1");
    assert!(Endpoints::of(&config).script(None).unwrap().contains("redef ipv6 = F;"));
}

#[test]
fn a_doorbell_is_where_the_metrics_port_is() {
    let at = |listen: Option<&str>| doorbell(listen.map(str::to_owned).as_ref(), 9000).to_string();
    for (listen, expected) in [
        (None, "127.0.0.1:9000"),
        (Some("0.0.0.0"), "127.0.0.1:9000"),
        (Some("::"), "[::1]:9000"),
        (Some("192.0.2.1"), "192.0.2.1:9000"),
        (Some("not an address"), "127.0.0.1:9000"),
    ] {
        assert_eq!(at(listen), expected, "{listen:?}");
    }
}

#[test]
fn every_setting_has_its_place() {
    let options = Options {
        checksums: false,
        local: true,
        args: [(ClusterRole::Worker, vec!["-B".to_owned(), "main-loop".to_owned()])].into(),
        path: Some("/site/scripts:.:/usr/share/zeek".to_owned()),
        listen_address: Some([127, 0, 0, 1].into()),
        scripts: NodeScripts::Management,
        backend: Some(ClusterBackend::Broker),
        ..options(Version::new(8, 1))
    };
    assert_eq!(shown(&options, &["-p".to_owned(), "site".to_owned()]), data("every-setting.txt"));
}

#[test]
fn scripts_can_be_left_out() {
    let config = cluster();
    let worker = config.nodes.iter().find(|node| node.name == "worker-1").unwrap();
    let options = Options { scripts: NodeScripts::None, ..options(Version::new(8, 0)) };
    let Recipe { args, env, files, secrets: _ } = recipe(&options, &SharedFiles::of(&options, &config), worker, &[]);
    assert_eq!(args.last().unwrap(), "Site::name=two words");
    assert!(!env.keys().any(|name| name.starts_with("ZCA_")));
    assert_eq!(files.into_keys().collect::<Vec<_>>(), [LAYOUT]);
}

#[test]
fn without_logger_or_manager_a_layout_names_none() {
    let mut config = cluster();
    config.nodes.retain(|node| matches!(node.role, ClusterRole::Worker | ClusterRole::None));
    let text = layout::layout(&config, Version::new(8, 0), None);
    assert!(!text.contains("manager") && text.contains("[\"worker-1\"] = [$node_type=Cluster::WORKER"), "{text}");
}

#[test]
fn a_search_path_begins_with_the_working_directory() {
    for (path, expected) in
        [("", "."), (".", "."), (".:/a", ".:/a"), ("/a:.", ".:/a:."), (":/a", ".::/a"), ("./a", ".:./a")]
    {
        assert_eq!(with_working_directory(path), expected);
    }
}

/// No interface is opened, no file of a running node is written, no port is bound.
#[test]
fn a_check_touches_nothing_of_the_node() {
    let args = ["-i", "eth0", "-C", "-U", ".status", "local", "/site/a", "X::y=-i"].map(str::to_owned);
    let check = check_arguments(&args);
    assert_eq!(check, ["-a", "-C", "local", "/site/a", "X::y=-i", "Telemetry::metrics_port=0/unknown"]);
    assert_eq!(check_arguments(&["-i".to_owned()]), ["-a", "Telemetry::metrics_port=0/unknown"]);
}
