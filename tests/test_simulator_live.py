"""The simulator on real sockets, and the desk that lives by itself."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from conftest import Log
from freescout_audit.signature import verify_freescout_hmac
from simulator import (
    TRUTH_PATH,
    Api,
    ApiFault,
    ApiRequest,
    ApiResponse,
    Attempt,
    Change,
    DeliveryError,
    Desk,
    Fate,
    HttpTransport,
    ManualClock,
    Worker,
    run_life,
    serve,
)
from simulator.testing import Recorder

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def desk() -> Desk:
    return Desk(clock=ManualClock(), seed=1)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        yield session


def headers(desk: Desk) -> dict[str, str]:
    return {"X-FreeScout-API-Key": desk.api_key, "Accept": "application/json"}


async def test_the_api_is_served_with_freescouts_headers(desk: Desk, session: aiohttp.ClientSession) -> None:
    ticket = desk.customer_writes()

    async with serve(desk) as url, session.get(f"{url}/api/conversations/{ticket}", headers=headers(desk)) as answer:
        body = await answer.json()

    assert (answer.status, body["id"]) == (200, ticket)
    assert answer.headers["Server"] == "nginx/1.22.1"
    assert answer.headers["Date"] == "Mon, 02 Mar 2026 09:00:00 GMT"
    assert answer.headers["Transfer-Encoding"] == "chunked"
    assert "Content-Length" not in answer.headers


async def test_writes_go_over_the_wire(desk: Desk, session: aiohttp.ClientSession) -> None:
    ticket = desk.customer_writes()
    api = Api(desk)

    async with serve(desk, api=api) as url:
        put = session.put(
            f"{url}/api/conversations/{ticket}", headers=headers(desk), json={"byUser": 1, "status": "closed"}
        )
        async with put as answer:
            assert (answer.status, await answer.read()) == (204, b"")

    assert desk.get(ticket).status == "closed"
    assert api.count == 1


async def test_the_truth_can_be_read_without_a_key(desk: Desk, session: aiohttp.ClientSession) -> None:
    desk.customer_writes(status="closed")
    desk.faults.api = ApiFault.SERVER_ERROR

    async with serve(desk) as url, session.get(url + TRUTH_PATH) as answer:
        truth = await answer.json()

    assert truth == {"1": {"status": "closed", "state": "published", "updatedAt": "2026-03-02T09:00:00Z"}}


async def test_a_body_breaks_off_half_way(desk: Desk, session: aiohttp.ClientSession) -> None:
    desk.populate(50)
    desk.faults.api = ApiFault.BROKEN_BODY

    async with serve(desk) as url, session.get(f"{url}/api/conversations", headers=headers(desk)) as answer:
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()

    assert answer.status == 200


async def test_a_hanging_answer_never_comes_and_does_not_hold_up_the_end(desk: Desk) -> None:
    desk.faults.api = ApiFault.HANG

    async with (
        serve(desk) as url,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.2)) as session,
    ):
        with pytest.raises(TimeoutError):
            await session.get(f"{url}/api/conversations", headers=headers(desk))


async def test_deliveries_go_over_the_wire_as_freescout_sends_them(desk: Desk) -> None:
    arrived: list[tuple[dict[str, str], bytes]] = []

    async def take(request: web.Request) -> web.Response:
        arrived.append((dict(request.headers), await request.read()))
        return web.Response(status=[200, 500][len(arrived) - 1])

    async with listening(take) as url, HttpTransport() as transport:
        desk.register_webhook(url)
        worker = Worker(desk)
        desk.customer_writes(text="x" * 1_200_000)
        desk.set_status(1, "closed")
        reports = await worker.run_due(transport)

    assert [report.fate for report in reports] == [Fate.SENT, Fate.FAILED]
    (first, body), (second, _) = arrived
    assert set(second) == {
        "Host",
        "User-Agent",
        "Content-Type",
        "X-FreeScout-Event",
        "X-FreeScout-Signature",
        "Content-Length",
        "Expect",
    }
    assert first["Expect"] == "100-continue"
    assert first["User-Agent"] == "GuzzleHttp/8"
    assert verify_freescout_hmac(body, first["X-FreeScout-Signature"], secrets=[desk.webhook_key])
    assert json.loads(body)["status"] == "active"


async def test_a_receiver_that_is_not_there_is_a_failure(unused_tcp_port: int) -> None:
    delivery = Attempt(f"http://127.0.0.1:{unused_tcp_port}/", (), b"{}", "convo.status", 1, 1)

    async with HttpTransport() as transport:
        with pytest.raises(DeliveryError):
            await transport(delivery)


async def test_life_goes_on_by_itself_and_says_what_changed(desk: Desk) -> None:
    clock = desk.clock
    assert isinstance(clock, ManualClock)
    desk.register_webhook("http://receiver.test/")
    worker, received, changes = Worker(desk), Recorder(), list[Change]()

    async def sleep(seconds: float) -> None:
        await worker.run_until_idle(received, clock, within=seconds)
        clock.advance(max(0.0, seconds - 5))

    await run_life(desk, every=10, lose_chance=0.2, steps=200, report=changes.append, sleep=sleep)
    await worker.run_until_idle(received, clock)

    assert len(changes) == 200
    assert {change.conversation_id for change in changes if change.before == ""} <= set(range(1, 500))
    assert len({change.operation for change in changes}) >= 10
    assert any(change.lost for change in changes)
    assert any(not change.deliveries and change.before != change.after for change in changes) or any(
        change.operation == "forwarded" for change in changes
    )
    for change in changes:
        if change.lost:
            assert change.deliveries
            assert change.before != change.after


async def test_what_life_loses_never_arrives_though_the_desk_changed(desk: Desk) -> None:
    clock = desk.clock
    assert isinstance(clock, ManualClock)
    desk.register_webhook("http://receiver.test/")
    worker, received = Worker(desk), Recorder()

    async def sleep(seconds: float) -> None:
        clock.advance(seconds)

    await run_life(desk, lose_chance=1.0, steps=30, sleep=sleep)
    reports = await worker.run_until_idle(received, clock)

    lost = [report for report in reports if report.fate is Fate.LOST]
    assert lost
    assert len(list(desk.truth())) > 5


async def test_the_command_serves_prints_and_ends_cleanly(session: aiohttp.ClientSession, unused_tcp_port: int) -> None:
    arrived = asyncio.Event()

    async def take(_: web.Request) -> web.Response:
        arrived.set()
        return web.Response(status=200)

    async with listening(take) as target:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "simulator", "--port", str(unused_tcp_port), "--target", target, "--rate", "6000", "--seed", "5"),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "COLUMNS": "200"},
        )
        try:
            await asyncio.wait_for(arrived.wait(), timeout=20)
            async with session.get(f"http://127.0.0.1:{unused_tcp_port}{TRUTH_PATH}") as answer:
                truth = await answer.json()
            process.send_signal(signal.SIGTERM)
            out, _ = await asyncio.wait_for(process.communicate(), timeout=10)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    assert process.returncode == 0
    assert len(truth) >= 20
    assert f"http://127.0.0.1:{unused_tcp_port}/api" in out.decode()
    assert "ticket" in out.decode()


class listening:  # noqa: N801 - reads as a verb where it is used
    """A receiver on a free port."""

    def __init__(self, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> None:
        app = web.Application(client_max_size=0)
        app.router.add_post("/", handler)
        self._runner = web.AppRunner(app, access_log=None)

    async def __aenter__(self) -> str:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/"

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()


async def test_who_goes_away_before_the_answer_is_no_error(desk: Desk, log: Log) -> None:
    asked, desk.faults.slow = asyncio.Event(), 0.05

    class Listening(Api):
        def answer(self, request: ApiRequest) -> ApiResponse:
            asked.set()
            return super().answer(request)

    async with serve(desk, api=Listening(desk)) as url:
        _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"GET /api/conversations HTTP/1.1\r\nHost: desk\r\n\r\n")
        await asked.wait()
        writer.transport.abort()

    assert log.lines("library.message") == []


@pytest.mark.parametrize("rounds", range(4))
async def test_who_connects_as_the_desk_ends_leaves_no_connection_behind(desk: Desk, log: Log, rounds: int) -> None:
    async with serve(desk) as url:
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))):
            for _ in range(rounds):
                await asyncio.sleep(0)

    assert log.lines("library.message") == []
