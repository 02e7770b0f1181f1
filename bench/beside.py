"""Deliveries beside a poller at work: their p99 at a steady rate while a first load, or a search for deletions, runs.

Each is measured twice: with the desk at the pace that was measured of a real one, and with one that answers from
memory, which shows what a poller could do to its neighbours if a desk ever let it. ``python -m bench.beside`` measures
this alone.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from rich.console import Console

from bench.deliveries import Plan, times
from bench.processes import ROOT, load, receiver
from bench.report import Line, machine, print_table
from db.embedded import EmbeddedPostgres
from db.migrate import migrate
from db.url import normalise

PACE = 0.001
"""Seconds that a real desk takes for each row: 0.2 s for a page of 200."""
_RATE = 500
_ENDLESS = 10_000_000
"""A first load of so many conversations outlasts every measurement."""


def first_load(url: str, plan: Plan) -> Iterator[Line]:
    """Beside a first load."""
    for pace in (PACE, 0.0):
        idle: list[float] = []
        busy: list[float] = []
        with receiver(url) as mine:
            for turn in range(plan.rounds):
                idle.append(_p99(mine.port, plan, first=(2 * turn + 1) * 10_000))
                with _process("bench.first_load", str(_ENDLESS), url, f"--pace={pace:g}"):
                    time.sleep(2)  # until it is under way
                    busy.append(_p99(mine.port, plan, first=(2 * turn + 2) * 10_000))
        yield _line("a first load runs", pace, busy, idle)


def deletions(url: str, plan: Plan) -> Iterator[Line]:
    """Beside the search for a deleted mailbox, and the questions about its tickets."""
    for pace in (PACE, 0.0):
        idle: list[float] = []
        busy: list[float] = []
        with receiver(url) as mine:
            for _ in range(plan.rounds):
                with _process("bench.search", url, f"--pace={pace:g}") as search:
                    _come_to_a_stop(search)
                    idle.append(_p99(mine.port, plan, since=datetime.now(UTC) + timedelta(seconds=10)))
                    _go_on(search)
                    busy.append(_p99(mine.port, plan, since=datetime.now(UTC) + timedelta(seconds=10)))
                    if search.poll() is not None:
                        raise RuntimeError("the search was over before the deliveries were: delete more")
        yield _line("a deleted mailbox is found and asked about", pace, busy, idle)


def _p99(port: int, plan: Plan, **options: object) -> float:
    number = int(plan.seconds * _RATE * 1.2)
    return load(port, rate=_RATE, seconds=plan.seconds, number=number, **options).latencies["p99"]


def _line(what: str, pace: float, busy: Sequence[float], idle: Sequence[float]) -> Line:
    desk = "at a desk's pace" if pace else "from memory"
    return times(f"p99 at {_RATE}/s while {what}, {desk}", busy, idle, 2 if pace else None, "ms", 1e3, name="idle")


@contextmanager
def _process(module: str, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run one of our modules until the block ends."""
    process = subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-m", module, *arguments], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _come_to_a_stop(process: "subprocess.Popen[bytes]") -> None:
    """Return when it has made its preparations."""
    assert process.stdout is not None  # noqa: S101 - it has a pipe
    if not process.stdout.readline():
        raise RuntimeError("the search has ended before it began: its error stands above")


def _go_on(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None  # noqa: S101 - it has a pipe
    process.stdin.write(b"\n")
    process.stdin.flush()


if __name__ == "__main__":
    with EmbeddedPostgres(database="bench") as server:
        asyncio.run(migrate(normalise(server.url())))
        plan = Plan(rounds=5, seconds=4)
        lines = [*first_load(server.url(), plan), *deletions(server.url(), plan)]
    print_table(Console(), lines, f"beside a poller, on {machine()}")
