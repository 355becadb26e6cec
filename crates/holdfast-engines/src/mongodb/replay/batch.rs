//! Folds a run of actions into one write a document: the image it has at the end.

use std::collections::{BTreeMap, HashMap};

use bson::RawDocumentBuf;
use bson::raw::RawDocument;

use super::fields::Value;
use super::{Change, Namespace, ReplayError, malformed};

/// What a write takes beside its document or its changes, about.
const OVERHEAD_BYTES: usize = 256;

/// A document's identity: collection and `_id`, the latter as bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub Namespace, Vec<u8>);

impl Key {
    #[must_use]
    pub fn new(namespace: &Namespace, id: &Value<'_>) -> Self {
        // The server takes 1 and 1.0 for the same.
        let same = id.as_integer().map(Value::from);
        let id = same.as_ref().unwrap_or(id);
        let mut bytes = vec![id.kind];
        bytes.extend_from_slice(&id.bytes);
        Self(namespace.clone(), bytes)
    }
}

/// What is to be done to one document.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// Insert it, or replace the one with its `_id`.
    Put {
        id: Value<'static>,
        document: RawDocumentBuf,
    },
    Delete {
        id: Value<'static>,
    },
}

enum Image {
    Known(RawDocumentBuf),
    Gone,
    /// These changes, on the image that the server has.
    Changed(Vec<Change>),
}

struct Pending {
    id: Value<'static>,
    image: Image,
    /// Order of the writes; a document that comes back after a deletion comes last.
    order: usize,
    /// Whether it was deleted meanwhile: one that comes back is another, also where the server takes their `_id`s for the same.
    deleted: bool,
}

/// A run of writes without a change of structure in between. Small enough for memory: its maker ends it by
/// [`Batch::size_bytes`].
#[derive(Default)]
pub struct Batch {
    documents: HashMap<Key, Pending>,
    size_bytes: usize,
    order: usize,
}

impl Batch {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    /// Documents that it writes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.documents.len()
    }

    /// What it holds, at least as much as it takes; documents that have to be read come on top.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// # Errors
    /// A document without an `_id`.
    pub fn put(&mut self, namespace: &Namespace, document: RawDocumentBuf) -> Result<(), ReplayError> {
        let id = super::id_of(document.as_bytes())?;
        self.size_bytes += OVERHEAD_BYTES + document.as_bytes().len();
        let pending = self.pending(namespace, id, Image::Gone);
        pending.image = Image::Known(document);
        Ok(())
    }

    pub fn delete(&mut self, namespace: &Namespace, id: Value<'static>) {
        self.size_bytes += OVERHEAD_BYTES + id.size_bytes();
        let pending = self.pending(namespace, id, Image::Gone);
        pending.image = Image::Gone;
        pending.deleted = true;
    }

    /// # Errors
    /// A change that is not understood.
    pub fn change(
        &mut self,
        namespace: &Namespace,
        id: Value<'static>,
        change: Change,
    ) -> Result<(), ReplayError> {
        let mut held = OVERHEAD_BYTES + id.size_bytes();
        let pending = self.pending(namespace, id, Image::Changed(Vec::new()));
        match &mut pending.image {
            Image::Gone => {}
            Image::Known(document) => {
                let now = changed(document, std::slice::from_ref(&change))?;
                held += now.as_bytes().len().saturating_sub(document.as_bytes().len());
                *document = now;
            }
            Image::Changed(changes) => {
                held += change.size_bytes();
                changes.push(change);
            }
        }
        self.size_bytes += held;
        Ok(())
    }

    fn pending(&mut self, namespace: &Namespace, id: Value<'static>, unseen: Image) -> &mut Pending {
        self.order += 1;
        let order = self.order;
        let key = Key::new(namespace, &id);
        let pending =
            self.documents.entry(key).or_insert(Pending { id, image: unseen, order, deleted: false });
        if matches!(pending.image, Image::Gone) {
            pending.order = order;
        }
        pending
    }

    /// The documents whose image has to be read, each for [`Batch::resolve`].
    #[must_use]
    pub fn to_read(&self) -> BTreeMap<Namespace, Vec<Value<'static>>> {
        let mut ids: BTreeMap<Namespace, Vec<Value<'static>>> = BTreeMap::new();
        for (key, pending) in &self.documents {
            if matches!(pending.image, Image::Changed(_)) {
                ids.entry(key.0.clone()).or_default().push(pending.id.clone());
            }
        }
        ids
    }

    /// Takes out the write to a document of [`Batch::to_read`], of which this is the image that the server has. It may be
    /// carried out before all others: they are to other documents.
    ///
    /// # Errors
    /// A change that does not apply; a document without an `_id`.
    pub fn resolve(
        &mut self,
        namespace: &Namespace,
        image: &RawDocument,
    ) -> Result<Option<Write>, ReplayError> {
        let key = Key::new(namespace, &super::id_of(image.as_bytes())?);
        match self.documents.remove(&key) {
            Some(Pending { id, image: Image::Changed(changes), .. }) => {
                Ok(Some(Write::Put { id, document: changed(image, &changes)? }))
            }
            Some(other) => {
                self.documents.insert(key, other);
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// The writes that are left, by collection and in order; deletions may be carried out before all others. A document that was to be
    /// read and was not found is deleted later, as another entry will say.
    #[must_use]
    pub fn finish(self) -> BTreeMap<Namespace, Vec<Write>> {
        let mut all: Vec<(Key, Pending)> = self.documents.into_iter().collect();
        all.sort_unstable_by_key(|(_, pending)| pending.order);
        let mut writes: BTreeMap<Namespace, Vec<Write>> = BTreeMap::new();
        for (key, Pending { id, image, deleted, .. }) in all {
            let writes = writes.entry(key.0).or_default();
            if deleted || matches!(image, Image::Gone) {
                writes.push(Write::Delete { id: id.clone() });
            }
            if let Image::Known(document) = image {
                writes.push(Write::Put { id, document });
            }
        }
        writes
    }
}

fn changed(document: &RawDocument, changes: &[Change]) -> Result<RawDocumentBuf, ReplayError> {
    let mut bytes = document.as_bytes().to_vec();
    for change in changes {
        bytes = change.apply(&bytes)?;
    }
    RawDocumentBuf::from_bytes(bytes).map_err(malformed)
}
