//! The journal's rows as a table, JSON, CSV, or one in full.

use std::io::{BufWriter, Write};

use serde_json::Value;

use crate::api::audit::{EventRow, Page, RequestRow, RequestState, Row, Unreadable};
use crate::cli::flags::DumpFormat;
use crate::cli::outcome::{Exit, Failure};
use crate::cli::output::{Cell, Column, Screen, Table, plain};
use crate::terminal;

const TABLE: [Column; 10] = [
    Column::number("SEQ"),
    Column::text("TIME"),
    Column::name("EVENT", 17),
    Column::name("REQID", 9),
    Column::long("SOURCE", 10).yields(2),
    Column::text("STATE").yields(1),
    Column::number("TRIES").yields(5),
    Column::number("DUPS").yields(4),
    Column::number("MS").yields(3),
    Column::long("RESULT", 20),
];

const CSV: [&str; 20] = [
    "seq",
    "received_at",
    "event",
    "reqid",
    "dialect",
    "source",
    "state",
    "attempts",
    "duplicates",
    "completed_at",
    "duration_ms",
    "success",
    "digest",
    "error",
    "request",
    "response",
    "node",
    "incarnation",
    "detail",
    "summary",
];

pub(super) enum Printer<'a, W: Write> {
    Table(Table<'a>, W, &'a Screen),
    Json(W),
    /// On a terminal a cell is a part of a line.
    Csv {
        writer: Box<csv::Writer<W>>,
        has_begun: bool,
        is_terminal: bool,
    },
}

impl<'a, W: Write> Printer<'a, W> {
    pub(super) fn new(format: DumpFormat, screen: &'a Screen, out: W) -> Self {
        match format {
            DumpFormat::Table => Self::Table(Table::new(&TABLE, screen), out, screen),
            DumpFormat::Json => Self::Json(out),
            DumpFormat::Csv => Self::Csv {
                writer: Box::new(csv::Writer::from_writer(out)),
                has_begun: false,
                is_terminal: screen.is_terminal,
            },
        }
    }

    pub(super) fn print(&mut self, row: &Row) -> Result<(), Failure> {
        match self {
            Self::Table(table, out, screen) => table.row(out, cells(row, screen))?,
            Self::Json(out) => row.write_line(out)?,
            Self::Csv { writer, has_begun, is_terminal } => {
                if !*has_begun {
                    writer.write_record(CSV).map_err(csv_failure)?;
                    *has_begun = true;
                }
                let mut record = record(row);
                if *is_terminal {
                    record = record.map(|cell| plain(&cell));
                }
                writer.write_record(record).map_err(csv_failure)?;
            }
        }
        Ok(())
    }

    /// Prints a page; only one for JSON may hold lines.
    pub(super) fn page(&mut self, page: &Page) -> Result<(), Failure> {
        if let Self::Json(out) = self {
            out.write_all(page.lines.as_bytes())?;
        }
        page.rows.iter().try_for_each(|row| self.print(row))
    }

    /// Writes all that was printed.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        match self {
            Self::Table(table, out, _) => {
                table.flush(out)?;
                out.flush()?;
            }
            Self::Json(out) => out.flush()?,
            Self::Csv { writer, has_begun, .. } => {
                if !*has_begun {
                    writer.write_record(CSV).map_err(csv_failure)?;
                    *has_begun = true;
                }
                writer.flush()?;
            }
        }
        Ok(())
    }
}

/// The form that was asked for, or what suits standard output.
pub(super) fn form(asked: Option<DumpFormat>, screen: &Screen) -> DumpFormat {
    match (asked, screen.json) {
        (Some(format), _) => format,
        (None, true) => DumpFormat::Json,
        (None, false) if screen.is_terminal => DumpFormat::Table,
        (None, false) => DumpFormat::Json,
    }
}

/// Standard output, for rows in this form.
pub(super) fn out(format: DumpFormat) -> impl Write {
    BufWriter::new(match format {
        DumpFormat::Json => terminal::json_out(),
        DumpFormat::Table | DumpFormat::Csv => terminal::out(),
    })
}

fn csv_failure(error: csv::Error) -> Failure {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => Failure::Output(error),
        other => Failure::new(Exit::Failed, format!("cannot write CSV: {other:?}")),
    }
}

fn state_color(state: RequestState) -> &'static str {
    match state {
        RequestState::Accepted | RequestState::Handling => "33",
        RequestState::Completed => "",
        RequestState::Conflict | RequestState::Rejected | RequestState::Abandoned => "31",
    }
}

/// What a request led to, in a few words.
fn result_of(row: &RequestRow) -> (String, &'static str) {
    if let Some(error) = &row.error {
        return (error.clone(), "31");
    }
    match (&row.response, row.success) {
        (Some(response), Some(false)) => {
            let failed = response.results.iter().filter(|result| !result.success);
            let mut texts = failed.map(|result| {
                let error = result.error.as_deref().unwrap_or("failed");
                result.node.as_deref().map_or_else(|| error.to_owned(), |node| format!("{node}: {error}"))
            });
            let first = texts.next().unwrap_or_else(|| "failed".to_owned());
            let more = texts.count();
            (if more == 0 { first } else { format!("{first} (and {more} more)") }, "31")
        }
        (_, Some(true)) => ("ok".to_owned(), "32"),
        (_, Some(false)) => ("failed".to_owned(), "31"),
        (_, None) => (String::new(), ""),
    }
}

fn cells(row: &Row, screen: &Screen) -> Vec<Cell> {
    match row {
        Row::Request(row) => {
            let (mut result, mut color) = result_of(row);
            // People look for what is unusual; programs count on a number in each row.
            let unusual = |number: u64, usual: u64| match screen.is_terminal && number <= usual {
                true => Cell::default(),
                false => Cell::new(number.to_string()),
            };
            if screen.is_terminal && result.is_empty() {
                (result, color) = (row.state.as_str().to_owned(), state_color(row.state));
            }
            vec![
                Cell::new(row.seq.to_string()),
                Cell::new(screen.time(&row.received_at)),
                Cell::new(row.event.strip_suffix("_request").unwrap_or(&row.event)),
                Cell::new(&row.reqid),
                Cell::new(screen.source(&row.source)),
                Cell::colored(row.state.as_str(), state_color(row.state)),
                unusual(row.attempts.into(), 1),
                unusual(row.duplicates, 0),
                Cell::new(row.duration_ms.map_or_else(String::new, |ms| format!("{ms:.1}"))),
                Cell::colored(result, color),
            ]
        }
        Row::Event(row) => {
            let node = match (&row.node, row.incarnation) {
                (Some(node), Some(incarnation)) => format!("{node} #{incarnation}: "),
                (Some(node), None) => format!("{node}: "),
                (None, _) => String::new(),
            };
            let mut cells =
                vec![Cell::new(row.seq.to_string()), Cell::new(screen.time(&row.at)), Cell::new(&row.event)];
            cells.resize(TABLE.len() - 1, Cell::default());
            cells.push(Cell::new(format!("{node}{}", row.summary)));
            cells
        }
        Row::Unreadable(row) => {
            let mut cells = vec![Cell::new(row.seq.to_string()), Cell::default(), Cell::colored("unreadable", "31")];
            cells.resize(TABLE.len() - 1, Cell::default());
            cells.push(Cell::colored(&row.unreadable, "31"));
            cells
        }
    }
}

fn record(row: &Row) -> [String; 20] {
    let json = |value: &Value| value.to_string();
    match row {
        Row::Request(row) => [
            row.seq.to_string(),
            row.received_at.clone(),
            row.event.clone(),
            row.reqid.clone(),
            row.dialect.clone(),
            format!("{} {}", row.source.transport, row.source.peer),
            row.state.as_str().to_owned(),
            row.attempts.to_string(),
            row.duplicates.to_string(),
            row.completed_at.clone().unwrap_or_default(),
            row.duration_ms.map_or_else(String::new, |ms| ms.to_string()),
            row.success.map_or_else(String::new, |success| success.to_string()),
            row.digest.clone(),
            row.error.clone().unwrap_or_default(),
            json(&row.request),
            row.response.as_ref().map_or_else(String::new, |response| {
                serde_json::to_string(response).expect("responses have text keys only")
            }),
            String::new(),
            String::new(),
            String::new(),
            String::new(),
        ],
        Row::Event(row) => {
            let EventRow { seq, at, event, node, incarnation, detail, summary } = row.as_ref();
            let mut record: [String; 20] = Default::default();
            let [to_seq, to_at, to_event, .., to_node, to_incarnation, to_detail, to_summary] = &mut record;
            *to_seq = seq.to_string();
            to_at.clone_from(at);
            to_event.clone_from(event);
            to_node.clone_from(&node.clone().unwrap_or_default());
            *to_incarnation = incarnation.map_or_else(String::new, |incarnation| incarnation.to_string());
            *to_detail = json(detail);
            to_summary.clone_from(summary);
            record
        }
        Row::Unreadable(Unreadable { seq, unreadable }) => {
            let mut record: [String; 20] = Default::default();
            let [to_seq, _, to_event, .., to_summary] = &mut record;
            *to_seq = seq.to_string();
            "unreadable".clone_into(to_event);
            to_summary.clone_from(unreadable);
            record
        }
    }
}

pub(super) fn print_row(out: &mut impl Write, screen: &Screen, row: &Row) -> std::io::Result<()> {
    let mut line = |label: &str, text: String| writeln!(out, "{label:<12} {text}");
    match row {
        Row::Request(row) => {
            line("request", format!("{} {}", row.seq, screen.paint("1", &plain(&row.event))))?;
            line("reqid", plain(&row.reqid))?;
            line("dialect", plain(&row.dialect))?;
            line("source", plain(&screen.source(&row.source)))?;
            line("received", plain(&screen.precise_time(&row.received_at)))?;
            line("state", screen.paint(state_color(row.state), row.state.as_str()))?;
            line("attempts", row.attempts.to_string())?;
            line("duplicates", row.duplicates.to_string())?;
            for sighting in row.duplicates_first.iter().chain(&row.duplicates_last) {
                let at = screen.precise_time(&sighting.at);
                line("", plain(&format!("{at} {}", screen.source(&sighting.source))))?;
            }
            if let Some(at) = &row.completed_at {
                let took = row.duration_ms.map_or_else(String::new, |ms| format!(" (took {ms:.1} ms)"));
                line("completed", format!("{}{took}", plain(&screen.precise_time(at))))?;
            }
            let (result, color) = result_of(row);
            if !result.is_empty() {
                line("result", screen.paint(color, &plain(&result)))?;
            }
            line("digest", plain(&row.digest))?;
            print_value(out, "arguments", &row.request)?;
            if let Some(response) = &row.response {
                let response = serde_json::to_value(response).expect("responses have text keys only");
                print_value(out, "response", &response)?;
            }
        }
        Row::Event(row) => {
            line("event", format!("{} {}", row.seq, screen.paint("1", &plain(&row.event))))?;
            line("at", plain(&screen.precise_time(&row.at)))?;
            line("summary", plain(&row.summary))?;
            print_value(out, "detail", &row.detail)?;
        }
        Row::Unreadable(row) => line("unreadable", format!("{} {}", row.seq, plain(&row.unreadable)))?,
    }
    Ok(())
}

fn print_value(out: &mut impl Write, label: &str, value: &Value) -> std::io::Result<()> {
    writeln!(out, "{label}")?;
    let pretty = serde_json::to_string_pretty(value).expect("JSON values have text keys");
    for line in pretty.lines() {
        writeln!(out, "  {}", plain(line))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::event::Source as Sender;
    use crate::api::ids::Seq;

    fn rows() -> Vec<Row> {
        let request = RequestRow {
            seq: Seq(17),
            reqid: "r-1\n".into(),
            event: "deploy_request".into(),
            dialect: "Management".into(),
            source: Sender { transport: "control".into(), peer: "uid=0 pid=4242".into() },
            received_at: "2026-11-22T08:31:00.123456Z".into(),
            state: RequestState::Completed,
            attempts: 1,
            duplicates: 2,
            duplicates_first: Vec::new(),
            duplicates_last: Vec::new(),
            digest: "00ff".into(),
            request: json!({"force": false}),
            completed_at: Some("2026-11-22T08:31:01.123456Z".into()),
            duration_ms: Some(812.45),
            success: Some(true),
            response: None,
            response_digest: None,
            deadline_at: None,
            deadline_response: None,
            settled_at: None,
            error: None,
        };
        let event = EventRow {
            seq: Seq(18),
            at: "2026-11-22T08:31:02.000000Z".into(),
            event: "node_exited".into(),
            node: Some("w1".into()),
            incarnation: Some(3),
            detail: json!({"cause": "signal"}),
            summary: "signal 9, \"restart\" follows".into(),
        };
        let unreadable = Unreadable { seq: Seq(19), unreadable: "checksum".into() };
        vec![Row::Request(Box::new(request)), Row::Event(Box::new(event)), Row::Unreadable(unreadable)]
    }

    fn printed(format: DumpFormat, rows: &[Row]) -> String {
        let screen = Screen::of_tests();
        let mut out = Vec::new();
        let mut printer = Printer::new(format, &screen, &mut out);
        for row in rows {
            printer.print(row).unwrap();
        }
        printer.flush().unwrap();
        drop(printer);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_table_has_a_line_for_each_row() {
        let expected = "\
SEQ  TIME                  EVENT        REQID  SOURCE                  STATE      TRIES  DUPS     MS  RESULT
 17  2026-11-22T08:31:00Z  deploy       r-1\\n  control uid=0 pid=4242  completed      1     2  812.5  ok
 18  2026-11-22T08:31:02Z  node_exited                                                                w1 #3: signal 9, \"restart\" follows
 19                        unreadable                                                                 checksum
";
        assert_eq!(printed(DumpFormat::Table, &rows()), expected);
    }

    #[test]
    fn json_is_an_object_a_line_with_the_fields_of_the_contract() {
        let text = printed(DumpFormat::Json, &rows());
        let first = text.lines().next().unwrap();
        assert_eq!(
            first,
            r#"{"seq":17,"reqid":"r-1\n","event":"deploy_request","dialect":"Management","source":{"transport":"control","peer":"uid=0 pid=4242"},"received_at":"2026-11-22T08:31:00.123456Z","state":"completed","attempts":1,"duplicates":2,"digest":"00ff","request":{"force":false},"completed_at":"2026-11-22T08:31:01.123456Z","duration_ms":812.45,"success":true,"response":null}"#
        );
        assert_eq!(text.lines().count(), 3);
    }

    #[test]
    fn csv_has_one_set_of_columns_for_all_kinds() {
        let text = printed(DumpFormat::Csv, &rows());
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let read: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        assert_eq!(read.len(), 3);
        assert_eq!((&read[0][3], &read[0][14]), ("r-1\n", "{\"force\":false}"));
        assert_eq!((&read[1][16], &read[1][17], &read[1][19]), ("w1", "3", "signal 9, \"restart\" follows"));
        assert_eq!((&read[2][2], &read[2][19]), ("unreadable", "checksum"));
        assert_eq!(printed(DumpFormat::Csv, &[]).lines().count(), 1);
    }

    #[test]
    fn a_row_can_be_read_in_full() {
        let screen = Screen::of_tests();
        let mut out = Vec::new();
        print_row(&mut out, &screen, &rows()[0]).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("state        completed") && text.contains("\"force\": false"), "{text}");
    }
}
