"""What a call of the operator's console takes, as the operator waits for it: the whole process, wall time.

``python -m bench.console`` measures it on a database of its own. Calls and what they are compared with take turns, so
that a disturbance meets all of them.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console

from bench.report import ROOT, Line, machine, print_table
from db.embedded import EmbeddedPostgres
from db.migrate import migrate
from db.url import normalise

ROUNDS = 15
HELP_LIMIT, COMMAND_LIMIT = 0.35, 0.8
"""Seconds on a machine that does nothing else."""

_CONSOLE = str(ROOT / "bin" / "freescout-audit")
_LIBRARIES = "import typer, rich.console, structlog, asyncpg, sqlalchemy.ext.asyncio"
_BARE = "python -c pass"
_IMPORTS = "importing its libraries"
_GOOD = {0, 1}
"""A ticket that reads none ends with 1."""
_CALLS: Mapping[str, Sequence[str]] = {
    _BARE: (sys.executable, "-c", "pass"),
    _IMPORTS: (sys.executable, "-c", _LIBRARIES),
    "--help": (_CONSOLE, "--help"),
    "status": (_CONSOLE, "status"),
    "ticket": (_CONSOLE, "ticket", "1"),
    "deliveries": (_CONSOLE, "deliveries"),
    "gaps": (_CONSOLE, "gaps"),
}


def measure(url: str, rounds: int = ROUNDS) -> Mapping[str, float]:
    """Return the median of the seconds that each call takes, by its name, on the migrated database at ``url``."""
    environment = os.environ | {"DATABASE_URL": url}
    took: dict[str, list[float]] = {name: [] for name in _CALLS}
    for turn in range(rounds + 1):
        for name, call in _CALLS.items():
            began = time.perf_counter()
            ended = subprocess.run(call, cwd=ROOT, env=environment, check=False, capture_output=True)  # noqa: S603 - our own
            seconds = time.perf_counter() - began
            if ended.returncode not in _GOOD:
                raise RuntimeError(f"{name} ended with {ended.returncode}: {ended.stderr.decode()}")
            if turn > 0:  # the first reads files from the disk
                took[name].append(seconds)
    return {name: statistics.median(seconds) for name, seconds in took.items()}


def lines(url: str) -> Iterator[Line]:
    """Measure the calls, each against a limit."""
    took = measure(url)
    for name, baseline, limit in (
        ("--help", _BARE, HELP_LIMIT),
        ("status", _IMPORTS, COMMAND_LIMIT),
        ("ticket", _IMPORTS, COMMAND_LIMIT),
        ("deliveries", _IMPORTS, COMMAND_LIMIT),
        ("gaps", _IMPORTS, COMMAND_LIMIT),
    ):
        yield Line(
            what=f"freescout-audit {name}, from the shell to the prompt",
            ours=f"{took[name]:.2f} s",
            against=f"{baseline}: {took[baseline]:.2f} s",
            ratio=f"{took[name] / took[baseline]:.2f}",
            target=f"≤ {limit:g} s",
            met=took[name] <= limit,
        )


def main() -> None:
    """Measure on a database of our own, and print the table."""
    with EmbeddedPostgres(database="bench") as server:
        asyncio.run(migrate(normalise(server.url())))
        print_table(Console(), list(lines(server.url())), f"freescout-audit on {machine()}")


if __name__ == "__main__":
    main()
