"""The load generator and the report: what they say is so."""

import asyncio
import json
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import pytest
from aiohttp import web
from sqlalchemy.engine import make_url

from bench import console, growth, history, processes, report
from bench.first_load import MemoryDesk
from bench.load import Load, Result, make, threads
from bench.processes import Server, empty_the_cache, receiver
from bench.report import Line, Point
from conftest import Receiver
from db.url import normalise
from receiver.app import serve
from support.examples import NOON

PATH = "/api/internal/freescout-webhook/audit"


async def run(port: int, *, number: int, connections: int, seconds: float, rate: float | None = None) -> Result:
    tail = threads(2000) + b"]}}"
    made = [make(each, tail, path=PATH, tickets=10, host="bench", first_at=NOON) for each in range(number)]
    return await Load(("127.0.0.1", port), iter(made), tail).run(connections, seconds, rate)


async def test_what_the_generator_sends_is_signed_news(receiver: Receiver) -> None:
    result = await run(receiver.port, number=40, connections=4, seconds=30)

    assert result.statuses == {"200": 40}
    assert result.failures == 0


async def test_an_open_load_counts_from_when_a_delivery_was_due_and_a_closed_one_hides_the_wait() -> None:
    """A server that holds its first answer back for 0.4 s, before one connection."""

    async def stall(request: web.Request) -> web.Response:
        await request.read()
        if "stalled" not in stalled:
            stalled.add("stalled")
            await asyncio.sleep(0.4)
        return web.Response()

    stalled: set[str] = set()
    app = web.Application()
    app.router.add_post(PATH, stall)
    async with serve(app, host="127.0.0.1", port=0) as port:
        closed = await run(port, number=20, connections=1, seconds=30)
        stalled.clear()
        opened = await run(port, number=20, connections=1, seconds=0.2, rate=100)

    assert closed.latencies["p100"] > 0.4 > closed.latencies["p50"] + 0.1
    assert opened.latencies["p50"] > 0.2


async def test_a_desk_that_has_a_pace_takes_as_long_for_each_row_of_a_page() -> None:
    query = {"page": "1", "pageSize": "200"}
    began = time.perf_counter()

    answer = await MemoryDesk(50, pace=0.001)("conversations", query)

    assert time.perf_counter() - began >= 0.05
    assert answer.body.count(b'"mailboxId"') == 50


async def test_the_cache_is_emptied_before_a_measurement_so_that_its_deliveries_are_news(
    database_url: str, sql: asyncpg.Connection
) -> None:
    await sql.execute("INSERT INTO freescout_ticket (ticket_id) VALUES (1); SELECT freescout_note_history('{1}')")
    await sql.execute("UPDATE freescout_lease SET complete_through = now(), seen_through = now()")

    await empty_the_cache(database_url)

    assert await sql.fetchval("SELECT count(*) FROM freescout_ticket") == 0
    assert await sql.fetchval("SELECT count(*) FROM freescout_history") == 0
    assert await sql.fetchval("SELECT seen_through IS NULL AND complete_through IS NULL FROM freescout_lease")


async def test_the_history_is_filled_as_the_product_would_and_its_indexes_are_those_of_the_migrations(
    database_url: str, sql: asyncpg.Connection
) -> None:
    indexes = "SELECT array_agg(indexdef ORDER BY indexdef) FROM pg_indexes WHERE tablename = 'freescout_history'"
    before = await sql.fetchval(indexes)

    await history.fill(database_url, 100)
    reads = await history.read(database_url, 100, reads=50)

    assert await sql.fetchval(indexes) == before
    answers = "SELECT freescout_ticket_state_at(7, now() - n * interval '1 day') FROM generate_series(0, 355, 5) n"
    assert {row[0] for row in await sql.fetch(answers)} == {"active", "pending", "closed"}
    feed = await sql.fetch("SELECT before, after FROM freescout_transitions(0, 10000) WHERE ticket_id = 7")
    assert len(feed) == history.VERSIONS
    assert [row["before"] for row in feed] == ["none", *(row["after"] for row in feed[:-1])]
    assert await sql.fetchval("SELECT freescout_ticket_state(7)") == feed[-1]["after"]
    assert min(reads.now, reads.then, reads.page) > 0


async def test_growth_is_measured_over_changes_that_were_really_noted(
    database_url: str, sql: asyncpg.Connection
) -> None:
    bytes_for_each = await history.grow(database_url, days=1)

    changes, unnumbered = await sql.fetchrow(
        "SELECT count(*), count(*) FILTER (WHERE transition_id IS NULL) FROM freescout_history"
    )
    assert 9000 < changes <= 10_000
    assert unnumbered == 0
    assert 100 < bytes_for_each < 1000


async def test_without_history_a_receiver_writes_none(database_url: str, sql: asyncpg.Connection) -> None:
    other = await history.make_without(database_url)
    try:
        with ExitStack() as stack:
            started = processes.receiver(other, module="bench.without_history")
            without = await asyncio.to_thread(stack.enter_context, started)
            await run(without.port, number=20, connections=2, seconds=30)
        connection = await asyncpg.connect(other)
        wrote = await connection.fetchrow(
            "SELECT (SELECT count(*) FROM freescout_ticket), (SELECT count(*) FROM freescout_history)"
        )
        await connection.close()
    finally:
        await sql.execute(f"DROP DATABASE {make_url(other).database} WITH (FORCE)")

    assert tuple(wrote) == (10, 0)


async def test_a_desk_in_memory_shows_what_was_updated_last_in_that_order() -> None:
    query = {"page": "1", "pageSize": "2", "sortField": "updatedAt", "sortOrder": "desc"}

    answer = await MemoryDesk(5)("conversations", query)

    listed = json.loads(answer.body)
    assert [row["id"] for row in listed["_embedded"]["conversations"]] == [5, 4]
    assert listed["page"]["totalElements"] == 5


def test_a_receiver_over_what_is_in_the_cache_leaves_it_there(database_url: str) -> None:
    async def ask(statement: str) -> object:
        sql = await asyncpg.connect(database_url)
        answer = await sql.fetchval(statement)
        await sql.close()
        return answer

    asyncio.run(ask("INSERT INTO freescout_ticket (ticket_id) VALUES (1)"))

    with receiver(database_url, empty=False):
        assert asyncio.run(ask("SELECT count(*) FROM freescout_ticket")) == 1


def test_the_cache_that_growth_fills_is_what_the_desk_has_and_is_vouched_for(database_url: str) -> None:
    filled = asyncio.run(growth._fill(database_url, 500))  # noqa: SLF001 - the steps of a measurement
    answered = asyncio.run(growth._answers(database_url, 500, reads=100))  # noqa: SLF001 - it asserts what it reads
    passed = asyncio.run(growth._passes(normalise(database_url), 500))  # noqa: SLF001

    assert "bytes a ticket" in filled["on disk"]
    assert len(answered) == 1
    assert passed["quiet pass"].startswith("3 requests, ")


def test_growth_is_a_table_with_a_column_for_each_number_of_tickets() -> None:
    table = growth._table({1_000: {"a pass": "1 s"}, 10_000_000: {"a pass": "2 s"}})  # noqa: SLF001 - as it is printed

    assert list(table) == [
        "| what | 1,000 tickets | 10,000,000 tickets |",
        "| --- | --- | --- |",
        "| a pass | 1 s | 2 s |",
    ]


def test_the_start_of_the_console_is_measured_in_turns_and_the_first_turn_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "told"
    calls = {name: (sys.executable, "-c", f"open({str(told)!r}, 'a').write('{name} ')") for name in ("bare", "help")}
    monkeypatch.setattr(console, "_CALLS", calls)

    took = console.measure("postgres://nowhere", rounds=2)

    assert told.read_text(encoding="utf-8").split() == ["bare", "help"] * 3
    assert set(took) == {"bare", "help"}
    assert min(took.values()) > 0


def test_a_call_that_fails_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_CALLS", {"status": (sys.executable, "-c", "raise SystemExit('away')")})
    monkeypatch.setattr(console, "_GOOD", {0})

    with pytest.raises(RuntimeError, match="status ended with 1: away"):
        console.measure("postgres://nowhere", rounds=1)


def test_each_call_has_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    took = {console._BARE: 0.02, console._IMPORTS: 0.5, "--help": 0.3}  # noqa: SLF001 - the names of what is measured
    took |= {"status": 0.7, "ticket": 0.8, "deliveries": 0.81, "gaps": 0.6}
    monkeypatch.setattr(console, "measure", lambda _url: took)

    lines = list(console.lines("postgres://nowhere"))

    assert [line.met for line in lines] == [True, True, True, False, True]
    assert [line.ratio for line in lines] == ["15.00", "1.40", "1.60", "1.62", "1.20"]


@pytest.fixture
def document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "performance.md"
    path.write_text("before\n<!-- bench: begin -->\nold\n<!-- bench: end -->\nafter\n", encoding="utf-8")
    monkeypatch.setattr(report, "DOCUMENT", path)
    return path


def test_the_table_takes_the_place_of_the_one_before(document: Path) -> None:
    line = Line(what="reads", ours="3 µs", ratio="1.10", target="≤ 1.2 x", met=True)

    report.write_document([line], quick=False)
    report.write_document([line], quick=False)

    text = document.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- bench: begin -->\nMeasured on ")
    assert text.endswith("\n| reads | 3 µs |  | 1.10 | ≤ 1.2 x | met |\n<!-- bench: end -->\nafter\n")
    assert text.count("| reads |") == 1
    assert "old" not in text


def test_a_plot_names_its_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "PLOT", tmp_path / "plot.svg")

    report.write_plot({"by bytes": [Point(1000, 0.5), Point(54_000_000, 150)]})

    drawn = (tmp_path / "plot.svg").read_text(encoding="utf-8")
    assert all(f">{text}<" in drawn for text in ("by bytes", "0.5 ms", "1k", "150 ms", "54M"))


def test_a_child_that_ends_while_cpu_is_counted_is_counted_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = iter([[os.getpid(), 2**30], [os.getpid()]])  # no process has a number so high
    monkeypatch.setattr(processes.Server, "_pids", lambda _: next(listed))

    assert Server(os.getpid(), 0).cpu() > 0
    assert not list(listed)


def test_a_server_that_has_ended_is_said_to_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.Server, "_pids", lambda _: [2**30])

    with pytest.raises(RuntimeError, match="has ended"):
        Server(2**30, 0).cpu()
