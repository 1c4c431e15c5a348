//! Who is let in, over connections of this test's own.

use std::io;

use tokio::net::{TcpListener, TcpStream};

use super::*;

const ADVICE: &str = "certificates would do";
/// No real host has it.
const NOBODYS: u32 = u32::MAX;

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// A rule that does not know us.
fn others() -> Options {
    Options { overflow_uid: NOBODYS, words: "others".to_owned(), ..Options::only(own_uid() + 1) }
}

async fn pair() -> (TcpStream, TcpStream, Ends) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (server, remote) = listener.accept().await.unwrap();
    let ends = ends(&server, server.local_addr().unwrap(), remote).unwrap();
    (client, server, ends)
}

async fn admitted(options: Options) -> Admitted {
    let (_client, _server, ends) = pair().await;
    Gate::new(options).admit(Caller { ends, subject: None, is_open: false, advice: ADVICE }).await
}

#[tokio::test]
async fn a_listed_user_may_ask_and_is_named() {
    let (_client, _server, ends) = pair().await;
    let options = Options { overflow_uid: NOBODYS, ..Options::only(own_uid()) };
    let admitted = Gate::new(options).admit(Caller { ends, subject: None, is_open: false, advice: ADVICE }).await;
    let peer = format!("127.0.0.1 port={} uid={}", ends.remote.port(), own_uid());
    assert_eq!(admitted, Admitted { uid: Some(own_uid()), peer, verdict: Verdict::MayAsk });
}

#[tokio::test]
async fn others_are_refused_but_as_nodes() {
    let Verdict::Refused(reason) = admitted(others()).await.verdict else { panic!("not refused") };
    assert_eq!(reason, format!("uid {} may not ask for anything; the setting request_users allows others", own_uid()));
    let options = Options { nodes: [own_uid()].into(), ..others() };
    assert_eq!(admitted(options).await.verdict, Verdict::OnlyAsNode(reason));
    // Nodes that were found running.
    let (_client, _server, ends) = pair().await;
    let gate = Gate::new(others());
    let caller = Caller { ends, subject: None, is_open: false, advice: ADVICE };
    assert!(matches!(gate.admit(caller).await.verdict, Verdict::Refused(_)));
    gate.add_nodes([own_uid()]);
    assert!(matches!(gate.admit(caller).await.verdict, Verdict::OnlyAsNode(_)));
}

#[tokio::test]
async fn members_of_the_group_may_ask_and_a_failure_refuses() {
    let with = |groups_of: GroupsOf| Options { group: Some(60), groups_of, ..others() };
    assert_eq!(admitted(with(|_| Ok(Some(vec![1, 60])))).await.verdict, Verdict::MayAsk);
    assert!(matches!(admitted(with(|_| Ok(Some(vec![1])))).await.verdict, Verdict::Refused(_)));
    assert!(matches!(admitted(with(|_| Ok(None))).await.verdict, Verdict::Refused(_)));
    let failed = admitted(with(|_| Err(io::Error::other("the directory is away")))).await.verdict;
    assert!(matches!(&failed, Verdict::Refused(why) if why.contains("the directory is away")), "{failed:?}");
}

#[tokio::test]
async fn the_overflow_uid_is_nobodys_even_if_it_is_listed() {
    let options = Options { overflow_uid: own_uid(), ..Options::only(own_uid()) };
    let admitted = admitted(options).await;
    assert!(matches!(&admitted.verdict, Verdict::Refused(why) if why.contains("cannot name")), "{admitted:?}");
    assert!(admitted.peer.ends_with(&format!(" uid={}", own_uid())), "{admitted:?}");
}

#[tokio::test]
async fn from_elsewhere_a_certificate_is_needed_or_an_open_door() {
    let ends = Ends { local: "192.0.2.1:2151".parse().unwrap(), remote: "192.0.2.2:40000".parse().unwrap(), inode: 7 };
    let gate = Gate::new(Options::only(own_uid()));
    let admit = async |subject, is_open| gate.admit(Caller { ends, subject, is_open, advice: ADVICE }).await;
    let refused = admit(None, false).await;
    assert!(
        matches!(&refused.verdict, Verdict::Refused(why) if why.contains("another host") && why.ends_with(ADVICE)),
        "{refused:?}"
    );
    assert_eq!(refused.peer, "192.0.2.2 port=40000");
    let known = admit(Some("CN=controller"), false).await;
    assert_eq!((known.verdict, known.peer.as_str()), (Verdict::MayAsk, "192.0.2.2 port=40000 subject=CN=controller"));
    assert_eq!(admit(None, true).await.verdict, Verdict::MayAsk);
}

#[test]
fn the_control_sockets_mode_is_as_good_as_the_name_service() {
    let listed = Gate::new(others());
    assert!(listed.admits_at_socket(own_uid()).is_err());
    assert!(listed.admits_at_socket(own_uid() + 1).is_ok());
    assert!(Gate::new(Options { group: Some(60), ..others() }).admits_at_socket(own_uid()).is_ok());
}

#[test]
fn a_peer_is_journaled_with_all_that_is_known_of_it() {
    let address = "[::ffff:127.0.0.1]:4242".parse().unwrap();
    assert_eq!(peer(address, None, None), "127.0.0.1 port=4242");
    assert_eq!(peer(address, Some(995), None), "127.0.0.1 port=4242 uid=995");
    assert_eq!(peer(address, Some(995), Some("CN=a b")), "127.0.0.1 port=4242 uid=995 subject=CN=a b");
}
