"""The stream that keeps an open page live: it tells of changes, is bounded, and ends when it has to."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import aiohttp
import pytest

from conftest import ENVIRONMENT, Log, Receive, Receiver
from db.verdict import Headline
from freescout_audit.rule import Lease
from receiver.access import COOKIE, SESSION
from receiver.app import SHUTDOWN_TIMEOUT
from receiver.page import live
from receiver.page.live import MOST
from receiver.page.snapshot import Snapshot, Snapshots
from settings import Secret
from support.examples import NOON, at, body
from support.sessions import cookie_of, seconds_ago
from support.standings import standing

TOKEN = "a token of the operators"
STREAM = "/internal/freescout-audit/live"


@asynccontextmanager
async def following(receiver: Receiver, **headers: str) -> AsyncIterator[aiohttp.ClientResponse]:
    async with receiver.client.get(receiver.url + STREAM, headers=headers) as response:
        yield response


async def until_it_says(response: aiohttp.ClientResponse, words: bytes) -> None:
    async with asyncio.timeout(10):
        while words not in await response.content.readline():
            pass


async def test_it_tells_of_a_delivery(receiver: Receiver) -> None:
    async with following(receiver) as stream:
        assert stream.headers["Content-Type"] == "text/event-stream"
        await until_it_says(stream, b"event: changed")
        await receiver.deliver(body("closed"))

        await until_it_says(stream, b"event: changed")


async def test_a_quiet_stream_is_kept_open_by_comments(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "COMMENT_EVERY", 0.05)

    async with following(receiver) as stream:
        for _ in range(3):
            await until_it_says(stream, b": still here")


async def test_so_many_are_served_and_the_next_is_told_to_come_later(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The receiver notices that one has gone when it next writes to it.
    monkeypatch.setattr(live, "COMMENT_EVERY", 0.05)
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(following(receiver)) for _ in range(MOST + 1)]

        assert [stream.status for stream in streams] == [200] * MOST + [503]
        assert streams[-1].headers["Retry-After"] == "60"
        streams[0].close()
        async with asyncio.timeout(10):
            while (await stack.enter_async_context(following(receiver))).status != 200:  # noqa: ASYNC110 - it is asked
                await asyncio.sleep(0.1)


async def test_streams_end_with_the_process_which_waits_for_none(receive: Receive) -> None:
    async with aiohttp.ClientSession() as client, AsyncExitStack() as stack:
        receiver = await stack.enter_async_context(receive())
        stream = await client.get(receiver.url + STREAM)
        await until_it_says(stream, b"event: changed")
        began = asyncio.get_running_loop().time()
        await stack.aclose()

        assert asyncio.get_running_loop().time() - began < SHUTDOWN_TIMEOUT / 2
        await asyncio.wait_for(stream.content.read(), 1)


async def test_a_stream_ends_with_its_session(receive: Receive) -> None:
    async with receive(replace(ENVIRONMENT, ops_token=Secret(TOKEN))) as receiver:
        session = cookie_of(TOKEN, seconds_ago(SESSION - 2))
        async with following(receiver, Cookie=f"{COOKIE}={session}") as stream:
            assert stream.status == 200
            async with asyncio.timeout(10):
                await stream.content.read()
        async with following(receiver, Cookie=f"{COOKIE}={session}") as stream:
            assert stream.status == 401


def snapshot(**changes: object) -> Snapshot:
    return Snapshot(
        verdict=Headline(state="ok", sentence=["Answers can be trusted until ", NOON, "."]),
        step=None,
        lights={},
        day=None,
        latest=[],
        standing=standing(**changes),
        refusals={},
        gaps=None,
        disputes=None,
        counts=None,
        keys={},
    )


def test_a_heart_that_beats_is_no_change_of_the_page_and_a_pass_is() -> None:
    beaten = Lease(heartbeat_at=at(5), lease_until=at(800))
    beat = {"lease": beaten, "now": at(9), "leads_until": at(15), "peeked_at": at(8), "desk_answered_at": at(8)}

    assert snapshot().digest == snapshot(**beat).digest
    assert snapshot().digest != snapshot(passed_at=at(9)).digest


async def test_a_look_that_fails_is_logged_and_the_next_one_comes(
    receiver: Receiver, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with following(receiver) as stream:
        await until_it_says(stream, b"event: changed")
        current = Snapshots.current
        failed = asyncio.Event()

        async def fail_once(snapshots: Snapshots) -> Snapshot:
            if not failed.is_set():
                failed.set()
                raise ValueError("customer7@example.org")
            return await current(snapshots)

        monkeypatch.setattr(Snapshots, "current", fail_once)
        async with asyncio.timeout(10):
            await failed.wait()
        await receiver.deliver(body("closed"))

        await until_it_says(stream, b"event: changed")
    (fault,) = log.lines("receiver.fault")
    assert (fault["error"], fault["where"]) == ("ValueError", "page")
    assert "customer7" not in log.text
