"""Locks tickets without reading them, and drops a function that no code calls.

Code of revision 0008 goes on as before: of what `freescout_lock_tickets` returned it uses two columns, and those stay.
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

STATEMENTS = (
    "DROP FUNCTION IF EXISTS freescout_lock(bigint[], interval)",
    "DROP FUNCTION freescout_lock_tickets(bigint[], interval)",
    """
DO $do$ BEGIN EXECUTE format($create$
    CREATE FUNCTION freescout_lock_tickets(tickets bigint[], patience interval)
        RETURNS TABLE (ticket_id bigint, made boolean)
        LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, %1$I, pg_temp
    AS $body$
    #variable_conflict use_column
    BEGIN
        IF patience IS NOT NULL THEN
            PERFORM set_config('lock_timeout', ceil(1000 * extract(epoch FROM patience))::bigint::text, true);
        END IF;
        RETURN QUERY
        INSERT INTO freescout_ticket AS t (ticket_id)
        SELECT id FROM unnest(tickets) AS id ORDER BY id
        ON CONFLICT (ticket_id) DO UPDATE SET gone = t.gone WHERE false
        RETURNING t.ticket_id, true;
    END $body$
$create$, current_schema()); END $do$
""",
    "REVOKE ALL ON FUNCTION freescout_lock_tickets(bigint[], interval) FROM PUBLIC",
    """
COMMENT ON FUNCTION freescout_lock_tickets(bigint[], interval)
IS 'Locks tickets and returns those that had no row; only our processes.'
""",
)


def upgrade() -> None:
    """Drop what is not called, and take the new form of what is."""
    for statement in STATEMENTS:
        op.execute(statement)
