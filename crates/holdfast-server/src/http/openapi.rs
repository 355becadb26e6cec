//! The description of the API, made from the handlers and types; served at `/openapi.json`.

use std::collections::BTreeMap;

use holdfast_api::error::ErrorBody;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, Modify, OpenApi};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Holdfast",
        description = "Backups and restores of database services. Every answer that is no success has the shape of ErrorBody. \
                       Paths answer with and without a slash at their end; unknown request fields are ignored."
    ),
    components(schemas(ErrorBody)),
    modifiers(&Basic),
    security(("basic" = [])),
)]
pub(crate) struct Description;

/// The description as it is served.
#[derive(Clone)]
pub(crate) struct DescriptionText(pub std::sync::Arc<str>);

struct Basic;

impl Modify for Basic {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("basic", SecurityScheme::Http(Http::new(HttpAuthScheme::Basic)));
    }
}

/// What any route behind the log-in may answer.
pub(crate) struct Guarded;

impl IntoResponses for Guarded {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        errors(&[
            ("401", "no or wrong credentials"),
            ("403", "X-Active-Org-ID names no organization of the caller"),
            ("429", "too many log-ins at once"),
            ("500", "the server failed; the text holds the request id"),
            ("503", "not available now; trying again can help"),
            ("507", "the disk of the data folder is full; the text says what to do"),
        ])
    }
}

/// What any route that takes a body may answer beside [`Guarded`].
pub(crate) struct WithBody;

impl IntoResponses for WithBody {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        errors(&[("400", "invalid input; the text names the field"), ("413", "the body is too large")])
    }
}

/// 404 below an id.
pub(crate) struct Missing;

impl IntoResponses for Missing {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        errors(&[("404", "unknown id")])
    }
}

/// 409: the state of things forbids it now.
pub(crate) struct Conflicting;

impl IntoResponses for Conflicting {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        errors(&[("409", "the state of things forbids it now")])
    }
}

fn errors(all: &[(&str, &str)]) -> BTreeMap<String, RefOr<Response>> {
    let one = |(status, text): &(&str, &str)| {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("ErrorBody"))).build();
        let mut response = ResponseBuilder::new().description(*text).content("application/json", content);
        if *status == "401" {
            let header = utoipa::openapi::header::HeaderBuilder::new()
                .schema(utoipa::schema!(String))
                .description(Some("Basic"))
                .build();
            response = response.header("WWW-Authenticate", header);
        }
        ((*status).to_owned(), RefOr::T(response.build()))
    };
    all.iter().map(one).collect()
}
