use std::fmt::Write as _;
use std::path::Path;

use super::*;
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
        program: "/usr/bin/zeek-cluster-agent".to_owned(),
        state_dir: "/var/lib/zeek-cluster-agent".to_owned(),
    }
}

/// The layout, and each node's arguments, environment and files, as a golden file has them.
fn shown(options: &Options, args: &[String]) -> String {
    let config = cluster();
    let shared = SharedFiles::of(options, &config);
    let mut text = format!("== {LAYOUT}\n{}", shared.layout.content.as_deref().unwrap());
    for node in &config.nodes {
        let Recipe { args, env, files } = recipe(options, &shared, node, args);
        write!(text, "\n== {}\n", node.name).unwrap();
        for argument in args {
            writeln!(text, "argument  {argument}").unwrap();
        }
        for (name, value) in env {
            writeln!(text, "variable  {name}={value}").unwrap();
        }
        for name in files.keys() {
            writeln!(text, "file      {name}").unwrap();
        }
    }
    text
}

#[test]
fn each_release_gets_what_it_needs() {
    for (major, minor) in [(5, 0), (6, 0), (7, 0), (8, 0), (8, 1), (9, 0)] {
        let version = Version::new(major, minor);
        assert_eq!(shown(&options(version), &[]), data(&format!("{version}.txt")), "Zeek {version}");
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
        ..options(Version::new(8, 1))
    };
    assert_eq!(shown(&options, &["-p".to_owned(), "site".to_owned()]), data("every-setting.txt"));
}

#[test]
fn scripts_can_be_left_out() {
    let config = cluster();
    let worker = config.nodes.iter().find(|node| node.name == "worker-1").unwrap();
    let options = Options { scripts: NodeScripts::None, ..options(Version::new(8, 0)) };
    let Recipe { args, env, files } = recipe(&options, &SharedFiles::of(&options, &config), worker, &[]);
    assert_eq!(args.last().unwrap(), "Site::name=two words");
    assert!(!env.keys().any(|name| name.starts_with("ZCA_")));
    assert_eq!(files.into_keys().collect::<Vec<_>>(), [LAYOUT]);
}

#[test]
fn without_logger_or_manager_a_layout_names_none() {
    let mut config = cluster();
    config.nodes.retain(|node| matches!(node.role, ClusterRole::Worker | ClusterRole::None));
    let text = layout::layout(&config, Version::new(8, 0));
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
