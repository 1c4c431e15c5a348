//! Who sent something, as the journal records it, and its parts.

use serde::{Deserialize, Serialize};

/// Before what a certificate says of its owner, which is the last part and may hold anything.
const SUBJECT: &str = "subject=";
/// The parts that have a key, but for the subject.
const KEYS: [&str; 3] = ["port", "uid", "pid"];

/// Who sent something.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Source {
    /// `control`, `websocket` or `broker`.
    pub transport: String,
    /// Within the transport, for example `uid=0 pid=4242`.
    pub peer: String,
}

impl Source {
    /// Whether who asks there gives up soon, as controllers do, and has to be told something by then. On the control socket
    /// one waits for the outcome.
    pub fn has_deadline(&self) -> bool {
        matches!(self.transport.as_str(), "broker" | "websocket")
    }

    /// What the agent itself knows of the peer, and the subject of its certificate.
    pub fn parts(&self) -> (&str, Option<&str>) {
        divided(&self.peer)
    }

    /// Whether `words` name this source: a run of its parts, each of them whole, and of the subject a run of its names.
    ///
    /// `uid=1` does not name `uid=1002`, nor `10.0.0.1` the peer `10.0.0.12`; `uid=`, `1002` and `control uid=0` name
    /// `control uid=0 pid=1002`. What a certificate says is found as a part of its subject alone: `uid=0` and `control` do not
    /// name `subject=CN=control uid=0`, while `CN=control uid=0` does, with `subject=` before it or not.
    pub fn is_named_by(&self, words: &str) -> bool {
        let (known, subject) = self.parts();
        let (wanted, wanted_subject) = divided(words.trim());
        let parts: Vec<&str> = std::iter::once(self.transport.as_str()).chain(known.split_whitespace()).collect();
        let wanted: Vec<&str> = wanted.split_whitespace().collect();
        let has_subject = match (wanted_subject, subject) {
            (None, _) => true,
            (Some(wanted), Some(subject)) => is_run(&names(subject), &names(wanted), |name, wanted| name == wanted),
            (Some(_), None) => false,
        };
        has_subject && is_run(&parts, &wanted, is_part)
    }
}

/// A peer's text, or words for one, before the subject and from it on.
pub fn divided(text: &str) -> (&str, Option<&str>) {
    let mut begin = 0;
    for word in text.split(' ') {
        let key = word.split_once('=').map(|(key, _)| key);
        if key.is_some_and(|key| !KEYS.contains(&key)) {
            let (before, subject) = text.split_at(begin);
            return (before.trim_end(), Some(subject.strip_prefix(SUBJECT).unwrap_or(subject)));
        }
        begin += word.len() + 1;
    }
    (text, None)
}

/// Whether a part is what was wanted: all of it, its key with `=`, its value, or its address without the port.
fn is_part(part: &str, wanted: &str) -> bool {
    let (key, value) = part.split_once('=').unzip();
    let is_key = wanted.strip_suffix('=').is_some_and(|wanted| Some(wanted) == key);
    // As the first release wrote it.
    let address = part.parse().map(|address: std::net::SocketAddr| address.ip().to_string());
    part == wanted || is_key || Some(wanted) == value || address.is_ok_and(|address| address == wanted)
}

/// The names of a subject (RFC 4514), which are divided by commas that no backslash precedes.
fn names(subject: &str) -> Vec<&str> {
    let (mut names, mut begin, mut is_escaped) = (Vec::new(), 0, false);
    for (at, character) in subject.char_indices() {
        if character == ',' && !is_escaped {
            names.push(subject.get(begin..at).unwrap_or_default());
            begin = at + 1;
        }
        is_escaped = character == '\\' && !is_escaped;
    }
    names.push(subject.get(begin..).unwrap_or_default());
    names
}

/// Whether some stretch of `parts` is what was wanted, one by one. An empty stretch is in anything.
fn is_run(parts: &[&str], wanted: &[&str], is: fn(&str, &str) -> bool) -> bool {
    let same = |stretch: &[&str]| stretch.iter().zip(wanted).all(|(part, wanted)| is(part, wanted));
    wanted.is_empty() || parts.windows(wanted.len()).any(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        let (transport, peer) = text.split_once(' ').unwrap();
        Source { transport: transport.to_owned(), peer: peer.to_owned() }
    }

    fn check(text: &str, named_by: &[&str], not_named_by: &[&str]) {
        let source = source(text);
        named_by.iter().for_each(|words| assert!(source.is_named_by(words), "{words} in {text}"));
        not_named_by.iter().for_each(|words| assert!(!source.is_named_by(words), "{words} in {text}"));
    }

    #[test]
    fn parts_of_a_source_are_whole() {
        let named_by = ["control", "uid=1002", "uid=", "pid=4242", "uid=1002 pid=4242", "control uid=1002", "1002"];
        let others = ["uid=1", "uid=100", "id=1002", "contro", "242", "broker", "uid=1002 pid=4", "=", "CN=control"];
        check("control uid=1002 pid=4242", &named_by, &others);
        check("broker 127.0.0.1:4000", &["127.0.0.1", "127.0.0.1:4000"], &["127.0.0", "4000"]);
        check("broker 127.0.0.12 port=4000", &["127.0.0.12", "port=4000", "127.0.0.12 port=4000"], &["127.0.0.1"]);
        check("websocket ::1 port=4000 uid=995", &["::1", "uid=995"], &["::", "1", "uid=99"]);
    }

    #[test]
    fn what_a_certificate_says_is_nothing_that_the_agent_knows() {
        check(
            r"broker 192.0.2.7 port=4000 subject=CN=control uid=0 pid=1,O=websocket\, 127.0.0.1 Inc.,OU=a",
            &[
                "192.0.2.7",
                "broker",
                "CN=control uid=0 pid=1",
                "subject=CN=control uid=0 pid=1",
                r"O=websocket\, 127.0.0.1 Inc.",
                r"O=websocket\, 127.0.0.1 Inc.,OU=a",
                "broker 192.0.2.7 port=4000 subject=OU=a",
            ],
            &[
                "uid=0",
                "uid=",
                "pid=1",
                "control",
                "websocket",
                "127.0.0.1",
                "0",
                "CN=control",
                "CN=control uid=0",
                "OU=",
            ],
        );
        assert_eq!(source("broker 192.0.2.7 port=1 subject=CN=x uid=0").parts().0, "192.0.2.7 port=1");
        assert_eq!(
            source("broker 192.0.2.7 port=1 uid=7 subject=CN=x").parts(),
            ("192.0.2.7 port=1 uid=7", Some("CN=x"))
        );
    }
}
