"""A walk's conversations are counted once each, and their total does not move."""

from collections.abc import Sequence

import asyncpg
import pytest

from db.database import Database
from freescout_audit.conversation import Sighting
from poller.freescout import Page
from poller.tally import Tally
from poller.walk import Read
from support.examples import NOON
from support.world import make_world


def read(ids: Sequence[int], *, total: int, by_number: bool = False) -> Read:
    rows = [Sighting(ticket_id=ticket_id, status="active", state="published", updated_at=NOON) for ticket_id in ids]
    page = Page(
        sightings=rows,
        rows=len(rows),
        total=total,
        limit=3,
        holds_all=len(rows) < 3,
        ends=len(rows) < 3,
        desk_clock=NOON,
    )
    return Read(asked_at=NOON, cursor=None, page=page, by_number=by_number)


@pytest.mark.parametrize(
    ("answers", "counted"),
    [
        ([read([1, 2, 3], total=7), read([3, 4, 5], total=5), read([5, 6, 7], total=3)], [(3, 7), (5, 7), (7, 7)]),
        ([read([4, 5], total=2)], [(2, 2)]),
        ([read([1, 2, 3], total=4), read([3, 4, 5], total=3)], [(3, 4), (5, 5)]),
        (
            [
                read([1, 2, 3], total=6),
                read([1, 2, 3], total=6),
                read([6, 1, 2], total=6, by_number=True),
                read([3, 4, 5], total=6, by_number=True),
                read([6, 1, 2], total=6, by_number=True),
            ],
            [(3, 6), (3, 6), (4, 6), (6, 6), (6, 6)],
        ),
    ],
    ids=["pages that share a row", "from a cursor on", "one was created meanwhile", "a second that fills pages"],
)
def test_a_row_that_is_read_again_counts_once(answers: Sequence[Read], counted: Sequence[tuple[int, int]]) -> None:
    tally, told = Tally(), []
    for answer in answers:
        tally.add(answer)
        told.append((tally.done, tally.total))

    assert told == counted


def test_what_is_new_on_a_page_is_told() -> None:
    tally = Tally()
    tally.add(read([1, 2, 3], total=4))

    assert tally.add(read([3, 4], total=2)) == {4}


async def test_a_first_load_comes_to_its_total_once_and_the_total_stands(
    database: Database, sql: asyncpg.Connection
) -> None:
    async with make_world(database, sql, tickets=23, page_size=5, sockets=False) as world:
        told: list[tuple[int, int]] = []
        world.passes._progress = lambda done, total: told.append((done, total))  # noqa: SLF001

        await world.poll()

        assert {total for _, total in told} == {23}
        assert [done for done, total in told if done == total] == [23]
        assert told == sorted(told)
