//! Between the suite and the server: logs every client in as the tenant, which the suite cannot do, and can hold them all up.

use std::sync::Arc;

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, OwnedRwLockWriteGuard, RwLock};

/// Settings that the suite changes all the time, and no tenant may; the agent does it for it. They say how keys are laid out in memory,
/// and when a script is busy. Not `hll-sparse-max-bytes`: the bytes of a HyperLogLog depend on it, and `SETRANGE` (the suite damages
/// some) then makes another one of a copy, which has the usual setting.
const SETTINGS: [&str; 5] =
    ["-max-", "list-compress-depth", "notify-keyspace-events", "lua-time-limit", "busy-reply-threshold"];

/// Who a client is: name and password.
#[derive(Clone)]
pub(super) struct Login(pub(super) String, pub(super) String);

pub(super) struct Relay {
    pub(super) port: u16,
    gate: Arc<RwLock<()>>,
}

#[derive(Clone)]
struct Server {
    address: String,
    tenant: Login,
    agent: Login,
    gate: Arc<RwLock<()>>,
}

impl Relay {
    /// It ends with the runtime.
    pub(super) async fn start(address: &str, tenant: Login, agent: Login) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (port, gate) = (listener.local_addr()?.port(), Arc::new(RwLock::new(())));
        let server = Server { address: address.to_owned(), tenant, agent, gate: Arc::clone(&gate) };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = server.clone();
                tokio::spawn(async move {
                    let _ = server.serve(client).await; // its end is the connection's
                });
            }
        });
        Ok(Self { port, gate })
    }

    /// Nothing more is sent to the server until what is returned goes.
    pub(super) async fn held(&self) -> OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.gate).write_owned().await
    }
}

impl Server {
    async fn log_in(&self, Login(user, password): &Login) -> Result<TcpStream> {
        let mut stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        stream.write_all(format!("AUTH {user} {password}\r\n").as_bytes()).await?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await?;
        ensure!(answer == *b"+OK\r\n", "refused");
        Ok(stream)
    }

    async fn serve(&self, client: TcpStream) -> Result<()> {
        client.set_nodelay(true)?;
        let (from_server, to_server) = self.log_in(&self.tenant).await?.into_split();
        let (from_client, to_client) = client.into_split();
        let to_client = Arc::new(Mutex::new(to_client));
        let answers = tokio::spawn(answers(from_server, Arc::clone(&to_client)));
        let asked = self.asks(from_client, to_server, &to_client).await;
        answers.await??;
        asked
    }

    async fn asks(
        &self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        back: &Mutex<OwnedWriteHalf>,
    ) -> Result<()> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = from.read(&mut buffer).await?;
            let sent = &buffer[..read];
            let _open = self.gate.read().await;
            match words(sent) {
                _ if read == 0 => return Ok(to.shutdown().await?),
                Some(words) if is_the_agents(&words) => {
                    let answer = self.by_the_agent(sent).await?;
                    back.lock().await.write_all(&answer).await?;
                }
                Some(words) if is(&words, "config") => back.lock().await.write_all(b"+OK\r\n").await?,
                _ => to.write_all(sent).await?,
            }
        }
    }

    async fn by_the_agent(&self, sent: &[u8]) -> Result<Vec<u8>> {
        let mut agent = self.log_in(&self.agent).await?;
        agent.write_all(sent).await?;
        let mut answer = vec![0; 1 << 16];
        let read = agent.read(&mut answer).await?;
        answer.truncate(read);
        Ok(answer)
    }
}

fn is(words: &[&str], name: &str) -> bool {
    words.iter().zip(name.split(' ')).all(|(word, part)| word.eq_ignore_ascii_case(part))
}

/// Without these much of the suite does not run. Other settings are Holdfast's own: the suite is told that they are as it wants them.
fn is_the_agents(words: &[&str]) -> bool {
    let may = |name: &&str| !name.starts_with("hll-") && SETTINGS.iter().any(|part| name.contains(part));
    let set = words.get(2).is_some_and(may);
    is(words, "config get") || is(words, "client unblock") || (is(words, "config set") && set)
}

async fn answers(mut from: OwnedReadHalf, to: Arc<Mutex<OwnedWriteHalf>>) -> Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = from.read(&mut buffer).await?;
        let mut to = to.lock().await;
        if read == 0 {
            return Ok(to.shutdown().await?);
        }
        to.write_all(&buffer[..read]).await?;
    }
}

/// Of exactly one command in the usual form; the suite sends those it waits for one by one.
fn words(sent: &[u8]) -> Option<Vec<&str>> {
    let mut lines = std::str::from_utf8(sent).ok()?.strip_prefix('*')?.strip_suffix("\r\n")?.split("\r\n");
    let count: usize = lines.next()?.parse().ok()?;
    let words: Vec<&str> = lines.skip(1).step_by(2).collect();
    (count > 0 && words.len() == count).then_some(words)
}
