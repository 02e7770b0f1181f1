"""``python -m bench`` (``make bench``): everything measured once, as ratios inside one run, each against its target.

Servers, load generator and PostgreSQL are processes of their own and share this machine. ``--quick`` measures shorter
and over fewer tickets; ``--write`` puts the table and the plot into docs/.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Coroutine, Iterator
from typing import Annotated, TypeVar

import msgspec
import typer
import uvloop
from rich.console import Console

from bench import beside, console, deliveries, history, passes, reads
from bench.deliveries import MEGABYTE, Plan
from bench.first_load import Loaded
from bench.report import ROOT, Line, Point, machine, print_table, write_document, write_plot
from db.embedded import EmbeddedPostgres
from db.migrate import migrate
from db.url import normalise
from freescout_audit.logs import set_up_logs

_Result = TypeVar("_Result")


def _run(coroutine: Coroutine[object, object, _Result]) -> _Result:
    """Run on the loop that our processes run on; asyncio's own takes twice as long for a read, whoever reads."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)


def first_load(url: str, conversations: int) -> Iterator[Line]:
    """Load a whole desk, in a process of its own."""
    ran = subprocess.run(  # noqa: S603 - our own module
        [sys.executable, "-m", "bench.first_load", str(conversations), url],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
    )
    loaded = msgspec.convert(json.loads(ran.stdout), Loaded)
    rate, peak = loaded.conversations / loaded.seconds, loaded.peak_bytes / MEGABYTE
    yield Line(
        what=f"first load of {conversations:,} from memory",
        ours=f"{rate:,.0f}/s",
        target="≥ 10,000/s",
        met=rate >= 10_000,  # noqa: PLR2004 - the target
    )
    yield Line(
        what="… most resident memory",
        ours=f"{peak:,.0f} MB",
        target="≤ 150 MB",
        met=peak <= 150,  # noqa: PLR2004 - the target
    )


async def quiet_passes(url: str, sizes: tuple[int, ...]) -> tuple[list[Line], list[Point]]:
    """Measure quiet passes; only the largest has a target."""
    lines, points = [], []
    async for tickets, (requests, _, _, seconds) in passes.quiet(normalise(url), sizes):
        points.append(Point(tickets, seconds * 1000))
        last = tickets == sizes[-1]
        lines.append(
            Line(
                what=f"quiet pass, {tickets:,} tickets",
                ours=f"{requests} requests, {seconds * 1000:.0f} ms of database",
                target="≤ 3 requests, ≤ 150 ms" if last else "",
                met=requests <= 3 and seconds <= 0.15 if last else None,  # noqa: PLR2004 - the targets
            )
        )
    return lines, points


def main(
    *,
    quick: Annotated[bool, typer.Option("--quick", help="Measure shorter, and over fewer tickets.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Put the table and the plot into docs/.")] = False,
) -> None:
    """Measure everything and print the table."""
    set_up_logs(process="bench", style="text", level="error")
    screen = Console(width=None if sys.stdout.isatty() else 160)
    plan = Plan(rounds=2, seconds=2) if quick else Plan(rounds=5, seconds=4)
    tickets = 100_000 if quick else 1_000_000
    sizes = tuple(size for size in (1_000, 10_000, 100_000, 1_000_000) if size <= tickets)
    lines: list[Line] = []
    with EmbeddedPostgres(database="bench") as server:
        url = server.url()
        asyncio.run(migrate(normalise(url)))

        def take(more: Iterator[Line]) -> None:
            for line in more:
                lines.append(line)
                screen.print(" · ".join(cell for cell in line.cells if cell).replace("**", ""))

        take(console.lines(url))
        take(deliveries.small(url, plan))
        take(deliveries.flask(url, plan))
        take(deliveries.medium(url, plan))
        take(deliveries.large(url))
        take(deliveries.alone(url, plan))
        take(deliveries.pair(url, plan))
        take(history.lines(url, plan, tickets=tickets))
        by_size = deliveries.growth(url)
        take(beside.first_load(url, plan))
        take(beside.deletions(url, plan))
        take(iter(reads.lines(_run(reads.one_at_a_time(url)))))
        take(first_load(url, tickets))
        quiet, by_tickets = _run(quiet_passes(url, sizes))
        take(iter(quiet))
    print_table(screen, lines, f"freescout-audit on {machine()}")
    if write:
        write_document(lines, quick=quick)
        write_plot({"one delivery alone, by bytes": by_size, "a quiet pass's database, by tickets": by_tickets})
        screen.print("written into docs/performance.md and docs/performance.svg")


if __name__ == "__main__":
    typer.run(main)
