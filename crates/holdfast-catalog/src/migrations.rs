//! The catalog's shapes, one file a step, compiled in. A file never changes once it was released: the catalog keeps its
//! SHA-384, and a catalog that knows another one is refused. A new shape is a new file and a new line here.
//!
//! Listed by hand: sqlx's macro for this brings a compiler of queries and a second SQLite into every build.

use std::borrow::Cow;
use std::pin::Pin;

use sqlx::error::BoxDynError;
use sqlx::migrate::{Migration, MigrationSource, MigrationType, Migrator};

/// Version, what it is about, and its SQL; the file is `migrations/000VERSION_DESCRIPTION.sql`.
const ALL: [(i64, &str, &str); 6] = [
    (1, "first", include_str!("../migrations/0001_first.sql")),
    (2, "description", include_str!("../migrations/0002_description.sql")),
    (3, "key rotation", include_str!("../migrations/0003_key_rotation.sql")),
    (4, "living services", include_str!("../migrations/0004_living_services.sql")),
    (5, "backup method", include_str!("../migrations/0005_backup_method.sql")),
    (6, "removed", include_str!("../migrations/0006_removed.sql")),
];

#[derive(Debug)]
struct Embedded;

impl MigrationSource<'static> for Embedded {
    fn resolve(self) -> Pin<Box<dyn Future<Output = Result<Vec<Migration>, BoxDynError>> + Send>> {
        let one = |(version, description, sql): (i64, &'static str, &'static str)| {
            Migration::new(
                version,
                Cow::Borrowed(description),
                MigrationType::Simple,
                Cow::Borrowed(sql),
                false,
            )
        };
        Box::pin(async move { Ok(ALL.into_iter().map(one).collect()) })
    }
}

/// All of them, in order.
///
/// # Errors
/// None today; the trait allows one.
pub(crate) async fn all() -> Result<Migrator, sqlx::migrate::MigrateError> {
    Migrator::new(Embedded).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_file_is_listed_once_under_its_own_name() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
        let mut on_disk: Vec<String> = std::fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
            .collect();
        on_disk.sort();
        let listed: Vec<String> = ALL
            .iter()
            .map(|(version, description, _)| format!("{version:04}_{}.sql", description.replace(' ', "_")))
            .collect();
        assert_eq!(listed, on_disk);
    }

    /// What released catalogs have recorded; sqlx refuses one whose migration has another sum.
    #[tokio::test]
    async fn released_files_have_not_changed() {
        let sums: Vec<String> = all().await.expect("resolves").iter().map(|one| sum(&one.checksum)).collect();
        assert_eq!(sums, RELEASED);
    }

    /// The first eight bytes of a SHA-384.
    fn sum(bytes: &[u8]) -> String {
        bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    const RELEASED: [&str; 6] = [
        "7ac58947deb7560f",
        "51c4ba950db7fbfe",
        "1368e399231dd092",
        "78d233b191bde0c7",
        "269b71a4b87181ba",
        "968b6baab9e979ee",
    ];
}
