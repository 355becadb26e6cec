//! A 32-byte key as one line that survives paper: a label, then 56 characters of Crockford's base 32 in groups of four.
//!
//! The 35 bytes behind the characters are the key and the first three bytes of SHA-256(label ‖ key). Reading forgives
//! case, dashes, spaces, and the letters that look like digits (O for 0, I and L for 1).

use aws_lc_rs::digest::{Context, SHA256};
use zeroize::Zeroizing;

use crate::{Result, SealError};

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const CHECKSUM_LEN: usize = 3;
const CHARS: usize = (32 + CHECKSUM_LEN) * 8 / 5;

pub(super) fn encode(label: &str, key: &[u8; 32]) -> Zeroizing<String> {
    // Room for the whole line at once: a string that grew would leave copies behind.
    let mut line = Zeroizing::new(String::with_capacity(label.len() + CHARS + CHARS / 4));
    line.push_str(label);
    let (mut bits, mut count, mut written) = (0_u32, 0, 0);
    for byte in key.iter().chain(&checksum(label, key)) {
        bits = bits << 8 | u32::from(*byte);
        count += 8;
        while count >= 5 {
            count -= 5;
            if written % 4 == 0 {
                line.push('-');
            }
            line.push(char::from(ALPHABET[(bits >> count & 31) as usize]));
            written += 1;
        }
    }
    line
}

pub(super) fn decode(label: &str, line: &str) -> Result<Zeroizing<[u8; 32]>> {
    let problem = |problem| SealError::RecoveryText { problem };
    let mut bare = Zeroizing::new(String::with_capacity(line.len()));
    bare.extend(line.chars().filter(|c| !c.is_whitespace() && *c != '-').map(|c| c.to_ascii_uppercase()));
    let Some(chars) = bare.strip_prefix(label) else {
        return Err(problem(match label {
            super::PRIVATE_LABEL => "the recovery kit's private line begins with HFPRIV1",
            _ => "a recovery public key begins with HFPUB1",
        }));
    };
    if chars.chars().count() != CHARS {
        return Err(problem("it must have 56 characters after its label; some are missing or too many"));
    }
    let mut bytes = Zeroizing::new([0_u8; 32 + CHECKSUM_LEN]);
    let (mut bits, mut count, mut written) = (0_u32, 0, 0);
    for c in chars.chars() {
        let c = match c {
            'O' => '0',
            'I' | 'L' => '1',
            c => c,
        };
        let value = ALPHABET.iter().position(|a| char::from(*a) == c);
        let value = value.ok_or(problem("it has a character that never occurs in one"))?;
        bits = bits << 5 | u32::try_from(value).expect("less than 32");
        count += 5;
        if count >= 8 {
            count -= 8;
            bytes[written] = (bits >> count & 0xFF) as u8;
            written += 1;
        }
    }
    let (key, found) = bytes.split_first_chunk::<32>().expect("35 bytes");
    if checksum(label, key) != found {
        return Err(problem("its checksum does not fit: a character was misread"));
    }
    Ok(Zeroizing::new(*key))
}

fn checksum(label: &str, key: &[u8; 32]) -> [u8; CHECKSUM_LEN] {
    let mut sha = Context::new(&SHA256);
    sha.update(label.as_bytes());
    sha.update(key);
    *sha.finish().as_ref().first_chunk().expect("a SHA-256 is 32 bytes long")
}
