DO $do$ BEGIN EXECUTE format($create$
    CREATE FUNCTION freescout_ticket_state_at(ticket_id bigint, at timestamptz) RETURNS text
        LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, %1$I, pg_temp
    AS $body$
    #variable_conflict use_column
    DECLARE
        answer text;
        clock timestamptz := freescout_now();
        soon timestamptz := clock + interval '1 second';
    BEGIN
        -- What was written while our clock was ahead is not known to have been before or after any moment.
        SELECT h.status INTO answer
        FROM (SELECT * FROM freescout_history h WHERE h.ticket_id = $1 AND h.known_at <= $2
              ORDER BY h.known_at DESC, h.entry_id DESC LIMIT 1) h
        CROSS JOIN (SELECT * FROM freescout_lease_history l WHERE l.began_at <= $2 ORDER BY l.began_at DESC LIMIT 1) l
        WHERE $2 <= clock AND $2 >= (SELECT kept_since FROM freescout_feed)
          AND NOT h.gone AND h.state = 'published' AND h.is_dated
          AND (h.grace_until IS NULL OR h.grace_until > $2)
          AND (l.until_at > $2
               OR (h.expires_at > $2 AND (h.seen_at > $2 OR h.expires_at <= $2 + interval '1 second' + l.longest)))
          AND NOT EXISTS (SELECT FROM freescout_history n WHERE n.ticket_id = $1 AND n.known_at > soon)
          AND (SELECT n.renewed_at FROM freescout_lease_history n ORDER BY n.began_at DESC LIMIT 1) <= soon;
        RETURN coalesce(answer, 'none');
    END $body$
$create$, current_schema()); END $do$;

REVOKE ALL ON FUNCTION freescout_ticket_state_at(bigint, timestamptz) FROM PUBLIC;

COMMENT ON FUNCTION freescout_ticket_state_at(bigint, timestamptz)
IS 'What freescout_ticket_state answered at a moment; none for moments that are not kept, or are yet to come.';
