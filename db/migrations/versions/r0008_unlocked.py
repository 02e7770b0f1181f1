"""Two calls for a whole batch: one reads tickets without a lock, one writes them if they are as they were read.

Old code goes on as before: it locks what it reads, and what it writes has another version.
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# The rows travel as JSON, without what is as in a new row. So does what the write has to find unchanged: the
# transactions that wrote the lease and each row (xmin), which nobody but these two functions reads.
# The statements of a VOLATILE function see what was committed before each of them began: the lease is looked at when
# the rows are locked. Plans are made once, and never with a sequential scan: one that was made for a small table would
# be kept while a first load fills it.
STATEMENTS = (
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
    "COMMENT ON FUNCTION freescout_read_tickets(bigint[]) IS 'Reads tickets and the lease; only our processes.'",
    """
COMMENT ON FUNCTION freescout_write_tickets(json, jsonb, text, json, interval)
IS 'Writes tickets and journal if nobody wrote them since they were read; only our processes.'
""",
)


def upgrade() -> None:
    """Add to what is there."""
    for statement in STATEMENTS:
        op.execute(statement)
