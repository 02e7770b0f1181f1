"""Any history of a desk whose truth is known, told to a cache late, twice, out of order or never.

Hypothesis makes the histories up, and shrinks one that breaks a promise to its shortest form.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
)

from db.lease import Beginning
from freescout_audit.conversation import Sighting, State, Status
from freescout_audit.rule import Claim, Lease, Truth, expiry, poller_is_alive
from support.caches import TERMS, Cache, Look
from support.examples import NOON

OVERLAP = timedelta(seconds=3900)

Content = tuple[Status, State]

TICKETS = st.sampled_from((1, 1, 1, 2, 3))
STATUSES: st.SearchStrategy[Status] = st.sampled_from(("active", "closed"))
LIVING: tuple[Content, ...] = (("active", "published"), ("pending", "published"), ("closed", "published"))
CONTENTS: st.SearchStrategy[Content | None] = st.sampled_from((*LIVING, *LIVING, *LIVING, ("closed", "deleted"), None))
PAUSES = st.sampled_from((0.0, 0.0, 0.0, 0.0, 0.3, 0.3, 1.0, 1.0, 4.0, 6.0, 60.0, 500.0, 901.0, 4000.0))
"""Seconds: within one moment, one second, the grace, the lease, the overlap; and beyond each."""


@dataclass(frozen=True)
class Version:
    """What a ticket was from a tick on; ``content`` is None when it is gone for ever."""

    tick: int
    content: Content | None
    updated_at: datetime

    @property
    def answer(self) -> str:
        return self.content[0] if self.content is not None and self.content[1] == "published" else "none"


@dataclass(frozen=True)
class Pass:
    """A pass that has read the desk, and has not told the cache yet."""

    tick: int
    beginning: Beginning
    desk_clock: datetime
    listed: tuple[Truth, ...]
    living: frozenset[int]


@dataclass
class Seen:
    """What a reader has been told of one ticket so far."""

    version: int = 0
    """The earliest version that the last undisputed answer can have been."""
    disputed_since: datetime | None = None
    expires: datetime | None = None


class Histories(RuleBasedStateMachine):
    """A desk of three tickets, its deliveries, and a poller that comes and goes."""

    cache: Cache

    deliveries = Bundle("deliveries")

    def __init__(self) -> None:
        super().__init__()
        self.now = NOON
        self.offset = timedelta()
        self.tick = 0
        self.desk: dict[int, list[Version]] = {}
        self.seen = {1: Seen(), 2: Seen(), 3: Seen()}
        self.begun: Pass | None = None
        self.passed: Pass | None = None
        """The last complete pass."""
        self.delivered = 0
        self.believed: set[Claim] = set()
        self.questions: list[Truth] = []
        self.open: list[int] = []
        """The disputed tickets."""
        self.settled: set[int] = set()
        """The tickets whose dispute the last step may have settled."""
        self.replayed = False
        """Whether the last step said only what had been believed before."""

    @initialize(offset=st.sampled_from((0, 0, -7, 40)))
    def begin(self, offset: int) -> None:
        """The desk's clock is as far from ours as it likes."""
        self.offset = timedelta(seconds=offset)
        self.cache.begin(self.now, self.offset)

    # Few rules with many forms: Hypothesis leaves whole rules out of a history, and each of these is needed.

    @rule(pause=PAUSES, ticket=TICKETS, content=CONTENTS, at_once=st.booleans(), target=deliveries)
    def change(self, *, pause: float, ticket: int, content: Content | None, at_once: bool) -> Any:
        """Something happens at the desk; its delivery comes at once, or is on its way for as long as it likes.

        Gone for ever (None), the delivery shows the last living state; only the header says that it is gone.
        """
        self.move(pause)
        before = self.desk[ticket][-1] if ticket in self.desk else None
        if self.is_gone(ticket) or (content is None and before is None):
            return multiple()
        said = self.told(ticket) if content is None else None
        self.put(ticket, content)
        told = self.told(ticket) if said is None else Claim(sighting=said.sighting, says_gone=True)
        if at_once:
            self.take([told])
        return told

    @rule(pause=PAUSES, ticket=TICKETS, status=STATUSES, target=deliveries)
    def reply_by_mail(self, *, pause: float, ticket: int, status: Status) -> Any:
        """The new status, told with the date from before, and then with the right one."""
        self.move(pause)
        if self.is_gone(ticket) or ticket not in self.desk:
            return multiple()
        before = self.desk[ticket][-1].updated_at
        self.put(ticket, (status, "published"))
        return multiple(claim(ticket, (status, "published"), before), self.told(ticket))

    @rule(
        pause=PAUSES,
        claims=st.lists(deliveries, min_size=1, max_size=3),
        forged=st.sampled_from((False, False, False, True)),
    )
    def deliver(self, *, pause: float, claims: list[Claim], forged: bool) -> None:
        """Nobody signs the event's name, so it may say anything."""
        self.move(pause)
        if forged:
            claims = [Claim(sighting=each.sighting, says_gone=not each.says_gone) for each in claims]
        self.take(claims)

    @rule(pause=PAUSES, does=st.sampled_from(("pass", "pass", "pass", "ask", "answer", "beat", "rest")))
    def poll(self, *, pause: float, does: str) -> None:
        """The poller does the next thing. Passes and questions have two halves, between which all may happen."""
        self.move(pause)
        if does == "beat":
            self.cache.beat()
        elif does == "pass" and self.begun is None:
            self.begin_a_pass()
        elif does == "pass":
            self.end_a_pass()
        elif does == "rest":
            self.come_to_rest()
        elif does == "answer" and self.questions:
            self.answer()
        elif self.open:
            self.ask()

    def ask(self) -> None:
        """Only what is disputed is asked, one after the other."""
        self.move(0.001)
        self.open.append(self.open.pop(0))
        self.questions.append(self.truth(self.open[-1]))

    def answer(self) -> None:
        """Any question's answer may come first."""
        self.learn([self.questions.pop(self.tick % len(self.questions))])

    def begin_a_pass(self) -> None:
        """Its first answer's date is saved before anything is read."""
        self.move(0.001)
        self.cache.beat()
        desk_clock = (self.now + self.offset).replace(microsecond=0)
        beginning = self.cache.begin_pass(desk_clock)
        since = beginning.lease.complete_through
        living = frozenset(ticket for ticket in self.desk if not self.is_gone(ticket))
        listed = [
            self.truth(ticket)
            for ticket in sorted(living)
            if since is None or self.desk[ticket][-1].updated_at >= since - OVERLAP
        ]
        self.begun = Pass(self.tick, beginning, desk_clock, tuple(listed), living)

    def end_a_pass(self) -> None:
        """Every row goes to the cache, what the desk lacks is disputed, and the lease is renewed."""
        ended, self.begun = self.begun, None
        assert ended is not None
        if ended.listed:
            self.learn(list(ended.listed))
        held = {look.ticket for look in self.looks() if look.row is not None and not look.row.gone}
        self.cache.miss(held - ended.living, ended.beginning.asked_at)
        self.cache.renew(ended.beginning, ended.desk_clock)
        self.passed = ended

    def come_to_rest(self) -> None:
        """Nothing goes wrong for one pass and its questions: then the cache is the desk."""
        self.begin_a_pass()
        self.end_a_pass()
        for ticket in self.disputed():
            self.move(0.001)
            self.learn([self.truth(ticket)])

        assert self.disputed() == []
        assert {look.ticket: look.answer for look in self.looks()} == {
            ticket: self.true(ticket) for ticket in self.seen
        }

    # What must hold after every step.

    @invariant()
    def what_is_read_is_what_was_promised(self) -> None:
        sight = self.cache.look(self.seen)
        assert sight.journalled == self.delivered
        for look in sight.tickets:
            self.all_readers_agree(look, sight.lease)
            self.a_dispute_ends_in_time(look)
            self.a_replay_prolongs_nothing(look)
            if look.answer != "none" and look.row is not None and look.row.disputed_at is None:
                self.was_true_since_the_pass(look)
                self.never_goes_back(look)
        self.open = [look.ticket for look in sight.tickets if look.row is not None and look.row.disputed_at is not None]
        self.settled = set()
        self.replayed = False

    def all_readers_agree(self, look: Look, lease: Lease) -> None:
        until = None if look.row is None else expiry(look.row, lease, self.now)
        believed = look.row is not None and until is not None and until > self.now
        assert look.answer == (look.row.status if look.row is not None and believed else "none")
        assert look.expires == until
        if look.ticket == 1 + self.tick % 3:  # one of them, to save time
            assert self.cache.read(look.ticket) == look.answer

    def a_dispute_ends_in_time(self, look: Look) -> None:
        seen = self.seen[look.ticket]
        since = None if look.row is None else look.row.disputed_at
        if look.ticket not in self.settled:
            assert seen.disputed_since is None or since is not None, "a dispute ended by itself"
            since = seen.disputed_since or since
        seen.disputed_since = since
        if since is not None and self.now >= since + TERMS.dispute_grace:
            assert look.answer == "none", "a disputed ticket answers for longer than its grace"

    def a_replay_prolongs_nothing(self, look: Look) -> None:
        seen = self.seen[look.ticket]
        if self.replayed and look.expires is not None:
            assert seen.expires is not None, "a replay made trust"
            assert look.expires <= seen.expires, "a replay prolonged trust"
        seen.expires = look.expires

    def was_true_since_the_pass(self, look: Look) -> None:
        history = self.desk.get(look.ticket, [])
        passed = -1 if self.passed is None else self.passed.tick
        first = max((number for number, version in enumerate(history) if version.tick <= passed), default=0)
        assert look.answer in {version.answer for version in history[first:]}, "false since before the last pass"

    def never_goes_back(self, look: Look) -> None:
        seen, history = self.seen[look.ticket], self.desk[look.ticket]
        later = range(seen.version, len(history))
        version = next((number for number in later if history[number].answer == look.answer), None)
        assert version is not None, "an answer went back in time"
        seen.version = version

    def teardown(self) -> None:
        """At the end, the history says of every moment what was read then."""
        self.cache.look_back()

    # The rest is bookkeeping.

    def move(self, seconds: float) -> None:
        self.tick += 1
        self.now += timedelta(seconds=seconds)
        self.cache.set_clock(self.now)

    def put(self, ticket: int, content: Content | None) -> None:
        """Change it at once: no clock is so fine that a read and a change after it never fall together."""
        self.tick += 1
        updated_at = (self.now + self.offset).replace(microsecond=0)
        self.desk.setdefault(ticket, []).append(Version(self.tick, content, updated_at))

    def is_gone(self, ticket: int) -> bool:
        return ticket in self.desk and self.desk[ticket][-1].content is None

    def true(self, ticket: int) -> str:
        return self.desk[ticket][-1].answer if ticket in self.desk else "none"

    def told(self, ticket: int) -> Claim:
        last = self.desk[ticket][-1]
        assert last.content is not None
        return claim(ticket, last.content, last.updated_at)

    def truth(self, ticket: int) -> Truth:
        there = ticket in self.desk and not self.is_gone(ticket)
        return Truth(ticket_id=ticket, sighting=self.told(ticket).sighting if there else None, asked_at=self.now)

    def looks(self) -> tuple[Look, ...]:
        return self.cache.look(self.seen).tickets

    def disputed(self) -> list[int]:
        return [look.ticket for look in self.looks() if look.row is not None and look.row.disputed_at is not None]

    def take(self, claims: list[Claim]) -> None:
        alive = poller_is_alive(self.cache.look(self.seen).lease, self.now, TERMS)
        self.replayed = all(each in self.believed for each in claims)
        self.delivered += len(claims)
        for each, verdict in zip(claims, self.cache.deliver(claims), strict=True):
            if verdict.outcome in {"applied", "duplicate"} and not each.says_gone:
                self.believed.add(each)
            if verdict.outcome == "applied" and not alive:
                self.settled.add(each.sighting.ticket_id)

    def learn(self, truths: list[Truth]) -> None:
        for truth, verdict in zip(truths, self.cache.learn(truths), strict=True):
            if verdict.outcome == "written":
                self.settled.add(truth.ticket_id)


def claim(ticket: int, content: Content, updated_at: datetime) -> Claim:
    return Claim(
        sighting=Sighting(ticket_id=ticket, status=content[0], state=content[1], updated_at=updated_at, created_at=NOON)
    )
