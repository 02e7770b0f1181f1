"""Keeps what was answered when, and the feed of what has changed.

What is held becomes the history's beginning: of moments before, nothing is known. Code of the revision before goes on
as before: its writes pass through the function that notes the history.
"""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
CREATE TABLE freescout_history (
    ticket_id bigint,
    known_at timestamptz,
    entry_id bigint GENERATED ALWAYS AS IDENTITY,
    seen_at timestamptz NOT NULL,
    status text,
    state text,
    gone boolean NOT NULL,
    is_dated boolean NOT NULL,
    grace_until timestamptz,
    expires_at timestamptz NOT NULL,
    settled text NOT NULL,
    before text,
    reason text,
    changed_at timestamptz,
    via text NOT NULL,
    transition_id bigint,
    PRIMARY KEY (ticket_id, known_at, entry_id)
) WITH (fillfactor = 90)
""",
    """
COMMENT ON TABLE freescout_history
IS 'What each ticket''s row answered since when, and the transitions of the settled answer.'
""",
    """
COMMENT ON COLUMN freescout_history.known_at IS 'Since when the row held this, by our clock.'
""",
    """
COMMENT ON COLUMN freescout_history.seen_at IS 'When it was written last: expires_at has stood since then.'
""",
    """
COMMENT ON COLUMN freescout_history.is_dated IS 'Whether FreeScout''s date of it was understood.'
""",
    """
COMMENT ON COLUMN freescout_history.settled IS 'What the ticket reads once no dispute is open, and in time.'
""",
    """
COMMENT ON COLUMN freescout_history.before IS 'What was settled before; NULL: this is no transition.'
""",
    """
COMMENT ON COLUMN freescout_history.reason IS 'Why the settled answer is none: gone, unpublished or unknown.'
""",
    """
COMMENT ON COLUMN freescout_history.changed_at IS 'The date of what was settled, by FreeScout.'
""",
    """
COMMENT ON COLUMN freescout_history.transition_id IS 'Its place in the feed; NULL: it has none, or none yet.'
""",
    """
CREATE UNIQUE INDEX freescout_history_transition ON freescout_history (transition_id)
WHERE transition_id IS NOT NULL
""",
    """
CREATE INDEX freescout_history_unnumbered ON freescout_history (entry_id)
WHERE before IS NOT NULL AND transition_id IS NULL
""",
    """
CREATE INDEX freescout_history_known_at ON freescout_history USING brin (known_at)
""",
    """
CREATE TABLE freescout_lease_history (
    began_at timestamptz PRIMARY KEY,
    unbroken_since timestamptz NOT NULL,
    renewed_at timestamptz NOT NULL,
    until_at timestamptz,
    longest interval NOT NULL
)
""",
    """
COMMENT ON TABLE freescout_lease_history
IS 'The lease as it was: a row for each stretch without a break, of a day at the most.'
""",
    """
COMMENT ON COLUMN freescout_lease_history.unbroken_since IS 'Since when it has vouched without a break.'
""",
    """
COMMENT ON COLUMN freescout_lease_history.until_at
IS 'Until when it vouched for every ticket; NULL: for none.'
""",
    """
COMMENT ON COLUMN freescout_lease_history.longest IS 'How far ahead a row''s own time to live counted.'
""",
    """
CREATE TABLE freescout_feed (
    only_row boolean PRIMARY KEY DEFAULT true,
    last_id bigint NOT NULL DEFAULT 0,
    pruned_through bigint NOT NULL DEFAULT 0,
    kept_since timestamptz NOT NULL,
    CONSTRAINT freescout_feed_only_row_check CHECK (only_row)
)
""",
    """
COMMENT ON TABLE freescout_feed IS 'How far the feed of transitions goes.'
""",
    """
COMMENT ON COLUMN freescout_feed.last_id IS 'The last transition''s number.'
""",
    """
COMMENT ON COLUMN freescout_feed.pruned_through IS 'The last number that is not kept any more.'
""",
    """
COMMENT ON COLUMN freescout_feed.kept_since IS 'Since when the history is whole.'
""",
    """
CREATE TABLE freescout_cursor (
    name text PRIMARY KEY,
    after bigint NOT NULL,
    moved_at timestamptz NOT NULL
)
""",
    """
COMMENT ON TABLE freescout_cursor IS 'How far each reader of the feed has come, by its name.'
""",
    """
DO $do$ BEGIN EXECUTE format($create$
    CREATE FUNCTION freescout_note_history(tickets bigint[]) RETURNS void
        LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, %1$I, pg_temp SET enable_seqscan = off
        SET plan_cache_mode = force_generic_plan
    AS $body$
    #variable_conflict use_column
    DECLARE
        clock timestamptz := freescout_now();
        went_back boolean;
    BEGIN
        WITH answers AS (
            SELECT ticket_id, status, state, gone, updated_at IS NOT NULL AS is_dated, grace_until, expires_at,
                   updated_at, observed_via, disputed_at IS NULL AS is_settled,
                   CASE WHEN NOT gone AND state = 'published' AND status IS NOT NULL AND updated_at IS NOT NULL
                        THEN status ELSE 'none' END AS settles,
                   CASE WHEN gone THEN 'gone' WHEN state IS NULL OR status IS NULL OR updated_at IS NULL THEN 'unknown'
                        WHEN state <> 'published' THEN 'unpublished' END AS because
            FROM freescout_ticket WHERE ticket_id = ANY (tickets)
        ), compared AS (
            SELECT a.*, h.known_at AS held_since, h.entry_id AS held_entry, coalesce(h.settled, 'none') AS before,
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
            WHERE c.goes_on AND h.expires_at <> c.expires_at
              AND (h.ticket_id, h.known_at, h.entry_id) = (c.ticket_id, c.held_since, c.held_entry)
        ), entered AS (
            INSERT INTO freescout_history (ticket_id, known_at, seen_at, status, state, gone, is_dated, grace_until,
                                           expires_at, settled, before, reason, changed_at, via)
            SELECT ticket_id, clock, clock, status, state, gone, is_dated, grace_until, expires_at,
                   CASE WHEN is_settled THEN settles ELSE before END,
                   CASE WHEN is_settled AND settles <> before THEN before END,
                   CASE WHEN is_settled AND settles <> before THEN because END,
                   CASE WHEN is_settled AND settles <> before THEN updated_at END,
                   observed_via
            FROM compared WHERE NOT goes_on ORDER BY ticket_id
        )
        SELECT bool_or(held_since > clock) INTO went_back FROM compared;
        IF went_back THEN
            -- What was written while our clock was ahead came after what is dated last before now; when, is not known.
            UPDATE freescout_history h
            SET known_at = coalesce((SELECT max(b.known_at) FROM freescout_history b
                                     WHERE b.ticket_id = h.ticket_id AND b.known_at <= clock
                                       AND b.entry_id < h.entry_id), clock),
                seen_at = clock, grace_until = '-infinity', expires_at = '-infinity'
            WHERE h.ticket_id = ANY (tickets) AND h.known_at > clock;
        END IF;
    END $body$
$create$, current_schema()); END $do$
""",
    """
REVOKE ALL ON FUNCTION freescout_note_history(bigint[]) FROM PUBLIC
""",
    """
COMMENT ON FUNCTION freescout_note_history(bigint[])
IS 'Notes what tickets answer from now on, where that has changed; only our processes.'
""",
    """
DO $do$ BEGIN EXECUTE format($create$
    CREATE FUNCTION freescout_note_lease() RETURNS trigger
        LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, %1$I, pg_temp
    AS $body$
    DECLARE
        clock timestamptz := freescout_now();
        longest interval := greatest(NEW.cache_lease, NEW.cache_ttl) * interval '1 second';
        until timestamptz := CASE WHEN (NEW.renewed_by_pass <= clock + interval '1 second') IS NOT FALSE
                                       AND NEW.lease_until > clock THEN NEW.lease_until END;
        held freescout_lease_history;
        goes_on boolean;
    BEGIN
        SELECT * INTO held FROM freescout_lease_history ORDER BY began_at DESC LIMIT 1;
        IF held.renewed_at > clock + interval '1 second' THEN
            -- It was renewed while our clock was ahead: since when, is not known.
            DELETE FROM freescout_lease_history WHERE began_at > clock;
            UPDATE freescout_lease_history SET until_at = NULL, renewed_at = least(renewed_at, clock)
            WHERE began_at = (SELECT max(began_at) FROM freescout_lease_history);
            held := NULL;
        END IF;
        goes_on := coalesce(held.until_at >= clock AND until >= held.until_at AND held.longest = longest, false);
        IF goes_on AND held.began_at > clock - interval '1 day' THEN
            UPDATE freescout_lease_history SET until_at = until, renewed_at = clock WHERE began_at = held.began_at;
        ELSIF goes_on OR until IS NOT NULL OR held.until_at > clock OR held.longest IS DISTINCT FROM longest THEN
            INSERT INTO freescout_lease_history AS l (began_at, unbroken_since, renewed_at, until_at, longest)
            VALUES (clock, CASE WHEN goes_on THEN held.unbroken_since ELSE clock END, clock, until, longest)
            ON CONFLICT (began_at) DO UPDATE
            SET unbroken_since = excluded.unbroken_since, until_at = excluded.until_at, longest = excluded.longest;
        END IF;
        RETURN NULL;
    END $body$
$create$, current_schema()); END $do$
""",
    """
REVOKE ALL ON FUNCTION freescout_note_lease() FROM PUBLIC
""",
    """
COMMENT ON FUNCTION freescout_note_lease() IS 'Notes how long the lease vouched, where that has changed.'
""",
    """
CREATE TRIGGER freescout_note_lease AFTER UPDATE ON freescout_lease FOR EACH ROW
WHEN ((OLD.lease_until, OLD.renewed_by_pass, OLD.cache_lease, OLD.cache_ttl)
      IS DISTINCT FROM (NEW.lease_until, NEW.renewed_by_pass, NEW.cache_lease, NEW.cache_ttl))
EXECUTE FUNCTION freescout_note_lease()
""",
    """
CREATE TRIGGER freescout_note_new_lease AFTER INSERT ON freescout_lease FOR EACH ROW
EXECUTE FUNCTION freescout_note_lease()
""",
    """
DO $do$ BEGIN EXECUTE format($create$
    CREATE OR REPLACE FUNCTION freescout_write_tickets(rows json, versions jsonb, lease_version text, journal json,
                                            patience interval) RETURNS void
        LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, %1$I, pg_temp SET enable_seqscan = off
        SET plan_cache_mode = force_generic_plan
    AS $body$
    #variable_conflict use_column
    DECLARE written bigint[];
    BEGIN
        IF patience IS NOT NULL THEN
            PERFORM set_config('lock_timeout', ceil(1000 * extract(epoch FROM patience))::bigint::text, true);
        END IF;
        WITH upserted AS (
            INSERT INTO freescout_ticket AS t (
                ticket_id, status, state, updated_at, number, mailbox_id, created_at, gone, observed_at, observed_via,
                expires_at, touched_at, truth_at, disputed_at, grace_until, truth_until, doubted_through,
                disputed_through)
            SELECT ticket_id, status, state, updated_at, number, mailbox_id, created_at, coalesce(gone, true),
                   observed_at, observed_via, expires_at, touched_at, truth_at, disputed_at, grace_until, truth_until,
                   doubted_through, disputed_through
            FROM json_populate_recordset(NULL::freescout_ticket, rows)
            ON CONFLICT (ticket_id) DO UPDATE
            SET (status, state, updated_at, number, mailbox_id, created_at, gone, observed_at, observed_via, expires_at,
                 touched_at, truth_at, disputed_at, grace_until, truth_until, doubted_through, disputed_through)
              = (excluded.status, excluded.state, excluded.updated_at, excluded.number, excluded.mailbox_id,
                 excluded.created_at, excluded.gone, excluded.observed_at, excluded.observed_via, excluded.expires_at,
                 excluded.touched_at, excluded.truth_at, excluded.disputed_at, excluded.grace_until,
                 excluded.truth_until, excluded.doubted_through, excluded.disputed_through)
            WHERE t.xmin::text = versions ->> t.ticket_id::text
            RETURNING ticket_id
        )
        SELECT coalesce(array_agg(ticket_id), '{}') INTO written FROM upserted;
        IF cardinality(written) <> json_array_length(rows) THEN
            RAISE EXCEPTION USING ERRCODE = 'serialization_failure', MESSAGE = 'a ticket was written meanwhile';
        END IF;
        IF lease_version <> (SELECT l.xmin::text FROM freescout_lease l) THEN
            RAISE EXCEPTION USING ERRCODE = 'serialization_failure', MESSAGE = 'the lease was written meanwhile';
        END IF;
        IF written <> '{}' THEN
            PERFORM freescout_note_history(written);
        END IF;
        INSERT INTO freescout_delivery AS d (
            received_at, endpoint, event, ticket_id, outcome, reason, status, state, updated_at, body_bytes, body_ms,
            signed_with, request_id, key_fingerprint, digest, replays, replayed_at, replayed_request_id)
        SELECT received_at, endpoint, event, ticket_id, outcome, reason, status, state, updated_at, body_bytes, body_ms,
               signed_with, request_id, key_fingerprint, digest, coalesce(replays, 0), replayed_at, replayed_request_id
        FROM json_populate_recordset(NULL::freescout_delivery, journal)
        ON CONFLICT (digest) DO UPDATE
        SET replays = d.replays + 1 + excluded.replays,
            replayed_at = coalesce(excluded.replayed_at, excluded.received_at),
            replayed_request_id = coalesce(excluded.replayed_request_id, excluded.request_id);
    END $body$
$create$, current_schema()); END $do$
""",
    """
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
$create$, current_schema()); END $do$
""",
    """
REVOKE ALL ON FUNCTION freescout_ticket_state_at(bigint, timestamptz) FROM PUBLIC
""",
    """
COMMENT ON FUNCTION freescout_ticket_state_at(bigint, timestamptz)
IS 'What freescout_ticket_state answered at a moment; none for moments that are not kept, or are yet to come.'
""",
    """
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
        SELECT last_id INTO last FROM freescout_feed FOR UPDATE;
        WITH unnumbered AS (
            SELECT ticket_id, known_at, entry_id, row_number() OVER (ORDER BY entry_id) AS place
            FROM freescout_history WHERE before IS NOT NULL AND transition_id IS NULL
            ORDER BY entry_id LIMIT at_most
        )
        UPDATE freescout_history h SET transition_id = last + u.place
        FROM unnumbered u
        WHERE (h.ticket_id, h.known_at, h.entry_id) = (u.ticket_id, u.known_at, u.entry_id);
        GET DIAGNOSTICS numbered = ROW_COUNT;
        UPDATE freescout_feed SET last_id = last + numbered;
        PERFORM pg_notify('freescout_transition', '');
        RETURN numbered;
    END $body$
$create$, current_schema()); END $do$
""",
    """
REVOKE ALL ON FUNCTION freescout_number_transitions(int) FROM PUBLIC
""",
    """
COMMENT ON FUNCTION freescout_number_transitions(int)
IS 'Gives transitions that are committed their place in the feed; only our processes.'
""",
    """
CREATE TYPE freescout_transition AS (
    transition_id bigint, ticket_id bigint, before text, after text, reason text, changed_at timestamptz,
    known_at timestamptz, via text
)
""",
    """
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
        RETURN QUERY
        SELECT h.transition_id, h.ticket_id, h.before, h.settled, h.reason, h.changed_at, h.known_at, h.via
        FROM freescout_history h WHERE h.transition_id > after ORDER BY h.transition_id LIMIT at_most;
    END $body$
$create$, current_schema()); END $do$
""",
    """
REVOKE ALL ON FUNCTION freescout_transitions(bigint, int) FROM PUBLIC
""",
    """
COMMENT ON FUNCTION freescout_transitions(bigint, int)
IS 'The changes of the settled answer of all tickets, in the order in which they are given out.'
""",
    """
DO $do$ BEGIN EXECUTE format($create$
    CREATE FUNCTION freescout_read_cursor(name text) RETURNS bigint
        LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, %1$I, pg_temp
    AS $body$
    BEGIN
        RETURN coalesce((SELECT c.after FROM freescout_cursor c WHERE c.name = $1), 0);
    END $body$
$create$, current_schema()); END $do$
""",
    """
REVOKE ALL ON FUNCTION freescout_read_cursor(text) FROM PUBLIC
""",
    """
COMMENT ON FUNCTION freescout_read_cursor(text) IS 'How far a reader of the feed has come; 0 for a new one.'
""",
    """
DO $do$ BEGIN EXECUTE format($create$
    CREATE FUNCTION freescout_move_cursor(name text, after bigint) RETURNS void
        LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, %1$I, pg_temp
    AS $body$
    BEGIN
        INSERT INTO freescout_cursor AS c (name, after, moved_at) VALUES ($1, $2, freescout_now())
        ON CONFLICT ON CONSTRAINT freescout_cursor_pkey DO UPDATE
        SET after = excluded.after, moved_at = excluded.moved_at;
    END $body$
$create$, current_schema()); END $do$
""",
    """
REVOKE ALL ON FUNCTION freescout_move_cursor(text, bigint) FROM PUBLIC
""",
    """
COMMENT ON FUNCTION freescout_move_cursor(text, bigint) IS 'Notes how far a reader of the feed has come.'
""",
    """
INSERT INTO freescout_feed (kept_since) VALUES (freescout_now())
""",
    """
INSERT INTO freescout_lease_history (began_at, unbroken_since, renewed_at, until_at, longest)
SELECT clock, clock, clock,
       CASE WHEN (renewed_by_pass <= clock + interval '1 second') IS NOT FALSE AND lease_until > clock
            THEN lease_until END,
       greatest(cache_lease, cache_ttl) * interval '1 second'
FROM freescout_lease, (SELECT freescout_now() AS clock) c
""",
    """
DO $do$
DECLARE
    began timestamptz := freescout_now() - interval '5 minutes';
    after bigint := 0;
    tickets bigint[];
BEGIN
    LOOP
        SELECT array_agg(t.ticket_id), max(t.ticket_id) INTO tickets, after
        FROM (SELECT ticket_id FROM freescout_ticket WHERE ticket_id > after ORDER BY ticket_id LIMIT 10000) t;
        EXIT WHEN tickets IS NULL;
        PERFORM freescout_note_history(tickets);
    END LOOP;
    -- What was written meanwhile passed through the function of before. Whoever waits here finds the lease written,
    -- and tries again, with the new function.
    LOCK TABLE freescout_ticket IN SHARE ROW EXCLUSIVE MODE;
    SELECT array_agg(ticket_id) INTO tickets FROM freescout_ticket
    WHERE greatest(observed_at, touched_at, truth_until, disputed_at) >= began;
    IF tickets IS NOT NULL THEN
        PERFORM freescout_note_history(tickets);
    END IF;
    UPDATE freescout_lease SET lease_until = lease_until;
END $do$
""",
)


def upgrade() -> None:
    """Make the tables and functions, and begin with what is held."""
    for statement in STATEMENTS:
        op.execute(statement)
