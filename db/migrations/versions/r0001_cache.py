"""The cache, its lease, the journal and the gaps.

Everything readers use (the view, the function) is made last, over tables that only our own processes touch.
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

CLOCK = (
    """
CREATE FUNCTION freescout_now() RETURNS timestamptz
    LANGUAGE sql VOLATILE PARALLEL SAFE
    RETURN clock_timestamp()
""",
    "COMMENT ON FUNCTION freescout_now() IS 'Our one clock; a simulation replaces it.'",
)

TICKET = (
    """
CREATE TABLE freescout_ticket (
    ticket_id    bigint PRIMARY KEY,
    number       bigint,
    mailbox_id   bigint,
    status       text CHECK (status IN ('active', 'pending', 'closed', 'spam')),
    state        text CHECK (state IN ('draft', 'published', 'deleted')),
    updated_at   timestamptz,
    created_at   timestamptz,
    gone         boolean NOT NULL DEFAULT true,
    observed_at  timestamptz NOT NULL DEFAULT 'epoch',
    observed_via text NOT NULL DEFAULT 'webhook' CHECK (observed_via IN ('webhook', 'poller')),
    expires_at   timestamptz NOT NULL DEFAULT 'epoch',
    touched_at   timestamptz,
    truth_at     timestamptz,
    disputed_at  timestamptz,
    grace_until  timestamptz,
    CHECK ((disputed_at IS NULL) = (grace_until IS NULL))
) WITH (fillfactor = 85)
""",
    "CREATE INDEX freescout_ticket_updated_at ON freescout_ticket (updated_at) WHERE NOT gone",
    """
CREATE INDEX freescout_ticket_disputed ON freescout_ticket (touched_at DESC NULLS LAST) WHERE disputed_at IS NOT NULL
""",
    "COMMENT ON TABLE freescout_ticket IS 'One row a ticket, written under the rule; readers use the view.'",
)

LEASE = (
    """
CREATE TABLE freescout_lease (
    only_row         boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    seen_through     timestamptz,
    complete_through timestamptz,
    lease_until      timestamptz,
    renewed_by_pass  timestamptz,
    clock_offset     interval NOT NULL DEFAULT interval '0',
    heartbeat_at     timestamptz,
    desk_url         text
)
""",
    "INSERT INTO freescout_lease DEFAULT VALUES",
    "COMMENT ON TABLE freescout_lease IS 'What the passes vouch for, for every ticket at once.'",
)

JOURNAL = (
    """
CREATE TABLE freescout_delivery (
    delivery_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    received_at timestamptz NOT NULL,
    endpoint    text NOT NULL,
    event       text NOT NULL,
    ticket_id   bigint,
    outcome     text NOT NULL,
    reason      text NOT NULL,
    status      text,
    state       text,
    updated_at  timestamptz,
    body_bytes  bigint NOT NULL,
    body_ms     double precision NOT NULL,
    signed_with text NOT NULL,
    request_id  text
)
""",
    "CREATE INDEX freescout_delivery_ticket ON freescout_delivery (ticket_id, delivery_id)",
    "CREATE INDEX freescout_delivery_received_at ON freescout_delivery (received_at)",
    "COMMENT ON TABLE freescout_delivery IS 'The journal: one row a verified delivery, kept journal.keep seconds.'",
)

GAP = (
    """
CREATE TABLE freescout_gap (
    gap_id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ticket_id     bigint NOT NULL,
    cached_status text,
    cached_state  text,
    true_status   text,
    true_state    text,
    changed_at    timestamptz,
    healed_at     timestamptz NOT NULL,
    verdict       text NOT NULL DEFAULT 'waiting' CHECK (verdict IN ('waiting', 'raced', 'late', 'lost')),
    settled_at    timestamptz,
    late_by       interval
)
""",
    "CREATE INDEX freescout_gap_ticket ON freescout_gap (ticket_id, gap_id)",
    "CREATE INDEX freescout_gap_waiting ON freescout_gap (healed_at) WHERE verdict = 'waiting'",
    "COMMENT ON TABLE freescout_gap IS 'Changes that a pass found before any delivery told of them.'",
)

# A row that never reads as anything but none shows the epoch, so that readers who only compare ttl_expires are safe.
CACHE = (
    """
CREATE VIEW freescout_ticket_cache AS
SELECT t.ticket_id, t.number, t.mailbox_id, t.status, t.state, t.updated_at, t.observed_at, t.observed_via,
       CASE
           WHEN t.state IS DISTINCT FROM 'published' OR t.status IS NULL OR t.updated_at IS NULL
               THEN timestamptz 'epoch'
           ELSE least(greatest(t.expires_at, l.lease_until), t.grace_until)
       END AS ttl_expires
FROM freescout_ticket t CROSS JOIN freescout_lease l
WHERE NOT t.gone
""",
    "COMMENT ON VIEW freescout_ticket_cache IS 'What everybody reads; a row whose ttl_expires is past reads none.'",
)

# SECURITY DEFINER with a pinned search_path, so that a role with nothing but EXECUTE can call it, and cannot bend it.
STATE = (
    """
DO $do$ BEGIN EXECUTE format($create$
    CREATE FUNCTION freescout_ticket_state(ticket_id bigint) RETURNS text
        LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, %1$I, pg_temp
    AS $body$
    #variable_conflict use_column
    DECLARE answer text;
    BEGIN
        SELECT status INTO answer
        FROM freescout_ticket_cache
        WHERE ticket_id = $1 AND ttl_expires > freescout_now();
        RETURN coalesce(answer, 'none');
    END $body$
$create$, current_schema()); END $do$
""",
    "REVOKE ALL ON FUNCTION freescout_ticket_state(bigint) FROM PUBLIC",
    "COMMENT ON FUNCTION freescout_ticket_state(bigint) IS 'active, pending, closed, spam; none when in doubt.'",
)


def upgrade() -> None:
    """Make everything; there is nothing older."""
    for statement in CLOCK + TICKET + LEASE + JOURNAL + GAP + CACHE + STATE:
        op.execute(statement)
