"""The last day as the page draws it: strips, hours, and the geometry of the charts."""

import math
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from db.minutes import COUNTS, LAG_BOUNDS, Minute
from receiver.page.charts import HEIGHT, PROMISE, STRIP_HEIGHT, WIDTH, charts, strip
from receiver.page.day import Day, summarise
from support.examples import NOON, at

NOW = at(90)


def minute(ended: float, process: str = "web.1", **said: Any) -> Minute:
    """Return a minute that ended so many seconds after noon, in which nothing was counted but what is said."""
    nothing: dict[str, Any] = dict.fromkeys(("push", "pull", "desk", "database")) | dict.fromkeys(COUNTS, 0)
    return msgspec.convert({**nothing, "process": process, "ended_at": at(ended), "lags": [], **said}, Minute)


def lags(**groups: int) -> list[int]:
    """Return counts by bound, such as ``_5=3``."""
    return [groups.get(f"_{bound:g}", 0) for bound in (*LAG_BOUNDS, math.inf)]


def day(*minutes: Minute, **lights: Any) -> Day:
    return summarise(minutes, [], NOW, lights)


def test_a_strip_tells_of_the_worst_of_five_minutes_and_of_what_is_not_known() -> None:
    shown = day(
        minute(-3600, push="ok"),
        minute(-3540, push="failed"),
        minute(-3500, "web.2", push="degraded"),
        minute(-3200, push="ok"),
        minute(-100, push="ok"),
    ).strips["push"]

    assert [(each.state, each.since - NOON, each.until - NOON) for each in shown] == [
        ("unknown", timedelta(hours=-23, minutes=-55), timedelta(hours=-1)),
        ("failed", timedelta(hours=-1), timedelta(minutes=-55)),
        ("ok", timedelta(minutes=-55), timedelta(minutes=-50)),
        ("unknown", timedelta(minutes=-50), timedelta(minutes=-5)),
        ("ok", timedelta(minutes=-5), timedelta()),
        ("unknown", timedelta(), timedelta(minutes=5)),
    ]
    assert shown[-1].end == 288


def test_what_holds_now_is_the_end_of_a_strip_before_any_minute_says_so() -> None:
    shown = day(minute(-30, pull="ok"), minute(30, pull="failed"), pull="ok", desk="degraded").strips

    assert [(each.state, each.end - each.begin) for each in shown["pull"][-2:]] == [("ok", 1), ("failed", 1)]
    assert shown["desk"][-1].state == "degraded"


def test_a_strip_is_said_in_words() -> None:
    full = [minute(60 * at - 86400 + 300, push="ok", pull="ok") for at in range(1440)]

    shown = day(*full, minute(-600, push="failed"), push="ok")

    assert day(*full, push="ok").in_words("push") == "well all the time"
    assert shown.in_words("desk") == "not known for 1 d"


def test_a_failure_is_said_first() -> None:
    shown = day(minute(-900, push="ok"), minute(-600, push="failed"))

    assert shown.in_words("push") == "failed for 5 min, well for 5 min, not known for 23 h"


def test_hours_add_up_what_all_processes_counted_and_the_gaps() -> None:
    shown = summarise(
        [
            minute(-3700, applied=1),
            minute(-1800, applied=2, refused=1),
            minute(-1790, "web.2", applied=3),
            minute(-60, "poller.1", passes=4, failed_passes=1),
        ],
        [(at(-3650), "raced"), (at(-60), "lost"), (at(-50), "lost")],
        NOW,
        {},
    )

    assert [(hour.at - NOON, {name: count for name, count in hour.counts.items() if count}) for hour in shown.hours][
        -3:
    ] == [
        (timedelta(hours=-2), {"applied": 1, "raced": 1}),
        (timedelta(hours=-1), {"applied": 5, "refused": 1, "passes": 4, "failed_passes": 1, "lost": 2}),
        (timedelta(), {}),
    ]
    assert shown.total("applied", "refused") == 7


def test_times_are_of_all_that_was_counted_in_the_hour() -> None:
    shown = day(minute(-60, lags=lags(_2=1, _5=1)), minute(-50, "poller.1", lags=lags(_2=1, _inf=1)))

    hour = shown.hours[-2]
    assert hour.p50 == pytest.approx(2)
    assert hour.p95 == math.inf
    assert shown.hours[-3].p50 is None


def test_the_boxes_lie_within_their_chart_and_stand_on_each_other() -> None:
    shown = day(minute(-60, applied=3, stale=1, lags=lags(_1=1, _inf=3)), minute(-50, "poller.1", passes=9))

    deliveries, times, gaps, passes = charts(shown)
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
            minute(300 * turn - 3000, push=state)
            for turn, state in enumerate(("ok", "off", "notice", "degraded", "failed"))
        )
    )

    boxes = [box for box in strip(shown.strips["push"]) if box.kind != "unknown"]
    assert len({box.height for box in boxes}) == len(boxes) == 5
    assert all(box.y + box.height == STRIP_HEIGHT for box in boxes)


def test_the_figures_say_what_the_boxes_show() -> None:
    deliveries = charts(day(minute(-60, applied=1234)))[0]

    (applied, *_) = deliveries.series
    assert (applied.total, applied.figures[-2]) == ("1,234", "1,234")
    assert len(applied.figures) == len(deliveries.hours) == 24
