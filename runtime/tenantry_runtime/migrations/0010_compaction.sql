-- When vectors were last deleted in Milvus; NULL once the operator has asked Milvus for their space since then.
ALTER TABLE documents_state ADD COLUMN removed_at timestamptz;
