"""A walk sees everything, whatever moves between its requests (property tests, against the simulated desk's API)."""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from poller.freescout import DeskResponse, DeskUnavailableError, FreeScout
from poller.walk import Read, Reader
from simulator import Api, ApiRequest, Desk, ManualClock

Between = Callable[[Desk], None]


def reader(desk: Desk, *, size: int, between: Iterator[Between] | None = None) -> Reader:
    """A reader of the desk's own API, without sockets; something happens after each request."""
    api = Api(desk)
    headers = {"X-FreeScout-API-Key": desk.api_key, "Accept": "application/json"}

    async def transport(path: str, query: Mapping[str, str], /) -> DeskResponse:
        answer = api.answer(ApiRequest("GET", f"/api/{path}", query, headers))
        if between is not None and (happens := next(between, None)) is not None:
            happens(desk)
        return DeskResponse(
            status=answer.status, headers={name.lower(): value for name, value in answer.headers}, body=answer.body
        )

    async def clock() -> datetime:
        return datetime(2026, 3, 2, tzinfo=UTC)

    return Reader(FreeScout(transport), clock, size=size)


async def ids(reads: "list[Read]") -> set[int]:
    return {sighting.ticket_id for read in reads for sighting in read.page.sightings}


def make_desk(tickets: int, seconds: int, seed: int = 1) -> tuple[Desk, ManualClock]:
    """A desk whose tickets were all changed within so many seconds, and a minute has passed since."""
    clock = ManualClock()
    desk = Desk(clock=clock, seed=seed)
    desk.populate(tickets, days=1)
    for number, ticket_id in enumerate(list(desk.conversations)):
        if number * seconds // tickets > (number - 1) * seconds // tickets:
            clock.advance(1)
        desk.change_subject(ticket_id, "Changed")
    clock.advance(60)
    return desk, clock


def change(ticket_id: int) -> Between:
    def happens(desk: Desk) -> None:
        desk.clock.advance(1)  # type: ignore[attr-defined] # a ManualClock
        desk.change_subject(ticket_id, "Changed again")

    return happens


def write(desk: Desk) -> None:
    desk.customer_writes(mailbox_id=1, customer_id=1)


def delete(ticket_id: int) -> Between:
    def happens(desk: Desk) -> None:
        if ticket_id in desk.conversations:
            desk.delete_forever(ticket_id)

    return happens


@given(
    tickets=st.integers(1, 30),
    seconds=st.integers(1, 30),
    size=st.integers(2, 7),
    seed=st.integers(0, 5),
    changes=st.lists(st.one_of(st.integers(1, 30), st.none()), max_size=40),
)
@settings(max_examples=150, deadline=None)
async def test_a_conversation_updated_between_any_two_requests_is_never_missed(
    tickets: int, seconds: int, size: int, seed: int, changes: list[int | None]
) -> None:
    desk, _ = make_desk(tickets, min(seconds, tickets), seed)
    before = set(desk.conversations)
    between = [write if ticket is None else change((ticket - 1) % tickets + 1) for ticket in changes]
    oldest = min(row.updated for row in desk.conversations.values())

    walk = reader(desk, size=size, between=iter(between)).walk(datetime.fromtimestamp(oldest, UTC))
    seen = await ids([read async for read in walk])

    assert before <= seen


@given(size=st.integers(2, 7), gone=st.lists(st.integers(1, 30), max_size=20))
@example(size=2, gone=[2, 2, 2, 3, 1, 4])
@settings(max_examples=80, deadline=None)
async def test_deletions_while_a_crowded_second_is_read_hide_nobody(size: int, gone: list[int]) -> None:
    desk, _ = make_desk(30, 1)
    oldest = min(row.updated for row in desk.conversations.values())

    walk = reader(desk, size=size, between=iter([delete(ticket) for ticket in gone])).walk(
        datetime.fromtimestamp(oldest, UTC)
    )
    seen = await ids([read async for read in walk])

    assert set(desk.conversations) <= seen


async def test_a_desk_that_loses_conversations_faster_than_they_can_be_listed_is_said_so() -> None:
    desk, _ = make_desk(2000, 1)
    oldest = min(row.updated for row in desk.conversations.values())

    def forever() -> Iterator[Between]:
        for ticket_id in range(1, 2000):
            yield delete(ticket_id)

    walk = reader(desk, size=300, between=forever()).walk(datetime.fromtimestamp(oldest, UTC))

    with pytest.raises(DeskUnavailableError, match="vanish faster"):
        async for _ in walk:
            pass
