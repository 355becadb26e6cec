//! The data key (DEK): 32 secret bytes that never leave this crate in a log line.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::encoding::random;

/// A data key. Wiped when dropped; comparing two takes the same time whatever they hold.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct DataKey([u8; 32]);

impl DataKey {
    /// A new key from the operating system's generator.
    #[must_use]
    pub fn random() -> Self {
        Self(random())
    }

    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A secret that follows from the key, for a purpose that `label` names: HMAC-SHA-256, lower-case hex.
    #[must_use]
    pub fn derived_secret(&self, label: &[u8]) -> Zeroizing<String> {
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &self.0);
        Zeroizing::new(hex::encode(aws_lc_rs::hmac::sign(&key, label)))
    }

    /// The secret itself; for wrapping it and for nothing else.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for DataKey {
    fn eq(&self, other: &Self) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for DataKey {}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(redacted)")
    }
}
