//! Archival of rotated logs: runs `COMMAND -1 QUEUE DIRECTORY` periodically, as Zeek's own agent does
//! (`policy/frameworks/management/agent/main.zeek` of Zeek 5.2 and later), and remembers how the last run went.
//!
//! The last run is recorded on disk before it begins: an agent that is restarted again and again does not archive each
//! time, and one that starts after a kill -9 waits for a run that is still going. If the queue is empty, nothing runs.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::api::alert::AlertKind;
use crate::api::launch::ExitCause;
use crate::api::report::{ArchiveReport, ArchiveRun, ArchiveState, chain};
use crate::api::rights::User;
use crate::api::time::{Now, Timestamp};
use crate::lifecycle::Input;
use crate::regular_file;
use crate::supervisor::{self, job};
use crate::tasks::blocking;

use super::clock;

/// Where the last run is recorded, in the state directory.
const DIRECTORY: &str = "archive";
const LAST: &str = "last.json";
const LAST_LIMIT: u64 = 64 << 10;
/// The longest wait before the first run if no run is recorded: the interval may be long, and many logs may be waiting.
const FIRST: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub struct Options {
    pub interval: Duration,
    /// A run that takes longer is ended.
    pub timeout: Duration,
    pub command: String,
    /// `command` is looked for first in this program's directory.
    pub beside: Option<String>,
    /// Where archived logs go.
    pub directory: PathBuf,
}

pub(super) struct Archive {
    options: Options,
    user: Option<User>,
    job: Arc<job::Job>,
    queue: PathBuf,
    last_file: PathBuf,
    last: Option<ArchiveRun>,
    /// How the last finished run failed, if it did.
    failing: Option<String>,
    inputs: mpsc::Sender<Input>,
    report: watch::Sender<ArchiveReport>,
}

/// The record on disk.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Remembered {
    #[serde(flatten)]
    last: ArchiveRun,
    #[serde(default)]
    failing: Option<String>,
}

/// The agent is shutting down.
struct Ended;

/// How a run ended.
struct Outcome {
    state: ArchiveState,
    result: String,
    exit_code: Option<i32>,
    last_words: Option<String>,
}

impl Outcome {
    fn failed(result: String) -> Self {
        Self { state: ArchiveState::Failed, result, exit_code: None, last_words: None }
    }

    fn interrupted(result: &str) -> Self {
        Self { state: ArchiveState::Interrupted, result: result.to_owned(), exit_code: None, last_words: None }
    }

    fn exited(cause: ExitCause) -> Self {
        let result = cause.to_string();
        match cause {
            ExitCause::Code(0) => Self { state: ArchiveState::Ok, exit_code: Some(0), ..Self::failed(result) },
            ExitCause::Code(code) => Self { exit_code: Some(code), ..Self::failed(result) },
            ExitCause::Signal(_)
            | ExitCause::Lost
            | ExitCause::HostRestarted
            | ExitCause::NotStarted(_)
            | ExitCause::HostShutdown
            | ExitCause::Terminated { .. }
            | ExitCause::OutOfMemory => Self::failed(result),
        }
    }
}

impl Archive {
    pub fn new(
        options: Options,
        state_dir: &Path,
        user: Option<User>,
        supervisor: &supervisor::Handle,
        inputs: mpsc::Sender<Input>,
    ) -> (Self, watch::Receiver<ArchiveReport>) {
        let queue = super::state_dir::log_queue(state_dir);
        let own = state_dir.join(DIRECTORY);
        let job = supervisor.job(job::Options {
            directory: own.clone(),
            program: options.command.clone(),
            setting: "archive_command",
            clears_environment: false,
            beside: options.beside.clone(),
            args: vec!["-1".into(), queue.clone().into(), options.directory.clone().into()],
            user: user.clone(),
        });
        let (report, shown) = watch::channel(ArchiveReport {
            command: options.command.clone(),
            queue: queue.display().to_string(),
            directory: options.directory.display().to_string(),
            interval_ms: millis(options.interval),
            next_at: None,
            last: None,
            failing: None,
        });
        let last_file = own.join(LAST);
        let (job, last, failing) = (Arc::new(job), None, None);
        (Self { options, user, job, queue, last_file, last, failing, inputs, report }, shown)
    }

    pub async fn run(mut self, token: CancellationToken) {
        let path = self.last_file.clone();
        if let Some(Remembered { last, failing }) = blocking(move || read(&path)).await {
            (self.last, self.failing) = (Some(last), failing);
        }
        if self.settle_last(&token).await.is_err() {
            return;
        }
        let mut begun = self.last.as_ref().and_then(|last| parse(&last.started_at));
        loop {
            let now = clock::now();
            let pause = pause(begun, now.wall, self.options.interval);
            self.show(Some(later(now, pause)));
            tokio::select! {
                () = token.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            begun = Some(clock::now().wall);
            let queue = self.queue.clone();
            if blocking(move || has_entries(&queue)).await && self.turn(&token).await.is_err() {
                return;
            }
        }
    }

    /// Waits for a run that a killed agent left behind, as if it were this agent's own; how it ends is not known.
    async fn settle_last(&mut self, token: &CancellationToken) -> Result<(), Ended> {
        let job = Arc::clone(&self.job);
        let running = blocking(move || job.is_running()).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot tell whether an earlier run of the archival of logs has ended");
            false
        });
        if running {
            tracing::info!("logs are being archived since before the agent's start");
            self.show(None);
            let now = clock::now();
            let begun = self.last.as_ref().and_then(|last| parse(&last.started_at)).unwrap_or(now.wall);
            let ran = Duration::from_micros(now.wall.0.saturating_sub(begun.0));
            let left = self.options.timeout.saturating_sub(ran);
            tokio::select! {
                () = token.cancelled() => {
                    self.end().await;
                    self.finish(None, Outcome::interrupted(STOPPED));
                    self.save().await;
                    return Err(Ended);
                }
                () = self.outlast() => {}
                () = tokio::time::sleep(left) => {
                    self.end().await;
                    self.finish_and_tell(None, Outcome::failed(self.overdue())).await;
                    return Ok(());
                }
            }
        }
        if self.last.as_ref().is_some_and(|last| last.state == ArchiveState::Running) {
            self.finish(None, Outcome::interrupted("ended while no agent watched"));
            self.save().await;
        }
        Ok(())
    }

    async fn outlast(&self) {
        loop {
            let job = Arc::clone(&self.job);
            match blocking(move || job.wait_a_second()).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot wait for an earlier run of the archival of logs");
                    return std::future::pending().await;
                }
            }
        }
    }

    async fn turn(&mut self, token: &CancellationToken) -> Result<(), Ended> {
        let started = clock::now();
        self.last = Some(ArchiveRun {
            started_at: clock::rfc3339(started.wall),
            state: ArchiveState::Running,
            result: "runs".to_owned(),
            exit_code: None,
            duration_ms: None,
            last_words: None,
        });
        self.save().await;
        self.show(None);
        let (job, directory, user) = (Arc::clone(&self.job), self.options.directory.clone(), self.user.clone());
        let start = blocking(move || {
            if let Err(error) = make_directory(&directory, user.as_ref()) {
                tracing::warn!(%error, "cannot make {} for archived logs", directory.display());
            }
            job.start()
        });
        let mut run = match start.await {
            job::Start::Begun(run) => run,
            job::Start::Held => {
                let result = "not started: what the run before has started cannot be ended".to_owned();
                self.finish_and_tell(Some(started), Outcome::failed(result)).await;
                return Ok(());
            }
            job::Start::Impossible(reason) => {
                self.finish_and_tell(Some(started), Outcome::failed(format!("not started: {reason}"))).await;
                return Ok(());
            }
        };
        let cause = tokio::select! {
            cause = run.wait() => Some(cause),
            () = tokio::time::sleep(self.options.timeout) => None,
            () = token.cancelled() => {
                self.end().await;
                let outcome = Outcome { last_words: run.last_words(), ..Outcome::interrupted(STOPPED) };
                self.finish(Some(started), outcome);
                self.save().await;
                return Err(Ended);
            }
        };
        // Processes that it left behind belong to the run, too.
        self.end().await;
        let outcome = match cause {
            Some(Ok(cause)) => Outcome::exited(cause),
            Some(Err(error)) => Outcome::failed(format!("cannot be waited for: {error}")),
            None => {
                // Reap the process and read its last output.
                let _ = tokio::time::timeout(Duration::from_secs(1), run.wait()).await;
                Outcome::failed(self.overdue())
            }
        };
        self.finish_and_tell(Some(started), Outcome { last_words: run.last_words(), ..outcome }).await;
        Ok(())
    }

    fn overdue(&self) -> String {
        format!("ended after {} (archive_timeout)", span(self.options.timeout))
    }

    async fn end(&self) {
        let job = Arc::clone(&self.job);
        match blocking(move || if job.is_running()? { job.end() } else { Ok(true) }).await {
            Ok(true) => {}
            Ok(false) => tracing::warn!("a process that archives logs cannot be ended"),
            Err(error) => tracing::warn!(%error, "cannot end what archives logs"),
        }
    }

    /// `started` if this agent saw the whole run.
    fn finish(&mut self, started: Option<Now>, outcome: Outcome) {
        let Outcome { state, result, exit_code, last_words } = outcome;
        let now = clock::now();
        let begun = self.last.as_ref().map_or_else(|| clock::rfc3339(now.wall), |last| last.started_at.clone());
        self.last = Some(ArchiveRun {
            started_at: begun,
            state,
            result,
            exit_code,
            duration_ms: started.map(|started| now.boot.ms_since(started.boot)),
            last_words,
        });
    }

    async fn finish_and_tell(&mut self, started: Option<Now>, outcome: Outcome) {
        let failing = (outcome.state == ArchiveState::Failed).then(|| outcome.result.clone());
        let is_news = failing != self.failing;
        self.failing = failing;
        self.finish(started, outcome);
        self.save().await;
        let Some(last) = &self.last else { return };
        match (trouble(last, &self.queue), is_news) {
            (Some(message), true) => {
                // Closed: the agent is shutting down, and the next one's `status` shows it.
                let _ = self.inputs.send(Input::Trouble { kind: AlertKind::ArchiveFailed, message }).await;
            }
            (Some(message), false) => tracing::warn!("{message}"),
            (None, true) => tracing::info!("logs are archived again: {}", took(last)),
            (None, false) => tracing::info!("logs are archived: {}", took(last)),
        }
    }

    async fn save(&self) {
        let Some(last) = self.last.clone() else { return };
        let (path, remembered) = (self.last_file.clone(), Remembered { last, failing: self.failing.clone() });
        if let Err(error) = blocking(move || write(&path, &remembered)).await {
            tracing::warn!(%error, "the last archival of logs is not remembered in {}", self.last_file.display());
        }
    }

    fn show(&self, next: Option<Timestamp>) {
        self.report.send_modify(|report| {
            report.next_at = next.map(clock::rfc3339);
            report.last.clone_from(&self.last);
            report.failing.clone_from(&self.failing);
        });
    }
}

const STOPPED: &str = "stopped with the agent";

/// How long until the next run, if the last began at `begun`. Setting the clock must neither hasten nor prevent it.
fn pause(begun: Option<Timestamp>, now: Timestamp, interval: Duration) -> Duration {
    match begun {
        None => FIRST.min(interval),
        Some(begun) => interval.saturating_sub(Duration::from_micros(now.0.saturating_sub(begun.0))),
    }
}

/// What to report about a run that failed.
fn trouble(run: &ArchiveRun, queue: &Path) -> Option<String> {
    if run.state != ArchiveState::Failed {
        return None;
    }
    let words = run.last_words.as_ref().map(|words| format!(": {words}")).unwrap_or_default();
    Some(format!("archiving logs failed ({}){words}; they wait in {} and are tried again", run.result, queue.display()))
}

fn took(run: &ArchiveRun) -> String {
    format!("{}, took {} ms", run.result, run.duration_ms.unwrap_or_default())
}

fn span(duration: Duration) -> String {
    match millis(duration) {
        ms if ms % 1000 == 0 => format!("{} s", ms / 1000),
        ms => format!("{ms} ms"),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn later(now: Now, pause: Duration) -> Timestamp {
    Timestamp(now.wall.0.saturating_add(millis(pause).saturating_mul(1000)))
}

fn parse(rfc3339: &str) -> Option<Timestamp> {
    let at: jiff::Timestamp = rfc3339.parse().ok()?;
    Some(Timestamp(u64::try_from(at.as_microsecond()).ok()?))
}

/// Whether logs are waiting. If the queue cannot be read, the archiver reports that.
fn has_entries(queue: &Path) -> bool {
    match fs::read_dir(queue) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// Creates the directory if it does not exist, and gives it to the archiver.
fn make_directory(directory: &Path, user: Option<&User>) -> io::Result<()> {
    if fs::symlink_metadata(directory).is_ok() {
        return Ok(());
    }
    DirBuilder::new().mode(0o700).create(directory)?;
    // The umask is meant for the agent's own files. Set the mode through the descriptor: if somebody else owns a parent
    // directory, the path may lead elsewhere by now.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = File::from(rustix::fs::open(directory, flags, Mode::empty())?);
    made.set_permissions(Permissions::from_mode(0o750))?;
    user.map_or(Ok(()), |user| supervisor::give(directory, user))
}

fn read(path: &Path) -> Option<Remembered> {
    let mut bytes = Vec::new();
    match regular_file::read(path).and_then(|file| file.take(LAST_LIMIT).read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(%error, "cannot read {}", path.display());
            return None;
        }
    }
    match serde_json::from_slice(&bytes) {
        Ok(remembered) => Some(remembered),
        Err(error) => {
            tracing::warn!(error = %chain(&error), "{} cannot be understood, and is written anew", path.display());
            None
        }
    }
}

/// Replaces the file. A power cut may leave the old file or an unreadable one; the cost is one extra run.
fn write(path: &Path, remembered: &Remembered) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let aside = path.with_extension("new");
    fs::write(&aside, serde_json::to_vec_pretty(remembered)?)?;
    fs::rename(&aside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_run_is_an_interval_after_the_last_whatever_the_clock_did() {
        const HOUR: Duration = Duration::from_secs(3600);
        let at = |seconds: u64| Timestamp(seconds * 1_000_000);
        assert_eq!(pause(None, at(10_000), HOUR), FIRST);
        assert_eq!(pause(None, at(10_000), Duration::from_secs(1)), Duration::from_secs(1));
        assert_eq!(pause(Some(at(9_000)), at(10_000), HOUR), Duration::from_secs(2600));
        assert_eq!(pause(Some(at(1_000)), at(10_000), HOUR), Duration::ZERO);
        assert_eq!(pause(Some(at(99_000)), at(10_000), HOUR), HOUR, "the clock was set back");
    }

    #[test]
    fn what_is_remembered_is_read_again_and_nonsense_is_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("archive/last.json");
        assert_eq!(read(&path), None);
        let last = ArchiveRun {
            started_at: "2026-11-26T11:00:00.000001Z".into(),
            state: ArchiveState::Failed,
            result: "exit code 1".into(),
            exit_code: Some(1),
            duration_ms: Some(2),
            last_words: None,
        };
        let remembered = Remembered { last: last.clone(), failing: Some("exit code 1".into()) };
        write(&path, &remembered).unwrap();
        assert_eq!(read(&path), Some(remembered));
        assert_eq!(parse(&last.started_at).map(clock::rfc3339), Some(last.started_at));
        fs::write(&path, "{").unwrap();
        assert_eq!(read(&path), None);
    }
}
