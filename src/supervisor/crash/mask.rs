//! Masks what must not be visible to everybody who can read a crash bundle.

const MASK: &str = "(masked)";

/// Parts of names that usually denote secrets.
const SECRET: [&str; 7] = ["pass", "secret", "token", "credential", "key", "auth", "cookie"];

/// The value of a variable, unless its name or form says that it is a secret.
pub(super) fn variable(name: &str, value: &str) -> String {
    if is_secret(name) { MASK.to_owned() } else { without_userinfo(value) }
}

/// Arguments: `name=value` is masked like a variable, and the argument after an option without a value like the value
/// of that option.
pub(super) fn arguments<'a>(arguments: impl Iterator<Item = &'a str>) -> impl Iterator<Item = String> {
    let mut option = "";
    arguments.map(move |argument| {
        let before = std::mem::take(&mut option);
        match argument.split_once('=') {
            Some((name, value)) => format!("{name}={}", variable(name, value)),
            None if argument.starts_with('-') => {
                option = argument;
                argument.to_owned()
            }
            None => variable(before, argument),
        }
    })
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET.iter().any(|part| name.contains(part))
}

/// A URL may contain a user and password (RFC 3986, 3.2.1), and each URL of a list its own.
fn without_userinfo(text: &str) -> String {
    let mut parts = text.split("://");
    let mut masked = parts.next().unwrap_or_default().to_owned();
    for rest in parts {
        masked.push_str("://");
        let end = rest.find(['/', '?', '#', ',', ' ']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end).unwrap_or((rest, ""));
        match authority.rsplit_once('@') {
            Some((_, host)) => masked.extend([MASK, "@", host, path]),
            None => masked.push_str(rest),
        }
    }
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_by_name_and_the_rest_stays() {
        for name in ["KAFKA_PASSWORD", "db_passwd", "AWS_SECRET_ACCESS_KEY", "ApiToken", "GPG_KEY", "HTTP_AUTH"] {
            assert_eq!(variable(name, "x"), MASK, "{name}");
        }
        assert_eq!(variable("PATH", "/bin:/usr/bin"), "/bin:/usr/bin");
        assert_eq!(variable("PROXY", "http://me:pw@proxy:3128/a"), "http://(masked)@proxy:3128/a");
        assert_eq!(variable("URL", "http://host/a@b"), "http://host/a@b");
        assert_eq!(variable("URLS", "a://u:p@h,b://v:q@i/x@y"), "a://(masked)@h,b://(masked)@i/x@y");
        let shown = |given: &[&str]| arguments(given.iter().copied()).collect::<Vec<_>>();
        assert_eq!(shown(&["Kafka::password=x=y", "a=1hr"]), ["Kafka::password=(masked)", "a=1hr"]);
        assert_eq!(shown(&["--token", "x", "y", "-C", "z"]), ["--token", "(masked)", "y", "-C", "z"]);
    }
}
