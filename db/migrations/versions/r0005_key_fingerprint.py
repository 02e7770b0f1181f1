"""The journal names the key that signed a delivery, so that a rotation can be followed to its end.

Old code goes on as before: it writes no name, and reads none.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE freescout_delivery ADD COLUMN key_fingerprint text",
    """
COMMENT ON COLUMN freescout_delivery.key_fingerprint
IS 'Tells one key from another and says nothing else of it; NULL: written before there was such a name.'
""",
)


def upgrade() -> None:
    """Add to what is there."""
    for statement in STATEMENTS:
        op.execute(statement)
