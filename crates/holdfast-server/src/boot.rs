//! The first start and every other: data folder, catalog, vault, object store, admin password; then the loops.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast_api::agent::Secret;
use holdfast_catalog::{Catalog, CatalogError, Organization};
use holdfast_core::job::Place;
use holdfast_core::{OrganizationId, Timestamp};
use holdfast_seal::RecoveryPrivate;
use holdfast_store::store::check::{Depth, Verdict};
use holdfast_store::{Limits, Store, StoreError, StoreSettings};
use nix::fcntl::{Flock, FlockArg};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::http::auth;
use crate::settings::Settings;
use crate::vault::{Vault, VaultError, new_password, write_secret};
use crate::{ControlPlane, jobs, live};

/// How long a start waits for the store's answers.
const STORE_PATIENCE: Duration = Duration::from_secs(10);
/// How often a store that did not answer at the start is asked again.
const STORE_PAUSE: Duration = Duration::from_secs(60);
const ADMIN_HASH: &str = "admin_password_argon2";

/// Why the control plane could not start.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error("cannot use {path}")]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "the catalog is there but its keys are not: bring {0} back (from the same copy as the catalog); new keys would \
         open nothing that was stored with the old ones"
    )]
    NoKeys(PathBuf),
    #[error(
        "the data folder {0} is being rebuilt from a bucket, or that was cut off: repeat `holdfast rebuild` to its end"
    )]
    HalfRebuilt(PathBuf),
    #[error("another holdfast runs on the data folder {0}")]
    Locked(PathBuf),
    #[error("cannot open the catalog")]
    Catalog(#[from] CatalogError),
    #[error("cannot open the keys")]
    Vault(#[from] VaultError),
    #[error("cannot open the object store {url}")]
    Store {
        url: String,
        #[source]
        source: Box<StoreError>,
    },
    #[error("the object store {url} cannot be used: {why}; `holdfast check store` says it all")]
    UnfitStore { url: String, why: String },
    #[error("cannot hash the admin password: {0}")]
    Password(String),
    #[error("cannot serve HTTP")]
    Http(#[source] std::io::Error),
}

/// A control plane that is ready to serve.
pub struct Booted {
    pub control_plane: ControlPlane,
    /// What agents show; in `agent.token` of the data folder.
    pub agent_token: Secret,
    /// The password made at the first start, to be shown once; `None` when it was given or made earlier.
    pub new_admin_password: Option<String>,
    /// Its hash, stored once the password has been shown.
    new_admin_hash: Option<String>,
    /// Whether the store has shown that it does what it must; it may have been away.
    store_is_known: bool,
    /// The recovery kit, if this was the first start.
    pub new_recovery_kit: Option<PathBuf>,
    _lock: Flock<fs::File>,
}

/// Opens or makes everything below the data folder. Every part is made whole or not at all, so a start that is cut off
/// is simply repeated.
///
/// # Errors
/// [`BootError`]; nothing serves then.
pub async fn boot(settings: Settings, admin_password: Option<String>) -> Result<Booted, BootError> {
    let data = settings.data_dir.clone();
    make_private_folder(&data)?;
    let lock = lock(&data)?;
    if data.join(crate::rebuild::REBUILDING).exists() {
        return Err(BootError::HalfRebuilt(data));
    }
    let brief = StoreSettings { limits: Limits::brief(), ..StoreSettings::default() };
    let store = open_store(&settings.store_url, brief)?;
    let store_is_known = store_fits(&settings.store_url).await?;
    let catalog = Catalog::open(&data.join("catalog.db")).await?;
    if catalog.setting(ADMIN_HASH).await?.is_some() && !Vault::has_keys(&data.join("keys")) {
        return Err(BootError::NoKeys(data.join("keys")));
    }
    let kit_path = data.join("recovery-kit.txt");
    let mut new_recovery_kit = None;
    let vault = Vault::open(&data.join("keys"), |private| {
        new_recovery_kit = Some(kit_path.clone());
        write_secret(&kit_path, kit_text(private, &settings.store_url).as_bytes())
    })?;
    know_keks(&catalog, &vault).await?;
    ensure_personal_organization(&catalog).await?;
    let (new_admin_password, new_admin_hash) = ensure_admin(&catalog, admin_password).await?;
    let agent_token = read_or_make_token(&data.join("agent.token"))?;
    let control_plane = ControlPlane {
        catalog,
        vault: Arc::new(vault),
        store,
        live: Arc::new(live::Live::default()),
        settings: Arc::new(settings),
    };
    Ok(Booted {
        control_plane,
        agent_token,
        new_admin_password,
        new_admin_hash,
        store_is_known,
        new_recovery_kit,
        _lock: lock,
    })
}

/// Serves until told to stop.
///
/// # Errors
/// When the listener fails.
pub async fn serve(booted: Booted, listener: TcpListener, stop: CancellationToken) -> Result<(), BootError> {
    let cp = booted.control_plane.clone();
    // The data folder is locked: whoever worked here before is dead.
    cp.catalog.lapse_leases(Place::ControlPlane, Timestamp::now()).await?;
    let room = tokio::spawn(crate::app::room::watch(cp.clone(), stop.clone()));
    let agents = jobs::agents::router(cp.clone(), booted.agent_token.clone());
    let router = crate::http::router(cp.clone()).merge(agents);
    let runner = tokio::spawn(jobs::runner::run(cp.clone(), stop.clone()));
    let scheduler = tokio::spawn(jobs::scheduler::run(cp.clone(), stop.clone()));
    let describer = tokio::spawn(jobs::describe::run(cp.clone(), stop.clone()));
    warn_of_plain_http(&listener);
    let with_peers = router.into_make_service_with_connect_info::<SocketAddr>();
    let serving = axum::serve(listener, with_peers).with_graceful_shutdown({
        let stop = stop.clone();
        async move { stop.cancelled().await }
    });
    // Long polls end by themselves; do not wait for them.
    let served = tokio::select! {
        served = serving => served.map_err(BootError::Http),
        unfit = store_turns_out_unfit(&cp.settings.store_url, booted.store_is_known) => Err(unfit),
        () = async { stop.cancelled().await; tokio::time::sleep(std::time::Duration::from_secs(3)).await } => Ok(()),
    };
    stop.cancel();
    let _ = tokio::join!(runner, scheduler, describer, room); // all end at the token
    cp.catalog.close().await;
    served
}

fn warn_of_plain_http(listener: &TcpListener) {
    if let Ok(address) = listener.local_addr()
        && !address.ip().to_canonical().is_loopback()
    {
        tracing::warn!(
            %address,
            "the API is plain HTTP and open to the network: passwords travel readable; listen on loopback behind a TLS proxy"
        );
    }
}

fn open_store(url: &str, settings: StoreSettings) -> Result<Store, BootError> {
    Store::open_with(url, &settings)
        .map_err(|source| BootError::Store { url: url.to_owned(), source: Box::new(source) })
}

/// Tries the store. `Ok(false)` when it does not answer: databases must come up nevertheless, so it is asked again later.
async fn store_fits(url: &str) -> Result<bool, BootError> {
    let store = open_store(url, StoreSettings { limits: Limits::impatient(), ..StoreSettings::default() })?;
    let Ok(report) = tokio::time::timeout(STORE_PATIENCE, store.check(Depth::Essential)).await else {
        tracing::warn!(url, "the object store does not answer; nothing is backed up until it does");
        return Ok(false);
    };
    match report.verdict() {
        Verdict::Good => Ok(true),
        Verdict::Unfit => Err(BootError::UnfitStore { url: url.to_owned(), why: report.failures() }),
        Verdict::Unknown => {
            let why = report.failures();
            tracing::warn!(
                url,
                why,
                "the object store does not answer as it should; nothing is backed up until it does"
            );
            Ok(false)
        }
    }
}

/// Ends with what is wrong about the store, should that show after the start.
async fn store_turns_out_unfit(url: &str, mut known: bool) -> BootError {
    while !known {
        tokio::time::sleep(STORE_PAUSE).await;
        match store_fits(url).await {
            Ok(fits) => known = fits,
            Err(error) => return error,
        }
    }
    std::future::pending().await
}

/// The catalog knows every KEK that the vault has. One that it needs and the vault lacks is said, and no reason not to
/// start: databases, archiving and what other KEKs wrap go on.
async fn know_keks(catalog: &Catalog, vault: &Vault) -> Result<(), BootError> {
    let here = vault.kek_versions();
    for version in &here {
        catalog.note_kek(*version, Timestamp::now()).await?;
    }
    for (version, used) in catalog.kek_uses().await? {
        if !here.contains(&version) {
            tracing::error!(
                keys = used.keys,
                passwords = used.passwords,
                "keys/kek-{version} is needed and not there: bring the file back from a copy of the data folder"
            );
        }
    }
    Ok(())
}

fn file(path: &Path) -> impl FnOnce(std::io::Error) -> BootError + use<> {
    let path = path.to_owned();
    move |source| BootError::File { path, source }
}

fn make_private_folder(path: &Path) -> Result<(), BootError> {
    fs::create_dir_all(path).map_err(file(path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(file(path))
}

fn lock(data: &Path) -> Result<Flock<fs::File>, BootError> {
    let path = data.join("lock");
    let handle =
        fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(file(&path))?;
    Flock::lock(handle, FlockArg::LockExclusiveNonblock).map_err(|_| BootError::Locked(data.to_owned()))
}

async fn ensure_personal_organization(catalog: &Catalog) -> Result<(), BootError> {
    if catalog.organization("personal").await?.is_none() {
        let organization = Organization {
            id: OrganizationId::random(),
            name: "Personal".to_owned(),
            slug: "personal".to_owned(),
            is_personal: true,
            created_at: Timestamp::now(),
        };
        catalog.insert_organization(&organization).await?;
    }
    Ok(())
}

async fn ensure_admin(
    catalog: &Catalog,
    given: Option<String>,
) -> Result<(Option<String>, Option<String>), BootError> {
    if catalog.setting(ADMIN_HASH).await?.is_some() {
        return Ok((None, None));
    }
    let is_given = given.is_some();
    let password = given.unwrap_or_else(|| new_password().to_string());
    let hash = auth::hash_password(&password).map_err(|error| BootError::Password(error.to_string()))?;
    if is_given {
        catalog.put_setting_if_absent(ADMIN_HASH, &hash).await?;
        return Ok((None, None));
    }
    Ok((Some(password), Some(hash)))
}

fn read_or_make_token(path: &Path) -> Result<Secret, BootError> {
    if !path.is_file() {
        write_secret(path, hex::encode(rand::random::<[u8; 32]>()).as_bytes())?;
    }
    let text = fs::read_to_string(path).map_err(file(path))?;
    Ok(Secret(text.trim().to_owned()))
}

fn kit_text(private: &RecoveryPrivate, store_url: &str) -> String {
    format!(
        "Holdfast recovery kit\n\
         =====================\n\n\
         Whoever has this text and the object store can read every backup, without Holdfast and without its catalog.\n\
         Store it away from both, then remove this file. It does not change when keys are rotated.\n\n\
         object store:  {store_url}\n\
         recovery key:  {}\n\n\
         With it, and nothing else of this machine (docs/cli.md, docs/format.md):\n\n\
         what is there:   holdfast open --list --store URL --recovery-kit FILE\n\
         a database:      holdfast open --store URL --recovery-kit FILE --service NAME --target FOLDER\n\
         the catalog:     holdfast rebuild --store URL --recovery-kit FILE --data FOLDER\n\
         without Holdfast: docs/open_object.py\n",
        *private.to_text()
    )
}

/// Prints to the person who started the server; once, and never into a log. A password that was made counts only once it
/// has been shown: a start that is cut off before makes another.
///
/// # Errors
/// When standard output is gone, or the catalog does not take the hash.
pub async fn tell_first_start(
    booted: &Booted,
    out: &mut (impl std::io::Write + Send),
) -> Result<(), BootError> {
    let mut tell = || -> std::io::Result<()> {
        if let Some(password) = &booted.new_admin_password {
            writeln!(out, "admin password: {password}   (user admin; shown only now, stored as a hash)")?;
        }
        if let Some(kit) = &booted.new_recovery_kit {
            writeln!(out, "recovery kit:   {}   (save it elsewhere, then remove the file)", kit.display())?;
        }
        out.flush()
    };
    tell().map_err(BootError::Http)?;
    if let Some(hash) = &booted.new_admin_hash {
        booted.control_plane.catalog.put_setting_if_absent(ADMIN_HASH, hash).await?;
    }
    Ok(())
}
