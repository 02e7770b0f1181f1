"""How the service stands: the lease, what the poller reports, and the schema; console, readiness and watch show it."""

from datetime import datetime

import msgspec
from sqlalchemy import func, select, true, update

from db import schema
from db.database import Database
from db.lease import COLUMNS, DeskState, lease_of
from freescout_audit.rule import Lease, Terms, poller_is_alive


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that stands once; None for what has not happened. ``revision`` is the schema's."""

    now: datetime
    revision: str | None
    behind_pooler: bool
    lease: Lease
    desk_url: str | None
    leader: str | None
    led_since: datetime | None
    load_cursor: datetime | None
    load_began: datetime | None
    passed_at: datetime | None
    pass_seconds: float | None
    pass_rows: int | None
    pass_requests: int | None
    desk_state: DeskState
    desk_detail: str
    desk_since: datetime | None
    silent_since: datetime | None

    def poller_is_alive(self, terms: Terms) -> bool:
        """Tell whether a poller is alive, as the rule has it."""
        return poller_is_alive(self.lease, self.now, terms)


_REPORTS = tuple(schema.poller.c[name] for name in Standing.__struct_fields__ if name in schema.poller.c)
_STANDING = select(
    schema.now.label("now"),
    select(schema.revision.c.version_num).scalar_subquery().label("revision"),
    func.pg_backend_pid().label("backend"),
    schema.lease.c.desk_url,
    *COLUMNS,
    *_REPORTS,
).join_from(schema.lease, schema.poller, true())


async def read_standing(database: Database) -> Standing | None:
    """Read everything that stands once; None when a row of it is missing.

    Raises:
        DatabaseUnavailableError: PostgreSQL is away or not migrated.
    """
    async with database.connection() as connection:
        row = await connection.row(_STANDING)
        session: int = connection.driver.get_server_pid()
    if row is None:
        return None
    return Standing(
        now=row["now"],
        revision=row["revision"],
        # A pooler gives a statement to any of its sessions, whichever it gave when this one was opened.
        behind_pooler=row["backend"] != session,
        lease=lease_of(row),
        desk_url=row["desk_url"],
        **{column.name: row[column.name] for column in _REPORTS},
    )


async def server_version(database: Database) -> str:
    """Return PostgreSQL's version, such as ``18.4``; errors as `read_standing`."""
    async with database.connection() as connection:
        version: str = await connection.scalar(select(func.split_part(func.version(), " ", 2)))
    return version


async def note_silence(database: Database, since: datetime | None) -> None:
    """Note since when both paths have been silent; None when they are not. Errors as `read_standing`."""
    async with database.connection() as connection:
        await connection.execute(update(schema.poller).values(silent_since=since))
