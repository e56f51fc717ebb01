-- What the operator writes: the configuration and the hashes of the keys.
CREATE TABLE configuration (
    id          integer PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    document    text NOT NULL,
    digest      text NOT NULL,
    updated_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE access_keys (
    uid            text PRIMARY KEY,
    name           text NOT NULL,
    namespace      text NOT NULL,
    key_sha256     text NOT NULL UNIQUE CHECK (key_sha256 ~ '^[0-9a-f]{64}$'),
    user_name      text NOT NULL DEFAULT '',
    scopes         text[] NOT NULL,
    act_for_users  boolean NOT NULL DEFAULT false,
    expires_at     double precision          -- Unix seconds; null: never
);

-- One row a call.  A call reserves the most it can cost, and is settled with what it did cost.
-- Money is nano-dollars; month and day are the period in which the call was reserved (table meter).
CREATE TABLE ledger (
    id                uuid PRIMARY KEY,
    at                timestamptz NOT NULL,
    month             date NOT NULL,
    day               date NOT NULL,
    key_uid           text NOT NULL,
    key_name          text NOT NULL,
    user_name         text NOT NULL,
    kind              text NOT NULL,
    model             text NOT NULL,
    status            text NOT NULL CHECK (status IN ('reserved', 'settled', 'expired', 'released')),
    counts            boolean NOT NULL DEFAULT true,   -- whether it takes a place of the concurrency limit
    reserved_tokens   bigint NOT NULL DEFAULT 0 CHECK (reserved_tokens >= 0),
    reserved_nano     bigint NOT NULL DEFAULT 0 CHECK (reserved_nano >= 0),
    tokens_in         bigint NOT NULL DEFAULT 0 CHECK (tokens_in >= 0),
    tokens_out        bigint NOT NULL DEFAULT 0 CHECK (tokens_out >= 0),
    database_queries  integer NOT NULL DEFAULT 0 CHECK (database_queries >= 0),
    vector_searches   integer NOT NULL DEFAULT 0 CHECK (vector_searches >= 0),
    llm_nano          bigint NOT NULL DEFAULT 0 CHECK (llm_nano >= 0),
    database_nano     bigint NOT NULL DEFAULT 0 CHECK (database_nano >= 0),
    vector_nano       bigint NOT NULL DEFAULT 0 CHECK (vector_nano >= 0),
    cost_nano         bigint NOT NULL GENERATED ALWAYS AS (llm_nano + database_nano + vector_nano) STORED,
    estimated         boolean NOT NULL DEFAULT false,  -- the provider sent no usage: tokens were counted here
    price_version     text NOT NULL DEFAULT '',
    expires_at        timestamptz NOT NULL,
    settled_at        timestamptz
) WITH (fillfactor = 80);

CREATE INDEX ledger_reserved ON ledger (expires_at) WHERE status = 'reserved';
CREATE INDEX ledger_at ON ledger (at);

-- The sums of the ledger's settled rows, kept by settle() and record() in the same transaction.
CREATE TABLE totals (
    day               date NOT NULL,
    month             date NOT NULL,
    kind              text NOT NULL,
    model             text NOT NULL,
    key_uid           text NOT NULL,
    user_name         text NOT NULL,
    calls             bigint NOT NULL DEFAULT 0,
    tokens_in         bigint NOT NULL DEFAULT 0,
    tokens_out        bigint NOT NULL DEFAULT 0,
    database_queries  bigint NOT NULL DEFAULT 0,
    vector_searches   bigint NOT NULL DEFAULT 0,
    llm_nano          bigint NOT NULL DEFAULT 0,
    database_nano     bigint NOT NULL DEFAULT 0,
    vector_nano       bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (day, month, kind, model, key_uid, user_name)
) WITH (fillfactor = 70);

-- The levels of the limits: one row a subject (now only 'tenant').  The row's lock puts all calls of all
-- replicas in one order, so that together they take no more than there is.
CREATE TABLE meter (
    subject        text PRIMARY KEY,
    requests       double precision,          -- level of the bucket at filled_at; null: full
    tokens         double precision,          -- may be negative: a call that used more than it reserved
    filled_at      timestamptz NOT NULL,
    day            date NOT NULL,
    day_zone       text NOT NULL,             -- the time zone in which this day was opened
    day_ends_at    timestamptz NOT NULL,
    day_tokens     bigint NOT NULL DEFAULT 0, -- settled in this day; what is reserved is in the ledger
    month          date NOT NULL,
    month_zone     text NOT NULL,
    month_ends_at  timestamptz NOT NULL,
    month_nano     bigint NOT NULL DEFAULT 0  -- settled in this month
) WITH (fillfactor = 50);
