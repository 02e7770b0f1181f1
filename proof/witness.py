"""Knows what was true at the desk and when, looks at what readers get, and says when the two disagree.

The promise it watches: after a complete pass that began at *s*, no reader gets an answer that was already false at *s*,
but for the dispute grace. An answer is wrong while it is neither true nor ``none``; that is allowed for as long as no
pass that began later is complete.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime

import asyncpg

from db.database import Database
from db.reads import read_from
from freescout_audit.errors import DatabaseUnavailableError
from freescout_audit.rule import Terms
from simulator import Clock, Desk

NONE = "none"
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_READERS_DEADLINE = 2.0
_SHOWN = 5

_LOOK = """
SELECT n.now, l.renewed_by_pass, t.ticket_id, p.desk_state = 'ok' AND l.heartbeat_at > n.now - $1::interval AS polled,
       CASE WHEN c.ttl_expires > n.now THEN c.status ELSE 'none' END AS answer,
       t.grace_until IS NOT NULL AS disputed, t.gone, t.state = 'published' AS published
FROM freescout_lease l CROSS JOIN freescout_poller p CROSS JOIN (SELECT freescout_now() AS now) n
LEFT JOIN freescout_ticket t ON true
LEFT JOIN freescout_ticket_cache c USING (ticket_id)
"""
"""What readers get for every ticket, *s* of the last complete pass, and whether one polls, in one snapshot."""


@dataclass(slots=True)
class Longest:
    """The longest time that something lasted, with which ticket and until when."""

    seconds: float = 0.0
    ticket_id: int | None = None
    until: datetime | None = None

    def see(self, seconds: float, ticket_id: int, until: datetime) -> None:
        """Take it if it is longer."""
        if seconds > self.seconds:
            self.seconds, self.ticket_id, self.until = seconds, ticket_id, until


@dataclass(slots=True)
class Sights:
    """What has been seen so far; durations in seconds of the desk's clock."""

    looks: int = 0
    answers: int = 0
    wrong: Longest = field(default_factory=Longest)
    """The longest that a reader would have got an answer that was neither true nor ``none``."""
    wrong_while_polled: list[float] = field(default_factory=list)
    """How long each wrong answer lasted during which a poller was alive and the desk answered it."""
    withheld: dict[str, Longest] = field(default_factory=lambda: defaultdict(Longest))
    """The longest that a reader would have got ``none`` where there was an answer, by reason."""
    reasons: Counter[str] = field(default_factory=Counter)
    """What single reads answered, by reason."""
    violations: list[str] = field(default_factory=list)


class Witness:
    """Compares answers with the desk's history.

    Args:
        desk: The desk; tell of each change with `note`.
        database: The cache.
        clock: The desk's and the database's clock.
    """

    def __init__(self, desk: Desk, database: Database, clock: Clock) -> None:
        self.sights = Sights()
        self.passed: datetime | None = None
        """*s* of the last complete pass."""
        self._desk = desk
        self._database = database
        self._clock = clock
        self._history: dict[int, tuple[list[datetime], list[str]]] = {}
        self._last_id = 0
        self._withheld_since: dict[int, tuple[datetime, str]] = {}
        self._wrong: dict[int, tuple[datetime, bool]] = {}
        """Since when each ticket is wrong, and whether a poller has been alive all the time."""
        self.note_all()

    def note(self, ticket_id: int) -> None:
        """Note what is true of a ticket now, and of those that are new."""
        newest = max(self._last_id, next(reversed(self._desk.conversations), 0))
        for each in {ticket_id, *range(self._last_id + 1, newest + 1)}:
            self._note(each, self._clock.now())
        self._last_id = newest

    def note_all(self) -> None:
        """Note what is true of every ticket now."""
        now = self._clock.now() if self._history else _LONG_AGO
        for ticket_id in {*self._history, *self._desk.conversations}:
            self._note(ticket_id, now)
        self._last_id = max(self._desk.conversations, default=0)

    def truth(self, ticket_id: int) -> str:
        """Return what a reader should get for a ticket."""
        row = self._desk.conversations.get(ticket_id)
        return row.status if row is not None and row.state == "published" else NONE

    @property
    def tickets(self) -> list[int]:
        """Every ticket there has ever been."""
        return list(self._history)

    async def look(self) -> bool:
        """Look at every answer once; False when the database is away."""
        before = self._clock.now()
        try:
            async with self._database.connection(_READERS_DEADLINE) as connection:
                records = await connection.driver.fetch(_LOOK, Terms().lease)
        except DatabaseUnavailableError:
            return False
        now, passed = records[0]["now"], records[0]["renewed_by_pass"]
        self.passed = passed
        self.sights.looks += 1
        answers = {record["ticket_id"]: record for record in records if record["ticket_id"] is not None}
        withheld: dict[int, str] = {}
        wrong: dict[int, datetime] = {}
        for ticket_id in self._history:
            record = answers.get(ticket_id)
            answer = NONE if record is None else str(record["answer"])
            self.sights.answers += 1
            possible = self._truths_since(ticket_id, before)
            if answer == NONE:
                if NONE not in possible:
                    withheld[ticket_id] = _why(record)
                continue
            if answer not in possible:
                since = wrong[ticket_id] = self._false_since(ticket_id, answer)
                self.sights.wrong.see((now - since).total_seconds(), ticket_id, now)
            in_grace = record is not None and record["disputed"]
            if passed is not None and not in_grace and answer not in self._truths_since(ticket_id, passed):
                self._violated(f"ticket {ticket_id} read {answer} at {now}, false since before a pass at {passed}")
        self._follow(withheld, now)
        self._follow_wrong(wrong, now, polled=bool(records[0]["polled"]))
        return True

    async def read(self, ticket_id: int) -> None:
        """Read one ticket as an audit writer does, and count the reason."""
        reading = await read_from(self._database, ticket_id, deadline=_READERS_DEADLINE)
        self.sights.reasons[reading.reason] += 1

    async def differences(self) -> list[str]:
        """Return where the cache and the desk differ now: rows and answers."""
        async with self._database.connection() as connection:
            held = {
                record["ticket_id"]: (record["status"], record["state"], int(record["updated_at"].timestamp()))
                for record in await connection.driver.fetch(
                    "SELECT ticket_id, status, state, updated_at FROM freescout_ticket WHERE NOT gone"
                )
            }
            answers = await connection.driver.fetch(
                "SELECT id, freescout_ticket_state(id) AS answer FROM unnest($1::bigint[]) AS id", self.tickets
            )
        true = {row.id: (row.status, row.state, row.updated) for row in self._desk.truth()}
        found = [
            f"ticket {ticket_id}: the cache holds {held.get(ticket_id)}, the desk {true.get(ticket_id)}"
            for ticket_id in held.keys() | true.keys()
            if held.get(ticket_id) != true.get(ticket_id)
        ]
        found += [
            f"ticket {record['id']} reads {record['answer']} and is {self.truth(record['id'])}"
            for record in answers
            if record["answer"] != self.truth(record["id"])
        ]
        return [*found[:_SHOWN], f"… {len(found)} differences in all"] if len(found) > _SHOWN else found

    def _note(self, ticket_id: int, at: datetime) -> None:
        times, answers = self._history.setdefault(ticket_id, ([_LONG_AGO], [NONE if at > _LONG_AGO else ""]))
        answer = self.truth(ticket_id)
        if at == _LONG_AGO:
            answers[0] = answer
        elif answers[-1] != answer:
            times.append(at)
            answers.append(answer)

    def _truths_since(self, ticket_id: int, moment: datetime) -> list[str]:
        """Return everything that was true of a ticket at ``moment`` or later."""
        times, answers = self._history[ticket_id]
        return answers[bisect_right(times, moment) - 1 :]

    def _false_since(self, ticket_id: int, answer: str) -> datetime:
        """Return when an answer that is not true ceased to be; long ago if it never was."""
        times, answers = self._history[ticket_id]
        for at in range(len(answers) - 2, -1, -1):
            if answers[at] == answer:
                return times[at + 1]
        return times[0]

    def _follow(self, withheld: dict[int, str], now: datetime) -> None:
        """Measure how long each ticket has read ``none`` without need; the reason is the one it began with."""
        for ticket_id in self._withheld_since.keys() - withheld.keys():
            del self._withheld_since[ticket_id]
        for ticket_id, why in withheld.items():
            since, first = self._withheld_since.setdefault(ticket_id, (now, why))
            self.sights.withheld[first].see((now - since).total_seconds(), ticket_id, now)

    def _follow_wrong(self, wrong: dict[int, datetime], now: datetime, *, polled: bool) -> None:
        """Measure how long each ticket was wrong, where a poller could have done something about it all the time."""
        for ticket_id in self._wrong.keys() - wrong.keys():
            since, all_the_time = self._wrong.pop(ticket_id)
            if all_the_time and polled:
                self.sights.wrong_while_polled.append((now - since).total_seconds())
        for ticket_id, since in wrong.items():
            first, all_the_time = self._wrong.get(ticket_id, (since, True))
            self._wrong[ticket_id] = min(first, since), all_the_time and polled

    def _violated(self, what: str) -> None:
        if len(self.sights.violations) < _SHOWN:
            self.sights.violations.append(what)


def _why(record: asyncpg.Record | None) -> str:
    """Return why an answer is withheld, in the words of `db.reads`."""
    if record is None:
        return "miss"
    if record["disputed"]:
        return "disputed"
    if record["gone"]:
        return "gone"
    return "expired" if record["published"] else "unpublished"
