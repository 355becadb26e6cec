//! How long the object store may take before we stop waiting (R22).

use std::time::Duration;

/// How a store is opened.
#[derive(Clone, Default)]
pub struct StoreSettings {
    pub limits: Limits,
    /// `AWS_*` variables that win over those of the process.
    pub environment: Vec<(&'static str, String)>,
}

/// Bounds of every request. [`Limits::default`] is what runs; tests shorten it.
///
/// From these follows how long one call can hang: a request is given up after its patience, repeated until
/// [`Limits::retry_for`] has passed, and not a second longer than one more pause and patience. With the defaults that is
/// under four minutes for what is small and under seven for a part of 8 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For a connection to stand.
    pub connect: Duration,
    /// No byte for so long, and a request counts as hung.
    pub silence: Duration,
    /// A store that takes or gives less than this counts as hung, too. The time that our own side needs (a disk that
    /// is slow during a restore) does not count.
    pub slowest_bytes_per_second: u64,
    /// For the answer to a finished multipart upload: stores put the parts together only then.
    pub joining: Duration,
    /// After this no repetition of a request begins; until then it is repeated however often, after growing pauses. A
    /// signature is good for 15 minutes. A long read that got some bytes has all of it again.
    pub retry_for: Duration,
    /// An unfinished multipart upload is swept when it is older than this, by the store's own clock. A writer gives up
    /// after half of it, so that nobody's living upload is ever swept, whichever host it lives on.
    pub orphan_age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            silence: Duration::from_secs(30),
            slowest_bytes_per_second: 64 << 10,
            joining: Duration::from_secs(300),
            retry_for: Duration::from_secs(180),
            orphan_age: Duration::from_secs(24 * 3600),
        }
    }
}

impl Limits {
    /// For somebody who sits in front of a terminal and waits.
    #[must_use]
    pub fn impatient() -> Self {
        Self {
            connect: Duration::from_secs(5),
            silence: Duration::from_secs(15),
            retry_for: Duration::from_secs(3),
            ..Self::default()
        }
    }

    /// For steps of the control plane, behind which others wait and which are tried again by the queue.
    #[must_use]
    pub fn brief() -> Self {
        Self { retry_for: Duration::from_secs(20), ..Self::impatient() }
    }

    /// For whoever repeats what was refused by himself, and is to hear of a store in trouble soon: engines' tools, which wait
    /// twenty seconds for an answer, and the archive of the log, which tells how it is.
    #[must_use]
    pub fn prompt() -> Self {
        Self { retry_for: Duration::from_secs(8), ..Self::default() }
    }

    /// The longest pause between two tries of a request.
    pub(super) fn longest_pause(&self) -> Duration {
        (self.retry_for / 6).min(Duration::from_secs(15))
    }

    /// How long a request with a body of so many bytes may take until its answer begins.
    pub(super) fn patience(&self, body_bytes: u64) -> Duration {
        self.silence + Duration::from_secs(body_bytes / self.slowest_bytes_per_second.max(1))
    }

    /// How long a multipart upload of ours may stay open.
    pub(super) fn upload_life(&self) -> Duration {
        self.orphan_age / 2
    }
}
