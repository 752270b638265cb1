//! Tables and JSON on stdout, errors on stderr.

use std::{
    io::{self, BufWriter, IsTerminal as _, Write as _},
    iter,
};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// Prints `value` as indented JSON.
pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    // In large pieces: stdout alone is flushed at every line. A reader that leaves is an error of the write, not of JSON.
    let mut out = BufWriter::with_capacity(PIECE, io::stdout().lock());
    serde_json::to_writer_pretty(&mut out, value).map_err(io::Error::from)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

/// Bytes that are written at once.
const PIECE: usize = 64 * 1024;

/// Prints a line, or several.
pub(super) fn text(text: impl AsRef<str>) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{}", text.as_ref())
}

/// An error and its causes in one line. Some errors name their cause themselves, and none is said twice.
pub(super) fn message(error: &anyhow::Error) -> String {
    let mut causes: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        if !causes.iter().any(|said| said.contains(&cause)) {
            causes.push(cause);
        }
    }
    causes.join(": ")
}

/// Prints `error` with its causes.
pub(super) fn error(error: &anyhow::Error) {
    let (red, reset) = if io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        ("\x1b[1;31m", "\x1b[0m")
    } else {
        ("", "")
    };
    // Nothing is left to tell it to, should stderr be closed.
    drop(writeln!(io::stderr().lock(), "{red}egret:{reset} {}", message(error)));
}

/// Says something beside what was asked for.
pub(super) fn note(text: &str) {
    // Nothing is left to tell it to, should stderr be closed.
    drop(writeln!(io::stderr().lock(), "egret: {text}"));
}

/// A table without lines: it can be read, and cut with awk.
pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    table
}

/// The same for rows that may be very many.
pub(super) fn columns(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<_> = header.iter().map(|name| name.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut add = |cells: &mut dyn Iterator<Item = &str>| {
        for (cell, width) in cells.zip(&widths) {
            text.extend([" ", cell]);
            text.extend(iter::repeat_n(' ', width - cell.chars().count() + 1));
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    };
    add(&mut header.iter().copied());
    for row in rows {
        add(&mut row.iter().map(String::as_str));
    }
    text.truncate(text.trim_end().len());
    text
}

/// Nothing for people is wider, as far as its words allow.
const WIDTH: usize = 100;

/// Text that begins with `label` and goes on below its own beginning.
pub(super) fn wrapped(label: &str, text: &str) -> String {
    let mut lines = vec![label.to_owned()];
    let indent = label.chars().count();
    for word in text.split_whitespace() {
        let last = lines.last_mut().map_or(0, |line| line.chars().count());
        if last > indent && last + 1 + word.chars().count() > WIDTH {
            lines.push(" ".repeat(indent));
        }
        let Some(line) = lines.last_mut() else { continue };
        if line.chars().count() > indent {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.join("\n")
}

/// The name, its middle left out where it is longer than this.
pub(super) fn short(name: &str, longest: usize) -> String {
    let length = name.chars().count();
    if length <= longest {
        return name.to_owned();
    }
    let kept = longest.saturating_sub(1);
    let (begin, end) = (kept.div_ceil(2), kept / 2);
    name.chars().take(begin).chain(['…']).chain(name.chars().skip(length - end)).collect()
}

/// A time span as people read it, in its largest unit.
pub(super) fn span(duration: jiff::SignedDuration) -> String {
    let minutes = usize::try_from(duration.as_mins()).unwrap_or_default();
    match minutes {
        ..120 => count(minutes, "minute"),
        120..2880 => count(minutes / 60, "hour"),
        _ => count(minutes / 1440, "day"),
    }
}

/// A number of things, such as `1 object` or `2 objects`.
pub(super) fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// Bytes as people read them, in steps of 1024.
pub(super) fn bytes(count: u64) -> String {
    byte_rate(count as f64)
}

/// Bytes a second, without the second.
pub(super) fn byte_rate(mut value: f64) -> String {
    if value < 1024.0 {
        return format!("{value:.0} B");
    }
    for unit in ["KiB", "MiB", "GiB"] {
        value /= 1024.0;
        if value < 1024.0 {
            return format!("{value:.1} {unit}");
        }
    }
    format!("{:.1} TiB", value / 1024.0)
}

/// Milliseconds as people read them.
pub(super) fn milliseconds(count: u64) -> String {
    if count < 1000 { format!("{count} ms") } else { format!("{:.1} s", count as f64 / 1000.0) }
}

/// Microseconds as people read them, with three digits that count.
pub(super) fn microseconds(count: u64) -> String {
    let digits = |value: f64, unit| match value {
        ..10.0 => format!("{value:.2} {unit}"),
        ..100.0 => format!("{value:.1} {unit}"),
        _ => format!("{value:.0} {unit}"),
    };
    match count {
        ..1000 => format!("{count} µs"),
        1000..1_000_000 => digits(count as f64 / 1e3, "ms"),
        _ => digits(count as f64 / 1e6, "s"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{bytes, columns, message, microseconds, milliseconds, short, span, table, wrapped};

    proptest! {
        #[test]
        fn many_rows_look_like_few(rows in prop::collection::vec(prop::array::uniform3("[a-zµ…]{1,12}"), 1..9)) {
            let header = ["ONE", "LONG-NAME", "X"];
            let mut few = table(&header);
            for row in &rows {
                few.add_row(row);
            }
            let rows: Vec<_> = rows.into_iter().map(Vec::from).collect();
            prop_assert_eq!(columns(&header, &rows), few.trim_fmt());
        }
    }

    #[test]
    fn long_text_goes_on_below_its_beginning() {
        let text = wrapped("error  ", &"word ".repeat(40));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].starts_with("error  word") && lines[1].starts_with("       word"), "{text}");
        assert!(lines.iter().all(|line| line.len() <= 100), "{text}");
        let long = "x".repeat(200);
        assert_eq!(wrapped("a ", &long), format!("a {long}"));
    }

    #[test]
    fn names_and_spans_are_short() {
        assert_eq!(short("node-1", 10), "node-1");
        assert_eq!(short("ip-10-0-1-2.compute.internal", 11), "ip-10…ernal");
        let of = |minutes| span(jiff::SignedDuration::from_mins(minutes));
        assert_eq!(
            (of(1), of(119), of(150), of(3000)),
            ("1 minute".into(), "119 minutes".into(), "2 hours".into(), "2 days".into())
        );
    }

    #[test]
    fn a_cause_is_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("nobody answers: {0}; is it running?")]
        struct Named(#[source] std::io::Error);
        let cause = || std::io::Error::other("refused");
        assert_eq!(message(&Named(cause()).into()), "nobody answers: refused; is it running?");
        assert_eq!(message(&anyhow::Error::new(cause()).context("asking")), "asking: refused");
    }

    #[test]
    fn sizes_and_times_are_short() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(
            (bytes(1023), bytes(5 << 30), bytes(3 << 40)),
            ("1023 B".into(), "5.0 GiB".into(), "3.0 TiB".into())
        );
        assert_eq!(milliseconds(999), "999 ms");
        assert_eq!(milliseconds(1500), "1.5 s");
        let times = [0, 999, 1000, 12_345, 999_900, 1_020_000, 3_600_000_000].map(microseconds);
        assert_eq!(times, ["0 µs", "999 µs", "1.00 ms", "12.3 ms", "1000 ms", "1.02 s", "3600 s"]);
    }
}
