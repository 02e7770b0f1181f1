DO $do$ BEGIN EXECUTE format($create$
    CREATE FUNCTION freescout_note_history(tickets bigint[], at_once boolean DEFAULT false) RETURNS void
        LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, %1$I, pg_temp SET enable_seqscan = off
        SET plan_cache_mode = force_generic_plan
    AS $body$
    #variable_conflict use_column
    DECLARE
        clock timestamptz := freescout_now();
        went_back boolean;
        last bigint;
        given bigint;
    BEGIN
        IF at_once THEN
            -- The feed stays locked until this is committed, so that a higher number is never committed before.
            last := freescout_lock_feed(true);
            IF EXISTS (SELECT FROM freescout_history WHERE before IS NOT NULL AND transition_id IS NULL) THEN
                -- It comes first, and may be about the same tickets.
                last := NULL;
            END IF;
        END IF;
        WITH answers AS (
            SELECT ticket_id, status, state, gone, updated_at IS NOT NULL AS is_dated,
                   -- A row with stamps from our own future answers nothing.
                   CASE WHEN is_ahead THEN 'epoch' ELSE grace_until END AS grace_until,
                   CASE WHEN is_ahead THEN 'epoch' ELSE expires_at END AS expires_at,
                   updated_at, observed_via, disputed_at IS NULL AS is_settled,
                   CASE WHEN NOT gone AND state = 'published' AND status IS NOT NULL AND updated_at IS NOT NULL
                        THEN status ELSE 'none' END AS settles,
                   CASE WHEN gone THEN 'gone' WHEN state IS NULL OR status IS NULL OR updated_at IS NULL THEN 'unknown'
                        WHEN state <> 'published' THEN 'unpublished' END AS because
            FROM freescout_ticket
            CROSS JOIN LATERAL (
                SELECT greatest(observed_at, truth_at, disputed_at) > clock + interval '1 second' AS is_ahead
            ) stamps
            WHERE ticket_id = ANY (tickets)
        ), compared AS (
            SELECT a.*, h.known_at AS held_since, h.entry_id AS held_entry, h.expires_at AS held_until,
                   coalesce(h.settled, 'none') AS before,
                   is_settled AND settles <> coalesce(h.settled, 'none') AS turns,
                   -- The same answer without a break, by the row's own time to live or by the lease.
                   coalesce((a.status, a.state, a.gone, a.is_dated, a.grace_until)
                            IS NOT DISTINCT FROM (h.status, h.state, h.gone, h.is_dated, h.grace_until)
                            AND h.known_at <= clock
                            AND (a.settles = 'none'
                                 OR (a.expires_at > clock
                                     AND (h.expires_at BETWEEN clock AND clock + interval '1 second' + l.longest
                                          OR (l.unbroken_since <= h.known_at AND l.until_at > clock)))),
                            false) AS goes_on
            FROM answers a
            LEFT JOIN LATERAL (
                SELECT * FROM freescout_history h WHERE h.ticket_id = a.ticket_id
                ORDER BY h.known_at DESC, h.entry_id DESC LIMIT 1
            ) h ON true
            LEFT JOIN (SELECT * FROM freescout_lease_history ORDER BY began_at DESC LIMIT 1) l ON true
        ), prolonged AS (
            UPDATE freescout_history h SET expires_at = c.expires_at, seen_at = clock
            FROM compared c
            WHERE c.goes_on AND c.held_until <> c.expires_at
              AND (h.ticket_id, h.known_at, h.entry_id) = (c.ticket_id, c.held_since, c.held_entry)
        ), entered AS (
            INSERT INTO freescout_history (ticket_id, known_at, seen_at, status, state, gone, is_dated, grace_until,
                                           expires_at, settled, before, reason, changed_at, via, transition_id)
            SELECT ticket_id, clock, clock, status, state, gone, is_dated, grace_until, expires_at,
                   CASE WHEN is_settled THEN settles ELSE before END,
                   CASE WHEN turns THEN before END, CASE WHEN turns THEN because END,
                   CASE WHEN turns THEN updated_at END, observed_via,
                   CASE WHEN turns THEN last + count(*) FILTER (WHERE turns) OVER (ORDER BY ticket_id) END
            FROM compared WHERE NOT goes_on ORDER BY ticket_id
            RETURNING transition_id
        )
        SELECT bool_or(held_since > clock), (SELECT max(transition_id) FROM entered) INTO went_back, given
        FROM compared;
        IF given IS NOT NULL THEN
            UPDATE freescout_feed SET last_id = given;
        END IF;
        IF went_back THEN
            -- What was written while our clock was ahead came after what is dated last before now; when, is not known.
            UPDATE freescout_history h
            SET known_at = coalesce((SELECT max(b.known_at) FROM freescout_history b
                                     WHERE b.ticket_id = h.ticket_id AND b.known_at <= clock
                                       AND b.entry_id < h.entry_id), clock),
                seen_at = clock, grace_until = 'epoch', expires_at = 'epoch'
            WHERE h.ticket_id = ANY (tickets) AND h.known_at > clock;
        END IF;
    END $body$
$create$, current_schema()); END $do$;

REVOKE ALL ON FUNCTION freescout_note_history(bigint[], boolean) FROM PUBLIC;

COMMENT ON FUNCTION freescout_note_history(bigint[], boolean)
IS 'Notes what tickets answer from now on, where that has changed; only our processes.';
