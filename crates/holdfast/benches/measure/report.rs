//! The page that is written: docs/benchmarks.md.

use jiff::Timestamp;

use crate::Size;

/// A table with a header.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let header: Vec<String> = header.iter().map(|&cell| cell.to_owned()).collect();
    let rule = vec!["---".to_owned(); header.len()];
    let mut text = line(&header) + &line(&rule);
    for row in rows {
        text.push_str(&line(row));
    }
    text
}

pub(crate) fn page(size: &Size, machine: &str, sections: &[String]) -> String {
    let today = Timestamp::now().strftime("%Y-%m-%d");
    let small = match size.name {
        "small" => {
            "**This is the small version, which only shows that the measurement works: its figures mean little.**\n\n"
        }
        _ => "",
    };
    format!(
        "# Benchmarks\n\n\
         Written by `make bench` on {today}. {machine}\n\n{small}\
         How to read it: whatever is compared was measured in the same run on the same machine, the two sides taking turns, so the\n\
         *ratios* carry over to other machines better than seconds do; below 1 Holdfast is the quicker one. Shown are medians and, in\n\
         brackets, the lowest and the highest value. A ratio's is the median of the pairs' ratios.\n\n\
         To repeat it: `make bench` (some hours; nothing else should run), `make bench BENCH_SIZE=small` (a few minutes). One part\n\
         alone: `BENCH_ONLY=sealing`, or several of `sealing,api,local,s3,restores,lag,mysql,mongodb,valkey,bases,lost`.\n\n{}",
        sections.join("\n")
    )
}
