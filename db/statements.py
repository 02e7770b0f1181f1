"""Every statement of the write path and the read path, named and described."""

READ_TICKETS = "SELECT * FROM freescout_read_tickets($1::bigint[])"
"""Read what a batch is judged by: our clock, the lease, and the rows as JSON, those of `freescout_audit.rule.Row`; and
as ``versions`` and ``lease_version`` what `WRITE_TICKETS` has to find unchanged.

All of one snapshot, and ``now`` is later: the lease is at least as new as every truth in the rows, and nobody wrote
what stands in them after ``now``.
"""

WRITE_TICKETS = "SELECT freescout_write_tickets($1::json, $2::jsonb, $3::text, $4::json, $5::interval)"
"""Write rows ($1, in id order, so that two batches never wait for each other in a ring) and journal ($4, those of
`db.store.Entry`) if those rows ($2) and the lease ($3; NULL: whatever became of it) are as they were read.

Raises ``serialization_failure`` when somebody wrote one of them meanwhile, and has written nothing then. What was read
and is not written is not looked at again: to change nothing then is the same as to have come first. $5 is the patience
with each lock, NULL for as long as the transaction has.

One parameter for all rows instead of one for each column: asyncpg takes longer to encode fifteen arrays than msgspec
and PostgreSQL together need for this.
"""

LOCK = "SELECT ticket_id FROM freescout_lock_tickets($1::bigint[], $2::interval) WHERE made"
"""Lock tickets, before `READ_TICKETS`, and return those we hold nothing about.

Those get an empty row, so that there is something to lock, and a second writer of the same new ticket waits for the
first; it never outlives the transaction. Locks are taken in id order. $2 is the patience with each, NULL for as long as
the transaction has.
"""

DROP_EMPTY = "DELETE FROM freescout_ticket WHERE ticket_id = ANY ($1::bigint[])"
"""Take away the empty rows that nothing was written into."""

ANNOUNCE_DISPUTE = "SELECT pg_notify('freescout_dispute', '')"
"""Hasten the poller's questions; the disputed rows themselves are the list of what to ask.

In a transaction of its own, after the one that wrote them: those that notify are committed one after the other, each
with its fsync.
"""

PRUNE_JOURNAL = """
DELETE FROM freescout_delivery WHERE delivery_id IN (
    SELECT delivery_id FROM freescout_delivery
    WHERE received_at < freescout_now() - $1::interval ORDER BY received_at LIMIT $2)
"""
"""Delete some deliveries older than $1, so few at a time that nobody notices."""

READ_TICKET = """
SELECT freescout_now() AS now, l.complete_through, l.lease_until,
       t.ticket_id, t.status, t.state, t.updated_at, t.gone, t.observed_at, t.observed_via, t.expires_at,
       t.disputed_at, t.grace_until
FROM freescout_lease l LEFT JOIN freescout_ticket t ON t.ticket_id = $1
"""
"""Read what answers for one ticket, and what explains the answer."""

NOW = "SELECT freescout_now()"
"""Read our clock: the *s* of a request that is about to be sent."""

READ_PASS = """
SELECT freescout_now() AS now, l.seen_through, l.complete_through, l.covered_through, l.set_back_through,
       l.set_back_at, l.lease_until, l.renewed_by_pass, l.clock_offset, l.heartbeat_at,
       p.load_cursor, p.load_began, p.complete_offset
FROM freescout_lease l CROSS JOIN freescout_poller p
"""
"""Read what a pass begins with."""

CLAIM_DESK = """
UPDATE freescout_lease SET desk_url = $1 WHERE desk_url IS NULL OR desk_url = $1 RETURNING desk_url
"""
"""Tie the database to a desk; no row comes back when it is tied to another."""

BEAT = "UPDATE freescout_lease SET heartbeat_at = freescout_now()"
"""Say that a poller is alive."""

_SET_BACK = "seen_through IS NOT NULL AND clock_offset > $1::timestamptz + interval '1 s' - $2::timestamptz"
_WITHOUT_IT = "now + clock_offset + interval '1 s'"

SEE_THROUGH = f"""
UPDATE freescout_lease
SET clock_offset = CASE WHEN seen_through IS NULL OR {_SET_BACK} THEN $1 - now
                        ELSE greatest(clock_offset, $1 - now) END,
    seen_through = greatest(seen_through, $1, CASE WHEN {_SET_BACK} THEN {_WITHOUT_IT} END),
    set_back_through = CASE WHEN {_SET_BACK} AND clock_offset > $1 - now + $3::interval
                            THEN greatest(set_back_through, {_WITHOUT_IT}) ELSE set_back_through END,
    set_back_at = CASE WHEN {_SET_BACK} AND clock_offset > $1 - now + $3::interval THEN $2 ELSE set_back_at END
FROM freescout_now() AS now
RETURNING seen_through, clock_offset
"""  # noqa: S608 - of the literal above
"""Note the desk's clock ($1) as a pass begins to read, by a request sent at $2: everything before it will have been
seen. Never moves back.

A ``Date`` has whole seconds: the offset lies between two bounds, and is as large as any pass has shown as long as they
allow. When they do not, because the clock was set back, dates repeat: a change from before may bear any date up to what
the clock would read now. If it was set back by more than $3, the lease keeps that too.
"""

SEE_AT_LEAST = "UPDATE freescout_lease SET seen_through = greatest(seen_through, $1)"
"""Note that a row bears a date after the desk's clock."""

RENEW = """
UPDATE freescout_lease
SET lease_until = $1::timestamptz + $2::interval, complete_through = $3, covered_through = $4, renewed_by_pass = $1
WHERE renewed_by_pass IS NULL OR renewed_by_pass < $1
RETURNING true
"""
"""Renew the lease for a complete pass that began at $1, unless a later one has done so already."""

REPORT_PASS = """
UPDATE freescout_poller
SET passed_at = freescout_now(), pass_seconds = $1, pass_rows = $2, pass_requests = $3,
    complete_offset = $4, load_cursor = NULL, load_began = NULL,
    full_walk_at = CASE WHEN load_began IS NULL THEN full_walk_at ELSE freescout_now() END
"""
"""Report a complete pass; a first load is over then, and has read everything."""

SAVE_LOAD = "UPDATE freescout_poller SET load_cursor = $1, load_began = $2"
"""Note how far the first load has come, in the transaction that writes its rows."""

READ_FULL_WALK = """
SELECT freescout_now() AS now, p.full_walk_at, l.complete_through IS NOT NULL AS loaded
FROM freescout_lease l CROSS JOIN freescout_poller p
"""
"""Read when everything was last read, and whether there has been a first load at all."""

NOTE_FULL_WALK = "UPDATE freescout_poller SET full_walk_at = $1"
"""Note that everything has been read once more, by a reading that began at $1."""

REPORT_DESK = """
UPDATE freescout_poller
SET desk_since = CASE WHEN (desk_state = 'ok') = ($1 = 'ok') AND desk_since IS NOT NULL THEN desk_since
                      ELSE freescout_now() END,
    desk_state = $1, desk_detail = $2
FROM (SELECT desk_state AS before FROM freescout_poller) b
RETURNING before
"""
"""Report how the desk's API answers, and since when it does or does not; returns the state before."""

REPORT_LEADER = "UPDATE freescout_poller SET leader = $1, led_since = freescout_now()"
"""Report who polls."""

OPEN_DISPUTES = """
SELECT ticket_id, coalesce(touched_at >= disputed_at, false) AS claimed
FROM freescout_ticket WHERE disputed_at IS NOT NULL
ORDER BY touched_at DESC NULLS LAST LIMIT $1
"""
"""List what FreeScout has to be asked, the newest claims first."""

WRITE_GAPS = """
INSERT INTO freescout_gap (ticket_id, cached_status, cached_state, true_status, true_state, changed_at, healed_at)
SELECT g.*, $1 FROM unnest($2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[]) AS g
WHERE (SELECT complete_through IS NOT NULL FROM freescout_lease)
  AND EXISTS (SELECT FROM freescout_delivery WHERE ticket_id IS NOT NULL)
RETURNING ticket_id
"""
"""Write changes that a pass found first; there are none before the first complete pass and the first delivery."""

SETTLE_HEARD = """
UPDATE freescout_gap g
SET verdict = CASE WHEN d.received_at - g.healed_at <= $1::interval THEN 'raced' ELSE 'late' END,
    settled_at = d.received_at, late_by = greatest(d.received_at - g.healed_at, interval '0')
FROM (
    SELECT w.gap_id, min(d.received_at) AS received_at
    FROM freescout_lease l CROSS JOIN freescout_gap w
    JOIN freescout_delivery d
      ON d.ticket_id = w.ticket_id AND d.received_at >= coalesce(w.changed_at - l.clock_offset, w.healed_at)
    WHERE w.verdict = 'waiting'
      AND (d.event = 'convo.deleted_forever' AND w.true_state IS NULL
           OR (d.status, d.state) = (w.true_status, w.true_state))
    GROUP BY w.gap_id
) d
WHERE g.gap_id = d.gap_id
RETURNING g.ticket_id, g.verdict, g.late_by
"""
"""Settle gaps whose delivery came after all: within $1 of our finding out it was a race, later it was late."""

SETTLE_LOST = """
UPDATE freescout_gap SET verdict = 'lost', settled_at = freescout_now()
WHERE verdict = 'waiting' AND healed_at < freescout_now() - $1::interval
RETURNING ticket_id, true_status, changed_at
"""
"""Settle gaps whose delivery will not come any more: FreeScout's retries are over."""

PRUNE_GAPS = "DELETE FROM freescout_gap WHERE settled_at < freescout_now() - $1::interval"
"""Delete gaps that were settled long ago."""

READ_WATCH = """
SELECT freescout_now() AS now, l.lease_until, p.desk_state, p.desk_since, p.silent_since,
       (SELECT received_at FROM freescout_delivery WHERE NOT starts_with(event, 'freescout-audit.selftest')
        ORDER BY delivery_id DESC LIMIT 1) AS delivered_at
FROM freescout_lease l CROSS JOIN freescout_poller p
"""
"""Read what the watch looks at; a self-test of ours is no sign of life of the desk's."""

NOTE_SILENCE = "UPDATE freescout_poller SET silent_since = $1"
"""Note since when both paths have been silent; NULL when they are not."""

READ_STANDING = """
SELECT (SELECT version_num FROM freescout_schema) AS revision, pg_backend_pid() AS backend, freescout_now() AS now,
       l.seen_through, l.complete_through, l.covered_through, l.set_back_through, l.set_back_at, l.lease_until,
       l.renewed_by_pass, l.clock_offset, l.heartbeat_at, p.desk_state, p.desk_detail, p.desk_since, p.silent_since,
       (SELECT count(*) FROM freescout_ticket WHERE disputed_at IS NOT NULL) AS disputes
FROM freescout_lease l CROSS JOIN freescout_poller p
"""
"""Read what readiness and metrics show."""

COUNT_GAPS = """
SELECT verdict, count(*) AS gaps FROM freescout_gap
WHERE healed_at > freescout_now() - interval '1 day' GROUP BY verdict
"""
"""Count the last day's gaps."""
