//! How tasks are spawned: each has a name, a token that asks it to end, and a defined consequence of its death.
//!
//! Promises that no task dies unnoticed. A panic is logged under the task's name; if the process needs the task, its
//! end (a panic, or a return before it was asked to end) is passed to [`Tasks::fatal`], whose caller ends the process.
//! [`progress`] distinguishes a thread that hangs from one that is slow. Leaves to others: the order of shutdown, and
//! what a task does when its token is cancelled.

pub mod progress;

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use tokio::runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The consequence for the process when a task ends before its token was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExit {
    /// It may end at any time: one connection, one node. A panic is logged and affects nothing else.
    Tolerated,
    /// It may end when its work is done; a panic would leave that work undone until the process restarts.
    FatalByPanic,
    /// The process cannot run without it.
    Fatal,
}

/// A task died that the process cannot run without.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("task {task} {how}; the agent cannot go on without it and has to be started again")]
pub struct FatalExit {
    /// The task's name.
    pub task: String,
    /// Whether it returned or panicked.
    pub how: How,
}

/// How a task died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It returned without being asked to end.
    Ended,
    /// It panicked; the log has the message.
    Panicked,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ended => "ended",
            Self::Panicked => "panicked",
        })
    }
}

/// The owner of all tasks of one process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tasks {
    runtime: runtime::Handle,
    token: CancellationToken,
    tracker: TaskTracker,
    /// The first fatal death; later ones are its consequences.
    fatal: Arc<watch::Sender<Option<FatalExit>>>,
}

impl Tasks {
    /// Tasks will run on `runtime`.
    pub fn new(runtime: runtime::Handle) -> Self {
        Self {
            runtime,
            token: CancellationToken::new(),
            tracker: TaskTracker::new(),
            fatal: Arc::new(watch::Sender::new(None)),
        }
    }

    /// The same tasks under a separate token: cancelling the child does not affect the others.
    pub fn child(&self) -> Self {
        Self { token: self.token.child_token(), ..self.clone() }
    }

    /// The runtime on which they run.
    pub fn runtime(&self) -> &runtime::Handle {
        &self.runtime
    }

    /// Cancelled when the tasks are asked to end.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Spawns `work`; callable from any thread, inside the runtime or not.
    pub fn spawn<F>(
        &self,
        name: impl Into<Cow<'static, str>>,
        on_exit: OnExit,
        work: impl FnOnce(CancellationToken) -> F,
    ) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let name = name.into();
        let token = self.token.child_token();
        let work = self.runtime.spawn(work(token.clone()));
        let fatal = Arc::clone(&self.fatal);
        self.tracker.spawn_on(
            async move {
                let how = match (work.await, on_exit) {
                    (Ok(()), OnExit::Tolerated | OnExit::FatalByPanic) => return,
                    (Ok(()), OnExit::Fatal) if token.is_cancelled() => return,
                    (Ok(()), OnExit::Fatal) => How::Ended,
                    // Only the end of the runtime cancels tasks: our code never aborts them.
                    (Err(error), _) if !error.is_panic() => return,
                    (Err(error), on_exit) => {
                        tracing::error!(task = %name, %error, "a task panicked");
                        match on_exit {
                            OnExit::Tolerated => return,
                            OnExit::FatalByPanic | OnExit::Fatal => How::Panicked,
                        }
                    }
                };
                fatal.send_if_modified(|first| {
                    let is_first = first.is_none();
                    first.get_or_insert(FatalExit { task: name.into_owned(), how });
                    is_first
                });
            },
            &self.runtime,
        )
    }

    /// Resolves when a task has died that the process cannot run without.
    pub async fn fatal(&self) -> FatalExit {
        let mut deaths = self.fatal.subscribe();
        let death = deaths.wait_for(Option::is_some).await.map(|death| death.clone());
        death.ok().flatten().expect("the sender lives in self, and the value was just seen to be there")
    }

    /// Asks all tasks to end.
    pub fn cancel(&self) {
        self.token.cancel();
    }

    /// Resolves when the last task is gone. No task may be spawned after that.
    pub async fn finished(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// Runs work that waits for files, locks or processes outside the runtime's threads. A panic in it is passed to the
/// caller.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_fatal_task_that_panics_or_returns_is_reported_once() {
        let tasks = Tasks::new(runtime::Handle::current());
        tasks.spawn("reader", OnExit::Tolerated, |_| async { panic!("on purpose") });
        tasks.spawn("driver", OnExit::Fatal, |_| async {});
        assert_eq!(tasks.fatal().await.task, "driver");
        tasks.finished().await;
    }

    #[tokio::test]
    async fn work_that_is_done_is_no_death_and_a_panic_over_it_is() {
        let tasks = Tasks::new(runtime::Handle::current());
        tasks.spawn("done", OnExit::FatalByPanic, |_| async {}).await.unwrap();
        assert!(tasks.fatal.borrow().is_none());
        tasks.spawn("node", OnExit::FatalByPanic, |_| async { panic!("on purpose") });
        assert_eq!(tasks.fatal().await, FatalExit { task: "node".into(), how: How::Panicked });
    }

    #[tokio::test]
    async fn an_asked_for_end_is_no_death() {
        let tasks = Tasks::new(runtime::Handle::current());
        tasks.spawn("driver", OnExit::Fatal, |token| async move { token.cancelled().await });
        tasks.cancel();
        tasks.finished().await;
        assert!(tasks.fatal.borrow().is_none());
    }

    #[tokio::test]
    async fn a_child_ends_alone() {
        let tasks = Tasks::new(runtime::Handle::current());
        let child = tasks.child();
        let ended = child.spawn("node", OnExit::Fatal, |token| async move { token.cancelled().await });
        child.cancel();
        ended.await.unwrap();
        assert!(!tasks.token().is_cancelled());
    }
}
