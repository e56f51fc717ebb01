-- Files that must be read (PDF, HTML) before they are cut, batches, and what a batch's end cancelled.
-- The text that was read from a file is kept beside it: in file_parts, with the numbers -1, -2, ..., all of them
-- written in one transaction.
ALTER TABLE vector_store_files
    ADD COLUMN batch_id text,
    ADD COLUMN unread boolean NOT NULL DEFAULT false,  -- the file's text must be read first
    ADD COLUMN text_bytes bigint NOT NULL DEFAULT 0,   -- of the text; 0: not known yet
    DROP CONSTRAINT vector_store_files_status_check,
    ADD CONSTRAINT vector_store_files_status_check
        CHECK (status IN ('in_progress', 'completed', 'failed', 'cancelled', 'deleting'));
