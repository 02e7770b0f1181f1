"""One call that locks tickets and reads them with the lease, and a cheaper answer for applications.

Old code goes on as before: it calls neither the new function nor notices how the other one is written.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# The statements of a VOLATILE function see what was committed before each of them began: the first takes the locks,
# in id order, and the last reads rows, lease and clock as they are once all locks are held. Sequential scans are off
# because a plan made for a small table would be kept while a first load fills it.
LOCK = (
    """
DO $do$ BEGIN EXECUTE format($create$
    CREATE FUNCTION freescout_lock(tickets bigint[], patience interval) RETURNS TABLE (
        now timestamptz, seen_through timestamptz, complete_through timestamptz, covered_through timestamptz,
        lease_until timestamptz, renewed_by_pass timestamptz, clock_offset interval, heartbeat_at timestamptz,
        made boolean,
        ticket_id bigint, number bigint, mailbox_id bigint, status text, state text, updated_at timestamptz,
        created_at timestamptz, gone boolean, observed_at timestamptz, observed_via text, expires_at timestamptz,
        touched_at timestamptz, truth_at timestamptz, disputed_at timestamptz, grace_until timestamptz)
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
        SELECT freescout_now(), l.seen_through, l.complete_through, l.covered_through, l.lease_until,
               l.renewed_by_pass, l.clock_offset, l.heartbeat_at, coalesce(t.ticket_id = ANY (new_ones), false),
               t.ticket_id, t.number, t.mailbox_id, t.status, t.state, t.updated_at, t.created_at, t.gone,
               t.observed_at, t.observed_via, t.expires_at, t.touched_at, t.truth_at, t.disputed_at, t.grace_until
        FROM freescout_lease l LEFT JOIN freescout_ticket t ON t.ticket_id = ANY (tickets);
    END $body$
$create$, current_schema()); END $do$
""",
    "REVOKE ALL ON FUNCTION freescout_lock(bigint[], interval) FROM PUBLIC",
    "COMMENT ON FUNCTION freescout_lock(bigint[], interval) IS 'Locks tickets and reads them; only our processes.'",
)


# The view's condition, taken apart so that the lease is only looked at when the row does not vouch for itself. Every
# name says its schema, operators too: nobody's search_path can bend it, and none has to be set for each call.
STATE = (
    """
DO $do$ BEGIN EXECUTE format($create$
    CREATE OR REPLACE FUNCTION freescout_ticket_state(ticket_id bigint) RETURNS text
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
)


def upgrade() -> None:
    """Add to what is there."""
    for statement in LOCK + STATE:
        op.execute(statement)
