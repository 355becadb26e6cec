//! What a person would run without Holdfast.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use async_trait::async_trait;
use futures::TryStreamExt as _;
use holdfast_conformance::{Database, Login};
use holdfast_core::engine::EngineKind;
use holdfast_testkit::wait_for;
use mongodb::bson::{Document, RawDocumentBuf};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::java_tools::{KafkaConsole, PlainRepository};
use crate::own::dump_in;

const NOBODY: u32 = 65_534;

/// A tool with its data.
#[async_trait]
pub(crate) trait Tool {
    fn what(&self) -> &'static str;
    /// Writes a dump; returns its bytes.
    async fn backup(&mut self) -> Result<u64>;
    /// Loads the dump into an empty database, or a server of its own.
    async fn restore(&mut self, target: &Database) -> Result<()>;
}

pub(crate) async fn tool(
    kind: EngineKind,
    engines: &Path,
    folder: &Path,
    source: &Database,
    bytes: u64,
) -> Result<Box<dyn Tool>> {
    let (folder, login) = (folder.to_owned(), source.login.clone());
    Ok(match kind {
        EngineKind::Mysql => Box::new(Mysql { engines: engines.to_owned(), folder, login }),
        EngineKind::Mongodb => Box::new(Mongo { folder, login }),
        EngineKind::Valkey => Box::new(Valkey::start(engines, folder, bytes).await?),
        EngineKind::Kafka => Box::new(KafkaConsole { engines: engines.to_owned(), folder, login, bytes }),
        EngineKind::Opensearch => Box::new(PlainRepository { source: login }),
        other => bail!("{other} is measured elsewhere"),
    })
}

/// `mysqldump | zstd`, and `zstd -d | mysql`.
struct Mysql {
    engines: PathBuf,
    folder: PathBuf,
    login: Login,
}

impl Mysql {
    /// The command line of a client program; the password is in a file.
    fn client(&self, program: &str, login: &Login) -> Result<String> {
        let file = self.folder.join(format!("{program}.cnf"));
        let (user, password) = (&login.username, &login.password);
        let lines = format!(
            "[client]\nuser={user}\npassword=\"{password}\"\nhost={}\nport={}\n",
            login.host, login.port
        );
        fs::write(&file, lines)?;
        let program = self.engines.join("mysql-9.7/bin").join(program);
        Ok(format!("{} --defaults-extra-file={} --get-server-public-key", program.display(), file.display()))
    }

    fn shell(&self, line: &str) -> Result<()> {
        let ended =
            Command::new("bash").args(["-o", "pipefail", "-c", line]).stdin(Stdio::null()).status()?;
        ensure!(ended.success(), "{line}: {ended}");
        Ok(())
    }
}

#[async_trait]
impl Tool for Mysql {
    fn what(&self) -> &'static str {
        "`mysqldump --single-transaction --hex-blob | zstd -3` and `zstd -d | mysql`"
    }

    async fn backup(&mut self) -> Result<u64> {
        let dump = dump_in(&self.folder);
        let client = self.client("mysqldump", &self.login)?;
        let options = "--single-transaction --hex-blob --no-tablespaces --set-gtid-purged=OFF";
        self.shell(&format!(
            "{client} {options} {} | zstd -3 -q -f -o {}",
            self.login.database,
            dump.display()
        ))?;
        Ok(fs::metadata(dump)?.len())
    }

    async fn restore(&mut self, target: &Database) -> Result<()> {
        let client = self.client("mysql", &target.login)?;
        self.shell(&format!(
            "zstd -dc {} | {client} {}",
            dump_in(&self.folder).display(),
            target.login.database
        ))
    }
}

/// A plain find of every collection into a file through zstd, and bulk inserts.
struct Mongo {
    folder: PathBuf,
    login: Login,
}

const AT_ONCE: usize = 500;

async fn mongo(login: &Login) -> Result<mongodb::Database> {
    let Login { host, port, username, password, database, tls } = login;
    let url = format!(
        "mongodb://{username}:{password}@{host}:{port}/?authSource=admin&directConnection=true&tls={tls}{}",
        if *tls { "&tlsAllowInvalidCertificates=true" } else { "" }
    );
    Ok(mongodb::Client::with_uri_str(&url).await?.database(database))
}

#[async_trait]
impl Tool for Mongo {
    fn what(&self) -> &'static str {
        "a find of every collection into `zstd -3`, and bulk inserts of 500 documents (mongodump is in no package registry)"
    }

    async fn backup(&mut self) -> Result<u64> {
        let dump = dump_in(&self.folder);
        let mut zstd = tokio::process::Command::new("zstd")
            .args(["-3", "-q", "-f", "-o"])
            .arg(&dump)
            .stdin(Stdio::piped())
            .spawn()?;
        let mut out = zstd.stdin.take().context("piped")?;
        let database = mongo(&self.login).await?;
        for name in database.list_collection_names().await? {
            let mut all = database.collection::<RawDocumentBuf>(&name).find(Default::default()).await?;
            while let Some(document) = all.try_next().await? {
                out.write_all(document.as_bytes()).await?;
            }
        }
        drop(out);
        ensure!(zstd.wait().await?.success(), "zstd");
        Ok(fs::metadata(dump)?.len())
    }

    async fn restore(&mut self, target: &Database) -> Result<()> {
        let mut zstd = tokio::process::Command::new("zstd")
            .arg("-dcq")
            .arg(dump_in(&self.folder))
            .stdout(Stdio::piped())
            .spawn()?;
        let mut from = zstd.stdout.take().context("piped")?;
        let collection = mongo(&target.login).await?.collection::<RawDocumentBuf>("restored");
        let mut some = Vec::new();
        loop {
            let mut length = [0; 4];
            if from.read_exact(&mut length).await.is_err() {
                break; // the end
            }
            let mut bytes = length.to_vec();
            bytes.resize(usize::try_from(i32::from_le_bytes(length))?, 0);
            from.read_exact(&mut bytes[4..]).await?;
            some.push(RawDocumentBuf::from_bytes(bytes)?);
            if some.len() == AT_ONCE {
                collection.insert_many(std::mem::take(&mut some)).await?;
            }
        }
        if !some.is_empty() {
            collection.insert_many(some).await?;
        }
        ensure!(zstd.wait().await?.success(), "zstd");
        let found = collection.count_documents(Document::new()).await?;
        ensure!(found > 0, "nothing was restored");
        Ok(())
    }
}

/// A server of its own with the same data: `SYNC` into a file, and a server started on that file.
struct Valkey {
    binary: PathBuf,
    folder: PathBuf,
    source: Server,
}

struct Server {
    process: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Valkey {
    async fn start(engines: &Path, folder: PathBuf, bytes: u64) -> Result<Self> {
        let binary = engines.join("valkey-9.1/bin/valkey-server");
        let source = serve(&binary, &folder.join("source")).await?;
        let login = login_of(&source);
        Database { kind: EngineKind::Valkey, login, space: "bench" }.open().await?.fill(bytes).await?;
        Ok(Self { binary, folder, source })
    }
}

fn login_of(server: &Server) -> Login {
    let text = |text: &str| text.to_owned();
    let (username, password) = (String::new(), String::new());
    Login { host: text("127.0.0.1"), port: server.port, username, password, database: text("0"), tls: false }
}

/// Starts a server in a folder and waits until it has loaded what is there.
async fn serve(binary: &Path, folder: &Path) -> Result<Server> {
    fs::create_dir_all(folder)?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut command = Command::new(binary);
    command.args([
        "--port",
        &port.to_string(),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--repl-diskless-sync-delay",
        "0",
    ]);
    command.arg("--dir").arg(folder).stdin(Stdio::null()).stdout(Stdio::null());
    if nix::unistd::geteuid().is_root() {
        use std::os::unix::process::CommandExt as _;
        std::os::unix::fs::chown(folder, Some(NOBODY), Some(NOBODY))?;
        fs::set_permissions(
            folder.parent().context("a parent")?,
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )?;
        command.uid(NOBODY).gid(NOBODY);
    }
    let server = Server { process: command.spawn()?, port };
    let database = Database { kind: EngineKind::Valkey, login: login_of(&server), space: "bench" };
    wait_for("the server has loaded its data", 600, || async {
        let Ok(mut session) = database.open().await else { return Ok(None) };
        Ok(session.read().await.ok().map(drop))
    })
    .await?;
    Ok(server)
}

#[async_trait]
impl Tool for Valkey {
    fn what(&self) -> &'static str {
        "a snapshot over the replication protocol into a file (as `valkey-cli --rdb` does), and a server started on it"
    }

    async fn backup(&mut self) -> Result<u64> {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.source.port)).await?;
        stream.write_all(b"SYNC\r\n").await?;
        let mut stream = tokio::io::BufReader::new(stream);
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') || line.len() < 3 {
            if line == b"\n" {
                line.clear(); // it says that it is alive
            }
            line.push(stream.read_u8().await?);
        }
        let header = String::from_utf8(line)?;
        let mut file = tokio::fs::File::create(dump_in(&self.folder)).await?;
        let length = match header.trim_end().strip_prefix('$').context("a snapshot")? {
            // Without a length: it ends with the mark that was announced, 40 bytes.
            mark if mark.starts_with("EOF:") => until(&mut stream, &mut file, &mark.as_bytes()[4..]).await?,
            length => {
                let length: u64 = length.parse()?;
                tokio::io::copy(&mut stream.take(length), &mut file).await?
            }
        };
        file.sync_all().await?;
        Ok(length)
    }

    async fn restore(&mut self, _target: &Database) -> Result<()> {
        let folder = self.folder.join("target");
        fs::create_dir_all(&folder)?;
        fs::copy(dump_in(&self.folder), folder.join("dump.rdb"))?;
        drop(serve(&self.binary, &folder).await?);
        Ok(fs::remove_dir_all(folder)?)
    }
}

/// Copies until the mark; returns how many bytes came before it.
async fn until(
    from: &mut (impl tokio::io::AsyncRead + Unpin),
    to: &mut tokio::fs::File,
    mark: &[u8],
) -> Result<u64> {
    let (mut held, mut length) = (Vec::new(), 0);
    let mut some = vec![0; 1 << 16];
    loop {
        let count = from.read(&mut some).await?;
        ensure!(count > 0, "the snapshot broke off");
        held.extend_from_slice(&some[..count]);
        let is_end = held.ends_with(mark);
        let whole = held.len().saturating_sub(mark.len());
        to.write_all(&held[..whole]).await?;
        length += whole as u64;
        held.drain(..whole);
        if is_end {
            return Ok(length);
        }
    }
}
