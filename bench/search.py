"""A deleted mailbox, found by a pass and asked about, in a process of its own: a neighbour for deliveries.

``python -m bench.search URL`` fills the cache at URL with what a simulated desk has, says ``ready``, waits for a line,
then has a mailbox of 20,000 deleted, and ends when every one of them is a tombstone.
"""

import asyncio
import sys
from datetime import timedelta
from typing import Annotated

import typer
import uvloop

from bench.passes import Bench, TimedDatabase, make_desk
from db.url import normalise
from freescout_audit.logs import set_up_logs

_TICKETS, _OF_THEM_DELETED = 100_000, 20_000
_MAILBOX = 3


async def search(url: str, pace: float) -> None:
    """Prepare, wait for a line, search and ask."""
    set_up_logs(process="bench", style="text", level="error")
    database = TimedDatabase(normalise(url), name="bench")
    desk, clock = make_desk(_TICKETS, _OF_THEM_DELETED, behind=timedelta(0))
    bench = Bench(desk, database, pace=pace)
    await bench.fill()
    await bench.measure()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.readline)
    desk.delete_mailbox(_MAILBOX)
    clock.advance(60)
    await bench.measure()
    while await bench.questions.ask():
        pass
    await database.close()


def main(
    url: str, pace: Annotated[float, typer.Option(help="Seconds that the desk takes for each row.")] = 0.0
) -> None:
    """Have a mailbox deleted at a simulated desk, and find it."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(search(url, pace))


if __name__ == "__main__":
    typer.run(main)
