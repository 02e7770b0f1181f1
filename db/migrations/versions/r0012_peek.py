"""Keeps when the latest pass began to read, and what a peek found until it is known whether its delivery comes.

Code of the revision before goes on as before: it leaves the new columns empty, and writes none of the new verdicts.
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE freescout_lease ADD COLUMN begun_by_pass timestamptz",
    """
COMMENT ON COLUMN freescout_lease.begun_by_pass
IS 'Our clock when the latest pass asked first: an earlier read says nothing of who it does not list.'
""",
    "ALTER TABLE freescout_gap ADD COLUMN cached_updated_at timestamptz",
    """
COMMENT ON COLUMN freescout_gap.cached_updated_at IS 'The date, by FreeScout, of what was held before.'
""",
    "ALTER TABLE freescout_gap DROP CONSTRAINT freescout_gap_verdict_check",
    """
ALTER TABLE freescout_gap ADD CONSTRAINT freescout_gap_verdict_check
CHECK (verdict IN ('peeked', 'waiting', 'raced', 'late', 'lost', 'never_sent'))
""",
    "COMMENT ON TABLE freescout_gap IS 'Changes that the poller found before any delivery told of them.'",
    "CREATE INDEX freescout_gap_peeked ON freescout_gap (healed_at) WHERE verdict = 'peeked'",
    # It returns a column more, which nothing but a new function can.
    "DROP FUNCTION freescout_read_tickets(bigint[])",
    """
DO $do$ BEGIN EXECUTE format($create$
    CREATE FUNCTION freescout_read_tickets(tickets bigint[],
        OUT now timestamptz, OUT seen_through timestamptz, OUT complete_through timestamptz,
        OUT covered_through timestamptz, OUT set_back_through timestamptz, OUT set_back_at timestamptz,
        OUT lease_until timestamptz, OUT renewed_by_pass timestamptz, OUT clock_offset interval,
        OUT heartbeat_at timestamptz, OUT cache_lease double precision, OUT cache_ttl double precision,
        OUT begun_by_pass timestamptz, OUT lease_version text, OUT rows json, OUT versions json)
        LANGUAGE plpgsql STABLE SET search_path = pg_catalog, %1$I, pg_temp SET enable_seqscan = off
        SET plan_cache_mode = force_generic_plan
    AS $body$
    #variable_conflict use_column
    BEGIN
        SELECT freescout_now(), l.seen_through, l.complete_through, l.covered_through, l.set_back_through,
               l.set_back_at, l.lease_until, l.renewed_by_pass, l.clock_offset, l.heartbeat_at,
               l.cache_lease, l.cache_ttl, l.begun_by_pass, l.xmin::text, t.rows, t.versions
        INTO now, seen_through, complete_through, covered_through, set_back_through,
             set_back_at, lease_until, renewed_by_pass, clock_offset, heartbeat_at, cache_lease, cache_ttl,
             begun_by_pass, lease_version, rows, versions
        FROM freescout_lease l CROSS JOIN (
            SELECT json_agg(t) AS rows, json_object_agg(t.ticket_id, t.xmin) AS versions
            FROM freescout_ticket t WHERE t.ticket_id = ANY (tickets)
        ) t;
    END $body$
$create$, current_schema()); END $do$
""",
    "REVOKE ALL ON FUNCTION freescout_read_tickets(bigint[]) FROM PUBLIC",
    """
COMMENT ON FUNCTION freescout_read_tickets(bigint[]) IS 'Reads tickets and the lease; only our processes.'
""",
    """
COMMENT ON TABLE freescout_webhook
IS 'What is registered at the desk; without an id it is not known whether it is.'
""",
    """
COMMENT ON FUNCTION freescout_write_tickets(json, jsonb, text, json, interval)
IS 'Writes tickets and journal if they are as they were read; only our processes.'
""",
)


def upgrade() -> None:
    """Add the columns and verdicts, and read the one of the lease."""
    for statement in STATEMENTS:
        op.execute(statement)
