"""The log: one JSON object a line on stdout, each with ``logger: "freescout_audit"``; text on a terminal.

Fields are what the caller names, and callers name no body, subject, name, address or secret.
"""

import json
import logging
import sys
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Literal, TextIO

import msgspec
import structlog

from freescout_audit.events import LIBRARY_MESSAGE, LogEvent

LOGGER = "freescout_audit"

_LEVELS = ("debug", "info", "warning", "error")

_log: structlog.stdlib.BoundLogger = structlog.get_logger()
_write_line: Callable[[LogEvent, dict[str, object]], None] | None = None
"""Writes a JSON line without structlog's chain, which costs a delivery more than its part of a commit."""


def emit(event: LogEvent, **fields: object) -> None:
    """Write one log line of the catalogue; fields that are None are left out."""
    present = {name: _shown(value) for name, value in fields.items() if value is not None}
    # A full disk or a closed pipe must not take back an answer that stands in the database.
    with suppress(OSError, ValueError):
        if _write_line is not None:
            _write_line(event, present)
        else:
            getattr(_log, event.level)(event.name, **present)


def _shown(value: object) -> object:
    """Return a time as the log writes all of them."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value


def set_up_logs(
    *, process: str, style: Literal["auto", "json", "text"], level: str, stream: TextIO | None = None
) -> None:
    """Make this process log; ``process`` (receiver, poller, …) stands in every line.

    ``style`` ``auto`` is text when ``stream`` (stdout) is a terminal, JSON lines elsewhere.
    """
    stream = stream or sys.stdout
    text = style == "text" or (style == "auto" and stream.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=stream.isatty(), pad_event_to=26)
        if text
        else structlog.processors.JSONRenderer()
    )

    def name_the_source(
        _logger: object, _method: str, fields: MutableMapping[str, object]
    ) -> MutableMapping[str, object]:
        if text:
            return fields
        first = {name: fields.pop(name) for name in ("timestamp", "level", "event")}
        return {"logger": LOGGER, "process": process, **first, **fields}

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if text else "iso", utc=not text),
            name_the_source,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    global _write_line  # noqa: PLW0603 - where a process logs to is one for all of it
    _write_line = None if text else _json_lines(process, level, stream)
    logging.basicConfig(handlers=[_LibraryHandler()], level=logging.WARNING, force=True)


def _json_lines(process: str, level: str, stream: TextIO) -> Callable[[LogEvent, dict[str, object]], None]:
    """Return what writes a line just as structlog's chain above would."""
    shown = frozenset(_LEVELS[_LEVELS.index(level) :])
    encoder = msgspec.json.Encoder(enc_hook=repr)

    def write(event: LogEvent, fields: dict[str, object]) -> None:
        if event.level not in shown:
            return
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        line: dict[str, object] = {
            "logger": LOGGER,
            "process": process,
            "timestamp": now,
            "level": event.level,
            "event": event.name,
        }
        line |= structlog.contextvars.get_contextvars()
        line |= fields
        raw = msgspec.json.format(encoder.encode(line), indent=0)  # spaced as json.dumps does: people search for it
        stream.write((raw.decode() if raw.isascii() else json.dumps(line, default=repr)) + "\n")
        stream.flush()

    return write


def where(error: BaseException) -> str:
    """Return the place an error came from, without its message, which may quote the body."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{trace.tb_frame.f_globals.get('__name__')}:{trace.tb_lineno}"


class _LibraryHandler(logging.Handler):
    """Passes on the first line of what libraries log, without arguments and tracebacks: those can quote a request."""

    def emit(self, record: logging.LogRecord) -> None:
        template = record.msg if isinstance(record.msg, str) else type(record.msg).__name__
        error = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
        emit(LIBRARY_MESSAGE, library=record.name, message=template.partition("\n")[0], error=error)
