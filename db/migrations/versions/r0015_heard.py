"""Notes when the desk last answered, and when it last answered a peek; the gaps of a day are found by an index.

Code of the revision before goes on as before: it leaves the new columns empty.
"""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
ALTER TABLE freescout_poller
    ADD COLUMN desk_answered_at timestamptz,
    ADD COLUMN peeked_at timestamptz
""",
    """
COMMENT ON COLUMN freescout_poller.desk_answered_at
IS 'When FreeScout last gave an answer that counts, as of the last heartbeat.'
""",
    "COMMENT ON COLUMN freescout_poller.peeked_at IS 'When it last answered a peek, as of the last heartbeat.'",
    "CREATE INDEX freescout_gap_healed_at ON freescout_gap (healed_at)",
)


def upgrade() -> None:
    """Add the columns and the index."""
    for statement in STATEMENTS:
        op.execute(statement)
