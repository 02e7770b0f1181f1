"""The processes killed under load, as ``make torture`` does it 200 times."""

from pathlib import Path

from proof.torture import KINDS, torture


async def test_killing_each_process_under_load_breaks_no_promise_and_leaves_nothing(tmp_path: Path) -> None:
    result = await torture(kills=len(KINDS), seed=7, folder=tmp_path)

    assert result.failures == []
    assert result.recoveries.keys() == KINDS.keys()
    assert result.retried > 0
    assert result.answered > 100
