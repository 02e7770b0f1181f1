"""The geometry of the page's charts: rectangles in a box of `WIDTH` by `HEIGHT`; templates draw them as SVG. Pure."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from receiver.page.day import Day, Hour, Stretch

WIDTH, HEIGHT = 480, 120
_GUTTER = 3
_SLOWEST, _FASTEST = 3600.0, 0.5
"""Seconds between which times are drawn, on a logarithmic scale."""
PROMISE = 5.0
"""Seconds within which a change is known."""
STRIP_HEIGHT = 12
_HEIGHTS: Mapping[str, int] = {"ok": 5, "off": 3, "notice": 7, "degraded": 9, "failed": 12, "unknown": 12}
"""How high a state is in a strip, so that it is told apart without its colour."""


class Box(msgspec.Struct, frozen=True, kw_only=True):
    """A rectangle; ``kind`` is its class, ``title`` what it says when it is pointed at."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    title: str


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """What is counted under one name, and its figures, an hour each."""

    kind: str
    label: str
    figures: Sequence[str]
    total: str


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """A chart, and the same as figures for readers who do not see it."""

    name: str
    title: str
    boxes: Sequence[Box]
    series: Sequence[Series]
    hours: Sequence[datetime]
    top: str
    """What the upper edge stands for."""
    line: float | None = None
    """Where a line goes across, with its words."""
    line_says: str = ""


def strip(stretches: Sequence[Stretch]) -> Sequence[Box]:
    """Return the boxes of a strip; what is not known is left open by its style."""
    return [
        Box(
            x=stretch.begin,
            y=STRIP_HEIGHT - _HEIGHTS[stretch.state],
            width=stretch.end - stretch.begin,
            height=_HEIGHTS[stretch.state],
            kind=stretch.state,
            title=f"{stretch.since:%H:%M} to {stretch.until:%H:%M} UTC: {stretch.state}",
        )
        for stretch in stretches
    ]


def charts(day: Day) -> Sequence[Chart]:
    """Return the charts of a day, in their order."""
    return [
        _stacked(
            day.hours,
            "deliveries",
            "Deliveries by outcome",
            {
                "applied": "applied",
                "duplicate": "duplicate",
                "stale": "stale",
                "disputed": "disputed",
                "ignored": "ignored",
                "unusable": "unusable",
                "refused": "refused (401)",
            },
        ),
        _times(day),
        _stacked(
            day.hours,
            "gaps",
            "Changes found before their delivery",
            {
                "raced": "raced (came within a minute)",
                "waiting": "waiting",
                "late": "late",
                "never_sent": "never sent",
                "lost": "lost",
            },
        ),
        _stacked(day.hours, "passes", "Passes", {"passes": "complete", "failed_passes": "failed"}),
    ]


def _stacked(hours: Sequence[Hour], name: str, title: str, labels: Mapping[str, str]) -> Chart:
    """Return a chart of counts, one upon the other, the first at the bottom."""
    most = max([sum(hour.counts.get(kind, 0) for kind in labels) for hour in hours] or [0])
    top = most or 1
    boxes, width = [], WIDTH / max(len(hours), 1)
    for at, hour in enumerate(hours):
        base = float(HEIGHT)
        for kind, label in labels.items():
            count = hour.counts.get(kind, 0)
            if count:
                height = max(HEIGHT * count / top, 1.0)
                base -= height
                boxes.append(
                    Box(
                        x=round(at * width, 1),
                        y=round(max(base, 0.0), 1),
                        width=round(width - _GUTTER, 1),
                        height=round(height, 1),
                        kind=kind,
                        title=f"{hour.at:%H:%M} UTC: {count:,} {label}",
                    )
                )
    series = [
        Series(
            kind=kind,
            label=label,
            figures=[f"{hour.counts.get(kind, 0):,}" for hour in hours],
            total=f"{sum(hour.counts.get(kind, 0) for hour in hours):,}",
        )
        for kind, label in labels.items()
    ]
    hours_at = [hour.at for hour in hours]
    return Chart(
        name=name,
        title=title,
        boxes=boxes,
        series=series,
        hours=hours_at,
        top=f"up to {most:,} an hour" if most else "none",
    )


def _times(day: Day) -> Chart:
    """Return the chart of how long changes took until they were known: the 95th percentile behind the median."""
    boxes, width = [], WIDTH / max(len(day.hours), 1)
    for at, hour in enumerate(day.hours):
        for kind, label, seconds, inset in (("p95", "p95", hour.p95, 0.0), ("p50", "p50", hour.p50, width / 4)):
            if seconds is not None:
                height = HEIGHT * _share(seconds)
                boxes.append(
                    Box(
                        x=round(at * width + inset, 1),
                        y=round(HEIGHT - height, 1),
                        width=round(width - _GUTTER - 2 * inset, 1),
                        height=round(height, 1),
                        kind=kind,
                        title=f"{hour.at:%H:%M} UTC: {label} {_seconds(seconds)}",
                    )
                )
    series = [
        Series(
            kind=kind,
            label=label,
            figures=[_seconds(getattr(hour, kind)) for hour in day.hours],
            total=_seconds(getattr(day, kind)),
        )
        for kind, label in (("p50", "half within (p50)"), ("p95", "95 % within (p95)"))
    ]
    return Chart(
        name="times",
        title="Time from change to cache",
        boxes=boxes,
        series=series,
        hours=[hour.at for hour in day.hours],
        top="up to 1 hour, on a logarithmic scale",
        line=round(HEIGHT * (1 - _share(PROMISE)), 1),
        line_says=f"the promise of {PROMISE:g} s",
    )


def _share(seconds: float) -> float:
    """Return how high a time is drawn, from 0 to 1."""
    within = min(max(seconds, _FASTEST), _SLOWEST)
    return max(math.log(within / _FASTEST) / math.log(_SLOWEST / _FASTEST), 0.02)


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"over {_SLOWEST:g} s" if math.isinf(seconds) else f"{seconds:.1f} s"
