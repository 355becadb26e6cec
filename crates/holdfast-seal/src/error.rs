//! What can go wrong with sealed objects and wrapped keys. No text here ever holds key material or plaintext.

/// What a caller may do about a [`SealError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The bytes are not what was sealed: changed, cut, moved or replayed. Reading again from the store may help once;
    /// then it is damage, to be reported and never skipped.
    Damaged,
    /// The bytes may be sound, but this is not the key for them. Find the right key.
    WrongKey,
    /// Made by a newer Holdfast than this one.
    Unsupported,
    /// The caller asked for something impossible; a mistake in the program or in what a person typed.
    Invalid,
}

/// Everything that this crate refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    #[error("cannot read {object}: it does not begin with a sealed object's header")]
    NotSealed { object: String },
    #[error("cannot read {object}: sealed object format version {version} is unknown to this Holdfast")]
    UnsupportedVersion { object: String, version: u16 },
    /// Nothing has been released. The commitment says that the data key or the context differs from those it was
    /// sealed with, or that header, salt or commitment were changed.
    #[error("cannot open {object}: it was not sealed with this key as this object")]
    WrongKeyOrContext { object: String },
    #[error("cannot open {object}: chunk {index} does not authenticate")]
    Chunk { object: String, index: u64 },
    #[error("cannot open {object}: it is cut short after {sealed_bytes} bytes")]
    Truncated { object: String, sealed_bytes: u64 },
    #[error("no sealed object is {sealed_bytes} bytes long")]
    ImpossibleLength { sealed_bytes: u64 },
    #[error("cannot open chunk {index} of {object}: it is {expected} bytes long, {found} were given")]
    ChunkLength { object: String, index: u64, expected: usize, found: usize },
    #[error("cannot open chunk {index} of {object}: it has {chunks} chunks")]
    NoSuchChunk { object: String, index: u64, chunks: u64 },
    #[error("cannot seal {object}: it is longer than 4 PiB")]
    TooLong { object: String },
    #[error("cannot go on with {object}: an earlier part of it failed")]
    AlreadyFailed { object: String },
    #[error("cannot unwrap key {key_id}: the bytes are no wrapped key of the kind expected")]
    NotAWrappedKey { key_id: uuid::Uuid },
    #[error(
        "cannot unwrap key {key_id}: it is wrapped by key-encryption key version {wrapped_by}, not {given}"
    )]
    WrongKekVersion { key_id: uuid::Uuid, wrapped_by: u32, given: u32 },
    #[error("cannot unwrap key {key_id}: it was not wrapped for this identity by this key, or it is damaged")]
    Unwrap { key_id: uuid::Uuid },
    #[error("cannot unwrap key {key_id}: it was wrapped for recovery key {wrapped_for}, not {given}")]
    WrongRecoveryKey { key_id: uuid::Uuid, wrapped_for: String, given: String },
    #[error("the recovery key line cannot be read: {problem}")]
    RecoveryText { problem: &'static str },
    #[error("cannot read a {what}: {problem}")]
    Document { what: &'static str, problem: String },
    #[error("the chain of backups of lineage {lineage} is broken: {problem}")]
    Chain { lineage: String, problem: String },
}

impl SealError {
    /// What a caller may do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotSealed { .. }
            | Self::Chunk { .. }
            | Self::Truncated { .. }
            | Self::ImpossibleLength { .. }
            | Self::ChunkLength { .. }
            | Self::NotAWrappedKey { .. }
            | Self::Document { .. }
            | Self::Chain { .. } => ErrorKind::Damaged,
            Self::WrongKeyOrContext { .. }
            | Self::WrongKekVersion { .. }
            | Self::WrongRecoveryKey { .. }
            | Self::Unwrap { .. } => ErrorKind::WrongKey,
            Self::UnsupportedVersion { .. } => ErrorKind::Unsupported,
            Self::NoSuchChunk { .. }
            | Self::TooLong { .. }
            | Self::AlreadyFailed { .. }
            | Self::RecoveryText { .. } => ErrorKind::Invalid,
        }
    }

    /// The next step for a person.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self.kind() {
            ErrorKind::Damaged => {
                "read it from the store once more; if it fails again, restore from another backup"
            }
            ErrorKind::WrongKey => "check that the key and the place in the bucket belong to this object",
            ErrorKind::Unsupported => "use a Holdfast at least as new as the one that made it",
            ErrorKind::Invalid => "check what was asked for or typed",
        }
    }
}
