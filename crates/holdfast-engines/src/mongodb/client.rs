//! Connections of the agent's to an instance, and the commands that several parts send.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use bson::{Bson, Document, RawDocumentBuf, doc};
use futures::TryStreamExt as _;
use holdfast_core::engine::{Network, lets_in_everybody};
use mongodb::Client;
use mongodb::error::ErrorKind;
use mongodb::options::{ClientOptions, Credential, ServerAddress, Tls, TlsOptions};
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};

use super::config::{self, Account, Secrets};
use crate::certificate::Certificate;
use crate::{EngineError, Instance, Result, UserSpec};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections that are open, by address and account: a new one costs a key derivation.
#[derive(Debug, Default)]
pub(super) struct Clients(Mutex<HashMap<(u16, &'static str, String), Client>>);

impl Clients {
    /// A connection as one of the agent's accounts.
    pub(super) fn get(&self, instance: &Instance, account: Account) -> Result<Client> {
        let secrets = Secrets::read(instance)?;
        let password = secrets.password(account).to_owned();
        let key = (instance.port, account.username(), password);
        let mut clients = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = client(instance, Some((account, &key.2)))?;
        clients.insert(key, client.clone());
        Ok(client)
    }

    /// Lets go of the connections to a server that stops.
    pub(super) fn forget(&self, instance: &Instance) {
        let mut clients = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        clients.retain(|key, _| key.0 != instance.port);
    }
}

/// A connection without a password, for a server that has no users yet.
pub(super) fn anonymous(instance: &Instance) -> Result<Client> {
    client(instance, None)
}

fn client(instance: &Instance, who: Option<(Account, &str)>) -> Result<Client> {
    let doing = || format!("connect to instance {}", instance.stanza);
    // Without users the server listens on the loopback address alone.
    let host = if who.is_none() { "127.0.0.1".to_owned() } else { config::agent_host(instance) };
    let address =
        ServerAddress::parse(format!("{host}:{}", instance.port)).map_err(EngineError::client(doing()))?;
    let mut options = ClientOptions::default();
    options.hosts = vec![address];
    options.direct_connection = Some(true);
    // Nobody but the instance itself has its certificate's key.
    let mut tls = TlsOptions::default();
    tls.ca_file_path = Some(Certificate::of(instance).certificate);
    options.tls = Some(Tls::Enabled(tls));
    options.app_name = Some("holdfast".to_owned());
    options.connect_timeout = Some(CONNECT_TIMEOUT);
    options.server_selection_timeout = Some(CONNECT_TIMEOUT);
    options.max_pool_size = Some(8);
    options.credential = who.map(|(account, password)| {
        let mut credential = Credential::default();
        credential.username = Some(account.username().to_owned());
        credential.password = Some(password.to_owned());
        credential.source = Some("admin".to_owned());
        credential
    });
    Client::with_options(options).map_err(EngineError::client(doing()))
}

/// Runs a command on `admin`.
pub(super) async fn admin(client: &Client, command: Document, doing: &str) -> Result<Document> {
    client.database("admin").run_command(command).await.map_err(EngineError::client(doing))
}

/// What a command answers, in the server's own bytes: it may name an `_id` whose text is no UTF-8.
pub(super) async fn answer(
    client: &Client,
    database: &str,
    command: RawDocumentBuf,
    doing: &str,
) -> Result<RawDocumentBuf> {
    let error = match client.database(database).run_raw_command(command).await {
        Ok(answer) => return Ok(RawDocumentBuf::try_from(&answer).expect("it came as one")),
        Err(error) => error,
    };
    match (error.kind.as_ref(), error.server_response()) {
        (ErrorKind::Bson(_), Some(answer)) if answer.get_f64("ok").is_ok_and(|ok| ok > 0.0) => {
            Ok(answer.clone())
        }
        _ => Err(EngineError::client(doing)(error)),
    }
}

/// What a command with a cursor finds, document by document, each as the server sent it.
pub(super) struct Documents {
    cursor: RawBatchCursor,
    batch: VecDeque<RawDocumentBuf>,
    doing: String,
}

/// Runs a command that answers with a cursor.
pub(super) async fn documents(
    client: &Client,
    database: &str,
    command: RawDocumentBuf,
    doing: String,
) -> Result<Documents> {
    let cursor = client.database(database).run_raw_cursor_command(command).batch().await;
    let cursor = cursor.map_err(EngineError::client(&doing))?;
    Ok(Documents { cursor, batch: VecDeque::new(), doing })
}

impl Documents {
    pub(super) async fn next(&mut self) -> Result<Option<RawDocumentBuf>> {
        while self.batch.is_empty() {
            let Some(batch) = self.cursor.try_next().await.map_err(EngineError::client(&self.doing))? else {
                return Ok(None);
            };
            self.batch = batch_of(&batch, &self.doing)?;
        }
        Ok(self.batch.pop_front())
    }

    pub(super) async fn all(mut self) -> Result<Vec<RawDocumentBuf>> {
        let mut all = Vec::new();
        while let Some(document) = self.next().await? {
            all.push(document);
        }
        Ok(all)
    }
}

/// The documents of one answer.
pub(super) fn batch_of(batch: &RawBatch, doing: &str) -> Result<VecDeque<RawDocumentBuf>> {
    let wrong = |what: String| EngineError::Unexpected { doing: doing.to_owned(), what };
    let mut all = VecDeque::new();
    for document in batch.doc_slices().map_err(EngineError::client(doing))? {
        let document = document.map_err(|error| wrong(error.to_string()))?;
        let document = document.as_document().ok_or_else(|| wrong("what is no document".to_owned()))?;
        all.push_back(document.to_owned());
    }
    Ok(all)
}

/// Whether the server's answer was an error of this code.
pub(super) fn is_code(error: &mongodb::error::Error, codes: &[i32]) -> bool {
    use mongodb::error::WriteFailure;
    match error.kind.as_ref() {
        ErrorKind::Command(error) => codes.contains(&error.code),
        ErrorKind::Write(WriteFailure::WriteError(error)) => codes.contains(&error.code),
        _ => false,
    }
}

/// No user of the name; the namespace exists; it does not.
pub(super) const USER_NOT_FOUND: i32 = 11;
pub(super) const NAMESPACE_EXISTS: i32 = 48;
pub(super) const NAMESPACE_NOT_FOUND: i32 = 26;
const USER_EXISTS: [i32; 2] = [51003, 11000];

/// Where a service's users are known: in the database that connection strings name as `authSource`, and in the one that clients look in
/// when theirs names none.
pub(super) const HOMES: [&str; 2] = ["admin", "defaultdb"];

/// Makes a user of `home`, or gives one that is there this password, these roles and these networks.
pub(super) async fn ensure_user(
    client: &Client,
    home: &str,
    username: &str,
    password: &str,
    more: &Document,
) -> Result<()> {
    let database = client.database(home);
    let mut create = doc! { "createUser": username, "pwd": password };
    create.extend(more.clone());
    match database.run_command(create).await {
        Ok(_) => Ok(()),
        Err(error) if is_code(&error, &USER_EXISTS) => {
            let mut update = doc! { "updateUser": username, "pwd": password };
            update.extend(more.clone());
            database
                .run_command(update)
                .await
                .map(drop)
                .map_err(EngineError::client(format!("change user {username}")))
        }
        Err(error) => Err(EngineError::client(format!("make user {username}"))(error)),
    }
}

/// From where a service's users may come; an empty list: from everywhere. The server looks at it whenever somebody logs in, and again when
/// it changes (MongoDB 6.0 manual, `authenticationRestrictions`).
pub(super) fn restrictions(instance: &Instance) -> Bson {
    if lets_in_everybody(&instance.allowed_cidrs) {
        return Bson::Array(Vec::new());
    }
    let networks = instance.allowed_cidrs.iter().filter_map(|cidr| cidr.parse::<Network>().ok());
    let networks: Vec<Bson> = networks.map(|network| network.to_string().into()).collect();
    Bson::Array(vec![doc! { "clientSource": networks }.into()])
}

pub(super) fn roles(names: &[&str]) -> Vec<Bson> {
    names.iter().map(|name| doc! { "role": *name, "db": "admin" }.into()).collect()
}

/// Roles of a tenant's user: its own databases with all that is in them, nothing of the server's.
pub(super) fn tenant_roles(user: &UserSpec, may_write: bool) -> Vec<Bson> {
    match (user.role.as_str(), may_write) {
        (_, false) => roles(&["readAnyDatabase"]),
        ("admin", true) => roles(&["readWriteAnyDatabase", "dbAdminAnyDatabase", "clusterMonitor"]),
        (_, true) => roles(&["readWriteAnyDatabase", "dbAdminAnyDatabase"]),
    }
}
