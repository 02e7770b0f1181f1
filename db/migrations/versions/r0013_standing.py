"""Keeps who leads until when, that push alone is meant, what requests were answered, and how receivers find it all.

Code of the revision before goes on as before: it elects its leader by an advisory lock, and writes nothing of this.
"""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
ALTER TABLE freescout_poller
    ADD COLUMN leader_session text,
    ADD COLUMN leads_until timestamptz,
    ADD COLUMN stepped_down_at timestamptz,
    ADD COLUMN retired_at timestamptz,
    ADD COLUMN desk_next_step text NOT NULL DEFAULT '',
    ADD COLUMN trouble text NOT NULL DEFAULT '',
    ADD COLUMN trouble_since timestamptz
""",
    """
COMMENT ON COLUMN freescout_poller.leader_session
IS 'The process that leads; it renews leads_until while it does.'
""",
    """
COMMENT ON COLUMN freescout_poller.leads_until IS 'No other process may lead before.'
""",
    """
COMMENT ON COLUMN freescout_poller.stepped_down_at IS 'When a poller ended that was told to.'
""",
    """
COMMENT ON COLUMN freescout_poller.retired_at
IS 'Since when an operator means push alone; NULL: a poller is expected.'
""",
    """
COMMENT ON COLUMN freescout_poller.trouble
IS 'What FreeScout does wrong for some tickets while its API answers; empty: nothing.'
""",
    """
CREATE TABLE freescout_answer (
    kind text PRIMARY KEY,
    answers bigint NOT NULL,
    first_at timestamptz NOT NULL,
    last_at timestamptz NOT NULL,
    key_fingerprint text
)
""",
    """
COMMENT ON TABLE freescout_answer
IS 'What requests were answered: one row a kind, written every ten seconds at the most.'
""",
    """
CREATE TABLE freescout_component (
    process text NOT NULL,
    name text NOT NULL,
    state text NOT NULL,
    detail text NOT NULL,
    next_step text NOT NULL,
    since timestamptz NOT NULL,
    seen_at timestamptz NOT NULL,
    CONSTRAINT freescout_component_pkey PRIMARY KEY (process, name)
)
""",
    """
COMMENT ON TABLE freescout_component IS 'How each receiver finds each part of the service, once a minute.'
""",
    """
COMMENT ON COLUMN freescout_answer.key_fingerprint IS 'Of kind verified: the key that was last seen to work.'
""",
)


def upgrade() -> None:
    """Add the columns and the tables."""
    for statement in STATEMENTS:
        op.execute(statement)
