//! mongod's `$v: 2` update: a difference between two images of a document.
//!
//! A diff must not become dotted `$set` paths: field names may hold dots, digits and dollars. So it is applied to the image,
//! by mongod's own rules for images that do not fit, which are what makes applying entries again converge.

use std::borrow::Cow;

use super::ReplayError;
use super::fields::{BINARY, Fields, Value};

/// Subtypes of binary data that a column of a time-series bucket may have: plain, and compressed.
const COLUMN_SUBTYPES: [u8; 2] = [0, 7];

/// The image that `diff` makes of `document`. Sections that are not known are an error, told by their name.
///
/// # Errors
/// A section that no known mongod writes, a value of the wrong type, or damaged bytes.
pub fn apply(document: &[u8], diff: &[u8]) -> Result<Vec<u8>, ReplayError> {
    let mut fields = Fields::parse(document)?;
    apply_to_document(&mut fields, &Fields::parse(diff)?)?;
    Ok(fields.to_bytes())
}

fn apply_to_document<'a>(document: &mut Fields<'a>, diff: &Fields<'a>) -> Result<(), ReplayError> {
    for (section, value) in &diff.0 {
        if !value.is_document() {
            return Err(unknown("", section));
        }
        match section.as_ref() {
            b"d" => {
                for (field, _) in value.fields()?.0 {
                    document.take(&field);
                }
            }
            b"u" => {
                for (field, value) in value.fields()?.into_owned().0 {
                    document.put(field, value);
                }
            }
            b"i" => {
                for (field, value) in value.fields()?.into_owned().0 {
                    document.take(&field);
                    document.0.push((field, value));
                }
            }
            b"b" => {
                for (field, patch) in value.fields()?.0 {
                    patch_binary(document.find_mut(&field), &patch)?;
                }
            }
            section if section.first() == Some(&b's') => {
                if let Some(place) = document.find_mut(&section[1..]) {
                    *place = apply_inside(place, value)?;
                }
            }
            section => return Err(unknown("", section)),
        }
    }
    Ok(())
}

/// A diff of what a field or an element holds; null if it holds another type than the diff is for.
fn apply_inside(value: &Value<'_>, diff: &Value<'_>) -> Result<Value<'static>, ReplayError> {
    let diff = diff.fields()?;
    let for_array = diff.get("a").is_some_and(|array| array.is(true));
    if for_array && value.is_array() {
        return apply_to_array(value, &diff);
    }
    if !for_array && value.is_document() {
        let mut fields = value.fields()?;
        apply_to_document(&mut fields, &diff)?;
        return Ok(fields.into());
    }
    Ok(Value::null())
}

fn apply_to_array(array: &Value<'_>, diff: &Fields<'_>) -> Result<Value<'static>, ReplayError> {
    let mut elements: Vec<Value<'_>> = array.fields()?.0.into_iter().map(|(_, value)| value).collect();
    if let Some(length) = diff.get("l") {
        let length = length.as_integer().and_then(|length| usize::try_from(length).ok());
        let length = length.ok_or_else(|| malformed("a diff with a wrong length"))?;
        elements.resize(length.min(LONGEST_ARRAY), Value::null());
    }
    for (section, value) in &diff.0 {
        let digits = section.get(1..).and_then(|digits| std::str::from_utf8(digits).ok());
        let Some(at) =
            digits.and_then(|digits| digits.parse::<usize>().ok()).filter(|at| *at < LONGEST_ARRAY)
        else {
            if matches!(section.as_ref(), b"a" | b"l") {
                continue;
            }
            return Err(unknown("of an array ", section));
        };
        if elements.len() <= at {
            elements.resize(at + 1, Value::null());
        }
        elements[at] = match section[0] {
            b'u' => value.clone(),
            b's' => apply_inside(&elements[at], value)?,
            _ => return Err(unknown("of an array ", section)),
        };
    }
    Ok(Fields::array(elements))
}

/// An element takes at least four bytes with its name, and a document 16 MiB at most: no array is longer.
const LONGEST_ARRAY: usize = 4 << 20;

/// A column of a compressed time-series bucket: what lies from the offset on is replaced. An image too short for it is one
/// of which a later entry brings the whole.
fn patch_binary(value: Option<&mut Value<'_>>, patch: &Value<'_>) -> Result<(), ReplayError> {
    let wrong = || malformed("a binary diff of an unknown shape");
    let patch = patch.fields()?;
    let offset = patch.get("o").and_then(Value::as_integer).and_then(|at| usize::try_from(at).ok());
    let (offset, new) =
        (offset.ok_or_else(wrong)?, patch.get("d").filter(|d| d.kind == BINARY).ok_or_else(wrong)?);
    let (_, new) = binary(&new.bytes).ok_or_else(wrong)?;
    let Some(value) = value.filter(|value| value.kind == BINARY) else { return Ok(()) };
    let Some((subtype, old)) = binary(&value.bytes) else { return Ok(()) };
    if !COLUMN_SUBTYPES.contains(&subtype) || offset > old.len() {
        return Ok(());
    }
    let length = i32::try_from(offset + new.len()).map_err(|_| wrong())?;
    value.bytes = Cow::Owned([&length.to_le_bytes()[..], &[subtype], &old[..offset], new].concat());
    Ok(())
}

/// Subtype and content.
fn binary(bytes: &[u8]) -> Option<(u8, &[u8])> {
    Some((*bytes.get(4)?, bytes.get(5..)?))
}

fn unknown(what: &str, section: &[u8]) -> ReplayError {
    malformed(&format!("a diff {what}with section {:?}", String::from_utf8_lossy(section)))
}

fn malformed(what: &str) -> ReplayError {
    ReplayError::Malformed(what.to_owned())
}

#[cfg(test)]
mod tests {
    use bson::spec::BinarySubtype;
    use bson::{Binary, Bson, Document, doc};
    use proptest::prelude::*;

    use super::*;

    fn patch(image: &mut Document, diff: &Document) -> Result<(), ReplayError> {
        let bytes = |document: &Document| bson::serialize_to_vec(document).expect("a document");
        let after = apply(&bytes(image), &bytes(diff))?;
        *image = bson::deserialize_from_slice(&after).expect("a document");
        Ok(())
    }

    /// The diff that mongod writes for this update: sections in its order, sub-diffs where both are of one type.
    fn diff(before: &Document, after: &Document) -> Document {
        let (mut removed, mut updated, mut inserted) = (Document::new(), Document::new(), Document::new());
        let mut inside = Document::new();
        for (field, old) in before {
            match (old, after.get(field)) {
                (_, None) => drop(removed.insert(field, false)),
                (old, Some(new)) if old == new => {}
                (Bson::Document(old), Some(Bson::Document(new))) => {
                    inside.insert(format!("s{field}"), diff(old, new));
                }
                (Bson::Array(old), Some(Bson::Array(new))) => {
                    inside.insert(format!("s{field}"), diff_of_arrays(old, new));
                }
                (_, Some(new)) => drop(updated.insert(field, new.clone())),
            }
        }
        for (field, new) in after.iter().filter(|(field, _)| !before.contains_key(field)) {
            inserted.insert(field, new.clone());
        }
        let mut all = Document::new();
        for (section, fields) in [("d", removed), ("u", updated), ("i", inserted)] {
            if !fields.is_empty() {
                all.insert(section, fields);
            }
        }
        all.extend(inside);
        all
    }

    fn diff_of_arrays(before: &[Bson], after: &[Bson]) -> Document {
        let mut all = doc! { "a": true };
        if after.len() < before.len() {
            all.insert("l", i32::try_from(after.len()).expect("a short array"));
        }
        for (at, new) in after.iter().enumerate() {
            match (before.get(at), new) {
                (Some(old), new) if old == new => {}
                (Some(Bson::Document(old)), Bson::Document(new)) => {
                    all.insert(format!("s{at}"), diff(old, new));
                }
                (Some(Bson::Array(old)), Bson::Array(new)) => {
                    all.insert(format!("s{at}"), diff_of_arrays(old, new));
                }
                (_, new) => drop(all.insert(format!("u{at}"), new.clone())),
            }
        }
        all
    }

    /// Without the order of fields, which two images may differ in.
    fn unordered(value: &Bson) -> Bson {
        match value {
            Bson::Document(document) => {
                let mut fields: Vec<_> = document.iter().map(|(k, v)| (k.clone(), unordered(v))).collect();
                fields.sort_by(|a, b| a.0.cmp(&b.0));
                Bson::Document(fields.into_iter().collect())
            }
            Bson::Array(values) => Bson::Array(values.iter().map(unordered).collect()),
            other => other.clone(),
        }
    }

    /// Few field names, odd ones among them, so that updates meet.
    fn document() -> impl Strategy<Value = Document> {
        let leaf = prop_oneof![(0..3_i32).prop_map(Bson::Int32), Just(Bson::Null), Just(Bson::from("$x"))];
        let value = leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Bson::Array),
                fields(inner).prop_map(Bson::Document),
            ]
        });
        fields(value)
    }

    fn fields(value: impl Strategy<Value = Bson>) -> impl Strategy<Value = Document> {
        let names = prop::sample::select(vec!["a", "b.c", "$d", "0", ""]);
        prop::collection::btree_map(names, value, 0..4)
            .prop_map(|fields| fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    proptest! {
        #[test]
        fn a_diff_leads_from_one_image_to_the_next(before in document(), after in document()) {
            let mut image = before.clone();
            patch(&mut image, &diff(&before, &after)).expect("it is well formed");
            prop_assert_eq!(unordered(&image.into()), unordered(&after.into()));
        }

        /// A copy that was made at any moment, and has some or all of the changes already, ends as the newest image.
        #[test]
        fn diffs_that_an_image_already_has_converge(images in prop::collection::vec(document(), 2..6)) {
            let diffs: Vec<Document> = images.windows(2).map(|pair| diff(&pair[0], &pair[1])).collect();
            let newest = unordered(&images[images.len() - 1].clone().into());
            for copied in &images {
                let mut image = copied.clone();
                for diff in diffs.iter().chain(&diffs) {
                    patch(&mut image, diff).expect("it is well formed");
                }
                prop_assert_eq!(unordered(&image.into()), newest.clone());
            }
        }
    }

    #[test]
    fn what_is_not_known_is_an_error_and_what_does_not_fit_is_not() {
        let mut image = doc! { "a": 1, "bytes": Bson::Binary(Binary { subtype: BinarySubtype::Column, bytes: vec![1, 2, 3] }) };
        assert!(patch(&mut image, &doc! { "x": {} }).is_err());
        assert!(patch(&mut image, &doc! { "sa": { "a": true, "zz": 1 } }).is_ok(), "another type: null");
        assert_eq!(image.get("a"), Some(&Bson::Null));
        patch(&mut image, &doc! { "smissing": { "u": { "x": 1 } } }).expect("nothing to do");
        assert!(!image.contains_key("missing"));
        let nine = Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: vec![9] });
        patch(&mut image, &doc! { "b": { "bytes": { "o": 2, "d": nine } } }).expect("a patch");
        assert!(
            matches!(image.get("bytes"), Some(Bson::Binary(Binary { bytes, .. })) if bytes == &[1, 2, 9])
        );
    }

    #[test]
    fn text_that_is_no_text_and_names_that_come_twice_stay() {
        let text = |name: &str| Value {
            kind: 2,
            bytes: [&3_i32.to_le_bytes()[..], name.as_bytes(), &[0xff, 0]].concat().into(),
        };
        let mut image = Fields::default();
        for (name, value) in [("a", text("x")), ("b", 1_i32.into()), ("b", 2_i32.into()), ("c", text("y"))] {
            image.0.push((name.as_bytes().into(), value));
        }
        let change =
            bson::serialize_to_vec(&doc! { "u": { "c": 5 }, "i": { "new": 1 } }).expect("a document");
        let after = apply(&image.to_bytes(), &change).expect("it applies");
        image.set("c", 5_i32);
        image.set("new", 1_i32);
        assert_eq!(after, image.to_bytes());
    }
}
