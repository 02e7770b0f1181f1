"""The whole schema of the first release: cache, lease, journal, gaps, webhook, and the functions over them.

A database that says 0008 already has all of it. It spells everything out: it must stay what it is, whatever
`db/schema.py` becomes.
"""

from alembic import op

revision = "0008"
down_revision = None
branch_labels = None
depends_on = None

CLOCK = (
    """
CREATE FUNCTION freescout_now() RETURNS timestamptz
    LANGUAGE sql VOLATILE PARALLEL SAFE
    RETURN clock_timestamp()
""",
    "COMMENT ON FUNCTION freescout_now() IS 'Our one clock; a simulation replaces it.'",
)

TICKET = (
    """
CREATE TABLE freescout_ticket (
    ticket_id    bigint PRIMARY KEY,
    number       bigint,
    mailbox_id   bigint,
    status       text CHECK (status IN ('active', 'pending', 'closed', 'spam')),
    state        text CHECK (state IN ('draft', 'published', 'deleted')),
    updated_at   timestamptz,
    created_at   timestamptz,
    gone         boolean NOT NULL DEFAULT true,
    observed_at  timestamptz NOT NULL DEFAULT 'epoch',
    observed_via text NOT NULL DEFAULT 'webhook' CHECK (observed_via IN ('webhook', 'poller')),
    expires_at   timestamptz NOT NULL DEFAULT 'epoch',
    touched_at   timestamptz,
    truth_at     timestamptz,
    disputed_at  timestamptz,
    grace_until  timestamptz,
    doubted_through timestamptz,
    truth_until  timestamptz,
    CHECK ((disputed_at IS NULL) = (grace_until IS NULL))
) WITH (fillfactor = 85)
""",
    """
COMMENT ON COLUMN freescout_ticket.doubted_through
IS 'The latest date, by FreeScout, of a delivery that was not believed: sent once more, it is no better.'
""",
    """
COMMENT ON COLUMN freescout_ticket.truth_until IS 'When the last truth was written: it was read before.'
""",
    "CREATE INDEX freescout_ticket_updated_at ON freescout_ticket (updated_at) WHERE NOT gone",
    "CREATE INDEX freescout_ticket_created_at ON freescout_ticket (created_at, ticket_id) WHERE NOT gone",
    "CREATE INDEX freescout_ticket_mailbox ON freescout_ticket (mailbox_id, created_at) WHERE NOT gone",
    """
CREATE INDEX freescout_ticket_disputed ON freescout_ticket (touched_at DESC NULLS LAST) WHERE disputed_at IS NOT NULL
""",
    """
COMMENT ON TABLE freescout_ticket IS 'One row a ticket, written under the rule; readers use the view.'
""",
)

LEASE = (
    """
CREATE TABLE freescout_lease (
    only_row         boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    seen_through     timestamptz,
    complete_through timestamptz,
    lease_until      timestamptz,
    renewed_by_pass  timestamptz,
    clock_offset     interval NOT NULL DEFAULT interval '0',
    heartbeat_at     timestamptz,
    desk_url         text,
    covered_through  timestamptz,
    set_back_through timestamptz,
    set_back_at      timestamptz
)
""",
    "INSERT INTO freescout_lease DEFAULT VALUES",
    "COMMENT ON TABLE freescout_lease IS 'What the passes vouch for, for every ticket at once.'",
)

POLLER = (
    """
CREATE TABLE freescout_poller (
    only_row     boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    leader       text,
    led_since    timestamptz,
    load_cursor  timestamptz,
    load_began   timestamptz,
    passed_at    timestamptz,
    pass_seconds double precision,
    pass_rows    bigint,
    pass_requests bigint,
    complete_offset interval,
    desk_state   text NOT NULL DEFAULT 'unknown' CHECK (desk_state IN ('unknown', 'ok', 'refused', 'unavailable')),
    desk_detail  text NOT NULL DEFAULT '',
    desk_since   timestamptz,
    silent_since timestamptz,
    full_walk_at timestamptz
)
""",
    "INSERT INTO freescout_poller DEFAULT VALUES",
    "COMMENT ON TABLE freescout_poller IS 'What the poller reports; the receiver shows it.'",
)

JOURNAL = (
    """
CREATE TABLE freescout_delivery (
    delivery_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    received_at timestamptz NOT NULL,
    endpoint    text NOT NULL,
    event       text NOT NULL,
    ticket_id   bigint,
    outcome     text NOT NULL,
    reason      text NOT NULL,
    status      text,
    state       text,
    updated_at  timestamptz,
    body_bytes  bigint NOT NULL,
    body_ms     double precision NOT NULL,
    signed_with text NOT NULL,
    request_id  text,
    key_fingerprint text
)
""",
    """
COMMENT ON COLUMN freescout_delivery.key_fingerprint
IS 'Tells one key from another and says nothing else of it; NULL: written before there was such a name.'
""",
    "CREATE INDEX freescout_delivery_ticket ON freescout_delivery (ticket_id, delivery_id)",
    "CREATE INDEX freescout_delivery_received_at ON freescout_delivery (received_at)",
    """
COMMENT ON TABLE freescout_delivery IS 'The journal: one row a verified delivery, kept journal.keep seconds.'
""",
)

GAP = (
    """
CREATE TABLE freescout_gap (
    gap_id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ticket_id     bigint NOT NULL,
    cached_status text,
    cached_state  text,
    true_status   text,
    true_state    text,
    changed_at    timestamptz,
    healed_at     timestamptz NOT NULL,
    verdict       text NOT NULL DEFAULT 'waiting' CHECK (verdict IN ('waiting', 'raced', 'late', 'lost')),
    settled_at    timestamptz,
    late_by       interval
)
""",
    "CREATE INDEX freescout_gap_ticket ON freescout_gap (ticket_id, gap_id)",
    "CREATE INDEX freescout_gap_waiting ON freescout_gap (healed_at) WHERE verdict = 'waiting'",
    "COMMENT ON TABLE freescout_gap IS 'Changes that a pass found before any delivery told of them.'",
)

WEBHOOK = (
    """
CREATE TABLE freescout_webhook (
    only_row      boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    webhook_id    bigint,
    url           text NOT NULL,
    events        text[] NOT NULL,
    began_at      timestamptz NOT NULL,
    registered_at timestamptz,
    removed_at    timestamptz
)
""",
    """
COMMENT ON TABLE freescout_webhook IS 'What is registered at the desk; without an id nobody knows whether it is.'
""",
)

# A row that never reads as anything but none shows the epoch, so that readers who only compare ttl_expires are safe.
CACHE = (
    """
CREATE VIEW freescout_ticket_cache AS
SELECT t.ticket_id, t.number, t.mailbox_id, t.status, t.state, t.updated_at, t.observed_at, t.observed_via,
       CASE
           WHEN t.state IS DISTINCT FROM 'published' OR t.status IS NULL OR t.updated_at IS NULL
               THEN timestamptz 'epoch'
           ELSE least(greatest(t.expires_at, l.lease_until), t.grace_until)
       END AS ttl_expires
FROM freescout_ticket t CROSS JOIN freescout_lease l
WHERE NOT t.gone
""",
    """
COMMENT ON VIEW freescout_ticket_cache IS 'What everybody reads; a row whose ttl_expires is past reads none.'
""",
)

# The view's condition, taken apart so that the lease is only looked at when the row does not vouch for itself. Every
# name says its schema, operators too: no search_path can bend it, and none has to be set for each call.
STATE = (
    """
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
$create$, current_schema()); END $do$
""",
    "REVOKE ALL ON FUNCTION freescout_ticket_state(bigint) FROM PUBLIC",
    """
COMMENT ON FUNCTION freescout_ticket_state(bigint) IS 'active, pending, closed, spam; none when in doubt.'
""",
)

LOCK = (
    """
DO $do$ BEGIN EXECUTE format($create$
    CREATE FUNCTION freescout_lock_tickets(tickets bigint[], patience interval) RETURNS TABLE (
        now timestamptz, seen_through timestamptz, complete_through timestamptz, covered_through timestamptz,
        set_back_through timestamptz, set_back_at timestamptz,
        lease_until timestamptz, renewed_by_pass timestamptz, clock_offset interval, heartbeat_at timestamptz,
        made boolean,
        ticket_id bigint, number bigint, mailbox_id bigint, status text, state text, updated_at timestamptz,
        created_at timestamptz, gone boolean, observed_at timestamptz, observed_via text, expires_at timestamptz,
        touched_at timestamptz, truth_at timestamptz, disputed_at timestamptz, grace_until timestamptz,
        truth_until timestamptz, doubted_through timestamptz)
        LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, %1$I, pg_temp SET enable_seqscan = off
    AS $body$
    #variable_conflict use_column
    DECLARE new_ones bigint[];
    BEGIN
        IF patience IS NOT NULL THEN
            PERFORM set_config('lock_timeout', ceil(1000 * extract(epoch FROM patience))::bigint::text, true);
        END IF;
        WITH made AS (
            INSERT INTO freescout_ticket AS t (ticket_id)
            SELECT id FROM unnest(tickets) AS id ORDER BY id
            ON CONFLICT (ticket_id) DO UPDATE SET gone = t.gone WHERE false
            RETURNING ticket_id
        )
        SELECT array_agg(ticket_id) INTO new_ones FROM made;
        RETURN QUERY
        SELECT freescout_now(), l.seen_through, l.complete_through, l.covered_through,
               l.set_back_through, l.set_back_at, l.lease_until,
               l.renewed_by_pass, l.clock_offset, l.heartbeat_at, coalesce(t.ticket_id = ANY (new_ones), false),
               t.ticket_id, t.number, t.mailbox_id, t.status, t.state, t.updated_at, t.created_at, t.gone,
               t.observed_at, t.observed_via, t.expires_at, t.touched_at, t.truth_at, t.disputed_at, t.grace_until,
               t.truth_until, t.doubted_through
        FROM freescout_lease l LEFT JOIN freescout_ticket t ON t.ticket_id = ANY (tickets);
    END $body$
$create$, current_schema()); END $do$
""",
    "REVOKE ALL ON FUNCTION freescout_lock_tickets(bigint[], interval) FROM PUBLIC",
    """
COMMENT ON FUNCTION freescout_lock_tickets(bigint[], interval)
IS 'Locks tickets and reads them; only our processes.'
""",
)

# The rows travel as JSON, without what is as in a new row. So does what the write has to find unchanged: the
# transactions that wrote the lease and each row (xmin), which only these two functions read. The statements of a
# VOLATILE function see what was committed before each of them began: the lease is looked at when the rows are locked.
# Plans are made once, and never with a sequential scan: one made for a small table would be kept while a first load
# fills it.
BATCH = (
    """
DO $do$ BEGIN EXECUTE format($create$
    CREATE FUNCTION freescout_read_tickets(tickets bigint[],
        OUT now timestamptz, OUT seen_through timestamptz, OUT complete_through timestamptz,
        OUT covered_through timestamptz, OUT set_back_through timestamptz, OUT set_back_at timestamptz,
        OUT lease_until timestamptz, OUT renewed_by_pass timestamptz, OUT clock_offset interval,
        OUT heartbeat_at timestamptz, OUT lease_version text, OUT rows json, OUT versions json)
        LANGUAGE plpgsql STABLE SET search_path = pg_catalog, %1$I, pg_temp SET enable_seqscan = off
        SET plan_cache_mode = force_generic_plan
    AS $body$
    #variable_conflict use_column
    BEGIN
        SELECT freescout_now(), l.seen_through, l.complete_through, l.covered_through, l.set_back_through,
               l.set_back_at, l.lease_until, l.renewed_by_pass, l.clock_offset, l.heartbeat_at,
               l.xmin::text, t.rows, t.versions
        INTO now, seen_through, complete_through, covered_through, set_back_through,
             set_back_at, lease_until, renewed_by_pass, clock_offset, heartbeat_at, lease_version, rows, versions
        FROM freescout_lease l CROSS JOIN (
            SELECT json_agg(t) AS rows, json_object_agg(t.ticket_id, t.xmin) AS versions
            FROM freescout_ticket t WHERE t.ticket_id = ANY (tickets)
        ) t;
    END $body$
$create$, current_schema()); END $do$
""",
    """
DO $do$ BEGIN EXECUTE format($create$
    CREATE FUNCTION freescout_write_tickets(rows json, versions jsonb, lease_version text, journal json,
                                            patience interval) RETURNS void
        LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, %1$I, pg_temp SET enable_seqscan = off
        SET plan_cache_mode = force_generic_plan
    AS $body$
    #variable_conflict use_column
    DECLARE written bigint;
    BEGIN
        IF patience IS NOT NULL THEN
            PERFORM set_config('lock_timeout', ceil(1000 * extract(epoch FROM patience))::bigint::text, true);
        END IF;
        INSERT INTO freescout_ticket AS t (
            ticket_id, status, state, updated_at, number, mailbox_id, created_at, gone, observed_at, observed_via,
            expires_at, touched_at, truth_at, disputed_at, grace_until, truth_until, doubted_through)
        SELECT ticket_id, status, state, updated_at, number, mailbox_id, created_at, coalesce(gone, true), observed_at,
               observed_via, expires_at, touched_at, truth_at, disputed_at, grace_until, truth_until, doubted_through
        FROM json_populate_recordset(NULL::freescout_ticket, rows)
        ON CONFLICT (ticket_id) DO UPDATE
        SET (status, state, updated_at, number, mailbox_id, created_at, gone, observed_at, observed_via, expires_at,
             touched_at, truth_at, disputed_at, grace_until, truth_until, doubted_through)
          = (excluded.status, excluded.state, excluded.updated_at, excluded.number, excluded.mailbox_id,
             excluded.created_at, excluded.gone, excluded.observed_at, excluded.observed_via, excluded.expires_at,
             excluded.touched_at, excluded.truth_at, excluded.disputed_at, excluded.grace_until,
             excluded.truth_until, excluded.doubted_through)
        WHERE t.xmin::text = versions ->> t.ticket_id::text;
        GET DIAGNOSTICS written = ROW_COUNT;
        IF written <> json_array_length(rows) THEN
            RAISE EXCEPTION USING ERRCODE = 'serialization_failure', MESSAGE = 'a ticket was written meanwhile';
        END IF;
        IF lease_version <> (SELECT l.xmin::text FROM freescout_lease l) THEN
            RAISE EXCEPTION USING ERRCODE = 'serialization_failure', MESSAGE = 'the lease was written meanwhile';
        END IF;
        INSERT INTO freescout_delivery (
            received_at, endpoint, event, ticket_id, outcome, reason, status, state, updated_at, body_bytes, body_ms,
            signed_with, request_id, key_fingerprint)
        SELECT received_at, endpoint, event, ticket_id, outcome, reason, status, state, updated_at, body_bytes, body_ms,
               signed_with, request_id, key_fingerprint
        FROM json_populate_recordset(NULL::freescout_delivery, journal);
    END $body$
$create$, current_schema()); END $do$
""",
    "REVOKE ALL ON FUNCTION freescout_read_tickets(bigint[]) FROM PUBLIC",
    "REVOKE ALL ON FUNCTION freescout_write_tickets(json, jsonb, text, json, interval) FROM PUBLIC",
    """
COMMENT ON FUNCTION freescout_read_tickets(bigint[]) IS 'Reads tickets and the lease; only our processes.'
""",
    """
COMMENT ON FUNCTION freescout_write_tickets(json, jsonb, text, json, interval)
IS 'Writes tickets and journal if nobody wrote them since they were read; only our processes.'
""",
)


def upgrade() -> None:
    """Make everything; there is nothing older."""
    for statement in CLOCK + TICKET + LEASE + POLLER + JOURNAL + GAP + WEBHOOK + CACHE + STATE + LOCK + BATCH:
        op.execute(statement)
