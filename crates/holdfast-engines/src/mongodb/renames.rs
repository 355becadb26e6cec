//! Collections that get another name while a base is taken: one may have been listed by neither.

use std::collections::{HashMap, HashSet};

use bson::{Bson, RawDocumentBuf, doc};
use futures::TryStreamExt as _;
use mongodb::Client;

use super::oplog;
use super::replay::Stamp;
use crate::{EngineError, Result};

/// By a collection's UUID, an entry at or behind the end of its copying.
pub(super) type Copies = HashMap<Vec<u8>, Stamp>;

/// Where the oplog has to begin so that all collections that were renamed are whole: they had been copied by then, or the oplog
/// has all of them, from their making on (`$out` makes a collection and gives it its name at the end). `start` or earlier.
///
/// # Errors
/// One was renamed that is neither: the base has to be taken again.
pub(super) async fn start_of_whole(
    client: &Client,
    mut start: Stamp,
    end: Stamp,
    copies: &Copies,
) -> Result<Stamp> {
    while let Some((uuid, renamed_at)) = missed(client, start, end, copies).await? {
        start = match made_at(client, &uuid).await? {
            Some(made) if made < start => made,
            _ => {
                let what = format!(
                    "a collection was renamed meanwhile (at {renamed_at}); the backup has to be made again"
                );
                return Err(EngineError::Unexpected { doing: "copy the oplog".to_owned(), what });
            }
        };
    }
    Ok(start)
}

/// The first collection that is not whole, and when it was renamed.
async fn missed(
    client: &Client,
    start: Stamp,
    end: Stamp,
    copies: &Copies,
) -> Result<Option<(Vec<u8>, Stamp)>> {
    let doing = "look for collections that were renamed";
    let bounds = doc! { "$gte": Bson::Timestamp(start.into()), "$lte": Bson::Timestamp(end.into()) };
    let found = oplog::collection(client).find(doc! { "ts": bounds, "op": "c" }).await;
    let mut found = found.map_err(EngineError::client(doing))?;
    let mut made = HashSet::new();
    while let Some(document) = found.try_next().await.map_err(EngineError::client(doing))? {
        let entry = oplog::entry(document)?;
        let moves = entry
            .moves()
            .map_err(|error| EngineError::Unexpected { doing: doing.to_owned(), what: error.to_string() })?;
        made.extend(moves.made);
        let whole = |uuid: &Vec<u8>| {
            made.contains(uuid) || copies.get(uuid).is_some_and(|copied| *copied < entry.stamp())
        };
        if let Some(uuid) = moves.renamed.into_iter().find(|uuid| !whole(uuid)) {
            return Ok(Some((uuid, entry.stamp())));
        }
    }
    Ok(None)
}

/// The entry that made a collection, if the oplog still has it.
async fn made_at(client: &Client, uuid: &[u8]) -> Result<Option<Stamp>> {
    let uuid = bson::Binary { subtype: bson::spec::BinarySubtype::Uuid, bytes: uuid.to_vec() };
    let filter = doc! { "op": "c", "ui": uuid, "o.create": { "$exists": true } };
    let found: Option<RawDocumentBuf> = oplog::collection(client)
        .find_one(filter)
        .sort(doc! { "$natural": -1 })
        .await
        .map_err(EngineError::client("look for a collection's making"))?;
    found.map(|document| oplog::entry(document).map(|entry| entry.stamp())).transpose()
}
