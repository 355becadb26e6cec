//! A client's side of SCRAM-SHA-256 and SCRAM-SHA-512 (RFC 5802), without channel binding, which Kafka does not have.

use std::num::NonZeroU32;

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::error::{KafkaError, Result};

const DOING: &str = "log in with SCRAM";
/// Bounds of what a broker may make a client compute; Kafka's own bounds are 4,096 and 16,384.
const ITERATIONS: std::ops::RangeInclusive<u32> = 4096..=1 << 20;

/// Which hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    Sha256,
    Sha512,
}

impl Hash {
    fn hmac(self) -> hmac::Algorithm {
        match self {
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha512 => hmac::HMAC_SHA512,
        }
    }

    fn digest(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha512 => &digest::SHA512,
        }
    }

    fn pbkdf2(self) -> pbkdf2::Algorithm {
        match self {
            Self::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
            Self::Sha512 => pbkdf2::PBKDF2_HMAC_SHA512,
        }
    }

    fn salted(self, password: &str, salt: &[u8], iterations: NonZeroU32) -> Vec<u8> {
        let mut salted = vec![0; self.digest().output_len()];
        pbkdf2::derive(self.pbkdf2(), iterations, salt, password.as_bytes(), &mut salted);
        salted
    }

    fn sign(self, key: &[u8], text: &str) -> Vec<u8> {
        hmac::sign(&hmac::Key::new(self.hmac(), key), text.as_bytes()).as_ref().to_vec()
    }
}

/// A password as a broker is told it: it never learns the password itself.
pub struct Salted {
    pub salt: Vec<u8>,
    pub iterations: u32,
    pub password: Vec<u8>,
}

/// Salts a new password with a salt of its own.
#[must_use]
pub fn salted(hash: Hash, password: &str) -> Salted {
    let iterations = NonZeroU32::new(*ITERATIONS.start()).expect("it is not 0");
    let salt = rand::random::<[u8; 32]>();
    Salted {
        salt: salt.to_vec(),
        iterations: iterations.get(),
        password: hash.salted(password, &salt, iterations),
    }
}

/// A conversation from its first word on.
pub(crate) struct Scram<'a> {
    hash: Hash,
    password: &'a str,
    first_bare: String,
    nonce: String,
}

impl<'a> Scram<'a> {
    pub(crate) fn new(hash: Hash, username: &str, password: &'a str) -> Self {
        Self::with_nonce(hash, username, password, STANDARD.encode(rand::random::<[u8; 24]>()))
    }

    fn with_nonce(hash: Hash, username: &str, password: &'a str, nonce: String) -> Self {
        let name = username.replace('=', "=3D").replace(',', "=2C");
        Self { hash, password, first_bare: format!("n={name},r={nonce}"), nonce }
    }

    pub(crate) fn first(&self) -> String {
        format!("n,,{}", self.first_bare)
    }

    /// The answer to the server's first word, and what its last must be.
    pub(crate) fn last(&self, server: &str) -> Result<(String, String)> {
        let part = |name: &str| {
            let found = server.split(',').find_map(|part| part.strip_prefix(name));
            found
                .ok_or_else(|| KafkaError::unintelligible(DOING, format!("there is no {name} in its answer")))
        };
        let (nonce, salt, iterations) = (part("r=")?, part("s=")?, part("i=")?);
        let unlike = |what| KafkaError::unintelligible(DOING, what);
        let salt = STANDARD.decode(salt).map_err(|_| unlike("its salt is no base64"))?;
        let iterations =
            iterations.parse().ok().filter(|count: &NonZeroU32| ITERATIONS.contains(&count.get()));
        let iterations = iterations.ok_or_else(|| unlike("its number of iterations is out of bounds"))?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err(unlike("its nonce is not made from ours"));
        }
        let salted = self.hash.salted(self.password, &salt, iterations);
        let without_proof = format!("c=biws,r={nonce}");
        let message = format!("{},{server},{without_proof}", self.first_bare);
        let client_key = self.hash.sign(&salted, "Client Key");
        let stored_key = digest::digest(self.hash.digest(), &client_key);
        let signature = self.hash.sign(stored_key.as_ref(), &message);
        let proof: Vec<u8> = client_key.iter().zip(signature).map(|(key, sign)| key ^ sign).collect();
        let server_key = self.hash.sign(&salted, "Server Key");
        let verifier = STANDARD.encode(self.hash.sign(&server_key, &message));
        Ok((format!("{without_proof},p={}", STANDARD.encode(proof)), format!("v={verifier}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The conversation of RFC 7677, section 3.
    #[test]
    fn the_words_are_those_of_the_standard() {
        let scram = Scram::with_nonce(Hash::Sha256, "user", "pencil", "rOprNGfwEbeRWgbNEkqO".to_owned());
        assert_eq!(scram.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let (last, verifier) = scram
            .last("r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096")
            .expect("an answer");
        assert_eq!(
            last,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert_eq!(verifier, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn what_a_broker_may_not_say_is_refused() {
        let scram = Scram::with_nonce(Hash::Sha512, "a=b,c", "pencil", "abc".to_owned());
        assert_eq!(scram.first(), "n,,n=a=3Db=2Cc,r=abc");
        for answer in [
            "",
            "r=abcd,s=AAAA",
            "r=abcd,s=?,i=4096",
            "r=abcd,s=AAAA,i=0",
            "r=abcd,s=AAAA,i=4095",
            "r=abcd,s=AAAA,i=4294967295",
            "r=abc,s=AAAA,i=4096",
            "r=xabc,s=AAAA,i=4096",
        ] {
            assert!(scram.last(answer).is_err(), "{answer}");
        }
        assert!(scram.last("r=abcd,s=AAAA,i=4096").is_ok());
    }
}
