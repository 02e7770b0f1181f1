"""The statements that stay SQL text, and run on asyncpg itself; all others are expressions over `db.schema`.

Each earns its place: a batch travels as JSON through two functions, a lock and what is left of it are a function's
business, and a reader's look-ups, now and at a moment, are what an application waits for inside a request. SQLAlchemy
has nothing to put together in any of them, and would add a compilation and a row object to each. ``LISTEN`` is the
driver's too, which alone hears a notification (`poller.leader`).
"""

READ_TICKETS = "SELECT * FROM freescout_read_tickets($1::bigint[])"
"""Read what a batch is judged by: our clock, the lease, and the rows as JSON, those of `freescout_audit.row.Row`; and
as ``versions`` and ``lease_version`` what `WRITE_TICKETS` has to find unchanged.

All of one snapshot, and ``now`` is later: the lease is at least as new as every truth in the rows, and no writer
changed what stands in them after ``now``.
"""

WRITE_TICKETS = "SELECT freescout_write_tickets($1::json, $2::jsonb, $3::text, $4::json, $5::interval)"
"""Write rows ($1, in id order, so that two batches never wait for each other in a ring) and journal ($4, those of
`db.journal.Entry`) if those rows ($2) and the lease ($3; NULL: whatever became of it) are as they were read.

Raises ``serialization_failure`` when one of them was written meanwhile, and has written nothing then. What was read and
is not written is not looked at again: to change nothing then is the same as to have come first. $5 is the patience with
each lock, NULL for as long as the transaction has.

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

READ_TICKET_AT = """
SELECT freescout_now() AS now, f.kept_since, h.*, l.until_at, l.longest,
       (SELECT max(n.known_at) FROM freescout_history n WHERE n.ticket_id = $1) AS latest_known_at,
       (SELECT n.renewed_at FROM freescout_lease_history n ORDER BY n.began_at DESC LIMIT 1) AS latest_renewed_at
FROM freescout_feed f
LEFT JOIN (SELECT * FROM freescout_history WHERE ticket_id = $1 AND known_at <= $2
           ORDER BY known_at DESC, entry_id DESC LIMIT 1) h ON true
LEFT JOIN (SELECT * FROM freescout_lease_history WHERE began_at <= $2 ORDER BY began_at DESC LIMIT 1) l ON true
"""
"""Read what answered for one ticket ($1) at a moment ($2), and what explains the answer."""

READ_TICKET = """
SELECT freescout_now() AS now, l.complete_through, l.lease_until, l.renewed_by_pass, l.cache_lease, l.cache_ttl,
       t.ticket_id, t.status, t.state, t.updated_at, t.gone, t.observed_at, t.observed_via, t.expires_at,
       t.truth_at, t.disputed_at, t.grace_until
FROM freescout_lease l LEFT JOIN freescout_ticket t ON t.ticket_id = $1
"""
"""Read what answers for one ticket, and what explains the answer."""
