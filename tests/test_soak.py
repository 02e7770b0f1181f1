"""An hour of staging at high speed, as ``make soak`` does it for 48."""

from datetime import datetime, timedelta
from pathlib import Path

from db.database import Database
from proof.soak import INCIDENTS, QuickClock, Soak
from simulator import Fate

CHOSEN = {"receiver deploy", "desk restart", "API outage"}


async def test_an_hour_with_incidents_ends_with_a_right_cache_and_nothing_wrong_outlives_a_pass(
    database_url: str, tmp_path: Path
) -> None:
    incidents = [incident for incident in INCIDENTS if incident.name in CHOSEN]

    result = await Soak(database_url, seed=1, hours=1, speed=600, incidents=incidents, folder=tmp_path).run()

    assert result.failures == []
    assert len(result.incidents) == len(CHOSEN)
    assert result.passes > 5
    assert result.fates[Fate.SENT] > 0
    assert result.sights.reasons["ok"] > 0


async def test_the_databases_clock_is_the_desks_at_every_speed(database: Database) -> None:
    clock, moments = QuickClock(400), list[datetime]()

    async def look() -> timedelta:
        """Look at both clocks, and return how far ahead of the machine's they are."""
        async with database.connection() as connection:
            before = clock.now()
            theirs, machine = await connection.driver.fetchrow("SELECT freescout_now(), clock_timestamp()")
            moments.extend((before, theirs, clock.now()))
        ahead: timedelta = theirs - machine
        return ahead

    async with database.connection() as connection:
        await clock.follow(connection.driver)

    await look()
    async with clock.at_the_machines_speed(database):
        first, then = await look(), await look()
    await look()

    assert moments == sorted(moments)
    assert moments[-1] - moments[0] > timedelta(seconds=200)
    assert abs(then - first) < timedelta(seconds=1)
