"""The page over a million tickets and a week of journal: what it takes, and what it does to deliveries beside it.

``python -m bench.page`` measures this alone.
"""

import asyncio
import statistics
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import asyncpg
from rich.console import Console

from bench.deliveries import Plan, times
from bench.processes import load, receiver
from bench.report import Line, machine, print_table
from db.embedded import EmbeddedPostgres
from db.migrate import migrate
from db.url import normalise

TICKETS = 1_000_000
_RATE = 500
_TARGET = 0.2
_OPENED = 100
_AT_WORK = 5
"""Seconds after which a receiver has counted its tickets and pruned, as it does at its start."""
_PROCESSES = ("web.1", "web.2", "poller.1")
_FILL = (
    "TRUNCATE freescout_ticket, freescout_delivery, freescout_gap, freescout_minute",
    """
INSERT INTO freescout_ticket (ticket_id, number, mailbox_id, status, state, updated_at, created_at, gone, observed_at,
                              observed_via, expires_at, truth_at)
SELECT n, n, 1, 'closed', 'published', now() - n * interval '10 s', now() - n * interval '10 s', false, now(), 'poller',
       now(), now() FROM generate_series(1, {tickets}) n
""",
    """
INSERT INTO freescout_delivery (received_at, endpoint, event, ticket_id, outcome, reason, status, state, updated_at,
                                body_bytes, body_ms, signed_with)
SELECT now() - n * interval '5 s', 'audit', 'convo.status', n, 'applied', 'news', 'closed', 'published',
       now() - n * interval '5 s', 4000, 1, 'current' FROM generate_series(1, 7 * 86400 / 5) n
""",
    """
INSERT INTO freescout_gap (ticket_id, cached_status, cached_state, true_status, true_state, changed_at, healed_at,
                           verdict)
SELECT n, 'active', 'published', 'closed', 'published', now() - n * interval '600 s', now() - n * interval '590 s',
       'raced' FROM generate_series(1, 7 * 144) n
""",
    """
INSERT INTO freescout_minute (process, ended_at, push, pull, desk, database, applied, duplicate, passes, lags)
SELECT process, now() - n * interval '60 s', 'ok', 'ok', 'ok', 'ok', 10, 2, 1, ARRAY[1,2,3,4,5,6,0,0,0,0,0,0,0]
FROM unnest($1::text[]) process, generate_series(1, 7 * 1440) n
""",
    "UPDATE freescout_lease SET lease_until = now() + interval '1 day', renewed_by_pass = now(), heartbeat_at = now()",
    "ANALYZE",
)


async def fill(url: str, tickets: int) -> None:
    """Fill a database with tickets, a delivery each five seconds of a week, and the week's minutes."""
    connection = await asyncpg.connect(url)
    try:
        for statement in _FILL:
            arguments = [list(_PROCESSES)] if "$1" in statement else []
            await connection.execute(statement.format(tickets=tickets), *arguments)
    finally:
        await connection.close()


def lines(url: str, plan: Plan, *, tickets: int) -> Iterator[Line]:
    """Measure on a database that is filled."""
    with receiver(url, empty=False) as mine:
        address = f"http://127.0.0.1:{mine.port}/internal/freescout-audit/"
        time.sleep(_AT_WORK)
        first = _open(address)
        again = []
        for _ in range(10):
            time.sleep(1.1)  # a snapshot is shown for a second
            again.append(_open(address))
        took = max(first, statistics.median(again))
        yield Line(
            what=f"the page, {tickets:,} tickets and a week of journal",
            ours=f"{first * 1000:.0f} ms first, {statistics.median(again) * 1000:.0f} ms then",
            target=f"≤ {_TARGET * 1000:.0f} ms",
            met=took <= _TARGET,
        )
        idle, busy = [], []
        for _ in range(plan.rounds):
            idle.append(_p99(mine.port, plan))
            with _opening(address, every=plan.seconds / _OPENED):
                busy.append(_p99(mine.port, plan))
        yield times(f"p99 at {_RATE}/s while the page is opened {_OPENED} times", busy, idle, 2, "ms", 1e3, name="idle")


def _p99(port: int, plan: Plan) -> float:
    number, since = int(plan.seconds * _RATE * 1.2), datetime.now(UTC) + timedelta(seconds=10)
    return load(port, rate=_RATE, seconds=plan.seconds, number=number, since=since).latencies["p99"]


def _open(address: str) -> float:
    """Open the page and return the seconds it took."""
    began = time.perf_counter()
    with urllib.request.urlopen(address) as answer:  # noqa: S310 - our own address
        answer.read()
    return time.perf_counter() - began


@contextmanager
def _opening(address: str, *, every: float) -> Iterator[None]:
    """Open the page again and again, so many seconds apart, until the block ends."""
    over = threading.Event()

    def open_again_and_again() -> None:
        while not over.wait(every):
            _open(address)

    thread = threading.Thread(target=open_again_and_again)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


if __name__ == "__main__":
    with EmbeddedPostgres(database="bench") as server:
        asyncio.run(migrate(normalise(server.url())))
        asyncio.run(fill(server.url(), TICKETS))
        measured = list(lines(server.url(), Plan(rounds=3, seconds=4), tickets=TICKETS))
    print_table(Console(), measured, f"the page, on {machine()}")
