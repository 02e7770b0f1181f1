"""``doctor``: what is green, and for everything else the next step in one line."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import asyncpg
import msgspec
import pytest

from db.database import Database
from db.webhook import Webhook
from freescout_audit.delivery import CONVERSATION_EVENTS
from freescout_audit.rule import Lease
from ops.check import Check, green, red, yellow
from ops.commands.doctor import LOOK_EVERY, watch
from ops.conditions import stands
from ops.keychecks import keys
from ops.preflight import webhook
from settings import Secret
from settings.environment import KEYS
from settings.vault.keys import Keys
from simulator import ApiFault
from simulator.infisical import Infisical, VaultFault, serve_vault
from support.console_world import Operator, Said, at_the_console, run
from support.examples import NOON, at
from support.old_postgres import old_postgres
from support.standings import standing
from support.vaults import PATH
from support.vaults import variables as vault_variables
from support.world import make_world


@pytest.fixture
async def operator(database: Database, database_url: str, sql: asyncpg.Connection) -> AsyncIterator[Operator]:
    """A healthy app: registered, a delivery has come, a poller is alive and a pass complete."""
    async with (
        make_world(database, sql, tickets=12, sockets=False) as world,
        at_the_console(world, database_url) as operator,
    ):
        await world.poll()
        await sql.execute("UPDATE freescout_poller SET leader = 'poller.1', led_since = freescout_now()")
        await sql.execute(
            "INSERT INTO freescout_webhook (webhook_id, url, events, began_at) VALUES ($1, $2, $3, now())",
            *next((hook.id, hook.url, hook.events) for hook in world.desk.webhooks.values()),
        )
        world.desk.bulk_set_status([1, 2], "spam")
        await world.advance(10)
        yield operator


def colours(said: Said) -> dict[str, str]:
    return {check["name"]: check["state"] for check in said.json["checks"]}


def found(said: Said, name: str) -> tuple[str, str]:
    """What a check found, and the next step."""
    (check,) = [check for check in said.json["checks"] if check["name"] == name]
    return check["detail"], check["next_step"]


async def test_a_healthy_app_is_green_from_top_to_bottom(operator: Operator) -> None:
    said = await operator.types("doctor", "--url", operator.receiver, "--json")

    assert [check for check in said.json["checks"] if check["state"] != "green"] == []
    assert list(colours(said)) == [
        "database",
        "schema",
        "pooler",
        "flag",
        "rbac flag",
        "webhook key",
        "API key",
        "OPS_TOKEN",
        "API",
        "clock",
        "page size",
        "writing",
        "log",
        "webhook",
        "refusals",
        "deliveries",
        "self-test",
        "poller",
        "lease",
        "feed",
        "silence",
        "gaps",
    ]
    assert (said.code, said.json["green"], said.json["red"]) == (0, 22, 0)


async def test_for_cron_it_says_what_is_red_in_one_line_and_else_nothing(
    operator: Operator, sql: asyncpg.Connection
) -> None:
    said = await operator.types("doctor", "--quiet")
    assert (said.code, said.out, said.err) == (0, "", "")

    await sql.execute("UPDATE freescout_lease SET lease_until = freescout_now() - interval '1 minute'")
    said = await operator.types("doctor", "--quiet")
    assert said.code == 1
    assert said.out.startswith("lease: the lease ended at ")
    assert said.out.count("\n") == 1


async def test_nothing_it_says_is_a_secret(operator: Operator) -> None:
    secrets = {
        value for name, value in operator.variables.items() if "KEY" in name or "SECRET" in name or "TOKEN" in name
    }

    for arguments in (("doctor", "--json"), ("doctor",), ("status",), ("doctor", "--url", operator.receiver)):
        await operator.types(*arguments)

    shown = "".join(said.out + said.err for said in operator.said)
    assert len(secrets) == 3
    assert [secret for secret in secrets if secret in shown] == []


async def test_the_self_test_changes_no_answer_and_is_no_delivery_of_the_desks(
    operator: Operator, sql: asyncpg.Connection
) -> None:
    before = await sql.fetch("SELECT * FROM freescout_ticket ORDER BY ticket_id")
    last = (await operator.types("status", "--json")).json["last_delivery"]

    said = await operator.types("doctor", "--url", operator.receiver, "--json")

    assert colours(said)["self-test"] == "green"
    assert await sql.fetch("SELECT * FROM freescout_ticket ORDER BY ticket_id") == before
    newest = await sql.fetchrow("SELECT event, ticket_id, outcome FROM freescout_delivery ORDER BY delivery_id DESC")
    assert newest["event"].startswith("freescout-audit.selftest.")
    assert (newest["ticket_id"], newest["outcome"]) == (None, "ignored")
    assert (await operator.types("status", "--json")).json["last_delivery"] == last


@dataclass(frozen=True)
class Trouble:
    """Something that is wrong, and what ``doctor`` has to say of it."""

    name: str
    state: str
    detail: str
    next_step: str
    variables: dict[str, str] = field(default_factory=dict)
    faults: dict[str, object] = field(default_factory=dict)
    statement: str = ""
    mend: str = ""


TROUBLES = [
    Trouble("database", "red", "must begin with postgres://", "set DATABASE_URL", {"DATABASE_URL": "mysql://x"}),
    Trouble("database", "red", "not available", "does PostgreSQL run", {"DATABASE_URL": "postgres://127.0.0.1:1/x"}),
    Trouble("flag", "yellow", "503", "FLAG_FREESCOUT_WEBHOOK_RECEIVE=1", {"FLAG_FREESCOUT_WEBHOOK_RECEIVE": "0"}),
    Trouble("API", "red", "(connection refused)", "FREESCOUT_URL right", {"FREESCOUT_URL": "http://127.0.0.1:1"}),
    Trouble("API", "red", "answers 401", "compare FREESCOUT_API_KEY", {"FREESCOUT_API_KEY": "wrong"}),
    Trouble("settings", "yellow", "cache.lease", "docs/settings.md", {"CACHE_LEASE": "200"}),
    Trouble("API", "red", "answers 404", "module active?", faults={"module_active": False}),
    Trouble("API", "red", "answers 503", "is the desk up", faults={"api": ApiFault.MAINTENANCE}),
    Trouble("clock", "red", "behind ours", "time server", faults={"clock_offset": -90}),
    Trouble("clock", "yellow", "ahead of ours", "time server", faults={"clock_offset": 20}),
    Trouble("clock", "red", "ahead of ours", "time server", faults={"date": datetime(9999, 12, 31, tzinfo=UTC)}),
    Trouble(
        "schema",
        "red",
        "a date that cannot be",
        "desk clock --reset",
        statement="ALTER TABLE freescout_lease DROP CONSTRAINT freescout_lease_dates_check;"
        "UPDATE freescout_lease SET seen_through = '20000-01-01Z'",
        mend="UPDATE freescout_lease SET seen_through = NULL",
    ),
    Trouble("page size", "red", "200 rows: FreeScout answers 500", "POLLER_PAGE_SIZE", faults={"memory_limit_rows": 5}),
    Trouble("page size", "green", "the desk gives at most 4 rows a page", "", faults={"page_cap": 4}),
    Trouble(
        "desk",
        "red",
        "https://x",
        "desk change",
        statement="UPDATE freescout_lease SET desk_url = 'https://x'",
        mend="UPDATE freescout_lease SET desk_url = NULL",
    ),
    Trouble(
        "gaps",
        "yellow",
        "1 deliveries",
        "gaps --verdict lost",
        statement="INSERT INTO freescout_gap (ticket_id, healed_at, verdict) VALUES (1, freescout_now(), 'lost')",
        mend="DELETE FROM freescout_gap",
    ),
    Trouble(
        "deliveries",
        "red",
        "came twice",
        "webhook remove --id",
        statement="""
            INSERT INTO freescout_delivery (received_at, endpoint, event, ticket_id, outcome, reason, body_bytes,
                                            body_ms, signed_with)
            SELECT freescout_now(), 'audit', 'convo.status', id, 'duplicate', '', 1, 1, 'current'
            FROM generate_series(1, 5) AS id, generate_series(1, 2)
        """,
        mend="DELETE FROM freescout_delivery",
    ),
    Trouble("deliveries", "yellow", "none has come", "webhook test"),
    Trouble(
        "schema",
        "yellow",
        "every role may create",
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        statement="GRANT CREATE ON SCHEMA public TO PUBLIC",
        mend="REVOKE CREATE ON SCHEMA public FROM PUBLIC",
    ),
    Trouble(
        "schema",
        "red",
        "at 0002",
        "python -m db.migrate",
        statement="UPDATE freescout_schema SET version_num = '0002'",
    ),
    Trouble("schema", "red", "incomplete", "restore", statement="DELETE FROM freescout_lease"),
    Trouble("schema", "red", "are not there", "python -m db.migrate", statement="DROP TABLE freescout_schema"),
]


async def test_what_is_wrong_is_named_with_the_next_step(operator: Operator, sql: asyncpg.Connection) -> None:
    healthy = replace(operator.world.desk.faults)
    for trouble in TROUBLES:
        if trouble.statement:
            await sql.execute(trouble.statement)
        operator.world.desk.faults = replace(healthy)
        for name, value in trouble.faults.items():
            setattr(operator.world.desk.faults, name, value)

        said = await operator.types("doctor", "--json", **trouble.variables)

        assert colours(said)[trouble.name] == trouble.state, trouble
        assert trouble.detail in found(said, trouble.name)[0], trouble
        assert trouble.next_step in found(said, trouble.name)[1], trouble
        assert said.code == (1 if said.json["red"] else 0)
        if trouble.mend:
            await sql.execute(trouble.mend)


def noted(**changes: object) -> Webhook:
    ordinary = Webhook(
        webhook_id=7, url="https://a.example.org/x", events=list(CONVERSATION_EVENTS), began_at=NOON, registered_at=NOON
    )
    return msgspec.structs.replace(ordinary, **changes)


@pytest.mark.parametrize(
    ("known", "came", "state", "said"),
    [
        (noted(), True, "green", "7, all conversation events"),
        (None, False, "yellow", "webhook register https://<app>"),
        (None, True, "yellow", "--id ID"),
        (noted(webhook_id=None), False, "red", "did not end"),
        (noted(url="https://b.example.org/x"), True, "red", "--replace"),
        (noted(events=["convo.status"]), True, "yellow", "convo.deleted_forever"),
    ],
)
def test_what_is_noted_of_the_webhook_is_judged(*, known: Webhook | None, came: bool, state: str, said: str) -> None:
    check = webhook(known, came=came, url="https://a.example.org/x")

    assert check.state == state
    assert said in f"{check.detail} {check.next_step}"


async def test_a_server_that_is_too_old_is_named(operator: Operator) -> None:
    async with old_postgres() as url:
        said = await operator.types("doctor", "--json", DATABASE_URL=url)

    assert colours(said)["database"] == "red"
    problem, next_step = found(said, "database")
    assert problem == "PostgreSQL is older than 14"
    assert "14 or later" in next_step


def test_poller_lease_desk_and_silence_are_what_readiness_has() -> None:
    checks = {check.name: check for check in stands(standing(retired_at=None))}

    assert {name: check.state for name, check in checks.items()} == {
        "poller": "green",
        "lease": "green",
        "desk": "green",
        "feed": "green",
        "silence": "green",
    }
    assert checks["silence"].detail == "at least one of push and pull is working"


def test_without_a_poller_the_repeated_hour_is_named_and_the_lease_is_shown() -> None:
    checks = {check.name: check for check in stands(standing(lease=Lease()))}

    assert set(checks) == {"poller", "lease", "feed"}
    assert checks["poller"].state == "yellow"
    assert "no poller is running: tickets without a recent delivery read none" in checks["poller"].detail
    assert "daylight saving repeats" in checks["poller"].detail


def test_two_silent_paths_are_red_with_what_the_desk_says() -> None:
    seen = standing(silent_since=at(-600), desk_state="refused", desk_detail="FreeScout answers 401")
    checks = {check.name: check for check in stands(seen)}

    assert checks["silence"].state == "red"
    assert checks["silence"].detail == "neither push nor pull works: FreeScout answers 401"


async def test_a_self_test_that_fails_says_why(operator: Operator) -> None:
    for address, variables, detail, next_step in (
        (operator.receiver, {"FREESCOUT_AUDIT_WEBHOOK_SECRET": "another"}, "answers 401", "restart the web process"),
        ("http://127.0.0.1:1", {}, "cannot connect to 127.0.0.1:1 (connection refused)", "is the address right"),
        (operator.variables["FREESCOUT_URL"], {}, "answers 404", "is it the right app?"),
    ):
        said = await operator.types("doctor", "--json", "--url", address, **variables)

        assert said.code == 1
        assert detail in found(said, "self-test")[0]
        assert next_step in found(said, "self-test")[1]


async def test_a_self_test_that_another_database_keeps_is_recognised(
    operator: Operator, sql: asyncpg.Connection
) -> None:
    # What another app's receiver took is not to be found here.
    await sql.execute("CREATE FUNCTION drop_it() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    await sql.execute(
        "CREATE TRIGGER elsewhere BEFORE INSERT ON freescout_delivery FOR EACH ROW EXECUTE FUNCTION drop_it()"
    )

    said = await operator.types("doctor", "--json", "--url", operator.receiver)

    assert "does not stand in this database" in found(said, "self-test")[0]


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("app.example.org", "is no address"),
        ("http://app.example.org", "must begin with https://"),
        ("https://app.example.org/webhook", "leave the path out"),
    ],
)
def test_an_address_that_cannot_be_right_is_a_wrong_call(address: str, problem: str) -> None:
    said = run("doctor", "--url", address, variables={})

    assert said.code == 2
    assert problem in " ".join(said.err.replace("│", " ").split())


APP_KEY = "base64:c2ltdWxhdG9yLWFwcC1rZXktMzItYnl0ZXMtbG9uZyE="


@pytest.mark.parametrize(
    ("webhook_key", "api_key", "token", "expected"),
    [
        ("a" * 32, "b" * 32, "t", []),
        ("any length and alphabet".replace(" ", "ä"), "Z", "t", []),
        (APP_KEY, "b" * 32, "t", [("webhook key", "red", "looks like FreeScout's APP_KEY")]),
        ("a" * 32, APP_KEY, "t", [("API key", "red", "looks like FreeScout's APP_KEY")]),
        ("a" * 32, "a" * 32, "t", [("webhook key", "red", "the same as the API key")]),
        ('"' + "a" * 32 + '"', "b" * 32, "t", [("webhook key", "red", "there is a ")]),
        ("a" * 32, "b" * 32, "a" * 32, [("OPS_TOKEN", "red", "one of FreeScout's keys")]),
        (None, "b" * 32, "t", [("webhook key", "red", "is not set")]),
        ("a" * 32, None, "t", [("API key", "red", "FREESCOUT_API_KEY is not set")]),
        ("a" * 32, "b" * 32, None, [("OPS_TOKEN", "yellow", "not set")]),
    ],
)
def test_a_mix_up_of_keys_is_recognised_and_nothing_else(
    webhook_key: str | None, api_key: str | None, token: str | None, expected: list[tuple[str, str, str]]
) -> None:
    in_use = Keys(
        webhook=() if webhook_key is None else (Secret(webhook_key),),
        api_key=None if api_key is None else Secret(api_key),
        ops_token=None if token is None else Secret(token),
    )

    checks = [check for check in keys(in_use, desk_url="https://desk.example.org") if check.state != "green"]

    assert [(check.name, check.state) for check in checks] == [(name, state) for name, state, _ in expected]
    for check, (_, _, detail) in zip(checks, expected, strict=True):
        assert detail in check.detail


def test_a_second_key_is_yellow_while_a_rotation_lasts() -> None:
    in_use = Keys(webhook=(Secret("a"), Secret("b")), api_key=None, ops_token=None)

    (check,) = [check for check in keys(in_use, desk_url=None) if check.name == "previous key"]

    assert (check.state, "rotate status" in check.next_step) == ("yellow", True)


@pytest.fixture
async def vault(operator: Operator) -> AsyncIterator[Infisical]:
    """The app's keys stand in a vault, and none in its environment."""
    vault = Infisical()
    vault.put("prod", PATH, **{name: operator.variables.pop(name) for name in KEYS if name in operator.variables})
    async with serve_vault(vault) as url:
        operator.variables |= vault_variables(vault, url)
        yield vault


async def test_the_keys_of_a_vault_are_those_that_the_processes_use(operator: Operator, vault: Infisical) -> None:
    said = await operator.types("doctor", "--url", operator.receiver, "--json")

    assert [check for check in said.json["checks"] if check["state"] != "green"] == []
    assert {"vault", "webhook key", "API key", "self-test"} <= set(colours(said))
    assert found(said, "vault")[0].startswith(f"{PATH} (prod) at http://127.0.0.1:")
    assert found(said, "vault")[0].endswith("holds FREESCOUT_API_KEY, FREESCOUT_AUDIT_WEBHOOK_SECRET, OPS_TOKEN")
    assert (await operator.types("ticket", "1", "--ask", "--json")).json["desk"]["status"] == "spam"
    assert vault.requests.total() == 4, "each command logs in once, and reads once"


async def test_a_variable_that_a_vault_overrules_is_red_and_no_value_is_shown(
    operator: Operator, vault: Infisical
) -> None:
    same = vault.folders["prod", PATH.rstrip("/")]["OPS_TOKEN"]

    said = await operator.types("doctor", "--json", FREESCOUT_API_KEY="an older key", OPS_TOKEN=same)

    assert (said.code, colours(said)["API"]) == (1, "green")
    assert [check["name"] for check in said.json["checks"] if check["state"] == "red"] == ["variable"]
    assert found(said, "variable")[0] == "FREESCOUT_API_KEY says otherwise than the vault, and is ignored"
    assert found(said, "variable")[1].endswith("if it is right, put it into the vault first")
    values = ["an older key", vault.client_secret, *vault.folders["prod", PATH.rstrip("/")].values()]
    assert [value for value in values if value in said.out + said.err] == []
    healed = await operator.types("heal", "1", FREESCOUT_API_KEY="an older key")
    assert (healed.code, "FREESCOUT_API_KEY says otherwise than the vault" in healed.err) == (0, True)


async def test_a_vault_that_gives_nothing_is_red_and_no_key_is_judged(operator: Operator, vault: Infisical) -> None:
    for fault, problem, next_step in (
        (VaultFault.DROP, "127.0.0.1:", "is INFISICAL_URL right"),
        (VaultFault.SERVER_ERROR, "Infisical answers 500; it is asked again", "is it up?"),
        (VaultFault.EMPTY, "the vault shows no secrets at", "check INFISICAL_PATH"),
    ):
        vault.fault = fault

        said = await operator.types("doctor", "--json", "--url", operator.receiver, FREESCOUT_API_KEY="an older key")

        assert said.code == 1
        assert found(said, "vault")[0].startswith(problem)
        assert next_step in found(said, "vault")[1]
        assert {"webhook key", "API key", "API"} & set(colours(said)) == set()
        assert [colours(said)[name] for name in ("database", "poller", "self-test")] == ["green", "green", "yellow"]


async def test_a_vault_that_lacks_a_key_names_it_as_the_vault_does(operator: Operator, vault: Infisical) -> None:
    vault.put("prod", PATH, token="the operators' token")

    said = await operator.types("doctor", "--json", VAULT_OPS_TOKEN_NAME="token", VAULT_API_KEY_NAME="api")

    assert found(said, "webhook key")[0].startswith("the vault does not hold FREESCOUT_AUDIT_WEBHOOK_SECRET")
    assert found(said, "API key") == (
        "the vault does not hold api",
        "copy it there from FreeScout's Manage » Settings » API & Webhooks",
    )
    assert colours(said)["OPS_TOKEN"] == "green"


async def test_what_waits_with_wrong_credentials_locks_nobody_out(
    operator: Operator, vault: Infisical, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.commands.doctor.LOOK_EVERY", 0.2)

    said = await operator.types("doctor", "--wait", "--within", "1", "--json", INFISICAL_CLIENT_SECRET="wrong")

    assert "make a new client secret" in found(said, "vault")[1]
    assert vault.requests.total() == 1


async def test_what_waits_reads_the_vault_again_as_the_processes_do(
    operator: Operator, vault: Infisical, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.commands.doctor.LOOK_EVERY", 0.01)
    vault.fault = VaultFault.DROP
    waiting = asyncio.create_task(operator.types("doctor", "--wait", "--within", "20", "--json"))
    async with asyncio.timeout(20):
        while not vault.requests:  # noqa: ASYNC110 - it wakes nobody
            await asyncio.sleep(0.01)

    vault.fault = None
    said = await waiting

    assert (said.code, colours(said)["vault"], colours(said)["API"]) == (0, "green", "green")


async def test_a_vault_that_is_away_is_one_line_for_every_command_that_needs_a_key(
    operator: Operator, vault: Infisical
) -> None:
    vault.fault = VaultFault.DROP

    for arguments in (("heal", "1"), ("rotate", "status"), ("webhook", "test", "1", "--yes"), ("backfill",)):
        said = await operator.types(*arguments, COLUMNS="300")

        assert said.code == 3
        (line,) = said.err.splitlines()
        assert line.endswith("it closes the connection: is INFISICAL_URL right, and is it up?")
    assert (await operator.types("status")).code == 0


class Looks:
    """Looks that find one thing after another, and a clock that only waiting moves."""

    def __init__(self, *found: list[Check]) -> None:
        self._found = list(found)
        self.now = 0.0
        self.told: list[str] = []

    async def look(self) -> list[Check]:
        return self._found.pop(0) if len(self._found) > 1 else self._found[0]

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    async def watch(self, waits_for: Callable[[Check], bool], *, within: float = 600) -> list[str]:
        checks = await watch(
            self.look,
            waits_for=waits_for,
            within=within,
            tell=self.told.append,
            sleep=self.sleep,
            clock=lambda: self.now,
        )
        return [check.state for check in checks]


ALL_GREEN = [green("API", ""), green("lease", "")]
LOADING = [green("API", ""), yellow("lease", "no pass yet", "wait", passes=True)]
AWAY = [red("API", "answers 503", "is it up?"), yellow("lease", "no pass yet", "wait", passes=True)]
ROTATING = [green("API", ""), yellow("previous key", "accepted as well", "remove it")]


def is_red(check: Check) -> bool:
    return check.state == "red"


def is_red_or_passes(check: Check) -> bool:
    return is_red(check) or check.passes


async def test_waiting_tells_once_what_each_check_says_and_what_to_do_about_it() -> None:
    still_away = [red("API", "answers 503 since 3 s", "is it up?"), AWAY[1]]
    looks = Looks(AWAY, still_away, LOADING, ALL_GREEN)

    assert await looks.watch(is_red_or_passes) == ["green", "green"]

    assert looks.told == ["waiting for API: answers 503 → is it up?", "waiting for lease: no pass yet → wait"]
    assert looks.now == 3 * LOOK_EVERY


async def test_waiting_does_not_wait_for_yellow_that_stays() -> None:
    looks = Looks(AWAY, ROTATING)

    assert await looks.watch(is_red_or_passes) == ["green", "yellow"]


async def test_who_accepts_yellow_waits_only_for_what_is_red() -> None:
    looks = Looks(AWAY, LOADING, ALL_GREEN)

    assert await looks.watch(is_red) == ["green", "yellow"]


async def test_waiting_ends_in_time() -> None:
    looks = Looks(AWAY)

    assert await looks.watch(is_red, within=60) == ["red", "yellow"]

    assert looks.now <= 60


async def test_yellow_that_may_be_meant_is_named_at_the_end_of_a_wait(
    operator: Operator, sql: asyncpg.Connection
) -> None:
    await sql.execute("DELETE FROM freescout_webhook")
    rotating = {"FREESCOUT_AUDIT_WEBHOOK_SECRET_PREVIOUS": "an-older-key"}

    said = await operator.types("doctor", "--wait", "--within", "1", **rotating)
    for_programs = await operator.types("doctor", "--wait", "--within", "1", "--json", **rotating)

    assert (said.code, said.err) == (0, "")
    assert "yellow stays until somebody acts, and may be meant so: previous key, webhook" in " ".join(said.out.split())
    assert for_programs.json["stays_yellow"] == ["previous key", "webhook"]


async def test_a_wait_in_vain_for_what_passes_is_wrong_even_when_only_yellow_is_left(
    operator: Operator, sql: asyncpg.Connection
) -> None:
    await sql.execute("UPDATE freescout_lease SET lease_until = NULL")

    assert (await operator.types("doctor")).code == 0
    assert (await operator.types("doctor", "--wait", "--within", "1")).code == 1
    assert (await operator.types("doctor", "--wait", "--within", "1", "--accept-yellow")).code == 0
