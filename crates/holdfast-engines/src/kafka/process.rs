//! How an instance is made, starts, stops and is found again.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::config::InnerPorts;
use super::{Kafka, client, config, users};
use crate::exec::{self, ProcessSpec};
use crate::{EngineError, Instance, Paths, ProgressSink, Result, UserSpec, java};

const FORMAT_SECONDS: u64 = 120;

const JAR_FOLDER: &str = "libs";

/// Releases below `engines_dir`, ascending.
pub(super) fn installed_versions(engines_dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(engines_dir).into_iter().flatten().flatten();
    let mut versions: Vec<String> = entries
        .filter(|entry| entry.path().join(JAR_FOLDER).is_dir())
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_prefix("kafka-")?.to_owned()))
        .collect();
    versions.sort_by_key(|version| numbers(version));
    versions
}

/// `3.9.1` as numbers.
pub(super) fn numbers(version: &str) -> (u32, u32) {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

impl Kafka {
    fn jars(&self, instance: &Instance) -> Result<PathBuf> {
        let folder = self.engines_dir.join(format!("kafka-{}", instance.version)).join(JAR_FOLDER);
        if folder.is_dir() {
            return Ok(folder);
        }
        Err(EngineError::Missing { engine: "Kafka", version: instance.version.clone() })
    }

    /// The release that an instance runs, by the name of its archive: the protocol does not tell.
    pub(super) fn release(&self, instance: &Instance) -> Result<String> {
        let folder = self.jars(instance)?;
        let entries = std::fs::read_dir(&folder).map_err(EngineError::io("read the engine's folder"))?;
        let mut names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let release = names.find_map(|name| {
            let version = name.strip_prefix("kafka-clients-")?.strip_suffix(".jar")?;
            Some(version.to_owned())
        });
        Ok(release.unwrap_or_else(|| instance.version.clone()))
    }

    /// The virtual machine with a class of Kafka's.
    fn java(&self, instance: &Instance, heap_mib: u64, class: &str) -> Result<Vec<OsString>> {
        let mut arguments = java::options(instance, heap_mib);
        arguments.extend(config::logging_arguments(instance));
        let classes = format!("{}/*", self.jars(instance)?.display());
        arguments.extend(["-cp".into(), classes.into(), class.into()]);
        Ok(arguments)
    }

    pub(super) async fn create_instance(
        &self,
        instance: &Instance,
        specs: &[UserSpec],
        progress: &ProgressSink,
    ) -> Result<String> {
        progress.phase("starting the engine");
        self.create_empty(instance).await?;
        let mut client = client::connect(instance).await?;
        users::put(&mut client, specs).await?;
        self.release(instance)
    }

    /// A new cluster that only the agent can log in to, running.
    pub(super) async fn create_empty(&self, instance: &Instance) -> Result<()> {
        config::make_folders(instance)?;
        config::write_all(instance, InnerPorts::free()?)?;
        self.format(instance).await?;
        self.start_instance(instance).await
    }

    async fn format(&self, instance: &Instance) -> Result<()> {
        const HEAP_MIB: u64 = 64;
        if Paths(&instance.folder).data().join("meta.properties").exists() {
            return Ok(());
        }
        let id = config::Own::ensure(instance)?.cluster_id;
        let settings = config::properties_path(instance);
        let spec = ProcessSpec::new(&self.java, &instance.folder)
            .args(self.java(instance, HEAP_MIB, "kafka.tools.StorageTool")?)
            .args(["format", "--cluster-id", &id, "--config"])
            .args([settings])
            .run_as(instance.run_as.as_ref())
            .timeout_seconds(FORMAT_SECONDS);
        exec::run(spec).await.map(drop).map_err(EngineError::exec("make the data folder"))
    }

    pub(super) async fn start_instance(&self, instance: &Instance) -> Result<()> {
        config::make_folders(instance)?;
        let settings = config::properties_path(instance);
        let server = server(instance, &settings);
        let mut tries = 0;
        loop {
            tries += 1;
            let found = !server.pids().is_empty();
            if !found {
                config::write_all(instance, InnerPorts::free()?)?;
                let mut arguments = self.java(instance, config::heap_mib(instance), "kafka.Kafka")?;
                arguments.push(settings.clone().into());
                server.launch(&self.java, arguments).await?;
            }
            match server.wait(|instance| Box::pin(is_ready(instance))).await {
                Err(_) if tries < java::TRIES && server.may_start_anew(found) => {}
                ended => return ended,
            }
        }
    }

    pub(super) async fn stop_instance(&self, instance: &Instance, timeout_seconds: u64) -> Result<()> {
        server(instance, &config::properties_path(instance)).stop(timeout_seconds).await
    }

    pub(super) async fn apply(&self, instance: &Instance) -> Result<()> {
        const STOP_SECONDS: u64 = 60;
        config::make_folders(instance)?;
        let ports = InnerPorts::of(instance).map_or_else(InnerPorts::free, Ok)?;
        let others = config::write_all(instance, ports)?;
        if !others || !runs(instance) {
            return Ok(());
        }
        self.stop_instance(instance, STOP_SECONDS).await?;
        self.start_instance(instance).await
    }
}

/// Whether it answers.
async fn is_ready(instance: &Instance) -> Result<Option<String>> {
    client::connect(instance).await.map(|_| None)
}

fn server<'a>(instance: &'a Instance, settings: &'a Path) -> java::Server<'a> {
    java::Server { instance, argument: settings.as_os_str(), log: "kafka.log" }
}

/// Whether there is any process of the server's.
pub(super) fn runs(instance: &Instance) -> bool {
    !server(instance, &config::properties_path(instance)).pids().is_empty()
}
