//! Input of those who mean no good: cut anywhere, changed anywhere, with lengths that are lies; and what fuzzing found.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use zeek_cluster_agent::broker::binary::{self, Problem};
use zeek_cluster_agent::broker::json;
use zeek_cluster_agent::broker::wire::{Envelope, HandshakeMessage};

#[path = "../../fuzz/properties/broker_envelope.rs"]
mod broker_envelope;
#[path = "../../fuzz/properties/broker_frame.rs"]
mod broker_frame;
#[path = "../../fuzz/properties/broker_handshake.rs"]
mod broker_handshake;
#[path = "../../fuzz/properties/broker_json.rs"]
mod broker_json;
#[path = "../../fuzz/properties/broker_value.rs"]
mod broker_value;
#[path = "../../fuzz/properties/diag_reply.rs"]
mod diag_reply;
#[path = "../../fuzz/properties/dialect_event.rs"]
pub mod dialect_event;
#[path = "../../fuzz/properties/node_metrics.rs"]
mod node_metrics;
#[path = "../../fuzz/properties/node_reply.rs"]
mod node_reply;

type Property = fn(&[u8]);
const PROPERTIES: [(&str, Property); 9] = [
    ("broker_frame", broker_frame::holds),
    ("broker_handshake", broker_handshake::holds),
    ("broker_envelope", broker_envelope::holds),
    ("broker_value", broker_value::holds),
    ("broker_json", broker_json::holds),
    ("dialect_event", dialect_event::holds),
    // The kernel's word about a socket is read with the same care as a peer's.
    ("diag_reply", diag_reply::holds),
    ("node_metrics", node_metrics::holds),
    ("node_reply", node_reply::holds),
];

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

#[test]
fn the_corpora_of_the_fuzz_targets_pass() {
    for (target, property) in PROPERTIES {
        let inputs = corpus(target);
        assert!(inputs.len() > 5, "{target} has {} inputs", inputs.len());
        inputs.iter().for_each(|input| property(input));
    }
}

#[test]
fn whatever_is_cut_short_is_an_error_and_no_more() {
    for (target, property) in PROPERTIES {
        for input in corpus(target) {
            (0..input.len()).for_each(|length| property(&input[..length]));
        }
    }
    let limits = binary::Limits::default();
    for input in corpus("broker_value") {
        if binary::decode(&input, &limits).is_ok() {
            for length in 0..input.len() {
                let error = binary::decode(&input[..length], &limits).unwrap_err();
                assert!(error.problem.is_incomplete(), "{input:02x?} cut to {length}: {error}");
            }
        }
    }
    let limits = json::Limits::default();
    for input in corpus("broker_json") {
        let input = input.trim_ascii_end();
        if json::read_value(input, &limits).is_ok() {
            for length in 0..input.len() {
                let error = json::read_value(&input[..length], &limits).unwrap_err();
                // Half a word is no word; everything else could have gone on.
                assert!(
                    matches!(error.problem, json::Problem::Incomplete | json::Problem::Word(_)),
                    "{:?} cut to {length}: {error}",
                    String::from_utf8_lossy(input)
                );
            }
        }
    }
    for input in corpus("broker_envelope") {
        for length in 0..37 {
            assert!(Envelope::decode(&input[..length]).is_err());
        }
    }
    for message in corpus("broker_handshake").iter().filter(|input| HandshakeMessage::decode(input).is_ok()) {
        let whole = HandshakeMessage::decode(message).unwrap().encode().unwrap();
        for length in 4..whole.len() {
            let cut = HandshakeMessage::decode(&whole[4..length]);
            // A probe's magic number is checked and then nothing is left of it to miss.
            assert!(cut.is_err(), "{whole:02x?} cut to {length} is {cut:?}");
        }
    }
}

#[derive(Debug, Clone)]
enum Change {
    Set(prop::sample::Index, u8),
    Flip(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (at(), 0..8u8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        (at(), prop::collection::vec(any::<u8>(), 1..9)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (at(), 1..16usize).prop_map(|(at, count)| Change::Remove(at, count)),
        (at(), 1..64usize).prop_map(|(at, count)| Change::Repeat(at, count)),
    ]
}

fn changed(mut input: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        if input.is_empty() {
            break;
        }
        match change {
            Change::Set(at, byte) => *at.get_mut(&mut input) = *byte,
            Change::Flip(at, bit) => *at.get_mut(&mut input) ^= 1 << bit,
            Change::Insert(at, bytes) => {
                let at = at.index(input.len());
                input.splice(at..at, bytes.iter().copied());
            }
            Change::Remove(at, count) => {
                let at = at.index(input.len());
                input.drain(at..(at + count).min(input.len()));
            }
            Change::Repeat(at, count) => {
                let at = at.index(input.len());
                let piece = input[at..(at + count).min(input.len())].to_vec();
                input.splice(at..at, piece);
            }
        }
    }
    input
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn random_changes_to_real_input_do_no_harm(
        target in 0..PROPERTIES.len(),
        input in any::<prop::sample::Index>(),
        changes in prop::collection::vec(change(), 1..6),
    ) {
        let (name, property) = PROPERTIES[target];
        let inputs = corpus(name);
        property(&changed(input.get(&inputs).clone(), &changes));
    }

    #[test]
    fn random_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        PROPERTIES.iter().for_each(|(_, property)| property(&bytes));
    }
}

/// The most memory this process has used, in MiB.
fn peak_memory() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() / 1024
}

/// Texts and frames of the largest size that are built to cost the most.
#[test]
fn the_worst_input_is_bounded_in_memory_and_time() {
    let limits = binary::Limits::default();
    let size = 16 * 1024 * 1024;
    let before = peak_memory();
    let started = Instant::now();
    // Announces as many elements as can be, all of one byte.
    let varbyte = |mut value: usize| {
        let mut out = Vec::new();
        while value > 0x7f {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
        out
    };
    let wide = |elements: usize| [vec![0x0e], varbyte(elements), vec![0; elements]].concat();
    assert_eq!(binary::decode(&wide(size), &limits).unwrap_err().problem, Problem::Values { limit: limits.values });
    assert!(binary::decode(&wide(limits.values - 1), &limits).is_ok());
    // Small containers inside each other, as many as the limit lets through.
    let small = [&[0x0e][..], &varbyte(limits.values / 2 - 1), &[0x0c, 1, 0].repeat(limits.values / 2 - 1)].concat();
    assert!(binary::decode(&small, &limits).is_ok());
    let bomb = [0x0e, 0xff, 0xff, 0xff, 0xff, 0x0f].repeat(size / 6);
    assert!(binary::decode(&bomb, &limits).is_err());

    let limits = json::Limits::default();
    let fill = |piece: &str| {
        let property = piece.repeat((limits.bytes - 64) / piece.len());
        format!("{{\"@data-type\":\"vector\",\"data\":[{}]}}", property.trim_end_matches(','))
    };
    for piece in [
        "0,",
        "[],",
        "{},",
        "\"\",",
        "{\"@data-type\":\"none\"},",
        "{\"data\":[],\"@data-type\":\"set\"},",
        "\\",
        "\"",
        "1",
    ] {
        _ = json::read_value(fill(piece).as_bytes(), &limits);
    }
    // Types after their data, at every level: reading must not go over the same text again and again.
    let deep = format!("{}{}", "{\"data\":[".repeat(64), "],\"@data-type\":\"vector\"}".repeat(64));
    assert!(json::read_value(deep.as_bytes(), &limits).is_ok());
    let keys = format!("{{{}\"@data-type\":\"none\"}}", "\"k\":0,".repeat(500_000));
    assert!(json::read_value(keys.as_bytes(), &limits).is_ok());

    let (grown, took) = (peak_memory().saturating_sub(before), started.elapsed());
    println!("worst input: {grown} MiB more at the peak, {took:?} for all");
    assert!(grown < 256, "{grown} MiB");
    assert!(took < Duration::from_secs(60), "{took:?}");
}
