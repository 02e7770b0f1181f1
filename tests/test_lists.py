"""Lists that are not what was asked for: capped, filtered by nobody, from a cache, or failing over one row."""

import itertools
import json
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

import asyncpg
import msgspec
import pytest

from conftest import Log
from db.database import Database
from freescout_audit.conversation import Sighting
from poller.answer import of_now
from poller.freescout import DeskError, DeskRefusedError, DeskResponse, DeskUnavailableError, FreeScout
from poller.page import Page
from poller.pieces import Around, Ask, around
from poller.unlisted import MOST, Listed, Unlisted
from poller.walk import Reader
from simulator import Api, ApiRequest, ApiResponse, Desk, ManualClock
from support.world import World, make_world

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


def row(
    ticket_id: int, *, updated: str = "2026-03-02T08:59:00Z", created: str = "2026-03-01T09:00:00Z"
) -> dict[str, object]:
    return {
        "id": ticket_id,
        "number": ticket_id,
        "mailboxId": 1,
        "status": "active",
        "state": "published",
        "createdAt": created,
        "updatedAt": updated,
    }


def listing(
    *rows: object, total: int, size: int = 0, number: int = 0, headers: Mapping[str, str] | None = None
) -> DeskResponse:
    page = {"totalElements": total} | ({"size": size} if size else {}) | ({"number": number} if number else {})
    document = {"_embedded": {"conversations": rows}, "page": page}
    present = {"content-type": "application/json", "date": "Mon, 02 Mar 2026 09:00:00 GMT"}
    return DeskResponse(status=200, headers=present | dict(headers or {}), body=json.dumps(document).encode())


def desk(answer: DeskResponse) -> FreeScout:
    """A desk that gives one answer, and no second one."""
    answers = [answer]

    async def transport(_path: str, _query: Mapping[str, str], /) -> DeskResponse:
        return answers.pop()

    return FreeScout(transport)


def reader(
    real: Desk, *, size: int, ahead: timedelta | None = None, clock: ManualClock | None = None
) -> tuple[Reader, Api]:
    api = Api(real)
    headers = {"X-FreeScout-API-Key": real.api_key, "Accept": "application/json"}

    async def transport(path: str, query: Mapping[str, str], /) -> DeskResponse:
        answer = api.answer(ApiRequest("GET", f"/api/{path}", query, headers))
        received = {name.lower(): value for name, value in answer.headers}
        return DeskResponse(status=answer.status, headers=received, body=answer.body)

    async def now() -> datetime:
        return NOW if clock is None else clock.now()

    async def no_sleep(_seconds: float) -> None:
        pass

    return Reader(FreeScout(transport, sleep=no_sleep), now, size=size, ahead=lambda: ahead), api


class TestOnePage:
    @pytest.mark.parametrize(
        ("size", "rows", "total", "ends", "short"),
        [
            (200, 200, 640, False, False),
            (250, 200, 640, False, True),
            (0, 200, 640, False, True),
            (200, 200, 200, False, False),
            (200, 40, 40, True, False),
            (250, 40, 40, True, False),
            (0, 0, 0, True, False),
        ],
    )
    async def test_the_end_of_a_list_is_where_its_total_says(
        self, size: int, rows: int, total: int, *, ends: bool, short: bool
    ) -> None:
        answer = listing(*(row(n + 1) for n in range(rows)), total=total, size=size)

        page = await desk(answer).page(size=250)

        assert (page.ends, page.is_short, page.limit) == (ends, short, size or 250)

    @pytest.mark.parametrize(
        ("answer", "ignored"),
        [
            (listing(row(1, updated="2026-03-02T07:29:59Z"), total=1), "updatedSince"),
            (listing(row(1, created="2026-02-01T07:29:59Z"), total=1), "createdSince"),
            (listing(row(2, updated="2026-03-02T08:59:01Z"), row(1), total=2), "sortField or sortOrder"),
            (listing(row(1) | {"mailboxId": 3}, total=1), "mailboxId"),
            (listing(*(row(n) for n in range(1, 7)), total=9), "pageSize"),
            (listing(row(1), total=9, number=2), "page"),
        ],
    )
    async def test_an_answer_that_ignores_what_was_asked_is_refused_in_one_line(
        self, answer: DeskResponse, ignored: str, log: Log
    ) -> None:
        with pytest.raises(DeskRefusedError, match=f"list ignores {ignored}: ") as raised:
            await desk(answer).page(
                size=5,
                updated_since=NOW - timedelta(minutes=30),
                created_since=NOW - timedelta(days=2),
                mailboxes=[1, 2],
            )

        assert "proxy" in raised.value.next_step
        assert log.lines("desk.retry") == []

    async def test_in_the_repeated_hour_a_row_may_be_dated_an_hour_early(self) -> None:
        answer = listing(row(1, updated="2026-03-02T07:30:00Z"), total=1)

        page = await desk(answer).page(size=5, updated_since=NOW - timedelta(minutes=30))

        assert page.rows == 1

    @pytest.mark.parametrize("headers", [{"age": "40"}, {"age": "40", "via": "1.1 varnish"}])
    async def test_an_answer_with_an_age_is_a_caches(self, headers: dict[str, str]) -> None:
        with pytest.raises(DeskUnavailableError, match="40 s old: a cache gave it") as raised:
            await desk(listing(row(1), total=1, headers=headers)).page(size=5)

        assert headers.get("via", "") in raised.value.problem

    async def test_an_answer_of_now_may_bear_an_age_of_zero(self) -> None:
        assert (await desk(listing(row(1), total=1, headers={"age": "0"})).page(size=5)).rows == 1

    async def test_nesting_without_end_is_no_list(self) -> None:
        body = b'{"_embedded":{"conversations":[' + b"[" * 100_000
        headers = {"content-type": "application/json", "date": "Mon, 02 Mar 2026 09:00:00 GMT"}

        with pytest.raises(DeskUnavailableError, match="not what it should be"):
            await desk(DeskResponse(status=200, headers=headers, body=body)).page(size=5, retries=0)


class TestCappedPages:
    @pytest.mark.parametrize("told", [True, False])
    async def test_nothing_is_missed_behind_a_smaller_page(
        self, database: Database, sql: asyncpg.Connection, *, told: bool, log: Log
    ) -> None:
        async with make_world(database, sql, tickets=60, page_size=25, sockets=False) as world:
            world.desk.faults.page_cap, world.desk.faults.page_cap_told = 10, told
            await world.poll()
            world.desk.faults.drop_chance = 1.0
            for ticket_id in range(1, 41):
                world.desk.set_status(ticket_id, "spam")
                await world.advance(1 if ticket_id % 3 else 0)

            await world.poll()

            assert await world.wrong() == {}
            assert [(line["asked"], line["given"]) for line in log.lines("desk.caps_pages")] == [(25, 10)]

    @pytest.mark.parametrize("told", [False, True])
    async def test_a_page_is_not_smaller_because_a_row_vanished_when_it_was_counted(
        self, log: Log, *, told: bool
    ) -> None:
        """The desk counts, and then reads. One that calls the rows of a page its size has no smaller pages either."""
        rows = [row(ticket_id) for ticket_id in range(1, 5)]
        counted = itertools.chain([4 if told else 5], itertools.repeat(4))

        async def transport(_path: str, query: Mapping[str, str], /) -> DeskResponse:
            size, first = int(query["pageSize"]), (int(query["page"]) - 1) * int(query["pageSize"])
            shown = rows[first : first + size]
            return listing(*shown, total=next(counted), size=len(shown) if told else 0)

        async def clock() -> datetime:
            return NOW

        walk = Reader(FreeScout(transport), clock, size=50)

        seen = {ticket for read in [read async for read in walk.walk(NOW)] for ticket in read.ticket_ids}

        assert (seen, walk.size) == ({1, 2, 3, 4}, 50)
        assert not log.lines("desk.caps_pages")

    async def test_a_crowded_second_is_read_by_the_numbers_of_smaller_pages(self) -> None:
        clock = ManualClock()
        real = Desk(clock=clock, seed=1)
        real.populate(30, days=1)
        for ticket_id in list(real.conversations):
            real.change_subject(ticket_id, "Changed")
        real.faults.page_cap = 4
        walk, _ = reader(real, size=7)

        seen = {ticket for read in [read async for read in walk.walk(clock.now())] for ticket in read.ticket_ids}

        assert seen == set(real.conversations)


async def test_rows_without_a_date_of_creation_are_read_on_by_number(
    database: Database, sql: asyncpg.Connection
) -> None:
    async with make_world(database, sql, tickets=0, page_size=2, sockets=False) as world:
        for _ in range(7):
            world.desk.customer_writes(created=0)
        for _ in range(5):
            world.desk.customer_writes()
            await world.advance(1)
        await sql.execute("DELETE FROM freescout_ticket")

        await world.poll()

        assert await world.wrong() == {}
        assert await sql.fetchval("SELECT count(*) FROM freescout_ticket WHERE created_at IS NULL") == 7
        world.desk.delete_forever(3)
        await world.poll()
        assert await world.wrong() == {}


class TestDroppedFilters:
    @pytest.fixture
    async def world(self, database: Database, sql: asyncpg.Connection) -> AsyncIterator[World]:
        async with make_world(database, sql, tickets=60, page_size=20, sockets=False) as world:
            await world.poll()
            await world.advance(4000)
            await world.poll()
            world.desk.faults.drop_chance = 1.0
            for ticket_id in range(30, 0, -1):
                world.desk.set_status(ticket_id, "spam")
                await world.advance(1)
            await world.advance(100)
            yield world

    @pytest.mark.parametrize("dropped", ["*", "updatedSince", "sortField", "sortOrder", "pageSize", "createdSince"])
    async def test_a_pass_over_them_fails_and_writes_nothing_of_it(self, world: World, dropped: str, log: Log) -> None:
        world.desk.faults.dropped = frozenset({dropped})
        stood = "SELECT array_agg((ticket_id, truth_at, status) ORDER BY ticket_id) FROM freescout_ticket"
        before, requests = await world.sql.fetchval(stood), world.api.count

        with pytest.raises(DeskRefusedError, match="list ignores"):
            await world.passes.run()

        assert world.api.count - requests < 10
        if dropped != "createdSince":  # the first answer has nothing to do with that one
            assert await world.sql.fetchval(stood) == before
        world.desk.faults.dropped = frozenset()
        await world.poll()
        assert await world.wrong() == {}


class TestACacheBeforeTheDesk:
    @pytest.fixture
    async def world(self, database: Database, sql: asyncpg.Connection) -> AsyncIterator[World]:
        async with make_world(database, sql, tickets=12, sockets=False) as world:
            await world.poll()
            await world.advance(10)
            yield world

    @pytest.mark.parametrize("tells", ["age", "date"])
    async def test_what_it_remembers_of_a_list_fails_the_pass(self, world: World, tells: str) -> None:
        world.desk.faults.cache, world.desk.faults.cache_tells = 300, tells  # type: ignore[assignment]
        await world.passes.run()
        before = await world.sql.fetchval("SELECT lease_until FROM freescout_lease")
        await world.advance(2)
        world.desk.set_status(3, "spam" if world.desk.get(3).status != "spam" else "closed")
        await world.advance(10)
        assert await world.wrong() == {}

        with pytest.raises(DeskUnavailableError, match="cache") as raised:
            await world.passes.run()

        assert "cache.example.org" in raised.value.problem
        assert await world.wrong() == {}
        assert await world.sql.fetchval("SELECT lease_until FROM freescout_lease") == before

    @pytest.mark.parametrize("tells", ["age", "date"])
    async def test_what_it_remembers_of_a_ticket_leaves_the_question_open(
        self, world: World, tells: str, log: Log
    ) -> None:
        await world.beat()
        world.desk.reply_by_mail(3, status="spam" if world.desk.get(3).status != "spam" else "closed")
        world.desk.faults.cache, world.desk.faults.cache_tells = 300, tells  # type: ignore[assignment]
        await world.freescout.conversation(3)
        world.desk.set_status(3, "pending" if world.desk.get(3).status != "pending" else "active")
        await world.advance(60)
        assert await world.disputes() == 1

        await world.ask()

        assert await world.disputes() == 1
        assert "cache" in log.lines("question.failed")[0]["reason"]
        world.desk.faults.cache = 0
        await world.poll()
        assert await world.wrong() == {}

    @pytest.mark.parametrize("set_back", [0, 7200])
    async def test_an_old_first_answer_is_no_clock_that_was_set_back(
        self, world: World, log: Log, set_back: float
    ) -> None:
        """The same list is asked for as the pass before did: a cache may have that answer."""
        world.desk.faults.cache, world.desk.faults.cache_tells = 3600, "date"
        await world.sql.execute("UPDATE freescout_lease SET complete_through = complete_through - interval '5 s'")
        await world.freescout.page(
            size=50,
            updated_since=await world.sql.fetchval("SELECT complete_through FROM freescout_lease")
            - timedelta(seconds=3900),
        )
        seen = await world.sql.fetchrow("SELECT seen_through, clock_offset, set_back_at FROM freescout_lease")
        world.desk.faults.clock_offset = -set_back
        await world.advance(100)

        with pytest.raises(DeskUnavailableError, match="a cache gave it"):
            await world.passes.run()

        assert await world.sql.fetchrow("SELECT seen_through, clock_offset, set_back_at FROM freescout_lease") == seen
        assert log.lines("desk.clock_went_back") == []


async def test_an_answer_from_before_the_desks_clock_was_set_back_is_none_of_now() -> None:
    later = listing(row(1), total=1, headers={"date": "Mon, 02 Mar 2026 09:08:00 GMT"})
    with of_now(NOW, timedelta()), pytest.raises(DeskUnavailableError, match="dated 480 s after it was asked for"):
        await desk(later).page(size=20, retries=0)

    slow = listing(row(1), total=1, headers={"date": "Mon, 02 Mar 2026 09:05:00 GMT"})
    with of_now(NOW, timedelta()):
        assert (await desk(slow).page(size=20, retries=0)).total == 1


async def test_a_part_of_a_page_is_an_answer_of_its_own_time() -> None:
    """Lists that fail may take longer than an answer may be dated after its question."""
    clock = ManualClock()
    real = Desk(clock=clock, seed=1)
    real.populate(30, days=1)
    real.faults.unlistable.add(7)
    walk, api = reader(real, size=32, ahead=timedelta(), clock=clock)
    answer = api.answer

    def slowly(request: ApiRequest) -> ApiResponse:
        answered = answer(request)
        if answered.status == HTTPStatus.INTERNAL_SERVER_ERROR:
            clock.advance(120)
        return answered

    api.answer = slowly  # type: ignore[method-assign]

    seen = {ticket for read in [read async for read in walk.walk(None, by="createdAt")] for ticket in read.ticket_ids}

    assert seen == set(real.conversations) - {7}


class TestARowThatMakesListsFail:
    @pytest.fixture
    async def world(self, database: Database, sql: asyncpg.Connection) -> AsyncIterator[World]:
        async with make_world(database, sql, tickets=100, page_size=20, sockets=False) as world:
            await world.poll()
            await world.advance(4000)
            await world.poll()
            world.desk.faults.drop_chance = 1.0
            yield world

    @pytest.mark.parametrize("status", [500, 502])
    async def test_it_costs_one_ticket_whether_its_php_fails_or_breaks_off(self, world: World, status: int) -> None:
        world.desk.faults.unlistable_answer = HTTPStatus(status)
        await self.change(world, *range(41, 50))
        self.poison(world, 45)

        await world.advance(100)
        await world.poll()

        await world.advance(6)
        assert await world.wrong() == {45: ("none", world.truth(45))}

    def poison(self, world: World, *ticket_ids: int, alone: bool = True) -> None:
        world.desk.faults.unlistable |= set(ticket_ids)
        if alone:
            world.desk.faults.unreadable |= set(ticket_ids)

    async def change(self, world: World, *ticket_ids: int) -> None:
        for ticket_id in ticket_ids:
            world.desk.set_status(ticket_id, "spam" if world.desk.get(ticket_id).status != "spam" else "closed")
            await world.advance(1)

    @pytest.mark.parametrize("place", [0, 7, 16])
    async def test_it_reads_none_and_is_named_once_and_everybody_else_is_vouched_for(
        self, world: World, place: int, log: Log
    ) -> None:
        changed = [*range(41, 57)]
        await self.change(world, *changed[:place], 60, *changed[place:])
        self.poison(world, 60)

        for _ in range(2):
            await world.advance(100)
            before = await world.sql.fetchval("SELECT lease_until FROM freescout_lease")
            await world.poll()
            assert await world.sql.fetchval("SELECT lease_until FROM freescout_lease") > before
            await world.advance(6)
            assert await world.wrong() == {60: ("none", world.truth(60))}

        assert [line["ticket_id"] for line in log.lines("desk.unlistable")] == [60]
        assert log.lines("pass.failed") == log.lines("desk.retry") == []

        world.desk.faults.unlistable, world.desk.faults.unreadable = set(), set()
        await world.advance(200)
        await world.poll()
        assert await world.wrong() == {}

    async def test_another_that_parts_of_its_page_did_not_show_is_not_missed_nor_blamed(
        self, world: World, monkeypatch: pytest.MonkeyPatch, log: Log
    ) -> None:
        async def in_any_order(ask: Ask, *, size: int, number: int, since: datetime | None) -> Around:
            """Rows of one date come in any order: one part may show again what another has shown."""
            world.desk.faults.unlistable.clear()
            read = await around(ask, size=size, number=number, since=since)
            rows = [row for row in read.page.sightings if row.ticket_id != 43]
            return read._replace(page=msgspec.structs.replace(read.page, sightings=[*rows, *rows[:1]]))

        monkeypatch.setattr("poller.walk.around", in_any_order)
        await self.change(world, *range(41, 50), 60)
        self.poison(world, 60, alone=False)

        await world.poll()
        await world.advance(6)

        assert await world.wrong() == {}
        assert world.passes.trouble == ""
        assert log.lines("desk.unlistable") == []

    async def test_a_list_that_changes_while_its_parts_are_read_is_read_again(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        deleted = iter([44])

        async def while_one_goes(ask: Ask, *, size: int, number: int, since: datetime | None) -> Around:
            async def and_then(**asked: object) -> Page:
                page = await ask(**asked)
                if page.rows and (gone := next(deleted, None)) is not None:
                    world.desk.delete_forever(gone)
                return page

            world.desk.faults.unlistable.clear()
            return await around(and_then, size=size, number=number, since=since)

        monkeypatch.setattr("poller.walk.around", while_one_goes)
        await self.change(world, *range(41, 57), 60)
        self.poison(world, 60, alone=False)

        await world.poll()
        await world.advance(6)

        assert await world.wrong() == {}

    async def test_one_whose_id_is_not_known_makes_up_for_none_that_was_deleted(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        account = Unlisted.account

        async def and_then_it_is_shown(
            unlisted: Unlisted, listed: Listed, shown: Mapping[int, Sighting]
        ) -> tuple[set[int], list[datetime | None]]:
            found = await account(unlisted, listed, shown)
            world.desk.faults.unlistable, world.desk.faults.unreadable = set(), set()
            return found

        monkeypatch.setattr(Unlisted, "account", and_then_it_is_shown)
        await self.change(world, *range(41, 50))
        imported = world.desk.customer_writes(created=world.desk.get(1).created)
        await self.change(world, *range(51, 58))
        self.poison(world, imported)
        world.desk.delete_forever(5)

        await world.poll()
        await world.advance(6)

        assert await world.wrong() == {}

    async def test_nor_does_one_that_vanishes_when_it_was_shown_make_up_for_it(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        count, gone = Reader.count, iter([43])

        async def after_one_goes(reader: Reader, *, updated_since: datetime | None = None, **asked: Any) -> int:
            if updated_since is not None and (ticket_id := next(gone, None)) is not None:
                world.desk.delete_forever(ticket_id)
            return await count(reader, updated_since=updated_since, **asked)

        monkeypatch.setattr(Reader, "count", after_one_goes)
        await self.change(world, *range(41, 50))
        imported = world.desk.customer_writes(created=world.desk.get(1).created)
        self.poison(world, imported)
        world.desk.delete_forever(5)

        await world.poll()
        await world.advance(6)

        assert await world.wrong() == {imported: ("none", "active")}

    async def test_the_second_time_it_is_found_with_few_requests(self, world: World) -> None:
        await self.change(world, *range(41, 57), 60)
        self.poison(world, 60)
        spent = []
        for _ in range(2):
            await world.advance(100)
            before = world.api.count
            await world.passes.run()
            spent.append(world.api.count - before)

        assert spent[0] < 80
        assert spent[1] < 35

    async def test_one_that_answers_alone_is_read_alone(self, world: World, log: Log) -> None:
        await self.change(world, *range(41, 57), 60)
        self.poison(world, 60, alone=False)

        await world.poll()

        assert await world.wrong() == {}
        assert await world.disputes() == 0
        assert [line["ticket_id"] for line in log.lines("desk.unlistable")] == [60]

    async def test_several_cost_as_many(self, world: World) -> None:
        await self.change(world, *range(41, 57), 60, 99, 3)
        self.poison(world, 60, 99, 3, 48)

        await world.poll()
        await world.advance(6)

        assert set(await world.wrong()) == {60, 99, 3, 48}

    async def test_a_deletion_beside_it_is_found(self, world: World) -> None:
        await self.change(world, 60)
        self.poison(world, 60)
        world.desk.delete_forever(61)
        world.desk.delete_forever(10)

        await world.poll()
        await world.advance(6)

        assert await world.wrong() == {60: ("none", world.truth(60))}
        assert await world.sql.fetchval("SELECT array_agg(ticket_id) FROM freescout_ticket WHERE gone") == [10, 61]

    @pytest.mark.parametrize("ticket_id", [1, 60])
    async def test_a_first_load_ends_over_it(
        self, database: Database, sql: asyncpg.Connection, ticket_id: int, log: Log
    ) -> None:
        async with make_world(database, sql, tickets=60, page_size=20, sockets=False) as world:
            self.poison(world, ticket_id)

            await world.poll()
            await world.advance(6)

            assert await world.wrong() == {ticket_id: ("none", world.truth(ticket_id))}
            assert [line["ticket_id"] for line in log.lines("desk.unlistable")] == [ticket_id]
            await world.poll()
            assert len(log.lines("pass.completed")) == 2

    async def test_one_whose_id_nobody_can_tell_is_named_by_its_creation(
        self, database: Database, sql: asyncpg.Connection, log: Log
    ) -> None:
        """An imported one: neither neighbours nor deliveries tell its id."""
        async with make_world(database, sql, tickets=40, page_size=20, sockets=False) as world:
            ticket_id = world.desk.customer_writes(created=world.desk.get(5).created + 1)
            await world.advance(5000)
            await sql.execute("DELETE FROM freescout_ticket")
            self.poison(world, ticket_id)

            for _ in range(2):
                await world.advance(100)
                await world.passes.run()

            assert await world.wrong() == {ticket_id: ("none", "active")}
            (line,) = log.lines("desk.unlistable")
            assert datetime.fromisoformat(line["created_at"]).timestamp() == world.desk.get(ticket_id).created
            assert len(log.lines("pass.completed")) == 2

    async def test_it_holds_up_no_other_question(self, world: World) -> None:
        await self.change(world, 60)
        self.poison(world, 60)
        for _ in range(9):
            await world.advance(130)
            await world.poll()
        world.desk.faults.drop_chance = 0
        world.desk.reply_by_mail(7, status="spam" if world.desk.get(7).status != "spam" else "closed")
        await world.advance(6)
        await world.ask()

        assert await world.wrong() == {60: ("none", world.truth(60))}

    async def test_more_than_a_few_are_the_desks_trouble(self, world: World) -> None:
        await self.change(world, *range(41, 59))
        self.poison(world, *range(41, 59))

        with pytest.raises(DeskError, match=r"the page from 2026-\S+ of 20 rows answers 500") as raised:
            await world.passes.run()

        assert MOST < 18
        assert raised.value.next_step == "see storage/logs at the desk"
