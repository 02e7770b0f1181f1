"""``python -m db.migrate``: brings the schema to the newest revision (the Procfile's ``release``)."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from db.refusals import OLDEST, too_old
from db.revision import NEWEST, SCRIPTS, age_of
from db.url import normalise
from freescout_audit import __version__
from freescout_audit.errors import FreescoutAuditError, SettingsError
from freescout_audit.events import DATABASE_MIGRATED, DATABASE_NEWER, PROCESS_FAILED
from freescout_audit.logs import emit, set_up_logs

LOCK_PATIENCE = 2.0
"""Seconds that a migration waits for a lock: readers and deliveries that come after it wait behind it."""
TRIES = 30
_PAUSE = 2.0
_LOCKED = ("55P03", "40P01")
"""A lock was not available, or a deadlock."""
_OUR_FIRST_TABLE = """
CREATE TABLE IF NOT EXISTS freescout_schema (
    version_num varchar(32) NOT NULL, CONSTRAINT freescout_schema_pkc PRIMARY KEY (version_num))
"""
"""As Alembic makes it."""
_HOLDER = """
SELECT a.pid, coalesce(nullif(a.application_name, ''), a.usename, '?') AS name,
    a.xact_start AT TIME ZONE 'UTC' AS since
FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.granted AND l.pid <> pg_backend_pid()
    AND a.datname = current_database() AND starts_with(c.relname, 'freescout_')
ORDER BY a.xact_start LIMIT 1
"""


class LockedError(FreescoutAuditError):
    """Another session holds a table that the migration has to change."""


class TooOldError(FreescoutAuditError):
    """The schema is from before the first release."""


async def migrate(url: URL, *, tries: int = TRIES, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> str:
    """Bring the schema to the newest revision, in one transaction, and return the revision it is at.

    A schema that is newer than this code is left as it is: code of the revision before runs on it.

    Raises:
        LockedError: A table was in use at each of ``tries``; nothing was changed.
        TooOldError: The schema is from before the first release; nothing was changed.
        DatabaseUnavailableError: PostgreSQL is too old; nothing was changed.
    """
    engine = create_async_engine(url, poolclass=NullPool)
    try:
        for attempt in range(1, tries + 1):
            try:
                async with engine.begin() as connection:
                    return await connection.run_sync(_upgrade)
            except IntegrityError:  # another release has just made our first table
                pass
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in _LOCKED:
                    raise
            if attempt < tries:
                await sleep(_PAUSE)
        raise await _locked(engine)
    finally:
        await engine.dispose()


def _upgrade(connection: Connection) -> str:
    version = connection.dialect.server_version_info or ()
    if version < (OLDEST,):
        raise too_old(".".join(map(str, version)))
    connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_PATIENCE:g}s'"))
    if age_of(_revision(connection)) not in {"current", "newer"}:
        _take_turns(connection)
    before = _revision(connection)
    age = age_of(before)
    if age == "forgotten":
        raise TooOldError(
            f"the schema is at {before}, from before the first release",
            "name an empty database in DATABASE_URL; the poller fills it",
        )
    if age not in {"current", "newer"}:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return _revision(connection) or ""


def _take_turns(connection: Connection) -> None:
    """Let releases that come at once take turns. A lock of our own table, since anybody may take an advisory lock."""
    connection.execute(text(_OUR_FIRST_TABLE))
    connection.execute(text("LOCK TABLE freescout_schema IN SHARE ROW EXCLUSIVE MODE"))


async def _locked(engine: AsyncEngine) -> LockedError:
    """Return the error that names who holds one of our tables, if somebody still does."""
    async with engine.connect() as connection:
        holder = (await connection.execute(text(_HOLDER))).mappings().first()
    if holder is None:
        return LockedError("a table was in use at each try", "run python -m db.migrate again; nothing was changed")
    since = "" if holder["since"] is None else f", in a transaction since {holder['since']:%Y-%m-%d %H:%M:%S} UTC"
    return LockedError(
        f"a table stays in use by session {holder['pid']} ({holder['name']}{since})",
        f"wait for its end, or end it (SELECT pg_terminate_backend({holder['pid']})), and run python -m db.migrate"
        " again; nothing was changed",
    )


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection, opts={"version_table": "freescout_schema"}).get_current_revision()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    return config


def main() -> None:
    """Migrate the database of ``DATABASE_URL``; exit with 1 and one line when that cannot be done."""
    set_up_logs(process="release", style="auto", level="info")
    try:
        url = os.environ.get("DATABASE_URL", "")
        if not url:
            raise SettingsError("DATABASE_URL is not set", "name the database to migrate")
        revision = asyncio.run(migrate(normalise(url)))
    except FreescoutAuditError as error:
        emit(PROCESS_FAILED, message=error.problem, next_step=error.next_step or None)
        sys.exit(1)
    except (OSError, UnicodeError, SQLAlchemyError, asyncpg.PostgresError) as error:
        emit(PROCESS_FAILED, message=str(error).partition("\n")[0], next_step="look into PostgreSQL's log")
        sys.exit(1)
    if age_of(revision) == "newer":
        emit(DATABASE_NEWER, version=__version__, revision=revision, expected=NEWEST)
    else:
        emit(DATABASE_MIGRATED, version=__version__, revision=revision)


if __name__ == "__main__":
    main()
