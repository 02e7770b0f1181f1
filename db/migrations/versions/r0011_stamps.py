"""Lets stamps from our own future vouch for nothing, and keeps impossible dates out of the lease.

What stands there and is impossible is taken away first. Code of revision 0010 goes on as before: it does not say which
``cache.lease`` and ``cache.ttl`` are in force, so the longest that settings allow are taken for them.
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
UPDATE freescout_lease SET
    seen_through = CASE WHEN seen_through BETWEEN '2000-01-01Z' AND '2200-01-01Z' THEN seen_through END,
    complete_through = CASE WHEN complete_through BETWEEN '2000-01-01Z' AND '2200-01-01Z' THEN complete_through END,
    lease_until = CASE WHEN lease_until BETWEEN '2000-01-01Z' AND '2200-01-01Z' THEN lease_until END,
    renewed_by_pass = CASE WHEN renewed_by_pass BETWEEN '2000-01-01Z' AND '2200-01-01Z' THEN renewed_by_pass END,
    heartbeat_at = CASE WHEN heartbeat_at BETWEEN '2000-01-01Z' AND '2200-01-01Z' THEN heartbeat_at END,
    covered_through = CASE WHEN covered_through BETWEEN '2000-01-01Z' AND '2200-01-01Z' THEN covered_through END,
    set_back_through = CASE WHEN set_back_through BETWEEN '2000-01-01Z' AND '2200-01-01Z' THEN set_back_through END,
    set_back_at = CASE WHEN set_back_at BETWEEN '2000-01-01Z' AND '2200-01-01Z' THEN set_back_at END,
    clock_offset = CASE WHEN clock_offset BETWEEN '-31 days'::interval AND '31 days'::interval THEN clock_offset
                        ELSE '0'::interval END
""",
    """
UPDATE freescout_poller SET complete_offset = NULL
WHERE complete_offset NOT BETWEEN '-31 days'::interval AND '31 days'::interval
""",
    """
ALTER TABLE freescout_lease
    ADD COLUMN cache_lease double precision NOT NULL DEFAULT 86400,
    ADD COLUMN cache_ttl double precision NOT NULL DEFAULT 2592000,
    ADD CONSTRAINT freescout_lease_dates_check CHECK (
        seen_through BETWEEN '2000-01-01Z' AND '2200-01-01Z'
        AND complete_through BETWEEN '2000-01-01Z' AND '2200-01-01Z'
        AND lease_until BETWEEN '2000-01-01Z' AND '2200-01-01Z'
        AND renewed_by_pass BETWEEN '2000-01-01Z' AND '2200-01-01Z'
        AND heartbeat_at BETWEEN '2000-01-01Z' AND '2200-01-01Z'
        AND covered_through BETWEEN '2000-01-01Z' AND '2200-01-01Z'
        AND set_back_through BETWEEN '2000-01-01Z' AND '2200-01-01Z'
        AND set_back_at BETWEEN '2000-01-01Z' AND '2200-01-01Z'),
    ADD CONSTRAINT freescout_lease_clock_offset_check CHECK (
        clock_offset BETWEEN '-31 days'::interval AND '31 days'::interval)
""",
    """
COMMENT ON COLUMN freescout_lease.cache_lease IS 'The cache.lease in force, in seconds.'
""",
    """
COMMENT ON COLUMN freescout_lease.cache_ttl
IS 'The cache.ttl in force, in seconds: no row vouches for itself for longer than the longer of the two.'
""",
    """
CREATE OR REPLACE VIEW freescout_ticket_cache AS
SELECT t.ticket_id, t.number, t.mailbox_id, t.status, t.state, t.updated_at, t.observed_at, t.observed_via,
       CASE
           WHEN t.state IS DISTINCT FROM 'published' OR t.status IS NULL OR t.updated_at IS NULL
                OR greatest(t.observed_at, t.truth_at, t.disputed_at) > clock.soon
               THEN timestamptz 'epoch'
           ELSE least(
               greatest(
                   CASE WHEN t.expires_at <= clock.soon + greatest(l.cache_lease, l.cache_ttl) * interval '1 second'
                        THEN t.expires_at ELSE timestamptz 'epoch' END,
                   CASE WHEN (l.renewed_by_pass <= clock.soon) IS NOT FALSE THEN l.lease_until END),
               t.grace_until)
       END AS ttl_expires
FROM freescout_ticket t CROSS JOIN freescout_lease l
CROSS JOIN (SELECT freescout_now() + interval '1 second' AS soon) clock
WHERE NOT t.gone
""",
    """
DO $do$ BEGIN EXECUTE format($create$
    CREATE OR REPLACE FUNCTION freescout_ticket_state(ticket_id bigint) RETURNS text
        LANGUAGE plpgsql STABLE SECURITY DEFINER
    AS $body$
    #variable_conflict use_column
    DECLARE
        answer pg_catalog.text;
        clock pg_catalog.timestamptz := %1$I.freescout_now();
    BEGIN
        -- What the row's own time to live must not pass: infinity while the lease vouches, else what the terms allow.
        SELECT t.status INTO answer
        FROM %1$I.freescout_ticket t
        WHERE t.ticket_id OPERATOR(pg_catalog.=) $1 AND NOT t.gone AND t.state OPERATOR(pg_catalog.=) 'published'
          AND t.updated_at IS NOT NULL
          AND greatest(t.observed_at, t.truth_at, t.disputed_at)
              OPERATOR(pg_catalog.<=) (clock OPERATOR(pg_catalog.+) pg_catalog.interval '1 second')
          AND (t.grace_until IS NULL OR t.grace_until OPERATOR(pg_catalog.>) clock)
          AND CASE WHEN t.expires_at OPERATOR(pg_catalog.>) clock THEN t.expires_at
                   ELSE pg_catalog.timestamptz 'infinity' END
              OPERATOR(pg_catalog.<=) (
                  SELECT CASE
                      WHEN l.lease_until OPERATOR(pg_catalog.>) clock
                           AND (l.renewed_by_pass OPERATOR(pg_catalog.<=)
                                (clock OPERATOR(pg_catalog.+) pg_catalog.interval '1 second')) IS NOT FALSE
                          THEN pg_catalog.timestamptz 'infinity'
                      ELSE (clock OPERATOR(pg_catalog.+) pg_catalog.interval '1 second') OPERATOR(pg_catalog.+) (
                          greatest(l.cache_lease, l.cache_ttl)
                          OPERATOR(pg_catalog.*) pg_catalog.interval '1 second')
                  END
                  FROM %1$I.freescout_lease l);
        IF answer IS NULL THEN
            RETURN 'none';
        END IF;
        RETURN answer;
    END $body$
$create$, current_schema()); END $do$
""",
    "DROP FUNCTION freescout_read_tickets(bigint[])",
    """
DO $do$ BEGIN EXECUTE format($create$
    CREATE FUNCTION freescout_read_tickets(tickets bigint[],
        OUT now timestamptz, OUT seen_through timestamptz, OUT complete_through timestamptz,
        OUT covered_through timestamptz, OUT set_back_through timestamptz, OUT set_back_at timestamptz,
        OUT lease_until timestamptz, OUT renewed_by_pass timestamptz, OUT clock_offset interval,
        OUT heartbeat_at timestamptz, OUT cache_lease double precision, OUT cache_ttl double precision,
        OUT lease_version text, OUT rows json, OUT versions json)
        LANGUAGE plpgsql STABLE SET search_path = pg_catalog, %1$I, pg_temp SET enable_seqscan = off
        SET plan_cache_mode = force_generic_plan
    AS $body$
    #variable_conflict use_column
    BEGIN
        SELECT freescout_now(), l.seen_through, l.complete_through, l.covered_through, l.set_back_through,
               l.set_back_at, l.lease_until, l.renewed_by_pass, l.clock_offset, l.heartbeat_at,
               l.cache_lease, l.cache_ttl, l.xmin::text, t.rows, t.versions
        INTO now, seen_through, complete_through, covered_through, set_back_through,
             set_back_at, lease_until, renewed_by_pass, clock_offset, heartbeat_at, cache_lease, cache_ttl,
             lease_version, rows, versions
        FROM freescout_lease l CROSS JOIN (
            SELECT json_agg(t) AS rows, json_object_agg(t.ticket_id, t.xmin) AS versions
            FROM freescout_ticket t WHERE t.ticket_id = ANY (tickets)
        ) t;
    END $body$
$create$, current_schema()); END $do$
""",
    "REVOKE ALL ON FUNCTION freescout_read_tickets(bigint[]) FROM PUBLIC",
    """
COMMENT ON FUNCTION freescout_read_tickets(bigint[]) IS 'Reads tickets and the lease; only our processes.'
""",
)


def upgrade() -> None:
    """Check the lease's dates, and give readers what they are judged by."""
    for statement in STATEMENTS:
        op.execute(statement)
