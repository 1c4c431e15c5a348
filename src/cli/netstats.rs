//! `nodes netstats`: the packets of each node, as it knows them.

use serde_json::Value;

use super::flags::Sending;
use super::outcome::Outcome;
use super::output::{Cell, Column, Table};
use super::request;
use super::{Context, print_json};
use crate::api::event::{Result as ApiResult, ResultData};
use crate::terminal;

const COLUMNS: [Column; 6] = [
    Column::text("NODE"),
    Column::number("RECEIVED"),
    Column::number("DROPPED"),
    Column::number("LINK"),
    Column::number("BYTES"),
    Column::number("LAG"),
];
/// What a node answers, in the order of the columns; the lag comes last, in seconds.
const COUNTS: [&str; 4] = ["pkts_recvd", "pkts_dropped", "pkts_link", "bytes_recvd"];
const LAG: &str = "lag";

pub fn run(context: &Context, nodes: Vec<String>, sending: Sending) -> Outcome {
    let call = request::question(vec!["get_net_stats".to_owned()], nodes, sending);
    let (response, named) = request::ask(context, call)?;
    let screen = context.screen();
    if screen.json {
        print_json(&response)?;
        return Ok(request::verdict(&response, &named));
    }
    let mut out = terminal::out();
    let mut table = Table::new(&COLUMNS, &screen);
    for (node, stats) in response.results.iter().filter_map(stats_of) {
        table.row(&mut out, row(node, &stats))?;
    }
    table.finish(&mut out)?;
    // What is no row of numbers is told as every other answer is.
    let mut rest = response.clone();
    rest.results.retain(|result| stats_of(result).is_none());
    if !rest.results.is_empty() || response.results.is_empty() {
        request::print_text(&screen, &rest)?;
    }
    Ok(request::verdict(&response, &named))
}

/// A node's numbers, if it sent some.
fn stats_of(result: &ApiResult) -> Option<(&str, Value)> {
    let Some(ResultData::Text(text)) = result.data.as_ref().filter(|_| result.success) else { return None };
    let stats: Value = serde_json::from_str(text).ok()?;
    stats.is_object().then_some((result.node.as_deref().unwrap_or_default(), stats))
}

fn row(node: &str, stats: &Value) -> Vec<Cell> {
    let count = |name: &&str| match stats.get(name).and_then(Value::as_u64) {
        Some(count) => Cell::new(count.to_string()),
        None => Cell::new("-"),
    };
    let lag = match stats.get(LAG).and_then(Value::as_f64) {
        Some(seconds) => Cell::new(format!("{:.1} s", seconds.max(0.0))),
        None => Cell::new("-"),
    };
    std::iter::once(Cell::new(node)).chain(COUNTS.iter().map(count)).chain([lag]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(text: &str) -> ApiResult {
        ApiResult {
            reqid: crate::api::ids::ReqId::new("r").unwrap(),
            success: true,
            instance: None,
            data: Some(ResultData::Text(text.to_owned())),
            error: None,
            node: Some("w1".to_owned()),
        }
    }

    #[test]
    fn numbers_are_shown_as_zeek_9_sent_them_and_nothing_else_is_taken_for_some() {
        // Recorded from Zeek 9.0.0-rc1.
        let recorded =
            r#"{"pkts_recvd":251,"pkts_dropped":0,"pkts_link":524,"bytes_recvd":183038,"lag":0.0018260478973388672}"#;
        let recorded = answered(recorded);
        let (node, stats) = stats_of(&recorded).unwrap();
        assert_eq!(row(node, &stats).len(), COLUMNS.len());
        let shown: Vec<Value> = COUNTS.iter().map(|name| stats[name].clone()).collect();
        assert_eq!(shown, [251, 0, 524, 183_038]);
        for odd in ["", "7", "null", "[]", "\"text\""] {
            assert!(stats_of(&answered(odd)).is_none(), "{odd}");
        }
        assert!(stats_of(&ApiResult { success: false, ..answered("{}") }).is_none());
    }
}
