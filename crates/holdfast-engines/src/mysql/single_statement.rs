//! A door to the server that nobody can send several statements through at once: the server then takes a second one in a text for a
//! mistake, whoever wrote it.
//!
//! A client says when it connects whether it wants them. The library of our own connections and the program `mysql` always say
//! so, and no setting of theirs says otherwise; so it is taken out of what they say. All else passes as it is.
//!
//! Source: MySQL 9.7, "Client/Server Protocol", `Protocol::HandshakeResponse` and "Capability Flags".

use std::os::unix::fs::lchown;
use std::path::{Path, PathBuf};

use rand::Rng as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader, copy_buf};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use super::config;
use crate::{EngineError, Instance, Paths, Result};

/// The packet's length and number, and the first bits of what the client is capable of.
const HEAD_BYTES: usize = 4 + 4;
/// `CLIENT_MULTI_STATEMENTS` is bit 16, the third byte's lowest.
const PLACE: (usize, u8) = (4 + 2, 1);
const BUFFER_BYTES: usize = 64 << 10;

/// It is shut when this is dropped; who came in stays.
pub(super) struct Door {
    path: PathBuf,
    doorkeeper: JoinHandle<()>,
}

impl Door {
    /// For the agent and the instance's own user.
    pub(super) fn open(instance: &Instance) -> Result<Self> {
        let server = config::socket(instance);
        // No longer than the server's own name: a socket's path has 107 bytes at the most (unix(7)).
        let number: u32 = rand::rng().random_range(0..1 << 24);
        let path = Paths(&instance.folder).run().join(format!("{number:06x}.sock"));
        let listener =
            listen(&path, instance).map_err(EngineError::io("listen for the agent's statements"))?;
        let doorkeeper = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass_on(client, server.clone()));
            }
        });
        Ok(Self { path, doorkeeper })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.doorkeeper.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Nobody else comes into the folder.
fn listen(path: &Path, instance: &Instance) -> std::io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    if let Some(user) = &instance.run_as {
        lchown(path, Some(user.uid), Some(user.gid))?; // the folder is its own: what is there by now may be a link
    }
    Ok(listener)
}

/// Until one of them hangs up: then the other is told at once, so that the server gives up what it did for a client that is gone. What
/// goes wrong both of them see.
async fn pass_on(mut client: UnixStream, server: PathBuf) -> std::io::Result<()> {
    let mut server = UnixStream::connect(server).await?;
    let (from_server, mut to_server) = server.split();
    let (mut from_client, mut to_client) = client.split();
    let to_the_server = async {
        let mut head = [0; HEAD_BYTES];
        from_client.read_exact(&mut head).await?;
        head[PLACE.0] &= !PLACE.1;
        to_server.write_all(&head).await?;
        copy_buf(&mut BufReader::with_capacity(BUFFER_BYTES, from_client), &mut to_server).await
    };
    let mut from_server = BufReader::with_capacity(BUFFER_BYTES, from_server);
    tokio::select! {
        ended = to_the_server => ended.map(drop),
        ended = copy_buf(&mut from_server, &mut to_client) => ended.map(drop),
    }
}
