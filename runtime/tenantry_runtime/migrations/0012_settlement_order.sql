-- A settlement takes its locks in the order of every other transaction: the tenant's meter before the ledger's rows.
--
-- A replica writes what is asked together as one transaction: its first settlement holds the meter while the next takes
-- its own row of the ledger.  As it was, the same settlement, tried again over another connection since nobody knew
-- whether it had been written, held that row and asked for the meter: PostgreSQL ended one of the two after a second.
-- Now it asks for the meter while it holds nothing.  All else is as in migration 0006: what is written, and what is
-- returned.
CREATE OR REPLACE FUNCTION settle_call(
    p_id uuid, p_state text, p_tokens_in bigint, p_tokens_cached bigint, p_tokens_out bigint, p_llm_nano bigint,
    p_queries integer, p_searches integer, p_database_nano bigint, p_vector_nano bigint, p_estimated boolean,
    p_event_type text, p_action text, p_resource_type text, p_resource_id text, p_address text, p_user_agent text,
    p_status text, p_error text, p_details jsonb
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    r ledger;
BEGIN
    PERFORM FROM meter WHERE subject = 'tenant' FOR UPDATE;
    UPDATE ledger SET
        status = p_state, tokens_in = p_tokens_in, tokens_cached = p_tokens_cached, tokens_out = p_tokens_out,
        llm_nano = p_llm_nano, database_queries = p_queries, vector_searches = p_searches,
        database_nano = p_database_nano, vector_nano = p_vector_nano,
        estimated = p_estimated, settled_at = clock_timestamp()
    WHERE id = p_id AND status NOT IN ('settled', 'released')
    RETURNING * INTO r;
    IF NOT FOUND THEN
        RETURN EXISTS (SELECT FROM ledger WHERE id = p_id);
    END IF;
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
