"""The log: its catalogue, its shape, and what never gets into it."""

import io
import json
import logging
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import structlog

from freescout_audit.events import CATALOGUE, DELIVERY_APPLIED, DELIVERY_DISPUTED, JOURNAL_PRUNED, PROCESS_FAILED
from freescout_audit.logs import emit, set_up_logs

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
    with structlog.contextvars.bound_contextvars(request_id="abc"):
        emit(DELIVERY_APPLIED, ticket_id=7, outcome="applied", status=None, changed_at=changed_at)

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

    emit(DELIVERY_APPLIED, ticket_id=7)

    assert "delivery.applied" in stream.getvalue()
    assert "{" not in stream.getvalue()


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
