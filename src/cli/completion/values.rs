//! What only the running agent knows: asked quickly, and without a word if it does not answer.

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::time::Duration;

use crate::api::audit::{Filter, Kind, Row};
use crate::cli::{Context, connect};
use crate::control::client::{Client, within_ms};

/// Somebody waits with a finger on the key.
const TIMEOUT: Duration = Duration::from_millis(1500);
/// The newest, which are the ones that anybody remembers.
const REQIDS: usize = 50;

/// The names of this host's nodes.
pub fn nodes(context: Context) -> Vec<String> {
    soon(context, |client| {
        let report = client.status(within_ms(1000)).ok()?;
        Some(report.nodes.into_iter().map(|node| node.node).collect())
    })
}

/// The newest reqids of the journal.
pub fn reqids(context: Context) -> Vec<String> {
    soon(context, |client| {
        let filter = Filter { kind: Kind::Request, reverse: true, ..Filter::default() };
        let page = client.page(&filter, None, within_ms(1000)).ok()?;
        let mut seen = BTreeSet::new();
        let reqids = page.rows.into_iter().filter_map(|row| match row {
            Row::Request(row) => Some(row.reqid),
            Row::Event(_) | Row::Unreadable(_) => None,
        });
        Some(reqids.filter(|reqid| seen.insert(reqid.clone())).take(REQIDS).collect())
    })
}

fn soon(context: Context, ask: fn(&mut Client) -> Option<Vec<String>>) -> Vec<String> {
    let (answer, answered) = mpsc::channel();
    // Left alone if it is not done in time: the process ends then.
    std::thread::spawn(move || {
        let found = connect::connect(&context).ok().and_then(|mut client| ask(&mut client));
        // Nobody listens any more if it comes late.
        let _ = answer.send(found.unwrap_or_default());
    });
    answered.recv_timeout(TIMEOUT).unwrap_or_default()
}
