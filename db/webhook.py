"""The webhooks that are registered at the desk, one an endpoint, as far as we know: FreeScout cannot list them."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import delete, func, literal, select, text, update
from sqlalchemy.dialects.postgresql import insert

from db import schema
from db.database import Database
from db.journal import IS_SELF_TEST
from freescout_audit.endpoints import AUDIT

_STILL_UNDER_WAY = timedelta(minutes=2)
"""How long a webhook that was removed may still deliver: what was under way."""
_LONG_LOOK = 30.0
"""Seconds to look through a journal that has none of an endpoint."""


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """What is registered at the desk; without an id a registration began whose end is not known."""

    webhook_id: int | None
    url: str
    events: list[str]
    began_at: datetime
    registered_at: datetime | None


async def read_webhook(database: Database, endpoint: str = AUDIT) -> Webhook | None:
    """Read what is registered at the desk for an endpoint, as far as we know.

    Raises:
        DatabaseUnavailableError: PostgreSQL is away or not migrated; the same everywhere below.
    """
    noted = schema.webhooks[endpoint].c
    columns = (noted[name] for name in Webhook.__struct_fields__)
    async with database.connection() as connection:
        row = await connection.row(select(*columns).where(noted.removed_at.is_(None)))
    return None if row is None else Webhook(**row)


async def begin_webhook(database: Database, endpoint: str, url: str, events: Sequence[str]) -> bool:
    """Note that a webhook is about to be registered, before FreeScout is told.

    Returns False when there is one, or a registration without an end.
    """
    table = schema.webhooks[endpoint]
    begun = insert(table).values(url=url, events=list(events), began_at=schema.now)
    begun = begun.on_conflict_do_update(
        index_elements=[table.c.only_row],
        set_={
            "webhook_id": None,
            "url": begun.excluded.url,
            "events": begun.excluded.events,
            "began_at": begun.excluded.began_at,
            "registered_at": None,
            "removed_at": None,
        },
        where=table.c.removed_at.is_not(None),
    )
    async with database.connection() as connection:
        return bool(await connection.scalar(begun.returning(table.c.only_row)))


async def save_webhook(database: Database, endpoint: str, webhook_id: int, url: str, events: Sequence[str]) -> None:
    """Note a webhook's id, as FreeScout told it."""
    table = schema.webhooks[endpoint]
    saved = insert(table).values(
        webhook_id=webhook_id, url=url, events=list(events), began_at=schema.now, registered_at=schema.now
    )
    saved = saved.on_conflict_do_update(
        index_elements=[table.c.only_row],
        set_={
            "webhook_id": saved.excluded.webhook_id,
            "url": saved.excluded.url,
            "events": saved.excluded.events,
            "registered_at": saved.excluded.registered_at,
            "removed_at": None,
        },
    )
    async with database.connection() as connection:
        await connection.execute(saved)


async def forget_webhook(database: Database, endpoint: str) -> None:
    """Forget the webhook: it was never registered."""
    async with database.connection() as connection:
        await connection.execute(delete(schema.webhooks[endpoint]))


async def note_removal(database: Database, endpoint: str) -> None:
    """Note that the webhook is removed: what is delivered later comes by another."""
    async with database.connection() as connection:
        await connection.execute(update(schema.webhooks[endpoint]).values(removed_at=schema.now))


async def find_stranger(database: Database, endpoint: str) -> datetime | None:
    """Return when the last delivery came to an endpoint that no webhook we knew of has sent; None when none has."""
    journal = schema.delivery.c
    removed_at = select(schema.webhooks[endpoint].c.removed_at).scalar_subquery()
    since = func.coalesce(removed_at + literal(_STILL_UNDER_WAY), text("'-infinity'::timestamptz"))
    query = (
        select(journal.received_at)
        .where(~IS_SELF_TEST, journal.endpoint == endpoint, journal.received_at > since)
        .order_by(journal.delivery_id.desc())
        .limit(1)
    )
    async with database.connection(_LONG_LOOK) as connection:
        received_at: datetime | None = await connection.scalar(query)
    return received_at
