-- How a backup was asked to be made; absent: by its engine's usual method. Runs unchanged on SQLite and PostgreSQL.
ALTER TABLE backups ADD COLUMN method TEXT;
