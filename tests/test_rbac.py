"""RV-4's path: beside the audit path or alone, into the same cache, with a switch and, if wanted, keys of its own."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from conftest import ENVIRONMENT, Log, Receive, Receiver
from db.database import Database
from db.webhook import read_webhook, save_webhook
from freescout_audit.delivery import CONVERSATION_EVENTS
from freescout_audit.endpoints import AUDIT, ENDPOINTS, RBAC, path_of
from receiver.doorman import Doorman
from receiver.endpoints import Endpoint, VerifiedDelivery
from receiver.metrics import Metrics
from receiver.refusals import Refusals
from settings import Environment, Secret
from settings.environment import load_environment
from settings.vault.keys import keys_of
from support.examples import KEY, body, signed

pytestmark = pytest.mark.usefixtures("no_housekeeping")

ITS_OWN = "a key of RV-4's path"
BOTH = replace(ENVIRONMENT, receive_rbac=True)
APART = replace(BOTH, rbac_secret=Secret(ITS_OWN))


async def journal(sql: asyncpg.Connection) -> list[tuple[Any, ...]]:
    rows = await sql.fetch("SELECT endpoint, outcome, replays FROM freescout_delivery ORDER BY delivery_id")
    return [tuple(row) for row in rows]


async def state_of(sql: asyncpg.Connection) -> str:
    state: str = await sql.fetchval("SELECT freescout_ticket_state(7)")
    return state


async def readiness(receiver: Receiver) -> tuple[int, dict[str, str]]:
    async with receiver.client.get(receiver.url + "/readyz") as response:
        components = (await response.json())["components"]
        return response.status, {name: one["state"] for name, one in components.items()}


class TestTheCache:
    @pytest.mark.parametrize("order", [(AUDIT, RBAC), (RBAC, AUDIT)])
    async def test_of_two_deliveries_of_a_change_the_second_is_a_duplicate(
        self, receive: Receive, sql: asyncpg.Connection, order: tuple[str, str]
    ) -> None:
        async with receive(BOTH) as receiver:
            outcomes = [await receiver.deliver(body("closed"), endpoint=endpoint) for endpoint in order]

        assert outcomes == [(200, {"outcome": "applied"}), (200, {"outcome": "duplicate"})]
        assert await journal(sql) == [(order[0], "applied", 0), (order[1], "duplicate", 0)]
        assert await state_of(sql) == "closed"

    async def test_what_comes_to_both_at_once_is_applied_once_and_replays_count_for_each(
        self, receive: Receive, sql: asyncpg.Connection
    ) -> None:
        async with receive(BOTH) as receiver:
            answers = await asyncio.gather(
                *(receiver.deliver(body("closed"), endpoint=endpoint) for endpoint in ENDPOINTS for _ in range(20))
            )

        assert [answer["outcome"] for _, answer in answers].count("applied") == 1
        rows = sorted(await journal(sql))
        assert [(endpoint, replays) for endpoint, _, replays in rows] == [(AUDIT, 19), (RBAC, 19)]
        assert sorted(outcome for _, outcome, _ in rows) == ["applied", "duplicate"]

    @pytest.mark.parametrize("alone", ENDPOINTS)
    async def test_either_path_alone_keeps_it(self, receive: Receive, sql: asyncpg.Connection, alone: str) -> None:
        environment = replace(ENVIRONMENT, receive=alone == AUDIT, receive_rbac=alone == RBAC)
        (other,) = set(ENDPOINTS) - {alone}

        async with receive(environment) as receiver:
            assert (await receiver.deliver(body("spam"), endpoint=other))[0] == 503
            assert await receiver.deliver(body("closed"), endpoint=alone) == (200, {"outcome": "applied"})
            assert await receiver.deliver(body("active", 5), endpoint=alone) == (200, {"outcome": "applied"})
            assert (await readiness(receiver))[0] == 200

        assert await state_of(sql) == "active"
        assert {endpoint for endpoint, _, _ in await journal(sql)} == {alone}


class TestChecks:
    async def test_while_its_flag_is_off_freescout_is_asked_to_come_again(self, receiver: Receiver, log: Log) -> None:
        url = receiver.url + path_of(RBAC)
        async with receiver.client.post(url, data=body(), headers=signed(body())) as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "60")
        async with receiver.client.get(url) as response:
            assert response.status == 405

        assert {line["endpoint"] for line in log.lines("delivery.refused")} == {RBAC}
        assert await receiver.deliver(body()) == (200, {"outcome": "applied"})
        assert (await readiness(receiver))[1]["receive_rbac"] == "off"

    async def test_a_slash_at_its_end_is_taken(self, receive: Receive) -> None:
        async with receive(BOTH) as receiver:
            assert (await receiver.deliver(body(), endpoint=RBAC + "/"))[0] == 200

    async def test_with_a_key_of_its_own_each_path_takes_its_own_alone(
        self, receive: Receive, sql: asyncpg.Connection
    ) -> None:
        raw = body("closed")
        async with receive(APART) as receiver:
            statuses = {
                (endpoint, key): (await receiver.deliver(raw, endpoint=endpoint, headers=signed(raw, key=key)))[0]
                for endpoint in ENDPOINTS
                for key in (KEY, ITS_OWN)
            }

        assert statuses == {(AUDIT, KEY): 200, (AUDIT, ITS_OWN): 401, (RBAC, KEY): 401, (RBAC, ITS_OWN): 200}
        assert [endpoint for endpoint, _, _ in await journal(sql)] == [AUDIT, RBAC]

    async def test_its_previous_key_is_accepted_and_said_so(self, receive: Receive, sql: asyncpg.Connection) -> None:
        raw = body()
        async with receive(replace(APART, rbac_secret_previous=Secret("older"))) as receiver:
            assert (await receiver.deliver(raw, endpoint=RBAC, headers=signed(raw, key="older")))[0] == 200

        assert await sql.fetchval("SELECT signed_with FROM freescout_delivery") == "previous"

    @pytest.mark.parametrize(
        ("environment", "state"),
        [
            (replace(BOTH, webhook_secrets=()), {"receive": "failed", "receive_rbac": "failed"}),
            (replace(APART, webhook_secrets=()), {"receive": "failed", "receive_rbac": "ok"}),
            (replace(APART, webhook_secrets=(), receive=False), {"receive": "off", "receive_rbac": "ok"}),
            (
                replace(BOTH, webhook_secrets=(), receive=False),
                {"receive": "off", "receive_rbac": "failed"},
            ),
        ],
    )
    async def test_without_a_key_it_is_red_where_it_is_on(
        self, receive: Receive, environment: Environment, state: dict[str, str]
    ) -> None:
        raw = body()
        async with receive(environment) as receiver:
            answer, _ = await receiver.deliver(raw, endpoint=RBAC, headers=signed(raw, key=ITS_OWN))
            status, components = await readiness(receiver)

        assert {name: components[name] for name in state} == state
        assert answer == (200 if state["receive_rbac"] == "ok" else 503)
        assert status == (503 if "failed" in state.values() else 200)

    async def test_the_doorman_turns_away_what_another_paths_key_has_signed(self) -> None:
        async def handle(_delivery: VerifiedDelivery) -> Any:
            raise AssertionError

        def endpoint(name: str, key: str) -> Endpoint:
            return Endpoint(name=name, enabled=lambda: True, secrets=lambda: [Secret(key)], handle=handle)

        metrics = Metrics()
        kinds: list[str] = []
        refusals = Refusals(metrics, remember=kinds.append)
        doorman = Doorman([endpoint(AUDIT, KEY), endpoint(RBAC, ITS_OWN)], refusals, metrics)

        def whole(path: str, key: str) -> bytes:
            lines = [f"{name}: {value}" for name, value in signed(body(), key=key).items()]
            head = [f"POST {path} HTTP/1.1", "Host: x", *lines, f"Content-Length: {len(body())}", "", ""]
            return "\r\n".join(head).encode() + body()

        assert doorman.answer(whole(path_of(AUDIT), KEY)) is None
        assert doorman.answer(whole(path_of(RBAC), ITS_OWN)) is None
        assert (doorman.answer(whole(path_of(RBAC), KEY)) or b"").startswith(b"HTTP/1.1 401 ")
        assert (doorman.answer(whole(path_of(AUDIT), ITS_OWN)) or b"").startswith(b"HTTP/1.1 401 ")
        assert kinds == ["unverified_like_freescouts_rbac", "unverified_like_freescouts"]


class TestWhatIsShown:
    async def test_a_wrong_key_of_its_own_is_seen_although_the_audit_path_is_verified_all_the_time(
        self, receive: Receive, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("receiver.health._FRESH", 0.0)
        monkeypatch.setattr("receiver.answers.WRITE_EVERY", 0.02)
        raw = body("closed")
        async with receive(APART) as receiver:
            await receiver.deliver(raw, endpoint=RBAC)  # with the audit's key
            await receiver.deliver(raw)
            await until_known(sql, {"unverified_like_freescouts_rbac", "verified"})
            refused = await readiness(receiver)
            async with receiver.client.get(receiver.url + "/readyz") as response:
                told = (await response.json())["components"]["deliveries_rbac"]

            await receiver.deliver(raw, endpoint=RBAC, headers=signed(raw, key=ITS_OWN))
            await until_known(sql, {"verified_rbac"})
            mended = await readiness(receiver)

        assert refused[0] == 200
        assert (refused[1]["deliveries"], refused[1]["deliveries_rbac"]) == ("ok", "degraded")
        assert "refused at RV-4's path (401)" in told["detail"]
        assert "FREESCOUT_RBAC_WEBHOOK_SECRET" in told["next_step"]
        assert told["runbook"] == "docs/runbook.md#deliveries"
        assert (mended[1]["deliveries"], mended[1]["deliveries_rbac"]) == ("ok", "ok")

    async def test_a_self_test_is_no_delivery_of_freescouts_there_either(
        self, receive: Receive, sql: asyncpg.Connection
    ) -> None:
        raw = json.dumps({"selftest": "x"}).encode()
        async with receive(BOTH) as receiver:
            answer = await receiver.deliver(raw, event="freescout-audit.selftest.1234abcd", endpoint=RBAC)

        assert answer == (200, {"outcome": "ignored"})
        assert await sql.fetchval("SELECT count(*) FROM freescout_answer WHERE kind LIKE 'verified%'") == 0

    async def test_log_and_metrics_name_the_path(self, receive: Receive, log: Log) -> None:
        async with receive(BOTH) as receiver:
            await receiver.deliver(body("closed"), endpoint=RBAC)
            async with receiver.client.get(receiver.url + "/metrics") as response:
                exposed = await response.text()

        (line,) = log.lines("delivery.applied")
        assert line["endpoint"] == RBAC
        assert 'freescout_audit_deliveries_total{endpoint="rbac",event="convo.status",outcome="applied"} 1.0' in exposed
        assert 'freescout_audit_requests_total{endpoint="rbac",status="200"} 1.0' in exposed
        for name in ("receive", "receive_rbac", "deliveries", "deliveries_rbac"):
            assert f'freescout_audit_component_up{{component="{name}"}} 1.0' in exposed

    async def test_without_its_flag_nothing_is_said_of_its_deliveries(self, receiver: Receiver) -> None:
        assert "deliveries_rbac" not in (await readiness(receiver))[1]


async def test_each_endpoint_notes_a_webhook_of_its_own_and_older_code_sees_the_audits_alone(
    database: Database, sql: asyncpg.Connection
) -> None:
    await save_webhook(database, AUDIT, 11, "https://app/audit", CONVERSATION_EVENTS)
    await save_webhook(database, RBAC, 12, "https://app/rbac", CONVERSATION_EVENTS)

    noted = {endpoint: await read_webhook(database, endpoint) for endpoint in ENDPOINTS}

    assert {endpoint: known and known.webhook_id for endpoint, known in noted.items()} == {AUDIT: 11, RBAC: 12}
    # What the revision before asks.
    assert await sql.fetchval("SELECT webhook_id FROM freescout_webhook WHERE removed_at IS NULL") == 11


@pytest.mark.parametrize(
    ("own", "previous", "accepted"),
    [
        (None, None, ["A", "Ap"]),
        ("R", None, ["R"]),
        ("R", "Rp", ["R", "Rp"]),
        (None, "Rp", ["A", "Ap", "Rp"]),
        ("A", None, ["A"]),
        ("R", "A", ["R", "A"]),
    ],
)
def test_which_keys_are_accepted(own: str | None, previous: str | None, accepted: list[str]) -> None:
    variables = {
        "FREESCOUT_AUDIT_WEBHOOK_SECRET": "A",
        "FREESCOUT_AUDIT_WEBHOOK_SECRET_PREVIOUS": "Ap",
        "FREESCOUT_RBAC_WEBHOOK_SECRET": own or "",
        "FREESCOUT_RBAC_WEBHOOK_SECRET_PREVIOUS": previous or "",
    }
    keys = keys_of(load_environment(variables))

    assert [secret.reveal() for secret in keys.accepted(RBAC)] == accepted
    assert [secret.reveal() for secret in keys.accepted(AUDIT)] == ["A", "Ap"]


async def until_known(sql: asyncpg.Connection, kinds: set[str]) -> None:
    async with asyncio.timeout(20):
        while not kinds <= {  # noqa: ASYNC110 - the database wakes nobody
            row["kind"] for row in await sql.fetch("SELECT kind FROM freescout_answer")
        }:
            await asyncio.sleep(0.02)
