//! What the topics share: a context, plaintexts, and randomness whose seed is printed.

use bytes::BytesMut;
use holdfast_seal::{DataKey, ObjectContext, ObjectKind, Opener, SealError, seal_to_vec};
use uuid::Uuid;

use crate::vectors;
pub(crate) use crate::vectors::plain;

pub(crate) const KEY_ID: Uuid = Uuid::from_u128(0x6b65_7930_0000_4000_8000_0000_0000_0001);

pub(crate) fn key() -> DataKey {
    DataKey::from_bytes([7; 32])
}

pub(crate) fn context(name: &str) -> ObjectContext {
    vectors::context(ObjectKind::BackupFile, name)
}

pub(crate) fn sealed(len: usize, ctx: &ObjectContext) -> Vec<u8> {
    seal_to_vec(&key(), KEY_ID, ctx, &plain(len)).unwrap()
}

/// Opens as a stream fed in one piece; whatever was released comes back even when it failed.
pub(crate) fn open_released(ctx: &ObjectContext, sealed: &[u8]) -> (Vec<u8>, Result<(), SealError>) {
    let mut out = BytesMut::new();
    let mut opener = Opener::new(&key(), ctx);
    let result = opener.update(sealed, &mut out);
    // As a careless caller would: finish all the same. It must not succeed after a failure.
    let finished = opener.finish(&mut out);
    (out.into(), result.and(finished))
}

/// A generator whose seed is printed, and can be set to repeat a failure.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(test: &str) -> Self {
        let seed = match std::env::var("HOLDFAST_SEED") {
            Ok(seed) => seed.parse().expect("HOLDFAST_SEED is a number"),
            Err(_) => Uuid::new_v4().as_u64_pair().0,
        };
        eprintln!("{test}: HOLDFAST_SEED={seed}");
        Self(seed)
    }

    /// SplitMix64.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }
}
