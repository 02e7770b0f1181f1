"""Disorderly histories in short: some are played, some broken code is caught, and one seed is one history."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from freescout_audit.events import PASS_FAILED, POLLER_FAULT, RECEIVER_FAULT
from freescout_audit.logs import emit, set_up_logs
from proof.histories.faults import FaultLog
from proof.histories.mutants import MUTANTS, Mutant, MutantError, changed

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
async def ground(postgres: Callable[[str], str]) -> str:
    """The URL of an empty database of the test's own."""
    name = f"histories_{os.getpid()}"
    connection = await asyncpg.connect(postgres("postgres"))
    await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    return postgres(name)


def play(ground: str, first: int, last: int, *options: str) -> list[dict[str, Any]]:
    """Play the histories of some seeds, and return what became of each."""
    done = subprocess.run(
        [sys.executable, "-m", "proof.histories.play", ground, str(first), str(last), *options],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "0"},
        check=True,
        capture_output=True,
        text=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_some_histories_end_well_and_one_seed_is_one_history(ground: str) -> None:
    played = play(ground, 0, 12)
    again = play(ground, 11, 12, "--tell")
    once_more = play(ground, 11, 12, "--tell")

    assert [outcome["wrong"] for outcome in played] == [None] * 12
    assert sum(outcome["passes"] for outcome in played) > 12
    assert sum(outcome["answered"] for outcome in played) > 100
    assert again == once_more
    assert len(again[0]["story"]) > 50


def test_a_seed_is_the_same_history_whatever_was_played_before_it(ground: str) -> None:
    """Several tickets are missing from one list here: nothing but their numbers tells who is asked about first."""
    after_others = play(ground, 160, 170, "--tell")

    assert [play(ground, seed, seed + 1, "--tell") for seed in (166, 169)] == [[after_others[6]], [after_others[9]]]


def test_broken_code_is_caught_and_said_with_its_seed(ground: str) -> None:
    *good, caught = play(ground, 0, 60, "--mutant", "old news are believed")

    assert {outcome["wrong"] for outcome in good} <= {None}
    assert caught["wrong"] is not None


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_fits_the_code_as_it_is(mutant: Mutant) -> None:
    by_module: dict[str, list[tuple[str, str]]] = {}
    for module, old, new in mutant.changes:
        by_module.setdefault(module, []).append((old, new))

    for module, changes in by_module.items():
        source = Path(str(importlib.import_module(module).__file__)).read_text(encoding="utf-8")
        mutated = changed(source, changes)
        assert mutated != source
        compile(mutated, module, "exec")


def test_a_mutant_that_does_not_fit_says_so() -> None:
    with pytest.raises(MutantError, match="2 times"):
        changed("a = 1\na = 1\n", [("a = 1", "a = 2")])


def test_an_unexpected_error_in_the_log_is_told_and_forgotten_with_its_history() -> None:
    log = FaultLog()
    set_up_logs(process="proof", style="json", level="error", factory=log)

    emit(RECEIVER_FAULT, component="database")
    emit(PASS_FAILED, error="Unavailable")
    emit(POLLER_FAULT, error="KeyError")

    (told,) = log.lines
    assert json.loads(told)["event"] == "poller.fault"
    log.clear()
    assert log.lines == []
