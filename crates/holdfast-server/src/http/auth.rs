//! Who calls: HTTP Basic, user `admin`, checked against an Argon2id hash in the catalog.
//!
//! Argon2 is slow on purpose, and clients poll. So a header that was found right is remembered under a hash keyed with a
//! random key of this process, together with the stored hash that it was checked against: a changed password (by whichever
//! control plane) makes every remembered header worthless at once. Wrong ones pay Argon2's price, few at a time.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use argon2::Argon2;
use argon2::password_hash::{PasswordHash, PasswordHasher as _, PasswordVerifier as _, SaltString};
use aws_lc_rs::hmac;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_catalog::Catalog;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::error::{ApiError, Kind};
use crate::ControlPlane;
use crate::app::{Caller, organizations};

/// The setting of the catalog that holds the administrator's password, hashed (PHC string).
pub const PASSWORD_SETTING: &str = "admin_password_argon2";
/// The only user.
pub const ADMIN: &str = "admin";

/// Remembered headers; when there are more, all are forgotten and pay once again.
const MAX_REMEMBERED: usize = 256;
/// Verifications at a time: each takes 19 MiB and a processor.
const MAX_VERIFICATIONS: usize = 2;
const MAX_QUEUE_TIME: Duration = Duration::from_secs(10);
/// Longest header that is looked at; Argon2 and base64 never see more.
const MAX_HEADER_BYTES: usize = 4096;

/// The password as it may be stored: Argon2id, the parameters that OWASP's password storage sheet names first.
///
/// # Errors
/// The system has no randomness, or the password is longer than Argon2 takes (4 GiB).
pub fn hash_password(password: &str) -> Result<String, HashError> {
    let mut salt = [0; 16];
    aws_lc_rs::rand::fill(&mut salt).map_err(|_| HashError("the system gives no random bytes".to_owned()))?;
    let salt = SaltString::encode_b64(&salt).map_err(|e| HashError(e.to_string()))?;
    let hash =
        Argon2::default().hash_password(password.as_bytes(), &salt).map_err(|e| HashError(e.to_string()))?;
    Ok(hash.to_string())
}

#[derive(Debug, thiserror::Error)]
#[error("cannot hash the password: {0}")]
pub struct HashError(String);

/// Checks credentials; one a process.
pub(crate) struct Gate {
    key: hmac::Key,
    remembered: Mutex<HashSet<[u8; 32]>>,
    permits: Semaphore,
}

struct Basic {
    user: Vec<u8>,
    password: Zeroizing<Vec<u8>>,
}

impl Gate {
    /// # Panics
    /// The system gives no random bytes: nothing here could work then.
    #[must_use]
    pub(crate) fn new() -> Self {
        let mut key = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(key.as_mut()).expect("the system gives random bytes");
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()),
            remembered: Mutex::default(),
            permits: Semaphore::new(MAX_VERIFICATIONS),
        }
    }

    /// Lets the administrator pass.
    ///
    /// # Errors
    /// `Unauthenticated` for anybody else, `TooManyRequests` while too many are being checked.
    pub(crate) async fn check(&self, catalog: &Catalog, headers: &HeaderMap) -> Result<(), ApiError> {
        let refused = |text: &str| ApiError::new(Kind::Unauthenticated, text);
        let mut given = headers.get_all(header::AUTHORIZATION).iter();
        let (value, None) = (given.next(), given.next()) else {
            return Err(refused("more than one Authorization header"));
        };
        let value = value.ok_or_else(|| refused("credentials are required: HTTP Basic"))?.as_bytes();
        let basic = parse_basic(value).ok_or_else(|| refused("the Authorization header is no HTTP Basic"))?;
        let stored = catalog.setting(PASSWORD_SETTING).await.map_err(crate::app::AppError::from)?;
        let stored = stored.ok_or_else(|| refused("no password has been set yet"))?;
        let tag = self.tag(value, &stored);
        if self.knows(&tag) {
            return Ok(());
        }
        let permit = tokio::time::timeout(MAX_QUEUE_TIME, self.permits.acquire()).await;
        let Ok(Ok(_permit)) = permit else {
            return Err(ApiError::new(
                Kind::TooManyRequests,
                "too many log-ins at once; try again in a moment",
            ));
        };
        // Somebody with the same header may have been ahead in the queue.
        if self.knows(&tag) {
            return Ok(());
        }
        let verified = tokio::task::spawn_blocking(move || verify(&stored, &basic)).await;
        match verified {
            Ok(true) => {
                self.remember(tag);
                Ok(())
            }
            Ok(false) => Err(refused("wrong user or password")),
            Err(error) => Err(ApiError::internal("the password check broke off", Some(Box::new(error)))),
        }
    }

    fn tag(&self, header: &[u8], stored: &str) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&(header.len() as u64).to_be_bytes());
        context.update(header);
        context.update(stored.as_bytes());
        context.sign().as_ref().try_into().expect("HMAC-SHA256 gives 32 bytes")
    }

    fn knows(&self, tag: &[u8; 32]) -> bool {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner).contains(tag)
    }

    fn remember(&self, tag: [u8; 32]) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= MAX_REMEMBERED {
            remembered.clear();
        }
        remembered.insert(tag);
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

fn parse_basic(header: &[u8]) -> Option<Basic> {
    if header.len() > MAX_HEADER_BYTES {
        return None;
    }
    let (scheme, rest) = header.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let decoded = Zeroizing::new(STANDARD.decode(rest.trim_ascii()).ok()?);
    let colon = decoded.iter().position(|b| *b == b':')?;
    Some(Basic { user: decoded[..colon].to_vec(), password: Zeroizing::new(decoded[colon + 1..].to_vec()) })
}

/// Takes the same time whoever asks: a wrong user pays for a verification too.
fn verify(stored: &str, basic: &Basic) -> bool {
    let Ok(hash) = PasswordHash::new(stored) else { return false };
    let right = Argon2::default().verify_password(&basic.password, &hash).is_ok();
    right && basic.user == ADMIN.as_bytes()
}

/// What the authenticating layer needs.
#[derive(Clone)]
pub(crate) struct AuthState {
    pub cp: ControlPlane,
    pub gate: Arc<Gate>,
}

/// Lets a request with good credentials pass and tells the handler who calls and for which organization.
pub(crate) async fn authenticate(
    State(state): State<AuthState>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    state.gate.check(&state.cp.catalog, request.headers()).await?;
    let active = match request.headers().get("x-active-org-id") {
        None => None,
        Some(value) if value.is_empty() => None,
        Some(value) => {
            let text = value.to_str().unwrap_or_default();
            Some(organizations::active(&state.cp, text).await?)
        }
    };
    request.extensions_mut().insert(Caller { username: ADMIN.to_owned(), active });
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn basic(user: &str, password: &str) -> HeaderMap {
        let text = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_str(&text).expect("ASCII"))])
    }

    async fn catalog() -> (tempfile::TempDir, Catalog) {
        let folder = tempfile::tempdir().expect("a temp folder");
        let catalog = Catalog::open(&folder.path().join("catalog.db")).await.expect("a new catalog");
        (folder, catalog)
    }

    #[tokio::test]
    async fn a_right_header_is_remembered_until_the_password_changes() {
        let (_folder, catalog) = catalog().await;
        let gate = Gate::new();
        let kind = |r: Result<(), ApiError>| r.err().map(|e| e.kind);
        assert_eq!(
            kind(gate.check(&catalog, &basic("admin", "one")).await),
            Some(Kind::Unauthenticated),
            "none set"
        );
        let first = hash_password("one").expect("hashes");
        catalog.put_setting(PASSWORD_SETTING, &first).await.expect("stores");
        for (user, password) in
            [("admin", "two"), ("root", "one"), ("", "one"), ("admin", ""), ("Admin", "one")]
        {
            let got = kind(gate.check(&catalog, &basic(user, password)).await);
            assert_eq!(got, Some(Kind::Unauthenticated), "{user}:{password}");
        }
        assert!(gate.remembered.lock().expect("not poisoned").is_empty(), "a wrong header was remembered");
        let headers = basic("admin", "one");
        let tag = gate.tag(headers[header::AUTHORIZATION].as_bytes(), &first);
        assert!(!gate.knows(&tag));
        assert_eq!(kind(gate.check(&catalog, &headers).await), None);
        assert!(gate.knows(&tag));
        // Remembered: passes though nobody may verify any more.
        gate.permits.close();
        assert_eq!(kind(gate.check(&catalog, &headers).await), None);
        let second = hash_password("two").expect("hashes");
        catalog.put_setting(PASSWORD_SETTING, &second).await.expect("stores");
        assert_eq!(
            kind(gate.check(&catalog, &headers).await),
            Some(Kind::TooManyRequests),
            "must verify anew"
        );
    }

    #[test]
    fn the_memory_is_bounded() {
        let gate = Gate::new();
        for n in 0..10_000_u32 {
            gate.remember(gate.tag(&n.to_be_bytes(), "x"));
            assert!(gate.remembered.lock().expect("not poisoned").len() <= MAX_REMEMBERED);
        }
    }

    #[test]
    fn a_stored_hash_is_argon2id_and_salted() {
        let (a, b) = (hash_password("x").expect("hashes"), hash_password("x").expect("hashes"));
        assert!(a.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{a}");
        assert_ne!(a, b);
    }
}
