CREATE TYPE freescout_transition AS (
    transition_id bigint, ticket_id bigint, before text, after text, reason text, changed_at timestamptz,
    known_at timestamptz, via text
);

DO $do$ BEGIN EXECUTE format($create$
    CREATE FUNCTION freescout_transitions(after bigint DEFAULT 0, at_most int DEFAULT 100)
        RETURNS SETOF %1$I.freescout_transition
        LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, %1$I, pg_temp
    AS $body$
    DECLARE
        feed freescout_feed;
        first bigint;
    BEGIN
        SELECT * INTO feed FROM freescout_feed;
        IF after > feed.last_id THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('the feed has come to transition %%s, and not to %%s', feed.last_id, after),
                HINT = 'an older database was restored: begin again at 0';
        END IF;
        IF after > 0 AND after < feed.pruned_through THEN
            SELECT min(h.transition_id) INTO first FROM freescout_history h WHERE h.transition_id > after;
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('transitions after %%s are not kept any more: the first one kept is %%s', after,
                                 coalesce(first::text, 'still to come')),
                HINT = 'begin again at 0';
        END IF;
        IF after > 0 AND after NOT IN (feed.pruned_through, feed.last_id)
           AND NOT EXISTS (SELECT FROM freescout_history h WHERE h.transition_id = after) THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('transition %%s is not known: it was lost when an older database was restored', after),
                HINT = 'begin again at 0';
        END IF;
        RETURN QUERY
        SELECT h.transition_id, h.ticket_id, h.before, h.settled, h.reason, h.changed_at, h.known_at, h.via
        FROM freescout_history h WHERE h.transition_id > after ORDER BY h.transition_id LIMIT at_most;
    END $body$
$create$, current_schema()); END $do$;

REVOKE ALL ON FUNCTION freescout_transitions(bigint, int) FROM PUBLIC;

COMMENT ON FUNCTION freescout_transitions(bigint, int)
IS 'The changes of the settled answer of all tickets, in the order in which they are given out.';
