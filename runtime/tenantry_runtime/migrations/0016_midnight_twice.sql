-- Where clocks go back over midnight (Havana, the Azores, ...) there are two, and PostgreSQL takes the second: a day
-- ended an hour after its end, and the month with it.  A period now ends at the first: if an hour earlier it is already
-- as late in local time.  All else is as in migration 0002.
CREATE OR REPLACE FUNCTION open_meter(p_subject text, p_time_zone text, p_rpm double precision, p_tpm double precision)
RETURNS meter LANGUAGE plpgsql AS $$
DECLARE
    c_hour CONSTANT interval := '1 hour';
    m meter;
    v_now timestamptz;
    v_local timestamp;
    v_elapsed double precision;
    v_end timestamptz;
    v_month_end timestamptz;
BEGIN
    SELECT * INTO m FROM meter WHERE subject = p_subject FOR UPDATE;
    IF NOT FOUND THEN
        v_local := clock_timestamp() AT TIME ZONE p_time_zone;
        v_end := (date_trunc('day', v_local) + interval '1 day') AT TIME ZONE p_time_zone;
        IF (v_end - c_hour) AT TIME ZONE p_time_zone >= v_end AT TIME ZONE p_time_zone THEN
            v_end := v_end - c_hour;
        END IF;
        v_month_end := (date_trunc('month', v_local) + interval '1 month') AT TIME ZONE p_time_zone;
        IF (v_month_end - c_hour) AT TIME ZONE p_time_zone >= v_month_end AT TIME ZONE p_time_zone THEN
            v_month_end := v_month_end - c_hour;
        END IF;
        INSERT INTO meter (subject, filled_at, day, day_zone, day_ends_at, month, month_zone, month_ends_at)
        VALUES (
            p_subject, clock_timestamp(), v_local::date, p_time_zone, v_end,
            date_trunc('month', v_local)::date, p_time_zone, v_month_end
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
        IF (v_end - c_hour) AT TIME ZONE p_time_zone >= v_end AT TIME ZONE p_time_zone THEN
            v_end := v_end - c_hour;
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
        IF (v_end - c_hour) AT TIME ZONE p_time_zone >= v_end AT TIME ZONE p_time_zone THEN
            v_end := v_end - c_hour;
        END IF;
        m.month := greatest((m.month + interval '1 month')::date, date_trunc('month', v_local)::date);
        m.month_zone := p_time_zone;
        m.month_ends_at := v_end;
        m.month_nano := 0;
    END IF;
    RETURN m;
END $$;
