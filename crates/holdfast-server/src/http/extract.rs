//! What handlers take from a request: bodies, ids and queries, each refused in the error shape.

use std::str::FromStr;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use holdfast_core::id::{BackupId, JobId, ServiceId};
use serde::de::DeserializeOwned;

use super::error::{ApiError, Kind};

/// A JSON object as the body, whatever the content type says. An absent or empty body equals `{}`.
pub(crate) struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes =
            Bytes::from_request(request, state).await.map_err(|rejection| match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => ApiError::new(Kind::TooLarge, "the body is too large"),
                _ => ApiError::invalid("the body could not be read to its end"),
            })?;
        parse(&bytes).map(Self)
    }
}

fn parse<T: DeserializeOwned + Default>(bytes: &[u8]) -> Result<T, ApiError> {
    let text = std::str::from_utf8(bytes).map_err(|_| ApiError::invalid("the body is not UTF-8"))?;
    let text = text.trim_matches([' ', '\t', '\r', '\n']);
    if text.is_empty() || text == "null" {
        return Ok(T::default());
    }
    let broken = |error: serde_json::Error| ApiError::invalid(format!("the body is no valid JSON: {error}"));
    if !text.starts_with('{') {
        // Structs would also be read from arrays, by position.
        serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(broken)?;
        return Err(ApiError::invalid("the body must be a JSON object"));
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        match inner.classify() {
            serde_json::error::Category::Data if path == "." => ApiError::invalid(inner.to_string()),
            serde_json::error::Category::Data => ApiError::invalid(format!("{path}: {inner}")),
            _ => broken(inner),
        }
    })?;
    json.end().map_err(broken)?;
    Ok(value)
}

/// An identifier in a path: how errors call what it names.
pub(crate) trait Named {
    const WHAT: &str;
}

impl Named for ServiceId {
    const WHAT: &str = "service";
}
impl Named for BackupId {
    const WHAT: &str = "backup";
}
impl Named for JobId {
    const WHAT: &str = "job";
}

/// What is no id names nothing: 404, as for an unknown one.
fn named<T: Named + FromStr>(text: &str) -> Result<T, ApiError> {
    text.parse().map_err(|_| no_such(T::WHAT))
}

fn no_such(what: &str) -> ApiError {
    ApiError::new(Kind::NotFound, format!("no such {what}"))
}

/// The only id in the path.
pub(crate) struct PathId<T>(pub T);

impl<S: Send + Sync, T: Named + FromStr + Send> FromRequestParts<S> for PathId<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        // Percent-encoded bytes that are no UTF-8 end here too.
        let Path(text) =
            Path::<String>::from_request_parts(parts, state).await.map_err(|_| no_such(T::WHAT))?;
        named(&text).map(Self)
    }
}

/// A service's id and the id of something below it.
pub(crate) struct PathIds<T>(pub ServiceId, pub T);

impl<S: Send + Sync, T: Named + FromStr + Send> FromRequestParts<S> for PathIds<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path((service, below)) =
            Path::<(String, String)>::from_request_parts(parts, state).await.map_err(|_| no_such(T::WHAT))?;
        Ok(Self(named(&service)?, named(&below)?))
    }
}

/// A database user's name, as it stands in the path.
pub(crate) struct UserName(pub String);

impl Named for UserName {
    const WHAT: &str = "database user";
}

impl FromStr for UserName {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

/// The query; unknown parameters are ignored.
pub(crate) struct QueryOf<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for QueryOf<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(value) = Query::from_request_parts(parts, state).await.map_err(|rejection| {
            ApiError::invalid(format!("the query cannot be read: {}", rejection.body_text()))
        })?;
        Ok(Self(value))
    }
}

#[cfg(test)]
mod tests {
    use holdfast_api::service::CreateService;

    use super::*;

    fn text_of(body: &[u8]) -> String {
        parse::<CreateService>(body).expect_err("must be refused").text
    }

    #[test]
    fn nothing_at_all_is_an_empty_object() {
        for body in [&b""[..], b" \r\n\t", b"{}", b" {} "] {
            assert_eq!(parse::<CreateService>(body).expect("accepted"), CreateService::default());
        }
    }

    #[test]
    fn refusals_name_the_field() {
        for (body, part) in [
            (r#"{"storage_size_gb":"x"}"#, "storage_size_gb: invalid type: string"),
            (r#"{"allowed_cidrs":["a",1]}"#, "allowed_cidrs[1]: invalid type: integer `1`"),
            (r#"{"labels":{"a":[]}}"#, "labels.a: invalid type: sequence"),
            (r#"{"name":"a","name":"b"}"#, "duplicate field `name`"),
            (r"[]", "must be a JSON object"),
            (r"{", "no valid JSON: EOF"),
            (r"{} {}", "no valid JSON: trailing characters"),
        ] {
            let text = text_of(body.as_bytes());
            assert!(text.contains(part), "{body}: {text}");
        }
        assert_eq!(text_of(b"{\"x\":\"\xff\"}"), "the body is not UTF-8");
    }
}
