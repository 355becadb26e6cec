//! The outermost layer: a request id on every answer, a time limit, panics caught, failures logged once.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use axum::Json;
use axum::extract::Request;
use axum::http::uri::{PathAndQuery, Uri};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt as _;
use holdfast_api::error::ErrorBody;
use uuid::Uuid;

use super::error::{ApiError, Failure, Kind};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_REQUEST_ID_CHARS: usize = 128;

/// Every request answers within 30 s (contract); one second is for the way.
const TIME_LIMIT: Duration = Duration::from_secs(29);

/// Wraps every request; see the module.
pub(crate) async fn outer(request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let work = AssertUnwindSafe(next.run(request)).catch_unwind();
    let mut response = match tokio::time::timeout(TIME_LIMIT, work).await {
        Ok(Ok(response)) => response,
        Ok(Err(panic)) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
            ApiError::internal(format!("a handler panicked: {text}"), None).into_response()
        }
        Err(_) => {
            let text = format!("the request was not done after {} s and was given up", TIME_LIMIT.as_secs());
            ApiError::new(Kind::Unavailable, text).into_response()
        }
    };
    if let Some(failure) = response.extensions_mut().remove::<Failure>() {
        tracing::error!(request_id = %id, %method, path, status = response.status().as_u16(), error = failure.chain, "request failed");
        let body = Json(ErrorBody::new(format!("{}; request id {id}", failure.public)));
        let mut told = (response.status(), body).into_response();
        for (name, value) in response.headers() {
            if name != axum::http::header::CONTENT_LENGTH {
                told.headers_mut().insert(name, value.clone());
            }
        }
        response = told;
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// The caller's own id where it is harmless in a log line, a new one otherwise.
fn request_id(headers: &HeaderMap) -> String {
    let harmless = |id: &&str| {
        (1..=MAX_REQUEST_ID_CHARS).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(harmless);
    given.map_or_else(|| Uuid::new_v4().to_string(), str::to_owned)
}

/// Lets `/x/` be answered by `/x` itself: half of the clients always write the slash, and some follow no redirect.
pub(crate) fn without_trailing_slash<B>(mut request: axum::http::Request<B>) -> axum::http::Request<B> {
    let path = request.uri().path();
    let Some(short) = path.strip_suffix('/').filter(|short| !short.is_empty()) else {
        return request;
    };
    let text = match request.uri().query() {
        Some(query) => format!("{short}?{query}"),
        None => short.to_owned(),
    };
    let mut parts = request.uri().clone().into_parts();
    if let Ok(path_and_query) = text.parse::<PathAndQuery>() {
        parts.path_and_query = Some(path_and_query);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    request
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::routing::get;
    use tower::ServiceExt as _;

    use super::*;

    async fn answer(route: axum::routing::MethodRouter) -> (u16, String) {
        let app = Router::new().route("/", route).layer(axum::middleware::from_fn(outer));
        let request = Request::builder().uri("/").header(REQUEST_ID, "me-1").body(Body::empty());
        let response = app.oneshot(request.expect("a valid request")).await.expect("a router never fails");
        assert_eq!(response.headers()[REQUEST_ID], "me-1");
        let status = response.status().as_u16();
        let bytes = axum::body::to_bytes(response.into_body(), 10_000).await.expect("a short body");
        let body: ErrorBody = serde_json::from_slice(&bytes).expect("the error shape");
        assert_eq!(body.error, body.message);
        (status, body.error)
    }

    #[tokio::test]
    async fn a_panic_is_a_500_that_tells_nothing() {
        async fn panics() {
            panic!("secret");
        }
        let expected = "the server failed at this request; request id me-1";
        assert_eq!(answer(get(panics)).await, (500, expected.to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_does_not_end_is_given_up() {
        let (status, text) = answer(get(std::future::pending::<()>)).await;
        assert_eq!(status, 503);
        assert_eq!(text, "the request was not done after 29 s and was given up; request id me-1");
    }

    #[test]
    fn one_trailing_slash_is_taken_off() {
        for (given, expected) in [
            ("/x/", "/x"),
            ("/x", "/x"),
            ("/x/?a=1", "/x?a=1"),
            ("/", "/"),
            ("//", "/"),
            ("/a/b/?", "/a/b?"),
            ("http://host/x/", "http://host/x"),
        ] {
            let request = axum::http::Request::builder().uri(given).body(()).expect("a valid request");
            assert_eq!(without_trailing_slash(request).uri().to_string(), expected, "{given}");
        }
    }

    #[test]
    fn a_request_id_that_could_forge_a_log_line_is_replaced() {
        let id = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(text.as_bytes()).expect("a header value"));
            request_id(&headers)
        };
        assert_eq!(id("abc-1.2_3"), "abc-1.2_3");
        for bad in ["", "a b", "a\tb", "ü", &"x".repeat(129)] {
            assert_ne!(id(bad), bad);
        }
    }
}
