"""The one read path in Python: what the cache answers for a ticket, and why."""

from datetime import datetime
from typing import Literal

import asyncpg
import msgspec

from db import statements
from db.database import Database
from freescout_audit.conversation import MAX_ID, State, Status

Reason = Literal["ok", "miss", "expired", "disputed", "unpublished", "gone", "unknown", "never_synced", "unavailable"]


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
            record = await connection.fetchrow(statements.READ_TICKET, ticket_id)
    except Exception:  # noqa: BLE001 - an audit record gets none, whatever went wrong
        return UNAVAILABLE
    return UNAVAILABLE if record is None else explain(record)


def explain(record: asyncpg.Record) -> Reading:
    """Turn a record of `statements.READ_TICKET` into the answer and its reason."""
    now: datetime = record["now"]
    if record["ticket_id"] is None:
        return _none("never_synced" if record["complete_through"] is None else "miss")
    if record["gone"]:
        return _none("gone" if record["disputed_at"] is None else "disputed")
    expires_at: datetime = record["ttl_expires"]
    if expires_at > now:
        status: Status = record["status"]
        return Reading(ticket_state=status, reason="ok", expires_at=expires_at)
    if record["grace_until"] is not None and record["grace_until"] <= now:
        return _none("disputed")
    if record["status"] is None or record["state"] is None or record["updated_at"] is None:
        return _none("unknown")
    state: State = record["state"]
    return _none("expired" if state == "published" else "unpublished")


def _none(reason: Reason) -> Reading:
    return Reading(ticket_state="none", reason=reason)
