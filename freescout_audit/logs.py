"""The log: one JSON object a line on stdout, each with ``logger: "freescout_audit"``; text on a terminal.

Fields are what the caller names, and callers name no body, subject, name, address or secret.
"""

import asyncio
import json
import logging
import sys
import threading
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal, TextIO

import msgspec
import structlog

from freescout_audit.events import LIBRARY_MESSAGE, LogEvent

LOGGER = "freescout_audit"

log_context: ContextVar[Mapping[str, object]] = ContextVar("freescout_audit.log_context", default={})  # noqa: B039 - nobody changes it
"""Fields of every line that a task writes, until it resets them. (structlog keeps a variable for each field, and looks
through all of a task's variables for each line.)"""

_LEVELS = ("debug", "info", "warning", "error")
_URGENT = ("warning", "error")

_log: structlog.stdlib.BoundLogger = structlog.get_logger()
_json_lines: "_JsonLines | None" = None
"""Writes JSON lines without structlog's chain, which costs a delivery more than its part of a commit."""


def emit(event: LogEvent, **fields: object) -> None:
    """Write one log line of the catalogue; fields that are None are left out."""
    present = {
        name: _iso(value) if isinstance(value, datetime) else value
        for name, value in fields.items()
        if value is not None
    }
    # A full disk, a closed pipe or a name that cannot be written must not take back an answer that stands in the
    # database.
    with suppress(OSError, ValueError):
        if _json_lines is not None:
            _json_lines.add(event, present)
        else:
            getattr(_log, event.level)(event.name, **present)


def flush() -> None:
    """Write now what would be written in the next turn of the loop."""
    if _json_lines is not None:
        _json_lines.write()


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


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

    def add_the_context(
        _logger: object, _method: str, fields: MutableMapping[str, object]
    ) -> MutableMapping[str, object]:
        return {**log_context.get(), **fields}

    def name_the_source(
        _logger: object, _method: str, fields: MutableMapping[str, object]
    ) -> MutableMapping[str, object]:
        if text:
            return fields
        first = {name: fields.pop(name) for name in ("timestamp", "level", "event")}
        return {"logger": LOGGER, "process": process, **first, **fields}

    structlog.configure(
        processors=[
            add_the_context,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if text else "iso", utc=not text),
            name_the_source,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    global _json_lines  # noqa: PLW0603 - where a process logs to is one for all of it
    _json_lines = None if text else _JsonLines(process, level, stream)
    logging.basicConfig(handlers=[_LibraryHandler()], level=logging.WARNING, force=True)


class _JsonLines:
    """Writes lines just as structlog's chain would, in their order.

    Urgent ones are written at once, others with all those of the same turn of the loop: a burst would otherwise pay a
    system call for each line, which costs as much as the line itself.
    """

    def __init__(self, process: str, level: str, stream: TextIO) -> None:
        self._process = process
        self._shown = frozenset(_LEVELS[_LEVELS.index(level) :])
        self._stream = stream
        self._encoder = msgspec.json.Encoder(enc_hook=repr)
        self._turn = threading.Lock()
        self._waiting: list[str] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        """Whose next turn writes what waits."""

    def add(self, event: LogEvent, fields: Mapping[str, object]) -> None:
        if event.level not in self._shown:
            return
        line = {
            "logger": LOGGER,
            "process": self._process,
            "timestamp": datetime.now(UTC),
            "level": event.level,
            "event": event.name,
            **log_context.get(),
            **fields,
        }
        raw = msgspec.json.format(self._encoder.encode(line), indent=0)  # spaced as json.dumps does: people search
        text = raw.decode() if raw.isascii() else json.dumps(json.loads(raw))
        with self._turn:
            self._waiting.append(text + "\n")
        loop = None if event.level in _URGENT else asyncio._get_running_loop()  # noqa: SLF001 - does not raise
        if loop is None:
            self.write()
        elif loop is not self._loop:
            self._loop = loop
            loop.call_soon(self.write)

    def write(self) -> None:
        """Write what waits."""
        with self._turn, suppress(OSError, ValueError):
            lines, self._waiting, self._loop = "".join(self._waiting), [], None
            self._stream.write(lines)
            self._stream.flush()


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
