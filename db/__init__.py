"""The cache: what is known of every ticket, one write path, one read path."""

import asyncio
import os
from datetime import datetime
from weakref import WeakKeyDictionary

from db.database import Database
from db.history import read_at
from db.reads import UNAVAILABLE, Reading, read_from
from db.url import normalise

READER_CONNECTIONS = 5
"""Connections of an event loop's pool at the most."""

__all__ = ["Reading", "close_readers", "read_ticket"]

_databases: WeakKeyDictionary[asyncio.AbstractEventLoop, Database] = WeakKeyDictionary()


async def read_ticket(ticket_id: int, *, at: datetime | None = None, deadline: float = 0.25) -> Reading:
    """Answer what a ticket's status is, for an audit record; ``none`` with a reason whenever we cannot vouch for it.

    Uses the database of the environment variable ``DATABASE_URL``, through a pool of this event loop's own
    (`READER_CONNECTIONS`).

    Args:
        ticket_id: FreeScout's conversation id (not the number agents see).
        at: What was answered then, instead of now (`db.history.read_at`).
        deadline: Seconds after which the answer is ``none``, ``unavailable``, whatever the database does.

    Raises:
        SettingsError: ``DATABASE_URL`` is no PostgreSQL URL.
    """
    loop = asyncio.get_running_loop()
    database = _databases.get(loop)
    if database is None:
        url = os.environ.get("DATABASE_URL", "")
        if not url:
            return UNAVAILABLE
        database = _databases[loop] = Database(
            normalise(url), connections=READER_CONNECTIONS, patience=1.0, name="reader"
        )
    if at is not None:
        return await read_at(database, ticket_id, at, deadline=deadline)
    return await read_from(database, ticket_id, deadline=deadline)


async def close_readers() -> None:
    """Close this event loop's pool; the next `read_ticket` opens another."""
    database = _databases.pop(asyncio.get_running_loop(), None)
    if database is not None:
        await database.close()
