"""Real crashes: receiver, poller and PostgreSQL are killed at any moment while deliveries come in, again and again.

``python -m proof.torture`` (``make torture``) prints one table. The seed decides who is killed and when, and what
happens at the desk; how the processes interleave is the machine's, so a seed repeats the story, not each step of it.
"""

import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import asyncpg
import typer
from rich.console import Console
from rich.table import Table

from db.database import Database
from db.embedded import EmbeddedPostgres
from db.migrate import migrate
from db.url import normalise
from freescout_audit.errors import DatabaseUnavailableError
from proof.feed_reader import FeedReader
from proof.live import (
    Ledger,
    NothingHappenedError,
    broken_promises,
    cancel,
    left_behind,
    name_processes,
    settled,
    stop_if_ended,
    take_down,
    until,
)
from proof.witness import Sights, Witness
from simulator import Clock, Desk, Fate, HttpTransport, Report, SystemClock, Worker, run_life, serve
from simulator.jobs import Job, JobQueue, Work

FIRST_TICKETS = 300
CHANGES_A_SECOND = 40
LOSE_CHANCE = 0.05
COURIERS = 8
"""Deliveries under way at once: FreeScout has one worker, and we want more of a crowd."""
COURIER_LOOKS_EVERY = 0.02
UNDO_HASTE, RETRY_HASTE = 30, 120
"""How many times faster than FreeScout the desk gets to replies that can be undone, and to retries."""
LONGEST_PAUSE = 0.7
"""Seconds between one recovery and the next kill, at the most."""
LOOK_EVERY = 0.2
_SWEPT = {"autovacuum_naptime": "1s"}
"""A PostgreSQL that is killed every few seconds comes to no autovacuum otherwise, which waits for a minute: what lies
about makes the witness's look at all tickets take longer than it may, and a recovery is not seen."""

KINDS = {"receiver": 5, "poller": 4, "postmaster": 3, "backend": 2, "all three": 1}
"""Who is killed how often."""
_PASSES = frozenset({"poller", "postmaster", "backend", "all three"})
_DELIVERIES = frozenset({"receiver", "postmaster", "backend", "all three"})

_BACKENDS = """
SELECT pid FROM pg_stat_activity WHERE application_name IN ('freescout-audit receiver', 'freescout-audit poller')
ORDER BY pid
"""


@dataclass(slots=True, kw_only=True)
class Result:
    """What a run has come to."""

    seed: int
    seconds: float = 0.0
    recoveries: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Seconds until all worked again, by what was killed."""
    changes: int = 0
    fates: Counter[Fate] = field(default_factory=Counter)
    attempts: int = 0
    retried: int = 0
    answered: int = 0
    passes: int = 0
    transitions: int = 0
    """How many a reader of the feed was given, each once and in order."""
    tickets: int = 0
    sights: Sights = field(default_factory=Sights)
    failures: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        """How often something was killed."""
        return sum(map(len, self.recoveries.values()))


class Hasty(JobQueue):
    """FreeScout's queue for who cannot wait so long: what is put off is put off for a fraction of its time."""

    def __init__(self, clock: Clock, haste: float) -> None:
        super().__init__()
        self._clock = clock
        self._haste = haste

    def put(self, work: Work, due: datetime) -> Job:
        """Add work that is not touched before a fraction of its time has passed."""
        now = self._clock.now()
        return super().put(work, now + max(due - now, now - now) / self._haste)


class Torture:
    """One run: a desk that never rests, and someone who kills.

    Args:
        server: The PostgreSQL to kill; ours alone.
        desk: The desk; its queues are replaced by hasty ones.
        seed: Decides when.
        folder: Where the processes' output goes.
    """

    def __init__(self, server: EmbeddedPostgres, desk: Desk, *, seed: int, folder: Path) -> None:
        self.result = Result(seed=seed)
        self._server = server
        self._desk = desk
        self._chance = random.Random(seed)
        self._folder = folder
        self._clock = desk.clock
        self._promises = 0
        self._database = Database(normalise(server.url()), connections=3, name="witness")
        self._witness = Witness(desk, self._database, desk.clock)
        self._feed = FeedReader(self._database)
        desk.queue = Hasty(desk.clock, UNDO_HASTE)
        desk.retries = Hasty(desk.clock, RETRY_HASTE)

    async def run(self, story: Sequence[str]) -> Result:
        """Kill who is in the story, one after the other, and look at what is left."""
        began = time.monotonic()
        async with AsyncExitStack() as stack:
            desk_url = await stack.enter_async_context(serve(self._desk))
            stack.push_async_callback(self._database.close)
            self._ledger = Ledger(await stack.enter_async_context(HttpTransport()), self._clock)
            self._receiver, self._poller = name_processes(
                self._folder,
                database_url=self._server.url(),
                desk=self._desk,
                desk_url=desk_url,
                # A pass a second and a short overlap, so that kills meet passes; the rest is as in production.
                settings={"POLLER_INTERVAL": "1", "POLLER_OVERLAP": "60"},
            )
            for process in (self._receiver, self._poller):
                stack.push_async_callback(process.kill)
                await process.start()
            looking = asyncio.create_task(self._look_for_ever())
            stack.push_async_callback(cancel, [looking])
            try:
                await until("the first pass", lambda: self._witness.passed is not None)
                await self._kill_under_load(story)
                await self._compare()
            except NothingHappenedError as error:
                self.result.failures.append(f"{error}, after {self.result.kills} kills")
            await cancel([looking])
            if not self.result.failures:
                true = [(ticket_id, self._witness.truth(ticket_id)) for ticket_id in self._witness.tickets]
                self.result.failures += await self._feed.differences(true)
                self.result.transitions = self._feed.transitions
            try:
                await self._take_down()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                self.result.failures.append(f"PostgreSQL is not there at the end: {error}")
        self.result.seconds = time.monotonic() - began
        return self.result

    async def _kill_under_load(self, story: Sequence[str]) -> None:
        """Let the desk live, its deliveries run, and somebody kill; then let the deliveries come to rest."""

        def noted(ticket_id: int) -> None:
            self.result.changes += 1
            self._witness.note(ticket_id)

        life = asyncio.create_task(
            run_life(
                self._desk,
                every=1 / CHANGES_A_SECOND,
                lose_chance=LOSE_CHANCE,
                report=lambda change: noted(change.conversation_id),
            )
        )
        couriers = [asyncio.create_task(self._carry()) for _ in range(COURIERS)]
        try:
            await until("the first delivery", lambda: bool(self._ledger.answered))
            for kind in story:
                await asyncio.sleep(self._chance.uniform(0, LONGEST_PAUSE))
                await self._strike(kind)
                stop_if_ended([life, *couriers])
            await cancel([life])
            await until("the deliveries", lambda: not len(self._desk.queue) + len(self._desk.retries))
        finally:
            await cancel([life, *couriers])

    async def _strike(self, kind: str) -> None:
        """Kill, start again, and measure the time until everything works."""
        victims = await self._victims(kind)
        killed_at, began = self._clock.now(), time.monotonic()
        await asyncio.gather(*(kill() for kill in victims))
        for process, is_hit in ((self._receiver, "receiver"), (self._poller, "poller")):
            if kind in {is_hit, "all three"}:
                await process.start()
        if kind in _DELIVERIES:
            await until(f"deliveries after the {kind}", lambda: self._ledger.answered_since(killed_at))
        if kind in _PASSES:
            await until(f"passes after the {kind}", lambda: self._passed_since(killed_at))
        self.result.recoveries[kind].append(time.monotonic() - began)
        await self._look_at_promises()

    async def _look_at_promises(self) -> None:
        """Look at what was answered since the last kill, before passes cover it up."""
        answered = self._ledger.answered[self._promises :]
        try:
            async with self._database.connection() as connection:
                broken = await broken_promises(connection.driver, answered)
        except DatabaseUnavailableError:
            return  # after the next kill, then
        self._promises += len(answered)
        self.result.failures += [f"{promise}, {self.result.kills} kills into it" for promise in broken]

    async def _victims(self, kind: str) -> list[Callable[[], Awaitable[None]]]:
        async def kill(pid: int) -> None:
            with suppress(ProcessLookupError):  # a backend may have ended by itself
                os.kill(pid, signal.SIGKILL)

        if kind == "backend":
            backend = self._chance.choice(await self._backends() or [self._server.pid])
            return [lambda: kill(backend)]
        postmaster = self._server.pid
        everyone: dict[str, Callable[[], Awaitable[None]]] = {
            "receiver": self._receiver.kill,
            "poller": self._poller.kill,
            "postmaster": lambda: kill(postmaster),
        }
        return list(everyone.values()) if kind == "all three" else [everyone[kind]]

    async def _backends(self) -> list[int]:
        """Return PostgreSQL's processes that work for receiver and poller."""
        try:
            async with self._database.connection() as connection:
                return [record["pid"] for record in await connection.driver.fetch(_BACKENDS)]
        except DatabaseUnavailableError:
            return []

    async def _carry(self) -> None:
        """Send whatever is due, without the worker's naps."""
        worker = Worker(self._desk, report=self._count)
        while True:
            worker.restart()
            await worker.run_due(self._ledger)
            await asyncio.sleep(COURIER_LOOKS_EVERY)

    def _count(self, report: Report) -> None:
        self.result.fates[report.fate] += 1

    async def _look_for_ever(self) -> None:
        while True:
            await self._witness.look()
            await self._feed.read()
            await asyncio.sleep(LOOK_EVERY)

    def _passed_since(self, moment: datetime) -> bool:
        return self._witness.passed is not None and self._witness.passed > moment

    async def _compare(self) -> None:
        """One pass and its questions after the last change, the cache has to be what the desk is."""
        at_rest = self._clock.now()
        await until("the pass after the last change", lambda: self._passed_since(at_rest))
        self.result.failures += await settled(self._server.url())
        self.result.failures += await self._witness.differences()

    async def _take_down(self) -> None:
        result, ledger = self.result, self._ledger
        result.failures += await take_down(self._receiver, self._poller, database_url=self._server.url(), ledger=ledger)
        result.failures += self._witness.sights.violations
        result.sights = self._witness.sights
        result.tickets = len(self._witness.tickets)
        result.attempts, result.retried, result.answered = ledger.attempts, ledger.retried, len(ledger.answered)
        result.passes = sum(line["event"] == "pass.completed" for line in self._poller.log())


def tell(*, kills: int, seed: int) -> list[str]:
    """Return who is killed, one after the other: first one of each kind, then by weight."""
    chance = random.Random(seed)
    each = chance.sample(list(KINDS), len(KINDS))
    return [*each, *chance.choices(list(KINDS), list(KINDS.values()), k=max(0, kills - len(each)))][:kills]


async def torture(story: Sequence[str], *, seed: int, folder: Path, options: Mapping[str, str] | None = None) -> Result:
    """Make a PostgreSQL and a desk in ``folder``, kill who is in the story, and return what came of it.

    ``options`` are PostgreSQL's; without any it is as durable as it comes.
    """
    server = EmbeddedPostgres(folder / "postgres", options=_SWEPT | dict(options or {}), progress=lambda _: None)
    await asyncio.to_thread(server.start)
    marks = {"DATABASE_URL": server.url()}
    try:
        await migrate(normalise(server.url()))
        desk = Desk(clock=SystemClock(), seed=seed)
        desk.populate(FIRST_TICKETS, days=30)
        result = await Torture(server, desk, seed=seed, folder=folder).run(story)
    finally:
        await asyncio.to_thread(server.stop)
    result.failures += left_behind(marks, folder)
    return result


def table(result: Result) -> Table:
    """Put a result into the one closing table."""
    shown = Table("killed", "times", "recovered, p50 s", "p95 s", "worst s", title=f"torture, seed {result.seed}")
    everything = sorted(seconds for taken in result.recoveries.values() for seconds in taken)
    for kind, seconds in [*result.recoveries.items(), ("together", everything)]:
        taken = sorted(seconds)
        if taken:
            half, most = taken[len(taken) // 2], taken[len(taken) * 95 // 100]
            shown.add_row(kind, str(len(taken)), f"{half:.1f}", f"{most:.1f}", f"{taken[-1]:.1f}")
    shown.add_section()
    sights = result.sights
    for what, number in (
        ("changes at the desk", result.changes),
        ("tickets", result.tickets),
        ("deliveries sent", result.attempts),
        ("of them retries", result.retried),
        ("answered 200, and in the journal", result.answered),
        ("lost by the desk, on purpose", result.fates[Fate.LOST]),
        ("given up after ten attempts", result.fates[Fate.GIVEN_UP]),
        ("passes", result.passes),
        ("transitions read", result.transitions),
        ("answers looked at", sights.answers),
    ):
        shown.add_row(what, f"{number:,}")
    shown.add_row("longest wrong answer", f"{sights.wrong.seconds:.1f} s")
    shown.add_row("run", f"{result.seconds:.0f} s")
    shown.add_row("verdict", "red" if result.failures else "green")
    return shown


def main(
    *,
    kills: Annotated[int, typer.Option(help="How often something is killed.", min=0)] = 200,
    seed: Annotated[int | None, typer.Option(help="Repeats a story; any when it is not given.")] = None,
    postgres: Annotated[
        list[str] | None, typer.Option(help="An option of PostgreSQL; synchronous_commit=off must make it red.")
    ] = None,
) -> None:
    """Kill receiver, poller and PostgreSQL under load, and print what came of it."""
    console = Console(highlight=False)
    chosen = int(datetime.now(UTC).timestamp()) % 1_000_000 if seed is None else seed
    with tempfile.TemporaryDirectory(prefix="freescout-audit-torture-") as folder:
        options = dict(option.split("=", 1) for option in postgres or ())
        result = asyncio.run(torture(tell(kills=kills, seed=chosen), seed=chosen, folder=Path(folder), options=options))
    console.print(table(result))
    if result.failures:
        for failure in result.failures:
            console.print(f"[red]{failure}[/red]", markup=True, soft_wrap=True)
        console.print(f"again: make torture KILLS={kills} SEED={chosen}")
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
