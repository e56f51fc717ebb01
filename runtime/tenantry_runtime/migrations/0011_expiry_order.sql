-- Expiry takes its locks in the order in which nothing waits in a circle: the tenant's meter before the ledger's rows.
--
-- A replica writes what is asked together as one transaction: one settlement in it holds the meter while the next
-- takes its own row of the ledger.  As it was, expiry held such a row (of a call that was settled after its lease) and
-- then asked for the meter.  Now it asks for the meter while it holds nothing, and waits for no row of the ledger.
CREATE OR REPLACE FUNCTION expire_reservations() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    v_count bigint;
BEGIN
    IF EXISTS (SELECT FROM meter WHERE subject <> 'tenant' AND filled_at < clock_timestamp() - interval '1 hour') THEN
        PERFORM FROM meter WHERE subject = 'tenant' FOR UPDATE;
        DELETE FROM meter WHERE subject <> 'tenant' AND filled_at < clock_timestamp() - interval '1 hour';
    END IF;
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
    RETURN v_count;
END $$;
