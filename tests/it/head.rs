//! The journal's head is told where it can be noted: to subscribers, in the log, by `journal stats`. What was noted proves
//! later that the journal was not rewritten (P12).

use zeek_cluster_agent::api::event::{Notification, Request};
use zeek_cluster_agent::control::client::within_ms;
use zeek_cluster_agent::control::message::Publication;

use crate::support::{Host, cluster, set};

#[test]
fn the_head_is_told_after_a_change_and_holds_later() {
    let host = Host::new();
    let agent = host.start();
    let mut subscriber = host.client();
    subscriber.subscribe(&["zeek/"], within_ms(10_000)).unwrap();
    assert!(host.ask("deploy", set(cluster(&[("w1", "")]))).success());
    let noted = loop {
        let (_, what) = subscriber.next_publication(within_ms(30_000)).unwrap();
        if let Publication::Notification(Notification::NotifyLog { msg, .. }) = what
            && let Some(head) = msg.strip_prefix("the journal's head is ")
        {
            break head.to_owned();
        }
    };
    assert!(host.read_log().contains(&format!("the journal's head is {noted}")), "{}", host.read_log());
    assert!(host.ask("after", Request::GetNodes {}).success());
    let proven = |host: &Host| {
        let said = host.run(&["journal", "verify", "--anchor", &noted]);
        assert!(said.code == 0 && said.stdout.contains(&format!("it continues {noted}")), "{said:?}");
    };
    proven(&host);
    let stats = host.json(&["journal", "stats", "--json"])["head"].as_str().unwrap().to_owned();
    assert!(host.run(&["journal", "stats"]).stdout.contains(&stats) && stats != noted);
    agent.kill();
    let _agent = host.start();
    proven(&host);
}
