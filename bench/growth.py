"""How it grows with the number of tickets: bytes on disk, and what each look at the cache takes.

``python -m bench.growth --tickets 1000000 --tickets 10000000`` fills a database of its own for each number, measures,
and drops it; ten million take a quarter of an hour and 10 GB of disk. It is no part of ``make bench``.

The tickets are written by SQL, all of them at rest, as a first load leaves them, but for the history's row of each.
"""

import asyncio
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import asyncpg
import typer
from sqlalchemy.engine import URL

from bench.first_load import BEGAN, PAGE, MemoryDesk
from bench.passes import OVERLAP, TimedDatabase
from bench.processes import load, receiver
from bench.report import ROOT, machine
from db import counts, lease
from db.census import Cell, Census
from db.database import Database
from db.embedded import EmbeddedPostgres
from db.embedded.binaries import find_binaries
from db.migrate import migrate
from db.tickets import read_holdings
from db.url import normalise
from freescout_audit.logs import set_up_logs
from freescout_audit.rule import Terms
from poller.freescout import FreeScout
from poller.passes import Passes

_LONG = 3600.0
"""Seconds that a measurement may take which has no deadline of its own here."""
_ROUNDS = 5
_READS = 20_000
_READ_AGAIN = 100_000
_RATE = 50
_FILL = """
INSERT INTO freescout_ticket (ticket_id, number, mailbox_id, status, state, updated_at, created_at, gone, observed_at,
                              observed_via, expires_at, truth_at, truth_until)
SELECT n, n, 1, 'closed', 'published', date, date, false, now(), 'poller', 'epoch', now(), now()
FROM (SELECT n, $2::timestamptz + (n - 1) * interval '1 s' AS date FROM generate_series(1, $1::bigint) n) made
"""
_LEASE = """
UPDATE freescout_lease SET complete_through = now(), seen_through = now(), covered_through = now(),
                           renewed_by_pass = now(), lease_until = now() + interval '1 day', heartbeat_at = now()
"""
_SIZES = """
SELECT 'freescout_ticket' AS name, pg_table_size('freescout_ticket') AS bytes
UNION ALL SELECT indexrelid::regclass::text, pg_relation_size(indexrelid)
FROM pg_index WHERE indrelid = 'freescout_ticket'::regclass ORDER BY 2 DESC
"""

_JOURNALLED = 100_000
_JOURNAL = """
INSERT INTO freescout_delivery (received_at, endpoint, event, ticket_id, outcome, reason, status, state, updated_at,
                                body_bytes, body_ms, signed_with, request_id, key_fingerprint, digest)
SELECT now() - n * interval '5 s', 'audit', 'convo.status', 1 + n % 20000, 'applied', 'news', 'closed', 'published',
       now() - n * interval '5 s', 4000, 1.5, 'current', md5(n::text), 'c0ffee00', md5('digest ' || n)
FROM generate_series(1, $1::bigint) n
"""

Measured = Mapping[str, str]
"""What was measured, as it is shown, by its name."""


def _seconds(value: float) -> str:
    if value < 0.001:  # noqa: PLR2004 - below, milliseconds have no digits left
        return f"{value * 1e6:.0f} µs"
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.1f} s" if value < 60 else f"{value:.0f} s"  # noqa: PLR2004


def _bytes(value: float) -> str:
    return f"{value / 1e6:,.1f} MB" if value < 1e7 else f"{value / 1e6:,.0f} MB"  # noqa: PLR2004 - what can be read


async def _fill(url: str, tickets: int) -> Measured:
    connection = await asyncpg.connect(url)
    began = time.perf_counter()
    await connection.execute(_FILL, tickets, BEGAN)
    filled = time.perf_counter() - began
    began = time.perf_counter()
    await connection.execute("VACUUM ANALYZE freescout_ticket")
    vacuumed = time.perf_counter() - began
    await connection.execute(_LEASE)
    sizes = {row["name"]: row["bytes"] for row in await connection.fetch(_SIZES)}
    await connection.close()
    whole = sum(sizes.values())
    return {
        "written by SQL": _seconds(filled),
        "`VACUUM ANALYZE`": _seconds(vacuumed),
        "on disk": f"{_bytes(whole)} ({whole / tickets:.0f} bytes a ticket)",
        **{f"… `{name}`": _bytes(size) for name, size in sizes.items()},
    }


async def _journal(url: str) -> Measured:
    """Write a journal, and take it away again."""
    connection = await asyncpg.connect(url)
    await connection.execute(_JOURNAL, _JOURNALLED)
    size = await connection.fetchval("SELECT pg_total_relation_size('freescout_delivery')")
    await connection.execute("TRUNCATE freescout_delivery")
    await connection.close()
    return {"a delivery in the journal, indexes included": f"{size / _JOURNALLED:.0f} bytes"}


async def _answers(url: str, tickets: int, *, reads: int = _READS) -> Measured:
    """Ask for tickets at random, one after the other, on one connection."""
    connection = await asyncpg.connect(url)
    asked = await connection.prepare("SELECT freescout_ticket_state($1)")
    chosen = random.Random(1)  # noqa: S311 - the same ones each time
    took = []
    for _ in range(reads):
        ticket_id = chosen.randint(1, tickets)
        began = time.perf_counter()
        state = await asked.fetchval(ticket_id)
        took.append(time.perf_counter() - began)
        assert state == "closed", state  # noqa: S101 - the lease vouches
    await connection.close()
    cuts = statistics.quantiles(took[reads // 10 :], n=100)
    return {"`freescout_ticket_state`, p50 and p99": f"{_seconds(cuts[49])}, {_seconds(cuts[98])}"}


async def _passes(url: URL, tickets: int) -> Measured:
    """Make passes over a desk that holds just what the cache holds, with the deadlines of a real poller."""
    database = TimedDatabase(url)
    desk = FreeScout(MemoryDesk(tickets))
    passes = Passes(desk, database, terms=Terms(), overlap=OVERLAP, page_size=PAGE)
    costs = []
    for _ in range(_ROUNDS + 1):
        database.seconds, requests = 0.0, desk.requests
        await passes.run()
        costs.append((database.seconds, desk.requests - requests))
    await database.close()
    seconds = statistics.median(seconds for seconds, _ in costs[1:])
    return {
        "quiet pass": f"{costs[-1][1]} requests, {_seconds(seconds)} of database",
        "… the first of a process, which looks at every stamp": f"{_seconds(costs[0][0])} of database",
    }


async def _full_reading(url: URL, tickets: int) -> Measured:
    """Read some tickets once more, as each night."""
    read = min(tickets, _READ_AGAIN)
    database = Database(url)
    passes = Passes(FreeScout(MemoryDesk(read)), database, terms=Terms(), overlap=OVERLAP, page_size=PAGE)
    async with database.session() as connection:
        before = await connection.driver.fetchval("SELECT pg_current_wal_insert_lsn()")
        await passes.read_everything(pause=lambda _seconds: asyncio.sleep(0))
        written = await connection.driver.fetchval("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1)", before)
    await database.close()
    return {"the nightly reading, WAL a ticket": f"{written / read:.0f} bytes"}


async def _looks(url: URL) -> Measured:
    """Look at the whole cache as a poller, a receiver and the console do."""
    database = Database(url, patience=_LONG)
    census = Census(database)

    async def median(look: Any) -> str:
        took = []
        for _ in range(_ROUNDS):
            began = time.perf_counter()
            await look()
            took.append(time.perf_counter() - began)
        return _seconds(statistics.median(took))

    measured = {
        "census: all living tickets counted": await median(lambda: census.count(Cell())),
        "census: the date that halves them": await median(lambda: census.middle(Cell())),
        "`status`: what is held": await median(lambda: read_holdings(database)),
        "all tickets counted by what they read (once a minute)": await median(
            lambda: counts.count(database, deadline=_LONG)
        ),
    }
    await database.close()
    return measured


def _commands(url: str) -> Measured:
    """Call the console, from the shell to the prompt."""
    measured = {}
    for name in ("status", "doctor"):
        took = []
        for _ in range(_ROUNDS):
            began = time.perf_counter()
            subprocess.run(  # noqa: S603 - our own
                [ROOT / "bin" / "freescout-audit", name],
                cwd=ROOT,
                env=os.environ | {"DATABASE_URL": url},
                check=False,  # doctor is red: no poller runs
                capture_output=True,
            )
            took.append(time.perf_counter() - began)
        measured[f"`freescout-audit {name}`"] = _seconds(statistics.median(took))
    return measured


def _receiver(url: str) -> Measured:
    """Open the page, and send deliveries about tickets that are held."""
    with receiver(url, empty=False) as mine:
        address = f"http://127.0.0.1:{mine.port}/internal/freescout-audit/"
        opened = []
        for _ in range(_ROUNDS):
            began = time.perf_counter()
            with urllib.request.urlopen(address) as answer:
                answer.read()
            opened.append(time.perf_counter() - began)
            time.sleep(1.1)  # a snapshot is shown for a second
        since = datetime.now(UTC) + timedelta(seconds=10)
        sent = load(mine.port, rate=_RATE, seconds=8, number=_RATE * 10, since=since).latencies
    return {
        "the page, first and then": f"{_seconds(opened[0])}, {_seconds(statistics.median(opened[1:]))}",
        f"a delivery, at {_RATE}/s, p50 and p99": f"{_seconds(sent['p50'])}, {_seconds(sent['p99'])}",
    }


def _backup(url: str, copy_url: str, folder: Path) -> Measured:
    """Back the database up and bring it back with PostgreSQL's own programs."""
    programs = find_binaries(None, lambda _line: None).postgres.parent
    file = folder / "cache.dump"

    def run(program: str, *arguments: str) -> float:
        began = time.perf_counter()
        subprocess.run([programs / program, *arguments], check=True)  # noqa: S603 - PostgreSQL's own
        return time.perf_counter() - began

    made = run("pg_dump", "--format=custom", f"--file={file}", url)
    restored = run("pg_restore", "--exit-on-error", "--no-owner", f"--dbname={copy_url}", str(file))
    return {
        "`pg_dump --format=custom`": f"{_seconds(made)}, {_bytes(file.stat().st_size)}",
        "`pg_restore`": _seconds(restored),
    }


async def _after_a_restore(url: URL) -> Measured:
    """What ``reconcile --full --restored`` begins with."""
    database = Database(url)
    began = time.perf_counter()
    await lease.vouch_for_nothing(database)
    took = time.perf_counter() - began
    await database.close()
    return {"… until the copy reads `none`": _seconds(took)}


async def _administrate(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(statement)
    await connection.close()


def measure(server: EmbeddedPostgres, tickets: int) -> Measured:
    """Fill a database with so many tickets, measure, and drop it."""
    name, copy = "growth", "growth_restored"
    admin, url, copy_url = server.url(), server.url(name), server.url(copy)
    for each in (name, copy):
        asyncio.run(_administrate(admin, f"DROP DATABASE IF EXISTS {each} WITH (FORCE)"))
        asyncio.run(_administrate(admin, f"CREATE DATABASE {each}"))
    try:
        asyncio.run(migrate(normalise(url)))
        measured = dict(asyncio.run(_fill(url, tickets)))
        measured |= asyncio.run(_journal(url))
        measured |= asyncio.run(_answers(url, tickets))
        measured |= asyncio.run(_passes(normalise(url), tickets))
        measured |= asyncio.run(_looks(normalise(url)))
        measured |= asyncio.run(_full_reading(normalise(url), tickets))
        measured |= _commands(url)
        with tempfile.TemporaryDirectory() as folder:
            measured |= _backup(url, copy_url, Path(folder))
        measured |= asyncio.run(_after_a_restore(normalise(copy_url)))
        measured |= _receiver(url)
    finally:
        for each in (name, copy):
            asyncio.run(_administrate(admin, f"DROP DATABASE IF EXISTS {each} WITH (FORCE)"))
    return measured


def _table(columns: Mapping[int, Measured]) -> Sequence[str]:
    """Return the lines of a table in Markdown, a column for each number of tickets."""
    names = list(next(iter(columns.values())))
    head = ["what", *(f"{tickets:,} tickets" for tickets in columns)]
    rows = [[name, *(measured[name] for measured in columns.values())] for name in names]
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def main(
    tickets: Annotated[
        list[int] | None, typer.Option(help="How many tickets; give it again for another column.")
    ] = None,
) -> None:
    """Measure each number of tickets, and print a table for docs/growth.md."""
    set_up_logs(process="bench", style="text", level="error")
    columns = {}
    with EmbeddedPostgres(database="bench") as server:
        for number in tickets or [100_000]:
            columns[number] = measure(server, number)
    sys.stdout.write("\n".join([f"{datetime.now(UTC):%Y-%m-%d}, {machine()}", "", *_table(columns)]) + "\n")


if __name__ == "__main__":
    typer.run(main)
