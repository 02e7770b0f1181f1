"""The receiver under fire: the real process, every line it logs checked, its memory and files watched."""

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from freescout_audit.events import CATALOGUE, LIBRARY_MESSAGE, PROCESS_FAILED, RECEIVER_FAULT, RECEIVER_STARTED
from proof.fuzz.bodies import CANARY
from proof.fuzz.http import KEY
from proof.fuzz.inputs import BODY_TIMEOUT, MAX_BODY, OPS_TOKEN

FUZZED = {
    "RECEIVER_MAX_BODY": str(MAX_BODY),
    "RECEIVER_BODY_TIMEOUT": str(BODY_TIMEOUT),
    "RECEIVER_HEAD_TIMEOUT": "60",
}
"""Settings of a receiver that is fuzzed."""
ROOT = Path(__file__).resolve().parents[2]
_LOOK_EVERY = 0.5
_LONGEST_LINE = 2**20
_LONGEST_STDERR = 20_000
_ENOUGH = 10
_NAMES = frozenset(event.name for event in CATALOGUE)
_NEVER = frozenset({RECEIVER_FAULT.name, PROCESS_FAILED.name})
_BROKEN_HTTP = frozenset(
    {"BadHttpMessage", "BadHttpMethod", "BadStatusLine", "InvalidHeader", "InvalidURLError", "LineTooLong", None}
)
"""What aiohttp calls requests that are no HTTP, which it answers 400; any other error in its log is a fault."""
_SECRETS = (CANARY.encode(), KEY.encode(), OPS_TOKEN.encode())


class _Line(msgspec.Struct):
    event: str
    logger: str
    error: str | None = None
    port: int = 0


_decoder = msgspec.json.Decoder(_Line)


@dataclass(slots=True)
class Log:
    """What the receiver has logged, each line having been checked."""

    events: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    """What it should not have said; the first few are enough."""
    port: int = 0
    """Where it listens, once it has said so."""

    def check(self, raw: bytes) -> None:
        """Take one line."""
        try:
            line = _decoder.decode(raw)
        except msgspec.MsgspecError:
            self._note("a line of the log is no object", raw)
            return
        self.events[line.event] += 1
        if line.event == RECEIVER_STARTED.name:
            self.port = line.port
        if line.event not in _NAMES:
            self._note("a line of the log has a name that the catalogue lacks", raw)
        if line.event in _NEVER or (line.event == LIBRARY_MESSAGE.name and line.error not in _BROKEN_HTTP):
            self._note("the log tells of a fault", raw)
        if any(secret in raw for secret in _SECRETS):
            self._note("the log shows what must never be seen", raw)

    def _note(self, what: str, raw: bytes) -> None:
        if len(self.wrong) < _ENOUGH:
            self.wrong.append(f"{what}: {raw[:400]!r}")


@dataclass(slots=True)
class Watched:
    """A receiver that runs, and what has been seen of it."""

    process: asyncio.subprocess.Process
    log: Log = field(default_factory=Log)
    stderr: bytearray = field(default_factory=bytearray)
    memory_start: int = 0
    memory_peak: int = 0

    def memory(self) -> int:
        """Return its resident memory in bytes, 0 where the system does not tell."""
        with suppress(OSError, ValueError, IndexError):
            pages = int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE")
        return 0

    def files(self) -> int | None:
        """Return how many files and connections it has open, None where the system does not tell."""
        try:
            return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))
        except OSError:
            return None

    async def read_log(self, started: asyncio.Event) -> None:
        """Check its log, line by line, until it ends."""
        assert self.process.stdout is not None  # noqa: S101 - it was asked for
        async for raw in self.process.stdout:
            self.log.check(raw)
            if self.log.port:
                started.set()
        started.set()

    async def read_stderr(self) -> None:
        """Keep what it writes elsewhere: a traceback, most likely."""
        assert self.process.stderr is not None  # noqa: S101 - it was asked for
        async for raw in self.process.stderr:
            self.stderr += raw[: _LONGEST_STDERR - len(self.stderr)]

    async def watch_memory(self) -> None:
        """Note the most memory it takes, for ever."""
        while True:
            self.memory_peak = max(self.memory_peak, self.memory())
            await asyncio.sleep(_LOOK_EVERY)


@asynccontextmanager
async def receiver(
    database_url: str, variables: Mapping[str, str] = FUZZED, *, files: int | None = None
) -> AsyncIterator[Watched]:
    """Run ``python -m receiver`` on any free port, and end it.

    Args:
        database_url: A migrated database.
        variables: Settings, as environment variables.
        files: What ``ulimit -n`` is to be for it; None leaves it.

    Raises:
        RuntimeError: It did not start.
    """
    limited = () if files is None else ("/bin/sh", "-c", f'ulimit -n {files}; exec "$@"', "sh")
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}}
    process = await asyncio.create_subprocess_exec(
        *limited,
        sys.executable,
        "-m",
        "receiver",
        cwd=ROOT,
        env=kept
        | {
            "DATABASE_URL": database_url,
            "PORT": "0",
            "RECEIVER_HOST": "127.0.0.1",
            "FLAG_FREESCOUT_WEBHOOK_RECEIVE": "1",
            "FREESCOUT_AUDIT_WEBHOOK_SECRET": KEY,
            "OPS_TOKEN": OPS_TOKEN,
            "LOG_FORMAT": "json",
            **variables,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=_LONGEST_LINE,
    )
    watched = Watched(process)
    started = asyncio.Event()
    reading = [asyncio.create_task(watched.read_log(started)), asyncio.create_task(watched.read_stderr())]
    watching = asyncio.create_task(watched.watch_memory())
    try:
        async with asyncio.timeout(60):
            await started.wait()
        if not watched.log.port:
            raise RuntimeError(f"the receiver did not start: {watched.stderr.decode(errors='replace')}")
        yield watched
    finally:
        watching.cancel()
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(15):
                await asyncio.gather(*reading)
                await process.wait()
        except TimeoutError:
            watched.log.wrong.append("it did not end within 15 s of SIGTERM")
            process.kill()
            await process.wait()
