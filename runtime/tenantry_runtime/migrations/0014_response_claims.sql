-- Who is about to have an answer: identical requests in flight are one upstream call over all replicas of a tenant.
--
-- Locks.  Every claim is taken by who holds the tenant's meter, so that no two transactions, each with many calls of
-- a replica, wait for each other's claims in a circle; nobody waits for a claim that is alive.  What renews, gives
-- back or sweeps claims does not take the meter, and skips what is locked.
CREATE UNLOGGED TABLE response_claims (
    key    bytea PRIMARY KEY,     -- response_cache's
    owner  uuid NOT NULL,         -- of one request
    until  timestamptz NOT NULL   -- a lease that the owner's process renews: if that dies, the claim runs out
);

-- Claims an answer.  False: another has claimed it, or has just stored it.
--   p_lease  seconds; the others are claim_and_reserve's
CREATE FUNCTION claim_response(
    p_owner uuid, p_lease double precision, p_key bytea, p_ttl double precision, p_time_zone text
) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM meter WHERE subject = 'tenant' FOR UPDATE;
    IF NOT FOUND THEN  -- the tenant's first call
        PERFORM open_meter('tenant', p_time_zone, NULL, NULL);
    END IF;
    -- Only this statement sees what was committed while the meter was waited for.
    INSERT INTO response_claims AS c (key, owner, until)
    SELECT p_key, p_owner, clock_timestamp() + make_interval(secs => p_lease)
     WHERE NOT EXISTS (
               SELECT FROM response_claims o
               WHERE o.key = p_key AND o.until > clock_timestamp() AND o.owner <> p_owner)
       AND NOT EXISTS (
               SELECT FROM response_cache r, documents_state d
               WHERE r.key = p_key AND r.stored_at > clock_timestamp() - make_interval(secs => p_ttl)
                 AND (r.documents_at IS NULL OR r.documents_at = d.changed_at))
    ON CONFLICT (key) DO UPDATE SET owner = excluded.owner, until = excluded.until
        WHERE c.until <= clock_timestamp() OR c.owner = excluded.owner;
    RETURN FOUND;
END $$;

-- A look into the cache by who will first search documents, and so reserves later.
--   claimed  null: there is an answer; false: another is about to have it
CREATE FUNCTION look_and_claim(
    p_owner uuid, p_lease double precision,
    p_key bytea, p_ttl double precision, p_settling double precision, p_time_zone text
) RETURNS TABLE (
    documents boolean, settling boolean, changed_at timestamptz, answer text, claimed boolean
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    SELECT EXISTS (SELECT FROM vector_store_files f WHERE f.status = 'completed'),
           d.changed_at > clock_timestamp() - make_interval(secs => p_settling), d.changed_at, r.answer
      INTO documents, settling, changed_at, answer
      FROM documents_state d
      LEFT JOIN response_cache r ON r.key = p_key AND r.stored_at > clock_timestamp() - make_interval(secs => p_ttl)
           AND (r.documents_at IS NULL OR r.documents_at = d.changed_at);
    IF answer IS NULL THEN
        claimed := claim_response(p_owner, p_lease, p_key, p_ttl, p_time_zone);
    END IF;
    RETURN NEXT;
END $$;

-- look_and_reserve of a tenant that has several replicas: what is not found is claimed before it is reserved.
--   p_owner  of the claim
--   p_lease  seconds for which it holds unless it is renewed
--   claimed  null: there is an answer; false: nothing was reserved, since another is about to have it, or since a
--            limit refuses (then `outcome` says which); true, without an outcome: documents are to be searched first
CREATE FUNCTION claim_and_reserve(
    p_owner uuid, p_claim double precision,
    p_key bytea, p_ttl double precision, p_settling double precision, p_searches boolean,
    p_id uuid, p_key_uid text, p_key_name text, p_user text, p_kind text, p_model text,
    p_requests integer, p_counts boolean,
    p_input bigint, p_output bigint, p_least bigint, p_choices integer, p_again bigint,
    p_input_nano bigint, p_output_nano bigint, p_price_version text, p_lease double precision,
    p_time_zone text, p_rpm bigint[], p_tpm bigint[], p_tpd bigint[], p_concurrency bigint[], p_budget bigint,
    p_event_type text, p_action text, p_resource_type text, p_resource_id text, p_address text, p_user_agent text,
    p_details jsonb
) RETURNS TABLE (
    documents boolean, settling boolean, changed_at timestamptz, answer text, claimed boolean,
    outcome text, granted bigint, wait double precision, fits bigint,
    requests_left double precision, requests_size bigint, tokens_left double precision, tokens_size bigint
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    SELECT l.documents, l.settling, l.changed_at, l.answer, l.claimed
      INTO documents, settling, changed_at, answer, claimed
      FROM look_and_claim(p_owner, p_claim, p_key, p_ttl, p_settling, p_time_zone) l;
    IF claimed AND NOT (p_searches AND documents) THEN
        SELECT r.outcome, r.granted, r.wait, r.fits, r.requests_left, r.requests_size, r.tokens_left, r.tokens_size
          INTO outcome, granted, wait, fits, requests_left, requests_size, tokens_left, tokens_size
          FROM reserve_call(
              p_id, p_key_uid, p_key_name, p_user, p_kind, p_model, p_requests, p_counts, p_input, p_output, p_least,
              p_choices, p_again, p_input_nano, p_output_nano, p_price_version, p_lease, p_time_zone,
              p_rpm, p_tpm, p_tpd, p_concurrency, p_budget,
              p_event_type, p_action, p_resource_type, p_resource_id, p_address, p_user_agent, p_details
          ) r;
        IF outcome <> 'ok' THEN
            DELETE FROM response_claims WHERE key = p_key AND owner = p_owner;
            claimed := false;
        END IF;
    END IF;
    RETURN NEXT;
END $$;
