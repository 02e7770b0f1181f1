"""The one read path in Python: what the cache answers for a ticket, and why."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

import msgspec

from db import statements
from db.database import Database
from freescout_audit.conversation import MAX_ID, Status
from freescout_audit.rule import Lease, Row, expiry

Reason = Literal[
    "ok",
    "miss",
    "expired",
    "disputed",
    "unpublished",
    "gone",
    "unknown",
    "never_synced",
    "unavailable",
    "not_kept",
    "to_come",
]
"""Why; the last two are said of moments other than now."""


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """An answer fit to be written into an audit record.

    ``ticket_state`` is ``none`` unless ``reason`` is ``ok``. ``expires_at`` is until when the answer is vouched for.
    """

    ticket_state: Status | Literal["none"]
    reason: Reason
    expires_at: datetime | None = None


UNAVAILABLE = Reading(ticket_state="none", reason="unavailable")


async def read_from(database: Database, ticket_id: int, *, deadline: float = 0.25) -> Reading:
    """Answer what a ticket's status is, within ``deadline`` seconds, whatever happens.

    Never raises: when the database is slow, away, not migrated or refuses us, the answer is ``none``, ``unavailable``.
    An id that no ticket can have is a ``miss``.
    """
    if not 0 < ticket_id <= MAX_ID:
        return Reading(ticket_state="none", reason="miss")
    try:
        async with database.connection(deadline) as connection:
            record = await connection.driver.fetchrow(statements.READ_TICKET, ticket_id)
        return UNAVAILABLE if record is None else explain(record)
    except Exception:  # noqa: BLE001 - an audit record gets none, whatever went wrong
        return UNAVAILABLE


def explain(record: Mapping[str, Any]) -> Reading:
    """Turn a row with the columns of `statements.READ_TICKET` into the answer and its reason."""
    now: datetime = record["now"]
    if record["ticket_id"] is None:
        return _none("never_synced" if record["complete_through"] is None else "miss")
    if record["gone"]:
        return _none("gone" if record["disputed_at"] is None else "disputed")
    row = Row(**{name: record[name] for name in _OF_ROW})
    expires_at = expiry(row, Lease(**{name: record[name] for name in OF_LEASE}), now)
    if row.status is not None and expires_at is not None and expires_at > now:
        return Reading(ticket_state=row.status, reason="ok", expires_at=expires_at)
    if row.grace_until is not None and row.grace_until <= now:
        return _none("disputed")
    if row.status is None or row.state is None or row.updated_at is None:
        return _none("unknown")
    return _none("expired" if row.state == "published" else "unpublished")


_OF_ROW = (
    "ticket_id",
    "status",
    "state",
    "updated_at",
    "gone",
    "observed_at",
    "observed_via",
    "expires_at",
    "truth_at",
    "disputed_at",
    "grace_until",
)
OF_LEASE = ("lease_until", "renewed_by_pass", "cache_lease", "cache_ttl")
"""What of the lease `explain` needs."""


def _none(reason: Reason) -> Reading:
    return Reading(ticket_state="none", reason=reason)
