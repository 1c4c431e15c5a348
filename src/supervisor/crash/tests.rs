use super::*;
use std::os::unix::fs::symlink;

fn crash(directory: &Path, incarnation: u64, noticed: &str) -> Crash {
    let exit = Exit {
        cause: ExitCause::Signal(11),
        ran_ms: 5,
        stdout: "out".into(),
        stderr: "err".into(),
        is_lasting: false,
        circumstances: super::super::files::Circumstances::default(),
    };
    Crash {
        node: NodeName::new("w1").unwrap(),
        incarnation: Incarnation(incarnation),
        process: Some(ProcessId { boot_id: "b".into(), pid: 77, start_time: 1 }),
        exit,
        launch: Some((super::super::files::tests::launch(), 0)),
        limits: None,
        directory: directory.to_owned(),
        noticed: noticed.parse().unwrap(),
    }
}

struct Bench {
    scratch: tempfile::TempDir,
    node_dir: PathBuf,
    store: Store,
}

fn bench(keep: usize) -> Bench {
    let scratch = tempfile::tempdir().unwrap();
    let node_dir = scratch.path().join("nodes/w1");
    fs::create_dir_all(&node_dir).unwrap();
    let options = Options { keep, keep_for: Duration::from_secs(100 * 365 * 24 * 3600), space_floor: 0 };
    let store = Store { directory: scratch.path().join(DIRECTORY), options };
    Bench { scratch, node_dir, store }
}

impl Bench {
    fn reports(&self) -> Vec<CrashReport> {
        list(self.scratch.path(), &NodeName::new("w1").unwrap()).unwrap().0
    }
}

/// A core from before any of the crashes here was noticed.
fn write_core(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    let time = std::time::UNIX_EPOCH + Duration::from_secs(1);
    fs::File::options().append(true).open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn the_newest_are_kept_and_of_cores_the_newest() {
    let Bench { node_dir, store, .. } = &bench(2);
    for (incarnation, time) in [(1, "2026-01-01T00:00:00Z"), (2, "2026-01-01T00:00:01Z"), (3, "2026-01-02T00:00:00Z")] {
        write_core(&node_dir.join("core.77"), &format!("core {incarnation}"));
        store.add(&crash(node_dir, incarnation, time));
        store.prune();
        assert!(!node_dir.join("core.77").exists(), "it was moved");
    }
    let of_node = store.directory.join("w1");
    assert_eq!(report::bundles(&of_node).unwrap(), ["20260102T000000Z-3", "20260101T000001Z-2"]);
    assert_eq!(fs::read_to_string(of_node.join("20260102T000000Z-3/core")).unwrap(), "core 3");
    assert!(!of_node.join("20260101T000001Z-2/core").exists());
    assert_eq!(fs::metadata(&of_node).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn old_ones_go_and_none_is_made_without_space_or_if_none_is_wanted() {
    let mut bench = bench(5);
    bench.store.add(&crash(&bench.node_dir, 1, "2020-01-01T00:00:00Z"));
    assert_eq!(bench.reports().len(), 1);
    bench.store.options.keep_for = Duration::from_secs(3600);
    bench.store.prune();
    assert_eq!(bench.reports(), []);
    bench.store.options.space_floor = u64::MAX;
    bench.store.add(&crash(&bench.node_dir, 2, "2090-01-01T00:00:00Z"));
    assert_eq!(bench.reports(), []);
    bench.store.options = Options { keep: 0, space_floor: 0, ..bench.store.options.clone() };
    bench.store.add(&crash(&bench.node_dir, 3, "2090-01-01T00:00:00Z"));
    assert_eq!(bench.reports(), []);
}

#[test]
fn what_only_looks_like_a_core_is_left_alone() {
    let bench = bench(5);
    let secret = bench.scratch.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    symlink(&secret, bench.node_dir.join("core")).unwrap();
    fs::hard_link(&secret, bench.node_dir.join("core.77")).unwrap();
    bench.store.add(&crash(&bench.node_dir, 1, "2026-01-01T00:00:00Z"));
    let reports = bench.reports();
    assert_eq!(reports[0].core, None);
    assert_eq!((reports[0].cause.as_str(), reports[0].stderr.as_str()), ("signal 11", "err"));
    assert!(bench.node_dir.join("core").is_symlink());
    // One from before this process, and one that was written after it had ended.
    fs::remove_file(bench.node_dir.join("core")).unwrap();
    write_core(&bench.node_dir.join("core"), "another's");
    for (incarnation, launched, noticed) in [(2, 2, "2026-01-01T00:00:01Z"), (3, 0, "1970-01-01T00:00:00Z")] {
        let mut later = crash(&bench.node_dir, incarnation, noticed);
        later.launch = later.launch.map(|(launch, _)| (launch, launched));
        bench.store.add(&later);
        assert!(bench.node_dir.join("core").exists());
    }
    // A pipe is not waited for.
    fs::remove_file(bench.node_dir.join("core")).unwrap();
    rustix::fs::mknodat(CWD, bench.node_dir.join("core"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    bench.store.add(&crash(&bench.node_dir, 4, "2026-01-01T00:00:02Z"));
    assert_eq!(bench.reports().len(), 4);
}

#[test]
fn a_node_directory_that_is_a_link_is_not_followed() {
    let bench = bench(5);
    let elsewhere = bench.scratch.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    write_core(&elsewhere.join("core"), "of somebody else");
    fs::remove_dir(&bench.node_dir).unwrap();
    symlink(&elsewhere, &bench.node_dir).unwrap();
    bench.store.add(&crash(&bench.node_dir, 1, "2026-01-01T00:00:00Z"));
    assert!(elsewhere.join("core").exists());
    assert_eq!(bench.reports()[0].core, None);
}

#[test]
fn the_newest_is_the_last_that_came_whatever_the_clock_says() {
    let bench = bench(2);
    let times = ["2026-01-02T00:00:00Z", "2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z"];
    for (incarnation, time) in (9..).zip(times) {
        bench.store.add(&crash(&bench.node_dir, incarnation, time));
        bench.store.prune();
    }
    let reports = bench.reports();
    let shown: Vec<_> = reports.iter().map(|report| (report.incarnation, report.noticed_at.as_str())).collect();
    assert_eq!(shown, [(11, "2026-01-01T00:00:00.000000Z"), (10, "2026-01-02T00:00:00.000000Z")]);
}

#[test]
fn a_damaged_bundle_does_not_hide_the_others() {
    let bench = bench(5);
    for (incarnation, time) in [(1, "2026-01-01T00:00:00Z"), (2, "2026-01-01T00:00:01Z")] {
        bench.store.add(&crash(&bench.node_dir, incarnation, time));
    }
    fs::write(bench.store.directory.join("w1/20260101T000001Z-2/crash.json"), "{").unwrap();
    let (reports, damaged) = list(bench.scratch.path(), &NodeName::new("w1").unwrap()).unwrap();
    assert_eq!(reports.iter().map(|report| report.incarnation).collect::<Vec<_>>(), [1]);
    assert!(matches!(damaged[..], [ReadError::Damaged { .. }]), "{damaged:?}");
}

#[test]
fn names_lead_nowhere_else() {
    let bench = bench(5);
    bench.store.add(&crash(&bench.node_dir, 1, "2026-01-01T00:00:00Z"));
    let node = NodeName::new("w1").unwrap();
    for bundle in ["../w1/20260101T000000Z-1", "", ".", ".new", "/etc"] {
        assert!(matches!(read(bench.scratch.path(), &node, bundle), Err(ReadError::Absent { .. })), "{bundle:?}");
    }
    let last = read(bench.scratch.path(), &node, "last").unwrap();
    assert_eq!(last.bundle, "20260101T000000Z-1");
    assert_eq!(last, read(bench.scratch.path(), &node, &last.bundle).unwrap());
}
