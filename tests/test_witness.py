"""What looks for broken promises in torture and soak finds them."""

from dataclasses import dataclass
from datetime import timedelta

import asyncpg
import pytest

from db.database import Database
from db.store import Delivery, record_deliveries, record_truths
from freescout_audit.rule import Terms
from proof.live import broken_promises
from proof.witness import Witness
from simulator import Desk, ManualClock
from support.databases import Clock
from support.examples import NOON, at, claim, truth

TERMS = Terms()


@dataclass
class Scene:
    """A desk with one ticket, which is active, and a cache that has read it so at noon."""

    desk: Desk
    witness: Witness
    desk_clock: ManualClock
    clock: Clock
    sql: asyncpg.Connection

    async def go_to(self, second: float) -> None:
        self.desk_clock.advance_to(at(second))
        await self.clock.set(at(second))

    async def close_silently(self) -> None:
        self.desk.set_status(1, "closed")
        self.witness.note(1)

    async def complete_pass(self, began: float) -> None:
        await self.sql.execute("UPDATE freescout_lease SET renewed_by_pass = $1", at(began))


@pytest.fixture
async def scene(database: Database, clock: Clock, sql: asyncpg.Connection) -> Scene:
    desk_clock = ManualClock(NOON)
    desk = Desk(clock=desk_clock)
    desk.customer_writes()
    await record_truths(database, [truth("active", 0, asked=0, ticket_id=1)], terms=TERMS)
    return Scene(desk, Witness(desk, database, desk_clock), desk_clock, clock, sql)


async def test_a_wrong_answer_that_no_complete_pass_could_know_of_is_measured_and_allowed(scene: Scene) -> None:
    await scene.complete_pass(began=0)
    await scene.go_to(10)
    await scene.close_silently()
    await scene.go_to(40)

    assert await scene.witness.look()

    assert scene.witness.sights.violations == []
    assert scene.witness.sights.wrong.seconds == 30


async def test_an_answer_that_was_false_before_the_last_complete_pass_began_is_a_violation(scene: Scene) -> None:
    await scene.go_to(10)
    await scene.close_silently()
    await scene.complete_pass(began=11)

    assert await scene.witness.look()

    (violation,) = scene.witness.sights.violations
    assert violation.startswith("ticket 1 read active at ")


async def test_none_without_need_is_measured_with_its_reason(scene: Scene) -> None:
    for second in (900, 960):
        await scene.go_to(second)
        assert await scene.witness.look()

    assert {why: longest.seconds for why, longest in scene.witness.sights.withheld.items()} == {"expired": 60}


async def test_rows_and_answers_that_are_not_the_desks_are_named(scene: Scene) -> None:
    assert await scene.witness.differences() == []

    await scene.close_silently()

    assert [difference.partition(":")[0] for difference in await scene.witness.differences()] == [
        "ticket 1",
        "ticket 1 reads active and is closed",
    ]


async def test_a_delivery_that_is_not_in_the_journal_or_not_in_the_cache_is_a_broken_promise(
    database: Database, sql: asyncpg.Connection
) -> None:
    delivery = Delivery(
        claim=claim("closed", 0),
        endpoint="audit",
        event="convo.status",
        body_bytes=1,
        body_ms=1.0,
        signed_with="current",
        request_id="kept",
    )
    await record_deliveries(database, [delivery], terms=TERMS)
    assert await broken_promises(sql, ["kept"]) == []

    await sql.execute("UPDATE freescout_ticket SET touched_at = touched_at - $1::interval", timedelta(seconds=1))

    assert [promise[:35] for promise in await broken_promises(sql, ["kept", "lost"])] == [
        "1 deliveries were answered 200 and ",
        "1 deliveries are in the journal and",
    ]
