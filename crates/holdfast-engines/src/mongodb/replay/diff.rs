//! mongod's `$v: 2` update: a difference between two images of a document.
//!
//! A diff must not become dotted `$set` paths: field names may hold dots, digits and dollars. So it is applied to the image,
//! by mongod's own rules for images that do not fit, which are what makes applying entries again converge.

use bson::spec::BinarySubtype;
use bson::{Binary, Bson, Document};

/// Applies `diff` to `document`, in place. Sections that are not known are an error, told by their name.
///
/// # Errors
/// The name of a section that no known mongod writes, or a value of the wrong type.
pub fn apply(document: &mut Document, diff: &Document) -> Result<(), String> {
    for (section, value) in diff {
        match (section.as_str(), value) {
            ("d", Bson::Document(fields)) => {
                for field in fields.keys() {
                    document.remove(field);
                }
            }
            ("u", Bson::Document(fields)) => {
                for (field, value) in fields {
                    document.insert(field.clone(), value.clone());
                }
            }
            ("i", Bson::Document(fields)) => {
                for (field, value) in fields {
                    document.remove(field);
                    document.insert(field.clone(), value.clone());
                }
            }
            ("b", Bson::Document(fields)) => {
                for (field, patch) in fields {
                    patch_binary(document.get_mut(field), patch)?;
                }
            }
            (section, Bson::Document(inner)) if section.starts_with('s') => {
                if let Some(value) = document.get_mut(&section[1..]) {
                    apply_inside(value, inner)?;
                }
            }
            (section, _) => return Err(format!("a diff with section {section:?}")),
        }
    }
    Ok(())
}

/// A diff of what a field or an element holds; null if it holds another type than the diff is for.
fn apply_inside(value: &mut Bson, diff: &Document) -> Result<(), String> {
    let for_array = diff.get("a") == Some(&Bson::Boolean(true));
    match value {
        Bson::Array(array) if for_array => apply_to_array(array, diff),
        Bson::Document(document) if !for_array => apply(document, diff),
        other => {
            *other = Bson::Null;
            Ok(())
        }
    }
}

fn apply_to_array(array: &mut Vec<Bson>, diff: &Document) -> Result<(), String> {
    if let Some(length) = diff.get("l") {
        array.resize(index(length).ok_or("a diff with a wrong length")?, Bson::Null);
    }
    for (section, value) in diff {
        let Some(at) = section.get(1..).and_then(|digits| digits.parse::<usize>().ok()) else {
            if matches!(section.as_str(), "a" | "l") {
                continue;
            }
            return Err(format!("a diff of an array with section {section:?}"));
        };
        if array.len() <= at {
            array.resize(at + 1, Bson::Null);
        }
        match (&section[..1], value) {
            ("u", value) => array[at] = value.clone(),
            ("s", Bson::Document(inner)) => apply_inside(&mut array[at], inner)?,
            _ => return Err(format!("a diff of an array with section {section:?}")),
        }
    }
    Ok(())
}

/// A column of a compressed time-series bucket: what lies from the offset on is replaced. An image too short for it is one
/// of which a later entry brings the whole.
fn patch_binary(value: Option<&mut Bson>, patch: &Bson) -> Result<(), String> {
    let wrong = || "a binary diff of an unknown shape".to_owned();
    let patch = patch.as_document().ok_or_else(wrong)?;
    let offset = patch.get("o").and_then(index).ok_or_else(wrong)?;
    let Some(Bson::Binary(Binary { bytes, .. })) = patch.get("d") else { return Err(wrong()) };
    match value {
        Some(Bson::Binary(Binary {
            subtype: BinarySubtype::Column | BinarySubtype::Generic,
            bytes: old,
        })) if offset <= old.len() => {
            old.truncate(offset);
            old.extend_from_slice(bytes);
            Ok(())
        }
        _ => Ok(()),
    }
}

fn index(value: &Bson) -> Option<usize> {
    match value {
        Bson::Int32(number) => usize::try_from(*number).ok(),
        Bson::Int64(number) => usize::try_from(*number).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bson::doc;
    use proptest::prelude::*;

    use super::*;

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
            apply(&mut image, &diff(&before, &after)).expect("it is well formed");
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
                    apply(&mut image, diff).expect("it is well formed");
                }
                prop_assert_eq!(unordered(&image.into()), newest.clone());
            }
        }
    }

    #[test]
    fn what_is_not_known_is_an_error_and_what_does_not_fit_is_not() {
        let mut image = doc! { "a": 1, "bytes": Bson::Binary(Binary { subtype: BinarySubtype::Column, bytes: vec![1, 2, 3] }) };
        assert!(apply(&mut image, &doc! { "x": {} }).is_err());
        assert!(apply(&mut image, &doc! { "sa": { "a": true, "zz": 1 } }).is_ok(), "another type: null");
        assert_eq!(image.get("a"), Some(&Bson::Null));
        apply(&mut image, &doc! { "smissing": { "u": { "x": 1 } } }).expect("nothing to do");
        assert!(!image.contains_key("missing"));
        let patch = Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: vec![9] });
        apply(&mut image, &doc! { "b": { "bytes": { "o": 2, "d": patch } } }).expect("a patch");
        assert!(
            matches!(image.get("bytes"), Some(Bson::Binary(Binary { bytes, .. })) if bytes == &[1, 2, 9])
        );
    }
}
