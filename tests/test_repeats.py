"""What repeats is one line, with how often and since when."""

from conftest import Log
from freescout_audit.events import POLLER_FAULT
from freescout_audit.repeats import Repeats


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_first_is_said_at_once_and_the_next_after_a_while_with_a_count(log: Log) -> None:
    clock = Clock()
    repeats = Repeats(60, clock=clock)

    for _ in range(61):
        repeats.emit(POLLER_FAULT, "away", reason="away")
        clock.now += 1

    lines = [(line.get("repeated"), line.get("for_s")) for line in log.lines("poller.fault")]
    assert lines == [(None, None), (60, 60)]


def test_another_reason_is_said_at_once_and_the_same_one_again_once_it_was_over(log: Log) -> None:
    repeats = Repeats(60, clock=Clock())

    repeats.emit(POLLER_FAULT, "away", reason="away")
    repeats.emit(POLLER_FAULT, "full", reason="full")
    repeats.over("away")
    repeats.emit(POLLER_FAULT, "away", reason="away")

    assert [line["reason"] for line in log.lines("poller.fault")] == ["away", "full", "away"]


def test_what_is_remembered_is_bounded(log: Log) -> None:
    repeats = Repeats(60, clock=Clock())

    for about in range(10_001):
        repeats.emit(POLLER_FAULT, about)
    repeats.emit(POLLER_FAULT, 10_000)
    repeats.emit(POLLER_FAULT, 0)

    assert len(log.lines("poller.fault")) == 10_002
