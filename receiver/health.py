"""How the receiver is: a word for the public, the whole story for who holds ``OPS_TOKEN``.

What only the poller knows stands in the database, and is shown from there.
"""

import asyncio
import hmac
import ipaddress
from datetime import UTC, datetime
from typing import Literal

import asyncpg
import msgspec
from aiohttp import web

from db import statements
from db.database import Database
from db.migrate import newest_revision
from db.store import lease_of
from freescout_audit.errors import DatabaseUnavailableError
from freescout_audit.events import DATABASE_POOLER, RECEIVER_FAULT, RECEIVER_STATE
from freescout_audit.logs import emit
from freescout_audit.rule import Terms, poller_is_alive
from receiver.metrics import Metrics
from settings.environment import Environment, Secret
from settings.live import LiveSecrets
from settings.table import VaultSettings

State = Literal["ok", "off", "failed"]

CHECK_EVERY = 5.0
"""Seconds between two looks at the database when nobody asks."""
_FRESH = 1.0
_DEADLINE = 2.0


class Component(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is well, switched off on purpose, or wrong, and since when (UTC)."""

    state: State
    detail: str
    since: datetime


class Health:
    """What is well and what is not, kept up to date by `check`."""

    def __init__(
        self,
        database: Database,
        environment: Environment,
        *,
        terms: Terms,
        metrics: Metrics,
        secrets: LiveSecrets | None = None,
    ) -> None:
        self._database = database
        self._environment = environment
        self._secrets = secrets or LiveSecrets(environment, VaultSettings())
        self._terms = terms
        self._metrics = metrics
        self._checking = asyncio.Lock()
        self._checked_at: float | None = None
        self._pooler_reported = False
        self.components: dict[str, Component] = {}

    @property
    def ready(self) -> bool:
        """Whether nothing has failed; what is off on purpose has not."""
        return all(component.state != "failed" for component in self.components.values())

    async def check(self) -> None:
        """Look at everything once; at the database only if nobody did within the last second."""
        now = asyncio.get_running_loop().time
        async with self._checking:
            self._look_at_the_key()
            self._look_at_the_vault()
            if self._checked_at is None or now() - self._checked_at >= _FRESH:
                await self._look_at_the_database()
                self._checked_at = now()

    async def watch(self) -> None:
        """Check for ever, so that what failed is known, with its time, before anybody asks."""
        while True:
            try:
                await self.check()
            except Exception as error:  # noqa: BLE001 - the next look comes, whatever this one met
                emit(RECEIVER_FAULT, error=type(error).__name__, where="health")
            await asyncio.sleep(CHECK_EVERY)

    def _look_at_the_key(self) -> None:
        if not self._environment.receive:
            self._note("receive", "off", "FLAG_FREESCOUT_WEBHOOK_RECEIVE is not 1: deliveries are answered 503")
        elif self._secrets.webhook():
            self._note("receive", "ok", f"deliveries are taken, keys accepted: {len(self._secrets.webhook())}")
        elif self._secrets.vault is None:
            self._note("receive", "failed", "FREESCOUT_AUDIT_WEBHOOK_SECRET is not set: deliveries are answered 503")
        else:
            self._note("receive", "failed", "the vault has given no webhook key yet: deliveries are answered 503")

    def _look_at_the_vault(self) -> None:
        vault = self._secrets.vault
        if vault is not None:
            self._note("vault", vault.state, vault.detail, vault.since)

    async def _look_at_the_database(self) -> None:
        try:
            async with self._database.connection(_DEADLINE) as connection:
                standing = await connection.fetchrow(statements.READ_STANDING)
                gaps = await connection.fetch(statements.COUNT_GAPS)
                behind_pooler = standing is not None and connection.get_server_pid() != standing["backend"]
        except DatabaseUnavailableError as error:
            self._database_failed(str(error))
            return
        except asyncpg.PostgresError as error:
            self._database_failed(f"PostgreSQL refuses what we ask it: {type(error).__name__}")
            return
        if standing is None or standing["revision"] is None:
            self._database_failed(
                "the schema is incomplete: restore the database, or run python -m db.migrate on another"
            )
            return
        self._metrics.database_up.set(1)
        if standing["revision"] < newest_revision():
            self._note("database", "failed", "the schema is older than this code: run python -m db.migrate")
        else:
            self._note("database", "ok", f"schema {standing['revision']}")
        if behind_pooler and not self._pooler_reported:
            self._pooler_reported = True
            emit(DATABASE_POOLER)
        self._metrics.gaps_of_a_day({gap["verdict"]: gap["gaps"] for gap in gaps})
        self._look_at_the_lease(standing)

    def _database_failed(self, detail: str) -> None:
        """Note it, and forget what only the database knows."""
        self._note("database", "failed", detail)
        for name in ("poller", "desk"):
            self.components.pop(name, None)
        self._metrics.database_failed()

    def _look_at_the_lease(self, standing: asyncpg.Record) -> None:
        lease, now = lease_of(standing), standing["now"]
        alive = poller_is_alive(lease, now, self._terms)
        self._metrics.poller_alive.set(alive)
        self._metrics.disputes.set(standing["disputes"])
        if lease.lease_until is not None:
            self._metrics.lease_seconds.set((lease.lease_until - now).total_seconds())
        if not alive:
            detail = f"no poller: deliveries alone are believed, for {self._terms.ttl.total_seconds():g} s each"
            self._note("poller", "off", detail)
        elif lease.lease_until is None:
            self._note("poller", "ok", "alive; the first pass is not complete yet")
        elif lease.lease_until <= now:
            self._note("poller", "failed", "alive, but no pass has been complete for as long as cache.lease")
        else:
            self._note("poller", "ok", "alive; passes are complete")
        self._look_at_the_desk(standing, alive=alive)

    def _look_at_the_desk(self, standing: asyncpg.Record, *, alive: bool) -> None:
        """Show what the poller reports of FreeScout's API; without a poller nobody knows."""
        state, since = standing["desk_state"], standing["desk_since"]
        self._metrics.desk_up.set(alive and state == "ok")
        silent_since = standing["silent_since"] if alive else None
        self._metrics.both_silent.set(silent_since is not None)
        if not alive or state == "unknown":
            self._note("desk", "off", "nobody has asked FreeScout lately")
        elif silent_since is not None:
            self._note("desk", "failed", f"both paths are silent: {standing['desk_detail']}", silent_since)
        elif state == "ok":
            self._note("desk", "ok", "FreeScout's API answers", since)
        else:
            self._note("desk", "failed", standing["desk_detail"], since)

    def _note(self, name: str, state: State, detail: str, since: datetime | None = None) -> None:
        """Note a component; ``since`` when somebody knows better than from our looking at it."""
        before = self.components.get(name)
        if before is not None and before.state == state and before.detail == detail:
            return
        changed = before is None or before.state != state
        if since is None:
            since = datetime.now(UTC) if before is None or changed else before.since
        self.components[name] = Component(state=state, detail=detail, since=since)
        if changed:
            emit(RECEIVER_STATE, component=name, state=state, detail=detail)


def add_pages(app: web.Application, health: Health, metrics: Metrics, secrets: LiveSecrets) -> None:
    """Give ``/healthz``, ``/readyz`` and ``/metrics`` their routes."""

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(request: web.Request) -> web.Response:
        await health.check()
        status = 200 if health.ready else 503
        if not _may_see(request, secrets.ops_token()):
            return web.Response(status=status, text="ready\n" if health.ready else "not ready\n")
        body = msgspec.json.encode({"ready": health.ready, "components": health.components})
        return web.Response(status=status, body=body, content_type="application/json")

    async def show_metrics(request: web.Request) -> web.Response:
        if not _may_see(request, secrets.ops_token()):
            return web.Response(
                status=401, headers={"WWW-Authenticate": "Bearer"}, text="needs the bearer token OPS_TOKEN\n"
            )
        await health.check()
        return web.Response(body=metrics.exposition(), headers={"Content-Type": "text/plain; version=0.0.4"})

    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", show_metrics)


def _may_see(request: web.Request, token: Secret | None) -> bool:
    """Whether the request bears the token or, with none set, comes from this very machine and through no proxy."""
    if token is not None:
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        return hmac.compare_digest(given, f"Bearer {token.reveal()}".encode())
    if "X-Forwarded-For" in request.headers or "Forwarded" in request.headers:
        return False
    try:
        address = ipaddress.ip_address(request.remote or "")
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
