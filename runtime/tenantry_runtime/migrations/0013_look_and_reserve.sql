-- The look into the cache and the reservation of a call that is not found there: one statement, and so one way to
-- the database, where there were two.
--
--   p_key       of the answer; null: a new one is asked for
--   p_ttl       seconds for which an answer may be given again
--   p_settling  seconds after a change of the documents, for which `settling` is true
--   p_searches  whether the call would first look for passages in the tenant's documents: then it is reserved here
--               only where there are none, for what they take of the limits is not known yet
--   the others  reserve_call's
--   answer      what the cache has; then nothing was reserved
--   outcome     and what follows it: reserve_call's; null: nothing was reserved, and nothing refused
CREATE FUNCTION look_and_reserve(
    p_key bytea, p_ttl double precision, p_settling double precision, p_searches boolean,
    p_id uuid, p_key_uid text, p_key_name text, p_user text, p_kind text, p_model text,
    p_requests integer, p_counts boolean,
    p_input bigint, p_output bigint, p_least bigint, p_choices integer, p_again bigint,
    p_input_nano bigint, p_output_nano bigint, p_price_version text, p_lease double precision,
    p_time_zone text, p_rpm bigint[], p_tpm bigint[], p_tpd bigint[], p_concurrency bigint[], p_budget bigint,
    p_event_type text, p_action text, p_resource_type text, p_resource_id text, p_address text, p_user_agent text,
    p_details jsonb
) RETURNS TABLE (
    documents boolean, settling boolean, changed_at timestamptz, answer text,
    outcome text, granted bigint, wait double precision, fits bigint,
    requests_left double precision, requests_size bigint, tokens_left double precision, tokens_size bigint
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    SELECT EXISTS (SELECT FROM vector_store_files f WHERE f.status = 'completed'),
           d.changed_at > clock_timestamp() - make_interval(secs => p_settling), d.changed_at, c.answer
      INTO documents, settling, changed_at, answer
      FROM documents_state d
      LEFT JOIN response_cache c ON c.key = p_key AND c.stored_at > clock_timestamp() - make_interval(secs => p_ttl)
           AND (c.documents_at IS NULL OR c.documents_at = d.changed_at);
    IF answer IS NULL AND NOT (p_searches AND documents) THEN
        SELECT r.outcome, r.granted, r.wait, r.fits, r.requests_left, r.requests_size, r.tokens_left, r.tokens_size
          INTO outcome, granted, wait, fits, requests_left, requests_size, tokens_left, tokens_size
          FROM reserve_call(
              p_id, p_key_uid, p_key_name, p_user, p_kind, p_model, p_requests, p_counts, p_input, p_output, p_least,
              p_choices, p_again, p_input_nano, p_output_nano, p_price_version, p_lease, p_time_zone,
              p_rpm, p_tpm, p_tpd, p_concurrency, p_budget,
              p_event_type, p_action, p_resource_type, p_resource_id, p_address, p_user_agent, p_details
          ) r;
    END IF;
    RETURN NEXT;
END $$;
