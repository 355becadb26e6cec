//! How full a volume is, when that is warned of, and what of it is kept free so that a full disk can be cleaned up.

use std::fmt;

use serde::{Deserialize, Serialize};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A volume as its file system tells it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    pub total_bytes: u64,
    /// What an unprivileged process may still take.
    pub free_bytes: u64,
}

impl Space {
    /// What is kept free: 2 %, at least 64 MiB and at most 1 GiB. Below it nothing new is begun.
    #[must_use]
    pub fn reserve_bytes(self) -> u64 {
        (self.total_bytes / 50).clamp(64 * MIB, GIB)
    }

    #[must_use]
    pub fn is_low(self) -> bool {
        self.free_bytes < self.reserve_bytes()
    }

    /// Whether there is room again after it was low: half a reserve more, so that nothing flaps.
    #[must_use]
    pub fn has_recovered(self) -> bool {
        self.free_bytes >= self.reserve_bytes() * 3 / 2
    }

    /// What may be taken without touching the reserve.
    #[must_use]
    pub fn room_bytes(self) -> u64 {
        self.free_bytes.saturating_sub(self.reserve_bytes())
    }

    #[must_use]
    pub fn used_percent(self) -> f64 {
        percent(self.total_bytes.saturating_sub(self.free_bytes), self.total_bytes)
    }
}

/// What an instance takes of its volume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub volume: Space,
    pub database_bytes: u64,
    /// All of the engine's log that lies on the volume.
    pub log_bytes: u64,
    /// What of it the object store does not have yet: it cannot go.
    pub waiting_log_bytes: u64,
    /// What the service may take; 0 where nothing was agreed.
    pub quota_bytes: u64,
}

impl Usage {
    /// How much of the room that waiting log has is taken: 100 when the volume is full of it.
    #[must_use]
    pub fn log_percent(&self) -> f64 {
        percent(self.waiting_log_bytes, self.waiting_log_bytes + self.volume.free_bytes)
    }

    /// The service's own data and log against its quota; 0 without one.
    #[must_use]
    pub fn quota_percent(&self) -> f64 {
        percent(self.database_bytes + self.log_bytes, self.quota_bytes)
    }

    fn worst_percent(&self) -> f64 {
        self.volume.used_percent().max(self.log_percent()).max(self.quota_percent())
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    #[default]
    Fine,
    /// 60 % and more of the volume, the quota, or the room for log.
    Filling,
    /// 80 % and more.
    NearlyFull,
    /// Less is free than what is kept for cleaning up.
    Full,
}

/// A level ends this far below where it began.
const SLACK_PERCENT: f64 = 2.0;

/// The level now, after `before`.
#[must_use]
pub fn level(usage: &Usage, before: Level) -> Level {
    let volume = usage.volume;
    if volume.total_bytes == 0 {
        return Level::Fine; // nothing is known
    }
    if volume.is_low() || (before == Level::Full && !volume.has_recovered()) {
        return Level::Full;
    }
    let at_least = |level, percent: f64| {
        let slack = if before >= level { SLACK_PERCENT } else { 0.0 };
        usage.worst_percent() >= percent - slack
    };
    if at_least(Level::NearlyFull, 80.0) {
        Level::NearlyFull
    } else if at_least(Level::Filling, 60.0) {
        Level::Filling
    } else {
        Level::Fine
    }
}

/// What to tell people at a level: what is filling up and what helps. `None` when all is fine.
#[must_use]
pub fn warning(usage: &Usage, level: Level) -> Option<String> {
    let free = Size(usage.volume.free_bytes);
    let (volume, log, quota) = (usage.volume.used_percent(), usage.log_percent(), usage.quota_percent());
    let waits = format!("{} of log waits for the object store", Size(usage.waiting_log_bytes));
    match level {
        Level::Fine => None,
        Level::Full => {
            let log =
                if log >= 20.0 { format!("; {waits}: bring the object store back") } else { String::new() };
            Some(format!(
                "the disk of the service's data is full: {free} free, {} are kept for cleaning up{log}; add space or \
                 remove what is not needed",
                Size(usage.volume.reserve_bytes())
            ))
        }
        _ if log >= volume && log >= quota => Some(format!(
            "{waits}, {log:.0} % of the room that it has: bring the object store back or add disk space ({free} free)"
        )),
        _ if quota > volume => Some(format!(
            "the service takes {quota:.0} % of its {}: raise storage_size_gb or remove data",
            Size(usage.quota_bytes)
        )),
        _ => Some(format!(
            "the disk of the service's data is {volume:.0} % full ({free} free): add space or remove what is not needed"
        )),
    }
}

/// Bytes as people read them, `1.2 GiB`.
#[derive(Debug, Clone, Copy)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes >= GIB => write!(f, "{}.{} GiB", bytes / GIB, bytes % GIB * 10 / GIB),
            bytes => write!(f, "{} MiB", bytes / MIB),
        }
    }
}

#[allow(clippy::cast_precision_loss)] // a percentage needs no 64 bits
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { (part as f64 / whole as f64 * 100.0).clamp(0.0, 100.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(total_mib: u64, free_mib: u64, waiting_mib: u64) -> Usage {
        let volume = Space { total_bytes: total_mib * MIB, free_bytes: free_mib * MIB };
        Usage { volume, waiting_log_bytes: waiting_mib * MIB, ..Usage::default() }
    }

    #[test]
    fn levels_rise_at_their_mark_and_fall_a_little_below_it() {
        for (free, before, expected) in [
            (4001, Level::Fine, Level::Fine),
            (4000, Level::Fine, Level::Filling),
            (4100, Level::Filling, Level::Filling),
            (4201, Level::Filling, Level::Fine),
            (2000, Level::Fine, Level::NearlyFull),
            (2100, Level::NearlyFull, Level::NearlyFull),
            (2201, Level::NearlyFull, Level::Filling),
            (199, Level::Fine, Level::Full),
            (299, Level::Full, Level::Full),
            (300, Level::Full, Level::NearlyFull),
            (9000, Level::Full, Level::Fine),
        ] {
            assert_eq!(level(&usage(10_000, free, 0), before), expected, "{free} MiB free after {before:?}");
        }
        assert_eq!(level(&Usage::default(), Level::Full), Level::Fine, "nothing is known");
    }

    #[test]
    fn log_counts_against_the_room_that_is_left_for_it() {
        // Half of the volume is somebody else's data: 30 of the 50 GiB left are log that waits.
        let usage = usage(102_400, 20_480, 30_720);
        assert!((usage.log_percent() - 60.0).abs() < 0.001);
        assert_eq!(level(&usage, Level::Fine), Level::NearlyFull, "the volume itself is at 80 %");
        let text = warning(
            &Usage { volume: Space { total_bytes: 1 << 50, ..usage.volume }, ..usage },
            Level::NearlyFull,
        );
        assert!(text.is_some_and(|text| text.contains("% full")));
    }

    #[test]
    fn a_quota_is_watched_like_a_volume() {
        let roomy = usage(1_000_000, 900_000, 0);
        let used = Usage { database_bytes: 7 * GIB, log_bytes: GIB, quota_bytes: 10 * GIB, ..roomy };
        assert_eq!(level(&used, Level::Fine), Level::NearlyFull);
        let text = warning(&used, Level::NearlyFull).expect("a warning");
        assert!(text.contains("80 %") && text.contains("storage_size_gb"), "{text}");
    }

    #[test]
    fn the_reserve_is_bounded_on_small_and_on_large_volumes() {
        for (total, reserve) in [(100 * MIB, 64 * MIB), (10 * GIB, 10 * GIB / 50), (1 << 50, GIB)] {
            assert_eq!(Space { total_bytes: total, free_bytes: 0 }.reserve_bytes(), reserve);
        }
    }
}
