//! Tables. On a terminal they fit it: columns without content are left out, then those that matter least, and long texts
//! are cut between words; no row takes more than a line. Elsewhere they have all columns and all text.

use std::io::{self, Write};

use super::screen::Screen;
use crate::terminal::plain;

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    title: &'static str,
    /// Numbers stand to the right.
    right: bool,
    cut: Cut,
    /// Where a line does not fit, columns with the highest of these go first; 0 stays.
    yields: u8,
}

/// Whether texts of a column may be cut, and to how many characters at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Never,
    /// Before other columns are left out.
    Early(usize),
    /// When no column is left that could be left out.
    Late(usize),
}

impl Column {
    pub const fn text(title: &'static str) -> Self {
        Self { title, right: false, cut: Cut::Never, yields: 0 }
    }

    pub const fn number(title: &'static str) -> Self {
        Self { right: true, ..Self::text(title) }
    }

    /// Text that may be cut down to `least` characters.
    pub const fn long(title: &'static str, least: usize) -> Self {
        Self { cut: Cut::Early(least), ..Self::text(title) }
    }

    /// A name, which is cut only if nothing else makes the line fit.
    pub const fn name(title: &'static str, least: usize) -> Self {
        Self { cut: Cut::Late(least), ..Self::text(title) }
    }

    pub const fn yields(self, yields: u8) -> Self {
        Self { yields, ..self }
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

    fn is_empty(&self) -> bool {
        self.text.is_empty() || self.text == "-"
    }
}

fn length(text: &str) -> usize {
    text.chars().count()
}

/// Rows decided on before the widths of the columns are.
const SAMPLE: usize = 200;

/// The columns as they are printed.
#[derive(Debug, Clone)]
struct Layout {
    /// `None`: left out.
    widths: Vec<Option<usize>>,
    /// Left out because there was nothing in it.
    is_empty: Vec<bool>,
}

/// Writes rows as they come; the layout follows the first [`SAMPLE`] of them, and is made anew when a row has something
/// for a column that had nothing before.
pub struct Table<'a> {
    columns: &'a [Column],
    screen: &'a Screen,
    waiting: Vec<Vec<Cell>>,
    /// The longest text of each column so far.
    longest: Vec<usize>,
    layout: Option<Layout>,
}

impl<'a> Table<'a> {
    pub fn new(columns: &'a [Column], screen: &'a Screen) -> Self {
        Self { columns, screen, waiting: Vec::new(), longest: vec![0; columns.len()], layout: None }
    }

    pub fn row(&mut self, out: &mut impl Write, cells: Vec<Cell>) -> io::Result<()> {
        let lacks =
            |layout: &Layout| layout.is_empty.iter().zip(&cells).any(|(empty, cell)| *empty && !cell.is_empty());
        match &self.layout {
            Some(layout) if !lacks(layout) => self.line(out, layout, &cells),
            Some(_) => {
                self.waiting.push(cells);
                writeln!(out)?;
                self.begin(out)
            }
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

    /// Writes what waits; the layout follows what has come so far. A table without rows has no header either.
    pub fn flush(&mut self, out: &mut impl Write) -> io::Result<()> {
        if self.layout.is_none() && !self.waiting.is_empty() {
            self.begin(out)?;
        }
        Ok(())
    }

    fn begin(&mut self, out: &mut impl Write) -> io::Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        for cells in &waiting {
            for (longest, cell) in self.longest.iter_mut().zip(cells) {
                *longest = (*longest).max(if cell.is_empty() { 0 } else { length(&cell.text) });
            }
        }
        let layout = self.fit();
        let header: Vec<Cell> = self.columns.iter().map(|column| Cell::colored(column.title, "1")).collect();
        self.line(out, &layout, &header)?;
        for cells in &waiting {
            self.line(out, &layout, cells)?;
        }
        self.layout = Some(layout);
        Ok(())
    }

    fn fit(&self) -> Layout {
        let natural =
            self.columns.iter().zip(&self.longest).map(|(column, longest)| length(column.title).max(*longest));
        let mut widths: Vec<Option<usize>> = natural.map(Some).collect();
        let mut is_empty = vec![false; widths.len()];
        let Some(available) = self.screen.width else { return Layout { widths, is_empty } };
        for ((width, empty), longest) in widths.iter_mut().zip(&mut is_empty).zip(&self.longest) {
            if *longest == 0 {
                (*width, *empty) = (None, true);
            }
        }
        let excess = |widths: &[Option<usize>]| {
            let shown = widths.iter().flatten();
            (shown.clone().sum::<usize>() + shown.count().saturating_sub(1) * 2).saturating_sub(available)
        };
        while excess(&self.cut_down(&widths)) > 0 {
            let shown = widths.iter().zip(self.columns).enumerate();
            let going = shown.filter(|(_, (width, column))| width.is_some() && column.yields > 0);
            let Some((going, _)) = going.max_by_key(|(_, (_, column))| column.yields) else { break };
            if let Some(width) = widths.get_mut(going) {
                *width = None;
            }
        }
        // The last column says most: it gives way after the others, and names at the very last.
        let last = widths.iter().rposition(Option::is_some);
        let turn = |number: usize, column: &Column| match column.cut {
            Cut::Early(_) if Some(number) != last => Some(0),
            Cut::Early(_) => Some(1),
            Cut::Late(_) => Some(2),
            Cut::Never => None,
        };
        for now in 0..=2 {
            for _ in 0..excess(&widths) {
                let shrinking =
                    widths.iter_mut().zip(self.columns).enumerate().filter_map(|(number, (width, column))| {
                        let width = width.as_mut().filter(|width| **width > column.least())?;
                        (turn(number, column) == Some(now)).then_some(width)
                    });
                let Some(widest) = shrinking.max_by_key(|width| **width) else { break };
                *widest -= 1;
            }
        }
        Layout { widths, is_empty }
    }

    /// The widths with all that may be cut early as short as it may get.
    fn cut_down(&self, widths: &[Option<usize>]) -> Vec<Option<usize>> {
        let cut = |(width, column): (&Option<usize>, &Column)| match column.cut {
            Cut::Early(_) => width.map(|width| width.min(column.least())),
            Cut::Never | Cut::Late(_) => *width,
        };
        widths.iter().zip(self.columns).map(cut).collect()
    }

    fn line(&self, out: &mut impl Write, layout: &Layout, cells: &[Cell]) -> io::Result<()> {
        let mut line = String::new();
        let mut left = self.screen.width;
        let first = layout.widths.iter().position(Option::is_some);
        let last = layout.widths.iter().rposition(Option::is_some);
        for (number, ((column, width), cell)) in self.columns.iter().zip(&layout.widths).zip(cells).enumerate() {
            let Some(width) = *width else { continue };
            if Some(number) != first {
                // Narrower than its shortest columns: what comes first is seen.
                if left.is_some_and(|left| left <= 2) {
                    break;
                }
                line.push_str("  ");
                left = left.map(|left| left - 2);
            }
            let text = match (self.screen.width, column.cut) {
                (None, _) => cell.text.clone(),
                // One of later rows may be longer than all of the first.
                (Some(_), Cut::Never) => shorten(&cell.text, left.unwrap_or(usize::MAX)),
                (Some(_), Cut::Early(_) | Cut::Late(_)) => shorten(&cell.text, width.min(left.unwrap_or(width))),
            };
            let taken = width.max(length(&text)).min(left.unwrap_or(usize::MAX));
            let padding = " ".repeat(taken.saturating_sub(length(&text)));
            left = left.map(|left| left.saturating_sub(taken));
            let painted = self.screen.paint(cell.color, &text);
            if column.right {
                line.push_str(&padding);
                line.push_str(&painted);
            } else {
                line.push_str(&painted);
                if Some(number) != last {
                    line.push_str(&padding);
                }
            }
        }
        writeln!(out, "{}", line.trim_end())
    }
}

impl Column {
    fn least(&self) -> usize {
        match self.cut {
            Cut::Never => usize::MAX,
            Cut::Early(least) | Cut::Late(least) => least.max(length(self.title)),
        }
    }
}

/// The beginning of `text` in at most `width` characters, cut after a word.
fn shorten(text: &str, width: usize) -> String {
    if length(text) <= width {
        return text.to_owned();
    }
    let Some(room) = width.checked_sub(1) else { return String::new() };
    let begins: String = text.chars().take(room).collect();
    let next = text.chars().nth(room);
    let breaks = |c: char| c.is_whitespace() || matches!(c, '-' | '/' | ',' | ';' | ':' | '=');
    let end = match next.is_some_and(|c| c.is_whitespace()) || begins.ends_with(breaks) {
        true => begins.len(),
        // A single word that is too long has no better place.
        false => begins.rfind(breaks).map_or(begins.len(), |at| at + 1),
    };
    let kept = begins.get(..end).unwrap_or(&begins).trim_end_matches(|c: char| c.is_whitespace() || ",;:-".contains(c));
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::painted;

    const COLUMNS: [Column; 4] =
        [Column::number("SEQ"), Column::text("EVENT"), Column::text("NOTE").yields(1), Column::long("RESULT", 8)];

    fn rendered(width: Option<usize>, color: bool, rows: &[[&str; 4]]) -> String {
        let mut screen = Screen::of_tests();
        (screen.color, screen.width) = (color, width);
        let mut out = Vec::new();
        let mut table = Table::new(&COLUMNS, &screen);
        for row in rows {
            table.row(&mut out, row.iter().map(Cell::new).collect()).unwrap();
        }
        table.finish(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn without_a_terminal_everything_is_there() {
        let rows = [["1", "deploy", "", "ok"], ["200", "get_nodes", "", "a rather long result"]];
        assert_eq!(
            rendered(None, false, &rows),
            "SEQ  EVENT      NOTE  RESULT\n  1  deploy           ok\n200  get_nodes        a rather long result\n"
        );
        assert_eq!(rendered(None, false, &[]), "");
    }

    #[test]
    fn on_a_terminal_empty_columns_go_then_yielding_ones_and_words_stay_whole() {
        let rows = [["1", "deploy", "-", "ok"], ["200", "get_nodes", "", "a rather long result"]];
        assert_eq!(
            rendered(Some(80), false, &rows),
            "SEQ  EVENT      RESULT\n  1  deploy     ok\n200  get_nodes  a rather long result\n"
        );
        assert_eq!(
            rendered(Some(32), false, &rows),
            "SEQ  EVENT      RESULT\n  1  deploy     ok\n200  get_nodes  a rather long…\n"
        );
        let noted = [["1", "deploy", "note", "a rather long result"]];
        assert_eq!(rendered(Some(32), false, &noted), "SEQ  EVENT   NOTE  RESULT\n  1  deploy  note  a rather…\n");
        assert_eq!(rendered(Some(21), false, &noted), "SEQ  EVENT   RESULT\n  1  deploy  a…\n");
        // Too narrow for anything: still a line a row.
        for width in 1..21 {
            let table = rendered(Some(width), false, &noted);
            assert!(table.lines().count() == 2 && table.lines().all(|line| length(line) <= width), "{width}: {table}");
        }
    }

    #[test]
    fn a_column_appears_when_something_comes_for_it() {
        let mut rows = vec![["1", "a", "", "b"]; SAMPLE];
        rows.push(["2", "longer than before", "", "c"]);
        rows.push(["3", "a", "new", "c"]);
        let table = rendered(Some(40), false, &rows);
        let mut lines = table.lines().skip(SAMPLE);
        assert_eq!(lines.next(), Some("  1  a      b"));
        assert_eq!(lines.next(), Some("  2  longer than before  c"));
        assert_eq!(lines.next(), Some(""));
        assert_eq!(lines.next(), Some("SEQ  EVENT  NOTE  RESULT"));
        assert_eq!(lines.next(), Some("  3  a      new   c"));
    }

    #[test]
    fn nothing_in_a_cell_drives_the_terminal() {
        let table = rendered(None, false, &[["1", "\x1b[2J\r\nx", "", "a\u{202e}b\u{9b}c"]]);
        assert_eq!(table.lines().count(), 2);
        assert!(table.contains("\\u{1b}[2J\\r\\nx") && table.contains("a\\u{202e}b\\u{9b}c"), "{table}");
        assert!(rendered(None, true, &[["1", "a", "", "b"]]).starts_with(&painted("1", "SEQ")));
    }

    #[test]
    fn names_are_cut_at_their_joints() {
        let uuid = "3f2a9c1e-1d5b-4b39-8f6c-0a1b2c3d4e5f";
        assert_eq!(shorten(uuid, 36), uuid);
        assert_eq!(shorten(uuid, 15), "3f2a9c1e-1d5b…");
        assert_eq!(shorten(uuid, 9), "3f2a9c1e…");
        assert_eq!(shorten("one two", 4), "one…");
        assert_eq!(shorten("one two", 6), "one…");
        assert_eq!(shorten("incomprehensible", 5), "inco…");
        assert_eq!(shorten("x", 0), "");
    }
}
