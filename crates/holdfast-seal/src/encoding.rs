//! One way to write several fields down unambiguously: each behind its length, u32 big-endian.

/// `len(field) ‖ field` for each field, in order. Two different lists never have the same encoding.
pub(crate) fn length_prefixed<'a>(fields: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    for field in fields {
        let len = u32::try_from(field.len()).expect("no id or name is 4 GiB long");
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(field);
    }
    out
}

/// `N` bytes from the operating system's generator.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("AWS-LC aborts rather than run out of random bytes");
    bytes
}
