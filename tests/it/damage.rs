//! Random damage to a journal's files, through the real binary: an agent starts on it or says why not; what it answers from
//! the journal is what was answered before; what is lost is told. Never a panic that ends it, never silence.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use zeek_cluster_agent::api::event::{Dialect, Request, Response};
use zeek_cluster_agent::control::client::{Answer, Client, within_ms};

use crate::support::{Host, copy_dir, eventually};

/// How many journals are damaged; more with the environment variable of this name.
const SEEDS: &str = "JOURNAL_DAMAGE_SEEDS";
const REQUESTS: u64 = 60;

/// xorshift64*, so that a seed tells all.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % end.max(1)
    }
}

/// State directories of an agent that was stopped and of one that was killed, and what was answered.
struct Past {
    host: Host,
    answers: Vec<Response>,
}

fn past() -> Past {
    let host = Host::new();
    let mut answers = Vec::new();
    for run in 0..3 {
        let agent = host.start();
        for number in 0..REQUESTS / 3 {
            answers.push(host.ask(&format!("r{run}-{number}"), Request::GetNodes {}));
        }
        if run == 1 {
            agent.signal(rustix::process::Signal::TERM);
            agent.wait();
            copy_dir(&host.state_dir(), &host.dir.path().join("stopped"));
        } else {
            agent.kill();
        }
    }
    copy_dir(&host.state_dir(), &host.dir.path().join("killed"));
    Past { host, answers }
}

/// Damages a file of the journal, or its side file; says how.
fn damage(state_dir: &Path, random: &mut Random) -> String {
    let journal = state_dir.join("journal");
    let mut files: Vec<PathBuf> =
        fs::read_dir(&journal).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect();
    files.sort();
    // The database itself more often than not.
    let file = match random.below(4) {
        0 => files[random.below(files.len() as u64) as usize].clone(),
        1 if random.below(3) == 0 => state_dir.join("journal.mark"),
        _ => journal.join("db"),
    };
    let length = fs::metadata(&file).unwrap().len();
    let open = || OpenOptions::new().write(true).read(true).open(&file).unwrap();
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    match random.below(8) {
        0 => {
            fs::remove_file(&file).unwrap();
            format!("{name} removed")
        }
        1 | 2 => {
            let left = random.below(length);
            open().set_len(left).unwrap();
            format!("{name} cut from {length} to {left}")
        }
        3 | 4 => {
            let at = random.below(length) / 4096 * 4096;
            let zeros = vec![0; usize::try_from((length - at).min(4096)).unwrap()];
            open().write_all_at(&zeros, at).unwrap();
            format!("{name} zeroed at {at} of {length}")
        }
        _ => {
            let mut told = Vec::new();
            for _ in 0..=random.below(4) {
                let at = random.below(length);
                let mut byte = [0];
                open().read_exact_at(&mut byte, at).unwrap();
                byte[0] ^= 1 << random.below(8);
                open().write_all_at(&byte, at).unwrap();
                told.push(at.to_string());
            }
            format!("{name} flipped at {} of {length}", told.join(", "))
        }
    }
}

#[test]
fn damaged_files_are_never_silent_and_never_give_a_wrong_answer() {
    let seeds: u64 = std::env::var(SEEDS).ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    let past = past();
    let mut counts = std::collections::BTreeMap::<&str, u64>::new();
    for seed in 1..=seeds {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (name, answered) = match random.below(2) {
            0 => ("stopped", REQUESTS as usize / 3 * 2),
            _ => ("killed", REQUESTS as usize),
        };
        let host = Host::new();
        copy_dir(&past.host.dir.path().join(name), &host.state_dir());
        let how = damage(&host.state_dir(), &mut random);
        let what = format!("seed {seed}, {name}, {how}");
        let outcome = check(&host, &past.answers[..answered], &what);
        *counts.entry(outcome).or_default() += 1;
    }
    println!("{seeds} journals damaged: {counts:?}");
}

/// What became of it, in a word.
fn check(host: &Host, answers: &[Response], what: &str) -> &'static str {
    // Looking at it first ends by itself, and changes nothing.
    let looked = host.run(&["journal", "verify"]);
    assert!(matches!(looked.code, 0 | 1), "{what}: {looked:?}");
    let mut ended = 0;
    // Damage that no start reads is met by a lookup, which ends the agent; the next start makes the best of it.
    while ended < 3 {
        let mut agent = host.spawn();
        let status = eventually(&format!("{what}: the agent to serve or to end"), || {
            agent.child.try_wait().unwrap().map(Some).or_else(|| {
                let served = Client::connect(&host.socket(), "test").and_then(|mut client| client.status(soon()));
                served.is_ok_and(|status| status.serving).then_some(None)
            })
        });
        if let Some(status) = status {
            let log = host.read_log();
            assert!(matches!(status.code(), Some(1 | 78)) && log.contains("journal"), "{what}: {status}\n{log}");
            return "refused";
        }
        if let Some(told) = answered(host, answers, what) {
            let problems = host.json(&["journal", "verify", "--json"])["problems"].as_array().unwrap().len();
            assert!(problems == 0 || (looked.code == 1 && !told), "{what}: {problems} problems after {looked:?}");
            return match (told, looked.code, ended) {
                (true, _, _) => "told at the start",
                (false, 0, 0) => "whole",
                (false, _, _) => "told by verify",
            };
        }
        let status = agent.wait();
        assert_eq!(status.code(), Some(1), "{what}: {}", host.read_log());
        assert!(host.read_log().contains("the journal cannot be read"), "{what}: {}", host.read_log());
        ended += 1;
    }
    panic!("{what}: the agent ended {ended} times:\n{}", host.read_log());
}

fn soon() -> zeek_cluster_agent::control::client::Deadline {
    within_ms(30_000)
}

/// Asks everything again; whether the agent says that something is lost. `None`: it ended.
fn answered(host: &Host, answers: &[Response], what: &str) -> Option<bool> {
    let mut client = Client::connect(&host.socket(), "test").ok()?;
    let told = client.status(soon()).ok()?.hold.is_some();
    for (number, answer) in answers.iter().enumerate() {
        let name = answer.reqid.as_str();
        let request = Request::GetNodes {};
        let now = match client.request(name, request, Dialect::Management, None, soon()).ok()? {
            Answer::Response(response) => response,
            Answer::Refused(reason) => panic!("{what}: refused: {reason}"),
        };
        if now == *answer {
            continue;
        }
        assert!(told, "{what}: answer {number}, {answer:?}, is lost, and nobody says so: {now:?}");
        let lost = |error: &String| error.contains("was lost when the agent's journal was damaged");
        let is_told = now.results.iter().any(|result| result.error.as_ref().is_some_and(lost));
        // Handled anew: it names this agent's process, as no earlier answer does.
        let is_new = !answers.iter().any(|other| other.results == now.results);
        assert!(is_told || is_new, "{what}: answer {number} was {answer:?} and is {now:?}");
    }
    Some(told)
}
