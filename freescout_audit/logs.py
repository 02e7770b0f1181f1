"""The log: one JSON object a line on stdout, each with ``logger: "freescout_audit"``; text on a terminal.

Every line goes through one chain of structlog's processors. Fields are what the caller names, and what
``structlog.contextvars`` has bound; callers name no body, subject, name, address or secret.
"""

import io
import json
import logging
import sys
import threading
from collections.abc import Callable, Mapping
from contextvars import Context
from datetime import UTC, datetime
from typing import Literal, TextIO

import msgspec
import structlog
from structlog.contextvars import get_contextvars, merge_contextvars
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from freescout_audit.events import LIBRARY_MESSAGE, LOG_DROPPED, Level, LogEvent
from freescout_audit.linefile import LineFile

LOGGER = "freescout_audit"

_log: FilteringBoundLogger = structlog.get_logger()


def emit(event: LogEvent, **fields: object) -> None:
    """Write one line of the catalogue; fields that are None are left out.

    On return the line is on stdout, or it is dropped and counted. This never raises, and never waits for a reader.
    """
    if _dropped.untold:
        _dropped.tell()
    if not _write(event, fields):
        _dropped.add()


def dropped_lines() -> int:
    """Return how many lines this process could not write."""
    return _dropped.total


def set_up_logs(
    *,
    process: str,
    style: Literal["auto", "json", "text"] = "auto",
    level: Level = "info",
    stream: TextIO | None = None,
    factory: Callable[..., WrappedLogger] | None = None,
) -> None:
    """Make this process log; ``process`` (receiver, poller, …) stands in every JSON line.

    Args:
        process: Its name.
        style: ``auto`` is text when the stream is a terminal, JSON lines elsewhere.
        level: The least important level shown.
        stream: Where to; it has a descriptor. stdout by default.
        factory: Makes the logger that takes finished lines, instead of a stream: for tests.
    """
    stream = stream or sys.stdout
    text = style == "text" or (style == "auto" and stream.isatty())
    processors: list[Processor] = [
        merge_contextvars,
        structlog.processors.add_log_level,
        *(_text(colors=stream.isatty()) if text else _json(process)),
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=factory or _factory(stream, text=text),
    )
    global _log  # noqa: PLW0603 - where a process logs to is one for all of it
    _log = structlog.get_logger().bind()
    logging.basicConfig(handlers=[_LibraryHandler()], level=logging.WARNING, force=True)


def where(error: BaseException) -> str:
    """Return the place an error came from, without its message, which may quote the body."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{trace.tb_frame.f_globals.get('__name__')}:{trace.tb_lineno}"


def _write(event: LogEvent, fields: Mapping[str, object]) -> bool:
    """Return whether the line is written, or is less important than the level."""
    try:
        getattr(_log, event.level)(event.name, **fields)
    except Exception:  # noqa: BLE001 - the answer that is logged stands in the database, whatever the log does
        return False
    return True


class _Dropped:
    """Counts the lines that could not be written, and says so once lines can be written again."""

    def __init__(self) -> None:
        self.total = 0
        self.untold = 0
        self._counting = threading.Lock()

    def add(self) -> None:
        with self._counting:
            self.total += 1
            self.untold += 1

    def tell(self) -> None:
        with self._counting:
            count, self.untold = self.untold, 0
        # Without context: the lost lines are not the current request's.
        if count and not Context().run(_write, LOG_DROPPED, {"count": count}):
            with self._counting:
                self.untold += count


_dropped = _Dropped()


def _json(process: str) -> tuple[Processor, ...]:
    def put_in_order(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
        """Put the fields of every line first, then the context, then the caller's own."""
        first = {name: line[name] for name in ("timestamp", "level", "event")}
        return {"logger": LOGGER, "process": process, **first, **get_contextvars(), **line}

    return (
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        put_in_order,
        _readable,
        structlog.processors.JSONRenderer(serializer=_serialize),
    )


def _text(*, colors: bool) -> tuple[Processor, ...]:
    return (
        structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
        _readable,
        structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=26),
    )


def _factory(stream: TextIO, *, text: bool) -> Callable[..., WrappedLogger]:
    file = LineFile(stream)
    if not text:
        return structlog.BytesLoggerFactory(file)
    return structlog.WriteLoggerFactory(io.TextIOWrapper(file, encoding=stream.encoding, errors="backslashreplace"))


def _readable(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """Leave out what is None, and write moments as ISO 8601 in UTC."""
    return {
        name: value.astimezone(UTC).isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value
        for name, value in line.items()
        if value is not None
    }


def _repr(value: object) -> str:
    try:
        shown = repr(value)
    except Exception:  # noqa: BLE001 - it is the value's own code that failed
        shown = object.__repr__(value)
    return shown.encode(errors="backslashreplace").decode()


_encode = msgspec.json.Encoder(enc_hook=_repr).encode


def _serialize(line: EventDict, **_default: object) -> bytes:
    """Return a line as ``json.dumps`` writes it: people search for ``"key": value``.

    In ASCII: some readers end a line at U+2028, or do not expect UTF-8.
    """
    try:
        encoded = _encode(line)
    except Exception:  # noqa: BLE001 - half a surrogate pair, a cycle: each raises another error
        encoded = _encode({name: _encodable(value) for name, value in line.items()})
    spaced = msgspec.json.format(encoded, indent=0)
    return spaced if spaced.isascii() else json.dumps(json.loads(spaced)).encode()


def _encodable(value: object) -> object:
    try:
        _encode(value)
    except Exception:  # noqa: BLE001 - see above
        return _repr(value)
    return value


class _LibraryHandler(logging.Handler):
    """Passes on the first line of what libraries log, without arguments and tracebacks: those can quote a request."""

    def emit(self, record: logging.LogRecord) -> None:
        template = record.msg if isinstance(record.msg, str) else type(record.msg).__name__
        error = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
        emit(LIBRARY_MESSAGE, library=record.name, message=template.partition("\n")[0], error=error)
