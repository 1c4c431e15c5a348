//! What commands print: tables that fit, text that cannot drive a terminal, JSON.

use std::io::{self, IsTerminal, Write};

use crate::telemetry::Color;
use crate::terminal::painted;

pub use crate::terminal::plain;

/// Where data goes and how it may look.
pub struct Screen {
    pub json: bool,
    pub is_terminal: bool,
    pub color: bool,
    /// Columns of the terminal; nothing is cut where there is none.
    pub width: Option<usize>,
}

impl Screen {
    pub fn stdout(json: bool, color: Color) -> Self {
        let stdout = io::stdout();
        let size = rustix::termios::tcgetwinsize(&stdout).ok();
        let is_terminal = stdout.is_terminal();
        let width = size.map(|size| usize::from(size.ws_col)).filter(|columns| is_terminal && *columns > 0);
        Self { json, is_terminal, color: color.wanted(&stdout), width }
    }

    /// `text` in the colour of an SGR code, if colours are wanted.
    pub fn paint(&self, code: &str, text: &str) -> String {
        if self.color && !code.is_empty() { painted(code, text) } else { text.to_owned() }
    }
}

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    pub title: &'static str,
    /// Numbers stand to the right.
    pub right: bool,
    /// May be cut down to this many characters where the line would not fit; others stay whole.
    pub least: Option<usize>,
}

impl Column {
    pub const fn text(title: &'static str) -> Self {
        Self { title, right: false, least: None }
    }

    pub const fn number(title: &'static str) -> Self {
        Self { title, right: true, least: None }
    }

    pub const fn long(title: &'static str, least: usize) -> Self {
        Self { title, right: false, least: Some(least) }
    }
}

/// A cell: text, and the colour of its state.
#[derive(Debug, Clone, Default)]
pub struct Cell {
    text: String,
    color: &'static str,
}

impl Cell {
    pub fn new(text: impl AsRef<str>) -> Self {
        Self { text: plain(text.as_ref()), color: "" }
    }

    pub fn colored(text: impl AsRef<str>, color: &'static str) -> Self {
        Self { color, ..Self::new(text) }
    }
}

/// Rows decided on before the widths of the columns are.
const SAMPLE: usize = 200;

/// Writes rows as they come; widths follow the first [`SAMPLE`] of them.
pub struct Table<'a> {
    columns: &'a [Column],
    screen: &'a Screen,
    waiting: Vec<Vec<Cell>>,
    widths: Option<Vec<usize>>,
}

impl<'a> Table<'a> {
    pub fn new(columns: &'a [Column], screen: &'a Screen) -> Self {
        Self { columns, screen, waiting: Vec::new(), widths: None }
    }

    pub fn row(&mut self, out: &mut impl Write, cells: Vec<Cell>) -> io::Result<()> {
        match &self.widths {
            Some(widths) => self.line(out, widths, &cells),
            None => {
                self.waiting.push(cells);
                if self.waiting.len() < SAMPLE { Ok(()) } else { self.begin(out) }
            }
        }
    }

    /// Writes what is left. A table without rows has no header either.
    pub fn finish(mut self, out: &mut impl Write) -> io::Result<()> {
        self.flush(out)
    }

    /// Writes what waits; widths follow what has come so far. A table without rows has no header either.
    pub fn flush(&mut self, out: &mut impl Write) -> io::Result<()> {
        if self.widths.is_none() && !self.waiting.is_empty() {
            self.begin(out)?;
        }
        Ok(())
    }

    fn begin(&mut self, out: &mut impl Write) -> io::Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        let widths = self.fit(&waiting);
        let header: Vec<Cell> = self.columns.iter().map(|column| Cell::colored(column.title, "1")).collect();
        self.line(out, &widths, &header)?;
        for cells in &waiting {
            self.line(out, &widths, cells)?;
        }
        self.widths = Some(widths);
        Ok(())
    }

    fn fit(&self, rows: &[Vec<Cell>]) -> Vec<usize> {
        let length = |text: &str| text.chars().count();
        let mut widths: Vec<usize> = self.columns.iter().map(|column| length(column.title)).collect();
        for cells in rows {
            for (width, cell) in widths.iter_mut().zip(cells) {
                *width = (*width).max(length(&cell.text));
            }
        }
        let Some(available) = self.screen.width else { return widths };
        let gaps = widths.len().saturating_sub(1) * 2;
        let mut excess = (widths.iter().sum::<usize>() + gaps).saturating_sub(available);
        // The widest of the columns that may be cut gives way first.
        while excess > 0 {
            let cuttable = widths.iter_mut().zip(self.columns).filter_map(|(width, column)| {
                let least = column.least?.max(length(column.title));
                (*width > least).then_some(width)
            });
            let Some(widest) = cuttable.max_by_key(|width| **width) else { break };
            *widest -= 1;
            excess -= 1;
        }
        widths
    }

    fn line(&self, out: &mut impl Write, widths: &[usize], cells: &[Cell]) -> io::Result<()> {
        let mut line = String::new();
        let last = self.columns.len().saturating_sub(1);
        for (number, ((column, width), cell)) in self.columns.iter().zip(widths).zip(cells).enumerate() {
            if number > 0 {
                line.push_str("  ");
            }
            let text = self.cut(&cell.text, *width, column);
            let padding = " ".repeat(width.saturating_sub(text.chars().count()));
            let painted = self.screen.paint(cell.color, &text);
            if column.right {
                line.push_str(&padding);
                line.push_str(&painted);
            } else {
                line.push_str(&painted);
                if number < last {
                    line.push_str(&padding);
                }
            }
        }
        writeln!(out, "{}", line.trim_end())
    }

    fn cut(&self, text: &str, width: usize, column: &Column) -> String {
        let wide = text.chars().count() > width;
        if !wide || self.screen.width.is_none() || column.least.is_none() {
            return text.to_owned();
        }
        let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
        short.push('…');
        short
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] = [Column::number("SEQ"), Column::text("EVENT"), Column::long("RESULT", 8)];

    fn rendered(width: Option<usize>, color: bool, rows: &[[&str; 3]]) -> String {
        let screen = Screen { json: false, is_terminal: true, color, width };
        let mut out = Vec::new();
        let mut table = Table::new(&COLUMNS, &screen);
        for row in rows {
            table.row(&mut out, row.iter().map(Cell::new).collect()).unwrap();
        }
        table.finish(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns_line_up_and_the_long_one_gives_way() {
        let rows = [["1", "deploy", "ok"], ["200", "get_nodes", "a rather long result"]];
        assert_eq!(
            rendered(None, false, &rows),
            "SEQ  EVENT      RESULT\n  1  deploy     ok\n200  get_nodes  a rather long result\n"
        );
        assert_eq!(
            rendered(Some(30), false, &rows),
            "SEQ  EVENT      RESULT\n  1  deploy     ok\n200  get_nodes  a rather long…\n"
        );
        let narrow = rendered(Some(5), false, &rows);
        assert!(narrow.contains("a rathe…"), "{narrow}");
        assert_eq!(rendered(None, false, &[]), "");
    }

    #[test]
    fn nothing_in_a_cell_drives_the_terminal() {
        let table = rendered(None, false, &[["1", "\x1b[2J\r\nx", "a\u{202e}b\u{9b}c"]]);
        assert_eq!(table.lines().count(), 2);
        assert!(table.contains("\\u{1b}[2J\\r\\nx") && table.contains("a\\u{202e}b\\u{9b}c"), "{table}");
        assert!(rendered(None, true, &[["1", "a", "b"]]).starts_with(&painted("1", "SEQ")));
    }

    #[test]
    fn later_rows_keep_to_the_widths_of_the_first() {
        let mut rows = vec![["1", "a", "b"]; SAMPLE];
        rows.push(["2", "longer than before", "c"]);
        let table = rendered(Some(40), false, &rows);
        assert_eq!(table.lines().count(), SAMPLE + 2);
        assert!(table.ends_with("  2  longer than before  c\n"));
    }

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
