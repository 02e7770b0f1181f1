"""The embedded PostgreSQL as the application sees it: start or attach, a URL, stop."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import asyncpg

from db.embedded import supervisor
from db.embedded.binaries import find_binaries
from db.embedded.cluster import USER, ensure_cluster, environment, read_password
from db.embedded.errors import EmbeddedPostgresError
from db.embedded.home import Home, settle
from db.embedded.locks import Lock, can_take, open_file

OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # their paths may not be longer than 107 bytes, and TCP does
    "dynamic_shared_memory_type": "mmap",  # in our folder; /dev/shm is 64 MB in a container
    "io_method": "sync",  # three processes less
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "256MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
}
START_PATIENCE = 60.0
"""Seconds until a start that is not answered fails: a first start on a slow disk, or a recovery, takes a while."""
STOP_PATIENCE = 15.0
"""Seconds to wait for the end of the server; it has 10."""
BREATH = 0.03
"""Seconds between two tries."""

_Result = TypeVar("_Result")


def default_folder() -> Path:
    """Return where the application keeps its database: ``.local/postgres`` in the checkout."""
    return Path(__file__).resolve().parents[2] / ".local" / "postgres"


def to_stderr(line: str) -> None:
    """Show a line of progress."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


class EmbeddedPostgres:
    """A PostgreSQL in a folder; as a context manager it runs inside the ``with`` block.

    Several processes may use one folder at once: the first starts the server, the others attach, and it ends with the
    last of them, even if that is killed. Data stay. All calls wait; none needs an event loop or disturbs one.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        database: str = "freescout_audit",
        options: Mapping[str, str] | None = None,
        progress: Callable[[str], None] = to_stderr,
    ) -> None:
        """Name the folder (default: :func:`default_folder`) and the database to make in it.

        ``options`` are PostgreSQL's, over ours; they count only for the one who starts the server, not for those who
        attach. ``progress`` gets a line when something takes its time or goes another way than expected.
        """
        self._folder = default_folder() if folder is None else folder
        self._database = database
        self._options = {**OPTIONS, **(options or {})}
        self._progress = progress
        self._home: Home | None = None
        self._owner: Lock | None = None
        self._reaper: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The postmaster's process id, as last told; after a crash another one soon."""
        return self._address()["postmaster"]

    @property
    def supervisor_pid(self) -> int:
        """The supervisor's process id."""
        return self._address()["supervisor"]

    @property
    def log_file(self) -> Path:
        """Where PostgreSQL writes what it has to say."""
        return self._started().log

    def url(self, database: str | None = None) -> str:
        """Return the URL of a database, password included: for a client, never for a log."""
        password = read_password(self._started())
        return f"postgresql://{USER}:{password}@127.0.0.1:{self._address()['port']}/{database or self._database}"

    def start(self) -> None:
        """Start the server, or attach to the one that runs, and make the database when it is missing.

        Raises:
            EmbeddedPostgresError: It cannot run here; the message has the end of PostgreSQL's log and the next step.
        """
        if self._owner is not None:
            return
        self._home = settle(self._folder, self._progress)
        self._owner = Lock(self._home.owners)
        try:
            self._bring_up(self._home, self._owner)
            self.create_database(self._database)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Let go of the server; if no other process uses it, return when it has ended. Twice is once."""
        if self._owner is None or self._home is None:
            return
        self._owner.close()
        self._owner = None
        deadline = time.monotonic() + STOP_PATIENCE
        while time.monotonic() < deadline:
            if can_take(self._home.supervisor):
                break
            # Others share the lock: they keep the server. The supervisor has it alone: it is about to end.
            if not can_take(self._home.owners) and can_take(self._home.owners, shared=True):
                return
            time.sleep(BREATH)
        if self._reaper is not None:
            self._reaper.join(timeout=max(0.0, deadline - time.monotonic()))
            self._reaper = None

    def create_database(self, name: str) -> None:
        """Make a database unless there is one of this name."""

        async def create() -> None:
            connection = await self._connect("postgres")
            try:
                if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", name):
                    with suppress(asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):  # by another process
                        await connection.execute(f'CREATE DATABASE "{name.replace(chr(34), chr(34) * 2)}"')
            finally:
                await connection.close()

        _wait_for(create())

    def _bring_up(self, home: Home, owner: Lock) -> None:
        """Be an owner of a server that answers: attach to it, or start it."""
        deadline = time.monotonic() + START_PATIENCE
        while not owner.take(shared=True):  # the supervisor has it: the last server is just being stopped
            self._check(deadline, home, "the server of an earlier run does not end")
            time.sleep(BREATH)
        guard = Lock(home.supervisor)
        reports: int | None = None
        try:
            while True:
                if reports is None and guard.take():
                    reports = self._launch(home, guard)
                if reports is not None and (failure := _said(reports)) is not None:
                    raise _explain(failure or "PostgreSQL's supervisor was killed", home)
                if self._answers():
                    return
                self._check(deadline, home, f"PostgreSQL does not answer within {START_PATIENCE:g} s")
                time.sleep(BREATH)
        finally:
            guard.close()
            if reports is not None:
                os.close(reports)

    def _launch(self, home: Home, guard: Lock) -> int:
        """Start the supervisor, which starts PostgreSQL; it inherits the guard. Return a pipe with its last words."""
        binaries = find_binaries(home.account, self._progress)
        durable = self._options.get("fsync", "on") not in {"off", "false", "no", "0"}
        ensure_cluster(home, binaries, guard=guard, durable=durable, progress=self._progress)
        for path in (home.log, home.address, home.owners, home.postgres):
            os.close(open_file(path))
        account = home.account
        orders = supervisor.Orders(
            postgres=str(binaries.postgres),
            cluster=str(home.cluster),
            address=str(home.address),
            log=str(home.log),
            owners_lock=str(home.owners),
            postgres_lock=str(home.postgres),
            user=None if account is None else [account.uid, account.gid],
            options=self._options,
        )
        reports, voice = os.pipe()
        try:
            process = subprocess.Popen(  # noqa: S603 - our own command, no shell
                (sys.executable, "-I", "-S", supervisor.__file__, str(home.path)),
                cwd="/",
                env=environment(),
                pass_fds=(guard.fileno(),),
                start_new_session=True,  # a Ctrl-C in the terminal is for the application
                stdin=subprocess.PIPE,
                stdout=voice,
                stderr=voice,
            )
        finally:
            os.close(voice)
        self._reaper = threading.Thread(target=process.wait, name="embedded-postgres-reaper", daemon=True)
        self._reaper.start()
        with suppress(BrokenPipeError), process.stdin as orders_file:  # type: ignore[union-attr]  # we asked for a pipe
            orders_file.write(json.dumps(orders).encode())
        guard.close()  # the supervisor has it now
        os.set_blocking(reports, False)
        return reports

    def _answers(self) -> bool:
        async def ask() -> None:
            await (await self._connect("postgres")).close()

        try:
            _wait_for(ask())
        except (OSError, ValueError, KeyError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        return True

    async def _connect(self, database: str) -> "asyncpg.Connection[asyncpg.Record]":
        return await asyncpg.connect(
            host="127.0.0.1",
            port=self._address()["port"],
            user=USER,
            password=read_password(self._started()),
            database=database,
            ssl=False,
            timeout=5,
        )

    def _address(self) -> dict[str, int]:
        address: dict[str, int] = json.loads(self._started().address.read_text(encoding="ascii"))
        return address

    def _started(self) -> Home:
        if self._home is None:
            raise EmbeddedPostgresError("the embedded PostgreSQL is not started", "call start() first")
        return self._home

    def _check(self, deadline: float, home: Home, complaint: str) -> None:
        if time.monotonic() >= deadline:
            raise _explain(complaint, home)


def _wait_for(work: Coroutine[None, None, _Result]) -> _Result:
    """Run a coroutine to its end in a thread of its own: there may be an event loop in ours."""
    results: list[_Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(asyncio.run(work))
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            errors.append(error)

    thread = threading.Thread(target=run, name="embedded-postgres-client")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _said(reports: int) -> str | None:
    """Return the supervisor's last line, '' if it ended without any; None: it is at work."""
    try:
        said = os.read(reports, 10_000).decode(errors="replace")
    except BlockingIOError:
        return None
    return next(reversed(said.strip().splitlines()), "")


def _explain(failure: str, home: Home) -> EmbeddedPostgresError:
    """Return an error that says what failed, what PostgreSQL wrote last, and what to do."""
    tail = ""
    with suppress(OSError):
        lines = home.log.read_text(encoding="utf-8", errors="replace").splitlines()
        tail = " | ".join(line.strip() for line in lines[-5:])
    return EmbeddedPostgresError(
        f"{failure}; the end of {home.log}: {tail or 'nothing'}",
        f"repair that, move {home.path} away for a new database (the poller fills it again), or set DATABASE_URL",
    )
