"""``python -m proof.strangers`` (``make strangers``) floods a receiver; do deliveries get through?"""

import argparse
import asyncio
import sys

import asyncpg
import uvloop
from rich.console import Console
from rich.table import Table

from db.migrate import migrate
from db.url import normalise
from proof.fuzz.__main__ import allow_many_files
from proof.strangers.flood import Flood
from proof.strangers.load import Seen, run

P99 = 0.250
MEMORY = 250 * 10**6
LINES = 20.0
FEW_FILES = 512


def judge(seen: Seen, *, timed: bool) -> list[str]:
    """Return which bounds are broken; where connections are refused, only that it recovers and says why counts."""
    broken = list(seen.wrong)
    if seen.after[0] != seen.after[1]:
        broken.append(f"after the flood {seen.after[0]} of {seen.after[1]} deliveries were answered 200")
    if max(seen.lines) > LINES:
        broken.append(f"strangers made {max(seen.lines):.1f} lines of log a second")
    if seen.memory > MEMORY:
        broken.append(f"it took {seen.memory / 1e6:.0f} MB")
    if not seen.events["connection.closed"]:
        broken.append("it did not say why it closed connections")
    if timed:
        if set(seen.statuses) != {"200"}:
            broken.append(f"not every delivery was answered 200: {dict(seen.statuses)}")
        if seen.percentile(99) > P99:
            broken.append(f"p99 was {seen.percentile(99) * 1e3:.0f} ms")
    return broken


def show(seen: Seen, console: Console, title: str) -> None:
    """Print what a run has seen."""
    table = Table("what", "how much", title=title)
    p50, p99, longest = (seen.percentile(share) * 1e3 for share in (50, 99, 100))
    table.add_row("deliveries, by answer", ", ".join(f"{name}: {n:,}" for name, n in seen.statuses.items()))
    table.add_row("latency", f"p50 {p50:.0f} ms, p99 {p99:.0f} ms, slowest {longest:.0f} ms")
    table.add_row("memory at the most", f"{seen.memory / 1e6:.0f} MB")
    table.add_row("lines a second for strangers", f"{seen.lines[0]:.1f} over 5 s, {seen.lines[1]:.1f} over all")
    table.add_row("log", ", ".join(f"{name}: {n:,}" for name, n in sorted(seen.events.items())))
    for name, told in seen.floods.items():
        table.add_row(f"flood of {name}", ", ".join(f"{what}: {n:,}" for what, n in told.items()))
    table.add_row("deliveries after the flood", f"{seen.after[0]} of {seen.after[1]} answered 200")
    console.print(table)


async def main(flood: Flood) -> int:
    """Flood twice, on a database of its own inside the embedded PostgreSQL; return the exit code."""
    from db.embedded import EmbeddedPostgres  # noqa: PLC0415 - it is not on every platform

    allow_many_files()
    console, broken = Console(width=140), []
    with EmbeddedPostgres() as server:
        for files in (None, FEW_FILES):
            connection = await asyncpg.connect(server.url("postgres"))
            await connection.execute("DROP DATABASE IF EXISTS strangers WITH (FORCE)")
            await connection.execute("CREATE DATABASE strangers")
            await connection.close()
            await migrate(normalise(server.url("strangers")))
            title = "three floods at once" + (f", ulimit -n {files}" if files else "")
            seen = await run(server.url("strangers"), flood, files=files)
            show(seen, console, title)
            broken += [f"{title}: {what}" for what in judge(seen, timed=files is None)]
    for what in broken:
        console.print(f"[red]broken[/red] {what}", highlight=False)
    if not broken:
        console.print("all bounds hold")
    return 1 if broken else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m proof.strangers", description="Flood a receiver.")
    parser.add_argument("--seconds", type=float, default=Flood().seconds, help="how long each flood lasts")
    parser.add_argument("--reconnects", type=int, default=Flood().reconnects, help="a second, of each silent kind")
    parser.add_argument("--unsigned", type=int, default=Flood().unsigned, help="requests a second without a key")
    given = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(main(Flood(**vars(given)))))
