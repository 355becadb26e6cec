//! The files that configure an instance. All lie in a folder of `conf/` whose names the engine's user may list, and that he may read and not write.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::certificate::Certificate;
use crate::files::{self, make_folder};
use crate::{EngineError, Instance, Paths, Result, java};

const SETTINGS: &str = "opensearch.yml";
const LOGGING: &str = "log4j2.properties";
/// Passwords of the server's own; it insists on there being one.
pub(super) const KEYSTORE: &str = "opensearch.keystore";
/// What the security plugin begins with; afterwards it keeps all that in an index of its own.
const SECURITY: &str = "opensearch-security";
/// The subject of the agent's certificate, which stands above all rights.
const AGENT: &str = "holdfast agent";
/// Subjects of certificates that other nodes would show; this one has none, so it is what a server's own certificate says.
const NODE: &str = "CN=rcgen self signed cert";

/// The role of users who may do everything with indices, and of those who may only read.
pub(super) const TENANT: &str = "holdfast_tenant";
pub(super) const READER: &str = "holdfast_reader";

/// The agent's own certificate.
pub(super) struct Agent {
    /// The server trusts it, and may read it.
    pub certificate: PathBuf,
    /// With its key, for the agent alone.
    pub together: PathBuf,
}

impl Agent {
    pub(super) fn of(instance: &Instance) -> Self {
        let together = Paths(&instance.folder).conf().join("agent.pem");
        Self { certificate: path(instance, "agent.crt"), together }
    }

    fn make(instance: &Instance) -> Result<()> {
        let files = Self::of(instance);
        if files.certificate.is_file() {
            return Ok(());
        }
        let failed = |error: rcgen::Error| EngineError::Unexpected {
            doing: "make the agent's certificate".to_owned(),
            what: error.to_string(),
        };
        let key = rcgen::KeyPair::generate().map_err(failed)?;
        let mut wanted = rcgen::CertificateParams::default();
        wanted.distinguished_name = rcgen::DistinguishedName::new();
        wanted.distinguished_name.push(rcgen::DnType::CommonName, AGENT);
        let certificate = wanted.self_signed(&key).map_err(failed)?.pem();
        files::write_secret(&files.together, format!("{certificate}{}", key.serialize_pem()).as_bytes())?;
        files::write_readable(&files.certificate, certificate.as_bytes(), instance.run_as.as_ref())
    }
}

pub(super) fn path(instance: &Instance, name: &str) -> PathBuf {
    folder(instance).join(name)
}

/// The server looks through it for settings of its log.
pub(super) fn folder(instance: &Instance) -> PathBuf {
    Paths(&instance.folder).conf().join("opensearch")
}

/// Where the server puts its snapshots, and where it reads them in a restore.
pub(super) fn repositories(instance: &Instance) -> PathBuf {
    instance.folder.join("repository")
}

/// A half of the plan's memory; the rest is for the virtual machine itself and for the kernel's cache of the indices.
pub(super) fn heap_mib(instance: &Instance) -> u64 {
    (instance.memory_mib / 2).clamp(256, 16384)
}

/// The one that the settings name.
pub(super) fn port_in_use(instance: &Instance) -> Option<u16> {
    let text = std::fs::read_to_string(path(instance, SETTINGS)).ok()?;
    text.lines().find_map(|line| line.strip_prefix("transport.port: "))?.parse().ok()
}

fn settings(instance: &Instance, transport_port: u16) -> String {
    let paths = Paths(&instance.folder);
    let mut text = String::from("# Written by Holdfast at every start; changes made here are lost.\n");
    // So that another size is another text.
    let _ = writeln!(text, "# heap: {} MiB", heap_mib(instance));
    let quoted = |path: &Path| format!("\"{}\"", path.display());
    let mut set = |name: &str, value: &str| {
        let _ = writeln!(text, "{name}: {value}");
    };
    set("cluster.name", &instance.stanza);
    set("node.name", "holdfast");
    set("path.data", &quoted(&paths.data()));
    set("path.logs", &quoted(&paths.log()));
    set("path.repo", &format!("[{}]", quoted(&repositories(instance))));
    set("discovery.type", "single-node");
    set("http.host", &format!("\"{}\"", instance.bind()));
    set("http.port", &instance.port.to_string());
    set("transport.host", "127.0.0.1");
    set("transport.port", &transport_port.to_string());
    set("node.store.allow_mmap", "false"); // it wants vm.max_map_count raised, for the whole host
    // The agent watches the disk, for all engines alike.
    set("cluster.routing.allocation.disk.threshold_enabled", "false");
    set("action.auto_create_index", "true");
    let security = |set: &mut dyn FnMut(&str, &str), name: &str, value: &str| {
        set(&format!("plugins.security.{name}"), value);
    };
    for layer in ["transport", "http"] {
        for (name, value) in [
            ("enabled", "true"),
            ("pemcert_filepath", "server.crt"),
            ("pemkey_filepath", "server.key"),
            ("pemtrustedcas_filepath", if layer == "http" { "agent.crt" } else { "server.crt" }),
        ] {
            security(&mut set, &format!("ssl.{layer}.{name}"), value);
        }
    }
    security(&mut set, "ssl.transport.enforce_hostname_verification", "false"); // it trusts one certificate, its own
    security(&mut set, "ssl.http.clientauth_mode", "OPTIONAL");
    security(&mut set, "authcz.admin_dn", &format!("[\"CN={AGENT}\"]"));
    security(&mut set, "nodes_dn", &format!("[\"{NODE}\"]"));
    security(&mut set, "allow_default_init_securityindex", "true");
    security(&mut set, "system_indices.enabled", "true");
    security(&mut set, "check_snapshot_restore_write_privileges", "true");
    text
}

fn logging(instance: &Instance) -> String {
    let file = Paths(&instance.folder).log().join("opensearch.log");
    format!(
        "rootLogger.level=info\n\
         rootLogger.appenderRef.file.ref=file\n\
         appender.file.type=RollingFile\n\
         appender.file.name=file\n\
         appender.file.fileName={file}\n\
         appender.file.filePattern={file}.%i\n\
         appender.file.layout.type=PatternLayout\n\
         appender.file.layout.pattern=[%d] %p %c{{1}} %m%n\n\
         appender.file.policies.type=Policies\n\
         appender.file.policies.size.type=SizeBasedTriggeringPolicy\n\
         appender.file.policies.size.size=10MB\n\
         appender.file.strategy.type=DefaultRolloverStrategy\n\
         appender.file.strategy.max=4\n",
        file = file.display()
    )
}

/// What the security plugin begins with: passwords, no users, and the two roles. What a tenant may do it says action by action:
/// neither repositories and snapshots, nor settings of the cluster, nor users. The plugin keeps tenants from its own index by itself, but neither from
/// blocking it nor from a clone of it (seen on 2.19.4: the first is done, the second refused only because the index is not blocked). Blocked it
/// keeps everybody out from the next start on; both together should show the passwords' hashes, which was not tried.
const BEGINNINGS: [(&str, &str); 7] = [
    (
        "config.yml",
        "_meta: {type: config, config_version: 2}\n\
         config:\n  dynamic:\n    http: {anonymous_auth_enabled: false}\n    authc:\n      basic:\n        http_enabled: true\n        \
         transport_enabled: false\n        order: 0\n        http_authenticator: {type: basic, challenge: true}\n        \
         authentication_backend: {type: internal}\n",
    ),
    ("internal_users.yml", "_meta: {type: internalusers, config_version: 2}\n"),
    (
        "roles.yml",
        "_meta: {type: roles, config_version: 2}\n\
         holdfast_tenant:\n  reserved: true\n  cluster_permissions: [cluster_composite_ops, cluster_monitor, 'indices:admin/template/*', \
         'indices:admin/index_template/*', 'cluster:admin/component_template/*', 'cluster:admin/ingest/pipeline/*', \
         'cluster:admin/search/pipeline/*', 'cluster:admin/script/*', 'indices:data/read/scroll*', 'cluster:admin/reroute', \
         'indices:data/write/reindex']\n  \
         index_permissions:\n    - index_patterns: ['*']\n      allowed_actions: ['/^(?!indices:admin\\/(block|resize)).*$/']\n    \
         - index_patterns: ['/^(?!\\.opendistro_security$).*$/']\n      allowed_actions: ['indices:admin/block*', 'indices:admin/resize*']\n\
         holdfast_reader:\n  reserved: true\n  cluster_permissions: [cluster_composite_ops_ro, cluster_monitor, 'indices:data/read/scroll*']\n  \
         index_permissions:\n    - index_patterns: ['*']\n      allowed_actions: [read, search, get, indices_monitor, 'indices:admin/*/get*', 'indices:admin/get', \
         'indices:admin/mappings/*', 'indices:admin/resolve/*', 'indices:admin/shards/search_shards']\n",
    ),
    (
        "roles_mapping.yml",
        "_meta: {type: rolesmapping, config_version: 2}\n\
         holdfast_tenant: {reserved: true, backend_roles: [holdfast_tenant]}\n\
         holdfast_reader: {reserved: true, backend_roles: [holdfast_reader]}\n",
    ),
    ("action_groups.yml", "_meta: {type: actiongroups, config_version: 2}\n"),
    ("tenants.yml", "_meta: {type: tenants, config_version: 2}\n"),
    ("nodes_dn.yml", "_meta: {type: nodesdn, config_version: 2}\n"),
];

pub(super) fn make_folders(instance: &Instance) -> Result<()> {
    files::make_folders(instance)?;
    make_folder(&java::temporary(instance), 0o700, instance.run_as.as_ref())?;
    make_folder(&repositories(instance), 0o700, instance.run_as.as_ref())?;
    make_folder(&folder(instance), 0o755, None)?;
    make_folder(&path(instance, SECURITY), 0o755, None)
}

/// Writes all configuration files; whether the server would read other settings than before.
pub(super) fn write_all(instance: &Instance, transport_port: u16) -> Result<bool> {
    Certificate::make(instance)?;
    Agent::make(instance)?;
    let write =
        |path: &Path, text: &str| files::write_readable(path, text.as_bytes(), instance.run_as.as_ref());
    // The plugin reads no files beside its settings.
    let Certificate { certificate, key, .. } = Certificate::of(instance);
    for (name, file) in [("server.crt", certificate), ("server.key", key)] {
        let text =
            std::fs::read_to_string(&file).map_err(EngineError::io(format!("read {}", file.display())))?;
        write(&path(instance, name), &text)?;
    }
    write(&path(instance, LOGGING), &logging(instance))?;
    for (name, text) in BEGINNINGS {
        write(&path(instance, SECURITY).join(name), text)?;
    }
    let (path, text) = (path(instance, SETTINGS), settings(instance, transport_port));
    let same = std::fs::read_to_string(&path).is_ok_and(|before| before == text);
    write(&path, &text)?;
    Ok(!same)
}
