"""Opens the database a process was told of, or the embedded one when it was told of none."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from db.database import Database
from db.url import normalise
from freescout_audit.events import DATABASE_EMBEDDED
from freescout_audit.logs import emit


def _log_progress(line: str) -> None:
    emit(DATABASE_EMBEDDED, message=line)


@asynccontextmanager
async def open_database(
    database_url: str | None,
    *,
    process: str,
    connections: int = 5,
    connect_timeout: float = 4,
    progress: Callable[[str], None] = _log_progress,
) -> AsyncIterator[Database]:
    """Open ``database_url``; None starts (or joins) the embedded PostgreSQL and migrates it.

    ``progress`` is told what the embedded PostgreSQL is doing while it is made or started.

    A server that is away is no error here: each use of the database says so, and works again when it is back.

    Raises:
        SettingsError: The URL is none.
        EmbeddedPostgresError: The embedded PostgreSQL cannot run here.
    """
    if database_url is not None:
        database = Database(
            normalise(database_url), connections=connections, connect_timeout=connect_timeout, name=process
        )
        try:
            yield database
        finally:
            await database.close()
        return

    # Imported here: production neither needs nor has the first, and Alembic takes as long as all the rest.
    from db.embedded import EmbeddedPostgres, default_folder  # noqa: PLC0415
    from db.migrate import migrate  # noqa: PLC0415

    server = EmbeddedPostgres(default_folder(), progress=progress)
    await asyncio.to_thread(server.start)
    try:
        await migrate(normalise(server.url()))
        async with open_database(
            server.url(), process=process, connections=connections, connect_timeout=connect_timeout
        ) as database:
            yield database
    finally:
        await asyncio.to_thread(server.stop)
