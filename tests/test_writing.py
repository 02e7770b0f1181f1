"""Deliveries that are not saved turn readiness red, whatever stops PostgreSQL from writing, until one is saved."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest

from conftest import ENVIRONMENT, Log, Receive
from db.answers import LIKE_FREESCOUTS, VERIFIED, read_answers
from db.components import Found, read_wrong, write_components
from db.database import Database
from db.journal import SELF_TEST
from db.refusals import REFUSED, explain
from freescout_audit.endpoints import AUDIT
from freescout_audit.errors import DatabaseUnavailableError
from freescout_audit.rule import Terms
from ops.commands.status import read_status
from receiver.answers import Answers
from receiver.health import Health
from receiver.metrics import Metrics
from receiver.writing import LOOK_EVERY, TRY_EVERY, Writing
from support.examples import NOON, body, signed


@pytest.fixture
async def read_only(sql: asyncpg.Connection) -> AsyncIterator[asyncpg.Connection]:
    """A database that lets nobody insert, as Heroku does over a plan's capacity; the test may take that back."""
    await sql.execute("""
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'permission denied for table freescout_delivery' USING ERRCODE = '42501'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON freescout_delivery FOR EACH STATEMENT EXECUTE FUNCTION refuse()
""")
    yield sql
    await sql.execute("DROP TRIGGER IF EXISTS refuse ON freescout_delivery; DROP FUNCTION refuse")


async def test_a_delivery_that_is_not_saved_is_red_until_one_is(
    receive: Receive, read_only: asyncpg.Connection, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.health._FRESH", 0.0)
    async with receive() as receiver:
        for _ in range(3):
            assert (await receiver.deliver(body()))[0] == 503
        async with receiver.client.get(receiver.url + "/readyz") as response:
            assert response.status == 503
            database = (await response.json())["components"]["database"]

        assert database["detail"] == (
            "deliveries are not saved: the database no longer lets us write (over its plan's capacity?)"
        )
        assert database["next_step"].startswith("heroku pg:info")
        (line,) = log.lines("delivery.not_saved")
        assert line["next_step"] == database["next_step"]
        assert log.lines("receiver.fault") == []

        await read_only.execute("DROP TRIGGER refuse ON freescout_delivery")
        assert (await receiver.deliver(body()))[0] == 200
        async with receiver.client.get(receiver.url + "/readyz") as response:
            assert response.status == 200


async def test_with_nothing_to_save_a_write_of_our_own_tells(
    database: Database, read_only: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, looked = 0.0, asyncio.Event()

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        if now > LOOK_EVERY + 3 * TRY_EVERY:
            looked.set()
            await asyncio.Event().wait()

    monkeypatch.setattr("receiver.writing.asyncio.sleep", sleep)
    writing = Writing(database, clock=lambda: now)
    failures = []

    def failed(error: DatabaseUnavailableError) -> None:
        failures.append(now)
        Writing.failed(writing, error)

    monkeypatch.setattr(writing, "failed", failed)
    watching = asyncio.create_task(writing.watch())
    await looked.wait()
    watching.cancel()

    assert failures == [LOOK_EVERY + tries * TRY_EVERY for tries in range(4)]
    health = Health(database, ENVIRONMENT, terms=Terms(), metrics=Metrics(), writing=writing)
    await health.check()
    assert not health.ready

    await read_only.execute("DROP TRIGGER refuse ON freescout_delivery")
    await writing.try_once()
    assert writing.failure is None
    assert await read_only.fetchval("SELECT count(*) FROM freescout_delivery") == 0


async def test_an_error_that_may_be_one_rows_is_red_as_well(
    receive: Receive, sql: asyncpg.Connection, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.health._FRESH", 0.0)
    await sql.execute("""
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'index is damaged' USING ERRCODE = 'XX002'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON freescout_delivery FOR EACH STATEMENT EXECUTE FUNCTION refuse()
""")
    async with receive() as receiver:
        assert (await receiver.deliver(body()))[0] == 503
        async with receiver.client.get(receiver.url + "/readyz") as response:
            assert response.status == 503
            assert "finds an index damaged" in (await response.json())["components"]["database"]["detail"]
    await sql.execute("DROP TRIGGER refuse ON freescout_delivery; DROP FUNCTION refuse")
    assert log.lines("receiver.fault") == []


async def test_a_watch_goes_on_whatever_its_try_meets(
    database: Database, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def raise_something(*_arguments: object, **_named: object) -> None:
        raise asyncpg.LockNotAvailableError("x")

    monkeypatch.setattr("receiver.writing.try_to_write", raise_something)
    writing = Writing(database)
    await writing.try_once()
    assert writing.failure is not None

    monkeypatch.setattr("receiver.answers.add_answers", raise_something)
    monkeypatch.setattr("receiver.answers.WRITE_EVERY", 0.0)
    answers = Answers(database)
    answers.note("too_slow")
    watching = asyncio.create_task(answers.watch())
    async with asyncio.timeout(20):
        while not log.lines("receiver.fault"):  # noqa: ASYNC110 - a log wakes nobody
            await asyncio.sleep(0)
    monkeypatch.undo()
    assert not watching.done()
    watching.cancel()
    await answers.write()
    assert (await read_answers(database))["too_slow"].answers == 1


@pytest.mark.parametrize("error", [*REFUSED, asyncpg.DataCorruptedError, asyncpg.InternalServerError])
def test_every_error_that_an_operator_can_mend_says_what_it_is_and_what_to_do(error: type[Exception]) -> None:
    meaning = explain(error("a message of PostgreSQL"))

    assert meaning is not None
    assert meaning.problem
    assert meaning.next_step
    assert "report" not in str(meaning)


def test_a_mistake_of_ours_has_no_such_meaning() -> None:
    assert explain(asyncpg.PostgresSyntaxError("x")) is None
    assert explain(ValueError("x")) is None


class TestAnswers:
    async def test_they_are_counted_and_written_together(self, database: Database) -> None:
        now = 100.0
        answers = Answers(database, clock=lambda: now)
        answers.note("too_slow")
        now += 30
        answers.note("too_slow")
        answers.verified(AUDIT, "fingerprint", "one")
        answers.verified(AUDIT, "fingerprint", "one")  # whoever has recorded it can send it again
        now += 30
        await answers.write()
        answers.note("too_slow")
        await answers.write()
        await answers.write()

        kept = await read_answers(database)

        assert {kind: (tally.answers, tally.key_fingerprint) for kind, tally in kept.items()} == {
            "too_slow": (3, None),
            VERIFIED: (1, "fingerprint"),
        }
        seen = kept["too_slow"]
        assert 59 < (await database.now() - seen.first_at).total_seconds() < 90
        assert (await database.now() - seen.last_at).total_seconds() < 30

    async def test_what_cannot_be_written_stays_counted(self, database: Database, sql: asyncpg.Connection) -> None:
        answers = Answers(database)
        answers.note("too_slow")
        await sql.execute("ALTER TABLE freescout_answer RENAME TO elsewhere")
        with pytest.raises(DatabaseUnavailableError):
            await answers.write()
        answers.note("too_slow")
        await sql.execute("ALTER TABLE elsewhere RENAME TO freescout_answer")

        await answers.write()

        assert (await read_answers(database))["too_slow"].answers == 2

    async def test_refusals_like_freescouts_and_what_is_verified_reach_doctor_status_and_metrics(
        self, receive: Receive, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("receiver.health._FRESH", 0.0)
        monkeypatch.setattr("receiver.answers.WRITE_EVERY", 0.05)
        another = signed(body(), key="another key")
        async with receive() as receiver:
            assert (await receiver.deliver(body(), headers=another | {"X-FreeScout-Event": "convo.hello"}))[0] == 401
            assert (await receiver.deliver(body(), headers={}))[0] == 401
            await _until_known(database, {"unverified"})
            async with receiver.client.get(receiver.url + "/readyz") as response:
                assert (await response.json())["components"]["deliveries"]["state"] == "ok"

            assert (await receiver.deliver(body(), headers=another))[0] == 401
            await _until_known(database, {"unverified", LIKE_FREESCOUTS})
            async with receiver.client.get(receiver.url + "/readyz") as response:
                assert response.status == 200, "anybody can cause this"
                deliveries = (await response.json())["components"]["deliveries"]
            assert deliveries["state"] == "degraded"
            assert "none was ever verified" in deliveries["detail"]
            async with receiver.client.get(receiver.url + "/metrics") as response:
                assert 'freescout_audit_component_up{component="deliveries"} 0.0' in await response.text()

            # A self-test of ours is none of FreeScout's deliveries.
            own = signed(b"{}", event=f"{SELF_TEST}.12345678")
            assert (await receiver.deliver(b"{}", headers=own))[0] == 200
            assert (await receiver.deliver(body()))[0] == 200
            await _until_known(database, {"unverified", LIKE_FREESCOUTS, VERIFIED})
            assert (await read_answers(database))[VERIFIED].answers == 1
            async with receiver.client.get(receiver.url + "/readyz") as response:
                assert (await response.json())["components"]["deliveries"]["state"] == "ok"


async def _until_known(database: Database, kinds: set[str]) -> None:
    async with asyncio.timeout(20):
        while set(await read_answers(database)) != kinds:  # noqa: ASYNC110 - it is written every so often
            await asyncio.sleep(0.01)


async def test_status_shows_what_only_a_receiver_can_see(database: Database, sql: asyncpg.Connection) -> None:
    health = Health(database, replace(ENVIRONMENT, webhook_secrets=()), terms=Terms(), metrics=Metrics())
    watching = asyncio.create_task(health.watch())
    async with asyncio.timeout(20):
        while not await read_wrong(database):  # noqa: ASYNC110 - it is written every so often
            await asyncio.sleep(0.01)
    watching.cancel()

    (wrong,) = await read_wrong(database)
    assert (wrong.name, wrong.state) == ("receive", "failed")
    assert "FREESCOUT_AUDIT_WEBHOOK_SECRET is not set" in wrong.detail
    status = await read_status(database)
    assert [problem.name for problem in status.problems] == [f"receive at {wrong.process}"]

    await sql.execute("UPDATE freescout_component SET seen_at = seen_at - interval '3 minutes'")
    assert await read_wrong(database) == [], "that process has gone"


async def test_a_process_that_finds_less_takes_the_rest_away_and_those_of_yesterday(
    database: Database, sql: asyncpg.Connection
) -> None:
    def found(name: str) -> Found:
        return Found(process="web.1", name=name, state="failed", detail="", next_step="", since=NOON)

    await write_components(database, "web.1", [found("vault"), found("desk")])
    await write_components(database, "web.2", [])
    await sql.execute(
        "INSERT INTO freescout_component VALUES ('web.3', 'desk', 'ok', '', '', now(), now() - interval '25 hours')"
    )
    await write_components(database, "web.1", [found("vault")])

    assert [tuple(row) for row in await sql.fetch("SELECT process, name FROM freescout_component")] == [
        ("web.1", "vault")
    ]
