-- Shredded (nobody can read it any more) is not removed (nothing of it lies in the store any more): an expiry that failed is
-- taken up by the next one. Before this there was one mark for both, so it is believed only where every expiry of the
-- service has completed. Runs unchanged on SQLite and PostgreSQL.
ALTER TABLE backups ADD COLUMN removed_at BIGINT;
ALTER TABLE data_keys ADD COLUMN removed_at BIGINT;
UPDATE backups SET removed_at = shredded_at WHERE shredded_at IS NOT NULL AND NOT EXISTS
    (SELECT 1 FROM jobs WHERE jobs.service_id = backups.service_id AND kind = 'expire' AND state <> 'completed');
UPDATE data_keys SET removed_at = destroyed_at WHERE destroyed_at IS NOT NULL AND NOT EXISTS
    (SELECT 1 FROM jobs WHERE jobs.service_id = data_keys.service_id AND kind = 'expire' AND state <> 'completed');
CREATE INDEX backups_unremoved ON backups (service_id) WHERE removed_at IS NULL;
CREATE INDEX data_keys_unremoved ON data_keys (service_id) WHERE removed_at IS NULL;
