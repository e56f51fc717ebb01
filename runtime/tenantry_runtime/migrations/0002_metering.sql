-- The meter: what is reserved before a call, settled after it, and recorded for calls without a model.
-- All on the database's clock, read after the meter's lock is held, so that waiting does not age it.

-- The subject's meter, locked, refilled, and moved to the period that holds now (not yet written back).
-- A change of time zone never ends a period early and never opens a short one: it grants nothing twice.
CREATE FUNCTION open_meter(p_subject text, p_time_zone text, p_rpm double precision, p_tpm double precision)
RETURNS meter LANGUAGE plpgsql AS $$
DECLARE
    m meter;
    v_now timestamptz;
    v_local timestamp;
    v_elapsed double precision;
    v_end timestamptz;
BEGIN
    SELECT * INTO m FROM meter WHERE subject = p_subject FOR UPDATE;
    IF NOT FOUND THEN
        v_local := clock_timestamp() AT TIME ZONE p_time_zone;
        INSERT INTO meter (subject, filled_at, day, day_zone, day_ends_at, month, month_zone, month_ends_at)
        VALUES (
            p_subject, clock_timestamp(),
            v_local::date, p_time_zone,
            (date_trunc('day', v_local) + interval '1 day') AT TIME ZONE p_time_zone,
            date_trunc('month', v_local)::date, p_time_zone,
            (date_trunc('month', v_local) + interval '1 month') AT TIME ZONE p_time_zone
        )
        ON CONFLICT (subject) DO NOTHING;
        SELECT * INTO m FROM meter WHERE subject = p_subject FOR UPDATE;
    END IF;
    v_now := clock_timestamp();
    v_local := v_now AT TIME ZONE p_time_zone;

    v_elapsed := greatest(0, extract(epoch FROM v_now - m.filled_at));
    m.requests := least(p_rpm, coalesce(m.requests, p_rpm) + v_elapsed * p_rpm / 60);
    m.tokens := least(p_tpm, coalesce(m.tokens, p_tpm) + v_elapsed * p_tpm / 60);
    m.filled_at := v_now;

    IF v_now >= m.day_ends_at THEN
        v_end := (date_trunc('day', v_local) + interval '1 day') AT TIME ZONE p_time_zone;
        IF m.day_zone <> p_time_zone AND v_end < m.day_ends_at + interval '12 hours' THEN
            v_end := (date_trunc('day', v_local) + interval '2 days') AT TIME ZONE p_time_zone;
        END IF;
        m.day := greatest(m.day + 1, v_local::date);
        m.day_zone := p_time_zone;
        m.day_ends_at := v_end;
        m.day_tokens := 0;
    END IF;
    IF v_now >= m.month_ends_at THEN
        v_end := (date_trunc('month', v_local) + interval '1 month') AT TIME ZONE p_time_zone;
        IF m.month_zone <> p_time_zone AND v_end < m.month_ends_at + interval '2 days' THEN
            v_end := (date_trunc('month', v_local) + interval '2 months') AT TIME ZONE p_time_zone;
        END IF;
        m.month := greatest((m.month + interval '1 month')::date, date_trunc('month', v_local)::date);
        m.month_zone := p_time_zone;
        m.month_ends_at := v_end;
        m.month_nano := 0;
    END IF;
    RETURN m;
END $$;

-- Takes from every limit, or from none, the most that a call can use.
--   outcome  'ok', or the limit that refuses: 'requests', 'tokens', 'day', 'concurrency', 'budget', or
--            'too_large' (no waiting helps: `fits` tokens would)
--   granted  output tokens a choice that the call may use, at least p_least and at most p_output
--   wait     seconds after which the same call fits, if nothing else is called
CREATE FUNCTION reserve(
    p_id uuid, p_key_uid text, p_key_name text, p_user text, p_kind text, p_model text,
    p_requests integer, p_counts boolean,
    p_input bigint, p_output bigint, p_least bigint, p_choices integer, p_again bigint,
    p_input_nano bigint, p_output_nano bigint, p_price_version text, p_lease double precision,
    p_time_zone text, p_rpm bigint, p_tpm bigint, p_tpd bigint, p_concurrency bigint, p_budget bigint
) RETURNS TABLE (
    outcome text, granted bigint, wait double precision, fits bigint,
    requests_left double precision, tokens_left double precision
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    m meter;
    v_open_calls bigint;
    v_open_nano bigint;
    v_open_tokens bigint;
    v_least bigint := least(p_least, p_output);
    v_need bigint;
    v_room bigint;
    v_money bigint;
    v_wait double precision := 0;
    v_outcome text := 'ok';
    v_granted bigint := p_output;
    v_next double precision;
BEGIN
    m := open_meter('tenant', p_time_zone, p_rpm, p_tpm);
    SELECT count(*) FILTER (WHERE l.counts),
           coalesce(sum(l.reserved_nano) FILTER (WHERE l.month = m.month), 0),
           coalesce(sum(l.reserved_tokens) FILTER (WHERE l.day = m.day), 0)
      INTO v_open_calls, v_open_nano, v_open_tokens
      FROM ledger l WHERE l.status = 'reserved' AND l.expires_at > m.filled_at;

    -- An answer may be short where the whole bucket is small, but not empty.
    v_room := least(p_tpm, p_tpd);
    IF v_room IS NOT NULL AND p_output > 0 THEN
        v_least := greatest(1, least(v_least, (v_room - p_input) / p_choices));
    END IF;
    v_need := p_input + v_least * p_choices;
    IF v_need > v_room OR p_requests > p_rpm OR p_concurrency < 1 THEN
        RETURN QUERY SELECT 'too_large', 0::bigint, 0::double precision, v_room, m.requests, m.tokens;
        RETURN;
    END IF;

    IF p_budget IS NOT NULL THEN
        v_money := p_budget - m.month_nano - v_open_nano - p_input_nano;
        IF v_money < v_least * p_choices * p_output_nano OR p_budget <= m.month_nano THEN
            v_wait := extract(epoch FROM m.month_ends_at - m.filled_at);
            RETURN QUERY SELECT 'budget', 0::bigint, v_wait, NULL::bigint, m.requests, m.tokens;
            RETURN;
        END IF;
        IF p_output_nano > 0 AND p_output > 0 THEN
            v_granted := least(v_granted, v_money / (p_choices * p_output_nano));
        END IF;
    END IF;

    -- The longest wait counts: who waits that long is not refused a second time.
    IF v_open_calls >= p_concurrency AND p_counts THEN
        v_outcome := 'concurrency';
        v_wait := 1;
    END IF;
    IF m.requests + 1e-6 < p_requests THEN
        v_next := (p_requests - m.requests) * 60 / p_rpm;
        IF v_next >= v_wait THEN v_outcome := 'requests'; v_wait := v_next; END IF;
    END IF;
    IF m.tokens + 1e-6 < v_need THEN
        v_next := (least(v_need + p_again, p_tpm) - m.tokens) * 60 / p_tpm;
        IF v_next >= v_wait THEN v_outcome := 'tokens'; v_wait := v_next; END IF;
    END IF;
    IF m.day_tokens + v_open_tokens + v_need > p_tpd THEN
        v_next := extract(epoch FROM m.day_ends_at - m.filled_at);
        IF v_next >= v_wait THEN v_outcome := 'day'; v_wait := v_next; END IF;
    END IF;
    IF v_outcome <> 'ok' THEN
        RETURN QUERY SELECT v_outcome, 0::bigint, v_wait, NULL::bigint, m.requests, m.tokens;
        RETURN;
    END IF;

    IF p_output > 0 THEN
        v_granted := greatest(v_least, least(
            v_granted,
            floor((m.tokens - p_input) / p_choices)::bigint,
            (p_tpd - m.day_tokens - v_open_tokens - p_input) / p_choices
        ));
    END IF;
    v_need := p_input + v_granted * p_choices;
    m.requests := m.requests - p_requests;
    m.tokens := m.tokens - v_need;
    UPDATE meter SET
        requests = m.requests, tokens = m.tokens, filled_at = m.filled_at,
        day = m.day, day_zone = m.day_zone, day_ends_at = m.day_ends_at, day_tokens = m.day_tokens,
        month = m.month, month_zone = m.month_zone, month_ends_at = m.month_ends_at, month_nano = m.month_nano
    WHERE subject = m.subject;
    INSERT INTO ledger (
        id, at, month, day, key_uid, key_name, user_name, kind, model, status, counts,
        reserved_tokens, reserved_nano, price_version, expires_at
    ) VALUES (
        p_id, m.filled_at, m.month, m.day, p_key_uid, p_key_name, p_user, p_kind, p_model, 'reserved', p_counts,
        v_need, p_input_nano + v_granted * p_choices * p_output_nano, p_price_version,
        m.filled_at + make_interval(secs => p_lease)
    );
    RETURN QUERY SELECT 'ok', v_granted, 0::double precision, NULL::bigint, m.requests, m.tokens;
END $$;

-- Adds one settled call to the totals.
CREATE FUNCTION add_to_totals(r ledger) RETURNS void LANGUAGE sql AS $$
    INSERT INTO totals AS t (
        day, month, kind, model, key_uid, user_name, calls, tokens_in, tokens_out,
        database_queries, vector_searches, llm_nano, database_nano, vector_nano
    ) VALUES (
        r.day, r.month, r.kind, r.model, r.key_uid, r.user_name, 1, r.tokens_in, r.tokens_out,
        r.database_queries, r.vector_searches, r.llm_nano, r.database_nano, r.vector_nano
    )
    ON CONFLICT (day, month, kind, model, key_uid, user_name) DO UPDATE SET
        calls = t.calls + 1,
        tokens_in = t.tokens_in + excluded.tokens_in,
        tokens_out = t.tokens_out + excluded.tokens_out,
        database_queries = t.database_queries + excluded.database_queries,
        vector_searches = t.vector_searches + excluded.vector_searches,
        llm_nano = t.llm_nano + excluded.llm_nano,
        database_nano = t.database_nano + excluded.database_nano,
        vector_nano = t.vector_nano + excluded.vector_nano
$$;

-- Replaces a reservation by what the call used; what is left over goes back to the buckets at once.
-- p_status 'released' for a call that no model answered.  Also takes calls whose lease has run out: what was
-- used is owed.  Settling twice changes nothing.  False: there is no such reservation.
CREATE FUNCTION settle(
    p_id uuid, p_status text, p_tokens_in bigint, p_tokens_out bigint, p_llm_nano bigint,
    p_queries integer, p_searches integer, p_database_nano bigint, p_vector_nano bigint, p_estimated boolean
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
        status = p_status, tokens_in = p_tokens_in, tokens_out = p_tokens_out, llm_nano = p_llm_nano,
        database_queries = p_queries, vector_searches = p_searches,
        database_nano = p_database_nano, vector_nano = p_vector_nano,
        estimated = p_estimated, settled_at = clock_timestamp()
    WHERE id = p_id
    RETURNING * INTO r;
    UPDATE meter SET
        tokens = tokens + r.reserved_tokens - p_tokens_in - p_tokens_out,
        day_tokens = day_tokens + CASE WHEN day = r.day THEN p_tokens_in + p_tokens_out ELSE 0 END,
        month_nano = month_nano + CASE WHEN month = r.month THEN r.cost_nano ELSE 0 END
    WHERE subject = 'tenant';
    IF p_status = 'settled' OR r.cost_nano > 0 OR p_queries > 0 OR p_searches > 0 THEN
        PERFORM add_to_totals(r);
    END IF;
    RETURN true;
END $$;

-- One settled row for a request that reached no model, but the database or the vectors.
CREATE FUNCTION record(
    p_id uuid, p_key_uid text, p_key_name text, p_user text, p_kind text,
    p_queries integer, p_searches integer, p_database_nano bigint, p_vector_nano bigint,
    p_price_version text, p_time_zone text
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
END $$;

-- Marks reservations whose lease ran out.  They count for nothing from that moment on, marked or not.
CREATE FUNCTION expire_reservations() RETURNS bigint LANGUAGE sql AS $$
    WITH gone AS (
        UPDATE ledger SET status = 'expired', settled_at = clock_timestamp()
        WHERE status = 'reserved' AND expires_at <= clock_timestamp()
        RETURNING 1
    )
    SELECT count(*) FROM gone
$$;
