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
