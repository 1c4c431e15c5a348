//! What commands print, from here on: the screen, tables, and figures for people.

pub use super::screen::Screen;
pub use super::table::{Cell, Column, Table};
use crate::api::status::NodeState;
pub use crate::terminal::plain;

/// Milliseconds for people: `812 ms`, `3.2 s`, `2 h 5 min`.
pub fn span(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms} ms"),
        1..10 => format!("{}.{} s", seconds, ms % 1000 / 100),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// Bytes for people.
pub fn size(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.iter().find(|(_, shift)| bytes >> shift > 0) {
        Some((unit, shift)) => format!("{:.1} {unit}", bytes as f64 / (1_u64 << shift) as f64),
        None => format!("{bytes} B"),
    }
}

/// A state in its colour.
pub fn state_cell(state: NodeState) -> Cell {
    Cell::colored(state.as_str(), color(state))
}

fn color(state: NodeState) -> &'static str {
    match state {
        NodeState::Running => "32",
        NodeState::Pending => "33",
        NodeState::Stopped => "2",
        NodeState::Failed | NodeState::Crashed => "31",
        NodeState::Unknown => "35",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_read_well() {
        for (ms, text) in
            [(5, "5 ms"), (3210, "3.2 s"), (59_999, "59 s"), (7_500_000, "2 h 5 min"), (90_000_000, "1 d 1 h")]
        {
            assert_eq!(span(ms), text);
        }
        assert_eq!((size(12), size(1536)), ("12 B".to_owned(), "1.5 KiB".to_owned()));
    }
}
