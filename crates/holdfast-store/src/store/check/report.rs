//! What a check found, row by row.

use jiff::SignedDuration;
use serde::Serialize;

use crate::error::{ErrorKind, StoreError};
use crate::store::Refusal;

/// How one check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Ok,
    /// Holdfast does not work on this store, or not safely.
    Failed,
    /// It works without.
    NotNeeded,
    /// Worth knowing.
    Note,
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub check: &'static str,
    pub outcome: Outcome,
    /// What was seen.
    pub detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The word for programs ([`StoreError::cause`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<&'static str>,
    /// The failure may pass: nothing is known of the store yet.
    #[serde(skip)]
    pub(super) passing: bool,
}

/// What is to be thought of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Good,
    /// As it is, it cannot be used.
    Unfit,
    /// It did not answer, or is busy or full: ask again later.
    Unknown,
}

/// All rows, in the order in which they were found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub checks: Vec<Finding>,
}

impl Report {
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if self.failed().next().is_none() {
            Verdict::Good
        } else if self.failed().all(|finding| finding.passing) {
            Verdict::Unknown
        } else {
            Verdict::Unfit
        }
    }

    pub fn failed(&self) -> impl Iterator<Item = &Finding> {
        self.checks.iter().filter(|finding| finding.outcome == Outcome::Failed)
    }

    /// What failed and what to do about it, in one sentence a finding.
    #[must_use]
    pub fn failures(&self) -> String {
        let sentence = |finding: &Finding| {
            let next = finding.next.as_ref().map(|next| format!(" (next: {next})")).unwrap_or_default();
            format!("{}: {}{next}", finding.check, finding.detail)
        };
        self.failed().map(sentence).collect::<Vec<_>>().join("; ")
    }

    fn add(&mut self, check: &'static str, outcome: Outcome, detail: impl Into<String>) -> &mut Finding {
        let detail = detail.into();
        self.checks.push(Finding { check, outcome, detail, next: None, cause: None, passing: false });
        self.checks.last_mut().expect("just pushed")
    }

    pub(super) fn ok(&mut self, check: &'static str, detail: impl Into<String>) {
        self.add(check, Outcome::Ok, detail);
    }

    pub(super) fn not_needed(&mut self, check: &'static str, detail: impl Into<String>) {
        self.add(check, Outcome::NotNeeded, detail);
    }

    pub(super) fn note(&mut self, check: &'static str, detail: impl Into<String>, next: &str) {
        self.add(check, Outcome::Note, detail).next = Some(next.to_owned()).filter(|next| !next.is_empty());
    }

    pub(super) fn failed_with(&mut self, check: &'static str, detail: impl Into<String>, next: &str) {
        self.add(check, Outcome::Failed, detail).next = Some(next.to_owned());
    }

    pub(super) fn error(&mut self, check: &'static str, error: &StoreError) {
        let finding = self.add(check, Outcome::Failed, text(error));
        finding.next = error.hint().map(str::to_owned);
        finding.cause = Some(error.cause());
        finding.passing = error.kind() == ErrorKind::Transient;
    }

    /// Says of the first request's failure what it tells: a store that refuses credentials is reachable.
    pub(super) fn first_error(&mut self, error: &StoreError) {
        match error {
            StoreError::Unreachable { .. } => return self.error("reachable", error),
            StoreError::NoCredentials { .. } => return self.error("credentials", error),
            _ => self.ok("reachable", "it answers"),
        }
        match error {
            StoreError::Refused { refusal, .. } => self.error(
                match refusal {
                    Refusal::Credentials => "credentials",
                    Refusal::ClockSkew { .. } => "clock",
                    Refusal::NoBucket | Refusal::WrongPlace => "bucket",
                    _ => "write",
                },
                error,
            ),
            _ => self.error("write", error),
        }
    }

    pub(super) fn clock(&mut self, ahead: Option<SignedDuration>, warning: SignedDuration) {
        match ahead {
            None => self.note("clock", "the store does not say what time it has", ""),
            Some(ahead) if ahead.abs() > warning => {
                let text = Refusal::ClockSkew { ahead: Some(ahead) }.to_string();
                let next = "mend time synchronisation (NTP) on this host; beyond 15 minutes the store refuses all requests";
                self.note("clock", text, next);
            }
            Some(ahead) => self.ok("clock", format!("{} s from the store's", ahead.abs().as_secs())),
        }
    }
}

/// The error with the causes that tell a person something.
fn text(error: &StoreError) -> String {
    let mut text = error.to_string();
    let last = std::iter::successors(std::error::Error::source(error), |cause| cause.source()).last();
    if let Some(last) = last {
        text = format!("{text}: {last}");
    }
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
