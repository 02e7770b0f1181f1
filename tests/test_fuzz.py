"""A short run of the fuzzer, and what it must be able to notice."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from proof.fuzz.bodies import FORGED, Sample, load_samples
from proof.fuzz.campaign import Found, Fuzz, fuzz
from proof.fuzz.checks import database_problems, in_flight, label_problems
from proof.fuzz.inputs import Inputs
from proof.fuzz.receiver import Log

REQUESTS = 1_500


def test_hostile_input_finds_nothing(database_url: str) -> None:
    report = asyncio.run(fuzz(database_url, requests=REQUESTS, seed=1, connections=8, crowd=50))

    assert report.problems == []
    assert report.requests >= REQUESTS
    assert report.tallies["valid delivery"].answers == {200: report.tallies["valid delivery"].sent}
    assert {"broken HTTP", "forged signature", "hostile body, signed", "slow sender"} <= set(report.tallies)


def test_the_same_seed_sends_the_same_bytes() -> None:
    samples = load_samples()

    first, again, other = (
        [given.raw for number in range(20) for given in Inputs(seed, samples).batch(number)] for seed in (1, 1, 2)
    )

    assert first == again
    assert first != other


@asynccontextmanager
async def answering(raw: bytes) -> AsyncIterator[int]:
    """A server that answers everything with these bytes and ends the connection; gives its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port: int = server.sockets[0].getsockname()[1]
        yield port


def http(status: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


class TestWhatAnAnswerMustNotBe:
    @pytest.mark.parametrize(
        ("raw", "why"),
        [
            (http(b"500 Internal Server Error", b""), "answered 500"),
            (http(b"503 Service Unavailable", b"{}"), "answered 503"),
            (http(b"401 Unauthorized", b'{"error": "unauthorized"}'), "answered 401"),
            (http(b"200 OK", b'{"outcome": "stale"}'), "a valid delivery was answered"),
            (
                http(b"200 OK", b'{"outcome": "applied"}').replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
                "ends a",
            ),
            (b"", "ended before the answer"),
            (b"Traceback (most recent call last)\r\n\r\n", "no HTTP answer"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    async def test_to_a_valid_delivery(self, raw: bytes, why: str) -> None:
        inputs = Inputs(1, load_samples())
        async with answering(raw) as port:
            with pytest.raises(Found, match=why) as found:
                await Fuzz(inputs, port, 1).send([inputs.valid(1)])

        assert found.value.given == inputs.valid(1)

    async def test_a_401_that_says_why(self) -> None:
        inputs = Inputs(1, load_samples())
        every = (given for number in itertools.count() for given in inputs.batch(number))
        forged = next(given for given in every if given.kind == "forged signature")
        async with answering(http(b"401 Unauthorized", b'{"error": "no signature"}')) as port:
            with pytest.raises(Found, match="says more than it should"):
                await Fuzz(inputs, port, 1).send([forged])


class TestWhatTheDatabaseMustNotHold:
    SAMPLE = Sample(event="convo.status", body=b"", conversation=True, status="closed", state="published")

    async def problems(self, sql: asyncpg.Connection, **given: object) -> list[str]:
        arguments = {"answered": 0, "sent": 9, "valid": {}} | given
        return await database_problems(sql, **arguments)  # type: ignore[arg-type] # the tests' own shorthand

    async def journal(self, sql: asyncpg.Connection, ticket_id: int = 7, event: str = "convo.status") -> None:
        await sql.execute(
            "INSERT INTO freescout_delivery (received_at, endpoint, event, ticket_id, outcome, reason, body_bytes,"
            " body_ms, signed_with) VALUES (now(), 'audit', $1, $2, 'applied', 'news', 1, 1, 'current')",
            event,
            ticket_id,
        )

    async def test_nothing_is_wrong_with_an_ordinary_entry(self, sql: asyncpg.Connection) -> None:
        await self.journal(sql)

        assert await self.problems(sql, answered=1) == []

    async def test_a_ticket_of_which_only_unsigned_bodies_spoke(self, sql: asyncpg.Connection) -> None:
        await self.journal(sql, ticket_id=FORGED + 5)

        assert "only unsigned bodies spoke" in str(await self.problems(sql))

    async def test_a_hostile_event_name(self, sql: asyncpg.Connection) -> None:
        await self.journal(sql, event="convo status")

        assert "could not come from a valid delivery" in str(await self.problems(sql))

    async def test_less_than_was_answered_or_more_than_was_sent(self, sql: asyncpg.Connection) -> None:
        await self.journal(sql)

        assert "but the journal has 1" in str(await self.problems(sql, answered=2))
        assert "but the journal has 1" in str(await self.problems(sql, sent=0))

    async def test_not_the_delivery_that_was_answered_200(self, sql: asyncpg.Connection) -> None:
        assert "are not in the database: [7]" in str(await self.problems(sql, valid={7: self.SAMPLE}))


class TestWhatTheLogMustNotSay:
    @pytest.mark.parametrize(
        ("line", "why"),
        [
            (b"Traceback (most recent call last):\n", "is no object"),
            (b'{"logger": "freescout_audit", "event": "receiver.fault"}\n', "tells of a fault"),
            (b'{"logger": "freescout_audit", "event": "made.up"}\n', "a name that the catalogue lacks"),
            (b'{"logger": "freescout_audit", "event": "library.message", "error": "KeyError"}\n', "tells of a fault"),
            (
                b'{"logger": "freescout_audit", "event": "delivery.applied", "x": "canary-that-must-never-be-seen"}\n',
                "must never be seen",
            ),
        ],
    )
    def test_it_is_noted(self, line: bytes, why: str) -> None:
        log = Log()

        log.check(line)

        assert len(log.wrong) == 1
        assert why in log.wrong[0]

    def test_an_ordinary_line_is_counted(self) -> None:
        log = Log()

        log.check(b'{"logger": "freescout_audit", "event": "delivery.applied", "ticket_id": 7}\n')

        assert (log.wrong, log.events) == ([], {"delivery.applied": 1})


def test_an_invented_metric_label_is_noticed() -> None:
    good = 'freescout_audit_deliveries_total{endpoint="audit",event="other",outcome="applied"} 1.0\n'

    assert label_problems("# HELP\n" + good) == []
    assert len(label_problems(good.replace("other", "convo.mine"))) == 1
    assert len(label_problems('freescout_audit_requests_total{endpoint="audit",status="500"} 1.0')) == 1


def test_requests_in_flight_are_read_off_the_metrics() -> None:
    assert in_flight('freescout_audit_requests_in_flight{endpoint="audit"} 3.0\n') == 3
    assert in_flight("") == 0
