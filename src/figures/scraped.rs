//! What is read of a node's answer at its metrics port: its status, and a few names of the Prometheus text format. Pure.

use crate::api::figures::Captured;

const RECEIVED: &str = "zeek_net_received_packets_total";
const DROPPED: &str = "zeek_net_dropped_packets_total";
const LAG: &str = "zeek_net_packet_lag_seconds";

/// The figures in an answer to GET; `None` if it is no answer with status 200.
pub fn answer(bytes: &[u8]) -> Option<Captured> {
    body(bytes).map(read)
}

/// What follows the head of an answer with status 200.
fn body(answer: &[u8]) -> Option<&[u8]> {
    let is_ok = answer.starts_with(b"HTTP/1.") && answer.get(8..13) == Some(b" 200 ".as_slice());
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    answer.get(head + 4..).filter(|_| is_ok)
}

/// The figures on a metrics page; all `None` if it has none of them (Zeek has them with `misc/stats` loaded). Samples with
/// several sets of labels are added up. Lines that are no samples are passed over.
fn read(page: &[u8]) -> Captured {
    let mut captured = Captured::default();
    for line in page.split(|byte| *byte == b'\n') {
        let Some((name, value)) = sample(line) else { continue };
        let field = match name {
            RECEIVED => &mut captured.received,
            DROPPED => &mut captured.dropped,
            LAG => &mut captured.lag_seconds,
            _other => continue,
        };
        *field = Some(field.unwrap_or(0.0) + value).filter(|sum| sum.is_finite());
    }
    captured
}

/// `name{labels} value [time]`.
fn sample(line: &[u8]) -> Option<(&str, f64)> {
    // Only lines of interest are looked at closely.
    let line = std::str::from_utf8(line.strip_suffix(b"\r").unwrap_or(line))
        .ok()
        .filter(|line| line.starts_with("zeek_net_"))?;
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at_checked(end)?;
    // A label's value may contain anything, also a brace; a sample's value never does.
    let rest = match rest.starts_with('{') {
        true => rest.rsplit_once('}')?.1,
        false => rest,
    };
    let value: f64 = rest.split_ascii_whitespace().next()?.parse().ok()?;
    value.is_finite().then_some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_with_status_200_has_a_page() {
        assert_eq!(body(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\npage"), Some(b"page".as_slice()));
        assert_eq!(body(b"HTTP/1.0 200 OK\r\n\r\n"), Some(b"".as_slice()));
        for other in [&b"HTTP/1.1 404 Not Found\r\n\r\npage"[..], b"HTTP/1.1 200 OK\r\n", b"SSH-2.0\r\n\r\n", b""] {
            assert_eq!(body(other), None);
        }
    }

    #[test]
    fn zeeks_page_is_read() {
        let page = b"# HELP zeek_net_received_packets_total Total\n\
                     # TYPE zeek_net_received_packets_total counter\n\
                     zeek_net_received_packets_total{endpoint=\"w}1 \\\"x\"} 120\r\n\
                     zeek_net_dropped_packets_total{endpoint=\"w1\"} 3 1700000000000\n\
                     zeek_net_link_packets_total 9\n\
                     zeek_net_packet_lag_seconds 1.5e-3\n\
                     process_open_fds 12\n";
        let expected = Captured { received: Some(120.0), dropped: Some(3.0), lag_seconds: Some(0.0015) };
        assert_eq!(read(page), expected);
    }

    #[test]
    fn what_is_no_sample_is_passed_over_and_several_are_added_up() {
        let page = b"zeek_net_received_packets_total\nzeek_net_received_packets_total{ 5\nzeek_net_received_packets_total NaN\n\
                     zeek_net_received_packets_total{a=\"1\"} 2\nzeek_net_received_packets_total{a=\"2\"} 3\n\xff\xfe\n";
        assert_eq!(read(page), Captured { received: Some(5.0), ..Captured::default() });
        assert_eq!(read(b""), Captured::default());
    }
}
