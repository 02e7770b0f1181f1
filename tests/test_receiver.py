"""The contract of the endpoint, case by case, over real sockets."""

import asyncio
import base64
import gzip
import hashlib
import hmac
import re
from contextlib import suppress
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from conftest import ENVIRONMENT, Log, Receive, Receiver
from freescout_audit.signature import fingerprint
from receiver.metrics import Metrics
from settings import Secret, load_settings
from support.examples import KEY, body, large_body, signed

pytestmark = pytest.mark.usefixtures("no_housekeeping")

PATH = "/api/internal/freescout-webhook/audit"
NOW = {"updatedAt": "2024-11-23T12:00:00Z"}


async def exchange(receiver: Receiver, *pieces: bytes, end: bool = False) -> bytes:
    """Send raw bytes and return the answer to them; ``end`` closes our side first and takes what comes, if anything."""
    reader, writer = await asyncio.open_connection("127.0.0.1", receiver.port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    if end:
        writer.write_eof()
    if end:
        answer = await reader.read()
    else:
        answer = await reader.readuntil(b"\r\n\r\n")
        answer += await reader.readexactly(int(re.findall(rb"Content-Length: (\d+)", answer)[0]))
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    return answer


def head(headers: dict[str, str]) -> bytes:
    lines = [f"POST {PATH} HTTP/1.1", "Host: localhost", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


async def state_of(sql: asyncpg.Connection, ticket_id: int = 7) -> str:
    answer: str = await sql.fetchval("SELECT freescout_ticket_state($1)", ticket_id)
    return answer


class TestOutcomes:
    async def test_news_is_applied_and_readable_at_once(self, receiver: Receiver, sql: asyncpg.Connection) -> None:
        assert await receiver.deliver(body("closed")) == (200, {"outcome": "applied"})

        assert await state_of(sql) == "closed"

    async def test_a_replay_is_a_duplicate_and_moves_nothing(self, receiver: Receiver, sql: asyncpg.Connection) -> None:
        await receiver.deliver(body("closed"))
        before = await sql.fetchrow("SELECT * FROM freescout_ticket")

        assert await receiver.deliver(body("closed")) == (200, {"outcome": "duplicate"})

        assert await sql.fetchrow("SELECT * FROM freescout_ticket") == before

    async def test_replays_are_counted_on_the_row_of_what_they_repeat_and_logged_once_in_a_while(
        self, receiver: Receiver, sql: asyncpg.Connection, log: Log
    ) -> None:
        raw = body("closed")
        await receiver.deliver(raw, headers=signed(raw) | {"X-Request-ID": "the-first"})
        for turn in range(40):
            # The event is not signed: whoever replays a recording may write anything there.
            headers = signed(raw, event=f"anything.{turn}") | {"X-Request-ID": f"replay-{turn}"}
            await receiver.deliver(raw, headers=headers)

        rows = await sql.fetch("SELECT event, replays, request_id, replayed_request_id FROM freescout_delivery")

        assert [tuple(row) for row in rows] == [
            ("convo.status", 0, "the-first", None),
            ("anything.0", 39, "replay-0", "replay-39"),
        ]
        assert len(log.lines("delivery.duplicate")) == 1

    async def test_replays_that_come_at_once_are_counted_too(self, receiver: Receiver, sql: asyncpg.Connection) -> None:
        answers = await asyncio.gather(*(receiver.deliver(body("closed")) for _ in range(60)))

        assert sorted({answer["outcome"] for _, answer in answers}) == ["applied", "duplicate"]
        assert [tuple(row) for row in await sql.fetch("SELECT outcome, replays FROM freescout_delivery")] == [
            ("applied", 59)
        ]

    async def test_what_is_saved_is_answered_so_and_saved_once_whatever_comes_of_telling_it(
        self, receiver: Receiver, sql: asyncpg.Connection, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_arguments: object, **_lag: object) -> None:
            raise RuntimeError("customer7@example.org")

        monkeypatch.setattr(Metrics, "delivery", fail)

        assert await receiver.deliver(body("closed")) == (200, {"outcome": "applied"})

        assert await sql.fetchval("SELECT count(*) FROM freescout_delivery") == 1
        (fault,) = log.lines("receiver.fault")
        assert fault["error"] == "RuntimeError"
        assert fault["request_id"]
        assert "customer7" not in log.text

    async def test_old_news_is_stale(self, receiver: Receiver) -> None:
        await receiver.deliver(body("closed", 5))

        assert await receiver.deliver(body("pending", 3)) == (200, {"outcome": "stale"})

    async def test_the_same_second_is_disputed_and_reads_none_after_the_grace(
        self, receiver: Receiver, sql: asyncpg.Connection
    ) -> None:
        await receiver.deliver(body("active"))

        assert await receiver.deliver(body("closed")) == (200, {"outcome": "disputed"})

        assert await state_of(sql) == "active"
        await sql.execute("UPDATE freescout_ticket SET grace_until = freescout_now()")
        assert await state_of(sql) == "none"

    @pytest.mark.parametrize(("heartbeat", "level"), [("NULL", "warning"), ("now()", "info")])
    async def test_a_dispute_is_a_warning_unless_a_poller_settles_it(
        self, receiver: Receiver, sql: asyncpg.Connection, log: Log, heartbeat: str, level: str
    ) -> None:
        await sql.execute(f"UPDATE freescout_lease SET heartbeat_at = {heartbeat}")
        await receiver.deliver(body("active"))
        await receiver.deliver(body("closed"))

        assert [line["level"] for line in log.lines("delivery.disputed")] == [level]

    async def test_deleted_for_ever_is_a_question(self, receiver: Receiver) -> None:
        await receiver.deliver(body("active"))

        assert await receiver.deliver(body("active"), event="convo.deleted_forever") == (200, {"outcome": "disputed"})

    @pytest.mark.parametrize("state", ["deleted", "draft"])
    async def test_what_is_not_published_reads_none_and_shows_as_expired(
        self, receiver: Receiver, sql: asyncpg.Connection, state: str
    ) -> None:
        await receiver.deliver(body("active", state=state))

        assert await state_of(sql) == "none"
        assert await sql.fetchval("SELECT ttl_expires < now() FROM freescout_ticket_cache WHERE ticket_id = 7")

    @pytest.mark.parametrize(
        "strange",
        [{"status": "resolved"}, {"status": "active\0"}, {"state": "archived"}, {"updatedAt": "2024-11-23T12:00:00"}],
        ids=str,
    )
    async def test_what_we_do_not_understand_is_disputed_and_logged_as_a_fault(
        self, receiver: Receiver, log: Log, strange: dict[str, Any]
    ) -> None:
        assert await receiver.deliver(body(**strange)) == (200, {"outcome": "disputed"})

        (line,) = log.lines("delivery.not_understood")
        assert (line["level"], line["ticket_id"], line["outcome"]) == ("error", 7, "disputed")

    async def test_a_customer_is_ignored(self, receiver: Receiver, sql: asyncpg.Connection) -> None:
        answer = await receiver.deliver(b'{"id": 7, "type": "customer"}', event="customer.updated")

        assert answer == (200, {"outcome": "ignored"})
        assert await sql.fetchval("SELECT count(*) FROM freescout_ticket") == 0
        assert await sql.fetchval("SELECT outcome FROM freescout_delivery") == "ignored"

    async def test_a_workflows_own_event_is_ignored_or_taken_by_what_it_carries(self, receiver: Receiver) -> None:
        assert await receiver.deliver(b'{"hello": 1}', event="my.workflow") == (200, {"outcome": "ignored"})
        assert await receiver.deliver(body("closed"), event="my.workflow") == (200, {"outcome": "applied"})

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            body()[:-9],
            b"null",
            b"[]",
            b"{}",
            body(ticket_id=7.5),
            body(ticket_id=2**63),
            body(ticket_id="seven"),
            large_body(damage=b"\0"),
        ],
        ids=lambda raw: f"{raw[:12]!r}, {len(raw)} bytes",
    )
    async def test_what_is_no_conversation_is_answered_400_and_journalled(
        self, receiver: Receiver, log: Log, sql: asyncpg.Connection, raw: bytes
    ) -> None:
        status, answer = await receiver.deliver(raw)

        assert status == 400
        assert answer["error"]
        assert [line["bytes"] for line in log.lines("delivery.unusable")] == [len(raw)]
        assert await sql.fetchval("SELECT outcome FROM freescout_delivery") == "unusable"

    async def test_an_id_may_be_a_decimal_string(self, receiver: Receiver, sql: asyncpg.Connection) -> None:
        assert await receiver.deliver(body("closed", ticket_id="4711")) == (200, {"outcome": "applied"})

        assert await state_of(sql, 4711) == "closed"

    async def test_a_body_of_300_threads_and_6_8_mb_is_taken(self, receiver: Receiver, sql: asyncpg.Connection) -> None:
        threads = [{"id": number, "body": "<p>" + "x" * 22_600} for number in range(300)]
        raw = body("closed", _embedded={"threads": threads})
        assert len(raw) > 6_700_000

        assert await receiver.deliver(raw) == (200, {"outcome": "applied"})

        assert await sql.fetchval("SELECT body_bytes FROM freescout_delivery") == len(raw)

    async def test_hostile_event_names_break_neither_journal_nor_metrics(
        self, receiver: Receiver, sql: asyncpg.Connection
    ) -> None:
        for second, event in enumerate(('x"} 1\\', "ä" * 300, "x" * 5000)):
            raw = body("closed", second)
            assert await receiver.deliver(raw, headers=signed(raw, event=event)) == (200, {"outcome": "applied"})

        longest = await sql.fetchval("SELECT max(length(event)) FROM freescout_delivery")
        assert longest == 64
        async with receiver.client.get(receiver.url + "/metrics") as response:
            lines = (await response.text()).splitlines()
        assert [line for line in lines if line.startswith("freescout_audit_deliveries_total")] == [
            'freescout_audit_deliveries_total{endpoint="audit",event="other",outcome="applied"} 3.0'
        ]


class TestSignatures:
    @pytest.mark.parametrize(
        "signature",
        [
            None,
            "",
            hmac.new(KEY.encode(), body(), hashlib.sha1).hexdigest(),
            base64.b64encode(hmac.new(KEY.encode(), body(), hashlib.sha256).digest()).decode(),
            base64.b64encode(hmac.new(b"unknown key", body(), hashlib.sha1).digest()).decode(),
            "ÿÿÿÿ",
        ],
        ids=["none", "empty", "hex", "sha256", "unknown key", "not ascii"],
    )
    async def test_a_wrong_signature_is_answered_401_without_a_reason(
        self, receiver: Receiver, log: Log, sql: asyncpg.Connection, signature: str | None
    ) -> None:
        headers = {"X-FreeScout-Event": "convo.status"}
        if signature is not None:
            headers["X-FreeScout-Signature"] = signature

        assert await receiver.deliver(body(), headers=headers) == (401, {"error": "unauthorized"})

        (line,) = log.lines("delivery.unverified")
        assert (line["bytes"], line["freescout_event"]) == (len(body()), "convo.status")
        assert "never stored" not in log.text
        assert KEY not in log.text
        assert await sql.fetchval("SELECT count(*) FROM freescout_delivery") == 0

    async def test_a_flipped_bit_is_answered_401(self, receiver: Receiver) -> None:
        raw = body()
        headers = signed(raw)
        flipped_signature = headers | {"X-FreeScout-Signature": "A" + headers["X-FreeScout-Signature"][1:]}
        assert headers["X-FreeScout-Signature"][0] != "A"

        assert (await receiver.deliver(raw.replace(b"active", b"actife"), headers=headers))[0] == 401
        assert (await receiver.deliver(raw, headers=flipped_signature))[0] == 401

    async def test_the_previous_key_is_accepted_while_a_rotation_lasts(
        self, receive: Receive, sql: asyncpg.Connection
    ) -> None:
        two_keys = replace(ENVIRONMENT, webhook_secrets=(Secret("the new key"), Secret(KEY)))

        async with receive(two_keys) as receiver:
            assert await receiver.deliver(body("closed"), headers=signed(body("closed"))) == (
                200,
                {"outcome": "applied"},
            )
            assert await receiver.deliver(body("closed"), headers=signed(body("closed"), key="the new key")) == (
                200,
                {"outcome": "duplicate"},
            )

        keys = await sql.fetch("SELECT signed_with, key_fingerprint FROM freescout_delivery ORDER BY delivery_id")
        assert [tuple(key) for key in keys] == [
            ("previous", fingerprint(KEY)),
            ("current", fingerprint("the new key")),
        ]

    async def test_a_key_that_is_no_longer_accepted_is_refused(self, receive: Receive) -> None:
        async with receive(replace(ENVIRONMENT, webhook_secrets=(Secret("the new key"),))) as receiver:
            assert (await receiver.deliver(body()))[0] == 401


class TestRefusals:
    @pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"])
    async def test_only_post_is_answered(self, receive: Receive, method: str) -> None:
        async with (
            receive(replace(ENVIRONMENT, receive=False)) as receiver,
            receiver.client.request(method, receiver.url + PATH) as response,
        ):
            assert response.status == 405
            assert response.headers["Allow"] == "POST"

    async def test_while_the_flag_is_off_freescout_is_asked_to_come_again(self, receive: Receive, log: Log) -> None:
        async with (
            receive(replace(ENVIRONMENT, receive=False, webhook_secrets=())) as receiver,
            receiver.client.post(receiver.url + PATH, data=body(), headers=signed(body())) as response,
        ):
            assert response.status == 503
            assert response.headers["Retry-After"] == "60"
            assert "switched off" in log.lines("delivery.refused")[0]["reason"]

    async def test_without_a_key_nothing_is_taken(self, receive: Receive) -> None:
        async with receive(replace(ENVIRONMENT, webhook_secrets=())) as receiver:
            status, answer = await receiver.deliver(body())

        assert (status, answer) == (503, {"error": "no key is configured"})

    async def test_a_compressed_body_is_refused(self, receiver: Receiver) -> None:
        raw = gzip.compress(body())

        assert (await receiver.deliver(raw, headers=signed(raw) | {"Content-Encoding": "gzip"}))[0] == 415
        assert (await receiver.deliver(raw, headers=signed(body()) | {"Content-Encoding": "gzip"}))[0] == 415
        assert (await receiver.deliver(body(), headers=signed(body()) | {"Content-Encoding": "identity"}))[0] == 200

    async def test_65_mib_are_refused_before_they_are_sent(self, receiver: Receiver, log: Log) -> None:
        answer = await exchange(receiver, head({"Content-Length": str(65 * 1024 * 1024), "Expect": "100-continue"}))

        assert answer.startswith(b"HTTP/1.1 413 ")
        assert [line["status"] for line in log.lines("delivery.refused")] == [413]

    async def test_a_body_that_grows_beyond_the_limit_is_refused(self, receive: Receive) -> None:
        async with receive(settings=load_settings({"RECEIVER_MAX_BODY": "2048"})) as receiver:
            headers = {"Transfer-Encoding": "chunked"}
            chunks = (b"400\r\n" + b"x" * 0x400 + b"\r\n" for _ in range(3))
            answer = await exchange(receiver, head(headers), *chunks)

        assert answer.startswith(b"HTTP/1.1 413 ")

    async def test_a_body_that_stops_half_way_is_answered_408(self, receive: Receive, log: Log) -> None:
        async with receive(settings=load_settings({"RECEIVER_BODY_TIMEOUT": "0.2"})) as receiver:
            answer = await exchange(receiver, head(signed(body()) | {"Content-Length": str(len(body()))}), body()[:50])

        assert answer.startswith(b"HTTP/1.1 408 ")
        (line,) = log.lines("delivery.refused")
        assert "50 bytes came in 0.2 s" in line["reason"]

    async def test_a_sender_that_goes_away_half_way_leaves_a_line_and_nothing_else(
        self, receiver: Receiver, log: Log, sql: asyncpg.Connection
    ) -> None:
        await exchange(receiver, head(signed(body()) | {"Content-Length": str(len(body()))}), body()[:50], end=True)
        await receiver.deliver(body())  # answered after the other has been noticed

        assert [line["reason"] for line in log.lines("delivery.aborted")] == [
            "50 bytes came, and then the connection ended"
        ]
        assert await sql.fetchval("SELECT count(*) FROM freescout_delivery") == 1

    async def test_a_sender_that_waits_to_be_asked_is_asked(self, receiver: Receiver) -> None:
        raw = body("closed")
        headers = signed(raw) | {"Content-Length": str(len(raw)), "Expect": "100-continue", "Connection": "close"}
        reader, writer = await asyncio.open_connection("127.0.0.1", receiver.port)

        writer.write(head(headers))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(raw)
        answer = await reader.read()

        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert answer.endswith(b'{"outcome": "applied"}')
        writer.close()
        await writer.wait_closed()


class TestLog:
    async def test_a_delivery_leaves_one_line_that_tells_all_but_what_it_said(
        self, receiver: Receiver, log: Log
    ) -> None:
        raw = body("closed")

        await receiver.deliver(raw, headers=signed(raw) | {"X-Request-ID": "heroku-1"})

        (line,) = log.lines("delivery.applied")
        assert line.pop("lag_s") > 0
        assert line.pop("timestamp")
        assert line == {
            "logger": "freescout_audit",
            "process": "test",
            "event": "delivery.applied",
            "level": "info",
            "endpoint": "audit",
            "request_id": "heroku-1",
            "ticket_id": 7,
            "outcome": "applied",
            "reason": "news",
            "freescout_event": "convo.status",
            "status": "closed",
            "state": "published",
            "bytes": len(raw),
            "key_fingerprint": fingerprint(KEY),
        }
        for secret in ("never stored", "customer7@example.org", KEY, "Customer"):
            assert secret not in log.text

    @pytest.mark.parametrize("given", ["", "x" * 65, "a\tb"])
    async def test_a_request_id_that_is_none_is_replaced(self, receiver: Receiver, log: Log, given: str) -> None:
        await receiver.deliver(body(), headers=signed(body()) | {"X-Request-ID": given})

        assert len(log.lines("delivery.applied")[0]["request_id"]) == 32

    async def test_the_journal_tells_the_same(self, receiver: Receiver, sql: asyncpg.Connection) -> None:
        raw = body("closed")

        await receiver.deliver(raw, headers=signed(raw) | {"X-Request-ID": "heroku-1"})

        entry = dict(await sql.fetchrow("SELECT * FROM freescout_delivery"))
        assert entry.pop("received_at") is not None
        assert entry.pop("body_ms") > 0
        assert len(entry.pop("digest")) == 32
        assert [entry.pop(name) for name in ("replays", "replayed_at", "replayed_request_id")] == [0, None, None]
        assert entry.pop("updated_at").isoformat() == "2024-11-23T12:00:00+00:00"
        assert entry == {
            "delivery_id": 1,
            "endpoint": "audit",
            "event": "convo.status",
            "ticket_id": 7,
            "outcome": "applied",
            "reason": "news",
            "status": "closed",
            "state": "published",
            "body_bytes": len(raw),
            "signed_with": "current",
            "key_fingerprint": fingerprint(KEY),
            "request_id": "heroku-1",
        }


class TestMetrics:
    async def exposed(self, receiver: Receiver, name: str) -> list[str]:
        async with receiver.client.get(receiver.url + "/metrics") as response:
            return [line for line in (await response.text()).splitlines() if line.startswith(name)]

    async def test_answers_are_counted_by_their_status_and_timed(self, receiver: Receiver) -> None:
        await receiver.deliver(body())
        await receiver.deliver(body(), headers={})

        assert await self.exposed(receiver, "freescout_audit_requests_total") == [
            'freescout_audit_requests_total{endpoint="audit",status="200"} 1.0',
            'freescout_audit_requests_total{endpoint="audit",status="401"} 1.0',
        ]
        assert await self.exposed(receiver, "freescout_audit_request_seconds_count") == [
            'freescout_audit_request_seconds_count{endpoint="audit"} 2.0'
        ]

    async def test_a_request_is_in_flight_until_it_is_answered(self, receiver: Receiver) -> None:
        raw = body()
        reader, writer = await asyncio.open_connection("127.0.0.1", receiver.port)
        headers = signed(raw) | {"Content-Length": str(len(raw)), "Expect": "100-continue", "Connection": "close"}
        writer.write(head(headers))
        await reader.readuntil(b"\r\n\r\n")
        name = "freescout_audit_requests_in_flight"

        assert await self.exposed(receiver, name) == [name + '{endpoint="audit"} 1.0']
        writer.write(raw)
        await reader.read()
        assert await self.exposed(receiver, name) == [name + '{endpoint="audit"} 0.0']

        writer.close()
        await writer.wait_closed()
