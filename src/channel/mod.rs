//! Questions to nodes without Broker: the agent writes them into a file in the node's directory, and rings at the node's
//! metrics port so that the node reads it at once; the node answers with files beside it.
//!
//! Who may ask is a matter of the directory's mode: nobody but the node's user (and root) can enter it. It works whatever
//! the state of the cluster is, since only the node itself takes part.
//!
//! Promises: asking never waits; a node has one file of questions at a time, so several questions share one; a node that
//! does not answer delays nobody else, and its answer says whether it hangs or is slow.

mod bell;
mod files;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::unix::pipe;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::Instant;

use crate::api::channel as line;
use crate::api::ids::{Incarnation, NodeName, Seq};
use crate::api::launch::Channel;
use crate::tasks::{OnExit, Tasks, blocking};
use bell::Bell;
use files::Directory;

/// The most questions that wait for one node. A further one is refused.
const WAITING: usize = 1024;
/// The most questions that one file holds.
const AT_ONCE: usize = 64;
/// The most nodes that are asked at the same time: each takes an inotify instance, of which a user has 128.
const NODES_AT_ONCE: usize = 64;

#[derive(Debug, Clone)]
pub struct Options {
    /// Where the nodes' directories are.
    pub node_dir: PathBuf,
    /// How long an answer may take, from when the question was asked.
    pub patience: Duration,
}

/// A question to one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The request's number.
    pub of: Seq,
    /// The node's process.
    pub incarnation: Incarnation,
    /// Its process id, if it is known.
    pub pid: Option<u32>,
    pub channel: Channel,
    /// The verb, and its argument if it has one.
    pub action: Vec<String>,
}

/// What came of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub of: Seq,
    pub node: NodeName,
    pub incarnation: Incarnation,
    /// The value, or why there is none.
    pub answer: Result<Option<String>, String>,
}

/// The interface to the nodes' directories. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    options: Options,
    /// Tells questions of this run from those of earlier ones.
    run: String,
    replies: mpsc::Sender<Reply>,
    tasks: Tasks,
    permits: Semaphore,
    /// Nodes that are being asked.
    waiting: Mutex<BTreeMap<NodeName, Waiting>>,
}

/// A node that is being asked.
#[derive(Debug)]
struct Waiting {
    /// Those that it has not been asked yet, with when they came.
    questions: Vec<(Question, Instant)>,
    /// The process that is being asked.
    incarnation: Incarnation,
    /// That process is gone: its successor is to be asked.
    renewed: Arc<Notify>,
}

/// What a node is to be asked next.
struct Next {
    /// With when they came.
    questions: Vec<(Question, Instant)>,
    /// Those to a process that is gone.
    late: Vec<(Question, Instant)>,
    /// Notified if the process is gone.
    renewed: Arc<Notify>,
}

impl Handle {
    pub fn new(options: Options, replies: mpsc::Sender<Reply>, tasks: Tasks) -> Self {
        let run = uuid::Uuid::new_v4().simple().to_string();
        let (permits, waiting) = (Semaphore::new(NODES_AT_ONCE), Mutex::default());
        Self(Arc::new(Shared { options, run, replies, tasks, permits, waiting }))
    }

    /// Asks; the reply comes later. Never waits: a reason why the question is not asked is returned.
    pub fn ask(&self, node: &NodeName, question: Question) -> Option<String> {
        let asked_at = Instant::now();
        let mut waiting = self.0.waiting();
        if let Some(one) = waiting.get_mut(node) {
            if one.questions.len() >= WAITING {
                return Some(format!("{WAITING} questions to {node} are waiting already; ask again later"));
            }
            if question.incarnation > one.incarnation {
                one.renewed.notify_one();
            }
            one.questions.push((question, asked_at));
            return None;
        }
        let incarnation = question.incarnation;
        let one = Waiting { questions: vec![(question, asked_at)], incarnation, renewed: Arc::default() };
        waiting.insert(node.clone(), one);
        drop(waiting);
        let (shared, node) = (Arc::clone(&self.0), node.clone());
        let name = format!("questions to {node}");
        self.0.tasks.spawn(name, OnExit::FatalByPanic, |token| async move {
            tokio::select! {
                // The next run of the agent asks again.
                () = token.cancelled() => {}
                () = shared.serve(&node) => {}
            }
        });
        None
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, BTreeMap<NodeName, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next questions to the node. When there are none the node is no longer on the list.
    fn next(&self, node: &NodeName) -> Option<Next> {
        let mut waiting = self.waiting();
        let one = waiting.get_mut(node)?;
        let Some(newest) = one.questions.iter().map(|(question, _)| question.incarnation).max() else {
            waiting.remove(node);
            return None;
        };
        let (kept, late) = std::mem::take(&mut one.questions)
            .into_iter()
            .partition::<Vec<_>, _>(|(question, _)| question.incarnation == newest);
        one.questions = kept;
        let count = one.questions.len().min(AT_ONCE);
        one.incarnation = newest;
        // Not the earlier one, which may have been notified since.
        one.renewed = Arc::default();
        Some(Next { questions: one.questions.drain(..count).collect(), late, renewed: Arc::clone(&one.renewed) })
    }

    /// Asks until no question waits.
    async fn serve(&self, node: &NodeName) {
        let restarted = || format!("{node} was restarted before it answered");
        while let Some(Next { questions, late, renewed }) = self.next(node) {
            for (question, _) in late {
                self.reply(node, &question, Err(restarted())).await;
            }
            let Some((first, asked_at)) = questions.first() else { return };
            let (channel, pid, deadline) = (first.channel.clone(), first.pid, *asked_at + self.options.patience);
            let Ok(_permit) = self.permits.acquire().await else { return };
            let mut round = Round { shared: self, node, channel, open: BTreeMap::new() };
            for (question, _) in questions {
                round.add(question).await;
            }
            let outcome = tokio::select! {
                outcome = round.run(pid, deadline) => outcome,
                () = renewed.notified() => Err(restarted()),
            };
            if let Err(reason) = outcome {
                round.give_up(&reason).await;
            }
        }
    }

    async fn reply(&self, node: &NodeName, question: &Question, answer: Result<Option<String>, String>) {
        let Question { of, incarnation, .. } = question;
        let reply = Reply { of: *of, node: node.clone(), incarnation: *incarnation, answer };
        // If the agent is ending, its next run asks again.
        let _ = self.replies.send(reply).await;
    }
}

/// One file of questions.
struct Round<'a> {
    shared: &'a Shared,
    node: &'a NodeName,
    channel: Channel,
    /// Those without a reply, by reqid: the question and its line.
    open: BTreeMap<String, (Question, String)>,
}

impl Round<'_> {
    async fn add(&mut self, question: Question) {
        match line::question(&question.action) {
            Ok(line) => {
                let reqid = line::reqid(&self.shared.run, question.of);
                self.open.insert(reqid, (question, line));
            }
            Err(reason) => self.shared.reply(self.node, &question, Err(reason)).await,
        }
    }

    /// Asks and passes replies on. An error is the answer to whatever has no reply then.
    async fn run(&mut self, pid: Option<u32>, deadline: Instant) -> Result<(), String> {
        if self.open.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(format!(
                "{} did not answer earlier questions in time, so this one was not put to it",
                self.node
            ));
        }
        let text: String = self.open.iter().map(|(reqid, (_, line))| format!("{reqid}\t{line}\n")).collect();
        let (path, name) = (self.shared.options.node_dir.join(self.node.as_str()), self.channel.directory.clone());
        let put = blocking(move || {
            let directory = Directory::open(&path, &name)?;
            // Before the questions, so that no reply is missed.
            let watch = directory.watch()?;
            directory.put(&text)?;
            Ok::<_, io::Error>((Arc::new(directory), watch))
        });
        let (directory, watch) = put.await.map_err(|error| self.unasked(&error))?;
        // Like a pipe it is read without waiting, and is ready when something is there.
        let watch = pipe::Receiver::from_owned_fd_unchecked(watch).map_err(|error| self.unasked(&error))?;
        let mut heard = Bell::Dead;
        let doorbell = self.channel.doorbell;
        let outcome = {
            let ringing = async {
                if let Some(at) = doorbell {
                    bell::ring(at, &mut heard).await;
                }
                // Who rings has nothing more to say; the replies come as files.
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = ringing => Ok(true),
                outcome = self.replies(&directory, &watch) => outcome.map(|()| true),
                () = tokio::time::sleep_until(deadline) => Ok(false),
            }
        };
        match outcome {
            Ok(true) => Ok(()),
            Ok(false) => {
                let state = blocking(move || pid.and_then(process_state)).await;
                Err(self.silence(heard, state, pid))
            }
            Err(error) => Err(format!("the answer of {} cannot be read: {error}", self.node)),
        }
    }

    /// Passes on each reply until there are no more to come.
    async fn replies(&mut self, directory: &Arc<Directory>, watch: &pipe::Receiver) -> io::Result<()> {
        loop {
            let (directory, reqids) = (Arc::clone(directory), self.open.keys().cloned().collect::<Vec<_>>());
            let taken = blocking(move || {
                let take = |reqid: String| Ok(directory.take(&reqid)?.map(|bytes| (reqid, bytes)));
                reqids.into_iter().filter_map(|reqid| take(reqid).transpose()).collect::<io::Result<Vec<_>>>()
            });
            for (reqid, bytes) in taken.await? {
                if let Some((question, _)) = self.open.remove(&reqid) {
                    self.shared.reply(self.node, &question, line::reply(&bytes)).await;
                }
            }
            if self.open.is_empty() {
                return Ok(());
            }
            watch.readable().await?;
            // What it says is of no interest: that it says something is.
            match watch.try_read(&mut [0_u8; 4096]) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn give_up(&mut self, reason: &str) {
        for (question, _) in std::mem::take(&mut self.open).into_values() {
            self.shared.reply(self.node, &question, Err(reason.to_owned())).await;
        }
    }

    fn unasked(&self, error: &io::Error) -> String {
        let Channel { directory, .. } = &self.channel;
        format!("{} cannot be asked through its directory {directory}: {error}; restart the node", self.node)
    }

    /// Why a node may not have answered, as far as that can be seen from here.
    fn silence(&self, heard: Bell, state: Option<char>, pid: Option<u32>) -> String {
        let (node, waited) = (self.node, self.shared.options.patience.as_secs_f64());
        let after = format!("no answer within {waited:.1} s");
        let process = pid.map_or_else(|| "its process".to_owned(), |pid| format!("its process {pid}"));
        match (state, heard) {
            (Some('T' | 't'), _) => {
                format!("{after}: {node} is stopped; let {process} go on with SIGCONT, or restart it")
            }
            (Some('D'), _) => format!("{after}: {process} of {node} waits for the kernel, as for a disk that hangs"),
            (_, Bell::Silent) => format!("{after}: {node} hangs; {process} accepts connections and answers none"),
            (_, Bell::Answered) => {
                format!("{after}: {node} is slow; its main loop did not come to it, so ask again later")
            }
            (_, Bell::Dead) => format!("{after}: {node} runs, and neither it nor its metrics port answers"),
        }
    }
}

/// The letter of proc_pid_stat(5) for what the process does.
fn process_state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may contain anything.
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

#[cfg(test)]
mod tests;
