-- Documents: files with their content, vector stores, and what of a file is in a store's vectors.

CREATE TABLE files (
    id          text PRIMARY KEY,
    filename    text NOT NULL,
    purpose     text NOT NULL,
    bytes       bigint NOT NULL,
    status      text NOT NULL CHECK (status IN ('uploading', 'uploaded')),
    user_name   text NOT NULL DEFAULT '',
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX files_created ON files (created_at, id);

-- A file's bytes in parts of at most 1 MiB, so that no file is ever whole in memory.
CREATE TABLE file_parts (
    file_id  text NOT NULL REFERENCES files (id) ON DELETE CASCADE,
    part     integer NOT NULL,
    data     bytea NOT NULL,
    PRIMARY KEY (file_id, part)
);

CREATE TABLE vector_stores (
    id          text PRIMARY KEY,
    name        text NOT NULL DEFAULT '',
    metadata    jsonb NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX vector_stores_created ON vector_stores (created_at, id);

-- One ingestion of a file into a store.  Its id is the prefix of its chunks' ids, so that a hit names the
-- ingestion that wrote it: only hits of completed ones are shown.  A row stays, as 'deleting', until its
-- vectors are gone; it refers to neither file nor store, which may be gone before.
CREATE TABLE vector_store_files (
    id             uuid PRIMARY KEY,
    store_id       text NOT NULL,
    file_id        text NOT NULL,
    status         text NOT NULL CHECK (status IN ('in_progress', 'completed', 'failed', 'deleting')),
    error_code     text,
    error_message  text,
    attributes     jsonb NOT NULL DEFAULT '{}',
    key_uid        text NOT NULL,
    key_name       text NOT NULL,
    user_name      text NOT NULL,
    chunks         integer NOT NULL DEFAULT 0,  -- written so far: ids <id>-0 to <id>-<chunks - 1>
    usage_bytes    bigint NOT NULL DEFAULT 0,
    attempts       integer NOT NULL DEFAULT 0,
    retry_at       timestamptz NOT NULL DEFAULT clock_timestamp(),  -- also the lease of who works on it
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE UNIQUE INDEX vector_store_files_one ON vector_store_files (store_id, file_id) WHERE status <> 'deleting';
CREATE INDEX vector_store_files_work ON vector_store_files (retry_at) WHERE status IN ('in_progress', 'deleting');
CREATE INDEX vector_store_files_file ON vector_store_files (file_id);

-- When what a search can find last changed: for some seconds after it, searches ask for the newest state.
CREATE TABLE documents_state (
    id          integer PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    changed_at  timestamptz NOT NULL
);
INSERT INTO documents_state (changed_at) VALUES (clock_timestamp());
