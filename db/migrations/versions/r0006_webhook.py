"""The webhook that is registered at the desk: FreeScout 1.0.82 cannot list its webhooks, so we remember its id.

Old code goes on as before: it does not know the table.
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

STATEMENTS = (
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
    "COMMENT ON TABLE freescout_webhook IS 'What is registered at the desk; without an id nobody knows whether it is.'",
)


def upgrade() -> None:
    """Add to what is there."""
    for statement in STATEMENTS:
        op.execute(statement)
