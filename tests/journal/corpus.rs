//! The fuzz targets of journal values and of exported journals, without a fuzzer: their corpora, mutations of the samples of
//! the format and of an export.

use std::fs;
use std::path::{Path, PathBuf};

use crate::random::Random;

#[path = "../../fuzz/properties/journal_record.rs"]
mod journal_record;

#[path = "../../fuzz/properties/journal_export.rs"]
mod journal_export;

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn mutate(random: &mut Random, mutated: &mut Vec<u8>) {
    for _ in 0..=random.below(4) {
        let at = (random.next() as usize) % mutated.len();
        match random.below(4) {
            0 => mutated[at] ^= 1 << random.below(8),
            1 => mutated[at] = 0xff,
            2 => drop(mutated.remove(at)),
            _ => mutated.insert(at, random.next() as u8),
        }
    }
}

#[test]
fn exports_hold() {
    let mut random = Random::new(2);
    let files = files("fuzz/corpus/journal_export");
    assert!(files.len() > 5);
    for file in files {
        let bytes = fs::read(file).unwrap();
        journal_export::holds(&bytes);
        for _ in 0..200 {
            let mut mutated = bytes.clone();
            mutated.push(0);
            mutate(&mut random, &mut mutated);
            journal_export::holds(&mutated);
        }
    }
}

#[test]
fn the_corpus_holds() {
    let files = files("fuzz/corpus/journal_record");
    assert!(files.len() > 10);
    for file in files {
        journal_record::holds(&fs::read(file).unwrap());
    }
}

#[test]
fn mutated_samples_hold() {
    let mut random = Random::new(1);
    let formats = ["0001_initial", "0002_chain", "0003_answers"];
    let samples = formats.map(|format| format!("migrations/{format}/entries"));
    for file in samples.into_iter().flat_map(|folder| files(&folder)) {
        let mut seed = vec![9];
        seed.extend_from_slice(b"L\0\0\0\0\0\0\0\x11");
        seed.extend_from_slice(&fs::read(file).unwrap());
        let mut bare = seed.clone();
        // The body directly after its kind, as its reader is handed it.
        bare.drain(11..33);
        for original in [seed, bare] {
            for _ in 0..300 {
                let mut mutated = original.clone();
                mutate(&mut random, &mut mutated);
                journal_record::holds(&mutated);
            }
        }
    }
}
