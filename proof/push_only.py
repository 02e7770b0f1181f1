"""``python -m proof.push_only`` (``make push-only``): how often readers are right when push is all there is.

A made-up desk of 500 tickets lives for a day, with a change about each minute. It loses nothing, the receiver's own
code takes its deliveries, and no poller runs. Between two things that happen every ticket is read once, at a random
moment, and the read counts for as long as nothing happened. Time is simulated; PostgreSQL is real.

Two kinds of tickets are counted apart, since no receiver can know better: those whose last news was dated more than
`RETRIED_FOR` before it came (a note on a quiet ticket; it is believed for a lease only), and those that FreeScout has
changed without telling (the new conversation of a forward).
"""

import asyncio
import json
import random
import sys
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Annotated

import typer
from sqlalchemy.engine import make_url

from db.migrate import migrate
from freescout_audit.logs import set_up_logs
from freescout_audit.rule import RETRIED_FOR, Terms
from proof.histories.cache import StagedCache
from proof.histories.faults import FaultLog
from proof.histories.ground import Ground
from proof.histories.http import PATH, make_handler, request_of
from proof.histories.stage import Process, Stage, StageLoop, play_on
from settings import Secret
from simulator import Attempt, Desk, ManualClock, Worker, step
from simulator.jobs import Mail

BEGIN = datetime(2026, 3, 2, 6, tzinfo=UTC)
TICKETS = 500
CHANGE_EVERY = 60.0
"""Mean seconds between two changes."""
GOAL = 0.999
"""The share of reads that has to be right."""

_READ = "SELECT ticket_id, freescout_ticket_state(ticket_id) AS answer, disputed_at FROM freescout_ticket"
_NONE = "none"


@dataclass
class Tally:
    """What readers were told, in milliseconds of reads.

    ``right``, ``needless`` (`none` for a ticket that has a status), and ``wrong`` (anything else that is not true).
    """

    told: Counter[str] = field(default_factory=Counter)
    old_news: Counter[str] = field(default_factory=Counter)
    """Of tickets whose last news was old when it came."""
    untold: Counter[str] = field(default_factory=Counter)
    """Of tickets that FreeScout has changed without telling."""
    longest_dispute: timedelta = timedelta()
    """Of tickets that exist: one that is said to be gone for ever stays disputed until a poller asks."""
    left_disputed: int = 0
    """How often a ticket that exists was still disputed when everything that FreeScout had to say had come."""

    def add(self, other: "Tally") -> None:
        """Add what another day came to."""
        self.told += other.told
        self.old_news += other.old_news
        self.untold += other.untold
        self.longest_dispute = max(self.longest_dispute, other.longest_dispute)
        self.left_disputed += other.left_disputed

    def share(self, what: str) -> float:
        """Return the share of reads that were ``right``, ``needless`` or ``wrong``."""
        return _share(self.told, what)

    def lines(self) -> list[str]:
        """Say it for people, the result last."""
        seconds, left = self.longest_dispute.total_seconds(), self.left_disputed
        return [
            f"tickets whose last news was dated more than {RETRIED_FOR} before it came: {_words(self.old_news)}",
            f"tickets that FreeScout has changed without telling: {_words(self.untold)}",
            f"longest dispute {seconds:.0f} s, left open after the last delivery: {left}",
            _words(self.told),
        ]


class Day:
    """A desk, its worker and a receiver, by one seed."""

    def __init__(self, cache: StagedCache, seed: int, *, tickets: int = TICKETS) -> None:
        self._cache = cache
        self._rng = random.Random(seed)
        self._clock = ManualClock(BEGIN)
        self._stage = Stage(self._rng)
        self._desk = Desk(clock=self._clock, seed=seed)
        self._desk.register_webhook("http://receiver.test" + PATH)
        self._worker = Worker(self._desk)
        self._receiver = Process("receiver")
        self._handler = make_handler(cache, Terms(), lambda: (Secret(self._desk.webhook_key),))
        self._ids = count(1)
        self._news_age: dict[int, timedelta] = {}
        self._untold: set[int] = set()
        self._tickets = tickets
        self._tally = Tally()

    async def live(self, hours: float) -> Tally:
        """Let so many hours pass, and return what readers were told."""
        play_on(self._stage)
        await self._cache.reset(self._stage, self._rng, self._clock)
        for _ in range(self._tickets):
            self._desk.customer_writes(mailbox_id=self._rng.choice(list(self._desk.mailboxes)))
        await self._worker.run_until_idle(self._post, self._clock)
        end = self._clock.now() + timedelta(hours=hours)
        change_at = self._next_change()
        while self._clock.now() < end:
            delivery_at = self._worker.next_due()
            moment = min(end, change_at, *([] if delivery_at is None else [delivery_at]))
            await self._read_until(moment)
            if moment == delivery_at:
                await self._worker.run_due(self._post)
            if moment == change_at:
                self._change()
                change_at = self._next_change()
        return self._tally

    def _next_change(self) -> datetime:
        return self._clock.now() + timedelta(seconds=self._rng.expovariate(1 / CHANGE_EVERY))

    def _change(self) -> None:
        """Let one thing happen, and note which tickets changed without a delivery that will tell of it."""
        before, last = self._truth(), self._desk.queue.last_seq
        step(self._desk, lately=len(self._desk.conversations))
        after = self._truth()
        told = {job.conversation_id for job in self._desk.queue if job.seq > last and not isinstance(job.work, Mail)}
        changed = {ticket_id for ticket_id in before | after if before.get(ticket_id) != after.get(ticket_id)}
        self._untold = (self._untold | changed) - told

    def _truth(self) -> dict[int, str]:
        return {row.id: row.status if row.state == "published" else _NONE for row in self._desk.truth()}

    async def _post(self, delivery: Attempt) -> int:
        """Give a delivery to the receiver."""
        if delivery.conversation_id is not None and (dated := json.loads(delivery.body).get("updatedAt")):
            self._news_age[delivery.conversation_id] = self._clock.now() - datetime.fromisoformat(dated)
        return await self._stage.alone(self._receiver, self._handle(delivery))

    async def _handle(self, delivery: Attempt) -> int:
        response = await self._handler(request_of(delivery, f"delivery-{next(self._ids)}"))
        return response.status

    async def _read_until(self, moment: datetime) -> None:
        """Read every ticket at a random moment from now to ``moment``, and let the time pass."""
        began = self._clock.now()
        self._clock.advance_to(began + self._rng.random() * (moment - began))
        rows = {row["ticket_id"]: row for row in await self._cache.outside(_READ)}
        truth, milliseconds = self._truth(), round(1000 * (moment - began).total_seconds())
        all_has_come = self._worker.next_due() is None
        for ticket_id in truth.keys() | rows.keys():
            true = truth.get(ticket_id, _NONE)
            answer = rows[ticket_id]["answer"] if ticket_id in rows else _NONE
            told = "right" if answer == true else "needless" if answer == _NONE else "wrong"
            self._tally_of(ticket_id)[told] += milliseconds
        for ticket_id, row in rows.items():
            if row["disputed_at"] is not None and ticket_id in truth:
                lasted = self._clock.now() - row["disputed_at"]
                self._tally.longest_dispute = max(self._tally.longest_dispute, lasted)
                self._tally.left_disputed += all_has_come
        self._clock.advance_to(moment)

    def _tally_of(self, ticket_id: int) -> "Counter[str]":
        if ticket_id in self._untold:
            return self._tally.untold
        if self._news_age.get(ticket_id, timedelta()) > RETRIED_FOR:
            return self._tally.old_news
        return self._tally.told


def measure(database_url: str, seeds: int, *, hours: float, tickets: int = TICKETS) -> Tally:
    """Live through a day for each seed on an empty database of its own; return what all of them came to."""

    async def run() -> Tally:
        set_up_logs(process="proof", style="json", level="error", factory=FaultLog())
        url = make_url(database_url).set(drivername="postgresql+asyncpg")
        await migrate(url)
        if socket := url.query.get("host"):
            url = url.set(host=str(socket), port=int(str(url.query["port"])), query={})
        cache = StagedCache(url)
        await cache.install()
        total = Tally()
        try:
            for seed in range(1, seeds + 1):
                day = await Day(cache, seed, tickets=tickets).live(hours)
                total.add(day)
                sys.stdout.write(f"seed {seed}: {_words(day.told)}\n")
        finally:
            await cache.close()
        return total

    with asyncio.Runner(loop_factory=StageLoop) as runner:
        return runner.run(run())


def _share(told: "Counter[str]", what: str) -> float:
    return told[what] / (told.total() or 1)


def _words(told: "Counter[str]") -> str:
    if not told:
        return "no reads"
    return " ".join(f"{what} {_share(told, what):.2%}".replace("%", " %") for what in ("right", "needless", "wrong"))


def main(
    *,
    seeds: Annotated[int, typer.Option(help="How many days, each by its seed.", min=1)] = 5,
    hours: Annotated[float, typer.Option(help="How long each is.", min=0.1)] = 24.0,
) -> None:
    """Measure how often push alone is right; exit with 1 when that is less than 99.9 % of the reads."""
    with Ground() as ground:
        total = measure(asyncio.run(ground.database()), seeds, hours=hours)
    sys.stdout.write("\n".join(total.lines()) + "\n")
    if total.share("right") < GOAL or total.left_disputed:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
