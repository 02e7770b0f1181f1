"""``python -m proof.histories`` (``make prove``, ``make mutants``): many histories on every core, and one table."""

import asyncio
import json
import os
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from proof.histories.ground import ROOT, Ground
from proof.histories.mix import THEMES
from proof.histories.mutants import BY_NAME, MUTANTS

WITHIN = 1000
"""How many histories a mutant may take to be caught."""

IN_A_ROW = 200
"""How many histories a process plays: what the killed leave behind in it makes it slower and larger."""

TELL_EVERY = 250
"""How many histories a line stands for where no bar can be drawn."""

_console = Console(highlight=False, soft_wrap=True)


@dataclass
class Total:
    """What many histories came to."""

    histories: int = 0
    passes: int = 0
    answered: int = 0
    deaths: int = 0
    wrong: list[dict[str, Any]] = field(default_factory=list)

    def add(self, outcome: dict[str, Any]) -> None:
        """Count one more."""
        self.histories += 1
        for name in ("passes", "answered", "deaths"):
            setattr(self, name, getattr(self, name) + outcome[name])
        if outcome["wrong"] is not None:
            self.wrong.append(outcome)


async def play(
    database: str,
    first: int,
    last: int,
    *,
    steps: int | None,
    theme: str | None = None,
    mutant: str | None = None,
    tell: bool = False,
) -> AsyncGenerator[dict[str, Any]]:
    """Play the histories of some seeds in a process of their own, and yield what became of each.

    Raises:
        RuntimeError: The process ended in an error, which it has printed.
    """
    options = [
        *([] if steps is None else ["--steps", str(steps)]),
        *([] if theme is None else ["--theme", theme]),
        *([] if mutant is None else ["--mutant", mutant]),
        *(["--tell"] if tell else []),
    ]
    player = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "proof.histories.play", database, str(first), str(last), *options),
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "0"},
        stdout=asyncio.subprocess.PIPE,
        limit=2**26,
        start_new_session=True,  # Ctrl-C is for us: we end the player
    )
    assert player.stdout is not None  # noqa: S101 - a pipe was asked for
    try:
        async for line in player.stdout:
            yield json.loads(line)
        if await player.wait() != 0:
            raise RuntimeError(f"histories {first} to {last} could not be played")
    finally:
        if player.returncode is None:
            player.kill()
            await player.wait()


async def prove(
    ground: Ground,
    total: Total,
    *,
    first: int,
    histories: int,
    steps: int | None,
    theme: str | None,
    workers: int,
    show: Progress,
) -> None:
    """Play histories on so many cores, count each in ``total``, and print at once each that goes wrong.

    Off a terminal a line tells how far this has come, every ``TELL_EVERY`` histories.
    """
    bar, end = show.add_task("histories", total=histories), first + histories
    waiting = deque(range(first, end, IN_A_ROW))

    async def work() -> None:
        database = await ground.database()
        while waiting:
            start = waiting.popleft()
            some = play(database, start, min(start + IN_A_ROW, end), steps=steps, theme=theme)
            async with aclosing(some) as outcomes:
                async for outcome in outcomes:
                    total.add(outcome)
                    show.advance(bar)
                    if outcome["wrong"] is not None:
                        _show_wrong(outcome)
                    if not _console.is_terminal and total.histories % TELL_EVERY == 0:
                        _console.print(f"{total.histories:,} of {histories:,} histories, {len(total.wrong)} wrong")

    await asyncio.gather(*(work() for _ in range(min(workers, len(waiting)))))


async def _goes_wrong(database: str, seed: int, *, steps: int | None, theme: str | None) -> bool:
    """Tell whether a history goes wrong on the code as it is."""
    async with aclosing(play(database, seed, seed + 1, steps=steps, theme=theme)) as outcomes:
        return any([outcome["wrong"] is not None async for outcome in outcomes])


async def hunt(
    ground: Ground, *, first: int, steps: int | None, workers: int, names: Sequence[str], show: Progress
) -> dict[str, tuple[int, str | None]]:
    """Play histories on each mutant until one is caught; return how many that took, and what was wrong.

    A history that goes wrong on the code as it is catches no mutant. ``first`` is added to the seed that each begins
    with.
    """
    caught: dict[str, tuple[int, str | None]] = {}
    bar, waiting = show.add_task("mutants", total=len(names)), list(names)

    async def work() -> None:
        database = await ground.database()
        while waiting:
            name = waiting.pop(0)
            theme, begin, played, wrong = BY_NAME[name].theme, first + BY_NAME[name].first, 0, None
            while played < WITHIN and wrong is None:
                start, last = begin + played, begin + WITHIN
                async with aclosing(play(database, start, last, steps=steps, theme=theme, mutant=name)) as outcomes:
                    async for outcome in outcomes:
                        played, wrong = played + 1, outcome["wrong"]
                if wrong is not None and await _goes_wrong(database, begin + played - 1, steps=steps, theme=theme):
                    wrong = None
            caught[name] = played, wrong
            show.console.print(f"{name}: {f'caught after {played}' if wrong else f'not in {played}'}")
            show.advance(bar)

    await asyncio.gather(*(work() for _ in range(workers)))
    return caught


def _show_wrong(outcome: dict[str, Any]) -> None:
    _console.print(f"[red]seed {outcome['seed']}[/red]: {outcome['wrong']}")
    _console.print(f"  make prove SEED={outcome['seed']} shows it", markup=False)


def _show_total(total: Total, seconds: float) -> None:
    table = Table("histories", "a minute", "complete passes", "deliveries answered 200", "deaths", "wrong")
    table.add_row(
        f"{total.histories:,}",
        f"{total.histories / seconds * 60:,.0f}",
        f"{total.passes:,}",
        f"{total.answered:,}",
        f"{total.deaths:,}",
        str(len(total.wrong)),
    )
    _console.print(table)
    for outcome in total.wrong:
        _show_wrong(outcome)


def _show_hunt(caught: dict[str, tuple[int, str | None]]) -> None:
    table = Table("mutant", "caught after", "by")
    for mutant in MUTANTS:
        if mutant.name in caught:
            played, wrong = caught[mutant.name]
            table.add_row(mutant.name, str(played) if wrong else f"[red]not in {played}[/red]", wrong or "")
    _console.print(table)


def main(
    *,
    histories: Annotated[int, typer.Option(help="How many histories.", min=1)] = 1000,
    first: Annotated[int, typer.Option(help="The first one's seed.")] = 0,
    seed: Annotated[int | None, typer.Option(help="One history only, told in full.")] = None,
    steps: Annotated[int | None, typer.Option(help="How long each is.", min=1)] = None,
    theme: Annotated[str | None, typer.Option(help="What all of them are about.")] = None,
    workers: Annotated[int, typer.Option(help="Processes to play with.", min=1)] = os.cpu_count() or 1,
    mutants: Annotated[bool, typer.Option(help="Break the code on purpose, and see that it is noticed.")] = False,
    mutant: Annotated[str | None, typer.Option(help="Only this mutant; with --seed, tell its history.")] = None,
) -> None:
    """Play disorderly histories on the real code; exit with 1 when a promise was broken, and say with which seed.

    Ctrl-C ends it early, with 130: what was played until then is told.
    """
    for known, name, what in ((THEMES, theme, "--theme"), (BY_NAME, mutant, "--mutant")):
        if name is not None and name not in known:
            raise typer.BadParameter(f"one of: {', '.join(known)}", param_hint=what)
    with Ground() as ground, Progress(console=_console, transient=True, disable=not _console.is_terminal) as show:
        began = time.monotonic()
        if seed is not None:
            theme = BY_NAME[mutant].theme if mutant is not None and theme is None else theme
            good = asyncio.run(_tell(ground, seed, steps, theme, mutant))
        elif mutants or mutant is not None:
            names = [each.name for each in MUTANTS] if mutant is None else [mutant]
            caught = asyncio.run(hunt(ground, first=first, steps=steps, workers=workers, names=names, show=show))
            show.stop()
            _show_hunt(caught)
            good = all(wrong is not None for _, wrong in caught.values())
        else:
            total, ended = Total(), True
            try:
                asyncio.run(
                    prove(
                        ground,
                        total,
                        first=first,
                        histories=histories,
                        steps=steps,
                        theme=theme,
                        workers=workers,
                        show=show,
                    )
                )
            except KeyboardInterrupt:
                ended = False
            show.stop()
            _show_total(total, time.monotonic() - began)
            good = not total.wrong
            if not ended:
                _console.print(f"ended early: {total.histories:,} of {histories:,} histories were played")
                raise typer.Exit(130)
    if not good:
        raise typer.Exit(1)


async def _tell(ground: Ground, seed: int, steps: int | None, theme: str | None, mutant: str | None) -> bool:
    wrong = None
    database = await ground.database()
    async with aclosing(play(database, seed, seed + 1, steps=steps, theme=theme, mutant=mutant, tell=True)) as outcomes:
        async for outcome in outcomes:
            _console.print("\n".join(outcome["story"]), markup=False)
            wrong = outcome["wrong"]
    return wrong is None


if __name__ == "__main__":
    typer.run(main)
