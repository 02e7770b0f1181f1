"""The PostgreSQL that proofs play on."""

import asyncio
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Self

import asyncpg
from sqlalchemy.engine import URL

from db.embedded import EmbeddedPostgres
from db.url import normalise

ROOT = Path(__file__).resolve().parent.parent.parent


class Ground:
    """A PostgreSQL that need not survive a power cut, with an empty database for whoever asks."""

    def __init__(self) -> None:
        # Unix sockets halve what a statement costs; their paths have to be short, and the server's to write in.
        self._sockets = tempfile.mkdtemp(prefix="fsa-")
        Path(self._sockets).chmod(0o777)
        self._server = EmbeddedPostgres(
            ROOT / ".local" / "proof",
            options={
                "fsync": "off",
                "full_page_writes": "off",
                "synchronous_commit": "off",
                "unix_socket_directories": self._sockets,
            },
        )
        self._made: list[str] = []
        self._used = self._sockets

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run(self._clear())
        self._server.stop()
        for sockets in {self._sockets, self._used}:
            with suppress(OSError):  # another run uses the server
                Path(sockets).rmdir()

    async def database(self) -> str:
        """Make an empty database, and return its URL."""
        # Another run may use the same server.
        name = f"proof_{os.getpid()}_{len(self._made) + 1}"
        self._made.append(name)
        await self._clear(name)
        await self._execute(f"CREATE DATABASE {name}")
        url = normalise(self._server.url(name))
        self._used = str(await self._execute("SHOW unix_socket_directories"))  # of whoever started the server
        return URL.create(
            url.drivername,
            username=url.username,
            password=url.password,
            database=name,
            query={"host": self._used, "port": str(url.port)},
        ).render_as_string(hide_password=False)

    async def _clear(self, *names: str) -> None:
        for name in names or self._made:
            await self._execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    async def _execute(self, statement: str) -> object:
        """Execute a statement, and return the first value it gives."""
        connection = await asyncpg.connect(self._server.url("postgres"))
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()
