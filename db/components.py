"""How each receiver finds each part of the service, kept for `status`, which sees none of them."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import delete, or_, select
from sqlalchemy.dialects.postgresql import insert

from db import schema
from db.condition import WRONG, State
from db.database import Database

WRITE_EVERY = 60.0
"""Seconds after which a receiver says it again, although nothing has changed."""
_FRESH = timedelta(seconds=2.5 * WRITE_EVERY)
_KEPT = timedelta(days=1)

_component = schema.component.c


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """How a process finds a part of the service, since when (UTC), and what to do about it."""

    process: str
    name: str
    state: State
    detail: str
    next_step: str
    since: datetime


async def write_components(database: Database, process: str, found: Sequence[Found]) -> None:
    """Write what one process finds, in place of what it found before.

    Raises:
        DatabaseUnavailableError: PostgreSQL is away or not migrated; the same below.
    """
    rows = [msgspec.structs.asdict(each) | {"seen_at": schema.now} for each in found]
    writing = insert(schema.component).values(rows)
    changed = {name: writing.excluded[name] for name in ("state", "detail", "next_step", "since", "seen_at")}
    old = or_(
        _component.seen_at < schema.now - _KEPT,
        (_component.process == process) & _component.name.not_in([each.name for each in found]),
    )
    async with database.transaction() as connection:
        await connection.execute(delete(schema.component).where(old))
        if rows:
            await connection.execute(
                writing.on_conflict_do_update(index_elements=[_component.process, _component.name], set_=changed)
            )


async def read_wrong(database: Database) -> Sequence[Found]:
    """Read what processes that are alive find wrong."""
    columns = (_component[name] for name in Found.__struct_fields__)
    query = (
        select(*columns)
        .where(_component.seen_at > schema.now - _FRESH, _component.state.in_(sorted(WRONG)))
        .order_by(_component.process, _component.name)
    )
    async with database.connection() as connection:
        return [Found(**row) for row in await connection.rows(query)]
