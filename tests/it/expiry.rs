//! Archived logs expire by age and size, and logs that nobody archives are told.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::support::{Host, eventually};

const DAY: Duration = Duration::from_secs(86_400);

fn log(path: &Path, days: u32, bytes: usize) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, vec![b'x'; bytes]).unwrap();
    File::options().write(true).open(path).unwrap().set_modified(SystemTime::now() - DAY * days).unwrap();
}

#[test]
fn archived_logs_expire_by_age_and_by_size() {
    let mut host = Host::new();
    host.set("ZCA_ARCHIVE_INTERVAL", "50ms").set("ZCA_ARCHIVE_KEEP_TIME", "7d");
    let logs = host.state_dir().join("logs");
    let elsewhere = host.dir.path().join("elsewhere");
    log(&elsewhere.join("kept.log"), 100, 10);
    log(&logs.join("old/conn.log.gz"), 8, 10);
    log(&logs.join("new/conn.log.gz"), 2, 10);
    symlink(&elsewhere, logs.join("way-out")).unwrap();
    let agent = host.start();
    eventually("the old log to go", || (!logs.join("old").exists()).then_some(()));
    let keeping = eventually("it to be told", || host.status().keeping.filter(|keeping| keeping.removed_files == 1));
    assert_eq!((keeping.problem, keeping.unarchived), (None, None));
    assert!(logs.join("new/conn.log.gz").exists() && elsewhere.join("kept.log").exists());
    assert!(host.run(&["status"]).stdout.contains("log expiry     1 files removed, "));
    // What was archived meanwhile expires as it becomes old.
    log(&logs.join("old/dns.log.gz"), 9, 10);
    eventually("the next old log to go", || (!logs.join("old").exists()).then_some(()));
    agent.kill();

    for day in 1..=5 {
        log(&logs.join(format!("day-{day}.log")), day, 1 << 20);
    }
    host.set("ZCA_ARCHIVE_KEEP_TIME", "0").set("ZCA_ARCHIVE_KEEP_SIZE", "2500KiB");
    let _agent = host.start();
    eventually("the oldest to go", || (!logs.join("day-3.log").exists()).then_some(()));
    assert!(logs.join("day-1.log").exists() && logs.join("day-2.log").exists() && elsewhere.join("kept.log").exists());
    assert_eq!(host.run(&["status", "--check"]).code, 0);
}

#[test]
fn an_archive_that_cannot_be_looked_at_and_a_queue_that_nobody_archives_are_told() {
    let mut host = Host::new();
    host.set("ZCA_ARCHIVE_INTERVAL", "0").set("ZCA_ARCHIVE_KEEP_TIME", "7d");
    let state = host.state_dir();
    fs::create_dir_all(&state).unwrap();
    let elsewhere = host.dir.path().join("elsewhere");
    log(&elsewhere.join("kept.log"), 100, 10);
    symlink(&elsewhere, state.join("logs")).unwrap();
    log(&state.join("spool/log-queue/conn__1__.log"), 2, 10);
    let _agent = host.start();
    let line = eventually("both to be told", || {
        let said = host.run(&["status", "--check"]);
        (said.code == 1).then_some(said.stdout)
    });
    assert!(line.contains("do not all expire: "), "{line}");
    assert!(line.contains("spool/log-queue and nobody archives them"), "{line}");
    let text = host.run(&["status"]).stdout;
    assert!(text.contains("log queue      rotated logs have waited in "), "{text}");
    assert!(host.read_log().contains("archive_interval is 0, and nobody else takes them"), "{}", host.read_log());
    assert!(elsewhere.join("kept.log").exists());
}
