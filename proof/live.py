"""The service as it runs: real processes over sockets, the simulated desk, and what they leave behind.

A `Process` is started as the Procfile starts it and may be killed at any moment; a `Ledger` carries the desk's
deliveries to it and remembers which of them were answered 200.
"""

import asyncio
import fcntl
import json
import os
import re
import signal
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import IO

import asyncpg

from freescout_audit.endpoints import AUDIT, path_of
from simulator import Attempt, Clock, DeliveryError, Desk, HttpTransport

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
PATH = path_of(AUDIT)
END_PATIENCE = 12.0
"""Seconds a process is given to end; 10 are promised."""
PATIENCE = 90.0
"""Seconds after which something that should happen by itself will not."""
_KEPT = ("PATH", "HOME", "LANG")
"""What our processes get of this one's environment."""

# What the log may say while things are killed and cut off on purpose.
_EXPECTED_ERRORS = frozenset(
    {"delivery.not_saved", "pass.failed", "lease.expired", "desk.silent", "desk.state", "receiver.state"}
)


class NothingHappenedError(Exception):
    """What should have happened by itself did not."""


async def until(what: str, happened: Callable[[], bool], *, patience: float = PATIENCE) -> None:
    """Wait until something has happened elsewhere.

    Raises:
        NothingHappenedError: It has not, within ``patience`` seconds.
    """
    try:
        async with asyncio.timeout(patience):
            while not happened():  # noqa: ASYNC110 - it happens in other processes
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise NothingHappenedError(f"{what}: nothing for {patience:g} s") from None


async def cancel(tasks: Iterable["asyncio.Task[None]"]) -> None:
    """End tasks where they are; what one of them ended in before is raised."""
    running = list(tasks)
    for task in running:
        task.cancel()
    for outcome in await asyncio.gather(*running, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome


def stop_if_ended(tasks: Iterable["asyncio.Task[None]"]) -> None:
    """Raise what ended a task that should go on for ever."""
    for task in tasks:
        if task.done():
            task.result()


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class Process:
    """A process of ours that can be started again and again, each time with output files of its own.

    Args:
        name: For the files.
        arguments: What Python is started with, ``-m receiver``.
        folder: Where the output goes.
        variables: Its environment.
    """

    def __init__(self, name: str, *arguments: str, folder: Path, variables: Mapping[str, str]) -> None:
        self.name = name
        self.variables = dict(variables)
        self.starts = 0
        self._arguments = arguments
        self._folder = folder
        self._running: asyncio.subprocess.Process | None = None
        self._unread: int | None = None
        """The end of the pipe that is never read, which must stay open."""

    async def start(self, *, log_unread: bool = False) -> None:
        """Start it; it runs when it says so. ``log_unread``: its log is a pipe that is never read."""
        self.starts += 1
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        with ExitStack() as stack:
            out: int | IO[bytes] = stack.enter_context(self._output("out").open("wb"))
            err = stack.enter_context(self._output("err").open("wb"))
            if log_unread:
                self._unread, out = os.pipe()
                fcntl.fcntl(out, fcntl.F_SETPIPE_SZ, 4096)
                stack.callback(os.close, out)
            self._running = await asyncio.create_subprocess_exec(
                sys.executable, *self._arguments, cwd=ROOT, env=kept | self.variables, stdout=out, stderr=err
            )

    async def kill(self) -> None:
        """End it at once, wherever it is."""
        if self._running is not None:
            with suppress(ProcessLookupError):
                self._running.send_signal(signal.SIGKILL)
            await self._running.wait()

    async def end(self) -> int | None:
        """Ask it to end, as a platform does, and return its exit code; None when it did not end in time."""
        if self._running is None or self._running.returncode is not None:
            return None if self._running is None else self._running.returncode
        self._running.send_signal(signal.SIGTERM)
        try:
            return await asyncio.wait_for(self._running.wait(), END_PATIENCE)
        except TimeoutError:
            await self.kill()
            return None

    def resident(self) -> int:
        """Return its resident memory in bytes; 0 where the system does not tell (it does on Linux)."""
        if self._running is None:
            return 0
        with suppress(OSError):
            status = Path(f"/proc/{self._running.pid}/status").read_text(encoding="ascii")
            found = re.search(r"VmRSS:\s+(\d+) kB", status)
            return 0 if found is None else int(found[1]) * 1024
        return 0

    def has_said(self, event: str) -> bool:
        """Tell whether its newest start has logged an event."""
        return f'"event": "{event}"' in self._output("out").read_text(encoding="utf-8")

    def log(self) -> Iterator[dict[str, object]]:
        """Yield the lines of every start; the one that a kill cut off is left out."""
        for path in self._files("out"):
            for line in path.read_text(encoding="utf-8").splitlines():
                with suppress(json.JSONDecodeError):
                    yield json.loads(line)

    def complaints(self) -> list[str]:
        """Return what it should not have said: anything on stderr, and errors that were not caused on purpose."""
        found = Counter[str]()
        for path in self._files("err"):
            said = path.read_text(encoding="utf-8", errors="replace").strip()
            if said:
                found[f"{self.name} wrote to stderr: {said.splitlines()[-1]}"] += 1
        for line in self.log():
            if line.get("level") == "error" and not _was_expected(line):
                facts = {name: line[name] for name in ("event", "error", "where", "reason", "message") if name in line}
                found[f"{self.name} logged {facts}"] += 1
        return [f"{what} ({times} times)" for what, times in found.items()]

    def _output(self, kind: str) -> Path:
        return self._folder / f"{self.name}-{self.starts:04d}.{kind}"

    def _files(self, kind: str) -> list[Path]:
        return sorted(self._folder.glob(f"{self.name}-*.{kind}"))


def name_processes(
    folder: Path,
    *,
    database_url: str,
    desk: Desk,
    desk_url: str,
    receiver: tuple[str, ...] = ("-m", "receiver"),
    poller: tuple[str, ...] = ("-m", "poller"),
    settings: Mapping[str, str],
) -> tuple[Process, Process]:
    """Return a receiver, registered at the desk, and a poller of it; both have yet to be started."""
    port = free_port()
    desk.register_webhook(f"http://{HOST}:{port}{PATH}")
    common = {"DATABASE_URL": database_url, "LOG_FORMAT": "json", **settings}
    receiving = {
        "PORT": str(port),
        "RECEIVER_HOST": HOST,
        "FLAG_FREESCOUT_WEBHOOK_RECEIVE": "1",
        "FREESCOUT_AUDIT_WEBHOOK_SECRET": desk.webhook_key,
    }
    polling = {"FREESCOUT_URL": desk_url, "FREESCOUT_API_KEY": desk.api_key}
    return (
        Process("receiver", *receiver, folder=folder, variables=common | receiving),
        Process("poller", *poller, folder=folder, variables=common | polling),
    )


def _was_expected(line: Mapping[str, object]) -> bool:
    # A job that lost its database says a reason; an error that is not expected says its type and its place.
    return line["event"] in _EXPECTED_ERRORS or (line["event"] == "poller.fault" and "error" not in line)


class Ledger:
    """Carries deliveries over HTTP, each under a request id of its own, and notes which were answered 200."""

    def __init__(self, transport: HttpTransport, clock: Clock) -> None:
        self.answered: list[str] = []
        self.attempts = 0
        self.retried = 0
        self.answers = Counter[int | None]()
        self.sent_when_last_answered: datetime | None = None
        """When the youngest of the deliveries that were answered 200 was sent."""
        self._transport = transport
        self._clock = clock

    async def __call__(self, delivery: Attempt, /) -> int:
        """Post a delivery and return the status code; errors as `HttpTransport`."""
        self.attempts += 1
        self.retried += delivery.attempt > 1
        request_id, sent_at = f"attempt-{self.attempts}", self._clock.now()
        headers = (*delivery.headers, ("X-Request-ID", request_id))
        try:
            answer = await self._transport(replace(delivery, headers=headers))
        except DeliveryError:
            self.answers[None] += 1
            raise
        self.answers[answer] += 1
        if answer == 200:
            self.answered.append(request_id)
            if self.sent_when_last_answered is None or sent_at > self.sent_when_last_answered:
                self.sent_when_last_answered = sent_at
        return answer

    def answered_since(self, moment: datetime) -> bool:
        """Tell whether a delivery sent after ``moment`` has been answered 200."""
        return self.sent_when_last_answered is not None and self.sent_when_last_answered > moment


_NOT_IN_JOURNAL = """
SELECT unnest($1::text[]) EXCEPT (SELECT request_id FROM freescout_delivery
                                  UNION ALL SELECT replayed_request_id FROM freescout_delivery)
"""
_COUNTED_ONLY = "SELECT coalesce(sum(greatest(replays - 1, 0)), 0) FROM freescout_delivery"
"""What was sent again more than once: of that only the last has its request id in the journal."""
_WITHOUT_EFFECT = """
SELECT d.ticket_id, d.outcome, d.reason
FROM (SELECT DISTINCT ON (ticket_id) * FROM freescout_delivery
      WHERE outcome IN ('applied', 'disputed') ORDER BY ticket_id, delivery_id DESC) d
LEFT JOIN freescout_ticket t USING (ticket_id)
WHERE t.touched_at IS NULL OR t.touched_at < d.received_at
   OR d.outcome = 'applied' AND (t.truth_at IS NULL OR t.truth_at < d.received_at)
      AND (t.updated_at < d.updated_at
           OR t.updated_at = d.updated_at AND (t.status, t.state) IS DISTINCT FROM (d.status, d.state))
"""
"""The last delivery of each ticket that moved its row, where the row does not show it and nothing newer."""
_DISPUTES = "SELECT count(*) FROM freescout_ticket WHERE disputed_at IS NOT NULL"
_LEFT_CONNECTED = """
SELECT count(*) FROM pg_stat_activity
WHERE application_name IN ('freescout-audit receiver', 'freescout-audit poller') AND datname = current_database()
"""
_LEADERS = "SELECT count(*) FROM freescout_poller WHERE leads_until > freescout_now()"


async def settled(database_url: str) -> list[str]:
    """Wait for open disputes to be settled, and return what is stuck."""
    connection = await asyncpg.connect(database_url)
    try:
        async with asyncio.timeout(PATIENCE):
            while await connection.fetchval(_DISPUTES):  # noqa: ASYNC110 - the poller settles them
                await asyncio.sleep(0.05)
    except TimeoutError:
        return [f"{await connection.fetchval(_DISPUTES)} disputes are stuck"]
    finally:
        await connection.close()
    return []


async def take_down(*processes: Process, database_url: str, ledger: Ledger) -> list[str]:
    """End processes, and return what they broke or left: promises, locks, sessions, complaints in the log."""
    codes = await asyncio.gather(*(process.end() for process in processes))
    found = [
        f"the {process.name} ended with {code}" for process, code in zip(processes, codes, strict=True) if code != 0
    ]
    connection = await asyncpg.connect(database_url)
    try:
        found += await broken_promises(connection, ledger.answered)
        found += await _left_locked(connection)
    finally:
        await connection.close()
    return [*found, *(complaint for process in processes for complaint in process.complaints())]


async def broken_promises(connection: asyncpg.Connection, answered: Sequence[str]) -> list[str]:
    """Return what a 200 promised and the database does not show; ``answered`` are the request ids."""
    broken = []
    missing = await connection.fetch(_NOT_IN_JOURNAL, answered)
    if len(missing) > await connection.fetchval(_COUNTED_ONLY):
        broken.append(f"{len(missing)} deliveries were answered 200 and are not in the journal: {missing[0][0]} …")
    without = await connection.fetch(_WITHOUT_EFFECT)
    if without:
        broken.append(f"{len(without)} deliveries are in the journal and not in the cache: {dict(without[0])} …")
    return broken


async def _left_locked(connection: asyncpg.Connection) -> list[str]:
    """Return what processes that have ended still hold in the database, a few seconds after their end."""
    held = []
    for what, query in (("sessions", _LEFT_CONNECTED), ("rights to lead", _LEADERS)):
        for _ in range(50):
            count = await connection.fetchval(query)
            if not count:
                break
            await asyncio.sleep(0.1)
        else:
            held.append(f"{count} {what} are left of processes that have ended")
    try:
        await connection.execute("SELECT FROM freescout_ticket FOR UPDATE NOWAIT")
    except asyncpg.LockNotAvailableError:
        held.append("a ticket's row is still locked")
    return held


def left_behind(marks: Mapping[str, str], folder: Path) -> list[str]:
    """Return the processes that still work in ``folder`` or carry one of ``marks`` in their environment (Linux)."""
    found = []
    wanted = [f"{name}={value}".encode() for name, value in marks.items()]
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int(entry.name) == os.getpid():
                continue
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            theirs = (entry / "environ").read_bytes().split(b"\0")
            if (entry / "cwd").readlink().is_relative_to(folder) or any(mark in theirs for mark in wanted):
                found.append(f"process {entry.name} is left behind: {command}")
    return found
