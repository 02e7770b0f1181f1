"""The last day as the page draws it: strips, hours, and the geometry of the charts."""

import math
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from db.minutes import COUNTS, LAG_BOUNDS, Column, Counted
from receiver.page.charts import HEIGHT, PROMISE, STRIP_HEIGHT, WIDTH, charts, strip
from receiver.page.day import Day, summarise, times_of
from support.examples import NOON, at

NOW = at(90)
TIMES = times_of(NOW)


def column(begins: float, **lights: str) -> Column:
    """Return a column that begins so many seconds after noon, with the lights that are known."""
    nothing = dict.fromkeys(("push", "pull", "desk", "database"))
    return msgspec.convert({**nothing, "at": at(begins), **lights}, Column)


def hour(begins: float, lags: Mapping[float, int] | None = None, **counts: int) -> Counted:
    """Return an hour that begins so many seconds after noon; ``lags`` are counts by upper bound."""
    took = [(lags or {}).get(bound, 0) for bound in (*LAG_BOUNDS, math.inf)]
    return Counted(at=at(begins), counts=dict.fromkeys(COUNTS, 0) | counts, lags=took)


def day(*columns: Column, hours: Sequence[Counted] = (), gaps: Sequence[tuple[float, str]] = (), **lights: Any) -> Day:
    return summarise(TIMES, columns, hours, [(at(seconds), verdict) for seconds, verdict in gaps], lights)


def test_a_strip_tells_what_was_found_and_what_is_not_known() -> None:
    shown = day(
        column(-3600, push="failed"), column(-3300, push="ok"), column(-600, push="ok"), column(-300, push="ok")
    ).strips["push"]

    assert [(each.state, each.since - NOON, each.until - NOON) for each in shown] == [
        ("unknown", timedelta(hours=-23, minutes=-55), timedelta(hours=-1)),
        ("failed", timedelta(hours=-1), timedelta(minutes=-55)),
        ("ok", timedelta(minutes=-55), timedelta(minutes=-50)),
        ("unknown", timedelta(minutes=-50), timedelta(minutes=-10)),
        ("ok", timedelta(minutes=-10), timedelta()),
        ("unknown", timedelta(), timedelta(minutes=5)),
    ]
    assert shown[-1].end == 288


def test_what_holds_now_is_the_end_of_a_strip_before_any_minute_says_so() -> None:
    shown = day(column(-300, pull="ok"), column(0, pull="failed"), pull="ok", desk="degraded").strips

    assert [(each.state, each.end - each.begin) for each in shown["pull"][-2:]] == [("ok", 1), ("failed", 1)]
    assert shown["desk"][-1].state == "degraded"


def test_a_strip_is_said_in_words_the_worst_first() -> None:
    full = [column(-300 * turn, push="ok") for turn in range(288)]

    assert day(*full).in_words("push") == "well all the time"
    assert day(*full).in_words("desk") == "not known for 1 d"
    shown = day(column(-900, push="ok"), column(-600, push="failed"))
    assert shown.in_words("push") == "failed for 5 min, well for 5 min, not known for 23 h"


def test_hours_have_their_counts_and_the_gaps() -> None:
    shown = day(
        hours=[hour(-7200, applied=1), hour(-3600, applied=5, refused=1)],
        gaps=[(-3650, "raced"), (-60, "lost"), (-50, "lost")],
    )

    counts = [(each.at - NOON, {name: n for name, n in each.counts.items() if n}) for each in shown.hours]
    assert counts[-3:] == [
        (timedelta(hours=-2), {"applied": 1, "raced": 1}),
        (timedelta(hours=-1), {"applied": 5, "refused": 1, "lost": 2}),
        (timedelta(), {}),
    ]
    assert shown.total("applied", "refused") == 7


def test_times_are_of_the_hour_and_of_the_day() -> None:
    shown = day(hours=[hour(-3600, {2: 2, 5: 1, math.inf: 1}), hour(0, {1: 4})])

    assert [shown.hours[-2].p50, shown.hours[-2].p95] == pytest.approx([2, math.inf])
    assert shown.hours[-3].p50 is None
    assert shown.p50 == pytest.approx(1)


def test_the_boxes_lie_within_their_chart_and_stand_on_each_other() -> None:
    deliveries, times, gaps, passes = charts(
        day(hours=[hour(-3600, {1: 1, math.inf: 3}, applied=3, stale=1, passes=9)])
    )

    for box in (*deliveries.boxes, *times.boxes, *passes.boxes):
        assert 0 <= box.x < box.x + box.width <= WIDTH
        assert 0 <= box.y < box.y + box.height <= HEIGHT + 0.1
    applied, stale = deliveries.boxes
    assert (applied.kind, applied.height, stale.height) == ("applied", 90, 30)
    assert stale.y + stale.height == applied.y
    assert gaps.boxes == []
    assert [box.title for box in passes.boxes] == ["11:00 UTC: 9 complete"]
    assert "over 3600 s" in times.boxes[0].title
    assert times.line is not None
    assert 0 < times.line < HEIGHT
    assert f"{PROMISE:g} s" in times.line_says


def test_the_states_of_a_strip_differ_in_height_too() -> None:
    shown = day(
        *(
            column(300 * turn - 3000, push=state)
            for turn, state in enumerate(("ok", "off", "notice", "degraded", "failed"))
        )
    )

    boxes = [box for box in strip(shown.strips["push"]) if box.kind != "unknown"]
    assert len({box.height for box in boxes}) == len(boxes) == 5
    assert all(box.y + box.height == STRIP_HEIGHT for box in boxes)


def test_the_figures_say_what_the_boxes_show() -> None:
    deliveries = charts(day(hours=[hour(-3600, applied=1234)]))[0]

    (applied, *_) = deliveries.series
    assert (applied.total, applied.figures[-2]) == ("1,234", "1,234")
    assert len(applied.figures) == len(deliveries.hours) == 24
