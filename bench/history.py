"""What the history costs: deliveries beside themselves without it, reads of moments, pages of the feed, and its growth.

*Without it* is the same receiver on a database of its own, in which the function that notes the history notes nothing;
and the receiver does not look for what has no place in the feed. ``python -m bench.history`` measures this alone.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime, timedelta
from random import Random
from typing import Annotated

import asyncpg
import msgspec
import typer
import uvloop
from rich.console import Console
from sqlalchemy.engine import make_url

from bench.deliveries import Plan, alternate, rates, times
from bench.processes import receiver
from bench.report import Line, machine, print_table
from db.embedded import EmbeddedPostgres
from db.migrate import migrate
from db.url import normalise

VERSIONS = 10
"""Rows of history for each ticket."""
_DAYS = 400
_BLOCK = 50
_PAGE = 100
_A_DAY = 10_000
_MEASURED_DAYS = 30
_NOTES_NOTHING = """
CREATE OR REPLACE FUNCTION freescout_note_history(tickets bigint[], at_once boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql AS $$ BEGIN END $$
"""
_EMPTY = """
TRUNCATE freescout_ticket, freescout_history, freescout_lease_history, freescout_delivery, freescout_gap;
UPDATE freescout_feed SET (last_id, pruned_through) = (0, 0)
"""
_INDEXES = """
SELECT indexrelid::regclass::text AS name, pg_get_indexdef(indexrelid) AS definition, conname
FROM pg_index LEFT JOIN pg_constraint ON conindid = indexrelid WHERE indrelid = 'freescout_history'::regclass
"""
_TICKETS = """
INSERT INTO freescout_ticket (ticket_id, number, mailbox_id, status, state, updated_at, created_at, gone, observed_at,
                              observed_via, expires_at, truth_at)
SELECT n, n, 1, 'active', 'published', now() - interval '1 day', now() - interval '{days} days', false,
       now() - interval '1 day', 'webhook', now() + (n % 2) * interval '1 day', now() - interval '1 day'
FROM generate_series(1, {tickets}) n
"""
_DAY = """
DO $$
DECLARE changed bigint[];
BEGIN
    FOR turn IN 1..{groups} LOOP
        WITH tickets AS (
            UPDATE freescout_ticket SET status = CASE status WHEN 'active' THEN 'closed' ELSE 'active' END
            WHERE ticket_id IN (SELECT 1 + floor(random() * {tickets})::bigint FROM generate_series(1, {at_once}))
            RETURNING ticket_id
        )
        SELECT array_agg(ticket_id) INTO changed FROM tickets;
        PERFORM freescout_note_history(changed, turn % 10 > 0);
        COMMIT;
        PERFORM freescout_number_transitions(1000);
        COMMIT;
    END LOOP;
END $$
"""
"""Changes in groups; each tenth group is a poller's, and gets its places afterwards."""
_FILL = (
    # Each ticket changes every forty days; all of them in turn, as at a desk.
    """
INSERT INTO freescout_history (ticket_id, known_at, seen_at, status, state, gone, is_dated, expires_at, settled, before,
                               changed_at, via, transition_id)
SELECT ticket, at, at, settled, 'published', false, true, at + interval '1 day', settled, before, at, 'webhook', n
FROM (
    SELECT n, n * 7919 % {tickets} + 1 AS ticket,
           now() - interval '{days} days' + n * (interval '{days} days' / {rows}) AS at,
           (ARRAY['active', 'pending', 'closed'])[(n - 1) / {tickets} % 3 + 1] AS settled,
           CASE WHEN n <= {tickets} THEN 'none'
                ELSE (ARRAY['active', 'pending', 'closed'])[((n - 1) / {tickets} + 2) % 3 + 1] END AS before
    FROM generate_series(1, {rows}::bigint) n
) changes
""",
    _TICKETS,
    """
INSERT INTO freescout_lease_history (began_at, unbroken_since, renewed_at, until_at, longest)
SELECT at, now() - interval '{days} days', at + interval '1 day', at + interval '1 day 900 s', interval '1 day'
FROM (SELECT now() - n * interval '1 day' AS at FROM generate_series(1, {days}) n) days
""",
    "UPDATE freescout_feed SET (last_id, kept_since) = ({rows}, now() - interval '{days} days')",
    "UPDATE freescout_lease SET lease_until = now() + interval '1 day', renewed_by_pass = now()",
)


class Reads(msgspec.Struct, kw_only=True):
    """The median seconds of each read, and the 99th percentile of a page."""

    now: float
    then: float
    page: float
    slowest_page: float


def lines(url: str, plan: Plan, *, tickets: int) -> Iterator[Line]:
    """Measure all of it; ``url`` is of a database that is migrated, and another is made beside it."""
    yield from deliveries(url, plan)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        growth = runner.run(grow(url))
        runner.run(fill(url, tickets))
        reads = runner.run(read(url, tickets))
        runner.run(_empty(url))
    yield times(
        f"read by freescout_ticket_state_at, {tickets:,} tickets, {tickets * VERSIONS:,} rows of history",
        [reads.then],
        [reads.now],
        2,
        "µs",
        1e6,
        "freescout_ticket_state",
    )
    yield Line(
        what=f"a page of {_PAGE} transitions of {tickets * VERSIONS:,}",
        ours=f"{reads.page * 1000:.2f} ms, p99 {reads.slowest_page * 1000:.2f} ms",
        target="≤ 5 ms",
        met=reads.page <= 0.005,  # noqa: PLR2004 - the target
    )
    yield Line(
        what=f"a year's history of {_A_DAY:,} changes a day",
        ours=f"{growth * _A_DAY * 365 / 1e9:.2f} GB, {growth:.0f} bytes for each change",
    )


def deliveries(url: str, plan: Plan) -> Iterator[Line]:
    """4 KB deliveries that each change an answer, with the history and without it, in turns."""
    other = asyncio.run(make_without(url))
    with receiver(url) as ours, receiver(other, module="bench.without_history") as without:
        both = {"ours": ours, "without": without}
        sides = alternate(both, plan, url, size=4096)
    mine, theirs = sides["ours"], sides["without"]
    yield rates("4 KB deliveries that each change an answer", mine, theirs, "themselves without history", 0.93)
    yield times("… CPU of the receiver per delivery", mine.cpus, theirs.cpus, None, "µs", 1e6)
    yield times("… CPU of PostgreSQL per delivery", mine.databases, theirs.databases, None, "µs", 1e6)


async def make_without(url: str) -> str:
    """Make a database beside ``url`` whose history notes nothing, and return its URL."""
    name = f"{make_url(url).database}_without_history"
    other = make_url(url).set(database=name).render_as_string(hide_password=False)
    connection = await asyncpg.connect(url)
    await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    await migrate(normalise(other))
    connection = await asyncpg.connect(other)
    await connection.execute(_NOTES_NOTHING)
    await connection.close()
    return other


async def _empty(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(_EMPTY)
    await connection.close()


async def fill(url: str, tickets: int) -> None:
    """Fill the history as 400 days would have; the indexes are those of the migrations, made when it is filled."""
    connection = await asyncpg.connect(url)
    await connection.execute(_EMPTY)
    indexes = await connection.fetch(_INDEXES)
    for index in indexes:
        await connection.execute(
            f"DROP INDEX {index['name']}"
            if index["conname"] is None
            else f"ALTER TABLE freescout_history DROP CONSTRAINT {index['conname']}"
        )
    for statement in _FILL:
        await connection.execute(statement.format(tickets=tickets, rows=tickets * VERSIONS, days=_DAYS))
    for index in indexes:
        await connection.execute(index["definition"])
        if index["conname"] is not None:
            key = f"{index['conname']} PRIMARY KEY USING INDEX {index['name']}"
            await connection.execute(f"ALTER TABLE freescout_history ADD CONSTRAINT {key}")
    await connection.execute("VACUUM ANALYZE")
    await connection.close()


async def grow(url: str, *, days: int = _MEASURED_DAYS) -> float:
    """Return the bytes for each change after so many days of them, vacuumed as often as autovacuum would."""
    connection = await asyncpg.connect(url)
    await connection.execute(_EMPTY)
    await connection.execute(_TICKETS.format(tickets=2 * _A_DAY, days=_DAYS))
    day = _DAY.format(groups=_A_DAY // 25, at_once=25, tickets=2 * _A_DAY)
    for number in range(days):
        await connection.execute(day)
        if number % 10 == 9:  # noqa: PLR2004 - after ten days a fifth of what was written is dead
            await connection.execute("VACUUM freescout_history")
    size: int = await connection.fetchval("SELECT pg_total_relation_size('freescout_history')")
    changes: int = await connection.fetchval("SELECT count(*) FROM freescout_history WHERE transition_id IS NOT NULL")
    await connection.close()
    return size / changes


async def read(url: str, tickets: int, *, reads: int = 4000) -> Reads:
    """Read tickets now and at moments, in turns, and pages of the feed from anywhere."""
    connection = await asyncpg.connect(url)
    random = Random(1)  # noqa: S311 - the same tickets and moments each time
    now: datetime = await connection.fetchval("SELECT now()")
    answer = await connection.prepare("SELECT freescout_ticket_state($1)")
    answer_then = await connection.prepare("SELECT freescout_ticket_state_at($1, $2)")
    transitions = await connection.prepare("SELECT * FROM freescout_transitions($1, $2)")

    async def look() -> None:
        await answer.fetchval(random.randint(1, tickets))

    async def look_then() -> None:
        moment = now - timedelta(days=random.uniform(0, _DAYS - 1))
        await answer_then.fetchval(random.randint(1, tickets), moment)

    async def page() -> None:
        await transitions.fetch(random.randint(0, tickets * VERSIONS - _PAGE), _PAGE)

    took: dict[Callable[[], Awaitable[None]], list[float]] = {look: [], look_then: [], page: []}
    for _ in range(reads // _BLOCK):
        for way, seconds in took.items():
            for number in range(_BLOCK):
                began = time.perf_counter()
                await way()
                if number >= _BLOCK // 10:
                    seconds.append(time.perf_counter() - began)
    await connection.close()
    pages = sorted(took[page])
    return Reads(
        now=statistics.median(took[look]),
        then=statistics.median(took[look_then]),
        page=statistics.median(pages),
        slowest_page=pages[len(pages) * 99 // 100],
    )


def main(
    *, quick: Annotated[bool, typer.Option("--quick", help="Measure shorter, and over fewer tickets.")] = False
) -> None:
    """Measure the history alone."""
    plan = Plan(rounds=2, seconds=2) if quick else Plan(rounds=5, seconds=4)
    with EmbeddedPostgres(database="bench") as server:
        asyncio.run(migrate(normalise(server.url())))
        measured = list(lines(server.url(), plan, tickets=100_000 if quick else 1_000_000))
    print_table(Console(), measured, f"the history, on {machine()}")


if __name__ == "__main__":
    typer.run(main)
