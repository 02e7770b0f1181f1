"""An hour of staging at high speed, as ``make soak`` does it for 48."""

from pathlib import Path

from proof.soak import INCIDENTS, Soak
from simulator import Fate

CHOSEN = {"receiver deploy", "desk restart", "API outage"}


async def test_an_hour_with_incidents_ends_with_a_right_cache_and_nothing_wrong_outlives_a_pass(
    database_url: str, tmp_path: Path
) -> None:
    incidents = [incident for incident in INCIDENTS if incident.name in CHOSEN]

    result = await Soak(database_url, seed=1, hours=1, speed=900, incidents=incidents, folder=tmp_path).run()

    assert result.failures == []
    assert len(result.incidents) == len(CHOSEN)
    assert result.passes > 5
    assert result.fates[Fate.SENT] > 0
    assert result.sights.reasons["ok"] > 0
