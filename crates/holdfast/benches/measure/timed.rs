//! Times and what is said of them.

use std::time::{Duration, Instant};

/// Runs it and tells how many seconds it took.
pub(crate) async fn seconds<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<(f64, T)> {
    let began = Instant::now();
    let done = work.await?;
    Ok((began.elapsed().as_secs_f64(), done))
}

pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// The value below which a share of all lies, `share` from 0 to 1 (nearest rank).
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a rank"
)]
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// `12.3 (11.9 to 13.0)`: median and spread.
pub(crate) fn shown(values: &[f64]) -> String {
    let (low, high) = (quantile(values, 0.0), quantile(values, 1.0));
    format!("{:.2} ({low:.2} to {high:.2})", median(values))
}

/// Median of the pairs' ratios, ours to theirs, with the spread.
pub(crate) fn ratio(ours: &[f64], theirs: &[f64]) -> String {
    let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
    format!("**{:.2}** ({:.2} to {:.2})", median(&ratios), quantile(&ratios, 0.0), quantile(&ratios, 1.0))
}
