DO $do$ BEGIN EXECUTE format($create$
    CREATE FUNCTION freescout_number_transitions(at_most int) RETURNS bigint
        LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, %1$I, pg_temp
    AS $body$
    #variable_conflict use_column
    DECLARE
        last bigint;
        numbered bigint;
    BEGIN
        IF NOT EXISTS (SELECT FROM freescout_history WHERE before IS NOT NULL AND transition_id IS NULL) THEN
            RETURN 0;
        END IF;
        -- One at a time, and each sees what those before it have numbered: whatever is committed later comes later.
        last := freescout_lock_feed(false);
        -- What a writer has locked just now gets its place when that is committed: waiting for it could be a deadlock.
        WITH unnumbered AS (
            SELECT ticket_id, known_at, entry_id
            FROM freescout_history WHERE before IS NOT NULL AND transition_id IS NULL
            ORDER BY entry_id LIMIT at_most FOR UPDATE SKIP LOCKED
        ), placed AS (
            SELECT *, row_number() OVER (ORDER BY entry_id) AS place FROM unnumbered
        )
        UPDATE freescout_history h SET transition_id = last + p.place
        FROM placed p
        WHERE (h.ticket_id, h.known_at, h.entry_id) = (p.ticket_id, p.known_at, p.entry_id);
        GET DIAGNOSTICS numbered = ROW_COUNT;
        UPDATE freescout_feed SET last_id = last + numbered;
        PERFORM pg_notify('freescout_transition', '');
        RETURN numbered;
    END $body$
$create$, current_schema()); END $do$;

REVOKE ALL ON FUNCTION freescout_number_transitions(int) FROM PUBLIC;

COMMENT ON FUNCTION freescout_number_transitions(int)
IS 'Gives transitions that are committed their place in the feed; only our processes.';
