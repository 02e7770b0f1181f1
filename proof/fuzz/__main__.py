"""``python -m proof.fuzz`` (``make fuzz``) sends a million hostile requests and prints one table."""

import argparse
import asyncio
import resource
import sys
from pathlib import Path

import asyncpg
import uvloop
from rich.console import Console
from rich.table import Table

from db.migrate import migrate
from db.url import normalise
from proof.fuzz.campaign import Report, fuzz

REQUESTS = 1_000_000
LOCAL = Path(__file__).resolve().parents[2] / ".local"


def show(report: Report, console: Console) -> None:
    """Print the closing table, and what was found."""
    table = Table("input", "sent", "answers", "none", "worst ms")
    for kind, tally in sorted(report.tallies.items()):
        answers = "  ".join(f"{status}: {count:,}" for status, count in sorted(tally.answers.items()))
        table.add_row(kind, f"{tally.sent:,}", answers, f"{tally.silent:,}", f"{tally.worst * 1000:,.0f}")
    console.print(table)
    start, peak, end = (size / 2**20 for size in report.memory)
    console.print(
        f"{report.requests:,} requests in {report.seconds:.0f} s ({report.requests / report.seconds:,.0f}/s),"
        f" seed {report.seed}; memory {start:.0f} → {end:.0f} MiB, peak {peak:.0f};"
        f" files {report.files[0]} → {report.files[1]}; {report.log_lines:,} lines of log, each one object"
    )
    if not report.problems:
        console.print("nothing found")
        return
    for problem in report.problems:
        console.print(f"[red]found[/red] {problem}", markup=True, highlight=False)
    if report.offending is not None:
        LOCAL.mkdir(exist_ok=True)
        file = LOCAL / f"fuzz-seed-{report.seed}.bin"
        file.write_bytes(report.offending)
        console.print(f"the offending bytes: {file.relative_to(LOCAL.parent)}")
    console.print(f"again: make fuzz SEED={report.seed}")


async def main(requests: int, seed: int) -> int:
    """Run on a database of its own inside the embedded PostgreSQL; return the exit code."""
    from db.embedded import EmbeddedPostgres  # noqa: PLC0415 - it is not on every platform

    allow_many_files()
    with EmbeddedPostgres() as server:
        connection = await asyncpg.connect(server.url("postgres"))
        await connection.execute("DROP DATABASE IF EXISTS fuzz WITH (FORCE)")
        await connection.execute("CREATE DATABASE fuzz")
        await connection.close()
        url = server.url("fuzz")
        await migrate(normalise(url))
        report = await fuzz(url, requests=requests, seed=seed)
    show(report, Console(width=140))
    return 1 if report.problems else 0


def allow_many_files() -> None:
    """Raise our limit of open files, and so the receiver's, to what a crowd needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m proof.fuzz", description="Send hostile input to a receiver.")
    parser.add_argument("--requests", type=int, default=REQUESTS, help="how many requests to send")
    parser.add_argument("--seed", type=int, default=1, help="what everything that is sent comes from")
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(main(arguments.requests, arguments.seed)))
