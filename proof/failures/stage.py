"""The stage: a desk, a vault and PostgreSQL that may go away, and our two processes as a platform starts them."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import asyncpg

from db.embedded import EmbeddedPostgres
from db.migrate import migrate
from db.url import normalise
from proof.live import HOST, Process, free_port, name_processes
from simulator import Desk, HttpTransport, SystemClock, Worker, serve
from simulator.infisical import Infisical, serve_vault

TICKETS = 60
ROLE = "audit_app"
"""Owns the database and is no superuser, as on a managed PostgreSQL."""
_MANAGED = {"wal_level": "replica", "max_wal_senders": "2"}
_FOLDER = "/freescout/"
SETTINGS = {
    "CACHE_LEASE": "40",
    "POLLER_INTERVAL": "5",
    "POLLER_PEEK": "0",
    "VAULT_INTERVAL": "5",
}
"""A lease that ends while one watches; heartbeats come every ten seconds, as always."""


class Door:
    """A port of ours that leads to PostgreSQL, wherever that listens after a restart."""

    def __init__(self) -> None:
        self.port = free_port()
        self.leads_to: int | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._let_in, HOST, self.port)
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._server.close()

    async def _let_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.leads_to is None:
                return
            inner_reader, inner_writer = await asyncio.open_connection(HOST, self.leads_to)
            await asyncio.gather(_pass_on(reader, inner_writer), _pass_on(inner_reader, writer))
        except OSError:
            return  # it is as if PostgreSQL had ended the connection
        finally:
            writer.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(1 << 16):
            writer.write(chunk)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


@dataclass
class Stage:
    """What a failure may do something to."""

    folder: Path
    server: EmbeddedPostgres
    door: Door
    desk: Desk
    vault: Infisical
    receiver: Process
    poller: Process
    url: str
    """The receiver's address."""
    variables: Mapping[str, str]
    """What an operator's console is told."""
    _vault_open: AsyncExitStack = field(default_factory=AsyncExitStack)
    vault_port: int = 0

    @property
    def superuser_url(self) -> str:
        """Where PostgreSQL lets one do everything."""
        return self.server.url("audit_app")

    async def execute(self, *statements: str) -> None:
        """Run SQL as PostgreSQL's superuser."""
        connection = await asyncpg.connect(self.superuser_url)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    async def fetch(self, query: str) -> object:
        """Return what a query of the superuser answers first."""
        connection = await asyncpg.connect(self.superuser_url)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    async def stop_postgres(self) -> None:
        """Stop PostgreSQL."""
        self.door.leads_to = None
        await asyncio.to_thread(self.server.stop)

    async def start_postgres(self) -> None:
        """Start PostgreSQL again."""
        await asyncio.to_thread(self.server.start)
        self.open_door()

    def open_door(self) -> None:
        """Let the door lead to where PostgreSQL listens."""
        self.door.leads_to = normalise(self.server.url()).port

    def put_keys(self, *, webhook: str) -> None:
        """Put keys into the vault."""
        keys = {"FREESCOUT_AUDIT_WEBHOOK_SECRET": webhook, "FREESCOUT_API_KEY": self.desk.api_key}
        self.vault.put("prod", _FOLDER, **keys)

    @property
    def data_folder(self) -> Path:
        """PostgreSQL's data."""
        (version,) = (each for each in self.folder.rglob("PG_VERSION") if (each.parent / "postgresql.conf").exists())
        return version.parent

    async def open_vault(self) -> None:
        """Let the vault answer."""
        address = await self._vault_open.enter_async_context(serve_vault(self.vault, port=self.vault_port))
        self.vault_port = int(address.rpartition(":")[2])

    async def close_vault(self) -> None:
        """Let nothing answer where the vault was."""
        await self._vault_open.aclose()


@asynccontextmanager
async def staged(
    folder: Path, settings: Mapping[str, str] = SETTINGS, *, restless: bool = True
) -> AsyncIterator[Stage]:
    """Set the stage: a desk, which never rests unless told otherwise, a vault, and our processes, started."""
    desk = Desk(clock=SystemClock(), seed=1)
    for ticket_id in desk.populate(TICKETS, days=30):
        desk.get(ticket_id).state = "published"
    vault = Infisical()
    async with AsyncExitStack() as stack:
        server = EmbeddedPostgres(folder / "postgres", options=_MANAGED, progress=lambda _line: None)
        await asyncio.to_thread(stack.enter_context, server)
        door = await stack.enter_async_context(Door())
        desk_url = await stack.enter_async_context(serve(desk))
        transport = await stack.enter_async_context(HttpTransport())
        database_url = await _make_database(server, door)
        stage = Stage(
            folder=folder,
            server=server,
            door=door,
            desk=desk,
            vault=vault,
            receiver=None,  # type: ignore[arg-type] # named below, when the vault has an address
            poller=None,  # type: ignore[arg-type]
            url="",
            variables={},
        )
        stage.put_keys(webhook=desk.webhook_key)
        await stage.open_vault()
        stack.push_async_callback(stage.close_vault)
        told = {
            "DATABASE_URL": database_url,
            "FREESCOUT_URL": desk_url,
            "INFISICAL_URL": f"http://{HOST}:{stage.vault_port}",
            "INFISICAL_CLIENT_ID": vault.client_id,
            "INFISICAL_CLIENT_SECRET": vault.client_secret,
            "INFISICAL_PROJECT_ID": vault.project_id,
            "INFISICAL_ENVIRONMENT": "prod",
            "INFISICAL_PATH": _FOLDER,
            **settings,
        }
        stage.receiver, stage.poller = name_processes(
            folder, database_url=database_url, desk=desk, desk_url=desk_url, settings=told
        )
        stage.receiver.variables["DYNO"], stage.poller.variables["DYNO"] = "web.1", "poller.1"
        for process in (stage.receiver, stage.poller):
            process.variables.pop("FREESCOUT_AUDIT_WEBHOOK_SECRET", None)
            process.variables.pop("FREESCOUT_API_KEY", None)
            stack.push_async_callback(process.kill)
        stage.url = f"http://{HOST}:{stage.receiver.variables['PORT']}"
        stage.variables = told | {"FLAG_FREESCOUT_WEBHOOK_RECEIVE": "1"}
        living = [asyncio.create_task(Worker(desk).run_forever(transport, look_every=0.05))]
        if restless:
            living.append(asyncio.create_task(_never_rest(desk)))
        try:
            await stage.receiver.start()
            await stage.poller.start()
            yield stage
        finally:
            for task in living:
                task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*living, return_exceptions=True)


async def _make_database(server: EmbeddedPostgres, door: Door) -> str:
    """Make the application's database as a managed PostgreSQL does, and return its URL, by the door."""
    admin = await asyncpg.connect(server.url())
    password = os.urandom(12).hex()
    try:
        await admin.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{password}'")
        await admin.execute(f"CREATE DATABASE {ROLE} OWNER {ROLE}")
    finally:
        await admin.close()
    door.leads_to = normalise(server.url()).port
    url = f"postgresql://{ROLE}:{password}@{HOST}:{door.port}/{ROLE}"
    await migrate(normalise(url))
    return url


async def _never_rest(desk: Desk) -> None:
    """Change a ticket each second."""
    turn = 0
    while True:
        turn += 1
        ticket_id = 1 + turn % 20
        desk.set_status(ticket_id, "closed" if desk.get(ticket_id).status != "closed" else "active")
        await asyncio.sleep(1)
