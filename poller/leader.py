"""Elects one of several pollers by a PostgreSQL advisory lock, which ends with the session that holds it.

It saves the desk from being read twice; correctness does not rest on it.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from db.database import PATIENCE, Connection, Database
from db.store import DISPUTED
from freescout_audit import __version__
from freescout_audit.events import POLLER_LEADS, POLLER_STEPS_DOWN, POLLER_WAITS
from freescout_audit.logs import emit

LOCK = 0x46534155_504F4C4C  # "FSAUPOLL"
TRY_EVERY = 1.0
"""Seconds between two tries to take over."""


class Leadership:
    """The right to poll while it lasts."""

    def __init__(self, connection: Connection) -> None:
        self._session = connection.driver
        self.lost = asyncio.Event()
        """Set when the session that holds the lock has ended: another poller may lead already."""
        self.disputed = asyncio.Event()
        """Set when a dispute has been committed."""

    def give_up(self) -> None:
        """Let another process lead, at once: the lock ends with its session, whatever state that is in."""
        if not self._session.is_closed():
            emit(POLLER_STEPS_DOWN)
            self._session.terminate()


@asynccontextmanager
async def lead(
    database: Database, *, wait: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> AsyncIterator[Leadership]:
    """Wait until no other process leads, and lead; at the end the lock is given up.

    Raises:
        DatabaseUnavailableError: The session broke before it could lead.
    """
    async with database.session() as connection:
        leadership = Leadership(connection)
        connection.driver.add_termination_listener(lambda _: leadership.lost.set())
        waiting = False
        while not await connection.driver.fetchval("SELECT pg_try_advisory_lock($1)", LOCK, timeout=PATIENCE):
            if not waiting:
                emit(POLLER_WAITS, version=__version__)
                waiting = True
            await wait(TRY_EVERY)
        await connection.driver.add_listener(DISPUTED, lambda *_: leadership.disputed.set())
        emit(POLLER_LEADS, version=__version__, name=process_name())
        try:
            yield leadership
        finally:
            leadership.give_up()


def process_name() -> str:
    """Return a name to tell pollers apart: the dyno's, or host and process."""
    return os.environ.get("DYNO") or f"{socket.gethostname()}:{os.getpid()}"
