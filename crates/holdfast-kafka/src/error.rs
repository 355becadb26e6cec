//! Why the broker could not be asked, or what it answered instead.

use kafka_protocol::ResponseError;

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum KafkaError {
    #[error("{doing}")]
    Io {
        doing: String,
        #[source]
        source: std::io::Error,
    },
    /// Nothing came for so long; the connection is of no use any more.
    #[error("{doing}: no answer within {seconds} s")]
    Silent { doing: String, seconds: u64 },
    /// The broker's own answer. `code` is one of the protocol's.
    #[error("{doing}: {name}{message}")]
    Refused { doing: &'static str, code: i16, name: String, message: String },
    /// What came is no answer to what was asked.
    #[error("{doing}: {what}")]
    Unintelligible { doing: String, what: String },
}

impl KafkaError {
    pub(crate) fn refused(doing: &'static str, code: i16, message: Option<&str>) -> Self {
        let name = match ResponseError::try_from_code(code) {
            Some(error) => format!("{error:?}"),
            None => format!("error {code}"),
        };
        let message = message.map(|text| format!(", {text}")).unwrap_or_default();
        Self::Refused { doing, code, name, message }
    }

    /// The broker's own error, where it answered with one.
    #[must_use]
    pub fn response(&self) -> Option<ResponseError> {
        match self {
            Self::Refused { code, .. } => ResponseError::try_from_code(*code),
            _ => None,
        }
    }

    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }

    pub(crate) fn unintelligible(doing: impl Into<String>, what: impl std::fmt::Display) -> Self {
        Self::Unintelligible { doing: doing.into(), what: what.to_string() }
    }
}

pub type Result<T> = std::result::Result<T, KafkaError>;
