"""A rotation of FreeScout's webhook key: no delivery is lost, and `rotate status` tells the truth at each step."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import aiohttp
import asyncpg
import pytest
from rich.console import Console

from conftest import Log
from db.database import Database
from db.journal import KeyUse
from freescout_audit.endpoints import RBAC, path_of
from freescout_audit.errors import SettingsError
from freescout_audit.signature import api_key, webhook_key
from ops.commands.rotate import look
from ops.result import Exit
from ops.rotation import Rotation, Rotations, State, judge_rotation
from ops.selftest import send
from ops.workplace import Workplace
from poller.freescout import DeskRefusedError, FreeScout
from poller.run import poll
from poller.transport import http_transport
from receiver.app import create_app, serve
from settings import LiveSecrets, Secret, load_environment, load_settings
from simulator import Desk, Fate, HttpTransport, ManualClock, Report, SystemClock, Worker
from simulator import serve as serve_desk
from simulator.infisical import Infisical, VaultFault, serve_vault
from support.databases import Clock
from support.examples import NOON
from support.vaults import PATH, Seconds, Waits, variables
from support.world import START, TICK, WEBHOOK, no_sleep

OLD_APP_KEY, NEW_APP_KEY = "base64:b2xk", "base64:bmV3"
SETTINGS = load_settings({})


@dataclass
class Rotating:
    """A desk, a vault and a receiver, in the middle of a rotation."""

    desk: Desk
    clock: ManualClock
    database_clock: Clock
    worker: Worker
    transport: HttpTransport
    vault: Infisical
    waits: Waits
    secrets: LiveSecrets
    freescout: FreeScout
    receiver_port: int
    keys_when_it_listened: int
    workplace: Workplace
    sql: asyncpg.Connection
    reports: list[Report] = field(default_factory=list)

    async def advance(self, **span: float) -> None:
        """Let time pass; the desk's worker sends what comes due."""
        end = self.clock.now() + timedelta(**span)
        while (due := self.worker.next_due()) is not None and due <= end:
            await self._move(due)
            self.reports += await self.worker.run_due(self.transport)
        await self._move(end)

    async def _move(self, moment: datetime) -> None:
        self.clock.advance_to(moment)
        await self.database_clock.set(self.clock.now())

    async def change_something(self) -> None:
        self.desk.set_status(1, "closed" if self.desk.get(1).status != "closed" else "active")
        await self.advance(seconds=10)

    async def put(self, **values: str) -> None:
        """Change what the vault holds, and let it be read once more."""
        self.vault.put("prod", PATH, **values)
        await self.waits.read_again()

    async def status(self) -> tuple[str, Exit]:
        found = await look(replace(self.workplace))  # each command reads its keys anew
        assert isinstance(found.document, Rotation)
        return found.document.state, found.code


@asynccontextmanager
async def rotating(
    database: Database,
    database_url: str,
    sql: asyncpg.Connection,
    *,
    fault: VaultFault | None = None,
    rbac: bool = False,
) -> AsyncIterator[Rotating]:
    database_clock = await Clock.stop(sql, START, tick=TICK)
    clock, waits, vault = ManualClock(START), Waits(), Infisical(clock=Seconds())
    vault.put("prod", PATH, **keys(OLD_APP_KEY))
    vault.fault = fault
    desk = Desk(clock=clock, seed=1, app_key=OLD_APP_KEY)
    desk.populate(3, days=30)
    async with AsyncExitStack() as stack:
        vault_url = await stack.enter_async_context(serve_vault(vault))
        environment = load_environment(
            variables(
                vault,
                vault_url,
                DATABASE_URL=database_url,
                FLAG_FREESCOUT_WEBHOOK_RECEIVE="1",
                FLAG_FREESCOUT_WEBHOOK_RBAC=str(int(rbac)),
            )
        )
        secrets = LiveSecrets(environment, SETTINGS.vault, sleep=waits, clock=Seconds())
        app = create_app(database, environment, SETTINGS, secrets=secrets)
        port = await stack.enter_async_context(serve(app, host="127.0.0.1", port=0))
        keys_when_it_listened = len(secrets.webhook())
        desk.register_webhook(f"http://127.0.0.1:{port}{WEBHOOK}")
        if rbac:
            desk.register_webhook(f"http://127.0.0.1:{port}{path_of(RBAC)}")
        desk_url = await stack.enter_async_context(serve_desk(desk))
        http = await stack.enter_async_context(http_transport(desk_url, secrets.api_key, patience=5))
        yield Rotating(
            desk=desk,
            clock=clock,
            database_clock=database_clock,
            worker=Worker(desk),
            transport=await stack.enter_async_context(HttpTransport()),
            vault=vault,
            waits=waits,
            secrets=secrets,
            freescout=FreeScout(http, sleep=no_sleep),
            receiver_port=port,
            keys_when_it_listened=keys_when_it_listened,
            workplace=Workplace(environment, SETTINGS, as_json=True),
            sql=sql,
        )


def keys(app_key: str) -> dict[str, str]:
    return {
        "FREESCOUT_AUDIT_WEBHOOK_SECRET": webhook_key(app_key),
        "FREESCOUT_API_KEY": api_key(app_key),
        "OPS_TOKEN": "the-ops-token",
    }


async def test_the_app_key_changes_while_deliveries_flow_and_none_is_refused(
    database: Database, database_url: str, sql: asyncpg.Connection, log: Log
) -> None:
    async with rotating(database, database_url, sql) as world:
        await world.change_something()
        assert await world.status() == ("single", Exit.GOOD)

        both = keys(OLD_APP_KEY) | {
            "FREESCOUT_AUDIT_WEBHOOK_SECRET": webhook_key(NEW_APP_KEY),
            "FREESCOUT_AUDIT_WEBHOOK_SECRET_PREVIOUS": webhook_key(OLD_APP_KEY),
        }
        await world.put(**both)
        await world.change_something()
        assert await world.status() == ("not_begun", Exit.WRONG)

        world.desk.set_status(2, "spam")
        world.desk.change_app_key(NEW_APP_KEY)
        await world.advance(seconds=10)
        await world.change_something()
        assert await world.status() == ("running", Exit.WRONG)
        with pytest.raises(DeskRefusedError):
            await world.freescout.count()
        await world.put(**both | {"FREESCOUT_API_KEY": api_key(NEW_APP_KEY)})
        assert await world.freescout.count() == 3

        await world.advance(minutes=4)
        assert await world.status() == ("running", Exit.WRONG)
        await world.advance(minutes=2)
        assert await world.status() == ("over", Exit.GOOD)

        await world.put(**keys(NEW_APP_KEY))
        await world.change_something()
        assert await world.status() == ("single", Exit.GOOD)

        assert [report.fate for report in world.reports] == [Fate.SENT] * len(world.reports)
        assert len(world.reports) >= 5
        assert log.lines("delivery.unverified") == []
        signed_with = await sql.fetch("SELECT DISTINCT signed_with, key_fingerprint FROM freescout_delivery")
        assert len(signed_with) == 3
        assert not any(key in log.text for key in (*keys(OLD_APP_KEY).values(), *keys(NEW_APP_KEY).values()))


async def test_a_rotation_is_one_for_both_paths_while_they_accept_the_same_keys(
    database: Database, database_url: str, sql: asyncpg.Connection, log: Log
) -> None:
    async with rotating(database, database_url, sql, rbac=True) as world:
        await world.change_something()
        both = keys(NEW_APP_KEY) | {"FREESCOUT_AUDIT_WEBHOOK_SECRET_PREVIOUS": webhook_key(OLD_APP_KEY)}
        await world.put(**both)
        world.desk.change_app_key(NEW_APP_KEY)
        await world.change_something()
        found = await look(replace(world.workplace))

        assert isinstance(found.document, Rotations)
        assert (found.document.state, found.document.endpoints, found.document.others) == (
            "running",
            ["audit", "rbac"],
            [],
        )
        assert sum(key.deliveries for key in found.document.keys) == 4
        await world.advance(minutes=6)
        assert await world.status() == ("over", Exit.GOOD)
        assert log.lines("delivery.unverified") == []


async def test_a_key_of_its_own_that_is_not_rotated_is_seen_at_that_path(
    database: Database, database_url: str, sql: asyncpg.Connection, log: Log
) -> None:
    own = {
        "FREESCOUT_RBAC_WEBHOOK_SECRET": webhook_key(NEW_APP_KEY),
        "FREESCOUT_RBAC_WEBHOOK_SECRET_PREVIOUS": webhook_key(OLD_APP_KEY),
    }
    async with rotating(database, database_url, sql, rbac=True) as world:
        await world.put(**keys(OLD_APP_KEY) | own)
        await world.change_something()
        found = await look(replace(world.workplace))

        assert isinstance(found.document, Rotations)
        (other,) = found.document.others
        assert (found.document.state, found.document.endpoints) == ("single", ["audit"])
        assert (other.state, other.endpoints, found.code) == ("not_begun", ["rbac"], Exit.WRONG)
        screen = Console(record=True, width=100)
        screen.print(found.picture)
        assert "rbac: no delivery was signed with the new key yet" in " ".join(screen.export_text().split())

        # Both rotate, and the audit path alone is told.
        world.desk.change_app_key(NEW_APP_KEY)
        await world.change_something()
        refused = {line["endpoint"] for line in log.lines("delivery.unverified")}
        assert refused == {"audit"}
        assert {row["endpoint"] for row in await sql.fetch("SELECT endpoint FROM freescout_delivery")} == {
            "audit",
            "rbac",
        }


async def test_a_delivery_refused_under_the_old_key_comes_again_under_the_new_one(
    database: Database, database_url: str, sql: asyncpg.Connection, log: Log
) -> None:
    """So the old key need not wait for FreeScout's retries."""
    async with rotating(database, database_url, sql) as world:
        await world.put(**keys(NEW_APP_KEY))
        await world.change_something()
        world.desk.change_app_key(NEW_APP_KEY)
        await world.advance(seconds=70)

        assert [report.answer for report in world.reports] == [401, 200]
        assert await world.status() == ("single", Exit.GOOD)


async def test_a_self_test_of_ours_tells_nothing_of_a_rotation(
    database: Database, database_url: str, sql: asyncpg.Connection
) -> None:
    async with rotating(database, database_url, sql) as world:
        await world.change_something()
        await world.put(
            FREESCOUT_AUDIT_WEBHOOK_SECRET=webhook_key(NEW_APP_KEY),
            FREESCOUT_AUDIT_WEBHOOK_SECRET_PREVIOUS=webhook_key(OLD_APP_KEY),
        )
        url = f"http://127.0.0.1:{world.receiver_port}{WEBHOOK}"
        sent = await send(url, Secret(webhook_key(NEW_APP_KEY)), database)

        assert sent.same_database
        assert await world.status() == ("not_begun", Exit.WRONG)


async def test_a_receiver_has_asked_for_its_keys_before_it_listens(
    database: Database, database_url: str, sql: asyncpg.Connection
) -> None:
    async with rotating(database, database_url, sql) as world:
        assert world.keys_when_it_listened == 1


async def test_a_vault_that_is_away_fails_no_delivery_and_is_said_so(
    database: Database, database_url: str, sql: asyncpg.Connection
) -> None:
    async with rotating(database, database_url, sql) as world:
        world.vault.fault = VaultFault.DROP
        await world.waits.read_again()
        await world.change_something()
        status, components = await readiness(world)

        assert [report.fate for report in world.reports] == [Fate.SENT]
        assert status == 200, "deliveries are verified with the last known keys"
        assert components["receive"]["state"] == "ok"
        assert components["vault"]["state"] == "degraded"
        assert components["vault"]["detail"].endswith("closes the connection; the last known keys stay in use")
        assert components["vault"]["next_step"] == "is INFISICAL_URL right, and is it up?"
        assert world.secrets.vault is not None
        assert datetime.fromisoformat(components["vault"]["since"]) == world.secrets.vault.since


async def test_a_vault_that_is_away_at_the_start_is_answered_503_until_it_is_back(
    database: Database, database_url: str, sql: asyncpg.Connection, log: Log
) -> None:
    async with rotating(database, database_url, sql, fault=VaultFault.BAD_GATEWAY) as world:
        await world.change_something()
        assert [report.fate for report in world.reports] == [Fate.FAILED]
        status, _ = await readiness(world)
        assert status == 503

        world.vault.fault = None
        await world.waits.read_again()
        await world.advance(minutes=2)

        assert [report.fate for report in world.reports] == [Fate.FAILED, Fate.SENT]
        assert (await readiness(world))[0] == 200
    details = {line["component"]: line["detail"] for line in log.lines("receiver.state")}
    assert details["receive"] == "deliveries are taken, keys accepted: 1"


async def test_a_poller_waits_for_its_key_and_goes_on_with_the_next_one_without_a_restart(
    database: Database, sql: asyncpg.Connection, log: Log
) -> None:
    desk, vault, waits, stop = Desk(clock=SystemClock(), app_key=OLD_APP_KEY), Infisical(), Waits(), asyncio.Event()
    desk.populate(3, days=30)
    vault.fault = VaultFault.DROP
    vault.put("prod", PATH, **keys(OLD_APP_KEY))
    async with serve_vault(vault) as vault_url, serve_desk(desk) as desk_url:
        environment = load_environment(variables(vault, vault_url, FREESCOUT_URL=desk_url, FREESCOUT_API_KEY="stale"))
        settings = load_settings({"POLLER_INTERVAL": "1"})
        secrets = LiveSecrets(environment, settings.vault, sleep=waits)
        polling = asyncio.create_task(poll(database, environment, settings, stop, secrets=secrets))
        await waits.first()
        assert log.lines("poller.leads") == []

        vault.fault = None
        await waits.read_again()
        await until(lambda: len(log.lines("pass.completed")) == 1)

        desk.change_app_key(NEW_APP_KEY)
        await until(lambda: bool(log.lines("pass.failed")))
        vault.put("prod", PATH, **keys(NEW_APP_KEY))
        await waits.read_again()
        await until(lambda: len(log.lines("pass.completed")) > 1)
        stop.set()
        await polling

    assert "stale" not in log.text
    assert [line["variable"] for line in log.lines("vault.variable_ignored")] == ["FREESCOUT_API_KEY"]


async def test_a_poller_that_waits_for_its_key_ends_when_it_is_told_to(
    database: Database, unused_tcp_port: int
) -> None:
    vault, waits, stop = Infisical(), Waits(), asyncio.Event()
    environment = load_environment(
        variables(vault, f"http://127.0.0.1:{unused_tcp_port}", FREESCOUT_URL="http://127.0.0.1:1")
    )
    secrets = LiveSecrets(environment, SETTINGS.vault, sleep=waits)
    polling = asyncio.create_task(poll(database, environment, SETTINGS, stop, secrets=secrets))
    await waits.first()

    stop.set()
    await asyncio.wait_for(polling, 5)


async def test_a_poller_whose_vault_holds_no_api_key_says_what_it_needs(database: Database) -> None:
    vault = Infisical()
    vault.put("prod", PATH, FREESCOUT_AUDIT_WEBHOOK_SECRET="k")
    async with serve_vault(vault) as url:
        environment = load_environment(variables(vault, url, FREESCOUT_URL="http://127.0.0.1:1"))

        with pytest.raises(SettingsError, match="the poller needs FREESCOUT_URL and FREESCOUT_API_KEY"):
            await poll(database, environment, SETTINGS, asyncio.Event())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


async def readiness(world: Rotating) -> tuple[int, dict[str, Any]]:
    """The answer of /readyz and, where we may see them, the components."""
    headers = {"Authorization": "Bearer the-ops-token"}
    url = f"http://127.0.0.1:{world.receiver_port}/readyz"
    async with aiohttp.ClientSession() as client, client.get(url, headers=headers) as response:
        if response.content_type != "application/json":
            return response.status, {}
        return response.status, (await response.json())["components"]


def use(name: str | None, first: float, last: float) -> KeyUse:
    """A key that signed deliveries between two times, in minutes before noon."""
    return KeyUse(
        fingerprint=name,
        deliveries=2,
        first_at=NOON - timedelta(minutes=first),
        last_at=NOON - timedelta(minutes=last),
    )


@pytest.mark.parametrize(
    ("uses", "accepted", "state"),
    [
        ([], [], "no_key"),
        ([], ["new"], "single"),
        ([use("new", 90, 1), use("old", 900, 2)], ["new"], "single"),
        ([use("new", 90, 2), use("old", 900, 1)], ["new"], "removed_early"),
        ([use("old", 900, 300)], ["new"], "removed_early"),
        ([use(None, 900, 1)], ["new"], "single"),
        ([use("old", 900, 1)], ["new", "old"], "not_begun"),
        ([use("old", 900, 300)], ["new", "old"], "not_begun"),
        ([], ["new", "old"], "not_begun"),
        ([use("old", 900, 1), use("new", 200, 100)], ["new", "old"], "running"),
        ([use("new", 90, 1), use("old", 900, 4)], ["new", "old"], "running"),
        ([use("new", 4, 1), use("old", 900, 140)], ["new", "old"], "running"),
        ([use("new", 90, 1), use(None, 900, 4)], ["new", "old"], "running"),
        ([use("new", 90, 1), use("old", 900, 6)], ["new", "old"], "over"),
        ([use("new", 6, 1)], ["new", "old"], "over"),
    ],
)
def test_the_old_key_may_go_minutes_after_freescout_has_changed_to_the_new_one(
    uses: Sequence[KeyUse], accepted: Sequence[str], state: State
) -> None:
    found = judge_rotation(uses, accepted, now=NOON)

    assert found.state == state
    assert found.at_rest == (state in {"single", "over"})
    assert {key.fingerprint for key in found.keys} == {name.fingerprint for name in uses} | set(accepted)
