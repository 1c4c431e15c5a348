//! Output of the command line and the log: the only place that opens standard output and standard error.
//!
//! Text from peers, nodes and files is printed here, too, and a terminal executes the control sequences that it
//! receives. So a [`Stream`] to a terminal escapes whatever could control it: control characters (C0, DEL, C1, also as
//! single bytes that are not UTF-8), characters that change the text direction, and line separators. Line ends and tabs
//! stay. Pipes and files receive every byte unchanged.
//!
//! Our own colours pass by means of a random mark, new for each process ([`painted`]), that nobody else can write.

use std::fmt;
use std::io::{self, IsTerminal, StderrLock, StdoutLock, Write};
use std::sync::OnceLock;

/// The most bytes held until the end of a line; a longer line is sent in parts.
const HELD_LIMIT: usize = 64 << 10;

/// Whether `c` could make a terminal do anything other than display it.
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Foreign text as part of our own line: harmful characters, line ends and tabs are escaped.
pub fn plain(text: &str) -> String {
    if !text.contains(is_harmful) {
        return text.to_owned();
    }
    let mut clean = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_harmful(c) { clean.extend(c.escape_default()) } else { clean.push(c) }
    }
    clean
}

/// Whether `text` contains only harmless characters in lines.
pub fn is_plain_text(text: &str) -> bool {
    !text.contains(|c| is_harmful(c) && c != '\n' && c != '\t')
}

/// How a stream to a terminal writes characters that it must not send unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// `\u{9b}`, and `\x9b` for a byte that is not UTF-8.
    Text,
    /// `\u009b`: the same JSON. Harmful characters occur only in its strings.
    Json,
    /// Like text, in lines that are coloured by the log's formatter, which has escaped every ESC in its input.
    Log,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    Terminal(Style),
    Elsewhere,
}

/// Standard output or standard error.
#[derive(Debug)]
pub struct Stream<W: Write> {
    inner: W,
    to: To,
    /// For a terminal: the line so far, or the beginning of a character.
    held: Vec<u8>,
}

fn style(stream: &impl IsTerminal, style: Style) -> To {
    if stream.is_terminal() { To::Terminal(style) } else { To::Elsewhere }
}

/// Standard output, for text.
pub fn out() -> Stream<StdoutLock<'static>> {
    let stdout = io::stdout();
    Stream::new(stdout.lock(), style(&stdout, Style::Text))
}

/// Standard output, for JSON.
pub fn json_out() -> Stream<StdoutLock<'static>> {
    let stdout = io::stdout();
    Stream::new(stdout.lock(), style(&stdout, Style::Json))
}

/// Standard error, for text.
pub fn err() -> Stream<StderrLock<'static>> {
    let stderr = io::stderr();
    Stream::new(stderr.lock(), style(&stderr, Style::Text))
}

/// Standard error, for lines of the log: text, or JSON.
pub fn log(json: bool) -> Stream<StderrLock<'static>> {
    let stderr = io::stderr();
    Stream::new(stderr.lock(), style(&stderr, if json { Style::Json } else { Style::Log }))
}

/// Device and inode of standard error, if it is open.
pub fn standard_error_file() -> Option<(u64, u64)> {
    let found = rustix::fs::fstat(io::stderr()).ok()?;
    Some((found.st_dev, found.st_ino))
}

/// Writes a line to standard error; on a terminal it is folded between words.
pub fn error_line(line: fmt::Arguments<'_>) {
    let stderr = io::stderr();
    let columns = if stderr.is_terminal() { rustix::termios::tcgetwinsize(&stderr).ok() } else { None };
    let line = line.to_string();
    let lines: Vec<String> = match columns.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0) {
        Some(columns) => line.lines().map(|line| fold(line, columns, 2)).collect(),
        None => vec![line],
    };
    // If standard error is closed, there is no other place to report it.
    let _ = writeln!(err(), "{}", lines.join("\n"));
}

/// `text` in lines of at most `columns`; all but the first are indented, and no word that fits in a line is broken.
pub fn fold(text: &str, columns: usize, indent: usize) -> String {
    if visible(text) <= columns {
        return text.to_owned();
    }
    let mut folded = String::with_capacity(text.len() + 16);
    let mut left = columns;
    for (number, word) in text.split(' ').enumerate() {
        let length = visible(word);
        if number > 0 && length + 1 > left {
            folded.push('\n');
            folded.push_str(&" ".repeat(indent));
            left = columns.saturating_sub(indent);
        } else if number > 0 {
            folded.push(' ');
            left -= 1;
        }
        folded.push_str(word);
        left = left.saturating_sub(length);
    }
    folded
}

/// Like `eprintln!`, through [`Stream`].
macro_rules! to_stderr {
    ($($part:tt)*) => { $crate::terminal::error_line(format_args!($($part)*)) };
}
pub(crate) use to_stderr;

/// Rewrites the line of standard error with the cursor; an empty text clears it. For a terminal.
pub fn rewrite_line(text: &str) {
    // A closed terminal is no reason to stop.
    let _ = write!(io::stderr(), "\r{}\x1b[K", plain(text));
}

/// Clears standard output's screen. For a terminal.
pub fn clear() {
    // A closed terminal is no reason to stop.
    let _ = write!(io::stdout(), "\x1b[H\x1b[2J");
}

static MARK: OnceLock<String> = OnceLock::new();

/// `text` in the colour of an SGR code, for a [`Stream`].
pub fn painted(code: &str, text: &str) -> String {
    let mark = MARK.get_or_init(|| format!("\x1b{}:", uuid::Uuid::new_v4().simple()));
    format!("{mark}{code}m{text}{mark}0m")
}

/// The number of visible characters of `text`, without colours.
fn visible(text: &str) -> usize {
    let Some(mark) = MARK.get() else { return text.chars().count() };
    let mut parts = text.split(mark.as_str());
    let first = parts.next().unwrap_or_default().chars().count();
    // A code, its end, and the coloured text.
    first + parts.map(|part| part.split_once('m').map_or(0, |(_, painted)| painted.chars().count())).sum::<usize>()
}

impl<W: Write> Stream<W> {
    fn new(inner: W, to: To) -> Self {
        Self { inner, to, held: Vec::new() }
    }

    /// Sends what is held up to `end`, without an incomplete character unless it is the `last`.
    fn send(&mut self, style: Style, end: usize, last: bool) -> io::Result<()> {
        let rest = self.held.split_off(end);
        let mut bytes = std::mem::replace(&mut self.held, rest);
        // A log event arrives whole: line ends within it come from its text.
        let ends_event = style == Style::Log && bytes.pop_if(|byte| *byte == b'\n').is_some();
        let mut text = String::with_capacity(bytes.len() + 16);
        let mut unfinished = 0;
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            escape(&mut text, chunk.valid(), style);
            let invalid = chunk.invalid();
            let may_go_on =
                chunks.peek().is_none() && std::str::from_utf8(invalid).is_err_and(|e| e.error_len().is_none());
            if may_go_on && !last {
                unfinished = invalid.len();
                break;
            }
            for byte in invalid {
                text.push_str(&format!("\\x{byte:02x}"));
            }
        }
        if ends_event {
            text.push('\n');
        }
        if unfinished > 0 {
            let mut begun = bytes.split_off(bytes.len() - unfinished);
            begun.append(&mut self.held);
            self.held = begun;
        }
        self.inner.write_all(text.as_bytes())
    }
}

impl<W: Write> Write for Stream<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.to {
            To::Elsewhere => match MARK.get() {
                None => return self.inner.write(bytes),
                // `painted` produces whole marks, and writers pass on whole strings.
                Some(mark) => self.inner.write_all(&colored(bytes, mark))?,
            },
            To::Terminal(style) => {
                let before = self.held.len();
                self.held.extend_from_slice(bytes);
                if let Some(newline) = bytes.iter().rposition(|byte| *byte == b'\n') {
                    self.send(style, before + newline + 1, false)?;
                } else if self.held.len() > HELD_LIMIT {
                    self.send(style, self.held.len(), false)?;
                }
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if let To::Terminal(style) = self.to {
            self.send(style, self.held.len(), false)?;
        }
        self.inner.flush()
    }
}

impl<W: Write> Drop for Stream<W> {
    fn drop(&mut self) {
        if let To::Terminal(style) = self.to
            && !self.held.is_empty()
        {
            // Callers that need the error have flushed before.
            let _ = self.send(style, self.held.len(), true).and_then(|()| self.inner.flush());
        }
    }
}

/// Replaces the marks of [`painted`] by terminal sequences, and leaves everything else unchanged.
fn colored(bytes: &[u8], mark: &str) -> Vec<u8> {
    let mark = mark.as_bytes();
    let mut colored = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = rest.windows(mark.len()).position(|window| window == mark) {
        colored.extend_from_slice(&rest[..at]);
        colored.extend_from_slice(b"\x1b[");
        rest = &rest[at + mark.len()..];
    }
    colored.extend_from_slice(rest);
    colored
}

fn escape(out: &mut String, text: &str, style: Style) {
    let mut rest = text;
    loop {
        let is_kept = |c| c == '\t' || c == '\n' && style != Style::Log;
        let clean = rest.find(|c| is_harmful(c) && !is_kept(c)).unwrap_or(rest.len());
        let (before, from) = rest.split_at(clean);
        out.push_str(before);
        let Some(c) = from.chars().next() else { return };
        rest = &from[c.len_utf8()..];
        match style {
            Style::Text => {
                if let Some(after) = MARK.get().and_then(|mark| from.strip_prefix(mark.as_str())) {
                    out.push_str("\x1b[");
                    rest = after;
                } else {
                    out.extend(c.escape_default());
                }
            }
            Style::Json => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            Style::Log => match color_code(from) {
                Some(code) => {
                    out.push_str(code);
                    rest = &from[code.len()..];
                }
                None => out.extend(c.escape_default()),
            },
        }
    }
}

/// The colour code that `text` begins with.
fn color_code(text: &str) -> Option<&str> {
    let parameters = text.strip_prefix("\x1b[")?;
    let length = parameters.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    parameters[length..].starts_with('m').then(|| &text[..2 + length + 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(to: To, writes: &[&[u8]]) -> String {
        let mut sent = Vec::new();
        let mut stream = Stream::new(&mut sent, to);
        for bytes in writes {
            stream.write_all(bytes).unwrap();
        }
        drop(stream);
        String::from_utf8(sent).unwrap()
    }

    const TEXT: To = To::Terminal(Style::Text);
    const JSON: To = To::Terminal(Style::Json);
    const LOG: To = To::Terminal(Style::Log);

    #[test]
    fn nothing_that_drives_a_terminal_gets_through() {
        let hostile = "a\x1b[2J\r\x07\x7f\u{9b}2J\u{202e}\u{2066}\u{2028}\u{61c}\u{200f}z";
        let shown = "a\\u{1b}[2J\\r\\u{7}\\u{7f}\\u{9b}2J\\u{202e}\\u{2066}\\u{2028}\\u{61c}\\u{200f}z";
        assert_eq!(sent(TEXT, &[hostile.as_bytes()]), shown);
        assert_eq!(sent(LOG, &[hostile.as_bytes()]), shown);
        assert_eq!(plain(hostile), shown);
        let mut everything: Vec<u8> = (0..=255).collect();
        everything.extend(('\0'..='\u{2100}').collect::<String>().bytes());
        for style in [Style::Text, Style::Json, Style::Log] {
            let text = sent(To::Terminal(style), &[&everything]);
            let harmful = |c: char| is_harmful(c) && c != '\n' && c != '\t';
            assert!(!text.contains(harmful), "{style:?}: {text:?}");
        }
    }

    #[test]
    fn lines_and_tabs_stay_and_so_does_what_people_write() {
        let text = "ein\tÄpfelchen\n日本語 🦀\n";
        assert_eq!(sent(TEXT, &[text.as_bytes()]), text);
        assert_eq!(plain("a\tb\n"), "a\\tb\\n");
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_as_such_however_they_are_cut() {
        assert_eq!(sent(TEXT, &[b"\x9b2J\xff\n"]), "\\x9b2J\\xff\n");
        let whole = "xé日🦀\u{9b}\n".as_bytes();
        for cut in 0..whole.len() {
            let mut sent = Vec::new();
            let mut stream = Stream::new(&mut sent, TEXT);
            for part in [&whole[..cut], &whole[cut..]] {
                stream.write_all(part).unwrap();
                stream.flush().unwrap();
            }
            drop(stream);
            assert_eq!(String::from_utf8(sent).unwrap(), "xé日🦀\\u{9b}\n", "cut at {cut}");
        }
        assert_eq!(sent(TEXT, &[b"cut \xe6\x97"]), "cut \\xe6\\x97");
        let long = vec![b'x'; 3 * HELD_LIMIT];
        assert_eq!(sent(TEXT, &[&long, b"\x1b"]).len(), long.len() + 6);
    }

    #[test]
    fn json_for_a_terminal_says_the_same() {
        let value = serde_json::json!({"a": "\u{9b}\u{1b}\u{7f}\u{202e}\u{e0041}\n"});
        let shown = sent(JSON, &[value.to_string().as_bytes(), b"\n"]);
        assert_eq!(shown, "{\"a\":\"\\u009b\\u001b\\u007f\\u202e\\udb40\\udc41\\n\"}\n");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }

    #[test]
    fn lines_are_folded_between_words() {
        assert_eq!(fold("one two", 7, 2), "one two");
        assert_eq!(fold("one two three four", 9, 2), "one two\n  three\n  four");
        assert_eq!(fold("incomprehensibilities are long", 10, 1), "incomprehensibilities\n are long");
        assert_eq!(fold("", 1, 2), "");
        let red = painted("31", "one two");
        assert_eq!(fold(&format!("{red} three"), 13, 2), format!("{red} three"));
        assert_eq!(fold(&format!("{red} three"), 12, 2), format!("{red}\n  three"));
    }

    #[test]
    fn a_pipe_gets_every_byte() {
        let bytes: Vec<u8> = (0..128).chain([0xc2, 0x9b]).collect();
        assert_eq!(sent(To::Elsewhere, &[&bytes]).as_bytes(), bytes);
    }

    #[test]
    fn colours_are_ours_alone() {
        let red = painted("31", "no");
        assert_eq!(sent(TEXT, &[red.as_bytes(), b"\x1b[32mx"]), "\x1b[31mno\x1b[0m\\u{1b}[32mx");
        assert_eq!(sent(To::Elsewhere, &[red.as_bytes(), b"\x1b[32mx"]), "\x1b[31mno\x1b[0m\x1b[32mx");
        assert_eq!(
            sent(LOG, &[b"\x1b[2mtime\x1b[0m \x1b[1;31mx \x1b[2J\x1b"]),
            "\x1b[2mtime\x1b[0m \x1b[1;31mx \\u{1b}[2J\\u{1b}"
        );
        assert_eq!(sent(LOG, &[b"one\ntwo\n", b"three\n"]), "one\\ntwo\nthree\n");
        // Colour codes are not allowed in JSON.
        assert!(!sent(JSON, &[red.as_bytes()]).contains('\x1b'));
    }
}
