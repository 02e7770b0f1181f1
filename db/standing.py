"""How the service stands: the lease, what the poller reports, and the schema; console, readiness and watch show it."""

from datetime import datetime, timedelta
from typing import Literal

import msgspec
from sqlalchemy import func, select, true, update

from db import schema
from db.database import Database
from db.lease import COLUMNS, DeskState, lease_of
from freescout_audit.events import LEASE_EXPIRED, LEASE_RESTORED, POLLER_EXPECTED, POLLER_RETIRED
from freescout_audit.logs import emit
from freescout_audit.rule import Lease, Terms, poller_is_alive
from freescout_audit.trust import is_ahead, vouched_until

PollerState = Literal["never", "leads", "stepped_down", "vanished"]

HEARTBEAT_OVERDUE = timedelta(seconds=30)
"""A heartbeat is due every ten seconds; three that are missed are a failure."""


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
    desk_next_step: str
    silent_since: datetime | None
    trouble: str
    trouble_since: datetime | None
    leads_until: datetime | None
    stepped_down_at: datetime | None
    retired_at: datetime | None
    desk_answered_at: datetime | None
    peeked_at: datetime | None
    unnumbered_since: datetime | None
    """Since when a transition waits for its place in the feed; None: none does."""

    @property
    def poller(self) -> PollerState:
        """What became of the poller, for people and alerts; the rule has `poller_is_alive`."""
        beaten = self.lease.heartbeat_at
        if beaten is None:
            holds = self.leads_until is not None and self.leads_until > self.now
            overdue = self.led_since is not None and self.now - self.led_since > HEARTBEAT_OVERDUE
            return "vanished" if holds and overdue else "never"
        if self.stepped_down_at is not None and self.stepped_down_at >= beaten:
            return "stepped_down"
        beats = not is_ahead(beaten, self.now) and self.now - beaten <= HEARTBEAT_OVERDUE
        return "leads" if beats else "vanished"

    def poller_is_alive(self, terms: Terms) -> bool:
        """Tell whether a poller is alive, as the rule has it."""
        return poller_is_alive(self.lease, self.now, terms)


_REPORTS = tuple(schema.poller.c[name] for name in Standing.__struct_fields__ if name in schema.poller.c)
_history = schema.history.c
_UNNUMBERED = (
    select(_history.known_at)
    .where(_history.before.is_not(None), _history.transition_id.is_(None))
    .order_by(_history.entry_id)
    .limit(1)
    .scalar_subquery()
)
_STANDING = select(
    schema.now.label("now"),
    select(schema.revision.c.version_num).scalar_subquery().label("revision"),
    func.pg_backend_pid().label("backend"),
    schema.lease.c.desk_url,
    _UNNUMBERED.label("unnumbered_since"),
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
        unnumbered_since=row["unnumbered_since"],
        **{column.name: row[column.name] for column in _REPORTS},
    )


async def server_version(database: Database) -> str:
    """Return PostgreSQL's version, such as ``18.4``; errors as `read_standing`."""
    async with database.connection() as connection:
        version: str = await connection.scalar(select(func.split_part(func.version(), " ", 2)))
    return version


async def is_standby(database: Database) -> bool:
    """Tell whether the server is a standby, which lets us read only; errors as `read_standing`."""
    async with database.connection() as connection:
        return bool(await connection.scalar(select(func.pg_is_in_recovery())))


async def everybody_may_create(database: Database) -> bool:
    """Tell whether every role may create objects beside ours; errors as `read_standing`.

    So it is before PostgreSQL 15. Whoever creates a function that fits a call of ours better than PostgreSQL's own has
    it run by us, with all our rights.
    """
    may = select(func.has_schema_privilege("public", func.current_schema(), "CREATE"))
    async with database.connection() as connection:
        return bool(await connection.scalar(may))


async def note_silence(database: Database, since: datetime | None) -> None:
    """Note since when both paths have been silent; None when they are not. Errors as `read_standing`."""
    async with database.connection() as connection:
        await connection.execute(update(schema.poller).values(silent_since=since))


class StandingWatch:
    """Tells the log when the lease ends or is renewed after that, and whether a poller is expected: once each time."""

    def __init__(self) -> None:
        self._expired = False
        self._before: Standing | None = None

    def look(self, standing: Standing) -> None:
        """Look at what stands."""
        lease, now = standing.lease, standing.now
        until = vouched_until(lease, now) or (lease.lease_until and now)
        expired = until is not None and until <= now
        if expired != self._expired:
            emit(LEASE_EXPIRED if expired else LEASE_RESTORED, lease_until=until)
        self._expired = expired
        if self._before is not None and (self._before.retired_at is None) != (standing.retired_at is None):
            emit(POLLER_EXPECTED if standing.retired_at is None else POLLER_RETIRED, since=standing.retired_at)
        self._before = standing
