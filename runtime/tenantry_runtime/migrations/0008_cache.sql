-- Answers that may be given a second time, whole, as JSON.  Unlogged: no write here waits for a disk, and a crash
-- of the server leaves it empty.
CREATE UNLOGGED TABLE response_cache (
    key           bytea PRIMARY KEY,     -- SHA-256 of all that makes the answer what it is
    documents_at  timestamptz,           -- documents_state.changed_at before documents were searched; null: none were
    stored_at     timestamptz NOT NULL,
    bytes         integer NOT NULL,
    answer        text NOT NULL
);
