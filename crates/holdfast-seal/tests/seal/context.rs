//! An object opens as what it is and as nothing else.

use std::collections::HashSet;

use holdfast_seal::{
    DataKey, HEADER_LEN, Header, ObjectContext, ObjectKind, Opener, PREFIX_LEN, RangeOpener, SealError,
    open_to_vec, seal_to_vec,
};
use uuid::Uuid;

use crate::common::{KEY_ID, context, key, plain, sealed};

/// Every context that differs from `ctx` in one field.
fn neighbours(ctx: &ObjectContext) -> Vec<ObjectContext> {
    let mut all = Vec::new();
    let mut with = |change: &dyn Fn(&mut ObjectContext)| {
        let mut other = ctx.clone();
        change(&mut other);
        all.push(other);
    };
    with(&|c| c.organization.push('x'));
    with(&|c| c.service.push('x'));
    with(&|c| c.lineage.push('x'));
    with(&|c| c.owner.push('x'));
    with(&|c| c.name.push('x'));
    with(&|c| c.name.clear());
    with(&|c| std::mem::swap(&mut c.service, &mut c.lineage));
    for kind in ObjectKind::ALL {
        if kind != ctx.kind {
            with(&|c| c.kind = kind);
        }
    }
    all
}

#[track_caller]
fn check_foreign(key: &DataKey, ctx: &ObjectContext, object: &[u8]) {
    let result = open_to_vec(key, ctx, object);
    assert!(matches!(result, Err(SealError::WrongKeyOrContext { .. })), "{ctx:?}: {result:?}");
    let ranged = RangeOpener::new(key, ctx, &object[..PREFIX_LEN], object.len() as u64);
    assert!(matches!(ranged, Err(SealError::WrongKeyOrContext { .. })), "ranged, {ctx:?}");
}

#[test]
fn t5_an_object_opens_only_in_its_own_place() {
    let ctx = context("base/1/1259");
    let object = sealed(100, &ctx);
    assert_eq!(open_to_vec(&key(), &ctx, &object).unwrap(), plain(100));
    for other in neighbours(&ctx) {
        check_foreign(&key(), &other, &object);
    }
}

#[test]
fn t5_an_older_generation_does_not_pass_for_a_newer() {
    let (old, new) = (context("backup.info/000001"), context("backup.info/000002"));
    let object = sealed(100, &old);
    check_foreign(&key(), &new, &object);
}

#[test]
fn t4_parts_of_two_backups_do_not_change_places() {
    let mut other = context("base.tar");
    other.owner = "bkp_zzzzzzzzzz999999".to_owned();
    let other_key = DataKey::random();
    let other_id = Uuid::new_v4();
    let ours = sealed(100, &context("base.tar"));
    let theirs = seal_to_vec(&other_key, other_id, &other, &plain(100)).unwrap();
    // Their object in our place, with either key, and the other way round.
    check_foreign(&key(), &context("base.tar"), &theirs);
    check_foreign(&other_key, &context("base.tar"), &theirs);
    check_foreign(&other_key, &other, &ours);
    check_foreign(&key(), &other, &ours);
    // Nor with the header put right.
    let dressed = [&ours[..HEADER_LEN], &theirs[HEADER_LEN..]].concat();
    check_foreign(&other_key, &other, &dressed);
    check_foreign(&key(), &context("base.tar"), &dressed);
}

#[test]
fn one_context_one_encoding() {
    let header = Header::new(KEY_ID).to_bytes();
    let mut seen = HashSet::new();
    for (organization, service) in [("ab", "c"), ("a", "bc"), ("", "abc"), ("abc", "")] {
        for (owner, name) in [("o\0", "n"), ("o", "\0n"), ("", "o\0n"), ("o\0\0\0\u{1}n", "")] {
            let mut ctx = context(name);
            (ctx.organization, ctx.service) = (organization.to_owned(), service.to_owned());
            ctx.owner = owner.to_owned();
            assert!(seen.insert(ctx.encode(&header)), "{ctx:?} has the encoding of another context");
        }
    }
    let other_key = Header::new(Uuid::nil()).to_bytes();
    assert_ne!(context("a").encode(&header), context("a").encode(&other_key));
}

#[test]
fn kinds_have_names_of_their_own() {
    let names: HashSet<_> = ObjectKind::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(names.len(), ObjectKind::ALL.len());
}

#[test]
fn a_header_reads_back_and_nothing_else_is_one() {
    let header = Header::new(KEY_ID);
    let bytes = header.to_bytes();
    assert_eq!(Header::parse(&bytes), Ok(header));
    assert_eq!(Header::parse(&sealed(0, &context("a"))), Ok(header), "what follows is ignored");
    for cut in 0..HEADER_LEN {
        assert!(matches!(Header::parse(&bytes[..cut]), Err(SealError::NotSealed { .. })), "{cut} bytes");
    }
    for position in 0..16 {
        let mut changed = bytes;
        changed[position] ^= 1;
        assert!(Header::parse(&changed).is_err(), "byte {position}");
    }
    let mut newer = bytes;
    newer[9] = 2;
    assert!(matches!(Header::parse(&newer), Err(SealError::UnsupportedVersion { version: 2, .. })));
}

#[test]
fn the_opener_tells_whose_key_it_was_once_that_is_certain() {
    let object = sealed(10, &context("a"));
    let mut opener = Opener::new(&key(), &context("a"));
    let mut out = bytes::BytesMut::new();
    opener.update(&object[..PREFIX_LEN - 1], &mut out).unwrap();
    assert_eq!(opener.header(), None);
    opener.update(&object[PREFIX_LEN - 1..PREFIX_LEN], &mut out).unwrap();
    assert_eq!(opener.header().map(|h| h.key_id), Some(KEY_ID));
}
