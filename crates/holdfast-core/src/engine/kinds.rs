//! The kinds of engines, a row each: all that the rest of Holdfast knows of an engine without its driver.

use serde::{Deserialize, Serialize};

use super::{Account, Capability, CidrRule, Notation, TimeUnit};

/// A kind of database that the contract knows. On the wire its name in lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    Postgresql,
    Mysql,
    Mongodb,
    Valkey,
    Kafka,
    Opensearch,
    Mssql,
}

/// `app_user` and `admin`, as clients expect them (contract, section 6).
const fn accounts(role: &'static str, privileges: &'static str) -> [Account; 2] {
    [Account { username: "app_user", role, privileges }, Account { username: "admin", role, privileges }]
}

/// PostgreSQL's default size of a WAL segment. Every cluster of ours is made with it.
pub const WAL_SEGMENT_BYTES: u64 = 16 << 20;

/// What most engines have alike; an engine's row says what it has otherwise.
const USUAL: Capability = Capability {
    title: "",
    available: false,
    point_in_time: true,
    incremental: false,
    backup_methods: &[],
    versions: &[],
    default_version: "",
    log_piece: 1,
    default_database: "defaultdb",
    unit: TimeUnit::Microsecond,
    tls: true,
    cidrs: CidrRule::Any,
    notation: Notation { tls: ("", ""), plain: ("", "") },
    accounts: &accounts("admin", "all rights but those on the server itself"),
};

const POSTGRESQL: Capability = Capability {
    title: "PostgreSQL",
    available: true,
    incremental: true,
    backup_methods: &["pgbackrest"],
    versions: &["17", "18"], // initdb's builtin locale provider came with 17
    default_version: "17",
    log_piece: WAL_SEGMENT_BYTES,
    // Manual, "Connection URIs".
    notation: Notation { tls: ("postgresql", "?sslmode=require"), plain: ("postgresql", "?sslmode=disable") },
    accounts: &accounts("admin", "owner of defaultdb, may create databases and roles"),
    ..USUAL
};

const MYSQL: Capability = Capability {
    title: "MySQL",
    available: true,
    backup_methods: &["mysqldump", "clone"],
    versions: &["9.7"],
    default_version: "9.7",
    cidrs: CidrRule::Ipv4,
    // Manual, "Connecting Using URI-Like Connection Strings".
    notation: Notation { tls: ("mysql", "?ssl-mode=REQUIRED"), plain: ("mysql", "?ssl-mode=DISABLED") },
    accounts: &accounts("admin", "all rights on databases and users but the system's"),
    ..USUAL
};

const MONGODB: Capability = Capability {
    title: "MongoDB",
    available: true,
    backup_methods: &["mongodump"],
    versions: &["6.0", "7.0", "8.0"],
    default_version: "7.0",
    unit: TimeUnit::Millisecond,
    // Manual, "Connection Strings": users live in `admin`, and a client stays with the one node that it was given. The certificate is
    // the instance's own: what `sslmode=require` means elsewhere.
    notation: Notation {
        tls: ("mongodb", "?authSource=admin&directConnection=true&tls=true&tlsAllowInvalidCertificates=true"),
        plain: ("mongodb", "?authSource=admin&directConnection=true&tls=false"),
    },
    accounts: &[
        Account {
            username: "app_user",
            role: "readWrite",
            privileges: "reads and writes all databases but the system's",
        },
        Account {
            username: "admin",
            role: "admin",
            privileges: "administers all databases but the system's, and watches the server",
        },
    ],
    ..USUAL
};

const VALKEY: Capability = Capability {
    title: "Valkey",
    available: true,
    backup_methods: &["rdb"],
    versions: &["8.1", "9.0", "9.1"], // a restore holds the clock still with what came with 8.1 (`import-mode`)
    default_version: "8.1",
    default_database: "0",
    unit: TimeUnit::Second,
    tls: false,
    cidrs: CidrRule::AllOrLoopback,
    // The URI registrations `redis` and `rediss`, which clients of Valkey take too.
    notation: Notation { tls: ("rediss", ""), plain: ("redis", "") },
    accounts: &accounts("admin", "all keys, and all commands but those on the server itself"),
    ..USUAL
};

const KAFKA: Capability = Capability {
    title: "Kafka",
    available: true,
    point_in_time: false,
    backup_methods: &["kafka_full"],
    versions: &["3.6", "3.7", "3.8", "3.9", "4.0", "4.1"],
    default_version: "3.9",
    default_database: "", // topics are all there is
    unit: TimeUnit::Millisecond,
    cidrs: CidrRule::AllOrLoopback,
    // There is no notation of Kafka's own: `bootstrap.servers` is the host and the port, `security.protocol` SASL_SSL.
    notation: Notation { tls: ("kafka+ssl", ""), plain: ("kafka", "") },
    accounts: &accounts(
        "admin",
        "all rights on topics, groups and transactions, but not on users and the server itself",
    ),
    ..USUAL
};

const OPENSEARCH: Capability = Capability {
    title: "OpenSearch",
    available: true,
    point_in_time: false,
    backup_methods: &["snapshot"],
    versions: &["2", "3"],
    default_version: "2",
    default_database: "", // indices are all there is
    unit: TimeUnit::Millisecond,
    cidrs: CidrRule::AllOrLoopback,
    notation: Notation { tls: ("https", ""), plain: ("http", "") },
    accounts: &accounts(
        "admin",
        "all rights on indices, templates and pipelines, but not on users, snapshots and the cluster itself",
    ),
    ..USUAL
};

/// By way of Babelfish: PostgreSQL that speaks TDS.
const MSSQL: Capability = Capability {
    title: "SQL Server",
    incremental: true,
    backup_methods: &["pgbackrest"],
    versions: &["4.8"],
    default_version: "4.8",
    log_piece: WAL_SEGMENT_BYTES,
    default_database: "master",
    notation: Notation { tls: ("mssql", "?encrypt=true"), plain: ("mssql", "?encrypt=false") },
    ..USUAL
};

impl EngineKind {
    pub const ALL: [Self; 7] = [
        Self::Postgresql,
        Self::Mysql,
        Self::Mongodb,
        Self::Valkey,
        Self::Kafka,
        Self::Opensearch,
        Self::Mssql,
    ];

    const fn row(self) -> (&'static str, &'static Capability) {
        match self {
            Self::Postgresql => ("postgresql", &POSTGRESQL),
            Self::Mysql => ("mysql", &MYSQL),
            Self::Mongodb => ("mongodb", &MONGODB),
            Self::Valkey => ("valkey", &VALKEY),
            Self::Kafka => ("kafka", &KAFKA),
            Self::Opensearch => ("opensearch", &OPENSEARCH),
            Self::Mssql => ("mssql", &MSSQL),
        }
    }

    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.row().0
    }

    /// What this release can do with the engine. `available` turns true release by release.
    #[must_use]
    pub const fn capability(self) -> &'static Capability {
        self.row().1
    }
}
