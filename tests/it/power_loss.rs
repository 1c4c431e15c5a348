//! Power cuts (P1, P2), offline: one run of the real binary is recorded with all that it writes, and cut at many points.
//! Of what was not synced by then, anything may be left; of what was answered by then, nothing may be missing.

mod disk;
mod trace;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use zeek_cluster_agent::api::event::{Dialect, Request};
use zeek_cluster_agent::api::ids::ReqId;
use zeek_cluster_agent::control::client::{Answer, Client, within_ms};
use zeek_cluster_agent::journal::entry::{Known, Stored};
use zeek_cluster_agent::journal::{Journal, Opened, Options};

use crate::random::Random;
use crate::support::{Host, cluster, eventually, is_alive, kill, set};
use crate::websocket::{BOTH, Ws, address};
use trace::{Call, What};

const CUTS: usize = 100;
/// The calls that create a journal are few, and each call may be lost in many ways.
const CUTS_OF_A_START: usize = 600;
const REQUESTS: usize = 300;
const IN_FLIGHT: usize = 8;
const COMPACTIONS: usize = 3;
const REQID: &[u8] = b"power-";
/// Behind `power-`, always.
const DIGITS: usize = 4;

/// What happens to the journal while it is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    /// It is copied into fresh files, again and again.
    Compactions,
}

/// Runs an agent under load and records all that it does. Gives the calls and the number of lines.
fn record(host: &Host, beside: Beside) -> (Vec<Call>, usize) {
    let text = recorded(host, |client| {
        std::thread::scope(|scope| {
            if beside == Beside::Compactions {
                scope.spawn(|| {
                    let mut client = host.client();
                    for _ in 0..COMPACTIONS {
                        client.compact(true, within_ms(60_000)).unwrap();
                    }
                });
            }
            load(client);
        });
    });
    trace::read(&text)
}

/// Runs an agent, kills it once `work` is done unless that was its end, and gives the record of all that it did.
fn recorded(host: &Host, work: impl FnOnce(&mut Client)) -> String {
    let record = host.dir.path().join("trace");
    let mut command = Command::new("strace");
    host.prepare(&mut command);
    command.args(trace::ARGS).arg("-o").arg(&record).arg(&host.binary).args(host.run_args());
    let mut strace = command.stdout(Stdio::null()).stderr(host.log()).spawn().expect("strace is installed");
    let mut client = eventually("the recorded agent to serve", || {
        let mut client = Client::connect(&host.socket(), "test").ok()?;
        client.status(within_ms(5_000)).ok()?.serving.then_some(client)
    });
    work(&mut client);
    let pid = client.welcome().pid;
    kill(pid, Signal::KILL, Some(&host.mark));
    eventually("the recorded agent's end", || (!is_alive(pid)).then_some(()));
    // The record ends with the last of those that it is of.
    for pid in [host.shims(), host.node_processes("w1")].concat() {
        kill(pid, Signal::KILL, Some(&host.mark));
    }
    strace.wait().unwrap();
    fs::read_to_string(record).unwrap()
}

fn load(client: &mut Client) {
    let mut flying = VecDeque::new();
    for number in 0..REQUESTS {
        // Every tenth is refused after it was planned, and too long for one row: two commits, and pieces.
        let (request, dialect) = match number % 10 {
            3 => (set(large(number)), Dialect::Management),
            _ => (Request::AgentWelcome {}, Dialect::ClusterAgent),
        };
        flying.push_back(client.submit(&format!("power-{number:04}"), request, dialect, None).unwrap());
        if flying.len() == IN_FLIGHT {
            finish(client, flying.pop_front().unwrap());
        }
    }
    for call in flying {
        finish(client, call);
    }
}

fn finish(client: &mut Client, call: u64) {
    match client.answer(call, within_ms(30_000)).unwrap() {
        Answer::Response(_) => {}
        Answer::Refused(reason) => panic!("refused: {reason}"),
    }
}

/// A configuration that is rejected, of more than a row's size.
fn large(number: usize) -> zeek_cluster_agent::api::configuration::Configuration {
    let mut config = cluster(&[("w1", "")]);
    config.id = format!("{number:06000}");
    for node in &mut config.nodes {
        node.instance = "elsewhere".to_owned();
    }
    config
}

/// The requests whose response was on its way at each line: the line, and the reqid.
fn answers(calls: &[Call]) -> Vec<(usize, String)> {
    let mut seen = BTreeSet::new();
    let mut answers = Vec::new();
    for call in calls {
        let What::Sent { data } = &call.what else { continue };
        for at in (0..data.len()).filter(|at| data[*at..].starts_with(REQID)) {
            let Some(id) = data.get(at..at + REQID.len() + DIGITS) else { continue };
            let id = String::from_utf8(id.to_vec()).unwrap();
            if seen.insert(id.clone()) {
                answers.push((call.entered, id));
            }
        }
    }
    answers
}

/// What was answered in a record: how many requests, and where the journal has what it was.
#[derive(Clone, Copy)]
struct Answered {
    requests: usize,
    stored: fn(Known) -> Option<Stored>,
}

const OUTCOMES: Answered = Answered { requests: REQUESTS, stored: |known| known.outcome };
const DEADLINES: Answered = Answered { requests: 8, stored: |known| known.deadline };

/// Requests that are answered at their deadline, each superseded by the next.
fn be_told_at_deadlines(host: &Host) {
    let mut ws = Ws::connect(address(host, 1), &BOTH);
    for number in 0..DEADLINES.requests {
        let mut config = cluster(&[("w1", "env = SIM_NOT_READY=1")]);
        config.id = format!("configuration-{number}");
        let reqid = format!("power-{number:04}");
        ws.ask(Dialect::Management, &reqid, &Request::Deploy { config, force: true, how: Box::default() });
        let (_, _, told) = ws.response(&reqid);
        assert!(told.results.iter().any(|one| one.error.as_deref() == Some("request timed out")), "{told:?}");
    }
}

/// What one image lacks: answered requests, or the journal as a whole.
fn missing(image: &Path, answered: &BTreeSet<&str>, kept: Answered) -> Vec<String> {
    let options = Options { ballast_bytes: 0, request_floor: 0, fact_floor: 0, ..Options::default() };
    let state_dir = image.join("state");
    if !state_dir.is_dir() {
        return answered.iter().map(|id| (*id).to_owned()).collect();
    }
    let Opened { journal, condition, .. } = match Journal::<u64>::open(&state_dir, &options) {
        Ok(opened) => opened,
        Err(error) => return vec![format!("the journal: {error}")],
    };
    let mut missing: Vec<String> = Vec::new();
    if !condition.is_whole() {
        missing.push(format!("the journal's integrity: {condition}"));
    }
    for id in answered {
        let known = journal.lookup(&ReqId::new(*id).unwrap()).ok().flatten();
        let stored = known
            .and_then(kept.stored)
            .is_some_and(|stored| stored.answer.kept().is_some_and(|kept| kept.reqid.as_str() == *id));
        if !stored {
            missing.push((*id).to_owned());
        }
    }
    missing.extend(journal.reader().verify(None).unwrap().problems);
    missing
}

/// Some while it starts, most while it works.
fn mostly_at_work(number: usize, answered: usize, lines: usize) -> Range<usize> {
    if number.is_multiple_of(10) { 0..lines } else { answered..lines }
}

/// Cuts the power so many times, and gives what was missing after each cut where anything was. `place`: the lines among
/// which a cut lies, from its number, the line of the first answer and how many lines there are.
fn cut(host: &Host, cuts: usize, place: impl Fn(usize, usize, usize) -> Range<usize>) -> BTreeMap<usize, Vec<String>> {
    let (calls, lines) = record(host, Beside::Nothing);
    cut_recorded(host, (&calls, lines), OUTCOMES, cuts, place)
}

/// As [`cut`], of a run that was recorded.
fn cut_recorded(
    host: &Host,
    (calls, lines): (&[Call], usize),
    kept: Answered,
    cuts: usize,
    place: impl Fn(usize, usize, usize) -> Range<usize>,
) -> BTreeMap<usize, Vec<String>> {
    let answers = answers(calls);
    assert_eq!(answers.len(), kept.requests, "every answer is seen in the record");
    let root = host.dir.path().canonicalize().unwrap();
    let mut random = Random::new(lines as u64);
    let mut losses = BTreeMap::new();
    for number in 0..cuts {
        let lines = place(number, answers[0].0, lines);
        let at = lines.start + random.index(lines.len());
        let image = tempfile::tempdir().unwrap();
        disk::leave(calls, &root, at, &mut random, image.path());
        let answered: BTreeSet<&str> =
            answers.iter().filter(|(line, _)| *line < at).map(|(_, id)| id.as_str()).collect();
        let missing = missing(image.path(), &answered, kept);
        if !missing.is_empty() {
            losses.insert(at, missing);
        }
    }
    println!(
        "{cuts} cuts of a record of {lines} lines and {} answers; something was missing after {}",
        kept.requests,
        losses.len()
    );
    losses
}

#[test]
fn a_power_cut_loses_nothing_that_was_answered() {
    let losses = cut(&Host::new(), CUTS, mostly_at_work);
    assert!(losses.is_empty(), "line of the cut, what was missing after it: {losses:#?}");
}

#[test]
fn a_power_cut_loses_nothing_that_was_told_at_a_deadline() {
    let mut host = Host::new();
    host.set("ZCA_WEBSOCKET", "127.0.0.1:0").set("ZCA_REQUEST_TIMEOUT", "300ms");
    let text = recorded(&host, |_| be_told_at_deadlines(&host));
    let (calls, lines) = trace::read(&text);
    let losses = cut_recorded(&host, (&calls, lines), DEADLINES, CUTS, mostly_at_work);
    assert!(losses.is_empty(), "line of the cut, what was missing after it: {losses:#?}");
}

#[test]
fn a_power_cut_while_a_first_start_creates_the_journal_is_no_damage() {
    let losses = cut(&Host::new(), CUTS_OF_A_START, |_, answered, _| 0..answered + 20);
    assert!(losses.is_empty(), "line of the cut, what was missing after it: {losses:#?}");
}

#[test]
fn a_power_cut_while_the_journal_is_compacted_leaves_it_or_its_copy_and_all_that_was_answered() {
    let host = Host::new();
    let (calls, lines) = record(&host, Beside::Compactions);
    // From when the first copy is announced until the last one's original is gone.
    let pointers: Vec<usize> = calls
        .iter()
        .filter(|call| matches!(&call.what, What::Rename { to, .. } if to.ends_with("journal.current")))
        .map(|call| call.left)
        .collect();
    // Announced, in place, and nothing to be removed any more.
    assert_eq!(pointers.len(), 3 * COMPACTIONS, "{pointers:?}");
    let compacting = pointers[0]..pointers[pointers.len() - 1] + 1;
    let losses = cut_recorded(&host, (&calls, lines), OUTCOMES, 3 * CUTS, |number, answered, lines| match number % 3 {
        // Around a pointer's replacement, where it matters most which of the two is there.
        0 => {
            let pointer = pointers[number / 3 % pointers.len()];
            pointer.saturating_sub(20)..(pointer + 20).min(lines)
        }
        1 => compacting.clone(),
        _ => mostly_at_work(number, answered, lines),
    });
    assert!(losses.is_empty(), "line of the cut, what was missing after it: {losses:#?}");
}

/// What the next start finds was renamed, and may not be there after a power cut.
#[test]
#[cfg(feature = "crash-points")]
fn a_power_cut_while_a_start_clears_up_after_a_compaction_that_was_killed_leaves_one_of_the_two() {
    let mut host = Host::new();
    let once = host.dir.path().join("crashed").display().to_string();
    host.set("ZCA_CRASH_AT", "after_pointer_rename:2").set("ZCA_CRASH_ONCE", &once);
    let mut text = recorded(&host, |client| {
        load(client);
        client.compact(true, within_ms(60_000)).unwrap_err();
    });
    let killed = text.lines().count();
    text += &recorded(&host, |_| {});
    let (calls, lines) = trace::read(&text);
    let removed = calls.iter().filter(|call| matches!(call.what, What::Unlink { .. } | What::RemoveDir { .. }));
    let removed: Vec<usize> = removed.map(|call| call.left).filter(|line| *line > killed).collect();
    let clearing = removed[0]..(removed[removed.len() - 1] + 20).min(lines);
    let losses = cut_recorded(&host, (&calls, lines), OUTCOMES, 3 * CUTS, |_, _, _| clearing.clone());
    assert!(losses.is_empty(), "line of the cut, what was missing after it: {losses:#?}");
}

/// The harness is known to see a missing fdatasync.
#[test]
#[cfg(feature = "crash-points")]
fn without_fdatasync_a_power_cut_loses_answers_and_this_test_sees_it() {
    let mut host = Host::new();
    host.set("ZCA_SKIP_SYNC", "1");
    let losses = cut(&host, CUTS, mostly_at_work);
    assert!(losses.len() > CUTS / 4, "only {} of {CUTS} cuts lost anything", losses.len());
}
