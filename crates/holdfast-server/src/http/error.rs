//! The one error of the handlers: kind to status and body in one `match`.

use std::error::Error as StdError;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use holdfast_api::error::ErrorBody;

use holdfast_core::causes::chain;

use crate::app;

/// Longest text that is sent; user input that a text quotes is cut with it.
const MAX_TEXT_CHARS: usize = 500;

type Cause = Box<dyn StdError + Send + Sync>;

/// What a request ends with when it does not succeed.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct ApiError {
    pub kind: Kind,
    /// For people. Of the kinds that are ours (5xx) only the log sees it, but `Unavailable`'s.
    pub text: String,
    #[source]
    source: Option<Cause>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Invalid,
    Unauthenticated,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    Conflict,
    TooLarge,
    TooManyRequests,
    /// Cannot be done now; trying again can help. The text is shown.
    Unavailable,
    /// Somebody has to make room first. The text is shown.
    NoRoom,
    /// Ours: the client gets a request id, the log gets the chain.
    Internal,
}

/// Rides on a 5xx answer to the outermost layer, which knows the request's id, logs it and writes the body.
#[derive(Clone)]
pub(crate) struct Failure {
    /// What the client may read.
    pub public: String,
    /// The whole chain of causes.
    pub chain: String,
}

impl ApiError {
    pub(crate) fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), source: None }
    }

    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, text)
    }

    pub(crate) fn internal(text: impl Into<String>, source: Option<Cause>) -> Self {
        Self { kind: Kind::Internal, text: text.into(), source }
    }

    fn status(&self) -> StatusCode {
        match self.kind {
            Kind::Invalid => StatusCode::BAD_REQUEST,
            Kind::Unauthenticated => StatusCode::UNAUTHORIZED,
            Kind::Forbidden => StatusCode::FORBIDDEN,
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Kind::Conflict => StatusCode::CONFLICT,
            Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Kind::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Kind::NoRoom => StatusCode::INSUFFICIENT_STORAGE,
            Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn failure(&self) -> Option<Failure> {
        let public = match self.kind {
            Kind::Internal => "the server failed at this request".to_owned(),
            Kind::Unavailable | Kind::NoRoom => self.text.clone(),
            _ => return None,
        };
        Some(Failure { public, chain: chain(self) })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(ErrorBody::new(shorten(&self.text)))).into_response();
        match self.kind {
            Kind::Unauthenticated => {
                let challenge = HeaderValue::from_static("Basic realm=\"holdfast\", charset=\"UTF-8\"");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
            }
            Kind::TooManyRequests | Kind::Unavailable => {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
            }
            _ => {}
        }
        if let Some(failure) = self.failure() {
            response.extensions_mut().insert(failure);
        }
        response
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl From<app::AppError> for ApiError {
    fn from(error: app::AppError) -> Self {
        use app::ErrorKind;
        let kind = match error.kind() {
            ErrorKind::Invalid => Kind::Invalid,
            ErrorKind::Forbidden => Kind::Forbidden,
            ErrorKind::NotFound => Kind::NotFound,
            ErrorKind::Conflict => Kind::Conflict,
            ErrorKind::Unavailable => Kind::Unavailable,
            ErrorKind::NoRoom => Kind::NoRoom,
            ErrorKind::Internal => Kind::Internal,
        };
        let text = error.to_string();
        let source = std::error::Error::source(&error).is_some().then(|| Box::new(error) as Cause);
        Self { kind, text, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let text = "ü".repeat(MAX_TEXT_CHARS + 1);
        let cut = shorten(&text);
        assert_eq!(cut.chars().count(), MAX_TEXT_CHARS + 1);
        assert!(cut.ends_with('…'));
        assert_eq!(shorten("short"), "short");
    }

    #[test]
    fn only_failures_of_ours_hide_their_text() {
        assert!(ApiError::invalid("x").failure().is_none());
        let failure = ApiError::internal("secret path /var/x", None).failure().expect("a 500 is ours");
        assert!(!failure.public.contains("/var/x"));
        assert!(failure.chain.contains("/var/x"));
    }
}
