"""The processes killed under load, as ``make torture`` does it 200 times."""

from pathlib import Path

from proof.torture import KINDS, tell, torture


async def test_killing_the_processes_under_load_breaks_no_promise_and_leaves_nothing(tmp_path: Path) -> None:
    story = ["backend", "all three"]

    # What is written survives the death of whoever wrote it; the disk matters to a power cut alone.
    result = await torture(story, seed=7, folder=tmp_path, options={"fsync": "off"})

    assert result.failures == []
    assert list(result.recoveries) == story
    assert result.retried > 0
    assert result.answered > 50


def test_a_story_has_every_kind_in_it_and_is_the_same_for_the_same_seed() -> None:
    story = tell(kills=200, seed=3)

    assert len(story) == 200
    assert set(story[: len(KINDS)]) == set(KINDS)
    assert story == tell(kills=200, seed=3) != tell(kills=200, seed=4)
