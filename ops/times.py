"""Times as operators type them: ``90s``, ``30m``, ``2d`` ago, ``10:42``, ``2026-11-25T10:42`` (UTC unless it says)."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Annotated

import typer

_AGO = re.compile(r"(\d{1,6})\s*(s|m|min|h|d)")
_OF_DAY = re.compile(r"([01]\d|2[0-3]):[0-5]\d(:[0-5]\d)?")
_UNITS = {"s": "seconds", "m": "minutes", "min": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True, slots=True)
class Since:
    """A time that was typed: so long ago, a time of the day, or a date."""

    text: str
    when: timedelta | time | datetime

    def at(self, now: datetime) -> datetime:
        """Return the time it means now; a time of the day means the last one, in UTC."""
        if isinstance(self.when, timedelta):
            return now - self.when
        if isinstance(self.when, datetime):
            return self.when
        then = datetime.combine(now.astimezone(UTC).date(), self.when, tzinfo=UTC)
        return then if then <= now else then - timedelta(days=1)

    def __str__(self) -> str:
        return self.text


def parse_since(text: str | Since) -> Since:
    """Read a time.

    Raises:
        typer.BadParameter: It is none; the message shows two that are.
    """
    if isinstance(text, Since):
        return text
    typed = text.strip()
    if ago := _AGO.fullmatch(typed):
        return Since(typed, timedelta(**{_UNITS[ago[2]]: int(ago[1])}))
    if _OF_DAY.fullmatch(typed):
        return Since(typed, time.fromisoformat(typed))
    try:
        moment = datetime.fromisoformat(typed)
    except ValueError:
        raise typer.BadParameter(f"{typed!r} is no time: write 90s, 30m, 1h, 2d, 10:42, or 2026-11-25T10:00Z") from None
    return Since(typed, moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))


SINCE_HELP = "So long ago (90s, 30m, 1h, 2d), or a time (10:42, 2026-11-25T10:00; UTC)."
SinceOption = Annotated[
    Since | None, typer.Option("--since", parser=parse_since, metavar="TIME", help=SINCE_HELP, show_default=False)
]
