"""The one policy of waiting before what failed is tried again."""

import pytest

from freescout_audit.backoff import backoff


def at_most(_low: float, high: float) -> float:
    return high


def at_least(low: float, _high: float) -> float:
    return low


@pytest.mark.parametrize(("failures", "seconds"), [(1, 2), (2, 4), (3, 8), (5, 32), (6, 60), (7, 60), (10**9, 60)])
def test_a_wait_doubles_with_each_failure_up_to_the_longest(failures: int, seconds: float) -> None:
    assert backoff(failures, first=2, longest=60, chance=at_most) == seconds


@pytest.mark.parametrize("failures", [1, 3, 50])
def test_chance_takes_up_to_half_of_it_away(failures: int) -> None:
    whole = backoff(failures, first=2, longest=60, chance=at_most)

    assert backoff(failures, first=2, longest=60, chance=at_least) == whole / 2
    assert whole / 2 <= backoff(failures, first=2, longest=60) <= whole


def test_two_that_failed_together_do_not_come_back_together() -> None:
    assert backoff(1, first=2, longest=60) != backoff(1, first=2, longest=60)


def test_a_longest_wait_shorter_than_the_first_holds() -> None:
    assert backoff(1, first=2, longest=1, chance=at_most) == 1
