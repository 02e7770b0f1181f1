"""Connections to PostgreSQL: one SQLAlchemy engine a process, on asyncpg, lent in the order of asking."""

import asyncio
import math
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg
import msgspec
from sqlalchemy import CursorResult, Executable, event, select
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from db import schema
from db.idle import FAREWELL, IDLE, Idle
from db.refusals import MIGRATE, REFUSED, explain, too_old
from freescout_audit.errors import DatabaseUnavailableError

PATIENCE = 30.0
"""Seconds that a statement may take when its caller gives no deadline: a vanished server must not hold a process."""

_NOT_MIGRATED = (
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedFunctionError,
)
OVERTAKEN = (
    asyncpg.SerializationError,
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.InvalidCachedStatementError,  # a migration has changed what a statement returns
)
"""Another writer holds or has written what a transaction was about to write. The transaction is rolled back, and can be
tried again on the same connection."""
_UNAVAILABLE = (
    OSError,  # TimeoutError is one
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what a connection says whose server ended it a moment ago
    asyncpg.PostgresConnectionError,
    *REFUSED,
)
_IMPOSSIBLE_DATE = (
    OverflowError,
    ValueError,
    asyncpg.CheckViolationError,
    asyncpg.DatetimeFieldOverflowError,
    asyncpg.IntervalFieldOverflowError,
)
"""What a date raises that cannot be: Python's end with the year 9999, and the lease has constraints."""


class ImpossibleDateError(DatabaseUnavailableError):
    """A date in the database has no value in Python, or one that is to be written there is no clock's."""


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection while it is lent: SQLAlchemy's, and asyncpg's own below it, in the same session.

    A statement raises asyncpg's errors, whichever of the two runs it.
    """

    core: AsyncConnection
    """For expressions over the tables of `db.schema`."""
    driver: asyncpg.Connection
    """For the named statements of `db.statements`; why they are text stands there."""

    async def execute(self, statement: Executable) -> CursorResult[Any]:
        """Run an expression."""
        try:
            return await self.core.execute(statement)
        except DBAPIError as error:
            raise _cause(error) from None

    async def rows(self, statement: Executable) -> list[dict[str, Any]]:
        """Run an expression and return its rows, each by the names of its columns."""
        return [dict(row) for row in (await self.execute(statement)).mappings()]

    async def row(self, statement: Executable) -> dict[str, Any] | None:
        """Run an expression and return its first row; None when there is none."""
        row = (await self.execute(statement)).mappings().first()
        return None if row is None else dict(row)

    async def column(self, statement: Executable) -> Sequence[Any]:
        """Run an expression and return the first column of its rows."""
        return (await self.execute(statement)).scalars().all()

    async def scalar(self, statement: Executable) -> Any:
        """Run an expression and return the first column of its first row; None when there is none."""
        return (await self.execute(statement)).scalar()


class Database:
    """An engine whose connections commit each statement, handed out first come, first served.

    SQLAlchemy's pool wakes any of its waiters; the limit before it wakes the first (``bench/reads.py`` measures both).

    Args:
        url: Where it is, as `db.url.normalise` returns it.
        connections: How many connections are open at the most.
        connect_timeout: Seconds that opening one may take.
        patience: Seconds that a statement may take when its caller gives no deadline.
        name: What PostgreSQL's list of sessions calls this process.
        idle: Seconds after which an idle connection is closed.
    """

    def __init__(
        self,
        url: URL,
        *,
        connections: int = 5,
        connect_timeout: float = 4,
        patience: float = PATIENCE,
        name: str = "",
        idle: float = IDLE,
    ) -> None:
        self.url = url
        self.told: datetime | None = None
        """The latest that PostgreSQL's clock has told this process, as far as `now` asked."""
        self.written = asyncio.Event()
        """Set when tickets were written through this; whoever waits for that clears it."""
        self.size = connections
        """How many connections are open at the most."""
        self._patience = patience
        self._turns = asyncio.Semaphore(connections)
        self._open: set[asyncpg.Connection] = set()
        self._lent: set[asyncpg.Connection] = set()
        self._idle = Idle(idle)
        self._engine = create_async_engine(
            url,
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,
            pool_size=connections,
            max_overflow=0,
            # The newest stays in use, so that a pool that was large once has idle connections, which are closed.
            pool_use_lifo=True,
            # What goes wrong ends its connection, so a connection that comes back has nothing to reset.
            pool_reset_on_return=None,
            json_deserializer=str,  # rows travel as JSON, and msgspec decodes them
            connect_args={
                "timeout": connect_timeout,
                "server_settings": {
                    "application_name": f"freescout-audit {name}".strip(),
                    "timezone": "UTC",
                    "jit": "off",
                    # Single statements are transactions too, whatever the server or the role has as its default.
                    "default_transaction_isolation": "read committed",
                    "default_transaction_read_only": "off",
                    # What we give up on, the server has to give up as well: it would wait for a lock for ever, and
                    # does not notice by itself that the client has gone.
                    "statement_timeout": f"{patience:g}s",
                    "client_connection_check_interval": "1s",
                    # A client that vanished in the middle of a transaction must not keep its rows locked.
                    "idle_in_transaction_session_timeout": "10s",
                },
            },
        )
        event.listen(self._engine.sync_engine, "connect", self._note_open)
        event.listen(self._engine.sync_engine, "checkout", self._note_borrowed)
        event.listen(self._engine.sync_engine, "checkin", self._note_back)

    @property
    def in_use(self) -> int:
        """How many connections are lent now."""
        return len(self._lent)

    def connection(self, deadline: float | None = None) -> AbstractAsyncContextManager[Connection]:
        """Lend a connection for ``deadline`` seconds (None: `PATIENCE`), the wait for it included.

        Whatever goes wrong while it is lent (but for `OVERTAKEN`) ends it: a server that may never answer holds up
        no caller. The server notices within a second, and rolls back what it was told.

        Raises:
            DatabaseUnavailableError: PostgreSQL is away, not migrated, or did not answer within the deadline.
        """
        return self.session(self._patience if deadline is None else deadline)

    @asynccontextmanager
    async def session(self, deadline: float | None = None) -> AsyncIterator[Connection]:
        """Lend a connection as `connection` does, but for as long as it lasts when no deadline is given."""
        try:
            async with asyncio.timeout(deadline), self._turns, self._lend() as connection:
                yield connection
        except OVERTAKEN:
            raise
        except _NOT_MIGRATED as error:
            raise DatabaseUnavailableError("the database lacks our schema", MIGRATE) from error
        except _UNAVAILABLE as error:
            raise _unavailable(error) from error
        except _IMPOSSIBLE_DATE as error:
            if not _is_about_a_date(error):
                raise
            raise ImpossibleDateError(
                "the database holds, or was given, a date that cannot be", "freescout-audit desk clock --reset"
            ) from error

    @asynccontextmanager
    async def transaction(
        self, deadline: float | None = None, *, durable: bool = True, writes: bool = True
    ) -> AsyncIterator[Connection]:
        """Lend a connection inside a READ COMMITTED transaction, committed at the end; errors as in `connection`.

        One that is not ``durable`` does not wait for the disk. A crash of PostgreSQL may take back the last half second
        of those, but none that was committed before a durable one. A standby takes only one that ``writes`` nothing.
        """
        async with self.connection(deadline) as connection:
            limit = math.ceil(1000 * (self._patience if deadline is None else deadline))
            # By the driver: to SQLAlchemy the connection commits each statement, so it begins no transaction itself.
            await connection.driver.execute(
                f"BEGIN ISOLATION LEVEL READ COMMITTED{' READ WRITE' if writes else ''};"
                f" SET LOCAL statement_timeout = {limit:d}"
                + ("" if durable else "; SET LOCAL synchronous_commit = off")
            )
            try:
                yield connection
            except OVERTAKEN:
                await connection.driver.execute("ROLLBACK")
                raise
            await connection.driver.execute("COMMIT")

    async def in_batches(self, statement: Executable, at_once: int) -> int:
        """Run a statement that changes ``at_once`` rows at the most until it changes fewer; return how many it did.

        Each time is a transaction of its own, so others go on. Errors as in `connection`.
        """
        changed = 0
        while True:
            async with self.connection() as connection:
                count = (await connection.execute(statement)).rowcount
            changed += count
            if count < at_once:
                return changed

    async def now(self) -> datetime:
        """Return our clock: the *s* of a request that is about to be sent; errors as in `connection`."""
        async with self.connection() as connection:
            return self._note(await connection.scalar(select(schema.now)))

    def _note(self, moment: datetime) -> datetime:
        self.told = moment if self.told is None else max(moment, self.told)
        return moment

    async def close(self) -> None:
        """Close every connection, within a second or so even if the server does not answer."""
        for connection in self._lent:
            connection.terminate()
        await self._idle.end()
        idle = [connection for connection in self._open if not connection.is_closed()]
        await asyncio.gather(*(connection.close(timeout=FAREWELL) for connection in idle), return_exceptions=True)
        await self._engine.dispose()

    @asynccontextmanager
    async def _lend(self) -> AsyncIterator[Connection]:
        """Take a connection out of the engine's pool, and end it unless all goes well."""
        try:
            core = await self._engine.connect()
        except DBAPIError as error:
            cause = _cause(error)
            if isinstance(cause, asyncpg.UndefinedObjectError):  # client_connection_check_interval is 14's
                raise too_old() from None
            raise cause from None
        assert core.sync_connection is not None  # noqa: S101 - a connection that is open has these
        driver = core.sync_connection.connection.driver_connection
        assert driver is not None  # noqa: S101
        self._lent.add(driver)
        try:
            yield Connection(core, driver)
        except OVERTAKEN:
            raise
        except BaseException:
            driver.terminate()
            await core.invalidate()
            raise
        finally:
            self._lent.discard(driver)
            await core.close()

    def _note_open(self, adapted: Any, _record: object) -> None:
        self._open = {each for each in self._open if not each.is_closed()} | {adapted.driver_connection}

    def _note_borrowed(self, adapted: Any, _record: object, _proxy: object) -> None:
        """Have the pool open another connection in place of one that was closed while it lay there."""
        self._idle.is_borrowed(adapted.driver_connection)
        if adapted.driver_connection.is_closed():
            raise DisconnectionError

    def _note_back(self, adapted: Any, _record: object) -> None:
        if adapted is not None:  # it was ended
            self._idle.came_back(adapted.driver_connection)


def _unavailable(error: Exception) -> DatabaseUnavailableError:
    """Return what an error of `_UNAVAILABLE` means."""
    reason = str(error).partition("\n")[0] or "no answer in time"
    if "unsupported startup parameter" in reason:
        return DatabaseUnavailableError(
            "a pooler stands before PostgreSQL that lacks what we need (LISTEN, settings of a session)",
            "connect directly",
        )
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:  # below: a name that is not found
        reason = os.strerror(error.errno).lower()
    return explain(error) or DatabaseUnavailableError(
        f"PostgreSQL is not available ({reason})", "is DATABASE_URL right, and does PostgreSQL run?"
    )


def _is_about_a_date(error: BaseException) -> bool:
    """Tell whether an error of `_IMPOSSIBLE_DATE` is no other mistake of ours."""
    if isinstance(error, asyncpg.CheckViolationError):
        return bool(error.constraint_name in {"freescout_lease_dates_check", "freescout_lease_clock_offset_check"})
    return isinstance(error, msgspec.DecodeError) or type(error) is ValueError or not isinstance(error, ValueError)


def _cause(error: DBAPIError) -> BaseException:
    """Return the driver's error that SQLAlchemy wrapped."""
    return (error.orig and error.orig.__cause__) or error
