"""A desk, a receiver, a poller and a cache that share one clock, which only the test moves.

Everything between them is real: HTTP over sockets both ways, and PostgreSQL. Where a test asks the desk hundreds of
times, and not how, the poller may ask it without sockets.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, tzinfo

import asyncpg
import pytest

from conftest import ENVIRONMENT, without_housekeeping
from db.database import Database
from freescout_audit.endpoints import RBAC, path_of
from freescout_audit.rule import Terms
from poller.freescout import DeskResponse, FreeScout, Transport
from poller.passes import Passes
from poller.questions import Questions
from poller.transport import http_transport
from poller.watch import Watch, settle_gaps
from receiver.app import create_app, serve
from settings import Secret, load_settings
from simulator import Api, ApiRequest, Desk, HttpTransport, ManualClock, Report, Worker
from simulator import serve as serve_desk
from support.databases import Clock

WEBHOOK = "/api/internal/freescout-webhook/audit"
START = datetime(2026, 3, 2, 9, 0, 0, tzinfo=UTC)
SETTINGS = load_settings({})
TERMS = Terms()

TICK = timedelta(microseconds=1)
"""What passes between any two looks at the clock."""


async def no_sleep(_seconds: float) -> None:
    """Wait for nothing: time is the test's."""


@dataclass
class World:
    desk: Desk
    clock: ManualClock
    database_clock: Clock
    worker: Worker
    api: Api
    transport: HttpTransport
    database: Database
    sql: asyncpg.Connection
    freescout: FreeScout
    passes: Passes
    questions: Questions
    reports: list[Report] = field(default_factory=list)

    async def advance(self, seconds: float) -> None:
        """Let time pass; the desk's worker sends what comes due."""
        end = self.clock.now() + timedelta(seconds=seconds)
        while (due := self.worker.next_due()) is not None and due <= end:
            await self._move(due)
            self.reports += await self.worker.run_due(self.transport)
        await self._move(end)

    async def _move(self, moment: datetime) -> None:
        self.clock.advance_to(moment)
        await self.database_clock.set(self.clock.now())

    async def beat(self) -> None:
        await self.sql.execute("UPDATE freescout_lease SET heartbeat_at = freescout_now()")

    def restart_poller(self, *, page_size: int) -> None:
        """Go on with another poller, whose pages have so many rows."""
        self.passes = _passes(self.freescout, self.database, page_size=page_size)
        self.questions = _questions(self.freescout, self.database, page_size=page_size, clock=self.clock)

    async def poll(self) -> None:
        """What a living poller does every interval: a beat, a pass, and its questions."""
        await self.beat()
        await self.passes.run()
        await self.ask()

    async def ask(self) -> None:
        """Ask until nothing is open, or nothing is answered."""
        while await self.questions.ask():
            pass

    async def state(self, ticket_id: int) -> str:
        answer: str = await self.sql.fetchval("SELECT freescout_ticket_state($1)", ticket_id)
        return answer

    def truth(self, ticket_id: int) -> str:
        """What the cache should answer."""
        row = self.desk.conversations.get(ticket_id)
        return row.status if row is not None and row.state == "published" else "none"

    async def wrong(self) -> dict[int, tuple[str, str]]:
        """The tickets for which cache and desk differ: what the cache says, and what is true."""
        held = {row["ticket_id"] for row in await self.sql.fetch("SELECT ticket_id FROM freescout_ticket")}
        tickets = sorted(held | set(self.desk.conversations))
        rows = await self.sql.fetch(
            "SELECT id, freescout_ticket_state(id) AS state FROM unnest($1::bigint[]) AS id", tickets
        )
        answers = {row["id"]: row["state"] for row in rows}
        return {
            ticket: (answers[ticket], self.truth(ticket)) for ticket in tickets if answers[ticket] != self.truth(ticket)
        }

    async def disputes(self) -> int:
        count: int = await self.sql.fetchval("SELECT count(*) FROM freescout_ticket WHERE disputed_at IS NOT NULL")
        return count


@asynccontextmanager
async def make_world(
    database: Database,
    sql: asyncpg.Connection,
    *,
    tickets: int = 0,
    page_size: int = 50,
    start: datetime = START,
    timezone: tzinfo = UTC,
    overlap: float = SETTINGS.poller.overlap,
    seed: int = 1,
    sockets: bool = True,
    rbac: bool = False,
) -> AsyncIterator[World]:
    """``sockets`` False: the poller calls the desk's API, which costs a tenth of a request over HTTP.

    ``rbac``: RV-4's path is on, and has a webhook at the desk as well.
    """
    database_clock = await Clock.stop(sql, start, tick=TICK)
    clock = ManualClock(start)
    desk = Desk(clock=clock, seed=seed, timezone=timezone)
    desk.populate(tickets, days=30)
    async with AsyncExitStack() as stack:
        without_housekeeping(stack.enter_context(pytest.MonkeyPatch.context()))
        environment = replace(ENVIRONMENT, webhook_secrets=(Secret(desk.webhook_key),), receive_rbac=rbac)
        port = await stack.enter_async_context(
            serve(create_app(database, environment, SETTINGS), host="127.0.0.1", port=0)
        )
        desk.register_webhook(f"http://127.0.0.1:{port}{WEBHOOK}")
        if rbac:
            desk.register_webhook(f"http://127.0.0.1:{port}{path_of(RBAC)}")
        api = Api(desk)
        transport = await stack.enter_async_context(HttpTransport())
        key = desk.api_key  # as it is now: nobody tells us when the desk's changes
        ask: Transport = without_sockets(api, key)
        if sockets:
            url = await stack.enter_async_context(serve_desk(desk, api=api))
            ask = await stack.enter_async_context(http_transport(url, lambda: Secret(key), patience=5))
        freescout = FreeScout(ask, sleep=no_sleep)
        yield World(
            desk=desk,
            clock=clock,
            database_clock=database_clock,
            worker=Worker(desk),
            api=api,
            transport=transport,
            database=database,
            sql=sql,
            freescout=freescout,
            passes=_passes(freescout, database, page_size=page_size, overlap=overlap),
            questions=_questions(freescout, database, page_size=page_size, clock=clock),
        )


def _passes(
    freescout: FreeScout, database: Database, *, page_size: int, overlap: float = SETTINGS.poller.overlap
) -> Passes:
    return Passes(
        freescout,
        database,
        terms=TERMS,
        overlap=timedelta(seconds=overlap),
        page_size=page_size,
        progress=lambda _done, _total: None,
    )


def _questions(freescout: FreeScout, database: Database, *, page_size: int, clock: ManualClock) -> Questions:
    return Questions(
        freescout,
        database,
        terms=TERMS,
        at_once=page_size,
        clock=lambda: clock.now().timestamp(),
        sleep=no_sleep,
    )


def without_sockets(api: Api, key: str) -> Transport:
    async def ask(path: str, query: Mapping[str, str], /) -> DeskResponse:
        headers = {"X-FreeScout-API-Key": key, "Accept": "application/json"}
        answer = api.answer(ApiRequest("GET", f"/api/{path}", query, headers))
        received = {name.lower(): value for name, value in answer.headers}
        return DeskResponse(status=answer.status, headers=received, body=answer.body)

    return ask


__all__ = ["START", "Watch", "World", "make_world", "settle_gaps"]
