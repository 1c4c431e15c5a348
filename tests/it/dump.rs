//! `journal dump`: every filter by itself and with every other, held against all rows; formats; memory.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;
use zeek_cluster_agent::api::event::{Dialect, Request};
use zeek_cluster_agent::control::client::within_ms;

use crate::support::{Agent, Host, Said, cluster, eventually, kill, kill_while_one_waits, set};

/// A host whose journal has rows of every state and kind, from several senders.
fn lived() -> (Host, Agent) {
    let host = Host::new();
    let agent = host.start();
    assert!(host.ask("first", set(cluster(&[("w1", ""), ("w2", "")]))).success());
    let mut wrong = cluster(&[("w1", "")]);
    wrong.nodes[0].name = "../w1".to_owned();
    assert!(!host.ask("wrong", set(wrong)).success());
    for number in 0..3 {
        host.ask(&format!("g-{number}"), Request::GetNodes {});
        assert_eq!(host.run(&["request", "welcome", "--reqid", &format!("w-{number}")]).code, 0);
    }
    assert_eq!(host.run(&["request", "welcome", "--reqid", "g-1"]).code, 5);
    assert_eq!(host.run(&["nodes", "restart", "w1"]).code, 0);
    assert_eq!(host.run(&["request", "restart", "nosuch", "--reqid", "nosuch"]).code, 1);
    let pid = host.pids()["w2"];
    kill(pid, Signal::KILL, Some(&host.mark));
    eventually("w2 again", || host.pids().get("w2").copied().filter(|now| *now != pid));
    let mut stranger = UnixStream::connect(host.socket()).unwrap();
    stranger.write_all(b"\0\0\0\x03\xc1\xff\x00").unwrap();
    eventually("it to be rejected", || {
        let rows = host.run(&["journal", "dump", "--state", "rejected", "--source", "control"]).lines();
        // The wrong configuration, the restart of nobody, and this.
        (rows.len() == 3).then_some(())
    });
    let dispatch = Request::NodeDispatch { action: vec!["get_id_value".into(), "x".into()], nodes: BTreeSet::new() };
    host.ask("d-1", dispatch);
    kill_while_one_waits(&host, agent, &[("w1", ""), ("w3", "env = SIM_NOT_READY=1")]);
    let agent = host.start();
    assert!(host.ask("calm", set(cluster(&[("w1", "")]))).success());
    (host, agent)
}

type Wanted = Box<dyn Fn(&Value) -> bool>;

/// Flags for a kind, and what they let through.
type Kind = (&'static [&'static str], fn(&Value) -> bool);

fn is_request(row: &Value) -> bool {
    row["received_at"].is_string()
}

fn at(row: &Value) -> String {
    row["received_at"].as_str().or(row["at"].as_str()).unwrap().to_owned()
}

fn names_node(row: &Value, node: &str) -> bool {
    if !is_request(row) {
        return row["node"] == node || row["detail"]["nodes"].get(node).is_some();
    }
    let listed = |value: &Value| match value {
        Value::Array(nodes) => nodes.iter().any(|one| one == node || one["name"] == node),
        _other => false,
    };
    let results = row["response"]["results"].as_array();
    listed(&row["request"]["nodes"])
        || listed(&row["request"]["config"]["nodes"])
        || results.is_some_and(|results| results.iter().any(|result| result["node"] == node))
}

const OF_NODES: [&str; 6] =
    ["launch_intended", "node_started", "node_ready", "node_exited", "node_adopted", "node_retried"];

fn is_of_node(row: &Value) -> bool {
    row["event"].as_str().is_some_and(|event| OF_NODES.contains(&event))
}

/// Each filter with what it has to let through. `kind` is apart: without it, it is `request`.
fn filters(rows: &[Value]) -> Vec<(Vec<String>, Wanted)> {
    let middle = at(&rows[rows.len() / 2]);
    let (low, high) =
        (rows[rows.len() / 4]["seq"].as_u64().unwrap(), rows[rows.len() / 4 * 3]["seq"].as_u64().unwrap());
    let mut filters: Vec<(Vec<String>, Wanted)> = Vec::new();
    let mut add = |flags: &[&str], wanted: Wanted| {
        filters.push((flags.iter().map(|flag| (*flag).to_owned()).collect(), wanted));
    };
    let (since, until) = (middle.clone(), middle.clone());
    add(&["--since", &middle], Box::new(move |row| at(row) >= since));
    add(&["--until", &middle], Box::new(move |row| at(row) < until));
    add(&["--since", "2h"], Box::new(|_| true));
    add(&["--until", "yesterday"], Box::new(|_| false));
    add(&["--reqid", "g-1"], Box::new(|row| row["reqid"] == "g-1"));
    add(&["--reqid", "nobody's"], Box::new(|_| false));
    add(&["--event", "welcome"], Box::new(|row| row["event"] == "agent_welcome_request"));
    add(&["--event", "get_nodes_request"], Box::new(|row| row["event"] == "get_nodes_request"));
    add(&["--event", "node_exited"], Box::new(|row| row["event"] == "node_exited"));
    for state in ["accepted", "handling", "completed", "conflict", "rejected", "abandoned"] {
        add(&["--state", state], Box::new(move |row| is_request(row) && row["state"] == state));
    }
    add(
        &["--source", "uid="],
        Box::new(|row| is_request(row) && row["source"]["peer"].as_str().is_some_and(|peer| peer.contains("uid="))),
    );
    add(&["--source", "websocket"], Box::new(|_| false));
    let uid = rustix::process::getuid().as_raw();
    let own = format!("uid={uid}");
    let shown = own.clone();
    add(
        &["--source", &own],
        Box::new(move |row| is_request(row) && row["source"]["peer"].as_str().unwrap().contains(&shown)),
    );
    // Not a part of a word, neither of the name nor of the number.
    add(&["--source", &own[1..]], Box::new(|_| false));
    add(&["--source", &format!("control {own}0")], Box::new(|_| false));
    add(
        &["--failed"],
        Box::new(|row| match is_request(row) {
            true => row["success"] == false,
            false => row["event"] == "node_exited" && row["detail"]["asked"] == false,
        }),
    );
    for node in ["w1", "w2", "w3", "w9"] {
        add(&["--node", node], Box::new(move |row| names_node(row, node)));
    }
    add(&["--from-seq", &low.to_string()], Box::new(move |row| row["seq"].as_u64().unwrap() >= low));
    add(&["--to-seq", &high.to_string()], Box::new(move |row| row["seq"].as_u64().unwrap() <= high));
    filters
}

fn seqs(rows: &[Value]) -> Vec<u64> {
    rows.iter().map(|row| row["seq"].as_u64().unwrap()).collect()
}

fn dump(host: &Host, flags: &[&[String]], more: &[&str]) -> Vec<u64> {
    let mut args = vec!["journal", "dump", "--format", "json"];
    args.extend(flags.iter().flat_map(|flags| flags.iter().map(String::as_str)));
    args.extend(more);
    seqs(&host.run(&args).lines())
}

#[test]
fn every_filter_lets_through_what_it_says_alone_and_with_any_other() {
    let (host, agent) = lived();
    let rows = host.run(&["journal", "dump", "--kind", "all"]).lines();
    let states: BTreeSet<&str> = rows.iter().filter_map(|row| row["state"].as_str()).collect();
    assert!(states.is_superset(&["completed", "conflict", "rejected"].into()), "{states:?}");
    assert!(rows.iter().any(|row| row["event"] == "node_exited" && row["detail"]["asked"] == false));
    let filters = filters(&rows);
    let kinds: [Kind; 4] = [
        (&[], is_request),
        (&["--kind", "request"], is_request),
        (&["--kind", "node"], is_of_node),
        (&["--kind", "all"], |_| true),
    ];
    let expected = |of: &dyn Fn(&Value) -> bool| -> Vec<u64> {
        rows.iter().filter(|row| of(row)).map(|row| row["seq"].as_u64().unwrap()).collect()
    };
    for (kind, of_kind) in kinds {
        for (flags, wanted) in &filters {
            // What went wrong is a request or a node, unless the kind is given.
            let any_kind = kind.is_empty() && flags[0] == "--failed";
            let mut matching = expected(&|row| (any_kind || of_kind(row)) && wanted(row));
            assert_eq!(dump(&host, &[flags], kind), matching, "{flags:?} {kind:?}");
            // The newest two, forwards and backwards.
            let newest = matching.len().saturating_sub(2);
            matching.drain(..newest);
            let with = |more: &[&'static str]| [kind, more].concat();
            assert_eq!(dump(&host, &[flags], &with(&["-n", "2"])), matching, "{flags:?} {kind:?} -n 2");
            matching.reverse();
            assert_eq!(dump(&host, &[flags], &with(&["--last", "2", "--reverse"])), matching, "{flags:?} {kind:?}");
        }
    }
    for (number, (one, wants_one)) in filters.iter().enumerate() {
        for (other, wants_other) in &filters[number + 1..] {
            if one[0] == other[0] {
                if ["--reqid", "--event", "--state", "--source", "--node"].contains(&one[0].as_str()) {
                    let matching = expected(&|row| wants_one(row) || wants_other(row));
                    assert_eq!(dump(&host, &[one, other], &["--kind", "all"]), matching, "{one:?} or {other:?}");
                }
                continue;
            }
            let matching = expected(&|row| wants_one(row) && wants_other(row));
            assert_eq!(dump(&host, &[one, other], &["--kind", "all"]), matching, "{one:?} {other:?}");
        }
    }
    // The same from the directory.
    agent.kill();
    for (flags, wanted) in &filters {
        assert_eq!(dump(&host, &[flags], &["--kind", "all"]), expected(wanted), "{flags:?}, offline");
    }
}

#[test]
fn every_format_has_the_same_rows_and_tells_of_bad_ones() {
    let (host, agent) = lived();
    agent.kill();
    // One entry under sled's own checksums.
    let damaged = {
        let db = sled::open(host.state_dir().join("journal")).unwrap();
        let key = [b"L".as_slice(), &7_u64.to_be_bytes()].concat();
        let mut value = db.get(&key).unwrap().unwrap().to_vec();
        let last = value.len() - 1;
        value[last] ^= 1;
        db.insert(key, value).unwrap();
        db.flush().unwrap();
        7
    };
    let dump = |format: &str| {
        let said = host.run(&["journal", "dump", "--kind", "all", "--format", format]);
        assert_eq!(said.code, 0, "{said:?}");
        said.stdout
    };
    let json = host.run(&["journal", "dump", "--kind", "all", "--format", "json"]).lines();
    let bad: Vec<&Value> = json.iter().filter(|row| row["unreadable"].is_string()).collect();
    assert_eq!((bad.len(), bad[0]["seq"].as_u64()), (1, Some(damaged)));
    let why = bad[0]["unreadable"].as_str().unwrap();
    assert!(why.contains("checksum"), "{why}");
    let csv = dump("csv");
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let records: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    let told: Vec<u64> = records.iter().map(|record| record[0].parse().unwrap()).collect();
    assert_eq!(told, seqs(&json));
    let record = &records[told.iter().position(|seq| *seq == damaged).unwrap()];
    assert_eq!((&record[2], &record[19]), ("unreadable", why));
    let table = dump("table");
    let lines: Vec<&str> = table.lines().skip(1).collect();
    assert_eq!(lines.len(), json.len());
    let line = lines[told.iter().position(|seq| *seq == damaged).unwrap()];
    assert!(line.contains("unreadable") && line.contains(why), "{line}");
}

/// The most memory that a process has had, in KiB.
fn peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[test]
fn memory_does_not_grow_with_the_journal_nor_does_a_closed_pipe_fail() {
    let host = Host::new();
    let agent = host.start();
    let mut client = host.client();
    for number in 0..120 {
        let request = Request::NodeDispatch { action: vec!["x".repeat(600_000)], nodes: ["nobody".to_owned()].into() };
        client.request(&format!("l-{number}"), request, Dialect::Management, None, within_ms(30_000)).unwrap();
    }
    let before = peak(agent.pid()).unwrap();
    for args in
        [&["journal", "dump"][..], &["journal", "dump", "--format", "csv", "--reverse"], &["journal", "export", "-"]]
    {
        let mut child = host.command(args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut out = BufReader::with_capacity(1 << 20, child.stdout.take().unwrap());
        let (mut bytes, mut most) = (0, 0);
        loop {
            let read = out.fill_buf().unwrap().len();
            if read == 0 {
                break;
            }
            out.consume(read);
            bytes += read;
            most = most.max(peak(child.id()).unwrap_or(0));
        }
        assert!(child.wait().unwrap().success());
        println!("{args:?}: {} MiB written, at most {} MiB of memory", bytes >> 20, most >> 10);
        assert!(bytes > 60 << 20, "{args:?}: {bytes}");
        assert!(most < 40 << 10, "{args:?}: {most} KiB for {bytes} bytes");

        let mut child = host.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut some = [0; 100];
        std::io::Read::read_exact(&mut child.stdout.take().unwrap(), &mut some).unwrap();
        let said = Said::wait(child);
        assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{args:?}: a closed pipe");
    }
    let after = peak(agent.pid()).unwrap();
    println!("the agent: {} MiB before, {} MiB after", before >> 10, after >> 10);
    assert!(after < before + (96 << 10), "the agent: {before} KiB before, {after} KiB after");
}
