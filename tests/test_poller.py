"""The poller as a process: one leads, another takes over, and it ends when it is told to."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from conftest import Log
from db.database import Database
from poller import jobs, run
from poller.host import Host, Sight
from settings import load_environment, load_settings
from simulator import ApiFault, Desk, SystemClock, serve
from support.processes import Process, process


@asynccontextmanager
async def poller(database_url: str, url: str, desk: Desk, **variables: str) -> AsyncIterator[Process]:
    async with process(
        "-m",
        "poller",
        DATABASE_URL=database_url,
        FREESCOUT_URL=url,
        **{"FREESCOUT_API_KEY": desk.api_key, "POLLER_INTERVAL": "1", **variables},
    ) as started:
        yield started


def make_desk(tickets: int = 30) -> Desk:
    desk = Desk(clock=SystemClock())
    desk.populate(tickets, days=30)
    return desk


async def until(sql: asyncpg.Connection, query: str, expected: Any) -> None:
    """Wait for the database to answer a query so."""
    async with asyncio.timeout(30):
        while await sql.fetchval(query) != expected:  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.01)


async def test_it_passes_at_once_and_again_and_asks_what_is_disputed(
    database_url: str, sql: asyncpg.Connection
) -> None:
    desk = make_desk(300)
    async with serve(desk) as url, poller(database_url, url, desk) as started:
        await started.until("pass.completed")
        assert await sql.fetchval("SELECT count(*) FROM freescout_ticket") == 300

        desk.set_status(3, "spam")
        await until(sql, "SELECT freescout_ticket_state(3)", "spam")
        # One that no pass reads again: neither among the newest nor changed lately.
        old = min((desk.get(ticket_id) for ticket_id in range(1, 101)), key=lambda row: row.updated)
        await sql.execute(
            "UPDATE freescout_ticket SET state = 'deleted', disputed_at = now(), touched_at = now(),"
            f" grace_until = now() WHERE ticket_id = {old.id}; NOTIFY freescout_dispute"
        )
        await until(sql, f"SELECT freescout_ticket_state({old.id})", old.status)

        started.running.send_signal(signal.SIGTERM)
        assert await started.end() == 0
    assert {"load.progress", "poller.leads", "poller.steps_down", "question.answered"} <= started.events()
    assert not {"poller.fault", "library.message"} & started.events()


async def test_one_of_two_leads_and_the_other_takes_over_when_it_is_killed(
    database_url: str, sql: asyncpg.Connection
) -> None:
    desk = make_desk()
    async with serve(desk) as url, poller(database_url, url, desk) as first:
        await first.until("pass.completed")
        async with poller(database_url, url, desk) as second:
            await second.until("poller.waits")

            first.running.kill()
            began = time.monotonic()
            await second.until("poller.leads")
            assert time.monotonic() - began < 10
            await second.until("pass.completed")

            second.running.send_signal(signal.SIGTERM)
            assert await second.end() == 0


async def test_sigterm_lets_another_lead_at_once_even_in_the_middle_of_a_pass(
    database_url: str, sql: asyncpg.Connection
) -> None:
    desk = make_desk()
    desk.faults.api = ApiFault.HANG
    async with serve(desk) as url, poller(database_url, url, desk) as first, poller(database_url, url, desk) as second:
        leader, waiter = await who_leads(first, second)
        began = time.monotonic()

        leader.running.send_signal(signal.SIGTERM)
        await waiter.until("poller.leads")

        assert await leader.end() == 0
        assert time.monotonic() - began < 5


async def who_leads(first: Process, second: Process) -> tuple[Process, Process]:
    waits = [asyncio.create_task(each.until("poller.waits")) for each in (first, second)]
    done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    return (second, first) if waits[0] in done else (first, second)


async def test_a_poller_whose_clock_was_set_lets_another_lead_and_leads_again_if_there_is_none(
    database: Database, sql: asyncpg.Connection, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = iter([Sight(jumped=-3600.0)])
    monkeypatch.setattr(Host, "look", lambda _self: next(seen, Sight()))
    monkeypatch.setattr(jobs, "LOOK_AT_HOST_EVERY", 0.1)
    monkeypatch.setattr(run, "TRY_EVERY", 0.01)
    desk, stop = make_desk(), asyncio.Event()

    def completed_when_it_led_again() -> bool:
        events = iter([line["event"] for line in log.lines()])
        return all(event in events for event in ("poller.steps_down", "poller.leads", "pass.completed"))

    async with serve(desk) as url:
        environment = load_environment({"FREESCOUT_URL": url, "FREESCOUT_API_KEY": desk.api_key})
        polling = asyncio.create_task(run.poll(database, environment, load_settings({}), stop))
        async with asyncio.timeout(20):
            while not completed_when_it_led_again():  # noqa: ASYNC110 - a log has no event
                await asyncio.sleep(0.01)
        stop.set()
        await polling

    events = [line["event"] for line in log.lines() if line["event"].startswith("poller.")]
    assert events[:4] == ["poller.leads", "poller.clock_jumped", "poller.steps_down", "poller.leads"]
    assert not {"poller.fault", "library.message"} & set(events)


async def test_a_killed_database_is_no_end(database_url: str, sql: asyncpg.Connection) -> None:
    desk = make_desk()
    async with serve(desk) as url, poller(database_url, url, desk) as started:
        await started.until("pass.completed")

        await sql.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )

        await started.until("poller.leads")
        await started.until("pass.completed")


async def test_a_key_that_is_refused_is_said_and_shown_and_heals(database_url: str, sql: asyncpg.Connection) -> None:
    desk = make_desk()
    desk.faults.api = ApiFault.UNAUTHORIZED
    async with serve(desk) as url, poller(database_url, url, desk) as started:
        line = await started.until("pass.failed")
        assert line["reason"] == "FreeScout answers 401"
        assert "compare FREESCOUT_API_KEY" in str(line["next_step"])
        assert desk.api_key not in str(started.lines)
        await until(sql, "SELECT desk_state FROM freescout_poller", "refused")

        desk.faults.api = None
        await started.until("pass.completed")
        await until(sql, "SELECT desk_state FROM freescout_poller", "ok")


async def test_a_key_of_two_lines_is_refused_by_what_is_in_it(
    database: Database, sql: asyncpg.Connection, log: Log
) -> None:
    variables = {"FREESCOUT_URL": "http://127.0.0.1:9", "FREESCOUT_API_KEY": "6c2b1677\nnote: of the staging desk"}
    stop = asyncio.Event()
    polling = asyncio.create_task(run.poll(database, load_environment(variables), load_settings({}), stop))

    await until(sql, "SELECT desk_state FROM freescout_poller", "refused")
    stop.set()
    await polling

    assert log.lines("pass.failed")[0]["reason"] == "there is a line end in FREESCOUT_API_KEY"
    assert "6c2b1677" not in str(log.lines())


async def test_what_cannot_poll_says_why_in_one_line(database_url: str) -> None:
    async with poller(database_url, "http://127.0.0.1:9", make_desk(0), FREESCOUT_API_KEY="") as started:
        assert await started.end() == 1

    assert "the poller needs FREESCOUT_URL and FREESCOUT_API_KEY" in str(started.lines[-1]["message"])


async def test_the_tickets_of_another_desk_are_not_touched(database_url: str, sql: asyncpg.Connection) -> None:
    await sql.execute("UPDATE freescout_lease SET desk_url = 'https://desk.example.org'")

    async with poller(database_url, "http://127.0.0.1:9", make_desk(0)) as started:
        assert await started.end() == 1

    assert "this database holds the tickets of https://desk.example.org" in str(started.lines[-1]["message"])
