"""The last day as the page draws it, out of the minutes: strips of states, and counts by the hour. Pure."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Literal

import msgspec

from db.condition import State, worst
from db.minutes import LIGHTS, Minute, added, percentile
from freescout_audit.words import span

DAY = timedelta(hours=24)
STEP = timedelta(minutes=5)
"""What one column of a strip stands for."""
HOUR = timedelta(hours=1)
"""What one column of a chart stands for."""
UNKNOWN: Literal["unknown"] = "unknown"
"""No process has said how it was."""
_WORDS = {
    "failed": "failed",
    "degraded": "degraded",
    "notice": "worth a look",
    "off": "off",
    "ok": "well",
    UNKNOWN: "not known",
}
"""The states, the worst first, as the page says them."""


class Stretch(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a strip in one state; ``begin`` and ``end`` in columns."""

    state: str
    begin: int
    end: int
    since: datetime
    until: datetime


class Hour(msgspec.Struct, frozen=True, kw_only=True):
    """What all processes counted in an hour that begins at ``at``; times in seconds, None when nothing came."""

    at: datetime
    counts: Mapping[str, int]
    p50: float | None
    p95: float | None


class Day(msgspec.Struct, frozen=True, kw_only=True):
    """The last 24 hours up to ``end``: a strip for each light, and the hours, the oldest first."""

    end: datetime
    strips: Mapping[str, Sequence[Stretch]]
    hours: Sequence[Hour]
    p50: float | None
    p95: float | None

    def in_words(self, name: str) -> str:
        """Return how a light was, for who does not see its strip."""
        columns: Counter[str] = Counter()
        for stretch in self.strips[name]:
            columns[stretch.state] += stretch.end - stretch.begin
        if set(columns) == {"ok"}:
            return "well all the time"
        said = [
            f"{_WORDS[state]} for {span(columns[state] * STEP.total_seconds())}" for state in _WORDS if columns[state]
        ]
        return ", ".join(said)

    def total(self, *names: str) -> int:
        """Return how often something was counted all day."""
        return sum(hour.counts.get(name, 0) for hour in self.hours for name in names)


def summarise(
    minutes: Sequence[Minute], gaps: Sequence[tuple[datetime, str]], now: datetime, lights: Mapping[str, State]
) -> Day:
    """Return the last day.

    Args:
        minutes: The minutes of all processes, the oldest first.
        gaps: The moments at which gaps were found, and their verdicts.
        now: The database's clock.
        lights: How each light is now; no minute says so yet.
    """
    end = _after(now, STEP)
    begin = end - DAY
    columns = _grouped(minutes, lambda minute: (minute.ended_at - begin) // STEP)
    strips = {}
    for name in LIGHTS:
        states = [_state(columns.get(at, ()), name) for at in range(DAY // STEP)]
        if name in lights:
            states[-1] = lights[name] if states[-1] == UNKNOWN else worst(lights[name], states[-1])
        strips[name] = _stretches(states, begin)
    last = _after(now, HOUR)
    first = last - DAY
    by_hour = _grouped(minutes, lambda minute: (minute.ended_at - first) // HOUR)
    found = Counter(((at - first) // HOUR, verdict) for at, verdict in gaps)
    hours = []
    for at in range(DAY // HOUR):
        there = by_hour.get(at, ())
        lags = added(minute.lags for minute in there)
        counts: Counter[str] = Counter()
        for minute in there:
            counts.update({name: getattr(minute, name) for name in _COUNTED})
        counts.update({verdict: count for (when, verdict), count in found.items() if when == at})
        hours.append(Hour(at=first + at * HOUR, counts=counts, p50=percentile(lags, 0.5), p95=percentile(lags, 0.95)))
    lags = added(minute.lags for minute in minutes)
    return Day(end=end, strips=strips, hours=hours, p50=percentile(lags, 0.5), p95=percentile(lags, 0.95))


_COUNTED = tuple(field.name for field in msgspec.structs.fields(Minute) if field.type is int)


def _after(now: datetime, step: timedelta) -> datetime:
    """Return the end of the column that ``now`` is in."""
    since = now - now.replace(hour=0, minute=0, second=0, microsecond=0)
    return now - since % step + step


def _grouped(minutes: Sequence[Minute], key: Callable[[Minute], int]) -> Mapping[int, Sequence[Minute]]:
    return {at: list(group) for at, group in groupby(minutes, key)}


def _state(minutes: Sequence[Minute], name: str) -> State | Literal["unknown"]:
    """Return the worst state that a light had; what no process has said is not known."""
    states: list[State] = [state for minute in minutes if (state := getattr(minute, name)) is not None]
    return worst(*states) if states else UNKNOWN


def _stretches(states: Sequence[str], begin: datetime) -> Sequence[Stretch]:
    stretches, at = [], 0
    for state, group in groupby(states):
        end = at + len(list(group))
        stretches.append(Stretch(state=state, begin=at, end=end, since=begin + at * STEP, until=begin + end * STEP))
        at = end
    return stretches
