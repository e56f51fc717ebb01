-- Conversations, each of one user, and what was said in them.
CREATE TABLE conversations (
    id             text PRIMARY KEY,
    user_name      text NOT NULL,
    metadata       jsonb NOT NULL DEFAULT '{}',
    items          integer NOT NULL DEFAULT 0,   -- how many there are, and their size
    bytes          bigint NOT NULL DEFAULT 0,
    next_position  bigint NOT NULL DEFAULT 0,    -- never taken twice: the row's lock puts what is added in order
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_item_at   timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 80);
CREATE INDEX conversations_user ON conversations (user_name, created_at, id);

-- An item by its id is looked for among its conversation's, of which there are few: it needs no index.
-- json, not jsonb: a text may hold U+0000, which jsonb refuses.
CREATE TABLE conversation_items (
    conversation_id  text NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    position         bigint NOT NULL,
    id               text NOT NULL,
    item             json NOT NULL,
    bytes            integer NOT NULL,
    tokens           integer NOT NULL,           -- about what the item takes when it is sent to a model
    rating           text CHECK (rating IN ('up', 'down')),
    rating_comment   text NOT NULL DEFAULT '',
    rated_at         timestamptz,
    PRIMARY KEY (conversation_id, position)
);
