//! Output for people: tables without lines, times and sizes as people say them, and nothing that moves the cursor.

use std::io::{IsTerminal as _, Write as _};

use comfy_table::{ContentArrangement, Table, presets};
use holdfast_api::job::Progress;
use jiff::{SignedDuration, Timestamp};

use super::error::ClientError;

/// Stands for what is not known.
pub(crate) const NOTHING: &str = "-";

/// Tables for people, or the API's answers as they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
}

/// Where a command speaks: data on stdout, everything else on stderr. In JSON mode each line on stderr is an object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ui {
    pub json: bool,
    pub quiet: bool,
}

impl Ui {
    /// Data, on stdout. A reader that has gone away (`| head`) is no error.
    ///
    /// # Errors
    /// stdout cannot be written.
    pub(crate) fn data(&self, text: &str) -> Result<(), ClientError> {
        let mut out = std::io::stdout().lock();
        let written = writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush());
        match written {
            Err(source) if source.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(ClientError::Io { doing: "write to standard output".to_owned(), source })
            }
            _ => Ok(()),
        }
    }

    /// Something to know beside the data; `--quiet` silences it.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            self.stderr_line(&if self.json {
                serde_json::json!({ "note": text }).to_string()
            } else {
                clean(text)
            });
        }
    }

    pub(crate) fn error(&self, error: &ClientError) {
        let (text, hint) = (error.chain(), error.hint());
        if self.json {
            let object = serde_json::json!({
                "error": text, "message": text, "hint": hint, "status": error.status(), "exit_code": error.exit_code(),
            });
            return self.stderr_line(&object.to_string());
        }
        self.stderr_line(&format!("holdfast: {}", clean(&text)));
        if let Some(hint) = hint {
            self.stderr_line(&format!("  hint: {}", clean(&hint)));
        }
    }

    /// One line on stderr; a stderr that is gone changes nothing.
    pub(crate) fn stderr_line(&self, line: &str) {
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    }

    /// Asks before something that cannot be taken back.
    ///
    /// # Errors
    /// `Declined`; `Usage` when nobody is there to answer and `--yes` is missing.
    pub(crate) fn confirm(&self, question: &str, yes: bool) -> Result<(), ClientError> {
        if yes {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() {
            let text = "this cannot be taken back and nobody is here to confirm it; add --yes".to_owned();
            return Err(ClientError::Usage(text));
        }
        let mut stderr = std::io::stderr().lock();
        let _ = write!(stderr, "{} [y/N] ", clean(question)).and_then(|()| stderr.flush());
        drop(stderr);
        let mut answer = String::new();
        std::io::stdin()
            .read_line(&mut answer)
            .map_err(|source| ClientError::Io { doing: "read the answer".to_owned(), source })?;
        match answer.trim().to_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => Err(ClientError::Declined),
        }
    }
}

/// A table without lines, columns two spaces apart. Nothing is wrapped: a terminal that is too narrow breaks a row better
/// than a table breaks an id, and `grep` finds it whole.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header.to_vec());
    table.set_content_arrangement(ContentArrangement::Disabled);
    for row in rows {
        table.add_row(row.iter().map(|cell| clean(cell)).collect::<Vec<_>>());
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// `name  value` lines; what is absent is left out.
pub(crate) fn facts(rows: &[(&str, Option<String>)]) -> String {
    let width =
        rows.iter().filter(|(_, value)| value.is_some()).map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines = rows.iter().filter_map(|(name, value)| {
        let value = value.as_ref()?;
        Some(format!("{name:width$}  {}", clean(value)))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The same text without what a terminal would obey: other people choose labels and write messages.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// `2026-03-15 14:30:00Z`, with its fraction where it has one.
pub(crate) fn utc(at: Timestamp) -> String {
    at.to_string().replacen('T', " ", 1)
}

/// `2026-03-15 14:30:00Z (2 min ago)`, cut to the second: for what nobody restores to.
pub(crate) fn moment(at: Timestamp, now: Timestamp) -> String {
    let second = Timestamp::from_second(at.as_second()).unwrap_or(at);
    format!("{} ({})", utc(second), ago(at, now))
}

/// `2 min ago`, `in 3 days`, `now`.
pub(crate) fn ago(at: Timestamp, now: Timestamp) -> String {
    let length = now.duration_since(at);
    match length.as_secs() {
        0 => "now".to_owned(),
        1.. => format!("{} ago", span(length)),
        _ => format!("in {}", span(-length)),
    }
}

/// A length of time in its largest unit, cut: `45 s`, `2 min`, `3 h`, `8 days`.
pub(crate) fn span(length: SignedDuration) -> String {
    let seconds = length.as_secs();
    match seconds {
        ..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// A length of time in its two largest units: `45 s`, `2 min 5 s`, `3 h 20 min`, `2 d 18 h`.
pub(crate) fn long_span(length: SignedDuration) -> String {
    let seconds = length.as_secs();
    let two = |large: i64, large_name, small: i64, small_name| match small {
        0 => format!("{large} {large_name}"),
        _ => format!("{large} {large_name} {small} {small_name}"),
    };
    match seconds {
        ..60 => format!("{seconds} s"),
        60..3600 => two(seconds / 60, "min", seconds % 60, "s"),
        3600..86_400 => two(seconds / 3600, "h", seconds % 3600 / 60, "min"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

/// `1.2 GiB`, as the API's `size_label` says it.
#[expect(clippy::cast_precision_loss, reason = "one digit behind the point is shown")]
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1023.95 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

/// `copying, 42 %, 1.0 GiB of 2.4 GiB, 12 s left`: what is known of it.
pub(crate) fn progress(progress: &Progress) -> String {
    let mut parts = vec![progress.phase.clone()];
    parts.extend(progress.percent.map(|percent| format!("{percent:.0} %")));
    parts.extend(bytes(progress));
    parts.extend(progress.eta_seconds.map(|eta| {
        format!("{} left", long_span(SignedDuration::from_secs(i64::try_from(eta).unwrap_or(i64::MAX))))
    }));
    parts.join(", ")
}

/// `1.0 GiB of 2.4 GiB`.
pub(crate) fn bytes(progress: &Progress) -> Option<String> {
    match (progress.bytes_done, progress.bytes_total) {
        (Some(done), Some(total)) => Some(format!("{} of {}", size(done), size(total))),
        (Some(done), None) => Some(size(done)),
        (None, _) => None,
    }
}

/// A wire word: `reset_password` as `reset password`, `Running` as `running`.
pub(crate) fn word<T: serde::Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word.replace('_', " "),
        _ => NOTHING.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time of this test")
    }

    #[test]
    fn times_are_said_as_people_say_them() {
        let now = at("2026-03-15T14:30:00Z");
        for (time, expected) in [
            ("2026-03-15T14:30:00Z", "now"),
            ("2026-03-15T14:29:59.5Z", "now"),
            ("2026-03-15T14:29:15Z", "45 s ago"),
            ("2026-03-15T14:28:00Z", "2 min ago"),
            ("2026-03-15T13:30:00Z", "1 h ago"),
            ("2026-03-14T00:00:00Z", "38 h ago"),
            ("2026-03-07T14:30:00Z", "8 days ago"),
            ("2026-03-15T14:31:05Z", "in 1 min"),
            ("2026-03-22T14:30:00Z", "in 7 days"),
        ] {
            assert_eq!(ago(at(time), now), expected, "{time}");
        }
        assert_eq!(utc(at("2026-03-15T14:30:00.25Z")), "2026-03-15 14:30:00.25Z");
    }

    #[test]
    fn lengths_have_two_units() {
        for (seconds, expected) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (125, "2 min 5 s"),
            (3600, "1 h"),
            (12_000, "3 h 20 min"),
            (86_400, "1 d"),
            (237_600, "2 d 18 h"),
        ] {
            assert_eq!(long_span(SignedDuration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn sizes_read_like_sizes() {
        for (bytes, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
            (1_288_490_189, "1.2 GiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(size(bytes), expected);
        }
    }

    #[test]
    fn progress_says_what_is_known() {
        let mut how_far = Progress {
            phase: "copying".to_owned(),
            percent: None,
            bytes_done: None,
            bytes_total: None,
            eta_seconds: None,
        };
        assert_eq!(progress(&how_far), "copying");
        how_far = Progress {
            percent: Some(41.7),
            bytes_done: Some(1 << 30),
            bytes_total: Some(3 << 30),
            eta_seconds: Some(62),
            ..how_far
        };
        assert_eq!(progress(&how_far), "copying, 42 %, 1.0 GiB of 3.0 GiB, 1 min 2 s left");
    }

    #[test]
    fn a_label_cannot_move_the_cursor() {
        let shown = table(&["LABEL"], vec![vec!["a\x1b[2Jb\nc\u{9b}d".to_owned()]]);
        assert!(!shown.contains('\x1b') && !shown.contains('\u{9b}'), "{shown:?}");
        assert_eq!(shown.lines().count(), 2, "{shown:?}");
    }

    #[test]
    fn tables_have_no_lines_and_no_trailing_spaces() {
        let shown =
            table(&["ID", "NAME"], vec![vec!["1".into(), "shop".into()], vec!["22".into(), "b".into()]]);
        assert_eq!(shown, "ID  NAME\n1   shop\n22  b");
    }
}
