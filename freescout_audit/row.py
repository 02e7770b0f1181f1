"""What the rule works on: the row of a ticket, what is said of it, the lease, and the terms.

All times are aware UTC, by the database's wall clock unless they are said to be the desk's.
"""

from datetime import datetime, timedelta
from typing import Literal

import msgspec

from freescout_audit.conversation import Sighting, State, Status

Path = Literal["webhook", "poller"]
Content = tuple[Status | None, State | None]


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the cache holds of one ticket.

    A tombstone (``gone``) is a ticket the desk no longer has, or, while disputed, one we were only told of.
    """

    ticket_id: int
    status: Status | None = None
    state: State | None = None
    updated_at: datetime | None = None
    number: int | None = None
    mailbox_id: int | None = None
    created_at: datetime | None = None
    gone: bool = True
    observed_at: datetime
    """When the value was last seen: at receipt for a claim, *s* for a truth."""
    observed_via: Path
    expires_at: datetime
    """The row's own TTL; the lease may vouch for longer, an open dispute for less."""
    touched_at: datetime | None = None
    """When a claim last said something about the ticket that we did not know."""
    truth_at: datetime | None = None
    """The *s* of the last truth written, or of the last list that lacked the ticket."""
    truth_until: datetime | None = None
    """When that truth was written: the read was answered before."""
    disputed_at: datetime | None = None
    """When the open dispute began; None when there is none."""
    grace_until: datetime | None = None
    """Until when the disputed value still answers."""
    disputed_through: datetime | None = None
    """Up to which date, by the desk's clock, something was said against the row while the dispute is open: without a
    poller, news dated later settles it. None: no dispute is open, or a release opened it that did not keep this."""
    doubted_through: datetime | None = None
    """The latest date of a claim that was not believed: sent once more, it is no better."""

    @property
    def content(self) -> Content:
        """Status and state: what a change is a change of."""
        return self.status, self.state

    def holds(self, said: Sighting) -> bool:
        """Tell whether what was said is what the row holds, with the same date."""
        return not self.gone and (*self.content, self.updated_at) == (said.status, said.state, said.updated_at)


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What one verified delivery says of a ticket; ``says_gone`` for ``convo.deleted_forever``."""

    sighting: Sighting
    says_gone: bool = False


class Truth(msgspec.Struct, frozen=True, kw_only=True):
    """What an API read that began at *s* (``asked_at``) found; ``sighting`` is None for a 404 that counts."""

    ticket_id: int
    sighting: Sighting | None
    asked_at: datetime


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """What the passes have established for every ticket at once."""

    seen_through: datetime | None = None
    """The latest desk clock at which any pass began."""
    complete_through: datetime | None = None
    """The desk clock at which the last complete pass began."""
    covered_through: datetime | None = None
    """The latest date that the last complete pass had seen, or would have; later than ``complete_through`` when the
    desk's clock was set back."""
    set_back_through: datetime | None = None
    """The latest date that the desk's clock would have come to when it was found set back; dates up to it repeat."""
    set_back_at: datetime | None = None
    """The *s* of the read that found it so, the last time."""
    lease_until: datetime | None = None
    """Until when the last complete pass vouches for everything."""
    renewed_by_pass: datetime | None = None
    """The *s* of that pass, by our clock."""
    clock_offset: timedelta = timedelta()
    """The desk's clock minus ours, as the passes have measured it."""
    heartbeat_at: datetime | None = None
    """When the poller last said it is alive."""
    cache_lease: float = 86_400.0
    """The ``cache.lease`` in force, in seconds; until a process has said so, the longest there can be."""
    cache_ttl: float = 2_592_000.0
    """The ``cache.ttl`` in force, likewise."""
    begun_by_pass: datetime | None = None
    """When the latest pass asked first, complete or not, by our clock."""


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """How long an answer is vouched for (settings ``cache.*``)."""

    lease: timedelta = timedelta(seconds=900)
    ttl: timedelta = timedelta(seconds=86400)
    dispute_grace: timedelta = timedelta(seconds=5)
