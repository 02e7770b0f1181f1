"""Servers as processes of their own, and what they use: CPU seconds and resident memory, from /proc."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import asyncpg
import msgspec
from sqlalchemy.engine import make_url

from bench.load import KEY, Result

ROOT = Path(__file__).resolve().parent.parent
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PATIENCE = 30.0
_TRIES = 10


class Server:
    """A process that serves, and its children."""

    def __init__(self, pid: int, port: int) -> None:
        self.pid = pid
        self.port = port

    def cpu(self) -> float:
        """Return the CPU seconds that it and its children have used, those included that have ended."""
        for _ in range(_TRIES):
            # A child that ends meanwhile leaves its time to its parent.
            with suppress(FileNotFoundError, ProcessLookupError):
                return _cpu(self.pid, ended=True) + sum(map(_cpu, self._pids()))
        raise RuntimeError(f"process {self.pid} has ended, or its children come and go too fast to be counted")

    def resident(self) -> int:
        """Return its resident memory now, in bytes."""
        return sum(
            int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE for pid in self._pids()
        )

    def peak(self) -> int:
        """Return the most resident memory it has had, in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def _pids(self) -> list[int]:
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="ascii")
        return [self.pid, *map(int, children.split())]


def _cpu(pid: int, *, ended: bool = False) -> float:
    """Return the CPU seconds of a process, or those of its children that have ``ended``."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    user, system = fields[13:15] if ended else fields[11:13]
    return (int(user) + int(system)) / _TICKS


def postgres(url: str) -> Server:
    """Return the PostgreSQL at ``url``, which runs on this machine."""

    async def parent_of_a_connection() -> int:
        connection = await asyncpg.connect(url)
        try:
            process: int = await connection.fetchval("SELECT pg_backend_pid()")
            status = Path(f"/proc/{process}/status").read_text(encoding="ascii")  # noqa: ASYNC240 - not a disk
            return int(status.partition("PPid:")[2].split()[0])
        finally:
            await connection.close()

    return Server(asyncio.run(parent_of_a_connection()), make_url(url).port or 5432)


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        port: int = listening.getsockname()[1]
        return port


@contextmanager
def server(arguments: Sequence[str], port: int, **variables: str) -> Iterator[Server]:
    """Run ``python`` with these arguments until the block ends; yields when it listens on the port."""
    process = subprocess.Popen(  # noqa: S603 - our own modules
        [sys.executable, *arguments], cwd=ROOT, env=os.environ | variables, stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"python {' '.join(arguments)} does not listen on {port}") from None
                time.sleep(0.05)
        yield Server(process.pid, port)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def empty_the_cache(url: str) -> None:
    """Forget what earlier measurements left: their news is known, and a lease makes older news stale."""
    connection = await asyncpg.connect(url)
    await connection.execute(
        "TRUNCATE freescout_ticket, freescout_delivery, freescout_gap, freescout_history;"
        " UPDATE freescout_lease SET complete_through = NULL, covered_through = NULL, seen_through = NULL,"
        " set_back_through = NULL, set_back_at = NULL,"
        " renewed_by_pass = NULL, lease_until = NULL; UPDATE freescout_poller SET load_cursor = NULL, load_began = NULL"
    )
    await connection.close()


@contextmanager
def receiver(database_url: str, *, module: str = "receiver", empty: bool = True, **variables: str) -> Iterator[Server]:
    """Run our receiver, or a ``module`` like it, over an empty cache unless what is in it is meant to be there."""
    if empty:
        asyncio.run(empty_the_cache(database_url))
    port = free_port()
    with server(
        ["-m", module],
        port,
        DATABASE_URL=database_url,
        PORT=str(port),
        RECEIVER_HOST="127.0.0.1",
        FLAG_FREESCOUT_WEBHOOK_RECEIVE="1",
        FREESCOUT_AUDIT_WEBHOOK_SECRET=KEY,
        LOG_FORMAT="json",
        **variables,
    ) as started:
        yield started


@contextmanager
def limit(name: str) -> Iterator[Server]:
    """Run a server of `bench.servers`."""
    port = free_port()
    with server(["-m", "bench.servers", name, str(port)], port) as started:
        yield started


def load(port: int, **options: object) -> Result:
    """Run the load generator against a port and return what it measured; options as ``bench.load`` has them."""
    arguments = [f"--{name}={value}" for name, value in options.items() if value is not None]
    ran = subprocess.run(  # noqa: S603 - our own module
        [sys.executable, "-m", "bench.load", str(port), *arguments],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        timeout=300,
    )
    return msgspec.convert(json.loads(ran.stdout), Result)
