"""How long an answer is vouched for, and by whom: the row's own time to live, the lease, an open dispute."""

from datetime import datetime

from freescout_audit.row import Lease, Row, Terms


def expiry(row: Row, lease: Lease) -> datetime | None:
    """Return until when a row's value is vouched for; None when it never reads as anything but ``none``.

    The view ``freescout_ticket_cache`` says the same in SQL, and a property test holds the two together.
    """
    if row.gone or row.state != "published" or row.status is None or row.updated_at is None:
        return None
    vouched = max(row.expires_at, lease.lease_until or row.expires_at)
    return vouched if row.grace_until is None else min(vouched, row.grace_until)


def poller_is_alive(lease: Lease, now: datetime, terms: Terms) -> bool:
    """Tell whether a poller's heartbeat is younger than ``cache.lease``."""
    return lease.heartbeat_at is not None and now - lease.heartbeat_at < terms.lease
