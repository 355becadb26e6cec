//! The one shape of every answer that is no success.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What went wrong, twice: some clients read `error`, others `message`. Never empty, written for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// The text.
    pub error: String,
    /// The same text.
    pub message: String,
}

impl ErrorBody {
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        let error = text.into();
        Self { message: error.clone(), error }
    }
}
