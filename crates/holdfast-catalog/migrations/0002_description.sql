-- What a service is lies sealed in the bucket too, so that a lost catalog can be made anew from there. `changes` rises
-- with every write that concerns the service, in the same transaction; `described` is what it was when the bucket last
-- took the description, `description_sha256` that of its content.

ALTER TABLE services ADD COLUMN changes BIGINT NOT NULL DEFAULT 1;
ALTER TABLE services ADD COLUMN described BIGINT NOT NULL DEFAULT 0;
ALTER TABLE services ADD COLUMN description_sha256 TEXT;
CREATE INDEX services_undescribed ON services (created_at, id) WHERE described < changes;
