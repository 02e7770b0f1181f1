"""Connections to PostgreSQL: one pool a process, taken in turn, broken ones thrown away."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import asyncpg
from sqlalchemy.engine import URL

from freescout_audit.errors import DatabaseUnavailableError

PATIENCE = 30.0
"""Seconds a statement may take that nobody waits for; a server that vanished must not hold a process for ever."""
_FAREWELL = 1.0
"""Seconds a server is given to take leave of us."""

_NOT_MIGRATED = (
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedFunctionError,
)
OVERTAKEN = (asyncpg.SerializationError, asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)
"""Somebody else holds or has written what a transaction was about to write: it is rolled back, and can be tried again
on the same connection."""
_UNAVAILABLE = (
    OSError,  # TimeoutError is one
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what a connection says whose server ended it a moment ago
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.ReadOnlySQLTransactionError,
)


class Database:
    """A pool of connections that commit each statement, handed out first come, first served.

    The pool is a stack of idle connections behind a first-in-first-out limit: the engines' own pools cost a read more
    than the read itself, or wake any of their waiters (``bench/reads.py`` measures them). Statements run on asyncpg,
    which prepares each of them once a connection.
    """

    def __init__(
        self,
        url: URL,
        *,
        connections: int = 10,
        connect_timeout: float = 4,
        patience: float = PATIENCE,
        name: str = "",
    ) -> None:
        self.url = url
        self._connect_timeout = connect_timeout
        self._patience = patience
        self._open: set[asyncpg.Connection] = set()
        self._idle: list[asyncpg.Connection] = []
        self._turns = asyncio.Semaphore(connections)
        self._closed = False
        self._server_settings = {
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
        }

    def connection(self, deadline: float | None = None) -> AbstractAsyncContextManager[asyncpg.Connection]:
        """Lend a connection for ``deadline`` seconds (None: `PATIENCE`), the wait for it included.

        Whatever goes wrong while it is lent (but for `OVERTAKEN`) ends it: nobody waits for a server that may never
        answer. The server notices within a second, and rolls back what it was told.

        Raises:
            DatabaseUnavailableError: PostgreSQL is away, not migrated, or did not answer within the deadline.
        """
        return self.session(self._patience if deadline is None else deadline)

    @asynccontextmanager
    async def session(self, deadline: float | None = None) -> AsyncIterator[asyncpg.Connection]:
        """Lend a connection as `connection` does, but for as long as it lasts when no deadline is given."""
        try:
            async with asyncio.timeout(deadline), self._turns:
                connection = await self._check_out()
                try:
                    yield connection
                except OVERTAKEN:
                    self._check_in(connection)
                    raise
                except BaseException:
                    connection.terminate()
                    raise
                self._check_in(connection)
        except _NOT_MIGRATED as error:
            raise DatabaseUnavailableError("the database lacks our schema: run python -m db.migrate") from error
        except _UNAVAILABLE as error:
            reason = str(error).partition("\n")[0] or "no answer in time"
            if "unsupported startup parameter" in reason:
                reason = "a pooler stands before it that lacks what we need (LISTEN, session locks): connect directly"
            raise DatabaseUnavailableError(f"PostgreSQL is not available: {reason}") from error

    @asynccontextmanager
    async def transaction(
        self, deadline: float | None = None, *, durable: bool = True
    ) -> AsyncIterator[asyncpg.Connection]:
        """Lend a connection inside a READ COMMITTED transaction, committed at the end; errors as in `connection`.

        One that is not ``durable`` does not wait for the disk. A crash of PostgreSQL may take back the last half second
        of those, but none that was committed before a durable one.
        """
        async with self.connection(deadline) as connection:
            limit = math.ceil(1000 * (self._patience if deadline is None else deadline))
            # For a batch of one the planner thinks a plan of its own cheaper than the one for any batch, and takes
            # longer to make it than all the rest.
            await connection.execute(
                f"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL statement_timeout = {limit:d};"
                " SET LOCAL plan_cache_mode = force_generic_plan"
                + ("" if durable else "; SET LOCAL synchronous_commit = off")
            )
            try:
                yield connection
            except OVERTAKEN:
                await connection.execute("ROLLBACK")
                raise
            await connection.execute("COMMIT")

    async def close(self) -> None:
        """Close every connection, within a second or so even if the server does not answer."""
        self._closed = True
        idle, self._idle = self._idle, []
        await asyncio.gather(*(connection.close(timeout=_FAREWELL) for connection in idle), return_exceptions=True)
        for connection in self._open:
            connection.terminate()

    async def _check_out(self) -> asyncpg.Connection:
        """Take a connection that has not been closed while it lay in the pool."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        connection = await asyncpg.connect(
            host=self.url.host,
            port=self.url.port,
            user=self.url.username,
            password=self.url.password,
            database=self.url.database,
            ssl=self.url.query.get("ssl"),
            timeout=self._connect_timeout,
            server_settings=self._server_settings,
        )
        self._open = {each for each in self._open if not each.is_closed()} | {connection}
        return connection

    def _check_in(self, connection: asyncpg.Connection) -> None:
        if self._closed:
            connection.terminate()
        else:
            self._idle.append(connection)
