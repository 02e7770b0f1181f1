"""What the desk's answers tell of its clock."""

from datetime import datetime, timedelta

import msgspec
import pytest

from freescout_audit.desk_clock import note_desk_clock, note_rows_ahead
from freescout_audit.rule import Lease
from support.examples import at

SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)


def test_the_first_answer_tells_the_offset_and_what_has_been_seen() -> None:
    noted = note_desk_clock(Lease(), at(100), asked_at=at(0), now=at(0.5))

    assert (noted.clock_offset, noted.seen_through) == (timedelta(seconds=99.5), at(100))


def test_the_offset_stays_as_large_as_any_answer_has_shown_while_the_bounds_allow() -> None:
    before = Lease(seen_through=at(100), clock_offset=timedelta(seconds=0.9))

    noted = note_desk_clock(before, at(200), asked_at=at(200.05), now=at(200.2))

    assert noted.clock_offset == timedelta(seconds=0.9)


def test_an_answer_that_shows_a_larger_offset_enlarges_it() -> None:
    before = Lease(seen_through=at(100), clock_offset=timedelta(seconds=0.1))

    noted = note_desk_clock(before, at(201), asked_at=at(200), now=at(200.1))

    assert noted.clock_offset == timedelta(seconds=0.9)


def test_what_has_been_seen_never_moves_back() -> None:
    before = Lease(seen_through=at(500), clock_offset=timedelta())

    assert note_desk_clock(before, at(100), asked_at=at(100), now=at(100)).seen_through == at(500)


def test_a_clock_set_back_a_little_makes_dates_repeat_up_to_what_it_would_read() -> None:
    before = Lease(seen_through=at(100), clock_offset=timedelta(seconds=4))

    noted = note_desk_clock(before, at(200), asked_at=at(200), now=at(200.5))

    assert noted.clock_offset == timedelta(seconds=-0.5)
    assert noted.seen_through == at(200.5) + timedelta(seconds=4) + SECOND
    assert (noted.set_back_through, noted.set_back_at) == (None, None)


def test_a_clock_set_back_far_is_remembered_with_the_moment_of_the_question() -> None:
    before = Lease(seen_through=at(100), clock_offset=timedelta(hours=1))

    noted = note_desk_clock(before, at(200), asked_at=at(200), now=at(200))

    assert noted.set_back_through == noted.seen_through == at(200) + timedelta(hours=1) + SECOND
    assert noted.set_back_at == at(200)


@pytest.mark.parametrize("before", [Lease(), Lease(seen_through=at(100), clock_offset=HOUR)], ids=["first", "set back"])
@pytest.mark.parametrize("told", [0, -1])
def test_what_another_answer_has_told_since_bounds_the_offset(before: Lease, told: float) -> None:
    noted = note_desk_clock(before, at(101), asked_at=at(100), now=at(340), at_least=timedelta(seconds=told))

    assert noted.clock_offset == timedelta(seconds=told)


def test_what_looked_like_a_clock_set_back_while_ours_was_ahead_is_forgotten() -> None:
    """Ours stood a day ahead from 100 to 200, and a pass took the desk's for set back meanwhile."""
    day = 86_400
    right = Lease(seen_through=at(90), complete_through=at(90), covered_through=at(90), clock_offset=timedelta())
    ahead = note_desk_clock(right, at(100), asked_at=at(day + 100), now=at(day + 100))
    assert ahead.seen_through == ahead.set_back_through == at(day + 101)
    ahead = msgspec.structs.replace(ahead, complete_through=at(100), covered_through=ahead.seen_through)

    noted = note_desk_clock(ahead, at(200), asked_at=at(200), now=at(200.5))

    assert noted.clock_offset == timedelta(seconds=-0.5)
    assert noted.seen_through == noted.covered_through == at(200)
    assert (noted.set_back_through, noted.set_back_at) == (None, None)


def test_a_second_set_back_keeps_the_latest_date_that_repeats() -> None:
    before = Lease(
        seen_through=at(0), clock_offset=timedelta(minutes=1), set_back_through=at(10_000), set_back_at=at(-500)
    )

    noted = note_desk_clock(before, at(200), asked_at=at(200), now=at(200))

    assert (noted.set_back_through, noted.set_back_at) == (at(10_000), at(200))


def test_rows_dated_ahead_show_that_dates_repeat_for_an_hour_after_the_earliest_of_them() -> None:
    noted = note_rows_ahead(Lease(seen_through=at(0)), [at(-5), at(3000), at(1000)], at(0), asked_at=at(1))

    assert noted.seen_through == noted.set_back_through == at(1000) + HOUR
    assert noted.set_back_at == at(1)


@pytest.mark.parametrize("ahead", [60, 3606, 86400])
def test_a_row_that_daylight_saving_does_not_explain_has_been_seen_and_shows_no_more(ahead: float) -> None:
    """Up to a minute may be the difference to a proxy's clock, and no hour is longer than one."""
    noted = note_rows_ahead(Lease(seen_through=at(0)), [at(ahead)], at(0), asked_at=at(1))

    assert noted == Lease(seen_through=at(ahead))


@pytest.mark.parametrize("dates", [[], [at(-100), at(500)], [at(86401)]], ids=["none", "seen", "absurd"])
def test_rows_that_are_no_later_than_what_was_seen_or_absurd_change_nothing(dates: list[datetime]) -> None:
    """What a desk's clock that was set back explains is seen already."""
    before = Lease(seen_through=at(500))

    assert note_rows_ahead(before, dates, at(0), asked_at=at(1)) == before
