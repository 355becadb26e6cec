//! `holdfast window`: which instants of a service can be restored, in words and as a line.

use clap::Args;
use holdfast_api::restore::Pitr;
use jiff::{SignedDuration, Timestamp};

use super::error::ClientError;
use super::{Context, table};

/// Cells of the drawn line.
const CELLS: usize = 60;
/// A shorter window is not drawn: a cell would stand for less than a second.
const MIN_DRAWN: SignedDuration = SignedDuration::from_secs(CELLS as i64);

#[derive(Args)]
pub(crate) struct WindowArgs {
    /// Name or id of the service.
    service: String,
}

pub(super) async fn run(ctx: &Context, args: WindowArgs) -> Result<(), ClientError> {
    let named = ctx.api.resolve(&args.service).await?;
    let answer = ctx.api.get(&["managed-services", &named.id.to_string(), "pitr"]).await?;
    if ctx.ui.json {
        return ctx.ui.data(&answer.text);
    }
    ctx.ui.data(&described(&named.name, &answer.read()?, Timestamp::now()))
}

fn described(name: &str, pitr: &Pitr, now: Timestamp) -> String {
    if !pitr.enabled {
        return format!(
            "{name} cannot be restored to an instant, only from a backup: holdfast backups list {name}"
        );
    }
    let (Some(earliest), Some(latest)) = (pitr.earliest_restore_point, pitr.latest_restore_point) else {
        let why = pitr.last_error.as_ref().map(|why| format!(" ({})", table::clean(why))).unwrap_or_default();
        return format!(
            "{name} has no recovery window yet{why}: it begins with the first completed backup, see holdfast backups list {name}"
        );
    };
    let time = |at: Timestamp| format!("{}  {}", table::utc(at), table::ago(at, now));
    let facts = table::facts(&[
        ("service", Some(name.to_owned())),
        ("earliest", Some(time(earliest))),
        ("latest", Some(time(latest))),
        ("length", Some(table::long_span(latest.duration_since(earliest)))),
        ("archiving", Some(archiving(pitr))),
        ("last error", pitr.last_error.clone()),
        ("gaps", pitr.gaps.is_empty().then(|| "none".to_owned())),
    ]);
    // While the archive keeps up, what follows the latest point is on its way; else it is missing.
    let end = if pitr.archiving_active { latest } else { latest.max(now) };
    let mut text = facts;
    if end.duration_since(earliest) >= MIN_DRAWN {
        text = format!("{text}\n\n{}", timeline(pitr, earliest, end, now));
    }
    if !pitr.gaps.is_empty() {
        text = format!("{text}\n\n{}", gaps(pitr));
    }
    if pitr.archiving_active {
        text.push_str(
            "\n\nWhile the service runs, any instant up to now can be asked for: its log is shipped first.",
        );
    }
    text
}

fn archiving(pitr: &Pitr) -> String {
    let state = if pitr.archiving_active { "active" } else { "NOT ACTIVE" };
    let lag = match pitr.archive_lag_seconds {
        Some(seconds) if seconds < 0.05 && pitr.archiving_active => {
            ", nothing waits to be shipped".to_owned()
        }
        Some(seconds) if seconds < 0.05 => ", although the store has all that was written so far".to_owned(),
        Some(seconds) => {
            let bytes =
                pitr.archive_lag_bytes.map(|bytes| format!(" ({})", table::size(bytes))).unwrap_or_default();
            format!(", {seconds:.1} s behind{bytes}")
        }
        None => ", how far behind is not known".to_owned(),
    };
    format!("{state}{lag}")
}

fn gaps(pitr: &Pitr) -> String {
    let rows = pitr.gaps.iter().map(|gap| {
        let length = table::long_span(gap.to.duration_since(gap.from));
        let seen = if gap.acknowledged { "yes" } else { "no" };
        vec![table::utc(gap.from), table::utc(gap.to), length, seen.to_owned(), gap.cause.clone()]
    });
    table::table(&["GAP FROM", "TO", "LENGTH", "SEEN", "CAUSE"], rows.collect())
}

/// `#` reachable, `.` not, from the earliest point to `end`. A cell is reachable only when all of it is, but for the
/// last: a gap must not vanish because it is short.
fn timeline(pitr: &Pitr, from: Timestamp, end: Timestamp, now: Timestamp) -> String {
    let (start, length) = (from.as_microsecond(), end.as_microsecond() - from.as_microsecond());
    let edge = |cell: usize| {
        let part = i128::from(length) * cell as i128 / CELLS as i128;
        start + i64::try_from(part).unwrap_or(i64::MAX)
    };
    let is_reachable = |cell: usize| {
        let (left, right) = (edge(cell), edge(cell + 1));
        let covered = |left, right| {
            pitr.windows
                .iter()
                .any(|w| w.earliest.as_microsecond() <= left && right <= w.latest.as_microsecond())
        };
        covered(left, right) || (cell + 1 == CELLS && covered(left, left))
    };
    let line: String = (0..CELLS).map(|cell| if is_reachable(cell) { '#' } else { '.' }).collect();
    let (left, right) = (table::ago(from, now), table::ago(end, now));
    let scale = format!("{left}{right:>width$}", width = CELLS.saturating_sub(left.len()));
    let each = SignedDuration::from_micros(length / CELLS as i64);
    format!("[{line}]\n {scale}\n # can be restored, . cannot; each stands for {}", table::long_span(each))
}

#[cfg(test)]
mod tests {
    use holdfast_api::restore::{PitrGap, PitrWindow};

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time of this test")
    }

    fn with_windows(windows: &[(&str, &str)]) -> Pitr {
        let windows: Vec<PitrWindow> =
            windows.iter().map(|(a, b)| PitrWindow { earliest: at(a), latest: at(b) }).collect();
        Pitr {
            enabled: true,
            archiving_active: true,
            earliest_restore_point: windows.first().map(|w| w.earliest),
            latest_restore_point: windows.last().map(|w| w.latest),
            archive_lag_seconds: Some(0.0),
            archive_lag_bytes: Some(0),
            last_error: None,
            gaps: (windows.windows(2))
                .map(|pair| PitrGap {
                    from: pair[0].latest,
                    to: pair[1].earliest,
                    cause: "segment lost".to_owned(),
                    acknowledged: false,
                })
                .collect(),
            windows,
        }
    }

    #[test]
    fn a_short_gap_shows_on_the_line_and_in_words() {
        let pitr = with_windows(&[
            ("2026-03-15T14:00:00Z", "2026-03-15T14:20:10Z"),
            ("2026-03-15T14:20:11Z", "2026-03-15T15:00:00Z"),
        ]);
        let text = described("shop", &pitr, at("2026-03-15T15:00:00Z"));
        let line = text.lines().find(|line| line.starts_with('[')).expect("a line");
        assert_eq!(line, format!("[{}.{}]", "#".repeat(20), "#".repeat(39)));
        assert!(text.contains("segment lost") && text.contains("2026-03-15 14:20:10Z"), "{text}");
        assert!(!text.contains("none"), "{text}");
    }

    #[test]
    fn a_whole_window_reads_as_one() {
        let pitr = with_windows(&[("2026-03-12T15:00:00Z", "2026-03-15T14:59:48Z")]);
        let text = described("shop", &pitr, at("2026-03-15T15:00:00Z"));
        assert!(text.contains(&format!("[{}]", "#".repeat(CELLS))), "{text}");
        for part in [
            "2026-03-12 15:00:00Z  3 days ago",
            "12 s ago",
            "2 d 23 h",
            "gaps       none",
            "active, nothing waits",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn what_cannot_be_restored_says_what_can() {
        let mut pitr = with_windows(&[]);
        assert!(described("shop", &pitr, Timestamp::UNIX_EPOCH).contains("first completed backup"));
        pitr.enabled = false;
        assert!(described("shop", &pitr, Timestamp::UNIX_EPOCH).contains("holdfast backups list shop"));
    }

    #[test]
    fn what_a_silent_archive_lacks_is_drawn_as_missing() {
        let mut pitr = with_windows(&[("2026-03-15T14:00:00Z", "2026-03-15T14:30:00Z")]);
        pitr.archiving_active = false;
        let text = described("shop", &pitr, at("2026-03-15T15:00:00Z"));
        assert!(text.contains(&format!("[{}{}]", "#".repeat(30), ".".repeat(30))), "{text}");
        assert!(text.contains("NOT ACTIVE") && !text.contains("any instant up to now"), "{text}");
        assert!(text.contains("the store has all") && !text.contains("nothing waits"), "{text}");
    }

    #[test]
    fn a_window_of_one_instant_is_told_but_not_drawn() {
        let pitr = with_windows(&[("2026-03-15T14:00:00Z", "2026-03-15T14:00:00Z")]);
        let text = described("shop", &pitr, at("2026-03-15T14:00:00Z"));
        assert!(text.contains("0 s") && !text.contains('['), "{text}");
    }
}
