"""The log: its catalogue, its shape, and what never gets into it."""

import asyncio
import io
import json
import logging
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from freescout_audit.events import CATALOGUE, DELIVERY_APPLIED, DELIVERY_DISPUTED, JOURNAL_PRUNED, PROCESS_FAILED
from freescout_audit.logs import emit, log_context, set_up_logs

ROOT = Path(__file__).resolve().parent.parent


def test_the_docs_list_every_event() -> None:
    text = (ROOT / "docs" / "logs.md").read_text(encoding="utf-8")

    rows = [line for line in text.splitlines() if line.startswith("| `") and "." in line.split("`")[1]]

    assert rows == [f"| `{event.name}` | {event.level} | {event.meaning} |" for event in CATALOGUE]


def test_names_are_dotted_and_used_once() -> None:
    names = [event.name for event in CATALOGUE]

    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", name) for name in names)


def test_a_line_is_one_json_object_that_a_search_for_the_logger_finds() -> None:
    stream = io.StringIO()
    set_up_logs(process="receiver", style="auto", level="info", stream=stream)

    changed_at = datetime(2026, 11, 23, 13, 0, tzinfo=timezone(timedelta(hours=1)))
    token = log_context.set({"request_id": "abc"})
    emit(DELIVERY_APPLIED, ticket_id=7, outcome="applied", status=None, changed_at=changed_at)
    log_context.reset(token)

    line = json.loads(stream.getvalue())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line.pop("timestamp"))
    assert line == {
        "logger": "freescout_audit",
        "process": "receiver",
        "event": "delivery.applied",
        "level": "info",
        "request_id": "abc",
        "ticket_id": 7,
        "outcome": "applied",
        "changed_at": "2026-11-23T12:00:00Z",
    }
    assert list(line)[:4] == ["logger", "process", "level", "event"]
    assert stream.getvalue().count("\n") == 1


@pytest.mark.parametrize("message", ["Manage » Settings", "set PORT"])
def test_a_json_line_is_ascii_whatever_it_says_and_looks_as_it_always_did(message: str) -> None:
    """A stream of another encoding must not lose it, and people search for its fields."""
    stream = io.StringIO()
    set_up_logs(process="test", style="json", level="info", stream=stream)

    emit(PROCESS_FAILED, message=message)

    assert stream.getvalue().isascii()
    assert '"event": "process.failed"' in stream.getvalue()
    assert json.loads(stream.getvalue())["message"] == message


def test_text_is_for_people() -> None:
    stream = io.StringIO()
    set_up_logs(process="receiver", style="text", level="info", stream=stream)

    token = log_context.set({"request_id": "abc"})
    emit(DELIVERY_APPLIED, ticket_id=7, changed_at=datetime(2026, 11, 23, 13, tzinfo=timezone(timedelta(hours=1))))
    log_context.reset(token)

    assert "delivery.applied" in stream.getvalue()
    assert "request_id" in stream.getvalue()
    assert "2026-11-23T12:00:00Z" in stream.getvalue()
    assert "{" not in stream.getvalue()


class CountingStream(io.StringIO):
    """Counts how often it is written to."""

    writes = 0

    def write(self, text: str) -> int:
        self.writes += 1
        return super().write(text)


async def test_the_lines_of_one_turn_of_the_loop_are_written_together() -> None:
    """A burst does not pay a system call for each line."""
    stream = CountingStream()
    set_up_logs(process="receiver", style="json", level="info", stream=stream)

    for ticket in range(3):
        emit(DELIVERY_APPLIED, ticket_id=ticket)
    assert stream.writes == 0
    await asyncio.sleep(0)

    assert stream.writes == 1
    assert [json.loads(line)["ticket_id"] for line in stream.getvalue().splitlines()] == [0, 1, 2]


async def test_what_is_urgent_is_written_at_once_after_what_came_before_it() -> None:
    stream = CountingStream()
    set_up_logs(process="receiver", style="json", level="info", stream=stream)

    emit(DELIVERY_APPLIED, ticket_id=1)
    emit(DELIVERY_DISPUTED, ticket_id=2)

    assert [json.loads(line)["ticket_id"] for line in stream.getvalue().splitlines()] == [1, 2]
    await asyncio.sleep(0)
    assert stream.getvalue().count("\n") == 2


def test_what_a_loop_left_unwritten_is_written_when_it_ends_or_by_the_next_line() -> None:
    stream = CountingStream()
    set_up_logs(process="receiver", style="json", level="info", stream=stream)

    async def last_words(ticket: int) -> None:
        emit(DELIVERY_APPLIED, ticket_id=ticket)

    asyncio.run(last_words(1))
    assert stream.getvalue().count("\n") == 1
    loop = asyncio.new_event_loop()
    loop.run_until_complete(last_words(2))
    loop.close()
    asyncio.run(last_words(3))
    emit(DELIVERY_APPLIED, ticket_id=4)

    assert [json.loads(line)["ticket_id"] for line in stream.getvalue().splitlines()] == [1, 2, 3, 4]


def test_what_is_less_important_than_the_level_is_left_out() -> None:
    stream = io.StringIO()
    set_up_logs(process="receiver", style="json", level="warning", stream=stream)

    emit(JOURNAL_PRUNED, deliveries=5)
    emit(DELIVERY_DISPUTED, ticket_id=7)

    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["delivery.disputed"]


def test_a_preformatted_complaint_is_cut_after_its_first_line() -> None:
    """asyncio writes the exception itself into the message."""
    stream = io.StringIO()
    set_up_logs(process="receiver", style="json", level="info", stream=stream)

    logging.getLogger("asyncio").error(
        "Task exception was never retrieved\nfuture: ValueError('customer7@example.org')"
    )

    assert json.loads(stream.getvalue())["message"] == "Task exception was never retrieved"


def test_a_log_that_cannot_be_written_stops_nobody() -> None:
    stream = io.StringIO()
    set_up_logs(process="receiver", style="json", level="info", stream=stream)
    stream.close()

    emit(DELIVERY_APPLIED, ticket_id=7)


def test_what_cannot_be_written_as_text_stops_nobody_either() -> None:
    stream = io.StringIO()
    set_up_logs(process="receiver", style="json", level="info", stream=stream)

    emit(PROCESS_FAILED, message="\udcff")
    emit(PROCESS_FAILED, message="next")

    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["next"]


def test_what_a_library_says_comes_without_its_arguments_and_traceback() -> None:
    stream = io.StringIO()
    set_up_logs(process="receiver", style="json", level="info", stream=stream)

    try:
        int("customer7@example.org")
    except ValueError:
        logging.getLogger("aiohttp.server").exception("Error handling request from %s", "customer7@example.org")

    line = json.loads(stream.getvalue())
    assert (line["event"], line["library"], line["error"]) == ("library.message", "aiohttp.server", "ValueError")
    assert line["message"] == "Error handling request from %s"
    assert "customer7" not in stream.getvalue()
