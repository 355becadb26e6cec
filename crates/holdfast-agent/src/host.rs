//! What makes this host's agent itself again after a restart: its id, the host key that seals what it keeps, and the
//! gateway's certificate and port.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use holdfast_core::AgentId;
use holdfast_gateway::{Gateway, GatewayConfig};
use holdfast_seal::{Kek, KeyIdentity};
use holdfast_store::Store;

use crate::error::AgentError;

pub(crate) struct Host {
    pub id: AgentId,
    key: Kek,
    folder: PathBuf,
}

impl Host {
    pub(crate) fn open(folder: &Path) -> Result<Self, AgentError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(AgentError::file(folder))?;
        let id = read_or_make(&folder.join("id"), || AgentId::random().to_string())?;
        let id = id.parse().map_err(|_| AgentError::Unusable("the agent's id file is damaged".to_owned()))?;
        let hex = read_or_make(&folder.join("host.key"), || hex::encode(Kek::random(1).expose()))?;
        let mut bytes = [0_u8; 32];
        hex::decode_to_slice(&hex, &mut bytes)
            .map_err(|_| AgentError::Unusable("the host key's file is damaged".to_owned()))?;
        Ok(Self { id, key: Kek::from_bytes(1, bytes), folder: folder.to_owned() })
    }

    /// Seals something that the agent keeps on disk under a name.
    pub(crate) fn seal(&self, name: &str, plain: &[u8]) -> Vec<u8> {
        holdfast_seal::wrap_secret(&self.key, &self.identity(name), plain)
    }

    pub(crate) fn open_sealed(&self, name: &str, sealed: &[u8]) -> Result<Vec<u8>, AgentError> {
        let plain = holdfast_seal::unwrap_secret(&self.key, &self.identity(name), sealed)
            .map_err(|error| AgentError::Unusable(format!("cannot open the kept {name}: {error}")))?;
        Ok(plain.to_vec())
    }

    fn identity(&self, name: &str) -> KeyIdentity {
        KeyIdentity {
            key_id: self.id.0,
            organization: String::new(),
            service: String::new(),
            lineage: String::new(),
            purpose: format!("agent:{name}"),
        }
    }

    /// Where engines' tools find the certificate to trust. World-readable: it is no secret, and each service's user
    /// reads its own copy.
    pub(crate) fn gateway_certificate(&self) -> Result<String, AgentError> {
        let path = self.folder.join("gateway.crt");
        fs::read_to_string(&path).map_err(AgentError::file(path))
    }

    /// Starts the gateway on the port that it had before, so that the engines' settings stay right; on another one if
    /// that is taken (adoption then writes the settings anew). Its store has [`holdfast_store::Limits::prompt`].
    pub(crate) async fn start_gateway(&self, store: Store) -> Result<Gateway, AgentError> {
        let (certificate_pem, key_pem) = self.certificate()?;
        let port_file = self.folder.join("gateway.port");
        let before = fs::read_to_string(&port_file).ok().and_then(|text| text.trim().parse::<u16>().ok());
        let mut last = None;
        for port in before.into_iter().chain([0]) {
            let config = GatewayConfig {
                listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
                certificate_pem: certificate_pem.clone(),
                key_pem: key_pem.clone(),
            };
            match Gateway::start(config, store.clone()).await {
                Ok(gateway) => {
                    let port = gateway.local_addr().port();
                    write_private(&port_file, port.to_string().as_bytes())?;
                    return Ok(gateway);
                }
                Err(error) => last = Some(error),
            }
        }
        Err(AgentError::Gateway(last.expect("at least one port was tried")))
    }

    fn certificate(&self) -> Result<(String, String), AgentError> {
        let (certificate, key) = (self.folder.join("gateway.crt"), self.folder.join("gateway.key"));
        if !certificate.is_file() {
            let made =
                rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])
                    .map_err(|error| {
                        AgentError::Unusable(format!("cannot make the gateway's certificate: {error}"))
                    })?;
            write_private(&key, made.signing_key.serialize_pem().as_bytes())?;
            write_private(&certificate, made.cert.pem().as_bytes())?;
        }
        let read = |path: PathBuf| fs::read_to_string(&path).map_err(AgentError::file(path));
        Ok((read(certificate)?, read(key)?))
    }
}

fn read_or_make(path: &Path, make: impl FnOnce() -> String) -> Result<String, AgentError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let text = make();
            write_private(path, text.as_bytes())?;
            Ok(text)
        }
        Err(error) => Err(AgentError::file(path)(error)),
    }
}

/// A file of mode 0600, there whole or not at all, also after a power cut.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<(), AgentError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new"); // behind the whole name: another file may differ in its extension alone
    let write = || -> std::io::Result<()> {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(AgentError::file(path))
}
