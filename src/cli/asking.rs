//! Who may ask the agent: the settings become uids, words for the log and `status`, and what is to be warned of.

use std::collections::BTreeSet;

use super::name_service::NameService;
use super::outcome::Failure;
use crate::api::rights::User;
use crate::identify;
use crate::settings::{Origin, Problem, Settings, accounts};
use crate::tls::BrokerMode;
use crate::{peers, websocket};

/// Who may ask on this host.
pub struct Asking {
    pub options: identify::Options,
    /// The same in words.
    pub clauses: Vec<String>,
    pub warnings: Vec<String>,
}

/// `group` is the control group's number, `node_user` whom nodes run as, if not as the agent itself.
pub fn asking(
    settings: &Settings,
    group: Option<u32>,
    node_user: Option<&User>,
    names: &NameService,
) -> Result<Asking, Failure> {
    let own = rustix::process::geteuid().as_raw();
    let listed = listed(settings, names)?;
    let overflow_uid = identify::overflow_uid();
    let (users, group, clauses) = match listed {
        Some(users) => {
            let (users, clauses): (BTreeSet<u32>, Vec<String>) = users.into_iter().unzip();
            (users, None, clauses)
        }
        None => {
            let mut clauses = vec![name(0)];
            if own != 0 {
                clauses.push(format!("{} (the agent's own user)", name(own)));
            }
            clauses.extend(node_user.map(|user| format!("{} (the nodes' user)", user.name)));
            if let Some(group) = settings.control_group.0.as_ref().filter(|_| group.is_some()) {
                clauses.push(format!("members of {group}"));
            }
            ([0, own].into_iter().chain(node_user.map(|user| user.uid)).collect(), group, clauses)
        }
    };
    let nodes: BTreeSet<u32> = [own].into_iter().chain(node_user.map(|user| user.uid)).collect();
    let mut warnings = Vec::new();
    // An agent that is root and has no user for its nodes is warned of anyway, see `host`.
    if node_user.is_none() && own != 0 {
        warnings.push(format!(
            "nodes run as {}, as the agent itself does: each of them can do what the agent can, whoever request_users allows",
            name(own)
        ));
    }
    if users.contains(&overflow_uid) || nodes.contains(&overflow_uid) {
        warnings.push(format!(
            "uid {overflow_uid} ({}) is what the kernel shows for every user that it cannot name, so its connections over \
             Broker and WebSocket are refused, those of nodes too; give nodes, or whoever is to ask, a user of their own",
            name(overflow_uid)
        ));
    }
    let options = identify::Options { users, group, words: clauses.join(", "), nodes, groups_of, overflow_uid };
    Ok(Asking { options, clauses, warnings })
}

/// The users of `request_users`, each with its name; `None` if it is not set.
fn listed(settings: &Settings, service: &NameService) -> Result<Option<Vec<(u32, String)>>, Problem> {
    let Some(names) = &settings.request_users.0 else { return Ok(None) };
    let unknown = |what: String| {
        let origin = Origin::clone(&settings.request_users.origin);
        Problem::Unknown { key: "request_users", origin, problem: format!("has {what}") }
    };
    let user = |given: &String| match given.parse() {
        // A number is one, whether this host has a name for it or not.
        Ok(uid) => Ok((uid, name(uid))),
        Err(_) => service.user(given).map(|user| (user.uid, user.name)).map_err(unknown),
    };
    names.iter().map(user).collect::<Result<_, _>>().map(Some)
}

fn name(uid: u32) -> String {
    match accounts::user(&uid.to_string()) {
        Ok(Some(user)) => user.name,
        Ok(None) | Err(_) => format!("uid {uid}"),
    }
}

fn groups_of(uid: u32) -> std::io::Result<Option<Vec<u32>>> {
    Ok(accounts::user(&uid.to_string())?.map(|user| user.groups))
}

/// Who else may ask over the transports, and the warnings that follow from it.
#[derive(Default)]
pub struct Open {
    pub clauses: Vec<String>,
    pub warnings: Vec<String>,
}

pub fn transports(
    settings: &Settings,
    websocket: Option<&websocket::Options>,
    broker: Option<&peers::Options>,
) -> Open {
    let mut open = Open::default();
    if let Some(broker) = broker {
        open_broker(broker, &mut open);
    }
    if let Some(websocket) = websocket {
        open_websocket(websocket, settings.websocket_client_ca.0.is_some(), &mut open);
    }
    open
}

fn open_broker(options: &peers::Options, open: &mut Open) {
    let is_local = options.listen.iter().all(|address| address.ip().is_loopback());
    match (options.tls.mode(), options.insecure) {
        (BrokerMode::Certificates, _) => {
            open.clauses.push("whoever shows a certificate of broker_cafile or broker_capath over Broker".to_owned());
        }
        (BrokerMode::Plain | BrokerMode::Anonymous, true) => {
            let who = if is_local { "every user of this host" } else { "everybody who reaches it" };
            open.clauses.push(format!("{who} over Broker (broker_insecure)"));
            open.warnings.push(format!(
                "broker_insecure is set: {who} can deploy over Broker, and so run programs on this host, and whoever answers \
                 at the controller's address can; certificates (broker_certificate, broker_key, broker_cafile) would say who \
                 they are"
            ));
        }
        (mode @ (BrokerMode::Plain | BrokerMode::Anonymous), false) => {
            if !is_local {
                let what = match mode {
                    BrokerMode::Plain => "does not even encrypt",
                    BrokerMode::Anonymous | BrokerMode::Certificates => "encrypts, but authenticates nobody",
                };
                open.warnings.push(format!(
                    "the Broker listener {what}, so peers on other hosts are refused; set broker_certificate, broker_key and \
                     broker_cafile, or broker_insecure if the network is safe"
                ));
            }
        }
    }
}

fn open_websocket(options: &websocket::Options, asks_for_certificates: bool, open: &mut Open) {
    let is_local = options.addresses.iter().all(|address| address.ip().is_loopback());
    if asks_for_certificates {
        open.clauses.push("whoever shows a certificate of websocket_client_ca over WebSocket".to_owned());
    } else if options.insecure {
        let who = if is_local { "every user of this host" } else { "everybody who reaches it" };
        open.clauses.push(format!("{who} over WebSocket (websocket_insecure)"));
        open.warnings.push(format!(
            "websocket_insecure is set: {who} can deploy over WebSocket, and so run programs on this host; certificates \
             (websocket_certificate, websocket_key, websocket_client_ca) would say who they are"
        ));
    } else if !is_local {
        open.warnings.push(
            "the WebSocket listener asks for no certificates, so clients on other hosts are refused; set websocket_client_ca, \
             or websocket_insecure if the network is safe"
                .to_owned(),
        );
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::outcome::Exit;
    use super::*;
    use crate::settings::Surroundings;
    use crate::tls::BrokerOptions;

    fn settings(file: &str) -> Settings {
        let flags = vec![("request_users", file.to_owned())];
        let flags = if file.is_empty() { Vec::new() } else { flags };
        Settings::resolve(&flags, &Surroundings::default(), None).unwrap()
    }

    fn asked(users: &str, group: Option<u32>, node_user: Option<&User>) -> Result<Asking, Failure> {
        asking(&settings(users), group, node_user, &NameService::with_patience(Duration::ZERO))
    }

    #[test]
    fn without_a_list_root_the_agent_and_the_nodes_user_may_ask() {
        let own = rustix::process::geteuid().as_raw();
        let user = User { name: "zeek".to_owned(), uid: 995, gid: 995, groups: vec![995] };
        let found = asked("", None, Some(&user)).ok().unwrap();
        assert_eq!(found.options.users, BTreeSet::from([0, own, 995]));
        assert_eq!(found.options.nodes, BTreeSet::from([own, 995]));
        assert_eq!(found.clauses.first().map(String::as_str), Some("root"));
        assert_eq!(found.clauses.last().map(String::as_str), Some("zeek (the nodes' user)"));
        // Where nodes and those who ask are the same user, no separation is claimed.
        let same = asked("", None, None).ok().unwrap();
        assert_eq!(same.warnings.iter().any(|text| text.contains("as the agent itself does")), own != 0);
    }

    #[test]
    fn a_list_is_all_there_is() {
        let group = Some(60);
        let found = asked("root", group, None).ok().unwrap();
        assert_eq!((found.options.users, found.options.group), (BTreeSet::from([0]), None));
        assert_eq!((found.clauses, found.options.words.as_str()), (vec!["root".to_owned()], "root"));
        let found = asked("4294960000", None, None).ok().unwrap();
        assert_eq!(found.clauses, ["uid 4294960000"]);
        let Err(Failure::Said { exit: Exit::Failed, message }) = asked("root no-such-user-here", None, None) else {
            panic!("taken");
        };
        let expected =
            "flag --request-users: setting `request_users` has \"no-such-user-here\", and this host has no such";
        assert!(message.starts_with(expected), "{message}");
    }

    fn broker(listen: &str, tls: BrokerOptions, insecure: bool) -> Open {
        let options = peers::Options {
            listen: vec![listen.parse().unwrap()],
            controller: None,
            tls,
            insecure,
            notify: Vec::new(),
            timeouts: peers::Timeouts::default(),
        };
        transports(&settings(""), None, Some(&options))
    }

    #[test]
    fn what_is_open_to_others_is_told() {
        let anonymous = BrokerOptions::default;
        let certified = || BrokerOptions { certificate: Some("/cert.pem".into()), ..anonymous() };
        let plain = || BrokerOptions { disable_ssl: true, ..anonymous() };
        let local = broker("127.0.0.1:2151", anonymous(), false);
        assert!(local.clauses.is_empty() && local.warnings.is_empty());
        assert!(
            broker("0.0.0.0:2151", anonymous(), false).warnings[0].contains("authenticates nobody, so peers on other")
        );
        assert!(broker("[::]:2151", plain(), false).warnings[0].contains("does not even encrypt"));
        let certified = broker("0.0.0.0:2151", certified(), true);
        assert!(certified.warnings.is_empty() && certified.clauses[0].contains("broker_cafile"));
        let open = broker("0.0.0.0:2151", anonymous(), true);
        assert!(open.warnings[0].contains("everybody who reaches it can deploy"));
        assert_eq!(open.clauses, ["everybody who reaches it over Broker (broker_insecure)"]);
        assert!(broker("127.0.0.1:2151", plain(), true).warnings[0].contains("every user of this host can deploy"));
    }
}
