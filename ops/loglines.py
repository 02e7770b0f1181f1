"""Our log lines, out of whatever stream they come in: a file, a pipe, whatever a host puts before each line."""

import ast
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase

import msgspec

from freescout_audit.events import CATALOGUE
from freescout_audit.logs import LOGGER
from ops.searches import Search

LEVELS = ("debug", "info", "warning", "error")

_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_WHO = (
    re.compile(r"\w\[(?P<who>[A-Za-z_]+[\w-]*\.\d+)\]: ?$"),
    re.compile(r"\w/(?P<who>[A-Za-z_]+[\w-]*\.\d+): ?$"),
    re.compile(r"^(\d+ )?<\d+>1 \S+ \S+ \S+ (?P<who>[A-Za-z_]+[\w-]*\.\d+) "),
    re.compile(r"^(?P<who>\S+) +\| ?$"),
)
"""Where a prefix names the process: Heroku's, Papertrail's, RFC 5424's of a Heroku drain, docker compose's."""
_WRAPPERS = ("log", "MESSAGE")
"""Where another's JSON holds our line: Docker's json-file, journald's ``-o json``."""
_BRACES = 8
"""Our object begins at one of the first so many braces."""
_TEXT = re.compile(
    r"(?P<time>\d\d:\d\d:\d\d) \[(?P<level>debug|info|warning|error) *\] (?P<event>[a-z_]+(\.[a-z_]+)+)(?P<rest> .*|)$"
)
"""A line of ``log.format=text``."""
_FIELD = re.compile(r"""(\w+)=('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\[[^\]]*\]|\{[^}]*\}|\S*)""")
_STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_EVENTS = frozenset(event.name for event in CATALOGUE)
_LONGEST = 1 << 20
"""Characters of a line in another's object."""
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
    saved: Sequence[Search] = ()
    since: datetime | None = None
    level: str = "debug"

    def wants(self, line: LogLine) -> bool:
        """Tell whether a line is wanted."""
        return (
            (self.ticket_id is None or self.ticket_id in line.ticket_ids)
            and (not self.events or any(fnmatchcase(line.event, pattern) for pattern in self.events))
            and (not self.saved or any(search.finds(line.event, line.fields) for search in self.saved))
            and (self.since is None or line.at >= self.since)
            and _rank(line.level) >= _rank(self.level)
        )


def read_line(text: str, *, now: datetime | None = None) -> LogLine | None:
    """Read one line; None when it is not ours, or was cut off on its way.

    A line of ``log.format=text`` has no date and no zone: it bears the time of its prefix, if that has a whole one, and
    otherwise counts as of the last 24 hours before ``now`` in our own zone.
    """
    text = _COLOURS.sub("", text)
    start = -1
    for _ in range(_BRACES):
        start = text.find("{", start + 1)
        if start < 0:
            break
        raw = _object(text[start:])
        if raw is not None:
            return _wrapped(raw, now) or _from_json(raw, _who(text[:start]))
    return _from_text(text, now or datetime.now(UTC))


def _object(text: str) -> Fields | None:
    """Return the JSON object that ends with the last brace; None when there is none."""
    try:
        return _decode(text[: text.rfind("}") + 1])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def _wrapped(raw: Fields, now: datetime | None) -> LogLine | None:
    """Return our line that another's object holds; None when it holds none."""
    if raw.get("logger") == LOGGER:
        return None
    inner = next((value for name in _WRAPPERS if isinstance(value := raw.get(name), str)), None)
    return None if inner is None or len(inner) > _LONGEST else read_line(inner.rstrip("\r\n"), now=now)


def _from_json(raw: Fields, who: str | None) -> LogLine | None:
    if raw.get("logger") != LOGGER:
        return None
    try:
        at = datetime.fromisoformat(str(raw.get("timestamp")))
    except ValueError:
        return None
    if at.tzinfo is None:
        return None
    fields = {name: value for name, value in raw.items() if name not in _OURS}
    return LogLine(
        at=at,
        level=str(raw.get("level", "")),
        event=str(raw.get("event", "")),
        process=who or str(raw.get("process", "")),
        fields=fields,
        raw=raw,
    )


def _from_text(text: str, now: datetime) -> LogLine | None:
    found = _TEXT.search(text)
    if found is None or found["event"] not in _EVENTS:
        return None
    prefix = text[: found.start()]
    stamp = _STAMP.search(prefix)
    try:
        at = _of_the_last_day(found["time"], now) if stamp is None else datetime.fromisoformat(stamp[0])
    except ValueError:
        return None
    fields = {name: _value(shown) for name, shown in _FIELD.findall(found["rest"])}
    process = _who(prefix) or ""
    first = {"logger": LOGGER, "process": process, "timestamp": at.astimezone(UTC).isoformat()}
    return LogLine(
        at=at,
        level=found["level"],
        event=found["event"],
        process=process,
        fields=fields,
        raw={**first, "level": found["level"], "event": found["event"], **fields},
    )


def _of_the_last_day(time: str, now: datetime) -> datetime:
    """Return the last moment before ``now`` at which our clocks showed a time."""
    here = now.astimezone()
    at = datetime.combine(here.date(), datetime.strptime(time, "%H:%M:%S").time()).astimezone()  # noqa: DTZ007 - our own zone's
    return at if at <= here else (at.replace(tzinfo=None) - timedelta(days=1)).astimezone()


def _value(shown: str) -> object:
    """Return a field's value as it was, or as it is shown."""
    try:
        value: object = ast.literal_eval(shown)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return shown
    return value


def _who(prefix: str) -> str | None:
    """Return the process that a prefix names."""
    return next((found["who"] for pattern in _WHO if (found := pattern.search(prefix))), None)


def value_of(line: LogLine, name: str) -> str:
    """Return what a line says under a name, for counting; ``-`` when it says nothing."""
    value = line.process if name == "process" else line.raw.get(name)
    return "-" if value is None else str(value)


def _rank(level: str) -> int:
    """Return a level's rank; one we do not know is never left out."""
    return LEVELS.index(level) if level in LEVELS else len(LEVELS)
