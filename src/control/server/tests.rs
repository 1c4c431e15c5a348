use std::io::{Read, Write};
use std::os::unix::net::UnixStream as StdStream;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::*;
use crate::api::audit::{Filter, Page};
use crate::api::configuration::Configuration;
use crate::api::event::{Dialect, Incoming, Request, Response, Result as ApiResult, Route, Source};
use crate::api::export::{ExportChunk, ExportCursor};
use crate::api::figures::Figures;
use crate::api::head::Anchor;
use crate::api::history::{PastReport, Which};
use crate::api::ids::{NodeName, ReqId, Seq};
use crate::api::plan::Plan;
use crate::api::preflight::HostReport;
use crate::api::prune::{PruneOrder, PruneReport};
use crate::api::report::{CompactReport, SettingReport, StatusReport, VerifyReport};
use crate::api::stats::JournalStats;
use crate::control::Credentials;
use crate::control::client::{self, Answer, Client, within_ms};
use crate::control::message::{
    self, CLIENT_FRAME_LIMIT, ClientFrame, HEADER, LogChunk, LogQuery, Publication, SERVER_FRAME_LIMIT, Stream,
    TOPICS_LIMIT, decode_server, encode_client,
};
use crate::identify::{self, Gate};
use crate::transport::request::REQUEST_LIMIT;
use crate::transport::{Agent, Refusal};

const TOPIC: &str = "zeek/management/agent/agent-1";

/// Answers every request at once, except `Shutdown`, which it refuses; remembers the rest.
#[derive(Default)]
struct Fake {
    handle: Mutex<Option<Handle>>,
    malformed: Mutex<Vec<(Source, String, String)>>,
    incoming: Mutex<Vec<Incoming>>,
    disconnected: Mutex<Vec<u64>>,
    subscribed: AtomicU64,
}

fn response(reqid: &ReqId) -> Response {
    let result = ApiResult { reqid: reqid.clone(), success: true, instance: None, data: None, error: None, node: None };
    Response { event: "get_nodes_response".into(), reqid: reqid.clone(), results: vec![result] }
}

impl Agent for Fake {
    fn request(&self, incoming: Incoming) -> Result<(), Refusal> {
        if matches!(incoming.request, Request::Shutdown { .. }) {
            return Err(Refusal { reason: "busy".into() });
        }
        let (route, response) = (incoming.route.unwrap(), response(&incoming.reqid));
        self.incoming.lock().unwrap().push(incoming);
        self.handle.lock().unwrap().as_ref().unwrap().respond(route, &response, None);
        Ok(())
    }

    fn malformed(&self, source: Source, event: String, error: String) {
        self.malformed.lock().unwrap().push((source, event, error));
    }

    fn delivered(&self, _: Route) {}
    fn disconnected(&self, connection: u64) {
        self.disconnected.lock().unwrap().push(connection);
    }

    fn subscribed(&self) {
        self.subscribed.fetch_add(1, Ordering::Relaxed);
    }
}

impl ControlAgent for Fake {
    async fn check_in(&self, node: NodeName, _credentials: Credentials) -> Result<(), String> {
        if node.as_str() == "w1" { Ok(()) } else { Err(format!("no node {node} here")) }
    }

    async fn status(&self) -> StatusReport {
        StatusReport { name: "agent-1".into(), version: "0".into(), pid: 1, serving: true, ..StatusReport::default() }
    }

    async fn page(&self, filter: Filter, _cursor: Option<Seq>) -> Result<Page, String> {
        if filter.failed { Err("the journal cannot be read".into()) } else { Ok(Page::default()) }
    }

    async fn verify(&self, _anchor: Option<Anchor>) -> Result<VerifyReport, String> {
        Ok(VerifyReport { entries: 3, first: 1, last: 3, problems: Vec::new(), ..VerifyReport::default() })
    }

    async fn prune(&self, order: PruneOrder, _: Credentials) -> Result<PruneReport, String> {
        Ok(PruneReport { dry_run: order.dry_run, ..PruneReport::default() })
    }

    async fn export(&self, _cursor: Option<Box<ExportCursor>>) -> Result<ExportChunk, String> {
        Err("there is none".to_owned())
    }

    fn settings(&self) -> Vec<SettingReport> {
        Vec::new()
    }

    async fn figures(&self) -> Result<Figures, String> {
        Err("there are none".to_owned())
    }

    async fn stats(&self) -> Result<JournalStats, String> {
        Ok(JournalStats { entries: 3, ..JournalStats::default() })
    }

    async fn compact(&self, _force: bool) -> Result<CompactReport, String> {
        Err("there is nothing to compact".to_owned())
    }

    async fn plan(&self, config: Configuration, _force: bool) -> Result<Plan, String> {
        Ok(Plan { proposed: config.id, ..Plan::default() })
    }

    async fn check_host(&self, _config: Configuration) -> Result<HostReport, String> {
        Ok(HostReport::default())
    }

    async fn config_history(&self) -> Result<Vec<PastReport>, String> {
        Ok(Vec::new())
    }

    async fn config_show(&self, which: Which) -> Result<(PastReport, Configuration), String> {
        Err(format!("there is no {which}"))
    }

    async fn logs(&self, _node: NodeName, _query: LogQuery) -> Result<LogChunk, String> {
        // As long as a frame can be and longer: the largest answer has to become an error.
        let next = message::LogPosition { inode: 1, offset: 1 };
        Ok(LogChunk { bytes: vec![0; SERVER_FRAME_LIMIT], next, end: true, gap: false })
    }
}

struct Served {
    path: PathBuf,
    fake: Arc<Fake>,
    handle: Handle,
    stop: CancellationToken,
    runtime: tokio::runtime::Runtime,
    running: tokio::task::JoinHandle<io::Result<()>>,
    _scratch: tempfile::TempDir,
}

impl Served {
    fn start() -> Self {
        Self::with(Timeouts::default())
    }

    fn with(timeouts: Timeouts) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("control.sock");
        let welcome = Welcome {
            version: message::VERSION,
            agent: "agent-1".into(),
            release: "0.1.0".into(),
            pid: 1,
            state_dir: "/s".into(),
            request_timeout_ms: 7000,
            stop_timeout_ms: 20_000,
            ready_timeout_ms: 0,
        };
        let options = Options { path: path.clone(), group: None, timeouts };
        let gate = Gate::new(identify::Options::only(rustix::process::geteuid().as_raw()));
        let (server, handle) = Server::bind(&options, Arc::new(AtomicU64::new(1)), welcome, gate).unwrap();
        let fake = Arc::new(Fake::default());
        *fake.handle.lock().unwrap() = Some(handle.clone());
        let stop = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let running = runtime.spawn(server.run(Arc::clone(&fake), stop.clone()));
        Self { path, fake, handle, stop, runtime, running, _scratch: scratch }
    }

    fn client(&self) -> Client {
        Client::connect(&self.path, "test").unwrap()
    }

    /// Connected and greeted, for bytes that no client would send.
    fn raw(&self) -> StdStream {
        let mut stream = self.silent();
        stream
            .write_all(&encode_client(&ClientFrame::Hello { version: message::VERSION, client: "raw".into() }).unwrap())
            .unwrap();
        assert!(matches!(next(&mut stream), ServerFrame::Welcome(_)));
        stream
    }

    fn silent(&self) -> StdStream {
        let stream = StdStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Nobody suffered from what another connection did.
    fn still_serves(&self) {
        let mut client = self.client();
        let answer = client.request("again", Request::GetNodes {}, Dialect::Management, None, within_ms(10_000));
        assert!(matches!(answer, Ok(Answer::Response(_))), "{answer:?}");
    }

    fn wait_until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !holds(self) {
            assert!(Instant::now() < deadline, "{what} did not come true");
            std::thread::yield_now();
        }
    }
}

fn next(stream: &mut StdStream) -> ServerFrame {
    let mut header = [0; HEADER];
    stream.read_exact(&mut header).unwrap();
    let mut body = vec![0; u32::from_be_bytes(header) as usize];
    stream.read_exact(&mut body).unwrap();
    decode_server(&body).unwrap()
}

/// The next frame is an error of the whole connection, and the connection's end.
fn ends_with(mut stream: StdStream, expected: ErrorCode) {
    match next(&mut stream) {
        ServerFrame::Error { call: None, code, message } => assert_eq!(code, expected, "{message}"),
        other => panic!("{other:?} instead of an error"),
    }
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => assert!(rest.is_empty()),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
}

fn frame(body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(body);
    bytes
}

#[test]
fn calls_are_answered_and_the_source_is_recorded() {
    let served = Served::start();
    let mut client = served.client();
    assert_eq!(client.welcome().agent, "agent-1");
    let first = client.submit("r-1", Request::GetNodes {}, Dialect::Management, Some(100)).unwrap();
    let second = client.submit("r-2", Request::AgentWelcome {}, Dialect::ClusterAgent, None).unwrap();
    let reqid = |answer| match answer {
        Ok(Answer::Response(response)) => response.reqid.as_str().to_owned(),
        other => panic!("{other:?}"),
    };
    assert_eq!(reqid(client.answer(second, within_ms(10_000))), "r-2");
    assert_eq!(reqid(client.answer(first, within_ms(10_000))), "r-1");
    let incoming = served.fake.incoming.lock().unwrap().clone();
    let uid = rustix::process::getuid().as_raw();
    let source = Source { transport: "control".into(), peer: format!("uid={uid} pid={}", std::process::id()) };
    assert_eq!(incoming[0].source, source);

    assert!(client.status(within_ms(10_000)).unwrap().serving);
    assert_eq!(client.page(&Filter::default(), None, within_ms(10_000)).unwrap(), Page::default());
    let failed = Filter { failed: true, ..Filter::default() };
    assert!(matches!(
        client.page(&failed, None, within_ms(10_000)),
        Err(client::Error::Agent { code: ErrorCode::Failed, .. })
    ));
    assert_eq!(client.verify(None, within_ms(10_000)).unwrap().entries, 3);
    client.notify_ready("w1", within_ms(10_000)).unwrap();
    assert!(client.notify_ready("w2", within_ms(10_000)).is_err());
    assert!(client.notify_ready("../w1", within_ms(10_000)).is_err());
    client.notify_ready("w1", within_ms(10_000)).unwrap();
}

#[test]
fn a_refused_request_is_told_from_an_answered_one() {
    let served = Served::start();
    let answer =
        served.client().request("r", Request::Shutdown { nodes: false }, Dialect::Operator, None, within_ms(10_000));
    assert_eq!(answer.unwrap(), Answer::Refused("busy".into()));
}

#[test]
fn a_call_with_bad_arguments_costs_only_that_call() {
    let served = Served::start();
    let mut client = served.client();
    let mut refused =
        |reqid: &str, request, dialect| match client.request(reqid, request, dialect, None, within_ms(20_000)) {
            Err(client::Error::Agent { code: ErrorCode::Invalid, message }) => message,
            other => panic!("{other:?}"),
        };
    assert!(refused(&"r".repeat(257), Request::GetNodes {}, Dialect::Management).contains("257"));
    let start = Request::StartNodes { nodes: std::collections::BTreeSet::from(["w1".to_owned()]) };
    assert!(refused("r", start, Dialect::Management).contains("dialect"));
    let large = Request::NodeDispatch { action: vec!["x".repeat(REQUEST_LIMIT)], nodes: Default::default() };
    assert!(refused("r", large, Dialect::Management).contains("is the most"));
    assert_eq!(served.fake.malformed.lock().unwrap().len(), 3);
    assert_eq!(served.fake.malformed.lock().unwrap()[2].1, "node_dispatch_request");
    assert!(served.fake.incoming.lock().unwrap().is_empty());
    let answer = client.request("r", Request::GetNodes {}, Dialect::Management, None, within_ms(10_000));
    assert!(matches!(answer, Ok(Answer::Response(_))));
}

#[test]
fn an_answer_that_fits_no_frame_is_an_error_of_its_call() {
    let served = Served::start();
    let mut client = served.client();
    let query = LogQuery { stream: Stream::Stdout, from: None, lines: 10 };
    let answer = client.logs("w1", query, within_ms(20_000));
    assert!(matches!(answer, Err(client::Error::Agent { code: ErrorCode::Failed, .. })), "{answer:?}");
    client.status(within_ms(10_000)).unwrap();
}

#[test]
fn requests_are_canonical_before_the_agent_sees_them() {
    let served = Served::start();
    let instance = |name: &str| crate::api::configuration::Instance {
        name: name.into(),
        host: crate::api::configuration::UNKNOWN_HOST,
        listen_port: None,
    };
    let config = crate::api::configuration::Configuration {
        id: "c".into(),
        instances: vec![instance("b"), instance("a")],
        nodes: Vec::new(),
        cluster_backend: None,
    };
    let request = Request::SetConfiguration { config };
    served.client().request("r", request.clone(), Dialect::ClusterAgent, None, within_ms(10_000)).unwrap();
    assert_eq!(served.fake.incoming.lock().unwrap()[0].request, request.canonical());
}

#[test]
fn bad_frames_are_answered_and_end_only_their_connection() {
    let served = Served::start();
    let mut bystander = served.client();
    bystander.subscribe(&[""], within_ms(10_000)).unwrap();

    let cases: [(Vec<u8>, ErrorCode); 6] = [
        (u32::MAX.to_be_bytes().to_vec(), ErrorCode::TooLong),
        (frame(b""), ErrorCode::Malformed),
        (frame(b"{\"status\": 1}"), ErrorCode::Malformed),
        (frame(&[0xc1; 100]), ErrorCode::Malformed),
        (frame(&rmp_serde::to_vec_named(&serde_json::json!({"explode": {}})).unwrap()), ErrorCode::UnknownKind),
        (
            encode_client(&ClientFrame::Hello { version: message::VERSION, client: "x".into() }).unwrap(),
            ErrorCode::OutOfOrder,
        ),
    ];
    let count = cases.len();
    for (bytes, code) in cases {
        let mut stream = served.raw();
        stream.write_all(&bytes).unwrap();
        ends_with(stream, code);
    }
    let mut stream = served.raw();
    stream.write_all(&encode_client(&ClientFrame::Status { call: 1 }).unwrap()[..6]).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    ends_with(stream, ErrorCode::CutShort);

    let mut stream = served.silent();
    stream.write_all(&encode_client(&ClientFrame::Hello { version: 99, client: "x".into() }).unwrap()).unwrap();
    ends_with(stream, ErrorCode::UnknownVersion);
    let mut stream = served.silent();
    stream.write_all(&encode_client(&ClientFrame::Status { call: 1 }).unwrap()).unwrap();
    ends_with(stream, ErrorCode::OutOfOrder);

    assert_eq!(served.fake.malformed.lock().unwrap().len(), count + 3);
    served.handle.publish(TOPIC, &Publication::Response(response(&ReqId::new("p").unwrap())));
    assert_eq!(bystander.next_publication(within_ms(10_000)).unwrap().0, TOPIC);
    bystander.status(within_ms(10_000)).unwrap();
}

#[test]
fn a_client_that_sends_too_much_learns_why() {
    let served = Served::start();
    let mut stream = served.raw();
    let length = u32::try_from(CLIENT_FRAME_LIMIT).unwrap() + 1;
    stream.write_all(&length.to_be_bytes()).unwrap();
    // The connection may end while this is still being written.
    let _ = stream.write_all(&vec![0; CLIENT_FRAME_LIMIT]);
    ends_with(stream, ErrorCode::TooLong);
}

#[test]
fn slow_greetings_and_slow_frames_end_their_connection() {
    let timeouts =
        Timeouts { hello: Duration::from_millis(50), frame: Duration::from_millis(50), ..Timeouts::default() };
    let served = Served::with(timeouts);
    ends_with(served.silent(), ErrorCode::TooSlow);
    let mut stream = served.raw();
    stream.write_all(&[0, 0]).unwrap();
    ends_with(stream, ErrorCode::TooSlow);
    served.still_serves();
}

#[test]
fn who_does_not_read_is_cut_and_nobody_waits_for_it() {
    let served = Served::start();
    let mut lazy = served.raw();
    let subscribe = ClientFrame::Subscribe { call: 1, topics: vec!["zeek/".into()] };
    lazy.write_all(&encode_client(&subscribe).unwrap()).unwrap();
    assert_eq!(next(&mut lazy), ServerFrame::Done { call: 1 });
    served.wait_until("subscription", |served| served.handle.subscribers(TOPIC) > 0);

    let mut publication = response(&ReqId::new("p").unwrap());
    publication.event = "x".repeat(1 << 20);
    let publication = Publication::Response(publication);
    let mut taken = 0;
    while served.handle.publish(TOPIC, &publication) == 1 {
        taken += 1;
        assert!(taken < 100, "the queue of a peer that does not read has no end");
    }
    served.wait_until("the end of the lazy connection", |served| served.handle.connections() == 0);
    served.still_serves();
}

#[test]
fn subscribers_get_what_their_prefixes_name() {
    let served = Served::start();
    let (mut all, mut some, mut none) = (served.client(), served.client(), served.client());
    all.subscribe(&[""], within_ms(10_000)).unwrap();
    some.subscribe(&["zeek/management/"], within_ms(10_000)).unwrap();
    none.subscribe(&["zeek/cluster-control/"], within_ms(10_000)).unwrap();
    served.wait_until("three subscriptions", |served| served.fake.subscribed.load(Ordering::Relaxed) == 3);
    let publication = Publication::Response(response(&ReqId::new("p").unwrap()));
    assert_eq!(served.handle.publish(TOPIC, &publication), 2);
    assert_eq!(all.next_publication(within_ms(10_000)).unwrap(), (TOPIC.to_owned(), publication.clone()));
    assert_eq!(some.next_publication(within_ms(10_000)).unwrap(), (TOPIC.to_owned(), publication));
    none.status(within_ms(10_000)).unwrap();
    assert!(matches!(none.next_publication(within_ms(0)), Err(client::Error::TimedOut)));
    let too_many = vec!["t"; TOPICS_LIMIT + 1];
    assert!(none.subscribe(&too_many, within_ms(10_000)).is_err());
}

#[test]
fn a_connection_that_ends_is_reported_and_takes_nothing_more() {
    let served = Served::start();
    let mut client = served.client();
    client.request("r", Request::GetNodes {}, Dialect::Management, None, within_ms(10_000)).unwrap();
    let route = served.fake.incoming.lock().unwrap()[0].route.unwrap();
    drop(client);
    served.wait_until("the disconnect", |served| !served.fake.disconnected.lock().unwrap().is_empty());
    assert_eq!(*served.fake.disconnected.lock().unwrap(), [route.connection]);
    assert!(!served.handle.respond(route, &response(&ReqId::default()), None));
    assert!(!served.handle.refuse(route, "busy"));
}

#[test]
fn connections_beyond_the_limit_are_told_so() {
    let served = Served::start();
    let kept: Vec<StdStream> = (0..CONNECTIONS_LIMIT).map(|_| served.raw()).collect();
    match Client::connect(&served.path, "one too many") {
        Err(client::Error::Agent { code: ErrorCode::Busy, .. }) => {}
        other => panic!("{other:?}"),
    }
    drop(kept);
    served.wait_until("room", |served| served.handle.connections() == 0);
    served.still_serves();
}

#[test]
fn stopping_hands_over_what_is_queued_and_removes_the_socket() {
    let served = Served::start();
    let mut client = served.client();
    client.subscribe(&[""], within_ms(10_000)).unwrap();
    served.wait_until("subscription", |served| served.handle.subscribers(TOPIC) > 0);
    let publication = Publication::Response(response(&ReqId::new("p").unwrap()));
    for _ in 0..100 {
        served.handle.publish(TOPIC, &publication);
    }
    served.stop.cancel();
    for _ in 0..100 {
        client.next_publication(within_ms(10_000)).unwrap();
    }
    assert!(matches!(client.next_publication(within_ms(10_000)), Err(client::Error::Closed)));
    let Served { path, runtime, running, .. } = served;
    runtime.block_on(running).unwrap().unwrap();
    assert!(!path.exists());
    assert!(matches!(Client::connect(&path, "late"), Err(client::Error::Unreachable { .. })));
}
