"""``python -m bench.round_trips``: what a commit of deliveries costs, by how many messages it takes.

The ways take turns in short blocks.
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
_PATIENCE = timedelta(seconds=LOCK_PATIENCE)
Way = Callable[[Sequence[int]], Awaitable[object]]


class Ways:
    """The ways to commit a group of deliveries on one connection."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def bare(self, ids: Sequence[int]) -> None:
        """One upsert into a plain table."""
        await self._connection.execute(
            "INSERT INTO bench_plain SELECT unnest($1::bigint[]), 'closed' ON CONFLICT (ticket_id) DO UPDATE"
            " SET status = excluded.status",
            ids,
        )

    async def two(self, ids: Sequence[int]) -> None:
        """As we do: read, and write what is still as it was read."""
        read = await self._connection.fetchrow(statements.READ_TICKETS, ids)
        rows, journal = _written(ids)
        versions = read["versions"], read["lease_version"]
        await self._connection.execute(statements.WRITE_TICKETS, rows, *versions, journal, _PATIENCE)

    async def under_locks(self, ids: Sequence[int]) -> None:
        """As we do when somebody was faster: begin, lock, read, write, commit."""
        await self._connection.execute(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL statement_timeout = 5000"
        )
        await self._connection.fetch(statements.LOCK, ids, _PATIENCE)
        await self.two(ids)
        await self._connection.execute("COMMIT")

    async def in_a_transaction(self, ids: Sequence[int]) -> None:
        """Without locks, but with a transaction around the two."""
        await self._connection.execute("BEGIN")
        await self.two(ids)
        await self._connection.execute("COMMIT")

    async def not_durable(self, ids: Sequence[int]) -> None:
        """As the poller does: a transaction that does not wait for the disk."""
        await self._connection.execute("BEGIN; SET LOCAL synchronous_commit = off")
        await self.two(ids)
        await self._connection.execute("COMMIT")


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
    ways = Ways(connection)
    each: tuple[Way, ...] = (ways.bare, ways.two, ways.in_a_transaction, ways.not_durable, ways.under_locks)
    took: dict[str, list[float]] = {way.__name__: [] for way in each}
    everybody = range(1, TICKETS + 1)
    await ways.two(everybody)
    await ways.bare(everybody)
    for turn in range(ROUNDS):
        for way in each[turn % len(each) :] + each[: turn % len(each)]:
            for number in range(turn * BLOCK, (turn + 1) * BLOCK):
                ids = [(number * size + place) % TICKETS + 1 for place in range(size)]
                began = time.perf_counter()
                await way(ids)
                took[way.__name__].append(time.perf_counter() - began)
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
