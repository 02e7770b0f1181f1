"""The real processes: how they start, what they do when PostgreSQL dies, and how they end."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import aiohttp
import asyncpg
import pytest

from db.embedded import EmbeddedPostgres
from db.migrate import migrate
from db.url import normalise
from receiver.__main__ import main as receiver_main
from settings.process import run_process
from support.examples import KEY, body, signed
from support.processes import Process, process

PATH = "/api/internal/freescout-webhook/audit"


@asynccontextmanager
async def receiver(database_url: str, **variables: str) -> AsyncIterator[tuple[Process, str]]:
    async with process(
        "-m",
        "receiver",
        DATABASE_URL=database_url,
        PORT="0",
        RECEIVER_HOST="127.0.0.1",
        FLAG_FREESCOUT_WEBHOOK_RECEIVE="1",
        FREESCOUT_AUDIT_WEBHOOK_SECRET=KEY,
        **variables,
    ) as started:
        line = await started.until("receiver.started")
        yield started, f"http://127.0.0.1:{line['port']}"


async def deliver(client: aiohttp.ClientSession, url: str, ticket_id: int, status: str = "closed") -> int | None:
    """Post a delivery; return the status of the answer, None when none came."""
    raw = body(status, ticket_id=ticket_id)
    try:
        async with client.post(url + PATH, data=raw, headers=signed(raw)) as response:
            return response.status
    except aiohttp.ClientError:
        return None


async def test_sigterm_with_requests_in_flight_loses_none_that_was_answered(
    database_url: str, sql: asyncpg.Connection
) -> None:
    answered: list[int] = []
    async with receiver(database_url) as (started, url), aiohttp.ClientSession() as client:

        async def send(ticket_ids: range) -> None:
            for ticket_id in ticket_ids:
                if await deliver(client, url, ticket_id) != 200:
                    return
                answered.append(ticket_id)
                if len(answered) == 300:
                    started.running.send_signal(signal.SIGTERM)

        began = time.monotonic()
        await asyncio.gather(*(send(range(first, first + 10_000)) for first in range(1, 200_001, 10_000)))
        assert await started.end() == 0
        assert time.monotonic() - began < 10

    journal = await sql.fetch("SELECT ticket_id FROM freescout_delivery WHERE outcome = 'applied'")
    cached = await sql.fetch("SELECT ticket_id FROM freescout_ticket_cache WHERE status = 'closed'")
    assert len(answered) >= 300
    assert set(answered) <= {row["ticket_id"] for row in journal}
    assert set(answered) <= {row["ticket_id"] for row in cached}
    assert "receiver.stopping" in [line["event"] for line in started.lines]


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A server that a test may kill: it comes back."""
    with EmbeddedPostgres(tmp_path_factory.mktemp("own") / "postgres") as server:
        asyncio.run(migrate(normalise(server.url())))
        yield server


def test_killing_postgresql_under_load_gives_503_in_time_and_recovers_by_itself(own_server: EmbeddedPostgres) -> None:
    asyncio.run(kill_under_load(own_server))


async def kill_under_load(server: EmbeddedPostgres) -> None:
    answers: list[tuple[int, int | None, float]] = []
    answered, stop = asyncio.Condition(), asyncio.Event()
    async with receiver(server.url()) as (_, url), aiohttp.ClientSession() as client:

        async def load(first: int) -> None:
            ticket_id = first
            while not stop.is_set():
                began = time.monotonic()
                status = await deliver(client, url, ticket_id)
                async with answered:
                    answers.append((ticket_id, status, time.monotonic() - began))
                    answered.notify_all()
                ticket_id += 8
                if status == 503:
                    await asyncio.sleep(0.02)  # leaves the processor to PostgreSQL, which comes back

        async def until(status: int) -> None:
            """Wait for an answer of that status to a delivery that came after now."""
            after = len(answers) + 8
            async with asyncio.timeout(60), answered:
                await answered.wait_for(lambda: status in {answer[1] for answer in answers[after:]})

        senders = [asyncio.create_task(load(first)) for first in range(1, 9)]
        await until(200)
        os.kill(server.pid, signal.SIGKILL)
        await until(503)
        await until(200)

        frozen = [server.pid, *await client_backends(server)]
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        await until(503)
        for pid in reversed(frozen):
            os.kill(pid, signal.SIGCONT)
        await until(200)
        stop.set()
        await asyncio.gather(*senders)

    assert {status for _, status, _ in answers} == {200, 503}
    assert max(seconds for _, _, seconds in answers) < 5
    connection = await asyncpg.connect(server.url())
    rows = await connection.fetch("SELECT ticket_id FROM freescout_ticket_cache WHERE status = 'closed'")
    await connection.close()
    assert {ticket_id for ticket_id, status, _ in answers if status == 200} <= {row["ticket_id"] for row in rows}


def test_sigterm_while_postgresql_does_not_answer_ends_in_time(own_server: EmbeddedPostgres) -> None:
    asyncio.run(end_while_frozen(own_server))


async def end_while_frozen(server: EmbeddedPostgres) -> None:
    async with receiver(server.url()) as (started, url), aiohttp.ClientSession() as client:
        assert await asyncio.gather(*(deliver(client, url, ticket_id) for ticket_id in range(1, 21))) == [200] * 20
        frozen = [server.pid, *await client_backends(server)]
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()

        late = asyncio.create_task(deliver(client, url, 21))
        started.running.send_signal(signal.SIGTERM)
        code = await started.end()

        seconds = time.monotonic() - began
        for pid in reversed(frozen):
            os.kill(pid, signal.SIGCONT)
        assert code == 0
        assert seconds < 10
        assert await late in {503, None}


async def client_backends(server: EmbeddedPostgres) -> list[int]:
    connection = await asyncpg.connect(server.url())
    rows = await connection.fetch(
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    await connection.close()
    return [row["pid"] for row in rows]


async def test_what_cannot_run_says_why_and_what_to_do_in_one_line() -> None:
    variables = {"RECEIVER_HOST": "203.0.113.1", "DATABASE_URL": "postgres://user:hidden@h/n"}
    async with process("-m", "receiver", **variables) as started:
        assert await started.end() == 1

    (line,) = [line for line in started.lines if line["event"] == "process.failed"]
    assert "cannot listen on" in str(line["message"])
    assert "set PORT to a free" in str(line["next_step"])
    assert "hidden" not in str(started.lines)


@pytest.mark.parametrize(
    ("variables", "message", "next_step"),
    [
        ({"POLLER_INTERVAL": "600"}, "POLLER_INTERVAL must be a number from 1 to 300", ""),
        ({"CACHE_LEASE": "0"}, "CACHE_LEASE must be a number from 1 to 86400, not 0.0", ""),
        ({"FLAG_FREESCOUT_WEBHOOK_RECEIVE": "on"}, "FLAG_FREESCOUT_WEBHOOK_RECEIVE must be 1 (on) or 0 (off)", ""),
        ({"DATABASE_URL": "mysql://user:hidden@host/name"}, "DATABASE_URL must begin with postgres://", ""),
        ({"DATABASE_URL": "hidden"}, "DATABASE_URL is not a URL", ""),
        ({"FREESCOUT_URL": "https://u:hidden@desk.example.org"}, "holds a user or a password", "leave them out"),
    ],
)
def test_settings_that_are_wrong_are_said_so_in_one_line(
    variables: dict[str, str],
    message: str,
    next_step: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """As the process would, but in this one: it gets no further than its settings."""
    monkeypatch.setattr(os, "environ", variables)

    with pytest.raises(SystemExit) as ended:
        run_process("receiver", receiver_main)

    (line,) = map(json.loads, capfd.readouterr().out.splitlines())
    assert ended.value.code == 1
    assert (line["level"], line["event"]) == ("error", "process.failed")
    assert message in line["message"]
    assert next_step in line.get("next_step", "")
    assert "hidden" not in str(line)


async def test_the_release_migrates_and_can_be_run_again(postgres: object, database_url: str) -> None:
    assert callable(postgres)
    connection = await asyncpg.connect(database_url)
    await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")

    for _ in range(2):
        async with process("-m", "db.migrate", DATABASE_URL=database_url) as started:
            assert await started.end() == 0
        assert [line["event"] for line in started.lines] == ["database.migrated"]

    assert await connection.fetchval("SELECT freescout_ticket_state(7)") == "none"
    await connection.close()


async def test_a_release_without_a_database_fails_with_one_line(unused_tcp_port: int) -> None:
    async with process(
        "-m", "db.migrate", DATABASE_URL=f"postgres://u:hidden@127.0.0.1:{unused_tcp_port}/x"
    ) as started:
        assert await started.end() == 1

    assert [line["event"] for line in started.lines] == ["process.failed"]
    assert "hidden" not in str(started.lines)
