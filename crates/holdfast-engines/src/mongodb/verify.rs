//! Fingerprint of a collection's content: how many documents, and a hash that does not depend on their order.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Taken while documents stream by. Hashes of documents are added, not XORed: a document that is there twice shows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fingerprint {
    pub documents: u64,
    pub bytes: u64,
    /// Sum of the first and of the second halves of all documents' SHA-256, as hexadecimal numbers.
    #[serde(with = "sums")]
    sums: [u128; 2],
}

impl Fingerprint {
    pub(super) fn add(&mut self, document: &[u8]) {
        let digest = Sha256::digest(document);
        let (first, second) = digest.split_at(16);
        for (sum, half) in self.sums.iter_mut().zip([first, second]) {
            let half = u128::from_be_bytes(half.try_into().expect("half of 32 bytes"));
            *sum = sum.wrapping_add(half);
        }
        self.documents += 1;
        self.bytes += document.len() as u64;
    }
}

mod sums {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    pub(super) fn serialize<S: Serializer>(sums: &[u128; 2], serializer: S) -> Result<S::Ok, S::Error> {
        sums.map(|sum| format!("{sum:032x}")).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u128; 2], D::Error> {
        let [first, second] = <[String; 2]>::deserialize(deserializer)?;
        let parse = |text: String| u128::from_str_radix(&text, 16).map_err(serde::de::Error::custom);
        Ok([parse(first)?, parse(second)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_does_not_count_and_everything_else_does() {
        let of = |documents: &[&[u8]]| {
            let mut fingerprint = Fingerprint::default();
            documents.iter().for_each(|document| fingerprint.add(document));
            fingerprint
        };
        assert_eq!(of(&[b"a", b"b"]), of(&[b"b", b"a"]));
        assert_ne!(of(&[b"a", b"b"]), of(&[b"a", b"c"]));
        assert_ne!(of(&[b"a", b"a", b"b"]), of(&[b"b"]));
        assert_ne!(of(&[b"a", b"a"]), of(&[b"b", b"b"]));
        let one = of(&[b"a", b"b"]);
        let text = serde_json::to_string(&one).expect("text");
        assert_eq!(serde_json::from_str::<Fingerprint>(&text).expect("the same"), one);
    }
}
