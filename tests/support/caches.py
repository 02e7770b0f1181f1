"""Two caches for one machine of histories: the store on PostgreSQL, and the bare rule over a dictionary."""

import asyncio
from collections.abc import Collection, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar

import asyncpg
import msgspec
import uvloop

from db import lease as standing
from db.database import Database
from db.history import read_at
from db.lease import lease_of
from db.reads import read_from
from db.store import Delivery, record_absences, record_deliveries, record_truths
from db.transitions import number_transitions, read_transitions
from db.url import normalise
from freescout_audit import rule
from freescout_audit.desk_clock import DeskClock
from freescout_audit.rule import Claim, Lease, Row, Terms, Truth, Verdict
from support.databases import BEGIN_HISTORY, Clock
from support.examples import NOON

TERMS = Terms()
_BEFORE = timedelta(microseconds=1)

Result = TypeVar("Result")


@dataclass(frozen=True)
class Look:
    """What the cache shows of one ticket: the row, what the function answers, until when by the view."""

    ticket: int
    row: Row | None
    answer: str
    expires: datetime | None


@dataclass(frozen=True)
class Sight:
    """All of it at one moment, and how many deliveries the journal has."""

    tickets: tuple[Look, ...]
    lease: Lease
    journalled: int


class Cache(Protocol):
    """What a history does to a cache. Our clock is ``now``, and stands still."""

    def begin(self, now: datetime, offset: timedelta) -> None: ...
    def set_clock(self, now: datetime) -> None: ...
    def deliver(self, claims: Sequence[Claim]) -> Sequence[Verdict]: ...
    def learn(self, truths: Sequence[Truth]) -> Sequence[Verdict]: ...
    def miss(self, tickets: Collection[int], asked_at: datetime) -> None: ...
    def beat(self) -> None: ...
    def begin_pass(self, desk_clock: datetime) -> standing.Beginning: ...
    def renew(self, beginning: standing.Beginning, desk_clock: datetime) -> None: ...
    def look(self, tickets: Collection[int]) -> Sight: ...
    def read(self, ticket: int) -> str: ...
    def look_back(self) -> None: ...


class Judges(Protocol):
    """The rule, or one that has been broken on purpose."""

    judge_claim: Any
    judge_truth: Any
    judge_absence: Any


@dataclass
class RuleCache:
    """The rule and nothing else."""

    judges: Judges = rule
    now: datetime = NOON
    offset: timedelta = timedelta()
    rows: dict[int, Row] = field(default_factory=dict)
    lease: Lease = field(default_factory=Lease)
    seen: datetime | None = None
    """What the pass that is under way has seen, or would have seen."""
    journalled: int = 0

    def begin(self, now: datetime, offset: timedelta) -> None:
        self.now, self.rows, self.seen, self.journalled = now, {}, None, 0
        self.lease = Lease(clock_offset=offset)

    def set_clock(self, now: datetime) -> None:
        self.now = now

    def deliver(self, claims: Sequence[Claim]) -> Sequence[Verdict]:
        self.journalled += len(claims)
        return [
            self._keep(
                claim.sighting.ticket_id,
                self.judges.judge_claim(
                    self.rows.get(claim.sighting.ticket_id), claim, lease=self.lease, terms=TERMS, now=self.now
                ),
            )
            for claim in claims
        ]

    def learn(self, truths: Sequence[Truth]) -> Sequence[Verdict]:
        return [
            self._keep(
                truth.ticket_id,
                self.judges.judge_truth(
                    self.rows.get(truth.ticket_id), truth, lease=self.lease, terms=TERMS, now=self.now
                ),
            )
            for truth in truths
        ]

    def miss(self, tickets: Collection[int], asked_at: datetime) -> None:
        for ticket in tickets:
            verdict = self.judges.judge_absence(
                self.rows.get(ticket), asked_at, lease=self.lease, terms=TERMS, now=self.now
            )
            self._keep(ticket, verdict)

    def beat(self) -> None:
        self.lease = msgspec.structs.replace(self.lease, heartbeat_at=self.now)

    def begin_pass(self, desk_clock: datetime) -> standing.Beginning:
        beginning = standing.Beginning(asked_at=self.now, lease=self.lease, load=None, complete_offset=None)
        seen = self.lease.seen_through
        self.seen = desk_clock if seen is None else max(seen, desk_clock)
        self.lease = msgspec.structs.replace(self.lease, seen_through=self.seen)
        return beginning

    def renew(self, beginning: standing.Beginning, desk_clock: datetime) -> None:
        if self.lease.renewed_by_pass is None or self.lease.renewed_by_pass < beginning.asked_at:
            self.lease = msgspec.structs.replace(
                self.lease,
                lease_until=beginning.asked_at + TERMS.lease,
                complete_through=desk_clock,
                covered_through=self.seen,
                renewed_by_pass=beginning.asked_at,
            )

    def look(self, tickets: Collection[int]) -> Sight:
        looks = []
        for ticket in sorted(tickets):
            row = self.rows.get(ticket)
            until = None if row is None else rule.expiry(row, self.lease, self.now)
            answer = row.status if row is not None and until is not None and until > self.now else None
            looks.append(Look(ticket, row, answer or "none", until))
        return Sight(tuple(looks), self.lease, self.journalled)

    def read(self, ticket: int) -> str:
        return self.look([ticket]).tickets[0].answer

    def look_back(self) -> None:
        """Keep no history."""

    def _keep(self, ticket: int, verdict: Verdict) -> Verdict:
        if verdict.row is not None:
            self.rows[ticket] = verdict.row
        return verdict


READ = """
SELECT id, t.*, c.ttl_expires, freescout_ticket_state(id) AS answer, l.seen_through, l.complete_through,
       l.covered_through, l.set_back_through, l.set_back_at, l.lease_until, l.renewed_by_pass,
       l.clock_offset, l.heartbeat_at, l.cache_lease, l.cache_ttl, l.begun_by_pass,
       (SELECT count(*) FROM freescout_delivery) AS journalled
FROM unnest($1::bigint[]) AS id
CROSS JOIN freescout_lease l
LEFT JOIN freescout_ticket t ON t.ticket_id = id
LEFT JOIN freescout_ticket_cache c ON c.ticket_id = id
ORDER BY id
"""
CLEAN = """
DELETE FROM freescout_ticket;
DELETE FROM freescout_delivery;
DELETE FROM freescout_gap;
UPDATE freescout_lease
SET (seen_through, complete_through, covered_through, lease_until, renewed_by_pass, heartbeat_at)
  = (NULL, NULL, NULL, NULL, NULL, NULL);
"""
ANSWERS = "SELECT id, freescout_ticket_state(id) FROM unnest($1::bigint[]) AS id"
LOOK_BACK = """
SELECT id, at, answer, freescout_ticket_state_at(id, at) FROM unnest($1::bigint[], $2::timestamptz[], $3::text[])
  AS read (id, at, answer)
"""
EPOCH = datetime.fromisoformat("1970-01-01T00:00:00Z")


@dataclass
class StoreCache:
    """The store on a real PostgreSQL, for code that cannot await."""

    runner: asyncio.Runner
    database: Database
    sql: asyncpg.Connection
    database_clock: Clock
    offset: timedelta = timedelta()
    clock: DeskClock | None = None
    """The desk's clock when the pass that is under way began."""
    now: datetime = NOON
    answers: dict[tuple[int, datetime], str] = field(default_factory=dict)
    """What was answered at each moment; of several answers at one, the last."""

    def begin(self, now: datetime, offset: timedelta) -> None:
        self.offset = offset
        self._run(self.sql.execute(CLEAN))
        self._run(self.sql.execute("UPDATE freescout_lease SET clock_offset = $1", offset))
        self.now = now
        self._run(self.database_clock.set(now))
        self._run(self.sql.execute(BEGIN_HISTORY))
        self.answers = {}

    def set_clock(self, now: datetime) -> None:
        if now - self.now > _BEFORE:
            # What happens next has not happened yet.
            self._run(self.database_clock.set(now - _BEFORE))
            self._note_answers(now - _BEFORE)
        self.now = now
        self._run(self.database_clock.set(now))

    def _note_answers(self, at: datetime) -> None:
        tickets = sorted({ticket for ticket, _ in self.answers})
        for ticket, answer in self._run(self.sql.fetch(ANSWERS, tickets)):
            self.answers[ticket, at] = answer

    def look_back(self) -> None:
        """Check that the history says of every moment what was answered then, and that the feed leads there."""
        tickets, moments = [ticket for ticket, _ in self.answers], [at for _, at in self.answers]
        for ticket, at, then, said in self._run(
            self.sql.fetch(LOOK_BACK, tickets, moments, list(self.answers.values()))
        ):
            assert said == then, f"ticket {ticket} read {then} at {at}, and the history says {said}"
            assert self._run(read_at(self.database, ticket, at, deadline=5)).ticket_state == then
        self._run(number_transitions(self.database))
        settled: dict[int, str] = {}
        for number, transition in enumerate(self._run(read_transitions(self.database, at_most=10_000)), 1):
            assert transition.transition_id == number
            assert transition.before == settled.get(transition.ticket_id, "none") != transition.after
            settled[transition.ticket_id] = transition.after
        for look in self.look({ticket for ticket, _ in self.answers} or {1}).tickets:
            if look.row is not None and look.row.disputed_at is None:
                assert settled.get(look.ticket, "none") == _settles(look.row)

    def deliver(self, claims: Sequence[Claim]) -> Sequence[Verdict]:
        recorded = self._run(record_deliveries(self.database, [_entry(claim) for claim in claims], terms=TERMS))
        return [verdict for verdict in recorded.verdicts if verdict is not None]

    def learn(self, truths: Sequence[Truth]) -> Sequence[Verdict]:
        return self._run(record_truths(self.database, truths, terms=TERMS)).verdicts

    def miss(self, tickets: Collection[int], asked_at: datetime) -> None:
        self._run(record_absences(self.database, tickets, asked_at=asked_at, terms=TERMS))

    def beat(self) -> None:
        self._run(standing.beat(self.database, TERMS))

    def begin_pass(self, desk_clock: datetime) -> standing.Beginning:
        beginning = self._run(standing.read_beginning(self.database))
        self.clock = self._run(standing.see_through(self.database, desk_clock, asked_at=beginning.asked_at))
        # A Date has no fractions, so what is measured is up to a second behind; the desk of a history is exact.
        self._run(self.sql.execute("UPDATE freescout_lease SET clock_offset = $1", self.offset))
        return beginning

    def renew(self, beginning: standing.Beginning, desk_clock: datetime) -> None:
        assert self.clock is not None
        clock = msgspec.structs.replace(self.clock, at=desk_clock, offset=self.offset)
        self._run(
            standing.renew(
                self.database,
                beginning,
                clock=clock,
                covered_through=clock.seen_through,
                terms=TERMS,
                rows=0,
                requests=0,
            )
        )

    def look(self, tickets: Collection[int]) -> Sight:
        records = self._run(self.sql.fetch(READ, sorted(tickets)))
        looks = tuple(
            Look(record["id"], _row_of(record), record["answer"], _shown(record["ttl_expires"])) for record in records
        )
        for look in looks:
            self.answers[look.ticket, self.now] = look.answer
        return Sight(looks, lease_of(records[0]), records[0]["journalled"])

    def read(self, ticket: int) -> str:
        reading = self._run(read_from(self.database, ticket, deadline=5))
        assert reading.reason != "unavailable"
        return reading.ticket_state

    def _run(self, waiting: Coroutine[Any, Any, Result]) -> Result:
        return self.runner.run(waiting)


@contextmanager
def store_cache(database_url: str) -> Iterator[StoreCache]:
    """A store whose database has a clock that stands still."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        database = Database(normalise(database_url), connections=2)
        sql = runner.run(asyncpg.connect(database_url))
        database_clock = runner.run(Clock.stop(sql, NOON))
        try:
            yield StoreCache(runner, database, sql, database_clock)
        finally:
            # A loop with an open connection does not close.
            runner.run(sql.close())
            runner.run(database.close())


def _settles(row: Row) -> str:
    """What a row reads in time."""
    known = not row.gone and row.state == "published" and row.updated_at is not None
    return row.status or "none" if known else "none"


def _shown(expires: datetime | None) -> datetime | None:
    """What is never vouched for shows the epoch."""
    return None if expires == EPOCH else expires


def _row_of(record: asyncpg.Record) -> Row | None:
    if record["ticket_id"] is None:
        return None
    return Row(**{name: record[name] for name in Row.__struct_fields__})


def _entry(claim: Claim) -> Delivery:
    return Delivery(
        claim=claim,
        endpoint="audit",
        event="convo.deleted_forever" if claim.says_gone else "convo.status",
        body_bytes=1310,
        body_ms=0.5,
        signed_with="current",
    )
