"""A sender without a key can delay, fill or blind nothing, over real sockets."""

import asyncio
import os
import resource
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest
from aiohttp import web

from conftest import ENVIRONMENT, Log, Receive, Receiver
from freescout_audit.events import DELIVERY_REFUSED, DELIVERY_UNVERIFIED
from proof.strangers.__main__ import judge
from proof.strangers.flood import Flood
from proof.strangers.load import run
from receiver import refusals as why
from receiver.app import CONNECTIONS, serve
from receiver.connections import FILES_KEPT, LARGEST_HEAD, Connections
from receiver.doorman import Doorman
from receiver.endpoints import Endpoint, VerifiedDelivery
from receiver.metrics import Metrics
from receiver.refusals import ALL_AT_ONCE, AT_ONCE, EVERY, Refusals
from settings import Secret, load_settings
from support.examples import body, signed

PATH = "/api/internal/freescout-webhook/audit"
SOON = 10.0


def head(*lines: str, path: str = PATH, method: str = "POST") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()


def delivery(raw: bytes = body()) -> bytes:
    return head(*(f"{name}: {value}" for name, value in signed(raw).items()), f"Content-Length: {len(raw)}") + raw


@asynccontextmanager
async def connected(
    receiver: Receiver, raw: bytes = b""
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection on which these bytes have been sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", receiver.port)
    writer.write(raw)
    try:
        async with asyncio.timeout(SOON):
            yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def sent(receiver: Receiver, raw: bytes) -> bytes:
    """Send bytes and return what comes until the receiver ends the connection."""
    async with connected(receiver, raw) as (reader, _):
        return await reader.read()


class TestHeads:
    @pytest.mark.parametrize("half", [b"", head()[:-9]], ids=["nothing", "half a head"])
    async def test_one_that_does_not_end_in_time_is_given_up(self, receive: Receive, log: Log, half: bytes) -> None:
        async with receive(settings=load_settings({"RECEIVER_HEAD_TIMEOUT": "0.1"})) as receiver:
            assert await sent(receiver, half) == b""

        assert ["not complete in 0.1 s" in line["reason"] for line in log.lines("connection.closed")] == [True]

    async def test_a_second_one_has_its_own_time(self, receive: Receive, log: Log) -> None:
        async with (
            receive(settings=load_settings({"RECEIVER_HEAD_TIMEOUT": "0.1"})) as receiver,
            connected(receiver, delivery()) as (reader, writer),
        ):
            await reader.readuntil(b'"}')
            writer.write(head()[:20])

            assert await reader.read() == b""
        assert len(log.lines("connection.closed")) == 1

    async def test_one_that_is_too_large_ends_the_connection(self, receiver: Receiver, log: Log) -> None:
        lines = [f"X-{number}: {'x' * 8000}" for number in range(LARGEST_HEAD // 8000 + 1)]

        with suppress(ConnectionError):
            assert await sent(receiver, head(*lines)[:-2]) == b""

        assert [f"longer than {LARGEST_HEAD} bytes" in line["reason"] for line in log.lines("connection.closed")] == [
            True
        ]

    async def test_what_is_no_http_is_one_refusal_in_the_log(self, receiver: Receiver, log: Log) -> None:
        for _ in range(AT_ONCE + 2):
            assert (await sent(receiver, b"\x16\x03\x01\x02\r\n\r\n")).startswith(b"HTTP/1.0 400 ")

        assert [line["status"] for line in log.lines("delivery.refused")] == [400] * AT_ONCE
        assert log.lines("library.message") == []


class TestConnections:
    async def test_an_idle_one_goes_in_silence(self, receive: Receive, log: Log) -> None:
        async with receive(settings=load_settings({"RECEIVER_IDLE_TIMEOUT": "0.1"})) as receiver:
            assert (await sent(receiver, delivery())).startswith(b"HTTP/1.1 200 ")

        assert log.lines("connection.closed") == []

    async def test_of_too_many_the_one_that_waited_longest_goes_and_a_delivery_gets_in(
        self, receive: Receive, log: Log
    ) -> None:
        async with receive(settings=load_settings({"RECEIVER_CONNECTIONS": "16"})) as receiver:
            silent = [await asyncio.open_connection("127.0.0.1", receiver.port) for _ in range(16)]

            assert (await receiver.deliver(body()))[0] == 200

            async with asyncio.timeout(SOON):
                assert await silent[0][0].read() == b""
            assert not any(reader.at_eof() for reader, _ in silent[1:])
            for _, writer in silent:
                writer.close()
        (line,) = log.lines("connection.closed")
        assert line["reason"].startswith("more than 16 connections, receiver.connections")

    async def test_bodies_that_never_come_make_room_for_one_that_does(self, receive: Receive, log: Log) -> None:
        async with receive(settings=load_settings({"RECEIVER_CONNECTIONS": "16"})) as receiver:
            silent = [await asyncio.open_connection("127.0.0.1", receiver.port) for _ in range(8)]
            for _, writer in silent:
                writer.write(head("Content-Length: 9"))
            raw = body()
            asks = head(
                *(f"{name}: {value}" for name, value in signed(raw).items()),
                f"Content-Length: {len(raw)}",
                "Expect: 100-continue",
            )

            async with connected(receiver, asks) as (reader, writer):
                assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
                writer.write(raw)
                assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200 ")

            async with asyncio.timeout(SOON):
                assert (await silent[0][0].readuntil(b"\r\n")).startswith(b"HTTP/1.1 503 ")
                silent[0][1].write(b"x" * 9)
                await silent[0][0].read()
            for _, writer in silent:
                writer.close()
        assert [line["status"] for line in log.lines("delivery.refused")] == [503]

    @pytest.mark.parametrize("wrong", [head("Content-Length: 2") + b"{}", head(path="/nothing", method="GET")])
    async def test_after_401_and_404_it_ends(self, receiver: Receiver, wrong: bytes) -> None:
        answer = await sent(receiver, wrong + delivery())

        assert answer[9:12] in {b"401", b"404"}
        assert answer.count(b"HTTP/1.1") == 1

    async def test_many_requests_at_once_let_others_in_between(self) -> None:
        order: list[str] = []

        async def page(request: web.Request) -> web.Response:
            order.append(request.query_string)
            return web.Response()

        app = guarded()
        app.router.add_get("/page", page)
        async with serve(app, host="127.0.0.1", port=0) as port, asyncio.timeout(SOON):
            _, greedy = await asyncio.open_connection("127.0.0.1", port)
            reader, modest = await asyncio.open_connection("127.0.0.1", port)
            greedy.write(head(path="/page?many", method="GET") * 30)
            modest.write(head(path="/page?one", method="GET"))
            await reader.readuntil(b"\r\n\r\n")
            for writer in (greedy, modest):
                writer.close()

        assert order.index("one") < 5

    async def test_few_descriptors_lower_the_bound_and_the_log_says_so(self, receive: Receive, log: Log) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES_KEPT + 8, hard))
        try:
            async with receive() as receiver:
                silent = [await asyncio.open_connection("127.0.0.1", receiver.port) for _ in range(8)]
                assert (await receiver.deliver(body()))[0] == 200
                for _, writer in silent:
                    writer.close()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

        (line,) = log.lines("connection.closed")
        assert line["reason"].startswith(f"more than 8 connections, what `ulimit -n`, {FILES_KEPT + 8}, leaves")

    async def test_without_a_descriptor_those_that_waited_longest_make_room(self, log: Log) -> None:
        app = guarded()
        async with serve(app, host="127.0.0.1", port=0) as port, asyncio.timeout(SOON):
            silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]
            await asyncio.sleep(0)
            taken = _take_all_descriptors()
            try:
                app[CONNECTIONS].sweep()
            finally:
                for descriptor in taken:
                    os.close(descriptor)

            assert await silent[0][0].read() == b""
            assert not silent[7][0].at_eof()
            for _, writer in silent:
                writer.close()
        assert "no descriptor is left (ulimit -n is" in log.lines("connection.closed")[0]["reason"]


def guarded() -> web.Application:
    """An application without a page."""
    connections = Connections(load_settings({}).receiver, Refusals(Metrics()))
    app = web.Application(middlewares=[connections.guard])
    app[CONNECTIONS] = connections
    return app


def _take_all_descriptors() -> list[int]:
    taken: list[int] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 4096), hard))
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return taken


async def late(receiver: Receiver, begins: bytes, rest: bytes) -> bytes:
    """Send the beginning of a body, and the rest of it only after the answer."""
    async with connected(receiver, head(f"Content-Length: {len(begins + rest)}") + begins) as (reader, writer):
        answer = await reader.readuntil(b"\r\n\r\n")
        writer.write(rest)
        await reader.read()
        return answer


class TestBodies:
    async def test_one_that_does_not_begin_in_time_is_answered_408(self, receive: Receive, log: Log) -> None:
        async with receive(settings=load_settings({"RECEIVER_FIRST_BYTE_TIMEOUT": "0.1"})) as receiver:
            assert (await late(receiver, b"", b"x" * 9)).startswith(b"HTTP/1.1 408 ")

        assert [line["reason"] for line in log.lines("delivery.refused")] == [
            "0 bytes came in 0.1 s, and then not the rest"
        ]

    async def test_one_that_falls_below_the_minimum_rate_is_answered_408(self, receive: Receive, log: Log) -> None:
        slow = {"RECEIVER_FIRST_BYTE_TIMEOUT": "0.1", "RECEIVER_MIN_RATE": "1000"}
        async with receive(settings=load_settings(slow)) as receiver:
            assert (await late(receiver, b"x" * 100, b"x" * 800)).startswith(b"HTTP/1.1 408 ")

        assert [line["reason"] for line in log.lines("delivery.refused")] == [
            "100 bytes came in 0.2 s, and then not the rest"
        ]

    async def test_one_that_came_at_once_and_did_not_say_how_large_is_refused_all_the_same(
        self, receive: Receive
    ) -> None:
        async with receive(settings=load_settings({"RECEIVER_MAX_BODY": "1024"})) as receiver:
            raw = head("Transfer-Encoding: chunked") + b"401\r\n" + b"x" * 0x401 + b"\r\n0\r\n\r\n"

            assert (await sent(receiver, raw)).startswith(b"HTTP/1.1 413 ")

    async def test_an_empty_one_is_named_and_not_the_key(self, receiver: Receiver, log: Log) -> None:
        assert (await receiver.deliver(b"", headers=signed(b"null")))[0] == 401

        (line,) = log.lines("delivery.empty")
        assert (line["status"], line["bytes"]) == (401, 0)
        assert log.lines("delivery.unverified") == []


class TestPipelines:
    async def test_the_body_of_a_request_that_came_with_another_is_no_head(self, receiver: Receiver) -> None:
        large = body("closed", 1, _embedded={"threads": [{"id": 1, "body": "x" * 3 * LARGEST_HEAD}]})
        both = delivery() + delivery(large)
        async with connected(receiver, both[: -2 * LARGEST_HEAD]) as (reader, writer):
            assert (await reader.readline()).split()[1] == b"200"
            for start in range(len(both) - 2 * LARGEST_HEAD, len(both), 10_000):
                writer.write(both[start : start + 10_000])
                await writer.drain()
                await asyncio.sleep(0)
            answers = await reader.readuntil(b'"outcome": "applied"}')
            answers += await reader.readuntil(b'"outcome": "applied"}')

        assert answers.count(b"HTTP/1.1 200 OK") == 1, "the second one's; the first line has been read"


class TestPaths:
    async def test_a_trailing_slash_is_taken(self, receiver: Receiver) -> None:
        raw = body()
        async with receiver.client.post(receiver.url + PATH + "/", data=raw, headers=signed(raw)) as response:
            assert response.status == 200

    @pytest.mark.parametrize(
        ("path", "reason"),
        [
            ("/api/internal/freescout-webhook", "the last part is missing"),
            ("/api/internal/freescout-webhook/", "the last part is missing"),
            ("//api/internal/freescout-webhook/audit", "a slash is doubled"),
            ("/api/internal/freescout-webhook//audit", "a slash is doubled"),
            ("/api/internal/freescout-webhook/audits", "no endpoint has this name"),
        ],
    )
    async def test_one_that_is_nearly_ours_is_named(self, receiver: Receiver, log: Log, path: str, reason: str) -> None:
        assert (await sent(receiver, head("Content-Length: 0", path=path))).startswith(b"HTTP/1.1 404 ")

        (line,) = log.lines("delivery.misdirected")
        assert line["reason"] == f"{reason}: deliveries go to {PATH}, RV-4's to /api/internal/freescout-webhook/rbac"

    async def test_any_other_is_a_refusal_that_quotes_nothing(self, receiver: Receiver, log: Log) -> None:
        assert (await sent(receiver, head(path="/customer7", method="GET"))).startswith(b"HTTP/1.1 404 ")

        assert [line["status"] for line in log.lines("delivery.refused")] == [404]
        assert "customer7" not in log.text


class TestTheLog:
    def test_takes_a_few_lines_of_a_kind_and_then_one_with_what_was_left_out(self, log: Log) -> None:
        clock = [0.0]
        metrics = Metrics()
        refusals = Refusals(metrics, clock=lambda: clock[0])
        for number in range(100):
            refusals.note(why.UNVERIFIED, bytes=number)
        assert [line["bytes"] for line in log.lines()] == list(range(AT_ONCE))

        refusals.tell()
        assert len(log.lines()) == AT_ONCE
        clock[0] = EVERY
        refusals.tell()

        last = log.lines("delivery.unverified")[-1]
        assert (last["bytes"], last["left_out"], last["status"]) == (99, 100 - AT_ONCE - 1, 401)
        refusals.tell()
        assert len(log.lines()) == AT_ONCE + 1
        assert b'freescout_audit_refusals_total{kind="unverified",status="401"} 100.0' in metrics.exposition()

    def test_takes_fewer_than_20_lines_a_second_of_all_kinds_together(self, log: Log) -> None:
        clock = [0.0]
        refusals = Refusals(Metrics(), clock=lambda: clock[0])
        kinds = [replace(why.TOO_SLOW, kind=f"kind {number}", event=DELIVERY_REFUSED) for number in range(50)]
        for tick in range(10):
            clock[0] = tick / 10
            for kind in kinds * 5:
                refusals.note(kind)

        assert ALL_AT_ONCE <= len(log.lines()) < 20

    async def test_of_an_endpoint_is_bounded_while_every_answer_is_counted(self, receiver: Receiver, log: Log) -> None:
        for _ in range(20):
            assert (await receiver.deliver(body(), headers={}))[0] == 401

        assert len(log.lines(DELIVERY_UNVERIFIED.name)) == AT_ONCE
        async with receiver.client.get(receiver.url + "/metrics") as response:
            assert 'freescout_audit_refusals_total{kind="unverified",status="401"} 20.0' in await response.text()


class TestLoopbackOnly:
    @pytest.mark.parametrize(
        "header",
        [
            "X-Forwarded-For: 203.0.113.7",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Host: localhost",
            "X-Real-IP: 127.0.0.1",
            "Forwarded: for=127.0.0.1",
            "Via: 1.1 proxy",
        ],
    )
    async def test_a_proxy_is_known_by_what_it_adds(self, receiver: Receiver, header: str) -> None:
        answer = await sent(receiver, head(header, path="/metrics", method="GET"))

        assert answer.startswith(b"HTTP/1.1 401 ")

    @pytest.mark.parametrize(
        ("host", "status"),
        [
            ("localhost", b"200"),
            ("LOCALHOST:8080", b"200"),
            ("127.0.0.1", b"200"),
            ("127.9.9.9:1", b"200"),
            ("[::1]:8080", b"200"),
            ("audit.example.org", b"401"),
            ("localhost.example.org", b"401"),
            ("203.0.113.7:8080", b"401"),
            ("[", b"401"),
        ],
    )
    async def test_a_proxy_is_known_by_whom_it_was_asked_for(
        self, receiver: Receiver, host: str, status: bytes
    ) -> None:
        lines = ["GET /metrics HTTP/1.1", f"Host: {host}", "Connection: close", "", ""]

        assert (await sent(receiver, "\r\n".join(lines).encode()))[9:12] == status

    async def test_a_proxy_is_known_by_an_old_version_or_no_host(self, receiver: Receiver) -> None:
        assert (await sent(receiver, b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n"))[9:12] == b"401"
        assert (await sent(receiver, b"GET /metrics HTTP/1.1\r\nConnection: close\r\n\r\n"))[9:12] in {b"400", b"401"}

    async def test_the_token_opens_it_through_any_proxy(self, receive: Receive) -> None:
        async with receive(replace(ENVIRONMENT, ops_token=Secret("the token"))) as receiver:
            lines = ("Authorization: Bearer the token", "Via: 1.1 proxy", "Connection: close")
            answer = await sent(receiver, head(*lines, path="/metrics", method="GET"))

        assert answer.startswith(b"HTTP/1.1 200 ")


def test_every_delivery_is_answered_while_three_floods_come(database_url: str) -> None:
    """A short run of ``make strangers``, without its clock."""
    flood = Flood(bodies=80, heads=120, unsigned=60, reconnects=80, seconds=1.4)

    seen = asyncio.run(run(database_url, flood, files=FILES_KEPT + 100, settle=0.2, rate=20))

    assert set(seen.statuses) == {"200"}
    assert seen.floods["unsigned"]["401"] > 10
    assert judge(seen, timed=False) == []


class TestTheDoor:
    """What is evident from the first bytes is answered there, and as it would be inside."""

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"X-FreeScout-Signature": ""},
            {"X-FreeScout-Signature": "x" * 27 + "="},
            signed(b"another body"),
            signed(body(), key="another key"),
        ],
        ids=["none", "empty", "wrong", "of another body", "of another key"],
    )
    async def test_what_nobody_signed_is_answered_like_inside(
        self, receive: Receive, log: Log, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with receive() as receiver:
            at_the_door = await refused(receiver, headers)
            lines = log.lines("delivery.unverified")
            monkeypatch.setattr(Doorman, "answer", lambda _self, _data: None)
            inside = await refused(receiver, headers)
            async with receiver.client.get(receiver.url + "/metrics") as response:
                counted = await response.text()

        assert at_the_door == inside
        lines += log.lines("delivery.unverified")[1:]
        told, again = ({**line, "timestamp": ""} for line in lines)
        assert told == again
        assert 'freescout_audit_requests_total{endpoint="audit",status="401"} 2.0' in counted

    @pytest.mark.parametrize(
        ("request_line", "extra", "status"),
        [
            ("GET {path} HTTP/1.1", "", 405),
            ("POST {path}x HTTP/1.1", "", 404),
            ("POST {path} HTTP/1.1", "Content-Encoding: gzip\r\n", 415),
        ],
    )
    async def test_what_has_another_answer_is_taken_in(
        self, receive: Receive, request_line: str, extra: str, status: int
    ) -> None:
        async with receive() as receiver:
            line = request_line.format(path=PATH)
            raw = f"{line}\r\nHost: x\r\n{extra}Content-Length: 2\r\nConnection: close\r\n\r\n{{}}"
            assert (await sent(receiver, raw.encode())).split()[1] == str(status).encode()

    @pytest.mark.parametrize(
        "raw",
        [
            b"POST /x HTTP/1.1\r\nX:" + b" " * 200_000 + b"\x00",
            b"POST /x HTTP/1.1\r\n" + b"a" * 200_000,
            b"POST /" + b"a/-" * 70_000,
            b"POST /x HTTP/1.1\r\n" + b"X: a  b\r\n" * 25_000 + b"\x00",
            head("X: a" + " " * 200_000 + "b") + b"{}",
        ],
        ids=["blanks", "a name", "a path", "fields", "blanks inside"],
    )
    def test_looking_costs_nobody_anything(self, raw: bytes) -> None:
        endpoint = Endpoint(name="audit", enabled=lambda: True, secrets=lambda: (Secret("a key"),), handle=nobody)
        metrics = Metrics()
        doorman = Doorman([endpoint], Refusals(metrics), metrics)
        began = time.process_time()

        assert doorman.answer(raw) is None

        assert time.process_time() - began < 0.5, "what is quadratic takes a minute"

    async def test_a_body_over_the_limit_is_refused_as_such(self, receive: Receive) -> None:
        async with receive(settings=load_settings({"RECEIVER_MAX_BODY": "1024"})) as receiver:
            assert (await receiver.deliver(body() + b" " * 1024, headers={}))[0] == 413

    async def test_what_is_signed_or_not_evident_is_taken_in(self, receive: Receive) -> None:
        async with receive() as receiver:
            assert await receiver.deliver(body()) == (200, {"outcome": "applied"})
            # In two pieces, the second after the first has been looked at.
            async with connected(receiver, head("Content-Length: 4") + b"{}") as (reader, writer):
                await asyncio.sleep(0)
                writer.write(b"{}")
                assert (await reader.readline()).split()[1] == b"401"

    async def test_while_the_flag_is_off_freescout_is_asked_to_come_again(self, receive: Receive) -> None:
        async with receive(replace(ENVIRONMENT, receive=False)) as receiver:
            assert (await receiver.deliver(body(), headers={}))[0] == 503


async def nobody(_delivery: VerifiedDelivery) -> web.Response:
    raise AssertionError("nothing is verified here")


async def refused(receiver: Receiver, headers: dict[str, str]) -> tuple[int, str, str | None]:
    """Send a delivery with these headers; return status, body, and what is said of the connection."""
    url = f"{receiver.url}/api/internal/freescout-webhook/audit"
    named = headers | {"X-Request-ID": "heroku-1"}
    async with receiver.client.post(url, data=body(), headers=named) as response:
        return response.status, await response.text(), response.headers.get("Connection")
