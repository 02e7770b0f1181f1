DO $do$ BEGIN EXECUTE format($create$
    CREATE FUNCTION freescout_ticket_state(ticket_id bigint) RETURNS text
        LANGUAGE plpgsql STABLE SECURITY DEFINER
    AS $body$
    #variable_conflict use_column
    DECLARE answer pg_catalog.text;
    BEGIN
        SELECT t.status INTO answer
        FROM %1$I.freescout_ticket t
        WHERE t.ticket_id OPERATOR(pg_catalog.=) $1 AND NOT t.gone AND t.state OPERATOR(pg_catalog.=) 'published'
          AND t.updated_at IS NOT NULL
          AND (t.grace_until IS NULL OR t.grace_until OPERATOR(pg_catalog.>) %1$I.freescout_now())
          AND (t.expires_at OPERATOR(pg_catalog.>) %1$I.freescout_now()
               OR (SELECT l.lease_until FROM %1$I.freescout_lease l) OPERATOR(pg_catalog.>) %1$I.freescout_now());
        IF answer IS NULL THEN
            RETURN 'none';
        END IF;
        RETURN answer;
    END $body$
$create$, current_schema()); END $do$;

REVOKE ALL ON FUNCTION freescout_ticket_state(bigint) FROM PUBLIC;

COMMENT ON FUNCTION freescout_ticket_state(bigint) IS 'active, pending, closed, spam; none when in doubt.';
