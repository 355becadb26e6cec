//! How domain values stand in columns: ids and enum words as TEXT, instants as BIGINT microseconds since the epoch,
//! unqueried structures as JSON. One way, so that SQLite and PostgreSQL hold the same.
//!
//! Instants are cut to microseconds on their way in.

use std::fmt::Display;
use std::str::FromStr;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row as _;

use crate::Row;
use crate::error::{CatalogError, Result};

/// The word that serde gives a unit variant.
pub(crate) fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        other => unreachable!("only enums of plain words are stored this way: {other:?}"),
    }
}

pub(crate) fn json<T: Serialize>(what: &'static str, value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| CatalogError::Invalid { what, reason: e.to_string() })
}

pub(crate) fn json_opt<T: Serialize>(what: &'static str, value: Option<&T>) -> Result<Option<String>> {
    value.map(|v| json(what, v)).transpose()
}

/// Microseconds since the epoch.
pub(crate) fn micros(at: Timestamp) -> i64 {
    at.as_microsecond()
}

/// The instant as the catalog will give it back.
pub(crate) fn cut(at: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(micros(at)).expect("whole microseconds of an instant are an instant")
}

pub(crate) fn micros_opt(at: Option<Timestamp>) -> Option<i64> {
    at.map(micros)
}

pub(crate) fn offset(what: &'static str, offset: u64) -> Result<i64> {
    i64::try_from(offset)
        .map_err(|_| CatalogError::Invalid { what, reason: format!("{offset} is beyond 2^63") })
}

/// Typed reading of a row, with the column's name in every error.
pub(crate) trait RowExt {
    fn text(&self, column: &'static str) -> Result<String>;
    fn text_opt(&self, column: &'static str) -> Result<Option<String>>;
    fn int(&self, column: &'static str) -> Result<i64>;
    fn int_opt(&self, column: &'static str) -> Result<Option<i64>>;
    fn bytes(&self, column: &'static str) -> Result<Vec<u8>>;

    fn parsed<T: FromStr<Err: Display>>(&self, column: &'static str) -> Result<T> {
        self.text(column)?.parse().map_err(|e: T::Err| corrupt(column, e))
    }

    fn parsed_opt<T: FromStr<Err: Display>>(&self, column: &'static str) -> Result<Option<T>> {
        self.text_opt(column)?.map(|t| t.parse().map_err(|e: T::Err| corrupt(column, e))).transpose()
    }

    fn worded<T: DeserializeOwned>(&self, column: &'static str) -> Result<T> {
        serde_json::from_value(serde_json::Value::String(self.text(column)?)).map_err(|e| corrupt(column, e))
    }

    fn json<T: DeserializeOwned>(&self, column: &'static str) -> Result<T> {
        serde_json::from_str(&self.text(column)?).map_err(|e| corrupt(column, e))
    }

    fn json_opt<T: DeserializeOwned>(&self, column: &'static str) -> Result<Option<T>> {
        self.text_opt(column)?.map(|t| serde_json::from_str(&t).map_err(|e| corrupt(column, e))).transpose()
    }

    fn instant(&self, column: &'static str) -> Result<Timestamp> {
        Timestamp::from_microsecond(self.int(column)?).map_err(|e| corrupt(column, e))
    }

    fn instant_opt(&self, column: &'static str) -> Result<Option<Timestamp>> {
        self.int_opt(column)?
            .map(|t| Timestamp::from_microsecond(t).map_err(|e| corrupt(column, e)))
            .transpose()
    }

    fn flag(&self, column: &'static str) -> Result<bool> {
        Ok(self.int(column)? != 0)
    }

    /// An unsigned number that was widened to BIGINT.
    fn number<T: TryFrom<i64, Error: Display>>(&self, column: &'static str) -> Result<T> {
        T::try_from(self.int(column)?).map_err(|e| corrupt(column, e))
    }

    fn number_opt<T: TryFrom<i64, Error: Display>>(&self, column: &'static str) -> Result<Option<T>> {
        self.int_opt(column)?.map(|n| T::try_from(n).map_err(|e| corrupt(column, e))).transpose()
    }
}

fn corrupt(column: &'static str, reason: impl Display) -> CatalogError {
    CatalogError::Corrupt { column, reason: reason.to_string() }
}

impl RowExt for Row {
    fn text(&self, column: &'static str) -> Result<String> {
        self.try_get(column).map_err(|e| corrupt(column, e))
    }

    fn text_opt(&self, column: &'static str) -> Result<Option<String>> {
        self.try_get(column).map_err(|e| corrupt(column, e))
    }

    fn int(&self, column: &'static str) -> Result<i64> {
        self.try_get(column).map_err(|e| corrupt(column, e))
    }

    fn int_opt(&self, column: &'static str) -> Result<Option<i64>> {
        self.try_get(column).map_err(|e| corrupt(column, e))
    }

    fn bytes(&self, column: &'static str) -> Result<Vec<u8>> {
        self.try_get(column).map_err(|e| corrupt(column, e))
    }
}
