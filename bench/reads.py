"""Readers in a queue, by SQLAlchemy's pool and by ours: what a read takes, its wait for a connection included.

More readers than connections want one row each, again and again. ``python -m bench.reads`` prints the table.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import cast

import asyncpg
from rich.console import Console
from rich.table import Table
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import create_async_engine

from db import statements
from db.database import Database
from db.embedded import EmbeddedPostgres
from db.migrate import migrate
from db.url import normalise

CONNECTIONS = 5
READERS = 200
READS = 50

Read = Callable[[], Awaitable[None]]


async def main() -> None:
    """Run both sides in turn, twice, on one database."""
    with EmbeddedPostgres(database="bench") as server:
        url = normalise(server.url())
        await migrate(url)
        table = Table("pool", "reads/s", "p50 ms", "p99 ms", title=f"{READERS} readers, {CONNECTIONS} connections")
        tails: dict[str, float] = {}
        for _ in range(2):
            for name, make in (("SQLAlchemy's pool", _theirs), ("FIFO limit (ours)", _ours)):
                rate, median, tail = await _measure(*make(url))
                tails[name] = tail
                table.add_row(name, f"{rate:,.0f}", f"{median * 1000:.1f}", f"{tail * 1000:.1f}")
        theirs, ours = tails.values()
        console = Console()
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
            await connection.fetchrow(statements.READ_TICKET, 7)

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
    asyncio.run(main())
