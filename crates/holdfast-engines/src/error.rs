//! Why a driver could not do it.

use holdfast_store::repository::{DAMAGED, FULL};

use crate::exec;

/// Why a driver could not do it.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("{doing}: {source}")]
    Exec {
        doing: String,
        #[source]
        source: exec::ExecError,
    },
    #[error("{doing}")]
    Io {
        doing: String,
        #[source]
        source: std::io::Error,
    },
    /// The engine's client library: what the server answered, or why it did not.
    #[error("{doing}")]
    Client {
        doing: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The object store failed the backup or the restore.
    #[error("{doing}")]
    Store {
        doing: String,
        #[source]
        source: Box<holdfast_store::StoreError>,
    },
    #[error("{doing}: {what}")]
    Unexpected { doing: String, what: String },
    #[error("the engine did not get ready within {seconds} s: {last}")]
    NotReady { seconds: u64, last: String },
    #[error("this host has no {engine} {version}; run `make engines` or set engines_dir")]
    Missing { engine: &'static str, version: String },
    /// The log in the object store does not reach as far as the restore plan says.
    #[error("replay ended at {reached} although the log should reach {expected}: the archive has a hole")]
    Hole { reached: String, expected: String },
    #[error("{doing}: the object store holds damaged data: {what}")]
    Damaged { doing: String, what: String },
    /// What was stored is whole, and what the engine made of it is something else.
    #[error(
        "{doing}: the copy is not what its source was, although the stored data is whole: {what}; restore another backup, \
         or make one by another method"
    )]
    Differs { doing: String, what: String },
    #[error(
        "{doing}: {what}; make room in the object store, or remove backups that are not needed, and try again"
    )]
    StoreFull { doing: String, what: String },
    #[error("{doing}: the disk of the instance is full; make room there and try again: {what}")]
    DiskFull { doing: String, what: String },
    /// What was asked for does not fit what the instance holds; `what` says what would.
    #[error("{doing}: {what}")]
    Unfit { doing: String, what: String },
}

impl EngineError {
    /// Whether another try can help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        // A hole may be a store that was away for a moment: the tool tells both alike, and tries are bounded.
        !matches!(
            self,
            Self::Missing { .. }
                | Self::Damaged { .. }
                | Self::Differs { .. }
                | Self::StoreFull { .. }
                | Self::DiskFull { .. }
                | Self::Unfit { .. }
        )
    }

    /// A machine-readable cause.
    #[must_use]
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Exec { .. } => "tool_failed",
            Self::Io { .. } => "io_error",
            Self::Client { .. } => "engine_error",
            Self::Store { source, .. } => source.cause(),
            Self::Unexpected { .. } => "unexpected_answer",
            Self::NotReady { .. } => "not_ready",
            Self::Missing { .. } => "engine_missing",
            Self::Hole { .. } => "log_hole",
            Self::Damaged { .. } => "damaged_object",
            Self::Differs { .. } => "copy_differs",
            Self::StoreFull { .. } => "store_full",
            Self::DiskFull { .. } => "disk_full",
            Self::Unfit { .. } => "unfit",
        }
    }

    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }

    pub(crate) fn client<E: std::error::Error + Send + Sync + 'static>(
        doing: impl Into<String>,
    ) -> impl FnOnce(E) -> Self {
        let doing = doing.into();
        move |source| Self::Client { doing, source: Box::new(source) }
    }

    /// What the client library of an engine said.
    pub(crate) fn said<E: std::error::Error + 'static>(&self) -> Option<&E> {
        let Self::Client { source, .. } = self else { return None };
        source.downcast_ref()
    }

    /// A tool that failed; what its last words tell of a full disk or damage counts for more than its exit code.
    pub(crate) fn exec(doing: impl Into<String>) -> impl FnOnce(exec::ExecError) -> Self {
        let doing = doing.into();
        move |source| {
            let text = source.to_string();
            if let Some(what) = gateway_said(&text, DAMAGED) {
                Self::Damaged { doing, what }
            } else if let Some(what) = gateway_said(&text, FULL) {
                Self::StoreFull { doing, what }
            } else if text.contains("No space left on device") {
                Self::DiskFull { doing, what: text }
            } else {
                Self::Exec { doing, source }
            }
        }
    }
}

/// What the sealing gateway said with this error code, as the tool shows an answer's content.
fn gateway_said(text: &str, code: &str) -> Option<String> {
    let (_, answer) = text.split_once(&format!("<Code>{code}</Code>"))?;
    let (message, _) = answer.split_once("<Message>")?.1.split_once("</Message>")?;
    Some(message.replace("&apos;", "'").replace("&quot;", "\"").replace("&amp;", "&"))
}

pub type Result<T> = std::result::Result<T, EngineError>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_gateway_said_is_found_in_the_tools_error() {
        let tool = "ERROR: [039]: HTTP request failed with 422; *** Response Content ***:; <?xml version=\"1.0\"?>\
            <Error><Code>DamagedObject</Code><Message>bundle/1: chunk 7 does not authenticate</Message></Error>; INFO: end";
        assert_eq!(gateway_said(tool, DAMAGED).as_deref(), Some("bundle/1: chunk 7 does not authenticate"));
        assert_eq!(gateway_said(&tool.replace("DamagedObject", "InternalError"), DAMAGED), None);
    }
}
