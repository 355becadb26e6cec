//! The ledger in MongoDB: an insert is one document; a transfer is a transaction over documents of two collections and two
//! accounts. Writes are acknowledged by a majority, journaled.

use std::time::Duration;

use ::mongodb::bson::{Binary, DateTime, Document, doc, spec::BinarySubtype};
use ::mongodb::options::{ClientOptions, Credential, ServerAddress, Tls, TlsOptions, WriteConcern};
use ::mongodb::{Client, Collection, Database};
use async_trait::async_trait;
use futures::TryStreamExt as _;
use jiff::Timestamp;
use rand::RngCore as _;

use super::{Login, Session, pad};
use crate::error::{ConformanceError, Result};
use crate::ledger::ACCOUNTS;
use crate::ledger::{Act, HISTORY, History, State, Write};

const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a document of [`Session::fill`], and how many go at once.
const NOISE_BYTES: usize = 10_000;
const NOISE_AT_ONCE: u64 = 200;
const NAMESPACE_EXISTS: i32 = 48;
/// The collections of rows, with which part of a number each has. What is inserted whole is in the first.
const PARTS: [(&str, i64); 2] = [("", 1), ("_more", 2)];
#[expect(clippy::cast_possible_wrap, reason = "a handful")]
const HISTORY_LENGTH: i64 = HISTORY as i64;

struct MongoSession {
    client: Client,
    database: Database,
    space: &'static str,
}

pub(super) async fn open(login: &Login, space: &'static str) -> Result<Box<dyn Session>> {
    let address = ServerAddress::Tcp { host: login.host.clone(), port: Some(login.port) };
    let credential = (!login.username.is_empty()).then(|| {
        let credential = Credential::builder().username(login.username.clone());
        credential.password(login.password.clone()).source("admin".to_owned()).build()
    });
    let mut options = ClientOptions::builder().hosts(vec![address]).direct_connection(true).build();
    options.credential = credential;
    // The certificate is the instance's own, as its connection string says.
    let tls = || TlsOptions::builder().allow_invalid_certificates(true).build();
    options.tls = Some(if login.tls { Tls::Enabled(tls()) } else { Tls::Disabled });
    // Not in silence: whoever writes is to hear that nobody knows.
    options.retry_writes = Some(false);
    options.server_selection_timeout = Some(PATIENCE);
    options.connect_timeout = Some(PATIENCE);
    options.write_concern =
        Some(WriteConcern::builder().w(::mongodb::options::Acknowledgment::Majority).journal(true).build());
    let failed = |source| ConformanceError::database(&format!("connect to mongodb {login:?}"), Error(source));
    let client = Client::with_options(options).map_err(failed)?;
    let database = client.database(&login.database);
    database.run_command(doc! { "ping": 1 }).await.map_err(failed)?;
    Ok(Box::new(MongoSession { client, database, space }))
}

/// The driver's errors are large; they travel in a box.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Error(::mongodb::error::Error);

fn failed(doing: &str) -> impl Fn(::mongodb::error::Error) -> ConformanceError + '_ {
    move |source| ConformanceError::database(doing, Error(source))
}

impl MongoSession {
    fn collection(&self, name: &str) -> Collection<Document> {
        self.database.collection(&format!("{}{name}", self.space))
    }

    async fn transfer(&self, number: i64, sides: [(i32, i64); 2]) -> Result<()> {
        let failed = failed("write in a transaction");
        let mut session = self.client.start_session().await.map_err(&failed)?;
        session.start_transaction().await.map_err(&failed)?;
        let done = async {
            for (collection, part) in PARTS {
                let document = doc! { "_id": number, "parts": 1_i64, "pad": pad(number, part) };
                self.collection(collection).insert_one(document).session(&mut session).await?;
            }
            for (account, amount) in sides {
                let change = doc! { "$inc": { "balance": amount } };
                let one = doc! { "_id": account };
                self.collection("_accounts").update_one(one, change).session(&mut session).await?;
            }
            Ok(())
        };
        match done.await {
            Ok(()) => session.commit_transaction().await.map_err(failed),
            Err(error) => {
                let _ = session.abort_transaction().await; // it ends by itself, too
                Err(failed(error))
            }
        }
    }

    async fn documents(&self, name: &str) -> Result<Vec<Document>> {
        let found = self.collection(name).find(doc! {}).await;
        let failed = failed("read the ledger");
        found.map_err(&failed)?.try_collect().await.map_err(failed)
    }
}

/// A number, whatever width it was stored in.
fn number(document: &Document, field: &str) -> i64 {
    document.get_i64(field).or_else(|_| document.get_i32(field).map(i64::from)).unwrap_or(-1)
}

#[async_trait]
impl Session for MongoSession {
    async fn prepare(&mut self) -> Result<()> {
        for name in ["", "_more", "_accounts", "_registers"] {
            let made = self.database.create_collection(format!("{}{name}", self.space)).await;
            match made {
                Err(error) if code(&error) != Some(NAMESPACE_EXISTS) => {
                    return Err(failed("make the ledger's collections")(error));
                }
                _ => {}
            }
        }
        for account in 0..ACCOUNTS {
            let change = doc! { "$inc": { "balance": 0_i64 } };
            let one = doc! { "_id": account };
            let made = self.collection("_accounts").update_one(one, change).upsert(true).await;
            made.map_err(failed("make the ledger's accounts"))?;
        }
        Ok(())
    }

    async fn apply(&mut self, write: &Write) -> Result<()> {
        let Write { number, writer, act } = *write;
        let rows = self.collection("");
        match act {
            Act::Insert => {
                let document = doc! { "_id": number, "parts": 2_i64, "pad": pad(number, 1) };
                rows.insert_one(document).await.map(drop)
            }
            Act::Transfer { from, to, amount } => {
                return self.transfer(number, [(from, -amount), (to, amount)]).await;
            }
            Act::Update => {
                // Changes of several kinds in one entry of the oplog.
                let change = doc! {
                    "$max": { "value": number }, "$inc": { "times": 1 },
                    "$push": { "last": { "$each": [number], "$slice": -HISTORY_LENGTH } },
                };
                let one = doc! { "_id": writer };
                self.collection("_registers").update_one(one, change).upsert(true).await.map(drop)
            }
            Act::Delete { number } => rows.delete_one(doc! { "_id": number }).await.map(drop),
        }
        .map_err(failed("write"))
    }

    async fn read(&mut self) -> Result<State> {
        let mut state = State::default();
        for (name, part) in PARTS {
            for document in self.documents(name).await? {
                let id = number(&document, "_id");
                if document.get_str("pad").ok() != Some(&pad(id, part)) {
                    state.changed.insert(id);
                }
                *state.rows.entry(id).or_default() += number(&document, "parts");
            }
        }
        let key = |document: &Document| i32::try_from(number(document, "_id")).unwrap_or(-1);
        for document in self.documents("_registers").await? {
            state.registers.insert(key(&document), number(&document, "value"));
            let last = document.get_array("last").map(Vec::as_slice).unwrap_or_default();
            let last = last.iter().map(|one| one.as_i64().unwrap_or(-1)).collect();
            state.histories.insert(key(&document), History { times: number(&document, "times"), last });
        }
        for document in self.documents("_accounts").await? {
            state.balances.insert(key(&document), number(&document, "balance"));
        }
        Ok(state)
    }

    async fn clock(&mut self) -> Result<Timestamp> {
        let doing = "read the engine's clock";
        let hello = self.database.run_command(doc! { "hello": 1 }).await.map_err(failed(doing))?;
        let now = hello.get_datetime("localTime").copied().unwrap_or(DateTime::MIN);
        Timestamp::from_millisecond(now.timestamp_millis())
            .map_err(|source| ConformanceError::database(doing, source))
    }

    async fn fill(&mut self, bytes: u64) -> Result<()> {
        let noise = self.collection("_noise");
        let documents = bytes / NOISE_BYTES as u64;
        for from in (0..documents).step_by(usize::try_from(NOISE_AT_ONCE).unwrap_or(1)) {
            let some = (from..documents.min(from + NOISE_AT_ONCE)).map(|_| {
                let mut bytes = vec![0; NOISE_BYTES];
                rand::rng().fill_bytes(&mut bytes);
                doc! { "noise": Binary { subtype: BinarySubtype::Generic, bytes } }
            });
            noise.insert_many(some).await.map_err(failed("fill a collection"))?;
        }
        Ok(())
    }

    async fn change_schema(&mut self, round: u32) -> Result<()> {
        let failed = failed("change collections and indexes");
        let made = self.collection(&format!("_made_{round}"));
        made.insert_one(doc! { "round": i64::from(round) }).await.map_err(&failed)?;
        let index = ::mongodb::IndexModel::builder().keys(doc! { format!("more_{round}"): 1 }).build();
        self.collection("").create_index(index).await.map_err(&failed)?;
        let before = self.collection(&format!("_made_{}", round.wrapping_sub(1)));
        before.drop().await.map_err(&failed)
    }
}

fn code(error: &::mongodb::error::Error) -> Option<i32> {
    match error.kind.as_ref() {
        ::mongodb::error::ErrorKind::Command(command) => Some(command.code),
        _ => None,
    }
}
