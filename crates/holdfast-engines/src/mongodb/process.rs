//! How an instance is made, starts, stops and is found again; its users.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bson::{Document, doc};
use mongodb::Client;
use nix::unistd::Pid;

use super::client::{
    self, HOMES, USER_NOT_FOUND, admin, ensure_user, is_code, restrictions, roles, tenant_roles,
};
use super::config::{self, Account, Mode, Secrets};
use super::probe::number;
use super::{Mongodb, access};
use crate::certificate::Certificate;
use crate::exec::{self, ProcessSpec};
use crate::files;
use crate::process::{self, Process};
use crate::{EngineError, Instance, Paths, ProgressSink, Result, UserSpec};

const START_SECONDS: u64 = 60;
/// Starts `$2...` in a session of its own; its number goes into the file `$0`, what it says into `$1`.
const DETACHED: &str = r#"pid=$0; log=$1; shift; echo $$ >"$pid"; exec "$@" >>"$log" 2>&1 </dev/null"#;

impl Mongodb {
    pub(super) async fn create_instance(
        &self,
        instance: &Instance,
        users: &[UserSpec],
        progress: &ProgressSink,
    ) -> Result<String> {
        progress.phase("creating the database");
        self.make_private(instance).await?;
        progress.phase("creating users");
        self.make_tenants(instance, users).await?;
        progress.phase("starting the engine");
        self.open_first(instance).await?;
        self.server_version(instance).await
    }

    /// A new, empty instance that only the agent can reach. It is no replica set yet: what it is filled with is not written a second
    /// time, into an oplog that nobody reads.
    pub(super) async fn make_private(&self, instance: &Instance) -> Result<()> {
        files::make_folders(instance)?;
        Certificate::make(instance)?;
        let secrets = Secrets::make(instance)?;
        config::write_key_file(instance)?;
        self.launch(instance, Mode::Private).await?;
        let client = client::anonymous(instance)?;
        self.wait_for(instance, &client, |_| true).await?;
        // The first user comes in by the localhost exception; it makes the others.
        make_account(&client, &secrets, Account::Admin).await?;
        let client = self.clients.get(instance, Account::Admin)?;
        make_account(&client, &secrets, Account::Reader).await?;
        make_account(&client, &secrets, Account::Writer).await
    }

    /// Makes a private instance a replica set of one, for everybody (manual, "Convert a Standalone mongod to a Replica Set").
    pub(super) async fn open_first(&self, instance: &Instance) -> Result<()> {
        // Without a replica set writes are acknowledged before the journal has them: a kill must not lose any.
        let client = self.clients.get(instance, Account::Admin)?;
        admin(&client, doc! { "fsync": 1 }, "write everything to the disk").await?;
        self.stop_instance(instance, 120).await?;
        self.launch(instance, Mode::Open).await?;
        let client = self.clients.get(instance, Account::Admin)?;
        self.wait_for(instance, &client, |_| true).await?;
        self.initiate(instance, &client).await?;
        self.start_instance(instance).await
    }

    async fn initiate(&self, instance: &Instance, client: &Client) -> Result<()> {
        const ALREADY_INITIALIZED: i32 = 23;
        let host = format!("127.0.0.1:{}", instance.port);
        let set = doc! { "_id": config::REPLICA_SET, "members": [{ "_id": 0, "host": host }] };
        match client.database("admin").run_command(doc! { "replSetInitiate": set }).await {
            Ok(_) => {}
            Err(error) if is_code(&error, &[ALREADY_INITIALIZED]) => {}
            Err(error) => return Err(EngineError::client("make the replica set")(error)),
        }
        self.wait_for(instance, client, |hello| hello.get_bool("isWritablePrimary").unwrap_or(false)).await
    }

    /// Restarts an instance.
    async fn restart(&self, instance: &Instance) -> Result<()> {
        self.stop_instance(instance, 120).await?;
        self.start_instance(instance).await
    }

    pub(super) async fn start_instance(&self, instance: &Instance) -> Result<()> {
        files::make_folders(instance)?;
        Certificate::make(instance)?;
        if !self.is_alive(instance) {
            self.launch(instance, Mode::Open).await?;
        }
        self.wait_ready(instance).await?;
        self.size_oplog(instance).await?;
        access::after_start(self, instance).await
    }

    /// Gives the oplog of an instance that is there the size that is asked for now.
    async fn size_oplog(&self, instance: &Instance) -> Result<()> {
        const LEAST_MIB: u32 = 990; // of the command; an oplog may be made smaller
        let client = self.clients.get(instance, Account::Admin)?;
        let doing = "size the oplog";
        let found =
            client.database("local").run_command(doc! { "collStats": "oplog.rs", "scale": 1 << 20 }).await;
        let found = number(&found.map_err(EngineError::client(doing))?, "maxSize");
        let wanted = self.oplog_mib.max(LEAST_MIB);
        if found == i64::from(self.oplog_mib) || found == i64::from(wanted) {
            return Ok(());
        }
        admin(&client, doc! { "replSetResizeOplog": 1, "size": f64::from(wanted) }, doing).await.map(drop)
    }

    /// Starts the server; it outlives the agent.
    async fn launch(&self, instance: &Instance, mode: Mode) -> Result<()> {
        let log = Paths(&instance.folder).log().join("mongod.log");
        let spec = ProcessSpec::new("setsid", &instance.folder)
            .args(["--fork", "sh", "-c", DETACHED])
            .args([pid_file(instance), log, config::program(&self.engines_dir, &instance.version)?])
            .args(config::arguments(instance, mode, self.oplog_mib))
            .run_as(instance.run_as.as_ref())
            .outlives_agent();
        exec::run_detaching(spec).await.map_err(EngineError::exec("start the engine"))
    }

    async fn wait_ready(&self, instance: &Instance) -> Result<()> {
        let client = self.clients.get(instance, Account::Admin)?;
        self.wait_for(instance, &client, |hello| hello.get_bool("isWritablePrimary").unwrap_or(false))
            .await?;
        admin(&client, doc! { "usersInfo": Account::Admin.username() }, "log in to the engine")
            .await
            .map(drop)
    }

    /// Waits until `hello` is answered as wished, or until the process is gone.
    async fn wait_for(
        &self,
        instance: &Instance,
        client: &Client,
        good: impl Fn(&Document) -> bool,
    ) -> Result<()> {
        let began = Instant::now();
        loop {
            let last = match client.database("admin").run_command(doc! { "hello": 1 }).await {
                Ok(hello) if good(&hello) => return Ok(()),
                Ok(_) => "it is not the primary yet".to_owned(),
                Err(error) => error.to_string(),
            };
            let gone = began.elapsed() > Duration::from_secs(3) && !self.is_alive(instance);
            if gone || began.elapsed() > Duration::from_secs(START_SECONDS) {
                let last = format!("{last}; its log says: {}", said(instance));
                return Err(EngineError::NotReady { seconds: began.elapsed().as_secs(), last });
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub(super) async fn stop_instance(&self, instance: &Instance, timeout_seconds: u64) -> Result<()> {
        self.clients.forget(instance);
        if self.end(instance, "TERM", timeout_seconds).await? {
            return Ok(());
        }
        // It hangs on something: its journal brings everything back at the next start.
        if self.end(instance, "KILL", 20).await? {
            return Ok(());
        }
        Err(EngineError::Unexpected { doing: "stop the engine".to_owned(), what: "it survived".to_owned() })
    }

    /// Sends the signal as the engine's own user, who can end nobody else's processes.
    async fn end(&self, instance: &Instance, signal: &str, seconds: u64) -> Result<bool> {
        let Some(pid) = alive_pid(instance) else { return Ok(true) };
        let Some(process) = i32::try_from(pid).ok().and_then(|pid| Process::of(Pid::from_raw(pid))) else {
            return Ok(true);
        };
        let spec = ProcessSpec::new("sh", &instance.folder)
            .args(["-c", r#"kill -s "$0" "$1""#, signal, &pid.to_string()])
            .run_as(instance.run_as.as_ref());
        if let Err(error) = exec::run(spec).await
            && self.is_alive(instance)
        {
            return Err(EngineError::exec("stop the engine")(error));
        }
        Ok(process::all_ended(&[process], Duration::from_secs(seconds)).await)
    }

    pub(super) fn is_alive(&self, instance: &Instance) -> bool {
        alive_pid(instance).is_some()
    }

    /// Settings are arguments: another command line needs another process.
    pub(super) async fn apply(&self, instance: &Instance) -> Result<()> {
        let Some(pid) = alive_pid(instance) else { return Ok(()) };
        let running = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let running: Vec<&[u8]> = running.split(|byte| *byte == 0).collect();
        let wanted = config::arguments(instance, Mode::Open, self.oplog_mib);
        if !wanted.iter().all(|argument| running.contains(&argument.as_bytes())) {
            self.restart(instance).await?;
        }
        access::restrict(self, instance).await
    }

    pub(super) async fn make_tenants(&self, instance: &Instance, users: &[UserSpec]) -> Result<()> {
        for user in users {
            self.ensure_tenant(instance, user, true).await?;
        }
        access::restrict(self, instance).await // also those that came with a base
    }

    async fn ensure_tenant(&self, instance: &Instance, user: &UserSpec, may_write: bool) -> Result<()> {
        let client = self.clients.get(instance, Account::Admin)?;
        let more = doc! {
            "roles": tenant_roles(user, may_write),
            "authenticationRestrictions": restrictions(instance),
        };
        for home in HOMES {
            ensure_user(&client, home, &user.username, &user.password, &more).await?;
        }
        Ok(())
    }

    pub(super) async fn give_password(&self, instance: &Instance, user: &UserSpec) -> Result<()> {
        let client = self.clients.get(instance, Account::Admin)?;
        let update = doc! { "updateUser": &user.username, "pwd": &user.password };
        for home in HOMES {
            match client.database(home).run_command(update.clone()).await {
                Ok(_) => {}
                Err(error) if is_code(&error, &[USER_NOT_FOUND]) => {
                    return self.ensure_tenant(instance, user, !access::is_held(instance)).await;
                }
                Err(error) => {
                    return Err(EngineError::client(format!("set the password of {}", user.username))(error));
                }
            }
        }
        Ok(())
    }

    pub(super) async fn server_version(&self, instance: &Instance) -> Result<String> {
        let client = self.clients.get(instance, Account::Admin)?;
        let info = admin(&client, doc! { "buildInfo": 1 }, "read the engine's version").await?;
        Ok(info.get_str("version").unwrap_or_default().to_owned())
    }
}

async fn make_account(client: &Client, secrets: &Secrets, account: Account) -> Result<()> {
    let more = doc! { "roles": roles(account.roles()) };
    ensure_user(client, "admin", account.username(), secrets.password(account), &more).await
}

fn pid_file(instance: &Instance) -> PathBuf {
    Paths(&instance.folder).run().join("mongod.pid")
}

/// The server's process. The file is the engine's own to write, so what it names must have this instance's data folder in
/// its command line.
fn alive_pid(instance: &Instance) -> Option<u32> {
    let pid: u32 = files::read_untrusted(&pid_file(instance)).ok()?.trim().parse().ok()?;
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let data = Paths(&instance.folder).data();
    let data = data.to_str()?.as_bytes();
    line.windows(data.len()).any(|part| part == data).then_some(pid)
}

/// What the server's log says of its end: what it could not bear, and not the stack behind that.
fn said(instance: &Instance) -> String {
    const RECENT_BYTES: u64 = 256 << 10;
    const ENTRIES: usize = 4;
    let is_grave = |line: &String| line.contains(r#""s":"F""#) || line.contains(r#""s":"E""#);
    let grave: Vec<String> = files::recent_log(instance, RECENT_BYTES).into_iter().filter(is_grave).collect();
    match grave.len() {
        0 => files::last_log_lines(instance),
        count => grave[count.saturating_sub(ENTRIES)..].join("; "),
    }
}
