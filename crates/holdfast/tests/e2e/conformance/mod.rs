//! The conformance suite on every engine that has a driver, on a whole Holdfast; and what each must survive.

mod away;
mod blows;
mod shared;
mod support;

use anyhow::Result;
use holdfast_core::engine::EngineKind::{Kafka, Mongodb, Mysql, Opensearch, Postgresql, Valkey};

/// One module an engine, the same tests in each.
macro_rules! engine {
    ($name:ident, $kind:expr) => {
        mod $name {
            use super::*;

            #[tokio::test(flavor = "multi_thread")]
            async fn every_promise_holds() -> Result<()> {
                support::keeps_every_promise($kind).await
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn the_agent_dies_in_mid_stream() -> Result<()> {
                blows::the_agent_dies_in_mid_stream($kind).await
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn the_host_is_lost() -> Result<()> {
                blows::the_host_is_lost($kind).await
            }
        }
    };
}

engine!(postgresql, Postgresql);
engine!(mysql, Mysql);
engine!(mongodb, Mongodb);
engine!(valkey, Valkey);

/// The same for engines without a log.
macro_rules! engine_of_backups {
    ($name:ident, $kind:expr) => {
        mod $name {
            use super::*;

            #[tokio::test(flavor = "multi_thread")]
            async fn every_promise_holds() -> Result<()> {
                support::keeps_every_promise($kind).await
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn the_agent_dies_in_backups_and_restores() -> Result<()> {
                blows::the_agent_dies_in_backups_and_restores($kind).await
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn backups_outlive_those_they_share_with() -> Result<()> {
                shared::backups_outlive_those_they_share_with($kind).await
            }
        }
    };
}

engine_of_backups!(kafka, Kafka);
engine_of_backups!(opensearch, Opensearch);

#[tokio::test(flavor = "multi_thread")]
async fn much_happens_in_a_backup_of_postgresql() -> Result<()> {
    blows::much_happens_in_a_backup(Postgresql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn much_happens_in_a_backup_of_mysql() -> Result<()> {
    blows::much_happens_in_a_backup(Mysql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn much_happens_in_a_backup_of_mongodb() -> Result<()> {
    blows::much_happens_in_a_backup(Mongodb).await
}

#[tokio::test(flavor = "multi_thread")]
async fn much_happens_in_a_backup_of_valkey() -> Result<()> {
    blows::much_happens_in_a_backup(Valkey).await
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_without_binlogs_that_were_reset() -> Result<()> {
    away::what_was_lost_while_the_agent_was_away_is_told(Mysql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn mongodb_without_an_oplog_that_rolled_over() -> Result<()> {
    away::what_was_lost_while_the_agent_was_away_is_told(Mongodb).await
}

#[tokio::test(flavor = "multi_thread")]
async fn valkey_without_log_that_was_rewritten() -> Result<()> {
    away::what_was_lost_while_the_agent_was_away_is_told(Valkey).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_is_interrupted_leaves_nothing() -> Result<()> {
    support::cleans_up_when_interrupted(Postgresql).await
}
