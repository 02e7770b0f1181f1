"""Elects one of several pollers: `db.leadership` says which; this waits for it, renews it, and gives it up."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import asyncpg

from db import leadership
from db.database import Connection, Database
from db.store import DISPUTED
from freescout_audit import __version__
from freescout_audit.errors import DatabaseUnavailableError
from freescout_audit.events import POLLER_FAULT, POLLER_LEADS, POLLER_STEPS_DOWN, POLLER_WAITS, POLLER_WAITS_IN_VAIN
from freescout_audit.logs import emit
from freescout_audit.repeats import Repeats
from settings.process import process_name

TRY_EVERY = 1.0
"""Seconds between two tries to take over."""
RENEW_EVERY = 2.0
"""Seconds between two renewals, a third of `db.leadership.TERM`."""
_FAREWELL = 2.0
"""Seconds that giving it up may take when PostgreSQL does not answer."""

Wait = Callable[[float], Awaitable[None]]


class Leadership:
    """The right to poll while it lasts.

    It does not end when PostgreSQL is away for everybody: then no other process leads either.
    """

    def __init__(self, database: Database, connection: Connection, session: str) -> None:
        self._database = database
        self._listening = connection.driver
        self._session = session
        self._repeats = Repeats()
        self.lost = asyncio.Event()
        """Set when another process leads, or may: it was given up, or the session that hears of disputes has ended."""
        self.disputed = asyncio.Event()
        """Set when a dispute has been committed."""

    def give_up(self) -> None:
        """Let another process lead."""
        if not self.lost.is_set():
            emit(POLLER_STEPS_DOWN)
            self.lost.set()

    async def wait_for(self, wait: Wait) -> None:
        """Wait until no other process leads."""
        waiting = in_vain = False
        while (holder := await self._claim()) is not None:
            if not waiting:
                emit(POLLER_WAITS, version=__version__, leader=holder.name)
                waiting = True
            if in_vain != (in_vain := not holder.beats) and in_vain:
                emit(POLLER_WAITS_IN_VAIN, leader=holder.name)
            await wait(TRY_EVERY)

    async def listen(self) -> None:
        """Hear of disputes; whoever ends that session ends our leading, and we begin anew."""
        self._listening.add_termination_listener(lambda _: self.lost.set())
        await self._listening.add_listener(DISPUTED, lambda *_: self.disputed.set())

    async def renew(self, wait: Wait) -> None:
        """Renew it until another process leads."""
        while True:
            await wait(RENEW_EVERY)
            try:
                if await self._claim() is not None:
                    self.give_up()
                    return
            except DatabaseUnavailableError:
                pass  # readiness and the jobs say so
            except Exception as error:  # noqa: BLE001 - it is tried again, and another poller leads if that fails
                self._repeats.emit(POLLER_FAULT, type(error).__name__, job="lead", error=type(error).__name__)

    async def end(self, *, stepped_down: bool) -> None:
        """Give it up in the database, if it answers; else it ends by itself."""
        with suppress(DatabaseUnavailableError, asyncpg.PostgresError, TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                await leadership.release(self._database, session=self._session, stepped_down=stepped_down)

    async def _claim(self) -> leadership.Holder | None:
        return await leadership.claim(self._database, session=self._session, name=process_name())


@asynccontextmanager
async def lead(database: Database, *, session: str, wait: Wait = asyncio.sleep) -> AsyncIterator[Leadership]:
    """Wait until no other process leads, and lead; at the end it is given up. ``session`` is this process's own name.

    Raises:
        DatabaseUnavailableError: The session broke before it could lead.
    """
    async with database.session() as connection:
        leading = Leadership(database, connection, session)
        await leading.wait_for(wait)
        stepped_down = False
        try:
            await leading.listen()
            emit(POLLER_LEADS, version=__version__, name=process_name())
            renewing = asyncio.create_task(leading.renew(wait))
            try:
                yield leading
            finally:
                renewing.cancel()
        except asyncio.CancelledError:
            stepped_down = True
            raise
        finally:
            leading.give_up()
            await leading.end(stepped_down=stepped_down)
