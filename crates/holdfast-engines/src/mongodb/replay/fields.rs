//! A BSON document as its fields, each with its bytes as they are.
//!
//! Servers store what clients send: text that is no UTF-8, field names that occur twice. Types that hold values parsed cannot
//! carry those, so whatever is changed on its way from one server to another is changed here.
//!
//! Source of the layout: the BSON specification, version 1.1.

use std::borrow::Cow;

use bson::RawDocumentBuf;

use super::ReplayError;

pub(super) const STRING: u8 = 0x02;
pub(super) const DOCUMENT: u8 = 0x03;
pub(super) const ARRAY: u8 = 0x04;
pub(super) const BINARY: u8 = 0x05;
pub(super) const BOOLEAN: u8 = 0x08;
pub(super) const NULL: u8 = 0x0a;
const DOUBLE: u8 = 0x01;
const REGULAR_EXPRESSION: u8 = 0x0b;
const INT32: u8 = 0x10;
pub(in super::super) const TIMESTAMP: u8 = 0x11;
const INT64: u8 = 0x12;
/// A length before, a zero behind.
const FRAME_BYTES: usize = 5;

/// A value of any type: its type's number and its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value<'a> {
    pub(super) kind: u8,
    pub(super) bytes: Cow<'a, [u8]>,
}

impl<'a> Value<'a> {
    pub(super) fn null() -> Self {
        Self { kind: NULL, bytes: Cow::Borrowed(&[]) }
    }

    pub(super) fn document(bytes: Vec<u8>) -> Self {
        Self { kind: DOCUMENT, bytes: bytes.into() }
    }

    #[must_use]
    pub fn into_owned(self) -> Value<'static> {
        Value { kind: self.kind, bytes: self.bytes.into_owned().into() }
    }

    /// What it takes, about.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    #[must_use]
    pub fn is_document(&self) -> bool {
        self.kind == DOCUMENT
    }

    /// Whether a query takes it for more than a value: operators, or a pattern. A reference (`DBRef`) is a value.
    ///
    /// # Errors
    /// When it is no whole document.
    pub fn is_condition(&self) -> Result<bool, ReplayError> {
        if !self.is_document() {
            return Ok(self.kind == REGULAR_EXPRESSION);
        }
        let fields = self.fields()?;
        let first = fields.iter().next().map(|(name, _)| name);
        Ok(first
            .is_some_and(|name| name.starts_with(b"$") && ![&b"$ref"[..], b"$id", b"$db"].contains(&name)))
    }

    #[must_use]
    pub fn is_array(&self) -> bool {
        self.kind == ARRAY
    }

    /// Text, if it is text and well formed.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        let text = self.bytes.get(4..self.bytes.len().checked_sub(1)?)?;
        (self.kind == STRING).then(|| std::str::from_utf8(text).ok())?
    }

    /// The fields of a document or an array.
    ///
    /// # Errors
    /// It is neither, or damaged.
    pub fn fields(&self) -> Result<Fields<'_>, ReplayError> {
        match self.kind {
            DOCUMENT | ARRAY => Fields::parse(&self.bytes),
            other => Err(malformed(format!("a document was expected, not a value of type {other}"))),
        }
    }

    #[must_use]
    pub fn is(&self, wanted: bool) -> bool {
        self.kind == BOOLEAN && *self.bytes == [u8::from(wanted)]
    }

    /// A whole number of any of the types that hold one.
    #[must_use]
    pub fn as_integer(&self) -> Option<i64> {
        match self.kind {
            INT32 => Some(i32::from_le_bytes(self.bytes.as_ref().try_into().ok()?).into()),
            INT64 => Some(i64::from_le_bytes(self.bytes.as_ref().try_into().ok()?)),
            DOUBLE => {
                let number = f64::from_le_bytes(self.bytes.as_ref().try_into().ok()?);
                #[expect(clippy::cast_possible_truncation, reason = "whole, and far inside")]
                (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64)
            }
            _ => None,
        }
    }

    /// The content of binary data.
    #[must_use]
    pub fn binary(&self) -> Option<&[u8]> {
        (self.kind == BINARY).then(|| self.bytes.get(5..))?
    }

    /// A timestamp of nothing, which servers replace by the present one in what is inserted.
    #[must_use]
    pub fn is_empty_timestamp(&self) -> bool {
        self.kind == TIMESTAMP && self.bytes.iter().all(|byte| *byte == 0)
    }
}

impl From<i64> for Value<'static> {
    fn from(number: i64) -> Self {
        Self { kind: INT64, bytes: number.to_le_bytes().to_vec().into() }
    }
}

impl From<i32> for Value<'static> {
    fn from(number: i32) -> Self {
        Self { kind: INT32, bytes: number.to_le_bytes().to_vec().into() }
    }
}

impl From<bool> for Value<'static> {
    fn from(value: bool) -> Self {
        Self { kind: BOOLEAN, bytes: vec![u8::from(value)].into() }
    }
}

impl From<&str> for Value<'static> {
    fn from(text: &str) -> Self {
        let length = i32::try_from(text.len() + 1).expect("a name or a short text");
        let bytes = [&length.to_le_bytes(), text.as_bytes(), &[0]].concat();
        Self { kind: STRING, bytes: bytes.into() }
    }
}

impl From<Fields<'_>> for Value<'static> {
    fn from(fields: Fields<'_>) -> Self {
        Self::document(fields.to_bytes())
    }
}

impl<'a> From<&'a RawDocumentBuf> for Value<'a> {
    fn from(document: &'a RawDocumentBuf) -> Self {
        Self { kind: DOCUMENT, bytes: document.as_bytes().into() }
    }
}

/// The fields of a document, or the elements of an array, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fields<'a>(pub(super) Vec<(Cow<'a, [u8]>, Value<'a>)>);

impl<'a> Fields<'a> {
    /// # Errors
    /// Bytes that are no document.
    pub fn parse(document: &'a [u8]) -> Result<Self, ReplayError> {
        let cut = || malformed("a document that is cut off");
        let length = document.first_chunk::<4>().map(|length| i32::from_le_bytes(*length)).ok_or_else(cut)?;
        if usize::try_from(length) != Ok(document.len()) || document.last() != Some(&0) {
            return Err(malformed("a document of another length than it says"));
        }
        let mut rest = document.get(4..document.len() - 1).ok_or_else(cut)?;
        let mut fields = Vec::new();
        while let Some((&kind, behind)) = rest.split_first() {
            let name = behind.iter().position(|byte| *byte == 0).ok_or_else(cut)?;
            let (name, behind) = (&behind[..name], &behind[name + 1..]);
            let length = value_length(kind, behind)?;
            let value = behind.get(..length).ok_or_else(cut)?;
            fields.push((name.into(), Value { kind, bytes: value.into() }));
            rest = &behind[length..];
        }
        Ok(Self(fields))
    }

    #[must_use]
    pub fn into_owned(self) -> Fields<'static> {
        let owned = self.0.into_iter();
        Fields(owned.map(|(name, value)| (name.into_owned().into(), value.into_owned())).collect())
    }

    /// The elements of an array.
    pub fn array(values: impl IntoIterator<Item = Value<'a>>) -> Value<'static> {
        let named = values.into_iter().enumerate();
        let fields = Self(named.map(|(n, value)| (n.to_string().into_bytes().into(), value)).collect());
        Value { kind: ARRAY, bytes: fields.to_bytes().into() }
    }

    /// The first field of the name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value<'a>> {
        self.find(name.as_bytes())
    }

    pub(super) fn find(&self, name: &[u8]) -> Option<&Value<'a>> {
        self.0.iter().find(|(known, _)| known.as_ref() == name).map(|(_, value)| value)
    }

    pub(super) fn find_mut(&mut self, name: &[u8]) -> Option<&mut Value<'a>> {
        self.0.iter_mut().find(|(known, _)| known.as_ref() == name).map(|(_, value)| value)
    }

    /// Puts a value in the place of the one of that name, or at the end.
    pub(super) fn put(&mut self, name: Cow<'a, [u8]>, value: Value<'a>) {
        match self.find_mut(&name) {
            Some(place) => *place = value,
            None => self.0.push((name, value)),
        }
    }

    /// The same, by a name that the code has.
    pub fn set(&mut self, name: &'static str, value: impl Into<Value<'a>>) {
        self.put(name.as_bytes().into(), value.into());
    }

    /// A document of one field, whatever that is called.
    #[must_use]
    pub fn one(name: &[u8], value: Value<'a>) -> Self {
        Self(vec![(name.to_vec().into(), value)])
    }

    /// With one more field.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value<'a>>) -> Self {
        self.set(name, value);
        self
    }

    pub fn remove(&mut self, name: &str) -> Option<Value<'a>> {
        self.take(name.as_bytes())
    }

    pub(super) fn take(&mut self, name: &[u8]) -> Option<Value<'a>> {
        let at = self.0.iter().position(|(known, _)| known.as_ref() == name)?;
        Some(self.0.remove(at).1)
    }

    /// Adds another document's fields at the end.
    pub fn extend(&mut self, more: Fields<'a>) {
        self.0.extend(more.0);
    }

    /// Keeps those whose name is as wished.
    pub fn retain(&mut self, wanted: impl Fn(&[u8]) -> bool) {
        self.0.retain(|(name, _)| wanted(name));
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Value<'a>)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value))
    }

    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let content: usize = self.0.iter().map(|(name, value)| name.len() + 2 + value.bytes.len()).sum();
        let length = content + FRAME_BYTES;
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(&i32::try_from(length).unwrap_or(i32::MAX).to_le_bytes());
        for (name, value) in &self.0 {
            bytes.push(value.kind);
            bytes.extend_from_slice(name);
            bytes.push(0);
            bytes.extend_from_slice(&value.bytes);
        }
        bytes.push(0);
        bytes
    }

    /// # Errors
    /// More than a document holds.
    pub fn to_raw(&self) -> Result<RawDocumentBuf, ReplayError> {
        RawDocumentBuf::from_bytes(self.to_bytes()).map_err(malformed)
    }
}

/// Bytes that a value of a type takes.
fn value_length(kind: u8, bytes: &[u8]) -> Result<usize, ReplayError> {
    let prefix = || {
        let length = bytes.first_chunk::<4>().map(|length| i32::from_le_bytes(*length));
        length
            .and_then(|length| usize::try_from(length).ok())
            .ok_or_else(|| malformed("a length that is none"))
    };
    let zero = |from: usize| {
        let text = bytes.get(from..).unwrap_or_default();
        let end = text.iter().position(|byte| *byte == 0);
        end.map(|end| from + end + 1).ok_or_else(|| malformed("a text without an end"))
    };
    let length = match kind {
        0x06 | 0x0a | 0x7f | 0xff => 0,
        0x08 => 1,
        0x10 => 4,
        0x01 | 0x09 | 0x11 | 0x12 => 8,
        0x07 => 12,
        0x13 => 16,
        0x02 | 0x0d | 0x0e => 4 + prefix()?,
        0x03 | 0x04 | 0x0f => prefix()?,
        0x05 => 5 + prefix()?,
        0x0b => zero(zero(0)?)?,
        0x0c => 16 + prefix()?,
        other => return Err(malformed(format!("a value of an unknown type {other}"))),
    };
    Ok(length)
}

fn malformed(error: impl std::fmt::Display) -> ReplayError {
    ReplayError::Malformed(error.to_string())
}

#[cfg(test)]
mod tests {
    use bson::{Bson, doc};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_type_passes_as_it_is() {
        let document = doc! {
            "": 1.5, "text": "zwölf\u{0}", "document": { "a": [1, [2]] }, "array": [], "none": Bson::Null,
            "bytes": Bson::Binary(bson::Binary { subtype: bson::spec::BinarySubtype::BinaryOld, bytes: vec![0, 255] }),
            "undefined": Bson::Undefined, "id": bson::oid::ObjectId::new(), "yes": true, "at": bson::DateTime::MIN,
            "regex": Bson::RegularExpression(bson::Regex { pattern: "^a".try_into().expect("text"), options: "i".try_into().expect("text") }),
            "code": Bson::JavaScriptCode("f()".to_owned()), "symbol": Bson::Symbol("s".to_owned()), "int": 1_i32,
            "scoped": Bson::JavaScriptCodeWithScope(bson::JavaScriptCodeWithScope { code: "f".to_owned(), scope: doc! { "a": 1 } }),
            "stamp": Bson::Timestamp(bson::Timestamp { time: 1, increment: 2 }), "long": 1_i64,
            "decimal": Bson::Decimal128("1.50".parse().expect("a number")), "min": Bson::MinKey, "max": Bson::MaxKey,
        };
        let bytes = bson::serialize_to_vec(&document).expect("a document");
        let fields = Fields::parse(&bytes).expect("a document");
        assert_eq!(fields.len(), document.len());
        assert_eq!(fields.to_bytes(), bytes);
        assert_eq!(fields.get("text").and_then(Value::as_str), Some("zwölf\u{0}"));
        assert_eq!(fields.get("int").and_then(Value::as_integer), Some(1));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fall_over(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut framed = bytes.clone();
            framed.splice(0..0, i32::try_from(bytes.len() + 5).expect("short").to_le_bytes());
            framed.push(0);
            for document in [&bytes, &framed] {
                if let Ok(fields) = Fields::parse(document) {
                    prop_assert_eq!(&fields.to_bytes(), document);
                }
            }
        }
    }
}
