"""What a leading poller does, and when: passes, peeks, questions, the heartbeat, the watch, the nightly reading."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from db import lease
from db.database import Database
from db.history import prune_history
from db.journal import PRUNE_EVERY, prune_journal
from db.minutes import MinuteBook
from db.transitions import number_for_ever
from freescout_audit.errors import DatabaseUnavailableError
from freescout_audit.events import (
    DESK_HEARD,
    DESK_STATE,
    FULL_WALK_COMPLETED,
    FULL_WALK_FAILED,
    PASS_FAILED,
    POLLER_AT_FAULT,
    POLLER_CLOCK_JUMPED,
    POLLER_FAULT,
)
from freescout_audit.logs import emit, where
from freescout_audit.repeats import Repeats
from poller.freescout import DeskError, DeskRefusedError, FreeScout
from poller.heartbeat import Heartbeat
from poller.host import Every, Host
from poller.passes import Passes
from poller.peek import Peeks
from poller.questions import Questions
from poller.watch import Watch, settle_gaps
from settings.table import Settings

BEAT_EVERY = 10.0
QUESTIONS_EVERY = 1.0
"""Seconds between two looks for open questions; a notification hastens the next."""
GAPS_EVERY = 60.0
WATCH_EVERY = 10.0
LOOK_AT_HOST_EVERY = 1.0
LOOK_AT_DESK_EVERY = 5.0
"""Seconds between two looks at what a pass that is under way meets."""
CROWDED_PEEK_EVERY = 10.0
"""Seconds between two passes that begin because a peek could not see everything that was news."""
FAULTY_FOR = 3
"""Intervals of a pass for which a job may end in nothing but unexpected errors."""
FULL_WALK_EVERY = 900.0
"""Seconds between two looks whether everything has to be read once more; one that failed is tried again then."""

Job = Callable[[], Awaitable[None]]


class Jobs:
    """The jobs of a process that leads; `start` them once, and `stop` them for good.

    Args:
        database: The cache.
        desk: The desk's API, as passes and questions use it.
        aside: The same in a lane of its own, for peeks.
        passes: Makes the passes.
        questions: Asks the questions.
        settings: How often.
        disputed: Set when a dispute has been committed.
        give_up: Lets another process lead: this one's host, loop or code is at fault.
        heartbeat: Is told of each pass, if there is one.
        minutes: Counts the passes, and how long changes took that a peek found.
        host: Knows this host's clock.
    """

    def __init__(
        self,
        database: Database,
        desk: FreeScout,
        aside: FreeScout,
        passes: Passes,
        questions: Questions,
        *,
        settings: Settings,
        disputed: asyncio.Event,
        give_up: Callable[[], None],
        heartbeat: Heartbeat | None = None,
        minutes: MinuteBook | None = None,
        host: Host | None = None,
    ) -> None:
        self._database = database
        self._desk = desk
        self._aside = aside
        self._passes = passes
        self._questions = questions
        self._settings = settings
        self._disputed = disputed
        self._give_up = give_up
        self._heartbeat = heartbeat
        self._minutes = minutes or MinuteBook(database, "")
        self._host = host or Host()
        self._watch = Watch(database, patience=timedelta(seconds=2 * settings.poller.interval))
        self._peeks = Peeks(
            aside,
            database,
            terms=settings.cache.terms,
            every=settings.poller.peek,
            crowded=lambda: self.pass_now(at_most_every=CROWDED_PEEK_EVERY),
            known_after=self._minutes.known_after,
        )
        self._repeats = Repeats()
        self._told_of_trouble = False
        self._faulty_since: dict[str, float] = {}
        """Since when each job has ended in nothing but unexpected errors."""
        self._passing = asyncio.Lock()
        self._pass_wanted = False
        self._extra_pass_at: dict[float, float] = {}
        """When the last pass that was asked for began, by how often it may be."""
        self._running: set[asyncio.Task[None]] = set()
        # The defaults drop a run that comes a second late, and a poller that is late is just the one that must run.
        self._scheduler = AsyncIOScheduler(
            timezone=UTC, job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1}
        )
        logging.getLogger("apscheduler").setLevel(logging.ERROR)  # a pass that outlasts its interval is no warning

    def start(self) -> None:
        """Start everything, the first pass at once."""
        interval = self._settings.poller.interval
        beat_every = min(BEAT_EVERY, self._settings.cache.lease / 3)
        for name, job, seconds in (
            ("beat", self._beat, beat_every),
            ("pass", self._make_passes, interval),
            ("watch", self._watch.look, WATCH_EVERY),
            ("gaps", lambda: settle_gaps(self._database, mailboxes=self._desk.mailboxes), GAPS_EVERY),
            ("journal", self._prune, PRUNE_EVERY),
            ("desk", self._look_at_the_desk, LOOK_AT_DESK_EVERY),
            ("full walk", self._read_everything, FULL_WALK_EVERY),
        ):
            self._add(name, job, seconds)
        self._scheduler.start()
        self._track(asyncio.create_task(self._ask_for_ever()))
        self._track(asyncio.create_task(self._watch_the_host()))
        self._track(asyncio.create_task(self._minutes.keep(POLLER_FAULT)))
        self._track(asyncio.create_task(number_for_ever(self._database, POLLER_FAULT)))
        if self._settings.poller.peek:
            self._track(asyncio.create_task(self._peek_for_ever()))

    async def stop(self) -> None:
        """End every job where it is; what is not committed is rolled back."""
        self._scheduler.remove_all_jobs()
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        self._scheduler.shutdown(wait=False)  # by itself it would wait for none of them
        await asyncio.sleep(0)  # it ends in the next round of the loop

    def pass_now(self, *, at_most_every: float | None = None) -> None:
        """Make a pass at once, or again when the one that is running has ended.

        Once in ``at_most_every`` seconds at the most (None: in an interval) for those who say the same.
        """
        now, every = time.monotonic(), self._settings.poller.interval if at_most_every is None else at_most_every
        if now - self._extra_pass_at.get(every, -math.inf) < every:
            return
        self._extra_pass_at[every] = now
        self._pass_wanted = True
        if not self._passing.locked():
            self._track(asyncio.create_task(self._guard("pass", self._make_passes)))

    def _add(self, name: str, job: Job, seconds: float) -> None:
        """Run a job at once, and then again and again."""

        async def run() -> None:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 - a coroutine runs in a task
            self._track(task)
            with suppress(asyncio.CancelledError):  # by `stop`; the scheduler would report it as a failure
                await self._guard(name, job)

        self._scheduler.add_job(run, Every(seconds), id=name, next_run_time=datetime.now(UTC))

    def _track(self, task: "asyncio.Task[None]") -> None:
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _guard(self, name: str, job: Job) -> None:
        """Run a job; whatever error it ends in, the next run comes."""
        try:
            await job()
        except DatabaseUnavailableError as error:
            self._repeats.emit(
                POLLER_FAULT, (name, error.problem), job=name, reason=error.problem, next_step=error.next_step or None
            )
        except Exception as error:  # noqa: BLE001 - a poller that stops for one odd answer heals nothing
            said = {"error": type(error).__name__, "where": where(error)}
            self._repeats.emit(POLLER_FAULT, (name, *said.values()), job=name, **said)
            now = time.monotonic()
            if now - self._faulty_since.setdefault(name, now) >= FAULTY_FOR * self._settings.poller.interval:
                self._at_fault(f"the job {name} ends in nothing but unexpected errors")
        else:
            self._faulty_since.pop(name, None)

    def _at_fault(self, reason: str) -> None:
        emit(POLLER_AT_FAULT, reason=reason)
        self._give_up()

    async def _watch_the_host(self) -> None:
        """Keep the schedule when the wall clock is set, which it follows, and give up what this host cannot do."""
        while True:
            await asyncio.sleep(LOOK_AT_HOST_EVERY)
            seen = self._host.look()
            if seen.jumped:
                emit(POLLER_CLOCK_JUMPED, seconds=round(seen.jumped, 1))
                for job in self._scheduler.get_jobs():
                    job.modify(next_run_time=datetime.now(UTC))
                self._give_up()
            elif seen.stood_still:
                self._at_fault(f"its event loop stood still for {seen.stood_still:.0f} s")

    async def _beat(self) -> None:
        now, (desk, aside) = asyncio.get_running_loop().time(), (self._desk.answered_at, self._aside.answered_at)
        answered = [at for at in (desk, aside) if at is not None]
        await lease.beat(
            self._database,
            self._settings.cache.terms,
            answered_ago=now - max(answered) if answered else None,
            peeked_ago=None if aside is None else now - aside,
        )

    async def _make_passes(self) -> None:
        """Make a pass, and another one at once if it outlasted its interval or one was asked for meanwhile."""
        if self._passing.locked():
            return
        async with self._passing:
            late = True
            while late or self._pass_wanted:
                self._pass_wanted = False
                began = time.monotonic()
                await self._make_pass()
                late = time.monotonic() - began > self._settings.poller.interval

    async def _make_pass(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.began()
        complete = await self._pass_once()
        self._minutes.count("passes" if complete else "failed_passes")
        if self._heartbeat is None:
            return
        if complete:
            self._heartbeat.completed()
        else:
            self._heartbeat.failed()

    async def _pass_once(self) -> bool:
        """Make a pass, report what became of it, and return whether it was complete."""
        try:
            await self._passes.run()
        except DeskError as error:
            emit(PASS_FAILED, reason=error.problem, next_step=error.next_step or None)
            await self._report(_state_of(error), error)
        except DatabaseUnavailableError as error:
            emit(PASS_FAILED, reason=error.problem, next_step=error.next_step or None)
        else:
            await self._report("ok")
            await self._questions.troubles.note_pass(self._passes.trouble)
            return True
        return False

    async def _look_at_the_desk(self) -> None:
        """Tell of a desk that hangs or fails while a pass still waits for it."""
        trouble = self._desk.trouble
        if trouble is not None:
            self._told_of_trouble = True
            await self._report(_state_of(trouble), trouble)
        elif self._told_of_trouble and self._passing.locked():
            self._told_of_trouble = False
            await self._report("ok")

    async def _report(self, state: lease.DeskState, error: DeskError | None = None) -> None:
        problem, next_step = ("", "") if error is None else (error.problem, error.next_step)
        before = await lease.report_desk(self._database, state, problem, next_step)
        if before.silent_since is not None and state == "ok":
            emit(DESK_HEARD, silent_since=before.silent_since)
        if before.state == state or (before.state == "unknown" and state == "ok"):
            return
        said = DESK_STATE if state == "ok" else DESK_STATE.at("error")
        emit(said, state=state, before=before.state, detail=problem or None, next_step=next_step or None)

    async def _read_everything(self) -> None:
        """Read everything once more if the night's hour has come since the last time, leaders before us included."""
        began = await lease.due_for_a_full_walk(self._database, hour=self._settings.poller.full_walk_hour)
        if began is None:
            return
        try:
            rows = await self._passes.read_everything(pause=asyncio.sleep)
            await lease.note_full_walk(self._database, began)
        except (DeskError, DatabaseUnavailableError) as error:
            emit(FULL_WALK_FAILED, reason=error.problem, next_step=error.next_step or None)
        else:
            emit(FULL_WALK_COMPLETED, rows=rows)

    async def _prune(self) -> None:
        await prune_journal(self._database, keep=self._settings.journal.keep)
        await prune_history(self._database, keep=self._settings.history.keep)

    async def _peek_for_ever(self) -> None:
        while True:
            await self._guard("peek", self._peeks.look)
            await asyncio.sleep(self._peeks.pause)

    async def _ask_for_ever(self) -> None:
        try:
            while True:
                self._disputed.clear()
                await self._guard("questions", self._questions.look)
                await self._until_disputed()
        finally:
            await self._questions.stop()

    async def _until_disputed(self) -> None:
        try:
            async with asyncio.timeout(QUESTIONS_EVERY):
                await self._disputed.wait()
        except TimeoutError:
            return


def _state_of(error: DeskError) -> lease.DeskState:
    return "refused" if isinstance(error, DeskRefusedError) else "unavailable"
