"""Our log lines, out of whatever stream they come in: a file, a pipe, Heroku's drain with a prefix before each."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from fnmatch import fnmatchcase

import msgspec

from freescout_audit.logs import LOGGER

LEVELS = ("debug", "info", "warning", "error")

_PREFIX = re.compile(r"^\S+ \w+\[(?P<dyno>[\w.-]+)\]: ")
"""What Heroku puts before a line: ``2026-11-25T10:00:00.000000+00:00 app[web.1]: ``."""
_OURS = ("logger", "process", "timestamp", "level", "event")

Fields = Mapping[str, object]
_decode = msgspec.json.Decoder(dict[str, object]).decode


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ours: when, how important, what, who (the dyno where the stream names it), and its fields."""

    at: datetime
    level: str
    event: str
    process: str
    fields: Fields
    raw: Fields

    @property
    def ticket_ids(self) -> set[object]:
        """The tickets it is about."""
        several = self.fields.get("tickets")
        return {self.fields.get("ticket_id"), *(several if isinstance(several, list) else ())} - {None}


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which lines are wanted; what is None or empty wants all."""

    ticket_id: int | None = None
    events: Sequence[str] = ()
    """Patterns with ``*`` and ``?``."""
    since: datetime | None = None
    level: str = "debug"

    def wants(self, line: LogLine) -> bool:
        """Tell whether a line is wanted."""
        return (
            (self.ticket_id is None or self.ticket_id in line.ticket_ids)
            and (not self.events or any(fnmatchcase(line.event, pattern) for pattern in self.events))
            and (self.since is None or line.at >= self.since)
            and _rank(line.level) >= _rank(self.level)
        )


def read_line(text: str) -> LogLine | None:
    """Read one line; None when it is not ours, or was cut off on its way."""
    prefix = _PREFIX.match(text)
    payload = text[prefix.end() :] if prefix else text
    if not payload.startswith("{"):
        return None
    try:
        raw = _decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if raw.get("logger") != LOGGER:
        return None
    try:
        at = datetime.fromisoformat(str(raw.get("timestamp")))
    except ValueError:
        return None
    if at.tzinfo is None:
        return None
    process = prefix["dyno"] if prefix else str(raw.get("process", ""))
    fields = {name: value for name, value in raw.items() if name not in _OURS}
    return LogLine(
        at=at,
        level=str(raw.get("level", "")),
        event=str(raw.get("event", "")),
        process=process,
        fields=fields,
        raw=raw,
    )


def value_of(line: LogLine, name: str) -> str:
    """Return what a line says under a name, for counting; ``-`` when it says nothing."""
    value = line.process if name == "process" else line.raw.get(name)
    return "-" if value is None else str(value)


def _rank(level: str) -> int:
    """Return a level's rank; one we do not know is never left out."""
    return LEVELS.index(level) if level in LEVELS else len(LEVELS)
