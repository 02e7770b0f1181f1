"""``python -m receiver``: the Procfile's ``web``."""

import asyncio
import gc

from db.opening import open_database
from receiver.app import create_app, serve
from settings.environment import Environment
from settings.process import run_process
from settings.table import Settings


async def main(environment: Environment, settings: Settings, stop: asyncio.Event) -> None:
    """Serve deliveries until told to stop."""
    # What start-up made stays. To look through it at each full collection held deliveries up for 0.1 s under a flood.
    gc.freeze()
    async with (
        open_database(
            None if environment.database_url is None else environment.database_url.reveal(),
            process="receiver",
            connections=settings.database.connections,
            connect_timeout=settings.database.connect_timeout,
        ) as database,
        serve(create_app(database, environment, settings), host=settings.receiver.host, port=environment.port),
    ):
        await stop.wait()


if __name__ == "__main__":
    run_process("receiver", main)
