"""The real PostgreSQL, one server for the suite and an empty database for each test; the receiver on a real socket."""

import asyncio
import io
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import pytest
from structlog.testing import CapturingLogger, CapturingLoggerFactory

from db.database import Database
from freescout_audit.logs import set_up_logs
from receiver.app import create_app, serve
from settings import Environment, Secret, Settings, load_environment, load_settings
from support.databases import Clock, Sessions, lending
from support.examples import KEY, NOON, signed
from support.installed_postgres import PASSWORD, PROGRAMS, installed_postgres

_OWNER = "owner"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a PostgreSQL, so that this part can be run alone: ``-m database``."""
    for item in items:
        if "postgres" in getattr(item, "fixturenames", ()):
            item.add_marker("database")


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """A server for the whole suite: gives the URL of a database of that name.

    ``DATABASE_URL`` names another server to test on; its role must be allowed to create databases. ``POSTGRES_BIN``
    names the programs of another version: a server of it is started, and the tests are an ordinary owner there.
    """
    given = os.environ.get("DATABASE_URL")
    if given:
        yield lambda name: urlsplit(given)._replace(path=f"/{name}").geturl()
        return
    if os.environ.get(PROGRAMS):
        with installed_postgres("full_page_writes=off", "max_connections=200", "autovacuum=off") as server:
            asyncio.run(_make_owner(server))
            owned = urlsplit(server)._replace(netloc=urlsplit(server).netloc.replace("postgres:", f"{_OWNER}:", 1))
            yield lambda name: owned._replace(path=f"/{name}").geturl()
        return
    from db.embedded import EmbeddedPostgres  # noqa: PLC0415 - it is not on every platform

    # No test needs a database to survive a power cut.
    # Nor statistics that change between two tests: a database that has any is not handed on.
    options = {"fsync": "off", "full_page_writes": "off", "max_connections": "200", "autovacuum": "off"}
    with EmbeddedPostgres(tmp_path_factory.mktemp("postgres"), options=options) as server:
        yield server.url


async def _make_owner(server: str) -> None:
    """Make the role that a host gives: no superuser, and it makes no roles."""
    admin = await asyncpg.connect(f"{server}/postgres")
    await admin.execute(f"CREATE ROLE {_OWNER} LOGIN CREATEDB NOCREATEROLE PASSWORD '{PASSWORD}'")
    await admin.close()


@pytest.fixture(scope="session", autouse=True)
def _no_make_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test works beside a `make run` of this checkout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ops.running._FOLDER", tmp_path_factory.mktemp("no_make_run"))
        yield


async def _end_tasks() -> None:
    """End what a test leaves behind on the loop that all of them share."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


@pytest.fixture(autouse=True)
async def _no_task_left() -> AsyncIterator[None]:
    yield
    await _end_tasks()


@pytest.fixture(scope="session")
async def sessions() -> AsyncIterator[Sessions]:
    """What is connected to the database that tests are lent."""
    sessions = Sessions()
    yield sessions
    await sessions.close()


@pytest.fixture(scope="session")
def lend(postgres: Callable[[str], str], sessions: Sessions) -> Iterator[Callable[[], Iterator[str]]]:
    """Lend a test a database, and take it back."""
    with lending(postgres, sessions) as lend:
        yield lend


@pytest.fixture
def database_url(lend: Callable[[], Iterator[str]]) -> Iterator[str]:
    """A migrated database of the test's own, as long as the test lasts."""
    yield from lend()


@pytest.fixture
async def connected(database_url: str, sessions: Sessions) -> AsyncIterator[Sessions]:
    """What is connected to the test's database; the next test gets it as it was."""
    await sessions.turn_to(database_url)
    yield sessions
    await _end_tasks()  # none uses a connection that goes on to the next test
    await sessions.reset()


@pytest.fixture
async def database(connected: Sessions) -> Database:
    return connected.database()


@pytest.fixture
async def sql(connected: Sessions) -> asyncpg.Connection:
    """A connection to look at what happened, and to set the stage."""
    return await connected.connection()


@dataclass(frozen=True)
class Log:
    """What has been logged."""

    logger: CapturingLogger

    @property
    def text(self) -> str:
        return "".join(call.args[0].decode() + "\n" for call in self.logger.calls)

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        """The lines as objects; only those of one event when it is named."""
        lines = [json.loads(line) for line in self.text.splitlines()]
        return [line for line in lines if event is None or line["event"] == event]


@pytest.fixture(autouse=True)
def log() -> Log:
    factory = CapturingLoggerFactory()
    set_up_logs(process="test", style="json", level="debug", factory=factory)
    return Log(factory.logger)


ENVIRONMENT = replace(load_environment({}), receive=True, webhook_secrets=(Secret(KEY),))


@dataclass(frozen=True)
class Receiver:
    """A receiver that listens, and a client to talk to it."""

    port: int
    client: aiohttp.ClientSession
    url: str

    async def deliver(
        self,
        raw_body: bytes,
        *,
        event: str = "convo.status",
        headers: dict[str, str] | None = None,
        endpoint: str = "audit",
    ) -> tuple[int, dict[str, Any]]:
        """Post a delivery, signed as FreeScout signs it unless headers are given; return status and answer."""
        async with self.client.post(
            f"{self.url}/api/internal/freescout-webhook/{endpoint}",
            data=io.BytesIO(raw_body),
            headers=signed(raw_body, event=event) if headers is None else headers,
        ) as response:
            return response.status, await response.json()


def without_housekeeping(patch: pytest.MonkeyPatch) -> None:
    """Keep a receiver from judging, counting and pruning on its own, which costs more than most tests."""

    async def never(*_arguments: object) -> None:
        await asyncio.Event().wait()

    for job in ("receiver.health.Health.watch", "receiver.counting.Counting.watch", "receiver.app._keep_short"):
        patch.setattr(job, never)


@pytest.fixture
def no_housekeeping(monkeypatch: pytest.MonkeyPatch) -> None:
    without_housekeeping(monkeypatch)


Receive = Callable[..., AbstractAsyncContextManager[Receiver]]


@pytest.fixture
def receive(database: Database) -> Receive:
    """Serve a receiver: ``async with receive(environment, settings) as receiver``."""

    @asynccontextmanager
    async def receive(
        environment: Environment = ENVIRONMENT, settings: Settings | None = None
    ) -> AsyncIterator[Receiver]:
        app = create_app(database, environment, settings or load_settings({}))
        async with (
            serve(app, host="127.0.0.1", port=0) as port,
            aiohttp.ClientSession(auto_decompress=False) as client,
        ):
            yield Receiver(port, client, f"http://127.0.0.1:{port}")

    return receive


@pytest.fixture
async def receiver(receive: Receive) -> AsyncIterator[Receiver]:
    """A receiver with its flag on and one key."""
    async with receive() as receiver:
        yield receiver


@pytest.fixture
async def clock(sql: asyncpg.Connection) -> Clock:
    """Stop the database's clock at noon."""
    return await Clock.stop(sql, NOON)
