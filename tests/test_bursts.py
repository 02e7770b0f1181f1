"""Many deliveries at once, and large ones, over real sockets: nobody fails or waits for what is another's."""

import asyncio
import itertools
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
from receiver.body import SMALL, BodyGaveWayError, Places
from receiver.endpoints import Endpoint, VerifiedDelivery, register
from receiver.metrics import Metrics
from receiver.refusals import Refusals
from settings import Secret, load_settings
from support.examples import KEY, body, signed

pytestmark = pytest.mark.usefixtures("no_housekeeping")

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
    journal = await sql.fetch("SELECT replays FROM freescout_delivery")
    assert [row["replays"] for row in journal] == [1] * len(changes), "each came once, and once more"
    assert set(outcomes) <= {"applied", "duplicate", "stale"}
    applied = await sql.fetch(
        "SELECT ticket_id, updated_at FROM freescout_delivery WHERE outcome = 'applied' ORDER BY delivery_id"
    )
    for ticket in range(1, 7):
        dates = [row["updated_at"] for row in applied if row["ticket_id"] == ticket]
        assert dates == sorted(set(dates))


class TestPlaces:
    """What has arrived is held, and who is slowest gives way."""

    def test_what_is_announced_holds_nothing(self) -> None:
        places = Places(4 * SMALL)
        with places.place(3 * SMALL), places.place(3 * SMALL) as silent, places.place(3 * SMALL) as arriving:
            arriving.grow(3 * SMALL)
            assert not silent.lost

    def test_the_slowest_gives_way_and_what_it_held_is_free(self) -> None:
        clock = iter(range(100))
        places = Places(4 * SMALL, clock=lambda: next(clock))
        with places.place(4 * SMALL) as slow, places.place(4 * SMALL) as fast:
            slow.grow(2 * SMALL)
            fast.grow(2 * SMALL)

            fast.grow(2 * SMALL)  # a second later: nothing has come of the other since

            assert "receiver.max_in_flight" in slow.lost
            assert not fast.lost
            with pytest.raises(BodyGaveWayError):
                slow.grow(1)

    def test_a_trickle_is_slower_than_what_has_just_begun(self) -> None:
        clock = [0.0]
        places = Places(4 * SMALL, clock=lambda: clock[0])
        with places.place(4 * SMALL) as trickle:
            trickle.grow(3 * SMALL)
            for _ in range(9):
                clock[0] += 1
                trickle.grow(1)
            with places.place(4 * SMALL) as fresh:
                fresh.grow(2 * SMALL)

                assert trickle.lost
                assert not fresh.lost

    def test_small_ones_have_their_own(self) -> None:
        places = Places(4 * SMALL)
        with places.place(4 * SMALL) as large, places.place(SMALL) as small:
            large.grow(4 * SMALL)
            small.grow(SMALL)

            assert not large.lost
            assert not small.lost

    def test_more_than_all_of_it_gets_all_of_it(self) -> None:
        with Places(4 * SMALL).place(9 * SMALL) as huge:
            huge.grow(9 * SMALL)

            assert not huge.lost

    def test_what_is_complete_gives_way_to_nobody(self) -> None:
        places = Places(4 * SMALL)
        with places.place(4 * SMALL) as complete, places.place(4 * SMALL) as later:
            complete.grow(3 * SMALL)
            complete.complete()

            later.grow(2 * SMALL)

            assert not complete.lost

    def test_of_too_many_the_oldest_goes_of_which_nothing_came(self) -> None:
        places = Places(4 * SMALL, most=lambda: 3)
        with places.place(1) as moving, places.place(1) as oldest, places.place(SMALL + 1) as newer:
            moving.grow(1)
            with places.place(1):
                assert "receiver.connections" in oldest.lost
                assert not moving.lost
                assert not newer.lost

    def test_of_too_many_that_trickle_the_slowest_goes(self) -> None:
        clock = itertools.count()
        places = Places(4 * SMALL, most=lambda: 2, clock=lambda: float(next(clock)))
        with places.place(9) as first, places.place(9) as second:
            first.grow(1)
            second.grow(1)
            with places.place(9) as third:
                assert first.lost
                assert not second.lost
                assert not third.lost

    async def test_large_ones_take_turns_and_the_first_comes_first(self) -> None:
        places = Places(16 * SMALL)
        done: list[int] = []

        async def arrive(number: int) -> None:
            with places.place(8 * SMALL + 1) as place:
                for _ in range(16):
                    await place.turn(SMALL // 2)
                    place.grow(SMALL // 2)
                    await asyncio.sleep(0)
                place.complete()
                done.append(number)

        await asyncio.gather(*(arrive(number) for number in range(8)))

        assert done == list(range(8)), "none gave way"
        assert places.held == 0

    async def test_a_smaller_one_for_which_there_is_room_does_not_overtake_one_that_waits(self) -> None:
        places = Places(8 * SMALL)
        with places.place(5 * SMALL) as holds, places.place(6 * SMALL) as first, places.place(2 * SMALL) as smaller:
            await holds.turn(2 * SMALL)
            waiting = [asyncio.create_task(place.turn(2 * SMALL)) for place in (first, smaller)]
            await asyncio.sleep(0)
            assert not first.has_turn
            assert not smaller.has_turn

            holds.give_way("of its own")

            async with asyncio.timeout(SOON):
                await asyncio.gather(*waiting)

    async def test_one_that_gives_up_waiting_lets_in_whoever_fits_behind_it(self) -> None:
        places = Places(8 * SMALL)
        with places.place(5 * SMALL) as holds, places.place(6 * SMALL) as gone, places.place(2 * SMALL) as fits:
            await holds.turn(2 * SMALL)
            waiting = [asyncio.create_task(place.turn(2 * SMALL)) for place in (gone, fits)]
            await asyncio.sleep(0)

            waiting[0].cancel()

            async with asyncio.timeout(SOON):
                await waiting[1]
            assert fits.has_turn
            assert not holds.lost

    async def test_one_that_has_its_turn_and_stalls_gives_way_to_one_that_waits(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("receiver.body._PATIENCE", 0.01)
        clock = [0.0]
        places = Places(4 * SMALL, clock=lambda: clock[0])
        with places.place(4 * SMALL) as stalls, places.place(4 * SMALL) as waits:
            await stalls.turn(2 * SMALL)
            stalls.grow(2 * SMALL)
            clock[0] = 60.0

            await waits.turn(2 * SMALL)

            assert "stalled" in stalls.lost
            assert waits.has_turn

    async def test_one_that_gives_up_its_turn_lets_the_next_one_have_it(self) -> None:
        places = Places(4 * SMALL)
        with places.place(4 * SMALL) as first, places.place(4 * SMALL) as gone, places.place(4 * SMALL) as next_one:
            await first.turn(2 * SMALL)
            waiting = [asyncio.create_task(place.turn(2 * SMALL)) for place in (gone, next_one)]
            await asyncio.sleep(0)
            waiting[0].cancel()
            await asyncio.gather(waiting[0], return_exceptions=True)
            assert "receiver.body_timeout" in gone.lost

            first.give_way("of its own")

            await waiting[1]
            assert next_one.has_turn


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


async def test_a_large_body_is_asked_for_whatever_others_announced(receive: Receive) -> None:
    async with receive(settings=load_settings(ROOM_FOR_ONE)) as receiver:
        first, first_writer = await announce(receiver.port)
        assert await asked(first)
        second, second_writer = await announce(receiver.port)

        assert await asked(second)
        second_writer.write(LARGE)
        assert b"applied" in await second.read()
        first_writer.write(LARGE)
        assert b"duplicate" in await first.read()

        for writer in (first_writer, second_writer):
            writer.close()
            await writer.wait_closed()


async def test_a_body_that_gives_way_is_answered_and_asked_to_come_again(log: Log) -> None:
    async def handle(_delivery: VerifiedDelivery) -> web.Response:
        return web.json_response({"outcome": "applied"})

    clock = [0.0]
    places = Places(len(LARGE) + SMALL, clock=lambda: clock[0])
    app = web.Application()
    endpoint = Endpoint(name="audit", enabled=lambda: True, secrets=lambda: [Secret(KEY)], handle=handle)
    settings = load_settings({}).receiver
    register(app, endpoint, settings=settings, metrics=Metrics(), places=places, refusals=Refusals(Metrics()))
    async with serve(app, host="127.0.0.1", port=0) as port, asyncio.timeout(SOON):
        slow, slow_writer = await announce(port)
        assert await asked(slow)
        slow_writer.write(LARGE[:-9])
        while places.held < len(LARGE) - 9:  # noqa: ASYNC110 - nobody tells of each byte
            await asyncio.sleep(0)
        clock[0] += 3
        fast, fast_writer = await announce(port)
        assert await asked(fast)
        fast_writer.write(LARGE)

        assert b"applied" in await fast.read()
        answer = await slow.readuntil(b"\r\n\r\n")
        slow_writer.write(LARGE[-9:])
        await slow.read()
        for writer in (slow_writer, fast_writer):
            writer.close()
            await writer.wait_closed()

    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 60" in answer
    assert ["receiver.max_in_flight" in line["reason"] for line in log.lines("delivery.refused")] == [True]
    assert places.held == 0
