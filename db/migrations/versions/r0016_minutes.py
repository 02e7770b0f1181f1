"""Keeps for seven days, a row a minute and process, what each process counted and found.

Code of the revision before goes on as before: it writes no such rows.
"""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
CREATE TABLE freescout_minute (
    process text,
    ended_at timestamptz,
    push text,
    pull text,
    desk text,
    database text,
    applied bigint NOT NULL DEFAULT 0,
    duplicate bigint NOT NULL DEFAULT 0,
    stale bigint NOT NULL DEFAULT 0,
    disputed bigint NOT NULL DEFAULT 0,
    unusable bigint NOT NULL DEFAULT 0,
    ignored bigint NOT NULL DEFAULT 0,
    refused bigint NOT NULL DEFAULT 0,
    passes bigint NOT NULL DEFAULT 0,
    failed_passes bigint NOT NULL DEFAULT 0,
    lags bigint[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (process, ended_at)
)
""",
    """
COMMENT ON TABLE freescout_minute
IS 'What each process counted and found, a row a minute, kept 7 days: the page draws a day of it.'
""",
    """
COMMENT ON COLUMN freescout_minute.push
IS 'The worst state that the process found within the minute; NULL: not known.'
""",
    """
COMMENT ON COLUMN freescout_minute.lags
IS 'How many changes took how long until they were known, by the bounds in db/minutes.py.'
""",
    "CREATE INDEX freescout_minute_ended_at ON freescout_minute (ended_at)",
)


def upgrade() -> None:
    """Make the table."""
    for statement in STATEMENTS:
        op.execute(statement)
