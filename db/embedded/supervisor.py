"""Keeps one PostgreSQL running for as long as anybody uses it: a small program of its own.

It has its own session, so a Ctrl-C in the terminal does not reach it. It ends the server when the last owner has gone,
however that went (it gets their lock), and starts it again when it died. If it is killed itself, Linux tells
PostgreSQL to shut down. Only the standard library is used, and nothing of this project is imported: it runs beside the
application all the time, and as root where the application is root.
"""

import ctypes
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TypedDict

TICK = 0.1
"""Seconds between two looks at the owners and the server."""
GENTLE = 5.0
"""Seconds a fast shutdown may take; then the server is told to drop everything (it recovers at the next start)."""
HARSH = 2.0
"""Seconds that may take; then it is killed. The sum stays under the 10 s that are promised."""
STEADY = 3.0
"""A server that lived this many seconds has started: from then on it is never given up and keeps its port."""
ATTEMPTS = 3
"""One that ends by itself sooner is given up after this many."""
SLOWEST = 5.0
"""Seconds between two attempts, at most."""
LEFTOVER_SIGNALS = {2.0: signal.SIGINT, 5.0: signal.SIGQUIT, 8.0: signal.SIGKILL}
"""What processes of an earlier server get, after how many seconds of waiting for their lock."""
LEFTOVER_PATIENCE = 12.0
LOG_LIMIT = 1_000_000
"""Bytes; a longer log is begun anew."""


class Orders(TypedDict):
    """What the one who starts us writes to our standard input, as JSON."""

    postgres: str
    """The program."""
    cluster: str
    address: str
    log: str
    owners_lock: str
    postgres_lock: str
    user: list[int] | None
    """User and group to run PostgreSQL as; None: ours."""
    options: dict[str, str]


class EndedError(Exception):
    """No process uses the server any more, or we were asked to stop."""


class GivenUpError(Exception):
    """The server does not start; the message is one line without an end."""


class Supervisor:
    """Starts, watches and ends the server."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._owners = os.open(orders["owners_lock"], os.O_RDWR)
        self._asked_to_stop = False
        self._steady_port: int | None = None

    def stop_soon(self, _signal: int, _frame: FrameType | None) -> None:
        """Take a SIGTERM."""
        self._asked_to_stop = True

    def run(self) -> None:
        """Keep the server up until it is needed no more.

        Raises:
            GivenUpError: It never came up, or an earlier one is in the way.
        """
        in_a_row, failures = 0, 0
        with suppress(EndedError):
            while True:
                lock = self._cluster_to_ourselves()
                port = self._steady_port or self._free_port()
                server = self._start(port, lock)
                since = time.monotonic()
                try:
                    while server.poll() is None:
                        self._pause(TICK)
                finally:
                    self._stop(server)
                if time.monotonic() - since >= STEADY:
                    in_a_row, self._steady_port = 0, port
                in_a_row += 1
                failures += server.returncode > 0  # not if it was killed
                if failures >= ATTEMPTS and self._steady_port is None:
                    raise GivenUpError("PostgreSQL does not start")
                self._pause(min(TICK * 2**in_a_row, SLOWEST))

    def _pause(self, seconds: float) -> None:
        time.sleep(seconds)
        if self._asked_to_stop:
            raise EndedError
        with suppress(BlockingIOError):
            fcntl.flock(self._owners, fcntl.LOCK_EX | fcntl.LOCK_NB)
            raise EndedError  # and new owners wait until we are gone, for we keep the lock

    def _start(self, port: int, lock: int) -> "subprocess.Popen[bytes]":
        orders = self._orders
        (Path(orders["cluster"]) / "postmaster.pid").unlink(missing_ok=True)  # whoever wrote it is gone: see the lock
        settings = {**orders["options"], "port": str(port)}
        command = [orders["postgres"], "-D", orders["cluster"]]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        user, group = orders["user"] or (None, None)
        log = os.open(orders["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        try:
            if os.fstat(log).st_size > LOG_LIMIT:
                os.ftruncate(log, 0)
            server = subprocess.Popen(  # noqa: S603 - our own command, no shell
                command,
                user=user,
                group=group,
                extra_groups=None if user is None else [],
                cwd="/",
                pass_fds=(lock,),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_parent(os.getpid()),  # noqa: PLW1509 - we have one thread
            )
        finally:
            os.close(log)
            os.close(lock)  # the server and its children have it now
        self._tell_address(port, server.pid)
        return server

    def _cluster_to_ourselves(self) -> int:
        """Return the descriptor of the lock that all processes of a server hold, taken: no such process is left."""
        lock = os.open(self._orders["postgres_lock"], os.O_RDWR)
        begun, sent = time.monotonic(), set()
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            waited = time.monotonic() - begun
            left = list(_processes_in(Path(self._orders["cluster"])))
            for after, number in LEFTOVER_SIGNALS.items():
                if waited >= after and number not in sent:
                    sent.add(number)
                    for pid in left:
                        with suppress(ProcessLookupError, PermissionError):
                            os.kill(pid, number)
            if waited >= LEFTOVER_PATIENCE:
                raise GivenUpError(f"an earlier PostgreSQL of this database does not end (processes {left}); end it")
            self._pause(TICK)

    def _stop(self, server: "subprocess.Popen[bytes]") -> None:
        for number, patience in ((signal.SIGINT, GENTLE), (signal.SIGQUIT, HARSH), (signal.SIGKILL, None)):
            if server.poll() is not None:
                return
            server.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                server.wait(patience)

    def _tell_address(self, port: int, pid: int) -> None:
        text = json.dumps({"port": port, "postmaster": pid, "supervisor": os.getpid()})
        with Path(self._orders["address"]).open("r+", encoding="ascii") as file:
            file.write(text)
            file.truncate()

    def _free_port(self) -> int:
        """Return the last port, when it is free, so that what an operator noted down goes on working; else any."""
        last = 0
        with suppress(OSError, ValueError, KeyError, TypeError):
            last = int(json.loads(Path(self._orders["address"]).read_text(encoding="ascii"))["port"])
        for port in (last, 0):
            with suppress(OSError), socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
        raise GivenUpError("there is no free port on 127.0.0.1")


def _end_with_parent(parent: int) -> Callable[[], None] | None:
    """Return what makes a child shut down (SIGINT: fast, clean) when we are killed; Linux alone can do that."""
    if sys.platform != "linux":
        return None
    libc, set_parent_death_signal = ctypes.CDLL(None), 1

    def prepare() -> None:
        libc.prctl(set_parent_death_signal, int(signal.SIGINT))
        if os.getppid() != parent:
            os._exit(1)

    return prepare


def _processes_in(cluster: Path) -> Iterator[int]:
    """Yield the processes at work in the cluster: PostgreSQL's all have it as their working directory."""
    if sys.platform == "linux":
        for entry in Path("/proc").iterdir():
            with suppress(OSError):  # gone, a zombie, or somebody else's
                if entry.name.isdecimal() and (entry / "cwd").readlink() == cluster:
                    yield int(entry.name)
    else:
        listing = subprocess.run(["/bin/ps", "-axo", "pid=,command="], capture_output=True, text=True, check=False)
        for line in listing.stdout.splitlines():
            pid, _, command = line.strip().partition(" ")
            if f"postgres -D {cluster}" in command:
                yield int(pid)


def main() -> None:
    """Read the orders, run, and say on standard output why we gave up."""
    os.umask(0o077)
    supervisor = Supervisor(json.load(sys.stdin))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, supervisor.stop_soon)
    try:
        supervisor.run()
    except GivenUpError as error:
        with suppress(OSError):  # nobody may be listening any more
            os.write(sys.stdout.fileno(), str(error).encode())
        sys.exit(1)


if __name__ == "__main__":
    main()
