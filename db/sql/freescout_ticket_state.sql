DO $do$ BEGIN EXECUTE format($create$
    CREATE FUNCTION freescout_ticket_state(ticket_id bigint) RETURNS text
        LANGUAGE plpgsql STABLE SECURITY DEFINER
    AS $body$
    #variable_conflict use_column
    DECLARE
        answer pg_catalog.text;
        clock pg_catalog.timestamptz := %1$I.freescout_now();
    BEGIN
        -- What the row's own time to live must not pass: infinity while the lease vouches, else what the terms allow.
        SELECT t.status INTO answer
        FROM %1$I.freescout_ticket t
        WHERE t.ticket_id OPERATOR(pg_catalog.=) $1 AND NOT t.gone AND t.state OPERATOR(pg_catalog.=) 'published'
          AND t.updated_at IS NOT NULL
          AND greatest(t.observed_at, t.truth_at, t.disputed_at)
              OPERATOR(pg_catalog.<=) (clock OPERATOR(pg_catalog.+) pg_catalog.interval '1 second')
          AND (t.grace_until IS NULL OR t.grace_until OPERATOR(pg_catalog.>) clock)
          AND CASE WHEN t.expires_at OPERATOR(pg_catalog.>) clock THEN t.expires_at
                   ELSE pg_catalog.timestamptz 'infinity' END
              OPERATOR(pg_catalog.<=) (
                  SELECT CASE
                      WHEN l.lease_until OPERATOR(pg_catalog.>) clock
                           AND (l.renewed_by_pass OPERATOR(pg_catalog.<=)
                                (clock OPERATOR(pg_catalog.+) pg_catalog.interval '1 second')) IS NOT FALSE
                          THEN pg_catalog.timestamptz 'infinity'
                      ELSE (clock OPERATOR(pg_catalog.+) pg_catalog.interval '1 second') OPERATOR(pg_catalog.+) (
                          greatest(l.cache_lease, l.cache_ttl)
                          OPERATOR(pg_catalog.*) pg_catalog.interval '1 second')
                  END
                  FROM %1$I.freescout_lease l);
        IF answer IS NULL THEN
            RETURN 'none';
        END IF;
        RETURN answer;
    END $body$
$create$, current_schema()); END $do$;

REVOKE ALL ON FUNCTION freescout_ticket_state(bigint) FROM PUBLIC;

COMMENT ON FUNCTION freescout_ticket_state(bigint) IS 'active, pending, closed, spam; none when in doubt.';
