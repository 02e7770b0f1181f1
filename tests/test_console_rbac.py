"""The console where RV-4's path is used: what is registered, checked and shown is told by path."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from db.database import Database
from freescout_audit.endpoints import AUDIT, RBAC, path_of
from ops.endtoend import DeliveryTest, run_test
from support.console_world import Operator, Said, at_the_console
from support.examples import body, signed
from support.world import make_world

OFF = {"FLAG_FREESCOUT_WEBHOOK_RBAC": "0"}


@pytest.fixture
async def operator(database: Database, database_url: str, sql: asyncpg.Connection) -> AsyncIterator[Operator]:
    """A healthy app with both paths: registered, a delivery has come by each, a pass is complete."""
    async with (
        make_world(database, sql, tickets=12, sockets=False, rbac=True) as world,
        at_the_console(world, database_url) as operator,
    ):
        operator.variables["FLAG_FREESCOUT_WEBHOOK_RBAC"] = "1"
        for ticket_id in range(1, 13):
            world.desk.get(ticket_id).state = "published"
        await world.poll()
        await world.advance(5)
        await sql.execute("UPDATE freescout_poller SET leader = 'poller.1', led_since = freescout_now()")
        world.desk.bulk_set_status([1, 2, 3, 4, 5, 6], "spam")
        await world.advance(10)
        await world.beat()
        for endpoint, hook in zip((AUDIT, RBAC), world.desk.webhooks.values(), strict=True):
            await operator.types(
                "webhook", "register", operator.receiver, "--endpoint", endpoint, "--id", str(hook.id), "--json"
            )
        yield operator


def colours(said: Said) -> dict[str, str]:
    return {check["name"]: check["state"] for check in said.json["checks"]}


def told(said: Said, name: str) -> str:
    (check,) = [check for check in said.json["checks"] if check["name"] == name]
    return f"{check['detail']} → {check['next_step']}"


class TestWebhook:
    async def test_each_path_is_registered_and_removed_by_itself(self, operator: Operator) -> None:
        desk = operator.world.desk
        for _ in range(2):
            await operator.types("webhook", "remove", "--yes")
            await operator.types("webhook", "remove", "--endpoint", "rbac", "--yes")
        assert desk.webhooks == {}

        rbac = await operator.types("webhook", "register", "https://app.example.org", "--endpoint", "rbac", "--json")
        audit = await operator.types("webhook", "register", "https://app.example.org", "--json")
        again = await operator.types("webhook", "register", f"https://app.example.org{path_of(RBAC)}", "--json")
        removed = await operator.types("webhook", "remove", "--endpoint", "rbac", "--yes", "--json")

        assert [(said.json["endpoint"], said.json["url"]) for said in (rbac, audit)] == [
            ("rbac", "https://app.example.org/api/internal/freescout-webhook/rbac"),
            ("audit", "https://app.example.org/api/internal/freescout-webhook/audit"),
        ]
        assert (again.json["webhook_id"], again.json["already"]) == (rbac.json["webhook_id"], True)
        assert removed.json == {"endpoint": "rbac", "webhook_id": rbac.json["webhook_id"], "existed": True}
        assert list(desk.webhooks) == [audit.json["webhook_id"]]

    async def test_one_that_delivers_and_is_not_noted_is_looked_for_at_its_own_path(self, operator: Operator) -> None:
        await operator.types("webhook", "remove", "--endpoint", "rbac", "--forget", "--yes")

        refused = await operator.types("webhook", "register", operator.receiver, "--endpoint", "rbac", "--json")
        audit = await operator.types("webhook", "register", operator.receiver, "--json")

        assert (refused.code, "would double every delivery" in refused.json["error"]) == (1, True)
        assert (audit.code, audit.json["already"]) == (0, True)

    async def test_one_is_not_noted_for_both(self, operator: Operator) -> None:
        (of_audit, _) = operator.world.desk.webhooks

        said = await operator.types(
            "webhook", "register", operator.receiver, "--endpoint", "rbac", "--id", str(of_audit), "--json"
        )

        assert said.code == 1
        assert f"webhook {of_audit} is noted already, as the one of audit" in said.json["error"]

    async def test_one_that_is_named_by_its_id_is_forgotten_where_it_was_noted(
        self, operator: Operator, sql: asyncpg.Connection
    ) -> None:
        (_, of_rbac) = operator.world.desk.webhooks

        said = await operator.types("webhook", "remove", "--id", str(of_rbac), "--yes", "--json")

        assert said.json == {"endpoint": "rbac", "webhook_id": of_rbac, "existed": True}
        assert await sql.fetchval("SELECT removed_at IS NOT NULL FROM freescout_webhook_rbac")
        assert await sql.fetchval("SELECT removed_at IS NULL FROM freescout_webhook")

    @pytest.mark.parametrize(
        ("arguments", "problem"),
        [
            (("https://app.example.org", "--endpoint", "rback"), "is no endpoint: audit or rbac"),
            (("https://app.example.org" + path_of(AUDIT), "--endpoint", "rbac"), "of another endpoint than rbac"),
        ],
    )
    async def test_an_endpoint_that_cannot_be_meant_is_a_wrong_call(
        self, operator: Operator, arguments: tuple[str, ...], problem: str
    ) -> None:
        said = await operator.types("webhook", "register", *arguments)

        assert said.code == 2
        assert problem in " ".join(said.err.replace("│", " ").split())

    async def test_a_test_waits_for_the_delivery_to_the_path_that_is_meant(self, operator: Operator) -> None:
        (_, of_rbac) = operator.world.desk.webhooks
        both = await run_test(operator.workplace, 3, endpoint=RBAC, yes=True, sleep=operator.waits)
        del operator.world.desk.webhooks[of_rbac]
        lost = await run_test(operator.workplace, 4, endpoint=RBAC, within=30, yes=True, sleep=operator.waits)

        assert isinstance(both.document, DeliveryTest)
        assert isinstance(lost.document, DeliveryTest)
        assert (both.code, both.document.delivered_after_s is not None) == (0, True)
        assert (lost.code, lost.document.delivered_after_s) == (1, None)
        assert lost.document.cached_after_s is not None, "the audit path has told the cache"


class TestDoctor:
    async def test_both_paths_are_green(self, operator: Operator) -> None:
        said = await operator.types("doctor", "--url", operator.receiver, "--json")

        assert [check for check in said.json["checks"] if check["state"] != "green"] == []
        assert [name for name in colours(said) if name.startswith("rbac")] == [
            "rbac flag",
            "rbac webhook",
            "rbac refusals",
            "rbac deliveries",
            "rbac self-test",
        ]

    async def test_what_comes_by_both_paths_does_not_come_twice_and_what_does_is_told_by_path(
        self, operator: Operator, sql: asyncpg.Connection
    ) -> None:
        await sql.execute(
            "INSERT INTO freescout_delivery (received_at, endpoint, event, ticket_id, outcome, reason, status, state,"
            " updated_at, body_bytes, body_ms, signed_with) SELECT received_at, endpoint, event, ticket_id, outcome,"
            " reason, status, state, updated_at, 1, 1, 'current' FROM freescout_delivery WHERE endpoint = 'rbac'"
        )

        said = await operator.types("doctor", "--json")

        assert (colours(said)["deliveries"], colours(said)["rbac deliveries"]) == ("green", "red")
        assert "came twice" in told(said, "rbac deliveries")

    async def test_a_path_that_is_registered_and_off_is_yellow(self, operator: Operator) -> None:
        said = await operator.types("doctor", "--url", operator.receiver, "--json", **OFF)

        assert colours(said)["rbac flag"] == "yellow"
        assert "FLAG_FREESCOUT_WEBHOOK_RBAC=1" in told(said, "rbac flag")
        assert "rbac self-test" not in colours(said)
        assert said.code == 0

    async def test_where_it_is_the_only_path_nothing_is_asked_of_the_audits(self, operator: Operator) -> None:
        await operator.types("webhook", "remove", "--yes")
        key = operator.variables.pop("FREESCOUT_AUDIT_WEBHOOK_SECRET")
        alone = {"FLAG_FREESCOUT_WEBHOOK_RECEIVE": "0", "FREESCOUT_RBAC_WEBHOOK_SECRET": key}

        said = await operator.types("doctor", "--url", operator.receiver, "--json", **alone)

        assert [check for check in said.json["checks"] if check["state"] != "green"] == []
        assert {"webhook key", "webhook", "deliveries", "refusals", "self-test"} & set(colours(said)) == set()
        assert (await operator.types("rotate", "status", "--json", **alone)).json["endpoints"] == ["rbac"]

    @pytest.mark.parametrize(
        ("variables", "name", "state", "said"),
        [
            ({"FREESCOUT_RBAC_WEBHOOK_SECRET": "0" * 32}, "rbac key", "green", "set"),
            ({"FREESCOUT_RBAC_WEBHOOK_SECRET": "0" * 32}, "rbac self-test", "red", "answers 401"),
            ({"FREESCOUT_RBAC_WEBHOOK_SECRET": "base64:abc"}, "rbac key", "red", "looks like FreeScout's APP_KEY"),
            ({"FREESCOUT_RBAC_WEBHOOK_SECRET": "<audit>"}, "rbac key", "yellow", "a rotation has to change both"),
            ({"FREESCOUT_RBAC_WEBHOOK_SECRET_PREVIOUS": "1" * 32}, "rbac previous key", "yellow", "beside the audit"),
        ],
    )
    async def test_keys_of_its_own_are_judged(
        self, operator: Operator, variables: dict[str, str], name: str, state: str, said: str
    ) -> None:
        key = operator.variables["FREESCOUT_AUDIT_WEBHOOK_SECRET"]
        given = {variable: value.replace("<audit>", key) for variable, value in variables.items()}

        found = await operator.types("doctor", "--url", operator.receiver, "--json", **given)

        assert colours(found)[name] == state
        assert said in told(found, name)
        assert colours(found)["self-test"] == "green"

    async def test_refusals_at_its_path_are_red_however_well_the_audits_is(
        self, operator: Operator, sql: asyncpg.Connection
    ) -> None:
        await sql.execute(
            "INSERT INTO freescout_answer (kind, answers, first_at, last_at) VALUES"
            " ('verified', 9, freescout_now(), freescout_now()),"
            " ('unverified_like_freescouts_rbac', 3, freescout_now() - interval '1 h', freescout_now())"
        )

        doctor = await operator.types("doctor", "--json")
        status = await operator.types("status", "--json")
        switched_off = await operator.types("status", "--json", **OFF)

        assert (colours(doctor)["refusals"], colours(doctor)["rbac refusals"]) == ("green", "red")
        assert "FREESCOUT_RBAC_WEBHOOK_SECRET" in told(doctor, "rbac refusals")
        assert [problem["name"] for problem in status.json["problems"]] == ["deliveries_rbac"]
        assert switched_off.json["problems"] == []


async def test_status_and_lists_tell_what_came_by_which_path(operator: Operator, sql: asyncpg.Connection) -> None:
    (of_audit, of_rbac) = operator.world.desk.webhooks
    await sql.execute(
        "INSERT INTO freescout_answer VALUES ('verified_rbac', 6, freescout_now(), freescout_now(), 'abcd1234')"
    )

    document = (await operator.types("status", "--json")).json
    picture = (await operator.types("status")).out
    journal = (await operator.types("deliveries", "--ticket", "3")).out
    ticket = (await operator.types("ticket", "3", "--json")).json

    endpoints = document["endpoints"]
    assert {name: each["webhook_id"] for name, each in endpoints.items()} == {"audit": of_audit, "rbac": of_rbac}
    assert endpoints["rbac"]["key_fingerprint"] == "abcd1234"
    summed: dict[str, int] = {}
    for each in endpoints.values():
        for outcome, count in each["deliveries_24h"].items():
            summed[outcome] = summed.get(outcome, 0) + count
    assert summed == document["deliveries_24h"]
    assert endpoints["rbac"]["deliveries_24h"] == {"duplicate": summed["duplicate"]}
    assert "by key abcd1234" in " ".join(picture.split())
    assert "duplicate at rbac" in journal
    assert {event["detail"] for event in ticket["history"] if event["outcome"] == "duplicate"} == {"at rbac"}


async def test_a_recorded_delivery_is_held_against_its_keys_too(operator: Operator, tmp_path: Path) -> None:
    file = tmp_path / "one.jsonl"
    file.write_text(json.dumps({"headers": signed(body(), key="its own"), "body": body().decode()}), "utf-8")

    said = await operator.types("secret", "check", str(file), "--json", FREESCOUT_RBAC_WEBHOOK_SECRET="its own")

    assert (said.code, said.json["deliveries"][0]["finding"]["key"]) == (0, "a key of RV-4's path")
