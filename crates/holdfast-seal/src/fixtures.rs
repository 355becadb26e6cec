//! For test vectors only: sealing with chosen salts and nonces. Never call this with a key that seals anything real.

use std::convert::Infallible;

use bytes::BytesMut;
use hpke::rand_core::{TryCryptoRng, TryRng};
use uuid::Uuid;

use crate::wrap::WrappedKind;
use crate::{DataKey, Kek, KeyIdentity, ObjectContext, RecoveryPublic, Result, Sealer, recovery, wrap};

/// [`Sealer::new`] with a chosen salt.
#[must_use]
pub fn sealer_with_salt(
    key: &DataKey,
    key_id: Uuid,
    ctx: &ObjectContext,
    salt: &[u8; 24],
    out: &mut BytesMut,
) -> Sealer {
    Sealer::with_salt(key, key_id, ctx, salt, out)
}

/// [`crate::seal_to_vec`] with a chosen salt.
///
/// # Errors
/// As [`Sealer::update`].
pub fn seal_with_salt(
    key: &DataKey,
    key_id: Uuid,
    ctx: &ObjectContext,
    salt: &[u8; 24],
    plain: &[u8],
) -> Result<Vec<u8>> {
    let mut out = BytesMut::new();
    let mut sealer = sealer_with_salt(key, key_id, ctx, salt, &mut out);
    sealer.update(plain, &mut out)?;
    sealer.finish(&mut out)?;
    Ok(out.into())
}

/// [`crate::wrap()`] with a chosen nonce.
#[must_use]
pub fn wrap_with_nonce(kek: &Kek, identity: &KeyIdentity, key: &DataKey, nonce: [u8; 12]) -> Vec<u8> {
    wrap::wrap_with_nonce(kek, identity, WrappedKind::DataKey, key.expose(), nonce)
}

/// [`crate::wrap_secret`] with a chosen nonce.
#[must_use]
pub fn wrap_secret_with_nonce(kek: &Kek, identity: &KeyIdentity, secret: &[u8], nonce: [u8; 12]) -> Vec<u8> {
    wrap::wrap_with_nonce(kek, identity, WrappedKind::Secret, secret, nonce)
}

/// [`crate::wrap_for_recovery`] with the same "random" byte throughout.
#[must_use]
pub fn wrap_for_recovery_with_byte(
    public: &RecoveryPublic,
    identity: &KeyIdentity,
    key: &DataKey,
    byte: u8,
) -> Vec<u8> {
    recovery::wrap_with_rng(public, identity, key, &mut Repeated(byte))
}

struct Repeated(u8);

impl TryRng for Repeated {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::from_ne_bytes([self.0; 4]))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from_ne_bytes([self.0; 8]))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        bytes.fill(self.0);
        Ok(())
    }
}

impl TryCryptoRng for Repeated {}
