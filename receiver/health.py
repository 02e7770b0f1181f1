"""Tells how the receiver is: one word to the public, everything to holders of ``OPS_TOKEN``.

What only the poller knows stands in the database, and is shown from there.
"""

import asyncio
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import asyncpg
import msgspec
from aiohttp import web

from db.answers import AnswerTally, read_ahead, read_answers
from db.components import WRITE_EVERY, Found, write_components
from db.condition import WRONG, State, judge, judge_pushes
from db.counts import Counts
from db.database import Database
from db.gaps import count_gaps
from db.lease import note_terms
from db.minutes import MinuteBook
from db.refusals import MIGRATE, explain
from db.revision import age_of
from db.runbook import remedy
from db.standing import Standing, StandingWatch, read_standing
from db.tickets import count_disputes
from db.verdict import find_lights
from freescout_audit import __version__
from freescout_audit.endpoints import AUDIT, ENDPOINTS, name_at
from freescout_audit.errors import DatabaseUnavailableError
from freescout_audit.events import DATABASE_POOLER, RECEIVER_FAULT, RECEIVER_STATE
from freescout_audit.logs import emit
from freescout_audit.repeats import Repeats
from freescout_audit.rule import Terms
from freescout_audit.trust import vouched_until
from receiver.access import Access
from receiver.counting import Counting
from receiver.keys import judge_keys
from receiver.metrics import Metrics
from receiver.writing import Writing
from settings.environment import Environment
from settings.process import process_name
from settings.table import VaultSettings
from settings.vault.live import LiveSecrets

CHECK_EVERY = 5.0
"""Seconds between two looks at the database when no request asks."""
_FRESH = 1.0
_DEADLINE = 2.0
_DAY = timedelta(days=1)


class Component(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is well, switched off on purpose, or wrong, since when (UTC), and what to do about it."""

    state: State
    detail: str
    next_step: str
    since: datetime
    brief: str = ""
    """The same as ``detail`` in fewer words; empty: there are no fewer."""
    runbook: str = ""
    """Where the runbook says what to do, such as ``docs/runbook.md#poller``; empty unless it is wrong."""


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
        writing: Writing | None = None,
        minutes: MinuteBook | None = None,
    ) -> None:
        self._database = database
        self._environment = environment
        self._secrets = secrets or LiveSecrets(environment, VaultSettings())
        self._terms = terms
        self._metrics = metrics
        self._writing = writing or Writing(database)
        self._minutes = minutes or MinuteBook(database, "")
        self._watch = StandingWatch()
        self._repeats = Repeats()
        self._process = process_name()
        self._reported: list[Found] = []
        self._reported_at = -math.inf
        self._checking = asyncio.Lock()
        self._checked_at: float | None = None
        self._pooler_reported = False
        self.counting = Counting(database, metrics)
        """To be set going by whoever runs this; it is no part of a check."""
        self.components: dict[str, Component] = {}
        self.standing: Standing | None = None
        """What stood in the database at the last look; None: it could not be read."""
        self.answers: Mapping[str, AnswerTally] = {}
        """What all receivers have answered, by kind, as it was read last."""
        self.gaps: Mapping[str, int] = {}
        """The gaps of the last day by verdict, as they were read last."""
        self.disputes = 0
        """Open disputes, as they were counted last."""
        metrics.watch_pool(lambda: database.in_use, database.size)

    @property
    def counts(self) -> Counts | None:
        """What was counted last, up to a minute ago; None when that is not known."""
        return self.counting.counts

    @property
    def endpoints(self) -> Sequence[str]:
        """The endpoints that are on; the audit's if none is."""
        return self._environment.endpoints or (AUDIT,)

    @property
    def ready(self) -> bool:
        """Whether nothing has failed that keeps somebody's work from being done."""
        return all(component.state != "failed" for component in self.components.values())

    async def check(self) -> None:
        """Look at everything once; at the database only if that was not done within the last second."""
        now = asyncio.get_running_loop().time
        async with self._checking:
            self._look_at_the_keys()
            self._look_at_the_vault()
            if self._checked_at is None or now() - self._checked_at >= _FRESH:
                await self._look_at_the_database()
                self._checked_at = now()
                self._minutes.note({name: light.state for name, light in find_lights(self.components).items()})

    async def watch(self) -> None:
        """Check for ever, so that what failed is known, with its time, before anybody asks."""
        while True:
            try:
                await self.check()
                await self._report()
            except Exception as error:  # noqa: BLE001 - the next look comes, whatever this one met
                self._repeats.emit(RECEIVER_FAULT, type(error).__name__, error=type(error).__name__, where="health")
            await asyncio.sleep(CHECK_EVERY)

    async def _report(self) -> None:
        """Keep for `status` what was found, when it has changed and every minute."""
        found = [
            Found(
                process=self._process,
                name=name,
                state=each.state,
                detail=each.detail,
                next_step=each.next_step,
                since=each.since,
            )
            for name, each in sorted(self.components.items())
        ]
        now = asyncio.get_running_loop().time()
        if found == self._reported and now - self._reported_at < WRITE_EVERY:
            return
        with suppress(DatabaseUnavailableError):  # which is one of the components
            await write_components(self._database, self._process, found)
            self._reported, self._reported_at = found, now

    async def leave(self) -> None:
        """Take away what was kept for `status`: this process ends, and finds nothing any more."""
        await write_components(self._database, self._process, [])

    def _look_at_the_keys(self) -> None:
        for endpoint in ENDPOINTS:
            on = endpoint in self._environment.endpoints
            found = judge_keys(endpoint, on=on, keys=self._secrets.webhook(endpoint), vault=self._secrets.vault)
            self._note(name_at(endpoint, "receive"), found.state, found.detail, found.next_step)

    def _look_at_the_vault(self) -> None:
        vault = self._secrets.vault
        if vault is not None:
            detail = f"{vault.detail}; {vault.meanwhile}" if vault.meanwhile else vault.detail
            taken = all(self._secrets.webhook(endpoint) for endpoint in self.endpoints)
            state: State = "degraded" if vault.state == "failed" and taken else vault.state
            self._note("vault", state, detail, vault.next_step, since=vault.since)

    async def _look_at_the_database(self) -> None:
        try:
            async with asyncio.timeout(_DEADLINE):
                standing = await read_standing(self._database)
                disputes = await count_disputes(self._database)
                gaps = await count_gaps(self._database, _DAY)
                answers = await read_answers(self._database)
                ahead = await read_ahead(self._database)
        except TimeoutError:
            self._database_failed("PostgreSQL did not answer in time", "does PostgreSQL run, and is it overloaded?")
            return
        except DatabaseUnavailableError as error:
            self._database_failed(error.problem, error.next_step)
            return
        except asyncpg.PostgresError as error:
            meaning = explain(error)
            if meaning is not None:
                self._database_failed(meaning.problem, meaning.next_step)
            else:
                problem = f"PostgreSQL refuses what we ask it: {type(error).__name__}"
                self._database_failed(problem, "look into PostgreSQL's log")
            return
        if standing is None or standing.revision is None:
            self._database_failed(
                "the schema is incomplete", "restore the database, or run python -m db.migrate on another"
            )
            return
        self._metrics.database_up.set(1)
        await self._note_terms(standing)
        self._look_at_the_writing(standing.revision)
        if standing.behind_pooler and not self._pooler_reported:
            self._pooler_reported = True
            emit(DATABASE_POOLER)
        self._metrics.gaps_of_a_day(gaps)
        self._metrics.disputes.set(disputes)
        self._watch.look(standing)
        self.standing, self.answers, self.gaps, self.disputes = standing, answers, gaps, disputes
        pushes = judge_pushes(answers, ahead, self._environment.endpoints)
        for name, condition in (judge(standing) | pushes).items():
            self._note(
                name,
                condition.state,
                condition.detail,
                condition.next_step,
                brief=condition.brief,
                since=condition.since,
            )
        until = vouched_until(standing.lease, standing.now)
        self.counting.look(vouches=until is not None and until > standing.now)
        self._metrics.standing(standing, answers)

    def _look_at_the_writing(self, revision: str) -> None:
        """Tell whether deliveries can be saved: the schema is ours, and the last commit succeeded."""
        failure = self._writing.failure
        self._metrics.committed(self._writing.saved_at)
        if age_of(revision) in {"older", "forgotten"}:
            self._note("database", "failed", "the schema is older than this code", MIGRATE)
        elif failure is not None:
            self._note(
                "database",
                "failed",
                f"deliveries are not saved: {failure.problem}",
                failure.next_step,
                brief="deliveries are not saved",
                since=self._writing.failed_since,
            )
        else:
            self._note("database", "ok", f"schema {revision}")

    async def _note_terms(self, standing: Standing) -> None:
        """Say which terms are in force if others stand there: without a poller no other process does."""
        ours = self._terms.lease.total_seconds(), self._terms.ttl.total_seconds()
        if not standing.poller_is_alive(self._terms) and (standing.lease.cache_lease, standing.lease.cache_ttl) != ours:
            with suppress(DatabaseUnavailableError):
                await note_terms(self._database, self._terms)

    def _database_failed(self, detail: str, next_step: str) -> None:
        """Note it, and forget what only the database knows."""
        self.standing = None
        self._note("database", "failed", detail, next_step)
        pushes = judge_pushes({}, None, self._environment.endpoints)
        for name in ("poller", "lease", "desk", "feed", *pushes):
            self.components.pop(name, None)
            self._metrics.component(name, None)
        self.counting.forget()
        self._metrics.database_failed()

    def _note(
        self,
        name: str,
        state: State,
        detail: str,
        next_step: str = "",
        *,
        brief: str = "",
        since: datetime | None = None,
    ) -> None:
        """Note a component; ``since`` when somebody knows better than from our looking at it."""
        self._metrics.component(name, state not in WRONG)
        before = self.components.get(name)
        if before is not None and (before.state, before.detail, before.next_step) == (state, detail, next_step):
            return
        changed = before is None or before.state != state
        if since is None:
            since = datetime.now(UTC) if before is None or changed else before.since
        runbook = remedy(name) if state in WRONG else ""
        self.components[name] = Component(
            state=state, detail=detail, next_step=next_step, since=since, brief=brief, runbook=runbook
        )
        if changed:
            said = RECEIVER_STATE.at("error") if state in WRONG else RECEIVER_STATE
            emit(
                said,
                component=name,
                state=state,
                before=None if before is None else before.state,
                detail=detail,
                next_step=next_step or None,
                runbook=runbook or None,
            )


def add_pages(app: web.Application, health: Health, metrics: Metrics, access: Access) -> None:
    """Give ``/healthz``, ``/readyz`` and ``/metrics`` their routes."""

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(request: web.Request) -> web.Response:
        await health.check()
        status = 200 if health.ready else 503
        if not access.may_see(request):
            return web.Response(status=status, text="ready\n" if health.ready else "not ready\n")
        body = msgspec.json.encode({"ready": health.ready, "version": __version__, "components": health.components})
        return web.Response(status=status, body=body, content_type="application/json")

    async def show_metrics(request: web.Request) -> web.Response:
        if not access.may_see(request):
            return web.Response(
                status=401, headers={"WWW-Authenticate": "Bearer"}, text="needs the bearer token OPS_TOKEN\n"
            )
        await health.check()
        return web.Response(body=metrics.exposition(), headers={"Content-Type": "text/plain; version=0.0.4"})

    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", show_metrics)
