"""A PostgreSQL 13, as far as a connection of ours comes with it: it does not know a setting that we ask for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_SSL_REQUEST = 80877103
_SAYS = (
    "SFATAL",
    "VFATAL",
    "C42704",
    'Munrecognized configuration parameter "client_connection_check_interval"',
)


@asynccontextmanager
async def old_postgres() -> AsyncIterator[str]:
    """Serve on 127.0.0.1, and give the URL."""
    refusal = b"".join(f"{field}\0".encode() for field in _SAYS) + b"\0"

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            length, code = [int.from_bytes(await reader.readexactly(4)) for _ in range(2)]
            await reader.readexactly(length - 8)
            if code != _SSL_REQUEST:
                break
            writer.write(b"N")
        writer.write(b"E" + (len(refusal) + 4).to_bytes(4) + refusal)
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"postgresql://u:p@127.0.0.1:{port}/old"
