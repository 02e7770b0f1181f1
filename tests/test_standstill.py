"""A minute in which FreeScout's worker stands still, in short."""

from pathlib import Path

from proof.standstill import LONGEST, Standstill, share


async def test_while_the_worker_stands_still_a_change_is_known_within_five_seconds(
    database_url: str, tmp_path: Path
) -> None:
    settings = {"POLLER_PEEK": "0.2"}

    unknown_for = await Standstill(database_url, folder=tmp_path, seed=1, seconds=1, every=0.1, settings=settings).run()

    assert len(unknown_for) > 3
    assert 0 < unknown_for[0] < unknown_for[-1] < LONGEST


def test_a_share_of_sorted_values() -> None:
    assert [share([1, 2, 3, 4], part) for part in (0, 0.5, 0.99, 1)] == [1, 3, 4, 4]
    assert share([], 0.5) == 0
