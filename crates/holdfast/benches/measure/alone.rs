//! PostgreSQL and pgBackRest without Holdfast: the same programs with the same settings, and pgBackRest's repository right in
//! a folder or on the S3 server.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_testkit::ledger::connect;

use crate::pgbench::{Database, program};
use crate::timed::seconds;

/// The unprivileged user that everybody has.
const NOBODY: u32 = 65534;
const STANZA: &str = "alone";

pub(crate) struct Alone {
    engines: PathBuf,
    folder: PathBuf,
    port: u16,
    /// The repository's lines in pgBackRest's configuration.
    repository: String,
    copies: u32,
}

/// Where pgBackRest writes.
pub(crate) enum Repository<'a> {
    Folder,
    S3 { port: u16, bucket: &'a str, key: &'a str, secret: &'a str },
}

impl Alone {
    /// A cluster of its own below `folder`, with the settings of the service that it is compared with.
    pub(crate) async fn start(
        engines: &Path,
        folder: PathBuf,
        service: &str,
        to: &Repository<'_>,
    ) -> Result<Self> {
        fs::create_dir_all(&folder)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(&folder, Some(NOBODY), Some(NOBODY))?;
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let repository = repository_lines(&folder, to);
        let alone = Self { engines: engines.to_owned(), folder, port, repository, copies: 0 };
        alone.run(
            alone
                .own("initdb")
                .args(["-U", "postgres", "--data-checksums", "--encoding=UTF8", "--auth=trust"])
                .args(["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C", "-D"])
                .arg(alone.data()),
        )?;
        alone.configure(&alone.data(), port, service).await?;
        alone.write_conf("pgbackrest.conf", &alone.data(), port)?;
        alone.run(alone.pgbackrest("pgbackrest.conf").args(["--no-online", "stanza-create"]))?;
        alone.run(alone.pg_ctl(&alone.data()).args(["-w", "-t", "60", "start"]))?;
        Ok(alone)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub(crate) fn database(&self) -> Database {
        let url = format!("postgresql://postgres@127.0.0.1:{}/postgres", self.port);
        Database { url, password: String::new() }
    }

    /// Those settings of a service that cost or save time, and the archiving.
    async fn configure(&self, data: &Path, port: u16, service: &str) -> Result<()> {
        let client = connect(service).await?;
        let mut text = format!(
            "listen_addresses='127.0.0.1'\nport={port}\nunix_socket_directories='{}'\narchive_mode=on\n\
             archive_command='{} --config={} --stanza={STANZA} archive-push \"%p\"'\n",
            self.folder.display(),
            self.engines.join("pgbackrest/usr/bin/pgbackrest").display(),
            self.folder.join("pgbackrest.conf").display(),
        );
        let same = "shared_buffers effective_cache_size maintenance_work_mem max_connections wal_level archive_timeout \
                    track_commit_timestamp";
        for name in same.split_whitespace() {
            let row = client.query_one("SELECT current_setting($1)", &[&name]).await?;
            text.push_str(&format!("{name}='{}'\n", row.get::<_, String>(0)));
        }
        let conf = data.join("postgresql.auto.conf");
        fs::write(&conf, text).with_context(|| format!("write {}", conf.display()))
    }

    fn write_conf(&self, name: &str, data: &Path, port: u16) -> Result<()> {
        let folder = self.folder.display();
        let text = format!(
            "[global]\n{}\
             repo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass=not-a-secret-but-long-enough-to-be-one\n\
             repo1-bundle=y\nrepo1-block=y\nrepo1-retention-full-type=count\nrepo1-retention-full=9999999\n\
             expire-auto=n\nresume=n\narchive-copy=y\narchive-async=n\narchive-timeout=60\n\
             compress-type=zst\ncompress-level=3\nprocess-max=2\nstart-fast=y\nio-timeout=20\n\
             log-level-file=off\nlog-level-console=warn\nlog-level-stderr=off\n\
             spool-path={folder}/spool\nlog-path={folder}/log\nlock-path={folder}/lock\n\
             [{STANZA}]\npg1-path={}\npg1-socket-path={folder}\npg1-port={port}\npg1-user=postgres\n",
            self.repository,
            data.display(),
        );
        Ok(fs::write(self.folder.join(name), text)?)
    }

    /// Seconds of a full backup.
    pub(crate) async fn backup(&self) -> Result<f64> {
        let backup = async { self.run(self.pgbackrest("pgbackrest.conf").args(["--type=full", "backup"])) };
        Ok(seconds(backup).await?.0)
    }

    /// Restores the newest backup into a new folder: seconds of the copy, and until the database takes writes.
    pub(crate) async fn restore(&mut self, service: &str) -> Result<(f64, f64)> {
        self.copies += 1;
        let data = self.folder.join(format!("copy-{}", self.copies));
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        self.write_conf("copy.conf", &data, port)?;
        fs::create_dir(&data)?;
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700))?;
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(&data, Some(NOBODY), Some(NOBODY))?;
        }
        let began = std::time::Instant::now();
        self.run(self.pgbackrest("copy.conf").args([
            "--type=immediate",
            "--target-action=promote",
            "restore",
        ]))?;
        let copied = began.elapsed().as_secs_f64();
        let recovery = fs::read_to_string(data.join("postgresql.auto.conf"))?;
        self.configure(&data, port, service).await?;
        let own = fs::read_to_string(data.join("postgresql.auto.conf"))?;
        let kept: String =
            recovery.lines().filter(|line| line.starts_with("re")).map(|line| format!("{line}\n")).collect();
        fs::write(data.join("postgresql.auto.conf"), own + &kept + "archive_mode=off\n")?;
        self.run(self.pg_ctl(&data).args(["--no-wait", "start"]))?;
        let url = format!("postgresql://postgres@127.0.0.1:{port}/postgres");
        holdfast_testkit::wait_for("the restored database takes writes", 600, || async {
            let Ok(client) = connect(&url).await else { return Ok(None) };
            let row = client.query_one("SELECT pg_is_in_recovery()", &[]).await.ok();
            Ok(row.filter(|row| !row.get::<_, bool>(0)).map(drop))
        })
        .await?;
        let ready = began.elapsed().as_secs_f64();
        self.run(self.pg_ctl(&data).args(["-w", "-m", "immediate", "stop"]))?;
        fs::remove_dir_all(&data)?;
        Ok((copied, ready))
    }

    fn pgbackrest(&self, conf: &str) -> Command {
        let mut command = self.unprivileged(&self.engines.join("pgbackrest/usr/bin/pgbackrest"));
        command
            .arg(format!("--config={}", self.folder.join(conf).display()))
            .arg(format!("--stanza={STANZA}"));
        command
    }

    fn pg_ctl(&self, data: &Path) -> Command {
        let mut command = self.own("pg_ctl");
        command.arg("-s").arg("-D").arg(data).arg("-l").arg(self.folder.join("server.log"));
        command
    }

    fn own(&self, name: &str) -> Command {
        self.unprivileged(&program(&self.engines, name))
    }

    fn unprivileged(&self, path: &Path) -> Command {
        let mut command = Command::new("setpriv");
        if nix::unistd::geteuid().is_root() {
            let id = NOBODY.to_string();
            command.args([format!("--reuid={id}"), format!("--regid={id}"), "--clear-groups".to_owned()]);
        }
        command.arg("--").arg(path).current_dir(&self.folder);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").env("TZ", "UTC");
        command
    }

    /// Runs it to its end; its outputs go to a file, for what it starts may keep them open.
    fn run(&self, command: &mut Command) -> Result<()> {
        let path = self.folder.join("output");
        let output = fs::File::create(&path)?;
        let status =
            command.stdin(std::process::Stdio::null()).stdout(output.try_clone()?).stderr(output).status()?;
        ensure!(status.success(), "{command:?}: {status}: {}", fs::read_to_string(&path)?);
        Ok(())
    }
}

fn repository_lines(folder: &Path, to: &Repository<'_>) -> String {
    match to {
        Repository::Folder => format!("repo1-type=posix\nrepo1-path={}/repository\n", folder.display()),
        Repository::S3 { port, bucket, key, secret } => format!(
            "repo1-type=s3\nrepo1-path=/alone\nrepo1-s3-bucket={bucket}\nrepo1-s3-endpoint=localhost\n\
             repo1-storage-port={port}\nrepo1-storage-verify-tls=n\nrepo1-s3-uri-style=path\n\
             repo1-s3-region=us-east-1\nrepo1-s3-key={key}\nrepo1-s3-key-secret={secret}\n"
        ),
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if entry.path().join("postmaster.pid").exists() {
                let _ = self.run(self.pg_ctl(&entry.path()).args(["-w", "-m", "immediate", "stop"]));
            }
        }
        std::thread::sleep(Duration::from_millis(200));
        let _ = fs::remove_dir_all(&self.folder);
    }
}
