"""What PostgreSQL's errors mean to an operator: a sentence and the next step for each that one can mend."""

from collections.abc import Sequence

import asyncpg

from freescout_audit.errors import DatabaseUnavailableError

OLDEST = 14
"""The oldest major version of PostgreSQL that has what our schema and our connections need."""

MIGRATE = "run python -m db.migrate"
"""The next step where the schema is not this code's."""

_LOOK = "look into PostgreSQL's log"
_CAPACITY = (
    "heroku pg:info says whether the plan's capacity is used up: take a larger one, or prune; else give back the rights"
)
_PLACE = "make room on its disk or take a larger plan (heroku pg:info); deliveries are saved again by themselves"

_MEANINGS: Sequence[tuple[type[Exception], str, str]] = (
    (asyncpg.DiskFullError, "the database's disk is full", _PLACE),
    (
        asyncpg.ReadOnlySQLTransactionError,
        "the database lets us read only: a standby, or one that was made read-only",
        "name the primary in DATABASE_URL, or make it writable again (heroku pg:info)",
    ),
    (
        asyncpg.InsufficientPrivilegeError,
        "the database no longer lets us write (over its plan's capacity?)",
        _CAPACITY,
    ),
    (
        asyncpg.TooManyConnectionsError,
        "the database has no connection left",
        "set DATABASE_CONNECTIONS lower, or take a plan with more (docs/settings.md has the sum)",
    ),
    (asyncpg.OutOfMemoryError, "the database is out of memory", "take a larger plan, or look at what else runs on it"),
    (asyncpg.InsufficientResourcesError, "the database has reached a limit of its configuration", _LOOK),
    (asyncpg.CannotConnectNowError, "PostgreSQL is starting up, shutting down or recovering", "wait for it"),
    (asyncpg.AdminShutdownError, "PostgreSQL was told to end this session, or is shutting down", "wait for it"),
    (asyncpg.CrashShutdownError, "PostgreSQL restarts after a crash of one of its processes", _LOOK),
    (asyncpg.QueryCanceledError, "PostgreSQL gave no answer in time", "look for what holds a lock or keeps it busy"),
    (
        asyncpg.InvalidPasswordError,
        "PostgreSQL does not accept the password of DATABASE_URL",
        "heroku config:get DATABASE_URL shows whether it was changed",
    ),
    (
        asyncpg.InvalidAuthorizationSpecificationError,
        "PostgreSQL does not let this role connect",
        "compare DATABASE_URL with pg_hba.conf; most servers want sslmode=require",
    ),
    (asyncpg.InvalidCatalogNameError, "there is no database of that name", "compare DATABASE_URL with the server"),
    (
        asyncpg.ObjectNotInPrerequisiteStateError,
        "the database cannot do this in its present state",
        "is it a standby, or being restored? wait, or name the primary in DATABASE_URL",
    ),
    (asyncpg.PostgresIOError, "PostgreSQL cannot read or write its files", f"{_LOOK}, and at its disk"),
    (asyncpg.DataCorruptedError, "PostgreSQL finds its data damaged", "restore it from a backup (docs/runbook.md)"),
    (asyncpg.IndexCorruptedError, "PostgreSQL finds an index damaged", "REINDEX DATABASE, and look into its log"),
    (asyncpg.PostgresSystemError, "PostgreSQL's operating system fails it", f"{_LOOK}, and at its disk"),
    (asyncpg.InternalServerError, "PostgreSQL met an internal error", _LOOK),
    (asyncpg.IdleInTransactionSessionTimeoutError, "PostgreSQL ended a transaction that stood still", "try again"),
    (
        asyncpg.FeatureNotSupportedError,
        "PostgreSQL, or a pooler before it, does not know what we ask for",
        "connect directly, to PostgreSQL 14 or later",
    ),
    (asyncpg.OperatorInterventionError, "PostgreSQL ended this session", _LOOK),
)
_OF_ONE_ROW = (asyncpg.DataCorruptedError, asyncpg.IndexCorruptedError, asyncpg.InternalServerError)
"""Others may be saved all the same."""

REFUSED: tuple[type[Exception], ...] = tuple(kind for kind, _, _ in _MEANINGS if kind not in _OF_ONE_ROW)
"""The errors that fail whatever is asked of the database."""


def explain(error: Exception) -> DatabaseUnavailableError | None:
    """Return what an error of PostgreSQL's means; None for a mistake of ours."""
    for kind, problem, next_step in _MEANINGS:
        if isinstance(error, kind):
            return DatabaseUnavailableError(problem, next_step)
    return None


def too_old(version: str = "") -> DatabaseUnavailableError:
    """Return what is said of a server before `OLDEST`."""
    return DatabaseUnavailableError(
        f"PostgreSQL {version} is older than {OLDEST}".replace("  ", " "),
        f"upgrade it to {OLDEST} or later, or name a newer server in DATABASE_URL (the poller fills it)",
    )
