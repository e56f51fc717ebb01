-- Audit rows in the ledger's own transactions, cached input tokens, and limits of each user and each key.
--
-- During a rollout replicas of before go on calling reserve(), settle() and record() of 0002: these stay as they
-- are, and what replaces them has names of its own: reserve_call(), settle_call(), record_request().  What both
-- call (open_meter, add_to_totals, expire_reservations) keeps its signature.  The tables are altered in the order
-- in which every transaction takes them, ledger before totals, so that no call and this file wait for each other.

ALTER TABLE ledger ADD COLUMN tokens_cached bigint NOT NULL DEFAULT 0;  -- of tokens_in, at their own price
ALTER TABLE totals ADD COLUMN tokens_cached bigint NOT NULL DEFAULT 0;

-- The meter of a user ('user:NAME') or of a key ('key:UID'), refilled, in the tenant's own day.  Its caller holds
-- the tenant's row, which every transaction takes first: rows of users and keys need no order among themselves.
-- A row that was not there (it is dropped when idle) is full, less what the totals know of the day.
CREATE FUNCTION open_subject(p_subject text, t meter, p_rpm double precision, p_tpm double precision)
RETURNS meter LANGUAGE plpgsql AS $$
DECLARE
    s meter;
    v_elapsed double precision;
BEGIN
    SELECT * INTO s FROM meter WHERE subject = p_subject FOR UPDATE;
    IF NOT FOUND THEN
        s := t;
        s.subject := p_subject;
        s.requests := NULL;
        s.tokens := NULL;
        s.month_nano := 0;
        SELECT coalesce(sum(tokens_in + tokens_out), 0) INTO s.day_tokens FROM totals
        WHERE day = t.day AND p_subject IN ('user:' || user_name, 'key:' || key_uid);
        INSERT INTO meter SELECT s.*;
    END IF;
    v_elapsed := greatest(0, extract(epoch FROM t.filled_at - s.filled_at));
    s.requests := least(p_rpm, coalesce(s.requests, p_rpm) + v_elapsed * p_rpm / 60);
    s.tokens := least(p_tpm, coalesce(s.tokens, p_tpm) + v_elapsed * p_tpm / 60);
    IF s.day <> t.day THEN
        s.day := t.day;
        s.day_tokens := 0;
    END IF;
    RETURN s;
END $$;

-- Takes from every limit, or from none, the most that a call can use, and writes the call's intent into the audit.
-- p_rpm, p_tpm, p_tpd, p_concurrency: the limits of the tenant, of each user, of each key; null: none.
--   outcome  'ok', or the limit that refuses: 'budget', 'too_large' (no waiting helps: `fits` tokens would), or
--            'requests', 'tokens', 'day', 'concurrency'; with 'user_' or 'key_' before it where it is not the tenant's
--   granted  output tokens a choice that the call may use, at least p_least and at most p_output
--   wait     seconds after which the same call fits, if nothing else is called
--   requests_left of requests_size, tokens_left of tokens_size: of the bucket that has the least left
CREATE FUNCTION reserve_call(
    p_id uuid, p_key_uid text, p_key_name text, p_user text, p_kind text, p_model text,
    p_requests integer, p_counts boolean,
    p_input bigint, p_output bigint, p_least bigint, p_choices integer, p_again bigint,
    p_input_nano bigint, p_output_nano bigint, p_price_version text, p_lease double precision,
    p_time_zone text, p_rpm bigint[], p_tpm bigint[], p_tpd bigint[], p_concurrency bigint[], p_budget bigint,
    p_event_type text, p_action text, p_resource_type text, p_resource_id text, p_address text, p_user_agent text,
    p_details jsonb
) RETURNS TABLE (
    outcome text, granted bigint, wait double precision, fits bigint,
    requests_left double precision, requests_size bigint, tokens_left double precision, tokens_size bigint
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    c_names CONSTANT text[] := ARRAY['', 'user_', 'key_'];
    v_subjects text[] := ARRAY['tenant', 'user:' || p_user, 'key:' || p_key_uid];
    m meter;
    s meter;
    v_limited boolean[] := ARRAY[true, false, false];
    v_requests double precision[];
    v_tokens double precision[];
    v_day bigint[];            -- tokens of the day: settled and reserved
    v_open_calls bigint[];
    v_open_tokens bigint[];
    v_open_nano bigint;
    v_least bigint := least(p_least, p_output);
    v_need bigint;
    v_room bigint;
    v_money bigint;
    v_granted bigint := p_output;
    v_next double precision;
BEGIN
    m := open_meter('tenant', p_time_zone, p_rpm[1], p_tpm[1]);
    SELECT ARRAY[count(*) FILTER (WHERE l.counts),
                 count(*) FILTER (WHERE l.counts AND l.user_name = p_user),
                 count(*) FILTER (WHERE l.counts AND l.key_uid = p_key_uid)],
           ARRAY[coalesce(sum(l.reserved_tokens) FILTER (WHERE l.day = m.day), 0)::bigint,
                 coalesce(sum(l.reserved_tokens) FILTER (WHERE l.day = m.day AND l.user_name = p_user), 0)::bigint,
                 coalesce(sum(l.reserved_tokens) FILTER (WHERE l.day = m.day AND l.key_uid = p_key_uid), 0)::bigint],
           coalesce(sum(l.reserved_nano) FILTER (WHERE l.month = m.month), 0)
      INTO v_open_calls, v_open_tokens, v_open_nano
      FROM ledger l WHERE l.status = 'reserved' AND l.expires_at > m.filled_at;
    v_requests := ARRAY[m.requests, NULL, NULL];
    v_tokens := ARRAY[m.tokens, NULL, NULL];
    v_day := ARRAY[m.day_tokens + v_open_tokens[1], NULL, NULL];
    FOR i IN 2..3 LOOP
        v_limited[i] := coalesce(p_rpm[i], p_tpm[i], p_tpd[i], p_concurrency[i]) IS NOT NULL;
        IF v_limited[i] THEN
            s := open_subject(v_subjects[i], m, p_rpm[i], p_tpm[i]);
            v_requests[i] := s.requests;
            v_tokens[i] := s.tokens;
            v_day[i] := s.day_tokens + v_open_tokens[i];
        END IF;
    END LOOP;

    outcome := 'ok';
    granted := 0;
    wait := 0;
    requests_left := least(v_requests[1], v_requests[2], v_requests[3]);
    requests_size := p_rpm[coalesce(array_position(v_requests, requests_left), 1)];
    tokens_left := least(v_tokens[1], v_tokens[2], v_tokens[3]);
    tokens_size := p_tpm[coalesce(array_position(v_tokens, tokens_left), 1)];

    -- An answer may be short where the whole bucket is small, but not empty.
    v_room := least(p_tpm[1], p_tpm[2], p_tpm[3], p_tpd[1], p_tpd[2], p_tpd[3]);
    IF v_room IS NOT NULL AND p_output > 0 THEN
        v_least := greatest(1, least(v_least, (v_room - p_input) / p_choices));
    END IF;
    v_need := p_input + v_least * p_choices;
    IF v_need > v_room OR p_requests > least(p_rpm[1], p_rpm[2], p_rpm[3])
       OR least(p_concurrency[1], p_concurrency[2], p_concurrency[3]) < 1 THEN
        outcome := 'too_large';
        fits := v_room;
        RETURN NEXT;
        RETURN;
    END IF;

    IF p_budget IS NOT NULL THEN
        v_money := p_budget - m.month_nano - v_open_nano - p_input_nano;
        IF v_money < v_least * p_choices * p_output_nano OR p_budget <= m.month_nano THEN
            outcome := 'budget';
            wait := extract(epoch FROM m.month_ends_at - m.filled_at);
            RETURN NEXT;
            RETURN;
        END IF;
        IF p_output_nano > 0 AND p_output > 0 THEN
            v_granted := least(v_granted, v_money / (p_choices * p_output_nano));
        END IF;
    END IF;

    -- The longest wait counts: who waits that long is not refused a second time.
    FOR i IN 1..3 LOOP
        CONTINUE WHEN NOT v_limited[i];
        IF v_open_calls[i] >= p_concurrency[i] AND p_counts AND wait <= 1 THEN
            outcome := c_names[i] || 'concurrency';
            wait := 1;
        END IF;
        IF v_requests[i] + 1e-6 < p_requests THEN
            v_next := (p_requests - v_requests[i]) * 60 / p_rpm[i];
            IF v_next >= wait THEN outcome := c_names[i] || 'requests'; wait := v_next; END IF;
        END IF;
        CONTINUE WHEN v_need = 0;  -- an answer given again: overdrawn tokens are nothing to it
        IF v_tokens[i] + 1e-6 < v_need THEN
            v_next := (least(v_need + p_again, p_tpm[i]) - v_tokens[i]) * 60 / p_tpm[i];
            IF v_next >= wait THEN outcome := c_names[i] || 'tokens'; wait := v_next; END IF;
        END IF;
        IF v_day[i] + v_need > p_tpd[i] THEN
            v_next := extract(epoch FROM m.day_ends_at - m.filled_at);
            IF v_next >= wait THEN outcome := c_names[i] || 'day'; wait := v_next; END IF;
        END IF;
    END LOOP;
    IF outcome <> 'ok' THEN
        RETURN NEXT;
        RETURN;
    END IF;

    IF p_output > 0 THEN
        v_granted := greatest(v_least, least(
            v_granted,
            floor((tokens_left - p_input) / p_choices)::bigint,
            (least(p_tpd[1] - v_day[1], p_tpd[2] - v_day[2], p_tpd[3] - v_day[3]) - p_input) / p_choices
        ));
    END IF;
    v_need := p_input + v_granted * p_choices;
    UPDATE meter SET
        requests = m.requests - p_requests, tokens = m.tokens - v_need, filled_at = m.filled_at,
        day = m.day, day_zone = m.day_zone, day_ends_at = m.day_ends_at, day_tokens = m.day_tokens,
        month = m.month, month_zone = m.month_zone, month_ends_at = m.month_ends_at, month_nano = m.month_nano
    WHERE subject = m.subject;
    FOR i IN 2..3 LOOP
        CONTINUE WHEN NOT v_limited[i];
        UPDATE meter SET
            requests = v_requests[i] - p_requests, tokens = v_tokens[i] - v_need, filled_at = m.filled_at,
            day = m.day, day_zone = m.day_zone, day_ends_at = m.day_ends_at, day_tokens = v_day[i] - v_open_tokens[i]
        WHERE subject = v_subjects[i];
    END LOOP;
    INSERT INTO ledger (
        id, at, month, day, key_uid, key_name, user_name, kind, model, status, counts,
        reserved_tokens, reserved_nano, price_version, expires_at
    ) VALUES (
        p_id, m.filled_at, m.month, m.day, p_key_uid, p_key_name, p_user, p_kind, p_model, 'reserved', p_counts,
        v_need, p_input_nano + v_granted * p_choices * p_output_nano, p_price_version,
        m.filled_at + make_interval(secs => p_lease)
    );
    INSERT INTO audit (
        id, phase, at, event_type, action, resource_type, resource_id, user_id, key_uid, key_name,
        address, user_agent, details
    ) VALUES (
        p_id, 'intent', m.filled_at, p_event_type, p_action, p_resource_type, p_resource_id, p_user, p_key_uid,
        p_key_name, p_address, p_user_agent, p_details
    );
    granted := v_granted;
    requests_left := requests_left - p_requests;
    tokens_left := tokens_left - v_need;
    RETURN NEXT;
END $$;

CREATE OR REPLACE FUNCTION add_to_totals(r ledger) RETURNS void LANGUAGE sql AS $$
    INSERT INTO totals AS t (
        day, month, kind, model, key_uid, user_name, calls, tokens_in, tokens_cached, tokens_out,
        database_queries, vector_searches, llm_nano, database_nano, vector_nano
    ) VALUES (
        r.day, r.month, r.kind, r.model, r.key_uid, r.user_name, 1, r.tokens_in, r.tokens_cached, r.tokens_out,
        r.database_queries, r.vector_searches, r.llm_nano, r.database_nano, r.vector_nano
    )
    ON CONFLICT (day, month, kind, model, key_uid, user_name) DO UPDATE SET
        calls = t.calls + 1,
        tokens_in = t.tokens_in + excluded.tokens_in,
        tokens_cached = t.tokens_cached + excluded.tokens_cached,
        tokens_out = t.tokens_out + excluded.tokens_out,
        database_queries = t.database_queries + excluded.database_queries,
        vector_searches = t.vector_searches + excluded.vector_searches,
        llm_nano = t.llm_nano + excluded.llm_nano,
        database_nano = t.database_nano + excluded.database_nano,
        vector_nano = t.vector_nano + excluded.vector_nano
$$;

-- Replaces a reservation by what the call used, gives back to the buckets what is left over, and writes the call's
-- outcome into the audit, with the row's own cost (`cost_nano` of its details).
-- p_state 'released' for a call that no model answered.  Also takes calls whose lease has run out: what was used is
-- owed, and a second outcome follows the one that says so.  Settling twice changes nothing.  False: there is no
-- such reservation.
CREATE FUNCTION settle_call(
    p_id uuid, p_state text, p_tokens_in bigint, p_tokens_cached bigint, p_tokens_out bigint, p_llm_nano bigint,
    p_queries integer, p_searches integer, p_database_nano bigint, p_vector_nano bigint, p_estimated boolean,
    p_event_type text, p_action text, p_resource_type text, p_resource_id text, p_address text, p_user_agent text,
    p_status text, p_error text, p_details jsonb
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    r ledger;
BEGIN
    SELECT * INTO r FROM ledger WHERE id = p_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF r.status IN ('settled', 'released') THEN
        RETURN true;
    END IF;
    UPDATE ledger SET
        status = p_state, tokens_in = p_tokens_in, tokens_cached = p_tokens_cached, tokens_out = p_tokens_out,
        llm_nano = p_llm_nano, database_queries = p_queries, vector_searches = p_searches,
        database_nano = p_database_nano, vector_nano = p_vector_nano,
        estimated = p_estimated, settled_at = clock_timestamp()
    WHERE id = p_id
    RETURNING * INTO r;
    UPDATE meter SET
        tokens = tokens + r.reserved_tokens - p_tokens_in - p_tokens_out,
        day_tokens = day_tokens + CASE WHEN day = r.day THEN p_tokens_in + p_tokens_out ELSE 0 END,
        month_nano = month_nano + CASE WHEN month = r.month THEN r.cost_nano ELSE 0 END
    WHERE subject = 'tenant';
    -- After the tenant's: see open_subject.
    UPDATE meter SET
        tokens = tokens + r.reserved_tokens - p_tokens_in - p_tokens_out,
        day_tokens = day_tokens + CASE WHEN day = r.day THEN p_tokens_in + p_tokens_out ELSE 0 END
    WHERE subject IN ('user:' || r.user_name, 'key:' || r.key_uid);
    IF p_state = 'settled' OR r.cost_nano > 0 OR p_queries > 0 OR p_searches > 0 THEN
        PERFORM add_to_totals(r);
    END IF;
    INSERT INTO audit (
        id, phase, at, event_type, action, resource_type, resource_id, user_id, key_uid, key_name,
        status, error, address, user_agent, details
    ) VALUES (
        p_id, 'outcome', r.settled_at, p_event_type, p_action, p_resource_type, p_resource_id, r.user_name,
        r.key_uid, r.key_name, p_status, p_error, p_address, p_user_agent,
        p_details || jsonb_build_object('cost_nano', r.cost_nano)
    );
    RETURN true;
END $$;

-- One settled row for a request that reached no model, but the database or the vectors, and its event in the audit.
CREATE FUNCTION record_request(
    p_id uuid, p_key_uid text, p_key_name text, p_user text, p_kind text,
    p_queries integer, p_searches integer, p_database_nano bigint, p_vector_nano bigint,
    p_price_version text, p_time_zone text,
    p_event_type text, p_action text, p_resource_type text, p_resource_id text, p_address text, p_user_agent text,
    p_status text, p_error text, p_details jsonb
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    m meter;
    r ledger;
BEGIN
    m := open_meter('tenant', p_time_zone, NULL, NULL);
    INSERT INTO ledger (
        id, at, month, day, key_uid, key_name, user_name, kind, model, status, counts,
        database_queries, vector_searches, database_nano, vector_nano, price_version, expires_at, settled_at
    ) VALUES (
        p_id, m.filled_at, m.month, m.day, p_key_uid, p_key_name, p_user, p_kind, '', 'settled', false,
        p_queries, p_searches, p_database_nano, p_vector_nano, p_price_version, m.filled_at, m.filled_at
    )
    ON CONFLICT (id) DO NOTHING
    RETURNING * INTO r;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    UPDATE meter SET
        day = m.day, day_zone = m.day_zone, day_ends_at = m.day_ends_at, day_tokens = m.day_tokens,
        month = m.month, month_zone = m.month_zone, month_ends_at = m.month_ends_at,
        month_nano = m.month_nano + r.cost_nano
    WHERE subject = m.subject;
    PERFORM add_to_totals(r);
    INSERT INTO audit (
        id, phase, at, event_type, action, resource_type, resource_id, user_id, key_uid, key_name,
        status, error, address, user_agent, details
    ) VALUES (
        p_id, 'event', r.at, p_event_type, p_action, p_resource_type, p_resource_id, p_user, p_key_uid, p_key_name,
        p_status, p_error, p_address, p_user_agent, p_details || jsonb_build_object('cost_nano', r.cost_nano)
    );
END $$;

-- Marks reservations whose lease ran out, which count for nothing from that moment on, marked or not, and writes
-- the outcome of each that has an intent (a replica of before this file wrote none): nobody knows how it ended.
-- Also drops the meters of users and keys that have been idle for longer than any bucket takes to fill.
CREATE OR REPLACE FUNCTION expire_reservations() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    v_count bigint;
BEGIN
    WITH due AS (
        SELECT id FROM ledger WHERE status = 'reserved' AND expires_at <= clock_timestamp()
        ORDER BY id FOR UPDATE SKIP LOCKED
    ), gone AS (
        UPDATE ledger l SET status = 'expired', settled_at = clock_timestamp()
        FROM due WHERE l.id = due.id
        RETURNING l.id, l.at, l.settled_at
    ), told AS (
        INSERT INTO audit (
            id, phase, at, event_type, action, resource_type, resource_id, user_id, key_uid, key_name,
            error, address, user_agent, details
        )
        SELECT i.id, 'outcome', gone.settled_at, i.event_type, i.action, i.resource_type, i.resource_id, i.user_id,
               i.key_uid, i.key_name, 'expired', i.address, i.user_agent, '{"cost_nano": 0}'::jsonb
        FROM gone JOIN audit i ON i.at = gone.at AND i.id = gone.id AND i.phase = 'intent'
    )
    SELECT count(*) INTO v_count FROM gone;
    IF EXISTS (SELECT FROM meter WHERE subject <> 'tenant' AND filled_at < clock_timestamp() - interval '1 hour') THEN
        PERFORM FROM meter WHERE subject = 'tenant' FOR UPDATE;
        DELETE FROM meter WHERE subject <> 'tenant' AND filled_at < clock_timestamp() - interval '1 hour';
    END IF;
    RETURN v_count;
END $$;
