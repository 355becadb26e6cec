//! Sets of GTIDs: which transactions a server has executed, and so the only sound measure of where a binlog stands (R12).
//!
//! A GTID is a source's UUID, since MySQL 8.3 perhaps with a tag, and a number from 1 on. Text form as the server prints it
//! (MySQL 9.7 manual, "GTID Format and Storage"): `uuid:1-5:7,uuid:tag:1-3`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Whose numbers they are: UUID and tag (empty where there is none).
type Source = (String, String);

/// One transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gtid {
    pub uuid: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tag: String,
    pub number: u64,
}

impl Gtid {
    /// From an event's bytes.
    #[must_use]
    pub fn new(uuid: [u8; 16], tag: &str, number: u64) -> Self {
        Self { uuid: uuid_text(uuid), tag: tag.to_owned(), number }
    }
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uuid)?;
        if !self.tag.is_empty() {
            write!(f, ":{}", self.tag)?;
        }
        write!(f, ":{}", self.number)
    }
}

/// A UUID as the server writes it.
#[must_use]
pub fn uuid_text(bytes: [u8; 16]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if [4, 6, 8, 10].contains(&index) {
            text.push('-');
        }
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Transactions, as ascending intervals that neither touch nor overlap; both ends belong to them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GtidSet(BTreeMap<Source, Vec<(u64, u64)>>);

impl GtidSet {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the transactions `first` to `last` of a source; none if `first` is greater.
    pub fn insert_range(&mut self, uuid: &str, tag: &str, first: u64, last: u64) {
        if first > last {
            return;
        }
        let intervals = self.0.entry((uuid.to_ascii_lowercase(), tag.to_ascii_lowercase())).or_default();
        // The common case: the next transaction of the same source.
        if let Some((_, end)) = intervals.last_mut()
            && first == *end + 1
        {
            *end = last;
            return;
        }
        let from = intervals.partition_point(|(_, end)| end.saturating_add(1) < first);
        let to = intervals.partition_point(|(start, _)| *start <= last.saturating_add(1));
        let joined = match intervals.get(from..to) {
            Some([single]) => (first.min(single.0), last.max(single.1)),
            Some([lowest, .., highest]) => (first.min(lowest.0), last.max(highest.1)),
            _ => (first, last),
        };
        intervals.splice(from..to, [joined]);
    }

    pub fn insert(&mut self, gtid: &Gtid) {
        self.insert_range(&gtid.uuid, &gtid.tag, gtid.number, gtid.number);
    }

    pub fn union(&mut self, other: &Self) {
        for ((uuid, tag), intervals) in &other.0 {
            for (first, last) in intervals {
                self.insert_range(uuid, tag, *first, *last);
            }
        }
    }

    /// Whether every transaction of `other` is in this set.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        other.0.iter().all(|(source, intervals)| {
            let mine = self.0.get(source).map_or(&[][..], Vec::as_slice);
            intervals.iter().all(|(first, last)| {
                let at = mine.partition_point(|(_, end)| end < first);
                mine.get(at).is_some_and(|(start, end)| start <= first && last <= end)
            })
        })
    }

    /// The transactions of all sources but one.
    #[must_use]
    pub fn without(&self, uuid: &str) -> Self {
        Self(
            self.0
                .iter()
                .filter(|((source, _), _)| source != uuid)
                .map(|(s, i)| (s.clone(), i.clone()))
                .collect(),
        )
    }

    /// How many transactions of this set are in `other`.
    #[must_use]
    pub fn count_in(&self, other: &Self) -> u64 {
        let overlap = |a: &(u64, u64), b: &(u64, u64)| (a.1.min(b.1) + 1).saturating_sub(a.0.max(b.0));
        self.0
            .iter()
            .filter_map(|(source, mine)| other.0.get(source).map(|theirs| (mine, theirs)))
            .flat_map(|(mine, theirs)| {
                mine.iter().flat_map(move |a| theirs.iter().map(move |b| overlap(a, b)))
            })
            .sum()
    }

    /// How many transactions it holds.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.values().flatten().map(|(first, last)| last - first + 1).sum()
    }
}

impl fmt::Display for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut before, mut first_source) = (None, true);
        for ((uuid, tag), intervals) in &self.0 {
            if before != Some(uuid) {
                write!(f, "{}{uuid}", if first_source { "" } else { "," })?;
            }
            if !tag.is_empty() {
                write!(f, ":{tag}")?;
            }
            for (first, last) in intervals {
                write!(f, ":{first}")?;
                if last > first {
                    write!(f, "-{last}")?;
                }
            }
            (before, first_source) = (Some(uuid), false);
        }
        Ok(())
    }
}

/// The text is no set of GTIDs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no set of GTIDs")]
pub struct BadGtidSet(String);

impl FromStr for GtidSet {
    type Err = BadGtidSet;

    /// Takes what a server prints: with line breaks, an empty text being the empty set.
    fn from_str(text: &str) -> Result<Self, BadGtidSet> {
        let bad = || BadGtidSet(text.chars().take(200).collect());
        let mut set = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let mut fields = part.split(':').map(str::trim);
            let uuid = fields.next().filter(|uuid| is_uuid(uuid)).ok_or_else(bad)?;
            let (mut tag, mut any) = ("", false);
            for field in fields {
                if field.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
                    tag = field;
                    continue;
                }
                let (first, last) = field.split_once('-').unwrap_or((field, field));
                let number = |text: &str| text.parse::<u64>().ok().filter(|n| (1..u64::MAX).contains(n));
                let (first, last) = number(first).zip(number(last)).ok_or_else(bad)?;
                set.insert_range(uuid, tag, first, last);
                any = true;
            }
            if !any {
                return Err(bad());
            }
        }
        Ok(set)
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

impl TryFrom<String> for GtidSet {
    type Error = BadGtidSet;

    fn try_from(text: String) -> Result<Self, BadGtidSet> {
        text.parse()
    }
}

impl From<GtidSet> for String {
    fn from(set: GtidSet) -> Self {
        set.to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const A: &str = "458b864c-e6b8-11f1-b4d9-02fc00000001";
    const B: &str = "558b864c-e6b8-11f1-b4d9-02fc00000001";

    #[test]
    fn sets_read_and_write_as_the_server_does() {
        let rows = [
            (String::new(), String::new()),
            (format!("{A}:1"), format!("{A}:1")),
            (format!("{A}:1-3:7,\n{B}:2"), format!("{A}:1-3:7,{B}:2")),
            (format!("{A}:4-6:1-3"), format!("{A}:1-6")),
            (format!("{}:1-2:2-9", A.to_uppercase()), format!("{A}:1-9")),
            (format!("{A}:1-2:blue:1-3:red:4, {B}:5"), format!("{A}:1-2:blue:1-3:red:4,{B}:5")),
            (format!("{A}:blue:1"), format!("{A}:blue:1")),
        ];
        for (text, expected) in rows {
            let set: GtidSet = text.parse().expect(&text);
            assert_eq!(set.to_string(), expected);
            assert_eq!(expected.parse(), Ok(set));
        }
        for bad in ["x", "458b864c:1", A, &format!("{A}:0"), &format!("{A}:2-"), &format!("{A}:blue")] {
            assert!(bad.parse::<GtidSet>().is_err(), "{bad}");
        }
    }

    fn set_of(members: &BTreeSet<(u8, u64)>) -> GtidSet {
        let mut set = GtidSet::default();
        for (source, number) in members {
            set.insert_range(
                if *source == 0 { A } else { B },
                if *source == 2 { "t" } else { "" },
                *number,
                *number,
            );
        }
        set
    }

    fn members() -> impl Strategy<Value = Vec<(u8, u64, u64)>> {
        prop::collection::vec((0..3_u8, 1..40_u64, 0..6_u64), 0..20)
    }

    proptest! {
        /// Against a model that lists each transaction (R12, R13).
        #[test]
        fn sets_hold_exactly_what_was_put_in(first in members(), second in members()) {
            let model = |ranges: &[(u8, u64, u64)]| -> BTreeSet<(u8, u64)> {
                ranges.iter().flat_map(|(s, from, more)| (*from..=from + more).map(move |n| (*s, n))).collect()
            };
            let build = |ranges: &[(u8, u64, u64)]| {
                let mut set = GtidSet::default();
                for (source, from, more) in ranges {
                    let (uuid, tag) = (if *source == 0 { A } else { B }, if *source == 2 { "t" } else { "" });
                    set.insert_range(uuid, tag, *from, from + more);
                }
                set
            };
            let (mut a, b) = (build(&first), build(&second));
            let (members_a, members_b) = (model(&first), model(&second));
            prop_assert_eq!(&a, &set_of(&members_a), "one form for one set");
            prop_assert_eq!(a.count(), members_a.len() as u64);
            prop_assert_eq!(a.contains(&b), members_a.is_superset(&members_b));
            prop_assert_eq!(a.count_in(&b), members_a.intersection(&members_b).count() as u64);
            prop_assert_eq!(a.to_string().parse::<GtidSet>(), Ok(a.clone()));
            a.union(&b);
            prop_assert_eq!(&a, &set_of(&members_a.union(&members_b).copied().collect()));
        }
    }
}
