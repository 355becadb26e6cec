//! What writers were told, and the judge of a restore.
//!
//! The judge knows only what clients can know: when a write was sent, and when it was acknowledged. At an instant T, what was
//! acknowledged at or before T must be there, what was sent after T must not, and what was in flight may be either, but
//! whole. A writer sends its next write only after the last one's end, so of one writer nothing may be missing before
//! something that is there.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use crate::error::{ConformanceError, Result};

/// Accounts between which money goes.
pub(crate) const ACCOUNTS: i32 = 8;

/// What a write does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Two parts under one number, at once.
    Insert,
    /// In one transaction two parts under one number, and an amount from one account to another.
    Transfer { from: i32, to: i32, amount: i64 },
    /// Puts its number into the writer's own register.
    Update,
    /// Takes away what an earlier insert of the same writer put there.
    Delete { number: i64 },
}

impl Act {
    fn kind(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Transfer { .. } => "transfer",
            Self::Update => "update",
            Self::Delete { .. } => "delete",
        }
    }
}

/// A write to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Write {
    pub number: i64,
    pub writer: i32,
    pub act: Act,
}

/// One write as its client saw it.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    pub number: i64,
    pub writer: i32,
    pub act: Act,
    pub sent_at: Timestamp,
    /// `None`: no acknowledgement came.
    pub acknowledged_at: Option<Timestamp>,
}

/// All that the writers of a ledger have left in a database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Numbers, with how many parts each has.
    pub rows: HashMap<i64, i64>,
    /// Numbers of which a part does not hold what was put into it.
    pub changed: BTreeSet<i64>,
    /// Writers, with the number of their last update.
    pub registers: BTreeMap<i32, i64>,
    /// Of each register, where the engine keeps more than its value.
    pub histories: BTreeMap<i32, History>,
    /// Accounts, with their balances; an account of balance 0 may be left out.
    pub balances: BTreeMap<i32, i64>,
}

/// What a register tells of the updates before its last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// How many there were.
    pub times: i64,
    /// The numbers of the last [`HISTORY`], oldest first.
    pub last: Vec<i64>,
}

/// So many updates a register remembers.
pub const HISTORY: usize = 5;

impl State {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.registers.is_empty() && self.balances.values().all(|sum| *sum == 0)
    }
}

/// What was written, by whom it was told. Clones are the same ledger.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<Vec<Entry>>>);

/// What a restore holds against the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Numbers found.
    pub found: usize,
    /// Writes that must be there and are not.
    pub lost: Vec<i64>,
    /// Writes that must not be there and are.
    pub extra: Vec<i64>,
    /// Numbers of which only a part is there.
    pub torn: Vec<i64>,
    /// Numbers whose content is another than what was written.
    pub changed: Vec<i64>,
    /// Accounts whose balance is not the sum of the transfers that are there.
    pub unbalanced: Vec<i32>,
}

impl Ledger {
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes a write before it is sent; returns its place for [`Self::acknowledge`].
    pub(crate) fn send(&self, write: Write) -> usize {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Write { number, writer, act } = write;
        // The clock is read before anything goes out.
        entries.push(Entry { number, writer, act, sent_at: Timestamp::now(), acknowledged_at: None });
        entries.len() - 1
    }

    pub(crate) fn acknowledge(&self, place: usize) {
        let at = Timestamp::now();
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[place].acknowledged_at = Some(at);
    }

    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.entries().iter().filter(|entry| entry.acknowledged_at.is_some()).count()
    }

    /// Whether there is something to judge: at least so many writes of each kind that were acknowledged.
    ///
    /// # Errors
    /// `Broken`, with the kinds of which there were fewer.
    pub fn ensure_each_kind(&self, least: usize) -> Result<()> {
        let done = self.entries().into_iter().filter(|entry| entry.acknowledged_at.is_some());
        let mut counts = BTreeMap::from(["insert", "transfer", "update", "delete"].map(|kind| (kind, 0)));
        for entry in done {
            *counts.entry(entry.act.kind()).or_default() += 1;
        }
        counts.retain(|_, count| *count < least);
        if counts.is_empty() {
            return Ok(());
        }
        let why =
            format!("fewer than {least} of a kind were acknowledged, which would show nothing: {counts:?}");
        Err(ConformanceError::broken("the writers", why))
    }

    /// Judges everything at an instant that lies between the two.
    #[must_use]
    pub fn judge(&self, state: &State, earliest: Timestamp, latest: Timestamp) -> Verdict {
        Judge::new(self.entries(), state, earliest, latest).judge()
    }
}

struct Judge<'a> {
    entries: Vec<Entry>,
    state: &'a State,
    earliest: Timestamp,
    latest: Timestamp,
    /// By the number that each takes away.
    deletes: HashMap<i64, Entry>,
    /// Of each writer the highest number that is seen to be there.
    reached: HashMap<i32, i64>,
}

impl<'a> Judge<'a> {
    fn new(entries: Vec<Entry>, state: &'a State, earliest: Timestamp, latest: Timestamp) -> Self {
        let mut deletes = HashMap::new();
        let mut reached: HashMap<i32, i64> = HashMap::new();
        for entry in &entries {
            if let Act::Delete { number } = entry.act {
                deletes.insert(number, *entry);
            }
            let is_there = match entry.act {
                Act::Insert | Act::Transfer { .. } => state.rows.contains_key(&entry.number),
                Act::Update => state.registers.get(&entry.writer) == Some(&entry.number),
                Act::Delete { .. } => false,
            };
            if is_there {
                let highest = reached.entry(entry.writer).or_insert(entry.number);
                *highest = entry.number.max(*highest);
            }
        }
        Self { entries, state, earliest, latest, deletes, reached }
    }

    fn judge(self) -> Verdict {
        let mut verdict = Verdict {
            found: self.state.rows.len(),
            lost: Vec::new(),
            extra: Vec::new(),
            torn: Vec::new(),
            changed: self.state.changed.iter().copied().collect(),
            unbalanced: Vec::new(),
        };
        let mut known = HashSet::new();
        let mut updates = HashSet::new();
        let mut balances: BTreeMap<i32, i64> = BTreeMap::new();
        for entry in &self.entries {
            match entry.act {
                Act::Insert | Act::Transfer { .. } => {
                    known.insert(entry.number);
                    self.row(entry, &mut verdict);
                }
                Act::Update => {
                    updates.insert((entry.writer, entry.number));
                    self.register(entry, &mut verdict);
                }
                Act::Delete { .. } => {}
            }
            if let Act::Transfer { from, to, amount } = entry.act
                && self.state.rows.contains_key(&entry.number)
            {
                *balances.entry(from).or_default() -= amount;
                *balances.entry(to).or_default() += amount;
            }
        }
        for (number, parts) in &self.state.rows {
            if *parts != 2 {
                verdict.torn.push(*number);
            }
            if !known.contains(number) {
                verdict.extra.push(*number);
            }
        }
        for (writer, value) in &self.state.registers {
            if !updates.contains(&(*writer, *value)) {
                verdict.extra.push(*value);
            }
        }
        for (writer, history) in &self.state.histories {
            if !self.is_true(*writer, history) {
                verdict.changed.push(self.state.registers.get(writer).copied().unwrap_or(-1));
            }
        }
        for account in balances.keys().chain(self.state.balances.keys()) {
            let of = |balances: &BTreeMap<i32, i64>| balances.get(account).copied().unwrap_or(0);
            if of(&balances) != of(&self.state.balances) && !verdict.unbalanced.contains(account) {
                verdict.unbalanced.push(*account);
            }
        }
        verdict
    }

    /// Whether the write must have happened.
    fn must(&self, entry: &Entry) -> bool {
        let is_before_another =
            self.reached.get(&entry.writer).is_some_and(|highest| entry.number < *highest);
        entry.acknowledged_at.is_some_and(|at| at <= self.earliest || is_before_another)
    }

    fn must_not(&self, entry: &Entry) -> bool {
        entry.sent_at > self.latest
    }

    fn row(&self, entry: &Entry, verdict: &mut Verdict) {
        let delete = self.deletes.get(&entry.number);
        if self.state.rows.contains_key(&entry.number) {
            if self.must_not(entry) {
                verdict.extra.push(entry.number);
            }
            if let Some(delete) = delete.filter(|delete| self.must(delete)) {
                verdict.lost.push(delete.number);
            }
        } else if self.must(entry) {
            // With a delete that came later, either is wrong: said once, of what is missing.
            if delete.is_none_or(|delete| self.must_not(delete)) {
                verdict.lost.push(entry.number);
            }
        }
    }

    fn register(&self, entry: &Entry, verdict: &mut Verdict) {
        let value = self.state.registers.get(&entry.writer).copied();
        if value.is_none_or(|value| value < entry.number) && self.must(entry) {
            verdict.lost.push(entry.number);
        }
        if value == Some(entry.number) && self.must_not(entry) {
            verdict.extra.push(entry.number);
        }
    }
}

impl Judge<'_> {
    /// Whether a register's history can be that of its value: every update up to it that was acknowledged, once, in order,
    /// and of the others some.
    fn is_true(&self, writer: i32, history: &History) -> bool {
        let Some(value) = self.state.registers.get(&writer) else { return false };
        let of_it = self.entries.iter().filter(|entry| entry.writer == writer && entry.act == Act::Update);
        let sent: Vec<&Entry> = of_it.filter(|entry| entry.number <= *value).collect();
        let known: HashSet<i64> = sent.iter().map(|entry| entry.number).collect();
        let told: BTreeSet<i64> = sent
            .iter()
            .filter(|entry| entry.acknowledged_at.is_some() || entry.number == *value)
            .map(|entry| entry.number)
            .collect();
        let times = usize::try_from(history.times).unwrap_or(0);
        let last: HashSet<i64> = history.last.iter().copied().collect();
        // One that was never acknowledged may have come late; the others came in order.
        let in_order: Vec<i64> = history.last.iter().copied().filter(|one| told.contains(one)).collect();
        let expected: Vec<i64> =
            told.iter().copied().filter(|one| in_order.first().is_some_and(|first| one >= first)).collect();
        (told.len()..=known.len()).contains(&times)
            && history.last.len() == times.min(HISTORY)
            && last.len() == history.last.len()
            && last.is_subset(&known)
            && !in_order.is_empty()
            && in_order == expected
    }
}

impl Verdict {
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.lost.is_empty()
            && self.extra.is_empty()
            && self.torn.is_empty()
            && self.changed.is_empty()
            && self.unbalanced.is_empty()
    }

    /// # Errors
    /// When anything is lost, extra, torn, changed or out of balance.
    pub fn ensure_exact(&self, what: &str) -> Result<()> {
        if self.is_exact() { Ok(()) } else { Err(ConformanceError::broken(what, self.to_string())) }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} found, {} lost, {} extra", self.found, self.lost.len(), self.extra.len())?;
        let all =
            [("lost", &self.lost), ("extra", &self.extra), ("torn", &self.torn), ("changed", &self.changed)];
        for (word, numbers) in all {
            if !numbers.is_empty() {
                let shown: Vec<String> = numbers.iter().take(8).map(ToString::to_string).collect();
                write!(f, "; {word}: {}", shown.join(" "))?;
            }
        }
        if !self.unbalanced.is_empty() {
            write!(f, "; balances that are not the sum of their transfers: {:?}", self.unbalanced)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
