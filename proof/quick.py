"""``python -m proof.quick FACTOR``: the poller as the Procfile starts it, with a clockwork so many times faster.

For a rehearsal in which the database's clock and the desk's run faster as well. Everything the poller does at
intervals, and every pause it makes, is shorter by the factor. How long it waits for an answer is not: desk and
database take as long to answer as ever. The hour of the nightly full walk is the machine's.
"""

import asyncio
import sys

import msgspec

from settings.environment import Environment
from settings.process import run_process
from settings.table import Settings

LEAST = 0.1
"""Seconds; nothing is done more often than that, or the machine would do nothing else."""


def quicken(factor: float) -> None:
    """Shorten the pauses and intervals of this process; to be called before the poller is imported."""
    sleep = asyncio.sleep

    async def shorter(seconds: float) -> None:
        await sleep(seconds / factor)

    asyncio.sleep = shorter  # type: ignore[assignment]  # its second argument is not used here
    from poller import jobs, questions  # noqa: PLC0415 - after the line above, which it keeps

    for name in ("BEAT_EVERY", "QUESTIONS_EVERY", "GAPS_EVERY", "WATCH_EVERY", "PRUNE_EVERY"):
        setattr(jobs, name, max(LEAST, getattr(jobs, name) / factor))
    jobs.LOOK_AT_HOST_EVERY *= factor
    for name in ("FIRST_BACKOFF", "LONGEST_BACKOFF", "LONGEST_PAUSE"):
        setattr(questions, name, getattr(questions, name) / factor)


async def main(environment: Environment, settings: Settings, stop: asyncio.Event) -> None:
    """Poll until told to stop."""
    from poller.__main__ import main as poll  # noqa: PLC0415 - once its clockwork is quick

    factor = float(sys.argv[1])
    # A peek's pauses are shorter as every pause is.
    peek = settings.poller.peek and max(settings.poller.peek, LEAST * factor)
    quick = msgspec.structs.replace(settings.poller, interval=settings.poller.interval / factor, peek=peek)
    await poll(environment, msgspec.structs.replace(settings, poller=quick), stop)


if __name__ == "__main__":
    quicken(float(sys.argv[1]))
    run_process("poller", main)
