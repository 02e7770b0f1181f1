"""What was not believed once is remembered, when a read was over, and when the desk's clock was set back.

Old code goes on as before: it calls the function of revision 0004, and leaves the columns as they are.
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

STATEMENTS = (
    # Both at once, and in the order in which deliveries and the function that applications call lock them.
    "LOCK TABLE freescout_ticket, freescout_lease IN ACCESS EXCLUSIVE MODE",
    "ALTER TABLE freescout_ticket ADD COLUMN doubted_through timestamptz",
    """
COMMENT ON COLUMN freescout_ticket.doubted_through
IS 'The latest date, by FreeScout, of a delivery that was not believed: sent once more, it is no better.'
""",
    "ALTER TABLE freescout_ticket ADD COLUMN truth_until timestamptz",
    "COMMENT ON COLUMN freescout_ticket.truth_until IS 'When the last truth was written: it was read before.'",
    "ALTER TABLE freescout_lease ADD COLUMN set_back_through timestamptz",
    "ALTER TABLE freescout_lease ADD COLUMN set_back_at timestamptz",
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


def upgrade() -> None:
    """Add to what is there."""
    for statement in STATEMENTS:
        op.execute(statement)
