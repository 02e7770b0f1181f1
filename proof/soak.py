"""The runbook's 48 hours of staging, at high speed: a help desk's days and nights, with what goes wrong in them.

``python -m proof.soak`` (``make soak``) prints one report. Receiver and poller are real processes over sockets, on a
PostgreSQL of their own. The clocks of the database and the desk run ``speed`` times faster, and so does what the poller
does at intervals (`proof.quick`). What takes work is not faster: a commit of 5 ms counts as 2 s at speed 400. While a
process is restarted the clocks run at the machine's speed.

``--healthy`` leaves out what goes wrong. ``--record`` keeps what the receiver shows to Prometheus each minute of the
desk's, for the tests of the alert rules. It takes ``--speed 120`` or less: the quick poller's heart beats every tenth
of a second at the most, which at more is overdue.
"""

import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import aiohttp
import asyncpg
import typer
from rich.console import Console
from rich.table import Table

import simulator.worker
from db.database import Database
from db.embedded import EmbeddedPostgres
from db.migrate import migrate
from db.url import normalise
from proof.live import (
    HOST,
    Ledger,
    NothingHappenedError,
    Process,
    cancel,
    left_behind,
    name_processes,
    settled,
    stop_if_ended,
    take_down,
    until,
)
from proof.scrapes import Recorder, recording
from proof.standstill import LONGEST, SECONDS, Standstill, share
from proof.witness import Longest, Sights, Witness
from simulator import ApiFault, Desk, Fate, HttpTransport, Report, Worker, serve, step

BEGIN = datetime(2026, 3, 2, 6, tzinfo=UTC)
"""A Monday morning."""
TICKETS = 500
SPEED = 400.0
WHOLE = 48.0
"""Hours for which the incidents are written; a shorter soak has all of them, shortened as well."""

RATES = ((0, 3), (6, 10), (8, 45), (18, 12), (22, 3))
"""Changes an hour, from an hour of the day on."""
BULK_CHANCE = 0.015
BULK = (15, 60)
LOSE_CHANCE = 0.01
DUPLICATE_CHANCE = 0.005
REORDER_CHANCE = 0.01

LOOK_EVERY = 0.05
READ_EVERY = 0.05
MEMORY_EVERY = 1.0
SCRAPE_EVERY = 60.0
"""Seconds of the desk's clock."""
SETTLED_AFTER = 3.0
"""Seconds after its start from which a process's memory is that of one at work."""


class QuickClock:
    """A clock that began at `BEGIN` when it was made, and runs faster than the machine's unless it is slowed down.

    ``follow`` makes the database's clock the same one, to the microsecond.
    """

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._bend = _Bend(BEGIN, datetime.now(UTC), before=speed, after=speed)

    def now(self) -> datetime:
        """Return the time as an aware UTC datetime."""
        return self._bend.at(datetime.now(UTC))

    async def sleep(self, seconds: float) -> None:
        """Wait for so many seconds of this clock."""
        due = self.now() + timedelta(seconds=seconds)
        while (left := (due - self.now()).total_seconds()) > 0:  # noqa: ASYNC110 - a clock that bends has no event
            await asyncio.sleep(min(left / self._bend.after, _NAP))

    async def follow(self, connection: asyncpg.Connection) -> None:
        """Give the database this clock."""
        await connection.execute(_MAKE_CLOCK)
        await self._tell(connection)

    @asynccontextmanager
    async def at_the_machines_speed(self, database: Database) -> AsyncIterator[None]:
        """Let time pass as it does for the machine, for what takes as long as ever."""
        await self._change_to(1.0, database)
        try:
            yield
        finally:
            await self._change_to(self._speed, database)

    async def _change_to(self, speed: float, database: Database) -> None:
        """Change the speed a moment from now, here and in the database at once.

        Raises:
            NothingHappenedError: The database did not take it in by then, and went its own way for a while.
        """
        since = datetime.now(UTC) + timedelta(seconds=_BEND_AHEAD)
        self._bend = _Bend(self._bend.at(since), since, before=self._bend.after, after=speed)
        async with database.connection() as connection:
            await self._tell(connection.driver)
        left = (since - datetime.now(UTC)).total_seconds()
        if left <= 0:
            raise NothingHappenedError(f"a new speed within {_BEND_AHEAD:g} s: this machine is too busy for a soak")
        await asyncio.sleep(left)

    async def _tell(self, connection: asyncpg.Connection) -> None:
        bend = self._bend
        await connection.execute("UPDATE soak_clock SET (at, since, before, after) = ($1, $2, $3, $4)", *bend.values)


@dataclass(frozen=True, slots=True)
class _Bend:
    """Time that passes at one speed before a moment of the machine's clock, and at another after it."""

    moment: datetime
    """The time at ``since``."""
    since: datetime
    before: float
    after: float

    @property
    def values(self) -> tuple[datetime, datetime, float, float]:
        return self.moment, self.since, self.before, self.after

    def at(self, machine: datetime) -> datetime:
        """Return the time at a moment of the machine's clock."""
        passed = machine - self.since
        return self.moment + passed * (self.after if passed > timedelta() else self.before)


_BEND_AHEAD = 0.5
"""Seconds from the decision to change the speed to the change; the database has to know of it by then."""
_NAP = 0.05
"""Seconds after which who sleeps looks at a clock that may have bent."""
_MAKE_CLOCK = """
CREATE TABLE soak_clock (at timestamptz, since timestamptz, before double precision, after double precision);
INSERT INTO soak_clock VALUES ('epoch', 'epoch', 1, 1);
CREATE OR REPLACE FUNCTION freescout_now() RETURNS timestamptz LANGUAGE sql VOLATILE RETURN (
    SELECT at + (machine - since) * CASE WHEN machine > since THEN after ELSE before END
    FROM soak_clock CROSS JOIN LATERAL (SELECT clock_timestamp() AS machine) m
)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """Something that happens to the service or the desk, at an hour of the soak and for some minutes."""

    name: str
    at: float
    minutes: float = 0.0


INCIDENTS = (
    Incident(name="receiver deploy", at=4),
    Incident(name="FreeScout's queue stands still", at=7.5, minutes=40),
    Incident(name="desk restart", at=9, minutes=2),
    Incident(name="poller restart", at=13),
    Incident(name="API outage", at=20, minutes=60),
    Incident(name="module outage", at=28, minutes=60),
    Incident(name="API outage, in office hours", at=31, minutes=60),
    Incident(name="APP_KEY drift", at=34, minutes=30),
    Incident(name="receiver deploy, again", at=44),
)


@dataclass(slots=True, kw_only=True)
class Memory:
    """Resident memory of one start of a process, in bytes, and how long it was watched, in desk hours."""

    first: int
    last: int
    began: datetime
    hours: float = 0.0


@dataclass(slots=True, kw_only=True)
class Result:
    """What a soak has come to."""

    seed: int
    hours: float
    speed: float
    seconds: float = 0.0
    incidents: list[str] = field(default_factory=list)
    changes: int = 0
    tickets: int = 0
    fates: Counter[Fate] = field(default_factory=Counter)
    attempts: int = 0
    retried: int = 0
    answered: int = 0
    late: int = 0
    gaps: Counter[str] = field(default_factory=Counter)
    passes: int = 0
    failed_passes: int = 0
    memory: dict[tuple[str, int], Memory] = field(default_factory=dict)
    """By process, and by which of its starts."""
    sights: Sights = field(default_factory=Sights)
    standstill: Sequence[float] = ()
    """Seconds that each change was unknown while FreeScout's worker stood still, the shortest first."""
    failures: list[str] = field(default_factory=list)


class Soak:
    """One soak: a desk, a receiver, a poller, readers.

    Args:
        database_url: A migrated database of the soak's own; its clock is replaced.
        seed: Decides what happens at the desk.
        hours: Of the desk's clock.
        speed: How many times faster than the machine's that clock runs.
        incidents: What goes wrong; their times are those of a soak of 48 hours.
        faults: Whether deliveries are lost, repeated and overtaken now and then.
        record: Whether the receiver's metrics are kept for the tests of the alert rules.
        folder: Where the processes' output goes.
    """

    def __init__(
        self,
        database_url: str,
        *,
        seed: int,
        hours: float,
        speed: float,
        incidents: Sequence[Incident] = INCIDENTS,
        faults: bool = True,
        record: bool = False,
        folder: Path,
    ) -> None:
        self.result = Result(seed=seed, hours=hours, speed=speed)
        self._url = database_url
        self._hours = hours
        self._incidents = incidents
        self._folder = folder
        self._chance = random.Random(seed)
        self._clock = QuickClock(speed)
        self._desk = Desk(clock=self._clock, seed=seed)
        self._desk.populate(TICKETS, days=90)
        self._lose_chance, self._record = LOSE_CHANCE if faults else 0.0, record
        if faults:
            self._desk.faults.duplicate_chance, self._desk.faults.reorder_chance = DUPLICATE_CHANCE, REORDER_CHANCE
        self._worker = Worker(self._desk, report=self._count)
        self._database = Database(normalise(database_url), connections=3, name="witness")
        self._witness = Witness(self._desk, self._database, self._clock)

    async def run(self) -> Result:
        """Live through it, and look at what is left."""
        began = time.monotonic()
        async with AsyncExitStack() as stack:
            stack.enter_context(_patient_desk(self.result.speed))
            desk_url = await stack.enter_async_context(serve(self._desk))
            stack.push_async_callback(self._database.close)
            async with self._database.connection() as connection:
                await self._clock.follow(connection.driver)
            self._ledger = Ledger(await stack.enter_async_context(HttpTransport()), self._clock)
            speed = f"{self.result.speed:g}"
            self._receiver, self._poller = name_processes(
                self._folder,
                database_url=self._url,
                desk=self._desk,
                desk_url=desk_url,
                receiver=("-m", "proof.quick_receiver", speed) if self._record else ("-m", "receiver"),
                poller=("-m", "proof.quick", speed),
                settings={},
            )
            self._worker.restart()
            async with self._clock.at_the_machines_speed(self._database):
                for process in (self._receiver, self._poller):
                    stack.push_async_callback(process.kill)
                    await process.start()
                await until("the first pass", lambda: self._poller.has_said("pass.completed"))
            recorder = await stack.enter_async_context(self._recording()) if self._record else None
            await self._live(stack, recorder)
        self.result.seconds = time.monotonic() - began
        return self.result

    @asynccontextmanager
    async def _recording(self) -> AsyncIterator[Recorder]:
        url = f"http://{HOST}:{self._receiver.variables['PORT']}"
        what = f"{'a healthy ' if not self._incidents else ''}{self._hours:g} hours"
        async with (
            aiohttp.ClientSession() as client,
            recording(
                Recorder(
                    url,
                    client,
                    what=what,
                    every=SCRAPE_EVERY,
                    now=lambda: self._clock.now().timestamp(),
                    sleep=self._clock.sleep,
                )
            ) as recorder,
        ):
            yield recorder

    async def _live(self, stack: AsyncExitStack, recorder: Recorder | None) -> None:
        watching = [asyncio.create_task(task) for task in (self._look(), self._watch_memory())]
        stack.push_async_callback(cancel, watching)
        try:
            working = [
                asyncio.create_task(self._worker.run_forever(self._ledger, look_every=0.005)),
                asyncio.create_task(self._read()),
            ]
            stack.push_async_callback(cancel, working)
            end = self._clock.now() + timedelta(hours=self._hours)
            traffic = asyncio.create_task(self._traffic(end))
            stack.push_async_callback(cancel, [traffic])
            await self._go_wrong(self._clock.now())
            await traffic
            if recorder is not None:
                recorder.end().save()
            stop_if_ended([*watching, *working])
            await until("the deliveries", lambda: not len(self._desk.queue) + len(self._desk.retries))
            at_rest = self._clock.now()
            await until("the pass after the last change", lambda: (self._witness.passed or BEGIN) > at_rest)
            self.result.failures += await settled(self._url)
            self.result.failures += await self._witness.differences()
            await cancel(working)
        except NothingHappenedError as error:
            self.result.failures.append(str(error))
        await cancel(watching)
        await self._sum_up()

    async def _traffic(self, end: datetime) -> None:
        """Let agents and customers do what they do at this hour, and now and then many things at once."""
        while self._clock.now() < end:
            await self._clock.sleep(3600 * self._chance.expovariate(_rate(self._clock.now().hour)))
            if self._chance.random() < BULK_CHANCE:
                self._change_many()
            else:
                change = step(self._desk, lose_chance=self._lose_chance)
                self.result.changes += 1
                self._witness.note(change.conversation_id)

    def _change_many(self) -> None:
        published = [row.id for row in self._desk.truth() if row.state == "published"][-2 * BULK[1] :]
        some = self._chance.sample(published, min(self._chance.randint(*BULK), len(published)))
        self._desk.bulk_set_status(some, self._chance.choice(("closed", "pending", "spam")))
        self.result.changes += len(some)
        for ticket_id in some:
            self._witness.note(ticket_id)

    async def _go_wrong(self, began: datetime) -> None:
        """Let everything go wrong that is written down, one after the other."""
        scale = self._hours / WHOLE
        for incident in self._incidents:
            due = began + timedelta(hours=incident.at * scale)
            await self._clock.sleep((due - self._clock.now()).total_seconds())
            self.result.incidents.append(f"{incident.name} at {self._clock.now():%a %H:%M}")
            await self._suffer(incident, incident.minutes * 60 * scale)

    async def _suffer(self, incident: Incident, seconds: float) -> None:
        desk, faults = self._desk, self._desk.faults
        match incident.name.partition(",")[0]:
            case "receiver deploy":
                await self._restart(self._receiver)
            case "poller restart":
                await self._restart(self._poller)
            case "FreeScout's queue stands still":
                faults.delay = seconds
                await self._clock.sleep(seconds)
                faults.delay = 0
            case "desk restart":
                faults.api, faults.kill_worker_next = ApiFault.UNAVAILABLE, 1
                await self._clock.sleep(seconds)
                faults.api = None
                self._worker.restart()
            case "API outage":
                faults.api = ApiFault.SERVER_ERROR
                await self._clock.sleep(seconds)
                faults.api = None
            case "module outage":
                faults.module_active = False
                await self._clock.sleep(seconds)
                faults.module_active = True
            case "APP_KEY drift":
                old = desk.webhook_key
                desk.change_app_key("base64:YW5vdGhlci1hcHAta2V5LW9mLTMyLWJ5dGVzLS0tLSE=")
                await self._clock.sleep(seconds)
                self._receiver.variables["FREESCOUT_AUDIT_WEBHOOK_SECRET"] = desk.webhook_key
                self._receiver.variables["FREESCOUT_AUDIT_WEBHOOK_SECRET_PREVIOUS"] = old
                self._poller.variables["FREESCOUT_API_KEY"] = desk.api_key
                await self._restart(self._receiver, self._poller)
            case unknown:
                raise ValueError(f"it is not known what happens in: {unknown}")

    async def _restart(self, *processes: Process) -> None:
        """Restart processes as a platform does on a deploy, SIGTERM and then the next one; not at high speed."""
        async with self._clock.at_the_machines_speed(self._database):
            for process in processes:
                code = await process.end()
                if code != 0:
                    self.result.failures.append(f"the {process.name} ended with {code}")
                await process.start()
            await until("the restart", lambda: all(map(self._works, processes)))

    def _count(self, report: Report) -> None:
        self.result.fates[report.fate] += 1

    async def _look(self) -> None:
        while True:
            await self._witness.look()
            await asyncio.sleep(LOOK_EVERY)

    async def _read(self) -> None:
        """Read tickets, half of them new ones, as an audit writer would."""
        while True:
            known = self._witness.tickets
            await self._witness.read(self._chance.choice(self._chance.choice((known, known[-50:]))))
            await asyncio.sleep(READ_EVERY)

    async def _watch_memory(self) -> None:
        processes = (self._receiver, self._poller)
        began = {process.name: (process.starts, time.monotonic()) for process in processes}
        while True:
            for process in processes:
                starts, since = began[process.name]
                if process.starts != starts:
                    began[process.name] = (process.starts, time.monotonic())
                elif (
                    time.monotonic() - since >= SETTLED_AFTER and (size := process.resident()) and self._works(process)
                ):
                    now = self._clock.now()
                    fresh = Memory(first=size, last=size, began=now)
                    memory = self.result.memory.setdefault((process.name, starts), fresh)
                    memory.last, memory.hours = size, (now - memory.began).total_seconds() / 3600
            await asyncio.sleep(MEMORY_EVERY)

    def _works(self, process: Process) -> bool:
        return process.has_said(_READY[process.name])

    async def _sum_up(self) -> None:
        result, ledger = self.result, self._ledger
        result.failures += await take_down(self._receiver, self._poller, database_url=self._url, ledger=ledger)
        result.failures += self._witness.sights.violations
        result.sights = self._witness.sights
        result.tickets = len(self._witness.tickets)
        result.attempts, result.retried, result.answered = ledger.attempts, ledger.retried, len(ledger.answered)
        events = Counter(str(line["event"]) for line in self._poller.log())
        result.passes, result.failed_passes = events["pass.completed"], events["pass.failed"]
        connection = await asyncpg.connect(self._url)
        try:
            result.gaps.update(dict(await connection.fetch(_GAPS)))
            result.late = await connection.fetchval(_LATE)
        finally:
            await connection.close()


_GAPS = "SELECT verdict, count(*) FROM freescout_gap GROUP BY verdict"
_LATE = """
SELECT count(*) FROM freescout_delivery
WHERE event <> 'convo.note.created' AND received_at > updated_at + interval '5 minutes'
"""
"""Deliveries that came more than 5 minutes after the change they tell of; a note's date is not that of the note."""


_READY = {"receiver": "receiver.started", "poller": "poller.leads"}
"""What a process says when it is at work."""


def _rate(hour: int) -> float:
    """Return how many changes an hour has at this time of the day."""
    return [rate for since, rate in RATES if since <= hour][-1]


@contextmanager
def _patient_desk(speed: float) -> Iterator[None]:
    """Let the desk wait for an answer as long as ever: 30 s of the machine's clock."""
    before = simulator.worker.TIMEOUT_SECONDS
    simulator.worker.TIMEOUT_SECONDS = round(before * speed)
    try:
        yield
    finally:
        simulator.worker.TIMEOUT_SECONDS = before


async def soak(
    *, hours: float, seed: int, speed: float, healthy: bool = False, record: bool = False, folder: Path
) -> Result:
    """Make a PostgreSQL in ``folder``, soak on it, and return what came of it."""
    server = EmbeddedPostgres(folder / "postgres", progress=lambda _: None)
    await asyncio.to_thread(server.start)
    marks = {"DATABASE_URL": server.url()}
    try:
        await migrate(normalise(server.url()))
        result = await Soak(
            server.url(),
            hours=hours,
            seed=seed,
            speed=speed,
            incidents=() if healthy else INCIDENTS,
            faults=not healthy,
            record=record,
            folder=folder,
        ).run()
        result.standstill = await _stand_still(server, folder, seed)
        if not result.standstill or result.standstill[-1] > LONGEST:
            result.failures.append(f"a change is not in the cache within {LONGEST:g} s while the worker stands still")
    finally:
        await asyncio.to_thread(server.stop)
    result.failures += left_behind(marks, folder)
    return result


async def _stand_still(server: EmbeddedPostgres, folder: Path, seed: int) -> Sequence[float]:
    """Let FreeScout's worker stand still for a minute, at the machine's speed and on a database of its own."""
    name, own = "standstill", folder / "standstill"
    own.mkdir()
    administrator = await asyncpg.connect(server.url("postgres"))
    try:
        await administrator.execute(f"CREATE DATABASE {name}")
    finally:
        await administrator.close()
    await migrate(normalise(server.url(name)))
    return await Standstill(server.url(name), folder=own, seed=seed).run()


def report(result: Result) -> Table:
    """Put a result into the one report."""
    shown = Table("what", "how much", title=f"soak of {result.hours:g} hours, seed {result.seed}", show_header=False)
    sights = result.sights
    counts: list[tuple[str, object]] = [
        ("speed", f"{result.speed:g} times; {result.seconds:.0f} s in all"),
        ("incidents", "\n".join(result.incidents)),
        ("changes, tickets", f"{result.changes:,}, {result.tickets:,}"),
        ("deliveries sent, of them again", f"{result.attempts:,}, {result.retried:,}"),
        ("answered 200, and in the journal", f"{result.answered:,}"),
        ("late by more than 5 minutes", f"{result.late:,}"),
        ("lost, given up", f"{result.fates[Fate.LOST]:,}, {result.fates[Fate.GIVEN_UP]:,}"),
        ("found by the poller first", f"{sum(result.gaps.values()):,}"),
        ("their verdicts", _listed(result.gaps)),
        ("passes complete, failed", f"{result.passes:,}, {result.failed_passes:,}"),
        ("answers looked at", f"{sights.answers:,}"),
        ("longest wrong answer", _lasted(sights.wrong, result.speed)),
        ("wrong while a poller read the desk", _spread(sorted(sights.wrong_while_polled))),
        (f"worker still for {SECONDS:g} s: a change unknown", _spread(result.standstill)),
    ]
    counts += [
        (f"longest none without need, {why}", _lasted(longest, result.speed))
        for why, longest in sorted(sights.withheld.items())
    ]
    counts.append(("single reads, by reason", _listed(sights.reasons)))
    for name in ("receiver", "poller"):
        starts = [memory for (of, _), memory in result.memory.items() if of == name]
        for longest in sorted(starts, key=lambda memory: memory.hours)[-1:]:
            first, last = longest.first / 2**20, longest.last / 2**20
            counts.append(
                (f"memory of the {name}", f"{first:.0f} MiB, and {last:.0f} MiB {longest.hours:.0f} hours later")
            )
    counts.append(("verdict", "red" if result.failures else "green"))
    for what, value in counts:
        shown.add_row(what, str(value))
    return shown


def _lasted(longest: Longest, speed: float) -> str:
    if longest.until is None:
        return "never"
    desk = timedelta(seconds=round(longest.seconds))
    return f"{desk} at the desk ({longest.seconds / speed:.2f} s of the machine), until {longest.until:%a %H:%M}"


def _spread(seconds: Sequence[float]) -> str:
    """Write how long sorted times were."""
    if not seconds:
        return "never"
    return (
        f"longest {seconds[-1]:.1f} s, p50 {share(seconds, 0.5):.1f} s, p99 {share(seconds, 0.99):.1f} s"
        f" ({len(seconds):,} times)"
    )


def _listed(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {times:,}" for name, times in counter.most_common()) or "none"


def main(
    *,
    hours: Annotated[float, typer.Option(help="Hours of the desk's clock.", min=0.5)] = WHOLE,
    seed: Annotated[int, typer.Option(help="Decides what happens at the desk.")] = 1,
    speed: Annotated[float, typer.Option(help="How many times faster the clocks run.", min=1)] = SPEED,
    healthy: Annotated[bool, typer.Option("--healthy", help="Nothing goes wrong.")] = False,
    record: Annotated[bool, typer.Option("--record", help="Keep the metrics for the tests of the alerts.")] = False,
) -> None:
    """Soak, and print the report."""
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="freescout-audit-soak-") as folder:
        result = asyncio.run(
            soak(hours=hours, seed=seed, speed=speed, healthy=healthy, record=record, folder=Path(folder))
        )
    console.print(report(result))
    if result.failures:
        for failure in result.failures:
            console.print(failure, style="red", markup=False, soft_wrap=True)
        console.print(f"again: make soak HOURS={hours:g} SEED={seed}")
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
