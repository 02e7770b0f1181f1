"""What the last complete pass covered, and when everything was last read.

``covered_through`` keeps a claim that is older than the last complete pass from being believed when no poller is alive,
also after the desk's clock was set back; ``full_walk_at`` keeps a restart in the hour of the nightly reading from
skipping a night. Old code goes on as before: it neither reads nor writes the new columns.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add to what is there."""
    op.execute("ALTER TABLE freescout_lease ADD COLUMN covered_through timestamptz")
    op.execute("ALTER TABLE freescout_poller ADD COLUMN full_walk_at timestamptz")
