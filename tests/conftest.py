"""The real PostgreSQL, one server for the suite and a fresh database for each test; the receiver on a real socket."""

import asyncio
import io
import itertools
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import aiohttp
import asyncpg
import pytest
from structlog.testing import CapturingLogger, CapturingLoggerFactory

from db.database import Database
from db.migrate import migrate
from db.url import normalise
from freescout_audit.logs import set_up_logs
from receiver.app import create_app, serve
from settings import Environment, Secret, Settings, load_environment, load_settings
from support.examples import KEY, NOON, signed


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """A server for the whole suite: gives the URL of a database of that name.

    ``DATABASE_URL`` names another server to test on; its role must be allowed to create databases.
    """
    given = os.environ.get("DATABASE_URL")
    if given:
        yield lambda name: given.rpartition("/")[0] + "/" + name
        return
    from db.embedded import EmbeddedPostgres  # noqa: PLC0415 - it is not on every platform

    # No test needs a database to survive a power cut.
    options = {"fsync": "off", "full_page_writes": "off", "max_connections": "200"}
    with EmbeddedPostgres(tmp_path_factory.mktemp("postgres"), options=options) as server:
        yield server.url


@pytest.fixture(scope="session", autouse=True)
def _no_make_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test works beside a `make run` of this checkout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ops.running._FOLDER", tmp_path_factory.mktemp("no_make_run"))
        yield


@pytest.fixture(scope="session")
def template(postgres: Callable[[str], str]) -> str:
    """The name of a migrated database that tests get copies of."""
    name = f"template_{os.getpid()}"

    async def make() -> None:
        connection = await asyncpg.connect(postgres("postgres"))
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()
        await migrate(normalise(postgres(name)))

    asyncio.run(make())
    return name


_numbers = itertools.count()


@pytest.fixture
async def database_url(postgres: Callable[[str], str], template: str) -> AsyncIterator[str]:
    """A migrated database of the test's own."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    connection = await asyncpg.connect(postgres("postgres"))
    await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield postgres(name)
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(normalise(database_url))
    yield database
    await database.close()


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to look at what happened, and to set the stage."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


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
        self, raw_body: bytes, *, event: str = "convo.status", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Post a delivery, signed as FreeScout signs it unless headers are given; return status and answer."""
        async with self.client.post(
            self.url + "/api/internal/freescout-webhook/audit",
            data=io.BytesIO(raw_body),
            headers=signed(raw_body, event=event) if headers is None else headers,
        ) as response:
            return response.status, await response.json()


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


class Clock:
    """The database's clock, stopped; only the test moves it."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def set(self, moment: datetime) -> None:
        await self._connection.execute("UPDATE test_clock SET at = $1", moment)


@pytest.fixture
async def clock(sql: asyncpg.Connection) -> Clock:
    """Stop the database's clock at noon."""
    await sql.execute("CREATE TABLE test_clock (at timestamptz)")
    await sql.execute("INSERT INTO test_clock VALUES ($1)", NOON)
    await sql.execute(
        "CREATE OR REPLACE FUNCTION freescout_now() RETURNS timestamptz LANGUAGE sql VOLATILE"
        " RETURN (SELECT at FROM test_clock)"
    )
    return Clock(sql)
