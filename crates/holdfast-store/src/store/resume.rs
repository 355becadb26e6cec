//! Reading an object of a bucket to its end, however often the connection breaks on the way.
//!
//! `object_store` goes on by itself where a stream breaks, but counts its budget from the stream's beginning: of a backup
//! that is read for hours it would heal no break after the first minutes.

use std::ops::Range;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use object_store::{GetOptions, GetRange, GetResult, GetResultPayload};

use super::Store;
use crate::error::{ErrorKind, Result, StoreError};
use crate::layout::ObjectName;

type Pieces = BoxStream<'static, object_store::Result<Bytes>>;

struct Read {
    store: Store,
    name: ObjectName,
    /// What is still to come.
    range: Range<u64>,
    /// Of the object as it was when its first byte was read.
    etag: Option<String>,
    pieces: Pieces,
    /// Bytes came since the last break.
    advanced: bool,
}

/// The stream's bytes, asked for again from where they broke off. Whenever bytes came, the next break has the whole of
/// [`super::Limits::retry_for`] again; a break before any byte ends it.
pub(super) fn resuming(
    store: Store,
    name: ObjectName,
    result: GetResult,
) -> BoxStream<'static, Result<Bytes>> {
    let (range, etag) = (result.range.clone(), result.meta.e_tag.clone());
    let pieces = pieces(result);
    let read = Some(Read { store, name, range, etag, pieces, advanced: false });
    futures::stream::unfold(read, |read| async move {
        let mut read = read?;
        match read.next().await? {
            Ok(piece) => Some((Ok(piece), Some(read))),
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed()
}

impl Read {
    async fn next(&mut self) -> Option<Result<Bytes>> {
        loop {
            match self.pieces.next().await? {
                Ok(piece) => {
                    self.range.start += piece.len() as u64;
                    self.advanced |= !piece.is_empty();
                    return Some(Ok(piece));
                }
                Err(source) => {
                    let error = self.store.error("reading", &self.name, source);
                    if let Err(error) = self.go_on_after(error).await {
                        return Some(Err(error));
                    }
                }
            }
        }
    }

    async fn go_on_after(&mut self, error: StoreError) -> Result<()> {
        let can_go_on = self.advanced && self.etag.is_some() && !self.range.is_empty();
        if !can_go_on || error.kind() != ErrorKind::Transient {
            return Err(error);
        }
        tracing::debug!(object = %self.name, from = self.range.start, %error, "a read broke off and goes on");
        self.advanced = false;
        let options = GetOptions {
            range: Some(GetRange::Bounded(self.range.clone())),
            // Only the same object has the rest of what was read.
            if_match: self.etag.clone(),
            ..GetOptions::default()
        };
        let (objects, path) = self.store.reader(&self.name.to_path());
        let result = objects.get_opts(&path, options).await;
        self.pieces = pieces(result.map_err(|source| self.store.error("reading", &self.name, source))?);
        Ok(())
    }
}

fn pieces(result: GetResult) -> Pieces {
    match result.payload {
        GetResultPayload::File(file, _) => super::local::read(file, result.range),
        GetResultPayload::Stream(pieces) => pieces,
    }
}
