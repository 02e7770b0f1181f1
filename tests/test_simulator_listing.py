"""The simulated list route: filters, order, paging, equal seconds, the repeated hour, and its speed."""

import json
from bisect import bisect_left
from datetime import UTC, datetime, timedelta
from time import perf_counter
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator import Api, ApiRequest, Desk, ManualClock
from simulator.index import SortedKeys

START = datetime(2026, 3, 2, 9, 0, 0, tzinfo=UTC)


class Lister:
    def __init__(self, start: datetime = START, zone: str = "UTC", *, random_ties: bool = True) -> None:
        self.clock = ManualClock(start)
        self.desk = Desk(clock=self.clock, seed=1, timezone=ZoneInfo(zone), random_ties=random_ties)
        self._api = Api(self.desk)

    def ask(self, **query: str) -> tuple[int, Any]:
        headers = {"X-FreeScout-API-Key": self.desk.api_key, "Accept": "application/json"}
        answer = self._api.answer(ApiRequest("GET", "/api/conversations", query, headers))
        return answer.status, json.loads(answer.body)

    def rows(self, **query: str) -> list[dict[str, Any]]:
        status, body = self.ask(**query)
        assert status == 200
        rows: list[dict[str, Any]] = body["_embedded"]["conversations"]
        return rows

    def ids(self, **query: str) -> list[int]:
        return [row["id"] for row in self.rows(**query)]

    def total(self, **query: str) -> int:
        return int(self.ask(pageSize="1", **query)[1]["page"]["totalElements"])


@pytest.fixture
def five() -> Lister:
    """Tickets 1 to 5, ten seconds apart from 09:00:00: active, closed, spam, a draft, deleted."""
    lister = Lister(random_ties=False)
    desk = lister.desk
    desk.customer_writes(subject="e")
    for number, status in enumerate(("closed", "spam"), start=2):
        lister.clock.advance(10)
        desk.customer_writes(status=status, subject="dcb"[number - 2], mailbox_id=2)
    lister.clock.advance(10)
    desk.save_draft(subject="b")
    lister.clock.advance(10)
    desk.delete_to_folder(desk.customer_writes(subject="a"))
    return lister


def test_a_list_holds_everything_newest_first_fifty_a_page(five: Lister) -> None:
    status, body = five.ask()

    assert status == 200
    assert [row["id"] for row in body["_embedded"]["conversations"]] == [5, 4, 3, 2, 1]
    assert body["page"] == {"size": 50, "totalElements": 5, "totalPages": 1, "number": 1}


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ({"status": "closed"}, {2}),
        ({"status": "closed,spam"}, {2, 3}),
        ({"status": "bogus"}, {1, 2, 3, 4, 5}),
        ({"state": "draft"}, {4}),
        ({"state": "deleted"}, {5}),
        ({"state": "bogus"}, {1, 2, 3, 4, 5}),
        ({"number": "3"}, {3}),
        ({"number": "3,4"}, {3}),
        ({"id": "3"}, {1, 2, 3, 4, 5}),
        ({"ids": "3,4"}, {1, 2, 3, 4, 5}),
        ({"tag": "urgent"}, {1, 2, 3, 4, 5}),
        ({"mailboxId": "2"}, {2, 3}),
        ({"mailboxId": "1,2"}, {1, 2, 3, 4, 5}),
        ({"mailboxId": "1,99"}, {1, 4, 5}),
        ({"mailboxId": "99"}, set()),
        ({"updatedSince": "2026-03-02T09:00:20Z"}, {3, 4, 5}),
        ({"updatedSince": "2026-03-02T09:00:20.999Z"}, {3, 4, 5}),
        ({"updatedSince": "2026-03-02T10:00:20+01:00"}, {3, 4, 5}),
        ({"createdSince": "2026-03-02T09:00:21Z"}, {4, 5}),
        ({"createdSince": "2026-03-02T09:00:10Z", "updatedSince": "2026-03-02T09:00:30Z"}, {4, 5}),
        ({"createdSince": "2026-03-02T09:00:10Z", "mailboxId": "2", "status": "spam"}, {3}),
        ({"updatedSince": ""}, {1, 2, 3, 4, 5}),
    ],
)
def test_filters(five: Lister, query: dict[str, str], ids: set[int]) -> None:
    assert set(five.ids(**query)) == ids
    assert five.total(**query) == len(ids)


@pytest.mark.parametrize(
    ("field", "ascending"),
    [
        ("createdAt", [1, 2, 3, 4, 5]),
        ("updatedAt", [2, 3, 4, 5, 1]),
        ("number", [1, 2, 3, 4, 5]),
        ("mailboxId", [1, 4, 5, 2, 3]),
        ("subject", [5, 4, 3, 2, 1]),
        ("id", [1, 2, 3, 4, 5]),
        ("bogus", [1, 2, 3, 4, 5]),
    ],
)
def test_orders(five: Lister, field: str, ascending: list[int]) -> None:
    five.clock.advance(1)
    five.desk.change_customer(1, 2)
    if field == "subject":
        five.desk.get(3).subject = "c"

    assert five.ids(sortField=field, sortOrder="asc") == ascending
    assert five.ids(sortField=field, sortOrder="desc") == ascending[::-1]
    assert five.ids(sortField=field, sortOrder="asc", pageSize="2", page="2") == ascending[2:4]


def test_a_page_past_the_end_is_empty_and_page_size_zero_is_fifty(five: Lister) -> None:
    past = five.ask(page="9")[1]
    zero = five.ask(pageSize="0")[1]

    assert past["_embedded"]["conversations"] == []
    assert past["page"] == {"size": 50, "totalElements": 5, "totalPages": 1, "number": 9}
    assert zero["page"]["size"] == 50


@pytest.mark.parametrize("page", ["0", "-1", "x"])
def test_a_page_that_is_none_is_the_first(five: Lister, page: str) -> None:
    assert five.ask(page=page)[1]["page"]["number"] == 1


@pytest.mark.parametrize(
    "query",
    [{"pageSize": "-1"}, {"pageSize": "many"}, {"updatedSince": "yesterdayish"}, {"createdSince": "2026-13-01"}],
)
def test_what_freescout_cannot_read_is_500(five: Lister, query: dict[str, str]) -> None:
    assert five.ask(**query) == (500, {"message": "Server Error"})


def test_threads_come_only_when_asked_for(five: Lister) -> None:
    bare, full = five.rows()[-1], five.rows(embed="threads")[-1]

    assert bare["_embedded"]["threads"] == []
    assert len(full["_embedded"]["threads"]) == 1


def test_offset_paging_over_a_moving_key_loses_a_row() -> None:
    lister = Lister()
    for _ in range(10):
        lister.desk.customer_writes()
        lister.clock.advance(1)
    order = {"sortField": "updatedAt", "sortOrder": "asc", "pageSize": "5"}

    seen = lister.ids(**order, page="1")
    lister.desk.set_status(2, "closed")
    seen += lister.ids(**order, page="2")

    assert set(range(1, 11)) - set(seen) == {6}


def test_paging_through_equals_in_random_order_loses_rows_and_a_whole_page_does_not() -> None:
    lister = Lister(random_ties=True)
    for _ in range(300):
        lister.desk.customer_writes()
    order = {"sortField": "updatedAt", "sortOrder": "asc"}

    by_page = {ticket for page in range(1, 7) for ticket in lister.ids(**order, pageSize="50", page=str(page))}

    assert len(by_page) < 300
    assert sorted(lister.ids(**order, pageSize="300")) == list(range(1, 301))
    assert lister.ids(**order, pageSize="300") != lister.ids(**order, pageSize="300")


@pytest.mark.parametrize("query", [{}, {"mailboxId": "1,2"}, {"createdSince": "2020-01-01T00:00:00Z"}])
def test_equals_at_the_edges_of_a_page_are_any_of_them_and_the_rest_is_in_order(query: dict[str, str]) -> None:
    lister = Lister(random_ties=True)
    for _ in range(1000):
        for _ in range(3):
            lister.desk.customer_writes()
        lister.clock.advance(1)
    order = {"sortField": "updatedAt", "sortOrder": "asc", **query}

    for page in ("1", "2", "300"):
        rows = lister.rows(**order, pageSize="10", page=page)
        dates = [row["updatedAt"] for row in rows]
        first = (int(page) - 1) * 10
        expected = [START + timedelta(seconds=position // 3) for position in range(first, first + 10)]
        assert dates == [date.strftime("%Y-%m-%dT%H:%M:%SZ") for date in expected]
        assert len({row["id"] for row in rows}) == 10


@given(
    st.lists(st.tuples(st.sampled_from(["write", "close", "move", "delete", "wait"]), st.integers(0, 30)), max_size=60),
    st.sampled_from(["updatedAt", "createdAt", "number"]),
    st.sampled_from(["asc", "desc"]),
    st.sampled_from([None, "1", "2", "1,2"]),
    st.integers(0, 40),
    st.sampled_from(["updatedSince", "createdSince", None]),
)
def test_the_indexes_answer_what_a_full_scan_would(
    steps: list[tuple[str, int]], field: str, order: str, mailboxes: str | None, since: int, bound: str | None
) -> None:
    lister = Lister(random_ties=False)
    desk = lister.desk
    for what, number in steps:
        living = [row.id for row in desk.truth()]
        ticket = living[number % len(living)] if living else desk.customer_writes()
        match what:
            case "write":
                desk.customer_writes(mailbox_id=number % 2 + 1)
            case "close":
                desk.bulk_set_status([ticket], "closed")
            case "move":
                desk.move(ticket, number % 2 + 1)
            case "delete":
                desk.delete_forever(ticket)
            case _:
                lister.clock.advance(number % 3)
    moment = (START + timedelta(seconds=since)).strftime("%Y-%m-%dT%H:%M:%SZ")
    query = {} if bound is None else {bound: moment}
    if mailboxes:
        query["mailboxId"] = mailboxes

    listed = lister.rows(sortField=field, sortOrder=order, pageSize="500", **query)

    expected = [
        row
        for row in desk.truth()
        if (mailboxes is None or str(row.mailbox_id) in mailboxes)
        and (bound is None or (row.updated if bound == "updatedSince" else row.created) >= START.timestamp() + since)
    ]
    assert sorted(row["id"] for row in listed) == sorted(row.id for row in expected)
    assert lister.total(**query) == len(expected)
    values = [row[field] for row in listed]
    assert values == sorted(values, reverse=order == "desc")


@given(st.lists(st.integers(0, 200)), st.integers(0, 201), st.integers(0, 50), st.integers(0, 50))
def test_sorted_keys_are_a_sorted_set(numbers: list[int], bound: int, start: int, length: int) -> None:
    keys, model = SortedKeys(), set[int]()
    for number in numbers:
        (keys.remove if number in model else keys.add)(number)
        model ^= {number}

    ordered = sorted(model)

    assert list(keys) == list(keys.walk()) == ordered
    assert keys.position(bound) == bisect_left(ordered, bound)
    assert keys.slice(start, start + length) == ordered[start : start + length]
    assert list(keys.walk(start)) == ordered[start:]
    assert list(keys.walk(start, descending=True)) == ordered[start:][::-1]


def test_sorted_keys_split_into_chunks_and_refuse_what_is_not_there() -> None:
    keys = SortedKeys(range(0, 20_000, 2))
    for number in range(1, 20_000, 2):
        keys.add(number)

    assert list(keys) == list(range(20_000))
    assert keys.position(12_345) == 12_345
    assert list(keys.walk(19_998, descending=True)) == [19_999, 19_998]
    with pytest.raises(KeyError):
        keys.remove(20_000)


def test_a_count_among_a_hundred_thousand_is_quick() -> None:
    lister = Lister()
    lister.desk.populate(100_000)
    questions = [
        {},
        {"mailboxId": "1"},
        {"mailboxId": "1,2"},
        {"createdSince": "2026-01-01T00:00:00Z"},
        {"createdSince": "2025-06-01T00:00:00Z", "mailboxId": "2"},
        {"updatedSince": "2026-01-01T00:00:00Z", "sortField": "updatedAt", "sortOrder": "asc"},
    ]

    started = perf_counter()
    for _ in range(10):
        for question in questions:
            lister.total(**question)

    # About 0.2 ms each; the bound leaves room for a busy machine and none for a scan of the table.
    assert (perf_counter() - started) / 60 < 0.01


def test_seeded_conversations_are_like_any_other() -> None:
    lister = Lister()
    seeded = lister.desk.populate(20)

    lister.desk.set_status(seeded[4], "closed" if lister.desk.get(seeded[4]).status != "closed" else "active")

    assert sorted(lister.ids()) == list(seeded)
    assert lister.desk.customer_writes() == 21
    rows = lister.rows(embed="threads")
    assert {len(row["_embedded"]["threads"]) for row in rows} == {1, 2}


class TestRepeatedHour:
    """In Berlin 02:00 to 03:00 happens twice on 2026-10-25, from 00:00Z and again from 01:00Z.

    In New York 01:00 to 02:00 does on 2026-11-01, from 05:00Z and again from 06:00Z.
    """

    @pytest.mark.parametrize(
        ("zone", "changed", "reported"),
        [
            # Measured: the first pass is reported one hour late, and the second right.
            ("Europe/Berlin", "2026-10-25T00:57:19Z", "2026-10-25T01:57:19Z"),
            ("Europe/Berlin", "2026-10-25T01:00:31Z", "2026-10-25T01:00:31Z"),
            ("Europe/London", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"),
            ("Europe/London", "2026-10-25T01:30:00Z", "2026-10-25T01:30:00Z"),
            ("Europe/Helsinki", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"),
            ("Europe/Helsinki", "2026-10-25T01:30:00Z", "2026-10-25T01:30:00Z"),
            ("Australia/Sydney", "2026-04-04T15:30:00Z", "2026-04-04T16:30:00Z"),
            ("Australia/Sydney", "2026-04-04T16:30:00Z", "2026-04-04T16:30:00Z"),
            # Measured: the first pass is reported right, and the second one hour early.
            ("America/New_York", "2026-11-01T05:30:00Z", "2026-11-01T05:30:00Z"),
            ("America/New_York", "2026-11-01T06:30:00Z", "2026-11-01T05:30:00Z"),
            # Around the hour, and in spring, every date is right.
            ("Europe/Berlin", "2026-10-24T23:59:59Z", "2026-10-24T23:59:59Z"),
            ("Europe/Berlin", "2026-10-25T02:00:00Z", "2026-10-25T02:00:00Z"),
            ("Europe/Berlin", "2026-03-29T00:59:59Z", "2026-03-29T00:59:59Z"),
            ("Europe/Berlin", "2026-03-29T01:00:00Z", "2026-03-29T01:00:00Z"),
            ("America/New_York", "2026-11-01T04:59:59Z", "2026-11-01T04:59:59Z"),
            ("America/New_York", "2026-11-01T07:00:00Z", "2026-11-01T07:00:00Z"),
            ("UTC", "2026-10-25T00:57:19Z", "2026-10-25T00:57:19Z"),
        ],
    )
    def test_what_a_change_is_reported_as(self, zone: str, changed: str, reported: str) -> None:
        lister = Lister(datetime.fromisoformat(changed), zone)
        lister.desk.customer_writes()

        assert lister.rows()[0]["updatedAt"] == reported

    @pytest.mark.parametrize(
        ("zone", "first", "second"),
        [
            ("Europe/Berlin", "2026-10-25T00:50:00Z", "2026-10-25T01:10:00Z"),
            ("America/New_York", "2026-11-01T05:50:00Z", "2026-11-01T06:10:00Z"),
        ],
    )
    def test_a_cursor_inside_the_hour_misses_changes_and_one_from_before_it_finds_them(
        self, zone: str, first: str, second: str
    ) -> None:
        lister = Lister(datetime.fromisoformat(first), zone)
        ticket = lister.desk.customer_writes()
        before = lister.rows()[0]["updatedAt"]
        lister.clock.advance_to(datetime.fromisoformat(second))
        lister.desk.set_status(ticket, "closed")

        assert lister.rows()[0]["updatedAt"] < before
        assert lister.ids(updatedSince=before) == []
        hour_before = datetime.fromisoformat(first) - timedelta(hours=1)
        assert lister.ids(updatedSince=hour_before.strftime("%Y-%m-%dT%H:%M:%SZ")) == [ticket]

    @pytest.mark.parametrize(
        ("zone", "never"),
        [("Europe/Berlin", "2026-10-25T00:00:00Z"), ("America/New_York", "2026-11-01T06:00:00Z")],
    )
    def test_seeded_conversations_bear_no_date_of_the_hour_that_is_never_reported(self, zone: str, never: str) -> None:
        begin = datetime.fromisoformat(never)
        lister = Lister(begin + timedelta(hours=2), zone)

        lister.desk.populate(1000, days=0.5)

        hour = range(int(begin.timestamp()), int(begin.timestamp()) + 3600)
        assert not [row.id for row in lister.desk.truth() if row.created in hour or row.updated in hour]

    @pytest.mark.parametrize(
        ("zone", "changed", "bound", "found"),
        [
            # A bound in the first pass counts as one in the second, an hour later: it misses what it asks for.
            ("Europe/Berlin", "2026-10-25T01:10:00Z", "2026-10-25T00:20:00Z", False),
            ("Europe/Berlin", "2026-10-25T01:30:00Z", "2026-10-25T00:20:00Z", True),
            # A bound in the second pass counts as one in the first, an hour earlier: it finds more than it asks for.
            ("America/New_York", "2026-11-01T05:20:00Z", "2026-11-01T06:10:00Z", True),
            ("America/New_York", "2026-11-01T05:05:00Z", "2026-11-01T06:10:00Z", False),
        ],
    )
    def test_a_bound_is_read_like_a_date(self, zone: str, changed: str, bound: str, *, found: bool) -> None:
        lister = Lister(datetime.fromisoformat(changed), zone)
        ticket = lister.desk.customer_writes()

        assert lister.ids(updatedSince=bound) == ([ticket] if found else [])
