//! Commands that the agent sends to an instance, by its socket.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, FromRedisValue, IntoConnectionInfo,
    RedisConnectionInfo,
};

use super::config::{Own, socket};
use crate::{EngineError, Instance, Result};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A fork of a large process, or a long script of the tenant's, may hold the server up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// A connection with all rights, closed when it is dropped.
pub(super) async fn connect(instance: &Instance) -> Result<MultiplexedConnection> {
    connect_for(instance, ANSWER_TIMEOUT).await
}

/// The same, for commands that may take longer.
pub(super) async fn connect_for(
    instance: &Instance,
    answer_timeout: Duration,
) -> Result<MultiplexedConnection> {
    let doing = || format!("connect to instance {}", instance.stanza);
    let own = Own::read(instance)?;
    let login = RedisConnectionInfo::default()
        .set_username("default")
        .set_password(&own.password)
        .set_lib_name("holdfast", env!("CARGO_PKG_VERSION"));
    let open = async {
        let info = ConnectionAddr::Unix(socket(instance)).into_connection_info()?.set_redis_settings(login);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(answer_timeout));
        Client::open(info)?.get_multiplexed_async_connection_with_config(&config).await
    };
    open.await.map_err(EngineError::client(doing()))
}

pub(super) async fn ask<T: FromRedisValue>(
    client: &mut MultiplexedConnection,
    command: &Cmd,
    doing: &str,
) -> Result<T> {
    command.query_async(client).await.map_err(EngineError::client(doing))
}

/// A command of plain words.
pub(super) fn words(words: &str) -> Cmd {
    let mut command = Cmd::new();
    for word in words.split(' ') {
        command.arg(word);
    }
    command
}

pub(super) async fn set(client: &mut MultiplexedConnection, name: &str, value: &str) -> Result<()> {
    let mut command = redis::cmd("CONFIG");
    command.arg("SET").arg(name).arg(value);
    ask(client, &command, "change a setting").await
}

/// A section of `INFO`, or several, by name.
pub(super) struct Info(BTreeMap<String, String>);

impl Info {
    pub(super) async fn read(client: &mut MultiplexedConnection, sections: &str) -> Result<Self> {
        let text: String =
            ask(client, &words(&format!("INFO {sections}")), "read the engine's state").await?;
        Ok(Self::parse(&text))
    }

    pub(super) fn parse(text: &str) -> Self {
        let pairs = text.lines().filter_map(|line| line.trim_end().split_once(':'));
        Self(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    pub(super) fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    pub(super) fn number(&self, name: &str) -> u64 {
        self.text(name).parse().unwrap_or(0)
    }

    /// The release as it calls itself: `valkey_version`, or `redis_version` where there is no other.
    pub(super) fn version(&self) -> &str {
        Some(self.text("valkey_version"))
            .filter(|text| !text.is_empty())
            .unwrap_or_else(|| self.text("redis_version"))
    }

    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}
