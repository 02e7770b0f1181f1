"""The log: its catalogue, its shape, what never gets into it, and that it holds up nothing."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Literal
from unittest.mock import ANY

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from structlog.contextvars import bound_contextvars
from structlog.testing import CapturingLoggerFactory

from conftest import Log
from freescout_audit.events import (
    CATALOGUE,
    DELIVERY_APPLIED,
    DELIVERY_DISPUTED,
    DELIVERY_UNUSABLE,
    JOURNAL_PRUNED,
    PASS_STARTED,
    PROCESS_FAILED,
    Level,
)
from freescout_audit.logs import dropped_lines, emit, set_up_logs
from receiver.app import serve
from receiver.body import Places
from receiver.endpoints import Endpoint, VerifiedDelivery, register
from receiver.metrics import Metrics
from receiver.refusals import Refusals
from settings import Secret, load_settings
from support.channels import Channel, at_once, drain, pipe, terminal, unix_socket
from support.examples import KEY, body, signed

ROOT = Path(__file__).resolve().parent.parent

BERLIN = timezone(timedelta(hours=1))


def line(event: str, level: str = "info", process: str = "test", **fields: object) -> dict[str, object]:
    """A whole line, whenever it was written."""
    return {
        "logger": "freescout_audit",
        "process": process,
        "timestamp": ANY,
        "level": level,
        "event": event,
        **fields,
    }


def lines(raw: bytes) -> list[dict[str, Any]]:
    return [json.loads(found) for found in raw.splitlines()]


class TestTheCatalogue:
    def test_the_docs_list_every_event(self) -> None:
        text = (ROOT / "docs" / "logs.md").read_text(encoding="utf-8")

        rows = [found for found in text.splitlines() if found.startswith("| `") and "." in found.split("`")[1]]

        assert rows == [f"| `{event.name}` | {event.level} | {event.meaning} |" for event in CATALOGUE]

    def test_names_are_dotted_and_used_once(self) -> None:
        names = [event.name for event in CATALOGUE]

        assert len(set(names)) == len(names)
        assert all(re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", name) for name in names)


class TestALine:
    def test_it_begins_with_what_every_line_has_then_the_context_then_its_own_fields(self, log: Log) -> None:
        with bound_contextvars(endpoint="audit", request_id="abc"):
            emit(DELIVERY_APPLIED, ticket_id=7, outcome="applied")

        (found,) = log.lines()
        assert found == line("delivery.applied", endpoint="audit", request_id="abc", ticket_id=7, outcome="applied")
        names = list(found)
        assert names[:5] == ["logger", "process", "timestamp", "level", "event"]
        assert set(names[5:7]) == {"endpoint", "request_id"}
        assert names[7:] == ["ticket_id", "outcome"]

    def test_it_is_found_by_a_search_for_a_field_and_its_value(self, log: Log) -> None:
        emit(DELIVERY_APPLIED, ticket_id=7)

        assert '"event": "delivery.applied", "ticket_id": 7}\n' in log.text
        assert log.text.startswith('{"logger": "freescout_audit", "process": "test", "timestamp": "')

    def test_its_time_is_now_in_utc(self, log: Log) -> None:
        before = datetime.now(UTC)
        emit(JOURNAL_PRUNED)

        (found,) = log.lines()
        assert found["timestamp"].endswith("Z")
        assert before <= datetime.fromisoformat(found["timestamp"]) <= datetime.now(UTC)

    def test_it_has_its_events_level(self, log: Log) -> None:
        emit(PASS_STARTED)
        emit(JOURNAL_PRUNED)
        emit(DELIVERY_DISPUTED)
        emit(DELIVERY_UNUSABLE)

        assert log.lines() == [
            line("pass.started", "debug"),
            line("journal.pruned", "info"),
            line("delivery.disputed", "warning"),
            line("delivery.unusable", "error"),
        ]

    @pytest.mark.parametrize(("level", "shown"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)], ids=str)
    def test_it_is_left_out_when_it_is_less_important_than_the_level(self, level: Level, shown: int) -> None:
        before = dropped_lines()
        factory = CapturingLoggerFactory()
        set_up_logs(process="test", style="json", level=level, factory=factory)

        for event in (PASS_STARTED, JOURNAL_PRUNED, DELIVERY_DISPUTED, DELIVERY_UNUSABLE):
            emit(event)

        assert len(factory.logger.calls) == shown
        assert dropped_lines() == before

    def test_what_is_none_is_left_out(self, log: Log) -> None:
        with bound_contextvars(endpoint=None):
            emit(DELIVERY_APPLIED, ticket_id=7, status=None, state="", bytes=0)

        assert log.lines() == [line("delivery.applied", ticket_id=7, state="", bytes=0)]

    @pytest.mark.parametrize(
        ("moment", "written"),
        [
            (datetime(2026, 11, 23, 13, tzinfo=BERLIN), "2026-11-23T12:00:00Z"),
            (datetime(2026, 11, 23, 12, 0, 0, 1500, tzinfo=UTC), "2026-11-23T12:00:00.001500Z"),
        ],
    )
    def test_a_moment_is_written_in_utc(self, log: Log, moment: datetime, written: str) -> None:
        emit(DELIVERY_APPLIED, changed_at=moment)

        assert log.lines() == [line("delivery.applied", changed_at=written)]

    @pytest.mark.parametrize("message", ["Manage » Settings", "one\u2028line", "set PORT"])
    def test_it_is_ascii_whatever_it_says_and_spaced_the_same(self, log: Log, message: str) -> None:
        emit(PROCESS_FAILED, message=message)

        assert log.lines() == [line("process.failed", "error", message=message)]
        assert log.text.isascii()
        assert '"event": "process.failed", "message": "' in log.text


class Odd:
    def __repr__(self) -> str:
        return "<odd \udcff>"


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("customer7@example.org")


CYCLE: list[object] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (Odd(), "<odd \\udcff>"),
        ([Odd()], ["<odd \\udcff>"]),
        ("\udcff", "'\\udcff'"),
        (["\udcff", "ü"], "['\\udcff', 'ü']"),
        (CYCLE, "[[...]]"),
        ({(1, 2): 3}, {"(1, 2)": 3}),
        ({None: "\udcff"}, "{None: '\\udcff'}"),
        (float("nan"), None),
        (Secret(KEY), "Secret(…)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_has_no_word_for_is_written_as_it_shows_itself(log: Log, value: object, written: object) -> None:
    before = dropped_lines()

    emit(PROCESS_FAILED, message="as it is", value=value)

    assert log.lines() == [line("process.failed", "error", message="as it is", value=written)]
    assert dropped_lines() == before


def test_what_cannot_show_itself_either_is_written_by_its_type(log: Log) -> None:
    emit(PROCESS_FAILED, value=Broken(), values=["\udcff", Broken()])

    (found,) = log.lines()
    assert re.fullmatch(r"<test_logs\.Broken object at 0x[0-9a-f]+>", found["value"])
    assert re.fullmatch(r"<list object at 0x[0-9a-f]+>", found["values"])


class TestContext:
    def test_a_callers_own_field_wins(self, log: Log) -> None:
        with bound_contextvars(endpoint="audit", request_id="one"):
            emit(DELIVERY_APPLIED, request_id="another")

        assert log.lines() == [line("delivery.applied", endpoint="audit", request_id="another")]

    def test_it_is_gone_after_its_block(self, log: Log) -> None:
        with bound_contextvars(request_id="one"):
            pass
        emit(JOURNAL_PRUNED)

        assert log.lines() == [line("journal.pruned")]

    async def test_of_a_request_it_is_on_its_lines_and_on_no_others(self, log: Log) -> None:
        """Not even when one task answers both requests, as of one connection."""

        async def take(delivery: VerifiedDelivery) -> web.Response:
            emit(DELIVERY_APPLIED, bytes=len(delivery.body))
            return web.json_response({})

        async def page(_request: web.Request) -> web.Response:
            emit(JOURNAL_PRUNED)
            return web.json_response({})

        path = "/api/internal/freescout-webhook/audit"
        app, settings = web.Application(), load_settings({}).receiver
        endpoint = Endpoint(name="audit", enabled=lambda: True, secrets=lambda: [Secret(KEY)], handle=take)
        register(
            app,
            endpoint,
            settings=settings,
            metrics=Metrics(),
            places=Places(settings.max_in_flight),
            refusals=Refusals(Metrics()),
        )
        app.router.add_get("/page", page)
        async with (
            serve(app, host="127.0.0.1", port=0) as port,
            aiohttp.ClientSession(f"http://127.0.0.1:{port}", connector=aiohttp.TCPConnector(limit=1)) as client,
        ):
            for request_id in ("one", "two"):
                headers = signed(body()) | {"X-Request-ID": request_id}
                await (await client.post(path, data=body(), headers=headers)).read()
                await (await client.get("/page")).read()
        await _handler(app, path)(make_mocked_request("GET", path, headers={"X-Request-ID": "three"}))
        await _handler(app, "/page")(make_mocked_request("GET", "/page"))

        assert [found for found in log.lines() if not found["event"].startswith("receiver.")] == [
            line("delivery.applied", endpoint="audit", request_id="one", bytes=len(body())),
            line("journal.pruned"),
            line("delivery.applied", endpoint="audit", request_id="two", bytes=len(body())),
            line("journal.pruned"),
            line(
                "delivery.refused",
                "warning",
                endpoint="audit",
                request_id="three",
                status=405,
                reason="only POST is answered here",
            ),
            line("journal.pruned"),
        ]


def _handler(app: web.Application, path: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    (handler,) = {route.handler for route in app.router.routes() if str(route.url_for()) == path}
    return handler


class TestWhatALibrarySays:
    def test_comes_without_its_arguments_and_traceback(self, log: Log) -> None:
        try:
            int("customer7@example.org")
        except ValueError:
            logging.getLogger("aiohttp.server").exception("Error handling request from %s", "customer7@example.org")

        assert log.lines() == [
            line(
                "library.message",
                "warning",
                library="aiohttp.server",
                message="Error handling request from %s",
                error="ValueError",
            )
        ]

    def test_is_cut_after_its_first_line(self, log: Log) -> None:
        """asyncio writes the exception itself into the message."""
        logging.getLogger("asyncio").error(
            "Task exception was never retrieved\nfuture: ValueError('customer7@example.org')"
        )

        assert log.lines() == [
            line("library.message", "warning", library="asyncio", message="Task exception was never retrieved")
        ]

    def test_is_left_out_when_it_is_no_complaint(self, log: Log) -> None:
        logging.getLogger("asyncio").info("Using selector: EpollSelector")

        assert log.lines() == []


LogTo = Callable[..., None]
Style = Literal["auto", "json", "text"]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def full() -> Iterator[int]:
    """A disk that is full."""
    with Path("/dev/full").open("w", encoding="ascii") as stream:
        yield stream.fileno()


@pytest.fixture
def log_to(stack: ExitStack) -> Iterator[LogTo]:
    """Log to a descriptor, as the receiver does to stdout."""

    def log_to(writing: int, *, style: Style = "auto", encoding: str = "utf-8") -> None:
        stream = stack.enter_context(os.fdopen(writing, "w", closefd=False, encoding=encoding))
        set_up_logs(process="receiver", style=style, stream=stream)

    yield log_to
    # What was lost here is told here, not in the next test.
    set_up_logs(process="test", style="json", factory=CapturingLoggerFactory())
    emit(JOURNAL_PRUNED)


class TestStyle:
    def emit_one(self) -> None:
        with bound_contextvars(request_id="abc"):
            emit(DELIVERY_APPLIED, ticket_id=7, status=None, changed_at=datetime(2026, 11, 23, 13, tzinfo=BERLIN))

    def test_a_terminal_gets_text_in_colours(self, stack: ExitStack, log_to: LogTo) -> None:
        reading, writing = terminal(stack)
        log_to(writing)

        self.emit_one()

        said = drain(reading).decode()
        assert "\x1b[" in said
        plain = re.sub(r"\x1b\[\d+m", "", said)
        assert re.fullmatch(
            r"\d\d:\d\d:\d\d \[info     \] delivery\.applied           changed_at=2026-11-23T12:00:00Z request_id=abc"
            r" ticket_id=7\n",
            plain,
        )

    def test_a_terminal_gets_json_when_it_is_asked_for(self, stack: ExitStack, log_to: LogTo) -> None:
        reading, writing = terminal(stack)
        log_to(writing, style="json")

        self.emit_one()

        assert lines(drain(reading)) == [
            line(
                "delivery.applied", process="receiver", request_id="abc", ticket_id=7, changed_at="2026-11-23T12:00:00Z"
            )
        ]

    def test_a_pipe_gets_json(self, stack: ExitStack, log_to: LogTo) -> None:
        reading, writing = pipe(stack)
        log_to(writing)

        emit(JOURNAL_PRUNED, deliveries=5)

        assert lines(drain(reading)) == [line("journal.pruned", process="receiver", deliveries=5)]

    def test_a_pipe_gets_text_without_colours_when_it_is_asked_for(self, stack: ExitStack, log_to: LogTo) -> None:
        reading, writing = pipe(stack)
        log_to(writing, style="text")

        self.emit_one()

        said = drain(reading).decode()
        assert "\x1b" not in said
        assert said.endswith("changed_at=2026-11-23T12:00:00Z request_id=abc ticket_id=7\n")

    def test_text_that_the_terminals_encoding_lacks_is_escaped(self, stack: ExitStack, log_to: LogTo) -> None:
        reading, writing = pipe(stack)
        log_to(writing, style="text", encoding="ascii")

        emit(PROCESS_FAILED, message="Manage»Settings")

        assert drain(reading).endswith(b"message=Manage\\xbbSettings\n")


def fill() -> int:
    """Log until lines are lost; return how many were written."""
    before = dropped_lines()
    written = 0
    while dropped_lines() == before:
        emit(DELIVERY_APPLIED, ticket_id=written)
        written += 1
    return written - 1


def emit_many(number: int) -> None:
    for ticket_id in range(number):
        emit(DELIVERY_DISPUTED, ticket_id=ticket_id)


class TestALineThatCannotBeWrittenNow:
    @pytest.mark.parametrize("channel", [pipe, unix_socket])
    def test_is_lost_counted_and_told_of(
        self, stack: ExitStack, log_to: LogTo, channel: Callable[[ExitStack], Channel]
    ) -> None:
        reading, writing = channel(stack)
        log_to(writing)
        before = dropped_lines()

        written = at_once(fill)
        at_once(lambda: emit_many(9))
        there = drain(reading)
        emit(JOURNAL_PRUNED, deliveries=1)
        emit(JOURNAL_PRUNED, deliveries=2)

        assert written > 50
        assert lines(there) == [
            line("delivery.applied", process="receiver", ticket_id=number) for number in range(written)
        ]
        assert lines(drain(reading)) == [
            line("log.dropped", "warning", process="receiver", count=10),
            line("journal.pruned", process="receiver", deliveries=1),
            line("journal.pruned", process="receiver", deliveries=2),
        ]
        assert dropped_lines() == before + 10

    def test_does_not_hold_up_a_process_on_a_terminal_either(self, stack: ExitStack, log_to: LogTo) -> None:
        """A terminal makes place meanwhile, so some lines get through, and those before them are told of."""
        reading, writing = terminal(stack)
        log_to(writing)
        before = dropped_lines()

        at_once(fill)
        at_once(lambda: emit_many(99))
        said = drain(reading)
        emit(JOURNAL_PRUNED, deliveries=1)
        emit(JOURNAL_PRUNED, deliveries=2)

        plain = re.sub(r"\x1b\[\d+m", "", (said + drain(reading)).decode())
        assert dropped_lines() > before
        assert (
            sum(int(count) for count in re.findall(r"log\.dropped +count=(\d+)\n", plain)) == dropped_lines() - before
        )
        assert re.search(r"\n[^\n]*journal\.pruned +deliveries=1\n[^\n]*journal\.pruned +deliveries=2\n$", plain)

    def test_is_no_error_when_the_reader_is_gone_or_the_disk_full(self, log_to: LogTo, full: int) -> None:
        before = dropped_lines()
        reading, writing = os.pipe()
        log_to(writing)
        os.close(reading)
        emit(JOURNAL_PRUNED, deliveries=1)
        os.close(writing)
        emit(JOURNAL_PRUNED, deliveries=2)
        log_to(full)
        emit(JOURNAL_PRUNED, deliveries=3)

        assert dropped_lines() == before + 3

    def test_is_told_of_again_when_the_telling_was_lost_too(self, stack: ExitStack, log_to: LogTo, full: int) -> None:
        reading, writing = pipe(stack)
        before = dropped_lines()
        log_to(full)
        emit(JOURNAL_PRUNED, deliveries=1)
        emit(JOURNAL_PRUNED, deliveries=2)
        log_to(writing)
        emit(JOURNAL_PRUNED, deliveries=3)
        log_to(full)
        emit(JOURNAL_PRUNED, deliveries=4)
        log_to(writing)
        emit(JOURNAL_PRUNED, deliveries=5)

        assert dropped_lines() == before + 3
        assert lines(drain(reading)) == [
            line("log.dropped", "warning", process="receiver", count=2),
            line("journal.pruned", process="receiver", deliveries=3),
            line("log.dropped", "warning", process="receiver", count=1),
            line("journal.pruned", process="receiver", deliveries=5),
        ]

    def test_is_told_of_by_a_line_that_is_about_no_request(self, stack: ExitStack, log_to: LogTo, full: int) -> None:
        reading, writing = pipe(stack)
        log_to(full)
        emit(JOURNAL_PRUNED)
        log_to(writing)

        with bound_contextvars(endpoint="audit", request_id="abc"):
            emit(DELIVERY_APPLIED)

        assert lines(drain(reading)) == [
            line("log.dropped", "warning", process="receiver", count=1),
            line("delivery.applied", process="receiver", endpoint="audit", request_id="abc"),
        ]

    def test_is_shown_by_the_receivers_metrics(self, log_to: LogTo, full: int) -> None:
        log_to(full)

        emit(JOURNAL_PRUNED)

        shown = Metrics().exposition().decode()
        assert f"freescout_audit_log_lines_dropped_total {dropped_lines():.1f}\n" in shown
        assert "# TYPE freescout_audit_log_lines_dropped_total counter\n" in shown
        assert dropped_lines() > 0

    def test_of_whatever_kind_its_error_is_it_stops_nobody(self) -> None:
        class Failing:
            def info(self, _line: bytes) -> None:
                raise RuntimeError

        before = dropped_lines()
        set_up_logs(process="test", style="json", factory=Failing)

        emit(JOURNAL_PRUNED)

        assert dropped_lines() == before + 1
        set_up_logs(process="test", style="json", factory=CapturingLoggerFactory())
        emit(JOURNAL_PRUNED)


LAST_WORDS = """
import os, signal
from freescout_audit.events import JOURNAL_PRUNED
from freescout_audit.logs import emit, set_up_logs
set_up_logs(process="receiver")
emit(JOURNAL_PRUNED, deliveries=5)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_line_is_on_stdout_when_the_process_goes_on() -> None:
    killed = subprocess.run([sys.executable, "-c", LAST_WORDS], cwd=ROOT, capture_output=True, check=False)

    assert (killed.returncode, killed.stderr) == (-signal.SIGKILL, b"")
    assert lines(killed.stdout) == [line("journal.pruned", process="receiver", deliveries=5)]
