//! Capped collections that hold more than they may: `collMod` lowers their limits, and nothing goes before the next insert.
//!
//! Source: MongoDB manual, "collMod", `cappedSize` and `cappedMax`; tried on 6.0.5.

use bson::{RawBsonRef, RawDocumentBuf};

use super::replay::{Fields, Namespace, ReplayError, Value};
use super::verify::Fingerprint;

/// How to fill a collection that holds more than its options let it.
pub(super) struct Roomy {
    /// Options that have room for all of it.
    pub options: RawDocumentBuf,
    /// The command that sets the limits as they are.
    pub limits: RawDocumentBuf,
}

/// `None` where the options have room for what is `held`.
pub(super) fn roomy(
    namespace: &Namespace,
    options: &RawDocumentBuf,
    held: &Fingerprint,
) -> std::result::Result<Option<Roomy>, ReplayError> {
    let limit = |name| number(options.get(name).ok().flatten()).filter(|limit| *limit > 0);
    let is_above = |name, held: u64| limit(name).is_some_and(|limit| limit < held);
    let (size, max) = (is_above("size", held.bytes), is_above("max", held.documents));
    if !(size || max) {
        return Ok(None);
    }
    let mut roomy = Fields::parse(options.as_bytes())?;
    let mut limits = Fields::default().with("collMod", namespace.collection.as_str());
    if size {
        let was = roomy.remove("size").map(Value::into_owned);
        limits = was.into_iter().fold(limits, |limits, size| limits.with("cappedSize", size));
        let enough: Fields<'static> =
            Fields::default().with("size", i64::try_from(held.bytes).unwrap_or(i64::MAX));
        roomy.extend(enough);
    }
    if max {
        let was = roomy.remove("max").map(Value::into_owned);
        limits = was.into_iter().fold(limits, |limits, max| limits.with("cappedMax", max));
    }
    Ok(Some(Roomy { options: roomy.to_raw()?, limits: limits.to_raw()? }))
}

/// The server tells limits in whatever type they were set.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "limits are whole and positive")]
fn number(value: Option<RawBsonRef<'_>>) -> Option<u64> {
    match value? {
        RawBsonRef::Int32(number) => number.try_into().ok(),
        RawBsonRef::Int64(number) => number.try_into().ok(),
        RawBsonRef::Double(number) => Some(number as u64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bson::{doc, rawdoc};

    use super::*;

    #[test]
    fn what_holds_more_than_it_may_gets_room_first_and_its_limits_then() {
        let namespace = Namespace::new("d", "k");
        let document = rawdoc! { "_id": 1, "text": "x".repeat(1000) };
        let mut held = Fingerprint::default();
        (0..5).for_each(|_| held.add(document.as_bytes()));
        let bytes = i64::try_from(held.bytes).expect("it is short");
        for (options, expected) in [
            (doc! { "capped": true, "size": 8192.0, "max": 5 }, None),
            (doc! { "capped": true, "size": 8192, "max": 0 }, None),
            (
                doc! { "capped": true, "size": 8192, "max": 3_i64 },
                Some((doc! { "capped": true, "size": 8192 }, doc! { "collMod": "k", "cappedMax": 3_i64 })),
            ),
            (
                doc! { "capped": true, "size": 4096_i64, "max": 9 },
                Some((
                    doc! { "capped": true, "max": 9, "size": bytes },
                    doc! { "collMod": "k", "cappedSize": 4096_i64 },
                )),
            ),
        ] {
            let raw = RawDocumentBuf::try_from(&options).expect("a document");
            let found = roomy(&namespace, &raw, &held).expect("it is understood");
            let found = found.map(|found| {
                let document = |raw: RawDocumentBuf| bson::Document::try_from(raw).expect("a document");
                (document(found.options), document(found.limits))
            });
            assert_eq!(found, expected, "{options}");
        }
    }
}
