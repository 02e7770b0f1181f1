"""``python -m db.migrate``: brings the schema to the newest revision (the Procfile's ``release``)."""

import asyncio
import functools
import os
import sys
from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from db.url import normalise
from freescout_audit.errors import FreescoutAuditError, SettingsError
from freescout_audit.events import DATABASE_MIGRATED, PROCESS_FAILED
from freescout_audit.logs import emit, set_up_logs

_LOCK = 0x46534155  # "FSAU": two releases at once take turns


async def migrate(url: URL) -> str:
    """Bring the schema to the newest revision, in one transaction, and return its name."""
    engine = create_async_engine(url, poolclass=NullPool)
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(_upgrade)
    finally:
        await engine.dispose()


@functools.cache
def newest_revision() -> str:
    """Return the revision this code expects."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def _upgrade(connection: Connection) -> str:
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
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
