//! Changed, cut, moved, repeated and appended bytes: none opens, and no byte of a chunk that was touched is released.

use holdfast_seal::{
    CHUNK_PLAIN, CHUNK_SEALED, ErrorKind, PREFIX_LEN, RangeOpener, SealError, plain_len, seal_to_vec,
};

use crate::common::{KEY_ID, Random, context, key, open_released, plain, sealed};

/// The changed object must fail, and what was released before must be exactly the chunks before the first changed one.
#[track_caller]
fn check_refused(changed: &[u8], first_bad_chunk: usize, original: &[u8], what: &str) {
    let (released, result) = open_released(&context("a"), changed);
    let error = result.expect_err(what);
    assert_ne!(error.kind(), ErrorKind::Invalid, "{what}: {error}");
    assert_eq!(released.len(), first_bad_chunk * CHUNK_PLAIN, "{what}: {error}");
    assert!(released == original[..released.len()], "{what}: released other bytes than were sealed");
}

/// The chunk that byte `position` of an object belongs to; the prefix counts as the first.
fn chunk_at(position: usize) -> usize {
    position.saturating_sub(PREFIX_LEN) / CHUNK_SEALED
}

#[test]
fn t1_every_bit_of_a_small_object_counts() {
    for len in [0, 1, 100] {
        let object = sealed(len, &context("a"));
        assert!(open_released(&context("a"), &object).1.is_ok(), "the untouched object opens");
        for position in 0..object.len() {
            for bit in 0..8 {
                let mut changed = object.clone();
                changed[position] ^= 1 << bit;
                check_refused(
                    &changed,
                    0,
                    &plain(len),
                    &format!("length {len}, bit {bit} of byte {position}"),
                );
            }
        }
    }
}

#[test]
fn t1_random_bytes_of_a_large_object_count() {
    let mut random = Random::new("t1_random_bytes_of_a_large_object_count");
    let (len, ctx) = (20 * CHUNK_PLAIN + 777, context("a"));
    let (object, original) = (sealed(len, &ctx), plain(len));
    let chunks = len / CHUNK_PLAIN + 1;
    for _ in 0..400 {
        let position = random.below(object.len());
        let mut changed = object.clone();
        changed[position] ^= u8::try_from(1 + random.below(255)).unwrap();
        check_refused(&changed, chunk_at(position), &original, &format!("byte {position}"));

        // Ranged reads: the touched chunk is refused, its neighbours still open.
        let opener = RangeOpener::new(&key(), &ctx, &changed[..PREFIX_LEN], changed.len() as u64);
        let Ok(opener) = opener else {
            assert!(position < PREFIX_LEN, "byte {position} is not in the prefix");
            continue;
        };
        assert!(position >= PREFIX_LEN, "byte {position} is in the prefix");
        for index in 0..chunks {
            let start = PREFIX_LEN + index * CHUNK_SEALED;
            let chunk = &changed[start..changed.len().min(start + CHUNK_SEALED)];
            let mut out = bytes::BytesMut::new();
            let result = opener.open_chunk(index as u64, chunk, &mut out);
            assert_eq!(result.is_err(), index == chunk_at(position), "chunk {index}, byte {position}");
            assert_eq!(out.is_empty(), result.is_err(), "chunk {index} released bytes and an error");
        }
    }
}

#[test]
fn t2_cut_at_every_length() {
    for len in [0, 1, 100, CHUNK_PLAIN - 1, CHUNK_PLAIN, CHUNK_PLAIN + 1] {
        let object = sealed(len, &context("a"));
        for cut in 0..object.len() {
            let what = format!("length {len} cut to {cut} bytes");
            let whole_chunks = cut.saturating_sub(PREFIX_LEN) / CHUNK_SEALED;
            check_refused(&object[..cut], whole_chunks, &plain(len), &what);
        }
    }
}

#[test]
fn t2_cut_around_every_chunk_edge() {
    let (len, ctx) = (12 * CHUNK_PLAIN + 5000, context("a"));
    let (object, original) = (sealed(len, &ctx), plain(len));
    for edge in 0..=12 {
        let edge_at = PREFIX_LEN + edge * CHUNK_SEALED;
        for cut in [edge_at - 1, edge_at, edge_at + 1, edge_at + 15, edge_at + 16, edge_at + 17] {
            let what = format!("cut to {cut} bytes");
            check_refused(&object[..cut], cut.saturating_sub(PREFIX_LEN) / CHUNK_SEALED, &original, &what);
            // A range reader that believes the shorter length is told when it opens the last chunk, if not before.
            let Ok(shown_len) = plain_len(cut as u64) else { continue };
            let opener = RangeOpener::new(&key(), &ctx, &object[..PREFIX_LEN], cut as u64).unwrap();
            let last = opener.chunks() - 1;
            let fetch = opener.sealed_range(shown_len.saturating_sub(1)..shown_len);
            let fetch = if shown_len % CHUNK_PLAIN as u64 == 0 { cut as u64 - 16..cut as u64 } else { fetch };
            let last_chunk = &object[usize::try_from(fetch.start).unwrap()..cut];
            let mut out = bytes::BytesMut::new();
            assert!(opener.open_chunk(last, last_chunk, &mut out).is_err(), "{what}");
            assert!(out.is_empty(), "{what}");
        }
    }
}

/// Prefix and chunks of an object, to lay out anew.
fn split(object: &[u8]) -> (&[u8], Vec<&[u8]>) {
    let (prefix, body) = object.split_at(PREFIX_LEN);
    (prefix, body.chunks(CHUNK_SEALED).collect())
}

#[test]
fn t3_chunks_dropped_repeated_swapped_and_reversed() {
    let len = 5 * CHUNK_PLAIN + 100;
    let (object, original) = (sealed(len, &context("a")), plain(len));
    let (prefix, chunks) = split(&object);
    let last = chunks.len() - 1;
    let check = |chunks: Vec<&[u8]>, first_bad: usize, what: &str| {
        check_refused(&[prefix, &chunks.concat()].concat(), first_bad, &original, what);
    };
    for i in 0..=last {
        let mut dropped = chunks.clone();
        dropped.remove(i);
        check(dropped, i, &format!("chunk {i} dropped"));
        let mut repeated = chunks.clone();
        repeated.insert(i, chunks[i]);
        // The last one repeated makes one long piece of both; every other repetition is seen at the copy.
        check(repeated, if i == last { last } else { i + 1 }, &format!("chunk {i} repeated"));
        for j in i + 1..=last {
            let mut swapped = chunks.clone();
            swapped.swap(i, j);
            check(swapped, i, &format!("chunks {i} and {j} swapped"));
        }
    }
    let mut reversed = chunks.clone();
    reversed.reverse();
    check(reversed, 0, "reversed");
}

#[test]
fn t3_a_full_chunk_never_passes_for_the_last() {
    // Exactly full chunks: dropping the empty last one leaves an object that ends at a chunk's edge.
    for chunks in 1..4 {
        let len = chunks * CHUNK_PLAIN;
        let object = sealed(len, &context("a"));
        let cut = object.len() - 16;
        check_refused(&object[..cut], chunks, &plain(len), "the empty last chunk dropped");
        assert!(matches!(plain_len(cut as u64), Err(SealError::ImpossibleLength { .. })));
        // And it is told as what it is: cut, not changed.
        let (_, result) = open_released(&context("a"), &object[..cut]);
        assert!(
            matches!(result, Err(SealError::Truncated { sealed_bytes, .. }) if sealed_bytes == cut as u64)
        );
    }
}

#[test]
fn t8_nothing_may_follow() {
    for len in [0, 1, 100, CHUNK_PLAIN - 1, CHUNK_PLAIN, 2 * CHUNK_PLAIN + 9] {
        let (object, original) = (sealed(len, &context("a")), plain(len));
        let last = len / CHUNK_PLAIN;
        for junk_len in [1, 15, 16, 17, CHUNK_SEALED - 1, CHUNK_SEALED, CHUNK_SEALED + 1, 3 * CHUNK_SEALED] {
            for junk in [vec![0; junk_len], plain(junk_len)] {
                let what = format!("length {len}, {junk_len} bytes of junk appended");
                check_refused(&[object.as_slice(), &junk].concat(), last, &original, &what);
            }
        }
        let other = sealed(len, &context("a"));
        check_refused(&[object.as_slice(), &object].concat(), last, &original, "the object twice");
        check_refused(&[object.as_slice(), &other].concat(), last, &original, "two objects");
        let body = &other[PREFIX_LEN..];
        check_refused(&[object.as_slice(), body].concat(), last, &original, "another one's body appended");
    }
}

#[test]
fn t4_chunks_of_another_object_under_the_same_key_do_not_fit() {
    let len = 3 * CHUNK_PLAIN + 100;
    let original = plain(len);
    let a = sealed(len, &context("a"));
    // The same plaintext, key and context sealed again: only the salt differs.
    for b in [sealed(len, &context("a")), sealed(len, &context("b"))] {
        let ((prefix, chunks), (_, others)) = (split(&a), split(&b));
        for i in 0..chunks.len() {
            let mut mixed = chunks.clone();
            mixed[i] = others[i];
            check_refused(
                &[prefix, &mixed.concat()].concat(),
                i,
                &original,
                &format!("chunk {i} of another object"),
            );
        }
        let spliced = [prefix, &b[PREFIX_LEN..]].concat();
        check_refused(&spliced, 0, &original, "the whole body of another object");
    }
}

#[test]
fn every_seal_of_the_same_thing_differs() {
    let objects: Vec<_> =
        (0..10).map(|_| seal_to_vec(&key(), KEY_ID, &context("a"), b"same").unwrap()).collect();
    for (i, a) in objects.iter().enumerate() {
        for b in &objects[i + 1..] {
            assert_ne!(a[32..56], b[32..56], "two salts alike");
            assert_ne!(a[PREFIX_LEN..], b[PREFIX_LEN..], "two ciphertexts alike");
        }
    }
}
