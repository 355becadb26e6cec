//! However a stream is cut into pieces, and whatever range is asked for, the bytes are the same.

use bytes::BytesMut;
use holdfast_seal::fixtures::{seal_with_salt, sealer_with_salt};
use holdfast_seal::{
    CHUNK_PLAIN, CHUNK_SEALED, MAX_PLAIN_LEN, Opener, PREFIX_LEN, RangeOpener, SealError, TAG_LEN,
    open_to_vec, plain_len, sealed_len,
};
use proptest::prelude::*;

use crate::common::{KEY_ID, context, key, plain, sealed};

/// Lengths that like chunk edges.
fn lengths() -> impl Strategy<Value = usize> {
    let near_edge =
        (0..4_usize, 0..5_usize).prop_map(|(chunk, off)| (chunk * CHUNK_PLAIN + off).saturating_sub(2));
    prop_oneof![near_edge, 0..100_usize, 0..4 * CHUNK_PLAIN]
}

/// Pieces to cut a stream into; zero-length ones too.
fn pieces() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(
        prop_oneof![0..40_usize, 0..3 * CHUNK_SEALED, Just(CHUNK_PLAIN), Just(CHUNK_SEALED)],
        1..12,
    )
}

/// Calls `take` with the bytes in pieces of the lengths given, over and over.
fn in_pieces(mut bytes: &[u8], pieces: &[usize], mut take: impl FnMut(&[u8])) {
    for len in pieces.iter().chain(&[1]).cycle() {
        if bytes.is_empty() {
            return;
        }
        let (piece, rest) = bytes.split_at(bytes.len().min(*len));
        take(piece);
        bytes = rest;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sealing_in_pieces_is_sealing_at_once(len in lengths(), pieces in pieces(), salt: [u8; 24]) {
        // One salt for both, so that they can be compared byte by byte.
        let at_once = seal_with_salt(&key(), KEY_ID, &context("a"), &salt, &plain(len)).unwrap();
        let mut out = BytesMut::new();
        let mut sealer = sealer_with_salt(&key(), KEY_ID, &context("a"), &salt, &mut out);
        in_pieces(&plain(len), &pieces, |piece| sealer.update(piece, &mut out).unwrap());
        sealer.finish(&mut out).unwrap();
        prop_assert!(out == at_once);
        prop_assert_eq!(out.len() as u64, sealed_len(len as u64));
        prop_assert!(open_to_vec(&key(), &context("a"), &out).unwrap() == plain(len));
    }

    #[test]
    fn opening_in_pieces_is_opening_at_once(len in lengths(), pieces in pieces()) {
        let object = sealed(len, &context("a"));
        let mut opener = Opener::new(&key(), &context("a"));
        let mut out = BytesMut::new();
        in_pieces(&object, &pieces, |piece| opener.update(piece, &mut out).unwrap());
        opener.finish(&mut out).unwrap();
        prop_assert!(out == plain(len));
    }

    #[test]
    fn a_changed_object_is_refused_in_whatever_pieces(
        len in lengths(), pieces in pieces(), at in any::<prop::sample::Index>(), change in 1..=255_u8,
    ) {
        let mut object = sealed(len, &context("a"));
        let position = at.index(object.len());
        object[position] ^= change;
        let mut opener = Opener::new(&key(), &context("a"));
        let (mut out, mut failed) = (BytesMut::new(), false);
        in_pieces(&object, &pieces, |piece| {
            let result = opener.update(piece, &mut out);
            assert!(result.is_err() || !failed || piece.is_empty(), "went on after a failure");
            failed |= result.is_err();
        });
        prop_assert!(opener.finish(&mut out).is_err());
        let untouched = position.saturating_sub(PREFIX_LEN) / CHUNK_SEALED * CHUNK_PLAIN;
        prop_assert!(out == plain(len)[..untouched]);
    }

    #[test]
    fn a_range_is_that_part_of_the_whole(len in lengths(), a in 0..5 * CHUNK_PLAIN, b in 0..5 * CHUNK_PLAIN) {
        let (start, end) = (a.min(b), a.max(b));
        let (object, whole) = (sealed(len, &context("a")), plain(len));
        let opener = RangeOpener::new(&key(), &context("a"), &object[..PREFIX_LEN], object.len() as u64).unwrap();
        prop_assert_eq!(opener.plain_len(), len as u64);
        let range = start as u64..end as u64;
        let fetch = opener.sealed_range(range.clone());
        let fetched = &object[usize::try_from(fetch.start).unwrap()..usize::try_from(fetch.end).unwrap()];
        let wanted = &whole[start.min(len)..end.min(len)];
        // Never more than the chunks that the range touches.
        prop_assert!(fetched.len() <= (wanted.len() / CHUNK_PLAIN + 2) * CHUNK_SEALED);
        prop_assert_eq!(fetched.is_empty(), wanted.is_empty());
        let mut out = BytesMut::from(&b"before"[..]);
        opener.open_range(range.clone(), fetched, &mut out).unwrap();
        prop_assert!(out[..6] == b"before"[..] && out[6..] == *wanted);
        // A surplus or a lack is refused and leaves the buffer alone.
        if !fetched.is_empty() {
            for wrong in [&fetched[..fetched.len() - 1], &[fetched, &[0]].concat()] {
                prop_assert!(opener.open_range(range.clone(), wrong, &mut out).is_err());
                prop_assert_eq!(out.len(), 6 + wanted.len());
            }
        }
    }

    #[test]
    fn lengths_are_inverse(len in 0..=MAX_PLAIN_LEN) {
        prop_assert_eq!(plain_len(sealed_len(len)), Ok(len));
    }

    #[test]
    fn a_length_is_possible_exactly_when_something_seals_to_it(sealed_bytes in 0..200_000_u64) {
        match plain_len(sealed_bytes) {
            Ok(len) => prop_assert_eq!(sealed_len(len), sealed_bytes),
            Err(_) => {
                let body = sealed_bytes.checked_sub(PREFIX_LEN as u64);
                prop_assert!(body.is_none_or(|body| body % (CHUNK_SEALED as u64) < TAG_LEN as u64));
            }
        }
    }
}

#[test]
fn the_ends_of_what_fits() {
    assert_eq!(sealed_len(0), PREFIX_LEN as u64 + 16);
    assert_eq!(sealed_len(16383), PREFIX_LEN as u64 + 16399);
    assert_eq!(sealed_len(16384), PREFIX_LEN as u64 + 16400 + 16);
    assert_eq!(plain_len(sealed_len(MAX_PLAIN_LEN)), Ok(MAX_PLAIN_LEN));
    assert!(plain_len(sealed_len(MAX_PLAIN_LEN + 1)).is_err());
    for impossible in [0, 31, 87, 88, 103, 88 + 16400, 88 + 16400 + 15, u64::MAX] {
        assert!(plain_len(impossible).is_err(), "{impossible}");
    }
    let _ = sealed_len(u64::MAX); // saturates
}

#[test]
fn a_chunk_is_opened_only_with_the_length_it_must_have() {
    let len = 2 * CHUNK_PLAIN + 50;
    let object = sealed(len, &context("a"));
    let opener = RangeOpener::new(&key(), &context("a"), &object[..PREFIX_LEN], object.len() as u64).unwrap();
    assert_eq!(opener.chunks(), 3);
    let mut out = BytesMut::new();
    let body = &object[PREFIX_LEN..];
    for wrong in [0, 15, 16, CHUNK_SEALED - 1, CHUNK_SEALED + 1] {
        let result = opener.open_chunk(0, &body[..wrong], &mut out);
        assert!(matches!(result, Err(SealError::ChunkLength { index: 0, .. })), "{wrong}: {result:?}");
    }
    let result = opener.open_chunk(2, &body[..CHUNK_SEALED], &mut out);
    assert!(matches!(result, Err(SealError::ChunkLength { index: 2, expected: 66, .. })));
    assert!(matches!(
        opener.open_chunk(3, &body[..16], &mut out),
        Err(SealError::NoSuchChunk { chunks: 3, .. })
    ));
    assert!(opener.open_chunk(1, &body[..CHUNK_SEALED], &mut out).is_err(), "chunk 0 given as chunk 1");
    assert!(out.is_empty());
    // A prefix of another length is none.
    for wrong in [0, PREFIX_LEN - 1, PREFIX_LEN + 1] {
        assert!(RangeOpener::new(&key(), &context("a"), &object[..wrong], object.len() as u64).is_err());
    }
}

#[test]
fn nothing_is_released_before_its_chunk_is_whole() {
    let object = sealed(100, &context("a"));
    let mut opener = Opener::new(&key(), &context("a"));
    let mut out = BytesMut::new();
    opener.update(&object, &mut out).unwrap();
    assert!(out.is_empty(), "the last chunk may not be released before it is known to be the last");
    opener.finish(&mut out).unwrap();
    assert!(out == plain(100));
}
