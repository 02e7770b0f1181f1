"""Gives most transitions their place in the feed as they are written, and gives none twice after a restore.

Code of the revision before goes on as before: it notes the history, and numbers, through these functions. What gets its
place at once is announced by processes of this revision.
"""

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE freescout_feed ADD COLUMN origin text",
    """
COMMENT ON COLUMN freescout_feed.origin
IS 'Which server, database and timeline numbered last: a restored one is another.'
""",
    """
DO $do$ BEGIN EXECUTE format($create$
    CREATE FUNCTION freescout_lock_feed(at_once boolean) RETURNS bigint
        LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, %1$I, pg_temp
    AS $body$
    #variable_conflict use_column
    DECLARE
        feed freescout_feed;
        here text := current_setting('freescout_audit.database', true);
    BEGIN
        IF coalesce(here, '') = '' THEN
            BEGIN
                SELECT concat_ws('/', s.system_identifier, d.oid) INTO here
                FROM pg_control_system() s, pg_database d WHERE d.datname = current_database();
                PERFORM pg_walfile_name(pg_current_wal_insert_lsn());
            EXCEPTION WHEN insufficient_privilege OR undefined_function OR feature_not_supported THEN
                -- A host may keep that to itself: then only reconcile --full --restored tells.
                here := 'not known';
            END;
            PERFORM set_config('freescout_audit.database', here, false);
        END IF;
        IF here <> 'not known' THEN
            here := here || '/' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8);
        END IF;
        IF at_once THEN
            SELECT * INTO feed FROM freescout_feed FOR UPDATE SKIP LOCKED;
        ELSE
            SELECT * INTO feed FROM freescout_feed FOR UPDATE;
        END IF;
        IF feed.last_id IS NULL THEN
            RETURN NULL;
        END IF;
        IF here IS DISTINCT FROM feed.origin THEN
            IF feed.origin IS NOT NULL THEN
                -- What was numbered after the backup is lost, and a reader may have had it: no number is given twice.
                feed.last_id := feed.last_id + 1000000000;
            END IF;
            UPDATE freescout_feed SET last_id = feed.last_id, origin = here;
        END IF;
        RETURN feed.last_id;
    END $body$
$create$, current_schema()); END $do$
""",
    "REVOKE ALL ON FUNCTION freescout_lock_feed(boolean) FROM PUBLIC",
    """
COMMENT ON FUNCTION freescout_lock_feed(boolean)
IS 'Locks the feed and returns its last number; at once or not at all (NULL), if so told; only our processes.'
""",
    "DROP FUNCTION freescout_note_history(bigint[])",
    """
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
            SELECT ticket_id, status, state, gone, updated_at IS NOT NULL AS is_dated, grace_until, expires_at,
                   updated_at, observed_via, disputed_at IS NULL AS is_settled,
                   CASE WHEN NOT gone AND state = 'published' AND status IS NOT NULL AND updated_at IS NOT NULL
                        THEN status ELSE 'none' END AS settles,
                   CASE WHEN gone THEN 'gone' WHEN state IS NULL OR status IS NULL OR updated_at IS NULL THEN 'unknown'
                        WHEN state <> 'published' THEN 'unpublished' END AS because
            FROM freescout_ticket WHERE ticket_id = ANY (tickets)
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
$create$, current_schema()); END $do$
""",
    "REVOKE ALL ON FUNCTION freescout_note_history(bigint[], boolean) FROM PUBLIC",
    """
COMMENT ON FUNCTION freescout_note_history(bigint[], boolean)
IS 'Notes what tickets answer from now on, where that has changed; only our processes.'
""",
    """
DO $do$ BEGIN EXECUTE format($create$
    CREATE OR REPLACE FUNCTION freescout_number_transitions(at_most int) RETURNS bigint
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
            -- Deliveries are committed at once, and hold the feed up no longer than that takes.
            PERFORM freescout_note_history(written, json_array_length(journal) > 0);
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
    CREATE OR REPLACE FUNCTION freescout_transitions(after bigint DEFAULT 0, at_most int DEFAULT 100)
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
$create$, current_schema()); END $do$
""",
    """
DO $do$ BEGIN EXECUTE format($create$
    CREATE OR REPLACE FUNCTION freescout_note_lease() RETURNS trigger
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
            -- It was renewed while our clock was ahead. The stretch before vouched until it was renewed last, and if
            -- that was meanwhile, it is not known until when.
            DELETE FROM freescout_lease_history WHERE began_at > clock;
            UPDATE freescout_lease_history
            SET until_at = CASE WHEN renewed_at <= clock THEN least(until_at, renewed_at) END,
                renewed_at = least(renewed_at, clock)
            WHERE began_at = (SELECT max(began_at) FROM freescout_lease_history);
            held := NULL;
        END IF;
        goes_on := coalesce(held.until_at >= clock AND until >= held.until_at AND held.longest = longest, false);
        IF goes_on AND held.began_at > clock - interval '1 hour' THEN
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
COMMENT ON TABLE freescout_lease_history
IS 'The lease as it was: a row for each stretch without a break, of an hour at the most.'
""",
    """
UPDATE freescout_history SET grace_until = 'epoch', expires_at = 'epoch' WHERE expires_at = '-infinity'
""",
)


def upgrade() -> None:
    """Replace the functions."""
    for statement in STATEMENTS:
        op.execute(statement)
