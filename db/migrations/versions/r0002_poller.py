"""What the poller keeps: its standing, the first load's cursor, and indexes to count living tickets by creation.

Old code goes on as before: nothing it reads or writes has changed.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATEMENTS = (
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
    silent_since timestamptz
)
""",
    "INSERT INTO freescout_poller DEFAULT VALUES",
    "COMMENT ON TABLE freescout_poller IS 'What the poller reports; the receiver shows it.'",
    "CREATE INDEX freescout_ticket_created_at ON freescout_ticket (created_at, ticket_id) WHERE NOT gone",
    "CREATE INDEX freescout_ticket_mailbox ON freescout_ticket (mailbox_id, created_at) WHERE NOT gone",
)


def upgrade() -> None:
    """Add to what is there."""
    for statement in STATEMENTS:
        op.execute(statement)
