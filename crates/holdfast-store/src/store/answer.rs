//! What an S3 store answers when it does not do what it was asked, and what that means.

use std::fmt;

use hyper::StatusCode;
use jiff::SignedDuration;

use crate::error::ErrorKind;

/// S3 refuses signatures that are further away from its own clock than this.
const SKEW_LIMIT: SignedDuration = SignedDuration::from_mins(15);
/// Longest text of a store that is shown.
const TEXT_LIMIT: usize = 300;

/// Codes that say: this request went wrong on its way, send it again (Amazon S3, error responses).
const DAMAGED_ON_THE_WAY: &[&str] = &[
    "RequestTimeout",
    "BadDigest",
    "XAmzContentSHA256Mismatch",
    "IncompleteBody",
    "InternalError",
    "SlowDown",
];
const WRONG_CREDENTIALS: &[&str] = &[
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "NotSignedUp",
    "AccountProblem",
    "InvalidSecurity",
];
const NO_ROOM: &[&str] =
    &["InsufficientStorage", "QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"];
const LOCKED: &[&str] = &["ObjectLocked", "InvalidObjectState", "ObjectLockConfigurationError"];
const WRONG_PLACE: &[&str] = &[
    "AuthorizationHeaderMalformed",
    "PermanentRedirect",
    "TemporaryRedirect",
    "IllegalLocationConstraintException",
];

/// An error as the store said it: HTTP status, S3 code, S3 message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Empty where the answer had no body, as that to a HEAD.
    pub code: String,
    pub message: String,
}

/// What an [`Answer`] means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The store does not know these credentials, or no longer.
    Credentials,
    /// The credentials are good and may not do this.
    Permission,
    /// The store finds our clock wrong; how far it is ahead of the store's, where the store said so.
    ClockSkew {
        ahead: Option<SignedDuration>,
    },
    NoBucket,
    Full,
    Locked,
    /// The multipart upload is over: finished by an earlier try, or swept.
    UploadGone,
    /// Overloaded, failing, or at work on the same name.
    Busy,
    /// Another region or endpoint is meant.
    WrongPlace,
    /// The store cannot do this.
    Unsupported,
}

impl Answer {
    pub(super) fn new(status: StatusCode, body: &[u8]) -> Self {
        let body = String::from_utf8_lossy(body);
        let text = |tag: &str| {
            let (_, rest) = body.split_once(&format!("<{tag}>"))?;
            let (text, _) = rest.split_once(&format!("</{tag}>"))?;
            Some(text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(TEXT_LIMIT).collect())
        };
        Self {
            status: status.as_u16(),
            code: text("Code").unwrap_or_default(),
            message: text("Message").unwrap_or_default(),
        }
    }

    /// The error that a 200 carries in its body: completing an upload answers before it is done.
    pub(super) fn inside_success(status: StatusCode, body: &[u8]) -> Option<Self> {
        let answer = Self::new(status, body);
        let body = String::from_utf8_lossy(body);
        (body.contains("<Error>") || body.contains("<Error ")).then_some(answer)
    }

    /// What it means, given how far our clock is ahead of the store's.
    pub(crate) fn refusal(&self, ahead: Option<SignedDuration>) -> Refusal {
        let one_of = |codes: &[&str]| codes.contains(&self.code.as_str());
        let skewed = ahead.is_some_and(|ahead| ahead.abs() >= SKEW_LIMIT);
        let locked = || {
            let message = self.message.to_lowercase();
            message.contains("object lock") || message.contains("worm")
        };
        match self.status {
            _ if self.code == "RequestTimeTooSkewed" => Refusal::ClockSkew { ahead },
            _ if one_of(LOCKED) || (self.status == 403 && locked()) => Refusal::Locked,
            // Some stores say "signature" or nothing at all when the time in it is wrong.
            401 | 403 if skewed => Refusal::ClockSkew { ahead },
            507 => Refusal::Full,
            _ if one_of(NO_ROOM) => Refusal::Full,
            401 => Refusal::Credentials,
            _ if one_of(WRONG_CREDENTIALS) => Refusal::Credentials,
            403 => Refusal::Permission,
            _ if self.code == "NoSuchBucket" => Refusal::NoBucket,
            _ if self.code == "NoSuchUpload" => Refusal::UploadGone,
            _ if one_of(WRONG_PLACE) => Refusal::WrongPlace,
            300..=399 => Refusal::WrongPlace,
            501 | 505 => Refusal::Unsupported,
            200..=299 | 408 | 409 | 429 | 500.. => Refusal::Busy,
            // Begun anew, an upload whose parts went wrong may succeed.
            _ if one_of(DAMAGED_ON_THE_WAY) || self.code == "InvalidPart" => Refusal::Busy,
            _ => Refusal::Unsupported,
        }
    }

    /// Whether the same request, sent once more a little later, may succeed.
    pub(super) fn is_worth_repeating(&self) -> bool {
        let busy = self.refusal(None) == Refusal::Busy;
        busy && (self.status != 409 && self.code != "InvalidPart")
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, code, message } = self;
        write!(f, "the store answered {status}")?;
        match (code.is_empty(), message.is_empty()) {
            (true, true) => Ok(()),
            (false, true) => write!(f, " {code}"),
            (true, false) => write!(f, ": {message}"),
            (false, false) => write!(f, " {code}: {message}"),
        }
    }
}

impl std::error::Error for Answer {}

impl Refusal {
    /// What a caller may do.
    #[must_use]
    pub fn kind(self) -> ErrorKind {
        match self {
            Self::Full | Self::Busy | Self::UploadGone => ErrorKind::Transient,
            Self::Credentials
            | Self::Permission
            | Self::ClockSkew { .. }
            | Self::NoBucket
            | Self::Locked
            | Self::WrongPlace
            | Self::Unsupported => ErrorKind::Permanent,
        }
    }

    /// The word for programs, in a job's record.
    #[must_use]
    pub fn cause(self) -> &'static str {
        match self {
            Self::Credentials => "store_credentials",
            Self::Permission => "store_permission",
            Self::ClockSkew { .. } => "store_clock",
            Self::NoBucket => "store_no_bucket",
            Self::Full => "store_full",
            Self::Locked => "store_locked",
            Self::UploadGone | Self::Busy => "store_busy",
            Self::WrongPlace => "store_wrong_place",
            Self::Unsupported => "store_unsupported",
        }
    }

    /// What a person does about it.
    #[must_use]
    pub fn hint(self) -> &'static str {
        match self {
            Self::Credentials => {
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_SESSION_TOKEN where there is one) to credentials \
                 that the store knows"
            }
            Self::Permission => "give the credentials the rights that docs/object-stores.md lists",
            Self::ClockSkew { .. } => "mend time synchronisation (NTP) on this host",
            Self::NoBucket => "make the bucket, or correct its name in store_url",
            Self::Full => "make room in the bucket or raise its quota; what waits goes on by itself",
            Self::Locked => {
                "wait until the object's lock ends; Holdfast needs no object lock, see docs/object-stores.md"
            }
            Self::UploadGone | Self::Busy => "wait; it is tried again",
            Self::WrongPlace => "set AWS_REGION and AWS_ENDPOINT_URL to the bucket's own",
            Self::Unsupported => "`holdfast check store` says what this store lacks",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Credentials => "the store does not accept our credentials",
            Self::Permission => "the store does not allow it",
            Self::ClockSkew { ahead } => return clock_text(*ahead, f),
            Self::NoBucket => "there is no such bucket",
            Self::Full => "the store is full",
            Self::Locked => "the object is locked",
            Self::UploadGone => "the store no longer knows the upload",
            Self::Busy => "the store is busy",
            Self::WrongPlace => "the bucket is elsewhere",
            Self::Unsupported => "the store cannot do it",
        })
    }
}

fn clock_text(ahead: Option<SignedDuration>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match ahead {
        None => f.write_str("this host's clock differs from the store's"),
        Some(ahead) => {
            let minutes = (ahead.abs().as_secs() + 59) / 60;
            let word = if ahead.is_negative() { "behind" } else { "ahead of" };
            write!(f, "this host's clock is {minutes} minutes {word} the store's")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, code: &str) -> Answer {
        let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>m</Message></Error>");
        Answer::new(StatusCode::from_u16(status).expect("a status"), body.as_bytes())
    }

    #[test]
    fn answers_mean_what_s3_says_they_mean() {
        for (status, code, refusal, repeat) in [
            (500, "InternalError", Refusal::Busy, true),
            (503, "SlowDown", Refusal::Busy, true),
            (503, "", Refusal::Busy, true),
            (429, "TooManyRequests", Refusal::Busy, true),
            (400, "RequestTimeout", Refusal::Busy, true),
            (400, "XAmzContentSHA256Mismatch", Refusal::Busy, true),
            (200, "InternalError", Refusal::Busy, true),
            (400, "InvalidPart", Refusal::Busy, false),
            (409, "ConditionalRequestConflict", Refusal::Busy, false),
            (404, "NoSuchUpload", Refusal::UploadGone, false),
            (404, "NoSuchBucket", Refusal::NoBucket, false),
            (403, "InvalidAccessKeyId", Refusal::Credentials, false),
            (400, "ExpiredToken", Refusal::Credentials, false),
            (401, "", Refusal::Credentials, false),
            (403, "AccessDenied", Refusal::Permission, false),
            (403, "", Refusal::Permission, false),
            (403, "RequestTimeTooSkewed", Refusal::ClockSkew { ahead: None }, false),
            (507, "InsufficientStorage", Refusal::Full, false),
            (403, "QuotaExceeded", Refusal::Full, false),
            (400, "ObjectLocked", Refusal::Locked, false),
            (301, "PermanentRedirect", Refusal::WrongPlace, false),
            (400, "AuthorizationHeaderMalformed", Refusal::WrongPlace, false),
            (501, "NotImplemented", Refusal::Unsupported, false),
            (400, "InvalidArgument", Refusal::Unsupported, false),
        ] {
            let answer = answer(status, code);
            assert_eq!(answer.refusal(None), refusal, "{status} {code}");
            assert_eq!(answer.is_worth_repeating(), repeat, "{status} {code}");
        }
    }

    #[test]
    fn a_clock_that_is_far_off_explains_a_bare_403() {
        let ahead = SignedDuration::from_mins(20);
        let refusal = answer(403, "").refusal(Some(-ahead));
        assert_eq!(refusal, Refusal::ClockSkew { ahead: Some(-ahead) });
        assert_eq!(refusal.to_string(), "this host's clock is 20 minutes behind the store's");
        assert_eq!(answer(403, "").refusal(Some(SignedDuration::from_mins(2))), Refusal::Permission);
    }

    #[test]
    fn an_error_inside_a_success_is_seen() {
        let ok = b"<CompleteMultipartUploadResult><ETag>\"x\"</ETag></CompleteMultipartUploadResult>";
        assert_eq!(Answer::inside_success(StatusCode::OK, ok), None);
        let bad = b"  \n<Error><Code>Whatever</Code></Error>";
        assert_eq!(Answer::inside_success(StatusCode::OK, bad).map(|a| a.code), Some("Whatever".to_owned()));
    }
}
