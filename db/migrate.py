"""``python -m db.migrate``: brings the schema to the newest revision (the Procfile's ``release``)."""

import asyncio
import functools
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from db.url import normalise
from freescout_audit.errors import FreescoutAuditError, SettingsError
from freescout_audit.events import DATABASE_MIGRATED, PROCESS_FAILED
from freescout_audit.logs import emit, set_up_logs

_LOCK = 0x46534155  # "FSAU": two releases at once take turns


LOCK_PATIENCE = 2.0
"""Seconds a migration waits for a lock: whoever comes after it waits behind it, readers and deliveries too."""
TRIES = 30
_PAUSE = 2.0
_LOCKED = ("55P03", "40P01")
"""A lock was not available, or a deadlock."""


class LockedError(FreescoutAuditError):
    """Somebody holds a table that the migration has to change."""


async def migrate(url: URL, *, tries: int = TRIES, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> str:
    """Bring the schema to the newest revision, in one transaction, and return its name.

    Raises:
        LockedError: A table was in use at each of ``tries``; nothing was changed.
    """
    engine = create_async_engine(url, poolclass=NullPool)
    try:
        for attempt in range(1, tries + 1):
            try:
                async with engine.begin() as connection:
                    return await connection.run_sync(_upgrade)
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in _LOCKED:
                    raise
            if attempt < tries:
                await sleep(_PAUSE)
    finally:
        await engine.dispose()
    raise LockedError(
        "a table stays in use (a backup, or a transaction that somebody left open): wait for its end, or end it, and"
        " run python -m db.migrate again; nothing was changed"
    )


@functools.cache
def newest_revision() -> str:
    """Return the revision this code expects."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def _upgrade(connection: Connection) -> str:
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_PATIENCE:g}s'"))
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    context = MigrationContext.configure(connection, opts={"version_table": "freescout_schema"})
    return context.get_current_revision() or ""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def main() -> None:
    """Migrate the database of ``DATABASE_URL``; exit with 1 and one line when that cannot be done."""
    set_up_logs(process="release", style="auto", level="info")
    try:
        url = os.environ.get("DATABASE_URL", "")
        if not url:
            raise SettingsError("DATABASE_URL is not set: name the database to migrate")
        revision = asyncio.run(migrate(normalise(url)))
    except (FreescoutAuditError, OSError, UnicodeError, SQLAlchemyError, asyncpg.PostgresError) as error:
        emit(PROCESS_FAILED, message=str(error).partition("\n")[0])
        sys.exit(1)
    emit(DATABASE_MIGRATED, revision=revision)


if __name__ == "__main__":
    main()
