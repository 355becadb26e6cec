//! What a person would run without Holdfast where servers run on Java: Kafka's console consumer and producer, and OpenSearch's snapshots into
//! a plain repository.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use holdfast_conformance::{Database, Login};
use reqwest::Method;
use serde_json::{Value, json};

use crate::by_hand::Tool;
use crate::own::dump_in;

/// Bytes of each of the records that a topic is filled with.
const RECORD_BYTES: u64 = 100_000;
const TOPIC: &str = "bench.noise";

/// The topic's values as lines: none has a line break in it.
pub(crate) struct KafkaConsole {
    pub engines: PathBuf,
    pub folder: PathBuf,
    pub login: Login,
    pub bytes: u64,
}

impl KafkaConsole {
    /// Address, and a file that says how to log in and whom to believe.
    fn client(&self, login: &Login) -> Result<(String, PathBuf)> {
        let address = format!("{}:{}", login.host, login.port);
        let shown = Command::new("openssl")
            .args(["s_client", "-connect", &address])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()?;
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        let from = shown.find("-----BEGIN CERTIFICATE").context("a certificate")?;
        let end = "-----END CERTIFICATE-----";
        let to = shown.find(end).context("a whole certificate")? + end.len();
        let trusted = self.folder.join(format!("{}.pem", login.port));
        fs::write(&trusted, &shown[from..to])?;
        let settings = self.folder.join(format!("{}.properties", login.port));
        let (user, password) = (&login.username, &login.password);
        fs::write(
            &settings,
            format!(
                "security.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-512\nssl.truststore.type=PEM\nssl.truststore.location={}\n\
                 ssl.endpoint.identification.algorithm=\nsasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule \
                 required username=\"{user}\" password=\"{password}\";\n",
                trusted.display()
            ),
        )?;
        Ok((address, settings))
    }

    fn java(&self, class: &str) -> Command {
        let mut command = Command::new("java");
        command.args(["-Xmx512m", "-cp"]).arg(format!("{}/kafka-3.9/libs/*", self.engines.display()));
        command.arg(class).stderr(Stdio::null());
        command
    }
}

#[async_trait]
impl Tool for KafkaConsole {
    fn what(&self) -> &'static str {
        "Kafka's console consumer into a file, and its console producer out of it"
    }

    async fn backup(&mut self) -> Result<u64> {
        let (address, settings) = self.client(&self.login)?;
        let dump = dump_in(&self.folder);
        let count = self.bytes.div_ceil(RECORD_BYTES).to_string();
        let ended = self
            .java("org.apache.kafka.tools.consumer.ConsoleConsumer")
            .args([
                "--bootstrap-server",
                &address,
                "--topic",
                TOPIC,
                "--from-beginning",
                "--max-messages",
                &count,
            ])
            .arg("--consumer.config")
            .arg(settings)
            .stdin(Stdio::null())
            .stdout(fs::File::create(&dump)?)
            .status()?;
        ensure!(ended.success(), "the console consumer: {ended}");
        let length = fs::metadata(dump)?.len();
        ensure!(length >= self.bytes, "the console consumer read {length} bytes");
        Ok(length)
    }

    async fn restore(&mut self, target: &Database) -> Result<()> {
        target.open().await?.fill(0).await?; // makes the topic
        let (address, settings) = self.client(&target.login)?;
        let ended = self
            .java("org.apache.kafka.tools.ConsoleProducer")
            .args(["--bootstrap-server", &address, "--topic", TOPIC, "--producer.config"])
            .arg(settings)
            .stdin(fs::File::open(dump_in(&self.folder))?)
            .stdout(Stdio::null())
            .status()?;
        ensure!(ended.success(), "the console producer: {ended}");
        Ok(())
    }
}

/// A plain repository in the same nodes, by the agent's own way in; it is moved from the one to the other.
pub(crate) struct PlainRepository {
    pub source: Login,
}

const INDEX: &str = "bench-noise";

struct Node {
    http: reqwest::Client,
    base: String,
    repository: PathBuf,
}

impl Node {
    /// Of the server that listens on this port; its settings' folder is among its arguments.
    fn of(login: &Login) -> Result<Self> {
        let wanted = format!("http.port: {}", login.port);
        let folders = fs::read_dir("/proc")?.flatten().filter_map(|process| {
            let arguments = fs::read(process.path().join("cmdline")).ok()?;
            let arguments = String::from_utf8_lossy(&arguments).into_owned();
            arguments
                .split('\0')
                .find_map(|one| one.strip_prefix("-Dopensearch.path.conf=").map(PathBuf::from))
        });
        let mut folders = folders.filter(|conf| {
            fs::read_to_string(conf.join("opensearch.yml")).is_ok_and(|text| text.contains(&wanted))
        });
        let conf = folders.next().context("the node's settings")?;
        let read = |name: &str| fs::read(conf.join(name));
        let http = reqwest::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(&read("server.crt")?)?])
            .identity(reqwest::Identity::from_pem(&read("../agent.pem")?)?)
            .no_proxy()
            .build()?;
        let repository = conf.ancestors().nth(2).context("an instance's folder")?.join("repository/plain");
        Ok(Self { http, base: format!("https://127.0.0.1:{}", login.port), repository })
    }

    async fn ask(&self, method: Method, path: &str, body: Value) -> Result<Value> {
        let answer = self.http.request(method, format!("{}{path}", self.base)).json(&body).send().await?;
        let status = answer.status();
        let told: Value = answer.json().await?;
        ensure!(status.is_success() || status.as_u16() == 404, "{path}: {told}");
        Ok(told)
    }

    async fn register(&self, readonly: bool) -> Result<()> {
        let settings = json!({
            "location": self.repository, "readonly": readonly, "max_snapshot_bytes_per_sec": "0", "max_restore_bytes_per_sec": "0",
        });
        self.ask(Method::PUT, "/_snapshot/plain", json!({"type": "fs", "settings": settings})).await.map(drop)
    }
}

#[async_trait]
impl Tool for PlainRepository {
    fn what(&self) -> &'static str {
        "a snapshot into a plain `fs` repository on the same disk, and a restore of it"
    }

    async fn backup(&mut self) -> Result<u64> {
        let node = Node::of(&self.source)?;
        node.ask(Method::DELETE, "/_snapshot/plain", json!({})).await?;
        if node.repository.exists() {
            fs::remove_dir_all(&node.repository)?;
        }
        node.register(false).await?;
        let path = "/_snapshot/plain/one?wait_for_completion=true";
        let told = node.ask(Method::PUT, path, json!({"indices": INDEX})).await?;
        ensure!(told["snapshot"]["state"] == "SUCCESS", "{told}");
        bytes(&node.repository)
    }

    async fn restore(&mut self, target: &Database) -> Result<()> {
        let (source, node) = (Node::of(&self.source)?, Node::of(&target.login)?);
        source.ask(Method::DELETE, "/_snapshot/plain", json!({})).await?;
        fs::rename(&source.repository, &node.repository)?;
        let owner = fs::metadata(node.repository.parent().context("a folder")?)?;
        let (uid, gid) =
            (std::os::unix::fs::MetadataExt::uid(&owner), std::os::unix::fs::MetadataExt::gid(&owner));
        let user = format!("{uid}:{gid}");
        let owned = Command::new("chown").arg("-R").arg(user).arg(&node.repository).status()?;
        ensure!(owned.success(), "chown");
        node.register(true).await?;
        let path = "/_snapshot/plain/one/_restore?wait_for_completion=true";
        let told = node.ask(Method::POST, path, json!({"indices": INDEX})).await?;
        ensure!(told["snapshot"]["shards"]["failed"] == 0, "{told}");
        Ok(())
    }
}

fn bytes(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        sum += if meta.is_dir() { bytes(&entry.path())? } else { meta.len() };
    }
    Ok(sum)
}
