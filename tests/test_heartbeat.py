"""A dead man's switch hears of each pass, in order, and never gets in its way; its URL stands nowhere."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from conftest import Log
from poller.heartbeat import Heartbeat, heartbeat
from settings import Secret

SECRET = "2f1d6c0e-ping-key"


@asynccontextmanager
async def watcher(status: int = 200) -> AsyncIterator[tuple[str, list[str]]]:
    """A service that takes heartbeats: its URL, and what it was asked."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(str(request.rel_url))
        return web.Response(status=status)

    app = web.Application()
    app.router.add_get("/{rest:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/{SECRET}", asked
    finally:
        await runner.cleanup()


async def told(beating: Heartbeat) -> None:
    """Wait until everything has been told."""
    while beating.pending:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.005)


async def test_start_success_and_failure_come_in_their_order() -> None:
    async with watcher() as (url, asked), heartbeat(lambda: Secret(f"{url}?grace=3")) as beating:
        beating.began()
        beating.completed()
        beating.began()
        beating.failed()
        await told(beating)

    assert asked == [
        f"/{SECRET}/start?grace=3",
        f"/{SECRET}?grace=3",
        f"/{SECRET}/start?grace=3",
        f"/{SECRET}/fail?grace=3",
    ]


async def test_without_a_url_nothing_is_sent() -> None:
    async with heartbeat(lambda: None) as beating:
        beating.completed()

        assert not beating.pending


async def test_a_service_that_does_not_know_start_and_fail_is_no_failure(log: Log) -> None:
    async with watcher(404) as (url, asked), heartbeat(lambda: Secret(url)) as beating:
        beating.began()
        beating.failed()
        await told(beating)

    assert len(asked) == 2
    assert log.lines("heartbeat.failed") == []


@pytest.mark.parametrize(
    ("status", "reason"), [(404, "it answers 404"), (500, "it answers 500"), (None, "it cannot be reached")]
)
async def test_a_service_that_cannot_be_told_is_said_once_without_its_url(
    log: Log, unused_tcp_port: int, status: int | None, reason: str
) -> None:
    async with watcher(status or 200) as (url, _):
        nobody = f"http://127.0.0.1:{unused_tcp_port}/{SECRET}"
        async with heartbeat(lambda: Secret(nobody if status is None else url)) as beating:
            beating.completed()
            beating.completed()
            await told(beating)

    (line,) = log.lines("heartbeat.failed")
    assert (line["reason"], line["next_step"]) == (reason, "is OPS_HEARTBEAT_URL right?")
    assert SECRET not in log.text


async def test_a_url_that_is_none_is_said_without_it(log: Log) -> None:
    async with heartbeat(lambda: Secret(f"no url {SECRET}")) as beating:
        beating.completed()
        await told(beating)

    assert [line["reason"] for line in log.lines("heartbeat.failed")] == ["it cannot be reached"]
    assert SECRET not in log.text


async def test_who_does_not_answer_holds_up_nobody(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(_address: str) -> int:
        await asyncio.Event().wait()
        return 200

    beating = Heartbeat(lambda: Secret("https://example.org"), hang)
    for _ in range(100):
        beating.completed()

    assert beating.pending <= 10
    await beating.close()
    assert beating.pending == 0
