-- The services that users see, in the order of their list: a page deep in a list of ten thousand, and their number, come
-- from the index alone.
CREATE INDEX services_living ON services (organization_id, created_at, id) WHERE status <> 'deleted' AND status <> 'deleting';
CREATE INDEX services_living_all ON services (created_at, id) WHERE status <> 'deleted' AND status <> 'deleting';
