"""``python -m poller``: the Procfile's ``poller``. Scaled from 0 to 1 is how the fallback is activated."""

import asyncio
import sys

from rich.progress import Progress as Bar

from db.opening import open_database
from poller.run import poll
from settings.environment import Environment
from settings.process import run_process
from settings.table import Settings


async def main(environment: Environment, settings: Settings, stop: asyncio.Event) -> None:
    """Poll until told to stop."""
    async with open_database(
        None if environment.database_url is None else environment.database_url.reveal(),
        process="poller",
        connections=settings.database.connections,
        connect_timeout=settings.database.connect_timeout,
    ) as database:
        if not sys.stdout.isatty():
            await poll(database, environment, settings, stop)
            return
        with Bar(transient=True) as bar:
            load = bar.add_task("first load", visible=False)

            def show(done: int, total: int) -> None:
                bar.update(load, completed=done, total=total, visible=done < total)

            await poll(database, environment, settings, stop, progress=show)


if __name__ == "__main__":
    run_process("poller", main)
