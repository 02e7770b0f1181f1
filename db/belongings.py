"""Tells whether a database is empty, holds a desk's tickets, or belongs to another program."""

import msgspec
from sqlalchemy import exists, func, or_, select, text

from db import schema
from db.database import Database

_FOREIGN = text(
    "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relname NOT LIKE 'freescout\\_%'"
    " AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'"
    " AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e'))"
)
"""Asks for tables and views that are neither ours, nor PostgreSQL's, nor an extension's. Text, for catalogues."""


class Belongings(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in a database."""

    migrated: bool
    """Our tables are there."""
    foreign: bool
    """Tables are there that are not ours."""
    desk_url: str | None = None
    """The desk that it is tied to."""
    used: bool = False
    """Tickets, deliveries or a webhook are in it."""


async def read_belongings(database: Database) -> Belongings:
    """Read what stands in a database, whether it is migrated or not.

    Raises:
        DatabaseUnavailableError: PostgreSQL is away.
    """
    async with database.connection() as connection:
        migrated = bool(await connection.scalar(select(func.to_regclass("freescout_lease").is_not(None))))
        foreign = bool(await connection.scalar(_FOREIGN))
        if not migrated:
            return Belongings(migrated=False, foreign=foreign)
        desk_url: str | None = await connection.scalar(select(schema.lease.c.desk_url))
        tables = (schema.ticket, schema.delivery, *schema.webhooks.values())
        used = or_(*(exists(select(1).select_from(table)) for table in tables))
        in_use = bool(await connection.scalar(select(used)))
    return Belongings(migrated=True, foreign=foreign, desk_url=desk_url, used=in_use)
