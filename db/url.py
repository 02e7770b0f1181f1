"""The one place where ``DATABASE_URL`` becomes an engine's URL."""

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from freescout_audit.errors import SettingsError

_SCHEMES = {"postgres", "postgresql", "postgresql+asyncpg"}


def normalise(database_url: str) -> URL:
    """Return the URL for SQLAlchemy's asyncpg dialect.

    Takes Heroku's form (``postgres://…?sslmode=require``) and libpq's. ``sslmode`` becomes asyncpg's ``ssl``; a
    ``channel_binding`` is left to SCRAM, which negotiates it anyway.

    Raises:
        SettingsError: Not a PostgreSQL URL, or a parameter we do not pass on. The message never quotes the URL.
    """
    try:
        url = make_url(database_url)
    except (ArgumentError, ValueError) as error:
        raise SettingsError("DATABASE_URL is not a URL; expected postgres://user:password@host:5432/name") from error
    if url.drivername not in _SCHEMES:
        raise SettingsError(f"DATABASE_URL must begin with postgres://, not {url.drivername}://")
    query: dict[str, str | tuple[str, ...]] = {}
    for name, value in url.query.items():
        if name in {"sslmode", "ssl"}:
            query["ssl"] = value
        elif name != "channel_binding":
            raise SettingsError(f"DATABASE_URL has the parameter {name}, which is not supported; only sslmode is")
    return url.set(drivername="postgresql+asyncpg", query=query)
