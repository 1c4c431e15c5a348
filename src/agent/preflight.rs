//! Carries out checks before changes: one at a time, and what has passed is not run again until something has changed.
//!
//! A check belongs to the request that it is for. A newer one, or the word that nobody waits for it any more, ends it at once;
//! so does the end of the agent. Results are remembered for this run only.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::api::ids::Seq;
use crate::api::launch::LaunchSpec;
use crate::api::preflight::{Check, Needs, Preflight, PreflightProblem, PreflightReport};
use crate::lifecycle::Input;
use crate::supervisor;
use crate::supervisor::check::Checker;
use crate::tasks::{OnExit, Tasks, blocking};

/// Results that are remembered.
const REMEMBERED: usize = 256;
/// Files and directories that are looked at to find out whether scripts have changed. Where there are more, checks are run
/// each time.
const LOOKED_AT: usize = 20_000;
const DEPTH: usize = 16;

/// Begins and ends checks. Its methods never wait, but for [`Preflights::check_host`].
#[derive(Clone)]
pub(super) struct Preflights(Arc<Shared>);

struct Shared {
    checker: Checker,
    tasks: Tasks,
    results: mpsc::Sender<(Seq, PreflightReport)>,
    /// Ends the check that is under way for a request.
    current: Mutex<Option<(Seq, CancellationToken)>>,
    /// Ends the one that an operator asked for.
    asked: Mutex<CancellationToken>,
    turn: tokio::sync::Mutex<()>,
    passed: Mutex<BTreeMap<[u8; 32], u64>>,
    address: Option<std::net::IpAddr>,
}

impl Preflights {
    /// `address`: where nodes listen, if not everywhere.
    pub fn new(
        supervisor: &supervisor::Handle,
        tasks: Tasks,
        results: mpsc::Sender<(Seq, PreflightReport)>,
        address: Option<std::net::IpAddr>,
    ) -> Self {
        Self(Arc::new(Shared {
            checker: supervisor.checker(),
            tasks,
            results,
            current: Mutex::default(),
            asked: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            passed: Mutex::default(),
            address,
        }))
    }

    /// Begins the check for the request `of`, in place of any other.
    pub fn begin(&self, of: Seq, order: Preflight) {
        let token = CancellationToken::new();
        let before = lock(&self.0.current).replace((of, token.clone()));
        if let Some((_, before)) = before {
            before.cancel();
        }
        lock(&self.0.asked).cancel();
        let shared = Arc::clone(&self.0);
        self.0.tasks.spawn("a check before a change", OnExit::FatalByPanic, |stop| async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = token.cancelled() => {}
                report = shared.run(&order) => {
                    // Nobody receives it when the agent ends; its next run checks again.
                    let _ = shared.results.send((of, report)).await;
                }
            }
        });
    }

    /// Nobody waits for the check of the request `of` any more.
    pub fn end(&self, of: Seq) {
        if let Some((_, token)) = lock(&self.0.current).take_if(|(current, _)| *current == of) {
            token.cancel();
        }
    }

    /// Checks without a change. A change's own check goes first.
    pub async fn check_host(&self, order: Preflight) -> Result<PreflightReport, String> {
        let token = CancellationToken::new();
        *lock(&self.0.asked) = token.clone();
        let is_busy = lock(&self.0.current).is_some();
        if is_busy && self.0.turn.try_lock().is_err() {
            return Err("a change is being checked at the moment; try again when it is done".to_owned());
        }
        tokio::select! {
            () = token.cancelled() => Err("another check took the place of this one; try again".to_owned()),
            report = self.0.run(&order) => Ok(report),
        }
    }
}

/// Passes results on to the driver.
pub(super) async fn pass_on(
    mut results: mpsc::Receiver<(Seq, PreflightReport)>,
    inputs: mpsc::Sender<Input>,
    token: CancellationToken,
) {
    loop {
        let result = tokio::select! {
            () = token.cancelled() => return,
            result = results.recv() => result,
        };
        let Some((of, report)) = result else { return };
        if inputs.send(Input::PreflightEnded { of, report: Box::new(report) }).await.is_err() {
            return;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    async fn run(&self, order: &Preflight) -> PreflightReport {
        let begun = Instant::now();
        let _turn = self.turn.lock().await;
        let deadline = begun + Duration::from_millis(order.timeout_ms);
        let mut report = PreflightReport { problems: order.problems.clone(), ..PreflightReport::default() };
        let (needs, own_ports, address) = (order.needs.clone(), order.own_ports.clone(), self.address);
        report.problems.extend(blocking(move || of_host(&needs, &own_ports, address)).await);
        for check in &order.checks {
            self.look(check, order, deadline, &mut report).await;
        }
        report.skipped = order.skipped;
        report.took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        report
    }

    async fn look(&self, check: &Check, order: &Preflight, deadline: Instant, report: &mut PreflightReport) {
        let nodes = || check.nodes.iter().map(ToString::to_string).collect();
        let problem = |text| PreflightProblem { nodes: nodes(), text };
        let program = match self.checker.program(&check.spec) {
            Ok(program) => program,
            Err(text) => {
                report.problems.push(problem(text));
                return;
            }
        };
        let Some(program) = program.filter(|_| check.is_run) else { return };
        let spec = check.spec.clone();
        let stamp = blocking(move || stamp(&spec, &program)).await;
        if stamp.is_some_and(|stamp| lock(&self.passed).contains_key(&stamp)) {
            report.cached += 1;
            return;
        }
        let outcome = self.checker.run(check.spec.clone(), order.node_cpus.clone(), deadline).await;
        report.ran += 1;
        report.cpu_ms += outcome.cpu_ms;
        match (outcome.problem, stamp) {
            (Some(text), _) => report.problems.push(problem(text)),
            (None, Some(stamp)) => self.remember(stamp),
            (None, None) => {}
        }
    }

    fn remember(&self, stamp: [u8; 32]) {
        let mut passed = lock(&self.passed);
        let next = passed.values().max().map_or(0, |newest| newest + 1);
        passed.insert(stamp, next);
        if passed.len() > REMEMBERED
            && let Some(oldest) = passed.iter().min_by_key(|(_, age)| **age).map(|(stamp, _)| *stamp)
        {
            passed.remove(&oldest);
        }
    }
}

/// What nodes need and this host does not have.
fn of_host(needs: &[Needs], own_ports: &[u16], address: Option<std::net::IpAddr>) -> Vec<PreflightProblem> {
    let mut problems = Vec::new();
    for one in needs {
        let mut tell = |text| problems.push(PreflightProblem { nodes: vec![one.node.to_string()], text });
        if let Some(interface) = &one.interface
            && !has_interface(interface)
        {
            tell(format!("this host has no network interface {interface}; `ip link` shows those it has"));
        }
        let ports: Vec<u16> = one.ports.iter().copied().filter(|port| !own_ports.contains(port)).collect();
        match supervisor::ports::taken(&ports, address) {
            Ok(None) => {}
            Ok(Some(taken)) => tell(taken),
            // It is looked at again before the start, which says why it cannot be.
            Err(error) => tracing::warn!(%error, "ports were not checked before the change"),
        }
    }
    problems
}

fn has_interface(name: &str) -> bool {
    let is_name = !name.is_empty() && !name.contains('/') && name != "." && name != "..";
    is_name && Path::new("/sys/class/net").join(name).exists()
}

/// What a check depends on: how it is run, the program, and the scripts' times. `None`: there is too much to look at.
fn stamp(spec: &LaunchSpec, program: &Path) -> Option<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&rmp_serde::to_vec_named(spec).ok()?);
    let mut left = LOOKED_AT;
    for path in looked_at(spec, program) {
        add(&mut hasher, &path, DEPTH, &mut left)?;
    }
    Some(*hasher.finalize().as_bytes())
}

/// The program, the site's scripts, the directories of ZEEKPATH, and scripts that are named by their path.
fn looked_at(spec: &LaunchSpec, program: &Path) -> Vec<PathBuf> {
    let real = fs::canonicalize(program).unwrap_or_else(|_| program.to_owned());
    let site = real.parent().and_then(Path::parent).map(|prefix| prefix.join("share/zeek/site"));
    let search = spec.env.get("ZEEKPATH").map(|path| path.split(':').filter(|part| part.starts_with('/')));
    let named = spec.args.iter().filter(|arg| arg.starts_with('/'));
    std::iter::once(real)
        .chain(site)
        .chain(search.into_iter().flatten().map(PathBuf::from))
        .chain(named.flat_map(|name| [name.clone(), format!("{name}.zeek")]).map(PathBuf::from))
        .collect()
}

fn add(hasher: &mut blake3::Hasher, path: &Path, depth: usize, left: &mut usize) -> Option<()> {
    *left = left.checked_sub(1)?;
    hasher.update(path.as_os_str().as_encoded_bytes());
    let Ok(metadata) = fs::metadata(path) else {
        hasher.update(b"absent");
        return Some(());
    };
    for number in [metadata.ino(), metadata.size()] {
        hasher.update(&number.to_le_bytes());
    }
    for number in [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()] {
        hasher.update(&number.to_le_bytes());
    }
    if metadata.is_dir() {
        let depth = depth.checked_sub(1)?;
        let mut entries: Vec<PathBuf> = fs::read_dir(path).ok()?.flatten().map(|entry| entry.path()).collect();
        entries.sort();
        for entry in entries {
            add(hasher, &entry, depth, left)?;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_interfaces_that_there_are_exist() {
        assert!(has_interface("lo"));
        for name in ["", ".", "..", "../net/lo", "lo/", "nosuch0"] {
            assert!(!has_interface(name), "{name}");
        }
    }

    #[test]
    fn a_script_that_is_new_gone_or_written_again_makes_another_stamp() {
        let site = tempfile::tempdir().unwrap();
        let of = |site: &Path| {
            let mut hasher = blake3::Hasher::new();
            add(&mut hasher, site, DEPTH, &mut LOOKED_AT.clone()).map(|()| *hasher.finalize().as_bytes())
        };
        let mut seen = vec![of(site.path()).unwrap()];
        let script = site.path().join("packages/a.zeek");
        fs::create_dir(site.path().join("packages")).unwrap();
        fs::write(&script, "1").unwrap();
        seen.push(of(site.path()).unwrap());
        fs::write(&script, "22").unwrap();
        seen.push(of(site.path()).unwrap());
        fs::remove_file(&script).unwrap();
        seen.push(of(site.path()).unwrap());
        assert_eq!(of(site.path()).unwrap(), seen[3], "nothing has changed");
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), count);
        assert_eq!(add(&mut blake3::Hasher::new(), site.path(), DEPTH, &mut 1), None, "there is a bound");
    }
}
