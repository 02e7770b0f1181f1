"""One history: a desk, a network, a receiver and pollers, in an order that one seed decides.

Everything is our own code and the simulated desk, on a real PostgreSQL, in one process, without sockets or sleeps.
"""

import asyncio
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from zoneinfo import ZoneInfo

from db import lease
from freescout_audit.desk_clock import REPEATED_HOUR
from freescout_audit.errors import DatabaseUnavailableError
from freescout_audit.rule import FUTURE_TOLERANCE, Terms
from poller.freescout import DeskError, DeskResponse, FreeScout
from poller.passes import Passes
from poller.peek import Peeks
from poller.questions import Questions
from proof.histories.afterwards import Afterwards
from proof.histories.cache import MICROSECOND, CacheFaults, Look, StagedCache
from proof.histories.desk_life import (
    WitnessedDesk,
    change_all,
    change_and_go,
    come_and_go,
    happen,
    lose_a_mailbox,
    note_at_rest,
    replace_one,
    turn_over,
)
from proof.histories.faults import FaultLog
from proof.histories.http import PATH, dates_of, not_what_was_asked
from proof.histories.mix import Mix
from proof.histories.network import LATEST, AskedDesk, Courier
from proof.histories.oracle import Oracle, WrongError
from proof.histories.stage import Process, Stage, play_on
from settings import Secret
from simulator import ManualClock, Worker

STEPS = 60
LONG = timedelta(seconds=30)
SELDOM, OFTEN, HALF = 0.1, 0.25, 0.5
MANY_ROUNDS = 100
TERMS = Terms()
OVERLAP = timedelta(seconds=3900)
_REPORTS = "SELECT * FROM freescout_lease CROSS JOIN freescout_poller"
OUR_JUMPS = (20, 22, 23, 30)
"""Hours: more than a history lasts, so that no stamp that was written meanwhile comes true in it."""
_DROPPED = ("*", "sortField", "sortOrder", "pageSize", "page", "page", "page")
"""What a proxy may drop of a query string; what else there is only shows rows that are true as well."""
_ANSWERED, _WRITTEN, _MOST_TURNS = 3, 8, 60
"""The turns of a peek until FreeScout has answered it and until it is written, and those of a pass, more or less."""
_PLAINLY_LATE = FUTURE_TOLERANCE + timedelta(seconds=10)
"""How far ahead of the clock the date of a row has to be for a pass to see that dates repeat."""
_NAP = 6.0
"""Seconds in which FreeScout's worker looks at its queue at least once."""
PASS_EVERY = timedelta(seconds=120)
PEEK_EVERY = 3.0
LONG_AGO = datetime.min.replace(tzinfo=UTC)
BEAT_EVERY = timedelta(seconds=120)
"""Rarer than in life, and often enough: a poller counts as alive for `cache.lease`."""

_APP_KEYS = tuple(f"base64:cHJvb2Yga2V5IG51bWJlciAlZCBvZiAzMiBieXRlcw{letter}=" for letter in "abcdefgh")


@dataclass(frozen=True, slots=True)
class Night:
    """The night in which a zone's clocks go back by an hour, and when they do."""

    zone: ZoneInfo
    clocks_go_back: datetime


NEW_YORK = Night(ZoneInfo("America/New_York"), datetime(2026, 11, 1, 6, tzinfo=UTC))
"""Dates in the hour after are an hour early: those of the hour before once more."""
BERLIN = Night(ZoneInfo("Europe/Berlin"), datetime(2026, 10, 25, 1, tzinfo=UTC))
"""Dates in the hour before are an hour late: those of the hour after."""
NIGHTS = {"hour": NEW_YORK, "early": NEW_YORK, "ahead": BERLIN}
"""The night that a theme is about."""


@dataclass(eq=False)
class _Poller:
    """A poller's process and what it has in memory."""

    process: Process
    desk: FreeScout
    """That of its passes."""
    lies: list[str]
    """Answers to its pass that are plainly not to what was asked."""
    late: list[datetime]
    """Dates of rows that its pass was shown, and that were yet to come."""
    passes: Passes
    questions: Questions
    peeks: Peeks
    task: "asyncio.Task[None] | None" = None
    peeking: "asyncio.Task[None] | None" = None
    next_pass: datetime = LONG_AGO
    next_look: datetime = LONG_AGO
    next_beat: datetime = LONG_AGO
    next_peek: datetime = LONG_AGO


@dataclass
class Outcome:
    """How a history ended: what was wrong, None for nothing; what it was made of; and what happened, in order."""

    seed: int
    wrong: str | None = None
    passes: int = 0
    """Complete passes."""
    answered: int = 0
    """Deliveries answered 200."""
    deaths: int = 0
    """Processes that died."""
    most_requests: int = 0
    """How many requests a pass took at the most."""
    story: list[str] = field(default_factory=list)


class History:
    """Plays one history. Construct it with an installed cache and a seed, and `play` it."""

    def __init__(
        self,
        cache: StagedCache,
        seed: int,
        log: FaultLog,
        *,
        steps: int = STEPS,
        theme: str | None = None,
        tell: bool = False,
    ) -> None:
        self._cache = cache
        self._log = log
        self._steps = steps
        self._tell = tell
        self._rng = random.Random(seed)
        self.outcome = Outcome(seed)
        rng = self._rng
        self._mix = Mix.draw(rng, theme)
        two_pollers = self._mix.theme == "pollers"
        self._in_the_night = self._mix.theme in NIGHTS
        self._has_a_night = rng.random() < (1 if self._in_the_night else 0.3)
        self._night = NIGHTS.get(self._mix.theme or "") or rng.choice(list(NIGHTS.values()))
        start = self._night.clocks_go_back + timedelta(
            minutes=rng.uniform(-30, -10) if self._in_the_night else rng.uniform(-90, 30)
        )
        self._clock = ManualClock(start)
        self._dates_repeat = False
        self._oracle = Oracle(TERMS)
        self._afterwards = Afterwards(cache, seed)
        self._desk = WitnessedDesk(
            self._oracle,
            clock=self._clock,
            seed=rng.getrandbits(32),
            app_key=_APP_KEYS[0],
            timezone=self._night.zone if self._has_a_night else UTC,
            mailboxes=("Support", "Sales", "Abuse")[: rng.randint(1, 3)],
            random_ties=True,
            reuse_numbers=rng.random() < 0.2,
        )
        self._desk.populate(self._mix.tickets, days=self._mix.days)
        self._desk.register_webhook("http://receiver.test" + PATH)
        self._worker = Worker(self._desk)
        self._stage = Stage(rng)
        self._world = Process("FreeScout's worker")
        self._working: asyncio.Task[object] | None = None
        self._keys: tuple[Secret, ...] = (Secret(self._desk.webhook_key),)
        self._asked = AskedDesk(self._desk, stage=self._stage, rng=rng, clock=self._clock, mix=self._mix, say=self._say)
        self._courier = Courier(
            cache,
            terms=TERMS,
            stage=self._stage,
            rng=rng,
            clock=self._clock,
            mix=self._mix,
            say=self._say,
            keys=lambda: self._keys,
        )
        self._operator_acts: list[tuple[datetime, Callable[[], None]]] = []
        self._jumped_since_a_pass = self._has_jumped = False
        self._looked_at = (-1, start)
        self._disputed = False
        self._pollers = [
            self._start_poller(n) for n in range(1, 3 if rng.random() < (1 if two_pollers else 0.3) else 2)
        ]
        self._back_at: dict[int, datetime] = {}
        self._unpolled = rng.random() < self._mix.unpolled

    async def play(self) -> Outcome:
        """Play it to its end, and say what was wrong."""
        play_on(self._stage)
        self._log.clear()
        random.seed(self.outcome.seed)  # what our own code draws: waits with jitter
        await self._cache.reset(self._stage, self._rng, self._clock)
        try:
            self._oracle.note(self._desk.truth(), self._clock.now())
            # A cache may deceive who has not read the desk's clock yet: that comes first.
            if self._rng.random() < self._mix.known or self._mix.cached:
                await self._stage.alone(self._pollers[0].process, self._pass(self._pollers[0]))
            self._set_faults(on=True)
            for _ in range(self._steps):
                await self._step()
                await self._look_if_something_changed()
            await self._end_well()
        except WrongError as wrong:
            self.outcome.wrong = str(wrong)
        except Exception as error:  # noqa: BLE001 - whatever it is, it has a seed
            self.outcome.wrong = f"an unexpected error: {error!r}"
        finally:
            if self.outcome.wrong is not None and self._tell:
                await self._tell_what_is_held()
            self.outcome.answered = len(self._courier.received)
            self._set_faults(on=False)
            for process in (self._courier.receiver, self._world, *(poller.process for poller in self._pollers)):
                await self._stage.kill(process)
        return self.outcome

    # What may happen next.

    async def _step(self) -> None:
        rng, mix = self._rng, self._mix
        choices: list[tuple[float, Callable[[], object]]] = [
            (6.0 if self._stage.waiting else 0.0, self._go_on),
            (3.0, self._let_time_pass),
            (3.0, self._let_people_act),
            (mix.replay * bool(self._courier.received), self._replay),
            (mix.peek * bool(self._oracle.passed), self._peek_alone),
            (mix.across * bool(self._oracle.passed), self._peek_across_a_pass),
            (mix.midst, self._act_across_a_pass),
            (mix.glance, self._act_across_a_peek),
            (mix.overtake * bool(self._oracle.passed), self._let_a_pass_be_overtaken),
            (mix.rewind * bool(self._oracle.passed), self._act_across_a_set_back),
            (mix.repeat * (self._clock.now() < self._night.clocks_go_back), self._act_across_the_hour),
            (5 * mix.crash, self._crash),
            (5 * mix.away, self._send_a_poller_away),
            (5 * mix.clock, self._jump),
            (5 * mix.ours, self._set_our_clock),
            (5 * mix.keys, self._change_keys),
            (5 * mix.mailbox, self._lose_a_mailbox),
            (5 * mix.poison, self._poison),
        ]
        act = rng.choices([act for _, act in choices], [weight for weight, _ in choices])[0]
        self._clock.advance(MICROSECOND)
        outcome = act()
        self._note_that_dates_repeat()
        if asyncio.iscoroutine(outcome):
            await outcome
        await self._start_what_is_due()

    def _note_that_dates_repeat(self) -> None:
        """Note when the desk's own clock, wrong as it may be, comes to the hour that its dates repeat."""
        ahead = timedelta(seconds=self._desk.faults.clock_offset)
        repeat = self._has_a_night and self._clock.now() + ahead >= self._night.clocks_go_back
        if repeat and not self._dates_repeat:
            self._oracle.set_back = self._clock.now()
            if self._night is BERLIN:
                self._oracle.dated_late_until = self._clock.now()
        self._dates_repeat = repeat

    async def _go_on(self) -> None:
        self._say(await self._stage.go_on())
        await self._restart_the_dead()

    def _let_time_pass(self) -> None:
        dense = self._rng.random() < self._mix.dense
        seconds = 1 if dense else self._rng.choice((0.01, 0.3, 1, 1, 5, 20, 60, 60, 130, 300, 1000, 3000))
        self._clock.advance(self._rng.uniform(0, seconds))
        self._say("time passes")

    def _let_people_act(self) -> None:
        for _ in range(self._rng.randint(2, 4) if self._rng.random() < self._mix.burst else 1):
            if self._rng.random() < self._mix.fleeting:
                self._say(come_and_go(self._desk, self._rng))
            elif self._rng.random() < self._mix.doomed:
                self._say(change_and_go(self._desk, self._rng, time_passes=self._some_seconds_pass))
            elif self._rng.random() < self._mix.turnover:
                self._say(turn_over(self._desk, self._rng))
            elif self._mix.crowd and self._rng.random() < self._mix.crowd:
                self._say(change_all(self._desk, self._rng))
            elif self._mix.quiet and self._rng.random() < self._mix.quiet:
                self._say(note_at_rest(self._desk))
            else:
                self._say(happen(self._desk, self._rng, again=self._mix.again))
            self._oracle.note(self._desk.truth(), self._clock.now())
        if self._in_the_night and self._clock.now() < self._night.clocks_go_back and self._rng.random() < OFTEN:
            # What has just happened bears a date that is yet to come again.
            self._clock.advance_to(self._night.clocks_go_back + timedelta(minutes=self._rng.uniform(1, 15)))
            self._say("the clocks go back")
        if self._mix.abrupt and self._rng.random() < self._mix.abrupt:
            self._jump()

    def _some_seconds_pass(self) -> None:
        self._clock.advance(self._rng.uniform(1, 5))

    def _lose_a_mailbox(self) -> None:
        self._say(lose_a_mailbox(self._desk, self._rng))
        self._oracle.note(self._desk.truth(), self._clock.now())

    def _poison(self) -> None:
        """Let a ticket make every list with it fail, and perhaps a read of it alone; or let all of them be well."""
        faults, rng = self._desk.faults, self._rng
        if not faults.unlistable or rng.random() < 1 / 2:
            row = max(self._desk.truth(), key=lambda row: (row.updated, row.id))
            faults.unlistable.add(row.id)
            if rng.random() < 1 / 2:
                faults.unreadable.add(row.id)
            self._say(f"ticket {row.id} makes lists fail")
        else:
            self._heal()

    def _heal(self) -> None:
        self._desk.faults.unlistable.clear()
        self._desk.faults.unreadable.clear()
        self._say("no ticket makes lists fail")

    async def _crash(self) -> None:
        process = self._rng.choice([self._courier.receiver, *(poller.process for poller in self._pollers)])
        await self._stage.kill(process)
        self._say(f"{process.name} is killed")
        await self._restart_the_dead()

    async def _send_a_poller_away(self) -> None:
        number = self._rng.randrange(len(self._pollers))
        seconds = self._rng.uniform(60, 3600)
        await self._stage.kill(self._pollers[number].process)
        self._back_at[number] = self._clock.now() + timedelta(seconds=seconds)
        self._say(f"{self._pollers[number].process.name} is away for {seconds:.0f} s")

    def _jump(self, seconds: float | None = None) -> None:
        """Set the desk's clock, by so many seconds if they are given.

        Two jumps between two passes can cancel each other unseen: one at the most.
        """
        if self._jumped_since_a_pass:
            return
        self._jumped_since_a_pass = self._has_jumped = True
        back = seconds is None and self._rng.random() < self._mix.back
        if seconds is None:
            far, signs = ((8000,), (-1,)) if back else ((2, 30, 600, 3600, 8000), (-1, 1))
            seconds = self._rng.choice(signs) * self._rng.choice(far) * self._rng.uniform(0.5, 1)
        self._desk.faults.clock_offset += seconds
        if seconds < 0:
            self._oracle.set_back = self._clock.now()
        else:
            self._oracle.set_forward = self._clock.now()
        self._say(f"the desk's clock jumps by {seconds:.0f} s")
        if back:
            ticket_id = self._desk.customer_writes(mailbox_id=self._rng.choice(list(self._desk.mailboxes)))
            self._oracle.note(self._desk.truth(), self._clock.now())
            self._say(f"ticket {ticket_id} is written")

    async def _set_our_clock(self) -> None:
        """Let PostgreSQL's clock jump ahead by most of a day or more, or come back; or both while a pass reads.

        Pollers may be away when it has come back: then readers have nothing but what they see themselves.
        """
        if self._cache.ahead:
            self._let_our_clock_be(0)
            if self._rng.random() < OFTEN:
                for _ in self._pollers:
                    await self._send_a_poller_away()
                self._clock.advance(self._rng.uniform(900, 1800))
            return
        for poller in self._pollers:
            poller.next_pass = LONG_AGO
        while_a_pass_reads = self._rng.random() < HALF
        if while_a_pass_reads:
            await self._start_what_is_due()
            await self._take_turns(self._rng.randint(1, 8))
        self._let_our_clock_be(self._rng.choice(OUR_JUMPS))
        if while_a_pass_reads:
            await self._take_turns(self._rng.randint(1, 6))
            self._let_our_clock_be(0)

    async def _take_turns(self, turns: int) -> None:
        for _ in range(turns):
            if self._stage.waiting:
                await self._go_on()

    def _let_our_clock_be(self, hours: int) -> None:
        self._cache.jump(timedelta(hours=hours))
        self._oracle.note_our_jump()
        self._say(f"PostgreSQL's clock is {hours} h ahead")

    def _change_keys(self) -> None:
        """APP_KEY changes; the operator notices some time later, or has prepared it."""
        now, old = self._clock.now(), self._keys[0]
        self._desk.change_app_key(self._rng.choice(_APP_KEYS))
        key, api_key = Secret(self._desk.webhook_key), self._desk.api_key

        def tell() -> None:
            self._keys, self._asked.key = (key, old), api_key
            self._say("the operator sets the new keys")

        self._say("APP_KEY changes")
        later = self._rng.choice((0, 60, 1800)) * self._rng.random()
        self._operator_acts.append((now + timedelta(seconds=later), tell))

    async def _start_what_is_due(self) -> None:
        now = self._clock.now()
        for due, act in [entry for entry in self._operator_acts if entry[0] <= now]:
            self._operator_acts.remove((due, act))
            act()
        for number, due in list(self._back_at.items()):
            if due <= now:
                del self._back_at[number]
                self._pollers[number] = self._start_poller(number + 1)
        for delivery in self._courier.arrivals(until=now):
            self._stage.start(self._world, self._courier.receive(delivery))
        worker_due = self._worker.next_due()
        if worker_due is not None and worker_due <= now:
            self._send_what_waits()
        for number, poller in enumerate(self._pollers):
            if number not in self._back_at and not self._unpolled:
                self._start_jobs(poller, now)
        await self._stage.settle()

    def _start_jobs(self, poller: _Poller, now: datetime) -> None:
        """Start what a poller's scheduler would."""
        if poller.next_beat <= now:
            poller.next_beat = now + BEAT_EVERY
            self._stage.start(poller.process, self._beat())
        if poller.next_pass <= now and (poller.task is None or poller.task.done()):
            poller.next_pass = now + PASS_EVERY
            poller.task = self._stage.start(poller.process, self._pass(poller))
        if (
            poller.next_peek <= now
            and (poller.peeking is None or poller.peeking.done())
            and self._rng.random() < self._mix.peek
        ):
            poller.peeking = self._stage.start(poller.process, self._peek(poller))
        if poller.next_look <= now and (self._disputed or self._rng.random() < SELDOM):
            poller.next_look = now + timedelta(seconds=1)
            self._stage.start(poller.process, self._ask(poller))

    async def _restart_the_dead(self) -> None:
        if not self._courier.receiver.alive:
            self.outcome.deaths += 1
            await self._stage.kill(self._courier.receiver)
            self._courier.start_receiver()
            self._say("a new receiver")
        for number, poller in enumerate(self._pollers):
            if not poller.process.alive and number not in self._back_at:
                self.outcome.deaths += 1
                await self._stage.kill(poller.process)
                self._pollers[number] = self._start_poller(number + 1)
                self._say(f"a new poller {number + 1}")

    # Our processes.

    def _start_poller(self, number: int) -> _Poller:
        process = Process(f"poller {number}")
        lies: list[str] = []
        late: list[datetime] = []

        async def ask(path: str, query: Mapping[str, str], /) -> DeskResponse:
            answer = await self._asked.ask(path, query)
            if answer.status == HTTPStatus.OK and path == "conversations" and not_what_was_asked(answer, query):
                lies.append(str(dict(query)))
            if answer.status == HTTPStatus.OK and "updatedSince" in query:
                late.extend(date for date in dates_of(answer) if date > self._clock.now() + _PLAINLY_LATE)
            return answer

        desk, asked = FreeScout(ask, sleep=self._sleep), FreeScout(self._asked.ask, sleep=self._sleep)
        passes = Passes(desk, self._cache, terms=TERMS, overlap=OVERLAP, page_size=self._mix.page_size)
        questions = Questions(
            asked,
            self._cache,
            terms=TERMS,
            at_once=self._mix.page_size,
            clock=lambda: self._clock.now().timestamp(),
            sleep=self._sleep,
        )
        # In a lane of their own, as in life.
        aside = FreeScout(self._asked.ask, sleep=self._sleep)
        peeks = Peeks(aside, self._cache, terms=TERMS, every=PEEK_EVERY, clock=lambda: self._clock.now().timestamp())
        return _Poller(process, desk, lies, late, passes, questions, peeks)

    async def _pass(self, poller: _Poller) -> None:
        requests = poller.desk.requests
        poller.lies.clear()
        poller.late.clear()
        try:
            await lease.beat(self._cache, TERMS)
            jumps_seen = self._jumped_since_a_pass
            await poller.passes.run()
        except (DeskError, DatabaseUnavailableError) as error:
            self._say(f"{poller.process.name}: its pass fails: {error}")
        else:
            self.outcome.passes += 1
            if jumps_seen:
                self._jumped_since_a_pass = False
            self._say(f"{poller.process.name}: its pass is complete")
            if poller.late and not (self._has_jumped or self._cache.has_jumped):
                self._oracle.late_shown = self._oracle.late_shown or self._clock.now()
            if poller.lies:
                raise WrongError(f"a pass is complete over a list that is not to what was asked: {poller.lies[0]}")
        finally:
            self.outcome.most_requests = max(self.outcome.most_requests, poller.desk.requests - requests)

    async def _ask(self, poller: _Poller) -> None:
        try:
            await poller.questions.look()
        except DatabaseUnavailableError:
            self._say(f"{poller.process.name}: it is not known what is open")

    async def _peek(self, poller: _Poller) -> None:
        try:
            await poller.peeks.look()
        except DatabaseUnavailableError:
            self._say(f"{poller.process.name}: it is not known what a peek has seen")
        else:
            self._say(f"{poller.process.name}: it has peeked")
        poller.next_peek = self._clock.now() + timedelta(seconds=poller.peeks.pause)

    async def _peek_alone(self) -> None:
        """Let somebody peek while nothing else happens: it must not vouch for anything."""
        before, reports = await self._cache.look(), await self._cache.outside(_REPORTS)
        faults, self._cache.faults = self._cache.faults, CacheFaults()
        peeks = self._start_poller(8).peeks
        await self._stage.alone(Process("a peek"), peeks.look())
        self._cache.faults = faults
        after = await self._cache.look()
        self._say("a peek, and nothing else")
        if await self._cache.outside(_REPORTS) != reports:
            raise WrongError("a peek has changed what passes vouch for")
        for ticket_id, seen in before.tickets.items():
            now = after.tickets[ticket_id]
            same = (seen.answer, seen.updated_at, seen.disputed_at) == (now.answer, now.updated_at, now.disputed_at)
            longer = now.expires is not None and (seen.expires is None or now.expires > seen.expires)
            if same and not seen.disputed and longer:
                raise WrongError(f"a peek prolonged ticket {ticket_id} from {seen.expires} to {now.expires}")

    async def _peek_across_a_pass(self) -> None:
        """Let the answer to a peek be written somewhere in a pass, and the ticket be gone that it lists first."""
        peeker, passer = self._start_poller(7), self._start_poller(8)
        ticket_id = self._desk.customer_writes(mailbox_id=self._rng.choice(list(self._desk.mailboxes)))
        self._oracle.note(self._desk.truth(), self._clock.now())
        self._stage.start(peeker.process, self._peek(peeker))
        await self._stage.finish(peeker.process, turns=_ANSWERED)
        self._clock.advance(MICROSECOND)
        self._desk.delete_forever(ticket_id)
        for job in self._desk.queue:
            job.doomed = job.doomed or job.conversation_id == ticket_id
        self._oracle.note(self._desk.truth(), self._clock.now())
        self._say(f"ticket {ticket_id} comes and goes, and only a peek may have seen it")
        self._stage.start(passer.process, self._pass(passer))
        await self._stage.finish(passer.process, turns=self._rng.randint(0, _MOST_TURNS))
        await self._stage.finish(peeker.process)
        await self._stage.finish(passer.process)

    async def _act_across_a_pass(self) -> None:
        """Let people act before a pass and somewhere in the middle of it, and perhaps be told of before it goes on."""
        poller, imported = self._start_poller(8), self._mix.imported
        self._let_people_act()
        if imported and self._rng.random() < imported:
            self._say(replace_one(self._desk, self._rng))
            self._oracle.note(self._desk.truth(), self._clock.now())
            self._poison()
        self._clock.advance(MICROSECOND)
        self._stage.start(poller.process, self._pass(poller))
        await self._stage.finish(poller.process, turns=self._rng.randint(0, _MOST_TURNS))
        self._clock.advance(MICROSECOND)
        self._let_people_act()
        if imported and self._rng.random() < HALF:
            self._heal()
        if self._rng.random() < HALF:
            await self._deliver()
        await self._look_if_something_changed()
        await self._stage.finish(poller.process)

    async def _act_across_a_peek(self) -> None:
        """Let people act when a peek has been answered, and be told of before it is written."""
        poller = self._start_poller(7)
        self._stage.start(poller.process, self._peek(poller))
        await self._stage.finish(poller.process, turns=self._rng.randint(_ANSWERED, _WRITTEN))
        self._clock.advance(MICROSECOND)
        self._let_people_act()
        await self._deliver()
        await self._look_if_something_changed()
        await self._stage.finish(poller.process)

    async def _let_a_pass_be_overtaken(self) -> None:
        """Begin a second pass while a first one holds an answer that it has not written; perhaps kill the second."""
        self._say(replace_one(self._desk, self._rng))
        self._oracle.note(self._desk.truth(), self._clock.now())
        self._clock.advance(self._rng.uniform(1, 3))
        self._one_thing_happens(again=0)
        first, second = self._start_poller(7), self._start_poller(8)
        for poller, most in ((first, _ANSWERED), (second, _WRITTEN)):
            self._clock.advance(MICROSECOND)
            self._stage.start(poller.process, self._pass(poller))
            for _ in range(_MOST_TURNS):
                if not poller.desk.requests:
                    await self._stage.finish(poller.process, turns=1)
            await self._stage.finish(poller.process, turns=self._rng.randint(0, most))
        if self._rng.random() < HALF:
            await self._stage.kill(second.process)
        await self._stage.finish(first.process)
        await self._look_if_something_changed()
        await self._stage.finish(second.process)

    async def _deliver(self) -> None:
        """Let FreeScout's worker send what is due, and the receiver take it, while everybody else waits."""
        self._clock.advance(self._rng.uniform(0, _NAP))
        self._send_what_waits()
        for process in (self._world, self._courier.receiver, self._world):
            await self._stage.finish(process)
        await self._restart_the_dead()

    async def _act_across_a_set_back(self) -> None:
        """Let people act before and after the desk's clock is set back; passes read what came of it, or die over it.

        What tells of it comes after that, when perhaps no poller is there any more.
        """
        if self._jumped_since_a_pass:
            return
        self._let_people_act()
        # What is dated later than the clock that was set back is from the future, but for a minute.
        seconds = self._rng.choice((30, 120, 600)) * self._rng.uniform(0.2, 1)
        self._jump(-seconds)
        for _ in range(self._rng.randint(1, 2)):
            self._clock.advance(self._rng.uniform(0, seconds / 4))
            self._let_people_act()
            self._clock.advance(self._rng.uniform(0, seconds / 8))
            poller = self._start_poller(8)
            self._stage.start(poller.process, self._pass(poller))
            dies = self._rng.random() < HALF
            await self._stage.finish(poller.process, turns=self._rng.randint(0, _MOST_TURNS) if dies else math.inf)
            await self._stage.kill(poller.process)
        if self._rng.random() < HALF:
            for _ in self._pollers:
                await self._send_a_poller_away()
            self._clock.advance(self._rng.uniform(1, 3) * TERMS.lease.total_seconds())
        self._send_what_waits()
        await self._let_all_finish()

    async def _act_across_the_hour(self) -> None:
        """Let people act twice before the clocks go back, and once after; passes read the first and the last.

        So there is a date ahead of the clock that no list has shown, later than one that a list has. What tells of it
        may come when it is no longer from the future, and no poller is there any more.
        """
        self._one_thing_happens(again=0)
        await self._pass_alone()
        self._clock.advance(self._rng.uniform(1, 120))
        self._one_thing_happens(again=0)
        second = self._clock.now()
        self._send_what_waits()
        await self._let_all_finish()
        self._clock.advance_to(self._night.clocks_go_back + timedelta(minutes=self._rng.uniform(1, 15)))
        self._one_thing_happens(again=1)
        self._clock.advance(self._rng.uniform(3, 10))
        await self._pass_alone()
        if self._rng.random() < HALF:
            for _ in self._pollers:
                await self._send_a_poller_away()
            came_true = second + REPEATED_HOUR + timedelta(seconds=self._rng.uniform(0, LATEST / 3))
            self._clock.advance_to(max(came_true, self._clock.now()))

    def _one_thing_happens(self, *, again: float) -> None:
        self._say(happen(self._desk, self._rng, again=again))
        self._oracle.note(self._desk.truth(), self._clock.now())

    async def _pass_alone(self) -> None:
        poller = self._start_poller(8)
        self._stage.start(poller.process, self._pass(poller))
        await self._stage.finish(poller.process)

    def _send_what_waits(self) -> None:
        if self._working is None or self._working.done():
            self._working = self._stage.start(self._world, self._worker.run_due(self._courier.carry))

    async def _beat(self) -> None:
        try:
            await lease.beat(self._cache, TERMS)
        except DatabaseUnavailableError:
            self._say("a heartbeat is lost")

    async def _sleep(self, seconds: float) -> None:
        """Wait as a poller does before it asks again: until so much time has passed, or all have nothing to do."""
        await self._stage.turn(f"has waited {seconds:.0f} s")

    # Watching, and the end.

    async def _replay(self) -> None:
        """Send a delivery once more that was taken before: it must not prolong anything."""
        delivery = self._rng.choice(self._courier.received)
        if delivery.conversation_id is None:
            return
        ticket_id = delivery.conversation_id
        await self._stage.finish(self._courier.receiver)
        await self._restart_the_dead()
        before = (await self._cache.look()).tickets.get(ticket_id)
        faults, self._cache.faults = self._cache.faults, CacheFaults()
        status, outcome = await self._courier.replay(delivery)
        self._cache.faults = faults
        after = (await self._cache.look()).tickets.get(ticket_id)
        self._say(f"a replay of {delivery.event} of {ticket_id} is answered {status} {outcome}")
        if before is None or after is None or before.expires is None or after.expires is None:
            return
        if after.expires > max(before.expires, self._cache.clock):
            raise WrongError(f"a replay prolonged ticket {ticket_id} from {before.expires} to {after.expires}")

    async def _look(self) -> Look:
        """Look at what readers get, and hold it against the truth."""
        self._looked_at = (self._cache.uses, self._clock.now())
        for failure in self._stage.failures:
            raise failure
        if self._log.lines:
            raise WrongError(f"an unexpected error: {self._log.lines[0]}")
        look = await self._cache.look()
        await self._afterwards.look(look)
        self._courier.ahead.append(look.ahead)
        self._disputed = any(seen.disputed for seen in look.tickets.values())
        ahead = timedelta(seconds=self._desk.faults.clock_offset)
        self._oracle.judge(look, self._clock.now(), truly_ahead=ahead)
        return look

    async def _look_if_something_changed(self) -> None:
        uses, at = self._looked_at
        if self._cache.uses != uses or self._clock.now() - at > LONG:
            await self._look()

    def _set_faults(self, *, on: bool) -> None:
        self._asked.faulty = self._courier.faulty = on
        self._cache.faults = self._mix.cache if on else CacheFaults()
        self._desk.faults.drop_chance = self._mix.lost if on else 0.0
        self._desk.faults.reorder_chance = self._mix.reordered if on else 0.0
        self._desk.faults.api = None
        self._desk.faults.page_cap = max(2, self._mix.page_size // 2) if self._mix.capped else None
        self._desk.faults.cache = 600 if on and self._mix.cached else 0
        if self._mix.cached:
            self._desk.faults.cache_tells = self._rng.choice(("age", "date"))
        self._asked.dropped = frozenset({self._rng.choice(_DROPPED)} if on and self._mix.dropped else ())
        if self._asked.dropped:
            self._say(f"a proxy drops {min(self._asked.dropped)} now and then")
        self._desk.faults.dropped = frozenset()
        self._heal()

    async def _end_well(self) -> None:
        """Let the faults stop: one pass and its questions later, everything has to be right."""
        self._say("the faults stop")
        if self._cache.ahead:
            self._let_our_clock_be(0)
        self._set_faults(on=False)
        self._keys, self._asked.key = (Secret(self._desk.webhook_key), self._keys[0]), self._desk.api_key
        self._operator_acts.clear()
        self._back_at.clear()
        self._unpolled = False
        await self._restart_the_dead()
        await self._let_all_finish()
        self._clock.advance(1)
        await self._settle_everything()
        # What is still in the air, or will be tried again, arrives in the end, and changes nothing for long.
        end = self._clock.now() + timedelta(seconds=LATEST)
        while self._clock.now() < end:
            self._clock.advance(LATEST / 3)
            await self._stage.alone(self._pollers[0].process, self._beat())
            for delivery in self._courier.arrivals():
                self._stage.start(self._world, self._courier.receive(delivery))
            self._stage.start(self._world, self._worker.run_due(self._courier.carry))
            await self._let_all_finish()
        await self._settle_everything()
        journal = await self._cache.outside(
            "SELECT request_id, replayed_request_id, greatest(replays - 1, 0) AS more FROM freescout_delivery"
        )
        named = {row[name] for row in journal for name in ("request_id", "replayed_request_id")}
        # Of what was sent again more than once only the last has its request id there.
        if len(missing := self._courier.promised - named) > sum(row["more"] for row in journal):
            raise WrongError(f"answered 200 and not in the journal: {sorted(missing)}")
        await self._afterwards.judge(await self._look())

    async def _let_all_finish(self) -> None:
        await self._stage.settle()
        while self._stage.waiting:
            await self._stage.go_on()
            await self._look_if_something_changed()

    async def _settle_everything(self) -> None:
        # A poller that has just started, so that it waits for nothing that failed before.
        poller = self._start_poller(9)
        asked_at = self._clock.now()
        passes = self.outcome.passes
        await self._stage.alone(poller.process, self._pass(poller))
        if self.outcome.passes == passes:
            raise WrongError("a pass without faults is not complete")
        rounds = 0
        while await self._stage.alone(poller.process, poller.questions.ask()):
            rounds += 1
            if rounds > MANY_ROUNDS:
                raise WrongError("questions are answered, and asked again for ever")
        look, true = await self._look(), self._oracle.true_now()
        wrong = {
            ticket_id: (seen.answer if (seen := look.tickets.get(ticket_id)) is not None else "none", answer)
            for ticket_id, answer in true.items()
            if (look.tickets[ticket_id].answer if ticket_id in look.tickets else "none") != answer
        }
        if wrong:
            raise WrongError(f"after a pass and its questions these differ (cache, desk): {wrong}")
        if disputed := [ticket_id for ticket_id, seen in look.tickets.items() if seen.disputed]:
            raise WrongError(f"after a pass and its questions these are disputed: {disputed}")
        if look.passed is None or look.passed < asked_at:
            raise WrongError("a complete pass did not renew the lease")

    async def _tell_what_is_held(self) -> None:
        self._say(f"WRONG: {self.outcome.wrong}")
        for row in await self._cache.outside("SELECT * FROM freescout_ticket ORDER BY ticket_id"):
            self._say(f"  {dict(row)}")
            self._say(f"  {self._oracle.truths_of(row['ticket_id'])}")
        for table in ("freescout_lease", "freescout_lease_history", "freescout_history"):
            for row in await self._cache.outside(f"TABLE {table} ORDER BY 1, 2"):
                self._say(f"  {table}: {dict(row)}")

    def _say(self, line: str) -> None:
        if self._tell:
            self.outcome.story.append(f"{self._clock.now():%H:%M:%S.%f}  {line}")
