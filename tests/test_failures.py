"""One of the failures of ``make failures``, with a lease that ends sooner."""

import asyncio
from pathlib import Path

from proof.failures.injuries import FAILURES
from proof.failures.run import Result, as_table, play
from proof.failures.stage import SETTINGS
from proof.failures.surfaces import SURFACES

CHOSEN = ("the desk answers 401",)


def test_what_fails_is_shown_wherever_one_looks_and_heals(tmp_path: Path) -> None:
    settings = {**SETTINGS, "CACHE_LEASE": "5", "POLLER_INTERVAL": "1", "VAULT_INTERVAL": "1"}

    results = asyncio.run(play(tmp_path, names=CHOSEN, settings=settings))

    assert [(result.failure.name, result.wrong) for result in results] == [(name, []) for name in CHOSEN]
    said = {result.failure.name: {name: says for name, (_, says) in result.shown.items()} for result in results}
    assert said["the desk answers 401"].keys() == set(SURFACES)
    assert said["the desk answers 401"]["/readyz"].startswith("503 lease: the lease ended at")


def test_a_surface_that_shows_nothing_is_in_the_table() -> None:
    table = as_table([Result(FAILURES[0], wrong=["status shows nothing"]), Result(FAILURES[1], skipped="no time")])

    assert "| | well again |  | status shows nothing |" in table
    assert f"| {FAILURES[1].name} | | | not made: no time |" in table
