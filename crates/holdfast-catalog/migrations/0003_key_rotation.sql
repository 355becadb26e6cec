-- Key-encryption keys and their rotation, a job that belongs to no service. Runs unchanged on SQLite and PostgreSQL.

-- When each KEK was made and when it was retired. The keys themselves are the vault's. Nothing may be wrapped by one that
-- is retired: every write of something wrapped looks here in its own transaction.
CREATE TABLE keks (
    version    BIGINT PRIMARY KEY,
    created_at BIGINT NOT NULL,
    retired_at BIGINT
);

-- A rotation walks the keys of a KEK in the order of their ids.
DROP INDEX data_keys_by_kek;
CREATE INDEX data_keys_by_kek ON data_keys (kek_version, id) WHERE destroyed_at IS NULL;
CREATE INDEX credentials_by_kek ON credentials (kek_version, service_id, username);

-- Nothing was ever kept here: a repository's passphrase is derived from its key.
DROP TABLE service_secrets;

-- `jobs` again with `service_id` that may be absent, and `kek_version`: the KEK that wraps a secret in `input`, if there
-- is one. SQLite changes no column in place; `job_steps` points to `jobs` and so has to step aside.
CREATE TABLE job_steps_before AS SELECT * FROM job_steps;
DROP TABLE job_steps;

CREATE TABLE jobs_after (
    id               TEXT PRIMARY KEY,
    kind             TEXT NOT NULL,
    service_id       TEXT REFERENCES services (id),
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
    kek_version      BIGINT,
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
INSERT INTO jobs_after (id, kind, service_id, state, step_index, place, generation, attempt, max_attempts, leased_by,
    lease_until, not_before, input, kek_version, outputs, progress, error, cancel_requested, created_at, started_at,
    finished_at, settled)
-- There was one KEK until now.
SELECT id, kind, service_id, state, step_index, place, generation, attempt, max_attempts, leased_by, lease_until,
    not_before, input, CASE WHEN kind = 'reset_password' THEN 1 END, outputs, progress, error, cancel_requested,
    created_at, started_at, finished_at, settled
FROM jobs;
DROP TABLE jobs;
ALTER TABLE jobs_after RENAME TO jobs;

-- Two jobs of a service never run at once, whoever leases them.
CREATE UNIQUE INDEX jobs_one_running ON jobs (service_id) WHERE state = 'running';
-- There is never more than one rotation that has not ended.
CREATE UNIQUE INDEX jobs_one_rotation ON jobs (kind) WHERE kind = 'rotate_keys' AND state IN ('queued', 'running');
CREATE INDEX jobs_open ON jobs (place, created_at, id) WHERE state IN ('queued', 'running');
CREATE INDEX jobs_open_of_service ON jobs (service_id, created_at, id) WHERE state IN ('queued', 'running');
CREATE INDEX jobs_of_service ON jobs (service_id, created_at, id);
CREATE INDEX jobs_by_age ON jobs (created_at, id);
CREATE INDEX jobs_unsettled ON jobs (finished_at, id) WHERE finished_at IS NOT NULL AND settled = 0;

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
INSERT INTO job_steps (job_id, generation, step_index, step, attempt, worker, started_at, ended_at, outcome, error)
SELECT job_id, generation, step_index, step, attempt, worker, started_at, ended_at, outcome, error
FROM job_steps_before;
DROP TABLE job_steps_before;
-- A step is done at most once.
CREATE UNIQUE INDEX job_steps_done_once ON job_steps (job_id, step_index) WHERE outcome = 'done';
