"""This host's clock and loop, and a schedule that counts no missed runs."""

from datetime import UTC, datetime, timedelta

import pytest

from poller.host import STANDSTILL, Every, Host, Sight

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
YEAR = timedelta(days=365)


class Clocks:
    """A wall clock that can be set, and a steady one."""

    def __init__(self) -> None:
        self.wall, self.steady = 1_700_000_000.0, 50.0

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def host(clocks: Clocks) -> Host:
    return Host(wall=lambda: clocks.wall, steady=lambda: clocks.steady)


class TestTheHost:
    @pytest.mark.parametrize("seconds", [-3600.0, -2.0, 2.0, 365 * 86400.0])
    def test_a_clock_that_is_set_is_noticed_once(self, host: Host, clocks: Clocks, seconds: float) -> None:
        clocks.pass_by(1)
        assert host.look() == Sight()
        clocks.wall += seconds
        clocks.pass_by(1)

        assert host.look().jumped == pytest.approx(seconds)
        clocks.pass_by(1)
        assert host.look() == Sight()

    def test_a_clock_that_is_kept_right_is_no_jump(self, host: Host, clocks: Clocks) -> None:
        for _ in range(3600):
            clocks.pass_by(1)
            clocks.wall += 0.1
            assert host.look() == Sight()

    def test_who_is_held_up_between_two_clocks_sees_no_jump(self, clocks: Clocks) -> None:
        held_up_for = [0, 5, 0, 5]

        def wall() -> float:
            clocks.pass_by(held_up_for.pop(0))
            return clocks.wall

        host = Host(wall=wall, steady=lambda: clocks.steady)
        for _ in range(3):
            clocks.pass_by(1)
            assert host.look().jumped == 0

    def test_a_loop_that_stood_still_is_noticed(self, host: Host, clocks: Clocks) -> None:
        clocks.pass_by(STANDSTILL - 0.1)
        assert host.look() == Sight()
        clocks.pass_by(STANDSTILL + 2)

        assert host.look().stood_still == pytest.approx(STANDSTILL + 2)


class TestTheSchedule:
    def test_it_keeps_its_beat(self) -> None:
        now = NOON + timedelta(seconds=0.2)

        assert Every(120).get_next_fire_time(NOON, now) == NOON + timedelta(seconds=120)

    @pytest.mark.parametrize("missed", [timedelta(seconds=121), timedelta(hours=1), YEAR, 500 * YEAR])
    def test_what_was_missed_is_one_run_and_the_beat_is_kept(self, missed: timedelta) -> None:
        now = NOON + missed

        following = Every(120).get_next_fire_time(NOON, now)

        assert now < following <= now + timedelta(seconds=120)
        assert (following - NOON) % timedelta(seconds=120) == timedelta()

    def test_before_the_first_run_it_is_due(self) -> None:
        assert Every(120).get_next_fire_time(None, NOON) == NOON
