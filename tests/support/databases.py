"""The databases that tests are lent: a worker hands one on from test to test, as long as they leave its schema alone.

A database costs a hundred times what emptying one costs. So what a test leaves behind is deleted, and the next test
gets the same database. One whose schema a test has altered, or that has grown, is dropped, and a new one is made.
"""

import asyncio
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count

import asyncpg

from db.database import Database
from db.migrate import migrate
from db.url import normalise

_CLOCK = """
CREATE SCHEMA test;
CREATE TABLE test.clock (at timestamptz, tick interval);
INSERT INTO test.clock VALUES (NULL, NULL);
CREATE SEQUENCE test.ticks
"""
"""Beside our schema: the moment at which a test has stopped the clock, and how much later it is at each look."""

_STOPPED = """
CREATE OR REPLACE FUNCTION freescout_now() RETURNS timestamptz LANGUAGE sql VOLATILE
RETURN (SELECT at + tick * nextval('test.ticks') FROM test.clock)
"""


BEGIN_HISTORY = """
DELETE FROM freescout_history;
DELETE FROM freescout_lease_history;
UPDATE freescout_feed SET (kept_since, last_id, pruned_through) = (freescout_now(), 0, 0);
INSERT INTO freescout_lease_history
SELECT freescout_now(), freescout_now(), freescout_now(), NULL, greatest(cache_lease, cache_ttl) * interval '1 second'
FROM freescout_lease;
"""
"""What was known before is forgotten: the history begins at the clock's time."""


class Clock:
    """The database's clock, stopped; only the test moves it.

    With a ``tick`` it is that much later at each look, as time passes between any two statements.
    """

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    @classmethod
    async def stop(cls, connection: asyncpg.Connection, at: datetime, *, tick: timedelta = timedelta()) -> "Clock":
        """Stop the clock of a connection's database. It goes again when the test ends."""
        await connection.execute(_STOPPED)
        await connection.execute("UPDATE test.clock SET at = $1, tick = $2", at, tick)
        await connection.execute(f"{BEGIN_HISTORY}; SELECT setval('test.ticks', 1, false)")
        return cls(connection)

    async def set(self, moment: datetime) -> None:
        await self._connection.execute("UPDATE test.clock SET at = $1", moment)


_TABLES = """
SELECT oid::regclass::text FROM pg_class
WHERE relkind = 'r' AND relnamespace IN ('public'::regnamespace, 'test'::regnamespace)
"""
_END_OTHERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND pid <> ALL ($1)
  AND backend_type = 'client backend'
"""

_OURS = 16384
"""The first number that PostgreSQL gives to what it did not bring along."""
_CATALOGUES = {
    "pg_attrdef": f"oid >= {_OURS}",
    "pg_attribute": f"attrelid >= {_OURS}",
    "pg_class": f"oid >= {_OURS}",
    "pg_constraint": f"oid >= {_OURS}",
    "pg_database": "datname = current_database()",
    "pg_db_role_setting": "setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())",
    "pg_default_acl": "true",
    "pg_description": f"objoid >= {_OURS}",
    "pg_event_trigger": "true",
    "pg_extension": "true",
    "pg_index": f"indexrelid >= {_OURS}",
    "pg_namespace": "true",
    "pg_policy": "true",
    "pg_proc": f"oid >= {_OURS} AND proname <> 'freescout_now'",
    "pg_rewrite": f"oid >= {_OURS}",
    "pg_sequence": "true",
    "pg_trigger": "true",
    "pg_type": f"oid >= {_OURS}",
}
"""Where a schema stands, and which rows of it are not PostgreSQL's own."""
_FINGERPRINT = (
    # Whatever has been written since has a higher number, and whatever has been dropped is no longer counted.
    "SELECT concat_ws(' ', (SELECT (oid, proowner, proacl) FROM pg_proc WHERE proname = 'freescout_now'), "
    + ", ".join(
        f"(SELECT (count(*), max(xmin::text::bigint)) FROM {catalogue} WHERE {ours})"
        for catalogue, ours in _CATALOGUES.items()
    )
    # A plan should not depend on the test before, and the template has no statistics. (pg_statistic is a superuser's.)
    + ", (SELECT count(*) FROM pg_stats WHERE schemaname IN ('public', 'test')))"
)
"""The same text as long as nobody alters the schema. The clock is put right before anybody looks."""
_SIZE = "SELECT sum(pg_relation_size(oid)) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
_LARGEST = 2**20
"""Bytes that the tables of a database may have that is handed on: what is deleted still takes room."""
_PATIENCE = 5.0
"""Seconds that emptying a database may take."""


@dataclass(frozen=True)
class Template:
    """A migrated database that tests get copies of, and the statements that make a used copy like it again."""

    name: str
    clock: str
    """Sets the clock going."""
    empty: str
    """Deletes all rows but those that the migrations made."""

    @classmethod
    async def make(cls, name: str, url: Callable[[str], str]) -> "Template":
        """Make it on the server of ``url``."""
        await _administrate(url, f"CREATE DATABASE {name}")
        await migrate(normalise(url(name)))
        connection = await asyncpg.connect(url(name))
        await connection.execute(_CLOCK)
        statements = ["SELECT setval(seqrelid::regclass, seqstart, false) FROM pg_sequence"]
        for (table,) in await connection.fetch(_TABLES):
            statements.append(f"DELETE FROM {table}")
            if rows := await connection.fetchval(f"SELECT json_agg(t) FROM {table} t"):
                # Written as text, a literal's quotes doubled by PostgreSQL itself.
                literal = await connection.fetchval("SELECT quote_literal($1::text)", rows)
                statements.append(
                    f"INSERT INTO {table} SELECT * FROM json_populate_recordset(NULL::{table}, {literal})"
                )
        clock = await connection.fetchval("SELECT pg_get_functiondef('freescout_now'::regproc)")
        await connection.close()
        return cls(name, clock, "; ".join(statements))


class Databases:
    """What a worker has to lend: one database, to one test at a time."""

    def __init__(self, url: Callable[[str], str], template: Template) -> None:
        self._url = url
        self._template = template
        self._names = (f"test_{os.getpid()}_{number}" for number in count())
        self._name: str | None = None
        self._connection: asyncpg.Connection | None = None
        self._fingerprint = ""

    async def lend(self) -> str:
        """Return the URL of a database that is like the template."""
        if self._name is None:
            self._name = next(self._names)
            await _administrate(self._url, f"CREATE DATABASE {self._name} TEMPLATE {self._template.name}")
            self._connection = await asyncpg.connect(self._url(self._name))
            self._fingerprint = await self._connection.fetchval(_FINGERPRINT)
        return self._url(self._name)

    async def take_back(self, kept: Collection[int]) -> None:
        """Make the database like the template again, or drop it; end all sessions but those of the ``kept`` pids."""
        made_anew = False
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            async with asyncio.timeout(_PATIENCE):
                made_anew = await self._make_anew(kept)
        if not made_anew:
            await self.drop()

    async def drop(self) -> None:
        """Drop the database, if there is one."""
        if self._connection is not None:
            self._connection.terminate()
        if self._name is not None:
            await _administrate(self._url, f"DROP DATABASE {self._name} WITH (FORCE)")
        self._name = self._connection = None

    async def _make_anew(self, kept: Collection[int]) -> bool:
        """End what others do in it, and empty it; return False when there is more to put right than its rows."""
        assert self._connection is not None
        while await self._connection.fetch(_END_OTHERS, kept):  # noqa: ASYNC110 - PostgreSQL does not tell
            await asyncio.sleep(0.001)
        await self._connection.execute(self._template.clock)
        if await self._connection.fetchval(_FINGERPRINT) != self._fingerprint:
            return False
        if await self._connection.fetchval(_SIZE) > _LARGEST:
            return False
        await self._connection.execute(self._template.empty)
        return True


class Sessions:
    """What is connected to the database that a worker lends, and handed on from test to test like it.

    A new connection costs PostgreSQL more than what most tests do with it. Whoever has used one resets it.
    """

    def __init__(self) -> None:
        self._url = ""
        self._connection: asyncpg.Connection | None = None
        self._database: Database | None = None

    @property
    def pids(self) -> list[int]:
        """The server's processes behind them."""
        return [each.get_server_pid() for each in self._open]

    @property
    def _open(self) -> list[asyncpg.Connection]:
        alone = [] if self._connection is None else [self._connection]
        pooled = [] if self._database is None else self._database._open  # noqa: SLF001 - nothing else knows them
        return [each for each in (*alone, *pooled) if not each.is_closed()]

    async def turn_to(self, url: str) -> None:
        """Close what is connected to another database than the one that is lent now."""
        if self._url != url:
            await self.close()
            self._url = url

    async def connection(self) -> asyncpg.Connection:
        """Return a connection like a new one."""
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(self._url)
        return self._connection

    def database(self) -> Database:
        """Return a `Database` like a new one, which has connections already."""
        if self._database is None:
            self._database = Database(normalise(self._url))
        return self._database

    async def reset(self) -> None:
        """Make them like new, and close them all unless each is idle and says that it is well."""
        try:
            async with asyncio.timeout(_PATIENCE):
                for each in self._open:
                    await each.reset()
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            await self.close()
        if self._database is not None:
            if self._database.in_use:
                await self.close()
            else:
                self._database.told = None
                self._database.written.clear()

    async def close(self) -> None:
        """Close them."""
        if self._connection is not None:
            self._connection.terminate()
        if self._database is not None:
            await self._database.close()
        self._connection = self._database = None


@contextmanager
def lending(url: Callable[[str], str], sessions: Sessions) -> Iterator[Callable[[], Iterator[str]]]:
    """Lend databases of the server of ``url``: each call of what this gives lends one, and takes it back when it ends.

    What is in ``sessions`` by then stays. A loop of its own, because what takes back is no coroutine.
    """
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        template = runner.run(Template.make(f"template_{os.getpid()}", url))
        databases = Databases(url, template)

        def lend() -> Iterator[str]:
            yield runner.run(databases.lend())
            runner.run(databases.take_back(sessions.pids))

        yield lend
        runner.run(databases.drop())
        runner.run(_administrate(url, f"DROP DATABASE {template.name}"))


async def _administrate(url: Callable[[str], str], statement: str) -> None:
    connection = await asyncpg.connect(url("postgres"))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
