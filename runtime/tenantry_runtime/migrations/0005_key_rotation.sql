-- While a key is rotated it has two rows of one uid: the hash alone names a row.
ALTER TABLE access_keys DROP CONSTRAINT access_keys_pkey;
ALTER TABLE access_keys DROP CONSTRAINT access_keys_key_sha256_key;
ALTER TABLE access_keys ADD PRIMARY KEY (key_sha256);
ALTER TABLE access_keys ADD COLUMN generation integer NOT NULL DEFAULT 0 CHECK (generation >= 0);
