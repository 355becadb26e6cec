//! What a client command ends with when it does not succeed, and the exit code that scripts see.

/// Text says what was tried on what; [`ClientError::hint`] says what to do next.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The command line cannot mean anything.
    #[error("{0}")]
    Usage(String),
    /// No answer came.
    #[error("cannot reach the control plane at {url}")]
    Unreachable { url: String, source: reqwest::Error },
    /// No password, or the wrong one.
    #[error("{text}")]
    Unauthorised { text: String },
    /// The control plane answered with an error; `text` is its own.
    #[error("{text} (HTTP {status})")]
    Refused { status: u16, text: String, hint: Option<String> },
    /// Something answered, but not with what the API promises.
    #[error("the answer to {asked} is not what Holdfast's API promises: {because}")]
    Strange { asked: String, because: String },
    /// What was asked for is not there, found out on this side.
    #[error("{text}")]
    NotFound { text: String, hint: Option<String> },
    /// The work that was waited for ended badly.
    #[error("{text}")]
    Failed { text: String, hint: String },
    /// The patience of `--timeout` ended before the work did.
    #[error("{text}")]
    StillRunning { text: String, hint: String },
    /// Ctrl-C while waiting.
    #[error("{text}")]
    Interrupted { text: String, hint: String },
    /// The person said no.
    #[error("nothing was done")]
    Declined,
    #[error("cannot {doing}")]
    Io { doing: String, source: std::io::Error },
}

impl ClientError {
    /// 1 refused or failed, 2 usage, 3 not reachable or not let in, 4 still running, 130 interrupted.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Unreachable { .. } | Self::Unauthorised { .. } => 3,
            Self::StillRunning { .. } => 4,
            Self::Interrupted { .. } => 130,
            Self::Refused { .. }
            | Self::Strange { .. }
            | Self::NotFound { .. }
            | Self::Failed { .. }
            | Self::Declined
            | Self::Io { .. } => 1,
        }
    }

    /// The next step, where there is one.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Unreachable { url, .. } => {
                Some(format!("is `holdfast serve` running at {url}? Another address: --url or HOLDFAST_URL"))
            }
            Self::Unauthorised { .. } => Some(
                "the user is --user or HOLDFAST_USER (default admin), the password HOLDFAST_PASSWORD or --password-file FILE"
                    .to_owned(),
            ),
            Self::Strange { .. } => {
                Some("does --url name a Holdfast control plane of the same version?".to_owned())
            }
            Self::Refused { hint, .. } | Self::NotFound { hint, .. } => hint.clone(),
            Self::Failed { hint, .. } | Self::StillRunning { hint, .. } | Self::Interrupted { hint, .. } => {
                Some(hint.clone()).filter(|hint| !hint.is_empty())
            }
            Self::Usage(_) | Self::Declined | Self::Io { .. } => None,
        }
    }

    /// The HTTP status, when the control plane gave one.
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            Self::Unauthorised { .. } => Some(401),
            _ => None,
        }
    }

    /// Whether asking again can help: the way or the other side is broken, not the question.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => *status >= 500 || *status == 429,
            _ => false,
        }
    }

    /// The text with its causes, in one line. Of a broken way only the last cause tells people something.
    pub(crate) fn chain(&self) -> String {
        let mut causes = Vec::new();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        if matches!(self, Self::Unreachable { .. }) {
            causes = causes.split_off(causes.len().saturating_sub(1));
        }
        causes.insert(0, self.to_string());
        causes.join(": ")
    }
}
