"""When a question that failed is asked again, and when all of them wait."""

import random
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime

import asyncpg
import pytest

from db.database import Database
from db.store import Delivery, record_deliveries
from freescout_audit.rule import Terms
from poller.freescout import DeskResponse, FreeScout
from poller.questions import FIRST_BACKOFF, LONGEST_PAUSE, MANY_FAILURES, Questions
from support.examples import body, claim


class Desk:
    """Answers about any ticket, or with an error; remembers whom it was asked about."""

    def __init__(self) -> None:
        self.error: DeskResponse | None = None
        self.asked: list[int] = []

    async def __call__(self, path: str, _query: Mapping[str, str], /) -> DeskResponse:
        ticket_id = int(path.removeprefix("conversations/"))
        self.asked.append(ticket_id)
        return self.error or answer(200, body("closed", 5, ticket_id=ticket_id))


def answer(status: int, document: bytes = b"{}", *, retry_after: str = "") -> DeskResponse:
    headers = {"content-type": "application/json", "date": format_datetime(datetime.now(UTC), usegmt=True)}
    headers |= {"retry-after": retry_after} if retry_after else {}
    return DeskResponse(status=status, headers=headers, body=document)


class Asking:
    """Questions about a cache, at a time of the test's own."""

    def __init__(self, database: Database) -> None:
        self.now = 1000.0
        self.desk = Desk()
        self._database = database
        self._questions = Questions(
            FreeScout(self.desk), database, terms=Terms(), at_once=100, clock=lambda: self.now, sleep=self._no_sleep
        )

    async def _no_sleep(self, _seconds: float) -> None:
        pass

    async def doubt(self, tickets: Iterable[int]) -> None:
        """Open a question about each."""
        deliveries = [
            Delivery(
                claim=claim(ticket_id=ticket_id, says_gone=True),
                endpoint="audit",
                event="convo.deleted_forever",
                body_bytes=1,
                body_ms=1,
                signed_with="current",
            )
            for ticket_id in tickets
        ]
        await record_deliveries(self._database, deliveries, terms=Terms())

    async def ask(self) -> set[int]:
        """Ask what is due, and return whom the desk was asked about."""
        self.desk.asked.clear()
        await self._questions.ask()
        return set(self.desk.asked)


@pytest.fixture
def asking(database: Database) -> Asking:
    random.seed(1)
    return Asking(database)


async def test_questions_that_failed_together_are_not_asked_again_together(asking: Asking) -> None:
    tickets = set(range(1, MANY_FAILURES))
    await asking.doubt(tickets)
    asking.desk.error = answer(503)
    assert await asking.ask() == tickets
    asking.desk.error = None

    asking.now += FIRST_BACKOFF / 2 - 0.01
    assert await asking.ask() == set()
    asking.now += FIRST_BACKOFF / 4
    sooner = await asking.ask()
    assert set() < sooner < tickets
    asking.now += FIRST_BACKOFF / 4 + 0.01
    assert await asking.ask() == tickets - sooner


async def test_after_many_failures_in_a_row_all_questions_wait(asking: Asking) -> None:
    await asking.doubt(range(1, MANY_FAILURES + 1))
    asking.desk.error = answer(503)
    await asking.ask()
    await asking.doubt([99])

    asking.now += FIRST_BACKOFF - 0.01
    assert await asking.ask() == set()
    asking.now += FIRST_BACKOFF + 0.01
    assert 99 in await asking.ask()


async def test_a_question_that_is_answered_ends_the_row_of_failures(asking: Asking) -> None:
    await asking.doubt(range(1, MANY_FAILURES))
    asking.desk.error = answer(503)
    await asking.ask()
    asking.desk.error = None
    asking.now += 1000
    assert len(await asking.ask()) == MANY_FAILURES - 1
    asking.desk.error = answer(503)
    await asking.doubt([98])
    await asking.ask()

    await asking.doubt([99])

    assert await asking.ask() == {99}


@pytest.mark.parametrize(("error", "seconds"), [(answer(401), FIRST_BACKOFF), (answer(429, retry_after="7"), 7)])
async def test_a_refusal_or_an_answer_that_asks_for_a_pause_makes_all_of_them_wait(
    asking: Asking, error: DeskResponse, seconds: float
) -> None:
    await asking.doubt([1])
    asking.desk.error = error
    await asking.ask()
    await asking.doubt([99])

    asking.now += seconds / 2 - 0.01
    assert await asking.ask() == set()
    asking.now += seconds / 2 + 0.01
    assert 99 in await asking.ask()


async def test_a_short_pause_that_an_answer_asks_for_does_not_end_that_of_many_failures(asking: Asking) -> None:
    await asking.doubt(range(1, MANY_FAILURES + 1))
    asking.desk.error = answer(429, retry_after="1")
    await asking.ask()
    await asking.doubt([99])

    asking.now += FIRST_BACKOFF / 2 - 0.01
    assert await asking.ask() == set()


@pytest.mark.parametrize("date", ["", "Wed, 01 Jan 2031 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT"])
async def test_an_answer_that_does_not_say_when_it_was_given_leaves_the_question_open(
    asking: Asking, sql: asyncpg.Connection, date: str
) -> None:
    await asking.doubt([1])
    given = answer(200, body("closed", 5, ticket_id=1))
    headers = {"content-type": "application/json"} | ({"date": date} if date else {})
    asking.desk.error = DeskResponse(status=200, headers=headers, body=given.body)

    assert await asking.ask() == {1}

    assert await sql.fetchval("SELECT disputed_at IS NOT NULL AND status IS NULL FROM freescout_ticket")


async def test_however_long_it_fails_a_desk_that_is_back_is_asked_within_the_longest_pause(asking: Asking) -> None:
    await asking.doubt(range(1, 2 * MANY_FAILURES))
    asking.desk.error = answer(503)
    for _ in range(20):
        asking.now += 1000
        await asking.ask()
    await asking.doubt([99])

    asking.now += LONGEST_PAUSE / 2 - 0.01
    assert await asking.ask() == set()
    asking.now += LONGEST_PAUSE / 2 + 0.01
    assert 99 in await asking.ask()
