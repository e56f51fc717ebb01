-- Who did what: rows are only ever added.  A call is two rows of one id, 'intent' and 'outcome'; what has no
-- duration is one 'event'.  Partitioned by month (UTC).  The operator makes the months ahead of time and drops
-- those whose retention has ended; rows of a month that is not there go to the default partition until it is.
CREATE TABLE audit (
    id             uuid NOT NULL,
    phase          text COLLATE "C" NOT NULL CHECK (phase IN ('intent', 'outcome', 'event')),
    at             timestamptz NOT NULL DEFAULT clock_timestamp()
                   CHECK (at >= '2000-01-01+00' AND at < '2200-01-01+00'),
    event_type     text NOT NULL CHECK (event_type IN (
                       'api_call', 'data_access', 'configuration_change', 'deletion', 'access_denied')),
    action         text NOT NULL,
    resource_type  text NOT NULL DEFAULT '',
    resource_id    text NOT NULL DEFAULT '',
    user_id        text NOT NULL DEFAULT '',
    key_uid        text NOT NULL DEFAULT '',
    key_name       text NOT NULL DEFAULT '',
    status         text NOT NULL DEFAULT '',
    error          text NOT NULL DEFAULT '',
    address        text NOT NULL DEFAULT '',
    user_agent     text NOT NULL DEFAULT '',
    details        jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (at, id, phase)
) PARTITION BY RANGE (at);

CREATE TABLE audit_default PARTITION OF audit DEFAULT;
