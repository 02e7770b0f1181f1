"""Push alone, in short: on a desk that loses nothing, readers are right, and disputes end with their deliveries."""

import asyncio
import os
from collections.abc import Callable

import asyncpg

from proof.push_only import GOAL, measure


async def _make(url: str, name: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()


def test_readers_are_right_without_a_poller(postgres: Callable[[str], str]) -> None:
    name = f"push_only_{os.getpid()}"
    with asyncio.Runner() as runner:
        runner.run(_make(postgres("postgres"), name))

    tally = measure(postgres(name), seeds=1, hours=1, tickets=150)

    assert tally.share("right") >= GOAL
    assert tally.share("wrong") < 1 - GOAL
    assert tally.told.total() > 100 * 3600 * 1000  # an hour of reads of so many tickets
    assert tally.left_disputed == 0
    assert tally.longest_dispute.total_seconds() < 20  # the worker looks each 5 s, and a reply waits once more
