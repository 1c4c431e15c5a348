//! The text of questions to nodes and of their replies, as files hold it.
//!
//! A question is a line `reqid TAB verb TAB argument`. A reply is a line `ok` or `error`, then the value or the reason.

use super::ids::Seq;

/// The longest argument of a question, in bytes: the name of a variable.
const ARGUMENT_LIMIT: usize = 4096;
/// The longest reply that is read, in bytes: no stored response has room for more.
pub const REPLY_LIMIT: usize = 1 << 20;
/// The longest reason that is passed on, in bytes.
const REASON_LIMIT: usize = 4096;

/// The verb and argument of a question; an error says why it cannot be asked.
pub fn question(action: &[String]) -> Result<String, String> {
    let (verb, argument) = match action {
        [verb] => (verb.as_str(), ""),
        [verb, argument] => (verb.as_str(), argument.as_str()),
        [] | [..] => return Err("a question has a verb and at most one argument".to_owned()),
    };
    if verb.len() + argument.len() > ARGUMENT_LIMIT {
        return Err(format!("the question has more than {ARGUMENT_LIMIT} bytes"));
    }
    if [verb, argument].iter().any(|text| text.chars().any(char::is_control)) {
        return Err("the question contains a control character".to_owned());
    }
    Ok(format!("{verb}\t{argument}"))
}

/// The name of a question of this `run` of the agent.
pub fn reqid(run: &str, of: Seq) -> String {
    format!("{run}-{}", of.0)
}

/// What a node replied: the value, or its reason for giving none.
pub fn reply(bytes: &[u8]) -> Result<Option<String>, String> {
    if bytes.len() > REPLY_LIMIT {
        return Err(format!("the value has more than {REPLY_LIMIT} bytes"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "the node's reply is not UTF-8 text".to_owned())?;
    match text.split_once('\n') {
        Some(("ok", value)) => Ok(Some(value.to_owned())),
        Some(("error", reason)) => {
            let mut end = reason.len().min(REASON_LIMIT);
            while !reason.is_char_boundary(end) {
                end -= 1;
            }
            Err(reason.get(..end).unwrap_or_default().to_owned())
        }
        Some(_) | None => Err("the node's reply is of another form".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_one_line_of_three_words() {
        let action = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(question(&action(&["get_id_value", "Cluster::node"])).unwrap(), "get_id_value\tCluster::node");
        assert_eq!(question(&action(&["get_net_stats"])).unwrap(), "get_net_stats\t");
        for wrong in [&[][..], &["a", "b", "c"], &["a", "b\nc"], &["a", "b\tc"], &["a\0"], &["a", "\u{85}"]] {
            assert!(question(&action(wrong)).is_err(), "{wrong:?}");
        }
        assert!(question(&["a".to_owned(), "b".repeat(ARGUMENT_LIMIT)]).is_err());
        assert_eq!(reqid("4f", Seq(17)), "4f-17");
    }

    #[test]
    fn a_reply_is_a_value_or_a_reason() {
        assert_eq!(reply(b"ok\n\"manager\""), Ok(Some("\"manager\"".to_owned())));
        assert_eq!(reply(b"ok\n"), Ok(Some(String::new())));
        assert_eq!(reply(b"ok\na\nb"), Ok(Some("a\nb".to_owned())));
        assert_eq!(reply(b"error\nunknown id"), Err("unknown id".to_owned()));
        assert_eq!(reply(format!("error\n{}", "é".repeat(9000)).as_bytes()).unwrap_err().len(), REASON_LIMIT);
        for odd in [b"".as_slice(), b"ok", b"OK\n1", b"\xff\n", &vec![b'a'; REPLY_LIMIT + 1]] {
            assert!(reply(odd).is_err());
        }
    }
}
