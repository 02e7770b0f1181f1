"""What the console finds out and repairs, against a desk whose deliveries get lost."""

import asyncio
import io
from collections.abc import AsyncIterator
from datetime import datetime

import asyncpg
import pytest
from rich.console import Console

from conftest import ENVIRONMENT
from db.database import Database
from db.transitions import number_transitions
from ops.endtoend import DeliveryTest, run_test
from ops.workplace import Workplace
from settings import load_settings
from simulator import ApiFault
from support.console_world import Operator, at_the_console, run
from support.world import make_world


@pytest.fixture
async def operator(database: Database, database_url: str, sql: asyncpg.Connection) -> AsyncIterator[Operator]:
    """A desk of twelve tickets that a poller has read once and reads no more; deliveries come."""
    async with (
        make_world(database, sql, tickets=12, sockets=False) as world,
        at_the_console(world, database_url) as operator,
    ):
        world.desk.faults.drop_chance = 0
        for ticket_id in range(1, 13):
            world.desk.get(ticket_id).state = "published"
        await world.poll()
        await world.advance(60)
        yield operator


async def lose(operator: Operator, ticket_id: int, status: str) -> None:
    """Change a ticket's status at the desk, and lose what is sent of it."""
    desk = operator.world.desk
    desk.faults.drop_chance = 1
    desk.set_status(ticket_id, status)
    await operator.world.advance(10)
    desk.faults.drop_chance = 0


def other(operator: Operator, ticket_id: int) -> str:
    return "spam" if operator.world.desk.get(ticket_id).status != "spam" else "closed"


class TestTicket:
    async def test_it_says_what_the_cache_answers_and_why_and_what_happened(self, operator: Operator) -> None:
        status = other(operator, 3)
        operator.world.desk.set_status(3, status)
        await operator.world.advance(10)
        await operator.world.poll()

        said = await operator.types("ticket", "3", "--json")

        assert said.code == 0
        assert (said.json["answer"], said.json["reason"], said.json["desk"]) == (status, "ok", None)
        assert [(moment["kind"], moment["event"], moment["outcome"]) for moment in said.json["history"]] == [
            ("read", "read from FreeScout", "changed"),  # the first load
            ("delivery", "convo.status", "applied"),
        ]

    async def test_asking_freescout_shows_a_cache_that_is_wrong_and_writes_nothing(
        self, operator: Operator, sql: asyncpg.Connection
    ) -> None:
        status = other(operator, 3)
        await lose(operator, 3, status)
        before = await sql.fetch("SELECT * FROM freescout_ticket ORDER BY ticket_id")

        said = await operator.types("ticket", "3", "--ask", "--json")
        picture = await operator.types("ticket", "3", "--ask")

        assert said.code == 1
        assert (said.json["desk"]["status"], said.json["desk"]["agrees"]) == (status, False)
        assert "the cache does not say so: heal it" in picture.out
        assert await sql.fetch("SELECT * FROM freescout_ticket ORDER BY ticket_id") == before

    async def test_a_gap_stands_on_the_same_line_as_the_deliveries(self, operator: Operator) -> None:
        operator.world.desk.set_status(3, other(operator, 3))
        await operator.world.advance(10)
        await operator.world.poll()
        await lose(operator, 3, other(operator, 3))
        await operator.world.poll()

        history = (await operator.types("ticket", "3", "--json")).json["history"]

        assert [moment["kind"] for moment in history] == ["read", "delivery", "gap", "read"]
        assert [moment["at"] for moment in history] == sorted(moment["at"] for moment in history)

    @pytest.mark.parametrize(
        ("which", "code", "reason"), [("3", 0, "ok"), ("#3", 0, "ok"), ("9999", 1, "miss"), (str(2**63 - 1), 1, "miss")]
    )
    async def test_it_is_named_by_id_or_number(self, operator: Operator, which: str, code: int, reason: str) -> None:
        said = await operator.types("ticket", which, "--json")

        assert (said.code, said.json["reason"]) == (code, reason)

    async def test_a_number_that_was_given_twice_has_to_be_told_apart(
        self, operator: Operator, sql: asyncpg.Connection
    ) -> None:
        await sql.execute("UPDATE freescout_ticket SET number = 3 WHERE ticket_id = 4")

        said = await operator.types("ticket", "#3", "--json")

        assert said.code == 1
        assert said.json["error"] == "#3 was given to several tickets"
        assert said.json["next_step"] == "name one by its id, 3, 4"

    @pytest.mark.parametrize("which", ["", "#", "x", "3.5", "0", str(2**63), "9" * 5000])
    def test_what_is_neither_is_a_wrong_call(self, which: str) -> None:
        assert run("ticket", which, variables={}).code == 2

    async def test_it_says_what_was_answered_at_a_moment_and_what_had_happened_until_then(
        self, operator: Operator
    ) -> None:
        before, after = operator.world.desk.get(3).status, other(operator, 3)
        then = operator.world.clock.now()
        await operator.world.advance(30)
        operator.world.desk.set_status(3, after)
        await operator.world.advance(10)

        said = await operator.types("ticket", "3", "--at", then.isoformat(), "--json")
        now = await operator.types("ticket", "3", "--at", "0s", "--json")
        drawn = await operator.types("ticket", "3", "--at", then.isoformat())

        assert (said.code, said.json["answer"], said.json["reason"]) == (0, before, "ok")
        assert (now.json["answer"], len(now.json["history"]) - len(said.json["history"])) == (after, 1)
        assert f"at {then:%Y-%m-%d %H:%M:%S} UTC" in drawn.out

    async def test_of_a_moment_to_come_or_long_past_it_says_none(self, operator: Operator) -> None:
        for moment, reason in (("2099-01-01", "to_come"), ("2001-01-01", "not_kept")):
            said = await operator.types("ticket", "3", "--at", moment, "--json")

            assert (said.code, said.json["answer"], said.json["reason"]) == (1, "none", reason)

    async def test_freescout_is_asked_about_now_alone(self, operator: Operator) -> None:
        said = await operator.types("ticket", "3", "--at", "10:42", "--ask")

        assert said.code == 2


class TestTransitions:
    async def test_it_lists_what_has_changed_in_the_order_of_the_feed(self, operator: Operator) -> None:
        status = other(operator, 3)
        before = operator.world.desk.get(3).status
        operator.world.desk.set_status(3, status)
        await operator.world.advance(10)
        await number_transitions(operator.world.database)

        said = await operator.types("transitions", "--ticket", "3", "--json")
        newest = await operator.types("transitions", "--limit", "1", "--json")
        drawn = await operator.types("transitions")

        chain = [(each["before"], each["after"]) for each in said.json["transitions"]]
        assert chain == [("none", before), (before, status)]
        assert newest.json["transitions"] == said.json["transitions"][-1:]
        assert "13 transitions" in drawn.out
        assert said.json["transitions"][-1]["via"] == "webhook"

    async def test_a_time_since_which_nothing_has_changed_has_none(self, operator: Operator) -> None:
        said = await operator.types("transitions", "--since", "2098-01-01", "--json")

        assert (said.code, said.json) == (0, {"transitions": []})


class TestJournal:
    async def test_deliveries_are_filtered(self, operator: Operator) -> None:
        desk = operator.world.desk
        for ticket_id in (1, 2, 3):
            desk.set_status(ticket_id, other(operator, ticket_id))
        desk.assign(1, 2)
        await operator.world.advance(60)
        desk.move(2, 2 if desk.get(2).mailbox_id == 1 else 1)
        await operator.world.advance(20)

        async def names(*arguments: str) -> list[tuple[int, str]]:
            said = await operator.types("deliveries", "--json", *arguments)
            return [(entry["ticket_id"], entry["event"].removeprefix("convo.")) for entry in said.json["deliveries"]]

        assert await names() == [(2, "moved"), (1, "assigned"), (3, "status"), (2, "status"), (1, "status")]
        assert await names("--ticket", "1") == [(1, "assigned"), (1, "status")]
        assert await names("--event", "convo.m*", "--event", "convo.assigned") == [(2, "moved"), (1, "assigned")]
        assert await names("--event", "convo_status") == []
        assert await names("--outcome", "duplicate") == [(1, "assigned")]
        assert await names("--since", "40s") == [(2, "moved")]
        assert await names("--limit", "1") == [(2, "moved")]

    async def test_gaps_are_filtered(self, operator: Operator, sql: asyncpg.Connection) -> None:
        operator.world.desk.set_status(12, other(operator, 12))
        await operator.world.advance(10)
        await lose(operator, 3, other(operator, 3))
        await lose(operator, 4, other(operator, 4))
        await operator.world.poll()
        await sql.execute("UPDATE freescout_gap SET verdict = 'late', late_by = interval '95 s' WHERE ticket_id = 4")

        async def tickets(*arguments: str) -> set[tuple[int, str, float | None]]:
            said = await operator.types("gaps", "--json", *arguments)
            return {(gap["ticket_id"], gap["verdict"], gap["late_by"]) for gap in said.json["gaps"]}

        assert await tickets() == {(3, "waiting", None), (4, "late", 95)}
        assert await tickets("--ticket", "3") == {(3, "waiting", None)}
        assert await tickets("--verdict", "late", "--verdict", "lost") == {(4, "late", 95)}
        assert await tickets("--since", "2099-01-01") == set()
        assert "late by 1 min 35 s" in (await operator.types("gaps")).out


class TestHeal:
    async def test_a_ticket_that_is_wrong_is_right_again_and_counts_as_a_gap(
        self, operator: Operator, sql: asyncpg.Connection
    ) -> None:
        operator.world.desk.set_status(12, other(operator, 12))
        await operator.world.advance(10)
        before, status = operator.world.desk.get(3).status, other(operator, 3)
        await lose(operator, 3, status)

        said = await operator.types("heal", "3", "4", "--json")

        (wrong, right) = said.json["findings"]
        assert (wrong["cached_status"], wrong["true_status"], wrong["outcome"]) == (before, status, "healed")
        assert (right["ticket_id"], right["outcome"]) == (4, "same")
        assert said.code == 0
        assert await operator.world.state(3) == status
        assert await sql.fetchval("SELECT ticket_id FROM freescout_gap") == 3

    async def test_a_ticket_that_is_gone_becomes_a_tombstone_and_one_that_never_was_does_not(
        self, operator: Operator, sql: asyncpg.Connection
    ) -> None:
        operator.world.desk.faults.drop_chance = 1
        operator.world.desk.delete_forever(3)
        await operator.world.advance(10)

        said = await operator.types("heal", "3", "9999", "--json")

        assert [finding["outcome"] for finding in said.json["findings"]] == ["gone", "same"]
        assert await sql.fetchval("SELECT gone FROM freescout_ticket WHERE ticket_id = 3")
        assert await sql.fetchval("SELECT count(*) FROM freescout_ticket WHERE ticket_id = 9999") == 0

    async def test_a_404_of_a_desk_that_lists_nothing_is_no_truth(self, operator: Operator) -> None:
        operator.world.desk.faults.api = ApiFault.NOT_FOUND_JSON

        said = await operator.types("heal", "3", "--json")

        assert said.code == 3
        assert await operator.world.state(3) == operator.world.truth(3)

    async def test_everything_is_read_and_what_is_gone_is_found(self, operator: Operator) -> None:
        desk = operator.world.desk
        await lose(operator, 3, other(operator, 3))
        desk.faults.drop_chance = 1
        desk.delete_forever(5)
        await operator.world.advance(10)

        said = await operator.types("heal", "--all", "--json")

        assert {finding["ticket_id"]: finding["outcome"] for finding in said.json["findings"]} == {
            3: "healed",
            5: "gone",
        }
        assert await operator.world.wrong() == {}

    @pytest.mark.parametrize("arguments", [(), ("3", "--all"), ("--all", "--since", "1h"), ("--since", "soon"), ("0",)])
    def test_a_call_that_says_two_things_or_nothing_is_wrong(self, arguments: tuple[str, ...]) -> None:
        assert run("heal", *arguments, variables={}).code == 2


class TestReconcile:
    async def test_the_gap_procedure_finds_what_changed_in_the_gap_and_heals_it(self, operator: Operator) -> None:
        world = operator.world
        began = world.clock.now()
        before, status = world.desk.get(3).status, other(operator, 3)
        await lose(operator, 3, status)
        world.desk.faults.drop_chance = 1
        new = world.desk.customer_writes()
        world.desk.delete_forever(7)
        await world.advance(600)
        world.desk.faults.drop_chance = 0

        said = await operator.types("reconcile", "--since", began.isoformat(), "--json")

        assert said.code == 0
        assert said.json["older"] == 12
        assert datetime.fromisoformat(said.json["since"]) == began
        missed = {finding["ticket_id"]: finding for finding in said.json["missed"]}
        assert {ticket: finding["outcome"] for ticket, finding in missed.items()} == {
            3: "healed",
            7: "gone",
            new: "added",
        }
        assert (missed[3]["cached_status"], missed[3]["true_status"]) == (before, status)
        assert await world.wrong() == {}

    async def test_a_second_time_there_is_nothing(self, operator: Operator) -> None:
        await lose(operator, 3, other(operator, 3))

        first = await operator.types("reconcile", "--full", "--json")
        second = await operator.types("reconcile", "--full")

        assert first.json["counts"] == {"same": 11, "healed": 1}
        assert "nothing: the cache was right" in second.out

    async def test_it_renews_no_lease(self, operator: Operator, sql: asyncpg.Connection) -> None:
        before = await sql.fetchval("SELECT lease_until FROM freescout_lease")

        await operator.types("reconcile", "--full")

        assert await sql.fetchval("SELECT lease_until FROM freescout_lease") == before

    async def test_a_desk_that_is_not_this_databases_is_refused(
        self, operator: Operator, sql: asyncpg.Connection
    ) -> None:
        await sql.execute("UPDATE freescout_lease SET desk_url = 'https://elsewhere.example.org'")

        said = await operator.types("reconcile", "--full", "--json")

        assert said.code == 1
        assert "holds the tickets of https://elsewhere.example.org" in said.json["error"]
        assert "freescout-audit desk change http://127.0.0.1" in said.json["error"] + said.json["next_step"]


class TestBackfill:
    async def test_it_makes_the_first_load_and_everything_is_vouched_for(
        self, operator: Operator, sql: asyncpg.Connection
    ) -> None:
        await forget(sql)

        said = await operator.types("backfill", "--json", POLLER_PAGE_SIZE="5")

        assert (said.code, said.json["first"]) == (0, True)
        assert said.json["read"] == 12
        assert said.json["complete_through"] is not None
        assert await operator.world.wrong() == {}

    async def test_a_first_load_that_broke_off_goes_on_where_it_was(
        self, operator: Operator, sql: asyncpg.Connection
    ) -> None:
        await forget(sql)
        operator.api.answers_left = 3  # the first page, the clock, the next page
        broken = await operator.types("backfill", "--json", POLLER_PAGE_SIZE="5")
        operator.api.answers_left = None
        operator.world.desk.faults.api = None
        operator.api.requests.clear()

        said = await operator.types("backfill", "--json", POLLER_PAGE_SIZE="5")

        fifth = sorted(row.created for row in operator.world.desk.truth())[4]
        begins = datetime.fromisoformat(operator.api.requests[0].query["createdSince"])
        assert (broken.code, said.code, said.json["first"]) == (3, 0, True)
        assert begins.timestamp() == fifth
        assert said.json["read"] == 12 - 4, "the rows of the second at which it goes on are read again"
        assert await operator.world.wrong() == {}

    async def test_a_poller_that_loads_already_is_left_alone(self, operator: Operator, sql: asyncpg.Connection) -> None:
        await forget(sql)
        await sql.execute("UPDATE freescout_lease SET heartbeat_at = freescout_now()")
        await sql.execute("UPDATE freescout_poller SET leader = 'poller.1'")

        said = await operator.types("backfill", "--json")

        assert said.code == 1
        assert "poller.1 is making the first load already" in said.json["error"]

    async def test_everything_is_read_once_more_and_compared(self, operator: Operator) -> None:
        await lose(operator, 3, other(operator, 3))

        said = await operator.types("backfill", "--json")

        assert (said.json["first"], said.json["counts"]) == (False, {"same": 11, "healed": 1})

    async def test_each_ticket_counts_once_however_often_it_is_read(
        self, operator: Operator, sql: asyncpg.Connection
    ) -> None:
        """Pages share the rows of a second, and what is disputed is asked about again."""
        moment = "freescout_now() + interval '0.9 s'"  # later than any question, and no stamp of our future
        await sql.execute(
            f"UPDATE freescout_ticket SET touched_at = {moment}, disputed_at = {moment}, grace_until = {moment},"
            " truth_at = NULL WHERE ticket_id = 5"
        )

        said = await operator.types("backfill", "--json", POLLER_PAGE_SIZE="5")

        assert (said.json["read"], said.json["counts"]) == (12, {"same": 11, "contested": 1})

    async def test_an_interrupted_reading_says_how_to_go_on(self, operator: Operator) -> None:
        operator.api.answers_left = 2
        broken = await operator.types("backfill", POLLER_PAGE_SIZE="5")
        operator.api.answers_left = None
        operator.world.desk.faults.api = None
        (line,) = [line for line in broken.err.splitlines() if line.startswith("to go on: ")]
        await lose(operator, 1, other(operator, 1))
        operator.api.requests.clear()

        said = await operator.types(*line.removeprefix("to go on: freescout-audit ").split(), "--json")

        fifth = sorted(row.created for row in operator.world.desk.truth())[4]
        begins = datetime.fromisoformat(operator.api.requests[0].query["createdSince"])
        assert (broken.code, said.code) == (3, 0)
        assert begins.timestamp() == fifth


class TestDesk:
    async def test_the_same_desk_at_another_address_is_recognised_by_its_tickets(
        self, operator: Operator, sql: asyncpg.Connection
    ) -> None:
        await sql.execute("UPDATE freescout_lease SET desk_url = 'https://old.example.org'")
        url = operator.variables["FREESCOUT_URL"]

        said = await operator.types("desk", "change", url + "/api/", "--yes", "--json")

        assert said.json == {
            "before": "https://old.example.org",
            "after": url,
            "forgot": False,
            "compared": 5,
            "recognised": 5,
        }
        assert await sql.fetchval("SELECT desk_url FROM freescout_lease") == url
        assert await operator.world.wrong() == {}

    async def test_what_is_held_of_clocks_is_shown_and_put_right(
        self, operator: Operator, sql: asyncpg.Connection
    ) -> None:
        await sql.execute("ALTER TABLE freescout_lease DROP CONSTRAINT freescout_lease_dates_check")
        await sql.execute("UPDATE freescout_lease SET seen_through = '20000-01-01Z', clock_offset = interval '2 hours'")

        shown = await operator.types("desk", "clock")
        unasked = await operator.types("desk", "clock", "--reset", "--json")
        meant = await operator.types("desk", "clock", "--reset", "--yes", "--json")

        assert shown.code == 0
        assert "20000-01-01 00:00:00+00" in shown.out
        assert "2 h ahead of ours" in shown.out
        assert unasked.code == 2
        assert (meant.code, meant.json["reset"], meant.json["clocks"]["offset_s"]) == (0, True, 0.0)
        assert meant.json["clocks"]["seen_through"] <= meant.json["clocks"]["now"]
        await operator.world.poll()
        assert await operator.world.wrong() == {}

    async def test_another_desk_is_refused_until_the_old_one_is_forgotten_on_purpose(
        self, operator: Operator, sql: asyncpg.Connection
    ) -> None:
        url = operator.variables["FREESCOUT_URL"]
        await sql.execute("UPDATE freescout_lease SET desk_url = 'https://old.example.org'")
        await sql.execute("UPDATE freescout_ticket SET created_at = created_at - interval '1 year'")

        refused = await operator.types("desk", "change", url, "--yes", "--json")
        while_polled = await operator.types("desk", "change", url, "--forget", "--yes", "--json")
        await sql.execute("UPDATE freescout_lease SET heartbeat_at = NULL")
        unasked = await operator.types("desk", "change", url, "--forget", "--json")
        meant = await operator.types("desk", "change", url, "--forget", "--yes", "--json")

        assert (refused.code, "it is another desk" in refused.json["error"]) == (1, True)
        assert (while_polled.code, "stop it first" in while_polled.json["next_step"]) == (1, True)
        assert (unasked.code, "All 12 tickets" in unasked.json["error"]) == (2, True)
        assert (meant.code, meant.json["forgot"]) == (0, True)
        assert await sql.fetchval("SELECT count(*) FROM freescout_ticket") == 0
        seen = await sql.fetchrow(
            "SELECT seen_through, complete_through, covered_through, set_back_through, set_back_at FROM freescout_lease"
        )
        assert set(seen) == {None}, "the old desk's dates say nothing of the new one's"
        assert (await operator.types("ticket", "3", "--json")).json["reason"] == "never_synced"
        assert (await operator.types("backfill", "--json")).json["read"] == 12


class TestWebhook:
    async def test_it_is_registered_once_and_removed(self, operator: Operator, sql: asyncpg.Connection) -> None:
        desk = operator.world.desk
        desk.webhooks.clear()

        first = await operator.types("webhook", "register", operator.receiver, "--json")
        again = await operator.types("webhook", "register", operator.receiver, "--json")
        elsewhere = await operator.types("webhook", "register", "https://other.example.org", "--json")
        hooks = [(hook.id, hook.url, hook.events) for hook in desk.webhooks.values()]
        removed = await operator.types("webhook", "remove", "--yes", "--json")
        nothing_left = await operator.types("webhook", "remove", "--yes", "--json")

        assert hooks == [(first.json["webhook_id"], first.json["url"], tuple(first.json["events"]))]
        assert (again.code, again.json["already"]) == (0, True)
        assert (elsewhere.code, "--replace" in elsewhere.json["next_step"]) == (1, True)
        assert removed.json == {"endpoint": "audit", "webhook_id": first.json["webhook_id"], "existed": True}
        assert desk.webhooks == {}
        assert (nothing_left.code, "--id ID" in nothing_left.json["next_step"]) == (1, True)

    async def test_another_webhook_than_the_noted_one_is_only_removed_when_that_is_meant(
        self, operator: Operator
    ) -> None:
        desk = operator.world.desk
        desk.webhooks.clear()
        other = desk.register_webhook("https://other.example.org")
        await operator.types("webhook", "register", operator.receiver, "--json")

        asked = await operator.types("webhook", "remove", "--id", str(other.id), "--json")
        forgotten = await operator.types("webhook", "remove", "--forget", "--json")
        assert (asked.code, forgotten.code) == (2, 2)
        assert other.id in desk.webhooks

        meant = await operator.types("webhook", "remove", "--id", str(other.id), "--yes", "--json")
        assert (meant.code, other.id in desk.webhooks, len(desk.webhooks)) == (0, False, 1)

    async def test_a_second_address_replaces_the_first_without_a_moment_between(self, operator: Operator) -> None:
        operator.world.desk.webhooks.clear()
        first = await operator.types("webhook", "register", operator.receiver, "--json")

        second = await operator.types("webhook", "register", "https://new.example.org", "--replace", "--json")

        assert second.json["replaced"] == first.json["webhook_id"]
        assert [hook.id for hook in operator.world.desk.webhooks.values()] == [second.json["webhook_id"]]
        methods = [request.method for request in operator.api.requests if "webhooks" in request.path]
        assert methods == ["POST", "POST", "DELETE"]

    async def test_an_old_one_that_cannot_be_removed_is_named(self, operator: Operator) -> None:
        operator.world.desk.webhooks.clear()
        first = await operator.types("webhook", "register", operator.receiver, "--json")
        operator.api.answers_left = 2

        said = await operator.types("webhook", "register", "https://new.example.org", "--replace", "--json")

        assert said.code == 1
        assert f"webhook remove --id {first.json['webhook_id']}" in said.json["next_step"]

    async def test_one_registered_by_hand_is_not_registered_again(self, operator: Operator) -> None:
        operator.world.desk.set_status(12, other(operator, 12))
        await operator.world.advance(10)

        refused = await operator.types("webhook", "register", operator.receiver, "--json")
        adopted = await operator.types("webhook", "register", operator.receiver, "--id", "1", "--json")

        assert (refused.code, "would double every delivery" in refused.json["error"]) == (1, True)
        assert (adopted.code, adopted.json["webhook_id"]) == (0, 1)
        assert len(operator.world.desk.webhooks) == 1

    async def test_a_registration_whose_end_nobody_knows_is_not_made_again_blindly(self, operator: Operator) -> None:
        operator.world.desk.webhooks.clear()
        operator.api.answers_left = 1  # the list answers, the registration does not
        operator.api.breaks_with = ApiFault.BROKEN_BODY

        lost = await operator.types("webhook", "register", operator.receiver, "--json")
        operator.api.answers_left = operator.world.desk.faults.api = None
        blind = await operator.types("webhook", "register", operator.receiver, "--json")
        forgotten = await operator.types("webhook", "remove", "--forget", "--json")

        assert (lost.code, "it is not known whether it is registered" in lost.json["error"]) == (3, True)
        assert (blind.code, "did not end" in blind.json["error"]) == (1, True)
        assert lost.json["next_step"] == blind.json["next_step"]
        assert "If not: webhook remove --forget, and register again" in lost.json["next_step"]
        assert len(operator.world.desk.webhooks) == 1
        assert (forgotten.code, forgotten.json["existed"]) == (0, None)

    async def test_a_desk_that_does_not_answer_leaves_nothing_in_doubt(
        self, operator: Operator, sql: asyncpg.Connection
    ) -> None:
        operator.world.desk.faults.api = ApiFault.MAINTENANCE

        said = await operator.types("webhook", "register", operator.receiver, "--json")

        assert said.code == 3
        assert await sql.fetchval("SELECT count(*) FROM freescout_webhook") == 0

    async def test_a_test_changes_a_ticket_measures_the_delivery_and_puts_it_back_in_another_second(
        self, operator: Operator, sql: asyncpg.Connection
    ) -> None:
        before = operator.world.desk.get(3).status

        found = await run_test(operator.workplace, 3, yes=True, sleep=operator.waits)

        document = found.document
        assert isinstance(document, DeliveryTest)
        assert found.code == 0
        assert document.changed_to == ("pending" if before != "pending" else "active")
        assert document.delivered_after_s is not None
        assert document.cached_after_s is not None
        assert document.back_after_s is not None
        assert 0 <= document.delivered_after_s <= document.cached_after_s <= 6
        assert (document.event, document.put_back) == ("convo.status", True)
        # Within one second the two changes would bear the same date, and the second be disputed.
        assert await sql.fetchval("SELECT array_agg(outcome) FROM freescout_delivery") == ["applied", "applied"]
        assert operator.world.desk.get(3).status == before

    async def test_a_delivery_that_does_not_come_is_wrong_and_the_ticket_is_put_back(self, operator: Operator) -> None:
        before = operator.world.desk.get(3).status
        operator.world.desk.faults.drop_chance = 1

        found = await run_test(operator.workplace, 3, yes=True, within=20, sleep=operator.waits)

        assert found.code == 1
        assert isinstance(found.document, DeliveryTest)
        assert (found.document.delivered_after_s, found.document.put_back) == (None, True)
        assert operator.world.desk.get(3).status == before

    async def test_it_asks_first_and_takes_only_a_ticket_that_can_show_something(self, operator: Operator) -> None:
        operator.world.desk.delete_to_folder(4)

        unasked = await operator.types("webhook", "test", "3")
        deleted = await operator.types("webhook", "test", "4", "--yes", "--json")
        unknown = await operator.types("webhook", "test", "9999", "--yes", "--json")
        nobody = await operator.types("webhook", "test", "3", "--by-user", "99", "--yes", "--json")

        assert (unasked.code, unasked.err.endswith(": add --yes\n")) == (2, True)
        assert (deleted.code, unknown.code) == (1, 1)
        assert (nobody.code, "User not found" in nobody.json["error"]) == (3, True)
        assert {request.method for request in operator.api.requests} == {"GET", "PUT"}

    async def test_a_test_that_is_interrupted_puts_the_ticket_back(self, operator: Operator) -> None:
        before = operator.world.desk.get(3).status
        operator.world.desk.faults.drop_chance = 1
        testing = asyncio.create_task(run_test(operator.workplace, 3, yes=True))
        await until_changed(operator, 3)

        testing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await testing

        assert operator.world.desk.get(3).status == before

    async def test_what_somebody_else_changed_meanwhile_is_left_alone(
        self, operator: Operator, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = operator.world.desk.get(3).status
        testing = asyncio.create_task(run_test(operator.workplace, 3, yes=True))
        await until_changed(operator, 3)
        third = "closed" if before != "closed" else "active"
        operator.world.desk.set_status(3, third)

        testing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await testing

        assert operator.world.desk.get(3).status == third
        assert "somebody else changed it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("on_a_terminal", "as_json", "drawn"), [(True, False, True), (False, False, False), (True, True, False)]
)
def test_long_work_shows_a_bar_on_a_terminal_only(*, on_a_terminal: bool, as_json: bool, drawn: bool) -> None:
    stream = io.StringIO()
    screen = Console(file=stream, force_terminal=on_a_terminal, width=100)
    workplace = Workplace(ENVIRONMENT, load_settings({}), as_json=as_json, screen=screen)

    with workplace.progress("reading every ticket") as tell:
        tell(200, 400)

    assert ("200/400" in stream.getvalue()) == drawn


class TestStatus:
    async def test_one_screen_says_how_it_is(self, operator: Operator, sql: asyncpg.Connection) -> None:
        operator.world.desk.set_status(12, other(operator, 12))
        await operator.world.advance(10)
        await lose(operator, 3, other(operator, 3))
        await operator.world.poll()
        await sql.execute("UPDATE freescout_poller SET leader = 'poller.1', led_since = freescout_now()")

        document = (await operator.types("status", "--json")).json
        picture = (await operator.types("status")).out

        assert document["tickets"] == 12
        assert document["poller"]["leader"] == "poller.1"
        assert 890 < document["lease"]["seconds_left"] <= 900
        assert document["last_delivery"]["ticket_id"] == 12
        assert document["deliveries_24h"] == {"applied": 1}
        assert document["gaps_24h"] == {"waiting": 1, "raced": 0, "late": 0, "lost": 0, "never_sent": 0}
        assert 0 <= document["lag_24h"]["p50"] == document["lag_24h"]["max"] < 10
        for shown in ("valid for 15 min", "poller.1 leads", "1 applied", "1 waiting", "ticket 12"):
            assert shown in picture

    @pytest.mark.parametrize("columns", ["80", "120"])
    async def test_no_line_is_wider_than_the_terminal_and_no_colour_goes_into_a_pipe(
        self, operator: Operator, columns: str
    ) -> None:
        for command in (("doctor",), ("status",), ("ticket", "3", "--ask"), ("deliveries",), ("gaps",), ("--help",)):
            said = await operator.types(*command, COLUMNS=columns)

            assert max(len(line) for line in said.out.splitlines()) <= int(columns), command
            assert "\x1b" not in said.out


@pytest.mark.parametrize(
    ("variables", "code", "line"),
    [
        ({"DATABASE_URL": "postgres://u:hidden@127.0.0.1:1/x"}, 3, "is DATABASE_URL right, and does PostgreSQL run?"),
        ({"DATABASE_URL": "hidden"}, 2, "DATABASE_URL is not a URL"),
        ({"FREESCOUT_URL": "http://127.0.0.1:1"}, 3, "is FREESCOUT_URL right, and is the desk up?"),
        ({"FREESCOUT_URL": ""}, 2, "FREESCOUT_URL is not set"),
        ({"FREESCOUT_API_KEY": "hidden"}, 3, "compare FREESCOUT_API_KEY"),
        ({"POLLER_INTERVAL": "0"}, 2, "POLLER_INTERVAL must be a number from 1 to 300"),
    ],
)
async def test_what_is_not_there_leads_to_one_line_that_says_what_to_do(
    operator: Operator, variables: dict[str, str], code: int, line: str
) -> None:
    said = await operator.types("ticket", "3", "--ask", **variables)
    for_programs = await operator.types("ticket", "3", "--ask", "--json", **variables)

    assert (said.code, said.out) == (code, "")
    assert said.err.count("\n") == 1
    assert line in said.err
    assert list(for_programs.json) == ["error", "next_step", "exit"]
    assert for_programs.json["exit"] == code
    both = [for_programs.json[name] for name in ("error", "next_step") if for_programs.json[name]]
    assert said.err == f"✗ {': '.join(both)}\n"
    assert line in " ".join(both)
    assert "hidden" not in said.err + for_programs.out


async def until_changed(operator: Operator, ticket_id: int) -> None:
    """Return when the console has changed a ticket at the desk."""
    before = operator.world.desk.get(ticket_id).status
    async with asyncio.timeout(30):
        while operator.world.desk.get(ticket_id).status == before:  # noqa: ASYNC110 - the desk is not ours to wake us
            await asyncio.sleep(0.01)


async def forget(sql: asyncpg.Connection) -> None:
    """Make the cache as empty as it was before the first load."""
    await sql.execute("DELETE FROM freescout_ticket")
    await sql.execute(
        "UPDATE freescout_lease SET seen_through = NULL, complete_through = NULL, lease_until = NULL,"
        " renewed_by_pass = NULL, heartbeat_at = NULL"
    )
    await sql.execute("UPDATE freescout_poller SET complete_offset = NULL, passed_at = NULL")
