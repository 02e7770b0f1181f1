"""Keeps an impossible date out of the lease's ``begun_by_pass`` too, which is taken away where it stands.

Code of the revision before goes on as before: it writes no such date.
"""

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
UPDATE freescout_lease SET begun_by_pass = NULL WHERE begun_by_pass NOT BETWEEN '2000-01-01Z' AND '2200-01-01Z'
""",
    """
ALTER TABLE freescout_lease
    DROP CONSTRAINT IF EXISTS freescout_lease_dates_check,
    ADD CONSTRAINT freescout_lease_dates_check CHECK (
        seen_through BETWEEN '2000-01-01Z' AND '2200-01-01Z'
        AND complete_through BETWEEN '2000-01-01Z' AND '2200-01-01Z'
        AND lease_until BETWEEN '2000-01-01Z' AND '2200-01-01Z'
        AND renewed_by_pass BETWEEN '2000-01-01Z' AND '2200-01-01Z'
        AND heartbeat_at BETWEEN '2000-01-01Z' AND '2200-01-01Z'
        AND covered_through BETWEEN '2000-01-01Z' AND '2200-01-01Z'
        AND set_back_through BETWEEN '2000-01-01Z' AND '2200-01-01Z'
        AND set_back_at BETWEEN '2000-01-01Z' AND '2200-01-01Z'
        AND begun_by_pass BETWEEN '2000-01-01Z' AND '2200-01-01Z'
    )
""",
)


def upgrade() -> None:
    """Replace the constraint."""
    for statement in STATEMENTS:
        op.execute(statement)
