"""``python -m bench.round_trips``: what a commit of deliveries would cost if its messages travelled together.

Nobody's code but this does so; docs/performance.md says why. The ways take turns in short blocks.
"""

import json
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta

import asyncpg
import uvloop
from rich.console import Console
from rich.table import Table

from db import statements
from db.embedded import EmbeddedPostgres
from db.group import LOCK_PATIENCE
from db.migrate import migrate
from db.url import normalise

ROUNDS, BLOCK = 15, 60
TICKETS = 10_000
_BEGIN = (
    "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL statement_timeout = 5000;"
    " SET LOCAL plan_cache_mode = force_generic_plan"
)
Way = Callable[[Sequence[int]], Awaitable[object]]


class Ways:
    """The ways to commit a group of deliveries on one connection."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._begun = False

    async def bare(self, ids: Sequence[int]) -> None:
        """One upsert into a plain table."""
        await self._connection.execute(
            "INSERT INTO bench_plain SELECT unnest($1::bigint[]), 'closed' ON CONFLICT (ticket_id) DO UPDATE"
            " SET status = excluded.status",
            ids,
        )

    async def four(self, ids: Sequence[int]) -> None:
        """As we do: begin, lock and read, write, commit."""
        await self._lock(ids)
        await self._connection.execute(statements.WRITE_DELIVERIES, *_written(ids))
        await self._connection.execute("COMMIT")

    async def write_and_commit(self, ids: Sequence[int]) -> None:
        """Write and commit in one message, whose values have to be quoted by ourselves."""
        await self._lock(ids)
        await self._connection.execute(_execute(ids) + "COMMIT")

    async def begin_ahead(self, ids: Sequence[int]) -> None:
        """Begin the next transaction with the commit of this one, and so leave the connection inside it."""
        await self._lock(ids)
        await self._connection.execute(statements.WRITE_DELIVERIES, *_written(ids))
        await self._connection.execute("COMMIT;" + _BEGIN)
        self._begun = True

    async def both(self, ids: Sequence[int]) -> None:
        """Two messages in all."""
        await self._lock(ids)
        await self._connection.execute(_execute(ids) + "COMMIT;" + _BEGIN)
        self._begun = True

    async def rest(self) -> None:
        """End what was begun ahead."""
        if self._begun:
            await self._connection.execute("COMMIT")
            self._begun = False

    async def _lock(self, ids: Sequence[int]) -> None:
        if not self._begun:
            await self._connection.execute(_BEGIN)
        await self._connection.fetch(statements.LOCK, ids, timedelta(seconds=LOCK_PATIENCE))


def _execute(ids: Sequence[int]) -> str:
    rows, journal = (each.replace("'", "''") for each in _written(ids))
    return f"EXECUTE bench_write('{rows}', '{journal}');"


def _written(ids: Sequence[int]) -> tuple[str, str]:
    """Return rows and journal as `db.store` writes them."""
    now = datetime.now(UTC).isoformat()
    said = {"status": "active", "state": "published", "updated_at": now}
    row = {
        "expires_at": now,
        "touched_at": now,
        "mailbox_id": 1,
        "created_at": now,
        "gone": False,
        "observed_at": now,
        "observed_via": "webhook",
    }
    entry = {"received_at": now, "endpoint": "audit", "event": "convo.status", "outcome": "applied", "reason": "news"}
    more = {"body_bytes": 4000, "body_ms": 1.0, "signed_with": "current", "request_id": "0" * 32}
    return (
        json.dumps([{"ticket_id": each, "number": each} | said | row for each in ids]),
        json.dumps([{"ticket_id": each} | said | entry | more for each in ids]),
    )


async def measure(url: str, size: int) -> dict[str, list[float]]:
    """Return the seconds of each commit of ``size`` deliveries, by the name of the way."""
    connection = await asyncpg.connect(url, server_settings={"jit": "off", "timezone": "UTC"})
    await connection.execute("CREATE TABLE IF NOT EXISTS bench_plain (ticket_id bigint PRIMARY KEY, status text)")
    await connection.execute(f"PREPARE bench_write(json, json) AS {statements.WRITE_DELIVERIES}")
    ways = Ways(connection)
    each: tuple[Way, ...] = (ways.bare, ways.four, ways.write_and_commit, ways.begin_ahead, ways.both)
    took: dict[str, list[float]] = {way.__name__: [] for way in each}
    everybody = range(1, TICKETS + 1)
    await ways.four(everybody)
    await ways.bare(everybody)
    for turn in range(ROUNDS):
        for way in each[turn % len(each) :] + each[: turn % len(each)]:
            for number in range(turn * BLOCK, (turn + 1) * BLOCK):
                ids = [(number * size + place) % TICKETS + 1 for place in range(size)]
                began = time.perf_counter()
                await way(ids)
                took[way.__name__].append(time.perf_counter() - began)
            await ways.rest()
    await connection.close()
    return took


async def main(url: str) -> None:
    """Measure groups of one and of 32, and print the table."""
    await migrate(normalise(url))
    alone, grouped = await measure(url, 1), await measure(url, 32)
    table = Table("commit", "one delivery, p50 ms", "32 deliveries, p50 ms")
    for way, seconds in alone.items():
        table.add_row(way, *(f"{statistics.median(each) * 1000:.2f}" for each in (seconds, grouped[way])))
    Console().print(table)


if __name__ == "__main__":
    with EmbeddedPostgres(database="bench") as server:
        uvloop.run(main(server.url()))
