"""How long an answer is vouched for, and by whom: the row's own time to live, the lease, an open dispute.

All of it is said in stamps of our own clock, the database's. A stamp that lies ahead of that clock was written while
the clock was wrong, and vouches for nothing. ``now`` is the clock's time, read after what is judged by it was written.
"""

from datetime import datetime, timedelta

import msgspec

from freescout_audit.row import Lease, Row, Terms

AHEAD = timedelta(seconds=1)
"""A stamp may lie so far ahead of our clock: clocks are corrected by little now and then."""
ABSURD = timedelta(days=1)
"""A date farther ahead than this is a mistake, not a desk's clock that is wrong."""


def expiry(row: Row, lease: Lease, now: datetime) -> datetime | None:
    """Return until when a row's value is vouched for; None when it never reads as anything but ``none``.

    The view ``freescout_ticket_cache`` says the same in SQL, and a property test holds the two together.
    """
    if row.gone or row.state != "published" or row.status is None or row.updated_at is None:
        return None
    if any(is_ahead(stamp, now) for stamp in (row.observed_at, row.truth_at, row.disputed_at)):
        return None
    longest = timedelta(seconds=max(lease.cache_lease, lease.cache_ttl))
    own = None if is_ahead(row.expires_at, now + longest) else row.expires_at
    vouched = max((until for until in (own, vouched_until(lease, now)) if until is not None), default=None)
    return vouched if vouched is None or row.grace_until is None else min(vouched, row.grace_until)


def vouched_until(lease: Lease, now: datetime) -> datetime | None:
    """Return until when the lease vouches for everything; None when it never did, or was renewed in our future."""
    return None if is_ahead(lease.renewed_by_pass, now) else lease.lease_until


def is_ahead(stamp: datetime | None, now: datetime) -> bool:
    """Tell whether a stamp of our clock lies ahead of it: the clock was wrong when it was written."""
    return stamp is not None and stamp > now + AHEAD


def poller_is_alive(lease: Lease, now: datetime, terms: Terms) -> bool:
    """Tell whether a poller's heartbeat is younger than ``cache.lease``."""
    beaten = lease.heartbeat_at
    return beaten is not None and not is_ahead(beaten, now) and now - beaten < terms.lease


def of_our_past(row: Row | None, lease: Lease, now: datetime) -> Row | None:
    """Return the row; one with stamps from our own future is disputed, and vouches for nothing from now on.

    Its dispute is as old as its value, or as what was said against that: without a poller the next news settles it. A
    read that is under way does not. What we hold of a tombstone that a 404 made stays, so that no claim revives it.
    """
    if row is None or not any(
        is_ahead(stamp, now)
        for stamp in (row.observed_at, row.touched_at, row.truth_at, row.truth_until, row.disputed_at)
    ):
        return row
    heard = now + lease.clock_offset
    through = row.updated_at if row.disputed_at is None else disputed_through(row, lease)
    return msgspec.structs.replace(
        row,
        observed_at=min(row.observed_at, now),
        expires_at=min(row.expires_at, now),
        touched_at=now,
        truth_at=now if row.gone and row.truth_at is not None else None,
        truth_until=None,
        disputed_at=now,
        grace_until=now,
        disputed_through=heard if through is None else min(through, heard),
        doubted_through=None if is_ahead(row.doubted_through, now + ABSURD) else row.doubted_through,
    )


def disputed_through(row: Row, lease: Lease) -> datetime:
    """Return up to which date something was said against a disputed row."""
    if row.disputed_through is not None:
        return row.disputed_through
    heard = max(date for date in (row.disputed_at, row.touched_at) if date is not None)
    return heard + lease.clock_offset
