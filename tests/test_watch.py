"""Gaps that settle, a lease that ends, two paths that fall silent."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import asyncpg
import pytest

from conftest import Log
from db.database import Database
from simulator import ApiFault
from support.world import Watch, World, make_world, settle_gaps


@pytest.fixture
async def world(database: Database, sql: asyncpg.Connection) -> AsyncIterator[World]:
    """A desk whose poller has completed a pass, and from which one delivery has come."""
    async with make_world(database, sql, tickets=12, sockets=False) as world:
        world.desk.set_status(12, "spam" if world.desk.get(12).status != "spam" else "closed")
        await world.advance(30)
        await world.poll()
        await world.advance(30)
        yield world


def flip(world: World, ticket_id: int) -> str:
    """Change a ticket's status and return what it is now."""
    world.desk.set_status(ticket_id, "pending" if world.desk.get(ticket_id).status == "spam" else "spam")
    return world.desk.get(ticket_id).status


async def gaps(world: World) -> list[tuple[object, ...]]:
    rows = await world.sql.fetch("SELECT ticket_id, true_status, verdict FROM freescout_gap ORDER BY gap_id")
    return [tuple(row) for row in rows]


async def test_a_self_test_of_ours_is_no_sign_of_life_of_the_desks(world: World) -> None:
    watch = Watch(world.database, patience=timedelta(minutes=4))
    await world.sql.execute(
        "UPDATE freescout_poller SET desk_state = 'refused', desk_since = freescout_now() - interval '10 minutes'"
    )
    await world.sql.execute("UPDATE freescout_delivery SET received_at = freescout_now() - interval '1 hour'")
    await world.sql.execute(
        "INSERT INTO freescout_delivery"
        " (received_at, endpoint, event, outcome, reason, body_bytes, body_ms, signed_with)"
        " VALUES (freescout_now(), 'audit', 'freescout-audit.selftest.0123abcd', 'ignored', '', 1, 1, 'current')"
    )

    await watch.look()

    assert await world.sql.fetchval("SELECT silent_since IS NOT NULL FROM freescout_poller")


class TestGaps:
    async def test_a_change_that_a_pass_found_first_is_kept_with_what_was_and_what_is(
        self, world: World, log: Log
    ) -> None:
        before, dated = world.desk.get(3).status, datetime.fromtimestamp(world.desk.get(3).updated, UTC)
        world.desk.faults.drop_next = 1
        now = flip(world, 3)
        changed_at = world.clock.now()
        await world.advance(60)

        await world.poll()

        row = dict(await world.sql.fetchrow("SELECT * FROM freescout_gap"))
        healed_at = row.pop("healed_at")
        assert timedelta() <= healed_at - world.clock.now() < timedelta(seconds=1)
        assert row == {
            "gap_id": 1,
            "ticket_id": 3,
            "cached_status": before,
            "cached_state": "published",
            "true_status": now,
            "true_state": "published",
            "changed_at": changed_at,
            "verdict": "waiting",
            "settled_at": None,
            "late_by": None,
            "cached_updated_at": dated,
        }
        assert [line["ticket_id"] for line in log.lines("gap.found")] == [3]

    async def test_a_delivery_that_comes_long_after_is_late_and_by_how_much(self, world: World, log: Log) -> None:
        world.desk.faults.delay = 400
        now = flip(world, 3)
        await world.advance(60)
        await world.poll()

        await world.advance(400)
        await settle_gaps(world.database, mailboxes=world.freescout.mailboxes)

        assert await gaps(world) == [(3, now, "late")]
        assert 300 < log.lines("gap.late")[0]["late_by_s"] < 400

    async def test_a_race_lost_by_seconds_is_no_gap_of_the_desk(self, world: World, log: Log) -> None:
        world.desk.faults.delay = 20
        now = flip(world, 3)
        await world.advance(5)
        await world.poll()

        await world.advance(30)
        await settle_gaps(world.database, mailboxes=world.freescout.mailboxes)

        assert await gaps(world) == [(3, now, "raced")]
        assert not log.lines("gap.late")
        assert not log.lines("gap.lost")

    async def test_when_the_retries_are_over_it_is_lost(self, world: World, log: Log) -> None:
        world.desk.faults.drop_next = 1
        now = flip(world, 3)
        await world.advance(60)
        await world.poll()

        await world.advance(79 * 60)
        await settle_gaps(world.database, mailboxes=world.freescout.mailboxes)
        assert await gaps(world) == [(3, now, "waiting")]
        await world.advance(61)
        await settle_gaps(world.database, mailboxes=world.freescout.mailboxes)

        assert await gaps(world) == [(3, now, "lost")]
        assert [line["ticket_id"] for line in log.lines("gap.lost")] == [3]

    async def test_a_change_that_is_dated_an_hour_late_is_not_lost_when_its_delivery_comes(
        self, database: Database, sql: asyncpg.Connection
    ) -> None:
        """In Berlin a change at 00:30 bears 01:30, an hour after a pass has found it and its delivery has come."""
        start, berlin = datetime(2026, 10, 25, 0, 29, tzinfo=UTC), ZoneInfo("Europe/Berlin")
        async with make_world(database, sql, tickets=12, start=start, timezone=berlin, sockets=False) as world:
            flip(world, 12)
            await world.advance(30)
            await world.poll()
            await world.advance(30)
            world.desk.faults.delay = 20
            now = flip(world, 3)
            await world.advance(5)
            await world.poll()

            await world.advance(30)
            await settle_gaps(world.database, mailboxes=world.freescout.mailboxes)

            assert await gaps(world) == [(3, now, "raced")]

    async def test_a_later_change_to_the_same_status_is_not_its_delivery(self, world: World) -> None:
        world.desk.faults.drop_next = 1
        now = flip(world, 3)
        await world.advance(60)
        await world.poll()
        await world.advance(300)
        world.desk.bulk_set_status([3], now)
        await world.advance(30)

        await settle_gaps(world.database, mailboxes=world.freescout.mailboxes)
        assert await gaps(world) == [(3, now, "waiting")]
        await world.advance(81 * 60)
        await settle_gaps(world.database, mailboxes=world.freescout.mailboxes)

        assert await gaps(world) == [(3, now, "lost")]

    async def test_an_earlier_date_than_the_one_found_is_its_delivery_if_only_the_date_moved_on(
        self, world: World
    ) -> None:
        """FreeScout tells nobody of a new subject, which moves the date on."""
        world.desk.faults.delay = 400
        now = flip(world, 3)
        await world.advance(20)
        world.desk.change_subject(3, "Another")
        await world.advance(60)
        await world.poll()
        await world.advance(400)

        await settle_gaps(world.database, mailboxes=world.freescout.mailboxes)

        assert await gaps(world) == [(3, now, "late")]

    async def test_a_deletions_own_event_settles_a_deletion_only(self, world: World) -> None:
        """It shows the last living state: the status that a pass has found."""
        world.desk.faults.drop_next = 1
        now = flip(world, 3)
        await world.advance(60)
        await world.poll()
        world.desk.delete_forever(3)
        await world.advance(120)

        await settle_gaps(world.database, mailboxes=world.freescout.mailboxes)

        assert await gaps(world) == [(3, now, "waiting")]

    async def test_what_the_repeated_hour_dates_an_hour_ahead_is_not_lost(self, world: World) -> None:
        world.desk.faults.delay = 400
        now = flip(world, 3)
        await world.advance(60)
        await world.poll()
        ahead = "SET updated_at = updated_at + interval '1 hour'"
        await world.advance(400)
        await world.sql.execute(f"UPDATE freescout_delivery {ahead} WHERE ticket_id = 3")
        await world.sql.execute("UPDATE freescout_gap SET changed_at = changed_at + interval '1 hour'")

        await settle_gaps(world.database, mailboxes=world.freescout.mailboxes)

        assert await gaps(world) == [(3, now, "late")]

    async def test_what_freescout_never_sends_is_never_sent_and_not_lost(self, world: World, log: Log) -> None:
        started = world.desk.start_in_ui(mailbox_id=1, status="closed")
        await world.advance(5)
        await world.poll()
        world.desk.undo_start(started)
        gone = world.desk.delete_mailbox(2)
        lost = next(ticket_id for ticket_id in range(1, 13) if ticket_id in world.desk.conversations)
        for job in world.desk.queue:
            job.doomed = True
        world.desk.delete_forever(lost)
        world.desk.faults.drop_next = 2
        await world.advance(60)
        await world.poll()
        await settle_gaps(world.database, mailboxes=world.freescout.mailboxes)
        assert {gap for gap in await gaps(world) if gap[2] != "waiting"} == {(started, "closed", "never_sent")}
        await world.advance(81 * 60)
        world.desk.faults.api = ApiFault.UNAVAILABLE
        await settle_gaps(world.database, mailboxes=world.freescout.mailboxes)
        assert (lost, None, "waiting") in await gaps(world), "nobody knows yet whether its mailbox has gone"
        world.desk.faults.api = None

        await settle_gaps(world.database, mailboxes=world.freescout.mailboxes)

        assert gone
        assert set(await gaps(world)) == {
            (started, "closed", "never_sent"),
            (lost, None, "lost"),
            *((ticket_id, None, "never_sent") for ticket_id in gone),
        }
        assert {line["ticket_id"] for line in log.lines("gap.never_sent")} == {started, *gone}

    async def test_a_forwarded_conversation_which_no_event_tells_of_is_no_gap(self, world: World) -> None:
        child = world.desk.forward(3, status="closed")
        await world.advance(60)
        await world.poll()

        assert await world.state(child) == "closed"
        assert await gaps(world) == []

    async def test_a_lost_deletion_is_a_gap(self, world: World) -> None:
        world.desk.faults.drop_next = 1
        world.desk.delete_forever(3)
        await world.advance(60)
        await world.poll()

        row = await world.sql.fetchrow("SELECT ticket_id, true_status, true_state FROM freescout_gap")
        assert tuple(row) == (3, None, None)

    async def test_a_question_that_a_delivery_raised_is_no_gap(self, world: World) -> None:
        world.desk.reply_by_mail(3, status="spam")
        world.desk.delete_forever(4)
        await world.advance(60)
        await world.poll()

        assert await world.wrong() == {}
        assert await gaps(world) == []

    async def test_there_are_none_before_the_first_complete_pass_and_the_first_delivery(
        self, database: Database, sql: asyncpg.Connection
    ) -> None:
        async with make_world(database, sql, tickets=12, sockets=False) as world:
            await world.poll()
            world.desk.faults.drop_chance = 1.0
            flip(world, 3)
            await world.advance(60)
            await world.poll()
            assert await gaps(world) == []

            world.desk.faults.drop_chance = 0.0
            flip(world, 4)
            await world.advance(60)
            await world.poll()
            world.desk.faults.drop_chance = 1.0
            flip(world, 5)
            await world.advance(60)
            await world.poll()
            assert [gap[0] for gap in await gaps(world)] == [5]

    async def test_what_was_settled_long_ago_is_forgotten(self, world: World) -> None:
        world.desk.faults.drop_next = 1
        flip(world, 3)
        await world.advance(60)
        await world.poll()
        await world.advance(81 * 60)
        await settle_gaps(world.database, mailboxes=world.freescout.mailboxes)
        await world.advance(90 * 86400)

        await settle_gaps(world.database, mailboxes=world.freescout.mailboxes)

        assert await gaps(world) == []


class TestSilence:
    async def test_an_api_that_fails_while_no_delivery_comes_is_one_clear_alarm(self, world: World, log: Log) -> None:
        watch = Watch(world.database, patience=timedelta(seconds=240))
        await world.sql.execute("UPDATE freescout_poller SET desk_state = 'refused', desk_since = freescout_now()")
        await watch.look()
        assert not log.lines("desk.silent")

        await world.advance(241)
        await watch.look()
        await watch.look()

        assert [line["desk_state"] for line in log.lines("desk.silent")] == ["refused"]
        assert await world.sql.fetchval("SELECT silent_since = desk_since FROM freescout_poller")

        flip(world, 3)
        await world.advance(10)
        await watch.look()
        assert len(log.lines("desk.heard")) == 1
        assert await world.sql.fetchval("SELECT silent_since FROM freescout_poller") is None

    async def test_a_desk_on_which_nothing_happens_is_not_silent(self, world: World, log: Log) -> None:
        await world.sql.execute("UPDATE freescout_poller SET desk_state = 'ok', desk_since = freescout_now()")
        await world.advance(86400)

        await Watch(world.database, patience=timedelta(seconds=240)).look()

        assert not log.lines("desk.silent")


async def test_the_end_of_the_lease_is_said_once_and_its_return_as_well(world: World, log: Log) -> None:
    watch = Watch(world.database, patience=timedelta(seconds=240))
    await watch.look()
    await world.advance(901)
    await watch.look()
    await watch.look()
    await world.poll()
    await watch.look()

    assert [line["event"] for line in log.lines() if line["event"].startswith("lease.")] == [
        "lease.expired",
        "lease.restored",
    ]
