"""The one write path: a batch of sightings is judged by the rule, and written if what it was judged by still stands.

The batch reads its tickets without a lock, and writes them in one statement that finds out whether another writer has
changed one of them, or the lease, since then. So a batch is two round trips, and blocks only batches that write the
same ticket in the same instant. If another writer changed a row first, the batch locks its rows and retries; that
retry cannot be overtaken. (The lease is not locked: under locks it counts as it was when they were held.)
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Self, TypeVar

import asyncpg
import msgspec
from sqlalchemy import func, select

from db import statements
from db.database import OVERTAKEN, PATIENCE, Connection, Database
from db.gaps import Gap, write_gaps
from db.journal import Entry
from db.lease import LoadProgress, lease_of, save_load
from freescout_audit.desk_clock import WITHIN_A_SECOND
from freescout_audit.errors import DatabaseUnavailableError
from freescout_audit.rule import (
    Claim,
    Lease,
    Row,
    Terms,
    Truth,
    Verdict,
    is_discovery,
    judge_absence,
    judge_claim,
    judge_stamps,
    judge_truth,
)


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A verified delivery as the journal keeps it."""

    claim: Claim | None
    """None when it carries no conversation."""
    otherwise: str = ""
    """The outcome when there is no claim: ``ignored`` or ``unusable``."""
    endpoint: str
    event: str
    body_bytes: int
    body_ms: float
    signed_with: str
    """Which accepted key signed it: ``current`` or ``previous``."""
    request_id: str | None = None
    key_fingerprint: str | None = None
    """`freescout_audit.signature.fingerprint` of that key."""
    digest: str | None = None
    """The same for what is sent again, bit by bit, to the same endpoint as the same event; None: it is not counted."""


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a committed batch of deliveries, in its order."""

    verdicts: Sequence[Verdict | None]
    """None for a delivery without a claim."""
    now: datetime
    lease: Lease


class TruthsRecorded(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a committed batch of truths, in its order, and the gaps it healed; a peek's are not known yet."""

    verdicts: Sequence[Verdict]
    gaps: Sequence[Gap]
    news: int
    """How many of them said something that was not held."""
    known_after: Sequence[float]
    """How many seconds after each change, as far as it has a date, it is known by them, and by no delivery."""


async def record_deliveries(
    database: Database,
    deliveries: Sequence[Delivery],
    *,
    terms: Terms,
    deadline: float | None = None,
    lock_patience: float | None = None,
) -> Recorded:
    """Judge deliveries in their order, write rows and journal, and return after the commit.

    ``lock_patience`` is how many seconds one ticket's lock is waited for, if not for as long as the deadline allows.

    Raises:
        DatabaseUnavailableError: Nothing was promised. (If only the answer to the commit was lost, all of it stands;
            sending the deliveries again is harmless either way.)
        asyncpg.LockNotAvailableError: Another session held one of the tickets for longer than ``lock_patience``.
    """

    async def judge(batch: "_Batch") -> Recorded:
        verdicts = [
            None if delivery.claim is None else batch.apply_claim(delivery.claim, terms) for delivery in deliveries
        ]
        await batch.write_back(_journal(deliveries, verdicts, batch.now))
        return Recorded(verdicts=verdicts, now=batch.now, lease=batch.lease)

    tickets = {delivery.claim.sighting.ticket_id for delivery in deliveries if delivery.claim is not None}
    # One statement writes everything, so it needs no transaction around it.
    return await _settle(database, database.connection, tickets, judge, deadline=deadline, patience=lock_patience)


async def record_truths(
    database: Database,
    truths: Sequence[Truth],
    *,
    terms: Terms,
    load: LoadProgress | None = None,
    peeked: bool = False,
    durable: bool = True,
    deadline: float | None = None,
    lock_patience: float | None = None,
) -> TruthsRecorded:
    """Apply API reads in their order, write rows and gaps, and return after the commit.

    ``load`` is how far the first load has come with these rows. ``peeked``: a peek read them, which vouches for
    nothing: what is held and undisputed is left alone, and what is news is no gap yet. ``durable`` as in
    `Database.transaction`: answers to questions need not be, since one that is lost leaves its question open. A pass
    vouches for what it has read, and might survive a crash that takes some of it back. ``lock_patience`` and errors as
    `record_deliveries`.
    """

    async def judge(batch: "_Batch") -> TruthsRecorded:
        verdicts = [batch.apply_truth(truth, terms, peeked=peeked) for truth in truths]
        await batch.write_back()
        gaps = await batch.write_gaps(peeked=peeked)
        if load is not None:
            await save_load(batch.connection, load)
        return TruthsRecorded(verdicts=verdicts, gaps=gaps, news=batch.news, known_after=batch.known_after)

    tickets = {truth.ticket_id for truth in truths}
    lend = partial(database.transaction, durable=durable)
    return await _settle(database, lend, tickets, judge, deadline=deadline, patience=lock_patience)


async def record_absences(
    database: Database, ticket_ids: Collection[int], *, asked_at: datetime, terms: Terms, deadline: float | None = None
) -> Sequence[int]:
    """Dispute tickets that a list asked at ``asked_at`` should have held, and return those that are now disputed.

    Errors as `record_deliveries`.
    """

    async def judge(batch: "_Batch") -> Sequence[int]:
        verdicts = {ticket_id: batch.apply_absence(ticket_id, asked_at, terms) for ticket_id in sorted(ticket_ids)}
        await batch.write_back()
        return [ticket_id for ticket_id, verdict in verdicts.items() if verdict.outcome == "disputed"]

    return await _settle(database, database.connection, ticket_ids, judge, deadline=deadline)


async def record_stamps(database: Database, ticket_ids: Collection[int]) -> None:
    """Dispute those of the tickets that bear stamps ahead of our clock; errors as `record_deliveries`."""

    async def judge(batch: "_Batch") -> None:
        for ticket_id in sorted(ticket_ids):
            batch.apply_stamps(ticket_id)
        await batch.write_back()

    await _settle(database, database.connection, ticket_ids, judge, deadline=None)


DISPUTED = "freescout_dispute"
"""The channel that hastens the poller's questions; the disputed rows themselves are the list of what to ask."""

_Result = TypeVar("_Result")

_UNLOCKED_PATIENCE = timedelta(milliseconds=10)
"""With another writer's lock, before the batch takes its own: until then what was read gets no older."""


async def _settle(
    database: Database,
    lend: Callable[[float | None], AbstractAsyncContextManager[Connection]],
    ticket_ids: Collection[int],
    judge: Callable[["_Batch"], Awaitable[_Result]],
    *,
    deadline: float | None,
    patience: float | None = None,
) -> _Result:
    """Read the tickets, let ``judge`` judge and write them, and once more under locks if another writer was first."""
    loop, tickets = asyncio.get_running_loop(), sorted(ticket_ids)
    until = loop.time() + (PATIENCE if deadline is None else deadline)
    try:
        async with lend(deadline) as connection:
            batch = await _Batch.read(connection, tickets, _UNLOCKED_PATIENCE)
            result = await judge(batch)
    except OVERTAKEN:
        async with database.transaction(until - loop.time()) as connection:
            batch = await _Batch.lock(connection, tickets, patience)
            result = await judge(batch)
    if batch.has_changed:
        database.written.set()
    if batch.disputes:
        # What is committed stands, also if the poller does not hear of it at once. A statement of its own, after the
        # commit: transactions that notify are committed one after the other, each with its fsync.
        with suppress(DatabaseUnavailableError, asyncpg.PostgresError):
            async with database.connection(until - loop.time()) as connection:
                await connection.execute(select(func.pg_notify(DISPUTED, "")))
    return result


class _Batch:
    """The rows of some tickets, as they were read, and what the rule made of them so far."""

    def __init__(
        self,
        connection: Connection,
        read: Mapping[str, Any],
        *,
        lease_version: str | None,
        empty: Collection[int] = (),
        patience: timedelta | None,
    ) -> None:
        self.connection = connection
        self.now: datetime = read["now"]
        self.lease = lease_of(read)
        self._versions: str | None = read["versions"]
        self._lease_version = lease_version
        self._empty = set(empty)
        self._patience = patience
        held = () if read["rows"] is None else _rows.decode(read["rows"])
        self._rows = {row.ticket_id: row for row in held if row.ticket_id not in self._empty}
        self._changed: set[int] = set()
        self._gaps: list[Gap] = []
        self.known_after: list[float] = []
        """How many seconds after it was made each change is known that no delivery has told of."""
        self.news = 0
        """How many truths said something that was not held."""

    @classmethod
    async def read(cls, connection: Connection, ticket_ids: Sequence[int], patience: timedelta) -> Self:
        """Read the tickets, our clock and the lease; if another writer comes first, `write_back` fails."""
        read = await connection.driver.fetchrow(statements.READ_TICKETS, ticket_ids)
        return cls(connection, read, lease_version=read["lease_version"], patience=patience)

    @classmethod
    async def lock(cls, connection: Connection, ticket_ids: Sequence[int], patience: float | None) -> Self:
        """Lock the tickets' rows, also of those we hold nothing about, and then read them, our clock and the lease."""
        limit = None if patience is None else timedelta(seconds=patience)
        made = await connection.driver.fetch(statements.LOCK, ticket_ids, limit)
        read = await connection.driver.fetchrow(statements.READ_TICKETS, ticket_ids)
        empty = [record["ticket_id"] for record in made]
        return cls(connection, read, lease_version=None, empty=empty, patience=limit)

    @property
    def has_changed(self) -> bool:
        """Whether it changed a row."""
        return bool(self._changed)

    @property
    def disputes(self) -> bool:
        """Whether it changed a row that is disputed now."""
        return any(self._rows[ticket_id].disputed_at is not None for ticket_id in self._changed)

    def apply_claim(self, claim: Claim, terms: Terms) -> Verdict:
        ticket_id = claim.sighting.ticket_id
        return self._keep(
            ticket_id, judge_claim(self._rows.get(ticket_id), claim, lease=self.lease, terms=terms, now=self.now)
        )

    def apply_truth(self, truth: Truth, terms: Terms, *, peeked: bool) -> Verdict:
        before = self._rows.get(truth.ticket_id)
        known = before is not None and truth.sighting is not None and before.holds(truth.sighting)
        if peeked and known and before is not None and before.disputed_at is None:
            return Verdict(outcome="dropped", row=before, reason="known")
        verdict = self._keep(truth.ticket_id, judge_truth(before, truth, lease=self.lease, terms=terms, now=self.now))
        self.news += not known and verdict.outcome != "dropped"
        if before is not None and is_discovery(before, verdict):
            said = truth.sighting
            if said is not None and said.updated_at is not None:
                since = (self.now - said.updated_at) + self.lease.clock_offset - WITHIN_A_SECOND
                self.known_after.append(since.total_seconds())
            self._gaps.append(
                Gap(
                    ticket_id=truth.ticket_id,
                    cached=before.content,
                    true=None if said is None else (said.status, said.state),
                    changed_at=None if said is None else said.updated_at,
                    cached_updated_at=before.updated_at,
                )
            )
        return verdict

    def apply_absence(self, ticket_id: int, asked_at: datetime, terms: Terms) -> Verdict:
        return self._keep(
            ticket_id, judge_absence(self._rows.get(ticket_id), asked_at, lease=self.lease, terms=terms, now=self.now)
        )

    def apply_stamps(self, ticket_id: int) -> Verdict:
        return self._keep(ticket_id, judge_stamps(self._rows.get(ticket_id), lease=self.lease, now=self.now))

    def _keep(self, ticket_id: int, verdict: Verdict) -> Verdict:
        if verdict.row is not None and verdict.row != self._rows.get(ticket_id):
            self._rows[ticket_id] = verdict.row
            self._changed.add(ticket_id)
        return verdict

    async def write_back(self, journal: Sequence[Entry] = ()) -> None:
        """Write what changed, and the journal; take away the rows that stayed empty.

        Raises:
            asyncpg.SerializationError: One of those rows, or the lease, was written since they were read without a
                lock.
        """
        changed = [self._rows[ticket_id] for ticket_id in sorted(self._changed)]
        if changed or journal:
            await self.connection.driver.execute(
                statements.WRITE_TICKETS,
                _json(changed),
                self._versions,
                self._lease_version,
                _json(journal),
                self._patience,
            )
        if still_empty := self._empty - self._changed:
            await self.connection.driver.execute(statements.DROP_EMPTY, sorted(still_empty))

    async def write_gaps(self, *, peeked: bool) -> Sequence[Gap]:
        """Write the gaps that were found, and return those that are known to be some."""
        written = await write_gaps(self.connection, self._gaps, healed_at=self.now, peeked=peeked)
        return self._gaps if written and not peeked else ()


_rows = msgspec.json.Decoder(tuple[Row, ...])


def _json(rows: Sequence[msgspec.Struct]) -> str:
    """Return rows as `statements` take them."""
    return msgspec.json.encode(rows).decode()


def _journal(
    deliveries: Sequence[Delivery], verdicts: Sequence[Verdict | None], received_at: datetime
) -> Sequence[Entry]:
    """Return the journal's entries; what a batch holds twice is one, with a count."""
    entries: list[Entry] = []
    first: dict[str, int] = {}
    for delivery, verdict in zip(deliveries, verdicts, strict=True):
        said = None if delivery.claim is None else delivery.claim.sighting
        if delivery.digest is not None and (at := first.setdefault(delivery.digest, len(entries))) < len(entries):
            entries[at] = msgspec.structs.replace(
                entries[at],
                replays=entries[at].replays + 1,
                replayed_at=received_at,
                replayed_request_id=delivery.request_id,
            )
            continue
        entries.append(
            Entry(
                received_at=received_at,
                endpoint=delivery.endpoint,
                event=delivery.event,
                ticket_id=None if said is None else said.ticket_id,
                outcome=delivery.otherwise if verdict is None else verdict.outcome,
                reason="" if verdict is None else verdict.reason,
                status=None if said is None else said.status,
                state=None if said is None else said.state,
                updated_at=None if said is None else said.updated_at,
                body_bytes=delivery.body_bytes,
                body_ms=delivery.body_ms,
                signed_with=delivery.signed_with,
                request_id=delivery.request_id,
                key_fingerprint=delivery.key_fingerprint,
                digest=delivery.digest,
            )
        )
    return entries
