//! With thousands of services and tens of thousands of backups every list goes through an index: SQLite is asked for
//! its plan, so that the answer does not depend on how fast the machine is.

use sqlx::Row as _;
use tempfile::TempDir;

use crate::{Catalog, backups, descriptions, jobs, keys, lease, queue, services};

/// A catalog with 5,000 services in 5 organizations, and 10 backups and 4 ended jobs each. Without `ANALYZE`: Holdfast
/// never runs it, so the plans are those of the real catalog.
async fn grown() -> (TempDir, Catalog) {
    let folder = TempDir::new().expect("a temporary folder");
    let catalog = Catalog::open(&folder.path().join("catalog.db")).await.expect("opens");
    let statements = [
        "INSERT INTO organizations (id, name, slug, is_personal, created_at) \
         WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 5) \
         SELECT 'o' || n, 'o' || n, 'o' || n, 0, n FROM n",
        "INSERT INTO services (id, organization_id, lineage_id, name, engine, version, status, plan_name, zone, \
         allowed_cidrs, attributes, created_at, updated_at, revision) \
         WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 5000) \
         SELECT 's' || n, 'o' || (n % 5 + 1), 'l' || n, 'name-' || n, 'postgresql', '17', 'running', 'tier-1', 'z', \
         '[]', '{}', n, n, 1 FROM n",
        "INSERT INTO backups (id, service_id, lineage_id, backup_type, mode, status, key_id, created_at, shredded_at, \
         removed_at, revision) WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 10) \
         SELECT 'b' || s.id || '-' || n, s.id, s.lineage_id, 'automated', 'full', 'completed', 'k', n, \
         CASE WHEN n < 8 THEN n END, CASE WHEN n < 8 THEN n END, 1 FROM n, services s",
        "INSERT INTO jobs (id, kind, service_id, state, step_index, place, generation, attempt, max_attempts, \
         not_before, input, outputs, cancel_requested, created_at, finished_at, settled) \
         WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 4) \
         SELECT 'j' || s.id || '-' || n, 'backup', s.id, 'completed', 3, 'control_plane', 3, 0, 5, n, '{}', '{}', 0, \
         n, n, 1 FROM n, services s",
    ];
    let mut tx = catalog.write("filling").await.expect("a transaction");
    for statement in statements {
        sqlx::query(statement).execute(&mut *tx).await.expect(statement);
    }
    tx.commit().await.expect("commits");
    (folder, catalog)
}

/// The lines of SQLite's plan.
async fn plan(catalog: &Catalog, query: &str) -> Vec<String> {
    let explain = format!("EXPLAIN QUERY PLAN {query}");
    let mut explain = sqlx::query(&explain);
    for _ in 0..query.matches('$').count().min(4) {
        explain = explain.bind("x");
    }
    let rows = explain.fetch_all(catalog.reader()).await.expect(query);
    rows.iter().map(|row| row.get::<String, _>("detail")).collect()
}

#[tokio::test]
async fn lists_go_through_their_index_and_need_no_sorting() {
    let (_folder, catalog) = grown().await;
    let backups: i64 =
        sqlx::query_scalar("SELECT COUNT(*) FROM backups").fetch_one(catalog.reader()).await.expect("counts");
    assert_eq!(backups, 50_000);
    // The query, and the index (or indices) that its plan must name.
    let rows: [(&str, &[&str]); 17] = [
        (services::LIST, &["services_listed_all"]),
        (services::LIST_OF_ORGANIZATION, &["services_listed"]),
        (services::PAGE, &["services_living_all"]),
        (services::PAGE_OF_ORGANIZATION, &["services_living"]),
        (services::COUNT, &["services_living_all"]),
        (services::COUNT_OF_ORGANIZATION, &["services_living"]),
        (descriptions::LIST_UNDESCRIBED, &["services_undescribed"]),
        (backups::LIST_OF_SERVICE, &["backups_of_service"]),
        (backups::LIST_UNSHREDDED, &["backups_unshredded"]),
        (jobs::LIST_OF_SERVICE, &["jobs_of_service"]),
        (jobs::LIST_OPEN_OF_SERVICE, &["jobs_open_of_service"]),
        (keys::LIST_BY_KEK, &["data_keys_by_kek"]),
        (keys::LIST_UNREMOVED, &["data_keys_unremoved"]),
        (queue::LIST_UNSETTLED, &["jobs_unsettled"]),
        (lease::ABANDONED, &["jobs_one_running"]),
        (lease::NEXT, &["jobs_open", "jobs_open_of_service"]),
        (lease::NEXT_DUE, &["jobs_open", "jobs_open_of_service"]),
    ];
    for (query, indices) in rows {
        let plan = plan(&catalog, query).await;
        for index in indices {
            let named = |line: &String| line.split(' ').any(|word| word == *index);
            assert!(plan.iter().any(named), "{query}\ndoes not use {index}: {plan:#?}");
        }
        assert!(!plan.iter().any(|line| reads_all(line)), "{query}\nreads a whole table: {plan:#?}");
        assert!(!plan.iter().any(|line| sorts(line)), "{query}\nsorts: {plan:#?}");
    }
    // The check can fail.
    let bad = plan(&catalog, "SELECT * FROM backups WHERE label = $1 ORDER BY label, mode").await;
    assert!(bad.iter().any(|line| reads_all(line)) && bad.iter().any(|line| sorts(line)), "{bad:#?}");
}

fn reads_all(line: &str) -> bool {
    line.starts_with("SCAN") && !line.contains("USING")
}

fn sorts(line: &str) -> bool {
    line.contains("TEMP B-TREE")
}
