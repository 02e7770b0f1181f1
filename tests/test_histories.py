"""Disorderly histories in short: some are played, some broken code is caught, and one seed is one history."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import typer
from rich.progress import Progress

from freescout_audit.events import PASS_FAILED, POLLER_FAULT, RECEIVER_FAULT
from freescout_audit.logs import emit, set_up_logs
from proof.histories import __main__ as command
from proof.histories.faults import FaultLog
from proof.histories.ground import Ground
from proof.histories.mutants import MUTANTS, Mutant, MutantError, changed

ROOT = Path(__file__).resolve().parent.parent


def play(database_url: str, first: int, last: int, *options: str) -> list[dict[str, Any]]:
    """Play the histories of some seeds, and return what became of each."""
    done = subprocess.run(
        [sys.executable, "-m", "proof.histories.play", database_url, str(first), str(last), *options],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "0"},
        check=True,
        capture_output=True,
        text=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_histories_end_well_and_a_seed_is_the_same_one_whatever_was_played_before_it(database_url: str) -> None:
    """In the last of these several tickets are missing from one list: their numbers tell who is asked about first."""
    played = play(database_url, 167, 170, "--tell")

    assert [outcome["wrong"] for outcome in played] == [None] * 3
    assert sum(outcome["passes"] for outcome in played) > 3
    assert sum(outcome["answered"] for outcome in played) > 30
    assert all(len(outcome["story"]) > 50 for outcome in played)
    assert play(database_url, 169, 170, "--tell") == [played[2]]


def test_broken_code_is_caught_and_said_with_its_seed(database_url: str) -> None:
    *good, caught = play(database_url, 5, 60, "--mutant", "old news are believed")

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


def outcome_of(seed: int, wrong: str | None = None) -> dict[str, Any]:
    return {"seed": seed, "wrong": wrong, "passes": 1, "answered": 2, "deaths": 0}


async def test_many_are_told_of_as_they_come_in_processes_that_end_after_some(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    played: list[range] = []

    async def some(_database: str, first: int, last: int, **_more: object) -> AsyncIterator[dict[str, Any]]:
        played.append(range(first, last))
        for seed in range(first, last):
            yield outcome_of(seed, "a promise" if seed == 7 else None)

    async def database() -> str:
        return ""

    monkeypatch.setattr(command, "play", some)
    monkeypatch.setattr(command, "IN_A_ROW", 3)
    monkeypatch.setattr(command, "TELL_EVERY", 4)
    ground, total = cast(Ground, SimpleNamespace(database=database)), command.Total()

    await command.prove(
        ground, total, first=5, histories=8, steps=None, theme=None, workers=1, show=Progress(disable=True)
    )

    assert played == [range(5, 8), range(8, 11), range(11, 13)]
    assert (total.histories, [each["seed"] for each in total.wrong]) == (8, [7])
    told = capsys.readouterr().out.splitlines()
    assert [line for line in told if "of 8" in line] == ["4 of 8 histories, 1 wrong", "8 of 8 histories, 1 wrong"]
    assert told[0] == "seed 7: a promise"


def test_ctrl_c_tells_what_was_played(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    async def interrupted(_ground: object, total: command.Total, **_more: object) -> None:
        total.add(outcome_of(0))
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "prove", interrupted)
    monkeypatch.setattr(command, "Ground", nullcontext)

    with pytest.raises(typer.Exit) as ended:
        command.main(histories=10)

    assert ended.value.exit_code == 130
    assert "ended early: 1 of 10 histories were played" in capsys.readouterr().out
