-- The catalog's first shape. Runs unchanged on SQLite and PostgreSQL: TEXT, BIGINT and BYTEA only
-- (SQLite keeps a blob as it is under any column type).
-- Conventions: ids and enum words are TEXT; `*_at`, `not_before`, `*_until` are microseconds since the Unix epoch,
-- UTC; flags are 0 or 1; what nobody queries is JSON in TEXT; `revision` rises with every write of its row.

CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE organizations (
    id          TEXT PRIMARY KEY,
    name        TEXT NOT NULL,
    slug        TEXT NOT NULL UNIQUE,
    is_personal BIGINT NOT NULL,
    created_at  BIGINT NOT NULL
);

CREATE TABLE services (
    id              TEXT PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    lineage_id      TEXT NOT NULL UNIQUE,
    name            TEXT NOT NULL,
    engine          TEXT NOT NULL,
    version         TEXT NOT NULL,
    engine_version  TEXT,
    status          TEXT NOT NULL,
    status_message  TEXT,
    plan_name       TEXT NOT NULL,
    zone            TEXT NOT NULL,
    allowed_cidrs   TEXT NOT NULL,
    attributes      TEXT NOT NULL,
    restored_from   TEXT,
    host            TEXT,
    port            BIGINT,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    deleted_at      BIGINT,
    revision        BIGINT NOT NULL
);
-- A name is free again as soon as its service is being deleted.
CREATE UNIQUE INDEX services_living_name ON services (organization_id, name)
    WHERE status NOT IN ('deleting', 'deleted');
CREATE INDEX services_listed ON services (organization_id, created_at, id) WHERE status <> 'deleted';
CREATE INDEX services_listed_all ON services (created_at, id) WHERE status <> 'deleted';

CREATE TABLE backups (
    id             TEXT PRIMARY KEY,
    service_id     TEXT NOT NULL REFERENCES services (id),
    lineage_id     TEXT NOT NULL,
    backup_type    TEXT NOT NULL,
    mode           TEXT NOT NULL,
    status         TEXT NOT NULL,
    label          TEXT,
    retention_days BIGINT,
    key_id         TEXT NOT NULL,
    created_at     BIGINT NOT NULL,
    started_at     BIGINT,
    completed_at   BIGINT,
    error          TEXT,
    facts          TEXT,
    delisted_at    BIGINT,
    shredded_at    BIGINT,
    revision       BIGINT NOT NULL
);
CREATE INDEX backups_of_service ON backups (service_id, created_at, id);
CREATE INDEX backups_unshredded ON backups (created_at, id) WHERE shredded_at IS NULL;

CREATE TABLE data_keys (
    id               TEXT PRIMARY KEY,
    organization_id  TEXT NOT NULL,
    service_id       TEXT NOT NULL REFERENCES services (id),
    lineage_id       TEXT NOT NULL,
    purpose          TEXT NOT NULL,
    kek_version      BIGINT NOT NULL,
    wrapped          BYTEA NOT NULL,
    recovery_wrapped BYTEA NOT NULL,
    created_at       BIGINT NOT NULL,
    destroyed_at     BIGINT
);
CREATE INDEX data_keys_of_service ON data_keys (service_id, created_at, id);
CREATE INDEX data_keys_by_kek ON data_keys (kek_version) WHERE destroyed_at IS NULL;

CREATE TABLE credentials (
    service_id  TEXT NOT NULL REFERENCES services (id),
    username    TEXT NOT NULL,
    kek_version BIGINT NOT NULL,
    wrapped     BYTEA NOT NULL,
    roles       TEXT NOT NULL,
    privileges  TEXT NOT NULL,
    place_order BIGINT NOT NULL,
    created_at  BIGINT NOT NULL,
    PRIMARY KEY (service_id, username)
);

CREATE TABLE service_secrets (
    service_id  TEXT NOT NULL REFERENCES services (id),
    name        TEXT NOT NULL,
    kek_version BIGINT NOT NULL,
    wrapped     BYTEA NOT NULL,
    PRIMARY KEY (service_id, name)
);

-- A stretch never changes timeline. `kept_from` rises when old log is removed; `from_offset` stays the row's name,
-- so that a late report of the same stretch cannot bring removed log back.
CREATE TABLE coverage (
    lineage_id     TEXT NOT NULL,
    timeline       BIGINT NOT NULL,
    from_offset    BIGINT NOT NULL,
    kept_from      BIGINT NOT NULL,
    to_offset      BIGINT NOT NULL,
    complete_until BIGINT,
    PRIMARY KEY (lineage_id, timeline, from_offset)
);

CREATE TABLE gaps (
    lineage_id    TEXT NOT NULL,
    from_timeline BIGINT NOT NULL,
    from_offset   BIGINT NOT NULL,
    to_timeline   BIGINT NOT NULL,
    to_offset     BIGINT NOT NULL,
    from_at       BIGINT NOT NULL,
    to_at         BIGINT NOT NULL,
    cause         TEXT NOT NULL,
    acknowledged  BIGINT NOT NULL,
    PRIMARY KEY (lineage_id, from_timeline, from_offset, to_timeline, to_offset)
);

CREATE TABLE agents (
    id            TEXT PRIMARY KEY,
    first_seen_at BIGINT NOT NULL,
    last_seen_at  BIGINT NOT NULL
);

CREATE TABLE jobs (
    id               TEXT PRIMARY KEY,
    kind             TEXT NOT NULL,
    service_id       TEXT NOT NULL REFERENCES services (id),
    state            TEXT NOT NULL,
    step_index       BIGINT NOT NULL,
    -- Where the current step runs; the last one's place once all are done.
    place            TEXT NOT NULL,
    generation       BIGINT NOT NULL,
    attempt          BIGINT NOT NULL,
    max_attempts     BIGINT NOT NULL,
    leased_by        TEXT,
    lease_until      BIGINT,
    not_before       BIGINT NOT NULL,
    input            TEXT NOT NULL,
    outputs          TEXT NOT NULL,
    progress         TEXT,
    error            TEXT,
    cancel_requested BIGINT NOT NULL,
    created_at       BIGINT NOT NULL,
    started_at       BIGINT,
    finished_at      BIGINT,
    -- Whether what follows from the end (a service's or backup's status) has been recorded.
    settled          BIGINT NOT NULL
);
-- Two jobs of a service never run at once, whoever leases them.
CREATE UNIQUE INDEX jobs_one_running ON jobs (service_id) WHERE state = 'running';
CREATE INDEX jobs_open ON jobs (place, created_at, id) WHERE state IN ('queued', 'running');
CREATE INDEX jobs_open_of_service ON jobs (service_id, created_at, id) WHERE state IN ('queued', 'running');
CREATE INDEX jobs_of_service ON jobs (service_id, created_at, id);
CREATE INDEX jobs_by_age ON jobs (created_at, id);
CREATE INDEX jobs_unsettled ON jobs (finished_at, id) WHERE finished_at IS NOT NULL AND settled = 0;

-- One row a lease: written when the step starts, finished when it ends.
CREATE TABLE job_steps (
    job_id     TEXT NOT NULL REFERENCES jobs (id),
    generation BIGINT NOT NULL,
    step_index BIGINT NOT NULL,
    step       TEXT NOT NULL,
    attempt    BIGINT NOT NULL,
    worker     TEXT NOT NULL,
    started_at BIGINT NOT NULL,
    ended_at   BIGINT,
    outcome    TEXT NOT NULL,
    error      TEXT,
    PRIMARY KEY (job_id, generation)
);
-- A step is done at most once.
CREATE UNIQUE INDEX job_steps_done_once ON job_steps (job_id, step_index) WHERE outcome = 'done';
