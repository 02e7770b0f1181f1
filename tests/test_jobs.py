"""What a leading poller does by itself: jobs that come round, questions that hang, passes that take too long."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta, tzinfo

import aiohttp
import apscheduler.schedulers.base
import asyncpg
import msgspec
import pytest

from conftest import Log
from db.database import Connection, Database
from db.store import record_absences
from freescout_audit.errors import DatabaseUnavailableError
from freescout_audit.rule import Terms
from poller import jobs as jobs_module
from poller.freescout import DeskResponse, DeskUnavailableError
from poller.heartbeat import Heartbeat
from poller.host import Every, Host
from poller.jobs import Jobs
from poller.questions import AGAIN, LONGEST_BACKOFF, Questions
from settings import Secret, load_settings
from simulator import ApiFault
from support.world import World, make_world

EVENING = datetime(2026, 3, 2, 22, 0, 0, tzinfo=UTC)


@pytest.fixture
async def world(database: Database, sql: asyncpg.Connection) -> AsyncIterator[World]:
    """A desk with sixty tickets in pages of twenty, loaded in the evening."""
    async with make_world(database, sql, tickets=60, page_size=20, start=EVENING) as world:
        await world.poll()
        await world.advance(4000)
        yield world


@asynccontextmanager
async def at_work(
    world: World,
    *,
    interval: float = 300,
    peek: float = 0,
    give_up: Callable[[], None] = lambda: None,
    host: Host | None = None,
    heartbeat: Heartbeat | None = None,
) -> AsyncIterator[Jobs]:
    """A leading poller's jobs; each has its first run at once."""
    jobs = Jobs(
        world.database,
        world.freescout,
        world.freescout,
        world.passes,
        world.questions,
        settings=load_settings({"POLLER_INTERVAL": str(interval), "POLLER_PEEK": str(peek)}),
        disputed=asyncio.Event(),
        give_up=give_up,
        host=host,
        heartbeat=heartbeat,
    )
    jobs.start()
    try:
        yield jobs
    finally:
        await jobs.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - what others do sets no event
            await asyncio.sleep(0.005)


class TestTheNightlyReading:
    async def test_it_comes_once_when_the_hour_has_come(self, world: World, log: Log) -> None:
        async with at_work(world):
            await until(lambda: len(log.lines("pass.completed")) == 2)
        assert not log.lines("full_walk.completed"), "the first load has just read everything"
        await world.advance(4 * 3600)

        for passes in (3, 4):
            async with at_work(world):
                await until(lambda passes=passes: len(log.lines("pass.completed")) == passes)  # type: ignore[misc] # bound now
                await until(lambda: bool(log.lines("full_walk.completed")))

        (line,) = log.lines("full_walk.completed")
        assert line["rows"] >= 60

    async def test_a_poller_that_starts_after_the_hour_makes_up_for_it(self, world: World, log: Log) -> None:
        await world.advance(11 * 3600)
        world.desk.write_status_number(5, {"spam": 1}.get(world.desk.get(5).status, 4))
        assert set(await world.wrong()) >= {5}

        async with at_work(world):
            await until(lambda: bool(log.lines("full_walk.completed")))

        assert await world.state(5) == world.truth(5)

    async def test_one_that_failed_is_tried_again(
        self, world: World, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jobs_module, "FULL_WALK_EVERY", 0.05)
        await world.advance(11 * 3600)
        world.desk.faults.api = ApiFault.UNAUTHORIZED

        async with at_work(world):
            await until(lambda: bool(log.lines("full_walk.failed")))
            await until(lambda: bool(log.lines("desk.state")))
            world.desk.faults.api = None
            await until(lambda: bool(log.lines("full_walk.completed")))

        told = [log.lines(name)[0] for name in ("full_walk.failed", "pass.failed")]
        assert [line["reason"] for line in told] == ["FreeScout answers 401"] * 2
        assert ["compare FREESCOUT_API_KEY" in line["next_step"] for line in told] == [True, True]
        refused = log.lines("desk.state")[0]
        assert (refused["detail"], refused["next_step"]) == ("FreeScout answers 401", told[0]["next_step"])


class TestPassesThatTakeTooLong:
    async def test_a_pass_that_outlasts_its_interval_is_followed_by_another_at_once_and_never_overlaps(
        self, world: World, log: Log
    ) -> None:
        loop = asyncio.get_running_loop()
        began: list[float] = []
        ended: list[float] = []
        release = asyncio.Event()

        async def run() -> None:
            began.append(loop.time())
            await release.wait()
            release.clear()
            ended.append(loop.time())

        world.passes.run = run  # type: ignore[method-assign]
        async with at_work(world, interval=1):
            await until(lambda: bool(began) and loop.time() - began[0] > 2.5)
            assert len(began) == 1, "its turns came and went meanwhile"
            release.set()
            await until(lambda: len(began) == 2)

        assert len(ended) == 1
        assert began[1] - ended[0] < 0.5, "it does not wait for its turn"

    async def test_one_that_is_ended_half_way_by_the_stop_is_no_fault(self, world: World, log: Log) -> None:
        began = asyncio.Event()

        async def run() -> None:
            began.set()
            await asyncio.Event().wait()

        world.passes.run = run  # type: ignore[method-assign]

        async with at_work(world):
            await began.wait()

        assert not log.lines("library.message")
        assert not log.lines("poller.fault")

    async def test_crowded_disputes_bring_one_extra_pass_an_interval(self, world: World, log: Log) -> None:
        async with at_work(world) as jobs:
            await until(lambda: len(log.lines("pass.completed")) == 2)
            for _ in range(5):
                jobs.pass_now()
                await until(lambda: len(log.lines("pass.completed")) >= 3)

            assert len(log.lines("pass.completed")) == 3


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[timedelta], None]:
    """Set the wall clock that the scheduler and we go by."""
    ahead = timedelta()

    class WallClock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override] # naive time is not asked for
            return datetime.now(tz) + ahead

    def set_by(seconds: timedelta) -> None:
        nonlocal ahead
        ahead = seconds

    monkeypatch.setattr(apscheduler.schedulers.base, "datetime", WallClock)
    monkeypatch.setattr(jobs_module, "datetime", WallClock)
    monkeypatch.setattr(jobs_module, "LOOK_AT_HOST_EVERY", 0.02)
    return set_by


class TestAHostWhoseClockIsSet:
    @pytest.mark.parametrize("ahead", [timedelta(hours=-1), timedelta(days=36500)])
    async def test_everything_runs_at_once_and_goes_on_and_leadership_is_given_up(
        self, world: World, log: Log, set_clock: Callable[[timedelta], None], ahead: timedelta
    ) -> None:
        """The scheduler's own trigger would wait for an hour, or count a hundred years of missed runs."""
        set_by, given_up, runs = timedelta(), list[None](), 0
        host = Host(wall=lambda: time.time() + set_by.total_seconds())

        async def run() -> None:
            nonlocal runs
            runs += 1

        world.passes.run = run  # type: ignore[method-assign]
        async with at_work(world, give_up=lambda: given_up.append(None), host=host) as jobs:
            await until(lambda: runs == 1)
            at_work_on = jobs._scheduler._executors["default"]._instances  # noqa: SLF001 - who is at work is not run twice
            await until(lambda: not any(at_work_on.values()))
            set_by = ahead
            set_clock(ahead)
            await until(lambda: runs == 2)
            now = datetime.now(UTC) + ahead
            waits = [job.next_run_time - now for job in jobs._scheduler.get_jobs()]  # noqa: SLF001 - when they go on

        assert len(waits) == 7
        assert all(wait <= timedelta(hours=1) for wait in waits)
        (line,) = log.lines("poller.clock_jumped")
        assert line["seconds"] == pytest.approx(ahead.total_seconds(), abs=1)
        assert given_up == [None]
        assert not log.lines("poller.fault")


class TestAPollerAtFault:
    async def test_a_loop_that_stood_still_gives_leadership_up(
        self, world: World, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jobs_module, "LOOK_AT_HOST_EVERY", 0.02)
        given_up, passed = list[None](), 0.0
        host = Host(wall=lambda: passed, steady=lambda: passed)

        async with at_work(world, give_up=lambda: given_up.append(None), host=host):
            await asyncio.sleep(0)
            passed = 30.0
            await until(lambda: bool(given_up))

        (line,) = log.lines("poller.at_fault")
        assert line["reason"] == "its event loop stood still for 30 s"

    async def test_a_job_that_ends_in_nothing_but_unexpected_errors_gives_it_up_and_one_that_heals_does_not(
        self, world: World, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jobs_module, "FAULTY_FOR", 0.3)
        given_up, runs = list[None](), 0

        async def run() -> None:
            nonlocal runs
            runs += 1
            if runs != 2:
                raise ZeroDivisionError

        world.passes.run = run  # type: ignore[method-assign]
        async with at_work(world, interval=1, give_up=lambda: given_up.append(None)) as jobs:
            jobs._scheduler.reschedule_job("pass", trigger=Every(0.2))  # noqa: SLF001 - no test waits a second
            await until(lambda: bool(given_up))

        assert runs >= 4
        (line, *_) = log.lines("poller.at_fault")
        assert line["reason"] == "the job pass ends in nothing but unexpected errors"

    @pytest.mark.parametrize("fault", [DeskUnavailableError("no answer"), DatabaseUnavailableError("away", "")])
    async def test_a_desk_or_a_database_that_fails_everybody_is_no_reason(
        self, world: World, log: Log, monkeypatch: pytest.MonkeyPatch, fault: Exception
    ) -> None:
        monkeypatch.setattr(jobs_module, "FAULTY_FOR", 0.0)
        given_up, runs = list[None](), 0

        async def run() -> None:
            nonlocal runs
            runs += 1
            raise fault

        world.passes.run = run  # type: ignore[method-assign]
        async with at_work(world, interval=1, give_up=lambda: given_up.append(None)) as jobs:
            jobs._scheduler.reschedule_job("pass", trigger=Every(0.1))  # noqa: SLF001 - no test waits a second
            await until(lambda: runs >= 3)

        assert given_up == []


class TestPeeks:
    async def test_a_change_that_no_delivery_tells_of_is_known_within_a_peek(self, world: World, log: Log) -> None:
        async with at_work(world, peek=0.05):
            await until(lambda: len(log.lines("pass.completed")) == 2)
            world.desk.set_status(5, "pending" if world.desk.get(5).status == "spam" else "spam")
            async with asyncio.timeout(5):
                while await world.state(5) != world.truth(5):  # noqa: ASYNC110 - the database is asked
                    await asyncio.sleep(0)

        assert len(log.lines("pass.completed")) == 2

    @pytest.mark.parametrize(("every", "looks"), [(0, False), (60, True)])
    async def test_zero_turns_it_off(
        self, world: World, log: Log, monkeypatch: pytest.MonkeyPatch, every: float, *, looks: bool
    ) -> None:
        """The first peek is at once, before any pass is complete."""
        looked = list[None]()

        async def look(_peeks: object) -> None:
            looked.append(None)

        monkeypatch.setattr("poller.peek.Peeks.look", look)
        async with at_work(world, peek=every):
            await until(lambda: len(log.lines("pass.completed")) == 2)

        assert bool(looked) is looks

    async def test_more_news_than_it_can_see_bring_a_pass_and_one_such_in_ten_seconds(
        self, world: World, log: Log
    ) -> None:
        async with at_work(world, peek=0.05) as jobs:
            await until(lambda: len(log.lines("pass.completed")) == 2)
            for status, passes in (("spam", 3), ("closed", 3)):
                before = len(log.lines("peek.found"))
                world.desk.bulk_set_status(range(1, 41), status)
                await world._move(world.clock.now() + timedelta(seconds=2))  # noqa: SLF001 - nothing is delivered
                await until(lambda before=before: len(log.lines("peek.found")) > before)  # type: ignore[misc] # bound now
                await until(lambda passes=passes: len(log.lines("pass.completed")) == passes)  # type: ignore[misc] # same
            wanted = jobs._pass_wanted or jobs._passing.locked()  # noqa: SLF001 - in the step of the news, or never

        assert not wanted
        assert len(log.lines("pass.completed")) == 3


def five_at_once(world: World, *, crowded: Callable[[], None]) -> Questions:
    return Questions(world.freescout, world.database, terms=Terms(), at_once=5, clock=lambda: 0.0, crowded=crowded)


class TestQuestions:
    async def test_one_that_hangs_holds_up_no_other(self, world: World) -> None:
        for ticket_id in range(1, 9):
            world.desk.delete_forever(ticket_id)
        await world.advance(10)
        assert await world.disputes() == 8
        wire = world.freescout._transport  # noqa: SLF001

        async def transport(path: str, query: Mapping[str, str], /) -> DeskResponse:
            if path == "conversations/4":
                await asyncio.Event().wait()
            return await wire(path, query)

        world.freescout._transport = transport  # noqa: SLF001
        await world.questions.look()

        async with asyncio.timeout(20):
            while await world.disputes() > 1:
                pass
        await world.questions.stop()
        assert await world.sql.fetchval("SELECT ticket_id FROM freescout_ticket WHERE disputed_at IS NOT NULL") == 4

    async def test_answers_that_come_while_others_are_written_are_written_together(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await world.sql.execute(
            "UPDATE freescout_ticket SET disputed_at = freescout_now(), grace_until = freescout_now()"
            " WHERE ticket_id < 10"
        )
        wire, whole = world.freescout._transport, world.database.transaction  # noqa: SLF001
        answers, transactions, all_answered = 0, 0, asyncio.Event()

        async def transport(path: str, query: Mapping[str, str], /) -> DeskResponse:
            nonlocal answers
            answer = await wire(path, query)
            answers += 1
            if answers == 9:
                all_answered.set()
            return answer

        @asynccontextmanager
        async def transaction(deadline: float | None = None, *, durable: bool = True) -> AsyncIterator[Connection]:
            nonlocal transactions
            transactions += 1
            await all_answered.wait()
            async with whole(deadline, durable=durable) as connection:
                yield connection

        monkeypatch.setattr(world.freescout, "_transport", transport)
        monkeypatch.setattr(world.database, "transaction", transaction)
        questions = Questions(
            world.freescout, world.database, terms=Terms(), at_once=20, concurrency=20, clock=lambda: 0.0
        )

        assert await questions.ask() == 9

        assert transactions == 2
        assert await world.disputes() == 0

    async def test_who_only_a_list_lacked_is_asked_about_half_of_the_time_and_who_a_delivery_doubts_at_once(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Thousands may be missing at once: the desk gets as long a rest as it was busy with each of them."""
        wire, now, rests = world.freescout._transport, 0.0, []  # noqa: SLF001

        async def slow(path: str, query: Mapping[str, str], /) -> DeskResponse:
            nonlocal now
            now += 3
            return await wire(path, query)

        async def sleep(seconds: float) -> None:
            assert await world.disputes() == 0, "what was answered is written first"
            rests.append(seconds)

        monkeypatch.setattr(world.freescout, "_transport", slow)
        questions = Questions(world.freescout, world.database, terms=Terms(), at_once=5, clock=lambda: now, sleep=sleep)
        await record_absences(world.database, [3], asked_at=await world.database.now(), terms=Terms())
        assert await questions.ask() == 1
        assert rests == [3]

        world.desk.delete_forever(4)
        await world.advance(10)
        assert await world.disputes() == 1
        assert await questions.ask() == 1
        assert rests == [3]

    async def test_who_only_a_list_lacked_holds_up_nobody_whom_a_delivery_doubts(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not while the desk is asked, nor while it is left to itself; and there is room for those who come later."""
        wire, asked = world.freescout._transport, []  # noqa: SLF001

        async def hanging(path: str, query: Mapping[str, str], /) -> DeskResponse:
            asked.append(path)
            if path in {f"conversations/{ticket}" for ticket in range(5, 13)}:
                await asyncio.Event().wait()
            return await wire(path, query)

        monkeypatch.setattr(world.freescout, "_transport", hanging)
        questions = Questions(
            world.freescout, world.database, terms=Terms(), at_once=8, concurrency=2, clock=lambda: 0.0
        )
        await record_absences(world.database, range(5, 13), asked_at=await world.database.now(), terms=Terms())
        await questions.look()
        world.desk.delete_forever(4)
        await world.advance(10)
        assert await world.disputes() == 9

        await questions.look()

        async with asyncio.timeout(10):
            while await world.disputes() == 9:
                pass
        assert len({path for path in asked if path.startswith("conversations/")}) == 2
        await questions.stop()

    async def test_a_ticket_that_somebody_holds_holds_up_no_other_answer(self, world: World, database_url: str) -> None:
        await world.sql.execute(
            "UPDATE freescout_ticket SET disputed_at = freescout_now(), grace_until = freescout_now()"
            " WHERE ticket_id < 10"
        )
        holder = await asyncpg.connect(database_url)
        async with holder.transaction():
            await holder.execute("SELECT FROM freescout_ticket WHERE ticket_id = 4 FOR UPDATE")
            await world.questions.look()
            async with asyncio.timeout(10):
                while await world.disputes() > 1:
                    pass
        async with asyncio.timeout(10):
            while await world.disputes() > 0:
                pass
        await holder.close()
        await world.questions.stop()

    @pytest.mark.parametrize(("open_questions", "crowded"), [(4, 0), (5, 1)])
    async def test_more_claimed_disputes_than_a_page_are_said_to_be_crowded(
        self, world: World, open_questions: int, crowded: int
    ) -> None:
        for ticket_id in range(1, open_questions + 1):
            world.desk.delete_forever(ticket_id)
        await world.advance(10)
        said: list[None] = []

        await five_at_once(world, crowded=lambda: said.append(None)).ask()

        assert len(said) == crowded

    async def test_tickets_that_a_list_lacks_are_no_crowd(self, world: World) -> None:
        world.desk.faults.drop_chance = 1.0
        for ticket_id in range(1, 31):
            world.desk.delete_forever(ticket_id)
        await world.passes.run()
        assert await world.disputes() >= 20
        said: list[None] = []

        await five_at_once(world, crowded=lambda: said.append(None)).ask()

        assert said == []


async def test_the_heartbeat_says_when_the_desk_last_answered_and_when_it_answered_a_peek(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "BEAT_EVERY", 0.1)
    heard = "SELECT desk_answered_at, peeked_at FROM freescout_poller"
    assert tuple(await world.sql.fetchrow(heard)) == (None, None)

    async with at_work(world, peek=1):
        async with asyncio.timeout(30):
            while None in (stands := tuple(await world.sql.fetchrow(heard))):  # noqa: ASYNC110 - the jobs set no event
                await asyncio.sleep(0.01)

    now = await world.sql.fetchval("SELECT freescout_now()")
    assert all(timedelta() <= now - each < timedelta(seconds=30) for each in stands)


async def test_who_watches_hears_of_each_pass(world: World, log: Log) -> None:
    pinged: list[str] = []

    async def ping(address: str) -> int:
        pinged.append(address.removeprefix("https://watch.example.org/key"))
        return 200

    beating = Heartbeat(lambda: Secret("https://watch.example.org/key"), ping)
    async with at_work(world, interval=1, heartbeat=beating):
        await until(lambda: len(pinged) >= 2)
        world.desk.faults.api = ApiFault.UNAUTHORIZED
        await until(lambda: "/fail" in pinged)

    assert pinged[:2] == ["/start", ""]
    assert pinged[pinged.index("/fail") - 1] == "/start"
    assert log.lines("heartbeat.failed") == []


class TestADeskThatHangs:
    async def test_is_said_while_the_pass_still_waits(
        self, world: World, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jobs_module, "LOOK_AT_DESK_EVERY", 0.05)
        monkeypatch.setattr("poller.freescout.HANGS_AFTER", 0.1)
        async with at_work(world, interval=1):
            await until(lambda: bool(log.lines("pass.completed")))
            world.desk.faults.api = ApiFault.HANG
            await until(lambda: any(line["state"] == "unavailable" for line in log.lines("desk.state")))
            assert log.lines("pass.failed") == []
            (line,) = log.lines("desk.state")

        assert line["level"] == "error"
        assert line["detail"] == "FreeScout does not answer"
        assert line["next_step"] == "is FREESCOUT_URL right, and is the desk up?"

    async def test_a_conversation_that_keeps_failing_is_named_until_it_answers(
        self, world: World, sql: asyncpg.Connection
    ) -> None:
        world.desk.faults.unreadable = {5}
        await sql.execute("UPDATE freescout_ticket SET disputed_at = now(), grace_until = now() WHERE ticket_id = 5")
        for _ in range(AGAIN):
            await world.ask()
            await world.advance(LONGEST_BACKOFF)
        trouble = await sql.fetchval("SELECT trouble FROM freescout_poller")
        assert trouble == "ticket 5: FreeScout answers 500"

        world.desk.faults.unreadable = set()
        await world.ask()
        assert await sql.fetchval("SELECT trouble FROM freescout_poller") == ""


async def test_both_paths_silent_is_one_alarm_in_log_readiness_and_metrics_and_ends(
    world: World, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a new APP_KEY at the desk to the operator's screen, and back."""
    for name in ("WATCH_EVERY", "BEAT_EVERY"):
        monkeypatch.setattr(jobs_module, name, 0.05)
    old_key = world.desk.app_key
    webhook = next(iter(world.desk.webhooks.values())).url
    receiver = webhook.removesuffix("/api/internal/freescout-webhook/audit")

    async with at_work(world, interval=1), aiohttp.ClientSession() as client:
        await until(lambda: len(log.lines("pass.completed")) >= 2)
        world.desk.change_app_key("base64:YW5vdGhlci1hcHAta2V5LW9mLTMyLWJ5dGVzLWxvbmc=")
        world.desk.set_status(5, "pending" if world.desk.get(5).status == "spam" else "spam")
        await until(lambda: bool(log.lines("pass.failed")))
        await until(lambda: any(line["state"] == "refused" for line in log.lines("desk.state")))
        await world.advance(30)
        assert log.lines("delivery.unverified")
        await until(lambda: bool(log.lines("desk.silent")))

        status, page = await get(client, receiver + "/readyz")
        assert status == 200, "what the cache answers is right until the lease ends"
        assert "neither push nor pull works" in str(msgspec.json.decode(page))
        assert b"freescout_audit_both_silent 1.0" in (await get(client, receiver + "/metrics"))[1]

        world.desk.change_app_key(old_key)
        await until(lambda: bool(log.lines("desk.heard")))
        passes = len(log.lines("pass.completed"))
        await until(lambda: len(log.lines("pass.completed")) > passes)

    assert len(log.lines("desk.silent")) == 1
    assert await world.state(5) == world.truth(5)


async def get(client: aiohttp.ClientSession, url: str) -> tuple[int, bytes]:
    async with client.get(url) as response:
        return response.status, await response.read()
