//! Keys and the sealed object format; no knowledge of databases, buckets or the catalog.
//!
//! Every byte that Holdfast stores is *sealed*: encrypted and authenticated with a data key (DEK) that belongs to one
//! backup, log epoch or repository, and bound to what the object is ([`ObjectContext`]). Data keys are kept only
//! wrapped: by a key-encryption key ([`Kek`]) and for the owner's recovery key ([`RecoveryPublic`]).
//!
//! Reading order: [`layout`] (lengths and the header), [`context`] (what an object is), [`seal`] and [`open`]
//! (streams), [`range`] (ranged reads), [`mod@wrap`] and [`recovery`] (keys), [`manifest`] and [`chain`] (what a backup
//! consists of). `docs/format.md` says the same byte by byte, with test vectors.

#![cfg_attr(not(test), deny(clippy::disallowed_methods))] // the walls: clippy.toml

pub mod chain;
mod chunk;
pub mod context;
mod encoding;
pub mod error;
#[doc(hidden)]
pub mod fixtures;
pub mod key;
pub mod layout;
pub mod manifest;
pub mod open;
pub mod range;
pub mod recovery;
pub mod seal;
pub mod wrap;

pub use chain::{ChainEntry, verify_chain};
pub use context::{ObjectContext, ObjectKind};
pub use error::{ErrorKind, SealError};
pub use key::DataKey;
pub use layout::{
    CHUNK_PLAIN, CHUNK_SEALED, FORMAT_VERSION, HEADER_LEN, Header, MAX_PLAIN_LEN, PREFIX_LEN, TAG_LEN,
    plain_len, sealed_len,
};
pub use manifest::{MANIFEST_FORMAT, Manifest, ManifestObject, SharedKey, Tombstone, sha256_hex};
pub use open::{Opener, open_to_vec};
pub use range::RangeOpener;
pub use recovery::{RecoveryPrivate, RecoveryPublic, unwrap_with_recovery, wrap_for_recovery};
pub use seal::{Sealer, seal_to_vec};
pub use wrap::{Kek, KeyIdentity, unwrap, unwrap_secret, wrap, wrap_secret, wrapped_kek_version};

/// What every fallible function of this crate returns.
pub type Result<T, E = SealError> = std::result::Result<T, E>;
