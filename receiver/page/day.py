"""The last day as the page draws it, out of the minutes: strips of states, and counts by the hour. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Literal

import msgspec

from db.condition import State, worst
from db.minutes import LIGHTS, Column, Counted, added, percentile
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
    """The last 24 hours: a strip for each light, and the hours, the oldest first."""

    strips: Mapping[str, Sequence[Stretch]]
    hours: Sequence[Hour]
    p50: float | None
    p95: float | None

    def in_words(self, name: str) -> str:
        """Return how a light was, in words for readers who do not see its strip."""
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


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """When the day's columns and hours begin; each ends with the one that ``now`` is in."""

    columns: datetime
    hours: datetime


def times_of(now: datetime) -> Times:
    """Return them."""
    return Times(columns=_after(now, STEP) - DAY, hours=_after(now, HOUR) - DAY)


def summarise(
    times: Times,
    columns: Sequence[Column],
    counted: Sequence[Counted],
    gaps: Sequence[tuple[datetime, str]],
    lights: Mapping[str, State],
) -> Day:
    """Return the last day.

    Args:
        times: When its columns and hours begin.
        columns: What all processes found, by the column.
        counted: What they counted, by the hour.
        gaps: The moments at which gaps were found, and their verdicts.
        lights: How each light is now; no minute says so yet.
    """
    found_in = {(column.at - times.columns) // STEP: column for column in columns}
    strips = {}
    for name in LIGHTS:
        states: list[State | Literal["unknown"]] = [
            UNKNOWN if at not in found_in else getattr(found_in[at], name) or UNKNOWN for at in range(DAY // STEP)
        ]
        if name in lights:
            states[-1] = lights[name] if states[-1] == UNKNOWN else worst(lights[name], states[-1])
        strips[name] = _stretches(states, times.columns)
    by_hour = {(hour.at - times.hours) // HOUR: hour for hour in counted}
    found = Counter(((at - times.hours) // HOUR, verdict) for at, verdict in gaps)
    hours = []
    for at in range(DAY // HOUR):
        there = by_hour.get(at)
        counts = Counter({} if there is None else there.counts)
        counts.update({verdict: count for (when, verdict), count in found.items() if when == at})
        lags = () if there is None else there.lags
        hours.append(
            Hour(at=times.hours + at * HOUR, counts=counts, p50=percentile(lags, 0.5), p95=percentile(lags, 0.95))
        )
    lags = added(hour.lags for hour in counted)
    return Day(strips=strips, hours=hours, p50=percentile(lags, 0.5), p95=percentile(lags, 0.95))


def _after(now: datetime, step: timedelta) -> datetime:
    """Return the end of the column that ``now`` is in."""
    now = now.astimezone(UTC)
    since = now - now.replace(hour=0, minute=0, second=0, microsecond=0)
    return now - since % step + step


def _stretches(states: Sequence[str], begin: datetime) -> Sequence[Stretch]:
    stretches, at = [], 0
    for state, group in groupby(states):
        end = at + len(list(group))
        stretches.append(Stretch(state=state, begin=at, end=end, since=begin + at * STEP, until=begin + end * STEP))
        at = end
    return stretches
