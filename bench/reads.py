"""What a read takes: one at a time against a bare SELECT by primary key, and many in a queue for few connections.

One at a time, the ways to read take turns in short blocks, so that a noisy machine disturbs all of them alike. In the
queue more readers than connections want one row each, again and again, by SQLAlchemy's pool and by ours.
``python -m bench.reads`` prints both tables.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import cast

import asyncpg
import msgspec
import uvloop
from rich.console import Console
from rich.table import Table
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import create_async_engine

from bench.report import Line, print_table
from db import statements
from db.database import Database
from db.embedded import EmbeddedPostgres
from db.migrate import migrate
from db.reads import read_from
from db.url import normalise

CONNECTIONS = 5
READERS = 200
READS = 50
_BARE = "SELECT status FROM bench_read WHERE ticket_id = $1"
_BLOCK = 50
"""Reads in a row by one way, one at a time, before it is the next one's turn."""

Read = Callable[[], Awaitable[None]]


class Reads(msgspec.Struct, kw_only=True):
    """The median seconds of a read, by who answers."""

    bare: float
    pooled: float
    """A bare SELECT too, on a connection that the pool of `Database` lends."""
    function: float
    function_by_lease: float
    read_ticket: float
    read_ticket_by_lease: float


async def one_at_a_time(url: str, *, tickets: int = 100_000, reads: int = 4000) -> Reads:
    """Read tickets that vouch for themselves, and tickets that only the lease vouches for."""
    setting = await asyncpg.connect(url)
    await setting.execute(
        "DROP TABLE IF EXISTS bench_read; CREATE TABLE bench_read (ticket_id bigint PRIMARY KEY, status text)"
    )
    await setting.execute("INSERT INTO bench_read SELECT id, 'closed' FROM generate_series(1, $1) id", tickets)
    await setting.execute("TRUNCATE freescout_ticket")
    await setting.execute(
        "INSERT INTO freescout_ticket (ticket_id, status, state, updated_at, gone, expires_at)"
        " SELECT id, 'closed', 'published', now(), false, now() + (id % 2) * interval '1 day'"
        " FROM generate_series(1, $1) id",
        tickets,
    )
    await setting.execute("UPDATE freescout_lease SET lease_until = now() + interval '1 day'")
    await setting.execute("VACUUM ANALYZE freescout_ticket, bench_read, freescout_lease")
    bare = await setting.prepare(_BARE)
    function = await setting.prepare("SELECT freescout_ticket_state($1)")
    database = Database(normalise(url))
    ways: tuple[tuple[Callable[[int], Awaitable[object]], int], ...] = (
        (bare.fetchval, 1),
        (partial(_pooled, database), 1),
        (function.fetchval, 1),
        (function.fetchval, 0),
        (partial(read_from, database), 1),
        (partial(read_from, database), 0),
    )
    took: list[list[float]] = [[] for _ in ways]
    for block in range(reads // _BLOCK):
        for (way, odd), times in zip(ways, took, strict=True):
            for number in range(_BLOCK):
                ticket = (block * _BLOCK + number) * 37 % (tickets // 2) * 2 + 2 - odd
                began = time.perf_counter()
                await way(ticket)
                # The first ones find their server process asleep, which is not what is compared.
                if number >= _BLOCK // 10:
                    times.append(time.perf_counter() - began)
    await database.close()
    await setting.close()
    return Reads(**dict(zip(Reads.__struct_fields__, map(statistics.median, took), strict=True)))


async def _pooled(database: Database, ticket_id: int) -> object:
    async with database.connection(1.0) as connection:
        return await connection.driver.fetchval(_BARE, ticket_id)


def lines(reads: Reads) -> list[Line]:
    """Return the reads as lines of the report."""
    bare = ("a bare SELECT by primary key", reads.bare, 1.2)
    pooled = ("a bare SELECT through the same pool", reads.pooled, 3.0)
    return [
        Line(
            what=what,
            ours=f"{value * 1e6:.0f} µs",
            against=f"{name}: {theirs * 1e6:.0f} µs",
            ratio=f"{value / theirs:.2f}",
            target=f"≤ {target:g} x",
            met=value / theirs <= target,
        )
        for what, value, (name, theirs, target) in (
            ("read by freescout_ticket_state", reads.function, bare),
            ("… of a ticket that only the lease vouches for", reads.function_by_lease, bare),
            ("read by read_ticket", reads.read_ticket, pooled),
            ("… of a ticket that only the lease vouches for", reads.read_ticket_by_lease, pooled),
        )
    ]


async def main() -> None:
    """Print what one read takes, and then run both pools in turn, twice, on one database."""
    console = Console()
    with EmbeddedPostgres(database="bench") as server:
        url = normalise(server.url())
        await migrate(url)
        print_table(console, lines(await one_at_a_time(server.url())), "one read at a time")
        table = Table("pool", "reads/s", "p50 ms", "p99 ms", title=f"{READERS} readers, {CONNECTIONS} connections")
        tails: dict[str, float] = {}
        for _ in range(2):
            for name, make in (("SQLAlchemy's pool", _theirs), ("FIFO limit (ours)", _ours)):
                rate, median, tail = await _measure(*make(url))
                tails[name] = tail
                table.add_row(name, f"{rate:,.0f}", f"{median * 1000:.1f}", f"{tail * 1000:.1f}")
        theirs, ours = tails.values()
        console.print(table)
        console.print(f"p99, theirs over ours: {theirs / ours:.1f}")


def _theirs(url: URL) -> tuple[Read, Callable[[], Awaitable[None]]]:
    engine = create_async_engine(
        url,
        isolation_level="AUTOCOMMIT",
        pool_size=CONNECTIONS,
        max_overflow=0,
        pool_reset_on_return=None,
    )

    async def read() -> None:
        async with engine.connect() as holder:
            raw = await holder.get_raw_connection()
            await cast("asyncpg.Connection", raw.driver_connection).fetchrow(statements.READ_TICKET, 7)

    return read, engine.dispose


def _ours(url: URL) -> tuple[Read, Callable[[], Awaitable[None]]]:
    database = Database(url, connections=CONNECTIONS)

    async def read() -> None:
        async with database.connection() as connection:
            await connection.driver.fetchrow(statements.READ_TICKET, 7)

    return read, database.close


async def _measure(read: Read, close: Callable[[], Awaitable[None]]) -> tuple[float, float, float]:
    """Return reads a second, and the median and 99th percentile in seconds."""
    took: list[float] = []

    async def reader() -> None:
        for _ in range(READS):
            began = time.perf_counter()
            await read()
            took.append(time.perf_counter() - began)

    await read()
    began = time.perf_counter()
    await asyncio.gather(*(reader() for _ in range(READERS)))
    seconds = time.perf_counter() - began
    await close()
    took.sort()
    return len(took) / seconds, took[len(took) // 2], took[len(took) * 99 // 100]


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
