use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread::JoinHandle;

use super::*;

/// A node's directory for questions, and the agent's end of it.
struct Bench {
    scratch: tempfile::TempDir,
    handle: Handle,
    replies: mpsc::Receiver<Reply>,
}

const NODE: &str = "w1";

impl Bench {
    fn new(patience: Duration) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let (sender, replies) = mpsc::channel(4);
        let tasks = Tasks::new(tokio::runtime::Handle::current());
        let options = Options { node_dir: scratch.path().to_owned(), patience };
        let bench = Self { handle: Handle::new(options, sender, tasks), scratch, replies };
        bench.add(NODE);
        bench
    }

    fn add(&self, node: &str) {
        fs::create_dir_all(self.directory(node)).unwrap();
        fs::write(self.directory(node).join("req"), "").unwrap();
    }

    fn directory(&self, node: &str) -> PathBuf {
        self.scratch.path().join(node).join("ask")
    }

    fn ask(&self, node: &str, of: u64, id: &str, doorbell: Option<SocketAddr>) -> Option<String> {
        self.ask_process(node, 1, of, id, doorbell)
    }

    fn ask_process(
        &self,
        node: &str,
        incarnation: u64,
        of: u64,
        id: &str,
        doorbell: Option<SocketAddr>,
    ) -> Option<String> {
        let channel = Channel { directory: "ask".to_owned(), doorbell };
        let action = vec!["get_id_value".to_owned(), id.to_owned()];
        let question = Question { of: Seq(of), incarnation: Incarnation(incarnation), pid: None, channel, action };
        self.handle.ask(&NodeName::new(node).unwrap(), question)
    }

    async fn reply(&mut self) -> (String, u64, Result<Option<String>, String>) {
        let Reply { of, node, incarnation, answer } = self.replies.recv().await.unwrap();
        assert_eq!(incarnation, Incarnation(1));
        (node.to_string(), of.0, answer)
    }
}

/// Answers every question in the file with what it asks for.
fn answer_all(directory: &Path) {
    for line in fs::read_to_string(directory.join("req")).unwrap().lines() {
        let words: Vec<&str> = line.split('\t').collect();
        let beside = directory.join(format!("rep.{}.new", words[0]));
        fs::write(&beside, format!("ok\n{}", words[2])).unwrap();
        fs::rename(&beside, directory.join(format!("rep.{}", words[0]))).unwrap();
    }
}

/// A metrics port: `at_ring` is called for each request before it is answered. It ends with a request for /end.
fn metrics_port(at_ring: impl Fn() + Send + 'static) -> (SocketAddr, JoinHandle<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let served = std::thread::spawn(move || {
        let mut rings = 0;
        loop {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = vec![0; 4096];
            let count = stream.read(&mut request).unwrap();
            if request[..count].starts_with(b"GET /end") {
                return rings;
            }
            assert!(request[..count].starts_with(b"GET /metrics HTTP/1.1\r\n"));
            rings += 1;
            at_ring();
            // Whoever rings may have gone: it has what it wanted.
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    (address, served)
}

fn end(address: SocketAddr) {
    std::net::TcpStream::connect(address).unwrap().write_all(b"GET /end HTTP/1.1\r\n\r\n").unwrap();
}

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_questions_at_once_each_have_their_own_answer_and_share_files() {
    let mut bench = Bench::new(LONG);
    let directory = bench.directory(NODE);
    let (address, served) = metrics_port(move || answer_all(&directory));
    const COUNT: u64 = 200;
    for of in 0..COUNT {
        assert_eq!(bench.ask(NODE, of, &format!("V::v{of}"), Some(address)), None);
    }
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..COUNT {
        let (node, of, answer) = bench.reply().await;
        assert_eq!((node.as_str(), answer), (NODE, Ok(Some(format!("V::v{of}")))));
        assert!(seen.insert(of));
    }
    let left: Vec<_> = fs::read_dir(bench.directory(NODE)).unwrap().map(|one| one.unwrap().file_name()).collect();
    assert_eq!(left, ["req"], "replies are removed");
    end(address);
    let rings = served.join().unwrap();
    assert!((1..=usize::try_from(COUNT).unwrap()).contains(&rings), "{rings}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_doorbell_the_node_looks_by_itself() {
    let mut bench = Bench::new(LONG);
    // Nobody listens there.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (of, doorbell) in [(1, None), (2, Some(address))] {
        assert_eq!(bench.ask(NODE, of, "V::v", doorbell), None);
        let directory = bench.directory(NODE);
        let file = directory.join("req");
        let asked = move || fs::read_to_string(&file).unwrap().contains(&format!("-{of}\tget_id_value\tV::v\n"));
        tokio::task::spawn_blocking(move || {
            while !asked() {
                std::thread::yield_now();
            }
            answer_all(&directory);
        })
        .await
        .unwrap();
        assert_eq!(bench.reply().await, (NODE.to_owned(), of, Ok(Some("V::v".to_owned()))));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_hangs_is_told_from_a_slow_one_and_delays_nobody() {
    let mut bench = Bench::new(SHORT);
    // The kernel accepts, and nobody answers: as a process in SIGSTOP.
    let hung = TcpListener::bind("127.0.0.1:0").unwrap();
    let (slow, served) = metrics_port(|| {});
    bench.add("w2");
    bench.add("w3");
    assert_eq!(bench.ask(NODE, 1, "a", Some(hung.local_addr().unwrap())), None);
    assert_eq!(bench.ask("w2", 1, "a", Some(slow)), None);
    assert_eq!(bench.ask("w3", 1, "a", None), None);
    let mut words = BTreeMap::new();
    for _ in 0..3 {
        let (node, _, answer) = bench.reply().await;
        words.insert(node, answer.unwrap_err());
    }
    assert!(words["w1"].starts_with("no answer within 0.2 s: w1 hangs;"), "{words:?}");
    assert!(words["w2"].starts_with("no answer within 0.2 s: w2 is slow;"), "{words:?}");
    assert!(words["w3"].ends_with("neither it nor its metrics port answers"), "{words:?}");
    end(slow);
    served.join().unwrap();
}

/// The late reply is in nobody's way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_puts_there_is_not_trusted() {
    let mut bench = Bench::new(LONG);
    let directory = bench.directory(NODE);
    fs::write(bench.scratch.path().join("secret"), "ok\nsecret").unwrap();
    fs::write(directory.join("rep.late"), "ok\n1").unwrap();
    fs::write(directory.join("req.new"), "").unwrap();
    let inner = directory.clone();
    let (address, served) = metrics_port(move || {
        let text = fs::read_to_string(inner.join("req")).unwrap();
        let reqid = text.split('\t').next().unwrap();
        let (reply, beside) = (inner.join(format!("rep.{reqid}")), inner.join("beside"));
        match text.split('\t').nth(2).unwrap().trim_end() {
            "link" => symlink("../../secret", &beside).unwrap(),
            "large" => fs::write(&beside, vec![b'a'; line::REPLY_LIMIT + 1]).unwrap(),
            "directory" => fs::create_dir(&beside).unwrap(),
            _ => fs::write(&beside, "what?").unwrap(),
        }
        fs::rename(beside, reply).unwrap();
    });
    for (of, id, expected) in [
        (1, "odd", "the node's reply is of another form"),
        (2, "large", "the value has more than 1048576 bytes"),
        (3, "link", "the answer of w1 cannot be read"),
        (6, "directory", "the answer of w1 cannot be read"),
    ] {
        assert_eq!(bench.ask(NODE, of, id, Some(address)), None);
        let (_, asked, answer) = bench.reply().await;
        let error = answer.unwrap_err();
        assert!(asked == of && error.starts_with(expected), "{id}: {error}");
        assert!(!directory.join("rep.late").exists());
    }
    assert_eq!(bench.ask(NODE, 4, "no\tidentifier", Some(address)), None);
    assert_eq!(bench.reply().await.2, Err("the question contains a control character".to_owned()));
    fs::remove_dir_all(&directory).unwrap();
    assert_eq!(bench.ask(NODE, 5, "a", Some(address)), None);
    let error = bench.reply().await.2.unwrap_err();
    assert!(error.starts_with("w1 cannot be asked through its directory ask: No such file"), "{error}");
    end(address);
    served.join().unwrap();
}

/// The process before it will never answer, and nobody waits for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_is_asked_without_waiting_for_the_one_before() {
    let mut bench = Bench::new(LONG);
    let hung = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(bench.ask(NODE, 1, "a", Some(hung.local_addr().unwrap())), None);
    let directory = bench.directory(NODE);
    let (address, served) = metrics_port(move || answer_all(&directory));
    assert_eq!(bench.ask_process(NODE, 2, 2, "b", Some(address)), None);
    let mut answers = BTreeMap::new();
    for _ in 0..2 {
        let Reply { of, incarnation, answer, .. } = bench.replies.recv().await.unwrap();
        answers.insert((of.0, incarnation.0), answer);
    }
    assert_eq!(answers[&(1, 1)], Err("w1 was restarted before it answered".to_owned()));
    assert_eq!(answers[&(2, 2)], Ok(Some("b".to_owned())));
    end(address);
    served.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_questions_than_can_wait_are_refused() {
    let bench = Bench::new(LONG);
    let refused = (0..4 * WAITING as u64).find_map(|of| bench.ask(NODE, of, "a", None));
    assert_eq!(refused.unwrap(), "1024 questions to w1 are waiting already; ask again later");
}
