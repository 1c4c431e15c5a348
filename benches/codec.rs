//! `cargo bench --bench codec`: what it costs to write and read a deploy_request of a 100-node configuration, in Broker's binary
//! form and in its JSON form, one thread. "whole" is from the request to the bytes of a frame or message, and back.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use zeek_cluster_agent::api::configuration::{ClusterRole, Configuration, Instance, Node, Port, Protocol};
use zeek_cluster_agent::api::event::{Dialect, Request};
use zeek_cluster_agent::api::ids::ReqId;
use zeek_cluster_agent::broker::data::Data;
use zeek_cluster_agent::broker::wire::{self, EndpointId, Envelope};
use zeek_cluster_agent::broker::{binary, json};
use zeek_cluster_agent::dialect::event::unpack;
use zeek_cluster_agent::dialect::{self, Decoded};

#[allow(dead_code, reason = "shared by the benchmarks, of which each needs a part")]
mod support;

use crate::support::figures::{median, print_machine};

const DIALECT: Dialect = Dialect::Management;
const TOPIC: &str = "zeek/management/agent/sensor-1";
const NODES: usize = 100;
/// Rounds of everything; results are medians.
const ROUNDS: usize = 7;
const SLICE: Duration = Duration::from_millis(150);
const SENDER: EndpointId = EndpointId([7; 16]);

fn main() -> ExitCode {
    support::main("codec", run)
}

fn configuration() -> Configuration {
    let host = |number: usize| IpAddr::V4(Ipv4Addr::from(0xc000_0200 + u32::try_from(number).unwrap_or_default()));
    let instance = |number: usize| Instance { name: format!("sensor-{number}"), host: host(number), listen_port: None };
    let port =
        |number: usize| Some(Port { number: u16::try_from(number).unwrap_or_default(), protocol: Protocol::Tcp });
    let node = |number: usize| Node {
        name: format!("worker-{number}"),
        instance: format!("sensor-{}", number % 10),
        role: ClusterRole::Worker,
        port: None,
        scripts: vec!["policy/misc/loaded-scripts".to_owned()],
        options: Vec::new(),
        interface: Some("eth0".to_owned()),
        cpu_affinity: Some(i64::try_from(number % 16).unwrap_or_default()),
        env: [("SITE".to_owned(), "north".to_owned())].into(),
        metrics_port: port(9000 + number),
    };
    let (instances, nodes) = ((0..10).map(instance).collect(), (0..NODES).map(node).collect());
    Configuration { id: "a-configuration".to_owned(), instances, nodes, cluster_backend: None }.canonical()
}

/// One thing to be measured, and the bytes it makes or reads.
struct Work<'a> {
    what: &'static str,
    bytes: usize,
    once: Box<dyn Fn() -> Result<()> + 'a>,
}

impl Work<'_> {
    fn nanoseconds(&self) -> Result<f64> {
        let begun = Instant::now();
        let mut count = 0_u32;
        while begun.elapsed() < SLICE {
            for _ in 0..8 {
                (self.once)()?;
            }
            count += 8;
        }
        Ok(begun.elapsed().as_nanos() as f64 / f64::from(count))
    }
}

fn understood(data: Data) -> Result<Request> {
    let event = unpack(data).events.into_iter().next().context("no event")??;
    match dialect::decode(&event) {
        Ok(Decoded::Request { request, .. }) => Ok(request),
        other => anyhow::bail!("no request: {other:?}"),
    }
}

fn run() -> Result<()> {
    print_machine(std::env::temp_dir().as_path())?;
    let request = Request::Deploy { config: configuration(), force: false, how: Box::default() };
    let reqid = ReqId::new("bench")?;
    let event = || dialect::request(DIALECT, &reqid, &request);
    let data = event()?.into_data();
    let bytes = binary::encode(&data);
    let frame = wire::data_frame(SENDER, EndpointId::NIL, TOPIC, &data)?;
    let payload = frame.get(4..).context("a frame has a length")?;
    let text = json::write_data_message(TOPIC, &data)?;
    ensure!(binary::decode(&bytes, &binary::Limits::default())? == data, "the binary form is not the same again");
    ensure!(understood(data.clone())? == request, "the request is not the same again");

    let work = [
        Work {
            what: "binary, encode",
            bytes: bytes.len(),
            once: Box::new(|| {
                black_box(binary::encode(black_box(&data)));
                Ok(())
            }),
        },
        Work {
            what: "binary, decode",
            bytes: bytes.len(),
            once: Box::new(|| {
                black_box(binary::decode(black_box(&bytes), &binary::Limits::default())?);
                Ok(())
            }),
        },
        Work {
            what: "binary, encode whole",
            bytes: frame.len(),
            once: Box::new(|| {
                black_box(wire::data_frame(SENDER, EndpointId::NIL, TOPIC, &event()?.into_data())?);
                Ok(())
            }),
        },
        Work {
            what: "binary, decode whole",
            bytes: frame.len(),
            once: Box::new(|| {
                let envelope = Envelope::decode(black_box(payload))?;
                black_box(understood(binary::decode(envelope.payload, &binary::Limits::default())?)?);
                Ok(())
            }),
        },
        Work {
            what: "JSON, encode whole",
            bytes: text.len(),
            once: Box::new(|| {
                black_box(json::write_data_message(TOPIC, &event()?.into_data())?);
                Ok(())
            }),
        },
        Work {
            what: "JSON, decode whole",
            bytes: text.len(),
            once: Box::new(|| {
                match json::read_message(black_box(text.as_bytes()), &json::Limits::default())? {
                    json::Message::Data { data, .. } => black_box(understood(data)?),
                    other => anyhow::bail!("no data message: {other:?}"),
                };
                Ok(())
            }),
        },
    ];
    let mut took: Vec<Vec<f64>> = vec![Vec::new(); work.len()];
    for _ in 0..ROUNDS {
        for (one, took) in work.iter().zip(&mut took) {
            took.push(one.nanoseconds()?);
        }
    }
    print(&work, took);
    Ok(())
}

fn print(work: &[Work], took: Vec<Vec<f64>>) {
    println!("\na deploy_request of {NODES} nodes (median of {ROUNDS} interleaved rounds of {SLICE:?})");
    println!("{:<22} {:>8} {:>12} {:>8}", "", "bytes", "ns/event", "MB/s");
    for (one, took) in work.iter().zip(took) {
        let nanoseconds = median(took);
        println!(
            "{:<22} {:>8} {:>12.0} {:>8.0}",
            one.what,
            one.bytes,
            nanoseconds,
            one.bytes as f64 * 1e3 / nanoseconds
        );
    }
}
