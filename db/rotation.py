"""Which keys signed the deliveries in the journal, and when: what tells how far a rotation has come."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from db import statements
from db.database import Database

_DEADLINE = 30.0

READ_KEY_USES = """
SELECT key_fingerprint, count(*) AS deliveries, min(received_at) AS first_at, max(received_at) AS last_at
FROM freescout_delivery WHERE endpoint = $1 GROUP BY key_fingerprint ORDER BY last_at DESC
"""
"""Read how often and when each key signed a delivery to an endpoint, the one used last first."""


class KeyUse(msgspec.Struct, frozen=True, kw_only=True):
    """What the journal knows of a key; ``fingerprint`` None: rows from before keys had names in it."""

    fingerprint: str | None
    deliveries: int
    first_at: datetime
    last_at: datetime


async def read_key_uses(database: Database, endpoint: str) -> tuple[datetime, Sequence[KeyUse]]:
    """Return our clock, and the keys that signed deliveries to an endpoint, the one used last first.

    Raises:
        DatabaseUnavailableError: PostgreSQL is away or not migrated.
    """
    async with database.connection(_DEADLINE) as connection:
        rows = await connection.fetch(READ_KEY_USES, endpoint)
        now: datetime = await connection.fetchval(statements.NOW)
    uses = [
        KeyUse(
            fingerprint=row["key_fingerprint"],
            deliveries=row["deliveries"],
            first_at=row["first_at"],
            last_at=row["last_at"],
        )
        for row in rows
    ]
    return now, uses
