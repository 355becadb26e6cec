//! The way to the control plane: one request, one answer, errors that say what to do.

use std::time::Duration;

use holdfast_api::error::ErrorBody;
use holdfast_api::service::{Service, ServiceList};
use reqwest::{Method, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::error::ClientError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Every request answers within 30 s; the rest is for the way.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(40);
/// Names that an error lists when none is near.
const MAX_NAMES: usize = 8;

/// Where to go and as whom.
pub(crate) struct Access {
    pub url: String,
    pub user: String,
    pub password: String,
    /// Id or slug; `None`: all organizations of the user.
    pub organization: Option<String>,
}

/// The control plane's API as one user.
pub(crate) struct Api {
    http: reqwest::Client,
    base: Url,
    access: Access,
}

/// A successful answer: its text as it came.
pub(crate) struct Answer {
    pub text: String,
    asked: String,
}

impl Answer {
    /// # Errors
    /// `Strange`: the text is not a `T`.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_str(&self.text)
            .map_err(|error| ClientError::Strange { asked: self.asked.clone(), because: error.to_string() })
    }
}

/// A service that somebody named.
pub(crate) struct Named {
    pub id: Uuid,
    /// Its name; the id as text where only that is known.
    pub name: String,
}

impl Api {
    /// # Errors
    /// `Usage`: no address, or one with a password in it, which everybody on the host could read.
    pub(crate) fn new(access: Access) -> Result<Self, ClientError> {
        let base = check_url(&access.url)?;
        if let Some(org) =
            access.organization.as_ref().filter(|org| !org.bytes().all(|b| b.is_ascii_graphic()))
        {
            return Err(ClientError::Usage(format!(
                "{org:?} is neither the id nor the slug of an organization"
            )));
        }
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("holdfast/", env!("CARGO_PKG_VERSION")));
        if is_loopback(&base) {
            builder = builder.no_proxy();
        }
        let http = builder
            .build()
            .map_err(|source| ClientError::Unreachable { url: shown(&base), source: source.without_url() })?;
        Ok(Self { http, base, access })
    }

    /// Whether the password would cross a network in the clear.
    pub(crate) fn is_exposed(&self) -> bool {
        self.base.scheme() == "http" && !is_loopback(&self.base)
    }

    pub(crate) async fn get(&self, path: &[&str]) -> Result<Answer, ClientError> {
        self.send(Method::GET, path, None::<&()>).await
    }

    pub(crate) async fn post<B: Serialize>(&self, path: &[&str], body: &B) -> Result<Answer, ClientError> {
        self.send(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn patch<B: Serialize>(&self, path: &[&str], body: &B) -> Result<Answer, ClientError> {
        self.send(Method::PATCH, path, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &[&str]) -> Result<Answer, ClientError> {
        self.send(Method::DELETE, path, None::<&()>).await
    }

    async fn send<B: Serialize>(
        &self,
        method: Method,
        path: &[&str],
        body: Option<&B>,
    ) -> Result<Answer, ClientError> {
        let (status, text, asked) = self.exchange(method, path, body).await?;
        if status.is_success() {
            return Ok(Answer { text, asked });
        }
        Err(self.refusal(status, &text, asked))
    }

    /// One request and what came back, whatever it says: status, text, and what was asked.
    pub(super) async fn exchange<B: Serialize>(
        &self,
        method: Method,
        path: &[&str],
        body: Option<&B>,
    ) -> Result<(StatusCode, String, String), ClientError> {
        let mut url = self.base.clone();
        url.path_segments_mut().expect("http URLs have a path").pop_if_empty().extend(path);
        let asked = format!("{method} {}", url.path());
        let mut request = self.http.request(method, url);
        request = request.basic_auth(&self.access.user, Some(&self.access.password));
        if let Some(organization) = &self.access.organization {
            request = request.header("X-Active-Org-ID", organization);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let unreachable = |source: reqwest::Error| ClientError::Unreachable {
            url: shown(&self.base),
            source: source.without_url(),
        };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let text = response.text().await.map_err(unreachable)?;
        Ok((status, text, asked))
    }

    pub(super) fn refusal(&self, status: StatusCode, text: &str, asked: String) -> ClientError {
        let Ok(body) = serde_json::from_str::<ErrorBody>(text) else {
            return match status {
                StatusCode::UNAUTHORIZED => self.not_let_in("the control plane wants other credentials"),
                _ => ClientError::Strange { asked, because: format!("HTTP {status} without an error text") },
            };
        };
        match status {
            StatusCode::UNAUTHORIZED => self.not_let_in(&body.error),
            _ => ClientError::Refused { status: status.as_u16(), text: body.error, hint: None },
        }
    }

    fn not_let_in(&self, text: &str) -> ClientError {
        let text = format!("{} does not let user {} in: {text}", shown(&self.base), self.access.user);
        ClientError::Unauthorised { text }
    }

    /// All living services that the user sees.
    pub(crate) async fn services(&self) -> Result<Vec<Service>, ClientError> {
        Ok(self.get(&["managed-services"]).await?.read::<ServiceList>()?.services)
    }

    /// The service of that name. An id is taken as it is: a deleted service's backups are still reachable by it.
    ///
    /// # Errors
    /// `NotFound`, with the names that come near; a name that two organizations use.
    pub(crate) async fn resolve(&self, name_or_id: &str) -> Result<Named, ClientError> {
        if let Ok(id) = name_or_id.parse::<Uuid>() {
            return Ok(Named { id, name: name_or_id.to_owned() });
        }
        let services = self.services().await?;
        let named: Vec<&Service> = services.iter().filter(|service| service.name == name_or_id).collect();
        match named[..] {
            [service] => Ok(Named { id: service.id, name: service.name.clone() }),
            [] => Err(unknown_name(name_or_id, services.iter().map(|service| service.name.as_str()))),
            _ => {
                let ids: Vec<String> = (named.iter())
                    .map(|service| format!("{} (organization {})", service.id, service.organization_id))
                    .collect();
                let text = format!("{} services are named {name_or_id}: {}", named.len(), ids.join(", "));
                let hint = Some("name one by its id, or choose the organization with --org".to_owned());
                Err(ClientError::NotFound { text, hint })
            }
        }
    }
}

fn check_url(text: &str) -> Result<Url, ClientError> {
    let usage = |why: &str| ClientError::Usage(format!("the control plane's address {why}"));
    let url = Url::parse(text)
        .map_err(|error| usage(&format!("is no URL ({error}); it looks like http://127.0.0.1:8080")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(usage("must begin with http:// or https://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(usage(
            "must hold no credentials, others could read them; use --user and HOLDFAST_PASSWORD or --password-file",
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(usage("must have no ? and no #"));
    }
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn shown(base: &Url) -> String {
    base.as_str().trim_end_matches('/').to_owned()
}

/// Says what there is instead: the names that come near, else all, else how to make one.
fn unknown_name<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> ClientError {
    let known: Vec<&str> = known.collect();
    let near: Vec<&str> = known.iter().copied().filter(|other| is_near(name, other)).collect();
    let list = |names: &[&str]| {
        let more = names.len().saturating_sub(MAX_NAMES);
        let shown = names[..names.len() - more].join(", ");
        if more == 0 { shown } else { format!("{shown} and {more} more") }
    };
    let hint = match (&near[..], &known[..]) {
        ([], []) => "there are no services; make one with `holdfast services create`".to_owned(),
        ([], all) => format!("there are: {}", list(all)),
        (near, _) => format!("did you mean {}?", list(near)),
    };
    ClientError::NotFound { text: format!("no service is named {name}"), hint: Some(hint) }
}

fn is_near(name: &str, other: &str) -> bool {
    let (name, other) = (name.to_lowercase(), other.to_lowercase());
    let contained = name.len() >= 2 && (other.contains(&name) || name.contains(&other));
    contained || strsim::damerau_levenshtein(&name, &other) <= (name.len() / 4).clamp(1, 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_checked_before_a_password_goes_there() {
        for (url, fine) in [
            ("http://127.0.0.1:8080", true),
            ("https://backups.example.org/holdfast/", true),
            ("127.0.0.1:8080", false),
            ("localhost:8080", false),
            ("ftp://host", false),
            ("http://admin:pw@host", false),
            ("http://admin@host", false),
            ("http://host?x=1", false),
            ("", false),
        ] {
            assert_eq!(check_url(url).is_ok(), fine, "{url}");
        }
    }

    #[test]
    fn only_this_host_is_loopback() {
        for (url, loopback) in [
            ("http://127.0.0.1:1", true),
            ("http://[::1]:1", true),
            ("http://localhost", true),
            ("http://10.0.0.1", false),
            ("http://localhost.example.org", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).expect("a URL of this test")), loopback, "{url}");
        }
    }

    #[test]
    fn a_wrong_name_is_answered_with_the_near_ones() {
        let known = ["shop", "shop-restored", "billing", "inventory"];
        for (name, expected) in [
            ("shpo", "did you mean shop?"),
            ("Shop", "did you mean shop, shop-restored?"),
            ("biling", "did you mean billing?"),
            ("zzz", "there are: shop, shop-restored, billing, inventory"),
        ] {
            let error = unknown_name(name, known.into_iter());
            assert_eq!(error.hint().as_deref(), Some(expected), "{name}");
            assert_eq!(error.exit_code(), 1);
        }
        let error = unknown_name("shop", std::iter::empty());
        assert!(error.hint().is_some_and(|hint| hint.contains("services create")));
    }
}
