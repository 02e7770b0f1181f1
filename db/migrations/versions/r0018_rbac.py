"""Keeps the webhook of RV-4's path in a table of its own, beside the one of the audit path.

Code of the revision before goes on as before: it knows of one webhook, and reads and writes that one's table.
"""

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
CREATE TABLE freescout_webhook_rbac (
    only_row boolean DEFAULT true,
    webhook_id bigint,
    url text NOT NULL,
    events text[] NOT NULL,
    began_at timestamptz NOT NULL,
    registered_at timestamptz,
    removed_at timestamptz,
    PRIMARY KEY (only_row),
    CONSTRAINT freescout_webhook_rbac_only_row_check CHECK (only_row)
)
""",
    """
COMMENT ON TABLE freescout_webhook_rbac
IS 'The same of RV-4''s path.'
""",
    """
COMMENT ON COLUMN freescout_answer.key_fingerprint IS 'Of what was verified: the key that was last seen to work.'
""",
)


def upgrade() -> None:
    """Make the table."""
    for statement in STATEMENTS:
        op.execute(statement)
