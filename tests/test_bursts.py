"""Many deliveries at once, and large ones, over real sockets: nobody fails or waits for what is another's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import aiohttp
import asyncpg
import pytest
from aiohttp import web

from conftest import ENVIRONMENT, Log, Receive, Receiver
from db.database import Database
from db.url import normalise
from receiver.app import create_app, serve
from receiver.body import SMALL, NoPlaceError, Places
from receiver.endpoints import Endpoint, VerifiedDelivery, register
from receiver.metrics import Metrics
from settings import Secret, load_settings
from support.examples import KEY, body, signed

SOON = 10.0
MANY = 40


async def burst(receiver: Receiver, status: str = "closed", updated: int = 1) -> list[tuple[int, str | None]]:
    """Deliver news about many tickets at once; return each status code and outcome."""
    bodies = [body(status, updated, ticket_id=ticket) for ticket in range(1, MANY + 1)]
    async with asyncio.timeout(SOON):
        told = await asyncio.gather(*(receiver.deliver(raw) for raw in bodies))
    return [(code, answer.get("outcome")) for code, answer in told]


async def test_a_burst_is_committed_in_far_fewer_transactions_than_it_has_deliveries(
    receiver: Receiver, sql: asyncpg.Connection
) -> None:
    assert await burst(receiver) == [(200, "applied")] * MANY

    assert await sql.fetchval("SELECT count(*) FROM freescout_ticket WHERE status = 'closed'") == MANY
    transactions = await sql.fetchval("SELECT count(DISTINCT xmin::text) FROM freescout_delivery")
    assert transactions <= MANY // 2


async def test_one_row_that_the_database_refuses_fails_no_neighbour(
    receiver: Receiver, sql: asyncpg.Connection, log: Log
) -> None:
    await sql.execute("ALTER TABLE freescout_ticket ADD CHECK (ticket_id <> 7)")

    told = await burst(receiver)

    assert told[6] == (503, None)
    assert told[:6] + told[7:] == [(200, "applied")] * (MANY - 1)
    assert [line["error"] for line in log.lines("receiver.fault")] == ["CheckViolationError"]


async def test_a_ticket_that_somebody_has_locked_holds_up_no_other(receiver: Receiver, sql: asyncpg.Connection) -> None:
    await burst(receiver, "active", 0)
    async with sql.transaction():
        await sql.execute("SELECT FROM freescout_ticket WHERE ticket_id = 7 FOR UPDATE")
        locked = asyncio.create_task(receiver.deliver(body("closed", 1)))
        others = [receiver.deliver(body("closed", 1, ticket_id=ticket)) for ticket in range(8, MANY)]

        told = await asyncio.gather(*others)

        assert {code for code, _ in told} == {200}
        assert not locked.done()
    assert await locked == (200, {"outcome": "applied"})


@pytest.fixture
async def pair(database_url: str) -> AsyncIterator[list[str]]:
    """Two receivers on one database; their addresses."""
    urls = []
    async with AsyncExitStack() as stack:
        for _ in range(2):
            database = Database(normalise(database_url))
            stack.push_async_callback(database.close)
            app = create_app(database, ENVIRONMENT, load_settings({}))
            port = await stack.enter_async_context(serve(app, host="127.0.0.1", port=0))
            urls.append(f"http://127.0.0.1:{port}/api/internal/freescout-webhook/audit")
        yield urls


async def test_two_receivers_on_one_database_lose_nothing_and_end_with_the_newest(
    pair: list[str], sql: asyncpg.Connection
) -> None:
    """Each change of a few tickets is delivered to both, in opposite orders, all at once."""
    changes = [(ticket, second) for second in range(12) for ticket in range(1, 7)]

    async with aiohttp.ClientSession() as client:

        async def deliver(url: str, ticket: int, second: int) -> str:
            raw = body(("active", "closed")[second % 2], second, ticket_id=ticket)
            async with client.post(url, data=raw, headers=signed(raw)) as response:
                assert response.status == 200
                answer = await response.json()
                return str(answer["outcome"])

        outcomes = await asyncio.gather(
            *(deliver(pair[0], *change) for change in changes),
            *(deliver(pair[1], *change) for change in reversed(changes)),
        )

    rows = await sql.fetch("SELECT status, extract(second FROM updated_at)::int AS second FROM freescout_ticket")
    assert [tuple(row) for row in rows] == [("closed", 11)] * 6
    assert await sql.fetchval("SELECT count(*) FROM freescout_delivery") == 2 * len(changes)
    assert set(outcomes) <= {"applied", "duplicate", "stale"}
    applied = await sql.fetch(
        "SELECT ticket_id, updated_at FROM freescout_delivery WHERE outcome = 'applied' ORDER BY delivery_id"
    )
    for ticket in range(1, 7):
        dates = [row["updated_at"] for row in applied if row["ticket_id"] == ticket]
        assert dates == sorted(set(dates))


class TestPlaces:
    async def test_large_ones_wait_in_turn_and_small_ones_beside_them_do_not(self) -> None:
        places, order = Places(4 * SMALL), []

        async def use(name: str, size: int) -> None:
            await places.take(size, SOON)
            order.append(name)
            await asyncio.sleep(0)
            places.leave(size)

        await places.take(3 * SMALL, SOON)
        waiting = [asyncio.create_task(use(name, 2 * SMALL)) for name in ("first", "second")]
        await asyncio.sleep(0)
        await use("small", SMALL)
        places.leave(3 * SMALL)
        await asyncio.gather(*waiting)

        assert order == ["small", "first", "second"]

    async def test_nobody_overtakes_who_waits_for_more(self) -> None:
        places = Places(4 * SMALL)
        await places.take(2 * SMALL, SOON)
        large = asyncio.create_task(places.take(4 * SMALL, SOON))
        await asyncio.sleep(0)
        later = asyncio.create_task(places.take(SMALL + 1, SOON))
        await asyncio.sleep(0)

        assert not later.done(), "it would fit beside the first"
        places.leave(2 * SMALL)
        await large
        assert not later.done()
        places.leave(4 * SMALL)
        await later

    async def test_more_than_all_of_it_gets_all_of_it(self) -> None:
        places = Places(4 * SMALL)

        await places.take(9 * SMALL, SOON)

        with pytest.raises(NoPlaceError, match=r"receiver\.max_in_flight"):
            await places.take(SMALL + 1, 0.01)
        places.leave(9 * SMALL)
        await places.take(4 * SMALL, SOON)

    async def test_who_gives_up_takes_no_place_along(self) -> None:
        places = Places(4 * SMALL)
        await places.take(4 * SMALL, SOON)
        waiting = [asyncio.create_task(places.take(4 * SMALL, SOON)) for _ in range(3)]
        await asyncio.sleep(0)

        waiting[0].cancel()
        places.leave(4 * SMALL)
        waiting[1].cancel()  # in the very step in which its turn has come
        await asyncio.gather(*waiting[:2], return_exceptions=True)

        async with asyncio.timeout(SOON):
            await waiting[2]

    async def test_who_gives_up_lets_those_behind_it_in_who_fit(self) -> None:
        places = Places(4 * SMALL)
        await places.take(2 * SMALL, SOON)
        large = asyncio.create_task(places.take(4 * SMALL, SOON))
        await asyncio.sleep(0)
        later = asyncio.create_task(places.take(SMALL + 1, SOON))
        await asyncio.sleep(0)

        large.cancel()

        async with asyncio.timeout(SOON / 2):
            await later


LARGE = body("closed", 1, _embedded={"threads": [{"id": 1, "body": "x" * 2 * SMALL}]})
ROOM_FOR_ONE = {"RECEIVER_MAX_IN_FLIGHT": str(len(LARGE) + SMALL)}


async def announce(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a large delivery's head, which asks whether it may send its body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    headers = signed(LARGE) | {"Content-Length": str(len(LARGE)), "Expect": "100-continue", "Connection": "close"}
    lines = [f"{name}: {value}" for name, value in headers.items()]
    head = ["POST /api/internal/freescout-webhook/audit HTTP/1.1", "Host: localhost", *lines, "", ""]
    writer.write("\r\n".join(head).encode())
    return reader, writer


async def asked(reader: asyncio.StreamReader) -> bool:
    """Wait for the server's word; whether it is to go on."""
    async with asyncio.timeout(SOON):
        return (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")


async def test_a_large_body_waits_to_be_asked_for_while_another_comes_in_and_small_ones_are_answered(
    receive: Receive,
) -> None:
    async with receive(settings=load_settings(ROOM_FOR_ONE)) as receiver:
        first, first_writer = await announce(receiver.port)
        assert await asked(first)
        second, second_writer = await announce(receiver.port)
        turn = asyncio.create_task(asked(second))
        assert await receiver.deliver(body("closed", 1, ticket_id=8)) == (200, {"outcome": "applied"})
        assert not turn.done()

        first_writer.write(LARGE)
        assert b"applied" in await first.read()
        assert await turn
        second_writer.write(LARGE)

        assert b"duplicate" in await second.read()
        for writer in (first_writer, second_writer):
            writer.close()
            await writer.wait_closed()


async def test_a_large_body_that_gets_no_place_in_time_is_asked_to_come_again(log: Log) -> None:
    async def handle(_delivery: VerifiedDelivery) -> web.Response:
        pytest.fail("it has no place")

    settings = load_settings({"RECEIVER_BODY_TIMEOUT": "0.1"}).receiver
    places = Places(len(LARGE))
    await places.take(len(LARGE), SOON)
    app = web.Application()
    endpoint = Endpoint(name="audit", enabled=lambda: True, secrets=lambda: [Secret(KEY)], handle=handle)
    register(app, endpoint, settings=settings, metrics=Metrics(), places=places)
    async with serve(app, host="127.0.0.1", port=0) as port:
        reader, writer = await announce(port)
        answer = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 60" in answer
    assert ["receiver.max_in_flight" in line["reason"] for line in log.lines("delivery.refused")] == [True]
