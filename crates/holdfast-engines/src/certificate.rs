//! The certificate that an instance shows its clients: its own, signed by itself, made once and before the first start.

use std::path::PathBuf;

use crate::files::write_readable;
use crate::{EngineError, Instance, Paths, Result};

/// Where the files of an instance's certificate lie. Its engine may read all three and write none.
pub(crate) struct Certificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Both in one file.
    pub together: PathBuf,
}

impl Certificate {
    pub(crate) fn of(instance: &Instance) -> Self {
        let conf = Paths(&instance.folder).conf();
        let [certificate, key, together] =
            ["crt", "key", "pem"].map(|end| conf.join(format!("server.{end}")));
        Self { certificate, key, together }
    }

    /// Makes it unless it is there, for the host's own addresses and the one that the instance listens on.
    ///
    /// After a crash none of it is there, or the rest is made anew: the certificate comes last.
    pub(crate) fn make(instance: &Instance) -> Result<()> {
        let files = Self::of(instance);
        if files.certificate.is_file() {
            return Ok(());
        }
        let doing = "make the service's certificate";
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), instance.listen.to_string()];
        names.dedup();
        let made = rcgen::generate_simple_self_signed(names)
            .map_err(|error| EngineError::Unexpected { doing: doing.to_owned(), what: error.to_string() })?;
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let user = instance.run_as.as_ref();
        write_readable(&files.key, key.as_bytes(), user)?;
        write_readable(&files.together, format!("{certificate}{key}").as_bytes(), user)?;
        write_readable(&files.certificate, certificate.as_bytes(), user)
    }
}
