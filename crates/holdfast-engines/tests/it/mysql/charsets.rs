//! Clients that speak another character set than UTF-8: what they name comes back by a replay as by a base.

use anyhow::{Context as _, Result, ensure};
use encoding_rs::Encoding;
use mysql_async::prelude::Queryable as _;

use crate::mysql::reading::{reading, same};
use crate::mysql::rig::{Server, archived, base, engines};

/// `é` stands for a word of the client's language, `$` for what makes a name new.
const STATEMENTS: &[&str] = &[
    "CREATE DATABASE `dé$`",
    "USE `dé$`",
    "CREATE TABLE `té` (id INT PRIMARY KEY, `cé` VARCHAR(20) DEFAULT 'é' COMMENT 'é') COMMENT 'é'",
    "CREATE TABLE `gé` (`cé` VARCHAR(20) DEFAULT 'é' COMMENT 'é', e ENUM('é', 'b')) COMMENT 'é'",
    "INSERT INTO `gé` VALUES ('é', 'é'), (DEFAULT, 'b')",
    "CREATE TABLE `sé` AS SELECT * FROM `té`",
    "CREATE TABLE `lé` LIKE `té`",
    "CREATE TEMPORARY TABLE `tempé` (id INT PRIMARY KEY, `cé` INT)",
    "CREATE TABLE `ltempé` LIKE `tempé`",
    "ALTER TABLE `té` ADD COLUMN `aé` INT DEFAULT 1 COMMENT 'é'",
    "CREATE VIEW `vé` (`cé`) AS SELECT `cé` FROM `té` WHERE `cé` <> 'é'",
    "CREATE OR REPLACE VIEW `vé` (`xé`) AS SELECT `cé` FROM `té` WHERE `cé` <> 'é'",
    "CREATE PROCEDURE `pé`(IN `aé` INT) COMMENT 'é' BEGIN SELECT 'é' AS `xé`; END",
    "CREATE FUNCTION `fé`(`aé` VARCHAR(20)) RETURNS VARCHAR(20) DETERMINISTIC COMMENT 'é' RETURN CONCAT(`aé`, 'é')",
    "CREATE EVENT `eé` ON SCHEDULE EVERY 1 DAY DISABLE COMMENT 'é' DO SELECT 'é'",
    "CREATE EVENT `e2é` ON SCHEDULE EVERY 1 DAY COMMENT 'é' DO SELECT 'é'",
    "ALTER EVENT `e2é` RENAME TO `e3é`",
    "CREATE TRIGGER `trgé` BEFORE INSERT ON `té` FOR EACH ROW SET NEW.`cé` = 'é'",
    "CREATE USER `ué$`@`%` IDENTIFIED BY 'é' COMMENT 'é'",
    "CREATE ROLE `ré$`",
    "GRANT `ré$` TO `ué$`@`%`",
    "GRANT SELECT ON `dé$`.* TO `ué$`@`%`",
    "GRANT SELECT (`cé`), INSERT ON `dé$`.`té` TO `ué$`@`%`",
    "GRANT EXECUTE ON PROCEDURE `dé$`.`pé` TO `ué$`@`%`",
    "REVOKE INSERT ON `dé$`.`té` FROM `ué$`@`%`",
    "ALTER USER `ué$`@`%` DEFAULT ROLE `ré$`",
    "ALTER USER `ué$`@`%` REQUIRE SUBJECT 'it''s é'",
    "RENAME USER `ué$`@`%` TO `oé$`@`%`",
    "CREATE USER `xé$`@`%` IDENTIFIED BY 'é'",
    "DROP USER `xé$`@`%`",
    "ALTER DATABASE `dé$` COLLATE utf8mb4_bin",
];

const CLIENTS: &[(&str, &Encoding, &str)] = &[
    ("latin1", encoding_rs::WINDOWS_1252, "Größe"),
    // What is UTF-8 in truth.
    ("latin1", encoding_rs::UTF_8, "Zoë"),
    ("cp1251", encoding_rs::WINDOWS_1251, "Счёт"),
    // Second bytes that look like a backslash and a bar, and like a backtick.
    ("cp932", encoding_rs::SHIFT_JIS, "表示ポ"),
    ("gbk", encoding_rs::GBK, "誠乣"),
];

async fn run(server: &Server, round: &str) -> Result<()> {
    for (number, (charset, encoding, word)) in CLIENTS.iter().enumerate() {
        let mut app = server.tenant("app").await?;
        app.query_drop(format!("SET NAMES {charset}")).await?;
        for statement in STATEMENTS {
            let text = statement.replace('é', word).replace('$', &format!("{round}{number}"));
            let (bytes, _, is_lossy) = encoding.encode(&text);
            ensure!(!is_lossy, "{text}");
            app.query_drop(bytes.into_owned()).await.with_context(|| format!("{charset}: {text}"))?;
        }
        app.disconnect().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_of_other_character_sets_make_comes_back() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    let (server, archive, _follower) = archived(&engines).await?;
    let mut app = server.tenant("app").await?;
    app.query_drop("SET NAMES latin1").await?;
    app.query_drop(&b"CREATE USER noted COMMENT '\xE9'"[..]).await?;
    let instead = base(&server, &archive).await?.facts.instead;
    ensure!(instead.as_ref().is_some_and(|made| made.reason.contains("no UTF-8 (`noted`)")), "{instead:?}");
    run(&server, "before").await?;
    let of_base = reading(&server).await?;
    let base = base(&server, &archive).await?;
    run(&server, "after").await?;
    let of_end = reading(&server).await?;
    let at = archive.catch_up().await?;
    let (copy, _) = server.restored(&engines, &base, None, &archive).await.context("restore the base")?;
    same(&of_base, &reading(&copy).await?, true).context("the copy of the base")?;
    drop(copy);
    let (copy, _) = server.restored(&engines, &base, Some(at), &archive).await.context("restore the end")?;
    same(&of_end, &reading(&copy).await?, false).context("the copy of the end")
}
