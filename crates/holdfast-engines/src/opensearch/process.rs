//! How an instance is made, starts, stops and is found again.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::client::Client;
use super::{OpenSearch, config, disk, users};
use crate::exec::{self, ProcessSpec};
use crate::{EngineError, Instance, ProgressSink, Result, UserSpec, files, java};

const KEYSTORE_SECONDS: u64 = 120;

/// Releases below `engines_dir`, ascending.
pub(super) fn installed_versions(engines_dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(engines_dir).into_iter().flatten().flatten();
    let mut versions: Vec<String> = entries
        .filter(|entry| {
            entry.path().join("lib").is_dir() && entry.path().join("plugins/opensearch-security").is_dir()
        })
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_prefix("opensearch-")?.to_owned()))
        .collect();
    versions.sort_by_key(|version| numbers(version));
    versions
}

/// `2.19.4` as numbers.
pub(super) fn numbers(version: &str) -> (u32, u32) {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

impl OpenSearch {
    fn home(&self, instance: &Instance) -> Result<PathBuf> {
        let folder = self.engines_dir.join(format!("opensearch-{}", instance.version));
        if folder.join("lib").is_dir() {
            return Ok(folder);
        }
        Err(EngineError::Missing { engine: "OpenSearch", version: instance.version.clone() })
    }

    /// The virtual machine with a class of OpenSearch's. Each option is one that its own launcher gives.
    fn java(
        &self,
        instance: &Instance,
        heap_mib: u64,
        conf: &OsStr,
        classes: &[&str],
        class: &str,
    ) -> Result<Vec<OsString>> {
        const OPTIONS: [&str; 12] = [
            "-Xss1m",
            "-Dfile.encoding=UTF-8",
            "-Djna.nosys=true",
            "-Dio.netty.noUnsafe=true",
            "-Dio.netty.noKeySetOptimization=true",
            "-Dio.netty.recycler.maxCapacityPerThread=0",
            "-Dio.netty.allocator.numDirectArenas=0",
            "-Dlog4j.shutdownHookEnabled=false",
            "-Dlog4j2.disable.jmx=true",
            "-Djava.locale.providers=SPI,COMPAT",
            "-Dopensearch.distribution.type=zip",
            "-Dopensearch.bundled_jdk=false",
        ];
        let home = self.home(instance)?;
        let mut arguments = java::options(instance, heap_mib);
        arguments.push(format!("-Xms{heap_mib}m").into());
        arguments.extend(OPTIONS.map(OsString::from));
        arguments.extend(self.of_release(&home));
        arguments.push(format!("-Dopensearch.path.home={}", home.display()).into());
        arguments.push(conf.to_owned());
        let classes: Vec<String> =
            classes.iter().map(|below| format!("{}/{below}/*", home.display())).collect();
        arguments.extend(["-cp".into(), classes.join(":").into(), class.into()]);
        Ok(arguments)
    }

    /// What 2.x has and 3.x has not, and the other way round.
    fn of_release(&self, home: &Path) -> Vec<OsString> {
        let guard = home.join("agent/opensearch-agent.jar");
        if !guard.exists() {
            return vec!["-Djava.security.manager=allow".into()];
        }
        vec![
            format!("-javaagent:{}", guard.display()).into(),
            "--add-opens=java.base/java.nio=ALL-UNNAMED".into(),
            "-Dorg.apache.lucene.store.MMapDirectory.sharedArenaMaxPermits=1".into(),
        ]
    }

    pub(super) async fn create_instance(
        &self,
        instance: &Instance,
        specs: &[UserSpec],
        progress: &ProgressSink,
    ) -> Result<String> {
        progress.phase("starting the engine");
        let client = self.create_empty(instance).await?;
        users::put(&client, specs).await?;
        release(&client).await
    }

    /// A new node that only the agent can log in to, running.
    pub(super) async fn create_empty(&self, instance: &Instance) -> Result<Client> {
        config::make_folders(instance)?;
        config::write_all(instance, java::free_port()?)?;
        self.make_keystore(instance).await?;
        self.start_instance(instance).await?;
        Client::new(instance)
    }

    /// The engine's own program makes it, where its user may write; it is kept where he may not.
    async fn make_keystore(&self, instance: &Instance) -> Result<()> {
        const HEAP_MIB: u64 = 64;
        let kept = config::path(instance, config::KEYSTORE);
        if kept.exists() {
            return Ok(());
        }
        let temporary = java::temporary(instance);
        let class = "org.opensearch.common.settings.KeyStoreCli";
        let spec = ProcessSpec::new(&self.java, &instance.folder)
            .args(self.java(
                instance,
                HEAP_MIB,
                &conf_in(&temporary),
                &["lib", "lib/tools/keystore-cli"],
                class,
            )?)
            .args(["create"])
            .run_as(instance.run_as.as_ref())
            .timeout_seconds(KEYSTORE_SECONDS);
        exec::run(spec).await.map_err(EngineError::exec("make the engine's keystore"))?;
        let failed = || EngineError::io(format!("keep {}", config::KEYSTORE));
        let made = temporary.join(config::KEYSTORE);
        let mut bytes = Vec::new();
        let mut file = files::open_untrusted(&made).map_err(failed())?;
        std::io::Read::read_to_end(&mut file, &mut bytes).map_err(failed())?;
        files::write_readable(&kept, &bytes, instance.run_as.as_ref())
    }

    pub(super) async fn start_instance(&self, instance: &Instance) -> Result<()> {
        const CLASS: &str = "org.opensearch.bootstrap.OpenSearch";
        config::make_folders(instance)?;
        let conf = conf_in(&config::folder(instance));
        let server = server(instance, &conf);
        let mut tries = 0;
        loop {
            tries += 1;
            let found = !server.pids().is_empty();
            if !found {
                config::write_all(instance, java::free_port()?)?;
                let heap_mib = config::heap_mib(instance);
                server.launch(&self.java, self.java(instance, heap_mib, &conf, &["lib"], CLASS)?).await?;
            }
            match server.wait(|instance| Box::pin(is_ready(instance))).await {
                Err(_) if tries < java::TRIES && server.may_start_anew(found) => {}
                Err(error) => return Err(error),
                Ok(()) => return disk::block_again(instance).await,
            }
        }
    }

    pub(super) async fn stop_instance(&self, instance: &Instance, timeout_seconds: u64) -> Result<()> {
        server(instance, &conf_in(&config::folder(instance))).stop(timeout_seconds).await
    }

    pub(super) async fn apply(&self, instance: &Instance) -> Result<()> {
        const STOP_SECONDS: u64 = 60;
        config::make_folders(instance)?;
        let port = config::port_in_use(instance).map_or_else(java::free_port, Ok)?;
        let others = config::write_all(instance, port)?;
        if !others || !runs(instance) {
            return Ok(());
        }
        self.stop_instance(instance, STOP_SECONDS).await?;
        self.start_instance(instance).await
    }
}

/// The release that a server runs.
pub(super) async fn release(client: &Client) -> Result<String> {
    const DOING: &str = "ask for the engine's version";
    let told = client.get(DOING, "/").await?;
    let version = told["version"]["number"].as_str().map(str::to_owned);
    version.ok_or_else(|| EngineError::Unexpected { doing: DOING.to_owned(), what: told.to_string() })
}

/// How a server is told where its settings are.
fn conf_in(folder: &Path) -> OsString {
    let mut argument = OsString::from("-Dopensearch.path.conf=");
    argument.push(folder);
    argument
}

fn server<'a>(instance: &'a Instance, conf: &'a OsStr) -> java::Server<'a> {
    java::Server { instance, argument: conf, log: "opensearch.log" }
}

/// Whether there is any process of the server's.
pub(super) fn runs(instance: &Instance) -> bool {
    !server(instance, &conf_in(&config::folder(instance))).pids().is_empty()
}

/// Whether it has read its indices and its users: `None` when it is, otherwise what is missing.
async fn is_ready(instance: &Instance) -> Result<Option<String>> {
    const DOING: &str = "ask whether the engine is ready";
    /// An index that a tenant made unable to have a shard stays red; before the first shards are read everything is, too.
    const CALM: u32 = 5;
    const PAUSE: Duration = Duration::from_millis(500);
    let client = Client::new(instance)?;
    let plugin = client.get(DOING, "/_plugins/_security/health").await?;
    if plugin["status"] != "UP" {
        return Ok(Some(format!("the security plugin says {plugin}")));
    }
    client.get(DOING, "/_plugins/_security/api/roles/holdfast_tenant").await?;
    for _ in 0..CALM {
        let health = client.get(DOING, "/_cluster/health").await?;
        if ["green", "yellow"].iter().any(|status| health["status"] == *status) {
            return Ok(None);
        }
        let busy = ["initializing_shards", "number_of_pending_tasks", "number_of_in_flight_fetch"];
        if let Some(busy) = busy.iter().find(|name| health[**name] != 0) {
            return Ok(Some(format!("{} {busy}", health[*busy])));
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(None)
}
