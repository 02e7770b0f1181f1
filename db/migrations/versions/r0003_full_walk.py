"""When everything was last read, so that a restart in the hour of the nightly reading does not skip a night.

Old code goes on as before: it neither reads nor writes the new column.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add to what is there."""
    op.execute("ALTER TABLE freescout_poller ADD COLUMN full_walk_at timestamptz")
